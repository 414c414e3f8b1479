/* SPDX-License-Identifier: BSD-2-Clause */
#include "number.h"
#include "table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 256, COLUMNS = 19 };

static const char *const heads[COLUMNS] = {
    "condition", "bits/w", "weights", "CE", "dCE [95% interval]", "PPL", "KL", "top-1", "SAE",
    "FVU", "dFVU", "L0", "noise P/R", "survived", "median r", "CE rec.", "tok/s", "peak", "verdict"
};

/* A table is rows of cells; the first row is the heading. */
struct table {
    char (*cells)[COLUMNS][CELL];
    size_t n;
};

/* printf of a number, "-" where it is not defined. */
static void put(char *cell, const char *format, double v)
{
    if (isnan(v))
        snprintf(cell, CELL, "-");
    else
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(cell, CELL, format, v);
#pragma GCC diagnostic pop
}

static void put_bytes(char *cell, double v)
{
    if (isnan(v))
        snprintf(cell, CELL, "-");
    else if (v >= 1e9)
        snprintf(cell, CELL, "%.2f GB", v / 1e9);
    else
        snprintf(cell, CELL, "%.1f MB", v / 1e6);
}

static void predictions(char (*row)[CELL], const json_t *who)
{
    const json_t *interval = json_object_get(json_object_get(who, "intervals"), "dce");
    const double dce = number(who, "dce");
    const char *const label = json_string_value(json_object_get(who, "label"));
    const int mix = strncmp(label, "mix(", 4) == 0 && strlen(label) > 60;
    snprintf(row[0], CELL, "%.*s%s", mix ? 57 : 120, label, mix ? "..." : "");
    put(row[1], "%.3f", number(who, "bits_per_weight"));
    put_bytes(row[2], number(who, "weight_bytes"));
    put(row[3], "%.5f", number(who, "ce"));
    if (!isnan(dce) && json_array_size(interval) == 2)
        snprintf(row[4], CELL, "%+.5f [%+.5f, %+.5f]", dce,
                 json_number_value(json_array_get(interval, 0)),
                 json_number_value(json_array_get(interval, 1)));
    else
        put(row[4], "%+.5f", dce);
    put(row[5], "%.4f", number(who, "ppl"));
    put(row[6], "%.3e", number(who, "kl_mean"));
    put(row[7], "%.2f%%", 100 * number(who, "top1_agreement"));
    put(row[16], "%.0f", number(who, "tokens_per_second"));
    put_bytes(row[17], number(who, "peak_rss_bytes"));
}

static void features(char (*row)[CELL], const json_t *sae)
{
    const json_t *noise = json_object_get(sae, "noise"),
                 *survival = json_object_get(sae, "survival"),
                 *splice = json_object_get(sae, "splice");
    const char *verdict = json_string_value(json_object_get(noise, "verdict"));
    snprintf(row[8], CELL, "%.40s @%lld", json_string_value(json_object_get(sae, "name")),
             (long long)json_integer_value(json_object_get(sae, "layer")));
    put(row[9], "%.5f", number(sae, "fvu_dim"));
    put(row[10], "%+.5f", number(sae, "dfvu_dim"));
    put(row[11], "%.2f", number(sae, "l0"));
    put(row[12], "%.3f", number(noise, "ratio"));
    put(row[13], "%.1f%%", number(survival, "survived_percent"));
    put(row[14], "%.4f", number(survival, "median_r"));
    if (json_is_object(splice))
        put(row[15], "%.4f", number(splice, "ce_recovered"));
    snprintf(row[18], CELL, "%s", verdict ? verdict : "");
}

/* All layers of a set together. */
static void layers(char (*row)[CELL], const json_t *set)
{
    const json_t *const splice = json_object_get(set, "splice");
    snprintf(row[8], CELL, "%.40s, all", json_string_value(json_object_get(set, "name")));
    put(row[9], "%.5f", number(set, "fvu_dim"));
    put(row[11], "%.2f", number(set, "l0"));
    if (json_is_object(splice))
        put(row[15], "%.4f", number(splice, "ce_recovered"));
}

static void add(struct table *t, const json_t *who)
{
    const json_t *saes = json_object_get(who, "saes"), *sets = json_object_get(who, "sae_layers");
    const size_t n = json_array_size(saes), rows = (n ? n : 1) + json_array_size(sets);
    void *grown = realloc(t->cells, (t->n + rows) * sizeof *t->cells);
    if (!grown)
        return;
    t->cells = grown;
    for (size_t i = 0; i < rows; i++) {
        char(*row)[CELL] = t->cells[t->n++];
        memset(row, 0, sizeof *t->cells);
        if (i == 0)
            predictions(row, who);
        if (i < n)
            features(row, json_array_get(saes, i));
        else if (n)
            layers(row, json_array_get(sets, i - n));
    }
}

