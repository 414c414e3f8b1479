/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The report of llama-perplexity --kl-divergence over any number of tokens. Its standard errors are
 * from sums of values and of squares, in f64 as there, and take tokens as independent.
 */
#include "metrics/llama.h"

#include <stdlib.h>
#include <string.h>

#include "metrics/parts.h"

/* Sums; a product of two f32 is rounded to f32 before it is added. */
enum {
    L_NLL = S_HEAD, L_NLL2, L_BASE, L_BASE2, L_BOTH, L_KL, L_KL2, L_DP, L_DP2, L_DP4, L_SAME,
    L_WIDTH
};
/* Handed on per row: a token, in words. */
enum { T_KL, T_NLL, T_BASE, T_DP, T_SAME, T_WORDS };

static const qsae__result results[] = {
    QSAE__COMMON_RESULTS,
    { "ppl_q", "1", "Mean PPL(Q)" },
    { "ppl_q_se", "1", "ppl_q se(ln ppl_q)" },
    { "ppl_base", "1", "Mean PPL(base)" },
    { "ppl_base_se", "1", "ppl_base se(ln ppl_base)" },
    { "ln_ppl_correlation", "1", "Cor(ln(PPL(Q)), ln(PPL(base))), printed as percent" },
    { "ln_ppl_ratio", "nats", "Mean ln(PPL(Q)/PPL(base))" },
    { "ln_ppl_ratio_se", "nats", "sqrt(s_q^2 + s_base^2 - 2 cov / (n - 1))" },
    { "ppl_ratio", "1", "Mean PPL(Q)/PPL(base)" },
    { "ppl_ratio_se", "1", "ppl_ratio ln_ppl_ratio_se" },
    { "ppl_difference", "1", "Mean PPL(Q)-PPL(base)" },
    { "ppl_difference_se", "1", "its standard error" },
    { "kld_mean", "nats", "Mean KLD" },
    { "kld_mean_se", "nats", "sqrt((mean KLD^2 - (mean KLD)^2) / (n - 1))" },
    { "kld_max", "nats", "Maximum KLD" },
    { "kld_q99_9", "nats", "99.9% KLD" },
    { "kld_q99", "nats", "99.0% KLD" },
    { "kld_q95", "nats", "95.0% KLD" },
    { "kld_q90", "nats", "90.0% KLD" },
    { "kld_median", "nats", "Median KLD" },
    { "kld_q10", "nats", "10.0% KLD" },
    { "kld_q5", "nats", "5.0% KLD" },
    { "kld_q1", "nats", "1.0% KLD" },
    { "kld_q0_1", "nats", "0.1% KLD" },
    { "kld_min", "nats", "Minimum KLD" },
    { "dp_mean", "1", "Mean dp: p_q(label) - p_base(label), printed as percent" },
    { "dp_mean_se", "1", "its standard error" },
    { "dp_max", "1", "Maximum dp" },
    { "dp_q99_9", "1", "99.9% dp" },
    { "dp_q99", "1", "99.0% dp" },
    { "dp_q95", "1", "95.0% dp" },
    { "dp_q90", "1", "90.0% dp" },
    { "dp_q75", "1", "75.0% dp" },
    { "dp_median", "1", "Median dp" },
    { "dp_q25", "1", "25.0% dp" },
    { "dp_q10", "1", "10.0% dp" },
    { "dp_q5", "1", "5.0% dp" },
    { "dp_q1", "1", "1.0% dp" },
    { "dp_q0_1", "1", "0.1% dp" },
    { "dp_min", "1", "Minimum dp" },
    { "dp_rms", "1", "RMS dp" },
    { "dp_rms_se", "1", "se(mean dp^2) / (2 dp_rms)" },
    { "same_top", "1", "Same top p" },
    { "same_top_se", "1", "sqrt(p (1 - p) / (n - 1))" },
    { "quantile_sample", "tokens", "tokens that quantiles are taken from" },
};

static int64_t width(const qsae_metric *m)
{
    (void)m;
    return L_WIDTH;
}

static int64_t record_words(const qsae_metric *m)
{
    (void)m;
    return 3;
}

