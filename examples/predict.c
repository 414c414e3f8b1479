/* SPDX-License-Identifier: BSD-2-Clause */
#include "predict.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "csv.h"
#include "number.h"
#include "program.h"

enum { SHOWN = 20, SAES_MOST = 4096, LINE_MOST = (1 << 20) + 2 /* with its end and a NUL */ };

/* Features of one SAE, in the order of their lines. */
struct features {
    char *name;
    int64_t layer, n, capacity;
    int64_t *index, *rank, *order;       /* [n]; order: by rank, those without one last */
    double *rate, *mean, *max, *probability;
};

struct lines {
    struct features *saes;  /* [n] */
    size_t n;
    char error[160];
};

static void lines_free(struct lines *l)
{
    for (size_t i = 0; i < l->n; i++) {
        struct features *const f = &l->saes[i];
        void *const all[] = { f->name, f->index, f->rank, f->order, f->rate, f->mean, f->max,
                              f->probability };
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            free(all[k]);
    }
    free(l->saes);
}

/* The SAE that lines of this name and layer belong to, made if there is none yet. */
static struct features *sae_of(struct lines *l, const char *name, int64_t layer)
{
    for (size_t i = l->n; i-- > 0;)
        if (l->saes[i].layer == layer && strcmp(l->saes[i].name, name) == 0)
            return &l->saes[i];
    struct features *const grown =
        l->n < SAES_MOST ? realloc(l->saes, (l->n + 1) * sizeof *grown) : NULL;
    if (!grown)
        return NULL;
    l->saes = grown;
    struct features *const f = &grown[l->n];
    memset(f, 0, sizeof *f);
    f->layer = layer;
    const size_t size = strlen(name) + 1;
    f->name = malloc(size);
    if (!f->name)
        return NULL;
    memcpy(f->name, name, size);
    l->n++;
    return f;
}

static int grow(struct features *f)
{
    const int64_t more = f->capacity ? 2 * f->capacity : 1024;
    void **const all[] = { (void **)&f->index, (void **)&f->rank, (void **)&f->order,
                           (void **)&f->rate,  (void **)&f->mean, (void **)&f->max,
                           (void **)&f->probability };
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
        void *const block = realloc(*all[k], (size_t)more * sizeof(double));
        if (!block)
            return -1;
        *all[k] = block;
    }
    f->capacity = more;
    return 0;
}

/* A line of --features (doc/result.md). */
static int32_t take(void *cookie, const char *line, size_t n_bytes)
{
    struct lines *const l = cookie;
    json_error_t error;
    json_t *const o = json_read(line, n_bytes, &error);
    const char *const name = json_string_value(json_object_get(o, "name"));
    const json_t *const index = json_object_get(o, "feature"),
                 *const layer = json_object_get(o, "layer");
    struct features *f = NULL;
    if (!o || !name || !json_is_integer(index) || !json_is_integer(layer) ||
        isnan(number(o, "density")))
        snprintf(l->error, sizeof l->error, "expected a feature with name, layer, feature, density,"
                 " mean and max%s%.60s", o ? "" : ": ", o ? "" : error.text);
    else if (!(f = sae_of(l, name, json_integer_value(layer))) ||
             (f->n == f->capacity && grow(f) != 0))
        snprintf(l->error, sizeof l->error, "out of memory, or more than %d SAEs", (int)SAES_MOST);
    else {
        f->index[f->n] = json_integer_value(index);
        f->rate[f->n] = number(o, "density");
        f->mean[f->n] = number(o, "mean");
        f->max[f->n++] = number(o, "max");
    }
    json_decref(o);
    return *l->error ? QSAE_EFORMAT : QSAE_OK;
}

