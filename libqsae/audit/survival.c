/* SPDX-License-Identifier: BSD-2-Clause */
/* What per-feature survival says beyond its bands (methods.md 3.4 to 3.6): by decile of firing
 * rate, how well the reference alone predicts it, and what two conditions damage in common. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"
#include "metrics/ranks.h"

#define SURVIVES 0.9
#define DAMAGED 0.5
#define DECILES 10

/* The active features of one SAE, in order. */
struct active {
    int64_t n;
    double *r, *rate, *mean, *max; /* [n] */
};

static void active_free(qsae_audit *a, struct active *f)
{
    double *const all[] = { f->r, f->rate, f->mean, f->max };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        qsae__free(a->ctx, all[i]);
}

/* Reads a metric's features, those that fire in the reference on more than 0.1% of the tokens. */
static int32_t active_read(qsae_audit *a, qsae_metric *m, int64_t features, struct active *f)
{
    static const char *const names[] = { "r", "rate_r", "mean_r", "max_r" };
    double **const all[] = { &f->r, &f->rate, &f->mean, &f->max };
    *f = (struct active){ 0 };
    for (size_t i = 0; i < 4; i++) {
        *all[i] = qsae__alloc_array(a->ctx, features, sizeof(double));
        const int32_t st = *all[i] ? qsae_metric_features(m, names[i], *all[i], features)
                                   : QSAE_ENOMEM;
        if (st != QSAE_OK)
            return st;
    }
    for (int64_t i = 0; i < features; i++) {
        if (!(f->rate[i] > 0.001))
            continue;
        for (size_t k = 0; k < 4; k++)
            (*all[k])[f->n] = (*all[k])[i];
        f->n++;
    }
    return QSAE_OK;
}

/* Survived percent of each tenth of the features, rarest first; equal rates in order. */
static int32_t deciles(qsae_audit *a, const struct active *f, json_t **out)
{
    double survived[DECILES] = { 0 }, n[DECILES] = { 0 };
    int64_t *const order = qsae__calloc(a->ctx, f->n, sizeof *order);
    const int32_t st = order ? qsae__order(a->ctx, f->rate, f->n, order) : QSAE_ENOMEM;
    *out = json_array();
    for (int64_t i = 0; i < f->n && st == QSAE_OK; i++) {
        const int64_t d = i * DECILES / f->n;
        n[d] += 1;
        survived[d] += f->r[order[i]] > SURVIVES;
    }
    for (int d = 0; d < DECILES && st == QSAE_OK; d++)
        json_array_append_new(*out, qsae__number(100 * survived[d] / n[d]));
    qsae__free(a->ctx, order);
    return st;
}

/* ---- the predictor ---- */

#define INPUTS QSAE__INPUTS_MOST
#define FOLD_SEED 0
static const char *const input_names[INPUTS] = { "rarity", "log_mean", "log_max",
                                                 "log_concentration" };

/* Mean and deviation (divisor n) of each column over the rows with use, into means, sds [k] (or
 * NULL), then (x - mean) / sd. */
static void standardize(const double *x, const uint8_t *use, int64_t n, int64_t k, double *z,
                        double *means, double *sds)
{
    for (int64_t j = 0; j < k; j++) {
        double rows = 0, mean = 0, var = 0;
        for (int64_t i = 0; i < n; i++)
            if (!use || use[i]) {
                rows += 1;
                mean += x[i * INPUTS + j];
            }
        mean /= rows;
        for (int64_t i = 0; i < n; i++)
            if (!use || use[i])
                var += (x[i * INPUTS + j] - mean) * (x[i * INPUTS + j] - mean);
        const double spread = sqrt(var / rows), sd = spread > 0 ? spread : 1;
        for (int64_t i = 0; i < n; i++)
            z[i * k + j] = (x[i * INPUTS + j] - mean) / sd;
        if (means && sds) {
            means[j] = mean;
            sds[j] = sd;
        }
    }
}

struct predictor {
    const struct active *f;
    double *x;                   /* [n, INPUTS] */
    double *z, *score;           /* [n, k], [n] */
    uint8_t *survived, *fold, *use, *label; /* [n] */
    const char *condition;
    int64_t n_survived;
};

/*
 * Mean and deviation of the AUC over the folds. The paper standardizes all four inputs on all rows;
 * three (the fourth is the third less the second) standardized on what a fold is trained on keep
 * the held-out rows out of it.
 */
static int32_t cross_validate(qsae_audit *a, struct predictor *p, bool paper, double *mean,
                              double *sd)
{
    const int64_t n = p->f->n, k = paper ? INPUTS : INPUTS - 1;
    double auc[QSAE__FOLDS], w[INPUTS + 1];
    int32_t st = QSAE_OK;
    for (int f = 0; f < QSAE__FOLDS && st == QSAE_OK; f++) {
        int64_t held = 0;
        for (int64_t i = 0; i < n; i++)
            p->use[i] = p->fold[i] != f;
        standardize(p->x, paper ? NULL : p->use, n, k, p->z, NULL, NULL);
        qsae__logistic(p->z, p->survived, p->use, n, k, 1, w);
        for (int64_t i = 0; i < n; i++) {
            if (p->use[i])
                continue;
            double s = w[k];
            for (int64_t j = 0; j < k; j++)
                s += w[j] * p->z[i * k + j];
            p->score[held] = s;
            p->label[held++] = p->survived[i];
        }
        st = qsae__auc(a->ctx, p->score, p->label, held, &auc[f]);
    }
    *mean = *sd = 0;
    for (int f = 0; f < QSAE__FOLDS; f++)
        *mean += auc[f] / QSAE__FOLDS;
    for (int f = 0; f < QSAE__FOLDS; f++)
        *sd += (auc[f] - *mean) * (auc[f] - *mean) / QSAE__FOLDS;
    *sd = sqrt(*sd);
    return st;
}

