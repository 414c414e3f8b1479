/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Matched pruning (methods.md 3.3): the sparsity in [0, 0.8] at which a pruned model has a given
 * perplexity, by bisection. The passes of the search compute the cross-entropy only, over the
 * logical batches of the run, as far as the condition's tokens= asks for.
 */
#include <math.h>
#include <string.h>

#include "audit/audit.h"

/* Sparsities are n / 80: the midpoints of six bisections of [0, 0.8] are whole n. */
#define PARTS 80
#define HIGH 64

struct search {
    qsae_audit *a;
    struct audit_match *match;
    struct audit_batch *batches; /* [most] that go through the layers together */
    float **x;                   /* [most] of [rows, width] */
    int64_t most;
    float *nll;                  /* [rows] */
    int64_t tokens;              /* of one pass */
    int64_t done, total;         /* of the whole search */
};

static int32_t report(const struct search *s)
{
    const qsae_audit *const a = s->a;
    return a->progress ? a->progress(a->progress_cookie, s->done, s->total, "tokens", "match")
                       : QSAE_OK;
}

/* Tokens of the batches up to the first that reaches `wanted` (0 = all). */
static int32_t count_tokens(struct search *s, int64_t wanted)
{
    const qsae_audit *const a = s->a;
    s->tokens = 0;
    for (int64_t chunk = 0; chunk < a->corpus_info.chunks && (!wanted || s->tokens < wanted);) {
        const int32_t st = qsae__batch_gather(s->a, chunk, &s->batches[0]);
        if (st != QSAE_OK)
            return st;
        s->tokens += s->batches[0].rows;
        chunk += s->batches[0].n_seq;
    }
    return QSAE_OK;
}

/* Gathers batches from a chunk on, at most what is left of the tokens. */
static int32_t gather(struct search *s, int64_t *chunk, int64_t *seen, int64_t *n)
{
    for (*n = 0; *n < s->most && *seen < s->tokens; ++*n) {
        const int32_t st = qsae__batch_gather(s->a, *chunk, &s->batches[*n]);
        if (st != QSAE_OK)
            return st;
        *chunk += s->batches[*n].n_seq;
        *seen += s->batches[*n].rows;
    }
    return QSAE_OK;
}

/* Final rows of n batches, which take a layer of a streamed model together. */
static int32_t run_layers(struct search *s, qsae_model *model, int64_t layers, qsae__slab *slab,
                          int64_t n)
{
    float *const own = slab->x;
    int32_t st = QSAE_OK;
    for (int64_t layer = 0; layer < layers && st == QSAE_OK; layer++) {
        st = qsae__model_load(model, layer);
        for (int64_t b = 0; b < n && st == QSAE_OK; b++) {
            slab->x = s->x[b];
            slab->ids = s->batches[b].ids;
            slab->n_seq = s->batches[b].n_seq;
            slab->n_tokens = s->batches[b].n_tokens;
            st = qsae__canceled(s->a->cancel);
            if (st == QSAE_OK && layer == 0)
                st = qsae__model_embed(model, slab);
            if (st == QSAE_OK)
                st = qsae__model_step(model, layer, slab);
            if (st == QSAE_OK && layer + 1 == layers)
                st = qsae__model_final(model, slab, slab->x); /* row by row: in place */
        }
        qsae__model_drop(model, layer);
    }
    slab->x = own;
    return st;
}

/* Head of a batch whose final rows are there, and its place in the metric. */
static int32_t score(struct search *s, qsae_model *model, int64_t b, qsae_metric *metric)
{
    const qsae_audit *const a = s->a;
    const struct audit_batch *const batch = &s->batches[b];
    const qsae__head_rows head = { .model = model, .final = s->x[b], .nll = s->nll };
    const qsae_positions at = qsae__batch_positions(batch, batch->mask);
    int32_t st = qsae__head_run(a->ctx, batch->rows, batch->labels, 1, &head, a->cancel);
    if (st == QSAE_OK)
        st = qsae_metric_update_cross_entropy(metric, &at, batch->rows, s->nll);
    s->done += batch->rows;
    return st == QSAE_OK ? report(s) : st;
}