static int read_file(const char *path, struct lines *l)
{
    char *const line = needed(malloc(LINE_MOST));
    FILE *const f = file_open(path, "r");
    int64_t number = 0;
    if (!f) {
        complain("%s: %s", path, strerror(errno));
        free(line);
        return -1;
    }
    while (!*l->error && fgets(line, LINE_MOST, f)) {
        const size_t n = strlen(line);
        number++;
        if (n == LINE_MOST - 1 && line[n - 1] != '\n')
            snprintf(l->error, sizeof l->error, "expected at most %d bytes", LINE_MOST - 2);
        else if (strspn(line, " \t\r\n") != n)
            take(l, line, n);
    }
    if (!*l->error && !feof(f)) /* it could not be read, or there is no memory for a line */
        snprintf(l->error, sizeof l->error, "%s", strerror(errno));
    if (!*l->error && l->n == 0)
        snprintf(l->error, sizeof l->error, "no features");
    if (*l->error)
        complain("%s: line %lld: %s", path, (long long)number, l->error);
    free(line);
    fclose(f);
    return *l->error ? -1 : 0;
}

/* Fills probability, rank and order. */
static int32_t rank(const qsae_predictor *p, struct features *f)
{
    int64_t at = 0, last;
    const int32_t st = qsae_predictor_run(p, f->rate, f->mean, f->max, f->n, f->probability,
                                          f->rank);
    for (int64_t i = 0; i < f->n && st == QSAE_OK; i++)
        if (f->rank[i]) {
            f->order[f->rank[i] - 1] = i;
            at++;
        }
    last = at;
    for (int64_t i = 0; i < f->n && st == QSAE_OK; i++)
        if (!f->rank[i])
            f->order[last++] = i;
    return st;
}

