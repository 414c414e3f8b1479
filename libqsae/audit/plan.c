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
    if (s->batch < 0 || s->batch > 1 << 20)
        return qsae__fail(QSAE_EINVAL, "audit: batch: expected 0..1048576, found %lld",
                          (long long)s->batch);
    return QSAE_OK;
}

/* The reference, or a condition on it, or another checkpoint. */
static int32_t open_participant(qsae_audit *a, struct participant *p, const char *text,
                                const qsae_audit_settings *s)
{
    const bool folder = p != a->participants && qsae__folder_exists(text);
    const bool first = p == a->participants;
    int32_t st = QSAE_OK;
    if (first || folder)
        st = qsae_weights_open(a->ctx, first ? s->model : text, &p->weights);
    if (st != QSAE_OK)
        return st;
    qsae_model_settings m;
    qsae_model_settings_init(&m, sizeof m);
    m.condition = first || folder ? NULL : text;
    m.compute = a->compute;
    m.attention = s->attention;
    m.progress = s->progress;
    m.progress_cookie = s->progress_cookie;
    m.cancel = s->cancel;
    st = qsae_model_open(p->weights ? p->weights : a->participants[0].weights, &m, &p->model);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "condition %s", text);
    p->cost.struct_size = sizeof p->cost;
    if ((st = qsae_model_get_cost(p->model, &p->cost)) != QSAE_OK)
        return st;
    p->label = qsae__strdup(a->ctx, folder ? text : p->cost.condition);
    p->n_outliers = qsae__model_linears(p->model);
    p->outliers = qsae__calloc(a->ctx, p->n_outliers, sizeof *p->outliers);
    return p->label && p->outliers ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t check_pair(qsae_audit *a, const struct participant *p)
{
    qsae_model_info r = { .struct_size = offsetof(qsae_model_info, hash) }, q = r;
    int32_t st = qsae_model_get_info(a->participants[0].model, &r);
    if (st != QSAE_OK || (st = qsae_model_get_info(p->model, &q)) != QSAE_OK)
        return st;
    if (r.vocab != q.vocab)
        return qsae__fail(QSAE_EMISMATCH, "%s: vocabulary of %lld, the reference has %lld",
                          p->label, (long long)q.vocab, (long long)r.vocab);
    if (r.width != q.width || r.layers != q.layers)
        return qsae__fail(QSAE_EMISMATCH,
                          "%s: %lld layers of width %lld, the reference has %lld of %lld", p->label,
                          (long long)q.layers, (long long)q.width, (long long)r.layers,
                          (long long)r.width);
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

/* Rows and values a metric keeps for medians and quantiles; exact for tens of thousands of tokens
 * of a small model, a sample beyond. Many conditions and SAEs must fit beside the weights. */
#define METRIC_MEMORY ((uint64_t)64 << 20)

static int32_t open_metrics(qsae_audit *a, struct participant *p)
{
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = a->batch * a->corpus_info.context;
    s.fingerprint = a->fingerprint;
    s.memory = METRIC_MEMORY;
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
    qsae__hasher_i64(h, a->corpus_info.context);
    qsae__hasher_i64(h, a->batch);
    qsae__hasher_i64(h, a->corpus_info.bos_policy);
    qsae__hasher_i64(h, s->attention);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        const struct participant *p = &a->participants[i];
        qsae_model_info info = { .struct_size = sizeof info };
        qsae__hasher_string(h, p->cost.condition);
        qsae__hasher_i64(h, p->cost.compute);
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

static int32_t open_participants(qsae_audit *a, const qsae_audit_settings *s)
{
    const char *const *conditions = s->conditions;
    int64_t n = s->n_conditions;
    if (n == 0 && a->profile->conditions) {
        conditions = a->profile->conditions;
        while (conditions[n])
            n++;
    }
    a->participants = qsae__calloc(a->ctx, n + 1, sizeof *a->participants);
    if (!a->participants)
        return QSAE_ENOMEM;
    a->n_participants = n + 1;
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i <= n && st == QSAE_OK; i++) {
        struct participant *p = &a->participants[i];
        st = open_participant(a, p, i ? conditions[i - 1] : "none", s);
        if (st == QSAE_OK && i)
            st = check_pair(a, p);
    }
    return st;
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
    if ((st = open_text(a, s)) != QSAE_OK || (st = open_participants(a, s)) != QSAE_OK)
        return st;
    for (int64_t i = 0; i < s->n_saes && st == QSAE_OK; i++)
        st = open_sae(a, s->saes[i], &a->saes[i]);
    if (st == QSAE_OK)
        st = fingerprint(a, s);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++)
        st = open_metrics(a, &a->participants[i]);
    if (st == QSAE_OK && a->state_path && qsae__file_exists(a->state_path))
        st = qsae__state_load(a);
    if (st == QSAE_OK)
        warn_bos(a);
    return st;
}
