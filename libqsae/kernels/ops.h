/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_OPS_H
#define QSAE_KERNELS_OPS_H

#include "core/core.h"

/*
 * Vector operations of one level. n is any length; results do not depend on alignment, on where a
 * vector is cut into calls (elementwise operations) or on the level.
 * bf16 != 0: every result is rounded to bf16 (kept in f32) as PyTorch rounds it.
 */
typedef struct qsae__ops {
    /* x[i] = rb(x[i]) */
    void (*round_bf16)(float *x, int64_t n);
    /* y[i] = bf16 value i at src (any alignment) */
    void (*widen_bf16)(const void *src, float *y, int64_t n);
    /* y[i] = exp(x[i]); error below 2 ulp; exp(-inf) = 0, overflow to inf, NaN to NaN */
    void (*exp)(const float *x, float *y, int64_t n);
    /* y[i] = tanh(x[i]) */
    void (*tanh)(const float *x, float *y, int64_t n);
    /* y[i] = x[i] / (1 + exp(-x[i])) */
    void (*silu)(const float *x, float *y, int64_t n);
    /* y[i] = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    void (*gelu_tanh)(const float *x, float *y, int64_t n);
    /* y[i] = erf(x[i]); error below 2 ulp */
    void (*erf)(const float *x, float *y, int64_t n);
    /* y[i] = 0.5 x (1 + erf(x / sqrt(2))) */
    void (*gelu)(const float *x, float *y, int64_t n);
    /* gelu_tanh; bf16: each of torch's operations rounded, two of them in x^3 (models.md B.3) */
    void (*gelu_new)(const float *x, float *y, int64_t n, int32_t bf16);
    /* max of x, -inf if n = 0; NaN if there is one */
    float (*max)(const float *x, int64_t n);
    /* y[i] = exp(x[i] - m); returns the sum of y in 16 f32 lanes folded by a fixed tree */
    float (*exp_sum)(const float *x, float m, float *y, int64_t n);
    /* sum of exp(x[i] - m), terms f32, sum f64 in 16 lanes */
    double (*sum_exp)(const float *x, float m, int64_t n);
    /* sum of exp(x[i] - m) * (x[i] - y[i]), difference and product f64, 16 lanes */
    double (*sum_exp_diff)(const float *x, float m, const float *y, int64_t n);
    /* sum of x[i]^2, f32, in the order of PyTorch's row sum (ops_impl.h) */
    float (*sum_sq)(const float *x, int64_t n);
    /* mean and biased variance of x, n >= 1: sums f64 in 16 lanes, results rounded to f32 */
    void (*moments)(const float *x, int64_t n, float *mean, float *variance);
    /* y[i] = x[i] * s */
    void (*scale)(const float *x, float s, float *y, int64_t n);
    /* y[i] = x[i] * z[i], y[i] = x[i] + z[i]; rounded if bf16 */
    void (*mul)(const float *x, const float *z, float *y, int64_t n, int32_t bf16);
    void (*add)(const float *x, const float *z, float *y, int64_t n, int32_t bf16);
    /* y[i] = (x[i] * r) * (1 + w[i]), one rounding (Gemma) */
    void (*norm_gemma)(const float *x, float r, const float *w, float *y, int64_t n, int32_t bf16);
    /* z = x[i] * r rounded, y[i] = w[i] * z rounded (Llama) */
    void (*norm_llama)(const float *x, float r, const float *w, float *y, int64_t n, int32_t bf16);
    /* y[i] = ((x[i] - mean) * r) * w[i] + b[i], one rounding (LayerNorm) */
    void (*norm_layer)(const float *x, float mean, float r, const float *w, const float *b,
                       float *y, int64_t n, int32_t bf16);
    /* first half-split pair rotation of one head: for k < half, a = x[k], b = x[k + half];
     * y[k] = a c[k] - b s[k], y[k + half] = b c[k] + a s[k]; bf16: each product and sum rounded */
    void (*rope)(const float *x, const float *c, const float *s, float *y, int64_t half,
                 int32_t bf16);
} qsae__ops;

/* x[i] = cap tanh(x[i] / cap); bf16: each of the three results rounded (transformers' soft cap). */
void qsae__soft_cap(const qsae__ops *ops, float cap, int32_t bf16, float *x, int64_t n);

/* Operations at the level of the context, or at a level. Static storage. */
const qsae__ops *qsae__ops_get(const qsae_context *ctx);
const qsae__ops *qsae__ops_level(int32_t level);

#endif
