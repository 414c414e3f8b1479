/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/blocks.h"

extern const qsae__block_ops qsae__block_ops_avx2;
#define OPS qsae__block_ops_avx2
#include "kernels/blocks_impl.h"
