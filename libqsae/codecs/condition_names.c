/* SPDX-License-Identifier: BSD-2-Clause */
/* Lists of module names in selectors: plain names, and regular expressions between slashes. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/parser.h"

#define MAX_NAMES 64
#define MATCH_LIMIT 100000 /* steps of one search: no expression may run away */

struct qsae__names {
    char *text;             /* canonical */
    int64_t count;
    struct entry {
        char *name;         /* plain, or NULL and */
        pcre2_code *regex;
    } entries[MAX_NAMES];
    pcre2_general_context *general;
    pcre2_match_context *limits;
};

static void *pcre_alloc(size_t size, void *ctx)
{
    return qsae__alloc(ctx, size);
}

static void pcre_free(void *p, void *ctx)
{
    qsae__free(ctx, p);
}

static int compare_words(const void *a, const void *b)
{
    const qsae__word *x = a, *y = b;
    const int r = memcmp(x->s, y->s, (size_t)qsae__min_i64(x->n, y->n));
    return r ? r : (x->n > y->n) - (x->n < y->n);
}

static bool plain(qsae__word w)
{
    for (int64_t i = 0; i < w.n; i++) {
        const char ch = w.s[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
              ch == '_' || ch == '-' || ch == '.'))
            return false;
    }
    return w.n > 0;
}

/* A name, or /regex/ in which a backslash keeps the next byte from ending it. */
static int32_t take_name(qsae__parser *p, qsae__word *out)
{
    if (qsae__parse_peek(p) != '/') {
        *out = qsae__parse_take(p, "|@+");
        return plain(*out) ? QSAE_OK
                           : qsae__parse_bad(p, *out, "name", "attn, mlp, module names such as "
                                             "q_proj, or /regex/, joined by |");
    }
    out->s = p->at++;
    while (p->at < p->end && *p->at != '/')
        p->at += *p->at == '\\' && p->at + 1 < p->end ? 2 : 1;
    out->n = p->at - out->s + 1;
    if (p->at == p->end || out->n < 3)
        return qsae__parse_bad(p, (qsae__word){ out->s, p->end - out->s }, "regular expression",
                               "/regex/ on the module's path");
    p->at++;
    return QSAE_OK;
}

static int32_t compile(const qsae__parser *p, const qsae__names *n, qsae__word w, pcre2_code **out)
{
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *const context = pcre2_compile_context_create(n->general);
    if (!context)
        return QSAE_ENOMEM;
    *out = pcre2_compile((PCRE2_SPTR)w.s + 1, (PCRE2_SIZE)w.n - 2, PCRE2_UTF, &code, &at, context);
    pcre2_compile_context_free(context);
    if (*out)
        return QSAE_OK;
    char why[120] = "";
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return qsae__parse_bad(p, w, "regular expression", why);
}

static int32_t add(const qsae__parser *p, qsae__names *n, qsae__word w)
{
    struct entry *const e = &n->entries[n->count++];
    if (*w.s == '/')
        return compile(p, n, w, &e->regex);
    e->name = qsae__strndup(p->ctx, w.s, (size_t)w.n);
    return e->name ? QSAE_OK : QSAE_ENOMEM;
}

/* Sorted, each once: the order and repetition of names mean nothing. */
static int32_t fill(const qsae__parser *p, qsae__word *words, int64_t count, qsae__names *n)
{
    qsae__strbuf b;
    qsae__strbuf_init(&b, p->ctx);
    qsort(words, (size_t)count, sizeof *words, compare_words);
    for (int64_t i = 0; i < count && b.status == QSAE_OK; i++) {
        if (i > 0 && compare_words(&words[i - 1], &words[i]) == 0)
            continue;
        if (b.size)
            qsae__strbuf_add(&b, "|", 1);
        qsae__strbuf_add(&b, words[i].s, (size_t)words[i].n);
        const int32_t st = add(p, n, words[i]);
        if (st != QSAE_OK) {
            qsae__strbuf_free(&b);
            return st;
        }
    }
    if (b.status != QSAE_OK) {
        const int32_t st = b.status;
        qsae__strbuf_free(&b);
        return st;
    }
    n->text = b.data;
    return QSAE_OK;
}

int32_t qsae__parse_names(qsae__parser *p, qsae__names **out)
{
    qsae__word words[MAX_NAMES];
    int64_t count = 0;
    for (;;) {
        qsae__word w;
        const int32_t st = take_name(p, &w);
        if (st != QSAE_OK)
            return st;
        if (count == MAX_NAMES)
            return qsae__parse_bad(p, w, "too many names at", "64 names");
        words[count++] = w;
        if (qsae__parse_peek(p) != '|')
            break;
        p->at++;
    }
    qsae__names *n = qsae__calloc(p->ctx, 1, sizeof *n);
    if (!n)
        return QSAE_ENOMEM;
    n->general = pcre2_general_context_create(pcre_alloc, pcre_free, p->ctx);
    n->limits = pcre2_match_context_create(n->general);
    int32_t st = n->general && n->limits ? fill(p, words, count, n) : QSAE_ENOMEM;
    if (st != QSAE_OK) {
        qsae__names_free(p->ctx, n);
        return st;
    }
    pcre2_set_match_limit(n->limits, MATCH_LIMIT);
    *out = n;
    return QSAE_OK;
}

void qsae__names_free(qsae_context *ctx, qsae__names *n)
{
    if (!n)
        return;
    for (int64_t i = 0; i < n->count; i++) {
        qsae__free(ctx, n->entries[i].name);
        pcre2_code_free(n->entries[i].regex);
    }
    pcre2_match_context_free(n->limits);
    pcre2_general_context_free(n->general);
    qsae__free(ctx, n->text);
    qsae__free(ctx, n);
}

const char *qsae__names_text(const qsae__names *n)
{
    return n->text;
}

static bool search(const qsae__names *n, const pcre2_code *regex, const char *path)
{
    pcre2_match_data *const data = pcre2_match_data_create_from_pattern(regex, n->general);
    if (!data)
        return false;
    const int found = pcre2_match(regex, (PCRE2_SPTR)path, PCRE2_ZERO_TERMINATED, 0, 0, data,
                                  n->limits);
    pcre2_match_data_free(data);
    return found >= 0;
}

/* name is the module, its group, its path or the end of its path. */
static bool equals(const char *name, const qsae__place *place)
{
    if ((place->module && !strcmp(name, place->module)) ||
        (place->group && !strcmp(name, place->group)))
        return true;
    if (!place->path)
        return false;
    const size_t n = strlen(name), m = strlen(place->path);
    return m >= n && !strcmp(place->path + m - n, name) &&
           (m == n || place->path[m - n - 1] == '.');
}

bool qsae__names_match(const qsae__names *n, const qsae__place *place)
{
    for (int64_t i = 0; i < n->count; i++) {
        const struct entry *const e = &n->entries[i];
        if (e->name ? equals(e->name, place) : place->path && search(n, e->regex, place->path))
            return true;
    }
    return false;
}
