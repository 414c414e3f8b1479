/* SPDX-License-Identifier: BSD-2-Clause */
/* Updates from whole logit rows: log-sum-exp, label, arg-max and divergence per row, then as
 * usual. */
#include <string.h>

#include "kernels/best.h"
#include "metrics/parts.h"

/* Per-row results; what is not computed is NULL. */
typedef struct job {
    const qsae__ops *ops;
    const qsae_rows *r, *q;      /* [n, vocab] f32; q NULL for cross-entropy */
    const int32_t *label;
    float *nll_r, *nll_q, *kl;
    int32_t *top_r, *top_q;
    float *scratch;              /* [threads, 2 vocab]: aligned copies */
    float *entropy_r, *entropy_q, *overlap;
    int64_t k;                   /* of the overlap */
} job;

/* log sum exp(x) = max + log(sum); the sum of terms and the maximum go to the caller. */
static double log_sum(const qsae__ops *ops, const float *x, int64_t n, float *max, double *sum)
{
    *max = ops->max(x, n);
    *sum = isfinite(*max) ? ops->sum_exp(x, *max, n) : NAN;
    return (double)*max + log(*sum);
}

static int32_t arg_max(const float *x, int64_t n, float max)
{
    for (int64_t i = 0; i < n; i++)
        if (x[i] == max)
            return (int32_t)i;
    return -1;
}

/* sum exp(x - m) (x - y), where a term with x = -inf is 0. */
static double divergence_terms(const qsae__ops *ops, const float *x, float m, const float *y,
                               int64_t n)
{
    const double fast = ops->sum_exp_diff(x, m, y, n);
    if (!isnan(fast))
        return fast;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > -INFINITY)
            sum += exp((double)x[i] - m) * ((double)x[i] - (double)y[i]);
    return sum;
}

/* -sum p log p = log(sum) - sum exp(x - max) (x - max) / sum, where a term with x = -inf is 0. */
static float entropy(const qsae__ops *ops, const float *x, int64_t n, float max, double sum)
{
    enum { PART = 256 };
    _Alignas(64) float at[PART];
    double over = 0;
    for (int i = 0; i < PART; i++)
        at[i] = max;
    for (int64_t i = 0; i < n; i += PART)
        over += divergence_terms(ops, x + i, max, at, n - i < PART ? n - i : PART);
    const double h = log(sum) - over / sum;
    return !isfinite(h) ? INFINITY : h < 0 ? 0.0f : (float)h;
}

static float overlap(const float *x, const float *y, int64_t n, int64_t k)
{
    qsae__best a[QSAE__OVERLAP_K_MOST], b[QSAE__OVERLAP_K_MOST];
    qsae__best_clear(a, k);
    qsae__best_clear(b, k);
    qsae__best_add(a, k, x, n, 0);
    qsae__best_add(b, k, y, n, 0);
    return qsae__best_overlap(a, b, k);
}

/* Without a label NaN (skipped); a row that is not finite infinity (counted as such). */
static float nll_of(double lse, const float *x, int32_t label)
{
    if (label < 0)
        return NAN;
    const double nll = lse - (double)x[label];
    return isfinite(nll) ? (float)nll : INFINITY;
}

static int32_t run_row(void *arg, int64_t t, int32_t worker)
{
    const job *const j = arg;
    const int64_t vocab = j->r->n_cols;
    const size_t size = (size_t)vocab * sizeof(float);
    float *const x = j->scratch + worker * 2 * vocab, *const y = x + vocab;
    float max_r, max_q;
    double sum_r, sum_q;
    memcpy(x, qsae__rows_at(j->r, t), size);
    const double lse_r = log_sum(j->ops, x, vocab, &max_r, &sum_r);
    j->nll_r[t] = nll_of(lse_r, x, j->label[t]);
    if (!j->q)
        return QSAE_OK;
    memcpy(y, qsae__rows_at(j->q, t), size);
    const double lse_q = log_sum(j->ops, y, vocab, &max_q, &sum_q);
    j->nll_q[t] = nll_of(lse_q, y, j->label[t]);
    j->top_r[t] = arg_max(x, vocab, max_r);
    j->top_q[t] = arg_max(y, vocab, max_q);
    /* KL = sum p (x - y) - (lse_r - lse_q), methods.md section 5 */
    j->kl[t] = (float)(divergence_terms(j->ops, x, max_r, y, vocab) / sum_r - (lse_r - lse_q));
    if (!isfinite(j->kl[t]) || !isfinite(lse_r))
        j->kl[t] = INFINITY;
    j->entropy_r[t] = entropy(j->ops, x, vocab, max_r, sum_r);
    j->entropy_q[t] = entropy(j->ops, y, vocab, max_q, sum_q);
    j->overlap[t] = overlap(x, y, vocab, j->k);
    return QSAE_OK;
}

