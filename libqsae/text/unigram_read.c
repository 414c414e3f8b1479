/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading a Unigram model: its vocabulary with scores, and the tree in which tokens are found. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/members.h"
#include "text/unigram.h"

#define PENALTY 10.0 /* how far an unknown character's score is below the lowest one */

/*
 * The score that the reference computes with. It reads decimals as digits / 10^n in f64, which is
 * not always the nearest number, and sums that tie in exact arithmetic part by such bits. The
 * digits are the shortest that name the number: what every writer of these files writes.
 */
static double reference_score(double nearest)
{
    char text[40];
    uint64_t digits = 0;
    int precision = 15, places = 0;
    const char *p = text;
    double power;

    do
        snprintf(text, sizeof text, "%.*e", precision - 1, nearest);
    while (strtod(text, NULL) != nearest && ++precision < 18);
    for (p += *p == '-'; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') {
            digits = digits * 10 + (uint64_t)(*p - '0');
            places++;
        }
    places -= 1 + (int)strtol(p + 1, NULL, 10);
    while (digits > 0 && digits % 10 == 0) {
        digits /= 10;
        places--;
    }
    if (digits == 0 || places <= 0 || places > 308)
        return nearest;
    snprintf(text, sizeof text, "1e%d", places);
    power = strtod(text, NULL);
    return nearest < 0 ? -((double)digits / power) : (double)digits / power;
}

static int32_t changed(const char *where)
{
    return qsae__fail(QSAE_EIO, "%s: file changed while it was read", where);
}

static int32_t read_score(const qsae__member *m, const char *where, double *out)
{
    json_t *number = NULL;
    int64_t whole;

    if (qsae__json_integer(m->value, m->value_size, &whole)) {
        *out = (double)whole;
        return QSAE_OK;
    }
    const int32_t status = qsae__json_parse(m->value, m->value_size, where, &number);
    *out = reference_score(json_real_value(number));
    json_decref(number);
    return status;
}

/* The two members of [token, score]. */
static int32_t read_pair(const qsae__member *entry, const char *where, int64_t at,
                         qsae__member out[2])
{
    qsae__members list;
    qsae__member m;
    bool more = false;
    int n = 0;
    int32_t status = *entry->value != '['
                         ? QSAE_OK
                         : qsae__elements_open(&list, entry->value, entry->value_size, where);

    while (*entry->value == '[' && status == QSAE_OK &&
           (status = qsae__members_next(&list, &m, &more)) == QSAE_OK && more && n < 3)
        if (n++ < 2)
            out[n - 1] = m;
    if (status == QSAE_OK &&
        (n != 2 || *out[0].value != '"' || (*out[1].value != '-' && *out[1].value < '0') ||
         *out[1].value > '9'))
        return qsae__fail(QSAE_EFORMAT, "%s: vocab[%lld]: expected [token, score]", where,
                          (long long)at);
    return status;
}

/* [[token, score], ...] */
static int32_t read_entries(qsae__unigram *u, qsae__vocab *v, const qsae__cut *vocab, size_t room,
                            const char *where)
{
    qsae__members list;
    qsae__member entry, pair[2];
    bool more = true;
    int32_t status = qsae__elements_open(&list, vocab->text, vocab->size, where);

    for (int64_t i = 0; status == QSAE_OK; i++) {
        status = qsae__members_next(&list, &entry, &more);
        if (status != QSAE_OK || !more)
            return status != QSAE_OK || i == u->n_scores ? status : changed(where);
        status = read_pair(&entry, where, i, pair);
        if (status != QSAE_OK)
            return status;
        if (i == u->n_scores || pair[0].value_size > room - v->used)
            return changed(where);
        char *const text = v->bytes + v->used;
        status = qsae__json_decode(pair[0].value, pair[0].value_size, where, text);
        if (status == QSAE_OK)
            status = read_score(&pair[1], where, &u->scores[i]);
        if (status != QSAE_OK)
            return status;
        const size_t size = strlen(text);
        if (size > 0)
            qsae__vocab_add(v, i, size, qsae__vocab_find(v, text, size));
        else
            v->sizes[i] = 0;
    }
    return status;
}

