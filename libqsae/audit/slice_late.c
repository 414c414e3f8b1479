/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parts of the tokens whose borders are known at the end only: quintiles of an entropy. The metrics
 * of conditions keep what their tokens gave, all of it while that fits their memory, a sample
 * beyond (methods.md 9); once the borders are known the values go through the metrics of these
 * parts as they would have in the pass. They are in no state file: what is kept is.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/slices.h"
#include "audit/state.h"
#include "metrics/tails.h"

/* The kept tokens of a condition, logical batch by logical batch. */
struct replay {
    qsae_audit *a;
    struct participant *p;
    struct audit_batch batch;
    float *values;               /* [4, rows]: as the next four */
    float *nll_r, *nll_q, *kl, *entropy;
    int32_t *top;                /* [2, rows] of both models */
    int64_t next;                /* kept token */
    int16_t *slot;               /* [dimensions, kept] value in the dimension, -1 = none */
    int16_t *own;                /* likewise of the token's own row, not of the one it predicts */
    int64_t *token;              /* [kept] */
};

static int32_t replay_open(qsae_audit *a, struct participant *p, struct replay *t)
{
    bool all;
    *t = (struct replay){ .a = a, .p = p };
    int32_t st = qsae__batch_open(a, &t->batch);
    const int64_t rows = t->batch.rows_max, kept = qsae__divergence_kept(p->divergence, &all);
    if (st != QSAE_OK)
        return st;
    t->values = qsae__calloc(a->ctx, rows, 4 * sizeof *t->values);
    t->top = qsae__calloc(a->ctx, rows, 2 * sizeof *t->top);
    t->slot = qsae__calloc(a->ctx, kept, (size_t)a->slices->n_dimensions * sizeof *t->slot);
    t->own = qsae__calloc(a->ctx, kept, (size_t)a->slices->n_dimensions * sizeof *t->own);
    t->token = qsae__calloc(a->ctx, kept, sizeof *t->token);
    if (!t->values || !t->top || !t->slot || !t->own || !t->token)
        return QSAE_ENOMEM;
    t->nll_r = t->values;
    t->nll_q = t->values + rows;
    t->kl = t->values + 2 * rows;
    t->entropy = t->values + 3 * rows;
    return QSAE_OK;
}

static void replay_close(struct replay *t)
{
    qsae__batch_close(t->a, &t->batch);
    qsae__free(t->a->ctx, t->values);
    qsae__free(t->a->ctx, t->top);
    qsae__free(t->a->ctx, t->slot);
    qsae__free(t->a->ctx, t->own);
    qsae__free(t->a->ctx, t->token);
}

/* The batch that begins at a chunk; tokens that are not kept have no label. */
static int32_t replay_fill(struct replay *t, int64_t chunk)
{
    bool all;
    const int32_t st = qsae__batch_gather(t->a, chunk, &t->batch);
    const int64_t kept = qsae__divergence_kept(t->p->divergence, &all);
    const int64_t first = t->batch.first_token, rows = t->batch.rows;
    for (int64_t r = 0; r < rows; r++)
        t->nll_r[r] = t->nll_q[r] = t->kl[r] = t->entropy[r] = NAN;
    for (; t->next < kept && st == QSAE_OK; t->next++) {
        const qsae__token k = qsae__divergence_token(t->p->divergence, t->next);
        const int64_t r = k.token - first;
        if (r >= rows)
            break;
        if (r < 0)
            continue;
        t->nll_r[r] = k.nll_r;
        t->nll_q[r] = k.nll_q;
        t->kl[r] = k.kl;
        t->entropy[r] = k.entropy_r;
        t->top[r] = k.top_r;
        t->top[t->batch.rows_max + r] = k.top_q;
    }
    t->batch.entropy = t->entropy;
    return st;
}

