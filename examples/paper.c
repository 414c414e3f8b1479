/* SPDX-License-Identifier: BSD-2-Clause */
#include "paper.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"

enum { NAME = 32, CELL = 24 };

static const char *text_of(const json_t *o, const char *key)
{
    const char *const text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

/* A cell to the right of the others; "-" where there is no value. */
static void cell(FILE *out, const char *format, double v)
{
    char text[CELL] = "-";
    if (!isnan(v))
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, format, v);
#pragma GCC diagnostic pop
    fprintf(out, " %11s", text);
}

/* "INT6" of rtn:bits=6,..., "pruned 17.50%"; else the label. */
static void short_name(const json_t *who, char name[NAME])
{
    const char *const label = text_of(who, "label"), *const prune = strstr(label, "+prune:");
    int bits = 0;
    if (sscanf(label, "rtn:bits=%d", &bits) == 1 && !strpbrk(label, "@+"))
        snprintf(name, NAME, "INT%d", bits);
    else if (prune && strncmp(label, "none+", 5) == 0 && !isnan(number(who, "sparsity")))
        snprintf(name, NAME, "pruned %.4g%%", 100 * number(who, "sparsity"));
    else if (strncmp(label, "llm.int8", 8) == 0)
        snprintf(name, NAME, "8bit");
    else if (strncmp(label, "nf4", 3) == 0)
        snprintf(name, NAME, "4bit");
    else
        snprintf(name, NAME, "%.30s", label);
}

/* exp of the mean of the batches' mean losses, as the paper has it. */
static double ppl(const json_t *who)
{
    return exp(number(who, "ce_mean_of_batch_means"));
}

/* The paper's condition: rtn with that many bits, or the one that is pruned; -1: there is none. */
static int64_t find(const json_t *result, const char *prefix)
{
    size_t i;
    const json_t *c;
    json_array_foreach(json_object_get(result, "conditions"), i, c)
        if (strncmp(text_of(c, "label"), prefix, strlen(prefix)) == 0)
            return (int64_t)i;
    return -1;
}

static const json_t *condition_at(const json_t *result, int64_t i)
{
    return i < 0 ? NULL : json_array_get(json_object_get(result, "conditions"), (size_t)i);
}

static const json_t *sae_at(const json_t *who, size_t i)
{
    return json_array_get(json_object_get(who, "saes"), i);
}

/* Of the second measurement: that of as many bits, or NULL. */
static const json_t *sliding_of(const json_t *result, const json_t *who)
{
    const json_t *const second = json_object_get(result, "sliding");
    int bits;
    char prefix[NAME];
    if (sscanf(text_of(who, "label"), "rtn:bits=%d", &bits) != 1)
        return NULL;
    snprintf(prefix, sizeof prefix, "rtn:bits=%d,", bits);
    return condition_at(second, find(second, prefix));
}

static void sweep_row(FILE *out, const json_t *result, const json_t *who, size_t sae)
{
    char name[NAME];
    const json_t *const reference = json_object_get(result, "reference");
    const json_t *const survival = json_object_get(sae_at(who, sae), "survival");
    const json_t *const second = json_object_get(result, "sliding");
    const double base = number(json_object_get(second, "reference"), "ppl");
    short_name(who, name);
    const bool first = who == reference;
    fprintf(out, "%-16s", first ? "reference" : name);
    cell(out, "%.3f", ppl(who));
    cell(out, "%.2f", 100 * (ppl(who) / ppl(reference) - 1));
    cell(out, "%.3f", first ? 1 : number(survival, "mean_r"));
    cell(out, "%.3f", first ? 1 : number(survival, "median_r"));
    cell(out, "%.3f", first ? 100 : number(survival, "survived_percent"));
    cell(out, "%.3f", first ? 0 : number(survival, "degraded_percent"));
    cell(out, "%.3f", first ? 0 : number(survival, "damaged_percent"));
    if (json_is_object(second)) {
        const double p = first ? base : number(sliding_of(result, who), "ppl");
        cell(out, "%.3f", p);
        cell(out, "%+.2f", 100 * (p / base - 1));
    }
    fprintf(out, "\n");
}

static void sweep_table(FILE *out, const json_t *result, size_t sae)
{
    size_t i;
    const json_t *c;
    static const char *const heads[] = { "PPL", "dPPL%", "mean r", "median r", "survived%",
                                         "degraded%", "damaged%" };
    fprintf(out, "%-16s", "");
    for (size_t k = 0; k < sizeof heads / sizeof heads[0]; k++)
        fprintf(out, " %11s", heads[k]);
    if (json_is_object(json_object_get(result, "sliding")))
        fprintf(out, " %11s %11s", "sliding PPL", "dPPL%");
    fprintf(out, "\n");
    sweep_row(out, result, json_object_get(result, "reference"), sae);
    json_array_foreach(json_object_get(result, "conditions"), i, c)
        sweep_row(out, result, c, sae);
}

