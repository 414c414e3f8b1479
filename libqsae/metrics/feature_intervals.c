/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Feature survival over blocks of documents (methods.md section 9). r of each feature: jackknife on
 * the scale of atanh. Shares and means over the active features, which stay those of all tokens:
 * bootstrap over the same blocks, since the jackknife of a share, which jumps where an r passes a
 * threshold, is much too large.
 */
#include "metrics/feature_intervals.h"

#include <stdlib.h>
#include <string.h>

#include "metrics/intervals.h"

enum { P_SURVIVED, P_DEGRADED, P_DAMAGED, P_MEAN, P_MEDIAN, P_COUNT };
static const struct {
    const char *name;
    double low, high;          /* of what it can be */
} figures[P_COUNT] = {
    { "survived_percent", 0, 100 }, { "degraded_percent", 0, 100 }, { "damaged_percent", 0, 100 },
    { "mean_r", -1, 1 },            { "median_r", -1, 1 },
};

#define THRESHOLDS 4
static const struct {
    const char *name;
    double r;
} thresholds[THRESHOLDS] = { { "undetermined", 0.9 }, { "undetermined_0p5", 0.5 },
                             { "undetermined_0p8", 0.8 }, { "undetermined_0p95", 0.95 } };

/* Figures over the features with their r, NaN those that do not fire; r [all] is changed. */
static void figures_of(double *r, int64_t all, double out[P_COUNT])
{
    double survived = 0, damaged = 0, sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < all; i++)
        if (!isnan(r[i]))
            r[n++] = r[i];
    for (int64_t i = 0; i < n; i++) {
        survived += r[i] > 0.9;
        damaged += r[i] < 0.5;
        sum += r[i];
    }
    qsort(r, (size_t)n, sizeof *r, qsae__by_value);
    out[P_SURVIVED] = 100 * qsae__ratio(survived, (double)n);
    out[P_DAMAGED] = 100 * qsae__ratio(damaged, (double)n);
    out[P_DEGRADED] = 100 * qsae__ratio((double)n - survived - damaged, (double)n);
    out[P_MEAN] = qsae__ratio(sum, (double)n);
    out[P_MEDIAN] = n ? r[(n - 1) / 2] : NAN;
}

/* ---- bootstrap over blocks ---- */

#define REPLICATES 500
#define TILE 20

typedef struct replicates {
    const qsae__blocks *b;
    const int64_t *id;             /* [n] active features */
    int64_t n;
    double weight[QSAE__BLOCKS][REPLICATES];
    double rows[REPLICATES];
    double figure[REPLICATES][P_COUNT];
    double *scratch;               /* [threads, TILE, n] */
} replicates;

static int32_t run_tile(void *arg, int64_t tile, int32_t worker)
{
    replicates *const e = arg;
    double *const r = e->scratch + worker * TILE * e->n;
    for (int64_t i = 0; i < e->n; i++) {
        double part[QSAE__BLOCKS][QSAE__CELL_SUMS], sums[QSAE__CELL_SUMS][TILE] = { { 0 } };
        qsae__blocks_sums(e->b, e->id[i], part);
        for (int g = 0; g < QSAE__BLOCKS; g++) {
            const double *const w = e->weight[g] + tile * TILE;
            for (int s = 0; s < QSAE__CELL_SUMS; s++)
                for (int k = 0; k < TILE; k++)
                    sums[s][k] += w[k] * part[g][s];
        }
        for (int k = 0; k < TILE; k++) {
            double sum[QSAE__CELL_SUMS];
            for (int s = 0; s < QSAE__CELL_SUMS; s++)
                sum[s] = sums[s][k];
            const bool fires = sum[QSAE__CELL_XX] > 0 || sum[QSAE__CELL_YY] > 0;
            r[k * e->n + i] = fires ? qsae__pearson(sum, e->rows[tile * TILE + k]) : NAN;
        }
    }
    for (int64_t k = 0; k < TILE; k++)
        figures_of(r + k * e->n, e->n, e->figure[tile * TILE + k]);
    return QSAE_OK;
}

