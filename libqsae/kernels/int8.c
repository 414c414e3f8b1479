/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/int8.h"

extern const qsae__int8_ops qsae__int8_ops_c;
#if defined(__x86_64__)
extern const qsae__int8_ops qsae__int8_ops_avx2, qsae__int8_ops_avx512, qsae__int8_ops_vnni;
#endif

const qsae__int8_ops *qsae__int8_get(const qsae_context *ctx)
{
#if defined(__x86_64__)
    if (ctx->level >= QSAE__LEVEL_AVX512BF16)
        return &qsae__int8_ops_vnni;
    if (ctx->level >= QSAE__LEVEL_AVX512)
        return &qsae__int8_ops_avx512;
    if (ctx->level >= QSAE__LEVEL_AVX2)
        return &qsae__int8_ops_avx2;
#endif
    (void)ctx;
    return &qsae__int8_ops_c;
}

void qsae__gemm_s8(const qsae_context *ctx, int64_t m, int64_t n, int64_t k, const int8_t *a,
                   int64_t lda, const int8_t *b, int64_t ldb, int32_t *c, int64_t ldc)
{
    qsae__int8_get(ctx)->gemm_s8(m, n, k, a, lda, b, ldb, c, ldc);
}
