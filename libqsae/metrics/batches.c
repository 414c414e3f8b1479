/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Variants of FVU that are defined over batches (sae.md C.2, V3 to V7): consecutive groups of
 * batch_rows tokens. The mean of a batch is needed before its rows can be looked at again, so rows
 * are kept until the batch is complete; a batch that comes in one update is computed from the
 * caller's rows. Either way the rows are read in token order, so cuts change no bit.
 */
#include <stdlib.h>
#include <string.h>

#include "metrics/parts.h"

/* Rows of one batch, from an update or from an open batch. */
typedef struct source {
    const qsae__sums_ops *ops;
    int64_t d, n;
    const double *stored;              /* or NULL: */
    const qsae__update *u;
    int64_t r0;
    double *buffer;                    /* [3 d] and d floats */
} source;

void qsae__batches_free(qsae_context *ctx, qsae__batches *b)
{
    qsae__tree_free(&b->done);
    for (int64_t i = 0; i < b->n; i++)
        qsae__free(ctx, b->open[i].rows);
    qsae__free(ctx, b->open);
    b->open = NULL;
    b->n = b->capacity = 0;
}

void qsae__batches_combine(const qsae_metric *m, double *a, const double *b)
{
    for (int64_t i = 0; i < B_MEAN + m->d; i++)
        a[i] += b[i];
}

/* Row i: false if it does not count. x is left in buffer[0..d], x - y in buffer[d..2d]. */
static bool get(const source *s, int64_t i)
{
    double *const x = s->buffer, *const r = x + s->d, *const y = r + s->d;
    if (s->stored) {
        const double *const row = s->stored + i * (1 + 2 * s->d) + 1;
        memcpy(x, row, (size_t)s->d * sizeof *x);
        memcpy(y, row + s->d, (size_t)s->d * sizeof *y);
    } else {
        const qsae__reconstruction_rows *const in = s->u->rows;
        if (s->u->state[s->r0 + i] != QSAE__ROW_COUNTED)
            return false;
        qsae__row_f64(s->ops, &in->x, s->r0 + i, x, (float *)(void *)(y + s->d));
        qsae__row_f64(s->ops, &in->y, s->r0 + i, y, (float *)(void *)(y + s->d));
    }
    s->ops->sub(x, y, r, s->d);
    return true;
}

/* Adds the batch to v [B_MEAN + d], zero before; mean_r [d] is scratch. */
static void batch_sums(const source *s, double *v, double *mean_r)
{
    double *const x = s->buffer, *const r = x + s->d;
    double n = 0, m2 = 0, m2_r = 0, sse = 0, energy = 0, ratios = 0;
    memset(v, 0, (size_t)(B_MEAN + s->d) * sizeof *v);
    memset(mean_r, 0, (size_t)s->d * sizeof *mean_r);
    for (int64_t i = 0; i < s->n; i++) {
        if (!get(s, i))
            continue;
        n += 1;
        m2 += s->ops->welford_sum(v + B_MEAN, x, 1 / n, s->d);
        m2_r += s->ops->welford_sum(mean_r, r, 1 / n, s->d);
        sse += s->ops->dot(r, r, s->d);
        energy += s->ops->dot(x, x, s->d);
    }
    if (n == 0)
        return;
    for (int64_t i = 0; i < s->n; i++) {
        if (!get(s, i))
            continue;
        const double e = s->ops->dot(r, r, s->d);
        s->ops->sub(x, v + B_MEAN, x, s->d);
        ratios += e / s->ops->dot(x, x, s->d);
    }
    v[B_BATCHES] = 1;
    v[B_ROWS] = n;
    v[B_V5] = ratios;
    v[B_V3] = sse / m2;
    v[B_V4] = m2_r / m2;
    v[B_R] = sse / n;
    v[B_S] = energy / n;
}

/* ---- updates ---- */

typedef struct touched {
    int64_t index, r0, r1;
    double *v;             /* sums, if the batch completes */
} touched;

typedef struct work {
    touched *batch;
    int64_t n;
    double *buffer;        /* x, r, y, mean_r [d] each, d floats */
} work;

static double *new_buffer(const qsae_metric *m)
{
    return qsae__alloc_array(m->ctx, 5 * m->d + 1, sizeof(double));
}

