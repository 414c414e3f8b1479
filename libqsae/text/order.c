/* SPDX-License-Identifier: BSD-2-Clause */
/* The order of documents: a list of indices, or NumPy's shuffle. */
#include <stdlib.h>
#include <string.h>

#include "text/corpus.h"

static int32_t check_order(qsae_context *ctx, const char *path, const int64_t *order, int64_t n,
                           int64_t documents)
{
    uint8_t *seen = qsae__calloc(ctx, documents, 1);
    int32_t status = seen == NULL ? QSAE_ENOMEM : QSAE_OK;

    for (int64_t i = 0; i < n && status == QSAE_OK; i++) {
        if (order[i] < 0 || order[i] >= documents)
            status = qsae__fail(QSAE_EFORMAT, "%s: entry %lld: expected a document 0..%lld, found "
                                "%lld", path, (long long)i, (long long)documents - 1,
                                (long long)order[i]);
        else if (seen[order[i]]++)
            status = qsae__fail(QSAE_EFORMAT, "%s: entry %lld: document %lld twice", path,
                                (long long)i, (long long)order[i]);
    }
    qsae__free(ctx, seen);
    return status;
}

/* One index per line; blank lines are left out. */
static int32_t read_lines(qsae_context *ctx, const qsae__file *f, int64_t **order, int64_t *n)
{
    const char *p = (const char *)f->data, *end = p + f->size;
    int64_t capacity = 0, line = 1;
    int32_t status = QSAE_OK;

    while (p < end && status == QSAE_OK) {
        int64_t v = 0;
        const char *first;
        while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
            p++;
        for (first = p; p < end && *p >= '0' && *p <= '9'; p++)
            if (!qsae__mul_i64(v, 10, &v) || !qsae__add_i64(v, *p - '0', &v))
                break;
        const bool found = p > first;
        while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
            p++;
        if (p < end && *p != '\n')
            return qsae__fail(QSAE_EFORMAT, "%s:%lld: expected the index of a document", f->path,
                              (long long)line);
        if (found && (status = qsae__grow(ctx, order, &capacity, *n + 1, sizeof **order)) == 0)
            (*order)[(*n)++] = v;
        p += p < end;
        line++;
    }
    return status;
}

static int32_t order_read(qsae_context *ctx, const char *path, int64_t documents, int64_t **order,
                          int64_t *n)
{
    qsae__file *file = NULL;
    int32_t status;

    *order = NULL;
    *n = 0;
    if (qsae__text_is_npy(path)) {
        qsae__id_array a = { .rank = 0 };
        status = qsae__id_array_open(ctx, path, &a);
        if (status == QSAE_OK && a.rank != 1)
            status = qsae__fail(QSAE_EFORMAT, "%s: expected 1 axis, found %d", path, a.rank);
        if (status == QSAE_OK) {
            *order = qsae__alloc_array(ctx, a.rows * a.cols, sizeof **order);
            status = *order == NULL ? QSAE_ENOMEM : QSAE_OK;
        }
        for (; status == QSAE_OK && *n < a.rows * a.cols; ++*n)
            (*order)[*n] = qsae__id_array_get(&a, *n);
        qsae__id_array_close(&a);
    } else {
        status = qsae__file_open(ctx, path, &file);
        if (status == QSAE_OK)
            status = read_lines(ctx, file, order, n);
        qsae__file_close(&file);
    }
    if (status == QSAE_OK)
        status = check_order(ctx, path, *order, *n, documents);
    if (status != QSAE_OK) {
        qsae__free(ctx, *order);
        *order = NULL;
    }
    return status;
}

/* PCG64 as NumPy has it (numpy/random/src/pcg64): XSL-RR 128/64, 32-bit halves low first. */
__extension__ typedef unsigned __int128 u128;

struct pcg {
    u128 state, increment;
    uint32_t half;
    bool has_half;
};

static void step(struct pcg *g)
{
    const u128 multiplier =
        (u128)UINT64_C(2549297995355413924) << 64 | UINT64_C(4865540595714422341);

    g->state = g->state * multiplier + g->increment;
}

static uint64_t next_u64(struct pcg *g)
{
    step(g);
    const uint64_t x = (uint64_t)(g->state >> 64) ^ (uint64_t)g->state;
    const unsigned turn = (unsigned)(g->state >> 122);

    return x >> turn | x << (-turn & 63);
}

static uint32_t next_u32(struct pcg *g)
{
    if (g->has_half) {
        g->has_half = false;
        return g->half;
    }
    const uint64_t v = next_u64(g);
    g->has_half = true;
    g->half = (uint32_t)(v >> 32);
    return (uint32_t)v;
}