static void combine(const qsae_metric *m, double *a, const double *b)
{
    (void)m;
    for (int i = 0; i < L_WIDTH; i++)
        a[i] += b[i];
}

static void add_token(double *v, const qsae__llama_token *t)
{
    const float nll2 = t->nll * t->nll, base2 = t->nll_base * t->nll_base,
                both = t->nll * t->nll_base, dp2 = t->dp * t->dp;
    v[L_NLL] += (double)t->nll;
    v[L_NLL2] += (double)nll2;
    v[L_BASE] += (double)t->nll_base;
    v[L_BASE2] += (double)base2;
    v[L_BOTH] += (double)both;
    v[L_KL] += t->kl;
    v[L_KL2] += t->kl * t->kl;
    v[L_DP] += (double)t->dp;
    v[L_DP2] += (double)dp2;
    v[L_DP4] += (double)dp2 * (double)dp2;
    v[L_SAME] += t->same;
}

static enum qsae__row_state row(const qsae__update *u, int64_t i, double *v, double *out,
                                double *scratch)
{
    const qsae__llama_token *const t = (const qsae__llama_token *)u->rows + i;
    (void)scratch;
    if (t->same < 0)
        return QSAE__ROW_UNLABELED;
    /* a square that overflows would leave the sums with nothing */
    if (!isfinite(t->kl) || fabs(t->kl) > 1e18 || !isfinite(t->nll * t->nll) ||
        !isfinite(t->nll_base * t->nll_base) || !isfinite(t->nll * t->nll_base) || !isfinite(t->dp))
        return QSAE__ROW_NONFINITE;
    add_token(v, t);
    out[T_KL] = t->kl;
    out[T_NLL] = (double)t->nll;
    out[T_BASE] = (double)t->nll_base;
    out[T_DP] = (double)t->dp;
    out[T_SAME] = t->same;
    return QSAE__ROW_COUNTED;
}

static void record(const qsae__update *u, int64_t r, const double *out, uint64_t *words)
{
    const float f[4] = { (float)out[T_NLL], (float)out[T_BASE], (float)out[T_DP],
                         (float)out[T_SAME] };
    (void)u;
    (void)r;
    memcpy(words, &out[T_KL], sizeof out[T_KL]);
    memcpy(words + 1, f, sizeof f);
}

static qsae__llama_token token_of(const uint64_t *words)
{
    qsae__llama_token t;
    float f[4];
    memcpy(&t.kl, words, sizeof t.kl);
    memcpy(f, words + 1, sizeof f);
    t.nll = f[0];
    t.nll_base = f[1];
    t.dp = f[2];
    t.same = f[3] > 0;
    return t;
}

/* Mean and its standard error, which is 0 up to 10 values. */
struct estimate {
    double mean, se;
};

static struct estimate estimate(double sum, double sum2, double n)
{
    const double mean = sum / n, var = sum2 / n - mean * mean;
    return (struct estimate){ mean, var > 0 && n > 10 ? sqrt(var / (n - 1)) : 0 };
}

static double not_negative(double x)
{
    return x > 0 ? x : 0;
}

/* What running lines and report share, of n rows. */
struct totals {
    struct estimate q, base, kl, dp, dp2;
    double cov;               /* of the means of both nll */
    double ratio_se;
    double rms, rms_se;
    double same, same_se;
};

static struct totals totals_of(const double *v, double n)
{
    struct totals t = { .q = estimate(v[L_NLL], v[L_NLL2], n),
                        .base = estimate(v[L_BASE], v[L_BASE2], n),
                        .kl = estimate(v[L_KL], v[L_KL2], n),
                        .dp = estimate(v[L_DP], v[L_DP2], n),
                        .dp2 = estimate(v[L_DP2], v[L_DP4], n) };
    if (n >= 10)
        t.cov = (v[L_BOTH] / n - v[L_NLL] / n * (v[L_BASE] / n)) / (n - 1);
    t.ratio_se = sqrt(not_negative(t.q.se * t.q.se + t.base.se * t.base.se - 2 * t.cov));
    t.rms = sqrt(t.dp2.mean);
    t.rms_se = 0.5 / t.rms * t.dp2.se;
    t.same = v[L_SAME] / n;
    t.same_se = sqrt(t.same * (1 - t.same) / (n - 1));
    return t;
}