/* Perplexity of a model on the search's tokens. */
static int32_t measure(struct search *s, qsae_model *model, double *ppl)
{
    qsae_audit *const a = s->a;
    const int64_t chunks = qsae__min_i64(a->batch, a->corpus_info.chunks);
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae_metric_settings ms;
    qsae_metric *metric = NULL;
    qsae__slab slab;
    int32_t st = qsae_model_get_info(model, &info);
    if (st != QSAE_OK ||
        (st = qsae__slab_open(a->ctx, &model, 1, chunks, a->corpus_info.context, &slab)) != QSAE_OK)
        return st;
    qsae_metric_settings_init(&ms, sizeof ms);
    ms.batch_rows = a->batch * a->corpus_info.context;
    st = qsae_metric_open_cross_entropy(a->ctx, &ms, &metric);
    for (int64_t chunk = 0, seen = 0, n; seen < s->tokens && st == QSAE_OK;) {
        st = gather(s, &chunk, &seen, &n);
        if (st == QSAE_OK)
            st = run_layers(s, model, info.layers, &slab, n);
        for (int64_t b = 0; b < n && st == QSAE_OK; b++)
            st = score(s, model, b, metric);
    }
    if (st == QSAE_OK)
        st = qsae_metric_get(metric, "ppl", ppl);
    qsae_metric_close(&metric);
    qsae__slab_close(&slab);
    return st;
}

/* Perplexity of a condition on the reference's checkpoint. */
static int32_t measure_condition(struct search *s, const char *condition, double *ppl)
{
    struct participant p = { 0 };
    int32_t st = qsae__participant_model(s->a, &p, condition);
    if (st == QSAE_OK)
        st = measure(s, p.model, ppl);
    qsae_model_close(&p.model);
    qsae__free(s->a->ctx, p.outliers);
    qsae__free(s->a->ctx, p.label);
    return st;
}

static int32_t bisect(struct search *s)
{
    struct audit_match *const m = s->match;
    qsae_context *const ctx = s->a->ctx;
    int32_t st = QSAE_OK;
    m->n_visited = m->chosen = 0;
    for (int low = 0, high = HIGH; m->n_visited < QSAE__MATCH_STEPS && st == QSAE_OK;) {
        const int middle = (low + high) / 2;
        const double sparsity = (double)middle / PARTS;
        char *condition;
        double ppl = NAN;
        st = qsae__condition_with_sparsity(ctx, &m->request, sparsity, &condition);
        if (st != QSAE_OK)
            return st;
        st = measure_condition(s, condition, &ppl);
        qsae__free(ctx, condition);
        if (st != QSAE_OK)
            return st;
        m->visited[m->n_visited].sparsity = sparsity;
        m->visited[m->n_visited].ppl = ppl;
        const double best = fabs(m->visited[m->chosen].ppl - m->target);
        if (fabs(ppl - m->target) < best || isnan(best))
            m->chosen = m->n_visited;
        m->n_visited++;
        if (ppl < m->target)
            low = middle;
        else
            high = middle;
    }
    return st;
}

int32_t qsae__match_open(qsae_audit *a, struct participant *p)
{
    const struct audit_match *const m = p->match;
    char *condition;
    int32_t st = qsae__condition_with_sparsity(
        a->ctx, &m->request, m->visited[m->chosen].sparsity, &condition);
    if (st != QSAE_OK)
        return st;
    qsae__free(a->ctx, p->label);
    p->label = NULL; /* the canonical form of what was found */
    st = qsae__participant_model(a, p, condition);
    qsae__free(a->ctx, condition);
    return st;
}

