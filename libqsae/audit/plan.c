/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit/audit.h"

#include <stdlib.h>
#include <string.h>

static const char *const article_conditions[] = { "llm.int8:threshold=6", "nf4:block=64,double=1",
                                                  NULL };

/* methods.md 2 (article), 3 (paper), 11 (default). */
static const struct qsae__profile profiles[] = {
    { .name = "default",
      .id = QSAE_PROFILE_DEFAULT,
      .compute = QSAE_COMPUTE_F32,
      .bos_policy = QSAE_BOS_DEFAULT,
      .context = 512,
      .batch = 4,
      .exclude_first = true,
      .fvu = "fvu_dim",
      .budgets = { 5000, 20000, 50000, 100000, 200000, 500000 },
      .headline = 200000 },
    { .name = "article",
      .id = QSAE_PROFILE_ARTICLE,
      .compute = QSAE_COMPUTE_BF16,
      .bos_policy = QSAE_BOS_DOC_START,
      .context = 512,
      .batch = 4,
      .fvu = "fvu_scalar",
      .budgets = { 5000, 20000, 50000, 100000, 200000, 500000 },
      .headline = 200000,
      .max_tokens = 500000,
      .conditions = article_conditions },
    { .name = "paper",
      .id = QSAE_PROFILE_PAPER,
      .compute = QSAE_COMPUTE_F32,
      .bos_policy = QSAE_BOS_NONE,
      .context = 512,
      .batch = 4,
      .fvu = "fvu_dim",
      .budgets = { 50000, 100000, 200000 },
      .headline = 100000 },
};

const struct qsae__profile *qsae__profile_get(int32_t id)
{
    for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++)
        if (profiles[i].id == id)
            return &profiles[i];
    return NULL;
}

static int32_t check(const qsae_audit_settings *s)
{
    if (!s->model || !s->text)
        return qsae__fail(QSAE_EINVAL, "audit: %s is missing", s->model ? "text" : "model");
    if (s->n_conditions < 0 || s->n_saes < 0 || (s->n_conditions && !s->conditions) ||
        (s->n_saes && !s->saes))
        return qsae__fail(QSAE_EINVAL, "audit: %lld conditions, %lld SAEs, or their array is NULL",
                          (long long)s->n_conditions, (long long)s->n_saes);
    if (s->n_conditions > 4096 || s->n_saes > 4096)
        return qsae__fail(QSAE_EINVAL, "audit: at most 4096 conditions and 4096 SAEs");
    for (int64_t i = 0; i < s->n_conditions; i++)
        if (!s->conditions[i])
            return qsae__fail(QSAE_EINVAL, "audit: conditions[%lld] is NULL", (long long)i);
    for (int64_t i = 0; i < s->n_saes; i++)
        if (!s->saes[i])
            return qsae__fail(QSAE_EINVAL, "audit: saes[%lld] is NULL", (long long)i);
    if (!qsae__profile_get(s->profile))
        return qsae__fail(QSAE_EINVAL, "audit: profile: expected 0..2, found %d", (int)s->profile);
    if (s->compute < 0 || s->compute > QSAE_COMPUTE_BF16)
        return qsae__fail(QSAE_EINVAL, "audit: compute: expected 0..2, found %d", (int)s->compute);
    if (s->sweep < 0 || s->sweep > QSAE_SWEEP_KINDS)
        return qsae__fail(QSAE_EINVAL, "audit: sweep: expected 0..3, found %d", (int)s->sweep);
    if (s->memory < 0 || s->memory > QSAE_MEMORY_STREAMED)
        return qsae__fail(QSAE_EINVAL, "audit: memory: expected 0..2, found %d", (int)s->memory);
    if (s->stream_bytes < 0)
        return qsae__fail(QSAE_EINVAL, "audit: stream_bytes: expected at least 0, found %lld",
                          (long long)s->stream_bytes);
    if (s->batch < 0 || s->batch > 1 << 20)
        return qsae__fail(QSAE_EINVAL, "audit: batch: expected 0..1048576, found %lld",
                          (long long)s->batch);
    return QSAE_OK;
}

