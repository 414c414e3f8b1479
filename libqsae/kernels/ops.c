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

void qsae__soft_cap(const qsae__ops *ops, float cap, int32_t bf16, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] /= cap;
    if (bf16)
        ops->round_bf16(x, n);
    ops->tanh(x, x, n);
    if (bf16)
        ops->round_bf16(x, n);
    ops->scale(x, cap, x, n);
    if (bf16)
        ops->round_bf16(x, n);
}
