/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/even.h"

extern const qsae__even_ops qsae__even_ops_avx2;
#define OPS qsae__even_ops_avx2
#include "kernels/even_impl.h"
