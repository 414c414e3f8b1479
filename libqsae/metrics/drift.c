/* SPDX-License-Identifier: BSD-2-Clause */
/* Noise floor: residual drift against reconstruction error (methods.md 2.6, section 4). */
#include <stdlib.h>
#include <string.h>

#include "metrics/intervals.h"
#include "metrics/reconstruction.h"

/* r_r = x_r - y_r, r_q = x_q - y_q, d = x_q - x_r, E = y_q - y_r, e = d - E. Sums of squares; then
 * the means of d, x_r, r_q, x_q, [d] each. */
enum {
    V_XR2 = S_HEAD, V_XQ2, V_D2, V_D, V_M2_D, V_M2_XR,
    V_Y_N, V_RR2, V_RQ2, V_M2_RQ, V_M2_XQ, V_E2, V_REST2, V_CROSS, V_FIXED, V_VECTORS
};
enum { P_N, P_XR2, P_XQ2, P_D2, P_RR2, P_RQ2, P_E2, P_REST2, P_CROSS, P_SUMS };
enum { O_RATIO = P_SUMS, O_WORDS };
/* Record: the token's ratio (f64), its document. */
enum { R_RATIO_BITS, R_OF, R_WORDS };

static const qsae__result results[] = {
    QSAE__COMMON_RESULTS,
    { "P", "1", "sqrt(sum |d|^2 / sum |x_r|^2), d = x_q - x_r" },
    { "P_centered", "1", "sqrt(sum |d-mean d|^2 / sum |x_r-mean x_r|^2)" },
    { "mean_delta_norm", "1", "mean |d|" },
    { "mse_delta", "1", "sum |d|^2 / (tokens width)" },
    { "sum_delta2", "1", "sum |d|^2" },
    { "R_q", "1", "sqrt(sum |x_q-y_q|^2 / sum |x_q|^2)" },
    { "R_r", "1", "sqrt(sum |x_r-y_r|^2 / sum |x_r|^2)" },
    { "R_q_centered", "1", "R_q with the means subtracted in both sums" },
    { "ratio", "1", "P / R_q: drift in units of the SAE's own error" },
    { "ratio_residual_r", "1", "P / R_r" },
    { "ratio_centered", "1", "P_centered / R_q_centered" },
    { "ratio_squared", "1", "P^2 / R_q^2" },
    { "ratio_token_median", "1", "median over tokens of |d| / |x_q-y_q|" },
    { "mse_q", "1", "sum |x_q-y_q|^2 / (tokens width)" },
    { "fixed_basis_sse", "1", "sum |x_r-y_q|^2" },
    { "share_E", "1", "sum |E|^2 / sum |d|^2, E = y_q - y_r: drift the features show" },
    { "share_e", "1", "sum |d-E|^2 / sum |d|^2: drift they do not show" },
    { "share_cross", "1", "2 sum <E, d-E> / sum |d|^2; the three shares add up to 1" },
    { "token_median_sample", "tokens", "tokens that ratio_token_median is taken from" },
};

typedef struct input {
    qsae_rows x_r, x_q, y_r, y_q;
    bool has_y;
} input;

static int64_t width(const qsae_metric *m)
{
    return V_VECTORS + 4 * m->d;
}

static int64_t record_words(const qsae_metric *m)
{
    (void)m;
    return R_WORDS;
}

static void combine(const qsae_metric *m, double *a, const double *b)
{
    static const struct {
        uint8_t n, m2;
    } moments[4] = { { S_ROWS, V_M2_D }, { S_ROWS, V_M2_XR }, { V_Y_N, V_M2_RQ },
                   { V_Y_N, V_M2_XQ } };
    double grown[4];
    for (int64_t i = 0; i < 4; i++)
        grown[i] = qsae__chan(a[moments[i].n], a + V_VECTORS + i * m->d, NULL, b[moments[i].n],
                              b + V_VECTORS + i * m->d, NULL, m->d);
    for (int64_t i = 0; i < V_VECTORS; i++)
        a[i] += b[i];
    for (int64_t i = 0; i < 4; i++)
        a[moments[i].m2] += grown[i];
}

/* out = a - b; returns |a - b|^2. */
static double difference(const qsae__sums_ops *ops, const double *a, const double *b, double *out,
                         int64_t d)
{
    ops->sub(a, b, out, d);
    return ops->dot(out, out, d);
}