static int32_t open_batches(struct search *s, int64_t width)
{
    qsae_audit *const a = s->a;
    s->most = 1;
    s->batches = qsae__calloc(a->ctx, 1, sizeof *s->batches);
    if (!s->batches)
        return QSAE_ENOMEM;
    int32_t st = qsae__batch_open(a, &s->batches[0]);
    const int64_t rows = s->batches[0].rows_max;
    if (st != QSAE_OK || (st = count_tokens(s, s->match->request.prune_tokens)) != QSAE_OK)
        return st;
    const int64_t wanted = a->memory == QSAE_MEMORY_RESIDENT ? 1
                                                             : qsae__stream_fit(a, rows * width);
    struct audit_batch *const all = qsae__calloc(a->ctx, wanted, sizeof *all);
    s->x = qsae__calloc(a->ctx, wanted, sizeof *s->x);
    s->nll = qsae__alloc_array(a->ctx, rows, sizeof(float));
    if (all) {
        all[0] = s->batches[0];
        qsae__free(a->ctx, s->batches);
        s->batches = all;
        s->most = wanted;
    }
    if (!all || !s->x || !s->nll)
        return QSAE_ENOMEM;
    for (int64_t b = 0; b < wanted && st == QSAE_OK; b++) {
        s->x[b] = qsae__alloc_array(a->ctx, rows * width, sizeof(float));
        st = !s->x[b] ? QSAE_ENOMEM : b ? qsae__batch_open(a, &all[b]) : QSAE_OK;
    }
    return st;
}

static void close_batches(struct search *s)
{
    qsae_context *const ctx = s->a->ctx;
    for (int64_t b = 0; b < s->most; b++) {
        if (s->x)
            qsae__free(ctx, s->x[b]);
        if (s->batches)
            qsae__batch_close(s->a, &s->batches[b]);
    }
    qsae__free(ctx, s->batches);
    qsae__free(ctx, s->x);
    qsae__free(ctx, s->nll);
}

static int32_t search(qsae_audit *a, struct participant *p)
{
    struct audit_match *const m = p->match;
    struct search s = { .a = a, .match = m };
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    int32_t st = qsae_model_get_info(a->participants[0].model, &info);
    if (st == QSAE_OK)
        st = open_batches(&s, info.width);
    if (st != QSAE_OK)
        goto done;
    m->tokens = s.tokens;
    m->target = m->request.prune_match;
    s.total = s.tokens * (QSAE__MATCH_STEPS + (m->request.prune_target != NULL));
    st = report(&s);
    if (st == QSAE_OK && m->request.prune_target)
        st = measure_condition(&s, m->request.prune_target, &m->target);
    if (st == QSAE_OK)
        st = bisect(&s);
    m->done = st == QSAE_OK;
done:
    close_batches(&s);
    return st;
}

int32_t qsae__match_run(qsae_audit *a)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++) {
        struct participant *const p = &a->participants[i];
        if (!p->match || p->model)
            continue;
        if (!p->match->done && (st = search(a, p)) != QSAE_OK)
            break;
        st = qsae__match_open(a, p);
        if (st == QSAE_OK && a->state_path)
            st = qsae__state_save(a);
        else if (st != QSAE_OK)
            st = qsae__fail_in(st, "condition %s", p->match->request.canonical);
    }
    return st;
}

json_t *qsae__match_json(const struct participant *p)
{
    const struct audit_match *const m = p->match;
    if (!m)
        return json_null();
    json_t *o = json_object(), *visited = json_array();
    const char *const of = m->request.prune_target;
    json_object_set_new(o, "condition", json_string(m->request.canonical));
    json_object_set_new(o, "target", m->done ? qsae__number(m->target) : json_null());
    json_object_set_new(o, "target_condition", of ? json_string(of) : json_null());
    json_object_set_new(o, "tokens", m->done ? json_integer(m->tokens) : json_null());
    json_object_set_new(o, "visited", visited);
    for (int64_t i = 0; i < m->n_visited && m->done; i++) {
        json_t *pair = json_array();
        json_array_append_new(pair, json_real(m->visited[i].sparsity));
        json_array_append_new(pair, qsae__number(m->visited[i].ppl));
        json_array_append_new(visited, pair);
    }
    json_object_set_new(o, "chosen",
                        m->done ? json_real(m->visited[m->chosen].sparsity) : json_null());
    return o;
}
