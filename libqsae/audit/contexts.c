/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit/contexts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "audit/pass.h"
#include "audit/state.h"

/* ---- opening ---- */

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Ascending lengths in `to`, and what of them is scored, checked. */
static int32_t read_lengths(const qsae_audit_settings *s, int64_t *to, struct audit_contexts *c)
{
    if (s->n_contexts < 2 || s->n_contexts > QSAE__LENGTHS_MOST || !s->contexts)
        return qsae__fail(QSAE_EINVAL, "audit: contexts: expected 2..%d lengths, found %" PRId64,
                          QSAE__LENGTHS_MOST, s->contexts ? s->n_contexts : (int64_t)0);
    memcpy(to, s->contexts, (size_t)s->n_contexts * sizeof *to);
    qsort(to, (size_t)s->n_contexts, sizeof *to, by_size);
    const int64_t last = to[s->n_contexts - 1];
    if (last > INT32_MAX)
        return qsae__fail(QSAE_EINVAL, "audit: contexts: expected lengths of at most %d tokens, "
                          "found %" PRId64, INT32_MAX, last);
    for (int64_t i = 0; i < s->n_contexts; i++)
        if (to[i] < 4 || (i > 0 && to[i] == to[i - 1]))
            return qsae__fail(QSAE_EINVAL, "audit: contexts: expected different lengths of at "
                              "least 4 tokens, found %" PRId64 "%s", to[i],
                              i > 0 && to[i] == to[i - 1] ? " twice" : "");
    c->scored = s->contexts_scored ? s->contexts_scored : to[0] / 2;
    c->stride = s->contexts_stride ? s->contexts_stride : last;
    if (c->scored < 1 || c->scored > to[0] - 2)
        return qsae__fail(QSAE_EINVAL, "audit: contexts_scored: expected 1..%" PRId64 " (the "
                          "shortest length less 2), found %" PRId64, to[0] - 2, c->scored);
    if (c->stride < c->scored || c->stride > last)
        return qsae__fail(QSAE_EINVAL, "audit: contexts_stride: expected %" PRId64 " (the scored "
                          "tokens) to %" PRId64 " (the longest length), found %" PRId64, c->scored,
                          last, c->stride);
    return QSAE_OK;
}

/* Refuses what a checkpoint was not made for. */
static int32_t check_models(const qsae_audit *a, int64_t longest)
{
    for (int64_t i = 0; i < a->n_participants; i++) {
        const struct participant *const p = &a->participants[i];
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        if (!p->weights)
            continue;
        const int32_t st = qsae_weights_get_info(p->weights, &info);
        if (st != QSAE_OK)
            return st;
        if (info.max_positions > 0 && longest > info.max_positions)
            return qsae__fail(QSAE_EINVAL, "audit: contexts: %" PRId64 " tokens: %s has "
                              "max_positions %" PRId64, longest, info.path, info.max_positions);
    }
    return QSAE_OK;
}

/* A participant of the run as one of a length: what it measures is its own. */
static int32_t borrow(const qsae_audit *a, const struct participant *from, struct participant *to)
{
    to->label = from->label;
    to->weights = from->weights;
    to->model = from->model;
    to->cost = from->cost;
    to->checkpoint = from->checkpoint;
    to->place = from->place;
    to->n_outliers = from->n_outliers;
    to->outliers = qsae__calloc(a->ctx, from->n_outliers, sizeof *to->outliers);
    to->saes = qsae__calloc(a->ctx, a->n_saes, sizeof *to->saes);
    return to->outliers && to->saes ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t open_length(qsae_audit *a, const qsae_corpus *text, int64_t context,
                           struct audit_length *l)
{
    const struct audit_contexts *const c = a->contexts;
    qsae_audit *const b = l->audit = qsae__calloc(a->ctx, 1, sizeof *b);
    l->rows = qsae__calloc(a->ctx, a->n_participants, sizeof *l->rows);
    if (!b || !l->rows)
        return QSAE_ENOMEM;
    b->ctx = a->ctx;
    b->profile = a->profile;
    b->tokenizer = a->tokenizer;
    b->saes = a->saes;
    b->n_saes = a->n_saes;
    b->sets = a->sets;
    b->n_sets = a->n_sets;
    b->overlap_k = a->overlap_k;
    b->seed = a->seed;
    b->batch = c->batch;
    b->compute = a->compute;
    b->attention = a->attention;
    b->exclude_special = a->exclude_special;
    b->excluded = a->excluded;
    b->n_excluded = a->n_excluded;
    b->cancel = a->cancel;
    b->length = l;
    b->participants = qsae__calloc(a->ctx, a->n_participants, sizeof *b->participants);
    int32_t st = b->participants ? qsae__corpus_tails(text, context, c->scored, &b->corpus)
                                 : QSAE_ENOMEM;
    if (st != QSAE_OK)
        return st;
    b->corpus_info.struct_size = sizeof b->corpus_info;
    st = qsae_corpus_get_info(b->corpus, &b->corpus_info);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        struct length_rows *const r = &l->rows[i];
        st = borrow(a, &a->participants[i], &b->participants[i]);
        b->n_participants = i + 1;
        r->nll = qsae__calloc(a->ctx, c->batch * c->scored, sizeof *r->nll);
        r->kl = qsae__calloc(a->ctx, c->batch * c->scored, sizeof *r->kl);
        if (!r->nll || !r->kl)
            st = QSAE_ENOMEM;
    }
    qsae__coverage_open(b, 0, 0);
    return st;
}

