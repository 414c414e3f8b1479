/* SPDX-License-Identifier: BSD-2-Clause */
/* Reconstruction error: results from the folded sums (formulas: sae.md C.2, methods.md section
 * 4). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/intervals.h"
#include "metrics/reconstruction.h"

#define MASKED(prefix, where) \
    { prefix "fvu_dim", "1", "sum |x-y|^2 / sum |x-mean x|^2, mean per dimension" where }, \
    { prefix "fvu_scalar", "1", "the same with one mean over all tokens and dimensions" where }, \
    { prefix "fvu_raw", "1", "sum |x-y|^2 / sum |x|^2" where }, \
    { prefix "mse", "1", "sum |x-y|^2 / (tokens d)" where }, \
    { prefix "mse_token", "1", "sum |x-y|^2 / tokens" where }, \
    { prefix "l0", "1", "non-zero activations per token" where }, \
    { prefix "fvu_centered_residual", "1", "fvu_dim with the mean residual subtracted" where }, \
    { prefix "fvu_tokmedian", "1", "median over tokens of |x-y|^2 / |x-mean x|^2" where }

const qsae__result qsae__reconstruction_results[QSAE__RECONSTRUCTION_RESULTS] = {
    QSAE__COMMON_RESULTS,
    MASKED("", ""),
    { "no_specials/tokens", "tokens", "rows that are no special tokens" },
    MASKED("no_specials/", ", without special tokens"),
    { "no_first_position/tokens", "tokens", "rows that are not first in their chunk" },
    MASKED("no_first_position/", ", without first positions"),
    { "sse", "1", "sum |x-y|^2" },
    { "sum_x2", "1", "sum |x|^2" },
    { "sum_x", "1", "sum of all elements of x" },
    { "m2", "1", "sum |x-mean x|^2" },
    { "mean_norm_in", "1", "mean |x|" },
    { "mean_norm_out", "1", "mean |y|" },
    { "cossim", "1", "mean cosine of x and y, rows of norm 0 left out" },
    { "l2_ratio", "1", "mean |y| / |x|" },
    { "relative_reconstruction_bias", "1", "sum |y|^2 / sum <x, y>" },
    { "l1", "1", "sum of activations per token" },
    { "mean_residual_norm", "1", "mean |x-y|" },
    { "normalized_mse_openai", "1", "mean |x-y|^2 / |x|^2 (V8)" },
    { "fvu_dim_uniform", "1", "mean over dimensions of their own FVU (V10)" },
    { "fvu_tokmean", "1", "mean over tokens of |x-y|^2 / |x-batch mean|^2 (V5)" },
    { "fvu_v3_sparsify", "1", "mean over batches of their fvu_dim" },
    { "fvu_v4_dictionary_learning", "1", "mean over batches of var(x-y) / var(x)" },
    { "fvu_v6_saebench", "1", "R / (S - (S/d)^2), batch means of |x-y|^2 and |x|^2" },
    { "fvu_v7_saelens", "1", "R / (S - |mean of batch means|^2)" },
    { "fvu_v9", "1", "mean (x-y)^2 / var x over elements, no first positions (V9)" },
    { "mse_saelens", "1", "sum over batches of their mean |x-y|^2, over all rows" },
    { "dead_features", "features", "never fired" },
    { "features_rate_above_0p001", "features", "fire on more than 0.1% of tokens" },
    { "features_rate_above_0p01", "features", "fire on more than 1% of tokens" },
    { "features_rate_above_0p1", "features", "fire on more than 10% of tokens" },
    { "max_activation", "1", "largest activation" },
    { "zero_norm_rows", "tokens", "rows with x = 0" },
    { "tokmedian_sample", "tokens", "tokens that fvu_tokmedian and the sinks are taken from" },
    { "median_norm_in", "1", "median |x| of them" },
    { "sink_tokens", "tokens", "of them, those with |x| > 10 median |x|" },
    { "share_x2_top_0p1pct", "1", "share of sum |x|^2 in the 0.1% of rows with the largest |x|" },
    { "share_x2_specials", "1", "share of sum |x|^2 in special tokens" },
    { "no_sinks/tokens", "tokens", "rows with |x| <= 10 median |x|" },
    { "no_sinks/fvu_dim", "1", "fvu_dim of them" },
    { "no_sinks/fvu_scalar", "1", "fvu_scalar of them" },
    { "no_sinks/fvu_raw", "1", "fvu_raw of them" },
    { "no_sinks/mse", "1", "mse of them" },
    { "no_sinks/mse_token", "1", "mse_token of them" },
};

/* a / b; a vanishing denominator makes 0 of 0 and nothing of anything else. */
static double fvu(double a, double b)
{
    return b > 0 ? a / b : a == 0 && b == 0 ? 0 : NAN;
}

