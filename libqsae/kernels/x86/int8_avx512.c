/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/int8.h"

extern const qsae__int8_ops qsae__int8_ops_avx512;
#define OPS qsae__int8_ops_avx512
#include "kernels/int8_impl.h"
