/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/ops.h"

extern const qsae__ops qsae__ops_c;
#if defined(__x86_64__)
extern const qsae__ops qsae__ops_avx2, qsae__ops_avx512;
#endif

const qsae__ops *qsae__ops_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__ops_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__ops_avx2;
#endif
    (void)level;
    return &qsae__ops_c;
}

const qsae__ops *qsae__ops_get(const qsae_context *ctx)
{
    return qsae__ops_level(ctx->level);
}