/* scratch: x_r, x_q, y_r, y_q, delta, t, u [d] each, d floats */
static enum qsae__row_state row(const qsae__update *u, int64_t t, double *v, double *out,
                                double *scratch)
{
    const input *const in = u->rows;
    const qsae__sums_ops *const ops = qsae__sums_get(u->m->ctx);
    const int64_t d = u->m->d;
    double *const x_r = scratch, *const x_q = x_r + d, *const y_r = x_q + d, *const y_q = y_r + d;
    double *const delta = y_q + d, *const a = delta + d, *const b = a + d;
    float *const f = (float *)(void *)(b + d);
    qsae__row_f64(ops, &in->x_r, t, x_r, f);
    qsae__row_f64(ops, &in->x_q, t, x_q, f);
    if (in->has_y) {
        qsae__row_f64(ops, &in->y_r, t, y_r, f);
        qsae__row_f64(ops, &in->y_q, t, y_q, f);
    }
    const double xr2 = ops->dot(x_r, x_r, d), xq2 = ops->dot(x_q, x_q, d);
    const double d2 = difference(ops, x_q, x_r, delta, d);
    if (!isfinite(xr2) || !isfinite(xq2) || !isfinite(d2) ||
        (in->has_y && !isfinite(ops->dot(y_r, y_r, d) + ops->dot(y_q, y_q, d))))
        return QSAE__ROW_NONFINITE;
    const double inv = 1 / (v[S_ROWS] + 1);
    v[V_XR2] += xr2;
    v[V_XQ2] += xq2;
    v[V_D2] += d2;
    v[V_D] += sqrt(d2);
    v[V_M2_D] += ops->welford_sum(v + V_VECTORS, delta, inv, d);
    v[V_M2_XR] += ops->welford_sum(v + V_VECTORS + d, x_r, inv, d);
    out[P_N] = 1;
    out[P_XR2] = xr2;
    out[P_XQ2] = xq2;
    out[P_D2] = d2;
    out[O_RATIO] = NAN;
    if (!in->has_y)
        return QSAE__ROW_COUNTED;
    v[V_Y_N] += 1;
    out[P_RR2] = difference(ops, x_r, y_r, a, d);
    out[P_RQ2] = difference(ops, x_q, y_q, a, d);
    v[V_RR2] += out[P_RR2];
    v[V_RQ2] += out[P_RQ2];
    v[V_M2_RQ] += ops->welford_sum(v + V_VECTORS + 2 * d, a, inv, d);
    v[V_M2_XQ] += ops->welford_sum(v + V_VECTORS + 3 * d, x_q, inv, d);
    v[V_FIXED] += difference(ops, x_r, y_q, a, d);
    out[P_E2] = difference(ops, y_q, y_r, a, d);
    out[P_REST2] = difference(ops, delta, a, b, d);
    out[P_CROSS] = ops->dot(a, b, d);
    v[V_E2] += out[P_E2];
    v[V_REST2] += out[P_REST2];
    v[V_CROSS] += out[P_CROSS];
    if (out[P_RQ2] > 0)
        out[O_RATIO] = sqrt(d2) / sqrt(out[P_RQ2]);
    return QSAE__ROW_COUNTED;
}

static void record(const qsae__update *u, int64_t t, const double *out, uint64_t *words)
{
    memcpy(&words[R_RATIO_BITS], &out[O_RATIO], sizeof *words);
    words[R_OF] = u->document ? (uint64_t)u->document[t] : 0;
}

static double p_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return sqrt(qsae__ratio(s[P_D2], s[P_XR2]));
}

static double r_q_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return sqrt(qsae__ratio(s[P_RQ2], s[P_XQ2]));
}

static double r_r_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return sqrt(qsae__ratio(s[P_RR2], s[P_XR2]));
}

static double ratio_of(const qsae_metric *m, const double *s)
{
    return qsae__ratio(p_of(m, s), r_q_of(m, s));
}

static double ratio_r_of(const qsae_metric *m, const double *s)
{
    return qsae__ratio(p_of(m, s), r_r_of(m, s));
}

static double squared_of(const qsae_metric *m, const double *s)
{
    return ratio_of(m, s) * ratio_of(m, s);
}

static double share_of_E(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[P_E2], s[P_D2]);
}

static double share_of_e(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[P_REST2], s[P_D2]);
}

static double share_of_cross(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(2 * s[P_CROSS], s[P_D2]);
}

/* A token of the sample. */
struct token_ratio {
    double ratio;
    int64_t document;
};

static int by_ratio(const void *a, const void *b)
{
    const struct token_ratio *const p = a, *const q = b;
    return (p->ratio > q->ratio) - (p->ratio < q->ratio);
}

static int by_document(const void *a, const void *b)
{
    const struct token_ratio *const p = a, *const q = b;
    return (p->document > q->document) - (p->document < q->document);
}

static double share_below(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[1], s[0]);
}

