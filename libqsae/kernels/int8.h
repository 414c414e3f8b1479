/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_INT8_H
#define QSAE_KERNELS_INT8_H

#include "core/core.h"

/* How scale_row makes outputs of LLM.int8's integer sums. */
enum qsae__scale_rules {
    QSAE__SCALE_CUDA,        /* sum * row * column * 1/127^2 is rounded to f16, a bias added to that
                              * and rounded to f16 again (an f16 bias is added with the first
                              * rounding alone), all that to the output's dtype if it is bf16 */
    QSAE__SCALE_TORCH        /* sum * (row * column) * 1/127^2, bias added, rounded to the dtype */
};

/* Quantising kernels of one level; results do not depend on the level. */
typedef struct qsae__int8_ops {
    /* x[i] = f16(x[i]), kept in f32 */
    void (*round_f16)(float *x, int64_t n);
    /* Largest |x[i]|, -FLT_MAX if there is none but NaN; NaN is skipped. */
    float (*absmax)(const float *x, int64_t n);

    /* What follows reads rows as LLM.int8 does: v[i] = f16(x[i]). `16`: of bf16 values. */

    /* Largest |v[i]| below limit, 0 if there is none, and outlier[i] = 1 where |v[i]| >= limit
     * (others are left); without outlier limit is nothing and the largest of all is returned. NaN
     * is skipped; *nan says whether there is any. limit is not NaN. */
    float (*scan_row)(const float *x, int64_t n, float limit, uint8_t *outlier, bool *nan);
    float (*scan_row16)(const uint16_t *x, int64_t n, float limit, uint8_t *outlier, bool *nan);
    /* q[i] = round half even of v[i] * scale (magnitude below 127.5); 0 where that is NaN or
     * outlier[i] is set. outlier may be NULL. */
    void (*quantize_row)(const float *x, float scale, const uint8_t *outlier, int8_t *q, int64_t n);
    void (*quantize_row16)(const uint16_t *x, float scale, const uint8_t *outlier, int8_t *q,
                           int64_t n);
    /* y[n] of one row's sums by enum qsae__scale_rules. column: [n]; bias: [n] or NULL; dtype:
     * QSAE_F32, _BF16, _F16, what y's values are rounded to. */
    void (*scale_row)(const int32_t *sum, float row, const float *column, const float *bias,
                      int64_t n, int32_t rules, int32_t dtype, float *y);
} qsae__int8_ops;

/* Operations at the level of the context. Static storage. */
const qsae__int8_ops *qsae__int8_get(const qsae_context *ctx);

#endif