static void overlap_row(FILE *out, const char *name, const json_t *o)
{
    fprintf(out, "  %-14s %11.0f %11.0f %11.0f %11.0f", name, number(o, "a"), number(o, "b"),
            number(o, "both"), number(o, "union"));
    cell(out, "%.4f", number(o, "jaccard"));
    cell(out, "%.4f", number(o, "ceiling"));
    cell(out, "%.4f", number(o, "chance"));
    fprintf(out, "\n");
}

/* 6 bits against pruning, of one SAE. */
static void overlap_table(FILE *out, const json_t *result, const json_t *sae)
{
    size_t i;
    const json_t *o;
    const json_t *const a = condition_at(result, find(result, "rtn:bits=6,")),
                 *const b = condition_at(result, find(result, "none+prune:"));
    json_array_foreach(json_object_get(result, "overlaps"), i, o) {
        char of_a[NAME], of_b[NAME];
        if (!a || !b || strcmp(text_of(o, "label_a"), text_of(a, "label")) != 0 ||
            strcmp(text_of(o, "label_b"), text_of(b, "label")) != 0 ||
            strcmp(text_of(o, "name"), text_of(sae, "name")) != 0 ||
            number(o, "layer") != number(sae, "layer") ||
            strcmp(text_of(o, "site"), text_of(sae, "site")) != 0)
            continue;
        short_name(a, of_a);
        short_name(b, of_b);
        fprintf(out, "overlap of %s and %s, %.0f active features\n", of_a, of_b,
                number(o, "active"));
        fprintf(out, "%-16s %11s %11.11s %11s %11s %11s %11s %11s\n", "", of_a, of_b, "both",
                "union", "Jaccard", "ceiling", "chance");
        overlap_row(out, "non-survivors", json_object_get(o, "non_survivors"));
        overlap_row(out, "damaged", json_object_get(o, "damaged"));
        fprintf(out, "  damage score: Pearson %.3f, Spearman %.3f\n", number(o, "damage_pearson"),
                number(o, "damage_spearman"));
    }
}

/* AUC, coefficients and single inputs. */
static void predictor_lines(FILE *out, const json_t *p)
{
    static const char *const inputs[] = { "rarity", "log_mean", "log_concentration", "log_max" };
    const json_t *const w = json_object_get(p, "coefficients_paper"),
                 *const single = json_object_get(p, "auc_single");
    fprintf(out, "  AUC %.3f +- %.3f (inputs standardized in each fold, without the redundant "
            "one: %.3f +- %.3f)\n", number(p, "auc_paper"), number(p, "auc_paper_sd"),
            number(p, "auc"), number(p, "auc_sd"));
    fprintf(out, "  %-18s %11s %11s\n", "", "coefficient", "AUC alone");
    for (size_t i = 0; i < 4; i++)
        fprintf(out, "  %-18s %11.2f %11.3f%s\n", inputs[i], number(w, inputs[i]),
                number(single, inputs[i]), i == 3 ? "  (peak activation)" : "");
}

/* Of 6 bits, else of the first condition that has a fit. */
static void predictor_table(FILE *out, const json_t *result, size_t sae)
{
    const int64_t six = find(result, "rtn:bits=6,");
    const size_t n = json_array_size(json_object_get(result, "conditions"));
    for (size_t k = 0; k <= n; k++) {
        const int64_t i = k ? (int64_t)k - 1 : six;
        const json_t *const c = condition_at(result, i), *v,
                     *const survival = json_object_get(sae_at(c, sae), "survival"),
                     *const p = json_object_get(survival, "predictor");
        char name[NAME];
        size_t d;
        if (!c || (k > 0 && (i == six || !json_is_object(p))))
            continue;
        short_name(c, name);
        fprintf(out, "%s survival in tenths of the firing rate, rarest first:", name);
        json_array_foreach(json_object_get(survival, "survived_percent_by_decile"), d, v)
            fprintf(out, " %.1f", json_number_value(v));
        fprintf(out, "\n");
        if (!json_is_object(p)) {
            fprintf(out, "survival predictor of %s: too few features survive, or do not\n", name);
            continue;
        }
        fprintf(out, "survival predictor of %s, on the reference alone\n", name);
        predictor_lines(out, p);
        return;
    }
}

