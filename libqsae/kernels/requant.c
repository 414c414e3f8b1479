/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/requant.h"

extern const qsae__requant_ops qsae__requant_c;
#if defined(__x86_64__)
extern const qsae__requant_ops qsae__requant_avx2, qsae__requant_avx512;
#endif

const qsae__requant_ops *qsae__requant_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__requant_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__requant_avx2;
#endif
    (void)level;
    return &qsae__requant_c;
}

const qsae__requant_ops *qsae__requant_get(const qsae_context *ctx)
{
    return qsae__requant_level(ctx->level);
}
