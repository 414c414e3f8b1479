/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sparse rows of both models side by side (methods.md 6): sums per feature, and how far the active
 * sets of a token agree. Everything that is equal on both sides gives exactly 1.
 */
#include "metrics/parts.h"

#define TOP 10

/* The largest activations above 0 of a row, descending; of equal ones the lower index first. */
struct leaders {
    int n;
    float value[TOP];
    int32_t index[TOP];
};

static void lead(struct leaders *l, float value, int32_t index)
{
    if (!(value > 0) || (l->n == TOP && value <= l->value[TOP - 1]))
        return;
    int at = l->n < TOP ? l->n++ : TOP - 1;
    for (; at > 0 && value > l->value[at - 1]; at--) {
        l->value[at] = l->value[at - 1];
        l->index[at] = l->index[at - 1];
    }
    l->value[at] = value;
    l->index[at] = index;
}

/* Share of the longer list that is in both. */
static double common_leaders(const struct leaders *a, const struct leaders *b)
{
    int common = 0;
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < b->n; k++)
            common += a->index[i] == b->index[k];
    return (double)common / (double)(a->n > b->n ? a->n : b->n);
}

void qsae__agreement_row(const qsae_sparse_rows *r, const qsae_sparse_rows *q, int64_t t,
                         double *features, double *tokens)
{
    int64_t i = r->indptr[t], j = q->indptr[t];
    const int64_t i_end = r->indptr[t + 1], j_end = q->indptr[t + 1];
    double xx = 0, yy = 0, xy = 0, both = 0, either = 0;
    struct leaders lead_r = { .n = 0 }, lead_q = { .n = 0 };
    while (i < i_end || j < j_end) {
        const int32_t fr = i < i_end ? r->indices[i] : INT32_MAX,
                      fq = j < j_end ? q->indices[j] : INT32_MAX, f = fr < fq ? fr : fq;
        const float vx = fr == f ? r->values[i++] : 0, vy = fq == f ? q->values[j++] : 0;
        const double x = vx, y = vy;
        double *const s = features + QSAE__F_SUMS * (int64_t)f;
        s[QSAE__F_X] += x;
        s[QSAE__F_Y] += y;
        s[QSAE__F_XX] += x * x;
        s[QSAE__F_YY] += y * y;
        s[QSAE__F_XY] += x * y;
        s[QSAE__F_DD] += (y - x) * (y - x);
        xx += x * x;
        yy += y * y;
        xy += x * y;
        both += vx > 0 && vy > 0;
        either += vx > 0 || vy > 0;
        lead(&lead_r, vx, f);
        lead(&lead_q, vy, f);
    }
    if (either > 0) {
        tokens[QSAE__T_EITHER] += 1;
        tokens[QSAE__T_JACCARD] += both / either;
        tokens[QSAE__T_TOP] += common_leaders(&lead_r, &lead_q);
    }
    if (xx > 0 && yy > 0) {
        tokens[QSAE__T_BOTH] += 1;
        tokens[QSAE__T_COSINE] += xy / sqrt(xx * yy);
    }
}

double qsae__agreement_r_on(const double *s, double n)
{
    /* Rounding leaves a constant feature with a little variance. */
    const double x = s[QSAE__F_XX] - s[QSAE__F_X] * s[QSAE__F_X] / n,
                 y = s[QSAE__F_YY] - s[QSAE__F_Y] * s[QSAE__F_Y] / n;
    const double least = 1e-13;
    if (!(n > 0) || !(x > least * s[QSAE__F_XX]) || !(y > least * s[QSAE__F_YY]))
        return NAN;
    const double r = (s[QSAE__F_XY] - s[QSAE__F_X] * s[QSAE__F_Y] / n) / sqrt(x * y);
    return r < -1 ? -1 : r > 1 ? 1 : r;
}

/* Entries of a that are in b, by token. */
static int64_t common_tokens(const qsae__top *a, const qsae__top *b, int64_t n)
{
    int64_t common = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < n; k++)
            common += a[i].value > 0 && b[k].value > 0 && a[i].token == b[k].token;
    return common;
}

double qsae__agreement_top(const qsae_metric *m, int64_t feature)
{
    const qsae__top *const r = m->state.top + 2 * feature * m->top, *const q = r + m->top;
    int64_t n_r = 0, n_q = 0;
    while (n_r < QSAE__OVERLAP_TOP && r[n_r].value > 0)
        n_r++;
    while (n_q < QSAE__OVERLAP_TOP && q[n_q].value > 0)
        n_q++;
    return qsae__ratio((double)common_tokens(r, q, QSAE__OVERLAP_TOP),
                       (double)qsae__max_i64(n_r, n_q));
}