static void set(qsae_metric *m, qsae__values *v, const char *prefix, const char *name, double value)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    qsae__set(m, v, full, value);
}

/* sum |x - mean|^2 with the mean per dimension; *scalar: with the mean of all elements. */
static double total_variance(const qsae_metric *m, const double *k, double *scalar)
{
    const double *const mean = k + K_HEAD, *const m2 = mean + m->d;
    const double g = qsae__sum(mean, m->d) / (double)m->d, sum = qsae__sum(m2, m->d);
    double shift = 0;
    for (int64_t i = 0; i < m->d; i++)
        shift += (mean[i] - g) * (mean[i] - g);
    *scalar = sum + k[K_N] * shift;
    return sum;
}

/* |x - mean|^2 of a record; x [d] is scratch. */
static double record_energy(const qsae_metric *m, const uint64_t *words, const double *mean,
                            double *x)
{
    const float *const row = (const float *)(const void *)(words + R_X);
    for (int64_t j = 0; j < m->d; j++)
        x[j] = row[j] - mean[j];
    return qsae__dot(x, x, m->d);
}

static int32_t token_median(qsae_metric *m, const double *k, int32_t without, double *out)
{
    const qsae__sample *const s = &m->state.sample;
    double *const ratio = qsae__alloc_array(m->ctx, s->n, sizeof *ratio);
    double *const x = qsae__alloc_array(m->ctx, m->d, sizeof *x);
    const int32_t st = ratio && x ? QSAE_OK : QSAE_ENOMEM;
    int64_t n = 0;
    for (int64_t i = 0; i < s->n && st == QSAE_OK; i++) {
        const uint64_t *const words = s->data + i * s->words + 1;
        double sse;
        if (words[R_CLASS] & (uint64_t)without)
            continue;
        memcpy(&sse, &words[R_SSE], sizeof sse);
        const double energy = record_energy(m, words, k + K_HEAD, x);
        if (energy > 0)
            ratio[n++] = sse / energy;
    }
    if (st == QSAE_OK) {
        qsort(ratio, (size_t)n, sizeof *ratio, qsae__by_value);
        *out = qsae__quantile(ratio, n, 0.5);
    }
    qsae__free(m->ctx, ratio);
    qsae__free(m->ctx, x);
    return st;
}

/* Results of the classes without the bits `without`; k [class width] receives their union. */
static int32_t compute_mask(qsae_metric *m, const double *sum, const char *prefix, int32_t without,
                            double *k, qsae__values *v)
{
    memset(k, 0, (size_t)qsae__class_width(m) * sizeof *k);
    for (int32_t c = 0; c < 4; c++)
        if (!(c & without))
            qsae__class_combine(m, k, sum + qsae__class_at(m, c));
    const double n = k[K_N], elements = n * (double)m->d;
    double scalar, median = NAN;
    const double m2 = total_variance(m, k, &scalar);
    const int32_t st = token_median(m, k, without, &median);
    if (without)
        set(m, v, prefix, "tokens", n);
    if (n == 0)
        return st;
    set(m, v, prefix, "fvu_dim", fvu(k[K_SSE], m2));
    set(m, v, prefix, "fvu_scalar", fvu(k[K_SSE], scalar));
    set(m, v, prefix, "fvu_raw", fvu(k[K_SSE], k[K_S2]));
    set(m, v, prefix, "mse", k[K_SSE] / elements);
    set(m, v, prefix, "mse_token", k[K_SSE] / n);
    set(m, v, prefix, "l0", qsae__ratio(k[K_L0], k[K_ACT_N]));
    set(m, v, prefix, "fvu_centered_residual", fvu(k[K_M2R], m2));
    set(m, v, prefix, "fvu_tokmedian", median);
    if (without == 2)
        qsae__set(m, v, "fvu_v9",
                  elements > 1 ? fvu(k[K_SSE] / elements, scalar / (elements - 1)) : NAN);
    return st;
}

