/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/even.h"

extern const qsae__even_ops qsae__even_ops_avx512;
#define OPS qsae__even_ops_avx512
#include "kernels/even_impl.h"
