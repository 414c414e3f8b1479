/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/softmax.h"

extern const qsae__softmax qsae__softmax_avx512;
#define OPS qsae__softmax_avx512
#include "kernels/softmax_impl.h"
