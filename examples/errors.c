/* SPDX-License-Identifier: BSD-2-Clause */
#include "errors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "layout.h"
#include "program.h"

#define KINDS 9 /* seven projections, embedding, head */

/* Matrices taken together. */
struct total {
    const char *module;
    int64_t n, weights, nonfinite;
    uint64_t bytes;
    double error, weight;    /* squared norms */
    double sum, max, zeros;
};

static void add(struct total *t, const qsae_weight_error *e)
{
    const double n = (double)(e->rows * e->cols - e->nonfinite);
    const double error = e->weight_norm > 0 ? e->frobenius_relative * e->weight_norm : 0;
    t->n++;
    t->weights += e->rows * e->cols;
    t->nonfinite += e->nonfinite;
    t->bytes += e->bytes;
    t->error += error * error;
    t->weight += e->weight_norm * e->weight_norm;
    t->sum += e->mean_abs * n;
    t->max = fmax(t->max, e->max_abs);
    t->zeros += e->zeros * n;
}

/* The total as one matrix. */
static qsae_weight_error whole(const struct total *t)
{
    const double n = (double)(t->weights - t->nonfinite);
    return (qsae_weight_error){
        .module = t->module,
        .format = "",
        .layer = -1,
        .nonfinite = t->nonfinite,
        .bytes = t->bytes,
        .bits_per_weight = t->weights ? 8 * (double)t->bytes / (double)t->weights : 0,
        .frobenius_relative = t->error > 0 ? sqrt(t->error / t->weight) : 0,
        .sqnr_db = t->error > 0 ? 10 * log10(t->weight / t->error) : INFINITY,
        .max_abs = t->max,
        .mean_abs = n > 0 ? t->sum / n : 0,
        .weight_norm = sqrt(t->weight),
        .zeros = n > 0 ? t->zeros / n : 0,
    };
}

/* 100 columns. */
static void print_head(void)
{
    printf("  %-6s%-25s%-9s%-16s%9s%8s%10s%8s%7s\n", "layer", "module", "format", "shape",
           "rel error", "SQNR", "max error", "zeros", "bits");
}

static void print_row(const char *layer, const char *shape, const qsae_weight_error *e)
{
    char sqnr[16];
    snprintf(sqnr, sizeof sqnr, isfinite(e->sqnr_db) ? "%.2f" : "exact", e->sqnr_db);
    printf("  %-6s%-25.24s%-9.8s%-16s%9.5f%8s%10.4g%7.2f%%%7.3f\n", layer, e->module, e->format,
           shape, e->frobenius_relative, sqnr, e->max_abs, 100 * e->zeros, e->bits_per_weight);
    if (e->nonfinite)
        printf("        %lld elements that are not finite left out\n", (long long)e->nonfinite);
}

static void print_matrix(const qsae_weight_error *e)
{
    char layer[24] = "", shape[48];
    if (e->layer >= 0)
        snprintf(layer, sizeof layer, "%lld", (long long)e->layer);
    snprintf(shape, sizeof shape, "%lld x %lld", (long long)e->rows, (long long)e->cols);
    print_row(layer, shape, e);
}

static void print_total(const struct total *t, const char *label)
{
    char shape[48];
    const qsae_weight_error e = whole(t);
    snprintf(shape, sizeof shape, "%lld", (long long)t->weights);
    print_row(label, shape, &e);
}

/* null where there is no number. */
static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *figures(const qsae_weight_error *e)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "module",
                     e->module, "format", e->format, "bytes", (json_int_t)e->bytes, "nonfinite",
                     (json_int_t)e->nonfinite, "bits_per_weight", real(e->bits_per_weight),
                     "frobenius_relative", real(e->frobenius_relative), "sqnr_db",
                     real(e->sqnr_db), "max_abs", real(e->max_abs), "mean_abs", real(e->mean_abs),
                     "weight_norm", real(e->weight_norm), "zeros", real(e->zeros));
}

static json_t *matrix_json(const qsae_weight_error *e)
{
    json_t *const m = figures(e);
    json_object_set_new(m, "layer", e->layer < 0 ? json_null() : json_integer(e->layer));
    json_object_set_new(m, "rows", json_integer(e->rows));
    json_object_set_new(m, "cols", json_integer(e->cols));
    return m;
}

static json_t *total_json(const struct total *t)
{
    const qsae_weight_error e = whole(t);
    json_t *const m = figures(&e);
    json_object_del(m, "format");
    json_object_set_new(m, "matrices", json_integer(t->n));
    json_object_set_new(m, "weights", json_integer(t->weights));
    return m;
}

static struct total *kind_of(struct total kinds[KINDS], const char *module)
{
    int i = 0;
    while (i < KINDS - 1 && kinds[i].module && strcmp(kinds[i].module, module) != 0)
        i++;
    kinds[i].module = module;
    return &kinds[i];
}

/* The rows, then each kind of module over all layers, then all. Errors are the library's. */
static int32_t measure(qsae_weights *w, qsae_weights *other, const char *condition, int print,
                       json_t *out)
{
    struct total kinds[KINDS] = { { 0 } }, all = { .module = "" };
    json_t *const matrices = json_array(), *const modules = json_array();
    int32_t st = QSAE_OK;
    json_object_set_new(out, "matrices", matrices);
    json_object_set_new(out, "modules", modules);
    for (int64_t i = 0; i < qsae_weights_matrix_count(w, other) && st == QSAE_OK; i++) {
        qsae_weight_error e = { .struct_size = sizeof e };
        st = qsae_weights_error(w, other, condition, i, &e);
        if (st != QSAE_OK)
            break;
        if (i == 0 && print)
            print_head();
        if (print)
            print_matrix(&e);
        add(kind_of(kinds, e.module), &e);
        add(&all, &e);
        json_array_append_new(matrices, matrix_json(&e));
    }
    for (int k = 0; k < KINDS && kinds[k].module && st == QSAE_OK; k++) {
        if (print)
            print_total(&kinds[k], "all");
        json_array_append_new(modules, total_json(&kinds[k]));
    }
    if (st == QSAE_OK && print)
        print_total(&all, "total");
    if (st == QSAE_OK)
        json_object_set_new(out, "total", total_json(&all));
    return st;
}

int errors_report(qsae_context *context, const char *path, const char *other, const char *condition,
                  int print, json_t **out)
{
    qsae_weights *w = NULL, *o = NULL;
    const struct page page = page_of(stdout, false);
    *out = json_pack("{s:s, s:s?}", "condition", condition, "other", other);
    if (print)
        fputc('\n', stdout);
    if (print)
        say(&page, 4, "  %s%s%s against %s", other ? other : "", other ? " under " : "", condition,
            path);
    int32_t st = qsae_weights_open(context, path, &w);
    if (st == QSAE_OK && other)
        st = qsae_weights_open(context, other, &o);
    if (st == QSAE_OK)
        st = measure(w, o, condition, print, *out);
    program_trouble(st);
    if (st != QSAE_OK) {
        json_object_set_new(*out, "error", json_string(qsae_error_message()));
        if (print)
            say(&page, 4, "  %s: %s", qsae_status_message(st), qsae_error_message());
    }
    qsae_weights_close(&o);
    qsae_weights_close(&w);
    return st == QSAE_OK;
}
