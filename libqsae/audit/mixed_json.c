/* SPDX-License-Identifier: BSD-2-Clause */
/* A plan that an earlier audit made (mixed.c), with what this one measured of it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"

#define PLAN_BYTES_MOST ((size_t)64 << 20)

int32_t qsae__plan_read(qsae_audit *a, const char *text)
{
    json_error_t error;
    if (!text)
        return QSAE_OK;
    if (strnlen(text, PLAN_BYTES_MOST + 1) > PLAN_BYTES_MOST)
        return qsae__fail(QSAE_EINVAL, "audit: plan: more than %zu bytes", PLAN_BYTES_MOST);
    a->plan = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(a->plan))
        return qsae__fail(QSAE_EINVAL, "audit: plan: expected the JSON object of qsae_audit_plan, "
                          "found at line %d: %s", error.line, a->plan ? "no object" : error.text);
    static const char *const numbers[] = { "budget_bits", "weights", "kept_bytes" };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!json_is_number(json_object_get(a->plan, numbers[i])))
            return qsae__fail(QSAE_EINVAL, "audit: plan: %s: expected a number", numbers[i]);
    if (!(json_number_value(json_object_get(a->plan, "weights")) > 0))
        return qsae__fail(QSAE_EINVAL, "audit: plan: weights: expected a number above 0");
    if (!json_is_string(json_object_get(a->plan, "condition")))
        return qsae__fail(QSAE_EINVAL, "audit: plan: condition: expected a string");
    return QSAE_OK;
}

static void copy(json_t *to, const char *key, const json_t *from)
{
    json_t *const v = json_object_get(from, key);
    json_object_set_new(to, key, v ? json_incref(v) : json_null());
}

/* Bits of the weights that the plan is about, as a condition stores them. */
static double bits_of(const qsae_audit *a, const struct participant *p)
{
    const double weights = json_number_value(json_object_get(a->plan, "weights")),
                 kept = json_number_value(json_object_get(a->plan, "kept_bytes"));
    return 8 * (kept + (double)p->cost.weight_bytes -
                (double)a->participants[0].cost.weight_bytes) / weights;
}

static json_t *outcome(const qsae_audit *a, int64_t i, const json_t *entry)
{
    json_t *const o = json_object(), *const list = json_array();
    json_object_set_new(o, "condition", json_integer(i - 1));
    copy(o, "label", entry);
    json_object_set_new(o, "bits", qsae__number(bits_of(a, &a->participants[i])));
    for (const char *const *k = (const char *const[]){ "ce", "dce", "kl_mean", NULL }; *k; k++)
        copy(o, *k, entry);
    copy(o, "dce_interval", NULL);
    json_t *const interval = json_object_get(json_object_get(entry, "intervals"), "dce");
    if (interval)
        json_object_set(o, "dce_interval", interval);
    json_object_set_new(o, "saes", list);
    for (int64_t k = 0; k < a->n_saes; k++) {
        const json_t *const sae = json_array_get(json_object_get(entry, "saes"), (size_t)k),
                     *const survival = json_object_get(sae, "survival");
        json_t *const s = qsae__sae_head(&a->saes[k]);
        copy(s, "dfvu_dim", sae);
        copy(s, "survived_percent", survival);
        copy(s, "median_r", survival);
        json_array_append_new(list, s);
    }
    return o;
}

struct uniform {
    double bits;
    int64_t index;
};

static int by_bits(const void *a, const void *b)
{
    const struct uniform *const x = a, *const y = b;
    if (x->bits != y->bits)
        return x->bits < y->bits ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

int32_t qsae__mixed_json(qsae_audit *a, const json_t *list, json_t **out)
{
    *out = json_null();
    if (!a->plan)
        return QSAE_OK;
    const char *const planned = json_string_value(json_object_get(a->plan, "condition"));
    struct uniform *const others = qsae__calloc(a->ctx, a->n_participants, sizeof *others);
    int64_t n = 0;
    if (!others)
        return QSAE_ENOMEM;
    json_t *const o = *out = json_deep_copy(a->plan), *const uniform = json_array();
    json_object_set_new(o, "measured", json_null());
    json_object_set_new(o, "uniform", uniform);
    for (int64_t i = 1; i < a->n_participants; i++) {
        const struct participant *const p = &a->participants[i];
        if (p->checkpoint || p->control || p->place || !p->model)
            continue;
        if (strcmp(p->cost.condition, planned) == 0)
            json_object_set_new(o, "measured",
                                outcome(a, i, json_array_get(list, (size_t)i - 1)));
        else
            others[n++] = (struct uniform){ bits_of(a, p), i };
    }
    qsort(others, (size_t)n, sizeof *others, by_bits);
    for (int64_t k = 0; k < n; k++)
        json_array_append_new(uniform, outcome(a, others[k].index,
                                               json_array_get(list, (size_t)others[k].index - 1)));
    qsae__free(a->ctx, others);
    return QSAE_OK;
}
