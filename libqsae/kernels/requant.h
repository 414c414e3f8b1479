/* SPDX-License-Identifier: BSD-2-Clause */
/* Values quantized and decoded again; 8-bit floats decoded. */
#ifndef QSAE_KERNELS_REQUANT_H
#define QSAE_KERNELS_REQUANT_H

#include "core/core.h"

enum { QSAE__REQUANT_INT, QSAE__REQUANT_E4M3, QSAE__REQUANT_E2M1 };

typedef struct qsae__requant {
    int32_t type;           /* QSAE__REQUANT_* */
    int32_t arith, dtype;   /* QSAE_F32, _BF16, _F16: of every operation, of the result */
    bool moves;             /* zero is added, also if it is 0: -0 becomes 0 */
    float scale, zero;
    float low, high;        /* of the type */
} qsae__requant;

/* Operations of one level; results do not depend on it. */
typedef struct qsae__requant_ops {
    /* Smallest and largest of x[n] and 0; NaN if an element is. */
    void (*range)(const float *x, int64_t n, float *low, float *high);
    /* x[n] = (nearest of x / scale + zero, clamped, - zero) * scale; NaN stays. */
    void (*run)(const qsae__requant *r, int64_t n, float *x);
    /* dst[n] = what e4m3 codes stand for. */
    void (*e4m3)(const uint8_t *codes, int64_t n, float *dst);
} qsae__requant_ops;

/* Operations at the level of the context, or at a level. Static storage. */
const qsae__requant_ops *qsae__requant_get(const qsae_context *ctx);
const qsae__requant_ops *qsae__requant_level(int32_t level);

#endif
