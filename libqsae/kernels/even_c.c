/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/even.h"

extern const qsae__even_ops qsae__even_ops_c;
#define OPS qsae__even_ops_c
#include "kernels/even_impl.h"
