/* SPDX-License-Identifier: BSD-2-Clause */
/* The worst tokens and documents of each condition, in lines of at most 100 columns. */
#include "number.h"
#include "table.h"

#include <math.h>
#include <string.h>

#define BEFORE 30 /* characters */
#define TOKEN 14
#define AFTER 6

static size_t characters(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* The last (last: true) or first characters of a text, control characters as a middle dot. */
static void print_part(FILE *out, const json_t *v, size_t most, int last)
{
    const char *text = json_is_string(v) ? json_string_value(v) : "";
    size_t n = characters(text);
    for (; last && n > most; n--)
        do
            text++;
        while (((unsigned char)*text & 0xc0) == 0x80);
    for (size_t printed = 0; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if ((c & 0xc0) != 0x80 && printed++ == most)
            return;
        if (c < 0x20 || c == 0x7f)
            fputs("\xC2\xB7", out);
        else
            fputc(c, out);
    }
}

static void print_token(FILE *out, const json_t *t)
{
    fprintf(out, "  %+8.3f %7.4f %7.4f %9.2e %7.0f  ", number(t, "dnll"), number(t, "p_r"),
            number(t, "p_q"), number(t, "kl"), number(t, "document"));
    print_part(out, json_object_get(t, "before"), BEFORE, 1);
    fputs(" [", out);
    print_part(out, json_object_get(t, "token"), TOKEN, 0);
    fputs("] ", out);
    print_part(out, json_object_get(t, "after"), AFTER, 0);
    fputc('\n', out);
}

static void print_document(FILE *out, const json_t *d)
{
    const char *const path = json_string_value(json_object_get(d, "source"));
    const char *const slash = path ? strrchr(path, '/') : NULL;
    fprintf(out, "  %+8.5f %9.2f %9.0f %9.2e %7.0f  %.40s:%.0f\n", number(d, "dce"),
            number(d, "dnll_total"), number(d, "tokens"), number(d, "kl_mean"),
            number(d, "document"), slash ? slash + 1 : path ? path : "", number(d, "line"));
}

void worst_print(FILE *out, const json_t *result, size_t most)
{
    size_t i, k;
    const json_t *c, *v;
    json_array_foreach(json_object_get(result, "conditions"), i, c) {
        const json_t *const tokens = json_object_get(c, "worst_tokens");
        const json_t *const documents =
            json_object_get(json_object_get(c, "worst_documents"), "by_mean");
        if (!json_array_size(tokens))
            continue;
        fprintf(out, "\n%s: worst tokens\n  %8s %7s %7s %9s %7s  before [token] after\n",
                json_string_value(json_object_get(c, "label")), "rise", "p_r", "p_q", "KL",
                "doc");
        for (k = 0; k < most && (v = json_array_get(tokens, k)); k++)
            print_token(out, v);
        if (!json_array_size(documents))
            continue;
        fprintf(out, "worst documents\n  %8s %9s %9s %9s %7s  file:line\n", "dCE", "rise",
                "tokens", "KL", "doc");
        for (k = 0; k < most && (v = json_array_get(documents, k)); k++)
            print_document(out, v);
    }
}
