/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/ops.h"

extern const qsae__ops qsae__ops_c;
#if defined(__x86_64__)
extern const qsae__ops qsae__ops_avx2, qsae__ops_avx512;
#endif

const qsae__ops *qsae__ops_get(const qsae_context *ctx)
{
#if defined(__x86_64__)
    if (ctx->level >= QSAE__LEVEL_AVX512)
        return &qsae__ops_avx512;
    if (ctx->level >= QSAE__LEVEL_AVX2)
        return &qsae__ops_avx2;
#endif
    (void)ctx;
    return &qsae__ops_c;
}
