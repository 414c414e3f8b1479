/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/ops.h"

extern const qsae__ops qsae__ops_avx2;
#define OPS qsae__ops_avx2
#include "kernels/ops_impl.h"
