/* SPDX-License-Identifier: BSD-2-Clause */
#include "paper.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"

enum { NAME = 32 };

/* "INT6" of rtn:bits=6,..., "pruned 17.50%"; else the label. */
static void short_name(const json_t *who, char name[NAME])
{
    const char *const label = string_at(who, "label"), *const prune = strstr(label, "+prune:");
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
        if (strncmp(string_at(c, "label"), prefix, strlen(prefix)) == 0)
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
    if (sscanf(string_at(who, "label"), "rtn:bits=%d", &bits) != 1)
        return NULL;
    snprintf(prefix, sizeof prefix, "rtn:bits=%d,", bits);
    return condition_at(second, find(second, prefix));
}

static void sweep_row(struct grid *g, const json_t *result, const json_t *who, size_t sae)
{
    char name[NAME];
    const json_t *const reference = json_object_get(result, "reference");
    const json_t *const survival = json_object_get(sae_at(who, sae), "survival");
    const json_t *const second = json_object_get(result, "sliding");
    const double base = number(json_object_get(second, "reference"), "ppl");
    short_name(who, name);
    const bool first = who == reference;
    grid_row(g);
    grid_put(g, "%s", first ? "reference" : name);
    grid_number(g, "%.3f", ppl(who));
    grid_number(g, "%.2f", 100 * (ppl(who) / ppl(reference) - 1));
    grid_number(g, "%.3f", first ? 1 : number(survival, "mean_r"));
    grid_number(g, "%.3f", first ? 1 : number(survival, "median_r"));
    grid_number(g, "%.3f", first ? 100 : number(survival, "survived_percent"));
    grid_number(g, "%.3f", first ? 0 : number(survival, "degraded_percent"));
    grid_number(g, "%.3f", first ? 0 : number(survival, "damaged_percent"));
    if (json_is_object(second)) {
        const double p = first ? base : number(sliding_of(result, who), "ppl");
        grid_number(g, "%.3f", p);
        grid_number(g, "%+.2f", 100 * (p / base - 1));
    }
}

static void columns(struct grid *g, const char *const *heads, size_t n)
{
    grid_column(g, COLUMN_NAME, "");
    for (size_t i = 0; i < n; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
}

#define COUNT(list) (sizeof list / sizeof list[0])

static void sweep_table(const struct page *p, const json_t *result, size_t sae)
{
    size_t i;
    const json_t *c;
    static const char *const heads[] = { "PPL", "dPPL%", "mean r", "median r", "survived%",
                                         "degraded%", "damaged%", "sliding", "dPPL%" };
    struct grid *g = grid_open(1);
    columns(g, heads, COUNT(heads));
    sweep_row(g, result, json_object_get(result, "reference"), sae);
    json_array_foreach(json_object_get(result, "conditions"), i, c)
        sweep_row(g, result, c, sae);
    grid_print(p, 0, &g);
}

static void overlap_row(struct grid *g, const char *name, const json_t *o)
{
    static const char *const counts[] = { "a", "b", "both", "union" },
                      *const shares[] = { "jaccard", "ceiling", "chance" };
    grid_row(g);
    grid_put(g, "%s", name);
    for (size_t i = 0; i < COUNT(counts); i++)
        grid_number(g, "%.0f", number(o, counts[i]));
    for (size_t i = 0; i < COUNT(shares); i++)
        grid_number(g, "%.4f", number(o, shares[i]));
}

/* 6 bits against pruning, of one SAE. */
static void overlap_table(const struct page *p, const json_t *result, const json_t *sae)
{
    size_t i;
    const json_t *o;
    const json_t *const a = condition_at(result, find(result, "rtn:bits=6,")),
                 *const b = condition_at(result, find(result, "none+prune:"));
    json_array_foreach(json_object_get(result, "overlaps"), i, o) {
        char of_a[NAME], of_b[NAME];
        if (!a || !b || strcmp(string_at(o, "label_a"), string_at(a, "label")) != 0 ||
            strcmp(string_at(o, "label_b"), string_at(b, "label")) != 0 ||
            strcmp(string_at(o, "name"), string_at(sae, "name")) != 0 ||
            number(o, "layer") != number(sae, "layer") ||
            strcmp(string_at(o, "site"), string_at(sae, "site")) != 0)
            continue;
        short_name(a, of_a);
        short_name(b, of_b);
        say(p, 2, "overlap of %s and %s, %.0f active features", of_a, of_b, number(o, "active"));
        const char *const heads[] = { of_a, of_b, "both", "union", "Jaccard", "ceiling", "chance" };
        struct grid *g = grid_open(1);
        columns(g, heads, COUNT(heads));
        overlap_row(g, "non-survivors", json_object_get(o, "non_survivors"));
        overlap_row(g, "damaged", json_object_get(o, "damaged"));
        grid_print(p, 2, &g);
        fprintf(p->out, "  damage score: Pearson %.3f, Spearman %.3f\n",
                number(o, "damage_pearson"), number(o, "damage_spearman"));
    }
}

/* AUC, coefficients and single inputs. */
static void predictor_lines(const struct page *page, const json_t *p)
{
    static const char *const inputs[] = { "rarity", "log_mean", "log_concentration", "log_max" };
    const json_t *const w = json_object_get(p, "coefficients_paper"),
                 *const single = json_object_get(p, "auc_single");
    say(page, 4, "  AUC %.3f +- %.3f (inputs standardized in each fold, without the redundant one: "
        "%.3f +- %.3f)", number(p, "auc_paper"), number(p, "auc_paper_sd"), number(p, "auc"),
        number(p, "auc_sd"));
    fprintf(page->out, "  %-18s %11s %11s\n", "", "coefficient", "AUC alone");
    for (size_t i = 0; i < 4; i++)
        fprintf(page->out, "  %-18s %11.2f %11.3f%s\n", inputs[i], number(w, inputs[i]),
                number(single, inputs[i]), i == 3 ? "  (peak activation)" : "");
}

/* Of 6 bits, else of the first condition that has a fit. */
static void predictor_table(const struct page *page, const json_t *result, size_t sae)
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
        char tenths[256] = "";
        json_array_foreach(json_object_get(survival, "survived_percent_by_decile"), d, v)
            snprintf(tenths + strlen(tenths), sizeof tenths - strlen(tenths), " %.1f",
                     json_number_value(v));
        say(page, 2, "%s survival in tenths of the firing rate, rarest first:%s", name, tenths);
        if (!json_is_object(p)) {
            say(page, 2, "survival predictor of %s: too few features survive, or do not", name);
            continue;
        }
        say(page, 2, "survival predictor of %s, on the reference alone", name);
        predictor_lines(page, p);
        return;
    }
}