static void paper_tables(FILE *out, const json_t *result)
{
    const json_t *const reference = json_object_get(result, "reference");
    const json_t *const saes = json_object_get(reference, "saes");
    const size_t n = json_array_size(saes);
    for (size_t i = 0; i < (n ? n : 1); i++) {
        const json_t *const sae = json_array_get(saes, i);
        fprintf(out, "\narXiv 2606.03002, reference CE %.5f", number(reference, "ce"));
        if (sae)
            fprintf(out, ", %s, layer %.0f, %s", text_of(sae, "name"), number(sae, "layer"),
                    text_of(sae, "site"));
        fprintf(out, "\n");
        sweep_table(out, result, i);
        if (sae) {
            overlap_table(out, result, sae);
            predictor_table(out, result, i);
        }
    }
}

/* ---- the article ---- */

/* A condition's or the reference's object in a snapshot. */
static const json_t *in_snapshot(const json_t *snapshot, int64_t condition)
{
    return condition < 0 ? json_object_get(snapshot, "reference")
                         : condition_at(snapshot, condition);
}

/* What the study's figures are quoted at: the snapshot of that budget, or a shorter run's end. */
static const json_t *headline(const json_t *result)
{
    enum { HEADLINE = 200000 };
    size_t i;
    const json_t *s;
    json_array_foreach(json_object_get(result, "snapshots"), i, s)
        if (number(s, "budget") == HEADLINE)
            return s;
    return result;
}

static void article_row(FILE *out, const json_t *result, int64_t i, size_t sae)
{
    char name[NAME];
    size_t k;
    const json_t *const who = in_snapshot(headline(result), i), *s;
    const json_t *const noise = json_object_get(sae_at(who, sae), "noise");
    short_name(who, name);
    fprintf(out, "%-16s", i < 0 ? text_of(result, "compute") : name);
    cell(out, "%.5f", number(who, "ce"));
    cell(out, "%.4f", number(who, "ppl"));
    cell(out, "%+.3f", number(who, "dce_percent"));
    cell(out, "%.4f", number(noise, "p"));
    cell(out, "%.4f", number(noise, "r"));
    cell(out, "%.3f", number(noise, "ratio"));
    json_array_foreach(json_object_get(result, "snapshots"), k, s)
        cell(out, "%.6f", number(sae_at(in_snapshot(s, i), sae), "fvu_scalar"));
    fprintf(out, "\n");
}

static void article_tables(FILE *out, const json_t *result)
{
    const json_t *const snapshots = json_object_get(result, "snapshots"),
                 *const saes = json_object_get(json_object_get(result, "reference"), "saes");
    const int64_t conditions = (int64_t)json_array_size(json_object_get(result, "conditions"));
    const size_t n = json_array_size(saes);
    const json_t *const at = headline(result);
    const double tokens = number(at == result ? json_object_get(result, "corpus") : at, "tokens");
    size_t k;
    const json_t *s;
    for (size_t i = 0; i < (n ? n : 1); i++) {
        const json_t *const sae = json_array_get(saes, i);
        fprintf(out, "\n\"A Black Box Made Less Opaque (part 4)\", at %.0f tokens", tokens);
        if (sae)
            fprintf(out, ": %s, layer %.0f, %s; then FVU with one mean, by tokens",
                    text_of(sae, "name"), number(sae, "layer"), text_of(sae, "site"));
        fprintf(out, "\n%-16s %11s %11s %11s %11s %11s %11s", "", "CE", "PPL", "dCE%", "drift P",
                "error R", "P/R");
        json_array_foreach(snapshots, k, s)
            fprintf(out, " %11.0f", number(s, "tokens"));
        fprintf(out, "\n");
        for (int64_t c = -1; c < conditions; c++)
            article_row(out, result, c, i);
        const json_t *const verdict = json_array_get(json_object_get(result, "verdicts"), i);
        if (verdict)
            fprintf(out, "verdict: %s (P/R %.3f to %.3f)\n", text_of(verdict, "verdict"),
                    number(verdict, "min_ratio"), number(verdict, "max_ratio"));
    }
}

void paper_print(FILE *out, const json_t *result)
{
    const char *const profile = text_of(result, "profile");
    if (json_is_object(json_object_get(result, "sweep")))
        return;
    if (strcmp(profile, "paper") == 0)
        paper_tables(out, result);
    else if (strcmp(profile, "article") == 0)
        article_tables(out, result);
}
