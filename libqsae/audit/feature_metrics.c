/* SPDX-License-Identifier: BSD-2-Clause */
/* Feature metrics beyond r (methods.md 6): what a condition did to the firing and to the strength
 * of the active features, and survival at several thresholds, by number and by energy. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"
#include "metrics/tails.h"

#define RATE_LEAST 0.001
#define COUNT_LEAST 200.0
#define CONTEXTS_LEAST 20 /* top_overlap compares that many */

static const double thresholds[] = { 0.5, 0.8, 0.9, 0.95 };
enum { THRESHOLDS = sizeof thresholds / sizeof thresholds[0] };

/* Per-feature figures; those before N_SUMMARIES have a mean and a median over active features. */
enum { M_JACCARD, M_PRECISION, M_RECALL, M_RATE, M_R_ON, M_COSINE, M_GAIN, M_ERROR, M_MEAN, M_TOP,
       N_SUMMARIES, M_R = N_SUMMARIES, M_FIRE, M_SIGNAL, M_DELTA, N_FIGURES };
static const char *const names[N_FIGURES] = {
    "cofire_jaccard", "precision", "recall", "rate_ratio", "r_on", "cosine", "gain",
    "relative_error", "mean_ratio", "top_overlap", "r", "fire_r", "sum_r2", "sum_delta2"
};

struct table {
    int64_t n;
    double tokens;
    double *of[N_FIGURES];       /* [n]; NULL: not kept */
    const double *norm;          /* [n] |W_dec,j| */
};

static int32_t table_read(qsae_audit *a, qsae_metric *m, int64_t sae, struct table *t)
{
    t->n = a->saes[sae].info.features;
    int32_t st = qsae_metric_get(m, "tokens", &t->tokens);
    for (int k = 0; k < N_FIGURES && st == QSAE_OK; k++) {
        if (k == M_TOP && a->top < CONTEXTS_LEAST)
            continue;
        t->of[k] = qsae__alloc_array(a->ctx, t->n, sizeof *t->of[k]);
        st = t->of[k] ? qsae_metric_features(m, names[k], t->of[k], t->n) : QSAE_ENOMEM;
    }
    return st == QSAE_OK ? qsae__decoder_norms(a, sae, &t->norm) : st;
}

int32_t qsae__sae_figures(const struct audit_sae *s, const char *name, double *values)
{
    const int32_t st = qsae_sae_features(s->sae, name, values, s->info.features);
    if (st != QSAE_EUNSUPPORTED && st != QSAE_EMISMATCH)
        return st;
    for (int64_t i = 0; i < s->info.features; i++)
        values[i] = NAN;
    return QSAE_OK;
}

int32_t qsae__decoder_norms(qsae_audit *a, int64_t sae, const double **out)
{
    struct audit_sae *const s = &a->saes[sae];
    if (!s->decoder_norm) {
        double *const norm = qsae__alloc_array(a->ctx, s->info.features, sizeof *norm);
        const int32_t st = norm ? qsae__sae_figures(s, "decoder_norm", norm) : QSAE_ENOMEM;
        if (st != QSAE_OK) {
            qsae__free(a->ctx, norm);
            return st;
        }
        s->decoder_norm = norm;
    }
    *out = s->decoder_norm;
    return QSAE_OK;
}

static bool active(const struct table *t, int64_t i, bool by_count)
{
    return by_count ? t->of[M_FIRE][i] >= COUNT_LEAST
                    : t->of[M_FIRE][i] / t->tokens > RATE_LEAST;
}

/* Mean and lower median of a figure over the active features that have it, and their number. */
static json_t *summary(const struct table *t, int k, double *values)
{
    double sum = 0;
    int64_t n = 0;
    json_t *const o = json_object();
    for (int64_t i = 0; i < t->n; i++)
        if (active(t, i, false) && isfinite(t->of[k][i])) {
            sum += t->of[k][i];
            values[n++] = t->of[k][i];
        }
    qsort(values, (size_t)n, sizeof *values, qsae__by_value);
    json_object_set_new(o, "mean", qsae__number(n ? sum / (double)n : NAN));
    json_object_set_new(o, "median", qsae__number(n ? values[(n - 1) / 2] : NAN));
    json_object_set_new(o, "features", json_integer(n));
    return o;
}

