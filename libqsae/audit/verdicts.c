/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit/verdicts.h"

#include <math.h>
#include <string.h>

#include "audit/uncertainty.h"

#define INFORMATIVE 1.0    /* drift as large as the SAE's own error */
#define UNINFORMATIVE 0.1

static const char informative[] = "informative", uninformative[] = "uninformative",
                  care[] = "interpret with care", hidden[] = "hidden_damage";

static qsae_value value_of(qsae_metric *m, const char *name)
{
    qsae_value v = { .struct_size = sizeof v };
    for (int32_t i = 0; i < qsae_metric_count(m); i++)
        if (qsae_metric_value(m, i, &v) == QSAE_OK && strcmp(v.name, name) == 0)
            return v;
    return (qsae_value){ .value = NAN, .low = NAN, .high = NAN, .jackknife_se = NAN };
}

static bool known(const qsae_value *v)
{
    return isfinite(v->low) && isfinite(v->high);
}

static bool is_null_run(const struct participant *p)
{
    return strcmp(p->label, "control:null") == 0;
}

/* A flat FVU says something where the drift exceeds the SAE's own error both in energy, which few
 * tokens can rule, and for the median token; NULL where an interval is missing. */
static const char *flat_fvu(qsae_metric *drift)
{
    const qsae_value energy = value_of(drift, "ratio"), median = value_of(drift,
                                                                          "ratio_token_median");
    if (!known(&energy) || !known(&median))
        return NULL;
    if (energy.low >= INFORMATIVE && median.low >= INFORMATIVE)
        return informative;
    return energy.high < UNINFORMATIVE && median.high < UNINFORMATIVE ? uninformative : care;
}

json_t *qsae__flat_fvu_json(qsae_audit *a, int64_t sae)
{
    const char *all = NULL;
    for (int64_t i = 1; i < a->n_participants; i++) {
        const struct participant *const p = &a->participants[i];
        if (is_null_run(p) || !qsae__participant_features(p))
            continue;
        const char *const one = flat_fvu(p->saes[sae].drift);
        if (!one)
            return json_null();
        all = !all || all == one ? one : care;
    }
    return all ? json_string(all) : json_null();
}

/* Share of active features that do not survive, percent, with its interval. */
static qsae_value non_survivors(qsae_metric *survival)
{
    const qsae_value v = value_of(survival, "survived_percent");
    qsae_value out = v;
    out.value = 100 - v.value;
    out.low = 100 - v.high;
    out.high = 100 - v.low;
    return out;
}

/* What the null run shows: exactly nothing, or what a condition control:null measured. */
static qsae_value null_run(qsae_audit *a, int64_t sae)
{
    for (int64_t i = 1; i < a->n_participants; i++)
        if (is_null_run(&a->participants[i]) && qsae__participant_features(&a->participants[i]))
            return non_survivors(a->participants[i].saes[sae].survival);
    return (qsae_value){ .value = 0, .low = 0, .high = 0 };
}

static const char *word(bool worse, bool lost)
{
    return lost ? worse ? "damage" : hidden : worse ? "output_damage" : "no_damage_seen";
}

static void set_share(json_t *o, const char *key, const char *interval_key, const qsae_value *v)
{
    json_object_set_new(o, key, qsae__number(v->value));
    json_object_set_new(o, interval_key, qsae__interval_json(v->low, v->high));
}

json_t *qsae__sae_verdict_json(qsae_audit *a, const struct participant *p, int64_t sae)
{
    const struct audit_features *const f = &p->saes[sae];
    if (!qsae__participant_features(p))
        return json_null();
    const qsae_value dce = value_of(p->divergence, "dce"), share = non_survivors(f->survival),
                     null = null_run(a, sae);
    const bool decided = known(&dce) && known(&share) && known(&null);
    const bool worse = dce.low > 0, lost = share.low > null.high;
    const char *const flat = flat_fvu(f->drift), *reason = NULL;
    if (!decided)
        reason = qsae__intervals_reason(p->divergence);
    if (!decided && !reason)
        reason = isfinite(share.value) ? "too few blocks of documents" : "no active feature";
    json_t *const o = json_object();
    json_object_set_new(o, "verdict", decided ? json_string(word(worse, lost)) : json_null());
    json_object_set_new(o, "hidden_damage", decided ? json_boolean(lost && !worse) : json_null());
    json_object_set_new(o, "reason", reason ? json_string(reason) : json_null());
    set_share(o, "non_survivors_percent", "non_survivors_interval", &share);
    set_share(o, "null_percent", "null_interval", &null);
    json_object_set_new(o, "flat_fvu", flat ? json_string(flat) : json_null());
    return o;
}

/* The worst of its SAEs, in the order below. */
void qsae__set_condition_verdict(json_t *o)
{
    static const char *const order[] = { hidden, "damage", "output_damage", "no_damage_seen" };
    size_t i, best = sizeof order / sizeof order[0];
    const json_t *s, *reason = NULL;
    json_array_foreach(json_object_get(o, "saes"), i, s) {
        const json_t *const v = json_object_get(s, "verdict");
        const char *const text = json_string_value(json_object_get(v, "verdict"));
        if (!text && !reason)
            reason = json_object_get(v, "reason");
        for (size_t k = 0; text && k < best; k++)
            if (strcmp(text, order[k]) == 0)
                best = k;
    }
    const bool found = best < sizeof order / sizeof order[0];
    json_object_set_new(o, "verdict", found ? json_string(order[best]) : json_null());
    json_object_set_new(o, "verdict_reason", found    ? json_null()
                                             : reason ? json_deep_copy(reason)
                                                      : json_string("no SAE"));
}
