/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit/contexts.h"
#include "audit/llama.h"
#include "audit/probed.h"
#include "audit/slices.h"
#include "text/corpus.h"
#include "text/probes.h"
#include "audit/uncertainty.h"
#include "audit/state.h"

#include <stdlib.h>
#include <string.h>

static const char *const article_conditions[] = { "llm.int8:threshold=6", "nf4:block=64,double=1",
                                                  NULL };

/* The paper prunes Q, K and V each by itself, to the perplexity of 6 bits. */
static const char *const paper_conditions[] = {
    "rtn:bits=8,axis=tl", "rtn:bits=7,axis=tl", "rtn:bits=6,axis=tl", "rtn:bits=5,axis=tl",
    "rtn:bits=4,axis=tl", "none+prune:match=(rtn:bits=6,axis=tl),scope=tl", NULL
};

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
      .headline = 100000,
      .conditions = paper_conditions,
      .process = "tl" },
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
    if (!s->model || (!s->text && !s->kl_divergence_base))
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
    if (s->n_slices < 0 || s->n_slices > 64 || (s->n_slices && !s->slices))
        return qsae__fail(QSAE_EINVAL, "audit: slices: expected 0..64 of them, found %lld%s",
                          (long long)s->n_slices, s->slices ? "" : " and NULL");
    const int32_t where = qsae__where_check("audit", s->where, s->n_where);
    if (where != QSAE_OK)
        return where;
    if (s->n_slices && s->sweep)
        return qsae__fail(QSAE_EINVAL, "audit: slices: not with a sweep");
    if (s->controls && s->sweep)
        return qsae__fail(QSAE_EINVAL, "audit: controls: not with a sweep");
    if (s->splice && !s->n_saes)
        return qsae__fail(QSAE_EINVAL, "audit: splice: there is no SAE to splice in");
    if (s->top_contexts < 0 || s->top_contexts > 1024)
        return qsae__fail(QSAE_EINVAL, "audit: top_contexts: expected 0..1024, found %lld",
                          (long long)s->top_contexts);
    if (s->seed < 0)
        return qsae__fail(QSAE_EINVAL, "audit: seed: must not be negative, found %lld",
                          (long long)s->seed);
    if (s->overlap_k < 0 || s->overlap_k > QSAE__OVERLAP_MOST)
        return qsae__fail(QSAE_EINVAL, "audit: overlap_k: expected 0..%d, found %lld",
                          QSAE__OVERLAP_MOST, (long long)s->overlap_k);
    if (s->memory < 0 || s->memory > QSAE_MEMORY_IN_TURN)
        return qsae__fail(QSAE_EINVAL, "audit: memory: expected 0..3, found %d", (int)s->memory);
    if (s->shard_count < 0 || s->shard_index < 0 ||
        (s->shard_index > 0 && s->shard_index >= s->shard_count))
        return qsae__fail(QSAE_EINVAL, "audit: shard_index %lld of shard_count %lld: expected "
                          "0..shard_count - 1", (long long)s->shard_index,
                          (long long)s->shard_count);
    if (s->stream_bytes < 0)
        return qsae__fail(QSAE_EINVAL, "audit: stream_bytes: expected at least 0, found %lld",
                          (long long)s->stream_bytes);
    if (s->batch < 0 || s->batch > 1 << 20)
        return qsae__fail(QSAE_EINVAL, "audit: batch: expected 0..1048576, found %lld",
                          (long long)s->batch);
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
    const int64_t metrics =
        a->n_participants * (2 + (2 + (a->splice ? QSAE__SPLICES : 0)) * a->n_saes);
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
    s.overlap_k = a->overlap_k;
    s.seed = a->seed;
    const bool first = p == a->participants;
    int32_t st = qsae_metric_open_cross_entropy(a->ctx, &s, &p->cross_entropy);
    if (st == QSAE_OK && !first)
        st = qsae_metric_open_divergence(a->ctx, &s, &p->divergence);
    if (st == QSAE_OK)
        st = qsae__llama_metric(a, p, &s);
    p->saes = qsae__calloc(a->ctx, a->n_saes, sizeof *p->saes);
    if (!p->saes)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++) {
        const qsae_sae_info *info = &a->saes[i].info;
        struct audit_features *f = &p->saes[i];
        st = qsae_metric_open_reconstruction(a->ctx, info->width_out, info->features, &s,
                                             &f->reconstruction);
        if (st == QSAE_OK && !first)
            st = qsae_metric_open_drift(a->ctx, info->width_out, &s, &f->drift);
        s.top = a->top;
        s.prompt_tokens = a->top ? a->corpus_info.context : 0;
        s.documents_per_block = first ? 0 : qsae__documents_per_block(a, info->features);
        if (st == QSAE_OK && (!first || a->top))
            st = qsae_metric_open_features(a->ctx, info->features, &s, &f->survival);
        for (int v = 0; v < QSAE__SPLICES && st == QSAE_OK && a->splice &&
                        qsae__stands_alone(a, i); v++)
            st = qsae_metric_open_divergence(a->ctx, &s, &f->splice[v]);
    }
    qsae_metric *const stepped[] = { p->cross_entropy, p->divergence };
    for (int64_t i = 0; i < 2 * (1 + a->n_saes) && st == QSAE_OK; i++) {
        const struct audit_features *const f = i < 2 ? NULL : &p->saes[i / 2 - 1];
        st = qsae__snapshots_cut(a, !f ? stepped[i] : i % 2 ? f->drift : f->reconstruction);
    }
    return st == QSAE_OK ? qsae__slices_metrics(a, p, &s) : st;
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
        qsae__places_hash(&a->saes[i], h);
    }
    if (a->splice)
        qsae__hasher_string(h, "splice");
    for (int64_t i = 0; i < s->n_slices; i++) {
        qsae__hasher_string(h, "slice");
        qsae__hasher_string(h, s->slices[i]);
    }
    qsae__slices_fingerprint(a, h);
    if (a->exclude_tokens) {
        qsae__hasher_string(h, "exclude_tokens");
        qsae__hasher_i64(h, a->exclude_special);
        qsae__hasher_i64(h, a->n_excluded);
        for (int64_t i = 0; i < a->n_excluded; i++)
            qsae__hasher_i64(h, a->excluded[i]);
    }
    qsae__llama_fingerprint(a, h);
    if (a->overlap_k != 10) {
        qsae__hasher_string(h, "overlap_k");
        qsae__hasher_i64(h, a->overlap_k);
    }
    if (a->probes) {
        qsae__hasher_string(h, "probes");
        qsae__hasher_string(h, a->probes->set->hash);
    }
    qsae__contexts_fingerprint(a, h);
    if (a->top) {
        qsae__hasher_string(h, "top");
        qsae__hasher_i64(h, a->top);
    }
    qsae__hasher_hex(h, a->fingerprint);
    qsae__hasher_close(a->ctx, &h);
    return st;
}

