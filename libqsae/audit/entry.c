/* SPDX-License-Identifier: BSD-2-Clause */
/* An entry of the result document: the reference or a condition. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit/llama.h"
#include "audit/uncertainty.h"
#include "audit/verdicts.h"
#include "audit/worst.h"

/* jansson refuses NaN and infinity: both are "not defined" here. */
json_t *qsae__number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

json_t *qsae__interval_json(double low, double high)
{
    return isfinite(low) && isfinite(high) ? json_pack("[f,f]", low, high) : json_null();
}

double qsae__value(qsae_metric *m, const char *name)
{
    double v = NAN;
    const int32_t st = m ? qsae_metric_get(m, name, &v) : QSAE_OK;
    if (st == QSAE_ENOMEM)
        qsae__json_lose();
    return st == QSAE_OK ? v : NAN;
}

/* Counts are whole numbers in the document. */
static json_t *value_json(const qsae_value *v)
{
    const bool count = strcmp(v->unit, "tokens") == 0 || strcmp(v->unit, "features") == 0 ||
                       strcmp(v->unit, "count") == 0 || strcmp(v->unit, "documents") == 0;
    return count && isfinite(v->value) && v->value == floor(v->value) && fabs(v->value) < 9e15
               ? json_integer((json_int_t)v->value)
               : qsae__number(v->value);
}

/* One result as it stands in the document; null for a name the metric does not have. */
json_t *qsae__named(qsae_metric *m, const char *name)
{
    for (int32_t i = 0; m && i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        const int32_t st = qsae_metric_value(m, i, &v);
        if (st == QSAE_ENOMEM)
            qsae__json_lose();
        if (st == QSAE_OK && strcmp(v.name, name) == 0)
            return value_json(&v);
    }
    return json_null();
}

/*
 * All results of a metric into `to`, as null if they are not defined, with their intervals;
 * "mask/name" goes to masks.mask.name. Keys that are there already stay.
 */
static int32_t add_metric(json_t *to, qsae_metric *m, bool defined)
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
            json_object_set_new(object, key, defined ? value_json(&v) : json_null());
    }
    return defined ? qsae__metric_bounds_json(to, m) : QSAE_OK;
}

static const char *verdict(double low, double high)
{
    if (!isfinite(low) || !isfinite(high))
        return NULL;
    return low >= 1 ? "informative" : high < 0.1 ? "uninformative" : "interpret with care";
}

void qsae__set_verdict(json_t *object, double low, double high)
{
    const char *text = verdict(low, high);
    json_object_set_new(object, "verdict", text ? json_string(text) : json_null());
}

json_t *qsae__sae_head(const struct audit_sae *s)
{
    const char *slash = strrchr(s->name, '/');
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(slash && slash[1] ? slash + 1 : s->name));
    json_object_set_new(o, "layer", json_integer(s->layer));
    json_object_set_new(o, "site", json_string(qsae_site_name(s->site)));
    return o;
}

json_t *qsae__noise_head(qsae_metric *drift)
{
    json_t *o = json_object();
    const double ratio = qsae__value(drift, "ratio");
    json_object_set_new(o, "p", qsae__number(qsae__value(drift, "P")));
    json_object_set_new(o, "r", qsae__number(qsae__value(drift, "R_q")));
    json_object_set_new(o, "ratio", qsae__number(ratio));
    qsae__set_verdict(o, ratio, ratio);
    return o;
}

/* One SAE on a condition against the reference: drift and survival. */
static int32_t add_pair(qsae_audit *a, struct participant *p, int64_t i, json_t *o)
{
    const bool defined = qsae__participant_features(p);
    struct audit_features *const f = &p->saes[i];
    json_t *noise = qsae__noise_head(f->drift), *survival = json_object();
    json_object_set_new(o, "noise", noise);
    json_object_set_new(o, "survival", survival);
    for (const char *const *k = (const char *const[]){ "fvu_dim", "fvu_scalar", "mse", "l0", NULL };
         *k; k++) {
        char key[32];
        const double r = qsae__value(a->participants[0].saes[i].reconstruction, *k);
        snprintf(key, sizeof key, "d%s", *k);
        json_object_set_new(
            o, key, defined ? qsae__number(qsae__value(f->reconstruction, *k) - r) : json_null());
    }
    int32_t st = add_metric(noise, f->drift, defined);
    qsae__set_reason_json(noise, f->drift);
    qsae__alias_bounds_json(noise, "P", "p");
    qsae__alias_bounds_json(noise, "R_q", "r");
    if (st == QSAE_OK)
        st = add_metric(survival, f->survival, defined);
    qsae__survival_reason_json(survival, f->reconstruction);
    if (st == QSAE_OK && defined)
        st = qsae__changes_json(o, a->participants[0].saes[i].reconstruction, f->reconstruction);
    json_t *metrics = NULL;
    if (st == QSAE_OK)
        st = qsae__survival_json(a, p, i, survival);
    if (st == QSAE_OK)
        st = qsae__feature_metrics_json(a, p, i, &metrics);
    if (metrics)
        json_object_set_new(o, "feature_metrics", metrics);
    if (st == QSAE_OK)
        json_object_set_new(o, "verdict", qsae__sae_verdict_json(a, p, i));
    return st;
}