void qsae__survival_inputs(double rate, double mean, double max, double *x)
{
    mean = fmax(mean, 1e-8);
    max = fmax(max, 1e-8);
    x[0] = -log(fmax(rate, 1e-8));
    x[1] = log(mean);
    x[2] = log(max);
    x[3] = log(fmax(max / mean, 1));
}

int qsae__survival_input(const char *name)
{
    for (int i = 0; i < INPUTS; i++)
        if (strcmp(name, input_names[i]) == 0)
            return i;
    return -1;
}

static json_t *numbers(const double *v, int64_t n)
{
    json_t *const list = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, qsae__number(v[i]));
    return list;
}

/*
 * The fit on all active features, as it can be applied to others: the first k inputs, standardized
 * on all rows. w [k + 1] receives its weights and intercept.
 */
static json_t *fit_json(struct predictor *p, int64_t k, double *w)
{
    double means[INPUTS], sds[INPUTS];
    json_t *const o = json_object(), *const inputs = json_array();
    standardize(p->x, NULL, p->f->n, k, p->z, means, sds);
    qsae__logistic(p->z, p->survived, NULL, p->f->n, k, 1, w);
    for (int64_t j = 0; j < k; j++)
        json_array_append_new(inputs, json_string(input_names[j]));
    json_object_set_new(o, "inputs", inputs);
    json_object_set_new(o, "means", numbers(means, k));
    json_object_set_new(o, "sds", numbers(sds, k));
    json_object_set_new(o, "coefficients", numbers(w, k));
    json_object_set_new(o, "intercept", qsae__number(w[k]));
    return o;
}

static int32_t fit(qsae_audit *a, struct predictor *p, json_t *o)
{
    const int64_t n = p->f->n;
    double mean, sd, w[INPUTS + 1];
    json_t *const single = json_object(), *const weights = json_object();
    int32_t st = qsae__stratified_folds(a->ctx, p->survived, n, FOLD_SEED, p->fold);
    if (st == QSAE_OK && (st = cross_validate(a, p, false, &mean, &sd)) == QSAE_OK) {
        json_object_set_new(o, "auc", qsae__number(mean));
        json_object_set_new(o, "auc_sd", qsae__number(sd));
    }
    if (st == QSAE_OK && (st = cross_validate(a, p, true, &mean, &sd)) == QSAE_OK) {
        json_object_set_new(o, "auc_paper", qsae__number(mean));
        json_object_set_new(o, "auc_paper_sd", qsae__number(sd));
    }
    for (int j = 0; j < INPUTS && st == QSAE_OK; j++) {
        for (int64_t i = 0; i < n; i++)
            p->score[i] = p->x[i * INPUTS + j];
        st = qsae__auc(a->ctx, p->score, p->survived, n, &mean);
        json_object_set_new(single, input_names[j], qsae__number(mean));
    }
    json_t *const own = fit_json(p, INPUTS - 1, w);
    json_object_set_new(own, "condition", json_string(p->condition));
    json_object_set_new(own, "seed", json_integer(FOLD_SEED));
    json_object_set_new(own, "features", json_integer(n));
    json_object_set_new(own, "survived", json_integer(p->n_survived));
    json_object_set_new(o, "fit", own);
    json_object_set_new(o, "fit_paper", fit_json(p, INPUTS, w));
    for (int j = 0; j < INPUTS; j++)
        json_object_set_new(weights, input_names[j], qsae__number(w[j]));
    json_object_set_new(weights, "intercept", qsae__number(w[INPUTS]));
    json_object_set_new(o, "auc_single", single);
    json_object_set_new(o, "coefficients_paper", weights);
    return st;
}

