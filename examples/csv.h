/* SPDX-License-Identifier: BSD-2-Clause */
/* A cell of a CSV file: a number or null as it is, text in quotes. */
#ifndef EXAMPLES_CSV_H
#define EXAMPLES_CSV_H

#include <stdio.h>

#include <jansson.h>

static inline void csv_cell(FILE *f, const json_t *v, char end)
{
    if (json_is_string(v)) {
        fputc('"', f);
        for (const char *c = json_string_value(v); *c; c++) {
            if (*c == '"')
                fputc('"', f);
            fputc(*c, f);
        }
        fputc('"', f);
    } else if (json_is_integer(v)) {
        fprintf(f, "%lld", (long long)json_integer_value(v));
    } else if (json_is_real(v)) {
        fprintf(f, "%.9g", json_real_value(v));
    }
    fputc(end, f);
}

#endif