/* What is only given for all rows; k is their union. */
static void compute_all(qsae_metric *m, const double *sum, const double *k, qsae__values *v)
{
    const double n = k[K_N];
    const double *const m2 = k + K_HEAD + m->d, *const rj = k + K_HEAD + 3 * m->d;
    double uniform = 0;
    for (int64_t i = 0; i < m->d; i++)
        uniform += fvu(rj[i], m2[i]);
    const double specials = sum[qsae__class_at(m, 1) + K_S2] + sum[qsae__class_at(m, 3) + K_S2];
    qsae__set(m, v, "share_x2_specials", qsae__ratio(specials, k[K_S2]));
    qsae__set(m, v, "sse", k[K_SSE]);
    qsae__set(m, v, "sum_x2", k[K_S2]);
    qsae__set(m, v, "sum_x", k[K_S1]);
    qsae__set(m, v, "m2", qsae__sum(m2, m->d));
    qsae__set(m, v, "mean_norm_in", qsae__ratio(sum[G_NX], n));
    qsae__set(m, v, "mean_norm_out", qsae__ratio(sum[G_NY], n));
    qsae__set(m, v, "cossim", qsae__ratio(sum[G_COS], sum[G_COS_N]));
    qsae__set(m, v, "l2_ratio", qsae__ratio(sum[G_L2], n));
    qsae__set(m, v, "relative_reconstruction_bias", qsae__ratio(sum[G_Y2], sum[G_XY]));
    qsae__set(m, v, "l1", qsae__ratio(sum[G_L1], k[K_ACT_N]));
    qsae__set(m, v, "mean_residual_norm", qsae__ratio(sum[G_NR], n));
    qsae__set(m, v, "normalized_mse_openai", qsae__ratio(sum[G_NMSE], sum[G_NMSE_N]));
    qsae__set(m, v, "fvu_dim_uniform", n > 0 ? uniform / (double)m->d : NAN);
    qsae__set(m, v, "zero_norm_rows", sum[G_ZERO]);
    qsae__set(m, v, "tokmedian_sample", (double)m->state.sample.n);
}

static void compute_firing(qsae_metric *m, double n, qsae__values *v)
{
    static const struct {
        const char *name;
        double rate;
    } bands[] = {
        { "features_rate_above_0p001", 0.001 },
        { "features_rate_above_0p01", 0.01 },
        { "features_rate_above_0p1", 0.1 },
    };
    if (n == 0)
        return;
    qsae__set(m, v, "max_activation", m->state.maxima[0]);
    if (!m->features)
        return;
    for (size_t b = 0; b < 3; b++) {
        double count = 0;
        for (int64_t f = 0; f < m->features; f++)
            count += (double)m->state.counts[f] / n > bands[b].rate;
        qsae__set(m, v, bands[b].name, count);
    }
    double dead = 0;
    for (int64_t f = 0; f < m->features; f++)
        dead += m->state.counts[f] == 0;
    qsae__set(m, v, "dead_features", dead);
}

static int32_t compute_batches(qsae_metric *m, qsae__values *v)
{
    double *b = NULL;
    const int32_t st = qsae__batches_fold(m, &b);
    if (st != QSAE_OK)
        return st;
    const double n = b[B_BATCHES], d = (double)m->d;
    if (n > 0) {
        const double r = b[B_R] / n, s = b[B_S] / n;
        double mean2 = 0;
        for (int64_t i = 0; i < m->d; i++)
            mean2 += b[B_MEAN + i] / n * (b[B_MEAN + i] / n);
        qsae__set(m, v, "fvu_tokmean", b[B_V5] / b[B_ROWS]);
        qsae__set(m, v, "mse_saelens", b[B_R] / b[B_ROWS]);
        qsae__set(m, v, "fvu_v3_sparsify", b[B_V3] / n);
        qsae__set(m, v, "fvu_v4_dictionary_learning", b[B_V4] / n);
        qsae__set(m, v, "fvu_v6_saebench", r / (s - s / d * (s / d)));
        qsae__set(m, v, "fvu_v7_saelens", r / (s - mean2));
    }
    qsae__free(m->ctx, b);
    return QSAE_OK;
}

static double mse_of(const qsae_metric *m, const double *s)
{
    return qsae__ratio(s[D_SSE], s[D_N] * (double)m->d);
}

static double mse_token_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_SSE], s[D_N]);
}

static double fvu_raw_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_SSE], s[D_S2]);
}

static double fvu_scalar_of(const qsae_metric *m, const double *s)
{
    return qsae__ratio(s[D_SSE], s[D_S2] - s[D_S1] * s[D_S1] / (s[D_N] * (double)m->d));
}

static double l0_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_L0], s[D_ACT_N]);
}

static double fvu_dim_of(const qsae_metric *m, const double *s)
{
    (void)m;
    return qsae__ratio(s[D_SSE], s[D_ENERGY]);
}

