/* SPDX-License-Identifier: BSD-2-Clause */
/* One line of JSON per feature of an SAE: how it fires in the reference, where most, and what each
 * condition did to it. See doc/result.md. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/worst.h"
#include "core/inner.h"
#include "text/utf8.h"

#define BEFORE 16 /* tokens of context */
#define AFTER 8

/* Per-feature figures of a metric, [n] each, in the order of `names`. */
enum { F_R, F_GAIN, F_COSINE, F_FIRE_R, F_FIRE_Q, F_COFIRE, F_MEAN_R, F_MEAN_Q, F_MAX_R, F_MAX_Q,
       F_PROMPTS_R, F_PROMPTS_Q, F_JACCARD, F_PRECISION, F_RECALL, F_R_ON, F_ERROR, F_MEAN_RATIO,
       F_DELTA2, F_TOP, F_LOW, F_HIGH, F_COUNT };
static const char *const names[F_COUNT] = { "r",      "gain",   "cosine", "fire_r", "fire_q",
                                            "cofire", "mean_r", "mean_q", "max_r",  "max_q",
                                            "prompts_r", "prompts_q", "cofire_jaccard",
                                            "precision", "recall", "r_on", "relative_error",
                                            "mean_ratio", "sum_delta2", "top_overlap", "r_low",
                                            "r_high" };

struct figures {
    double *of[F_COUNT];
    double tokens;
};

static void figures_free(qsae_audit *a, struct figures *f)
{
    for (int i = 0; i < F_COUNT; i++)
        qsae__free(a->ctx, f->of[i]);
}

/* What a metric that keeps fewer largest activations does not have. */
static bool kept(const qsae_audit *a, int i)
{
    return i != F_TOP || a->top >= 20;
}

static int32_t figures_read(qsae_audit *a, qsae_metric *m, int64_t n, struct figures *f)
{
    int32_t st = qsae_metric_get(m, "tokens", &f->tokens);
    for (int i = 0; i < F_COUNT && st == QSAE_OK; i++) {
        if (!kept(a, i))
            continue;
        f->of[i] = qsae__alloc_array(a->ctx, n, sizeof *f->of[i]);
        st = f->of[i] ? qsae_metric_features(m, names[i], f->of[i], n) : QSAE_ENOMEM;
    }
    return st;
}

json_t *qsae__text_json(qsae_audit *a, const int32_t *ids, int64_t n)
{
    qsae__strbuf raw, clean;
    qsae__strbuf_init(&raw, a->ctx);
    qsae__strbuf_init(&clean, a->ctx);
    for (int64_t i = 0; i < n; i++) {
        const char *bytes;
        size_t size;
        if (qsae_tokenizer_token(a->tokenizer, ids[i], &bytes, &size) == QSAE_OK)
            qsae__strbuf_add(&raw, bytes, size);
    }
    for (size_t at = 0; raw.status == QSAE_OK && at < (size_t)raw.size;) {
        size_t bad = 0;
        const size_t left = (size_t)raw.size - at;
        const bool ok = qsae__utf8_check(raw.data + at, left, &bad);
        qsae__strbuf_add(&clean, raw.data + at, ok ? left : bad);
        if (!ok)
            qsae__strbuf_add(&clean, "\xEF\xBF\xBD", 3);
        at += ok ? left : bad + 1;
    }
    json_t *const out = raw.status == QSAE_OK && clean.status == QSAE_OK
                            ? json_stringn(clean.data ? clean.data : "", (size_t)clean.size)
                            : NULL;
    if (!out)
        qsae__json_lose();
    qsae__strbuf_free(&raw);
    qsae__strbuf_free(&clean);
    return out ? out : json_null();
}

/* A token of the stream with its neighbours in the chunk. */
static json_t *context_json(qsae_audit *a, int64_t token, double value)
{
    const int32_t *ids, *labels;
    const int64_t *document;
    int64_t n;
    const int64_t chunk = token / a->corpus_info.context, at = token % a->corpus_info.context;
    json_t *const o = json_object();
    json_object_set_new(o, "value", qsae__number(value));
    if (qsae_corpus_chunk(a->corpus, chunk, &ids, &labels, &document, &n) != QSAE_OK || at >= n)
        return o;
    const int64_t from = qsae__max_i64(0, at - BEFORE), to = qsae__min_i64(n, at + 1 + AFTER);
    json_object_set_new(o, "document", json_integer(document[at]));
    json_object_set_new(o, "chunk", json_integer(chunk));
    json_object_set_new(o, "position", json_integer(at));
    json_object_set_new(o, "id", json_integer(ids[at]));
    json_object_set_new(o, "before", qsae__text_json(a, ids + from, at - from));
    json_object_set_new(o, "token", qsae__text_json(a, ids + at, 1));
    json_object_set_new(o, "after", qsae__text_json(a, ids + at + 1, to - at - 1));
    return o;
}