/*
 * Interval of the median by Woodruff (1952): the interval of the share of tokens below it, over
 * documents, read off the tokens' distribution. all [n] is left by document; sorted [n].
 */
static int32_t median_interval(qsae_metric *m, qsae__values *v, struct token_ratio *all,
                               const double *sorted, int64_t n, double median)
{
    static const qsae__interval below = { .name = "ratio_token_median", .of = share_below };
    double *const sums = qsae__calloc(m->ctx, n, 2 * sizeof *sums);
    int64_t *const ids = qsae__alloc_array(m->ctx, n, sizeof *ids);
    int64_t documents = 0, least = 0, equal = 0;
    qsae__bounds b = { NAN, NAN, NAN };
    int32_t st = sums && ids ? QSAE_OK : QSAE_ENOMEM;
    qsort(all, (size_t)n, sizeof *all, by_document);
    for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
        if (i == 0 || all[i].document != all[i - 1].document)
            ids[documents++] = all[i].document;
        double *const s = sums + 2 * (documents - 1);
        s[0] += 1;
        s[1] += all[i].ratio < median ? 1 : all[i].ratio == median ? 0.5 : 0;
        least += all[i].ratio < median;
        equal += all[i].ratio == median;
    }
    const double share = ((double)least + 0.5 * (double)equal) / (double)n;
    const qsae__documents d = { documents, 2, 2, ids, sums };
    if (st == QSAE_OK)
        st = qsae__bootstrap(m, &d, &below, &share, 1, &b);
    if (st == QSAE_OK && isfinite(b.low) && isfinite(b.high)) {
        const double low = fmax(0.5 - (b.high - share), 0), high = fmin(0.5 + share - b.low, 1);
        qsae__set_bounds(m, v, below.name, qsae__quantile(sorted, n, low),
                         qsae__quantile(sorted, n, high), NAN);
    } else if (st == QSAE_OK) {
        qsae__set_bounds(m, v, below.name, NAN, NAN, NAN);
    }
    qsae__free(m->ctx, sums);
    qsae__free(m->ctx, ids);
    return st;
}

static int32_t compute_median(qsae_metric *m, qsae__values *v)
{
    const qsae__sample *const s = &m->state.sample;
    struct token_ratio *const all = qsae__alloc_array(m->ctx, s->n, sizeof *all);
    double *const sorted = qsae__alloc_array(m->ctx, s->n, sizeof *sorted);
    int32_t st = all && sorted ? QSAE_OK : QSAE_ENOMEM;
    int64_t n = 0;
    for (int64_t i = 0; i < s->n && st == QSAE_OK; i++) {
        const uint64_t *const words = s->data + i * s->words + 1;
        memcpy(&all[n].ratio, &words[R_RATIO_BITS], sizeof all[n].ratio);
        all[n].document = (int64_t)words[R_OF];
        n += !isnan(all[n].ratio);
    }
    if (st == QSAE_OK) {
        qsort(all, (size_t)n, sizeof *all, by_ratio);
        for (int64_t i = 0; i < n; i++)
            sorted[i] = all[i].ratio;
        const double median = qsae__quantile(sorted, n, 0.5);
        qsae__set(m, v, "ratio_token_median", median);
        qsae__set(m, v, "token_median_sample", (double)n);
        st = median_interval(m, v, all, sorted, n, median);
    }
    qsae__free(m->ctx, all);
    qsae__free(m->ctx, sorted);
    return st;
}

static void compute_sums(qsae_metric *m, const double *s, qsae__values *v)
{
    const double n = s[S_ROWS], d2 = s[V_D2], d = (double)m->d;
    const double p = sqrt(qsae__ratio(d2, s[V_XR2]));
    const double pc = sqrt(qsae__ratio(s[V_M2_D], s[V_M2_XR]));
    qsae__set(m, v, "P", p);
    qsae__set(m, v, "P_centered", pc);
    qsae__set(m, v, "mean_delta_norm", qsae__ratio(s[V_D], n));
    qsae__set(m, v, "mse_delta", qsae__ratio(d2, n * d));
    qsae__set(m, v, "sum_delta2", d2);
    if (n == 0 || s[V_Y_N] != n)
        return; /* some rows without reconstructions: the sums are not of the same rows */
    const double rq = sqrt(qsae__ratio(s[V_RQ2], s[V_XQ2]));
    const double rr = sqrt(qsae__ratio(s[V_RR2], s[V_XR2]));
    const double rc = sqrt(qsae__ratio(s[V_M2_RQ], s[V_M2_XQ]));
    qsae__set(m, v, "R_q", rq);
    qsae__set(m, v, "R_r", rr);
    qsae__set(m, v, "R_q_centered", rc);
    qsae__set(m, v, "ratio", qsae__ratio(p, rq));
    qsae__set(m, v, "ratio_residual_r", qsae__ratio(p, rr));
    qsae__set(m, v, "ratio_centered", qsae__ratio(pc, rc));
    qsae__set(m, v, "ratio_squared", qsae__ratio(p * p, rq * rq));
    qsae__set(m, v, "mse_q", qsae__ratio(s[V_RQ2], n * d));
    qsae__set(m, v, "fixed_basis_sse", s[V_FIXED]);
    qsae__set(m, v, "share_E", qsae__ratio(s[V_E2], d2));
    qsae__set(m, v, "share_e", qsae__ratio(s[V_REST2], d2));
    qsae__set(m, v, "share_cross", qsae__ratio(2 * s[V_CROSS], d2));
}

