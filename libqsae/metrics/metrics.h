/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * metrics/: accumulators (cross-entropy, divergence, reconstruction, features, drift), their fixed
 * tree of sums, intervals and state files. Includes formats/ (base-logit files), kernels/, core/
 * and itself; never model/, sae/ or text/.
 */
#ifndef QSAE_METRICS_METRICS_H
#define QSAE_METRICS_METRICS_H

#include <qsae/metrics.h>

#include "core/core.h"

/* Appends the state, as qsae_metric_save() writes it, to b (b->status tells of a failure). */
void qsae__metric_write(const qsae_metric *metric, qsae__strbuf *b);

/* Replaces the state by a written one of the same kind, shape and settings, which is checked as
 * hostile input; `size` must be its exact length. On error the metric is unchanged. */
int32_t qsae__metric_read(qsae_metric *metric, const void *data, size_t size);

/* A 95% interval and the standard error by the delete-one-document jackknife; NaN: none. */
typedef struct qsae__bounds {
    double low, high, se;
} qsae__bounds;

/* Documents that intervals need. */
#define QSAE__LEAST_DOCUMENTS 20

/* Changes between two metrics of kind reconstruction over the same documents, d and features. */
enum { QSAE__CHANGE_FVU_DIM, QSAE__CHANGE_FVU_SCALAR, QSAE__CHANGE_MSE, QSAE__CHANGE_L0,
       QSAE__CHANGES };
int32_t qsae__reconstruction_changes(qsae_metric *r, qsae_metric *q,
                                     qsae__bounds out[QSAE__CHANGES]);

/* Rows that a metric of kind reconstruction has kept, in token order: token, |x - y|^2, x [d].
 * *all: these are all it has counted. */
typedef struct qsae__kept_row {
    int64_t token;
    double sse;
    const float *x;
} qsae__kept_row;
int64_t qsae__reconstruction_kept(const qsae_metric *m, bool *all);
qsae__kept_row qsae__reconstruction_row(const qsae_metric *m, int64_t i);

/* What an SAE recovers: metrics of kind divergence of a model from itself with the SAE spliced in,
 * with zero, with the mean instead. (ce_zero - ce_sae) / (ce_zero - ce), the same with the mean,
 * 1 - kl_sae / kl_zero. */
enum { QSAE__RECOVERED_CE, QSAE__RECOVERED_CE_MEAN, QSAE__RECOVERED_KL, QSAE__RECOVERED };
int32_t qsae__divergence_recovered(qsae_metric *sae, qsae_metric *zero, qsae_metric *mean,
                                   qsae__bounds out[QSAE__RECOVERED]);

/* Whether result i has an interval over documents, given enough of them. After its value was read.
 */
bool qsae__metric_has_interval(const qsae_metric *metric, int32_t i);

/*
 * shards.c: what processes that measure parts of a text need. Parts begin at multiples of
 * qsae__metric_cut(batch_rows) tokens: a multiple of batch_rows, and of a leaf if 16 batches or
 * fewer are. Otherwise sums are kept apart there until a leaf is complete, whoever added them.
 */
int64_t qsae__metric_cut(int64_t batch_rows);

/* Keeps sums apart at these tokens [n], ascending and positive, so that those before one of them
 * can be told later. Of an empty metric; copied. */
int32_t qsae__metric_set_cuts(qsae_metric *metric, const int64_t *cuts, int64_t n);

/* A new metric that has seen what `metric` has of the tokens before a cut: its sums alone, no
 * documents, records or counts, so no intervals, quantiles or values per feature. */
int32_t qsae__metric_before(const qsae_metric *metric, int64_t token, qsae_metric **out);

/* Appends what a written state does not say of its metric: other settings, cuts. A setting that
 * changes what is kept goes here, or into the state. */
void qsae__metric_describe(const qsae_metric *metric, qsae__strbuf *b);
/* QSAE_EMISMATCH, naming the setting, unless it describes this metric. */
int32_t qsae__metric_check_described(const qsae_metric *metric, const void *description,
                                     size_t size);
/* A new metric of the kind and settings that a description and a written state are of, with that
 * state. Both are hostile input. */
int32_t qsae__metric_open_written(qsae_context *ctx, const void *description, size_t size,
                                  const void *state, size_t state_size, qsae_metric **out);

#endif