/* null where a class has fewer features than there are folds. */
static int32_t predict(qsae_audit *a, const struct active *f, const char *condition, json_t **out)
{
    struct predictor p = { .f = f, .condition = condition };
    int64_t size;
    *out = json_null();
    for (int64_t i = 0; i < f->n; i++)
        p.n_survived += f->r[i] > SURVIVES;
    if (p.n_survived < QSAE__FOLDS || f->n - p.n_survived < QSAE__FOLDS ||
        !qsae__mul_i64(f->n, INPUTS, &size))
        return QSAE_OK;
    p.x = qsae__alloc_array(a->ctx, size, sizeof *p.x);
    p.z = qsae__alloc_array(a->ctx, size, sizeof *p.z);
    p.score = qsae__alloc_array(a->ctx, f->n, sizeof *p.score);
    uint8_t **const flags[] = { &p.survived, &p.fold, &p.use, &p.label };
    bool ok = p.x && p.z && p.score;
    for (size_t i = 0; i < 4; i++)
        ok = (*flags[i] = qsae__alloc_array(a->ctx, f->n, 1)) && ok;
    int32_t st = ok ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK) {
        for (int64_t i = 0; i < f->n; i++) {
            qsae__survival_inputs(f->rate[i], f->mean[i], f->max[i], p.x + i * INPUTS);
            p.survived[i] = f->r[i] > SURVIVES;
        }
        *out = json_object();
        st = fit(a, &p, *out);
    }
    void *const blocks[] = { p.x, p.z, p.score, p.survived, p.fold, p.use, p.label };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
    return st;
}

int32_t qsae__survival_json(qsae_audit *a, struct participant *p, int64_t sae, json_t *to)
{
    struct active f = { 0 };
    json_t *tenths = json_null(), *predictor = json_null();
    int32_t st = QSAE_OK;
    if (qsae__participant_features(p) &&
        (st = active_read(a, p->saes[sae].survival, a->saes[sae].info.features, &f)) == QSAE_OK &&
        f.n > 0) {
        if (f.n >= DECILES)
            st = deciles(a, &f, &tenths);
        if (st == QSAE_OK)
            st = predict(a, &f, p->label, &predictor);
    }
    json_object_set_new(to, "survived_percent_by_decile", tenths);
    json_object_set_new(to, "predictor", predictor);
    active_free(a, &f);
    return st;
}

/* ---- overlap ---- */

json_t *qsae__overlap_json(const double *a, const double *b, int64_t features, double limit,
                           bool inclusive)
{
    double na = 0, nb = 0, both = 0;
    for (int64_t i = 0; i < features; i++) {
        const bool in_a = inclusive ? a[i] <= limit : a[i] < limit;
        const bool in_b = inclusive ? b[i] <= limit : b[i] < limit;
        na += in_a;
        nb += in_b;
        both += in_a && in_b;
    }
    const double n = (double)features, chance = na * nb / n, either = na + nb - both;
    json_t *const o = json_object();
    json_object_set_new(o, "a", json_integer((json_int_t)na));
    json_object_set_new(o, "b", json_integer((json_int_t)nb));
    json_object_set_new(o, "both", json_integer((json_int_t)both));
    json_object_set_new(o, "union", json_integer((json_int_t)either));
    json_object_set_new(o, "jaccard", qsae__number(both / either));
    json_object_set_new(o, "ceiling", qsae__number(fmin(na, nb) / fmax(na, nb)));
    json_object_set_new(o, "chance", qsae__number(chance / (na + nb - chance)));
    return o;
}

static int32_t pair(qsae_audit *a, const struct active *x, const struct active *y, json_t *o)
{
    double spearman = NAN;
    json_object_set_new(o, "active", json_integer(x->n));
    json_object_set_new(o, "non_survivors",
                        qsae__overlap_json(x->r, y->r, x->n, SURVIVES, true));
    json_object_set_new(o, "damaged", qsae__overlap_json(x->r, y->r, x->n, DAMAGED, false));
    /* Of the damage scores 1 - r, which correlate as r does. */
    json_object_set_new(o, "damage_pearson", qsae__number(qsae__correlation(x->r, y->r, x->n)));
    const int32_t st = qsae__spearman(a->ctx, x->r, y->r, x->n, &spearman);
    json_object_set_new(o, "damage_spearman", qsae__number(spearman));
    return st;
}

#define OVERLAP_MOST 24 /* conditions: every pair of them is looked at */

static int32_t overlaps_of(qsae_audit *a, int64_t sae, struct active *all, json_t *list)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++)
        if (qsae__participant_features(&a->participants[i]))
            st = active_read(a, a->participants[i].saes[sae].survival, a->saes[sae].info.features,
                             &all[i]);
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++)
        for (int64_t k = i + 1; k < a->n_participants && st == QSAE_OK; k++) {
            if (!all[i].n || all[i].n != all[k].n)
                continue;
            json_t *const o = qsae__sae_head(&a->saes[sae]);
            json_array_append_new(list, o);
            json_object_set_new(o, "label_a", json_string(a->participants[i].label));
            json_object_set_new(o, "label_b", json_string(a->participants[k].label));
            st = pair(a, &all[i], &all[k], o);
        }
    for (int64_t i = 1; i < a->n_participants; i++) {
        active_free(a, &all[i]);
        all[i] = (struct active){ 0 };
    }
    return st;
}

int32_t qsae__overlaps_json(qsae_audit *a, json_t **out)
{
    int32_t st = QSAE_OK;
    *out = json_null();
    if (a->n_participants - 1 > OVERLAP_MOST)
        return QSAE_OK;
    struct active *const all = qsae__calloc(a->ctx, a->n_participants, sizeof *all);
    if (!all)
        return QSAE_ENOMEM;
    *out = json_array();
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++)
        st = overlaps_of(a, i, all, *out);
    qsae__free(a->ctx, all);
    return st;
}
