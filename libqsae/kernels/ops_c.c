/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/ops.h"

extern const qsae__ops qsae__ops_c;
#define OPS qsae__ops_c
#include "kernels/ops_impl.h"
