/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of slices: each part of the tokens, under each condition. */
#include "number.h"
#include "table.h"

static void slice_row(struct grid *g, const json_t *slice, const json_t *c)
{
    grid_row(g);
    grid_put(g, "%s", string_at(slice, "dimension"));
    grid_put(g, "%s", string_at(slice, "value"));
    grid_put(g, "%.0f", number(slice, "tokens"));
    grid_put(g, "%.0f", number(slice, "documents"));
    if (!json_is_true(json_object_get(slice, "enough"))) {
        grid_put(g, "too few");
        return;
    }
    grid_number(g, "%.4f", number(json_object_get(slice, "reference"), "ce"));
    grid_number(g, "%+.5f", number(c, "dce"));
    grid_number(g, "%.2e", number(c, "kl_mean"));
    grid_number(g, "%.2f%%", 100 * number(c, "top1_agreement"));
    grid_number(g, "%.1e", number(c, "q"));
}

static void print_condition(const struct page *p, const json_t *slices, size_t index,
                            const json_t *summary)
{
    static const char *const heads[] = { "tokens", "docs", "CE", "dCE", "KL", "top-1", "q" };
    size_t i;
    const json_t *slice, *const worst = json_object_get(summary, "worst");
    struct grid *g = grid_open(2);
    fputc('\n', p->out);
    say(p, 2, "%s by parts of the tokens; all: dCE %+.5f", string_at(summary, "label"),
        number(summary, "dce"));
    grid_column(g, COLUMN_NAME, "part");
    grid_column(g, COLUMN_NAME, " ");
    for (i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    json_array_foreach(slices, i, slice)
        if (number(slice, "tokens") > 0)
            slice_row(g, slice, json_array_get(json_object_get(slice, "conditions"), index));
    grid_print(p, 2, &g);
    if (json_is_object(worst))
        say(p, 4, "  worst: %s %s, dCE %+.5f", string_at(worst, "dimension"),
            string_at(worst, "value"), number(worst, "dce"));
}

void slices_print(const struct page *p, const json_t *result)
{
    size_t i;
    const json_t *summary, *const slices = json_object_get(result, "slices");
    json_array_foreach(json_object_get(slices, "summary"), i, summary)
        print_condition(p, json_object_get(slices, "list"), i, summary);
}
