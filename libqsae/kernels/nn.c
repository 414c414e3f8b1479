/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/nn.h"

extern const qsae__nn qsae__nn_c;
#if defined(__x86_64__)
extern const qsae__nn qsae__nn_avx2, qsae__nn_avx512;
#endif

const qsae__nn *qsae__nn_get(const qsae_context *ctx)
{
#if defined(__x86_64__)
    if (ctx->level >= QSAE__LEVEL_AVX512)
        return &qsae__nn_avx512;
    if (ctx->level >= QSAE__LEVEL_AVX2)
        return &qsae__nn_avx2;
#endif
    (void)ctx;
    return &qsae__nn_c;
}
