/* SPDX-License-Identifier: BSD-2-Clause */
#include "metrics/tails.h"

#include <math.h>
#include <string.h>

#include "metrics/parts.h"

/* ---- values in order ---- */

/* Mean of the k largest of n ascending values; *sum: theirs. */
static double mean_of_largest(const double *sorted, int64_t n, int64_t k, double *sum)
{
    *sum = 0;
    for (int64_t i = n - k; i < n; i++)
        *sum += sorted[i];
    return qsae__ratio(*sum, (double)k);
}

void qsae__tail_sorted(const double *sorted, int64_t n, qsae__tail *out)
{
    double all = 0, worst, tail;
    for (int64_t i = 0; i < n; i++)
        all += sorted[i];
    out->median = qsae__quantile(sorted, n, 0.5);
    out->q90 = qsae__quantile(sorted, n, 0.9);
    out->q95 = qsae__quantile(sorted, n, 0.95);
    out->q99 = qsae__quantile(sorted, n, 0.99);
    out->q999 = qsae__quantile(sorted, n, 0.999);
    out->cvar_0p1pct = mean_of_largest(sorted, n, qsae__ceil_div(n, 1000), &worst);
    out->cvar_1pct = mean_of_largest(sorted, n, qsae__ceil_div(n, 100), &tail);
    out->share_1pct = qsae__ratio(tail, all);
}

/* ---- the histogram ---- */

/*
 * Bucket i holds gamma^(i-1) < |v| <= gamma^i, gamma = (1 + a) / (1 - a), for i from FIRST on,
 * where 2^-30 lies; 2 gamma^i / (gamma + 1) is within a of all of it. Words: values that count as
 * zero; then per sign and bucket the number and the sum. All values of a bucket are multiples of a
 * power of two that 2^26 of reach it, so sums are whole numbers: exact, whatever their order.
 */
#define GAMMA ((1 + QSAE__HISTOGRAM_ERROR) / (1 - QSAE__HISTOGRAM_ERROR))
#define FIRST (-1039)
#define SMALLEST 9.31322574615478515625e-10f /* 2^-30 */
#define LARGEST 1048576.0f                   /* 2^20 */

static int64_t bucket_of(float v)
{
    const int64_t i = (int64_t)ceil(log((double)v) / log(GAMMA)) - FIRST;
    return qsae__max_i64(0, qsae__min_i64(i, QSAE__HISTOGRAM_BUCKETS - 1));
}

/* What a sum of the bucket is counted in. */
static double unit_of(int64_t bucket)
{
    return ldexp(1, ilogb(pow(GAMMA, (double)(bucket + FIRST - 1))) - 24);
}

static void add_sum(uint64_t *to, uint64_t v)
{
    *to = *to > UINT64_MAX - v ? UINT64_MAX : *to + v;
}

void qsae__histogram_add(uint64_t *words, float v)
{
    const float size = fabsf(v);
    if (!(size >= SMALLEST)) {
        words[0]++;
        return;
    }
    const float clipped = size < LARGEST ? size : LARGEST;
    const int64_t b = bucket_of(clipped);
    uint64_t *const at = words + 1 + 2 * (b + (v < 0 ? QSAE__HISTOGRAM_BUCKETS : 0));
    at[0]++;
    add_sum(&at[1], (uint64_t)((double)clipped / unit_of(b)));
}

void qsae__histogram_merge(uint64_t *words, const uint64_t *from)
{
    words[0] += from[0];
    for (int64_t i = 1; i < QSAE__HISTOGRAM; i += 2) {
        words[i] += from[i];
        add_sum(&words[i + 1], from[i + 1]);
    }
}

bool qsae__histogram_valid(const uint64_t *words, uint64_t values)
{
    uint64_t left = values;
    if (words[0] > left)
        return false;
    left -= words[0];
    for (int64_t i = 1; i < QSAE__HISTOGRAM; i += 2) {
        if (words[i] > left)
            return false;
        left -= words[i];
    }
    return true;
}

/* A bucket as the values go up. */
struct step {
    double n, value, sum;
};

/* Step i of 2 BUCKETS + 1: the negative ones from the largest size on, zero, the positive ones. */
static struct step step_at(const uint64_t *words, int64_t i)
{
    if (i == QSAE__HISTOGRAM_BUCKETS)
        return (struct step){ (double)words[0], 0, 0 };
    const bool below = i < QSAE__HISTOGRAM_BUCKETS;
    const int64_t b = below ? QSAE__HISTOGRAM_BUCKETS - 1 - i : i - QSAE__HISTOGRAM_BUCKETS - 1;
    const uint64_t *const at = words + 1 + 2 * (b + (below ? QSAE__HISTOGRAM_BUCKETS : 0));
    const double sign = below ? -1 : 1;
    if (at[0] == 0)
        return (struct step){ 0, 0, 0 };
    return (struct step){ (double)at[0],
                          sign * 2 * pow(GAMMA, (double)(b + FIRST)) / (GAMMA + 1),
                          at[1] == UINT64_MAX ? NAN : sign * (double)at[1] * unit_of(b) };
}

