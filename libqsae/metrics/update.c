/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How rows come in, the same for every kind: check, reserve everything, add leaf by leaf (in
 * parallel: a leaf is one worker's), then documents, records and the tree in token order. Nothing
 * is changed before everything that can fail has succeeded.
 */
#include <string.h>

#include "metrics/parts.h"

#define MAX_TOKEN ((int64_t)1 << 53) /* token indices are exact in f64 */

typedef struct piece {
    int64_t r0, r1;      /* rows of one leaf */
    int64_t part;        /* node they go on from, or -1 */
    double *v;           /* its sums, or new ones */
} piece;

typedef struct plan {
    qsae__update *u;
    piece *piece;
    int64_t n;
    double *out;         /* [rows, row_words] */
    double *scratch;     /* [threads, scratch_words] */
} plan;

static int32_t run_piece(void *arg, int64_t tile, int32_t worker)
{
    const plan *const p = arg;
    const qsae__update *const u = p->u;
    const piece *const e = &p->piece[tile];
    double *const scratch = p->scratch + worker * u->scratch_words;
    const int64_t words = u->m->kind->row_words;
    for (int64_t r = e->r0; r < e->r1; r++) {
        enum qsae__row_state state = QSAE__ROW_EXCLUDED;
        if (!u->mask || !(u->mask[r] & QSAE_MASK_EXCLUDED))
            state = u->row(u, r, e->v, p->out + r * words, scratch);
        u->state[r] = (uint8_t)state;
        e->v[S_ROWS] += state == QSAE__ROW_COUNTED;
        e->v[S_NONFINITE] += state == QSAE__ROW_NONFINITE;
        e->v[S_EXCLUDED] += state == QSAE__ROW_EXCLUDED;
    }
    return QSAE_OK;
}

static int32_t place(qsae__update *u, const qsae_positions *at)
{
    qsae_positions p;
    const qsae__tree *const tree = &u->m->state.tree;
    const int32_t st = qsae__settings_copy(&p, sizeof p, at, "qsae_positions");
    if (st != QSAE_OK)
        return st;
    if (!at) {
        p.n_rows = u->n;
        p.first_token = qsae__tree_end(tree);
    }
    if (qsae__need_aligned(p.document, "positions: document"))
        return QSAE_EINVAL;
    int64_t end;
    if (p.n_rows != u->n)
        return qsae__fail(QSAE_EINVAL, "positions: expected %lld rows, found %lld", (long long)u->n,
                          (long long)p.n_rows);
    if (p.first_token < 0 || !qsae__add_i64(p.first_token, u->n, &end) || end > MAX_TOKEN)
        return qsae__fail(QSAE_EINVAL, "positions: first_token %lld is out of range",
                          (long long)p.first_token);
    if (u->n > 0 && qsae__tree_overlaps(tree, p.first_token, u->n))
        return qsae__fail(QSAE_EMISMATCH,
                          "tokens %lld..%lld overlap tokens that were already added",
                          (long long)p.first_token, (long long)end - 1);
    u->first = p.first_token;
    u->document = p.document;
    u->mask = p.mask;
    return QSAE_OK;
}

/* Sums for every leaf or part of one that the rows touch: the part they continue, or new ones. */
static int32_t plan_pieces(plan *p)
{
    const qsae__update *const u = p->u;
    qsae__tree *const tree = &u->m->state.tree;
    int64_t n = 0;
    for (int64_t at = u->first; at < u->first + u->n; at = qsae__tree_bound(tree, at))
        n++;
    p->piece = qsae__calloc(u->m->ctx, n, sizeof *p->piece);
    if (!p->piece)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        piece *const e = &p->piece[i];
        e->r0 = i ? p->piece[i - 1].r1 : 0;
        e->r1 = qsae__min_i64(qsae__tree_bound(tree, u->first + e->r0) - u->first, u->n);
        e->part = i ? -1 : qsae__tree_part(tree, u->first);
        e->v = e->part >= 0 ? tree->node[e->part].v
                            : qsae__calloc(u->m->ctx, tree->width, sizeof *e->v);
        if (!e->v)
            return QSAE_ENOMEM;
        p->n++;
    }
    return qsae__tree_reserve(tree, n);
}

static int32_t reserve(plan *p)
{
    qsae__update *const u = p->u;
    qsae_metric *const m = u->m;
    qsae_context *const ctx = m->ctx;
    qsae__state *const s = &m->state;
    int64_t wanted = 0, size;
    for (int64_t r = 0; r < u->n; r++)
        wanted += qsae__sample_wants(&s->sample, u->first + r);
    int32_t st = qsae__sample_reserve(ctx, &s->sample, wanted);
    if (st == QSAE_OK && m->kind->doc_sums)
        st = qsae__grow(ctx, &s->docs.run, &s->docs.capacity, s->docs.n +
                        qsae__runs_count(&s->docs, u->first, u->n, u->document, 0),
                        sizeof *s->docs.run);
    if (st == QSAE_OK && m->kind->batch_runs)
        st = qsae__grow(ctx, &s->groups.run, &s->groups.capacity, s->groups.n +
                        qsae__runs_count(&s->groups, u->first, u->n, NULL, m->batch_rows),
                        sizeof *s->groups.run);
    if (st != QSAE_OK)
        return st;
    if (!qsae__mul_i64(u->n, qsae__max_i64(m->kind->row_words, 1), &size))
        return qsae__fail(QSAE_EOVERFLOW, "too many rows in one update");
    p->out = qsae__calloc(ctx, size, sizeof *p->out);
    p->scratch = qsae__alloc_array(ctx, ctx->threads * qsae__max_i64(u->scratch_words, 1),
                                   sizeof *p->scratch);
    u->state = qsae__calloc(ctx, u->n, sizeof *u->state);
    if (!p->out || !p->scratch || !u->state)
        return QSAE_ENOMEM;
    st = plan_pieces(p);
    return st == QSAE_OK && u->prepare ? u->prepare(u) : st;
}

