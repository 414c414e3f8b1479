/* SPDX-License-Identifier: BSD-2-Clause */
/* What the intervals allow to be said of a condition (methods.md 7 and 11). */
#ifndef QSAE_AUDIT_VERDICTS_H
#define QSAE_AUDIT_VERDICTS_H

#include "audit/audit.h"

/* The verdict of a condition on one SAE (doc/result.md, verdict), and what it rests on. */
json_t *qsae__sae_verdict_json(qsae_audit *a, const struct participant *p, int64_t sae);
/* o.verdict and o.verdict_reason of a condition, of those of its saes[]. */
void qsae__set_condition_verdict(json_t *o);
/* Whether a flat FVU means anything, over all conditions but control:null; null: not known. */
json_t *qsae__flat_fvu_json(qsae_audit *a, int64_t sae);

#endif
