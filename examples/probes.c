/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of a probe set: how often each model finds the good continuation likelier. */
#include "number.h"
#include "table.h"

#include <math.h>

enum { COLUMNS = 6 }; /* tags beside "all" */

/* Share of right answers; in a condition right->wrong and wrong->right too. */
static void print_cell(FILE *out, const json_t *who)
{
    const double share = number(who, "accuracy");
    if (isnan(share))
        fprintf(out, "  %-20s", "-");
    else if (json_object_get(who, "right_to_wrong"))
        fprintf(out, "  %5.1f%% -%-5.0f +%-5.0f", 100 * share, number(who, "right_to_wrong"),
                number(who, "wrong_to_right"));
    else
        fprintf(out, "  %5.1f%%              ", 100 * share);
}

static void print_model(FILE *out, const json_t *who)
{
    size_t i;
    const json_t *tag, *const interval = json_object_get(json_object_get(who, "intervals"),
                                                         "dmargin");
    const double change = number(who, "dmargin");
    fprintf(out, "  %-36.36s %+8.3f", json_string_value(json_object_get(who, "label")),
            number(who, "margin"));
    if (isnan(change))
        fprintf(out, "%28s", "");
    else if (json_array_size(interval) == 2)
        fprintf(out, " %+8.3f [%+.3f, %+.3f]", change,
                json_number_value(json_array_get(interval, 0)),
                json_number_value(json_array_get(interval, 1)));
    else
        fprintf(out, " %+8.3f %18s", change, "");
    if (isnan(change))
        fprintf(out, " %8s", "");
    else
        fprintf(out, " %8.1e", number(who, "mcnemar_p"));
    print_cell(out, who);
    json_array_foreach(json_object_get(who, "tags"), i, tag)
        if (i < COLUMNS)
            print_cell(out, tag);
    fprintf(out, "\n");
}

void probes_print(FILE *out, const json_t *result)
{
    size_t i, n;
    const json_t *who, *const probes = json_object_get(result, "probes"),
                 *const tags = json_object_get(probes, "tags");
    if (!json_is_object(probes))
        return;
    n = json_array_size(tags);
    fprintf(out, "\n%.0f probes: margin ln p(good) - ln p(bad), its change [95%% interval], "
            "McNemar's p; right answers, -right to wrong, +wrong to right\n",
            number(probes, "items"));
    fprintf(out, "  %-36s %8s %-27s %8s  %-20s", "model", "margin", "   change", "p", "all");
    for (i = 0; i < n && i < COLUMNS; i++)
        fprintf(out, "  %-20.20s", json_string_value(json_array_get(tags, i)));
    fprintf(out, "\n");
    print_model(out, json_object_get(probes, "reference"));
    json_array_foreach(json_object_get(probes, "conditions"), i, who)
        if (!sweep_part(result, i))
            print_model(out, who);
    if (n > COLUMNS)
        fprintf(out, "  and %zu more tags in the result document\n", n - COLUMNS);
}
