/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON as Python's json.dumps writes it, except that text stays UTF-8. */
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
    int n = 0, exponent;
    if (v == 0) {
        snprintf(text, size, "%s", signbit(v) ? "-0.0" : "0.0");
        return;
    }
    for (int p = 0; p < DIGITS; p++) {
        snprintf(e, sizeof e, "%.*e", p, v);
        if (strtod(e, NULL) == v)
            break;
    }
    const char *const mark = strchr(e, 'e');
    exponent = mark ? (int)strtol(mark + 1, NULL, 10) : 0;
    for (const char *c = e; c < mark && n < DIGITS; c++) /* whatever the locale's point is */
        if (*c >= '0' && *c <= '9')
            digits[n++] = *c;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
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
    qsae__strbuf_add(b, "\"", 1);
    for (size_t i = 0, start = 0; i <= size; i++) {
        const unsigned char c = i < size ? (unsigned char)text[i] : '"';
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        qsae__strbuf_add(b, text + start, i - start);
        start = i + 1;
        if (i == size)
            break;
        if (short_names[c])
            qsae__strbuf_addf(b, "%s", short_names[c]);
        else
            qsae__strbuf_addf(b, "\\u%04x", c);
    }
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

static void add_members(qsae__strbuf *b, const json_t *v, int indent, int level)
{
    const char *key;
    json_t *x;
    size_t i;
    bool first = true;
    if (json_is_object(v)) {
        json_object_foreach((json_t *)(uintptr_t)v, key, x) {
            new_line(b, indent, level, first);
            first = false;
            add_text(b, key, strlen(key));
            qsae__strbuf_add(b, ": ", 2);
            add_value(b, x, indent, level);
        }
    } else {
        json_array_foreach(v, i, x) {
            new_line(b, indent, level, first);
            first = false;
            add_value(b, x, indent, level);
        }
    }
}

/* Recursion is as deep as the value, which the parser bounds. */
static void add_value(qsae__strbuf *b, const json_t *v, int indent, int level)
{
    char number[48];
    switch (json_typeof(v)) {
    case JSON_OBJECT:
    case JSON_ARRAY: {
        const bool object = json_is_object(v);
        const size_t n = object ? json_object_size(v) : json_array_size(v);
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
        qsae__strbuf_addf(b, "%s", json_is_true(v) ? "true" : "false");
        break;
    }
}

int32_t qsae__json_write(qsae__strbuf *out, const json_t *value, int indent)
{
    add_value(out, value, indent, 0);
    return out->status;
}
