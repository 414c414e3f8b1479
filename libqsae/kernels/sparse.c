/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/sparse.h"

extern const qsae__sparse_ops qsae__sparse_c;
#if defined(__x86_64__)
extern const qsae__sparse_ops qsae__sparse_avx2, qsae__sparse_avx512;
#endif

const qsae__sparse_ops *qsae__sparse_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__sparse_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__sparse_avx2;
#endif
    (void)level;
    return &qsae__sparse_c;
}

const qsae__sparse_ops *qsae__sparse_get(const qsae_context *ctx)
{
    return qsae__sparse_level(ctx->level);
}
