/* SPDX-License-Identifier: BSD-2-Clause */
/* The main table as one line per condition and SAE, for grep and awk. */
#include <string.h>

#include "number.h"
#include "table.h"

static const char *const heads[] = {
    "condition", "bits/w", "weights", "CE", "dCE [95% interval]", "PPL", "KL", "top-1", "SAE",
    "FVU", "dFVU", "L0", "noise P/R", "survived", "median r", "CE rec.", "tok/s", "peak", "verdict"
};
enum { COLUMNS = sizeof heads / sizeof heads[0] };

static void figures(struct grid *g, const json_t *sae)
{
    const double layer = number(sae, "layer");
    if (!sae) {
        for (int k = 0; k < 8; k++)
            grid_put(g, "%s", "");
        return;
    }
    if (isnan(layer))
        grid_put(g, "%s, all", string_at(sae, "name"));
    else
        grid_put(g, "%s @%.0f", string_at(sae, "name"), layer);
    sae_cells(g, sae);
}

static void row(struct grid *g, const json_t *who, const json_t *sae)
{
    double interval[2];
    grid_row(g);
    grid_put(g, "%s", string_at(who, "label"));
    grid_number(g, "%.3f", number(who, "bits_per_weight"));
    grid_bytes(g, number(who, "weight_bytes"));
    grid_number(g, "%.5f", number(who, "ce"));
    grid_interval(g, 5, number(who, "dce"), interval_at(who, "dce", interval));
    grid_number(g, "%.4f", number(who, "ppl"));
    grid_number(g, "%.3e", number(who, "kl_mean"));
    grid_number(g, "%.2f%%", 100 * number(who, "top1_agreement"));
    figures(g, sae);
    grid_number(g, "%.0f", number(who, "tokens_per_second"));
    grid_bytes(g, number(who, "peak_rss_bytes"));
    grid_put(g, "%s", string_at(json_object_get(sae, "noise"), "verdict"));
}

static void rows(struct grid *g, const json_t *who)
{
    size_t i;
    const json_t *sae, *const saes = json_object_get(who, "saes");
    if (json_array_size(saes) == 0)
        row(g, who, NULL);
    json_array_foreach(saes, i, sae)
        row(g, who, sae);
    json_array_foreach(json_object_get(who, "sae_layers"), i, sae)
        row(g, who, sae);
}

void wide_print(const struct page *p, const json_t *result)
{
    size_t i;
    const json_t *condition;
    struct grid *g = grid_open(1);
    for (size_t c = 0; c < COLUMNS; c++)
        grid_column(g, strcmp(heads[c], "condition") == 0 || strcmp(heads[c], "SAE") == 0 ||
                    strcmp(heads[c], "verdict") == 0 ? COLUMN_TEXT : COLUMN_NUMBER, heads[c]);
    rows(g, json_object_get(result, "reference"));
    json_array_foreach(json_object_get(result, "conditions"), i, condition)
        if (!sweep_part(result, i))
            rows(g, condition);
    grid_print(p, 0, &g);
}
