/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON as Python's json.dumps writes it, except that text stays UTF-8. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"

#define DIGITS 17 /* that tell any two f64 apart */

/* Python's repr: the fewest digits that read back as v, an exponent below 1e-4 and from 1e16 on. */
void qsae__json_number(double v, char *text, size_t size)
{
    char e[48], digits[DIGITS + 1] = "";
    int n = 0, p = 0;
    if (v == 0) {
        snprintf(text, size, "%s", signbit(v) ? "-0.0" : "0.0");
        return;
    }
    do /* the fewest digits never end in 0 */
        snprintf(e, sizeof e, "%.*e", p, v);
    while (p++ < DIGITS - 1 && strtod(e, NULL) != v);
    const char *const mark = e + strcspn(e, "e");
    const int exponent = (int)strtol(mark + (*mark == 'e'), NULL, 10);
    for (const char *c = e; c < mark; c++) /* whatever the locale's point is */
        if (isdigit((unsigned char)*c))
            digits[n++] = *c;
    const char *const sign = v < 0 ? "-" : "";
    if (exponent < -4 || exponent >= 16)
        snprintf(text, size, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "", digits + 1,
                 exponent < 0 ? '-' : '+', abs(exponent));
    else if (exponent < 0)
        snprintf(text, size, "%s0.%.*s%s", sign, -exponent - 1, "0000", digits);
    else if (exponent >= n - 1)
        snprintf(text, size, "%s%s%.*s.0", sign, digits, exponent - n + 1, "0000000000000000");
    else
        snprintf(text, size, "%s%.*s.%s", sign, exponent + 1, digits, digits + exponent + 1);
}

static void add_text(qsae__strbuf *b, const char *text, size_t size)
{
    static const char *const short_names[] = { ['\b'] = "\\b", ['\t'] = "\\t", ['\n'] = "\\n",
                                               ['\f'] = "\\f", ['\r'] = "\\r", ['"'] = "\\\"",
                                               ['\\'] = "\\\\" };
    size_t start = 0;
    qsae__strbuf_add(b, "\"", 1);
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        qsae__strbuf_add(b, text + start, i - start);
        start = i + 1;
        if (short_names[c])
            qsae__strbuf_addf(b, "%s", short_names[c]);
        else
            qsae__strbuf_addf(b, "\\u%04x", c);
    }
    qsae__strbuf_add(b, text + start, size - start);
    qsae__strbuf_add(b, "\"", 1);
}

static void new_line(qsae__strbuf *b, int indent, int level, bool first)
{
    if (!first)
        qsae__strbuf_addf(b, indent < 0 ? ", " : ",");
    if (indent >= 0)
        qsae__strbuf_addf(b, "\n%*s", indent * level, "");
}

static void add_value(qsae__strbuf *b, const json_t *v, int indent, int level);

/* Of an object or array: to jansson the one has no members of the other. */
static void add_members(qsae__strbuf *b, const json_t *v, int indent, int level)
{
    json_t *const object = (json_t *)(uintptr_t)v; /* an iterator changes nothing */
    bool first = true;
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const char *const key = json_object_iter_key(at);
        new_line(b, indent, level, first);
        first = false;
        add_text(b, key, strlen(key));
        qsae__strbuf_add(b, ": ", 2);
        add_value(b, json_object_iter_value(at), indent, level);
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        new_line(b, indent, level, i == 0);
        add_value(b, json_array_get(v, i), indent, level);
    }
}

/* Recursion is as deep as the value, which the parser bounds. */
static void add_value(qsae__strbuf *b, const json_t *v, int indent, int level)
{
    char number[48];
    switch (json_typeof(v)) {
    case JSON_OBJECT:
    case JSON_ARRAY: {
        const bool object = json_typeof(v) == JSON_OBJECT;
        const size_t n = json_object_size(v) + json_array_size(v);
        qsae__strbuf_add(b, object ? "{" : "[", 1);
        add_members(b, v, indent, level + 1);
        if (n > 0 && indent >= 0)
            new_line(b, indent, level, true);
        qsae__strbuf_add(b, object ? "}" : "]", 1);
        break;
    }
    case JSON_STRING:
        add_text(b, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        qsae__strbuf_addf(b, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL:
        qsae__json_number(json_real_value(v), number, sizeof number);
        qsae__strbuf_addf(b, "%s", number);
        break;
    case JSON_NULL:
        qsae__strbuf_add(b, "null", 4);
        break;
    default:
        qsae__strbuf_addf(b, "%s", json_typeof(v) == JSON_TRUE ? "true" : "false");
        break;
    }
}

int32_t qsae__json_write(qsae__strbuf *out, const json_t *value, int indent)
{
    add_value(out, value, indent, 0);
    return out->status;
}
