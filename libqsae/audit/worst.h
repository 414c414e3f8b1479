/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_AUDIT_WORST_H
#define QSAE_AUDIT_WORST_H

#include "audit/audit.h"

/* Adds worst_tokens and worst_documents of a condition to its object; null for parts of a sweep. */
int32_t qsae__worst_json(qsae_audit *a, const struct participant *p, json_t *to);

/* features.c: text of tokens ids[0..n), bytes that are no UTF-8 replaced. */
json_t *qsae__text_json(qsae_audit *a, const int32_t *ids, int64_t n);

#endif
