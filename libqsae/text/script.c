/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/script.h"

#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "text/utf8.h"

#define PLANES 0x110000
#define UNKNOWN 0xff

/* Names of values; classes of Unicode's names, several where they write one language together. */
static const struct {
    const char *name, *unicode[2];
} scripts[] = {
    { "common", { NULL, NULL } },
    { "bytes", { NULL, NULL } },
    { "other", { NULL, NULL } },
    { "latin", { "Latin", NULL } },
    { "cyrillic", { "Cyrillic", NULL } },
    { "greek", { "Greek", NULL } },
    { "han", { "Han", NULL } },
    { "kana", { "Hiragana", "Katakana" } },
    { "hangul", { "Hangul", NULL } },
    { "arabic", { "Arabic", NULL } },
    { "hebrew", { "Hebrew", NULL } },
    { "devanagari", { "Devanagari", NULL } },
    { "bengali", { "Bengali", NULL } },
    { "gurmukhi", { "Gurmukhi", NULL } },
    { "gujarati", { "Gujarati", NULL } },
    { "tamil", { "Tamil", NULL } },
    { "telugu", { "Telugu", NULL } },
    { "kannada", { "Kannada", NULL } },
    { "malayalam", { "Malayalam", NULL } },
    { "sinhala", { "Sinhala", NULL } },
    { "thai", { "Thai", NULL } },
    { "lao", { "Lao", NULL } },
    { "khmer", { "Khmer", NULL } },
    { "myanmar", { "Myanmar", NULL } },
    { "tibetan", { "Tibetan", NULL } },
    { "georgian", { "Georgian", NULL } },
    { "armenian", { "Armenian", NULL } },
    { "ethiopic", { "Ethiopic", NULL } },
};

#define COUNT ((int32_t)(sizeof scripts / sizeof scripts[0]))
_Static_assert(sizeof scripts / sizeof scripts[0] <= QSAE__SCRIPT_MOST, "too many scripts");

struct qsae__scripts {
    qsae__regex *own;                /* a character that has a script at all */
    qsae__regex *of[QSAE__SCRIPT_MOST];
    qsae__regex_room *room;          /* of matches with one pair of offsets, as all of these */
    uint8_t *known;                  /* [PLANES] by character, UNKNOWN until it is asked for */
};

int32_t qsae__scripts_count(void)
{
    return COUNT;
}

const char *qsae__script_name(int32_t script)
{
    return scripts[script].name;
}

/* A class of the scripts: PCRE2 before 10.40 knows \p{Han} with the meaning of \p{sc:Han}. */
static int32_t compile(qsae_context *ctx, const char *open, const char *a, const char *b,
                       qsae__regex **out)
{
    static const char *const prefix[] = { "sc:", "" };
    char reason[QSAE__REGEX_REASON], pattern[128];
    int32_t st = QSAE_EFORMAT;
    for (int i = 0; i < 2 && st == QSAE_EFORMAT; i++) {
        if (b)
            snprintf(pattern, sizeof pattern, "%s\\p{%s%s}\\p{%s%s}]", open, prefix[i], a,
                     prefix[i], b);
        else
            snprintf(pattern, sizeof pattern, "%s\\p{%s%s}]", open, prefix[i], a);
        st = qsae__regex_new(ctx, pattern, strlen(pattern),
                             QSAE__REGEX_UNICODE | QSAE__REGEX_ANCHORED, reason, out);
    }
    return st == QSAE_EFORMAT
               ? qsae__fail(QSAE_EUNSUPPORTED, "PCRE2 does not know the script %s: %s", a, reason)
               : st;
}

int32_t qsae__scripts_open(qsae_context *ctx, qsae__scripts **out)
{
    qsae__scripts *s = *out = qsae__calloc(ctx, 1, sizeof *s);
    if (!s)
        return QSAE_ENOMEM;
    s->known = qsae__alloc_array(ctx, PLANES, 1);
    int32_t st = s->known ? compile(ctx, "[^", "Common", "Inherited", &s->own) : QSAE_ENOMEM;
    if (s->known)
        memset(s->known, UNKNOWN, PLANES);
    for (int32_t i = QSAE__SCRIPT_LATIN; i < COUNT && st == QSAE_OK; i++)
        st = compile(ctx, "[", scripts[i].unicode[0], scripts[i].unicode[1], &s->of[i]);
    if (st != QSAE_OK)
        qsae__scripts_close(ctx, out);
    return st;
}

void qsae__scripts_close(qsae_context *ctx, qsae__scripts **scripts_)
{
    qsae__scripts *const s = *scripts_;
    if (!s)
        return;
    qsae__regex_room_free(&s->room);
    qsae__regex_free(&s->own);
    for (int32_t i = 0; i < COUNT; i++)
        qsae__regex_free(&s->of[i]);
    qsae__free(ctx, s->known);
    qsae__free(ctx, s);
    *scripts_ = NULL;
}

/* Script of a character [size]. */
static int32_t find(qsae__scripts *s, const char *text, size_t size, uint8_t *out)
{
    size_t start, end;
    int32_t found = qsae__regex_find(s->own, &s->room, text, size, 0, &start, &end);
    *out = found == 1 ? QSAE__SCRIPT_OTHER : QSAE__SCRIPT_COMMON;
    for (int32_t i = QSAE__SCRIPT_LATIN; i < COUNT && found == 1; i++) {
        const int32_t here = qsae__regex_find(s->of[i], &s->room, text, size, 0, &start, &end);
        if (here < 0)
            return here;
        if (here == 1) {
            *out = (uint8_t)i;
            return QSAE_OK;
        }
    }
    return found < 0 ? found : QSAE_OK;
}

int32_t qsae__script_of(qsae__scripts *s, const char *text, size_t size, int32_t *out)
{
    size_t bad;
    *out = QSAE__SCRIPT_BYTES;
    if (size > 0 && !qsae__utf8_check(text, size, &bad))
        return QSAE_OK;
    *out = QSAE__SCRIPT_COMMON;
    for (size_t i = 0, n; i < size && *out == QSAE__SCRIPT_COMMON; i += n) {
        n = qsae__utf8_len(text[i]);
        uint8_t *const known = &s->known[qsae__utf8_get(text + i)];
        if (*known == UNKNOWN) {
            const int32_t st = find(s, text + i, n, known);
            if (st != QSAE_OK) {
                *known = UNKNOWN;
                return st;
            }
        }
        *out = *known;
    }
    return QSAE_OK;
}