/* The heading of a table: which SAE it is of. */
static void heading(const struct page *p, const char *what, const json_t *sae, const char *more)
{
    fputc('\n', p->out);
    if (sae)
        say(p, 2, "%s, %s, layer %.0f, %s%s", what, string_at(sae, "name"), number(sae, "layer"),
            string_at(sae, "site"), more);
    else
        say(p, 2, "%s", what);
}

static void paper_tables(const struct page *p, const json_t *result)
{
    const json_t *const reference = json_object_get(result, "reference");
    const json_t *const saes = json_object_get(reference, "saes");
    const size_t n = json_array_size(saes);
    char what[80];
    snprintf(what, sizeof what, "arXiv 2606.03002, reference CE %.5f", number(reference, "ce"));
    for (size_t i = 0; i < (n ? n : 1); i++) {
        const json_t *const sae = json_array_get(saes, i);
        heading(p, what, sae, "");
        sweep_table(p, result, i);
        if (sae) {
            overlap_table(p, result, sae);
            predictor_table(p, result, i);
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

static void article_row(struct grid *g, const json_t *result, int64_t i, size_t sae)
{
    char name[NAME];
    size_t k;
    const json_t *const who = in_snapshot(headline(result), i), *s;
    const json_t *const noise = json_object_get(sae_at(who, sae), "noise");
    short_name(who, name);
    grid_row(g);
    grid_put(g, "%s", i < 0 ? string_at(result, "compute") : name);
    grid_number(g, "%.5f", number(who, "ce"));
    grid_number(g, "%.4f", number(who, "ppl"));
    grid_number(g, "%+.3f", number(who, "dce_percent"));
    grid_number(g, "%.4f", number(noise, "p"));
    grid_number(g, "%.4f", number(noise, "r"));
    grid_number(g, "%.3f", number(noise, "ratio"));
    json_array_foreach(json_object_get(result, "snapshots"), k, s)
        grid_number(g, "%.6f", number(sae_at(in_snapshot(s, i), sae), "fvu_scalar"));
}

static void article_table(const struct page *p, const json_t *result, size_t sae)
{
    static const char *const heads[] = { "CE", "PPL", "dCE%", "drift P", "error R", "P/R" };
    const int64_t n = (int64_t)json_array_size(json_object_get(result, "conditions"));
    char head[24];
    size_t k;
    const json_t *s;
    struct grid *g = grid_open(1);
    columns(g, heads, COUNT(heads));
    json_array_foreach(json_object_get(result, "snapshots"), k, s) {
        snprintf(head, sizeof head, "%.0f", number(s, "tokens"));
        grid_column(g, COLUMN_NUMBER, head);
    }
    for (int64_t c = -1; c < n; c++)
        article_row(g, result, c, sae);
    grid_print(p, 0, &g);
}

static void article_tables(const struct page *p, const json_t *result)
{
    const json_t *const saes = json_object_get(json_object_get(result, "reference"), "saes");
    const size_t n = json_array_size(saes);
    const json_t *const at = headline(result);
    char what[96];
    snprintf(what, sizeof what, "\"A Black Box Made Less Opaque (part 4)\", at %.0f tokens",
             number(at == result ? json_object_get(result, "corpus") : at, "tokens"));
    for (size_t i = 0; i < (n ? n : 1); i++) {
        heading(p, what, json_array_get(saes, i), "; then FVU with one mean, by tokens");
        article_table(p, result, i);
        const json_t *const verdict = json_array_get(json_object_get(result, "verdicts"), i);
        if (verdict)
            say(p, 2, "verdict: %s (P/R %.3f to %.3f)", string_at(verdict, "verdict"),
                number(verdict, "min_ratio"), number(verdict, "max_ratio"));
    }
}

void paper_print(const struct page *p, const json_t *result)
{
    const char *const profile = string_at(result, "profile");
    if (json_is_object(json_object_get(result, "sweep")))
        return;
    if (strcmp(profile, "paper") == 0)
        paper_tables(p, result);
    else if (strcmp(profile, "article") == 0)
        article_tables(p, result);
}