static json_t *number_or_null(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static const char *const columns[] = { "name", "layer", "feature", "rank", "probability", "risk",
                                       "density", "mean", "max" };
enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* 0, or -1 without memory. */
static int put_line(FILE *out, const struct features *f, int64_t i, int csv)
{
    const double p = f->probability[i];
    json_needs_memory(true);
    json_t *const o = json_object();
    json_object_set_new(o, "name", json_string(f->name));
    json_object_set_new(o, "layer", json_integer(f->layer));
    json_object_set_new(o, "feature", json_integer(f->index[i]));
    json_object_set_new(o, "rank", f->rank[i] ? json_integer(f->rank[i]) : json_null());
    json_object_set_new(o, "probability", number_or_null(p));
    json_object_set_new(o, "risk", number_or_null(1 - p));
    json_object_set_new(o, "density", number_or_null(f->rate[i]));
    json_object_set_new(o, "mean", number_or_null(f->mean[i]));
    json_object_set_new(o, "max", number_or_null(f->max[i]));
    for (size_t k = 0; csv && k < COLUMNS; k++)
        csv_cell(out, json_object_get(o, columns[k]), k + 1 < COLUMNS ? ',' : '\n');
    char *const text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_needs_memory(false);
    if (text && !csv)
        fprintf(out, "%s\n", text);
    const int bad = !text;
    free(text);
    json_decref(o);
    return bad ? -1 : 0;
}

/* All features, most at risk first; the file appears whole or not at all. */
static int write_all(const struct lines *l, const char *path)
{
    const size_t n = strlen(path);
    const int csv = n > 4 && strcmp(path + n - 4, ".csv") == 0;
    struct output o;
    int bad = 0;
    if (output_open(&o, path) != 0)
        return -1;
    for (size_t k = 0; csv && k < COLUMNS; k++)
        fprintf(o.file, "%s%c", k ? columns[k] : "sae", k + 1 < COLUMNS ? ',' : '\n');
    for (size_t i = 0; i < l->n; i++)
        for (int64_t k = 0; k < l->saes[i].n; k++)
            bad |= put_line(o.file, &l->saes[i], l->saes[i].order[k], csv);
    if (bad)
        complain("%s: out of memory", path);
    return output_close(&o, !bad);
}

/* What was fitted, and the features most at risk. */
static void print(const struct page *page, const qsae_predictor *p, const struct features *f)
{
    static const char *const heads[] = { "rank", "feature", "survives", "density", "mean", "max" };
    const char *text = "";
    json_error_t error;
    int64_t n = 0;
    qsae_predictor_json(p, &text, NULL);
    json_t *const fit = json_read(text, strlen(text), &error);
    const char *const of = json_string_value(json_object_get(fit, "condition")),
               *const sae = json_string_value(json_object_get(fit, "name"));
    while (n < f->n && f->rank[f->order[n]])
        n++;
    say(page, 2, "features at risk of %s @%lld: %lld that fire often enough, of %lld", f->name,
        (long long)f->layer, (long long)n, (long long)f->n);
    say(page, 4, "  by a fit on %s, %s, %.0f features, AUC %.3f +- %.3f", of ? of : "?",
        sae ? sae : "?", number(fit, "features"), number(fit, "auc"), number(fit, "auc_sd"));
    json_decref(fit);
    struct grid *g = grid_open(0);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    for (int64_t k = 0; k < n && k < SHOWN; k++) {
        const int64_t at = f->order[k];
        grid_row(g);
        grid_put(g, "%lld", (long long)f->rank[at]);
        grid_put(g, "%lld", (long long)f->index[at]);
        grid_number(g, "%.4f", f->probability[at]);
        grid_number(g, "%.5f", f->rate[at]);
        grid_number(g, "%.4g", f->mean[at]);
        grid_number(g, "%.4g", f->max[at]);
    }
    grid_print(page, 2, &g);
}

/* The hash of an SAE in the audit's own result; NULL if it is not there. */
static char *hash_of(qsae_audit *audit, const struct features *f)
{
    const char *text;
    char *hash = NULL;
    size_t size, i;
    json_error_t error;
    const json_t *sae;
    if (!audit || qsae_audit_result(audit, &text, &size) != QSAE_OK)
        return NULL;
    json_t *const o = json_read(text, size, &error);
    json_array_foreach(json_object_get(json_object_get(o, "reference"), "saes"), i, sae) {
        const char *const name = json_string_value(json_object_get(sae, "name")),
                   *const found = json_string_value(json_object_get(sae, "hash"));
        if (!hash && name && found && strcmp(name, f->name) == 0 &&
            json_integer_value(json_object_get(sae, "layer")) == f->layer &&
            !(hash = strdup(found)))
            break;
    }
    json_decref(o);
    return hash;
}

static int32_t predict_sae(const struct page *page, const struct predict *p, qsae_context *context,
                           qsae_audit *audit, struct features *f)
{
    char *const hash = hash_of(audit, f);
    qsae_predictor *predictor = NULL;
    int32_t st = qsae_predictor_open(context, p->result, p->condition, hash, &predictor);
    if (st == QSAE_OK)
        st = rank(predictor, f);
    if (st == QSAE_OK)
        print(page, predictor, f);
    qsae_predictor_close(&predictor);
    free(hash);
    return st;
}

int predict_run(const struct page *page, const struct predict *p, qsae_context *context,
                qsae_audit *audit, int64_t n_saes)
{
    struct lines l = { .n = 0 };
    int32_t st = QSAE_OK;
    int bad = p->from && read_file(p->from, &l) != 0;
    for (int64_t i = 0; i < n_saes && st == QSAE_OK && !p->from; i++)
        st = qsae_audit_features(audit, i, take, &l);
    for (size_t i = 0; i < l.n && st == QSAE_OK && !bad; i++)
        st = predict_sae(page, p, context, audit, &l.saes[i]);
    if (st != QSAE_OK)
        complain("%s", *l.error ? l.error : qsae_error_message());
    if (st == QSAE_OK && !bad && p->out)
        bad = write_all(&l, p->out) != 0;
    lines_free(&l);
    return bad || st != QSAE_OK ? -1 : 0;
}
