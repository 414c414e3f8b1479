/* SPDX-License-Identifier: BSD-2-Clause */
/* A survival predictor read back from a result document: doc/result.md, predictor. */
#include <qsae/predictor.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"
#include "formats/json.h"
#include "metrics/ranks.h"

#define ACTIVE_RATE 0.001 /* features of the fit fire on more of the tokens */
#define NAMED_MOST 128

struct qsae_predictor {
    qsae__handle base;
    qsae_context *ctx;
    char *json;
    int64_t n;                       /* inputs */
    int input[QSAE__INPUTS_MOST];    /* index of each in qsae__survival_inputs */
    double mean[QSAE__INPUTS_MOST], sd[QSAE__INPUTS_MOST], weight[QSAE__INPUTS_MOST];
    double intercept;
};

/* The fit in an SAE's object of a condition, or NULL. */
static const json_t *fit_of(const json_t *sae)
{
    const json_t *const survival = json_object_get(sae, "survival");
    const json_t *const fit = json_object_get(json_object_get(survival, "predictor"), "fit");
    return json_is_object(fit) ? fit : NULL;
}

/* The SAE's object whose fit is taken: that of the hash, else the first that has one. */
static const json_t *choose_sae(const json_t *condition, const char *hash)
{
    size_t i;
    const json_t *sae, *first = NULL;
    json_array_foreach(json_object_get(condition, "saes"), i, sae) {
        const char *const found = json_string_value(json_object_get(sae, "hash"));
        if (!fit_of(sae))
            continue;
        if (hash && found && strcmp(found, hash) == 0)
            return sae;
        first = first ? first : sae;
    }
    return first;
}

static int32_t choose(const json_t *document, const char *path, const char *condition,
                      const char *hash, const json_t **out)
{
    static const char paper[] = "rtn:bits=6,";
    const char *const prefix = condition ? condition : paper;
    const json_t *const list = json_object_get(document, "conditions"), *c, *any = NULL;
    bool named = false;
    size_t i;
    *out = NULL;
    json_array_foreach(list, i, c) {
        const char *const label = json_string_value(json_object_get(c, "label"));
        const json_t *const sae = choose_sae(c, hash);
        const bool match = label && strncmp(label, prefix, strlen(prefix)) == 0;
        named = named || match;
        if (match && sae && !*out)
            *out = sae;
        any = any ? any : sae;
    }
    if (!*out && !condition)
        *out = any;
    if (*out)
        return QSAE_OK;
    if (condition && !named)
        return qsae__fail(QSAE_EINVAL, "%s: no condition begins with \"%.*s\"", path, NAMED_MOST,
                          condition);
    return qsae__fail(QSAE_EINVAL, "%s: no survival predictor: it needs an SAE, and at least 5 "
                      "features that survive and 5 that do not", path);
}

static int32_t number_of(const json_t *list, const char *path, const char *key, int64_t i,
                         double *out)
{
    const json_t *const v = json_array_get(list, (size_t)i);
    *out = json_is_number(v) ? json_number_value(v) : NAN;
    return isfinite(*out) ? QSAE_OK
                          : qsae__fail(QSAE_EFORMAT, "%s: fit.%s[%lld]: expected a number", path,
                                       key, (long long)i);
}

static int32_t read_fit(const json_t *fit, const char *path, qsae_predictor *p)
{
    static const char *const keys[] = { "means", "sds", "coefficients" };
    double *const to[] = { p->mean, p->sd, p->weight };
    const json_t *inputs, *lists[3];
    int32_t st = qsae__json_get(fit, path, "inputs", true, JSON_ARRAY, &inputs);
    for (int k = 0; k < 3 && st == QSAE_OK; k++)
        st = qsae__json_get(fit, path, keys[k], true, JSON_ARRAY, &lists[k]);
    if (st == QSAE_OK)
        st = qsae__json_f64(fit, path, "intercept", true, &p->intercept, NULL);
    if (st != QSAE_OK)
        return st;
    p->n = (int64_t)json_array_size(inputs);
    bool same = p->n >= 1 && p->n <= QSAE__INPUTS_MOST;
    for (int k = 0; k < 3; k++)
        same = same && (int64_t)json_array_size(lists[k]) == p->n;
    if (!same)
        return qsae__fail(QSAE_EFORMAT, "%s: fit.inputs: expected 1 to %d, and as many means, sds "
                          "and coefficients", path, QSAE__INPUTS_MOST);
    for (int64_t i = 0; i < p->n; i++) {
        const char *const name = json_string_value(json_array_get(inputs, (size_t)i));
        p->input[i] = name ? qsae__survival_input(name) : -1;
        if (p->input[i] < 0)
            return qsae__fail(QSAE_EFORMAT, "%s: fit.inputs[%lld]: expected rarity, log_mean, "
                              "log_max or log_concentration", path, (long long)i);
        for (int k = 0; k < 3; k++)
            if ((st = number_of(lists[k], path, keys[k], i, &to[k][i])) != QSAE_OK)
                return st;
        if (!(p->sd[i] > 0))
            return qsae__fail(QSAE_EFORMAT, "%s: fit.sds[%lld]: expected a number above 0, found "
                              "%g", path, (long long)i, p->sd[i]);
    }
    return QSAE_OK;
}

