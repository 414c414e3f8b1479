/* SPDX-License-Identifier: BSD-2-Clause */
/* Reconstruction error (methods.md section 4, sae.md C): sums. Results are in
 * reconstruction_results.c. */
#include <string.h>

#include "metrics/reconstruction.h"

static int64_t width(const qsae_metric *m)
{
    return G_HEAD + 4 * qsae__class_width(m);
}

static int64_t record_words(const qsae_metric *m)
{
    return R_X + (m->d + 1) / 2;
}

static int64_t n_counts(const qsae_metric *m)
{
    return m->features;
}

static int64_t n_maxima(const qsae_metric *m)
{
    (void)m;
    return 1;
}

void qsae__class_combine(const qsae_metric *m, double *a, const double *b)
{
    const int64_t d = m->d;
    double *const va = a + K_HEAD;
    const double *const vb = b + K_HEAD;
    if (b[K_N] == 0)
        return;
    qsae__chan(a[K_N], va, va + d, b[K_N], vb, vb + d, d);
    a[K_M2R] += b[K_M2R];
    a[K_M2R] += qsae__chan(a[K_N], va + 2 * d, NULL, b[K_N], vb + 2 * d, NULL, d);
    for (int64_t i = 0; i < d; i++)
        va[3 * d + i] += vb[3 * d + i];
    for (int64_t i = 0; i < K_M2R; i++)
        a[i] += b[i];
}

static void combine(const qsae_metric *m, double *a, const double *b)
{
    for (int64_t i = 0; i < G_HEAD; i++)
        a[i] += b[i];
    for (int32_t c = 0; c < 4; c++)
        qsae__class_combine(m, a + qsae__class_at(m, c), b + qsae__class_at(m, c));
}

/* Norms, angles and their means, over all counted rows. */
static void add_norms(double *v, double xx, double yy, double xy, double rr)
{
    const double nx = sqrt(xx), ny = sqrt(yy);
    v[G_NX] += nx;
    v[G_NY] += ny;
    v[G_NR] += sqrt(rr);
    v[G_Y2] += yy;
    v[G_XY] += xy;
    v[G_L2] += ny / (nx < 1e-4 ? 1 : nx);
    if (nx > 0) {
        v[G_NMSE_N] += 1;
        v[G_NMSE] += rr / xx;
    }
    if (nx > 0 && ny > 0) {
        v[G_COS_N] += 1;
        v[G_COS] += xy / (nx * ny);
    }
    v[G_ZERO] += nx == 0;
}

/* L0 and l1 of a row; false if a value is not finite. */
static bool scan_acts(const qsae_sparse_rows *s, int64_t r, double *l0, double *l1)
{
    for (int64_t e = s->indptr[r]; e < s->indptr[r + 1]; e++) {
        if (!isfinite(s->values[e]))
            return false;
        *l0 += s->values[e] != 0;
        *l1 += s->values[e];
    }
    return true;
}

static enum qsae__row_state row(const qsae__update *u, int64_t t, double *v, double *out,
                                double *scratch)
{
    const qsae__reconstruction_rows *const in = u->rows;
    const qsae__sums_ops *const ops = qsae__sums_get(u->m->ctx);
    const int64_t d = u->m->d;
    double *const x = scratch, *const y = x + d, *const r = y + d;
    double l0 = 0, l1 = 0;
    qsae__row_f64(ops, &in->x, t, x, (float *)(void *)(r + d));
    qsae__row_f64(ops, &in->y, t, y, (float *)(void *)(r + d));
    const double xx = ops->dot(x, x, d), yy = ops->dot(y, y, d);
    /* Finite rows whose squares overflow cannot be summed either. */
    if (!isfinite(xx) || !isfinite(yy) || (in->has_acts && !scan_acts(&in->acts, t, &l0, &l1)))
        return QSAE__ROW_NONFINITE;
    ops->sub(x, y, r, d);
    const double rr = ops->dot(r, r, d), sum_x = ops->sum(x, d);
    if (!isfinite(rr))
        return QSAE__ROW_NONFINITE;
    double *const k = v + qsae__class_at(u->m, qsae__row_class(u, t)), *const vectors = k + K_HEAD;
    add_norms(v, xx, yy, ops->dot(x, y, d), rr);
    v[G_L1] += l1;
    k[K_N] += 1;
    k[K_SSE] += rr;
    k[K_S2] += xx;
    k[K_S1] += sum_x;
    k[K_L0] += l0;
    k[K_ACT_N] += in->has_acts;
    ops->welford(vectors, vectors + d, x, 1 / k[K_N], d);
    k[K_M2R] += ops->welford_sum(vectors + 2 * d, r, 1 / k[K_N], d);
    ops->add_squares(r, vectors + 3 * d, d);
    out[D_N] = 1;
    out[D_SSE] = rr;
    out[D_S2] = xx;
    out[D_S1] = sum_x;
    out[D_L0] = l0;
    out[D_ACT_N] = in->has_acts;
    return QSAE__ROW_COUNTED;
}

