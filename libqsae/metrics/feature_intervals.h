/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_METRICS_FEATURE_INTERVALS_H
#define QSAE_METRICS_FEATURE_INTERVALS_H

#include "metrics/parts.h"

/* Intervals of what is said of the active features id [n] with their r [n], once that is set, and
 * how many are undetermined. */
int32_t qsae__feature_intervals(const qsae_metric *m, qsae__values *v, const int64_t *id,
                                const double *r, int64_t n);
/* r of every feature becomes a bound of its interval, NaN where there is none. */
void qsae__feature_bound(const qsae_metric *m, bool high, double *r);

#endif
