/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/sums.h"

extern const qsae__sums_ops qsae__sums_c;
#define SUMS qsae__sums_c
#include "kernels/sums_impl.h"
