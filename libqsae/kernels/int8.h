/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_INT8_H
#define QSAE_KERNELS_INT8_H

#include "core/core.h"

/* |a b| sums of this many products of codes in [-127, 127] fit int32. */
#define QSAE__GEMM_S8_MAX_K 133144

/* Integer and quantising kernels of one level; results do not depend on the level. */
typedef struct qsae__int8_ops {
    /* c[m, n] = a[m, k] b[n, k]^T exactly, for codes in [-127, 127] and k <= QSAE__GEMM_S8_MAX_K */
    void (*gemm_s8)(int64_t m, int64_t n, int64_t k, const int8_t *a, int64_t lda, const int8_t *b,
                    int64_t ldb, int32_t *c, int64_t ldc);
    /* x[i] = f16(x[i]), kept in f32 */
    void (*round_f16)(float *x, int64_t n);
    /* q[i] = round half even of x[i] * scale (magnitude below 127.5); 0 where that is NaN */
    void (*quantize)(const float *x, float scale, int8_t *q, int64_t n);
    /* Largest |x[i]| of those below limit, 0 if there are none; NaN is skipped. */
    float (*absmax_below)(const float *x, float limit, int64_t n);
    /* Largest |x[i]|, -FLT_MAX if there is none but NaN; NaN is skipped. */
    float (*absmax)(const float *x, int64_t n);
    /* code[i] = how many of the n_t ascending thresholds are below x[i] * scale; NaN counts none */
    void (*count_below)(const float *x, float scale, const float *t, int n_t, uint8_t *code,
                        int64_t n);
} qsae__int8_ops;

/* Operations at the level of the context. Static storage. */
const qsae__int8_ops *qsae__int8_get(const qsae_context *ctx);

/* The product alone, one thread: see gemm_s8 above. */
void qsae__gemm_s8(const qsae_context *ctx, int64_t m, int64_t n, int64_t k, const int8_t *a,
                   int64_t lda, const int8_t *b, int64_t ldb, int32_t *c, int64_t ldc);

#endif