/* FOLDER[@LAYER[:SITE]]; an @ that no number follows belongs to the folder's name. */
static int32_t split_sae(qsae_audit *a, const char *text, struct audit_sae *out)
{
    const char *at = strrchr(text, '@');
    char *end = NULL;
    const long layer = at ? strtol(at + 1, &end, 10) : 0;
    const bool given = at && end > at + 1 && (*end == 0 || *end == ':') && layer >= 0;
    out->layer = -1;
    out->site = QSAE_SITE_RESID_POST;
    if (given) {
        out->layer = layer > INT32_MAX ? INT32_MAX : (int32_t)layer;
        if (*end == ':' && !(out->site = qsae_site_from_name(end + 1, NULL)))
            return qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: site %s; expected resid_post", text,
                              end + 1);
    }
    out->name =
        given ? qsae__strndup(a->ctx, text, (size_t)(at - text)) : qsae__strdup(a->ctx, text);
    return out->name ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t open_sae(qsae_audit *a, const char *text, struct audit_sae *out)
{
    int32_t st = split_sae(a, text, out);
    if (st != QSAE_OK || (st = qsae_sae_open(a->ctx, out->name, NULL, &out->sae)) != QSAE_OK)
        return st;
    out->info.struct_size = sizeof out->info;
    if ((st = qsae_sae_get_info(out->sae, &out->info)) != QSAE_OK)
        return st;
    int32_t layer = -1;
    if (out->layer < 0) {
        const int32_t site = qsae_site_from_name(out->info.hook, &layer);
        if (!*out->info.hook)
            return qsae__fail(QSAE_EINVAL, "SAE %s: its files name no hook; give %s@LAYER", text,
                              text);
        if (!site)
            return qsae__fail(QSAE_EUNSUPPORTED,
                              "SAE %s: hook \"%s\" is not available; only resid_post is, or give "
                              "%s@LAYER:resid_post", text, out->info.hook, text);
        out->site = site;
        out->layer = layer;
    }
    qsae_model_info m = { .struct_size = offsetof(qsae_model_info, hash) };
    if ((st = qsae_model_get_info(a->participants[0].model, &m)) != QSAE_OK)
        return st;
    if (out->layer < 0 || out->layer >= m.layers)
        return qsae__fail(QSAE_EMISMATCH, "SAE %s: layer %d, the model has layers 0..%lld", text,
                          (int)out->layer, (long long)m.layers - 1);
    if (out->info.width != m.width || out->info.width_out != m.width)
        return qsae__fail(QSAE_EMISMATCH, "SAE %s: width %lld to %lld, the model has %lld", text,
                          (long long)out->info.width, (long long)out->info.width_out,
                          (long long)m.width);
    return QSAE_OK;
}

/*
 * Rows and values a metric keeps for medians and quantiles; exact for tens of thousands of tokens
 * of a small model, a sample beyond. Many conditions and SAEs must fit beside the weights: all of
 * them together keep at most TOTAL_MEMORY, but LEAST_MEMORY each.
 */
#define METRIC_MEMORY ((int64_t)64 << 20)
#define TOTAL_MEMORY ((int64_t)2 << 30)
#define LEAST_MEMORY ((int64_t)1 << 20)

static uint64_t metric_memory(const qsae_audit *a)
{
    const int64_t metrics = a->n_participants * (2 + 2 * a->n_saes);
    return (uint64_t)qsae__min_i64(METRIC_MEMORY,
                                   qsae__max_i64(LEAST_MEMORY, TOTAL_MEMORY / metrics));
}

static int32_t open_metrics(qsae_audit *a, struct participant *p)
{
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = a->batch * a->corpus_info.context;
    s.fingerprint = a->fingerprint;
    s.memory = metric_memory(a);
    const bool first = p == a->participants;
    int32_t st = qsae_metric_open_cross_entropy(a->ctx, &s, &p->cross_entropy);
    if (st == QSAE_OK && !first)
        st = qsae_metric_open_divergence(a->ctx, &s, &p->divergence);
    p->saes = qsae__calloc(a->ctx, a->n_saes, sizeof *p->saes);
    if (!p->saes)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++) {
        const qsae_sae_info *info = &a->saes[i].info;
        struct audit_features *f = &p->saes[i];
        st = qsae_metric_open_reconstruction(a->ctx, info->width, info->features, &s,
                                             &f->reconstruction);
        if (st == QSAE_OK && !first)
            st = qsae_metric_open_drift(a->ctx, info->width, &s, &f->drift);
        if (st == QSAE_OK && !first)
            st = qsae_metric_open_features(a->ctx, info->features, &s, &f->survival);
    }
    return st;
}

