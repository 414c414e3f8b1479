/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_METRICS_MASS_H
#define QSAE_METRICS_MASS_H

#include <qsae/metrics.h>

#include "core/core.h"

/* A metric of each feature's activation mass: sum |f| over the counted rows, to 2^-33 per row. */
int32_t qsae__mass_open(qsae_context *ctx, int64_t features, const qsae_metric_settings *s,
                        qsae_metric **out);
int32_t qsae__mass_update(qsae_metric *metric, const qsae_positions *at,
                          const qsae_sparse_rows *acts);
/* mass [features] */
void qsae__mass_get(const qsae_metric *metric, double *mass);

#endif
