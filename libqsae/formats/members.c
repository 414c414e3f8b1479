/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats/members.h"

#include <string.h>

#include "formats/pairs.h"

#define MAX_DEPTH 63 /* of a value: json.c's 64 with the object around it */

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

int32_t qsae__members_open(qsae__members *m, const char *text, size_t size, const char *name)
{
    *m = (qsae__members){ .text = text, .at = text, .end = text + size, .name = name };
    if (!qsae__is_text(text, size))
        return qsae__fail(QSAE_EFORMAT, "%s: not UTF-8, or with a NUL byte", name);
    skip_space(m);
    if (m->at == m->end)
        return fail_at(m, "'{' expected");
    if (!take(m, '{'))
        return qsae__fail(QSAE_EFORMAT, "%s: header: expected object, found %s", name,
                          qsae__json_kind(m->at));
    return QSAE_OK;
}

int32_t qsae__members_next(qsae__members *m, qsae__member *out, bool *more)
{
    int32_t status;

    *more = false;
    skip_space(m);
    if (take(m, '}')) {
        skip_space(m);
        return m->at == m->end ? QSAE_OK : fail_at(m, "end of file expected");
    }
    if (m->begun) {
        if (!take(m, ','))
            return fail_at(m, "',' or '}' expected");
        skip_space(m);
    }
    m->begun = true;
    out->key = m->at;
    if (!skip_string(m))
        return fail_at(m, "string expected as the name of a member");
    out->key_size = (size_t)(m->at - out->key);
    skip_space(m);
    if (!take(m, ':'))
        return fail_at(m, "':' expected");
    skip_space(m);
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
    json_t *v = NULL;
    int32_t status = QSAE_OK;

    /* Most have nothing to decode. Control bytes are left for the parser to refuse. */
    for (size_t i = 1; i + 1 < size; i++)
        if (text[i] == '\\' || (unsigned char)text[i] < 0x20) {
            status = qsae__json_parse(text, size, name, &v);
            if (status == QSAE_OK)
                memcpy(out, json_string_value(v), json_string_length(v) + 1);
            json_decref(v);
            return status;
        }
    memcpy(out, text + 1, size - 2);
    out[size - 2] = '\0';
    return status;
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
