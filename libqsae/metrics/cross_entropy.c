/* SPDX-License-Identifier: BSD-2-Clause */
/* Cross-entropy and perplexity (methods.md 2.4). */
#include "metrics/parts.h"

enum { V_SUM = S_HEAD, V_MEAN, V_M2, V_WIDTH };
enum { D_N, D_NLL, D_SUMS };

static const qsae__result results[] = {
    QSAE__COMMON_RESULTS,
    { "predicted", "tokens", "positions with a label" },
    { "ce", "nats", "sum nll / predicted" },
    { "ppl", "1", "exp(ce)" },
    { "nll_sum", "nats", "sum of the negative log-likelihoods" },
    { "ce_mean_of_batch_means", "nats",
      "mean over batches of batch_rows tokens of their mean nll" },
    { "ce_se", "nats", "sqrt(var nll / predicted): error if tokens were independent" },
    { "ppl_se", "1", "ppl ce_se" },
};

static int64_t width(const qsae_metric *m)
{
    (void)m;
    return V_WIDTH;
}

static void combine(const qsae_metric *m, double *a, const double *b)
{
    (void)m;
    a[V_M2] += b[V_M2];
    a[V_M2] += qsae__chan(a[S_ROWS], &a[V_MEAN], NULL, b[S_ROWS], &b[V_MEAN], NULL, 1);
    a[V_SUM] += b[V_SUM];
    for (int64_t i = 0; i < S_HEAD; i++)
        a[i] += b[i];
}

static enum qsae__row_state row(const qsae__update *u, int64_t r, double *v, double *out,
                                double *scratch)
{
    (void)scratch;
    const double x = ((const float *)u->rows)[r];
    if (isnan(x))
        return QSAE__ROW_UNLABELED;
    if (isinf(x))
        return QSAE__ROW_NONFINITE;
    v[V_SUM] += x;
    v[V_M2] += qsae__welford_sum(&v[V_MEAN], &x, 1 / (v[S_ROWS] + 1), 1);
    out[D_N] = 1;
    out[D_NLL] = x;
    return QSAE__ROW_COUNTED;
}

static double mean_nll(const qsae_metric *m, const double *sum)
{
    (void)m;
    return qsae__ratio(sum[D_NLL], sum[D_N]);
}

static int32_t compute(qsae_metric *m, const double *sum, qsae__values *v)
{
    const double n = sum[S_ROWS], ce = qsae__ratio(sum[V_SUM], n);
    const double se = n > 1 ? sqrt(sum[V_M2] / n / (n - 1)) : NAN;
    qsae__set(m, v, "predicted", n);
    qsae__set(m, v, "ce", ce);
    qsae__set(m, v, "ppl", exp(ce));
    qsae__set(m, v, "nll_sum", sum[V_SUM]);
    qsae__set(m, v, "ce_se", se);
    qsae__set(m, v, "ppl_se", exp(ce) * se);
    double *groups = NULL;
    int64_t count = 0;
    const int32_t st = qsae__runs_fold(m->ctx, &m->state.groups, &groups, NULL, &count);
    if (st != QSAE_OK)
        return st;
    double batches = 0;
    for (int64_t i = 0; i < count; i++)
        batches += mean_nll(m, groups + i * QSAE__RUN_SUMS);
    qsae__set(m, v, "ce_mean_of_batch_means", qsae__ratio(batches, (double)count));
    qsae__free(m->ctx, groups);
    static const qsae__interval list[] = { { .name = "ce", .of = mean_nll, .weight = D_N },
                                           { .name = "ppl", .of = mean_nll, .weight = D_N,
                                             .log = true } };
    return qsae__document_intervals(m, v, list, sizeof list / sizeof list[0]);
}

const qsae__kind qsae__kind_cross_entropy = {
    .name = "cross_entropy", .number = 1, .results = results,
    .n_results = sizeof results / sizeof results[0], .doc_sums = D_SUMS, .row_words = D_SUMS,
    .batch_runs = true, .width = width, .combine = combine, .compute = compute,
};

int32_t qsae_metric_open_cross_entropy(qsae_context *context, const qsae_metric_settings *s,
                                       qsae_metric **out)
{
    return qsae__metric_open(context, &qsae__kind_cross_entropy, 0, 0, s, out);
}

int32_t qsae_metric_update_cross_entropy(qsae_metric *metric, const qsae_positions *at, int64_t n,
                                         const float *nll)
{
    QSAE__FPENV;
    int32_t st = qsae__metric_check(metric, &qsae__kind_cross_entropy,
                                    "qsae_metric_update_cross_entropy");
    if (st == QSAE_OK)
        st = qsae__need_aligned(nll, "nll");
    if (st != QSAE_OK)
        return st;
    if (n < 0 || (n > 0 && !nll))
        return qsae__fail(QSAE_EINVAL,
                          "qsae_metric_update_cross_entropy: nll must not be NULL and n "
                          "not negative");
    qsae__update u = { .m = metric, .n = n, .rows = nll, .row = row };
    return qsae__update_run(&u, at);
}