static json_t *string_or_null(const char *text)
{
    json_t *v = text ? json_string(text) : NULL; /* NULL: a path that is not UTF-8 */
    return v ? v : json_null();
}

/* Goes into the result. */
static int32_t keep_selection(qsae_audit *a, const qsae_audit_settings *s)
{
    json_t *o = json_object(), *list = json_array(), *range = json_array();
    for (int64_t i = 0; i < s->n_where; i++)
        json_array_append_new(list, json_string(s->where[i]));
    json_array_append_new(range, json_integer(s->documents_from));
    json_array_append_new(range, s->documents_to ? json_integer(s->documents_to) : json_null());
    json_object_set_new(o, "text_field", json_string(s->text_field ? s->text_field : "text"));
    json_object_set_new(o, "where", list);
    json_object_set_new(o, "documents_range", range);
    json_object_set_new(o, "order", string_or_null(s->order));
    json_object_set_new(o, "shuffle", string_or_null(s->shuffle));
    if (!o || !list || !range) {
        json_decref(o);
        return qsae__fail(QSAE_ENOMEM, "out of memory: audit");
    }
    a->selection = o;
    return QSAE_OK;
}

static qsae_corpus_settings text_settings(const qsae_audit *a, const qsae_audit_settings *s)
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
    c.where = s->where;
    c.n_where = s->n_where;
    c.documents_from = s->documents_from;
    c.documents_to = s->documents_to;
    c.pack = s->pack;
    c.progress = s->progress;
    c.progress_cookie = s->progress_cookie;
    c.cancel = s->cancel;
    return c;
}