/* By text; of equal ones by id. */
static int by_text(const void *a, const void *b, void *arg)
{
    const qsae__vocab *const v = arg;
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    const uint32_t n = v->sizes[x] < v->sizes[y] ? v->sizes[x] : v->sizes[y];
    const int order = memcmp(v->bytes + v->offsets[x], v->bytes + v->offsets[y], n);

    if (order != 0)
        return order;
    if (v->sizes[x] != v->sizes[y])
        return v->sizes[x] < v->sizes[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* The keys below a node, [low, high) of the sorted ones, share as many first bytes as its level has
 * number. */
struct range {
    int32_t low, high;
};

struct tree {
    qsae__unigram *u;
    const qsae__vocab *v;
    int32_t *ids;                  /* [n] sorted by text */
    struct range *level, *next;    /* [n] of the nodes of two levels; no level has more than keys */
    int64_t n, n_level, n_next;
};

/* Every key has the nodes that it does not share with the one before it; and the root. */
static int64_t count_nodes(const struct tree *t)
{
    int64_t nodes = 1;

    for (int64_t i = 0; i < t->n; i++) {
        const char *const s = t->v->bytes + t->v->offsets[t->ids[i]];
        const uint32_t size = t->v->sizes[t->ids[i]];
        uint32_t same = 0;
        if (i > 0) {
            const char *const before = t->v->bytes + t->v->offsets[t->ids[i - 1]];
            const uint32_t other = t->v->sizes[t->ids[i - 1]];
            while (same < size && same < other && s[same] == before[same])
                same++;
        }
        nodes += size - same;
    }
    return nodes;
}

/* Node i's token (of equal ones the last) and its children. */
static void expand(struct tree *t, int64_t i, struct range r, uint32_t depth)
{
    qsae__unigram *const u = t->u;
    const qsae__vocab *const v = t->v;

    u->nodes[i] = (qsae__branch){ (uint32_t)u->n_nodes, -1 };
    for (; r.low < r.high && v->sizes[t->ids[r.low]] == depth; r.low++)
        u->nodes[i].id = t->ids[r.low];
    while (r.low < r.high) {
        const uint8_t byte = (uint8_t)v->bytes[v->offsets[t->ids[r.low]] + depth];
        struct range child = { r.low, r.low + 1 };
        while (child.high < r.high &&
               (uint8_t)v->bytes[v->offsets[t->ids[child.high]] + depth] == byte)
            child.high++;
        if (i == 0)
            u->roots[byte] = (uint32_t)u->n_nodes;
        u->labels[u->n_nodes++] = byte;
        t->next[t->n_next++] = child;
        r.low = child.high;
    }
}

static int32_t build_tree(qsae__unigram *u, const qsae__vocab *v, const char *where, int64_t most)
{
    const int64_t n = u->n_scores;
    struct tree t = { .u = u, .v = v, .n = n };
    int64_t nodes, at = 0;
    int32_t status = QSAE_OK;

    t.ids = qsae__alloc_array(u->ctx, n, sizeof *t.ids);
    if (t.ids == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        t.ids[i] = (int32_t)i;
    if (n > 1)
        qsort_r(t.ids, (size_t)n, sizeof *t.ids, by_text, (void *)(uintptr_t)v);
    nodes = count_nodes(&t);
    if (nodes > most)
        status = qsae__fail(QSAE_EFORMAT, "%s: vocab: expected tokens that make a tree of at most "
                            "%lld nodes in a file of this size, found %lld", where,
                            (long long)most, (long long)nodes);
    if (status == QSAE_OK) {
        u->nodes = qsae__alloc_array(u->ctx, nodes + 1, sizeof *u->nodes);
        u->labels = qsae__alloc_array(u->ctx, nodes, 1);
        t.level = qsae__alloc_array(u->ctx, n + 1, sizeof *t.level);
        t.next = qsae__alloc_array(u->ctx, n + 1, sizeof *t.next);
        if (u->nodes == NULL || u->labels == NULL || t.level == NULL || t.next == NULL)
            status = QSAE_ENOMEM;
    }
    if (status == QSAE_OK) {
        u->labels[0] = 0;
        u->n_nodes = 1;
        t.level[0] = (struct range){ 0, (int32_t)n };
        t.n_level = 1;
        for (uint32_t depth = 0; t.n_level > 0; depth++) {
            struct range *const swap = t.level;
            t.n_next = 0;
            for (int64_t i = 0; i < t.n_level; i++)
                expand(&t, at++, t.level[i], depth);
            t.level = t.next;
            t.n_level = t.n_next;
            t.next = swap;
        }
        u->nodes[u->n_nodes] = (qsae__branch){ (uint32_t)u->n_nodes, -1 };
    }
    qsae__free(u->ctx, t.ids);
    qsae__free(u->ctx, t.level);
    qsae__free(u->ctx, t.next);
    return status;
}

static int32_t read_unknown(qsae__bpe *b, const json_t *json, const char *where, int64_t count)
{
    int64_t unk = -1;
    int32_t present = 0;
    int32_t status = qsae__json_i64(json, where, "unk_id", false, 0, INT32_MAX, &unk, &present);

    if (status == QSAE_OK && present && unk >= count)
        status = qsae__fail(QSAE_EFORMAT, "%s: unk_id %lld of a vocabulary of %lld", where,
                            (long long)unk, (long long)count);
    b->unk = (int32_t)unk;
    return status;
}

/* Bytes of the strings in entries, quotes included. */
static int32_t measure(const qsae__cut *vocab, const char *where, int64_t *n, size_t *bytes)
{
    qsae__members list;
    qsae__member entry, pair[2];
    bool more = true;
    int32_t status = qsae__elements_open(&list, vocab->text, vocab->size, where);

    *n = 0;
    *bytes = 0;
    while (status == QSAE_OK &&
           (status = qsae__members_next(&list, &entry, &more)) == QSAE_OK && more) {
        status = read_pair(&entry, where, *n, pair);
        if (status == QSAE_OK) {
            *bytes += pair[0].value_size - 1; /* no quotes, but a NUL */
            ++*n;
        }
    }
    ++*bytes;
    return status;
}

int32_t qsae__unigram_read(qsae__unigram *u, qsae__bpe *b, qsae_context *ctx, const json_t *json,
                           const qsae__cut *vocab, const char *where, int64_t most)
{
    double lowest = INFINITY;
    size_t bytes = 0;
    int32_t status = qsae__cut_expect(vocab, where, '[');

    memset(b, 0, sizeof *b);
    b->ctx = b->joints.ctx = u->ctx = ctx;
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "byte_fallback", false, &b->byte_fallback, NULL);
    if (status == QSAE_OK)
        status = measure(vocab, where, &u->n_scores, &bytes);
    if (status != QSAE_OK)
        return status;
    if (u->n_scores >= INT32_MAX || bytes >= UINT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: vocab of %lld tokens of %zu bytes", where,
                          (long long)u->n_scores, bytes);
    u->scores = qsae__alloc_array(ctx, u->n_scores, sizeof *u->scores);
    status = u->scores == NULL ? QSAE_ENOMEM
                               : qsae__vocab_reserve(&b->vocab, ctx, u->n_scores, u->n_scores,
                                                     bytes);
    if (status == QSAE_OK)
        status = read_entries(u, &b->vocab, vocab, bytes, where);
    if (status == QSAE_OK) {
        b->n_tokens = (int32_t)b->vocab.count;
        qsae__bpe_fill_tables(b);
        status = read_unknown(b, json, where, u->n_scores);
    }
    if (status == QSAE_OK)
        status = build_tree(u, &b->vocab, where, most);
    for (int64_t i = 0; i < u->n_scores && status == QSAE_OK; i++)
        lowest = u->scores[i] < lowest ? u->scores[i] : lowest;
    u->unknown = lowest - PENALTY;
    return status;
}
