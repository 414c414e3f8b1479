/* SPDX-License-Identifier: BSD-2-Clause */
/* Feature survival (methods.md 3.4): per-feature Pearson r over all tokens, from sparse rows. */
#include <stdlib.h>
#include <string.h>

#include "metrics/feature_intervals.h"

/* Sums per feature, f64: x is the reference, y the compressed model. Behind those of all features:
 * [QSAE__T_SUMS]. */
enum { V_X = QSAE__F_X, V_Y = QSAE__F_Y, V_XX = QSAE__F_XX, V_YY = QSAE__F_YY, V_XY = QSAE__F_XY,
       V_DD = QSAE__F_DD, V_SUMS = QSAE__F_SUMS };
/* Counts per feature: x > 0, y > 0, both; x or y not 0. */
enum { C_R, C_Q, C_BOTH, C_ON, C_SUMS };
/* Behind them, with prompt_tokens: [features, 2] prompts with at least one x > 0, y > 0. */

static const qsae__result results[] = {
    QSAE__COMMON_RESULTS,
    { "active", "features", "firing rate in the reference above active_rate" },
    { "mean_r", "1", "mean Pearson r over the active features" },
    { "median_r", "1", "lower median of r over the active features" },
    { "min_r", "1", "smallest r of the active features" },
    { "survived", "features", "active with r > 0.9" },
    { "degraded", "features", "active with 0.5 <= r <= 0.9" },
    { "damaged", "features", "active with r < 0.5" },
    { "survived_percent", "%", "of the active features" },
    { "degraded_percent", "%", "of the active features" },
    { "damaged_percent", "%", "of the active features" },
    { "above_0p95", "features", "active with r > 0.95" },
    { "above_0p8", "features", "active with r > 0.8" },
    { "cofire_jaccard_all", "1", "sum over features of n_both / sum of n_r + n_q - n_both" },
    { "newly_dead", "features", "fired in the reference only" },
    { "newly_alive", "features", "fired in the compressed model only" },
    { "l0_r", "1", "firing features per token, reference" },
    { "l0_q", "1", "firing features per token, compressed" },
    { "suppressed", "features", "active that fire less than half as often" },
    { "amplified", "features", "active that fire more than twice as often" },
    { "token_jaccard", "1", "Jaccard index of a token's firing sets, mean over tokens" },
    { "token_top10", "1", "share of a token's 10 largest that are in both, mean over tokens" },
    { "token_cosine", "1", "cosine of a token's activations, mean over tokens" },
    { "undetermined", "features", "active, the interval of r holds 0.9" },
    { "undetermined_percent", "%", "of the active features" },
    { "undetermined_0p5", "features", "active, the interval of r holds 0.5" },
    { "undetermined_0p8", "features", "active, the interval of r holds 0.8" },
    { "undetermined_0p95", "features", "active, the interval of r holds 0.95" },
};

typedef struct input {
    qsae_sparse_rows r, q;
} input;

static int64_t width(const qsae_metric *m)
{
    return S_HEAD + V_SUMS * m->features + QSAE__T_SUMS;
}

static int64_t n_counts(const qsae_metric *m)
{
    return (C_SUMS + (m->prompt_tokens ? 2 : 0)) * m->features;
}

static uint64_t *prompts_of(const qsae_metric *m, int64_t f, int64_t side)
{
    return &m->state.counts[C_SUMS * m->features + 2 * f + side];
}

static int64_t n_maxima(const qsae_metric *m)
{
    return 2 * m->features;
}

static void combine(const qsae_metric *m, double *restrict a, const double *restrict b)
{
    const int64_t n = width(m);
    for (int64_t i = 0; i < n; i++)
        a[i] += b[i];
}

static bool row_finite(const qsae_sparse_rows *s, int64_t r)
{
    for (int64_t e = s->indptr[r]; e < s->indptr[r + 1]; e++)
        if (!isfinite(s->values[e]))
            return false;
    return true;
}

static enum qsae__row_state row(const qsae__update *u, int64_t t, double *v, double *out,
                                double *scratch)
{
    (void)out;
    (void)scratch;
    const input *const in = u->rows;
    double *const sum = v + S_HEAD;
    if (!row_finite(&in->r, t) || !row_finite(&in->q, t))
        return QSAE__ROW_NONFINITE;
    qsae__agreement_row(&in->r, &in->q, t, sum, sum + V_SUMS * u->m->features);
    return QSAE__ROW_COUNTED;
}