/* Features under one rule that have r above each threshold, and their share by number, by the
 * energy |W_dec,j|^2 sum f_r^2 and by that of the change. */
static json_t *survival(const struct table *t, bool by_count)
{
    double n = 0, signal = 0, energy = 0;
    json_t *const o = json_object(), *const list = json_array();
    for (int64_t i = 0; i < t->n; i++)
        if (active(t, i, by_count)) {
            n += 1;
            signal += t->norm[i] * t->norm[i] * t->of[M_SIGNAL][i];
            energy += t->norm[i] * t->norm[i] * t->of[M_DELTA][i];
        }
    for (int k = 0; k < THRESHOLDS; k++) {
        double above = 0, above_signal = 0, above_energy = 0;
        for (int64_t i = 0; i < t->n; i++)
            if (active(t, i, by_count) && t->of[M_R][i] > thresholds[k]) {
                above += 1;
                above_signal += t->norm[i] * t->norm[i] * t->of[M_SIGNAL][i];
                above_energy += t->norm[i] * t->norm[i] * t->of[M_DELTA][i];
            }
        json_t *const at = json_object();
        json_object_set_new(at, "threshold", json_real(thresholds[k]));
        json_object_set_new(at, "survived", json_integer((json_int_t)above));
        json_object_set_new(at, "percent", qsae__number(100 * above / n));
        json_object_set_new(at, "signal_percent", qsae__number(100 * above_signal / signal));
        json_object_set_new(at, "energy_percent", qsae__number(100 * above_energy / energy));
        json_array_append_new(list, at);
    }
    json_object_set_new(o, "active", json_integer((json_int_t)n));
    json_object_set_new(o, "thresholds", list);
    return o;
}

static json_t *energies(const struct table *t)
{
    double signal = 0, energy = 0, of_active = 0;
    json_t *const o = json_object();
    for (int64_t i = 0; i < t->n; i++) {
        const double w = t->norm[i] * t->norm[i], e = w * t->of[M_DELTA][i];
        signal += w * t->of[M_SIGNAL][i];
        energy += e;
        of_active += active(t, i, false) ? e : 0;
    }
    json_object_set_new(o, "signal", qsae__number(signal));
    json_object_set_new(o, "change", qsae__number(energy));
    json_object_set_new(o, "relative", qsae__number(energy / signal));
    json_object_set_new(o, "active_share", qsae__number(of_active / energy));
    return o;
}

int32_t qsae__feature_metrics_json(qsae_audit *a, struct participant *p, int64_t sae, json_t **out)
{
    struct table t = { 0 };
    *out = json_null();
    if (!qsae__participant_features(p))
        return QSAE_OK;
    int32_t st = table_read(a, p->saes[sae].survival, sae, &t);
    double *const values = qsae__alloc_array(a->ctx, t.n, sizeof *values);
    if (st == QSAE_OK && !values)
        st = QSAE_ENOMEM;
    if (st == QSAE_OK) {
        json_t *const o = *out = json_object(), *const by = json_object();
        for (int k = 0; k < N_SUMMARIES; k++)
            json_object_set_new(o, names[k], t.of[k] ? summary(&t, k, values) : json_null());
        json_object_set_new(o, "energy", energies(&t));
        json_object_set_new(by, "rate_above_0p001", survival(&t, false));
        json_object_set_new(by, "count_from_200", survival(&t, true));
        json_object_set_new(o, "survival", by);
    }
    for (int k = 0; k < N_FIGURES; k++)
        qsae__free(a->ctx, t.of[k]);
    qsae__free(a->ctx, values);
    return st;
}