/* Scored tokens whose whole window lies in their own document. */
static int64_t count_within(const qsae_corpus_info *info, const qsae_corpus *corpus)
{
    int64_t within = 0;
    for (int64_t k = 0; k < info->chunks; k++) {
        const int32_t *labels;
        const int64_t *document;
        int64_t n;
        if (qsae_corpus_chunk(corpus, k, NULL, &labels, &document, &n) != QSAE_OK)
            return 0;
        for (int64_t i = 0; i + 1 < n; i++)
            within += labels[i] >= 0 && document[i + 1] == document[0];
    }
    return within;
}

/* The text of all lengths, cut into the longest windows. */
static int32_t open_lengths(qsae_audit *a, const qsae_corpus *text, const int64_t *lengths)
{
    struct audit_contexts *const c = a->contexts;
    qsae_corpus_info info = { .struct_size = sizeof info };
    int32_t st = qsae_corpus_get_info(text, &info);
    if (st != QSAE_OK)
        return st;
    c->windows = info.tokens / info.context;
    if (c->windows < 1)
        return qsae__fail(QSAE_EINVAL, "audit: contexts: the text has %" PRId64 " tokens, less "
                          "than one window of %" PRId64, info.tokens, info.context);
    c->batch = qsae__max_i64(1, a->batch * a->corpus_info.context / info.context);
    c->batch = qsae__min_i64(c->batch, c->windows);
    for (int64_t i = 0; i < c->n && st == QSAE_OK; i++) {
        st = open_length(a, text, lengths[i], &c->lengths[i]);
        if (st == QSAE_OK)
            c->within[i] = count_within(&c->lengths[i].audit->corpus_info,
                                        c->lengths[i].audit->corpus);
    }
    const int64_t rows = c->batch * c->scored;
    c->document = qsae__alloc_array(a->ctx, rows, sizeof *c->document);
    c->position = qsae__alloc_array(a->ctx, rows, sizeof *c->position);
    c->left = qsae__alloc_array(a->ctx, rows, sizeof *c->left);
    c->right = qsae__alloc_array(a->ctx, rows, sizeof *c->right);
    return st != QSAE_OK || (c->document && c->position && c->left && c->right) ? st : QSAE_ENOMEM;
}

int32_t qsae__contexts_open(qsae_audit *a, const qsae_audit_settings *s,
                            const qsae_corpus_settings *text)
{
    int64_t lengths[QSAE__LENGTHS_MOST];
    qsae_corpus_settings settings = *text;
    qsae_corpus *corpus = NULL;
    if (!s->n_contexts)
        return QSAE_OK;
    struct audit_contexts *const c = a->contexts = qsae__calloc(a->ctx, 1, sizeof *c);
    if (!c)
        return QSAE_ENOMEM;
    int32_t st = read_lengths(s, lengths, c);
    if (st != QSAE_OK)
        return st;
    c->n = s->n_contexts;
    const int64_t longest = lengths[c->n - 1];
    if ((st = check_models(a, longest)) != QSAE_OK)
        return st;
    settings.context = longest;
    settings.stride = c->stride < longest ? c->stride : 0;
    settings.score_from = 0;
    settings.cross_labels = 0;
    settings.keep_tail = 0;
    st = qsae_corpus_open(a->ctx, a->tokenizer, s->text, &settings, &corpus);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "audit: contexts");
    st = open_lengths(a, corpus, lengths);
    qsae_corpus_close(&corpus);
    return st;
}

static void close_length(qsae_audit *a, struct audit_length *l)
{
    qsae_audit *const b = l->audit;
    for (int64_t i = 0; i < a->n_participants; i++) {
        for (int k = 0; l->changes && k < QSAE__SINCE_COUNT; k++)
            qsae_metric_close(&l->changes[i][k]);
        if (l->rows) {
            qsae__free(a->ctx, l->rows[i].nll);
            qsae__free(a->ctx, l->rows[i].kl);
        }
    }
    qsae__free(a->ctx, l->changes);
    qsae__free(a->ctx, l->rows);
    if (!b)
        return;
    qsae__pass_close(b);
    for (int64_t i = 0; i < b->n_participants; i++) {
        struct participant *const p = &b->participants[i];
        qsae_metric_close(&p->cross_entropy);
        qsae_metric_close(&p->divergence);
        for (int64_t k = 0; p->saes && k < a->n_saes; k++) {
            qsae_metric_close(&p->saes[k].reconstruction);
            qsae_metric_close(&p->saes[k].drift);
        }
        qsae__free(a->ctx, p->saes);
        qsae__free(a->ctx, p->outliers);
    }
    qsae__free(a->ctx, b->participants);
    qsae_corpus_close(&b->corpus);
    qsae__free(a->ctx, b->covered);
    qsae__free(a->ctx, b);
}

