/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_METRICS_RECONSTRUCTION_H
#define QSAE_METRICS_RECONSTRUCTION_H

#include "metrics/parts.h"

/* Sums over all counted rows. */
enum {
    G_NX = S_HEAD,      /* |x| */
    G_NY, G_NR,         /* |y|, |x - y| */
    G_Y2, G_XY,         /* |y|^2, <x, y> */
    G_L2,               /* |y| / |x|, |x| below 1e-4 taken as 1 */
    G_COS_N, G_COS,     /* cosine where both are not zero */
    G_NMSE_N, G_NMSE,   /* |r|^2 / |x|^2 where x is not zero */
    G_ZERO,             /* rows with x = 0 */
    G_L1,
    G_HEAD
};

/* Then, for each class of rows (bit 0: special token, bit 1: first position), so that the masks are
 * unions of classes: scalars and the vectors mean x, M2 x, mean r, sum r^2, [d] each. */
enum { K_N, K_SSE, K_S2, K_S1, K_L0, K_ACT_N, K_M2R, K_HEAD };

/* Sums per document; D_ENERGY, sum |x - mean|^2, is filled in when results are read. */
enum { D_N, D_SSE, D_S2, D_S1, D_L0, D_ACT_N, D_SUMS, D_ENERGY = D_SUMS };

/* Record: class, |r|^2 (f64), document, x in f32. */
enum { R_CLASS, R_SSE, R_DOCUMENT, R_X };

static inline int64_t qsae__class_width(const qsae_metric *m)
{
    return K_HEAD + 4 * m->d;
}

static inline int64_t qsae__class_at(const qsae_metric *m, int32_t c)
{
    return G_HEAD + c * qsae__class_width(m);
}

void qsae__class_combine(const qsae_metric *m, double *a, const double *b);

#define QSAE__RECONSTRUCTION_RESULTS 68
extern const qsae__result qsae__reconstruction_results[QSAE__RECONSTRUCTION_RESULTS];
int32_t qsae__reconstruction_compute(qsae_metric *m, const double *sum, qsae__values *v);

/* Sums per document with D_ENERGY about `mean` [d]; groups [n, QSAE__RUN_SUMS] and ids, ascending,
 * are the caller's to free. */
int32_t qsae__reconstruction_documents(qsae_metric *m, const double *mean, double **groups,
                                       int64_t **ids, int64_t *n);

/* sinks.c: shares of the rows of largest norm, and figures without them. */
int32_t qsae__sinks_compute(qsae_metric *m, qsae__values *v);

/* masked_intervals.c: intervals of prefix + fvu_dim, fvu_scalar, fvu_raw over the kept rows i with
 * keep[i]; value: the figures themselves. */
#define QSAE__MASKED 3
int32_t qsae__masked_intervals(qsae_metric *m, qsae__values *v, const char *prefix,
                               const uint8_t *keep, const double value[QSAE__MASKED]);

/* Checks rows of width d (n < 0: any number) and copies the struct. */
int32_t qsae__metric_rows(const qsae_metric *m, const qsae_rows *rows, int64_t n, const char *what,
                          qsae_rows *copy);

#endif
