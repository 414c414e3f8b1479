/* SPDX-License-Identifier: BSD-2-Clause */
/* The ranked parts of a sweep (doc/evaluate.md). */
#include <stdlib.h>
#include <string.h>

#include "program.h"
#include "table.h"

enum { CELL = 48, RANKS = 40 };

/* A ranking: where the result keeps the figure, and how it is printed. */
struct ranking {
    const char *head, *key;
    const char *group;  /* object of the figure within the SAE's, or NULL */
    const char *format;
};

static const struct ranking of_predictions[] = {
    { "dCE", "dce", NULL, "%+.5f" },
    { "KL", "kl_mean", NULL, "%.3e" },
};

static const struct ranking of_sae[] = {
    { "FVU", "fvu_dim", NULL, "%.5f" },
    { "noise P/R", "ratio", "noise", "%.3f" },
    { "survived", "survived_percent", "survival", "%.1f%%" },
};

const json_t *sweep_part(const json_t *result, size_t i)
{
    size_t k;
    const json_t *part;
    json_array_foreach(json_object_get(json_object_get(result, "sweep"), "parts"), k, part)
        if (json_integer_value(json_object_get(part, "condition")) == (json_int_t)i)
            return part;
    return NULL;
}

/* "3", "3 q_proj" or "q_proj", and the figure. */
static void put_part(char *cell, const json_t *part, const char *format, const json_t *figure)
{
    const json_t *layer = json_object_get(part, "layer");
    const char *module = json_string_value(json_object_get(part, "module"));
    int n = 0;
    module = module ? module : "";
    if (json_is_integer(layer))
        n = snprintf(cell, CELL, "%lld%s%.20s ", (long long)json_integer_value(layer),
                     *module ? " " : "", module);
    else
        n = snprintf(cell, CELL, "%.20s ", module);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (json_is_number(figure))
        snprintf(cell + n, CELL - (size_t)n, format, json_number_value(figure));
    else
        snprintf(cell + n, CELL - (size_t)n, "-");
#pragma GCC diagnostic pop
}

/* One column: the parts of `of` in the order of a ranking, with their figures. Returns how many. */
static size_t fill(char (*cells)[CELL], const json_t *result, const char *of, const json_t *order,
                   const struct ranking *r, int sae)
{
    size_t i, n = 0;
    const json_t *index;
    json_array_foreach(json_object_get(order, r->key), i, index) {
        const size_t at = (size_t)json_integer_value(index);
        const json_t *part = sweep_part(result, at);
        const json_t *who = json_array_get(json_object_get(result, "conditions"), at);
        const char *const origin = json_string_value(json_object_get(part, "of"));
        if (!origin || strcmp(origin, of) != 0)
            continue;
        if (sae >= 0)
            who = json_array_get(json_object_get(who, "saes"), (size_t)sae);
        if (r->group)
            who = json_object_get(who, r->group);
        if (n < RANKS)
            put_part(cells[n], part, r->format, json_object_get(who, r->key));
        n++;
    }
    return n;
}

/* n rankings side by side. */
static void print_block(const struct page *p, const json_t *result, const char *of,
                        const json_t *order, const struct ranking *list, size_t n, int sae)
{
    char(*cells)[RANKS][CELL] = needed(calloc(n, sizeof *cells));
    struct grid *g = grid_open(0);
    size_t rows = 0;
    for (size_t c = 0; c < n; c++)
        grid_column(g, COLUMN_TEXT, list[c].head);
    for (size_t c = 0; c < n; c++)
        rows = fill(cells[c], result, of, order, &list[c], sae);
    for (size_t i = 0; i < rows && i < RANKS; i++) {
        grid_row(g);
        for (size_t c = 0; c < n; c++)
            grid_put(g, "%s", cells[c][i]);
    }
    grid_print(p, 2, &g);
    if (rows > RANKS)
        fprintf(p->out, "  and %zu more in the result document\n", rows - RANKS);
    free(cells);
}

static void print_origin(const struct page *p, const json_t *result, const char *of)
{
    size_t i;
    const json_t *sae, *sweep = json_object_get(result, "sweep"),
                 *ranking = json_object_get(sweep, "ranking");
    say(p, 2, "sweep by %s of %s, the costliest first:",
        json_string_value(json_object_get(sweep, "by")), of);
    print_block(p, result, of, ranking, of_predictions, 2, -1);
    json_array_foreach(json_object_get(ranking, "saes"), i, sae) {
        say(p, 2, " %s @%lld", json_string_value(json_object_get(sae, "name")),
            (long long)json_integer_value(json_object_get(sae, "layer")));
        print_block(p, result, of, sae, of_sae, 3, (int)i);
    }
}

void sweep_print(const struct page *p, const json_t *result)
{
    size_t i, k;
    const json_t *part, *parts = json_object_get(json_object_get(result, "sweep"), "parts");
    if (json_array_size(parts))
        fputc('\n', p->out);
    json_array_foreach(parts, i, part) {
        const char *const of = json_string_value(json_object_get(part, "of"));
        for (k = 0; k < i; k++)
            if (strcmp(json_string_value(json_object_get(json_array_get(parts, k), "of")), of) == 0)
                break;
        if (k == i)
            print_origin(p, result, of);
    }
}