void qsae__contexts_close(qsae_audit *a)
{
    struct audit_contexts *const c = a->contexts;
    if (!c)
        return;
    for (int64_t i = 0; i < c->n; i++)
        close_length(a, &c->lengths[i]);
    qsae__free(a->ctx, c->document);
    qsae__free(a->ctx, c->position);
    qsae__free(a->ctx, c->left);
    qsae__free(a->ctx, c->right);
    qsae__free(a->ctx, c);
    a->contexts = NULL;
}

void qsae__contexts_fingerprint(const qsae_audit *a, qsae__hasher *h)
{
    const struct audit_contexts *const c = a->contexts;
    if (!c)
        return;
    qsae__hasher_string(h, "contexts");
    qsae__hasher_i64(h, c->batch);
    for (int64_t i = 0; i < c->n; i++)
        qsae__hasher_string(h, c->lengths[i].audit->corpus_info.token_hash);
}

/* Of a participant at one length. Medians and quantiles are not asked for. */
static int32_t open_metrics(qsae_audit *a, struct audit_length *l, int64_t who, bool shortest)
{
    struct participant *const p = &l->audit->participants[who];
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = l->audit->batch * l->audit->corpus_info.context;
    s.fingerprint = a->fingerprint;
    s.memory = 1;
    int32_t st = qsae_metric_open_cross_entropy(a->ctx, &s, &p->cross_entropy);
    if (st == QSAE_OK && who)
        st = qsae_metric_open_divergence(a->ctx, &s, &p->divergence);
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++) {
        const qsae_sae_info *const info = &a->saes[i].info;
        st = qsae_metric_open_reconstruction(a->ctx, info->width_out, info->features, &s,
                                             &p->saes[i].reconstruction);
        if (st == QSAE_OK && who)
            st = qsae_metric_open_drift(a->ctx, info->width_out, &s, &p->saes[i].drift);
    }
    const int changes = shortest ? 0 : who ? QSAE__SINCE_COUNT : QSAE__SINCE_DCE;
    for (int k = 0; k < changes && st == QSAE_OK; k++)
        st = qsae_metric_open_divergence(a->ctx, &s, &l->changes[who][k]);
    return st;
}

int32_t qsae__contexts_metrics(qsae_audit *a)
{
    struct audit_contexts *const c = a->contexts;
    int32_t st = QSAE_OK;
    for (int64_t i = 0; c && i < c->n && st == QSAE_OK; i++) {
        struct audit_length *const l = &c->lengths[i];
        l->changes = qsae__calloc(a->ctx, a->n_participants, sizeof *l->changes);
        if (!l->changes)
            return QSAE_ENOMEM;
        for (int64_t who = 0; who < a->n_participants && st == QSAE_OK; who++)
            st = open_metrics(a, l, who, i == 0);
    }
    return st;
}

/* ---- the pass ---- */

void qsae__contexts_keep(qsae_audit *length, int64_t participant, const float *nll, const float *kl)
{
    const struct audit_batch *const b = &length->pass->batch;
    const int64_t first = length->corpus_info.score_from, scored = b->n_tokens - 1 - first;
    struct length_rows *const to = &length->length->rows[participant];
    for (int64_t s = 0; s < b->n_seq; s++) {
        const int64_t from = s * b->n_tokens + first;
        memcpy(to->nll + s * scored, nll + from, (size_t)scored * sizeof *nll);
        for (int64_t i = 0; i < scored; i++)
            to->kl[s * scored + i] = kl ? kl[from + i] : NAN;
    }
}

/* Documents and positions of the scored tokens of the present batch; returns their number. */
static int64_t find_rows(struct audit_contexts *c)
{
    const qsae_audit *const longest = c->lengths[c->n - 1].audit;
    const int64_t first = longest->corpus_info.score_from;
    int64_t rows = 0;
    for (int64_t s = 0; s < c->batch && c->next + s < c->windows; s++) {
        const int64_t *document;
        if (qsae_corpus_chunk(longest->corpus, c->next + s, NULL, NULL, &document, NULL) != QSAE_OK)
            return 0;
        for (int64_t i = 0; i < c->scored; i++, rows++) {
            c->document[rows] = document[first + i];
            c->position[rows] = (int32_t)(first + i);
        }
    }
    return rows;
}