/* Standard deviation of each figure over the replicates in which it is defined. */
static void deviations(const replicates *e, double sd[P_COUNT])
{
    for (int p = 0; p < P_COUNT; p++) {
        double n = 0, mean = 0, m2 = 0;
        for (int k = 0; k < REPLICATES; k++) {
            const double x = e->figure[k][p], at = x - mean;
            if (isnan(x))
                continue;
            n += 1;
            mean += at / n;
            m2 += at * (x - mean);
        }
        sd[p] = n > 1 ? sqrt(m2 / (n - 1)) : NAN;
    }
}

static int32_t set_figures(const qsae_metric *m, qsae__values *v, const int64_t *id, int64_t n,
                           double t)
{
    const qsae__blocks *const b = &m->state.blocks;
    double sd[P_COUNT];
    replicates *const e = qsae__calloc(m->ctx, 1, sizeof *e);
    if (!e)
        return QSAE_ENOMEM;
    e->b = b;
    e->id = id;
    e->n = n;
    e->scratch = qsae__alloc_array(m->ctx, n, (size_t)m->ctx->threads * TILE * sizeof(double));
    int32_t st = e->scratch ? QSAE_OK : QSAE_ENOMEM;
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        uint8_t weight[REPLICATES];
        qsae__poisson_weights(m->seed, g, 0, REPLICATES, weight);
        for (int k = 0; k < REPLICATES; k++) {
            e->weight[g][k] = weight[k];
            e->rows[k] += e->weight[g][k] * (double)b->rows[g];
        }
    }
    if (st == QSAE_OK)
        st = qsae__parallel(m->ctx, REPLICATES / TILE, run_tile, e);
    if (st == QSAE_OK)
        deviations(e, sd);
    for (int p = 0; p < P_COUNT && st == QSAE_OK; p++) {
        const double x = qsae__get(m, v, figures[p].name);
        qsae__set_bounds(m, v, figures[p].name, fmax(figures[p].low, x - t * sd[p]),
                         fmin(figures[p].high, x + t * sd[p]), NAN);
    }
    qsae__free(m->ctx, e->scratch);
    qsae__free(m->ctx, e);
    return st;
}

static qsae__blocks_t quantiles(const qsae__blocks *b)
{
    qsae__blocks_t t = { .freedom = qsae__blocks_freedom(b) };
    for (int k = 1; k < QSAE__BLOCKS + 2; k++)
        t.quantile[k] = qsae__t975(k);
    return t;
}

int32_t qsae__feature_intervals(const qsae_metric *m, qsae__values *v, const int64_t *id,
                                const double *r, int64_t n)
{
    const qsae__blocks *const b = &m->state.blocks;
    double crossing[THRESHOLDS] = { 0 };
    for (int p = 0; p < P_COUNT; p++)
        qsae__set_bounds(m, v, figures[p].name, NAN, NAN, NAN);
    if (!b->per || n == 0 || qsae__blocks_count(b) == 0)
        return QSAE_OK;
    const qsae__blocks_t t = quantiles(b);
    for (int64_t i = 0; i < n; i++) {
        double part[QSAE__BLOCKS][QSAE__CELL_SUMS], left[QSAE__BLOCKS], low, high;
        qsae__blocks_sums(b, id[i], part);
        qsae__blocks_left_out(b, part, left);
        qsae__blocks_interval(left, r[i], &t, &low, &high);
        for (int k = 0; k < THRESHOLDS; k++)
            crossing[k] += low <= thresholds[k].r && high > thresholds[k].r;
    }
    for (int k = 0; k < THRESHOLDS; k++)
        qsae__set(m, v, thresholds[k].name, crossing[k]);
    qsae__set(m, v, "undetermined_percent", 100 * crossing[0] / (double)n);
    return set_figures(m, v, id, n, qsae__t975(t.freedom));
}

void qsae__feature_bound(const qsae_metric *m, bool high, double *r)
{
    const qsae__blocks *const b = &m->state.blocks;
    const bool enough = b->per && qsae__blocks_count(b) > 0;
    const qsae__blocks_t t = enough ? quantiles(b) : (qsae__blocks_t){ .freedom = NAN };
    for (int64_t f = 0; f < m->features; f++) {
        double part[QSAE__BLOCKS][QSAE__CELL_SUMS], left[QSAE__BLOCKS], bounds[2] = { NAN, NAN };
        if (enough && qsae__blocks_sums(b, f, part)) {
            qsae__blocks_left_out(b, part, left);
            qsae__blocks_interval(left, r[f], &t, &bounds[0], &bounds[1]);
        }
        r[f] = bounds[high];
    }
}
