/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/pattern.h"

#include <string.h>

#include "text/utf8.h"
#include "text/words.h"

struct qsae__pattern {
    char *string;       /* or NULL */
    size_t size;
    char *source;       /* of the regular expression */
    qsae__regex *regex; /* or NULL */
    enum qsae__words words; /* what the expression is, if it is well known */
};

int32_t qsae__pattern_regex(qsae_context *ctx, const char *regex, const char *where,
                            qsae__pattern **out)
{
    qsae__pattern *p = qsae__calloc(ctx, 1, sizeof *p);
    char reason[QSAE__REGEX_REASON];
    qsae__strbuf text;
    int32_t status;

    *out = NULL;
    if (p == NULL)
        return QSAE_ENOMEM;
    qsae__strbuf_init(&text, ctx);
    qsae__strbuf_add(&text, "", 0);
    status = qsae__expression_translate(regex, where, &text);
    if (status == QSAE_OK) {
        status = qsae__regex_new(ctx, text.data, (size_t)text.size, QSAE__REGEX_UNICODE, reason,
                                 &p->regex);
        if (status == QSAE_EFORMAT)
            status = qsae__fail(QSAE_EUNSUPPORTED, "%s: regular expression \"%s\": %s", where,
                                regex, reason);
    }
    if (status == QSAE_OK) {
        p->words = qsae__words_kind(regex);
        p->source = qsae__strdup(ctx, regex);
        status = p->source == NULL ? QSAE_ENOMEM : QSAE_OK;
    }
    qsae__strbuf_free(&text);
    if (status == QSAE_OK)
        *out = p;
    else
        qsae__pattern_close(ctx, &p);
    return status;
}

int32_t qsae__pattern_string(qsae_context *ctx, const char *s, size_t size, qsae__pattern **out)
{
    qsae__pattern *p = qsae__calloc(ctx, 1, sizeof *p);

    *out = NULL;
    if (p == NULL)
        return QSAE_ENOMEM;
    p->string = qsae__strndup(ctx, s, size);
    p->size = size;
    if (p->string == NULL) {
        qsae__free(ctx, p);
        return QSAE_ENOMEM;
    }
    *out = p;
    return QSAE_OK;
}

int32_t qsae__pattern_read(qsae_context *ctx, const json_t *json, const char *where,
                           qsae__pattern **out)
{
    const json_t *regex = json_object_get(json, "Regex");
    const json_t *string = json_is_string(json) ? json : json_object_get(json, "String");

    *out = NULL;
    if (json_is_string(regex))
        return qsae__pattern_regex(ctx, json_string_value(regex), where, out);
    if (!json_is_string(string))
        return qsae__fail(QSAE_EFORMAT, "%s: pattern: expected String or Regex, found %s", where,
                          qsae__json_type_name(json));
    if (json_string_length(string) == 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: pattern: an empty string", where);
    return qsae__pattern_string(ctx, json_string_value(string), json_string_length(string), out);
}

void qsae__pattern_close(qsae_context *ctx, qsae__pattern **pp)
{
    qsae__pattern *p = *pp;

    if (p == NULL)
        return;
    qsae__regex_free(&p->regex);
    qsae__free(ctx, p->string);
    qsae__free(ctx, p->source);
    qsae__free(ctx, p);
    *pp = NULL;
}

bool qsae__pattern_is(const qsae__pattern *p, const char *s)
{
    return p->string != NULL && p->size == strlen(s) && memcmp(p->string, s, p->size) == 0;
}

bool qsae__pattern_is_regex(const qsae__pattern *p, const char *regex)
{
    return p->source != NULL && strcmp(p->source, regex) == 0;
}

bool qsae__pattern_tiles(const qsae__pattern *p)
{
    return p->words != QSAE__WORDS_OTHER;
}

bool qsae__pattern_equal(const qsae__pattern *a, const qsae__pattern *b)
{
    const char *x, *y;
    size_t n, m;

    if (a == NULL || b == NULL)
        return a == b;
    x = a->string != NULL ? a->string : a->source;
    y = b->string != NULL ? b->string : b->source;
    n = a->string != NULL ? a->size : strlen(x);
    m = b->string != NULL ? b->size : strlen(y);
    if (n != m || memcmp(x, y, n) != 0)
        return false;
    return (a->string == NULL) == (b->string == NULL) ||
           (memchr(x, '\0', n) == NULL && strpbrk(x, "\\^$.|?*+()[]{}") == NULL);
}

bool qsae__pattern_may_be_empty(const qsae__pattern *p)
{
    return p->regex != NULL && qsae__regex_may_be_empty(p->regex);
}

static int32_t find_regex(qsae__search *s, size_t *start, size_t *end)
{
    if (s->pattern->words != QSAE__WORDS_OTHER && s->at < s->size) {
        const size_t n = qsae__words_next(s->pattern->words, s->text + s->at, s->size - s->at);
        *start = s->at;
        *end = s->at + n;
        if (n > 0)
            return 1;
    }
    return qsae__regex_find(s->pattern->regex, &s->room, s->text, s->size, s->at, start, end);
}

int32_t qsae__search_next(qsae__search *s, size_t *start, size_t *end)
{
    while (s->at <= s->size) {
        if (s->pattern->string != NULL) {
            const char *hit = s->pattern->size == 1
                                  ? memchr(s->text + s->at, s->pattern->string[0], s->size - s->at)
                                  : memmem(s->text + s->at, s->size - s->at, s->pattern->string,
                                           s->pattern->size);
            if (hit == NULL)
                return 0;
            *start = (size_t)(hit - s->text);
            *end = *start + s->pattern->size;
        } else {
            const int32_t found = find_regex(s, start, end);
            if (found != 1)
                return found;
        }
        if (*start == *end && s->matched && s->last_end == *end) {
            if (s->at == s->size)
                return 0;
            s->at += qsae__utf8_len(s->text[s->at]);
            continue;
        }
        s->at = s->last_end = *end;
        s->matched = true;
        return 1;
    }
    return 0;
}

void qsae__search_end(qsae__search *s)
{
    qsae__regex_room_free(&s->room);
}
