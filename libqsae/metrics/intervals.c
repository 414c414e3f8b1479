/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cluster bootstrap over documents. Document d is drawn w times in replicate b, w Poisson(1) by
 * inversion of output b of numpy.random.Philox(key=[seed, 0], counter=[0, d, 0, 0]): it depends on
 * nothing else, so neither shards nor threads change a bit, and figures of several metrics are
 * paired.
 */
#include "metrics/intervals.h"

#include <stdlib.h>
#include <string.h>

/* ---- weights ---- */

/* Philox4x64-10 (Salmon, Moraes, Dror, Shaw, 2011), key (key, 0). */
static void philox(uint64_t key, uint64_t c0, uint64_t c1, uint64_t out[4])
{
    __extension__ typedef unsigned __int128 u128;
    uint64_t c[4] = { c0, c1, 0, 0 }, k0 = key, k1 = 0;
    for (int round = 0; round < 10; round++) {
        const u128 a = (u128)0xD2E7470EE14C6C93u * c[0], b = (u128)0xCA5A826395121157u * c[2];
        const uint64_t next[4] = { (uint64_t)(b >> 64) ^ c[1] ^ k0, (uint64_t)b,
                                   (uint64_t)(a >> 64) ^ c[3] ^ k1, (uint64_t)a };
        memcpy(c, next, sizeof c);
        k0 += 0x9E3779B97F4A7C15u;
        k1 += 0xBB67AE8584CAA73Bu;
    }
    memcpy(out, c, sizeof c);
}

/* Number of thresholds floor(2^64 sum over i <= j of e^-1 / i!), j = 0..19, that are <= u. */
static uint8_t poisson(uint64_t u)
{
    static const uint64_t at[] = {
        0x5e2d58d8b3bcdf1a, 0xbc5ab1b16779be35, 0xeb715e1dc1582dc2, 0xfb23979734a252f1,
        0xff1025f59174dc3d, 0xffd90f3ba4055e19, 0xfffa8b71fc72c913, 0xffff540c0914b3c9,
        0xffffed1f4aa8f120, 0xfffffe216e641462, 0xffffffd4d85d3183, 0xfffffffc6da262b4,
        0xffffffffba12d178, 0xfffffffffb07c64c, 0xffffffffffab8ea5, 0xfffffffffffabe22,
        0xffffffffffffb11a, 0xfffffffffffffba1, 0xffffffffffffffc5, 0xfffffffffffffffd,
    };
    uint8_t n = (uint8_t)((u >= at[0]) + (u >= at[1]) + (u >= at[2]) + (u >= at[3]));
    while (n >= 4 && n < sizeof at / sizeof at[0] && u >= at[n])
        n++;
    return n;
}

void qsae__poisson_weights(uint64_t seed, int64_t id, int64_t first, int64_t n, uint8_t *weight)
{
    for (int64_t b = 0; b < n; b += 4) {
        uint64_t u[4];
        philox(seed, (uint64_t)(first + b) / 4 + 1, (uint64_t)id, u); /* NumPy counts first */
        for (int64_t i = 0; i < 4 && b + i < n; i++)
            weight[b + i] = poisson(u[i]);
    }
}

/* ---- replicates ---- */

#define TILE 200

typedef struct replicates {
    const qsae__documents *d;
    uint64_t seed;
    double *sums;              /* [QSAE__REPLICATES, k] */
    double *scratch;           /* [threads, k, TILE] */
} replicates;

/* TILE replicates: every sum in the order of the documents. */
static int32_t run_tile(void *arg, int64_t tile, int32_t worker)
{
    const replicates *const r = arg;
    const int64_t k = r->d->k;
    double *const acc = r->scratch + worker * k * TILE;
    uint8_t weight[TILE];
    memset(acc, 0, (size_t)(k * TILE) * sizeof *acc);
    for (int64_t i = 0; i < r->d->n; i++) {
        const double *const sums = r->d->sums + i * r->d->stride;
        qsae__poisson_weights(r->seed, r->d->id[i], tile * TILE, TILE, weight);
        for (int64_t c = 0; c < k; c++) {
            double *const to = acc + c * TILE;
            const double s = sums[c];
            if (s == 0)
                continue;
            for (int64_t b = 0; b < TILE; b++)
                to[b] += (double)weight[b] * s;
        }
    }
    for (int64_t b = 0; b < TILE; b++)
        for (int64_t c = 0; c < k; c++)
            r->sums[(tile * TILE + b) * k + c] = acc[c * TILE + b];
    return QSAE_OK;
}

