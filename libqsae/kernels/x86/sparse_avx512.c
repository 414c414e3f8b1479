/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/sparse.h"

extern const qsae__sparse_ops qsae__sparse_avx512;
#define SPARSE qsae__sparse_avx512
#include "kernels/sparse_impl.h"
