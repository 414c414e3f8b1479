/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of context lengths: the same tokens after more and more of the text before them. */
#include "number.h"
#include "table.h"

#include <math.h>
#include <stdbool.h>

/* "+0.00123 [+0.001, +0.002]": a figure of o with its interval. */
static void put(char *cell, size_t size, const json_t *o, const char *key)
{
    const json_t *const interval = json_object_get(json_object_get(o, "intervals"), key);
    const double v = number(o, key);
    if (isnan(v))
        snprintf(cell, size, "-");
    else if (json_array_size(interval) == 2)
        snprintf(cell, size, "%+.5f [%+.5f, %+.5f]", v,
                 json_number_value(json_array_get(interval, 0)),
                 json_number_value(json_array_get(interval, 1)));
    else
        snprintf(cell, size, "%+.5f", v);
}

static void print_model(FILE *out, const json_t *length, const json_t *who)
{
    char dce[96], change[96];
    size_t i;
    const json_t *sae;
    const bool condition = json_object_get(who, "dce") != NULL;
    put(dce, sizeof dce, who, "dce");
    put(change, sizeof change, json_object_get(who, "change"), condition ? "dce" : "ce");
    fprintf(out, "  %7.0f  %-36.36s %9.5f  %-32s", number(length, "context"),
            json_string_value(json_object_get(who, "label")), number(who, "ce"),
            condition ? dce : "");
    if (condition)
        fprintf(out, " %9.2e %7.2f%%", number(who, "kl_mean"),
                100 * number(who, "top1_agreement"));
    else
        fprintf(out, " %9s %8s", "", "");
    json_array_foreach(json_object_get(who, "saes"), i, sae)
        fprintf(out, " %8.5f", number(sae, "fvu_dim"));
    fprintf(out, "  %s %s\n", condition ? "dCE" : "CE ", change);
}

void contexts_print(FILE *out, const json_t *result)
{
    size_t i, k;
    const json_t *length, *who, *const list = json_object_get(result, "contexts"),
                 *const first = json_array_get(list, 0);
    if (!json_is_array(list))
        return;
    fprintf(out, "\nthe same %.0f tokens of %.0f documents at %zu context lengths: the last %.0f "
            "of each window; within their document: ", number(first, "tokens"),
            number(first, "documents"), json_array_size(list), number(first, "scored"));
    json_array_foreach(list, i, length)
        fprintf(out, "%s%.0f%%", i ? ", " : "", 100 * number(length, "within_document"));
    fprintf(out, "\n  context  %-36s %9s  %-32s %9s %8s", "model", "CE", "dCE [95% interval]", "KL",
            "top-1");
    for (i = 0; i < json_array_size(json_object_get(json_object_get(first, "reference"), "saes"));
         i++)
        fprintf(out, " %8s", "FVU");
    fprintf(out, "  change since %.0f\n", number(first, "context"));
    json_array_foreach(list, i, length) {
        print_model(out, length, json_object_get(length, "reference"));
        json_array_foreach(json_object_get(length, "conditions"), k, who)
            if (!sweep_part(result, k))
                print_model(out, length, who);
    }
}
