/* SPDX-License-Identifier: BSD-2-Clause */
/* Rounding to an even grid of at most 256 values, as a pure function on plain arrays. */
#ifndef QSAE_KERNELS_EVEN_H
#define QSAE_KERNELS_EVEN_H

#include "core/core.h"

/* The grid of element i: scale[i * stride], zero[i * stride]. */
typedef struct qsae__even {
    const float *scale;
    const float *zero;       /* NULL: 0 */
    int64_t stride;          /* 0 or 1 */
    float low, high;         /* least and greatest code, integers in [-128, 255] */
    int32_t dtype;           /* each operation's result is rounded to it; QSAE_F32: nothing is */
} qsae__even;

/* Operations of one level; results do not depend on it. */
typedef struct qsae__even_ops {
    /* *min, *max = the least and greatest of x[n] and them; NaN is skipped */
    void (*range)(const float *x, int64_t n, float *min, float *max);
    /* The same for each element by itself: min[i], max[i] */
    void (*ranges)(const float *x, int64_t n, float *min, float *max);
    /* codes[i] = clamp(nearest(x[i] / scale) + zero), nearest: half to even; zero if x[i] / scale
     * is NaN. Low 8 bits of the integer. */
    void (*codes)(const qsae__even *g, const float *x, int64_t n, uint8_t *codes);
} qsae__even_ops;

/* Operations at the level of the context, or at a level. Static storage. */
const qsae__even_ops *qsae__even_get(const qsae_context *ctx);
const qsae__even_ops *qsae__even_level(int32_t level);

#endif
