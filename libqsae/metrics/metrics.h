/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * metrics/: accumulators (cross-entropy, divergence, reconstruction, features, drift), their fixed
 * tree of sums, intervals and state files. Includes kernels/, core/ and itself; never model/, sae/
 * or text/.
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

#endif