static void summary(FILE *out, const json_t *result)
{
    const json_t *corpus = json_object_get(result, "corpus");
    fprintf(out, "%.0f tokens, %.0f documents, %.0f predicted; context %.0f, batch %.0f, BOS %s, "
            "compute %s, profile %s\n", number(corpus, "tokens"), number(corpus, "documents"),
            number(corpus, "predicted_tokens"), number(corpus, "context"), number(corpus, "batch"),
            json_string_value(json_object_get(corpus, "bos_policy")),
            json_string_value(json_object_get(result, "compute")),
            json_string_value(json_object_get(result, "profile")));
}

/* What is to be known of one condition. */
static void notes(FILE *out, const json_t *who)
{
    size_t i;
    const json_t *d, *checkpoint = json_object_get(who, "checkpoint"),
                 *match = json_object_get(who, "match");
    const char *const label = json_string_value(json_object_get(who, "label")),
               *const why = json_string_value(json_object_get(checkpoint, "sae_reason")),
               *const no_kl = json_string_value(json_object_get(checkpoint, "kl_reason"));
    if (json_is_true(json_object_get(who, "batch_dependent")))
        fprintf(out,
                "%s: outlier columns come from the whole batch, so its figures depend on the "
                "batch\n", label);
    if (json_is_object(match))
        fprintf(out, "%s: sparsity %.4f of %zu tried is nearest to perplexity %.4f\n", label,
                number(match, "chosen"), json_array_size(json_object_get(match, "visited")),
                number(match, "target"));
    json_array_foreach(json_object_get(checkpoint, "differences"), i, d)
        fprintf(out, "%s: %s %s, the reference %s\n", label,
                json_string_value(json_object_get(d, "field")),
                json_string_value(json_object_get(d, "condition")),
                json_string_value(json_object_get(d, "reference")));
    if (why && json_array_size(json_object_get(who, "saes")))
        fprintf(out, "%s: no SAE figures: %s\n", label, why);
    if (no_kl)
        fprintf(out, "%s: no KL: %s\n", label, no_kl);
}

/* Features changed where the predictions do not show it. */
static void hidden_damage(FILE *out, const json_t *who)
{
    size_t i;
    const json_t *sae;
    json_array_foreach(json_object_get(who, "saes"), i, sae) {
        const json_t *const v = json_object_get(sae, "verdict"),
                     *const range = json_object_get(v, "non_survivors_interval");
        if (json_is_true(json_object_get(v, "hidden_damage")))
            fprintf(out, "%s: hidden damage: dCE is not above 0, but of %s's features %.1f%% "
                    "[%.1f%%, %.1f%%] do not survive\n",
                    json_string_value(json_object_get(who, "label")),
                    json_string_value(json_object_get(sae, "name")),
                    number(v, "non_survivors_percent"), json_number_value(json_array_get(range, 0)),
                    json_number_value(json_array_get(range, 1)));
    }
}

static void footer(FILE *out, const json_t *result)
{
    size_t i;
    const json_t *v, *stable = json_object_get(result, "stabilization");
    const double change = number(stable, "max_change_after_headline");
    json_array_foreach(json_object_get(result, "verdicts"), i, v)
        fprintf(out, "%s: noise P/R %.3f to %.3f over the conditions: %s\n",
                json_string_value(json_object_get(v, "name")), number(v, "min_ratio"),
                number(v, "max_ratio"), json_string_value(json_object_get(v, "verdict")));
    if (!isnan(change))
        fprintf(out, "stabilization: FVU moves by at most %.1e between the last two budgets: %s\n",
                change,
                json_is_true(json_object_get(stable, "stable")) ? "stable" : "not yet stable");
    json_array_foreach(json_object_get(result, "conditions"), i, v)
        if (!sweep_part(result, i)) {
            notes(out, v);
            hidden_damage(out, v);
        }
}

static void print_cells(FILE *out, const struct table *t)
{
    size_t width[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
        width[c] = 0;
        for (size_t r = 0; r < t->n; r++)
            if (strlen(t->cells[r][c]) > width[c])
                width[c] = strlen(t->cells[r][c]);
        if (width[c] && strlen(heads[c]) > width[c])
            width[c] = strlen(heads[c]);
    }
    for (size_t r = 0; r <= t->n; r++) {
        for (int c = 0; c < COLUMNS; c++) {
            const char *text = r ? t->cells[r - 1][c] : heads[c];
            if (width[c]) /* text to the left, numbers to the right */
                fprintf(out, c == 0 || c == 8 || c == 18 ? "%-*s  " : "%*s  ", (int)width[c], text);
        }
        fprintf(out, "\n");
    }
}

void table_print(FILE *out, const json_t *result)
{
    struct table t = { NULL, 0 };
    size_t i;
    const json_t *condition;
    add(&t, json_object_get(result, "reference"));
    json_array_foreach(json_object_get(result, "conditions"), i, condition)
        if (!sweep_part(result, i))
            add(&t, condition);
    if (!t.cells)
        return;
    summary(out, result);
    print_cells(out, &t);
    free(t.cells);
    sweep_print(out, result);
    slices_print(out, result);
    controls_print(out, result);
    probes_print(out, result);
    plan_print(out, result);
    contexts_print(out, result);
    footer(out, result);
}