static int32_t check(const qsae_rows *x, const qsae_rows *like, const char *what,
                     const int32_t *label)
{
    const int32_t st = qsae__rows_check(x, what, 1u << QSAE_F32);
    if (st != QSAE_OK)
        return st;
    if (like && (x->n_rows != like->n_rows || x->n_cols != like->n_cols))
        return qsae__fail(QSAE_EMISMATCH, "%s: expected [%lld, %lld], found [%lld, %lld]", what,
                          (long long)like->n_rows, (long long)like->n_cols, (long long)x->n_rows,
                          (long long)x->n_cols);
    if (x->n_rows > 0 && !label)
        return qsae__fail(QSAE_EINVAL, "label must not be NULL");
    for (int64_t i = 0; i < x->n_rows; i++)
        if (label[i] >= x->n_cols || (label[i] < 0 && label[i] != -100))
            return qsae__fail(QSAE_EINVAL, "label of row %lld: expected -100 or 0..%lld, found %d",
                              (long long)i, (long long)x->n_cols - 1, (int)label[i]);
    return QSAE_OK;
}

/* Buffers of a job in one allocation. */
static int32_t run(qsae_context *ctx, job *j, void **memory)
{
    const int64_t n = j->r->n_rows, vocab = j->r->n_cols;
    int64_t scratch, words;
    if (!qsae__mul_i64(vocab, 2 * (int64_t)ctx->threads, &scratch) ||
        !qsae__mul_i64(n, 8, &words) || !qsae__add_i64(words, scratch, &words))
        return qsae__fail(QSAE_EOVERFLOW, "logits: too many elements");
    float *const f = qsae__alloc_array(ctx, words, sizeof *f);
    if (!f)
        return QSAE_ENOMEM;
    *memory = f;
    j->ops = qsae__ops_get(ctx);
    j->scratch = f;
    j->nll_r = f + scratch;
    j->nll_q = j->nll_r + n;
    j->kl = j->nll_q + n;
    j->entropy_r = j->kl + n;
    j->entropy_q = j->entropy_r + n;
    j->overlap = j->entropy_q + n;
    j->top_r = (int32_t *)(void *)(j->overlap + n);
    j->top_q = j->top_r + n;
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t st = qsae__parallel(ctx, n, run_row, j);
    qsae__fpenv_leave(env);
    return st;
}

int32_t qsae_metric_update_divergence_logits(qsae_metric *metric, const qsae_positions *at,
                                             const qsae_rows *logits_r, const qsae_rows *logits_q,
                                             const int32_t *label)
{
    QSAE__FPENV;
    int32_t st = qsae__metric_check(metric, &qsae__kind_divergence,
                                    "qsae_metric_update_divergence_logits");
    if (st == QSAE_OK)
        st = qsae__need_aligned(label, "label");
    if (st == QSAE_OK)
        st = check(logits_r, NULL, "logits_r", label);
    if (st == QSAE_OK)
        st = check(logits_q, logits_r, "logits_q", label);
    if (st != QSAE_OK)
        return st;
    job j = { .r = logits_r, .q = logits_q, .label = label, .k = metric->overlap_k };
    void *memory = NULL;
    st = run(metric->ctx, &j, &memory);
    const qsae_divergence_rows rows = { .struct_size = sizeof rows, .n = logits_r->n_rows,
                                        .nll_r = j.nll_r, .nll_q = j.nll_q, .kl = j.kl,
                                        .top_r = j.top_r, .top_q = j.top_q, .label = label,
                                        .entropy_r = j.entropy_r, .entropy_q = j.entropy_q,
                                        .topk_overlap = j.overlap };
    if (st == QSAE_OK)
        st = qsae_metric_update_divergence(metric, at, &rows);
    qsae__free(metric->ctx, memory);
    return st;
}

int32_t qsae_metric_update_cross_entropy_logits(qsae_metric *metric, const qsae_positions *at,
                                                const qsae_rows *logits, const int32_t *label)
{
    QSAE__FPENV;
    int32_t st = qsae__metric_check(metric, &qsae__kind_cross_entropy,
                                    "qsae_metric_update_cross_entropy_logits");
    if (st == QSAE_OK)
        st = qsae__need_aligned(label, "label");
    if (st == QSAE_OK)
        st = check(logits, NULL, "logits", label);
    if (st != QSAE_OK)
        return st;
    job j = { .r = logits, .label = label };
    void *memory = NULL;
    st = run(metric->ctx, &j, &memory);
    if (st == QSAE_OK)
        st = qsae_metric_update_cross_entropy(metric, at, logits->n_rows, j.nll_r);
    qsae__free(metric->ctx, memory);
    return st;
}
