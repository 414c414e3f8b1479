/* SPDX-License-Identifier: BSD-2-Clause */
/* Intervals over documents (methods.md section 9; doc/metrics.md, Intervals). */
#ifndef QSAE_METRICS_INTERVALS_H
#define QSAE_METRICS_INTERVALS_H

#include "metrics/parts.h"

#define QSAE__REPLICATES 2000
#define QSAE__COLUMNS_MOST 48

/* Sums of n documents, ids ascending; sums [n, stride], the first k columns are used. */
typedef struct qsae__documents {
    int64_t n, k, stride;
    const int64_t *id;
    const double *sums;
} qsae__documents;

/*
 * Interval of each figure of a list: cluster bootstrap over documents, Poisson(1) weights,
 * percentiles 2.5 and 97.5, widened about the value where the jackknife and the number of documents
 * that count say so. All figures share the weights; so do two calls with the same documents. NaN
 * below QSAE__LEAST_DOCUMENTS documents.
 * value [n_list]: the figures of all documents (what list[i].of returns: the logarithm, where
 * list[i].log). QSAE_ENOMEM.
 */
int32_t qsae__bootstrap(const qsae_metric *m, const qsae__documents *d, const qsae__interval *list,
                        const double *value, size_t n_list, qsae__bounds *out);

/* Documents of several metrics side by side: a document's sums of part p, [k[p]] of its columns,
 * are where part p begins, 0 where the part lacks it. The caller frees *sums and *ids. */
typedef struct qsae__part {
    int64_t n, k;
    const int64_t *id;
    const double *sums;        /* [n, QSAE__RUN_SUMS] */
} qsae__part;
int32_t qsae__join(qsae_context *ctx, const qsae__part *parts, int64_t n_parts, int64_t **ids,
                   double **sums, qsae__documents *out);

/* How often document `id` is drawn in the replicates [first, first + n), first a multiple of 4. */
void qsae__poisson_weights(uint64_t seed, int64_t id, int64_t first, int64_t n, uint8_t *weight);

/* Quantile 0.975 of Student's t with v >= 1 degrees of freedom, which need not be whole. */
double qsae__t975(double v);

#endif