static int32_t add_saes(qsae_audit *a, struct participant *p, json_t *to)
{
    const bool defined = qsae__participant_features(p);
    json_t *list = json_array();
    int32_t st = QSAE_OK;
    json_object_set_new(to, "saes", list);
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++) {
        json_t *o = qsae__sae_head(&a->saes[i]);
        json_array_append_new(list, o);
        qsae__places_json(&a->saes[i], o);
        json_object_set_new(o, "architecture", json_string(a->saes[i].info.architecture));
        json_object_set_new(o, "features", json_integer(a->saes[i].info.features));
        json_object_set_new(o, "hash", json_string(a->saes[i].info.hash));
        json_object_set_new(o, "reason",
                            defined ? json_null() : json_string(p->checkpoint->reason));
        st = add_metric(o, p->saes[i].reconstruction, defined);
        qsae__set_reason_json(o, p->saes[i].reconstruction);
        json_t *splice = json_null();
        if (st == QSAE_OK && defined && !a->saes[i].of)
            st = qsae__splice_json(&p->saes[i], &splice);
        json_object_set_new(o, "splice", splice);
        if (st == QSAE_OK && p->saes[i].drift)
            st = add_pair(a, p, i, o);
    }
    json_t *const sets = json_array();
    json_object_set_new(to, "sae_layers", sets);
    for (int64_t i = 0; i < a->n_sets && st == QSAE_OK; i++) {
        json_t *set = NULL;
        st = qsae__layers_json(a, p, &a->sets[i], &set);
        json_array_append_new(sets, set);
    }
    return st;
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

/* What LLM.int8 met in each linear layer; share: of its inputs, mean over the calls. */
static json_t *layers_json(const struct participant *p)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < p->n_outliers && p->model; i++) {
        const qsae__outliers *const o = &p->outliers[i];
        char name[160];
        if (!o->calls)
            continue;
        qsae__model_linear_name(p->model, i, name, sizeof name);
        const double inputs = (double)qsae__model_linear_inputs(p->model, i);
        json_array_append_new(
            list, json_pack("{s:s,s:I,s:I,s:I,s:f}", "name", name, "calls", (json_int_t)o->calls,
                            "calls_with_outliers", (json_int_t)o->with_outliers, "outlier_columns",
                            (json_int_t)o->columns, "outlier_share",
                            (double)o->columns / (double)o->calls / inputs));
    }
    return list;
}

/* Share of weights that the condition sets to zero where it prunes; null if it does not. */
static json_t *sparsity_json(const qsae_audit *a, const struct participant *p)
{
    qsae__condition c;
    double share = NAN;
    if (!p->cost.condition || p->checkpoint ||
        qsae__condition_parse(a->ctx, p->cost.condition, &c) != QSAE_OK)
        return json_null();
    if (c.prune.kind == QSAE__PRUNE_PATTERN)
        share = 1 - (double)c.prune.keep / (double)c.prune.of;
    else if (c.prune.kind != QSAE__PRUNE_NONE)
        share = c.prune.sparsity;
    qsae__condition_free(a->ctx, &c);
    return qsae__number(share);
}

