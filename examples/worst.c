/* SPDX-License-Identifier: BSD-2-Clause */
/* The worst tokens and documents of each condition, in lines of at most 100 columns. */
#include "number.h"
#include "table.h"

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

static void print_documents(const struct page *p, const json_t *documents, size_t most)
{
    static const char *const heads[] = { "dCE", "rise", "tokens", "KL", "doc" };
    const json_t *d;
    struct grid *g = grid_open(0);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    grid_column(g, COLUMN_WRAPPED, "file:line");
    for (size_t k = 0; k < most && (d = json_array_get(documents, k)); k++) {
        const char *const path = string_at(d, "source"), *const slash = strrchr(path, '/');
        grid_row(g);
        grid_number(g, "%+.5f", number(d, "dce"));
        grid_number(g, "%.2f", number(d, "dnll_total"));
        grid_number(g, "%.0f", number(d, "tokens"));
        grid_number(g, "%.2e", number(d, "kl_mean"));
        grid_number(g, "%.0f", number(d, "document"));
        grid_put(g, "%s:%.0f", slash ? slash + 1 : path, number(d, "line"));
    }
    grid_print(p, 2, &g);
}

void worst_print(const struct page *p, const json_t *result, size_t most)
{
    size_t i, k;
    const json_t *c, *v;
    json_array_foreach(json_object_get(result, "conditions"), i, c) {
        const json_t *const tokens = json_object_get(c, "worst_tokens");
        const json_t *const documents =
            json_object_get(json_object_get(c, "worst_documents"), "by_mean");
        if (!json_array_size(tokens))
            continue;
        fputc('\n', p->out);
        say(p, 2, "%s: worst tokens", string_at(c, "label"));
        fprintf(p->out, "  %8s %7s %7s %9s %7s  before [token] after\n", "rise", "p_r", "p_q", "KL",
                "doc");
        for (k = 0; k < most && (v = json_array_get(tokens, k)); k++)
            print_token(p->out, v);
        if (!json_array_size(documents))
            continue;
        fprintf(p->out, "worst documents\n");
        print_documents(p, documents, most);
    }
}
