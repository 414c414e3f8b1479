/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a few tokens of huge norm do to the sums (methods.md 2.9 and 4): attention sinks have 10 to
 * 1000 times the usual norm and rule every figure that divides by energy. The median norm is known
 * only at the end, so these figures are taken from the rows that are kept: all of them while they
 * fit the budget, a sample beyond.
 */
#include <stdlib.h>
#include <string.h>

#include "metrics/reconstruction.h"

#define SINK 10 /* times the median norm */

/* A kept row: |x|^2 and |r|^2. */
struct energy {
    double xx, rr;
    int64_t record;
};

static const float *row_of(const qsae__sample *s, int64_t i)
{
    return (const float *)(const void *)(s->data + i * s->words + 1 + R_X);
}

static int by_energy(const void *a, const void *b)
{
    const struct energy *const p = a, *const q = b;
    if (p->xx != q->xx)
        return p->xx < q->xx ? 1 : -1;
    return (p->record > q->record) - (p->record < q->record);
}

/* e [n]; x [d] is scratch. */
static void read_energies(const qsae_metric *m, struct energy *e, double *x)
{
    const qsae__sample *const s = &m->state.sample;
    for (int64_t i = 0; i < s->n; i++) {
        const float *const row = row_of(s, i);
        for (int64_t j = 0; j < m->d; j++)
            x[j] = row[j];
        e[i].xx = qsae__dot(x, x, m->d);
        memcpy(&e[i].rr, &s->data[i * s->words + 1 + R_SSE], sizeof e[i].rr);
        e[i].record = i;
    }
}

/* Share of sum |x|^2 in the 0.1% of rows with the largest |x|, at least one. e is sorted. */
static double share_of_top(const struct energy *e, int64_t n)
{
    const int64_t top = qsae__max_i64(1, (n + 500) / 1000);
    double part = 0, all = 0;
    for (int64_t i = n; i-- > 0;) {
        all += e[i].xx;
        part += i < top ? e[i].xx : 0;
    }
    return qsae__ratio(part, all);
}

/* Figures of the rows with |x| <= SINK median |x|, in token order; keep [n] says which. fvu:
 * receives those with an interval. */
static void set_without(qsae_metric *m, const struct energy *e, const uint8_t *keep, int64_t n,
                        double *mean, double *x, qsae__values *v, double fvu[QSAE__MASKED])
{
    const qsae__sample *const s = &m->state.sample;
    const double d = (double)m->d;
    double rows = 0, sse = 0, s2 = 0, s1 = 0, m2 = 0;
    memset(mean, 0, (size_t)m->d * sizeof *mean);
    for (int64_t i = 0; i < n; i++) {
        if (!keep[i])
            continue;
        const float *const row = row_of(s, i);
        rows += 1;
        sse += e[i].rr;
        s2 += e[i].xx;
        for (int64_t j = 0; j < m->d; j++)
            mean[j] += row[j];
    }
    s1 = qsae__sum(mean, m->d);
    for (int64_t j = 0; j < m->d && rows > 0; j++)
        mean[j] /= rows;
    for (int64_t i = 0; i < n; i++) {
        if (!keep[i])
            continue;
        const float *const row = row_of(s, i);
        for (int64_t j = 0; j < m->d; j++)
            x[j] = row[j] - mean[j];
        m2 += qsae__dot(x, x, m->d);
    }
    const double g = s1 / (rows * d); /* scalar variance about one mean, without cancellation */
    double shift = 0;
    for (int64_t j = 0; j < m->d; j++)
        shift += (mean[j] - g) * (mean[j] - g);
    fvu[0] = qsae__ratio(sse, m2);
    fvu[1] = qsae__ratio(sse, m2 + rows * shift);
    fvu[2] = qsae__ratio(sse, s2);
    qsae__set(m, v, "no_sinks/tokens", rows);
    qsae__set(m, v, "no_sinks/fvu_dim", fvu[0]);
    qsae__set(m, v, "no_sinks/fvu_scalar", fvu[1]);
    qsae__set(m, v, "no_sinks/fvu_raw", fvu[2]);
    qsae__set(m, v, "no_sinks/mse", qsae__ratio(sse, rows * d));
    qsae__set(m, v, "no_sinks/mse_token", qsae__ratio(sse, rows));
}

int32_t qsae__sinks_compute(qsae_metric *m, qsae__values *v)
{
    const int64_t n = m->state.sample.n;
    struct energy *const e = qsae__alloc_array(m->ctx, n, sizeof *e);
    struct energy *const sorted = qsae__alloc_array(m->ctx, n, sizeof *sorted);
    uint8_t *const keep = qsae__alloc_array(m->ctx, n, 1);
    double *const x = qsae__alloc_array(m->ctx, m->d, sizeof *x);
    double *const mean = qsae__alloc_array(m->ctx, m->d, sizeof *mean);
    int32_t st = e && sorted && keep && x && mean ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK && n > 0) {
        double fvu[QSAE__MASKED];
        read_energies(m, e, x);
        memcpy(sorted, e, (size_t)n * sizeof *e);
        qsort(sorted, (size_t)n, sizeof *sorted, by_energy);
        const double a = sqrt(sorted[(n - 1) / 2].xx), b = sqrt(sorted[n / 2].xx);
        const double limit = SINK * ((a + b) / 2);
        double sinks = 0;
        for (int64_t i = 0; i < n; i++) {
            keep[i] = sqrt(e[i].xx) <= limit;
            sinks += !keep[i];
        }
        qsae__set(m, v, "median_norm_in", (a + b) / 2);
        qsae__set(m, v, "sink_tokens", sinks);
        qsae__set(m, v, "share_x2_top_0p1pct", share_of_top(sorted, n));
        set_without(m, e, keep, n, mean, x, v, fvu);
        st = qsae__masked_intervals(m, v, "no_sinks/", keep, fvu);
    }
    void *const blocks[] = { e, sorted, keep, x, mean };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(m->ctx, blocks[i]);
    return st;
}