/* The batch through the metrics of a late dimension; reference: its own, too. */
static int32_t replay_update(const struct replay *t, const struct slice_dimension *d,
                             bool reference)
{
    const struct audit_batch *const b = &t->batch;
    const bool no_kl = t->p->checkpoint && t->p->checkpoint->no_kl;
    const qsae_divergence_rows rows = {
        .struct_size = sizeof rows, .n = b->rows, .nll_r = t->nll_r, .nll_q = t->nll_q,
        .kl = no_kl ? NULL : t->kl, .top_r = t->top, .top_q = t->top + b->rows_max,
        .label = b->labels,
    };
    int32_t st = QSAE_OK;
    for (int32_t v = 0; v < d->n_values && st == QSAE_OK; v++) {
        const qsae_positions at = qsae__slices_positions(t->a, b, d, v, true, b->mask);
        st = qsae_metric_update_divergence(t->p->slices[d->first + v].divergence, &at, &rows);
        if (st == QSAE_OK && reference)
            st = qsae_metric_update_cross_entropy(
                t->a->participants[0].slices[d->first + v].cross_entropy, &at, b->rows, t->nll_r);
    }
    return st;
}

static int32_t replay_batch(struct replay *t, int64_t chunk, bool reference)
{
    qsae_audit *const a = t->a;
    const int64_t from = t->next;
    bool all;
    int32_t st = replay_fill(t, chunk);
    const int64_t kept = qsae__divergence_kept(t->p->divergence, &all);
    for (int64_t i = 0; i < a->slices->n_dimensions && st == QSAE_OK; i++) {
        const struct slice_dimension *const d = &a->slices->dimensions[i];
        for (int64_t k = from; k < t->next; k++) {
            const int64_t token = qsae__divergence_token(t->p->divergence, k).token;
            const int64_t r = token - t->batch.first_token;
            t->slot[i * kept + k] =
                (int16_t)(r < 0 ? -1 : qsae__slice_value(d, &t->batch, r, true));
            t->own[i * kept + k] =
                (int16_t)(r < 0 ? -1 : qsae__slice_value(d, &t->batch, r, false));
            t->token[k] = token;
        }
        if (d->late)
            st = replay_update(t, d, reference);
    }
    return st;
}

/* Quantiles of the kept tokens of each value of a dimension. v [2, kept] is scratch. */
static void tails(const struct replay *t, int64_t dimension, double *v, struct slice_extra *extra)
{
    const struct slice_dimension *const d = &t->a->slices->dimensions[dimension];
    bool all;
    const int64_t kept = qsae__divergence_kept(t->p->divergence, &all);
    const int16_t *const slot = t->slot + dimension * kept;
    for (int32_t value = 0; value < d->n_values; value++) {
        struct slice_extra *const out = &extra[d->first + value];
        int64_t n_kl = 0, n_d = 0;
        qsae__tail tail;
        for (int64_t k = 0; k < t->next; k++) {
            if (slot[k] != value)
                continue;
            const qsae__token token = qsae__divergence_token(t->p->divergence, k);
            v[n_d++] = (double)token.nll_q - (double)token.nll_r;
            v[kept + n_kl] = token.kl;
            n_kl += !isnan(token.kl);
        }
        qsort(v, (size_t)n_d, sizeof *v, qsae__by_value);
        qsort(v + kept, (size_t)n_kl, sizeof *v, qsae__by_value);
        qsae__tail_sorted(v, n_d, &tail);
        out->dnll_q99 = tail.q99;
        qsae__tail_sorted(v + kept, n_kl, &tail);
        out->kl_median = tail.median;
        out->kl_q99 = tail.q99;
    }
}

