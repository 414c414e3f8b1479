/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_SOFTMAX_H
#define QSAE_KERNELS_SOFTMAX_H

#include "core/core.h"

/* Products of one query with n keys, on their way to probabilities. */
typedef struct qsae__softmax_row {
    const float *x;      /* [n], readable up to a multiple of 16 */
    int64_t n;
    int64_t begin, end;  /* keys that the query sees; the others get 0 */
    float scale;
    float max;           /* no x[i] * scale of a key seen is above it */
    /* The first n_coarse (a multiple of 16) exponentials are those of PyTorch's attention kernel,
     * the rest those of ops.h. */
    int64_t n_coarse;
} qsae__softmax_row;

/* Operations of attention of one level; same rules as in ops.h. */
typedef struct qsae__softmax {
    /* Largest x[i] * scale, -inf if n = 0; NaN is passed over. */
    float (*max)(const float *x, float scale, int64_t n);
    /*
     * y[i] = exp(x[i] * scale - max), rounded to bf16; returns the sum of the unrounded ones in 16
     * f32 lanes folded by a fixed tree. Written up to a multiple of 16; y may be x. Coarse: a cubic
     * for the fraction of the base-2 exponent, added to the bit pattern, relative error below
     * 1.5e-4 (Malossi, Ineichen, Bekas, Curioni, "Fast Exponential Computation on SIMD
     * Architectures", 2015); 0 below -87.3, NaN to NaN.
     */
    float (*bf16)(const qsae__softmax_row *row, float *y);
    /* The same, written as bf16 to a row of a strip (packed.h) of which steps of 32 are filled. */
    float (*strip)(const qsae__softmax_row *row, uint8_t *strip);
    /* The same in f32; coarse: the exponential of that kernel's f32 form, good to about 20 ulp. */
    float (*f32)(const qsae__softmax_row *row, float *y);
    /* Two rows of values, k and k + 1 of a right operand, to their group of 4 bytes of its panels:
     * column j of `panels` at j / 32 * panel + j % 32 * 4, rounded to bf16. odd may be NULL: 0. */
    void (*pair)(const float *even, const float *odd, int64_t n, uint8_t *panels, int64_t panel);
    /* y[i] = x[i] * scale, rounded to bf16 if bf16 */
    void (*finish)(const float *x, float scale, float *y, int64_t n, int32_t bf16);
} qsae__softmax;

/* Operations at the level of the context. Static storage. */
const qsae__softmax *qsae__softmax_get(const qsae_context *ctx);

#endif
