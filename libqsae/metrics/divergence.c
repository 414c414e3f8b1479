/* SPDX-License-Identifier: BSD-2-Clause */
/* Reference against compressed output distributions (methods.md section 5). */
#include <stdlib.h>
#include <string.h>

#include "metrics/intervals.h"

/* Sums; each quantity has its own count, since inputs may be missing. */
enum {
    V_N = S_HEAD,                    /* rows with both nll */
    V_NLL_R, V_NLL_Q, V_D_MEAN, V_D_M2, V_D_MAX, V_DP, V_DP2_MEAN, V_DP2_M2,
    V_KL_N, V_KL, V_KL_MEAN, V_KL_M2, V_KL_MAX,
    V_TOP_N, V_SAME,
    V_FLIP_N, V_RIGHT_WRONG, V_WRONG_RIGHT,
    V_H_R_N, V_H_R, V_H_Q_N, V_H_Q, V_OVERLAP_N, V_OVERLAP,
    V_WIDTH
};
enum { D_ROWS, D_N, D_NLL_R, D_NLL_Q, D_KL_N, D_KL, D_TOP_N, D_SAME, D_FLIP_N, D_RIGHT_WRONG,
       D_WRONG_RIGHT, D_DP, D_DP2, D_SUMS };

static const qsae__result results[] = {
    QSAE__COMMON_RESULTS,
    { "ce_r", "nats", "cross-entropy of the reference" },
    { "ce_q", "nats", "cross-entropy of the compressed model" },
    { "ppl_r", "1", "exp(ce_r)" },
    { "ppl_q", "1", "exp(ce_q)" },
    { "dce", "nats", "ce_q - ce_r" },
    { "dce_se", "nats", "sqrt(var(nll_q - nll_r) / n): error if tokens were independent" },
    { "dce_percent", "%", "100 dce / ce_r (of nats, not of perplexity)" },
    { "ppl_ratio", "1", "exp(dce)" },
    { "kl_mean", "nats", "mean KL(p_r || p_q)" },
    { "kl_se", "nats", "sqrt(var KL / n): error if tokens were independent" },
    { "kl_median", "nats", "median over tokens" },
    { "kl_q90", "nats", "90% quantile" },
    { "kl_q95", "nats", "95% quantile" },
    { "kl_q99", "nats", "99% quantile" },
    { "kl_q999", "nats", "99.9% quantile" },
    { "kl_max", "nats", "largest of a token" },
    { "kl_cvar_1pct", "nats", "mean of the worst 1% of tokens" },
    { "kl_share_worst_1pct", "1", "share of all KL in the worst 1% of tokens" },
    { "same_top", "1", "share of tokens with the same arg-max" },
    { "top1_agreement", "1", "same_top" },
    { "right_to_wrong", "tokens", "arg-max was the label and is no more" },
    { "wrong_to_right", "tokens", "arg-max was not the label and is now" },
    { "dp_mean", "1", "mean of p_q(label) - p_r(label)" },
    { "dp_rms", "1", "root mean square of the same" },
    { "dp_rms_se", "1", "se(mean dp^2) / (2 dp_rms)" },
    { "dnll_q99", "nats", "99% quantile of nll_q - nll_r" },
    { "dnll_max", "nats", "largest nll_q - nll_r" },
    { "dnll_cvar_1pct", "nats", "mean nll_q - nll_r of the worst 1% of tokens" },
    { "quantile_sample", "tokens", "tokens that quantiles are taken from" },
    { "entropy_r", "nats", "mean entropy of the reference's distribution" },
    { "entropy_q", "nats", "mean entropy of the compressed model's distribution" },
    { "topk_overlap", "1", "mean share of the overlap_k likeliest tokens that both models have" },
    { "dnll_median", "nats", "median of nll_q - nll_r" },
    { "dnll_q90", "nats", "90% quantile of nll_q - nll_r" },
    { "dnll_q95", "nats", "95% quantile of nll_q - nll_r" },
    { "dnll_q999", "nats", "99.9% quantile of nll_q - nll_r" },
    { "dnll_cvar_0p1pct", "nats", "mean nll_q - nll_r of the worst 0.1% of tokens" },
    { "kl_cvar_0p1pct", "nats", "mean of the worst 0.1% of tokens" },
    { "quantile_error", "1", "bound of the relative error of quantiles; 0: exact" },
};

static int64_t width(const qsae_metric *m)
{
    (void)m;
    return V_WIDTH;
}

