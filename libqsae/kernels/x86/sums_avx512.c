/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/sums.h"

extern const qsae__sums_ops qsae__sums_avx512;
#define SUMS qsae__sums_avx512
#include "kernels/sums_impl.h"
