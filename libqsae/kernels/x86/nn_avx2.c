/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/nn.h"

extern const qsae__nn qsae__nn_avx2;
#define OPS qsae__nn_avx2
#include "kernels/nn_impl.h"