/* Index of id in ids [n], ascending; it is there. */
static int64_t find_id(const int64_t *ids, int64_t n, int64_t id)
{
    int64_t a = 0;
    while (n > 1) {
        const int64_t half = n / 2;
        if (ids[a + half] <= id)
            a += half;
        n -= half;
    }
    return ids[a] == id ? a : -1;
}

/*
 * D_ENERGY of each document from its sampled rows, scaled to all of its rows (all of them as long
 * as they fit the budget). Leaving a document out moves the mean too: an effect of second order,
 * which the interval of fvu_dim leaves out.
 */
static int32_t document_energies(qsae_metric *m, const double *mean, double *groups,
                                 const int64_t *ids, int64_t n)
{
    const qsae__sample *const s = &m->state.sample;
    double *const x = qsae__alloc_array(m->ctx, m->d, sizeof *x);
    int64_t *const count = qsae__calloc(m->ctx, n, sizeof *count);
    const int32_t st = x && count ? QSAE_OK : QSAE_ENOMEM;
    double all = 0;
    for (int64_t i = 0; i < s->n && st == QSAE_OK; i++) {
        const uint64_t *const words = s->data + i * s->words + 1;
        const double energy = record_energy(m, words, mean, x);
        const int64_t g = n ? find_id(ids, n, (int64_t)words[R_DOCUMENT]) : -1;
        if (g < 0)
            continue;
        groups[g * QSAE__RUN_SUMS + D_ENERGY] += energy;
        count[g]++;
        all += energy;
    }
    for (int64_t g = 0; g < n && st == QSAE_OK; g++) {
        double *const sum = groups + g * QSAE__RUN_SUMS;
        sum[D_ENERGY] = count[g] ? sum[D_ENERGY] * (sum[D_N] / (double)count[g])
                                 : all * (sum[D_N] / (double)s->n);
    }
    qsae__free(m->ctx, x);
    qsae__free(m->ctx, count);
    return st;
}

int32_t qsae__reconstruction_documents(qsae_metric *m, const double *mean, double **groups,
                                       int64_t **ids, int64_t *n)
{
    int32_t st = qsae__runs_fold(m->ctx, &m->state.docs, groups, ids, n);
    if (st == QSAE_OK && (st = document_energies(m, mean, *groups, *ids, *n)) != QSAE_OK) {
        qsae__free(m->ctx, *groups);
        qsae__free(m->ctx, *ids);
    }
    return st;
}

static int32_t compute_intervals(qsae_metric *m, const double *mean, qsae__values *v)
{
    static const qsae__interval list[] = {
        { "fvu_dim", fvu_dim_of, D_ENERGY, false, 0 },
        { "fvu_scalar", fvu_scalar_of, D_S2, false, 0 },
        { "fvu_raw", fvu_raw_of, D_S2, false, 0 },
        { "mse", mse_of, D_N, false, 0 },
        { "mse_token", mse_token_of, D_N, false, 0 },
        { "l0", l0_of, D_ACT_N, false, 0 },
    };
    double *groups = NULL;
    int64_t *ids = NULL, n = 0;
    int32_t st = qsae__reconstruction_documents(m, mean, &groups, &ids, &n);
    if (st != QSAE_OK)
        return st;
    st = qsae__set_intervals(m, v, list, sizeof list / sizeof list[0], ids, groups, n,
                             D_ENERGY + 1);
    qsae__free(m->ctx, groups);
    qsae__free(m->ctx, ids);
    return st;
}

/* Intervals of the figures without rows of a class. */
static int32_t mask_intervals(qsae_metric *m, const char *prefix, int32_t without, qsae__values *v)
{
    static const char *const names[QSAE__MASKED] = { "fvu_dim", "fvu_scalar", "fvu_raw" };
    const qsae__sample *const s = &m->state.sample;
    uint8_t *const keep = qsae__alloc_array(m->ctx, s->n, 1);
    double value[QSAE__MASKED] = { 0 };
    char full[64];
    if (!keep)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < s->n; i++)
        keep[i] = !(s->data[i * s->words + 1 + R_CLASS] & (uint64_t)without);
    for (int i = 0; i < QSAE__MASKED; i++) {
        snprintf(full, sizeof full, "%s%s", prefix, names[i]);
        value[i] = qsae__get(m, v, full);
    }
    const int32_t st = qsae__masked_intervals(m, v, prefix, keep, value);
    qsae__free(m->ctx, keep);
    return st;
}

