/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats/members.h"

#include <string.h>

#include "formats/pairs.h"
#include "formats/walk.h"

#define MAX_DEPTH (QSAE__JSON_DEPTH - 1) /* of a value: with the container around it one more */

static int32_t fail_at(const qsae__members *m, const char *what)
{
    int line = 1;

    for (const char *p = m->text; p < m->at; p++)
        line += *p == '\n';
    return qsae__fail(QSAE_EFORMAT, "%s:%d: %s%s", m->name, line, what,
                      m->at < m->end ? "" : " near end of file");
}

static void skip_space(qsae__members *m)
{
    while (m->at < m->end && (*m->at == ' ' || *m->at == '\t' || *m->at == '\n' || *m->at == '\r'))
        m->at++;
}

/* Moves behind a byte. */
static bool take(qsae__members *m, char c)
{
    if (m->at == m->end || *m->at != c)
        return false;
    m->at++;
    return true;
}

/* Moves behind a string. */
static bool skip_string(qsae__members *m)
{
    if (!take(m, '"'))
        return false;
    for (; m->at < m->end; m->at++) {
        if (*m->at == '"') {
            m->at++;
            return true;
        }
        if (*m->at == '\\' && m->at + 1 < m->end)
            m->at++;
    }
    return false;
}

static int32_t skip_value(qsae__members *m)
{
    int depth = 0;

    if (m->at < m->end && *m->at == '"')
        return skip_string(m) ? QSAE_OK : fail_at(m, "string without an end");
    while (m->at < m->end) {
        const char c = *m->at;
        if (c == '"') {
            if (!skip_string(m))
                return fail_at(m, "string without an end");
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' ||
                           c == '\n' || c == '\r'))
            return QSAE_OK;
        m->at++;
        if (c == '[' || c == '{')
            depth++;
        if (depth > MAX_DEPTH)
            return qsae__fail(QSAE_EFORMAT, "%s: JSON nested deeper than %d levels", m->name,
                              MAX_DEPTH + 1);
        if ((c == ']' || c == '}') && --depth == 0)
            return QSAE_OK;
    }
    return fail_at(m, "value without an end");
}

/* The walk over a container that opens with that bracket. */
static int32_t open_with(qsae__members *m, const char *text, size_t size, const char *name,
                         char bracket, const char *expected)
{
    *m = (qsae__members){ .text = text, .at = text, .end = text + size, .name = name };
    if (!qsae__is_text(text, size))
        return qsae__fail(QSAE_EFORMAT, "%s: not UTF-8, or with a NUL byte", name);
    skip_space(m);
    if (m->at == m->end)
        return fail_at(m, bracket == '{' ? "'{' expected" : "'[' expected");
    if (!take(m, bracket))
        return qsae__fail(QSAE_EFORMAT, "%s: expected %s, found %s", name, expected,
                          qsae__json_kind(m->at));
    m->close = bracket == '{' ? '}' : ']';
    return QSAE_OK;
}

int32_t qsae__members_open(qsae__members *m, const char *text, size_t size, const char *name)
{
    return open_with(m, text, size, name, '{', "object");
}

int32_t qsae__elements_open(qsae__members *m, const char *text, size_t size, const char *name)
{
    return open_with(m, text, size, name, '[', "array");
}

/* A member's name and the colon behind it. */
static int32_t read_name(qsae__members *m, qsae__member *out)
{
    out->key = m->at;
    if (!skip_string(m))
        return fail_at(m, "string expected as the name of a member");
    out->key_size = (size_t)(m->at - out->key);
    skip_space(m);
    if (!take(m, ':'))
        return fail_at(m, "':' expected");
    skip_space(m);
    return QSAE_OK;
}

int32_t qsae__members_next(qsae__members *m, qsae__member *out, bool *more)
{
    int32_t status;

    *more = false;
    skip_space(m);
    if (take(m, m->close)) {
        skip_space(m);
        return m->at == m->end ? QSAE_OK : fail_at(m, "end of file expected");
    }
    if (m->begun) {
        if (!take(m, ','))
            return fail_at(m, m->close == '}' ? "',' or '}' expected" : "',' or ']' expected");
        skip_space(m);
    }
    m->begun = true;
    out->key = NULL;
    out->key_size = 0;
    status = m->close == '}' ? read_name(m, out) : QSAE_OK;
    if (status != QSAE_OK)
        return status;
    out->value = m->at;
    status = skip_value(m);
    if (status != QSAE_OK)
        return status;
    out->value_size = (size_t)(m->at - out->value);
    if (out->value_size == 0)
        return fail_at(m, "value expected");
    *more = true;
    return QSAE_OK;
}

int32_t qsae__json_decode(const char *text, size_t size, const char *name, char *out)
{
    return qsae__json_unquote(text, size, out)
               ? QSAE_OK
               : qsae__fail(QSAE_EFORMAT, "%s: %.*s: no JSON string, or one with NUL (U+0000)",
                            name, (int)qsae__min_i64((int64_t)size, 100), text);
}

int32_t qsae__json_count(const char *text, size_t size, const char *name, int64_t *n, size_t *bytes)
{
    qsae__members m;
    qsae__member member;
    bool more;
    int32_t status = *text == '[' ? qsae__elements_open(&m, text, size, name)
                                  : qsae__members_open(&m, text, size, name);

    *n = 0;
    *bytes = 0;
    while (status == QSAE_OK &&
           (status = qsae__members_next(&m, &member, &more)) == QSAE_OK && more) {
        ++*n;
        *bytes += member.key_size;
    }
    return status;
}

int32_t qsae__cut_expect(const qsae__cut *cut, const char *where, char bracket)
{
    if (cut->text != NULL && *cut->text == bracket)
        return QSAE_OK;
    return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected %s, found %s", where,
                      cut->inner != NULL ? cut->inner : cut->outer,
                      bracket == '{' ? "object" : "array",
                      cut->text == NULL ? "nothing" : qsae__json_kind(cut->text));
}

bool qsae__json_integer(const char *text, size_t size, int64_t *out)
{
    const bool negative = size > 0 && *text == '-';
    int64_t v = 0;

    if (size == negative)
        return false;
    for (size_t i = negative; i < size; i++)
        if (text[i] < '0' || text[i] > '9' || !qsae__mul_i64(v, 10, &v) ||
            !qsae__add_i64(v, negative ? '0' - text[i] : text[i] - '0', &v))
            return false;
    *out = v;
    return true;
}

const char *qsae__json_kind(const char *value)
{
    switch (*value) {
    case '{':
        return "object";
    case '[':
        return "array";
    case '"':
        return "string";
    case 't':
    case 'f':
        return "boolean";
    case 'n':
        return "null";
    default:
        return "number";
    }
}