static void count_side(qsae_metric *m, const qsae_sparse_rows *s, int64_t t, int64_t side,
                       int64_t token)
{
    for (int64_t e = s->indptr[t]; e < s->indptr[t + 1]; e++) {
        const int64_t f = s->indices[e];
        float *const max = &m->state.maxima[2 * f + side];
        m->state.counts[C_SUMS * f + side] += s->values[e] > 0;
        m->state.counts[C_SUMS * f + C_ON] += s->values[e] != 0;
        *max = s->values[e] > *max ? s->values[e] : *max;
        if (m->top)
            qsae__top_add(m, m->state.top, f, side, s->values[e], token);
        if (m->prompt_tokens && s->values[e] > 0) {
            int64_t *const last = &m->last_prompt[2 * f + side];
            *prompts_of(m, f, side) += *last != token / m->prompt_tokens;
            *last = token / m->prompt_tokens;
        }
    }
}

/* Whole prompts only: so which ones are counted depends neither on the order of updates nor on how
 * the text is cut. */
static int32_t prepare(qsae__update *u)
{
    qsae_metric *const m = u->m;
    const input *const in = u->rows;
    if (m->prompt_tokens == 0)
        return qsae__blocks_reserve(m->ctx, &m->state.blocks, u->n, u->document, u->mask, &in->r,
                                    &in->q);
    if (u->first % m->prompt_tokens != 0)
        return qsae__fail(QSAE_EINVAL, "first_token: expected a multiple of prompt_tokens %lld, "
                          "found %lld", (long long)m->prompt_tokens, (long long)u->first);
    for (int64_t i = 0; i < 2 * m->features; i++)
        m->last_prompt[i] = -1;
    return qsae__blocks_reserve(m->ctx, &m->state.blocks, u->n, u->document, u->mask, &in->r,
                                &in->q);
}

/* Integer counts and maxima do not depend on the order: they need no tree. */
static void finish(qsae__update *u)
{
    const input *const in = u->rows;
    for (int64_t t = 0; t < u->n; t++) {
        if (u->state[t] != QSAE__ROW_COUNTED)
            continue;
        if (u->m->state.blocks.per)
            qsae__blocks_add(&u->m->state.blocks, u->document ? u->document[t] : 0, &in->r, &in->q,
                             t);
        count_side(u->m, &in->r, t, C_R, u->first + t);
        count_side(u->m, &in->q, t, C_Q, u->first + t);
        int64_t j = in->q.indptr[t];
        for (int64_t e = in->r.indptr[t]; e < in->r.indptr[t + 1]; e++) {
            const int32_t f = in->r.indices[e];
            while (j < in->q.indptr[t + 1] && in->q.indices[j] < f)
                j++;
            if (j == in->q.indptr[t + 1] || in->q.indices[j] != f)
                continue;
            uint64_t *const c = &u->m->state.counts[C_SUMS * (int64_t)f];
            c[C_BOTH] += in->r.values[e] > 0 && in->q.values[j] > 0;
            c[C_ON] -= in->r.values[e] != 0 && in->q.values[j] != 0; /* counted twice */
        }
    }
}

static void set_bands(qsae_metric *m, qsae__values *v, double *r, int64_t n)
{
    double sum = 0, survived = 0, damaged = 0, high = 0, low = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += r[i];
        survived += r[i] > 0.9;
        damaged += r[i] < 0.5;
        high += r[i] > 0.95;
        low += r[i] > 0.8;
    }
    const double count = (double)n, degraded = count - survived - damaged;
    qsort(r, (size_t)n, sizeof *r, qsae__by_value);
    qsae__set(m, v, "active", count);
    qsae__set(m, v, "mean_r", qsae__ratio(sum, count));
    qsae__set(m, v, "median_r", n ? r[(n - 1) / 2] : NAN);
    qsae__set(m, v, "min_r", n ? r[0] : NAN);
    qsae__set(m, v, "survived", survived);
    qsae__set(m, v, "degraded", degraded);
    qsae__set(m, v, "damaged", damaged);
    qsae__set(m, v, "survived_percent", 100 * qsae__ratio(survived, count));
    qsae__set(m, v, "degraded_percent", 100 * qsae__ratio(degraded, count));
    qsae__set(m, v, "damaged_percent", 100 * qsae__ratio(damaged, count));
    qsae__set(m, v, "above_0p95", high);
    qsae__set(m, v, "above_0p8", low);
}

