/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/softmax.h"

extern const qsae__softmax qsae__softmax_c;
#if defined(__x86_64__)
extern const qsae__softmax qsae__softmax_avx2, qsae__softmax_avx512;
#endif

const qsae__softmax *qsae__softmax_get(const qsae_context *ctx)
{
#if defined(__x86_64__)
    if (ctx->level >= QSAE__LEVEL_AVX512)
        return &qsae__softmax_avx512;
    if (ctx->level >= QSAE__LEVEL_AVX2)
        return &qsae__softmax_avx2;
#endif
    (void)ctx;
    return &qsae__softmax_c;
}