/* The string that qsae_predictor_json hands out. */
static int32_t describe(const json_t *sae, qsae_predictor *p)
{
    static const char *const of_fit[] = { "auc", "auc_sd", "auc_single" };
    static const char *const of_sae[] = { "name", "layer", "site", "hash" };
    const json_t *const predictor =
        json_object_get(json_object_get(sae, "survival"), "predictor");
    json_t *const o = json_object(), *v;
    bool whole = o && json_object_update(o, (json_t *)(uintptr_t)fit_of(sae)) == 0; /* read only */
    for (size_t i = 0; i < sizeof of_fit / sizeof of_fit[0]; i++)
        if ((v = json_object_get(predictor, of_fit[i])))
            whole = whole && json_object_set(o, of_fit[i], v) == 0;
    for (size_t i = 0; i < sizeof of_sae / sizeof of_sae[0]; i++)
        if ((v = json_object_get(sae, of_sae[i])))
            whole = whole && json_object_set(o, of_sae[i], v) == 0;
    p->json = whole ? qsae__json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return p->json ? QSAE_OK : qsae__fail(QSAE_ENOMEM, "out of memory: a predictor");
}

int32_t qsae_predictor_open(qsae_context *context, const char *path, const char *condition,
                            const char *sae_hash, qsae_predictor **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_predictor_open: path is NULL");
    *out = NULL;
    json_t *document = NULL;
    const json_t *sae;
    const char *format = NULL;
    qsae_predictor *p = NULL;
    int32_t st = qsae__json_load_with(context, path, QSAE__JSON_NUL, &document); /* tokens' text */
    if (st != QSAE_OK)
        return st;
    if ((st = qsae__json_str(document, path, "format", true, &format, NULL)) == QSAE_OK &&
        strcmp(format, "qsae-result") != 0)
        st = qsae__fail(QSAE_EFORMAT, "%s: format: expected qsae-result, found %.*s", path,
                        NAMED_MOST, format);
    if (st == QSAE_OK)
        st = choose(document, path, condition, sae_hash, &sae);
    if (st == QSAE_OK && !(p = qsae__calloc(context, 1, sizeof *p)))
        st = QSAE_ENOMEM;
    if (st == QSAE_OK) {
        qsae__handle_init(p);
        p->ctx = qsae__context_ref(context);
        st = read_fit(fit_of(sae), path, p);
    }
    if (st == QSAE_OK)
        st = describe(sae, p);
    json_decref(document);
    if (st != QSAE_OK) {
        qsae__unshare(p);
        qsae_predictor_close(&p);
    }
    *out = p;
    return st;
}

void qsae_predictor_close(qsae_predictor **predictor)
{
    if (!qsae__leave(predictor, "predictor"))
        return;
    qsae_context *const ctx = (*predictor)->ctx;
    free((*predictor)->json);
    qsae__retire(ctx, *predictor);
    qsae__context_unref(ctx);
    *predictor = NULL;
}

int32_t qsae_predictor_json(const qsae_predictor *predictor, const char **json, size_t *n_bytes)
{
    if (qsae__need(predictor, "predictor"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(json, "json") ||
        qsae__need_aligned(n_bytes, "n_bytes"))
        return QSAE_EINVAL;
    if (!json)
        return qsae__fail(QSAE_EINVAL, "qsae_predictor_json: json is NULL");
    *json = predictor->json;
    if (n_bytes)
        *n_bytes = strlen(predictor->json);
    return QSAE_OK;
}

/* NaN where the fit has nothing to say. */
static double survival_of(const qsae_predictor *p, double rate, double mean, double max)
{
    double x[QSAE__INPUTS_MOST], s = p->intercept;
    if (!(rate > ACTIVE_RATE) || !isfinite(rate) || !isfinite(mean) || !isfinite(max))
        return NAN;
    qsae__survival_inputs(rate, mean, max, x);
    for (int64_t i = 0; i < p->n; i++)
        s += p->weight[i] * ((x[p->input[i]] - p->mean[i]) / p->sd[i]);
    return 1 / (1 + exp(-s));
}

int32_t qsae_predictor_run(const qsae_predictor *predictor, const double *rate, const double *mean,
                           const double *max, int64_t n, double *probability, int64_t *rank)
{
    QSAE__FPENV;
    size_t bytes;
    if (qsae__need(predictor, "predictor"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(rate, "rate") ||
        qsae__need_aligned(mean, "mean") ||
        qsae__need_aligned(max, "max") ||
        qsae__need_aligned(probability, "probability") ||
        qsae__need_aligned(rank, "rank"))
        return QSAE_EINVAL;
    if (n < 0 || !qsae__bytes(n, sizeof *rate, &bytes) ||
        (n > 0 && (!rate || !mean || !max || !probability)))
        return qsae__fail(QSAE_EINVAL, "qsae_predictor_run: %s",
                          n < 0 || n > INT64_MAX / 8 ? "n is out of range"
                                                  : "an argument is NULL");
    for (int64_t i = 0; i < n; i++)
        probability[i] = survival_of(predictor, rate[i], mean[i], max[i]);
    if (!rank || n == 0)
        return QSAE_OK;
    /* NaN has no place in an order: such features come after all probabilities. */
    qsae_context *const ctx = predictor->ctx;
    double *const key = qsae__alloc_array(ctx, n, sizeof *key);
    int64_t *const order = qsae__alloc_array(ctx, n, sizeof *order);
    int32_t st = key && order ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        key[i] = isnan(probability[i]) ? 2 : probability[i];
    if (st == QSAE_OK)
        st = qsae__order(ctx, key, n, order);
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        rank[order[i]] = key[order[i]] > 1 ? 0 : i + 1;
    qsae__free(ctx, key);
    qsae__free(ctx, order);
    return st;
}
