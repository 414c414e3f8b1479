/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of a probe set: how often each model finds the good continuation likelier. */
#include "number.h"
#include "table.h"

static const char *signed_count(const char *sign, double n, char *text, size_t size)
{
    snprintf(text, size, "%s%.0f", sign, n);
    return text;
}

/* Share of right answers; in a condition right->wrong and wrong->right too. */
static void put_answers(struct grid *g, const json_t *who)
{
    char lost[24], won[24];
    const double share = number(who, "accuracy");
    if (isnan(share))
        grid_put(g, "-");
    else if (json_object_get(who, "right_to_wrong"))
        grid_put(g, "%5.1f%% %4s %4s", 100 * share,
                 signed_count("-", number(who, "right_to_wrong"), lost, sizeof lost),
                 signed_count("+", number(who, "wrong_to_right"), won, sizeof won));
    else
        grid_put(g, "%5.1f%%", 100 * share);
}

/* i < 0: the reference. */
static void model_row(struct grid *g, const json_t *result, const json_t *who, long i)
{
    double interval[2];
    size_t k;
    const json_t *tag;
    const double change = number(who, "dmargin");
    grid_row(g);
    model_cells(g, result, i);
    grid_number(g, "%+.3f", number(who, "margin"));
    grid_interval(g, 3, change, interval_at(who, "dmargin", interval));
    grid_number(g, "%.1e", number(who, "mcnemar_p"));
    put_answers(g, who);
    json_array_foreach(json_object_get(who, "tags"), k, tag)
        put_answers(g, tag);
}

void probes_print(const struct page *p, const json_t *result)
{
    size_t i;
    const json_t *who, *tag, *const probes = json_object_get(result, "probes");
    if (!json_is_object(probes))
        return;
    struct grid *g = grid_open(2);
    fputc('\n', p->out);
    say(p, 2, "%.0f probes: margin ln p(good) - ln p(bad), its change, McNemar's p; right answers, "
        "-right to wrong, +wrong to right", number(probes, "items"));
    model_columns(g, "probes");
    grid_column(g, COLUMN_NUMBER, "margin");
    grid_column(g, COLUMN_NUMBER, "change [95% interval]");
    grid_column(g, COLUMN_NUMBER, "p");
    grid_column(g, COLUMN_TEXT, "all");
    json_array_foreach(json_object_get(probes, "tags"), i, tag)
        grid_column(g, COLUMN_TEXT, json_string_value(tag));
    model_row(g, result, json_object_get(probes, "reference"), -1);
    json_array_foreach(json_object_get(probes, "conditions"), i, who)
        if (!sweep_part(result, i))
            model_row(g, result, who, (long)i);
    grid_print(p, 0, &g);
}