int32_t qsae__reconstruction_compute(qsae_metric *m, const double *sum, qsae__values *v)
{
    double *const k = qsae__alloc_array(m->ctx, qsae__class_width(m), sizeof *k);
    if (!k)
        return QSAE_ENOMEM;
    int32_t st = compute_mask(m, sum, "", 0, k, v);
    if (st == QSAE_OK)
        st = compute_intervals(m, k + K_HEAD, v);
    if (st == QSAE_OK) {
        compute_all(m, sum, k, v);
        compute_firing(m, k[K_ACT_N], v);
        st = compute_mask(m, sum, "no_specials/", 1, k, v);
    }
    if (st == QSAE_OK)
        st = mask_intervals(m, "no_specials/", 1, v);
    if (st == QSAE_OK)
        st = compute_mask(m, sum, "no_first_position/", 2, k, v);
    if (st == QSAE_OK)
        st = mask_intervals(m, "no_first_position/", 2, v);
    qsae__free(m->ctx, k);
    if (st == QSAE_OK)
        st = qsae__sinks_compute(m, v);
    return st == QSAE_OK ? compute_batches(m, v) : st;
}

/* ---- changes between two models ---- */

enum { OF_Q = D_ENERGY + 1 };          /* columns of the second model */

static double dfvu_dim_of(const qsae_metric *m, const double *s)
{
    return fvu_dim_of(m, s + OF_Q) - fvu_dim_of(m, s);
}

static double dfvu_scalar_of(const qsae_metric *m, const double *s)
{
    return fvu_scalar_of(m, s + OF_Q) - fvu_scalar_of(m, s);
}

static double dmse_of(const qsae_metric *m, const double *s)
{
    return mse_of(m, s + OF_Q) - mse_of(m, s);
}

static double dl0_of(const qsae_metric *m, const double *s)
{
    return l0_of(m, s + OF_Q) - l0_of(m, s);
}

/* The documents of a metric, with energies about its mean. */
static int32_t read_part(qsae_metric *m, double **groups, int64_t **ids, qsae__part *part)
{
    double *sum = NULL;
    double *const k = qsae__calloc(m->ctx, qsae__class_width(m), sizeof *k);
    int32_t st = k ? qsae__tree_fold(&m->state.tree, &sum) : QSAE_ENOMEM;
    for (int32_t c = 0; c < 4 && st == QSAE_OK; c++)
        qsae__class_combine(m, k, sum + qsae__class_at(m, c));
    if (st == QSAE_OK)
        st = qsae__reconstruction_documents(m, k + K_HEAD, groups, ids, &part->n);
    if (st == QSAE_OK) {
        part->k = OF_Q;
        part->id = *ids;
        part->sums = *groups;
    } else {
        *groups = NULL;
        *ids = NULL;
    }
    qsae__free(m->ctx, sum);
    qsae__free(m->ctx, k);
    return st;
}

int32_t qsae__reconstruction_changes(qsae_metric *r, qsae_metric *q,
                                     qsae__bounds out[QSAE__CHANGES])
{
    static const qsae__interval list[QSAE__CHANGES] = {
        { "fvu_dim", dfvu_dim_of, OF_Q + D_ENERGY, false, 0 },
        { "fvu_scalar", dfvu_scalar_of, OF_Q + D_S2, false, 0 },
        { "mse", dmse_of, OF_Q + D_N, false, 0 },
        { "l0", dl0_of, OF_Q + D_ACT_N, false, 0 },
    };
    qsae_metric *const both[2] = { r, q };
    double *groups[2] = { NULL, NULL }, *sums = NULL, value[QSAE__CHANGES];
    int64_t *ids[2] = { NULL, NULL }, *id = NULL;
    qsae__part parts[2] = { { 0 } };
    qsae__documents d;
    int32_t st = QSAE_OK;
    for (int i = 0; i < QSAE__CHANGES && st == QSAE_OK; i++) {
        double of[2];
        st = qsae_metric_get(r, list[i].name, &of[0]);
        if (st == QSAE_OK)
            st = qsae_metric_get(q, list[i].name, &of[1]);
        value[i] = st == QSAE_OK ? of[1] - of[0] : NAN;
    }
    for (int i = 0; i < 2 && st == QSAE_OK; i++)
        st = read_part(both[i], &groups[i], &ids[i], &parts[i]);
    if (st == QSAE_OK)
        st = qsae__join(r->ctx, parts, 2, &id, &sums, &d);
    if (st == QSAE_OK)
        st = qsae__bootstrap(r, &d, list, value, QSAE__CHANGES, out);
    for (int i = 0; i < 2; i++) {
        qsae__free(r->ctx, groups[i]);
        qsae__free(r->ctx, ids[i]);
    }
    qsae__free(r->ctx, id);
    qsae__free(r->ctx, sums);
    return st;
}
