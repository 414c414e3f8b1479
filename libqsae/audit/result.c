/* SPDX-License-Identifier: BSD-2-Clause */
/* The result document (doc/result.md). Keys may be added, never renamed; undefined is null. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/version.h>

#include "audit/contexts.h"
#include "audit/probed.h"
#include "audit/slices.h"
#include "audit/verdicts.h"
#include "audit/state.h"

/* The few figures a snapshot keeps: of the metrics as they were at its tokens. */
static int32_t snapshot_sae(qsae_audit *a, struct participant *p, int64_t i, int64_t tokens,
                            json_t *list)
{
    static const char *const keys[] = { "fvu_dim", "fvu_scalar", "mse", "l0", NULL };
    json_t *const s = qsae__sae_head(&a->saes[i]);
    qsae_metric *m = NULL;
    json_array_append_new(list, s);
    int32_t st = qsae__metric_before(p->saes[i].reconstruction, tokens, &m);
    for (const char *const *k = keys; *k && st == QSAE_OK; k++)
        json_object_set_new(s, *k, qsae__number(qsae__value(m, *k)));
    qsae_metric_close(&m);
    if (st == QSAE_OK && p->saes[i].drift &&
        (st = qsae__metric_before(p->saes[i].drift, tokens, &m)) == QSAE_OK)
        json_object_set_new(s, "noise", qsae__noise_head(m));
    qsae_metric_close(&m);
    return st;
}

static int32_t snapshot_of(qsae_audit *a, struct participant *p, int64_t tokens, json_t **out)
{
    static const char *const keys[] = { "ce", "ppl", "predicted", NULL },
                      *const paired[] = { "dce", "dce_percent", "kl_mean", NULL };
    json_t *const o = *out = json_object(), *const list = json_array();
    qsae_metric *m = NULL;
    json_object_set_new(o, "label", json_string(p->label));
    int32_t st = qsae__metric_before(p->cross_entropy, tokens, &m);
    for (const char *const *k = keys; *k && st == QSAE_OK; k++)
        json_object_set_new(o, *k, qsae__named(m, *k));
    qsae_metric_close(&m);
    if (st == QSAE_OK && p->divergence)
        st = qsae__metric_before(p->divergence, tokens, &m);
    for (const char *const *k = paired; *k && st == QSAE_OK && p->divergence; k++)
        json_object_set_new(o, *k, qsae__number(qsae__value(m, *k)));
    qsae_metric_close(&m);
    json_object_set_new(o, "saes", list);
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++)
        st = snapshot_sae(a, p, i, tokens, list);
    return st;
}

int32_t qsae__result_snapshot(qsae_audit *a, int64_t budget, int64_t chunks, int64_t tokens,
                              json_t **out)
{
    json_t *o = json_object(), *list = json_array(), *p;
    json_object_set_new(o, "budget", json_integer(budget));
    json_object_set_new(o, "tokens", json_integer(tokens));
    json_object_set_new(o, "chunks", json_integer(chunks));
    int32_t st = snapshot_of(a, &a->participants[0], tokens, &p);
    json_object_set_new(o, "reference", p);
    json_object_set_new(o, "conditions", list);
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++) {
        p = NULL;
        st = snapshot_of(a, &a->participants[i], tokens, &p);
        json_array_append_new(list, p);
    }
    if (st != QSAE_OK)
        json_decref(o);
    *out = st == QSAE_OK ? o : NULL;
    return st;
}