static void record(const qsae__update *u, int64_t t, const double *out, uint64_t *words)
{
    const qsae__reconstruction_rows *const in = u->rows;
    const int64_t d = u->m->d;
    float *const x = (float *)(void *)(words + R_X);
    words[R_CLASS] = (uint64_t)qsae__row_class(u, t);
    words[R_DOCUMENT] = u->document ? (uint64_t)u->document[t] : 0;
    memcpy(&words[R_SSE], &out[D_SSE], sizeof out[D_SSE]);
    qsae__to_f32(in->x.dtype, qsae__rows_at(&in->x, t), d, x);
}

static void finish(qsae__update *u)
{
    const qsae__reconstruction_rows *const in = u->rows;
    qsae__state *const s = &u->m->state;
    for (int64_t t = 0; in->has_acts && t < u->n; t++) {
        if (u->state[t] != QSAE__ROW_COUNTED)
            continue;
        for (int64_t e = in->acts.indptr[t]; e < in->acts.indptr[t + 1]; e++) {
            const float a = in->acts.values[e];
            if (u->m->features)
                s->counts[in->acts.indices[e]] += a > 0;
            s->maxima[0] = a > s->maxima[0] ? a : s->maxima[0];
        }
    }
    qsae__batches_finish(u);
}

int64_t qsae__reconstruction_kept(const qsae_metric *m, bool *all)
{
    *all = m->state.sample.stride == 1;
    return m->state.sample.n;
}

qsae__kept_row qsae__reconstruction_row(const qsae_metric *m, int64_t i)
{
    const uint64_t *const words = m->state.sample.data + i * m->state.sample.words;
    qsae__kept_row out = { .token = (int64_t)words[0],
                           .x = (const float *)(const void *)(words + 1 + R_X) };
    memcpy(&out.sse, &words[1 + R_SSE], sizeof out.sse);
    return out;
}

const qsae__kind qsae__kind_reconstruction = {
    .name = "reconstruction", .number = 3, .results = qsae__reconstruction_results,
    .n_results = QSAE__RECONSTRUCTION_RESULTS, .doc_sums = D_SUMS, .row_words = D_SUMS,
    .batches = true, .width = width, .record_words = record_words, .n_counts = n_counts,
    .n_maxima = n_maxima, .combine = combine, .compute = qsae__reconstruction_compute,
};

int32_t qsae_metric_open_reconstruction(qsae_context *context, int64_t d, int64_t features,
                                        const qsae_metric_settings *s, qsae_metric **out)
{
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (d < 1)
        return qsae__fail(QSAE_EINVAL,
                          "qsae_metric_open_reconstruction: d must be positive, found %lld",
                          (long long)d);
    return qsae__metric_open(context, &qsae__kind_reconstruction, d, features, s, out);
}

int32_t qsae__metric_rows(const qsae_metric *m, const qsae_rows *rows, int64_t n, const char *what,
                          qsae_rows *copy)
{
    int32_t st = qsae__rows_check(rows, what, 1u << QSAE_F32 | 1u << QSAE_F16 | 1u << QSAE_BF16 |
                                              1u << QSAE_F64);
    if (st == QSAE_OK && rows->n_cols != m->d)
        st = qsae__fail(QSAE_EMISMATCH, "%s: expected rows of width %lld, found %lld", what,
                        (long long)m->d, (long long)rows->n_cols);
    if (st == QSAE_OK && n >= 0 && rows->n_rows != n)
        st = qsae__fail(QSAE_EINVAL, "%s: expected %lld rows, found %lld", what, (long long)n,
                        (long long)rows->n_rows);
    return st == QSAE_OK ? qsae__settings_copy(copy, sizeof *copy, rows, what) : st;
}

int32_t qsae_metric_update_reconstruction(qsae_metric *metric, const qsae_positions *at,
                                          const qsae_rows *x, const qsae_rows *y,
                                          const qsae_sparse_rows *acts)
{
    QSAE__FPENV;
    qsae__reconstruction_rows in = { .has_acts = acts != NULL };
    int32_t st = qsae__metric_check(metric, &qsae__kind_reconstruction,
                                    "qsae_metric_update_reconstruction");
    if (st == QSAE_OK && (!x || !y))
        st = qsae__fail(QSAE_EINVAL, "qsae_metric_update_reconstruction: x and y must not be NULL");
    if (st == QSAE_OK)
        st = qsae__metric_rows(metric, x, -1, "x", &in.x);
    if (st == QSAE_OK)
        st = qsae__metric_rows(metric, y, in.x.n_rows, "y", &in.y);
    if (st == QSAE_OK && acts)
        st = qsae__sparse_check(acts, &in.acts, in.x.n_rows, metric->features, "acts");
    if (st != QSAE_OK)
        return st;
    qsae__update u = { .m = metric, .n = in.x.n_rows, .rows = &in, .row = row, .record = record,
                       .prepare = qsae__batches_prepare, .finish = finish,
                       .cleanup = qsae__batches_cleanup, .scratch_words = 4 * metric->d + 1 };
    return qsae__update_run(&u, at);
}
