/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/blocks.h"

#include <math.h>

extern const qsae__block_ops qsae__block_ops_c;
#if defined(__x86_64__)
extern const qsae__block_ops qsae__block_ops_avx2, qsae__block_ops_avx512;
#endif

const qsae__block_ops *qsae__blocks_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__block_ops_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__block_ops_avx2;
#endif
    (void)level;
    return &qsae__block_ops_c;
}

const qsae__block_ops *qsae__blocks_get(const qsae_context *ctx)
{
    return qsae__blocks_level(ctx->level);
}

#define EDGE 1e-5 /* a product's rounding moves a value this far at most into the next part */

void qsae__coder4_space(qsae__coder4 *c)
{
    c->spaced = c->nan == 0;
    for (int i = 0; i < 16; i++)
        c->spaced = c->spaced && c->codes[i] == i;
    for (int p = 0; p < 32; p++) {
        const double low = (p - 15.5) / 15.5 - EDGE, high = (p - 14.5) / 15.5 + EDGE;
        int inside = 0;
        c->part_threshold[p] = INFINITY;
        c->part_count[p] = 0;
        for (int k = 0; k < 15; k++) {
            const double t = (double)c->thresholds[k];
            c->part_count[p] += t < low;
            if (t >= low && t <= high) {
                c->part_threshold[p] = c->thresholds[k];
                inside++;
            }
        }
        c->spaced = c->spaced && inside <= 1;
    }
}