/* FVU of participant p, SAE s in a snapshot. */
static double snapshot_fvu(const json_t *snapshot, int64_t p, int64_t s, const char *variant)
{
    const json_t *who = p ? json_array_get(json_object_get(snapshot, "conditions"), (size_t)p - 1)
                          : json_object_get(snapshot, "reference");
    const json_t *sae = json_array_get(json_object_get(who, "saes"), (size_t)s);
    const json_t *v = json_object_get(sae, variant);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* Snapshot of the headline budget if a later one was reached, else the last but one. */
static int64_t headline_snapshot(const qsae_audit *a)
{
    const int64_t n = (int64_t)json_array_size(a->snapshots);
    for (int64_t i = 0; i + 1 < n; i++) {
        const json_t *s = json_array_get(a->snapshots, (size_t)i);
        if (json_integer_value(json_object_get(s, "budget")) == a->profile->headline)
            return i;
    }
    return n - 2;
}

/* methods.md 2.8: FVU at the headline and the largest budget differ by less than 1e-4. */
static json_t *stabilization(qsae_audit *a)
{
    const char *variant = a->profile->fvu;
    json_t *o = json_object(), *budgets = json_array(), *series = json_array();
    const int64_t n = (int64_t)json_array_size(a->snapshots), headline = headline_snapshot(a);
    double change = NAN;
    for (int64_t i = 0; i < n; i++)
        json_array_append(budgets,
                          json_object_get(json_array_get(a->snapshots, (size_t)i), "tokens"));
    for (int64_t p = 0; p < a->n_participants; p++)
        for (int64_t s = 0; s < a->n_saes && qsae__participant_features(&a->participants[p]); s++) {
            json_t *line = qsae__sae_head(&a->saes[s]), *values = json_array();
            json_object_set_new(line, "label", json_string(a->participants[p].label));
            json_object_set_new(line, "fvu", values);
            json_array_append_new(series, line);
            for (int64_t i = 0; i < n; i++)
                json_array_append_new(values, qsae__number(snapshot_fvu(
                    json_array_get(a->snapshots, (size_t)i), p, s, variant)));
            if (headline < 0)
                continue;
            const double d = fabs(
                snapshot_fvu(json_array_get(a->snapshots, (size_t)n - 1), p, s, variant) -
                snapshot_fvu(json_array_get(a->snapshots, (size_t)headline), p, s, variant));
            change = isnan(change) || d > change ? d : change;
        }
    json_t *const first = json_object_get(json_array_get(series, 0), "fvu");
    json_object_set_new(o, "budgets", budgets);
    json_object_set(o, "fvu", first ? first : json_null());
    json_object_set_new(o, "variant", json_string(variant));
    json_object_set_new(o, "series", series);
    json_object_set_new(o, "headline",
                        headline >= 0 ? json_incref(json_array_get(budgets, (size_t)headline))
                                      : json_null());
    json_object_set_new(o, "max_change_after_headline", qsae__number(change));
    json_object_set_new(o, "stable", isnan(change) ? json_null() : json_boolean(change < 1e-4));
    return o;
}

/* methods.md 2.7, over the conditions that are no controls, per SAE. */
static json_t *verdicts(qsae_audit *a)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < a->n_saes && a->n_participants > 1; i++) {
        double low = INFINITY, high = -INFINITY;
        for (int64_t p = 1; p < a->n_participants; p++) {
            if (!qsae__participant_features(&a->participants[p]) || a->participants[p].control)
                continue;
            const double r = qsae__value(a->participants[p].saes[i].drift, "ratio");
            low = r < low || isnan(r) ? r : low;
            high = r > high || isnan(r) ? r : high;
        }
        if (low > high) /* there are none */
            continue;
        json_t *o = qsae__sae_head(&a->saes[i]);
        json_object_set_new(o, "min_ratio", qsae__number(low));
        json_object_set_new(o, "max_ratio", qsae__number(high));
        qsae__set_verdict(o, low, high);
        json_object_set_new(o, "flat_fvu", qsae__flat_fvu_json(a, i));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *corpus_json(qsae_audit *a)
{
    const qsae_corpus_info *c = &a->corpus_info;
    json_t *o = json_object();
    int64_t scored, bytes, words;
    const bool known = qsae__covered_scored(a, NULL, &scored, &bytes, &words);
    json_object_set_new(o, "tokens", json_integer(a->tokens_done));
    json_object_set_new(o, "available_tokens", json_integer(c->tokens));
    json_object_set_new(o, "stream_tokens", json_integer(c->stream_tokens));
    json_object_set_new(o, "documents", json_integer(c->documents));
    json_object_set_new(o, "chunks", json_integer(qsae__covered_chunks(a)));
    const double predicted = qsae__value(a->participants[0].cross_entropy, "predicted");
    json_object_set_new(o, "predicted_tokens",
                        json_integer(isfinite(predicted) ? (json_int_t)predicted : 0));
    json_object_set_new(o, "context", json_integer(c->context));
    json_object_set_new(o, "stride", c->stride ? json_integer(c->stride) : json_null());
    json_object_set_new(o, "score_from", json_integer(c->score_from));
    json_object_set_new(o, "scored_bytes", known ? json_integer(bytes) : json_null());
    json_object_set_new(o, "scored_words", known ? json_integer(words) : json_null());
    json_object_set_new(o, "batch", json_integer(a->batch));
    json_object_set_new(o, "bos_policy", json_string(qsae_bos_name(c->bos_policy)));
    json_object_set_new(o, "cross_labels", json_boolean(c->cross_labels));
    json_object_set_new(o, "pack", json_string(qsae_pack_name(c->pack)));
    json_object_update(o, a->selection);
    json_object_set_new(o, "token_hash", json_string(c->token_hash));
    json_object_set_new(o, "exclude_tokens",
                        a->exclude_tokens ? json_string(a->exclude_tokens) : json_null());
    return o;
}

static json_t *numerics_json(const qsae_audit *a)
{
    json_t *o = json_object();
    json_object_set_new(o, "cpu", json_string(qsae_context_cpu(a->ctx)));
    json_object_set_new(o, "gemm", json_string(qsae_context_gemm(a->ctx)));
    json_object_set_new(o, "blis", json_string(qsae_context_blis(a->ctx)));
    json_object_set_new(o, "measured_with", json_string(a->measured_with));
    return o;
}

static json_t *timing_json(const qsae_audit *a)
{
    json_t *o = json_object();
    json_object_set_new(o, "seconds", json_real(a->seconds));
    json_object_set_new(o, "tokens_per_second",
                        qsae__number(a->seconds > 0 ? (double)a->tokens_done / a->seconds : NAN));
    json_object_set_new(o, "threads", json_integer(qsae_context_threads(a->ctx)));
    json_object_set_new(o, "memory", json_string(a->memory == QSAE_MEMORY_STREAMED ? "streamed"
                                                 : a->memory == QSAE_MEMORY_IN_TURN ? "in-turn"
                                                                                   : "resident"));
    return o;
}

static const char *attention_name(int32_t attention)
{
    return attention == QSAE_ATTN_EAGER ? "eager" : attention == QSAE_ATTN_FP32 ? "fp32" : "sdpa";
}

/* What a function makes is put in its place even if it failed half-way: it goes with the rest. */
int32_t qsae__result_document(qsae_audit *a, json_t **out)
{
    static const struct {
        const char *key;
        int32_t (*make)(qsae_audit *a, json_t **out);
    } parts[] = { { "overlaps", qsae__overlaps_json }, { "slices", qsae__slices_json },
                  { "probes", qsae__probed_json }, { "contexts", qsae__contexts_json } };
    json_t *o = json_object(), *list = json_array(), *p = NULL;
    struct participant *const r = &a->participants[0];
    json_object_set_new(o, "format", json_string("qsae-result"));
    json_object_set_new(o, "version", json_integer(1));
    json_object_set_new(o, "library", json_string(qsae_version()));
    json_object_set_new(o, "interval_seed", json_integer(a->seed));
    json_object_set_new(o, "profile", json_string(a->profile->name));
    json_object_set_new(o, "compute",
                        json_string(r->cost.compute == QSAE_COMPUTE_BF16 ? "bf16" : "f32"));
    json_object_set_new(o, "attention", json_string(attention_name(r->cost.attention)));
    const char *const process = qsae_weights_processing(r->weights);
    json_object_set_new(o, "process", json_string(*process ? process : "none"));
    json_object_set_new(o, "fingerprint", json_string(a->fingerprint));
    json_object_set_new(o, "complete",
                        json_boolean(qsae__covered_chunks(a) >= a->corpus_info.chunks));
    json_object_set_new(o, "gaps", qsae__gaps_json(a));
    json_object_set_new(o, "corpus", corpus_json(a));
    int32_t st = qsae__snapshots_take(a);
    if (st == QSAE_OK)
        st = qsae__entry_json(a, r, &p);
    json_object_set_new(o, "reference", p);
    json_object_set_new(o, "conditions", list);
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++) {
        p = NULL;
        st = qsae__entry_json(a, &a->participants[i], &p);
        json_array_append_new(list, p);
    }
    if (st == QSAE_OK)
        st = qsae__controls_json(a, list);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && st == QSAE_OK; i++) {
        p = NULL;
        st = parts[i].make(a, &p);
        json_object_set_new(o, parts[i].key, p);
    }
    json_object_set_new(o, "verdicts", verdicts(a));
    json_object_set_new(o, "sweep", qsae__sweep_json(a));
    p = NULL;
    if (st == QSAE_OK)
        st = qsae__mixed_json(a, list, &p);
    json_object_set_new(o, "plan", p);
    json_object_set(o, "snapshots", a->snapshots);
    json_object_set_new(o, "stabilization", stabilization(a));
    json_object_set_new(o, "numerics", numerics_json(a));
    json_object_set_new(o, "timing", timing_json(a));
    if (st != QSAE_OK) {
        json_decref(o);
        return st;
    }
    *out = o;
    return QSAE_OK;
}
