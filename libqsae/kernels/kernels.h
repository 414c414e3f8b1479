/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * kernels/: numbers only. GEMM over a panel source, dtype conversion, vector operations, block
 * decoders on plain structs. Knows no spec string, file or model. Includes core/ and itself.
 *
 * Operations written in plain C with a fixed order (sums in QSAE__LANES virtual lanes folded by a
 * fixed tree, multiply-adds fused only where written) are compiled once per level from one template
 * (*_impl.h): same source, same order, hence the same bits at every level.
 */
#ifndef QSAE_KERNELS_KERNELS_H
#define QSAE_KERNELS_KERNELS_H

#define QSAE__LANES 16

#include "kernels/convert.h"
#include "kernels/gemm.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/packed.h"
#include "kernels/product.h"

#endif
