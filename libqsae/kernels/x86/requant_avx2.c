/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/requant.h"

extern const qsae__requant_ops qsae__requant_avx2;
#define OPS qsae__requant_avx2
#include "kernels/requant_impl.h"
