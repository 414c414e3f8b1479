/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit/uncertainty.h"

#include <math.h>

static json_t *object_in(json_t *o, const char *key)
{
    json_t *part = json_object_get(o, key);
    if (!part)
        json_object_set_new(o, key, part = json_object());
    return part;
}

void qsae__set_bounds_json(json_t *o, const char *key, const qsae__bounds *b)
{
    json_object_set_new(object_in(o, "intervals"), key, qsae__interval_json(b->low, b->high));
    json_object_set_new(object_in(o, "jackknife_se"), key, qsae__number(b->se));
}

int32_t qsae__metric_bounds_json(json_t *o, qsae_metric *m)
{
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        const int32_t st = qsae_metric_value(m, i, &v);
        const qsae__bounds b = { v.low, v.high, v.jackknife_se };
        if (st != QSAE_OK)
            return st;
        if (qsae__metric_has_interval(m, i))
            qsae__set_bounds_json(o, v.name, &b);
    }
    return QSAE_OK;
}

void qsae__alias_bounds_json(json_t *o, const char *key, const char *other)
{
    static const char *const parts[] = { "intervals", "jackknife_se" };
    for (int i = 0; i < 2; i++) {
        json_t *const part = json_object_get(o, parts[i]), *const v = json_object_get(part, key);
        if (v)
            json_object_set(part, other, v);
    }
}

const char *qsae__intervals_reason(qsae_metric *m)
{
    const bool few = !(qsae__value(m, "documents") >= QSAE__LEAST_DOCUMENTS);
    return few ? "too few documents" : NULL;
}

void qsae__set_reason_json(json_t *o, qsae_metric *m)
{
    const char *const reason = qsae__intervals_reason(m);
    object_in(o, "intervals");
    object_in(o, "jackknife_se");
    json_object_set_new(o, "intervals_reason", reason ? json_string(reason) : json_null());
}

int32_t qsae__changes_json(json_t *o, qsae_metric *r, qsae_metric *q)
{
    static const char *const keys[QSAE__CHANGES] = { "dfvu_dim", "dfvu_scalar", "dmse", "dl0" };
    qsae__bounds b[QSAE__CHANGES];
    const int32_t st = qsae__reconstruction_changes(r, q, b);
    for (int i = 0; i < QSAE__CHANGES && st == QSAE_OK; i++)
        qsae__set_bounds_json(o, keys[i], &b[i]);
    return st;
}

int32_t qsae__recovered_json(json_t *o, const struct audit_features *f)
{
    static const char *const keys[QSAE__RECOVERED] = { "ce_recovered", "ce_recovered_mean",
                                                       "kl_recovered" };
    qsae__bounds b[QSAE__RECOVERED];
    const int32_t st = qsae__divergence_recovered(f->splice[QSAE__SPLICE_SAE],
                                                  f->splice[QSAE__SPLICE_ZERO],
                                                  f->splice[QSAE__SPLICE_MEAN], b);
    for (int i = 0; i < QSAE__RECOVERED && st == QSAE_OK; i++)
        qsae__set_bounds_json(o, keys[i], &b[i]);
    return st;
}

#define WIDE 65536
#define BLOCKS_MOST 32
#define BLOCKS_LEAST 16

int64_t qsae__documents_per_block(const qsae_audit *a, int64_t features)
{
    const int64_t n = a->corpus_info.documents;
    if (n < QSAE__LEAST_DOCUMENTS)
        return 0;
    return features > WIDE ? n / BLOCKS_LEAST : qsae__ceil_div(n, BLOCKS_MOST);
}

void qsae__survival_reason_json(json_t *survival, qsae_metric *m)
{
    const json_t *const mean = json_object_get(json_object_get(survival, "intervals"), "mean_r");
    const char *reason = qsae__intervals_reason(m);
    if (!reason && json_is_null(mean))
        reason = "too few blocks of documents";
    object_in(survival, "intervals");
    object_in(survival, "jackknife_se");
    json_object_set_new(survival, "intervals_reason",
                        reason ? json_string(reason) : json_null());
}