/* Serial part, in token order; cannot fail. */
static void commit(plan *p)
{
    qsae__update *const u = p->u;
    const qsae__kind *const kind = u->m->kind;
    qsae__state *const s = &u->m->state;
    for (int64_t r = 0; r < u->n; r++) {
        const int64_t token = u->first + r;
        const double *const out = p->out + r * kind->row_words;
        const bool counted = u->state[r] == QSAE__ROW_COUNTED;
        if (kind->doc_sums)
            qsae__runs_token(&s->docs, token, u->document ? u->document[r] : 0,
                             counted ? out : NULL, kind->doc_sums);
        if (kind->batch_runs)
            qsae__runs_token(&s->groups, token, token / u->m->batch_rows, counted ? out : NULL,
                             kind->doc_sums);
        if (counted && u->record && qsae__sample_wants(&s->sample, token))
            u->record(u, r, out, qsae__sample_push(&s->sample, token));
    }
    qsae__runs_sort(&s->docs);
    qsae__runs_sort(&s->groups);
    qsae__sample_settle(&s->sample);
    if (u->finish)
        u->finish(u);
    for (int64_t i = p->n - 1; i >= 0; i--) {
        piece *const e = &p->piece[i];
        if (e->part >= 0) {
            s->tree.node[e->part].tokens += e->r1 - e->r0;
            qsae__tree_settle(&s->tree, e->part);
        } else {
            qsae__tree_insert(&s->tree, (qsae__node){ u->first + e->r0, e->r1 - e->r0, e->v });
        }
        e->v = NULL;
    }
    u->m->fresh = false;
}

int32_t qsae__update_run(qsae__update *u, const qsae_positions *at)
{
    plan p = { .u = u };
    int32_t st = place(u, at);
    if (st != QSAE_OK || u->n == 0)
        return st;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = reserve(&p);
    /* Parts that are continued change in place, so nothing may fail from here on. */
    if (st == QSAE_OK)
        st = qsae__parallel(u->m->ctx, p.n, run_piece, &p);
    if (st == QSAE_OK)
        commit(&p);
    for (int64_t i = 0; i < p.n; i++)
        if (p.piece[i].part < 0)
            qsae__free(u->m->ctx, p.piece[i].v);
    if (u->cleanup)
        u->cleanup(u);
    qsae__fpenv_leave(env);
    qsae__free(u->m->ctx, p.piece);
    qsae__free(u->m->ctx, p.out);
    qsae__free(u->m->ctx, p.scratch);
    qsae__free(u->m->ctx, u->state);
    u->state = NULL;
    return st;
}

int32_t qsae__sparse_check(const qsae_sparse_rows *s, qsae_sparse_rows *copy, int64_t n,
                           int64_t features, const char *what)
{
    const int32_t st = qsae__settings_copy(copy, sizeof *copy, s, "qsae_sparse_rows");
    if (st != QSAE_OK)
        return st;
    if (copy->n < 0)
        return qsae__fail(QSAE_EINVAL, "%s: n must not be negative, found %lld", what,
                          (long long)copy->n);
    if (n >= 0 && copy->n != n)
        return qsae__fail(QSAE_EINVAL, "%s: expected %lld rows, found %lld", what, (long long)n,
                          (long long)copy->n);
    if (copy->n == 0)
        return QSAE_OK;
    if (!copy->indptr)
        return qsae__fail(QSAE_EINVAL, "%s: indptr must not be NULL", what);
    if (qsae__need_aligned(copy->indptr, what) || qsae__need_aligned(copy->indices, what) ||
        qsae__need_aligned(copy->values, what))
        return QSAE_EINVAL;
    for (int64_t r = 0; r < copy->n; r++) {
        const int64_t begin = copy->indptr[r], end = copy->indptr[r + 1];
        if (begin < 0 || end < begin)
            return qsae__fail(QSAE_EINVAL,
                              "%s: indptr of row %lld: expected ascending offsets, found "
                              "%lld, %lld", what, (long long)r, (long long)begin, (long long)end);
        if (end > begin && (!copy->indices || !copy->values))
            return qsae__fail(QSAE_EINVAL, "%s: indices and values must not be NULL", what);
        for (int64_t e = begin; e < end; e++) {
            const int64_t f = copy->indices[e];
            if (f < 0 || (features && f >= features) || (e > begin && f <= copy->indices[e - 1]))
                return qsae__fail(QSAE_EINVAL,
                                  "%s: row %lld: expected ascending indices below %lld, "
                                  "found %lld", what, (long long)r, (long long)features,
                                  (long long)f);
        }
    }
    return QSAE_OK;
}
