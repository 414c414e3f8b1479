/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/sums.h"

extern const qsae__sums_ops qsae__sums_c;
#if defined(__x86_64__)
extern const qsae__sums_ops qsae__sums_avx2, qsae__sums_avx512;
#endif

const qsae__sums_ops *qsae__sums_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__sums_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__sums_avx2;
#endif
    (void)level;
    return &qsae__sums_c;
}

const qsae__sums_ops *qsae__sums_get(const qsae_context *ctx)
{
    return qsae__sums_level(ctx->level);
}
