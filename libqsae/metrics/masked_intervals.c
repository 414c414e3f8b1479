/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Intervals of the FVU on a part of the rows. Documents' sums are kept over all rows alone, so
 * those over a part are made of the rows that are kept: all of them while they fit the budget, a
 * sample beyond, whose interval is then put around the figure of all rows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/intervals.h"
#include "metrics/reconstruction.h"

enum { M_N, M_SSE, M_S2, M_S1, M_ENERGY, M_SUMS };

/* A kept row and its document. */
struct place {
    int64_t document, row;
};

static int by_document(const void *a, const void *b)
{
    const struct place *const p = a, *const q = b;
    if (p->document != q->document)
        return p->document < q->document ? -1 : 1;
    return (p->row > q->row) - (p->row < q->row);
}

static double fvu_dim_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[M_SSE], s[M_ENERGY]);
}

static double fvu_scalar_of(const qsae_metric *m, const double *s)
{
    return qsae__ratio(s[M_SSE], s[M_S2] - s[M_S1] * s[M_S1] / (s[M_N] * (double)m->d));
}

static double fvu_raw_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[M_SSE], s[M_S2]);
}

static const qsae__interval list[QSAE__MASKED] = {
    { "fvu_dim", fvu_dim_of, M_ENERGY, false, 0 },
    { "fvu_scalar", fvu_scalar_of, M_S2, false, 0 },
    { "fvu_raw", fvu_raw_of, M_S2, false, 0 },
};

/* Sums of each document from its rows, place [n] by document; mean, x [d]. */
static qsae__documents sum_documents(const qsae_metric *m, const struct place *place, int64_t n,
                                     const double *mean, double *x, int64_t *ids, double *sums)
{
    const qsae__sums_ops *const ops = qsae__sums_get(m->ctx);
    int64_t documents = 0;
    for (int64_t i = 0; i < n; i++) {
        const qsae__kept_row row = qsae__reconstruction_row(m, place[i].row);
        if (i == 0 || place[i].document != place[i - 1].document)
            ids[documents++] = place[i].document;
        double *const s = sums + (documents - 1) * M_SUMS;
        ops->widen(row.x, x, m->d);
        s[M_N] += 1;
        s[M_SSE] += row.sse;
        s[M_S2] += ops->dot(x, x, m->d);
        s[M_S1] += ops->sum(x, m->d);
        ops->sub(x, mean, x, m->d);
        s[M_ENERGY] += ops->dot(x, x, m->d);
    }
    return (qsae__documents){ documents, M_SUMS, M_SUMS, ids, sums };
}

/* Bounds around the figures of the sample, and those figures. */
static int32_t bounds_of(qsae_metric *m, const struct place *place, int64_t n, const double *mean,
                         double *x, double own[QSAE__MASKED], qsae__bounds b[QSAE__MASKED])
{
    double total[M_SUMS] = { 0 };
    int64_t *const ids = qsae__alloc_array(m->ctx, n, sizeof *ids);
    double *const sums = qsae__calloc(m->ctx, n, M_SUMS * sizeof *sums);
    int32_t st = ids && sums ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK) {
        const qsae__documents d = sum_documents(m, place, n, mean, x, ids, sums);
        for (int64_t i = 0; i < d.n; i++)
            for (int s = 0; s < M_SUMS; s++)
                total[s] += sums[i * M_SUMS + s];
        for (int i = 0; i < QSAE__MASKED; i++)
            own[i] = list[i].of(m, total);
        st = qsae__bootstrap(m, &d, list, own, QSAE__MASKED, b);
    }
    qsae__free(m->ctx, ids);
    qsae__free(m->ctx, sums);
    return st;
}

/* Rows of the part by document, and their mean; returns how many. */
static int64_t read_places(const qsae_metric *m, const uint8_t *keep, struct place *place,
                           double *mean, double *x)
{
    const qsae__sample *const s = &m->state.sample;
    const qsae__sums_ops *const ops = qsae__sums_get(m->ctx);
    int64_t n = 0;
    memset(mean, 0, (size_t)m->d * sizeof *mean);
    for (int64_t i = 0; i < s->n; i++) {
        if (!keep[i])
            continue;
        place[n++] = (struct place){ (int64_t)s->data[i * s->words + 1 + R_DOCUMENT], i };
        ops->widen(qsae__reconstruction_row(m, i).x, x, m->d);
        (void)ops->welford_sum(mean, x, 1 / (double)n, m->d);
    }
    qsort(place, (size_t)n, sizeof *place, by_document);
    return n;
}

int32_t qsae__masked_intervals(qsae_metric *m, qsae__values *v, const char *prefix,
                               const uint8_t *keep, const double value[QSAE__MASKED])
{
    struct place *const place = qsae__alloc_array(m->ctx, m->state.sample.n, sizeof *place);
    double *const mean = qsae__alloc_array(m->ctx, m->d, 2 * sizeof *mean);
    double own[QSAE__MASKED] = { 0 };
    qsae__bounds b[QSAE__MASKED] = { { 0 } };
    int32_t st = place && mean ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK) {
        double *const x = mean + m->d;
        const int64_t n = read_places(m, keep, place, mean, x);
        st = bounds_of(m, place, n, mean, x, own, b);
    }
    for (int i = 0; i < QSAE__MASKED && st == QSAE_OK; i++) {
        const double by = m->state.sample.stride == 1 ? 1 : qsae__ratio(value[i], own[i]);
        char name[64];
        snprintf(name, sizeof name, "%s%s", prefix, list[i].name);
        qsae__set_bounds(m, v, name, b[i].low * by, b[i].high * by, b[i].se * by);
    }
    qsae__free(m->ctx, place);
    qsae__free(m->ctx, mean);
    return st;
}
