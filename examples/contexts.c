/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of context lengths: the same tokens after more and more of the text before them. */
#include <stdlib.h>

#include "number.h"
#include "table.h"

/* i < 0: the reference. */
static void model_row(struct grid *g, const json_t *result, const json_t *length,
                      const json_t *who, long i)
{
    double interval[2];
    size_t k;
    const json_t *sae, *const change = json_object_get(who, "change");
    const char *const figure = i < 0 ? "ce" : "dce";
    grid_row(g);
    grid_put(g, "%.0f", number(length, "context"));
    model_cells(g, result, i);
    grid_number(g, "%.5f", number(who, "ce"));
    grid_interval(g, 5, number(who, "dce"), interval_at(who, "dce", interval));
    grid_number(g, "%.2e", number(who, "kl_mean"));
    grid_number(g, "%.2f%%", 100 * number(who, "top1_agreement"));
    json_array_foreach(json_object_get(who, "saes"), k, sae)
        grid_number(g, "%.5f", number(sae, "fvu_dim"));
    grid_put(g, "%s", i < 0 ? "CE" : "dCE");
    grid_interval(g, 5, number(change, figure), interval_at(change, figure, interval));
}

static void columns(struct grid *g, const json_t *first)
{
    static const char *const heads[] = { "CE", "dCE [95% interval]", "KL", "top-1" };
    char head[64];
    size_t i;
    const json_t *sae;
    grid_column(g, COLUMN_NUMBER, "context");
    model_columns(g, "model");
    for (i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    json_array_foreach(json_object_get(json_object_get(first, "reference"), "saes"), i, sae) {
        snprintf(head, sizeof head, "FVU @%.0f", number(sae, "layer"));
        grid_column(g, COLUMN_NUMBER, head);
    }
    grid_column(g, COLUMN_TEXT, "");
    snprintf(head, sizeof head, "change since %.0f", number(first, "context"));
    grid_column(g, COLUMN_NUMBER, head);
}

static void heading(const struct page *p, const json_t *list, const json_t *first)
{
    char *text;
    size_t size, i;
    const json_t *length;
    FILE *const f = text_open(&text, &size);
    json_array_foreach(list, i, length)
        fprintf(f, "%s%.0f%%", i ? ", " : "", 100 * number(length, "within_document"));
    text_close(f, &text);
    say(p, 2, "the same %.0f tokens of %.0f documents at %zu context lengths: the last %.0f of "
        "each window; within their document: %s", number(first, "tokens"),
        number(first, "documents"), json_array_size(list), number(first, "scored"), text);
    free(text);
}

void contexts_print(const struct page *p, const json_t *result)
{
    size_t i, k;
    const json_t *length, *who, *const list = json_object_get(result, "contexts"),
                 *const first = json_array_get(list, 0);
    if (!json_is_array(list))
        return;
    struct grid *g = grid_open(3);
    fputc('\n', p->out);
    heading(p, list, first);
    columns(g, first);
    json_array_foreach(list, i, length) {
        model_row(g, result, length, json_object_get(length, "reference"), -1);
        json_array_foreach(json_object_get(length, "conditions"), k, who)
            if (!sweep_part(result, k))
                model_row(g, result, length, who, (long)k);
    }
    grid_print(p, 0, &g);
}
