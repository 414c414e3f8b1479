/* SPDX-License-Identifier: BSD-2-Clause */
/* What sparse codes need: finding the few large values of dense rows, single products of given rows
 * and columns, sums of few rows. */
#ifndef QSAE_KERNELS_SPARSE_H
#define QSAE_KERNELS_SPARSE_H

#include "core/core.h"

#define QSAE__PAIRS 32   /* products that are computed side by side */
#define QSAE__PIECE 128  /* columns of a sum of rows that stay in registers */

/* What select takes: v = (h + margin) + bias, times scale, with margin = a p + b q + c where there
 * are p and q. All arrays are [n]. */
typedef struct qsae__select {
    const float *bias;
    const float *scale;      /* or NULL */
    const float *limit;      /* or NULL */
    const float *p, *q;      /* or both NULL */
    float a, b, c;
    float floor;
    bool absolute;           /* |v| is compared; not with p and q */
} qsae__select;

/* Operations of one level. All but select's margin (whose bits only have to bound) give the same
 * bits at every level. */
typedef struct qsae__sparse_ops {
    /* Ascending positions of the v above limit and floor; their number is returned. Where there is
     * a margin, a v that is NaN is taken too. index has room for n. */
    int64_t (*select)(const qsae__select *s, const float *h, int64_t n, int32_t *index);
    /* Adds to sum[j] and rest[j], j < 32, over rows of 32 values x: x^2 and (x - b)^2, b being x
     * rounded to bf16 and, if subnormal, zero. */
    void (*squares)(const float *x, int64_t rows, double *sum, double *rest);
    /* part[l] continues the chain of fma over k < kb of x[l][at + k] * panel[k * 32 + column[l]],
     * l < QSAE__PAIRS: the products of gemm.h, whose blocks start from zero. */
    void (*pairs)(int64_t at, int64_t kb, const float *const *x, const float *panel,
                  const int32_t *column, float *part);
    /* sum[j] += a[e] * w[index[e] * ldw + j] for e = 0..n-1, j < cols <= QSAE__PIECE; the product
     * and the sum are rounded to f64 one after the other. dtype F32, BF16 or F16, any alignment. */
    void (*rows)(int32_t dtype, const void *w, int64_t ldw, const int32_t *index, const double *a,
                 int64_t n, int64_t cols, double *sum);
} qsae__sparse_ops;

/* Operations at the level of the context, or at a level. Static storage. */
const qsae__sparse_ops *qsae__sparse_get(const qsae_context *ctx);
const qsae__sparse_ops *qsae__sparse_level(int32_t level);

#endif
