/* SPDX-License-Identifier: BSD-2-Clause */
/* Lists of module names in selectors: plain names, and regular expressions between slashes. */
#include <stdlib.h>
#include <string.h>

#include "codecs/parser.h"

#define MAX_NAMES 64

struct qsae__names {
    char *text;             /* canonical */
    int64_t count;
    struct entry {
        char *name;         /* plain, or NULL and */
        qsae__regex *regex;
    } entries[MAX_NAMES];
};

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

static int32_t compile(const qsae__parser *p, qsae__word w, qsae__regex **out)
{
    char why[QSAE__REGEX_REASON];
    const int32_t st = qsae__regex_new(p->ctx, w.s + 1, (size_t)w.n - 2, QSAE__REGEX_SHORT, why,
                                       out);
    return st == QSAE_EFORMAT ? qsae__parse_bad(p, w, "regular expression", why) : st;
}

static int32_t add(const qsae__parser *p, qsae__names *n, qsae__word w)
{
    struct entry *const e = &n->entries[n->count++];
    if (*w.s == '/')
        return compile(p, w, &e->regex);
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
    const int32_t st = fill(p, words, count, n);
    if (st != QSAE_OK) {
        qsae__names_free(p->ctx, n);
        return st;
    }
    *out = n;
    return QSAE_OK;
}

void qsae__names_free(qsae_context *ctx, qsae__names *n)
{
    if (!n)
        return;
    for (int64_t i = 0; i < n->count; i++) {
        qsae__free(ctx, n->entries[i].name);
        qsae__regex_free(&n->entries[i].regex);
    }
    qsae__free(ctx, n->text);
    qsae__free(ctx, n);
}

const char *qsae__names_text(const qsae__names *n)
{
    return n->text;
}

/* An expression that would run away matches nothing. */
static bool search(const qsae__regex *regex, const char *path)
{
    bool found;
    return qsae__regex_matches(regex, path, &found) == QSAE_OK && found;
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
        if (e->name ? equals(e->name, place) : place->path && search(e->regex, place->path))
            return true;
    }
    return false;
}
