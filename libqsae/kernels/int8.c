/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/int8.h"

extern const qsae__int8_ops qsae__int8_ops_c;
#if defined(__x86_64__)
extern const qsae__int8_ops qsae__int8_ops_avx2, qsae__int8_ops_avx512;
#endif

const qsae__int8_ops *qsae__int8_get(const qsae_context *ctx)
{
#if defined(__x86_64__)
    if (ctx->level >= QSAE__LEVEL_AVX512)
        return &qsae__int8_ops_avx512;
    if (ctx->level >= QSAE__LEVEL_AVX2)
        return &qsae__int8_ops_avx2;
#endif
    (void)ctx;
    return &qsae__int8_ops_c;
}
