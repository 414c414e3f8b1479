/* SPDX-License-Identifier: BSD-2-Clause */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#include "number.h"

static const json_t *model_at(const json_t *result, long i)
{
    return i < 0 ? json_object_get(result, "reference")
                 : json_array_get(json_object_get(result, "conditions"), (size_t)i);
}

/* A condition's number in the list of models, where parts of a sweep are not. */
static size_t number_of(const json_t *result, long i)
{
    size_t n = 0;
    for (long k = 0; k <= i; k++)
        n += !sweep_part(result, (size_t)k);
    return n;
}

void model_columns(struct grid *g, const char *head)
{
    grid_column(g, COLUMN_NUMBER, "#");
    grid_column(g, COLUMN_LABEL, head);
}

void model_cells(struct grid *g, const json_t *result, long i)
{
    const json_t *const who = model_at(result, i);
    const char *label = string_at(who, "label");
    const char *const slash = strrchr(label, '/');
    if (json_is_object(json_object_get(who, "checkpoint")) && slash && slash[1])
        label = slash + 1; /* a path: where it lies is in the list of models */
    grid_put(g, "%zu", number_of(result, i));
    grid_put(g, "%s", label);
}

void grid_bytes(struct grid *g, double v)
{
    if (isnan(v))
        grid_put(g, "-");
    else if (v >= 1e9)
        grid_put(g, "%.2f GB", v / 1e9);
    else
        grid_put(g, "%.1f MB", v / 1e6);
}

static void summary(const struct page *p, const json_t *result)
{
    const json_t *corpus = json_object_get(result, "corpus");
    say(p, 2, "%.0f tokens, %.0f documents, %.0f predicted; context %.0f, batch %.0f, BOS %s, "
        "compute %s, profile %s", number(corpus, "tokens"), number(corpus, "documents"),
        number(corpus, "predicted_tokens"), number(corpus, "context"), number(corpus, "batch"),
        string_at(corpus, "bos_policy"), string_at(result, "compute"),
        string_at(result, "profile"));
}

/* Calls `row` for the reference and every condition that is no part of a sweep. */
static void each_model(const json_t *result,
                       void (*row)(struct grid *, const json_t *, long, size_t), struct grid *g,
                       size_t sae)
{
    const long n = (long)json_array_size(json_object_get(result, "conditions"));
    for (long i = -1; i < n; i++)
        if (i < 0 || !sweep_part(result, (size_t)i))
            row(g, result, i, sae);
}

static void model_row(struct grid *g, const json_t *result, long i, size_t sae)
{
    const json_t *const who = model_at(result, i);
    (void)sae;
    grid_row(g);
    grid_put(g, "%zu", number_of(result, i));
    grid_number(g, "%.3f", number(who, "bits_per_weight"));
    grid_bytes(g, number(who, "weight_bytes"));
    grid_number(g, "%.0f", number(who, "tokens_per_second"));
    grid_bytes(g, number(who, "peak_rss_bytes"));
    grid_put(g, "%s", string_at(who, "label"));
}

static void models(const struct page *p, const json_t *result)
{
    static const char *const heads[] = { "#", "bits/w", "weights", "tok/s", "peak" };
    struct grid *g = grid_open(1);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    grid_column(g, COLUMN_WRAPPED, "condition, 0 is the reference");
    each_model(result, model_row, g, 0);
    grid_print(p, 0, &g);
}

static void prediction_row(struct grid *g, const json_t *result, long i, size_t sae)
{
    double interval[2];
    const json_t *const who = model_at(result, i);
    (void)sae;
    grid_row(g);
    model_cells(g, result, i);
    grid_number(g, "%.5f", number(who, "ce"));
    grid_interval(g, 5, number(who, "dce"), interval_at(who, "dce", interval));
    grid_number(g, "%.4f", number(who, "ppl"));
    grid_number(g, "%.3e", number(who, "kl_mean"));
    grid_number(g, "%.2f%%", 100 * number(who, "top1_agreement"));
}

static void predictions(const struct page *p, const json_t *result)
{
    static const char *const heads[] = { "CE", "dCE [95% interval]", "PPL", "KL", "top-1" };
    struct grid *g = grid_open(2);
    model_columns(g, "predictions");
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    each_model(result, prediction_row, g, 0);
    fputc('\n', p->out);
    grid_print(p, 0, &g);
}

void sae_cells(struct grid *g, const json_t *sae)
{
    const json_t *const noise = json_object_get(sae, "noise"),
                 *const survival = json_object_get(sae, "survival"),
                 *const splice = json_object_get(sae, "splice");
    grid_number(g, "%.5f", number(sae, "fvu_dim"));
    grid_number(g, "%+.5f", number(sae, "dfvu_dim"));
    grid_number(g, "%.2f", number(sae, "l0"));
    grid_number(g, "%.3f", number(noise, "ratio"));
    grid_number(g, "%.1f%%", number(survival, "survived_percent"));
    grid_number(g, "%.4f", number(survival, "median_r"));
    if (json_is_object(splice))
        grid_number(g, "%.4f", number(splice, "ce_recovered"));
    else
        grid_put(g, "%s", "");
}

static void sae_row(struct grid *g, const json_t *result, long i, size_t index)
{
    const json_t *const sae =
        json_array_get(json_object_get(model_at(result, i), "saes"), index);
    grid_row(g);
    model_cells(g, result, i);
    sae_cells(g, sae);
    grid_put(g, "%s", string_at(json_object_get(sae, "noise"), "verdict"));
}

