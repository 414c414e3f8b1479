/* SPDX-License-Identifier: BSD-2-Clause */
/* The result document (doc/result.md). Keys may be added, never renamed; undefined is null. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/version.h>

#include "audit/audit.h"

/* jansson refuses NaN and infinity: both are "not defined" here. */
static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static double value_of(qsae_metric *m, const char *name)
{
    double v = NAN;
    return m && qsae_metric_get(m, name, &v) == QSAE_OK ? v : NAN;
}

/* Counts are whole numbers in the document. */
static json_t *value_json(const qsae_value *v)
{
    const bool count = strcmp(v->unit, "tokens") == 0 || strcmp(v->unit, "features") == 0 ||
                       strcmp(v->unit, "count") == 0 || strcmp(v->unit, "documents") == 0;
    return count && isfinite(v->value) && v->value == floor(v->value) && fabs(v->value) < 9e15
               ? json_integer((json_int_t)v->value)
               : number(v->value);
}

/* One result as it stands in the document; null for a name the metric does not have. */
static json_t *named(qsae_metric *m, const char *name)
{
    for (int32_t i = 0; m && i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        if (qsae_metric_value(m, i, &v) == QSAE_OK && strcmp(v.name, name) == 0)
            return value_json(&v);
    }
    return json_null();
}

/*
 * All results of a metric into `to`; "mask/name" goes to masks.mask.name; intervals (may be NULL)
 * receives [low, high] of those that have one. Keys that are there already stay.
 */
static int32_t add_metric(json_t *to, json_t *intervals, qsae_metric *m)
{
    const int32_t n = qsae_metric_count(m);
    for (int32_t i = 0; i < n; i++) {
        qsae_value v = { .struct_size = sizeof v };
        const int32_t st = qsae_metric_value(m, i, &v);
        if (st != QSAE_OK)
            return st;
        const char *slash = strchr(v.name, '/');
        json_t *object = to;
        const char *key = v.name;
        if (slash) {
            char mask[64];
            snprintf(mask, sizeof mask, "%.*s", (int)(slash - v.name), v.name);
            json_t *masks = json_object_get(to, "masks");
            if (!masks)
                json_object_set_new(to, "masks", masks = json_object());
            if (!(object = json_object_get(masks, mask)))
                json_object_set_new(masks, mask, object = json_object());
            key = slash + 1;
        }
        if (!json_object_get(object, key))
            json_object_set_new(object, key, value_json(&v));
        if (intervals && isfinite(v.low) && isfinite(v.high))
            json_object_set_new(intervals, v.name, json_pack("[f,f]", v.low, v.high));
    }
    return QSAE_OK;
}

static const char *verdict(double low, double high)
{
    if (!isfinite(low) || !isfinite(high))
        return NULL;
    return low >= 1 ? "informative" : high < 0.1 ? "uninformative" : "interpret with care";
}

static void set_verdict(json_t *object, double low, double high)
{
    const char *text = verdict(low, high);
    json_object_set_new(object, "verdict", text ? json_string(text) : json_null());
}

static json_t *sae_head(const struct audit_sae *s)
{
    const char *slash = strrchr(s->name, '/');
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(slash && slash[1] ? slash + 1 : s->name));
    json_object_set_new(o, "layer", json_integer(s->layer));
    json_object_set_new(o, "site", json_string(qsae_site_name(s->site)));
    return o;
}

static json_t *noise_head(qsae_metric *drift)
{
    json_t *o = json_object();
    const double ratio = value_of(drift, "ratio");
    json_object_set_new(o, "p", number(value_of(drift, "P")));
    json_object_set_new(o, "r", number(value_of(drift, "R_q")));
    json_object_set_new(o, "ratio", number(ratio));
    set_verdict(o, ratio, ratio);
    return o;
}