/* ---- Student's t ---- */

/* Continued fraction of the incomplete beta function (Abramowitz and Stegun 26.5.8), by Lentz. */
static double beta_fraction(double a, double b, double x)
{
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (d != 0 ? d : 1e-300);
    double h = d;
    for (int i = 1; i < 10000; i++) {
        const double n = i;
        const double even = n * (b - n) * x / ((a + 2 * n - 1) * (a + 2 * n));
        const double odd = -(a + n) * (a + b + n) * x / ((a + 2 * n) * (a + 2 * n + 1));
        d = 1 / (1 + even * d);
        c = 1 + even / c;
        h *= d * c;
        d = 1 / (1 + odd * d);
        c = 1 + odd / c;
        h *= d * c;
        if (fabs(d * c - 1) < 1e-16)
            break;
    }
    return h;
}

/* For x above (a + 1) / (a + b + 2), where the fraction of the other tail converges fast. */
static double beta_regular(double a, double b, double x)
{
    int sign;
    const double log_front = lgamma_r(a + b, &sign) - lgamma_r(a, &sign) - lgamma_r(b, &sign) +
                             a * log(x) + b * log1p(-x);
    return 1 - exp(log_front) * beta_fraction(b, a, 1 - x) / b;
}

double qsae__t975(double v)
{
    double low = 1.9, high = 13;
    if (v > 200) { /* expansion in 1 / v: Abramowitz and Stegun 26.7.5 */
        const double z = 1.959963984540054, q = z * z;
        const double g1 = z * (q + 1) / 4, g2 = z * ((5 * q + 16) * q + 3) / 96,
                     g3 = z * (((3 * q + 19) * q + 17) * q - 15) / 384,
                     g4 = z * ((((79 * q + 776) * q + 1482) * q - 1920) * q - 945) / 92160;
        return z + (g1 + (g2 + (g3 + g4 / v) / v) / v) / v;
    }
    for (int i = 0; i < 60; i++) {
        /* t is above 1.9, hence y above 3.61 / (v + 3.61), and that above 3 / (v + 5). */
        const double t = 0.5 * (low + high), y = t * t / (v + t * t);
        if (beta_regular(0.5, 0.5 * v, y) < 0.95)
            low = t;
        else
            high = t;
    }
    return 0.5 * (low + high);
}

/* ---- intervals ---- */

/* Delete-one jackknife. *se: of the figure (with `log`: of its exponential), *se_log: of what the
 * statistic returns. */
static void jackknife(const qsae_metric *m, const qsae__documents *d, const qsae__interval *f,
                      double *se, double *se_log)
{
    double total[QSAE__COLUMNS_MOST] = { 0 }, left[QSAE__COLUMNS_MOST] = { 0 };
    double mean = 0, m2 = 0, mean_exp = 0, m2_exp = 0;
    for (int64_t i = 0; i < d->n; i++)
        for (int64_t c = 0; c < d->k; c++)
            total[c] += d->sums[i * d->stride + c];
    for (int64_t i = 0; i < d->n; i++) {
        for (int64_t c = 0; c < d->k; c++)
            left[c] = total[c] - d->sums[i * d->stride + c];
        const double theta = f->of(m, left), at = theta - mean, up = exp(theta) - mean_exp;
        mean += at / (double)(i + 1);
        m2 += at * (theta - mean);
        mean_exp += up / (double)(i + 1);
        m2_exp += up * (exp(theta) - mean_exp);
    }
    const double factor = (double)(d->n - 1) / (double)d->n;
    *se_log = sqrt(m2 * factor);
    *se = f->log ? sqrt(m2_exp * factor) : *se_log;
}

/* (sum c)^2 / sum c^2 of a column: documents of equal weight that would count as much. */
static double effective(const qsae__documents *d, int64_t column)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < d->n; i++) {
        const double c = d->sums[i * d->stride + column];
        sum += c;
        squares += c * c;
    }
    return qsae__ratio(sum * sum, squares);
}