/* All layers of a set together. */
static void set_row(struct grid *g, const json_t *result, long i, size_t index)
{
    const json_t *const set =
        json_array_get(json_object_get(model_at(result, i), "sae_layers"), index);
    const json_t *const splice = json_object_get(set, "splice");
    grid_row(g);
    model_cells(g, result, i);
    grid_number(g, "%.5f", number(set, "fvu_dim"));
    grid_put(g, "%s", "");
    grid_number(g, "%.2f", number(set, "l0"));
    for (int k = 0; k < 3; k++)
        grid_put(g, "%s", "");
    if (json_is_object(splice))
        grid_number(g, "%.4f", number(splice, "ce_recovered"));
}

static void features(const struct page *p, const json_t *result)
{
    static const char *const heads[] = { "FVU", "dFVU", "L0", "noise P/R", "survived", "median r",
                                         "CE rec." };
    const json_t *const reference = json_object_get(result, "reference"),
                 *const saes = json_object_get(reference, "saes"),
                 *const sets = json_object_get(reference, "sae_layers");
    const size_t n = json_array_size(saes);
    for (size_t i = 0; i < n + json_array_size(sets); i++) {
        const json_t *const o = i < n ? json_array_get(saes, i) : json_array_get(sets, i - n);
        struct grid *g = grid_open(2);
        model_columns(g, "features");
        for (size_t k = 0; k < sizeof heads / sizeof heads[0]; k++)
            grid_column(g, COLUMN_NUMBER, heads[k]);
        grid_column(g, COLUMN_TEXT, "verdict");
        fputc('\n', p->out);
        if (i < n)
            say(p, 4, "SAE %s @%.0f %s", string_at(o, "name"), number(o, "layer"),
                string_at(o, "site"));
        else
            say(p, 4, "SAE %s, all layers", string_at(o, "name"));
        each_model(result, i < n ? sae_row : set_row, g, i < n ? i : i - n);
        grid_print(p, 0, &g);
    }
}

/* What is to be known of one condition. */
static void notes(const struct page *p, const json_t *who)
{
    size_t i;
    const json_t *d, *checkpoint = json_object_get(who, "checkpoint"),
                 *match = json_object_get(who, "match");
    const char *const label = string_at(who, "label"),
               *const why = json_string_value(json_object_get(checkpoint, "sae_reason")),
               *const no_kl = json_string_value(json_object_get(checkpoint, "kl_reason"));
    if (json_is_true(json_object_get(who, "batch_dependent")))
        say(p, 2, "%s: outlier columns come from the whole batch, so its figures depend on the "
            "batch", label);
    if (json_is_object(match))
        say(p, 2, "%s: sparsity %.4f of %zu tried is nearest to perplexity %.4f", label,
            number(match, "chosen"), json_array_size(json_object_get(match, "visited")),
            number(match, "target"));
    json_array_foreach(json_object_get(checkpoint, "differences"), i, d)
        say(p, 2, "%s: %s %s, the reference %s", label, string_at(d, "field"),
            string_at(d, "condition"), string_at(d, "reference"));
    if (why && json_array_size(json_object_get(who, "saes")))
        say(p, 2, "%s: no SAE figures: %s", label, why);
    if (no_kl)
        say(p, 2, "%s: no KL: %s", label, no_kl);
}

/* Features changed where the predictions do not show it. */
static void hidden_damage(const struct page *p, const json_t *who)
{
    size_t i;
    const json_t *sae;
    json_array_foreach(json_object_get(who, "saes"), i, sae) {
        const json_t *const v = json_object_get(sae, "verdict"),
                     *const range = json_object_get(v, "non_survivors_interval");
        if (json_is_true(json_object_get(v, "hidden_damage")))
            say(p, 2, "%s: hidden damage: dCE is not above 0, but of %s's features %.1f%% "
                "[%.1f%%, %.1f%%] do not survive", string_at(who, "label"),
                string_at(sae, "name"), number(v, "non_survivors_percent"),
                json_number_value(json_array_get(range, 0)),
                json_number_value(json_array_get(range, 1)));
    }
}

static void remarks(const struct page *p, const json_t *result)
{
    size_t i;
    const json_t *v, *stable = json_object_get(result, "stabilization");
    const double change = number(stable, "max_change_after_headline");
    json_array_foreach(json_object_get(result, "verdicts"), i, v)
        say(p, 2, "%s: noise P/R %.3f to %.3f over the conditions: %s", string_at(v, "name"),
            number(v, "min_ratio"), number(v, "max_ratio"), string_at(v, "verdict"));
    if (!isnan(change))
        say(p, 2, "stabilization: FVU moves by at most %.1e between the last two budgets: %s",
            change, json_is_true(json_object_get(stable, "stable")) ? "stable" : "not yet stable");
    json_array_foreach(json_object_get(result, "conditions"), i, v)
        if (!sweep_part(result, i)) {
            notes(p, v);
            hidden_damage(p, v);
        }
}

/* What is to be known beside the tables, if anything is. */
static void footer(const struct page *p, const json_t *result)
{
    char *text;
    size_t size = 0;
    FILE *const f = text_open(&text, &size);
    remarks(&(struct page){ f, p->width }, result);
    text_close(f, &text);
    if (size)
        fprintf(p->out, "\n%s", text);
    free(text);
}

void table_print(const struct page *p, const json_t *result, bool wide)
{
    summary(p, result);
    if (wide) {
        wide_print(p, result);
    } else {
        fputc('\n', p->out);
        models(p, result);
        predictions(p, result);
        features(p, result);
    }
    sweep_print(p, result);
    slices_print(p, result);
    controls_print(p, result);
    probes_print(p, result);
    plan_print(p, result);
    contexts_print(p, result);
    footer(p, result);
}
