/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/even.h"

extern const qsae__even_ops qsae__even_ops_c;
#if defined(__x86_64__)
extern const qsae__even_ops qsae__even_ops_avx2, qsae__even_ops_avx512;
#endif

const qsae__even_ops *qsae__even_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__even_ops_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__even_ops_avx2;
#endif
    (void)level;
    return &qsae__even_ops_c;
}

const qsae__even_ops *qsae__even_get(const qsae_context *ctx)
{
    return qsae__even_level(ctx->level);
}
