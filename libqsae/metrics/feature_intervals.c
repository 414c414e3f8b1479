/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block jackknife of feature survival (methods.md section 9): r of each feature on the scale of
 * atanh, shares and means over the active features, which stay those of all tokens.
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

/* Figures over the active features with one block left out; r [n] is left sorted. */
static void figures_of(double *r, int64_t n, double out[P_COUNT])
{
    double survived = 0, damaged = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        survived += r[i] > 0.9;
        damaged += r[i] < 0.5;
        sum += r[i];
    }
    qsort(r, (size_t)n, sizeof *r, qsae__by_value);
    out[P_SURVIVED] = 100 * survived / (double)n;
    out[P_DAMAGED] = 100 * damaged / (double)n;
    out[P_DEGRADED] = 100 * ((double)n - survived - damaged) / (double)n;
    out[P_MEAN] = sum / (double)n;
    out[P_MEDIAN] = r[(n - 1) / 2];
}

static double value_of(const qsae_metric *m, const qsae__values *v, const char *name)
{
    for (int32_t i = 0; i < m->kind->n_results; i++)
        if (strcmp(m->kind->results[i].name, name) == 0)
            return v->value[i];
    return NAN;
}

static void set_figures(const qsae_metric *m, qsae__values *v, double (*left)[P_COUNT], double t)
{
    for (int p = 0; p < P_COUNT; p++) {
        double of[QSAE__BLOCKS];
        for (int g = 0; g < QSAE__BLOCKS; g++)
            of[g] = left[g][p];
        const double se = qsae__blocks_error(of), x = value_of(m, v, figures[p].name);
        qsae__set_bounds(m, v, figures[p].name, fmax(figures[p].low, x - t * se),
                         fmin(figures[p].high, x + t * se), se);
    }
}

int32_t qsae__feature_intervals(const qsae_metric *m, qsae__values *v, const int64_t *id,
                                const double *r, int64_t n)
{
    const qsae__blocks *const b = &m->state.blocks;
    double left[QSAE__BLOCKS][P_COUNT], crossing[THRESHOLDS] = { 0 };
    for (int p = 0; p < P_COUNT; p++)
        qsae__set_bounds(m, v, figures[p].name, NAN, NAN, NAN);
    if (!b->per || n == 0 || qsae__blocks_count(b) == 0)
        return QSAE_OK;
    double *const all = qsae__alloc_array(m->ctx, n, QSAE__BLOCKS * sizeof *all); /* [blocks, n] */
    if (!all)
        return QSAE_ENOMEM;
    const double t = qsae__t975(qsae__blocks_freedom(b));
    for (int64_t i = 0; i < n; i++) {
        double of[QSAE__BLOCKS], low, high;
        qsae__blocks_left_out(b, id[i], of);
        qsae__blocks_interval(of, r[i], t, &low, &high);
        for (int k = 0; k < THRESHOLDS; k++)
            crossing[k] += low <= thresholds[k].r && high > thresholds[k].r;
        for (int g = 0; g < QSAE__BLOCKS; g++)
            all[g * n + i] = of[g];
    }
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        for (int p = 0; p < P_COUNT; p++)
            left[g][p] = NAN;
        if (b->rows[g] > 0)
            figures_of(all + g * n, n, left[g]);
    }
    qsae__free(m->ctx, all);
    set_figures(m, v, left, t);
    for (int k = 0; k < THRESHOLDS; k++)
        qsae__set(m, v, thresholds[k].name, crossing[k]);
    qsae__set(m, v, "undetermined_percent", 100 * crossing[0] / (double)n);
    return QSAE_OK;
}

void qsae__feature_bound(const qsae_metric *m, bool high, double *r)
{
    const qsae__blocks *const b = &m->state.blocks;
    const bool enough = b->per && qsae__blocks_count(b) > 0;
    const double t = enough ? qsae__t975(qsae__blocks_freedom(b)) : NAN;
    for (int64_t f = 0; f < m->features; f++) {
        double left[QSAE__BLOCKS], bounds[2] = { NAN, NAN };
        if (enough && qsae__blocks_left_out(b, f, left))
            qsae__blocks_interval(left, r[f], t, &bounds[0], &bounds[1]);
        r[f] = bounds[high];
    }
}