static int32_t open_text(qsae_audit *a, const qsae_audit_settings *s)
{
    qsae_corpus_settings c = text_settings(a, s);
    int32_t st = qsae_tokenizer_open(a->ctx, s->model, &a->tokenizer);
    if (st == QSAE_OK)
        st = keep_selection(a, s);
    if (st == QSAE_OK)
        st = qsae__llama_text(a, s, &c);
    if (st == QSAE_OK && !s->text)
        return qsae__llama_corpus(a, false);
    if (st != QSAE_OK ||
        (st = qsae_corpus_open(a->ctx, a->tokenizer, s->text, &c, &a->corpus)) != 0)
        return st;
    a->corpus_info.struct_size = sizeof a->corpus_info;
    st = qsae_corpus_get_info(a->corpus, &a->corpus_info);
    return st == QSAE_OK && a->llama ? qsae__llama_corpus(a, true) : st;
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

/* SAEs on text that is not like what they were trained on (sae.md B.11). */
static void warn_saes(qsae_audit *a)
{
    for (int64_t i = 0; i < a->n_saes; i++) {
        const struct audit_sae *const s = &a->saes[i];
        if (s->info.context_size > 0 && a->corpus_info.context > s->info.context_size)
            qsae__log(a->ctx, QSAE_LOG_WARNING, "SAE %s was trained on %lld tokens of context; "
                      "chunks of %lld go beyond what it knows", s->name,
                      (long long)s->info.context_size, (long long)a->corpus_info.context);
        if (s->info.prepend_bos == 1 && a->corpus_info.bos_policy == QSAE_BOS_NONE)
            qsae__log(a->ctx, QSAE_LOG_WARNING, "SAE %s was trained with BOS in front, but the "
                      "text is run without it", s->name);
    }
}

void qsae__plan_check_saes(qsae_audit *a)
{
    for (int64_t i = 0; i < a->n_saes; i++) {
        const double fvu = qsae__value(a->participants[0].saes[i].reconstruction, "fvu_dim");
        if (fvu > 0.9)
            qsae__log(a->ctx, QSAE_LOG_WARNING, "SAE %s at layer %d, %s: FVU %.3f on the first "
                      "batch: it explains nothing there; is this its place?", a->saes[i].name,
                      (int)a->saes[i].layer, qsae_site_name(a->saes[i].site), fvu);
    }
}

/* Whether models are still needed. */
static bool work_left(const qsae_audit *a)
{
    bool left = a->next_chunk < a->end_chunk;
    const bool whole = a->from_chunk == 0 && a->to_chunk == a->corpus_info.chunks;
    for (int64_t i = 0; a->probes && i < a->n_participants; i++)
        left |= whole && !a->probes->done[i];
    return left || (whole && a->contexts && a->contexts->next < a->contexts->windows);
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
    a->splice = s->splice != 0;
    a->top = s->top_contexts;
    a->seed = s->seed;
    a->overlap_k = s->overlap_k ? s->overlap_k : 10;
    a->process = s->process;
    a->stream_bytes = s->stream_bytes;
    a->progress = s->progress;
    a->progress_cookie = s->progress_cookie;
    a->cancel = s->cancel;
    a->snapshots = json_array();
    if (!a->snapshots)
        return qsae__fail(QSAE_ENOMEM, "out of memory: an audit");
    if (s->state && !(a->state_path = qsae__strdup(a->ctx, s->state)))
        return QSAE_ENOMEM;
    if (s->cache && !(a->cache = qsae__strdup(a->ctx, s->cache)))
        return QSAE_ENOMEM;
    if ((st = qsae__batch_exclude(a, s->exclude_tokens)) != QSAE_OK ||
        (st = qsae__plan_read(a, s->plan)) != QSAE_OK)
        return st;
    if ((st = qsae__llama_open(a, s)) == QSAE_OK && (st = open_text(a, s)) == QSAE_OK)
        st = qsae__participants_open(a, s);
    if (st == QSAE_OK)
        st = qsae__llama_check(a);
    a->process = NULL; /* the caller's memory */
    if (st == QSAE_OK)
        st = qsae__probed_open(a, s->probes,
                               s->bos_policy ? s->bos_policy : a->profile->bos_policy);
    if (st == QSAE_OK)
        st = qsae__places_open(a, s->saes, s->n_saes);
    const qsae_corpus_settings text = text_settings(a, s);
    if (st == QSAE_OK)
        st = qsae__contexts_open(a, s, &text);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++)
        st = qsae__checkpoint_sites(a, &a->participants[i]);
    if (st == QSAE_OK)
        st = qsae__slices_open(a, s->slices, s->n_slices);
    if (st == QSAE_OK)
        st = fingerprint(a, s);
    if (st == QSAE_OK && (!(a->identity = qsae__identity_of(a, s)) ||
                          !(a->measured_with = qsae__strdup(a->ctx, ""))))
        st = qsae__fail(QSAE_ENOMEM, "out of memory: an audit");
    if (st == QSAE_OK)
        qsae__coverage_open(a, s->shard_index, s->shard_count);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++)
        st = open_metrics(a, &a->participants[i]);
    if (st == QSAE_OK)
        st = qsae__contexts_metrics(a);
    if (st == QSAE_OK && a->state_path && qsae__file_exists(a->state_path))
        st = qsae__state_load(a);
    if (st == QSAE_OK) /* where nothing is left to measure nothing is loaded */
        st = qsae__participants_settle(
            a, work_left(a) ? s->memory : QSAE_MEMORY_STREAMED);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++)
        if (a->participants[i].match && a->participants[i].match->done)
            st = qsae__match_open(a, &a->participants[i]);
    if (st == QSAE_OK) {
        warn_bos(a);
        warn_saes(a);
    }
    return st;
}