static int64_t record_words(const qsae_metric *m)
{
    (void)m;
    return QSAE__TOKEN_WORDS;
}

/* Two histograms: of KL and of the rise of nll. */
static int64_t n_counts(const qsae_metric *m)
{
    return qsae__metric_keeps(m) ? 2 * QSAE__HISTOGRAM : 0;
}

static void add_counts(const qsae_metric *m, uint64_t *to, const uint64_t *from)
{
    for (int64_t i = 0; i < n_counts(m); i += QSAE__HISTOGRAM)
        qsae__histogram_merge(to + i, from + i);
}

static bool counts_valid(const qsae_metric *m, const uint64_t *counts, uint64_t rows)
{
    bool ok = true;
    for (int64_t i = 0; i < n_counts(m); i += QSAE__HISTOGRAM)
        ok = ok && qsae__histogram_valid(counts + i, rows);
    return ok;
}

static void combine_moment(double *a, const double *b, int64_t n, int64_t mean, int64_t m2)
{
    a[m2] += b[m2];
    a[m2] += qsae__chan(a[n], &a[mean], NULL, b[n], &b[mean], NULL, 1);
}

static void combine_max(double *a, const double *b, int64_t n, int64_t max)
{
    if (b[n] > 0 && (a[n] == 0 || b[max] > a[max]))
        a[max] = b[max];
}

static void combine(const qsae_metric *m, double *a, const double *b)
{
    static const uint8_t plain[] = {
        S_ROWS, S_NONFINITE, S_EXCLUDED, V_N, V_NLL_R, V_NLL_Q, V_DP, V_KL_N, V_KL, V_TOP_N, V_SAME,
        V_FLIP_N, V_RIGHT_WRONG, V_WRONG_RIGHT, V_H_R_N, V_H_R, V_H_Q_N, V_H_Q, V_OVERLAP_N,
        V_OVERLAP,
    };
    (void)m;
    combine_moment(a, b, V_N, V_D_MEAN, V_D_M2);
    combine_moment(a, b, V_N, V_DP2_MEAN, V_DP2_M2);
    combine_moment(a, b, V_KL_N, V_KL_MEAN, V_KL_M2);
    combine_max(a, b, V_N, V_D_MAX);
    combine_max(a, b, V_KL_N, V_KL_MAX);
    for (size_t i = 0; i < sizeof plain; i++)
        a[plain[i]] += b[plain[i]];
}

/* Returns p_q - p_r. */
static double add_nll(double *v, double r, double q)
{
    const double d = q - r, dp = exp(-q) - exp(-r), dp2 = dp * dp;
    v[V_D_MAX] = v[V_N] == 0 || d > v[V_D_MAX] ? d : v[V_D_MAX];
    v[V_N] += 1;
    v[V_NLL_R] += r;
    v[V_NLL_Q] += q;
    v[V_D_M2] += qsae__welford_sum(&v[V_D_MEAN], &d, 1 / v[V_N], 1);
    v[V_DP] += dp;
    v[V_DP2_M2] += qsae__welford_sum(&v[V_DP2_MEAN], &dp2, 1 / v[V_N], 1);
    return dp;
}

static bool not_finite(const float *x, int64_t i)
{
    return x && !isfinite(x[i]);
}

static void add_mean(double *v, int64_t n, int64_t sum, const float *x, int64_t i)
{
    if (!x)
        return;
    v[n] += 1;
    v[sum] += x[i];
}