static int32_t compute(qsae_metric *m, const double *sum, qsae__values *v)
{
    compute_sums(m, sum, v);
    static const qsae__interval list[] = {
        { "P", p_of, P_XR2, false, 0 },
        { "R_q", r_q_of, P_XQ2, false, 0 },
        { "R_r", r_r_of, P_XR2, false, 0 },
        { "ratio", ratio_of, P_RQ2, false, 0 },
        { "ratio_residual_r", ratio_r_of, P_RR2, false, 0 },
        { "ratio_squared", squared_of, P_RQ2, false, 0 },
        { "share_E", share_of_E, P_D2, false, 0 },
        { "share_e", share_of_e, P_D2, false, 0 },
        { "share_cross", share_of_cross, P_D2, false, 0 },
    };
    const int32_t st = sum[V_Y_N] == sum[S_ROWS] ? compute_median(m, v) : QSAE_OK;
    return st == QSAE_OK ? qsae__document_intervals(m, v, list, sizeof list / sizeof list[0]) : st;
}

const qsae__kind qsae__kind_drift = {
    .name = "drift", .number = 5, .results = results,
    .n_results = sizeof results / sizeof results[0], .doc_sums = P_SUMS, .row_words = O_WORDS,
    .width = width, .record_words = record_words, .combine = combine, .compute = compute,
};

int32_t qsae_metric_open_drift(qsae_context *context, int64_t d, const qsae_metric_settings *s,
                               qsae_metric **out)
{
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (d < 1)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_open_drift: d must be positive, found %lld",
                          (long long)d);
    return qsae__metric_open(context, &qsae__kind_drift, d, 0, s, out);
}

/* All rows of a metric have reconstructions, or none: their sums are compared with each other. */
static int32_t check_same_kind(const qsae_metric *m, bool has_y)
{
    for (int64_t i = 0; i < m->state.tree.n; i++) {
        const double *const v = m->state.tree.node[i].v;
        if (v[S_ROWS] > 0 && (v[V_Y_N] > 0) != has_y)
            return qsae__fail(QSAE_EINVAL, "qsae_metric_update_drift: y_r and y_q must be given in "
                              "every update or in none");
    }
    return QSAE_OK;
}

int32_t qsae_metric_update_drift(qsae_metric *metric, const qsae_positions *at,
                                 const qsae_rows *x_r,
                                 const qsae_rows *x_q, const qsae_rows *y_r, const qsae_rows *y_q)
{
    QSAE__FPENV;
    input in = { .has_y = y_r != NULL };
    int32_t st = qsae__metric_check(metric, &qsae__kind_drift, "qsae_metric_update_drift");
    if (st == QSAE_OK && (!x_r || !x_q || !y_r != !y_q))
        st = qsae__fail(QSAE_EINVAL,
                        "qsae_metric_update_drift: x_r and x_q must not be NULL, y_r and "
                        "y_q both or neither");
    if (st == QSAE_OK)
        st = qsae__metric_rows(metric, x_r, -1, "x_r", &in.x_r);
    if (st == QSAE_OK)
        st = qsae__metric_rows(metric, x_q, in.x_r.n_rows, "x_q", &in.x_q);
    if (st == QSAE_OK && y_r)
        st = qsae__metric_rows(metric, y_r, in.x_r.n_rows, "y_r", &in.y_r);
    if (st == QSAE_OK && y_q)
        st = qsae__metric_rows(metric, y_q, in.x_r.n_rows, "y_q", &in.y_q);
    if (st == QSAE_OK)
        st = check_same_kind(metric, in.has_y);
    if (st != QSAE_OK)
        return st;
    qsae__update u = { .m = metric, .n = in.x_r.n_rows, .rows = &in, .row = row, .record = record,
                       .scratch_words = 8 * metric->d };
    return qsae__update_run(&u, at);
}