static int32_t update_change(const qsae_audit *a, qsae_metric *m, int64_t rows, const float *left,
                             const float *right)
{
    const struct audit_contexts *const c = a->contexts;
    const qsae_positions at = { .struct_size = sizeof at, .first_token = c->next * c->scored,
                                .document = c->document, .position = c->position, .n_rows = rows };
    const qsae_divergence_rows d = { .struct_size = sizeof d, .n = rows, .nll_r = left,
                                     .nll_q = right };
    return qsae__batch_added(a, qsae_metric_update_divergence(m, &at, &d));
}

/*
 * The means of a metric of differences: a change of ce from nll at both lengths; that of dce, which
 * is (q - r) - (q0 - r0), from r + q0 and q + r0; that of KL likewise.
 */
static int32_t update_changes(qsae_audit *a, const struct audit_length *l, int64_t rows)
{
    struct audit_contexts *const c = a->contexts;
    const struct length_rows *const base = c->lengths[0].rows, *const now = l->rows;
    int32_t st = QSAE_OK;
    for (int64_t w = 0; w < a->n_participants && st == QSAE_OK; w++) {
        qsae_metric **const m = l->changes[w];
        st = update_change(a, m[QSAE__SINCE_CE], rows, base[w].nll, now[w].nll);
        if (!w || st != QSAE_OK)
            continue;
        for (int64_t i = 0; i < rows; i++) {
            c->left[i] = now[0].nll[i] + base[w].nll[i];
            c->right[i] = now[w].nll[i] + base[0].nll[i];
        }
        st = update_change(a, m[QSAE__SINCE_DCE], rows, c->left, c->right);
        if (st == QSAE_OK)
            st = update_change(a, m[QSAE__SINCE_KL], rows, base[w].kl, now[w].kl);
    }
    return st;
}

/* Brings a length up to the end of the present batch. */
static int32_t run_length(qsae_audit *a, struct audit_length *l)
{
    qsae_audit *const b = l->audit;
    int32_t st = QSAE_OK;
    if (b->next_chunk > a->contexts->next)
        return QSAE_OK;
    if (!b->pass)
        st = qsae__pass_open(b);
    if (st == QSAE_OK)
        st = qsae__pass_batch(b);
    a->half |= b->half;
    return st;
}

#define SLABS ((int64_t)1 << 30) /* rows of streamed passes of all lengths together */

/* Models that were not there when the audit was opened: of sparsities that were searched for. */
static void take_models(qsae_audit *a)
{
    const int64_t slabs = a->stream_bytes ? a->stream_bytes : SLABS;
    for (int64_t i = 0; i < a->contexts->n; i++) {
        qsae_audit *const b = a->contexts->lengths[i].audit;
        /* Batches of all lengths and models come together: models in turn are streamed here. */
        b->memory = a->memory == QSAE_MEMORY_RESIDENT ? a->memory : QSAE_MEMORY_STREAMED;
        b->stream_bytes = qsae__max_i64(1, slabs / a->contexts->n);
        for (int64_t w = 0; w < a->n_participants; w++) {
            b->participants[w].model = a->participants[w].model;
            b->participants[w].cost = a->participants[w].cost;
            b->participants[w].label = a->participants[w].label;
        }
    }
}

static int32_t report(const qsae_audit *a)
{
    const struct audit_contexts *const c = a->contexts;
    return a->progress ? a->progress(a->progress_cookie, c->next, c->windows, "windows", "contexts")
                       : QSAE_OK;
}

#define SAVE_EVERY 60.0 /* seconds between state files */

int32_t qsae__contexts_run(qsae_audit *a)
{
    struct audit_contexts *const c = a->contexts;
    if (!c || c->next == c->windows || !qsae__covered_whole(a))
        return QSAE_OK;
    take_models(a);
    double saved = qsae__now();
    int32_t st = report(a);
    while (st == QSAE_OK && c->next < c->windows) {
        for (int64_t i = 0; i < c->n && st == QSAE_OK; i++)
            st = run_length(a, &c->lengths[i]);
        const int64_t rows = find_rows(c);
        for (int64_t i = 1; i < c->n && st == QSAE_OK; i++)
            if ((st = update_changes(a, &c->lengths[i], rows)) != QSAE_OK)
                a->half = true;
        if (st != QSAE_OK)
            break;
        a->half = false;
        c->next += rows / c->scored;
        if (a->state_path && qsae__now() - saved > SAVE_EVERY) {
            st = qsae__state_save(a);
            saved = qsae__now();
        }
        if (st == QSAE_OK)
            st = report(a);
    }
    for (int64_t i = 0; i < c->n; i++)
        qsae__pass_close(c->lengths[i].audit);
    return st;
}