/* The value of rank k (0 = the smallest), within the error of its bucket. */
static double value_at(const uint64_t *words, double k)
{
    double below = 0;
    for (int64_t i = 0; i < 2 * QSAE__HISTOGRAM_BUCKETS + 1; i++) {
        const struct step s = step_at(words, i);
        below += s.n;
        if (k < below)
            return s.value;
    }
    return NAN;
}

static double quantile(const uint64_t *words, double n, double max, double f)
{
    const double rank = f * (n - 1), low = floor(rank);
    const double a = value_at(words, low);
    const double b = low + 1 < n ? value_at(words, low + 1) : a;
    return fmin(a + (b - a) * (rank - low), max);
}

/* Mean of the k largest: whole buckets by their sums, of the last one its mean; *sum: theirs. */
static double mean_of_top(const uint64_t *words, double k, double *sum)
{
    double left = k;
    *sum = 0;
    for (int64_t i = 2 * QSAE__HISTOGRAM_BUCKETS; i >= 0 && left > 0; i--) {
        const struct step s = step_at(words, i);
        if (s.n == 0)
            continue;
        const double taken = fmin(s.n, left);
        *sum += taken == s.n ? s.sum : s.sum * (taken / s.n);
        left -= taken;
    }
    return qsae__ratio(*sum, k);
}

void qsae__histogram_tail(const uint64_t *words, double max, qsae__tail *out)
{
    double n = 0, all = 0, worst, tail;
    for (int64_t i = 0; i < 2 * QSAE__HISTOGRAM_BUCKETS + 1; i++) {
        const struct step s = step_at(words, i);
        n += s.n;
        all += s.sum;
    }
    if (n == 0) {
        qsae__tail_sorted(NULL, 0, out);
        return;
    }
    out->median = quantile(words, n, max, 0.5);
    out->q90 = quantile(words, n, max, 0.9);
    out->q95 = quantile(words, n, max, 0.95);
    out->q99 = quantile(words, n, max, 0.99);
    out->q999 = quantile(words, n, max, 0.999);
    out->cvar_0p1pct = mean_of_top(words, ceil(n / 1000), &worst);
    out->cvar_1pct = mean_of_top(words, ceil(n / 100), &tail);
    out->share_1pct = qsae__ratio(tail, all);
}

/* ---- single tokens ---- */

void qsae__token_write(const qsae__token *t, uint64_t *words)
{
    const float f[4] = { t->nll_r, t->nll_q, t->kl, t->entropy_r };
    const int32_t top[2] = { t->top_r, t->top_q };
    words[0] = (uint64_t)t->token;
    memcpy(words + 1, f, sizeof f);
    memcpy(words + 3, top, sizeof top);
}

qsae__token qsae__token_read(const uint64_t *words)
{
    float f[4];
    int32_t top[2];
    memcpy(f, words + 1, sizeof f);
    memcpy(top, words + 3, sizeof top);
    return (qsae__token){ .token = (int64_t)words[0], .nll_r = f[0], .nll_q = f[1], .kl = f[2],
                          .entropy_r = f[3], .top_r = top[0], .top_q = top[1] };
}

static double rise(const uint64_t *record)
{
    const qsae__token t = qsae__token_read(record);
    return (double)t.nll_q - (double)t.nll_r;
}

/* Whether a comes before b. */
static bool before(const uint64_t *a, const uint64_t *b)
{
    const double x = rise(a), y = rise(b);
    return x > y || (x == y && a[0] < b[0]);
}

void qsae__worst_add(qsae__worst *w, const uint64_t *record)
{
    if (!w->record || isnan(rise(record)))
        return;
    int64_t at = w->n;
    while (at > 0 && before(record, w->record[at - 1]))
        at--;
    if (at == QSAE__WORST)
        return;
    w->n = qsae__min_i64(w->n + 1, QSAE__WORST);
    memmove(w->record + at + 1, w->record + at, (size_t)(w->n - at - 1) * sizeof *w->record);
    memcpy(w->record[at], record, sizeof *w->record);
}

void qsae__worst_merge(qsae__worst *w, const qsae__worst *from)
{
    for (int64_t i = 0; i < from->n; i++)
        qsae__worst_add(w, from->record[i]);
}

bool qsae__worst_valid(const qsae__worst *w, int64_t max_token)
{
    for (int64_t i = 0; i < w->n; i++) {
        const uint64_t *const record = w->record[i];
        if (record[0] > (uint64_t)max_token || !isfinite(rise(record)) ||
            (i > 0 && !before(w->record[i - 1], record)))
            return false;
    }
    return true;
}

int64_t qsae__divergence_kept(const qsae_metric *m, bool *all)
{
    *all = m->state.sample.stride == 1;
    return m->state.sample.n;
}

qsae__token qsae__divergence_token(const qsae_metric *m, int64_t i)
{
    return qsae__token_read(m->state.sample.data + i * m->state.sample.words);
}

int64_t qsae__divergence_worst(const qsae_metric *m)
{
    return m->state.worst.n;
}

qsae__token qsae__divergence_worst_token(const qsae_metric *m, int64_t i)
{
    return qsae__token_read(m->state.worst.record[i]);
}