static int32_t checkpoint_json(const struct participant *p, json_t **out)
{
    const struct audit_checkpoint *const c = p->checkpoint;
    qsae_model_info q = { .struct_size = sizeof q };
    *out = json_null();
    if (!c)
        return QSAE_OK;
    const int32_t st = qsae_weights_get_info(p->weights, &q);
    if (st != QSAE_OK)
        return st;
    json_t *const o = *out = json_object();
    json_object_set_new(o, "path", json_string(p->label));
    json_object_set_new(o, "type", json_string(q.type));
    json_object_set_new(o, "storage", json_string(*q.storage ? q.storage : "plain"));
    const char *const process = qsae_weights_processing(p->weights);
    json_object_set_new(o, "process", json_string(*process ? process : "none"));
    json_object_set_new(o, "hash", json_string(q.hash));
    json_object_set_new(o, "layers", json_integer(q.layers));
    json_object_set_new(o, "width", json_integer(q.width));
    json_object_set_new(o, "vocab", json_integer(q.vocab));
    json_object_set_new(o, "tokenizer", json_string(c->tokenizer));
    json_object_set_new(o, "tokenizer_note", *c->note ? json_string(c->note) : json_null());
    json_object_set(o, "differences", c->differences);
    json_object_set_new(o, "sae_reason", c->reason ? json_string(c->reason) : json_null());
    json_object_set_new(o, "kl_reason", c->no_kl ? json_string(c->no_kl) : json_null());
    return QSAE_OK;
}

static void add_cost(const qsae_audit *a, const struct participant *p, json_t *o)
{
    const qsae_model_cost *const c = &p->cost;
    json_object_set_new(o, "label", json_string(p->label));
    json_object_set_new(o, "weight_bytes", json_integer((json_int_t)c->weight_bytes));
    json_object_set_new(o, "quantized_bytes", json_integer((json_int_t)c->quantized_bytes));
    json_object_set_new(o, "quantized_weights", json_integer(c->quantized_weights));
    json_object_set_new(o, "quantized_tensors", json_integer(c->quantized_tensors));
    json_object_set_new(o, "bits_per_weight", qsae__number(c->bits_per_weight));
    json_object_set_new(o, "sparsity", sparsity_json(a, p));
    json_object_set_new(o, "kv_bits_per_value", qsae__number(c->kv_bits_per_value));
    json_object_set_new(o, "compute",
                        json_string(c->compute == QSAE_COMPUTE_BF16 ? "bf16" : "f32"));
    json_object_set_new(o, "batch_dependent", json_boolean(c->batch_dependent));
    json_object_set_new(o, "outliers", outliers_json(a, p));
    json_object_set_new(o, "layers", layers_json(p));
    json_object_set_new(o, "match", qsae__match_json(p));
    json_object_set_new(o, "peak_rss_bytes",
                        p->peak_rss ? json_integer((json_int_t)p->peak_rss) : json_null());
    json_object_set_new(o, "tokens_per_second",
                        qsae__number(p->seconds > 0 ? (double)a->tokens_done / p->seconds : NAN));
}

/*
 * Perplexity per byte and per word of the scored text, exp(sum nll / count), and its bits per byte:
 * lm-evaluation-harness' byte_perplexity, word_perplexity and bits_per_byte, which do not depend on
 * the tokenizer. Null where a token has no finite nll, or ids no text.
 */
static void add_text_perplexity(const qsae_audit *a, const struct participant *p, json_t *o)
{
    const double sum = qsae__value(p->cross_entropy, "nll_sum"),
                 predicted = qsae__value(p->cross_entropy, "predicted");
    int64_t tokens, bytes, words;
    double per_byte = NAN, per_word = NAN;
    if (qsae__covered_scored(a, p, &tokens, &bytes, &words) &&
        predicted == (double)tokens && tokens > 0) {
        per_byte = bytes > 0 ? sum / (double)bytes : NAN;
        per_word = words > 0 ? sum / (double)words : NAN;
    }
    json_object_set_new(o, "byte_ppl", qsae__number(exp(per_byte)));
    json_object_set_new(o, "word_ppl", qsae__number(exp(per_word)));
    json_object_set_new(o, "bits_per_byte", qsae__number(per_byte / log(2)));
}

int32_t qsae__entry_json(qsae_audit *a, struct participant *p, json_t **out)
{
    json_t *o = *out = json_object(), *checkpoint;
    add_cost(a, p, o);
    int32_t st = checkpoint_json(p, &checkpoint);
    json_object_set_new(o, "checkpoint", checkpoint);
    if (st == QSAE_OK)
        st = add_metric(o, p->cross_entropy, true);
    add_text_perplexity(a, p, o);
    if (st == QSAE_OK && p->divergence) {
        json_object_set_new(o, "top1_agreement",
                            qsae__number(qsae__value(p->divergence, "same_top")));
        st = add_metric(o, p->divergence, true);
        if (st == QSAE_OK)
            st = qsae__worst_json(a, p, o);
    }
    json_object_set_new(o, "llama_cpp", qsae__llama_json(a, p));
    qsae__set_reason_json(o, p->cross_entropy);
    if (st == QSAE_OK)
        st = add_saes(a, p, o);
    if (p->divergence)
        qsae__set_condition_verdict(o);
    return st;
}