static int32_t add_saes(qsae_audit *a, struct participant *p, json_t *to)
{
    json_t *list = json_array();
    json_object_set_new(to, "saes", list);
    for (int64_t i = 0; i < a->n_saes; i++) {
        json_t *o = sae_head(&a->saes[i]);
        json_array_append_new(list, o);
        json_object_set_new(o, "architecture", json_string(a->saes[i].info.architecture));
        json_object_set_new(o, "features", json_integer(a->saes[i].info.features));
        json_object_set_new(o, "hash", json_string(a->saes[i].info.hash));
        json_t *intervals = json_object();
        int32_t st = add_metric(o, intervals, p->saes[i].reconstruction);
        json_object_set_new(o, "intervals", intervals);
        if (st != QSAE_OK)
            return st;
        if (!p->saes[i].drift)
            continue;
        json_t *noise = noise_head(p->saes[i].drift), *survival = json_object();
        json_object_set_new(o, "noise", noise);
        json_object_set_new(o, "survival", survival);
        struct participant *const r = &a->participants[0];
        for (const char *const *k = (const char *const[]){ "fvu_dim", "fvu_scalar", "l0", NULL };
             *k; k++) {
            char key[32];
            snprintf(key, sizeof key, "d%s", *k);
            json_object_set_new(o, key, number(value_of(p->saes[i].reconstruction, *k) -
                                               value_of(r->saes[i].reconstruction, *k)));
        }
        intervals = json_object();
        if ((st = add_metric(noise, intervals, p->saes[i].drift)) == QSAE_OK)
            st = add_metric(survival, NULL, p->saes[i].survival);
        json_object_set_new(noise, "intervals", intervals);
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What LLM.int8 met; null for other codecs. */
static json_t *outliers_json(const qsae_audit *a, const struct participant *p)
{
    int64_t calls = 0, with = 0, columns = 0, n = 0;
    char(*names)[160] = qsae__calloc(a->ctx, p->n_outliers, sizeof *names);
    char **sorted = qsae__calloc(a->ctx, p->n_outliers, sizeof *sorted);
    for (int64_t i = 0; names && sorted && i < p->n_outliers; i++) {
        calls += p->outliers[i].calls;
        with += p->outliers[i].with_outliers;
        columns += p->outliers[i].columns;
        if (p->outliers[i].with_outliers) {
            qsae__model_linear_name(p->model, i, names[n], sizeof names[n]);
            sorted[n] = names[n];
            n++;
        }
    }
    json_t *o = json_null(), *list;
    if (calls) {
        qsort(sorted, (size_t)n, sizeof *sorted, by_text);
        o = json_pack("{s:I,s:I,s:I,s:o}", "linear_calls", (json_int_t)calls, "calls_with_outliers",
                      (json_int_t)with, "outlier_columns_total", (json_int_t)columns,
                      "modules_with_outliers", list = json_array());
        for (int64_t i = 0; i < n; i++)
            json_array_append_new(list, json_string(sorted[i]));
    }
    qsae__free(a->ctx, names);
    qsae__free(a->ctx, sorted);
    return o;
}

static int32_t participant_json(qsae_audit *a, struct participant *p, json_t **out)
{
    json_t *o = *out = json_object(), *intervals = json_object();
    json_object_set_new(o, "label", json_string(p->label));
    json_object_set_new(o, "weight_bytes", json_integer((json_int_t)p->cost.weight_bytes));
    json_object_set_new(o, "quantized_bytes", json_integer((json_int_t)p->cost.quantized_bytes));
    json_object_set_new(o, "quantized_weights", json_integer(p->cost.quantized_weights));
    json_object_set_new(o, "quantized_tensors", json_integer(p->cost.quantized_tensors));
    json_object_set_new(o, "bits_per_weight", number(p->cost.bits_per_weight));
    json_object_set_new(o, "compute",
                        json_string(p->cost.compute == QSAE_COMPUTE_BF16 ? "bf16" : "f32"));
    json_object_set_new(o, "batch_dependent", json_boolean(p->cost.batch_dependent));
    json_object_set_new(o, "outliers", outliers_json(a, p));
    json_object_set_new(o, "peak_rss_bytes",
                        p->peak_rss ? json_integer((json_int_t)p->peak_rss) : json_null());
    json_object_set_new(o, "tokens_per_second",
                        number(p->seconds > 0 ? (double)a->tokens_done / p->seconds : NAN));
    int32_t st = add_metric(o, intervals, p->cross_entropy);
    if (st == QSAE_OK && p->divergence) {
        json_object_set_new(o, "top1_agreement", number(value_of(p->divergence, "same_top")));
        st = add_metric(o, intervals, p->divergence);
    }
    json_object_set_new(o, "intervals", intervals);
    return st == QSAE_OK ? add_saes(a, p, o) : st;
}

/* The few figures a snapshot keeps. */
static json_t *snapshot_of(qsae_audit *a, struct participant *p)
{
    json_t *o = json_object(), *list = json_array();
    json_object_set_new(o, "label", json_string(p->label));
    for (const char *const *k = (const char *const[]){ "ce", "ppl", "predicted", NULL }; *k; k++)
        json_object_set_new(o, *k, named(p->cross_entropy, *k));
    if (p->divergence)
        for (const char *const *k = (const char *const[]){ "dce", "dce_percent", "kl_mean", NULL };
             *k; k++)
            json_object_set_new(o, *k, number(value_of(p->divergence, *k)));
    json_object_set_new(o, "saes", list);
    for (int64_t i = 0; i < a->n_saes; i++) {
        json_t *s = sae_head(&a->saes[i]);
        json_array_append_new(list, s);
        for (const char *const *k =
                 (const char *const[]){ "fvu_dim", "fvu_scalar", "mse", "l0", NULL }; *k; k++)
            json_object_set_new(s, *k, number(value_of(p->saes[i].reconstruction, *k)));
        if (p->saes[i].drift)
            json_object_set_new(s, "noise", noise_head(p->saes[i].drift));
    }
    return o;
}

int32_t qsae__result_snapshot(qsae_audit *a, int64_t budget, json_t **out)
{
    json_t *o = *out = json_object(), *list = json_array();
    json_object_set_new(o, "budget", json_integer(budget));
    json_object_set_new(o, "tokens", json_integer(a->tokens_done));
    json_object_set_new(o, "chunks", json_integer(a->next_chunk));
    json_object_set_new(o, "reference", snapshot_of(a, &a->participants[0]));
    json_object_set_new(o, "conditions", list);
    for (int64_t i = 1; i < a->n_participants; i++)
        json_array_append_new(list, snapshot_of(a, &a->participants[i]));
    return QSAE_OK;
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
        for (int64_t s = 0; s < a->n_saes; s++) {
            json_t *line = sae_head(&a->saes[s]), *values = json_array();
            json_object_set_new(line, "label", json_string(a->participants[p].label));
            json_object_set_new(line, "fvu", values);
            json_array_append_new(series, line);
            for (int64_t i = 0; i < n; i++)
                json_array_append_new(values, number(snapshot_fvu(
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
    json_object_set_new(o, "max_change_after_headline", number(change));
    json_object_set_new(o, "stable", isnan(change) ? json_null() : json_boolean(change < 1e-4));
    return o;
}

/* methods.md 2.7, over the conditions, per SAE. */
static json_t *verdicts(qsae_audit *a)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < a->n_saes && a->n_participants > 1; i++) {
        double low = INFINITY, high = -INFINITY;
        for (int64_t p = 1; p < a->n_participants; p++) {
            const double r = value_of(a->participants[p].saes[i].drift, "ratio");
            low = r < low || isnan(r) ? r : low;
            high = r > high || isnan(r) ? r : high;
        }
        json_t *o = sae_head(&a->saes[i]);
        json_object_set_new(o, "min_ratio", number(low));
        json_object_set_new(o, "max_ratio", number(high));
        set_verdict(o, low, high);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *corpus_json(qsae_audit *a)
{
    const qsae_corpus_info *c = &a->corpus_info;
    json_t *o = json_object();
    json_object_set_new(o, "tokens", json_integer(a->tokens_done));
    json_object_set_new(o, "available_tokens", json_integer(c->tokens));
    json_object_set_new(o, "stream_tokens", json_integer(c->stream_tokens));
    json_object_set_new(o, "documents", json_integer(c->documents));
    json_object_set_new(o, "chunks", json_integer(a->next_chunk));
    const double predicted = value_of(a->participants[0].cross_entropy, "predicted");
    json_object_set_new(o, "predicted_tokens",
                        json_integer(isfinite(predicted) ? (json_int_t)predicted : 0));
    json_object_set_new(o, "context", json_integer(c->context));
    json_object_set_new(o, "batch", json_integer(a->batch));
    json_object_set_new(o, "bos_policy", json_string(qsae_bos_name(c->bos_policy)));
    json_object_set_new(o, "cross_labels", json_boolean(c->cross_labels));
    json_object_set_new(o, "token_hash", json_string(c->token_hash));
    return o;
}

static json_t *numerics_json(const qsae_audit *a)
{
    json_t *o = json_object();
    json_object_set_new(o, "cpu", json_string(qsae_context_cpu(a->ctx)));
    json_object_set_new(o, "gemm", json_string(qsae_context_gemm(a->ctx)));
    json_object_set_new(o, "blis", json_string(qsae_context_blis(a->ctx)));
    return o;
}

static json_t *timing_json(const qsae_audit *a)
{
    json_t *o = json_object();
    json_object_set_new(o, "seconds", json_real(a->seconds));
    json_object_set_new(o, "tokens_per_second",
                        number(a->seconds > 0 ? (double)a->tokens_done / a->seconds : NAN));
    json_object_set_new(o, "threads", json_integer(qsae_context_threads(a->ctx)));
    return o;
}

static const char *attention_name(int32_t attention)
{
    return attention == QSAE_ATTN_EAGER ? "eager" : attention == QSAE_ATTN_FP32 ? "fp32" : "sdpa";
}

int32_t qsae__result_document(qsae_audit *a, json_t **out)
{
    json_t *o = json_object(), *list = json_array(), *p;
    struct participant *const r = &a->participants[0];
    json_object_set_new(o, "format", json_string("qsae-result"));
    json_object_set_new(o, "version", json_integer(1));
    json_object_set_new(o, "library", json_string(qsae_version()));
    json_object_set_new(o, "profile", json_string(a->profile->name));
    json_object_set_new(o, "compute",
                        json_string(r->cost.compute == QSAE_COMPUTE_BF16 ? "bf16" : "f32"));
    json_object_set_new(o, "attention", json_string(attention_name(r->cost.attention)));
    json_object_set_new(o, "fingerprint", json_string(a->fingerprint));
    json_object_set_new(o, "complete", json_boolean(a->next_chunk >= a->corpus_info.chunks));
    json_object_set_new(o, "corpus", corpus_json(a));
    int32_t st = participant_json(a, r, &p);
    json_object_set_new(o, "reference", p);
    json_object_set_new(o, "conditions", list);
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++) {
        st = participant_json(a, &a->participants[i], &p);
        json_array_append_new(list, p);
    }
    json_object_set_new(o, "verdicts", verdicts(a));
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
