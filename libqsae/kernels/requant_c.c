/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/requant.h"

extern const qsae__requant_ops qsae__requant_c;
#define OPS qsae__requant_c
#include "kernels/requant_impl.h"