static uint32_t hash_word(uint32_t v, uint32_t *constant, uint32_t multiplier)
{
    v ^= *constant;
    *constant *= multiplier;
    v *= *constant;
    return v ^ v >> 16;
}

/* SeedSequence(seed).generate_state(4, uint64) (numpy/random/bit_generator.pyx). */
static void seed_words(uint64_t seed, uint64_t out[4])
{
    uint32_t pool[4] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, constant = 0x43b0d7e5,
             words[8];

    for (int i = 0; i < 4; i++)
        pool[i] = hash_word(pool[i], &constant, 0x931e8875);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++) {
            if (from == to)
                continue;
            const uint32_t v = 0xca01f9ddu * pool[to] -
                               0x4973f715u * hash_word(pool[from], &constant, 0x931e8875);
            pool[to] = v ^ v >> 16;
        }
    constant = 0x8b51f9dd;
    for (int i = 0; i < 8; i++)
        words[i] = hash_word(pool[i % 4], &constant, 0x58f38ded);
    for (int i = 0; i < 4; i++)
        out[i] = (uint64_t)words[2 * i + 1] << 32 | words[2 * i];
}

/* A number of 0..high, by rejection under the smallest mask of ones (random_interval). */
static int64_t below(struct pcg *g, uint64_t high)
{
    uint64_t mask = high, v;

    for (int shift = 1; shift < 64; shift *= 2)
        mask |= mask >> shift;
    do
        v = (high <= UINT32_MAX ? next_u32(g) : next_u64(g)) & mask;
    while (v > high);
    return (int64_t)v;
}

static int32_t order_shuffle(qsae_context *ctx, uint64_t seed, int64_t documents, int64_t **order)
{
    struct pcg g = { .state = 0 };
    uint64_t words[4];

    *order = qsae__alloc_array(ctx, documents, sizeof **order);
    if (*order == NULL)
        return QSAE_ENOMEM;
    seed_words(seed, words);
    g.increment = ((u128)words[2] << 64 | words[3]) << 1 | 1;
    step(&g);
    g.state += (u128)words[0] << 64 | words[1];
    step(&g);
    for (int64_t i = 0; i < documents; i++)
        (*order)[i] = i;
    for (int64_t i = documents - 1; i > 0; i--) {
        const int64_t j = below(&g, (uint64_t)i), held = (*order)[i];
        (*order)[i] = (*order)[j];
        (*order)[j] = held;
    }
    return QSAE_OK;
}

static int32_t order_seed(const char *text, uint64_t *seed)
{
    uint64_t v = 0;

    for (const char *p = text; *p != '\0'; p++)
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(v, UINT64_C(10), &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return qsae__fail(QSAE_EINVAL, "corpus: shuffle: expected a seed 0..2^64 - 1, found "
                              "\"%s\"", text);
    if (*text == '\0')
        return qsae__fail(QSAE_EINVAL, "corpus: shuffle: expected a seed, found \"\"");
    *seed = v;
    return QSAE_OK;
}

/* Keeps a range of the order. */
static int32_t order_range(qsae_context *ctx, const qsae_corpus_settings *s, int64_t **order,
                           int64_t *n)
{
    const int64_t all = *n, to = s->documents_to == 0 ? all : qsae__min_i64(s->documents_to, all);

    if (s->documents_from == 0 && s->documents_to == 0)
        return QSAE_OK;
    if (s->documents_from >= all)
        return qsae__fail(QSAE_EINVAL, "corpus: documents from %lld on: there are %lld",
                          (long long)s->documents_from, (long long)all);
    if (*order == NULL) {
        *order = qsae__alloc_array(ctx, all, sizeof **order);
        if (*order == NULL)
            return QSAE_ENOMEM;
        for (int64_t i = 0; i < all; i++)
            (*order)[i] = i;
    }
    *n = to - s->documents_from;
    memmove(*order, *order + s->documents_from, (size_t)*n * sizeof **order);
    return QSAE_OK;
}

int32_t qsae__order_make(qsae_context *ctx, const qsae_corpus_settings *s, int64_t documents,
                         int64_t **order, int64_t *n)
{
    uint64_t seed = 0;
    int32_t status = QSAE_OK;

    *order = NULL;
    *n = documents;
    if (s->order != NULL) {
        status = order_read(ctx, s->order, documents, order, n);
    } else if (s->shuffle != NULL) {
        status = order_seed(s->shuffle, &seed);
        if (status == QSAE_OK)
            status = order_shuffle(ctx, seed, documents, order);
    }
    if (status == QSAE_OK)
        status = order_range(ctx, s, order, n);
    if (status != QSAE_OK) {
        qsae__free(ctx, *order);
        *order = NULL;
    }
    return status;
}