/* reference: its metrics and where the tokens' rows belong come with this condition. */
static int32_t replay_run(qsae_audit *a, struct participant *p, bool reference,
                          struct slice_extra *extra)
{
    struct replay t;
    bool all;
    int32_t st = replay_open(a, p, &t);
    const int64_t kept = qsae__divergence_kept(p->divergence, &all);
    double *const v = qsae__calloc(a->ctx, kept, 2 * sizeof *v);
    if (!v)
        st = QSAE_ENOMEM;
    for (int64_t chunk = 0, n = 1; chunk < a->corpus_info.chunks && st == QSAE_OK; chunk += n) {
        const bool seen = qsae__covered_by(a, p, chunk); /* ranges are whole batches */
        if (seen)
            st = replay_batch(&t, chunk, reference);
        n = seen ? t.batch.n_seq : 1;
    }
    for (int64_t i = 0; i < a->slices->n_dimensions && st == QSAE_OK; i++)
        tails(&t, i, v, extra);
    if (st == QSAE_OK && reference)
        st = qsae__slices_rows(a, &(const struct slice_places){ t.next, t.token, t.own, kept });
    qsae__free(a->ctx, v);
    replay_close(&t);
    return st;
}

/* ---- borders ---- */

/* The condition that has kept most: its tokens say where the quintiles lie. */
static struct participant *richest(const qsae_audit *a)
{
    struct participant *best = NULL;
    int64_t most = -1;
    bool all;
    for (int64_t i = 1; i < a->n_participants; i++) {
        const int64_t n = qsae__divergence_kept(a->participants[i].divergence, &all);
        if (n > most)
            best = &a->participants[i];
        most = qsae__max_i64(n, most);
    }
    return best;
}

static void set_edges(struct slice_dimension *d, const double *sorted, int64_t n)
{
    for (int32_t f = 0; f < d->n_factors; f++)
        set_edges(&d->factors[f], sorted, n);
    for (int i = 0; d->kind == QSAE__SLICE_ENTROPY && d->late && i < QSAE__QUINTILES - 1;
         i++)
        d->edges[i] = qsae__quantile(sorted, n, (i + 1) / (double)QSAE__QUINTILES);
}

static int32_t find_edges(qsae_audit *a, const struct participant *source)
{
    bool all;
    const int64_t kept = qsae__divergence_kept(source->divergence, &all);
    double *const v = qsae__alloc_array(a->ctx, kept, sizeof *v);
    int64_t n = 0;
    if (!v)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < kept; i++) {
        v[n] = qsae__divergence_token(source->divergence, i).entropy_r;
        n += isfinite(v[n]);
    }
    qsort(v, (size_t)n, sizeof *v, qsae__by_value);
    for (int64_t i = 0; i < a->slices->n_dimensions; i++)
        set_edges(&a->slices->dimensions[i], v, n);
    qsae__free(a->ctx, v);
    return QSAE_OK;
}

static void reset_late(qsae_audit *a, struct participant *p)
{
    for (int64_t i = 0; i < a->slices->n_dimensions; i++) {
        const struct slice_dimension *const d = &a->slices->dimensions[i];
        for (int32_t v = 0; d->late && v < d->n_values; v++) {
            qsae_metric_reset(p->slices[d->first + v].cross_entropy);
            qsae_metric_reset(p->slices[d->first + v].divergence);
        }
    }
}

void qsae__slices_late_close(qsae_audit *a)
{
    struct audit_slices *const s = a->slices;
    for (int64_t i = 0; s->extra && i < (a->n_participants - 1) * s->n; i++)
        qsae__free(a->ctx, s->extra[i].saes);
    qsae__free(a->ctx, s->extra);
    s->extra = NULL;
    qsae__slices_rows_close(a);
}

int32_t qsae__slices_late(qsae_audit *a)
{
    struct audit_slices *const s = a->slices;
    struct participant *const source = richest(a);
    qsae__slices_late_close(a);
    s->extra = qsae__calloc(a->ctx, (a->n_participants - 1) * s->n, sizeof *s->extra);
    if (!s->extra)
        return QSAE_ENOMEM;
    int32_t st = source ? find_edges(a, source) : QSAE_OK;
    reset_late(a, &a->participants[0]);
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++) {
        struct participant *const p = &a->participants[i];
        struct slice_extra *const extra = s->extra + (i - 1) * s->n;
        reset_late(a, p);
        st = replay_run(a, p, p == source, extra);
    }
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++)
        st = qsae__slices_survival(a, &a->participants[i], s->extra + (i - 1) * s->n);
    return st;
}