static int32_t top_json(qsae_audit *a, const qsae_metric *m, int64_t feature, int32_t side,
                        int64_t *tokens, double *values, json_t **out)
{
    int64_t n;
    *out = json_array();
    const int32_t st = qsae_metric_top(m, feature, side, tokens, values, a->top, &n);
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        json_array_append_new(*out, context_json(a, tokens[i], values[i]));
    return st;
}

static void set(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, v == floor(v) && fabs(v) < 9e15 && strncmp(key, "fire", 4) == 0
                                    ? json_integer((json_int_t)v)
                                    : qsae__number(v));
}

/* active: firing in the reference on more than 0.1% of tokens (methods.md 3.4). */
static const char *band(const struct figures *f, int64_t i)
{
    if (!(f->of[F_FIRE_R][i] / f->tokens > 0.001))
        return "inactive";
    return f->of[F_R][i] > 0.9 ? "survived" : f->of[F_R][i] < 0.5 ? "damaged" : "degraded";
}

/* norm: |W_dec,i|. */
static json_t *condition_json(const struct participant *p, const struct figures *f, int64_t i,
                              double norm)
{
    const bool fires_r = f->of[F_FIRE_R][i] > 0, fires_q = f->of[F_FIRE_Q][i] > 0;
    json_t *const o = json_object();
    json_object_set_new(o, "label", json_string(p->label));
    json_object_set_new(o, "band", json_string(band(f, i)));
    set(o, "r", f->of[F_R][i]);
    json_object_set_new(o, "r_interval",
                        qsae__interval_json(f->of[F_LOW][i], f->of[F_HIGH][i]));
    set(o, "gain", f->of[F_GAIN][i]);
    set(o, "cosine", f->of[F_COSINE][i]);
    set(o, "fires", f->of[F_FIRE_Q][i]);
    set(o, "fires_in_both", f->of[F_COFIRE][i]);
    set(o, "density", f->of[F_FIRE_Q][i] / f->tokens);
    set(o, "density_ratio", f->of[F_FIRE_Q][i] / f->of[F_FIRE_R][i]);
    set(o, "mean", f->of[F_MEAN_Q][i]);
    set(o, "max", f->of[F_MAX_Q][i]);
    set(o, "fires_in_windows", f->of[F_PROMPTS_Q][i]);
    set(o, "consistent_activation", f->of[F_FIRE_Q][i] / f->of[F_PROMPTS_Q][i]);
    json_object_set_new(o, "newly", fires_r == fires_q ? json_null()
                                                       : json_string(fires_r ? "dead" : "alive"));
    set(o, "cofire_jaccard", f->of[F_JACCARD][i]);
    set(o, "precision", f->of[F_PRECISION][i]);
    set(o, "recall", f->of[F_RECALL][i]);
    set(o, "r_on", f->of[F_R_ON][i]);
    set(o, "relative_error", f->of[F_ERROR][i]);
    set(o, "mean_ratio", f->of[F_MEAN_RATIO][i]);
    set(o, "energy", norm * norm * f->of[F_DELTA2][i]);
    set(o, "top_overlap", f->of[F_TOP] ? f->of[F_TOP][i] : NAN);
    return o;
}

/* Of the weights: names in a line and in qsae_sae_features. */
static const char *const weight_names[] = { "encoder_norm", "encoder_bias", "decoder_norm",
                                            "encoder_decoder_cosine" };
enum { W_DECODER_NORM = 2, N_WEIGHT_NAMES = sizeof weight_names / sizeof weight_names[0] };

/* Everything a line is made of. */
struct export {
    int64_t sae;
    double *weights[N_WEIGHT_NAMES]; /* [features] each */
    struct figures *figures;      /* [n_participants] */
    int64_t *tokens;              /* [top] */
    double *values;
};

/* What follows the site's address: model/layer-source/index. */
static json_t *neuronpedia_json(const struct audit_sae *sae, int64_t i)
{
    const char *const id = sae->info.neuronpedia_id;
    json_t *const out = *id ? json_sprintf("%s/%lld", id, (long long)i) : NULL;
    return out ? out : json_null();
}