static enum qsae__row_state row(const qsae__update *u, int64_t i, double *v, double *out,
                                double *scratch)
{
    (void)scratch;
    const qsae_divergence_rows *const in = u->rows;
    const bool both = in->nll_r && in->nll_q;
    if (in->nll_r && isnan(in->nll_r[i]))
        return QSAE__ROW_UNLABELED;
    if (not_finite(in->nll_r, i) || not_finite(in->nll_q, i) || not_finite(in->kl, i) ||
        not_finite(in->entropy_r, i) || not_finite(in->entropy_q, i) ||
        not_finite(in->topk_overlap, i))
        return QSAE__ROW_NONFINITE;
    out[D_ROWS] = 1;
    add_mean(v, V_H_R_N, V_H_R, in->entropy_r, i);
    add_mean(v, V_H_Q_N, V_H_Q, in->entropy_q, i);
    add_mean(v, V_OVERLAP_N, V_OVERLAP, in->topk_overlap, i);
    if (both) {
        out[D_DP] = add_nll(v, in->nll_r[i], in->nll_q[i]);
        out[D_N] = 1;
        out[D_NLL_R] = in->nll_r[i];
        out[D_NLL_Q] = in->nll_q[i];
        out[D_DP2] = out[D_DP] * out[D_DP];
    }
    if (in->kl) {
        const double kl = in->kl[i];
        v[V_KL_MAX] = v[V_KL_N] == 0 || kl > v[V_KL_MAX] ? kl : v[V_KL_MAX];
        v[V_KL_N] += 1;
        v[V_KL] += kl;
        v[V_KL_M2] += qsae__welford_sum(&v[V_KL_MEAN], &kl, 1 / v[V_KL_N], 1);
        out[D_KL_N] = 1;
        out[D_KL] = kl;
    }
    if (in->top_r && in->top_q) {
        out[D_TOP_N] = 1;
        out[D_SAME] = in->top_r[i] == in->top_q[i];
        v[V_TOP_N] += 1;
        v[V_SAME] += out[D_SAME];
        if (in->label) {
            const bool was = in->top_r[i] == in->label[i], is = in->top_q[i] == in->label[i];
            out[D_FLIP_N] = 1;
            out[D_RIGHT_WRONG] = was && !is;
            out[D_WRONG_RIGHT] = !was && is;
            v[V_FLIP_N] += 1;
            v[V_RIGHT_WRONG] += out[D_RIGHT_WRONG];
            v[V_WRONG_RIGHT] += out[D_WRONG_RIGHT];
        }
    }
    return QSAE__ROW_COUNTED;
}

static qsae__token token_at(const qsae__update *u, int64_t r)
{
    const qsae_divergence_rows *const in = u->rows;
    const bool both = in->nll_r && in->nll_q;
    return (qsae__token){
        .token = u->first + r,
        .nll_r = both ? in->nll_r[r] : NAN,
        .nll_q = both ? in->nll_q[r] : NAN,
        .kl = in->kl ? in->kl[r] : NAN,
        .entropy_r = in->entropy_r ? in->entropy_r[r] : NAN,
        .top_r = in->top_r ? in->top_r[r] : -1,
        .top_q = in->top_q ? in->top_q[r] : -1,
    };
}

static void record(const qsae__update *u, int64_t r, const double *out, uint64_t *words)
{
    const qsae__token t = token_at(u, r);
    uint64_t all[1 + QSAE__TOKEN_WORDS];
    (void)out;
    qsae__token_write(&t, all);
    memcpy(words, all + 1, QSAE__TOKEN_WORDS * sizeof *words);
}

/* Whole numbers, and an order of its own: neither depends on the order of updates. */
static void finish(qsae__update *u)
{
    qsae__state *const s = &u->m->state;
    for (int64_t r = 0; r < u->n && qsae__metric_keeps(u->m); r++) {
        const qsae__token t = token_at(u, r);
        uint64_t words[1 + QSAE__TOKEN_WORDS];
        if (u->state[r] != QSAE__ROW_COUNTED)
            continue;
        if (!isnan(t.kl))
            qsae__histogram_add(s->counts, t.kl);
        if (isnan(t.nll_r))
            continue;
        qsae__histogram_add(s->counts + QSAE__HISTOGRAM, t.nll_q - t.nll_r);
        qsae__token_write(&t, words);
        qsae__worst_add(&s->worst, words);
    }
}

static double dce_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_NLL_Q] - s[D_NLL_R], s[D_N]);
}

static double dce_percent_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return 100 * qsae__ratio(s[D_NLL_Q] - s[D_NLL_R], s[D_NLL_R]);
}

static double ce_r_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_NLL_R], s[D_N]);
}

static double ce_q_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_NLL_Q], s[D_N]);
}

static double kl_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_KL], s[D_KL_N]);
}

static double same_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_SAME], s[D_TOP_N]);
}

static double right_wrong_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_RIGHT_WRONG], s[D_FLIP_N]);
}

static double wrong_right_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_WRONG_RIGHT], s[D_FLIP_N]);
}

static double dp_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_DP], s[D_N]);
}

static double dp_rms_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return sqrt(qsae__ratio(s[D_DP2], s[D_N]));
}

