/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_NN_H
#define QSAE_KERNELS_NN_H

#include "core/core.h"

/* Operations of neural networks beyond ops.h, of one level; same rules. */
typedef struct qsae__nn {
    /* Largest of x, -inf if n = 0; NaN is passed over. *tame: no x is NaN, infinite or beyond about
     * 1e19, as the next two require. */
    float (*logit_max)(const float *x, int64_t n, int32_t *tame);
    /*
     * Sum of exp(x[i] - m), x rounded in place to bf16 first if bf16, m no less than any x then.
     * Terms within 1e-7 of their size; those below exp(-86) count as that. Terms f32, of four
     * vectors added in f32, then f64 in 16 lanes. e: [n] terms, or NULL.
     */
    double (*logit_sum)(float *x, float m, int64_t n, int32_t bf16, float *e);
    /* The same, and *over: sum of exp(x[i] - m) (x[i] - m), term by term in f32 as above. */
    double (*logit_sums)(float *x, float m, int64_t n, int32_t bf16, float *e, double *over);
    /* Sum of e[i] (x[i] - y[i]): difference f32, product exact, sum f64 in 16 lanes. */
    double (*logit_diff)(const float *e, const float *x, const float *y, int64_t n);
    /* Index of the first x that equals value, n if none does. */
    int64_t (*find)(const float *x, float value, int64_t n);
} qsae__nn;

/* Operations at the level of the context. Static storage. */
const qsae__nn *qsae__nn_get(const qsae_context *ctx);

#endif
