/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/blocks.h"

extern const qsae__block_ops qsae__block_ops_c;
#if defined(__x86_64__)
extern const qsae__block_ops qsae__block_ops_avx2, qsae__block_ops_avx512;
#endif

const qsae__block_ops *qsae__blocks_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__block_ops_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__block_ops_avx2;
#endif
    (void)level;
    return &qsae__block_ops_c;
}

const qsae__block_ops *qsae__blocks_get(const qsae_context *ctx)
{
    return qsae__blocks_level(ctx->level);
}
