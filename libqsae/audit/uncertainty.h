/* SPDX-License-Identifier: BSD-2-Clause */
/* Intervals as they stand in the result document (doc/result.md, intervals). */
#ifndef QSAE_AUDIT_UNCERTAINTY_H
#define QSAE_AUDIT_UNCERTAINTY_H

#include "audit/audit.h"
#include "metrics/metrics.h"

/* o.intervals.key = [low, high] and o.jackknife_se.key, null where there is none. */
void qsae__set_bounds_json(json_t *o, const char *key, const qsae__bounds *b);
/* Those of all results of a metric that have them. */
int32_t qsae__metric_bounds_json(json_t *o, qsae_metric *m);
/* What they say of `key` also as `other`, if it is there. */
void qsae__alias_bounds_json(json_t *o, const char *key, const char *other);
/* o.intervals_reason: why o has no intervals, null where it has; m counts documents. */
void qsae__set_reason_json(json_t *o, qsae_metric *m);
/* Of the changes of an SAE's figures against the reference's, into o.intervals. */
int32_t qsae__changes_json(json_t *o, qsae_metric *r, qsae_metric *q);
/* Of what an SAE recovers, into o.intervals. */
int32_t qsae__recovered_json(json_t *o, const struct audit_features *f);
/* Why a metric has no intervals, or NULL. */
const char *qsae__intervals_reason(qsae_metric *m);
/* Documents in a block, for intervals of r: 16 to 32 blocks, of SAEs wider than 65,536 features 16
 * to 31 and as few as that allows; 0 with fewer than 20 documents. */
int64_t qsae__documents_per_block(const qsae_audit *a, int64_t features);
/* Intervals of survival, why there are none; m: of the same condition, counts documents. */
void qsae__survival_reason_json(json_t *survival, qsae_metric *m);

#endif
