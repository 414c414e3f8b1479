/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Activation mass per feature, sum |f| over the counted rows: where in the text a feature lives
 * (methods.md section 8). Sums are whole numbers of 96 bits in units of 2^-32, so they depend on no
 * order and cost 16 bytes per feature. The largest one says "this much or more".
 */
#include "metrics/mass.h"

#include <math.h>

#include "metrics/parts.h"

#define UNIT 0x1p-32
#define MOST 2147483647.0f /* larger activations count as this */

static const qsae__result results[] = { QSAE__COMMON_RESULTS };

static int64_t width(const qsae_metric *m)
{
    (void)m;
    return S_HEAD;
}

/* Per feature the sum's low 32 bits and its high 64. */
static int64_t n_counts(const qsae_metric *m)
{
    return 2 * m->features;
}

static void add(uint64_t *to, uint64_t low, uint64_t high)
{
    const uint64_t carry = (to[0] += low) >> 32; /* each is below 2^32 */
    to[0] &= UINT32_MAX;
    if (high > UINT64_MAX - carry || to[1] > UINT64_MAX - (high + carry)) {
        to[0] = UINT32_MAX;
        to[1] = UINT64_MAX;
    } else {
        to[1] += high + carry;
    }
}

static void add_counts(const qsae_metric *m, uint64_t *to, const uint64_t *from)
{
    for (int64_t f = 0; f < m->features; f++)
        add(to + 2 * f, from[2 * f], from[2 * f + 1]);
}

static bool counts_valid(const qsae_metric *m, const uint64_t *counts, uint64_t rows)
{
    bool ok = true;
    (void)rows;
    for (int64_t f = 0; f < m->features; f++)
        ok = ok && counts[2 * f] <= UINT32_MAX;
    return ok;
}

static void combine(const qsae_metric *m, double *a, const double *b)
{
    (void)m;
    for (int64_t i = 0; i < S_HEAD; i++)
        a[i] += b[i];
}

static enum qsae__row_state row(const qsae__update *u, int64_t t, double *v, double *out,
                                double *scratch)
{
    const qsae_sparse_rows *const s = u->rows;
    (void)v;
    (void)out;
    (void)scratch;
    for (int64_t e = s->indptr[t]; e < s->indptr[t + 1]; e++)
        if (!isfinite(s->values[e]))
            return QSAE__ROW_NONFINITE;
    return QSAE__ROW_COUNTED;
}

static void finish(qsae__update *u)
{
    const qsae_sparse_rows *const s = u->rows;
    for (int64_t t = 0; t < u->n; t++)
        for (int64_t e = s->indptr[t]; u->state[t] == QSAE__ROW_COUNTED && e < s->indptr[t + 1];
             e++) {
            const float size = fabsf(s->values[e]);
            const uint64_t sum = (uint64_t)((double)(size < MOST ? size : MOST) / UNIT + 0.5);
            add(u->m->state.counts + 2 * (int64_t)s->indices[e], sum & UINT32_MAX, sum >> 32);
        }
}

static int32_t compute(qsae_metric *m, const double *sum, qsae__values *v)
{
    (void)m;
    (void)sum;
    (void)v;
    return QSAE_OK;
}

const qsae__kind qsae__kind_mass = {
    .name = "mass", .number = 12, .results = results,
    .n_results = sizeof results / sizeof results[0], .width = width, .n_counts = n_counts,
    .combine = combine, .compute = compute, .add_counts = add_counts, .counts_valid = counts_valid,
};

int32_t qsae__mass_open(qsae_context *ctx, int64_t features, const qsae_metric_settings *s,
                        qsae_metric **out)
{
    return qsae__metric_open(ctx, &qsae__kind_mass, 0, features, s, out);
}

int32_t qsae__mass_update(qsae_metric *metric, const qsae_positions *at,
                          const qsae_sparse_rows *acts)
{
    qsae_sparse_rows in;
    int32_t st = qsae__metric_check(metric, &qsae__kind_mass, "qsae__mass_update");
    if (st == QSAE_OK)
        st = qsae__sparse_check(acts, &in, -1, metric->features, "acts");
    if (st != QSAE_OK)
        return st;
    qsae__update u = { .m = metric, .n = in.n, .rows = &in, .row = row, .finish = finish };
    return qsae__update_run(&u, at);
}

void qsae__mass_get(const qsae_metric *metric, double *mass)
{
    for (int64_t f = 0; f < metric->features; f++)
        mass[f] = (double)metric->state.counts[2 * f + 1] +
                  (double)metric->state.counts[2 * f] * UNIT;
}