/* flips: tokens that flips are counted over. */
static int32_t compute_intervals(qsae_metric *m, double flips, qsae__values *v)
{
    const qsae__interval list[] = {
        { "dce", dce_of, D_N, false, 0 },
        { "dce_percent", dce_percent_of, D_N, false, 0 },
        { "ppl_ratio", dce_of, D_N, true, 0 },
        { "ce_r", ce_r_of, D_N, false, 0 },
        { "ce_q", ce_q_of, D_N, false, 0 },
        { "ppl_r", ce_r_of, D_N, true, 0 },
        { "ppl_q", ce_q_of, D_N, true, 0 },
        { "kl_mean", kl_of, D_KL_N, false, 0 },
        { "same_top", same_of, D_TOP_N, false, 0 },
        { "top1_agreement", same_of, D_TOP_N, false, 0 },
        { "right_to_wrong", right_wrong_of, D_FLIP_N, false, flips },
        { "wrong_to_right", wrong_right_of, D_FLIP_N, false, flips },
        { "dp_mean", dp_of, D_N, false, 0 },
        { "dp_rms", dp_rms_of, D_N, false, 0 },
    };
    return qsae__document_intervals(m, v, list, sizeof list / sizeof list[0]);
}

/* Values of the kept tokens in order; *n_kl, *n_d: how many there are. */
static void sort_kept(const qsae_metric *m, double *kl, double *d, int64_t *n_kl, int64_t *n_d)
{
    const qsae__sample *const s = &m->state.sample;
    *n_kl = *n_d = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const qsae__token t = qsae__token_read(s->data + i * s->words);
        if (!isnan(t.nll_r))
            d[(*n_d)++] = (double)t.nll_q - (double)t.nll_r;
        if (!isnan(t.kl))
            kl[(*n_kl)++] = t.kl;
    }
    qsort(kl, (size_t)*n_kl, sizeof *kl, qsae__by_value);
    qsort(d, (size_t)*n_d, sizeof *d, qsae__by_value);
}

static void set_tails(qsae_metric *m, const qsae__tail *kl, const qsae__tail *d, qsae__values *v)
{
    qsae__set(m, v, "kl_median", kl->median);
    qsae__set(m, v, "kl_q90", kl->q90);
    qsae__set(m, v, "kl_q95", kl->q95);
    qsae__set(m, v, "kl_q99", kl->q99);
    qsae__set(m, v, "kl_q999", kl->q999);
    qsae__set(m, v, "kl_cvar_1pct", kl->cvar_1pct);
    qsae__set(m, v, "kl_cvar_0p1pct", kl->cvar_0p1pct);
    qsae__set(m, v, "kl_share_worst_1pct", kl->share_1pct);
    qsae__set(m, v, "dnll_median", d->median);
    qsae__set(m, v, "dnll_q90", d->q90);
    qsae__set(m, v, "dnll_q95", d->q95);
    qsae__set(m, v, "dnll_q99", d->q99);
    qsae__set(m, v, "dnll_q999", d->q999);
    qsae__set(m, v, "dnll_cvar_1pct", d->cvar_1pct);
    qsae__set(m, v, "dnll_cvar_0p1pct", d->cvar_0p1pct);
}

/* Of all tokens while their values fit the memory; beyond it from the histogram of all. */
static int32_t quantiles(qsae_metric *m, const double *sum, qsae__values *v)
{
    const qsae__sample *const s = &m->state.sample;
    const bool exact = s->stride == 1 || !qsae__metric_keeps(m);
    double *const kl = qsae__alloc_array(m->ctx, s->n, sizeof *kl);
    double *const d = qsae__alloc_array(m->ctx, s->n, sizeof *d);
    const int32_t st = kl && d ? QSAE_OK : QSAE_ENOMEM;
    qsae__tail tail_kl, tail_d;
    int64_t n_kl, n_d;
    if (st == QSAE_OK && exact) {
        sort_kept(m, kl, d, &n_kl, &n_d);
        qsae__tail_sorted(kl, n_kl, &tail_kl);
        qsae__tail_sorted(d, n_d, &tail_d);
    } else if (st == QSAE_OK) {
        qsae__histogram_tail(m->state.counts, sum[V_KL_MAX], &tail_kl);
        qsae__histogram_tail(m->state.counts + QSAE__HISTOGRAM, sum[V_D_MAX], &tail_d);
    }
    if (st == QSAE_OK) {
        set_tails(m, &tail_kl, &tail_d, v);
        qsae__set(m, v, "quantile_sample", (double)s->n);
        qsae__set(m, v, "quantile_error", exact ? 0 : QSAE__HISTOGRAM_ERROR);
    }
    qsae__free(m->ctx, kl);
    qsae__free(m->ctx, d);
    return st;
}

