/* SPDX-License-Identifier: BSD-2-Clause */
/* Sums over rows of f64 in 8 lanes folded by a fixed tree: the same bits at every level. */
#ifndef QSAE_KERNELS_SUMS_H
#define QSAE_KERNELS_SUMS_H

#include "core/core.h"

typedef struct qsae__sums_ops {
    /* y[i] = x[i] */
    void (*widen)(const float *x, double *y, int64_t n);
    /* z[i] = x[i] - y[i] */
    void (*sub)(const double *x, const double *y, double *z, int64_t n);
    /* y[i] += x[i]^2 */
    void (*add_squares)(const double *x, double *y, int64_t n);
    double (*sum)(const double *x, int64_t n);
    double (*dot)(const double *x, const double *y, int64_t n);
    /* Welford: mean takes in x with inv_n = 1 / n; m2[i] += (x - old mean)(x - new mean), or the
     * sum of that. */
    void (*welford)(double *mean, double *m2, const double *x, double inv_n, int64_t n);
    double (*welford_sum)(double *mean, const double *x, double inv_n, int64_t n);
} qsae__sums_ops;

/* Operations at the level of the context, or at a level. Static storage. */
const qsae__sums_ops *qsae__sums_get(const qsae_context *ctx);
const qsae__sums_ops *qsae__sums_level(int32_t level);

#endif
