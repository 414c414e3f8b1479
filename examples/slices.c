/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of slices: each part of the tokens, under each condition. */
#include "number.h"
#include "table.h"

#include <math.h>

/* A name in `width` columns, a blank behind it; of longer ones the beginning. */
static void print_name(FILE *out, const char *name, int width)
{
    int n = 0;
    for (; *name; name++) {
        if (((unsigned char)*name & 0xc0) != 0x80 && n++ == width)
            break;
        fputc(*name, out);
    }
    fprintf(out, "%*s", n < width ? width - n + 1 : 1, "");
}

static void print_condition(FILE *out, const json_t *slices, size_t index, const json_t *summary)
{
    size_t i;
    const json_t *slice, *const worst = json_object_get(summary, "worst");
    fprintf(out, "\n%s by parts of the tokens; all: dCE %+.5f\n",
            json_string_value(json_object_get(summary, "label")), number(summary, "dce"));
    fprintf(out, "  %-14s %-20s %9s %6s %8s %9s %8s %7s %8s\n", "part", "", "tokens", "docs", "CE",
            "dCE", "KL", "top-1", "q");
    json_array_foreach(slices, i, slice) {
        const json_t *const c = json_array_get(json_object_get(slice, "conditions"), index);
        const double tokens = number(slice, "tokens");
        if (!(tokens > 0))
            continue;
        fprintf(out, "  ");
        print_name(out, json_string_value(json_object_get(slice, "dimension")), 14);
        print_name(out, json_string_value(json_object_get(slice, "value")), 20);
        fprintf(out, "%9.0f %6.0f", tokens, number(slice, "documents"));
        if (json_is_true(json_object_get(slice, "enough")))
            fprintf(out, " %8.4f %+9.5f %8.2e %6.2f%% %8.1e\n",
                    number(json_object_get(slice, "reference"), "ce"), number(c, "dce"),
                    number(c, "kl_mean"), 100 * number(c, "top1_agreement"), number(c, "q"));
        else
            fprintf(out, "  too few\n");
    }
    if (json_is_object(worst))
        fprintf(out, "  worst: %.40s %.30s, dCE %+.5f\n",
                json_string_value(json_object_get(worst, "dimension")),
                json_string_value(json_object_get(worst, "value")), number(worst, "dce"));
}

void slices_print(FILE *out, const json_t *result)
{
    size_t i;
    const json_t *summary, *const slices = json_object_get(result, "slices");
    json_array_foreach(json_object_get(slices, "summary"), i, summary)
        print_condition(out, json_object_get(slices, "list"), i, summary);
}