static qsae__bounds bounds_of(const qsae_metric *m, const replicates *r, const qsae__interval *f,
                              double value, double *theta)
{
    const qsae__documents *const d = r->d;
    qsae__bounds out = { NAN, NAN, NAN };
    double se = NAN;
    int64_t n = 0;
    if (!isfinite(value))
        return out;
    jackknife(m, d, f, &out.se, &se);
    for (int64_t b = 0; b < QSAE__REPLICATES; b++) {
        double sums[QSAE__COLUMNS_MOST] = { 0 };
        memcpy(sums, r->sums + b * d->k, (size_t)d->k * sizeof *sums);
        theta[n] = f->of(m, sums);
        n += isfinite(theta[n]);
    }
    const double count = effective(d, f->weight);
    if (!isfinite(se) || !isfinite(count) || n < QSAE__REPLICATES / 2) {
        out.se = NAN;
        return out;
    }
    qsort(theta, (size_t)n, sizeof *theta, qsae__by_value);
    const double low = qsae__quantile(theta, n, 0.025), high = qsae__quantile(theta, n, 0.975);
    const double half = 0.5 * (high - low), t = qsae__t975(fmax(1, count - 1));
    const double widen = half > 0 ? fmax(1, t * se / half) : 1;
    out.low = value - widen * (value - low);
    out.high = value + widen * (high - value);
    if (f->log) {
        out.low = exp(out.low);
        out.high = exp(out.high);
    }
    if (f->scale != 0) {
        out.low *= f->scale;
        out.high *= f->scale;
        out.se *= f->scale;
    }
    return out;
}

int32_t qsae__bootstrap(const qsae_metric *m, const qsae__documents *d, const qsae__interval *list,
                        const double *value, size_t n_list, qsae__bounds *out)
{
    qsae_context *const ctx = m->ctx;
    replicates r = { .d = d, .seed = m->seed };
    for (size_t i = 0; i < n_list; i++)
        out[i] = (qsae__bounds){ NAN, NAN, NAN };
    if (d->n < QSAE__LEAST_DOCUMENTS)
        return QSAE_OK;
    r.sums = qsae__alloc_array(ctx, QSAE__REPLICATES * d->k, sizeof *r.sums);
    r.scratch = qsae__alloc_array(ctx, ctx->threads * d->k * TILE, sizeof *r.scratch);
    double *const theta = qsae__alloc_array(ctx, QSAE__REPLICATES, sizeof *theta);
    int32_t st = r.sums && r.scratch && theta ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__parallel(ctx, QSAE__REPLICATES / TILE, run_tile, &r);
    for (size_t i = 0; i < n_list && st == QSAE_OK; i++)
        out[i] = bounds_of(m, &r, &list[i], value[i], theta);
    qsae__free(ctx, r.sums);
    qsae__free(ctx, r.scratch);
    qsae__free(ctx, theta);
    return st;
}

/* ---- several metrics ---- */

int32_t qsae__join(qsae_context *ctx, const qsae__part *parts, int64_t n_parts, int64_t **ids,
                   double **sums, qsae__documents *out)
{
    int64_t at[4] = { 0 }, most = 0, k = 0, n = 0;
    for (int64_t p = 0; p < n_parts; p++) {
        most += parts[p].n;
        k += parts[p].k;
    }
    *ids = qsae__alloc_array(ctx, most, sizeof **ids);
    *sums = qsae__calloc(ctx, most, (size_t)k * sizeof **sums);
    if (!*ids || !*sums)
        return QSAE_ENOMEM;
    for (;;) {
        int64_t next = INT64_MAX, column = 0;
        bool left = false;
        for (int64_t p = 0; p < n_parts; p++)
            if (at[p] < parts[p].n) {
                next = qsae__min_i64(next, parts[p].id[at[p]]);
                left = true;
            }
        if (!left)
            break;
        (*ids)[n] = next;
        for (int64_t p = 0; p < n_parts; column += parts[p++].k)
            if (at[p] < parts[p].n && parts[p].id[at[p]] == next)
                memcpy(*sums + n * k + column, parts[p].sums + at[p]++ * QSAE__RUN_SUMS,
                       (size_t)parts[p].k * sizeof **sums);
        n++;
    }
    *out = (qsae__documents){ n, k, k, *ids, *sums };
    return QSAE_OK;
}