static int32_t feature_json(qsae_audit *a, struct export *e, int64_t i, json_t **out)
{
    const struct audit_sae *const sae = &a->saes[e->sae];
    const struct figures *const f = &e->figures[0];
    json_t *const o = *out = json_object(), *const list = json_array(), *top;
    json_t *const head = qsae__sae_head(sae);
    json_object_set_new(o, "feature", json_integer(i));
    json_object_update(o, head);
    json_decref(head);
    set(o, "fires", f->of[F_FIRE_R][i]);
    set(o, "density", f->of[F_FIRE_R][i] / f->tokens);
    set(o, "mean", f->of[F_MEAN_R][i]);
    set(o, "max", f->of[F_MAX_R][i]);
    set(o, "fires_in_windows", f->of[F_PROMPTS_R][i]);
    set(o, "consistent_activation", f->of[F_FIRE_R][i] / f->of[F_PROMPTS_R][i]);
    for (int k = 0; k < N_WEIGHT_NAMES; k++)
        set(o, weight_names[k], e->weights[k][i]);
    json_object_set_new(o, "neuronpedia", neuronpedia_json(sae, i));
    int32_t st = top_json(a, a->participants[0].saes[e->sae].survival, i, 0, e->tokens, e->values,
                          &top);
    json_object_set_new(o, "top", top);
    json_object_set_new(o, "conditions", list);
    for (int64_t p = 1; p < a->n_participants && st == QSAE_OK; p++) {
        struct participant *const who = &a->participants[p];
        if (!qsae__participant_features(who))
            continue;
        json_t *const c = condition_json(who, &e->figures[p], i,
                                         e->weights[W_DECODER_NORM][i]);
        json_array_append_new(list, c);
        st = top_json(a, who->saes[e->sae].survival, i, 1, e->tokens, e->values, &top);
        json_object_set_new(c, "top", top);
    }
    return st;
}

static int32_t weights_read(qsae_audit *a, struct export *e)
{
    const struct audit_sae *const sae = &a->saes[e->sae];
    const int64_t n = sae->info.features;
    int32_t st = QSAE_OK;
    for (int k = 0; k < N_WEIGHT_NAMES && st == QSAE_OK; k++) {
        e->weights[k] = qsae__alloc_array(a->ctx, n, sizeof *e->weights[k]);
        st = e->weights[k] ? qsae__sae_figures(sae, weight_names[k], e->weights[k]) : QSAE_ENOMEM;
    }
    return st;
}

static int32_t write_lines(qsae_audit *a, struct export *e, qsae_line_callback line, void *cookie)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < a->saes[e->sae].info.features && st == QSAE_OK; i++) {
        json_t *o = NULL;
        qsae__json_begin();
        st = qsae__json_status(feature_json(a, e, i, &o));
        char *const text = st == QSAE_OK
                               ? qsae__json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
        json_decref(o);
        if (st == QSAE_OK)
            st = text ? line(cookie, text, strlen(text))
                      : qsae__fail(QSAE_ENOMEM, "out of memory: a feature");
        free(text);
    }
    return st;
}

static int32_t features(qsae_audit *a, int64_t sae, qsae_line_callback line, void *cookie)
{
    QSAE__FPENV;
    if (!line)
        return qsae__fail(QSAE_EINVAL, "qsae_audit_features: line must not be NULL");
    if (sae < 0 || sae >= a->n_saes)
        return qsae__fail(QSAE_EINVAL, "qsae_audit_features: SAE %lld: expected 0..%lld",
                          (long long)sae, (long long)a->n_saes - 1);
    if (a->top == 0)
        return qsae__fail(QSAE_EINVAL, "qsae_audit_features: the audit keeps no contexts; set "
                          "qsae_audit_settings.top_contexts");
    if (qsae__whole(a) != QSAE_OK)
        return QSAE_ESTATE;
    struct export e = { .sae = sae };
    e.figures = qsae__calloc(a->ctx, a->n_participants, sizeof *e.figures);
    e.tokens = qsae__alloc_array(a->ctx, a->top, sizeof *e.tokens);
    e.values = qsae__alloc_array(a->ctx, a->top, sizeof *e.values);
    int32_t st = e.figures && e.tokens && e.values ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t p = 0; p < a->n_participants && st == QSAE_OK; p++)
        if (qsae__participant_features(&a->participants[p]))
            st = figures_read(a, a->participants[p].saes[sae].survival,
                              a->saes[sae].info.features, &e.figures[p]);
    if (st == QSAE_OK)
        st = weights_read(a, &e);
    if (st == QSAE_OK)
        st = write_lines(a, &e, line, cookie);
    for (int k = 0; k < N_WEIGHT_NAMES; k++)
        qsae__free(a->ctx, e.weights[k]);
    for (int64_t p = 0; e.figures && p < a->n_participants; p++)
        figures_free(a, &e.figures[p]);
    void *const blocks[] = { e.figures, e.tokens, e.values };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
    return st;
}

int32_t qsae_audit_features(qsae_audit *audit, int64_t sae, qsae_line_callback line, void *cookie)
{
    if (qsae__need(audit, "audit"))
        return QSAE_EINVAL;
    if (qsae__begin_call(audit, "qsae_audit_features") != QSAE_OK)
        return QSAE_EBUSY;
    qsae__inner_begin();
    const int32_t st = features(audit, sae, line, cookie);
    qsae__inner_end();
    qsae__end_call(audit);
    return st;
}