static int by_float(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* In f32, as there. */
static float percentile(const float *sorted, int64_t n, float fraction)
{
    float p = fraction * (float)(n - 1);
    const int64_t i = (int64_t)p;
    p -= (float)i;
    return (1 - p) * sorted[i] + p * sorted[qsae__min_i64(i + 1, n - 1)];
}

static float median(const float *sorted, int64_t n)
{
    return n % 2 ? sorted[n / 2] : 0.5f * (sorted[n / 2] + sorted[n / 2 - 1]);
}

static void set_quantiles(const qsae_metric *m, qsae__values *v, float *x, int64_t n, bool kl)
{
    static const struct {
        const char *kl, *dp;
        float at;
    } list[] = {
        { "kld_q99_9", "dp_q99_9", 0.999f }, { "kld_q99", "dp_q99", 0.990f },
        { "kld_q95", "dp_q95", 0.950f },     { "kld_q90", "dp_q90", 0.900f },
        { NULL, "dp_q75", 0.750f },          { NULL, "dp_q25", 0.250f },
        { "kld_q10", "dp_q10", 0.100f },     { "kld_q5", "dp_q5", 0.050f },
        { "kld_q1", "dp_q1", 0.010f },       { "kld_q0_1", "dp_q0_1", 0.001f },
    };
    qsort(x, (size_t)n, sizeof *x, by_float);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (!kl || list[i].kl)
            qsae__set(m, v, kl ? list[i].kl : list[i].dp, (double)percentile(x, n, list[i].at));
    qsae__set(m, v, kl ? "kld_median" : "dp_median", (double)median(x, n));
    qsae__set(m, v, kl ? "kld_max" : "dp_max", (double)x[n - 1]);
    qsae__set(m, v, kl ? "kld_min" : "dp_min", (double)x[0]);
}

static int32_t quantiles(qsae_metric *m, qsae__values *v)
{
    const qsae__sample *const s = &m->state.sample;
    float *const x = qsae__alloc_array(m->ctx, s->n, sizeof *x);
    if (!x)
        return QSAE_ENOMEM;
    for (int kl = 0; kl < 2 && s->n > 0; kl++) {
        for (int64_t i = 0; i < s->n; i++) {
            const qsae__llama_token t = token_of(s->data + i * s->words + 1);
            x[i] = kl ? (float)t.kl : t.dp;
        }
        set_quantiles(m, v, x, s->n, kl);
    }
    qsae__free(m->ctx, x);
    return QSAE_OK;
}

static int32_t compute(qsae_metric *m, const double *s, qsae__values *v)
{
    const double n = s[S_ROWS];
    qsae__set(m, v, "quantile_sample", (double)m->state.sample.n);
    if (!(n > 0))
        return QSAE_OK;
    const struct totals t = totals_of(s, n);
    const double ppl = exp(t.q.mean), base = exp(t.base.mean);
    const double se = ppl * t.q.se, base_se = base * t.base.se;
    const double ratio = exp(t.q.mean - t.base.mean);
    qsae__set(m, v, "ppl_q", ppl);
    qsae__set(m, v, "ppl_q_se", se);
    qsae__set(m, v, "ppl_base", base);
    qsae__set(m, v, "ppl_base_se", base_se);
    qsae__set(m, v, "ln_ppl_correlation", t.cov / (t.q.se * t.base.se));
    qsae__set(m, v, "ln_ppl_ratio", t.q.mean - t.base.mean);
    qsae__set(m, v, "ln_ppl_ratio_se", t.ratio_se);
    qsae__set(m, v, "ppl_ratio", ratio);
    qsae__set(m, v, "ppl_ratio_se", ratio * t.ratio_se);
    qsae__set(m, v, "ppl_difference", ppl - base);
    qsae__set(m, v, "ppl_difference_se",
              sqrt(not_negative(se * se + base_se * base_se - 2 * (ppl * base * t.cov))));
    qsae__set(m, v, "kld_mean", t.kl.mean);
    qsae__set(m, v, "kld_mean_se", t.kl.se);
    qsae__set(m, v, "dp_mean", t.dp.mean);
    qsae__set(m, v, "dp_mean_se", t.dp.se);
    qsae__set(m, v, "dp_rms", t.rms);
    qsae__set(m, v, "dp_rms_se", t.rms_se);
    qsae__set(m, v, "same_top", t.same);
    qsae__set(m, v, "same_top_se", t.same_se);
    return quantiles(m, v);
}

const qsae__kind qsae__kind_llama_cpp = {
    .name = "llama_cpp", .number = 16, .results = results,
    .n_results = sizeof results / sizeof results[0], .row_words = T_WORDS, .width = width,
    .record_words = record_words, .combine = combine, .compute = compute,
};

int32_t qsae_metric_open_llama_cpp(qsae_context *context, const qsae_metric_settings *s,
                                   qsae_metric **out)
{
    return qsae__metric_open(context, &qsae__kind_llama_cpp, 0, 0, s, out);
}

int32_t qsae__llama_add(qsae_metric *metric, const qsae_positions *at, int64_t n,
                           const qsae__llama_token *tokens)
{
    qsae__update u = { .m = metric, .n = n, .rows = tokens, .row = row, .record = record };
    return qsae__update_run(&u, at);
}

/* The running line after n rows. */
static void line_of(const double *v, double n, double *out)
{
    const struct totals t = totals_of(v, n);
    const double ppl = exp(t.q.mean);
    const double line[QSAE_METRIC_LLAMA_LINE] = {
        ppl, ppl * t.q.se, t.q.mean - t.base.mean, t.ratio_se, t.kl.mean, t.kl.se, t.rms, t.rms_se,
        t.same, t.same_se,
    };
    memcpy(out, line, sizeof line);
}

int64_t qsae_metric_llama_line(void)
{
    return QSAE_METRIC_LLAMA_LINE;
}

int32_t qsae_metric_llama_lines(qsae_metric *metric, int64_t *chunks, double *lines,
                                int64_t capacity, int64_t *n)
{
    int32_t st = qsae__metric_check(metric, &qsae__kind_llama_cpp, "qsae_metric_llama_lines");
    if (st == QSAE_OK && (qsae__need_aligned(chunks, "chunks") ||
                          qsae__need_aligned(lines, "lines") ||
                          qsae__need_aligned(n, "n")))
        st = QSAE_EINVAL;
    if (st == QSAE_OK && (!n || capacity < 0 || (capacity > 0 && (!chunks || !lines))))
        st = qsae__fail(QSAE_EINVAL, "qsae_metric_llama_lines: n must not be NULL, nor chunks or "
                        "lines where there is room");
    if (st != QSAE_OK)
        return st;
    const qsae__sample *const s = &metric->state.sample;
    double v[L_WIDTH] = { 0 };
    int64_t count = 0;
    *n = 0;
    if (s->stride > 1)
        return QSAE_OK; /* single tokens are gone */
    const qsae__fpenv env = qsae__fpenv_enter();
    for (int64_t i = 0; i < s->n; i++) {
        const uint64_t *const r = s->data + i * s->words;
        const qsae__llama_token t = token_of(r + 1);
        const int64_t chunk = (int64_t)r[0] / metric->batch_rows;
        add_token(v, &t);
        if (i + 1 < s->n && (int64_t)r[s->words] / metric->batch_rows == chunk)
            continue;
        if (count < capacity) {
            chunks[count] = chunk;
            line_of(v, (double)(i + 1), lines + count * QSAE_METRIC_LLAMA_LINE);
        }
        count++;
    }
    qsae__fpenv_leave(env);
    *n = count;
    return capacity > 0 && count > capacity
               ? qsae__fail(QSAE_ESPACE, "qsae_metric_llama_lines: room for %lld lines, expected "
                            "%lld", (long long)capacity, (long long)count)
               : QSAE_OK;
}
