/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of the condition parser share. */
#ifndef QSAE_CODECS_PARSER_H
#define QSAE_CODECS_PARSER_H

#include "codecs/condition.h"

/* A piece of the text; offsets in messages are relative to the whole text. */
typedef struct qsae__word {
    const char *s;
    int64_t n;
} qsae__word;

typedef struct qsae__parser {
    qsae_context *ctx;
    const char *text;
    const char *at;         /* next unread byte */
    const char *end;        /* of the text, or of the condition in parentheses */
    unsigned seen;          /* options met so far, bit per option of the codec or part */
    unsigned selectors;     /* selectors and parts met so far */
    bool arith_set;
    int depth;              /* of parentheses */
    qsae__condition *c;
} qsae__parser;

/* An option key=value of a codec or part. */
typedef struct qsae__option {
    const char *name;
    int32_t (*set)(qsae__parser *p, qsae__word value);
} qsae__option;

#define QSAE__OPTIONS_MOST 6

enum { QSAE__DECIMAL_THRESHOLD, QSAE__DECIMAL_SPARSITY, QSAE__DECIMAL_MATCH };

bool qsae__word_is(qsae__word w, const char *s);
/* QSAE_EINVAL naming the condition, the offset, the word and what is allowed. */
int32_t qsae__parse_bad(const qsae__parser *p, qsae__word w, const char *what,
                        const char *allowed);
/* Up to the next delimiter or the end. */
qsae__word qsae__parse_take(qsae__parser *p, const char *delimiters);
/* The next byte, 0 at the end. */
char qsae__parse_peek(const qsae__parser *p);
/* Decimal digits only, at most 18 of them. */
bool qsae__parse_i64(qsae__word w, int64_t *out);
/* digits[.digits], independent of the locale; its canonical form goes to c->decimal[which]. */
bool qsae__parse_decimal(qsae__parser *p, qsae__word w, int which, double *out);
/* One of the names (NULL ends them): its value is its index. */
int32_t qsae__parse_choice(const qsae__parser *p, qsae__word w, const char *what,
                           const char *const *names, const char *allowed, int32_t *out);
/* key=value,... up to '@', '+' or the end, for options[QSAE__OPTIONS_MOST]. p is at the ':'. */
int32_t qsae__parse_options(qsae__parser *p, const qsae__option *options, const char *names);
/* What lies between the parentheses p is at, which close again; moves behind them. */
int32_t qsae__parse_parentheses(qsae__parser *p, qsae__word *inside);
/* A condition of its own within the text of p. */
int32_t qsae__parse_inner(const qsae__parser *p, qsae__word text, qsae__condition *out);

/* condition_codec.c: CODEC[:options], p at its name. */
int32_t qsae__parse_codec(qsae__parser *p);
void qsae__print_codec(const qsae__condition *c, qsae__strbuf *b);
/* condition.c */
void qsae__print_selectors(const qsae__condition *c, qsae__strbuf *b);
/* condition_parts.c: p behind '+'. */
int32_t qsae__parse_part(qsae__parser *p);
void qsae__print_prune(const qsae__condition *c, qsae__strbuf *b);
void qsae__print_kv(const qsae__condition *c, qsae__strbuf *b);
/* condition_names.c: p at the list of names; up to '@', '+' or the end outside of /regex/. */
int32_t qsae__parse_names(qsae__parser *p, qsae__names **out);
void qsae__names_free(qsae_context *ctx, qsae__names *n);
const char *qsae__names_text(const qsae__names *n);
bool qsae__names_match(const qsae__names *n, const qsae__place *place);

#endif