static qsae__open_batch *find(qsae__batches *b, int64_t index)
{
    for (int64_t i = 0; i < b->n; i++)
        if (b->open[i].index == index)
            return &b->open[i];
    return NULL;
}

qsae__open_batch *qsae__batches_open(qsae_metric *m, qsae__batches *b, int64_t index, int64_t rows)
{
    qsae__open_batch *o = find(b, index);
    if (!o) {
        if (qsae__grow(m->ctx, &b->open, &b->capacity, b->n + 1, sizeof *b->open) != QSAE_OK)
            return NULL;
        int64_t i = b->n++;
        for (; i > 0 && b->open[i - 1].index > index; i--)
            b->open[i] = b->open[i - 1];
        o = &b->open[i];
        *o = (qsae__open_batch){ .index = index };
    }
    const size_t size = (size_t)(1 + 2 * m->d) * sizeof *o->rows;
    return qsae__grow(m->ctx, &o->rows, &o->capacity, o->n + rows, size) == QSAE_OK ? o : NULL;
}

static void drop(qsae_metric *m, qsae__batches *b, qsae__open_batch *o)
{
    const int64_t i = o - b->open;
    qsae__free(m->ctx, o->rows);
    memmove(o, o + 1, (size_t)(b->n - i - 1) * sizeof *o);
    b->n--;
}

static bool whole(const qsae_metric *m, const touched *t)
{
    return t->r1 - t->r0 == m->batch_rows;
}

int32_t qsae__batches_prepare(qsae__update *u)
{
    qsae_metric *const m = u->m;
    qsae__batches *const b = &m->state.batches;
    work *const w = qsae__calloc(m->ctx, 1, sizeof *w);
    if (!w)
        return QSAE_ENOMEM;
    u->extra = w;
    const int64_t first = u->first / m->batch_rows;
    const int64_t n = (u->first + u->n - 1) / m->batch_rows - first + 1;
    w->buffer = new_buffer(m);
    w->batch = qsae__calloc(m->ctx, n, sizeof *w->batch);
    if (!w->buffer || !w->batch || qsae__tree_reserve(&b->done, n) != QSAE_OK)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        touched *const t = &w->batch[w->n++];
        const int64_t begin = (first + i) * m->batch_rows;
        t->index = first + i;
        t->r0 = qsae__max_i64(begin - u->first, 0);
        t->r1 = qsae__min_i64(begin + m->batch_rows - u->first, u->n);
        const int64_t rows = t->r1 - t->r0;
        const qsae__open_batch *o = whole(m, t) ? NULL : qsae__batches_open(m, b, t->index, rows);
        if (!whole(m, t) && !o)
            return QSAE_ENOMEM;
        if (whole(m, t) || o->seen + rows == m->batch_rows)
            if (!(t->v = qsae__alloc_array(m->ctx, b->done.width, sizeof *t->v)))
                return QSAE_ENOMEM;
    }
    return QSAE_OK;
}

/* Copies the counted rows of the update into an open batch. */
static void store(const qsae__update *u, const touched *t, qsae__open_batch *o, double *scratch)
{
    const qsae__reconstruction_rows *const in = u->rows;
    const qsae__sums_ops *const ops = qsae__sums_get(u->m->ctx);
    const int64_t d = u->m->d;
    for (int64_t r = t->r0; r < t->r1; r++) {
        if (u->state[r] != QSAE__ROW_COUNTED)
            continue;
        double *const row = o->rows + o->n++ * (1 + 2 * d);
        row[0] = (double)(u->first + r);
        qsae__row_f64(ops, &in->x, r, row + 1, (float *)(void *)scratch);
        qsae__row_f64(ops, &in->y, r, row + 1 + d, (float *)(void *)scratch);
    }
    o->seen += t->r1 - t->r0;
}

static void sort_rows(const qsae_metric *m, qsae__open_batch *o)
{
    const int64_t words = 1 + 2 * m->d;
    for (int64_t i = 1; i < o->n; i++)
        if (o->rows[i * words] < o->rows[(i - 1) * words]) {
            qsort(o->rows, (size_t)o->n, (size_t)words * sizeof *o->rows, qsae__by_value);
            return;
        }
}

