/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading a Unigram model: its vocabulary with scores, and the tree in which tokens are found. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    places -= 1 + atoi(p + 1);
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

/* [[token, score], ...] */
static int32_t read_entries(qsae__unigram *u, const json_t *list, const char *where,
                            qsae__slice *texts)
{
    for (int64_t i = 0; i < u->n_scores; i++) {
        const json_t *const entry = json_array_get(list, (size_t)i);
        const json_t *const text = json_array_get(entry, 0);
        const json_t *const score = json_array_get(entry, 1);
        if (json_array_size(entry) != 2 || !json_is_string(text) || !json_is_number(score))
            return qsae__fail(QSAE_EFORMAT, "%s: vocab[%lld]: expected [token, score]", where,
                              (long long)i);
        texts[i] = (qsae__slice){ json_string_value(text), json_string_length(text) };
        u->scores[i] = json_is_integer(score) ? (double)json_integer_value(score)
                                              : reference_score(json_real_value(score));
    }
    return QSAE_OK;
}

/* A token on its way into the tree. */
struct key {
    qsae__slice text;
    int32_t id;
};

static int by_text(const void *a, const void *b)
{
    const struct key *const x = a, *const y = b;
    const size_t n = x->text.size < y->text.size ? x->text.size : y->text.size;
    const int order = memcmp(x->text.data, y->text.data, n);

    if (order != 0)
        return order;
    if (x->text.size != y->text.size)
        return x->text.size < y->text.size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The keys below a node share its `depth` first bytes. */
struct range {
    int64_t low, high;
    size_t depth;
};

struct tree {
    qsae__unigram *u;
    struct range *ranges;
    int64_t nodes, labels, capacity; /* of the three arrays */
};

static int32_t add_node(struct tree *t, uint8_t label, struct range range)
{
    qsae__unigram *const u = t->u;
    int32_t status;

    if (u->n_nodes >= INT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "a vocabulary of too many bytes");
    status = qsae__grow(u->ctx, &u->nodes, &t->nodes, u->n_nodes + 2, sizeof *u->nodes);
    if (status == QSAE_OK)
        status = qsae__grow(u->ctx, &u->labels, &t->labels, u->n_nodes + 1, sizeof *u->labels);
    if (status == QSAE_OK)
        status = qsae__grow(u->ctx, &t->ranges, &t->capacity, u->n_nodes + 1, sizeof *t->ranges);
    if (status != QSAE_OK)
        return status;
    u->nodes[u->n_nodes] = (qsae__branch){ 0, 0, -1 };
    u->labels[u->n_nodes] = label;
    t->ranges[u->n_nodes++] = range;
    return QSAE_OK;
}

/* Node i's token (of equal ones the last) and its children. */
static int32_t expand(struct tree *t, int64_t i, const struct key *keys)
{
    struct range r = t->ranges[i];
    int32_t status = QSAE_OK;

    t->u->nodes[i].first = (uint32_t)t->u->n_nodes;
    for (; r.low < r.high && keys[r.low].text.size == r.depth; r.low++) {
        t->u->nodes[i].id = keys[r.low].id;
        t->u->nodes[i].score = t->u->scores[keys[r.low].id];
    }
    while (r.low < r.high && status == QSAE_OK) {
        const uint8_t byte = (uint8_t)keys[r.low].text.data[r.depth];
        struct range child = { r.low, r.low + 1, r.depth + 1 };
        while (child.high < r.high && (uint8_t)keys[child.high].text.data[r.depth] == byte)
            child.high++;
        if (i == 0)
            t->u->roots[byte] = (uint32_t)t->u->n_nodes;
        status = add_node(t, byte, child);
        r.low = child.high;
    }
    return status;
}

static int32_t build_tree(qsae__unigram *u, const qsae__slice *texts)
{
    struct key *const keys = qsae__alloc_array(u->ctx, u->n_scores, sizeof *keys);
    struct tree t = { .u = u };
    int32_t status = keys == NULL ? QSAE_ENOMEM : QSAE_OK;

    for (int64_t i = 0; i < u->n_scores && status == QSAE_OK; i++)
        keys[i] = (struct key){ texts[i], (int32_t)i };
    if (u->n_scores > 1 && status == QSAE_OK)
        qsort(keys, (size_t)u->n_scores, sizeof *keys, by_text);
    if (status == QSAE_OK)
        status = add_node(&t, 0, (struct range){ 0, u->n_scores, 0 });
    for (int64_t i = 0; i < u->n_nodes && status == QSAE_OK; i++)
        status = expand(&t, i, keys);
    if (status == QSAE_OK)
        u->nodes[u->n_nodes] = (qsae__branch){ 0, (uint32_t)u->n_nodes, -1 };
    qsae__free(u->ctx, keys);
    qsae__free(u->ctx, t.ranges);
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

int32_t qsae__unigram_read(qsae__unigram *u, qsae__bpe *b, qsae_context *ctx, const json_t *json,
                           const char *where, int64_t file_size)
{
    const json_t *vocab = NULL;
    qsae__slice *texts = NULL;
    double lowest = INFINITY;
    int32_t status = qsae__json_get(json, where, "vocab", true, JSON_ARRAY, &vocab);

    memset(b, 0, sizeof *b);
    b->ctx = b->joints.ctx = u->ctx = ctx;
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "byte_fallback", false, &b->byte_fallback, NULL);
    if (status != QSAE_OK)
        return status;
    u->n_scores = (int64_t)json_array_size(vocab);
    if (u->n_scores >= qsae__min_i64(file_size, INT32_MAX))
        return qsae__fail(QSAE_EOVERFLOW, "%s: vocab of %lld tokens", where,
                          (long long)u->n_scores);
    u->scores = qsae__alloc_array(ctx, u->n_scores, sizeof *u->scores);
    texts = qsae__alloc_array(ctx, u->n_scores, sizeof *texts);
    status = u->scores == NULL || texts == NULL ? QSAE_ENOMEM : QSAE_OK;
    if (status == QSAE_OK)
        status = read_entries(u, vocab, where, texts);
    if (status == QSAE_OK)
        status = qsae__vocab_build(&b->vocab, ctx, texts, u->n_scores, true, where);
    if (status == QSAE_OK) {
        b->n_tokens = (int32_t)b->vocab.count;
        qsae__bpe_fill_tables(b);
        status = read_unknown(b, json, where, u->n_scores);
    }
    if (status == QSAE_OK)
        status = build_tree(u, texts);
    for (int64_t i = 0; i < u->n_scores && status == QSAE_OK; i++)
        lowest = u->scores[i] < lowest ? u->scores[i] : lowest;
    u->unknown = lowest - PENALTY;
    qsae__free(ctx, texts);
    return status;
}