static void compute_nll(qsae_metric *m, const double *s, qsae__values *v)
{
    const double n = s[V_N];
    const double r = qsae__ratio(s[V_NLL_R], n), q = qsae__ratio(s[V_NLL_Q], n);
    const double d = n > 0 ? s[V_D_MEAN] : NAN, rms = n > 0 ? sqrt(s[V_DP2_MEAN]) : NAN;
    qsae__set(m, v, "ce_r", r);
    qsae__set(m, v, "ce_q", q);
    qsae__set(m, v, "ppl_r", exp(r));
    qsae__set(m, v, "ppl_q", exp(q));
    qsae__set(m, v, "dce", d);
    qsae__set(m, v, "dce_se", n > 1 ? sqrt(s[V_D_M2] / n / (n - 1)) : NAN);
    qsae__set(m, v, "dce_percent", 100 * qsae__ratio(d, r));
    qsae__set(m, v, "ppl_ratio", exp(d));
    qsae__set(m, v, "dp_mean", qsae__ratio(s[V_DP], n));
    qsae__set(m, v, "dp_rms", rms);
    qsae__set(m, v, "dp_rms_se",
              n > 1 ? 0.5 * qsae__ratio(sqrt(s[V_DP2_M2] / n / (n - 1)), rms) : NAN);
    qsae__set(m, v, "dnll_max", n > 0 ? s[V_D_MAX] : NAN);
}

static int32_t compute(qsae_metric *m, const double *s, qsae__values *v)
{
    const double n_kl = s[V_KL_N];
    compute_nll(m, s, v);
    qsae__set(m, v, "kl_mean", qsae__ratio(s[V_KL], n_kl));
    qsae__set(m, v, "kl_se", n_kl > 1 ? sqrt(s[V_KL_M2] / n_kl / (n_kl - 1)) : NAN);
    qsae__set(m, v, "kl_max", n_kl > 0 ? s[V_KL_MAX] : NAN);
    qsae__set(m, v, "entropy_r", qsae__ratio(s[V_H_R], s[V_H_R_N]));
    qsae__set(m, v, "entropy_q", qsae__ratio(s[V_H_Q], s[V_H_Q_N]));
    qsae__set(m, v, "topk_overlap", qsae__ratio(s[V_OVERLAP], s[V_OVERLAP_N]));
    qsae__set(m, v, "same_top", qsae__ratio(s[V_SAME], s[V_TOP_N]));
    qsae__set(m, v, "top1_agreement", qsae__ratio(s[V_SAME], s[V_TOP_N]));
    qsae__set(m, v, "right_to_wrong", s[V_FLIP_N] > 0 ? s[V_RIGHT_WRONG] : NAN);
    qsae__set(m, v, "wrong_to_right", s[V_FLIP_N] > 0 ? s[V_WRONG_RIGHT] : NAN);
    const int32_t st = quantiles(m, s, v);
    return st == QSAE_OK ? compute_intervals(m, s[V_FLIP_N], v) : st;
}

const qsae__kind qsae__kind_divergence = {
    .name = "divergence", .number = 2, .results = results,
    .n_results = sizeof results / sizeof results[0], .doc_sums = D_SUMS, .row_words = D_SUMS,
    .width = width, .record_words = record_words, .n_counts = n_counts, .combine = combine,
    .compute = compute, .worst = true, .add_counts = add_counts, .counts_valid = counts_valid,
};

int32_t qsae_metric_open_divergence(qsae_context *context, const qsae_metric_settings *s,
                                    qsae_metric **out)
{
    return qsae__metric_open(context, &qsae__kind_divergence, 0, 0, s, out);
}

int32_t qsae_metric_update_divergence(qsae_metric *metric, const qsae_positions *at,
                                      const qsae_divergence_rows *rows)
{
    QSAE__FPENV;
    int32_t st = qsae__metric_check(metric, &qsae__kind_divergence,
                                    "qsae_metric_update_divergence");
    qsae_divergence_rows in;
    if (st == QSAE_OK && !rows)
        st = qsae__fail(QSAE_EINVAL, "qsae_metric_update_divergence: rows must not be NULL");
    if (st == QSAE_OK)
        st = qsae__settings_copy(&in, sizeof in, rows, "qsae_divergence_rows");
    if (st != QSAE_OK)
        return st;
    const void *const arrays[] = { in.nll_r, in.nll_q, in.kl, in.top_r, in.top_q, in.label,
                                   in.entropy_r, in.entropy_q, in.topk_overlap };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        if (qsae__alignment(arrays[i], sizeof(float), "rows: an array"))
            return QSAE_EINVAL;
    if (in.n < 0)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_update_divergence: n must not be negative");
    qsae__update u = { .m = metric, .n = in.n, .rows = &in, .row = row, .record = record,
                       .finish = finish };
    return qsae__update_run(&u, at);
}