static int32_t compute(qsae_metric *m, const double *sum, qsae__values *v)
{
    const uint64_t *const counts = m->state.counts;
    const double n = sum[S_ROWS];
    double *const r = qsae__alloc_array(m->ctx, m->features, sizeof *r);
    double *const sorted = qsae__alloc_array(m->ctx, m->features, sizeof *sorted);
    int64_t *const id = qsae__alloc_array(m->ctx, m->features, sizeof *id);
    int32_t st = r && sorted && id ? QSAE_OK : QSAE_ENOMEM;
    int64_t active = 0;
    uint64_t dead = 0, alive = 0, less = 0, more = 0;
    double all_r = 0, all_q = 0, both = 0; /* of all features: exact below 2^53 */
    const double *const tokens = sum + S_HEAD + V_SUMS * m->features;
    for (int64_t f = 0; f < m->features && st == QSAE_OK; f++) {
        const uint64_t *const c = counts + C_SUMS * f;
        all_r += (double)c[C_R];
        all_q += (double)c[C_Q];
        both += (double)c[C_BOTH];
        dead += c[C_R] && !c[C_Q];
        alive += !c[C_R] && c[C_Q];
        if (!(n > 0) || !((double)c[C_R] / n > m->active_rate))
            continue;
        id[active] = f;
        r[active] = sorted[active] = qsae__pearson(sum + S_HEAD + V_SUMS * f, n);
        active++;
        less += 2 * c[C_Q] < c[C_R];
        more += c[C_Q] > 2 * c[C_R];
    }
    if (st == QSAE_OK) {
        set_bands(m, v, sorted, active);
        st = qsae__feature_intervals(m, v, id, r, active);
    }
    qsae__free(m->ctx, r);
    qsae__free(m->ctx, sorted);
    qsae__free(m->ctx, id);
    if (st != QSAE_OK)
        return st;
    qsae__set(m, v, "cofire_jaccard_all",
              qsae__ratio(both, all_r + all_q - both));
    qsae__set(m, v, "newly_dead", (double)dead);
    qsae__set(m, v, "newly_alive", (double)alive);
    qsae__set(m, v, "l0_r", qsae__ratio(all_r, n));
    qsae__set(m, v, "l0_q", qsae__ratio(all_q, n));
    qsae__set(m, v, "suppressed", (double)less);
    qsae__set(m, v, "amplified", (double)more);
    qsae__set(m, v, "token_jaccard", qsae__ratio(tokens[QSAE__T_JACCARD], tokens[QSAE__T_EITHER]));
    qsae__set(m, v, "token_top10", qsae__ratio(tokens[QSAE__T_TOP], tokens[QSAE__T_EITHER]));
    qsae__set(m, v, "token_cosine", qsae__ratio(tokens[QSAE__T_COSINE], tokens[QSAE__T_BOTH]));
    return QSAE_OK;
}

const qsae__kind qsae__kind_features = {
    .name = "features", .number = 4, .results = results,
    .n_results = sizeof results / sizeof results[0], .width = width, .n_counts = n_counts,
    .n_maxima = n_maxima, .combine = combine, .compute = compute,
};

int32_t qsae_metric_open_features(qsae_context *context, int64_t features,
                                  const qsae_metric_settings *s, qsae_metric **out)
{
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (features < 1)
        return qsae__fail(QSAE_EINVAL,
                          "qsae_metric_open_features: features must be positive, found %lld",
                          (long long)features);
    return qsae__metric_open(context, &qsae__kind_features, 0, features, s, out);
}

int32_t qsae_metric_update_features(qsae_metric *metric, const qsae_positions *at,
                                    const qsae_sparse_rows *r, const qsae_sparse_rows *q)
{
    QSAE__FPENV;
    int32_t st = qsae__metric_check(metric, &qsae__kind_features, "qsae_metric_update_features");
    if (st == QSAE_OK && (!r || !q))
        st = qsae__fail(QSAE_EINVAL, "qsae_metric_update_features: r and q must not be NULL");
    input in;
    if (st == QSAE_OK)
        st = qsae__sparse_check(r, &in.r, -1, metric->features, "r");
    if (st == QSAE_OK)
        st = qsae__sparse_check(q, &in.q, in.r.n, metric->features, "q");
    if (st != QSAE_OK)
        return st;
    qsae__update u = { .m = metric, .n = in.r.n, .rows = &in, .row = row, .prepare = prepare,
                       .finish = finish };
    return qsae__update_run(&u, at);
}

