/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/int8.h"

extern const qsae__int8_ops qsae__int8_ops_c;
#define OPS qsae__int8_ops_c
#include "kernels/int8_impl.h"