/* ---- what a splice recovers: columns of sae, zero, mean side by side ---- */

static double ce_at(const double *s, int variant)
{
    return qsae__ratio(s[variant * D_SUMS + D_NLL_Q], s[variant * D_SUMS + D_N]);
}

static double recovered_of(const double *s, int ablated)
{
    const double alone = qsae__ratio(s[D_NLL_R], s[D_N]), worst = ce_at(s, ablated);
    return qsae__ratio(worst - ce_at(s, 0), worst - alone);
}

static double ce_recovered_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return recovered_of(s, 1);
}

static double ce_recovered_mean_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return recovered_of(s, 2);
}

static double kl_recovered_of(const qsae_metric *m, const double *s)
{
    return 1 - qsae__ratio(kl_of(m, s), kl_of(m, s + D_SUMS));
}

int32_t qsae__divergence_recovered(qsae_metric *sae, qsae_metric *zero, qsae_metric *mean,
                                   qsae__bounds out[QSAE__RECOVERED])
{
    static const qsae__interval list[QSAE__RECOVERED] = {
        { "ce_recovered", ce_recovered_of, D_N, false, 0 },
        { "ce_recovered_mean", ce_recovered_mean_of, D_N, false, 0 },
        { "kl_recovered", kl_recovered_of, D_KL_N, false, 0 },
    };
    qsae_metric *const m[3] = { sae, zero, mean };
    double *groups[3] = { NULL }, *sums = NULL, value[QSAE__RECOVERED];
    int64_t *ids[3] = { NULL }, *id = NULL;
    qsae__part parts[3] = { { 0 } };
    qsae__documents d = { 0 };
    int32_t st = QSAE_OK;
    for (int i = 0; i < 3 && st == QSAE_OK; i++) {
        st = qsae__runs_fold(sae->ctx, &m[i]->state.docs, &groups[i], &ids[i], &parts[i].n);
        parts[i].k = D_SUMS;
        parts[i].id = ids[i];
        parts[i].sums = groups[i];
    }
    if (st == QSAE_OK)
        st = qsae__join(sae->ctx, parts, 3, &id, &sums, &d);
    if (st == QSAE_OK) {
        double total[QSAE__COLUMNS_MOST] = { 0 };
        for (int64_t i = 0; i < d.n; i++)
            for (int64_t c = 0; c < d.k; c++)
                total[c] += sums[i * d.k + c];
        for (int i = 0; i < QSAE__RECOVERED; i++)
            value[i] = list[i].of(sae, total);
        st = qsae__bootstrap(sae, &d, list, value, QSAE__RECOVERED, out);
    }
    for (int i = 0; i < 3; i++) {
        qsae__free(sae->ctx, groups[i]);
        qsae__free(sae->ctx, ids[i]);
    }
    qsae__free(sae->ctx, id);
    qsae__free(sae->ctx, sums);
    return st;
}

int32_t qsae__divergence_documents(const qsae_metric *m, qsae__document_sums **out, int64_t *n)
{
    double *groups = NULL;
    int64_t *ids = NULL;
    *out = NULL;
    int32_t st = qsae__runs_fold(m->ctx, &m->state.docs, &groups, &ids, n);
    if (st == QSAE_OK && !(*out = qsae__alloc_array(m->ctx, *n, sizeof **out)))
        st = QSAE_ENOMEM;
    for (int64_t i = 0; st == QSAE_OK && i < *n; i++) {
        const double *const s = groups + i * QSAE__RUN_SUMS;
        (*out)[i] = (qsae__document_sums){ .document = ids[i], .tokens = s[D_N],
                                           .nll_r = s[D_NLL_R], .nll_q = s[D_NLL_Q],
                                           .kl_tokens = s[D_KL_N], .kl = s[D_KL] };
    }
    qsae__free(m->ctx, groups);
    qsae__free(m->ctx, ids);
    return st;
}