static double feature_value(const qsae_metric *m, const double *sum, const char *name, int64_t f)
{
    const double n = sum[S_ROWS];
    const double *const s = sum + S_HEAD + V_SUMS * f;
    const uint64_t *const c = m->state.counts + C_SUMS * f;
    if (strcmp(name, "r") == 0)
        return n > 0 ? qsae__pearson(s, n) : NAN;
    if (strcmp(name, "fire_r") == 0)
        return (double)c[C_R];
    if (strcmp(name, "fire_q") == 0)
        return (double)c[C_Q];
    if (strcmp(name, "cofire") == 0)
        return (double)c[C_BOTH];
    if (strcmp(name, "rate_r") == 0)
        return qsae__ratio((double)c[C_R], n);
    if (strcmp(name, "rate_q") == 0)
        return qsae__ratio((double)c[C_Q], n);
    if (strcmp(name, "mean_r") == 0)
        return qsae__ratio(s[V_X], n);
    if (strcmp(name, "mean_q") == 0)
        return qsae__ratio(s[V_Y], n);
    if (strcmp(name, "gain") == 0)
        return qsae__ratio(s[V_XY], s[V_XX]);
    if (strcmp(name, "cosine") == 0)
        return qsae__ratio(s[V_XY], sqrt(s[V_XX]) * sqrt(s[V_YY]));
    if (strcmp(name, "sum_r2") == 0)
        return s[V_XX];
    if (strcmp(name, "sum_delta2") == 0)
        return s[V_DD];
    if (strcmp(name, "relative_error") == 0)
        return qsae__ratio(s[V_DD], s[V_XX]);
    if (strcmp(name, "mean_ratio") == 0)
        return qsae__ratio(s[V_Y], s[V_X]);
    if (strcmp(name, "r_on") == 0)
        return qsae__agreement_r_on(s, (double)c[C_ON]);
    if (strcmp(name, "cofire_jaccard") == 0)
        return qsae__ratio((double)c[C_BOTH], (double)(c[C_R] + c[C_Q] - c[C_BOTH]));
    if (strcmp(name, "precision") == 0)
        return qsae__ratio((double)c[C_BOTH], (double)c[C_Q]);
    if (strcmp(name, "recall") == 0)
        return qsae__ratio((double)c[C_BOTH], (double)c[C_R]);
    if (strcmp(name, "rate_ratio") == 0)
        return qsae__ratio((double)c[C_Q], (double)c[C_R]);
    if (strcmp(name, "top_overlap") == 0)
        return qsae__agreement_top(m, f);
    if (strncmp(name, "prompts", 7) == 0)
        return (double)*prompts_of(m, f, strcmp(name, "prompts_q") == 0);
    return m->state.maxima[2 * f + (strcmp(name, "max_q") == 0)];
}

int32_t qsae_metric_features(qsae_metric *metric, const char *name, double *values,
                             int64_t capacity)
{
    QSAE__FPENV;
    static const char *const names[] = { "r", "fire_r", "fire_q", "cofire", "rate_r", "rate_q",
                                         "mean_r", "mean_q", "max_r", "max_q", "gain", "cosine",
                                         "prompts_r", "prompts_q", "sum_r2", "sum_delta2",
                                         "relative_error", "mean_ratio", "r_on", "cofire_jaccard",
                                         "precision", "recall", "rate_ratio", "top_overlap",
                                         "r_low", "r_high" };
    if (qsae__need(metric, "metric"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(values, "values"))
        return QSAE_EINVAL;
    if (!name || (capacity > 0 && !values))
        return qsae__fail(QSAE_EINVAL, "qsae_metric_features: NULL argument");
    bool known = metric->kind == &qsae__kind_reconstruction && strcmp(name, "fire") == 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        known |= metric->kind == &qsae__kind_features && strcmp(name, names[i]) == 0;
    if (known && strncmp(name, "prompts", 7) == 0 && metric->prompt_tokens == 0)
        return qsae__fail(QSAE_ENOENT, "%s: the metric was opened without prompt_tokens", name);
    if (known && strcmp(name, "top_overlap") == 0 && metric->top < QSAE__OVERLAP_TOP)
        return qsae__fail(QSAE_ENOENT, "top_overlap: the metric keeps %lld largest activations of "
                          "each feature, needed are %d", (long long)metric->top,
                          QSAE__OVERLAP_TOP);
    if (!known)
        return qsae__fail(QSAE_ENOENT, "a metric of kind %s has no result \"%s\" per feature",
                          metric->kind->name, name);
    if (capacity < metric->features)
        return qsae__fail(QSAE_ESPACE, "room for %lld features, needed are %lld",
                          (long long)capacity, (long long)metric->features);
    if (metric->kind == &qsae__kind_reconstruction) {
        for (int64_t f = 0; f < metric->features; f++)
            values[f] = (double)metric->state.counts[f];
        return QSAE_OK;
    }
    double *sum = NULL;
    const int32_t st = qsae__tree_fold(&metric->state.tree, &sum);
    const bool bound = strcmp(name, "r_low") == 0 || strcmp(name, "r_high") == 0;
    for (int64_t f = 0; st == QSAE_OK && f < metric->features; f++)
        values[f] = feature_value(metric, sum, bound ? "r" : name, f);
    if (st == QSAE_OK && bound)
        qsae__feature_bound(metric, strcmp(name, "r_high") == 0, values);
    qsae__free(metric->ctx, sum);
    return st;
}
