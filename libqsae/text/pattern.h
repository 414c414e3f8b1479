/* SPDX-License-Identifier: BSD-2-Clause */
/* What normalizers and pre-tokenizers search for: a string or a regular expression. */
#ifndef QSAE_TEXT_PATTERN_H
#define QSAE_TEXT_PATTERN_H

#include "formats/formats.h"

typedef struct qsae__pattern qsae__pattern;

/* Reads {"String": s} or {"Regex": r}; a bare string counts as String. */
int32_t qsae__pattern_read(qsae_context *ctx, const json_t *json, const char *where,
                           qsae__pattern **out);
int32_t qsae__pattern_regex(qsae_context *ctx, const char *regex, const char *where,
                            qsae__pattern **out);
int32_t qsae__pattern_string(qsae_context *ctx, const char *s, size_t size, qsae__pattern **out);
void qsae__pattern_close(qsae_context *ctx, qsae__pattern **p);

/* Adds to out what PCRE2 must be given to find what the tokenizers package finds with a regular
 * expression. QSAE_EUNSUPPORTED if there is no such thing; QSAE_ENOMEM. */
int32_t qsae__expression_translate(const char *regex, const char *where, qsae__strbuf *out);

/* True if it is this very string. */
bool qsae__pattern_is(const qsae__pattern *p, const char *s);

/* True if it is this very regular expression; true if it is known to match everywhere, so that its
 * matches tile any text. */
bool qsae__pattern_is_regex(const qsae__pattern *p, const char *regex);
bool qsae__pattern_tiles(const qsae__pattern *p);

/* True if both search for the same, also if one is a string and the other a regular expression
 * without operators; either may be NULL. */
bool qsae__pattern_equal(const qsae__pattern *a, const qsae__pattern *b);

/* True if it can match the empty string. */
bool qsae__pattern_may_be_empty(const qsae__pattern *p);

/* A search over one text; zero-initialized but for the first three members. */
typedef struct qsae__search {
    const qsae__pattern *pattern;
    const char *text;
    size_t size;
    size_t at;          /* where the next search starts */
    size_t last_end;    /* of the last match, valid if matched */
    bool matched;
    qsae__regex_room *room;
} qsae__search;

/* 1 and the next match, 0 at the end, or a negative status. Matches do not overlap; an empty match
 * is given unless it touches the match before. */
int32_t qsae__search_next(qsae__search *s, size_t *start, size_t *end);
void qsae__search_end(qsae__search *s);

#endif
