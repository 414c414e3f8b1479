/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/sums.h"

extern const qsae__sums_ops qsae__sums_avx2;
#define SUMS qsae__sums_avx2
#include "kernels/sums_impl.h"