/* Sums of a stored batch go to v, which the tree then owns. */
static void complete(qsae_metric *m, qsae__batches *b, qsae__open_batch *o, double *v,
                     double *buffer)
{
    const source s = { .ops = qsae__sums_get(m->ctx), .d = m->d, .n = o->n, .stored = o->rows,
                       .buffer = buffer };
    batch_sums(&s, v, buffer + 3 * m->d);
    qsae__tree_insert(&b->done, (qsae__node){ o->index * m->batch_rows, m->batch_rows, v });
    drop(m, b, o);
}

void qsae__batches_finish(qsae__update *u)
{
    qsae_metric *const m = u->m;
    qsae__batches *const b = &m->state.batches;
    work *const w = u->extra;
    for (int64_t i = 0; i < w->n; i++) {
        touched *const t = &w->batch[i];
        if (whole(m, t)) {
            /* The floats of a source lie behind its three rows: keep mean_r after them. */
            const source s = { .ops = qsae__sums_get(m->ctx), .d = m->d, .n = t->r1 - t->r0,
                               .u = u, .r0 = t->r0, .buffer = w->buffer };
            batch_sums(&s, t->v, w->buffer + 4 * m->d + 1);
            qsae__tree_insert(&b->done,
                              (qsae__node){ t->index * m->batch_rows, m->batch_rows, t->v });
        } else {
            qsae__open_batch *const o = find(b, t->index);
            store(u, t, o, w->buffer);
            sort_rows(m, o);
            if (t->v)
                complete(m, b, o, t->v, w->buffer);
        }
        t->v = NULL;
    }
}

void qsae__batches_cleanup(qsae__update *u)
{
    qsae_metric *const m = u->m;
    qsae__batches *const b = &m->state.batches;
    work *const w = u->extra;
    if (!w)
        return;
    for (int64_t i = 0; i < w->n; i++) {
        qsae__open_batch *const o = find(b, w->batch[i].index);
        qsae__free(m->ctx, w->batch[i].v);
        if (o && o->seen == 0) /* prepared, then the update failed */
            drop(m, b, o);
    }
    qsae__free(m->ctx, w->batch);
    qsae__free(m->ctx, w->buffer);
    qsae__free(m->ctx, w);
    u->extra = NULL;
}

/* ---- merging and reading ---- */

int32_t qsae__batches_add(qsae_metric *m, qsae__batches *to, const qsae__batches *from)
{
    int32_t st = qsae__tree_add(&to->done, &from->done);
    if (st == QSAE_OK)
        st = qsae__tree_reserve(&to->done, from->n);
    double *const buffer = new_buffer(m);
    if (!buffer)
        st = QSAE_ENOMEM;
    for (int64_t i = 0; i < from->n && st == QSAE_OK; i++) {
        const qsae__open_batch *const f = &from->open[i];
        const int64_t words = 1 + 2 * m->d;
        qsae__open_batch *const o = qsae__batches_open(m, to, f->index, f->n);
        const bool completes = o && o->seen + f->seen == m->batch_rows;
        double *const v = completes ? qsae__alloc_array(m->ctx, to->done.width, sizeof *v) : NULL;
        if (!o || (completes && !v)) {
            st = QSAE_ENOMEM;
            break;
        }
        if (f->n)
            memcpy(o->rows + o->n * words, f->rows, (size_t)(f->n * words) * sizeof *o->rows);
        o->n += f->n;
        o->seen += f->seen;
        sort_rows(m, o);
        if (v)
            complete(m, to, o, v, buffer);
    }
    qsae__free(m->ctx, buffer);
    return st;
}

int32_t qsae__batches_fold(qsae_metric *m, double **out)
{
    const qsae__batches *const b = &m->state.batches;
    double *const buffer = new_buffer(m), *sum = NULL;
    double *const v = qsae__alloc_array(m->ctx, B_MEAN + m->d, sizeof *v);
    int32_t st = buffer && v ? qsae__tree_fold(&b->done, &sum) : QSAE_ENOMEM;
    for (int64_t i = 0; i < b->n && st == QSAE_OK; i++) {
        const source s = { .ops = qsae__sums_get(m->ctx), .d = m->d, .n = b->open[i].n,
                           .stored = b->open[i].rows, .buffer = buffer };
        batch_sums(&s, v, buffer + 3 * m->d);
        qsae__batches_combine(m, sum, v);
    }
    qsae__free(m->ctx, buffer);
    qsae__free(m->ctx, v);
    if (st == QSAE_OK)
        *out = sum;
    return st;
}