/* Everything that must be equal for two results to be about the same thing. */
static int32_t fingerprint(qsae_audit *a, const qsae_audit_settings *s)
{
    qsae__hasher *h;
    int32_t st = qsae__hasher_open(a->ctx, &h);
    if (st != QSAE_OK)
        return st;
    qsae__hasher_string(h, "qsae-audit-1");
    qsae__hasher_string(h, a->profile->name);
    qsae__hasher_string(h, a->corpus_info.token_hash);
    qsae__hasher_i64(h, a->corpus_info.documents); /* intervals are over them */
    qsae__hasher_i64(h, a->corpus_info.context);
    qsae__hasher_i64(h, a->batch);
    qsae__hasher_i64(h, a->corpus_info.bos_policy);
    qsae__hasher_i64(h, s->attention);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        const struct participant *p = &a->participants[i];
        qsae_model_info info = { .struct_size = sizeof info };
        qsae__hasher_string(h, p->match ? p->match->request.canonical : p->cost.condition);
        qsae__hasher_i64(h, p->match ? a->compute : p->cost.compute);
        if (p->weights && (st = qsae_weights_get_info(p->weights, &info)) == QSAE_OK)
            qsae__hasher_string(h, info.hash);
    }
    for (int64_t i = 0; i < a->n_saes; i++) {
        qsae__hasher_string(h, a->saes[i].info.hash);
        qsae__hasher_i64(h, a->saes[i].layer);
        qsae__hasher_i64(h, a->saes[i].site);
    }
    qsae__hasher_hex(h, a->fingerprint);
    qsae__hasher_close(a->ctx, &h);
    return st;
}

static int32_t open_text(qsae_audit *a, const qsae_audit_settings *s)
{
    qsae_corpus_settings c;
    qsae_corpus_settings_init(&c, sizeof c);
    c.text_field = s->text_field;
    c.context = s->context ? s->context : a->profile->context;
    c.max_tokens = s->max_tokens ? s->max_tokens : a->profile->max_tokens;
    c.bos_policy = s->bos_policy ? s->bos_policy : a->profile->bos_policy;
    c.keep_tail = s->keep_tail;
    c.cross_labels = s->cross_labels;
    c.stride = s->stride;
    c.score_from = s->score_from;
    c.order = s->order;
    c.shuffle = s->shuffle;
    c.progress = s->progress;
    c.progress_cookie = s->progress_cookie;
    c.cancel = s->cancel;
    int32_t st = qsae_tokenizer_open(a->ctx, s->model, &a->tokenizer);
    if (st != QSAE_OK ||
        (st = qsae_corpus_open(a->ctx, a->tokenizer, s->text, &c, &a->corpus)) != 0)
        return st;
    a->corpus_info.struct_size = sizeof a->corpus_info;
    return qsae_corpus_get_info(a->corpus, &a->corpus_info);
}

static void warn_bos(qsae_audit *a)
{
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    if (a->corpus_info.bos_policy == QSAE_BOS_NONE &&
        qsae_tokenizer_get_info(a->tokenizer, &info) == QSAE_OK && info.adds_bos)
        qsae__log(
            a->ctx, QSAE_LOG_WARNING,
            "the tokenizer of this model adds BOS, but the text is scored without it: expect a "
            "model far off its training distribution");
}

int32_t qsae__plan_open(qsae_audit *a, const qsae_audit_settings *s)
{
    int32_t st = check(s);
    if (st != QSAE_OK)
        return st;
    a->profile = qsae__profile_get(s->profile);
    a->batch = s->batch ? s->batch : a->profile->batch;
    a->compute = s->compute ? s->compute : a->profile->compute;
    a->attention = s->attention;
    a->sweep = s->sweep;
    a->stream_bytes = s->stream_bytes;
    a->progress = s->progress;
    a->progress_cookie = s->progress_cookie;
    a->cancel = s->cancel;
    a->n_saes = s->n_saes;
    a->saes = qsae__calloc(a->ctx, s->n_saes, sizeof *a->saes);
    a->snapshots = json_array();
    if (!a->saes || !a->snapshots)
        return qsae__fail(QSAE_ENOMEM, "out of memory: an audit");
    if (s->state && !(a->state_path = qsae__strdup(a->ctx, s->state)))
        return QSAE_ENOMEM;
    if ((st = open_text(a, s)) != QSAE_OK || (st = qsae__participants_open(a, s)) != QSAE_OK)
        return st;
    for (int64_t i = 0; i < s->n_saes && st == QSAE_OK; i++)
        st = open_sae(a, s->saes[i], &a->saes[i]);
    if (st == QSAE_OK)
        st = fingerprint(a, s);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++)
        st = open_metrics(a, &a->participants[i]);
    if (st == QSAE_OK && a->state_path && qsae__file_exists(a->state_path))
        st = qsae__state_load(a);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++)
        if (a->participants[i].match && a->participants[i].match->done)
            st = qsae__match_open(a, &a->participants[i]);
    if (st == QSAE_OK)
        warn_bos(a);
    return st;
}
