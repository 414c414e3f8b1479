/* SPDX-License-Identifier: BSD-2-Clause */
/* Tokens of a model by string and by id, and hash tables over pairs of ids. */
#ifndef QSAE_TEXT_VOCAB_H
#define QSAE_TEXT_VOCAB_H

#include "formats/formats.h"

typedef struct qsae__vocab {
    qsae_context *ctx;
    char *bytes;          /* all strings, one after the other */
    uint32_t *offsets;    /* [count] into bytes */
    uint32_t *sizes;      /* [count]; UINT32_MAX: no such id */
    uint32_t *slots;      /* [n_slots] id + 1, 0 = empty; open addressing on XXH3 with
                           * the context's seed */
    int64_t count;        /* highest id + 1 */
    int64_t n_slots;
    uint32_t used;        /* of bytes */
    int64_t entries;      /* of a vocabulary that was read: how many tokens */
} qsae__vocab;

/* Reads an object {string: id}, well-formed; ids are below `limit`, so that tables stay linear in
 * the file. */
int32_t qsae__vocab_read(qsae__vocab *v, qsae_context *ctx, const char *text, size_t size,
                         const char *where, int64_t limit);

/* Bytes that lie elsewhere. */
typedef struct qsae__slice {
    const char *data;
    size_t size;
} qsae__slice;

/* Text i of `texts` [count] is token i; ids of empty texts exist but cannot be found. Of two equal
 * texts the last is found if `repeats`, else they are QSAE_EFORMAT. */
int32_t qsae__vocab_build(qsae__vocab *v, qsae_context *ctx, const qsae__slice *texts,
                          int64_t count, bool repeats, const char *where);

/* The same one by one: room for `count` tokens of `bytes` bytes in all, then token after token,
 * once its text lies at v->bytes + v->used. `before`: the token of the same text, -1 if there is
 * none, whose place in the table it takes. */
int32_t qsae__vocab_reserve(qsae__vocab *v, qsae_context *ctx, int64_t count, int64_t entries,
                            size_t bytes);
void qsae__vocab_add(qsae__vocab *v, int64_t id, size_t size, int32_t before);
void qsae__vocab_free(qsae__vocab *v);

/* Bytes of all tokens. */
int64_t qsae__vocab_bytes(const qsae__vocab *v);

/* Id of a string, -1 if there is none. */
int32_t qsae__vocab_find(const qsae__vocab *v, const char *s, size_t size);

/* A set of pairs of ids that grows. */
typedef struct qsae__pair_set {
    qsae_context *ctx;
    uint64_t *keys;       /* [slots], UINT64_MAX = empty */
    int64_t slots, count;
} qsae__pair_set;

static inline uint64_t qsae__pair(int32_t a, int32_t b)
{
    return (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
}

int32_t qsae__pair_set_add(qsae__pair_set *s, uint64_t pair);
void qsae__pair_set_free(qsae__pair_set *s);

static inline bool qsae__pair_set_has(const qsae__pair_set *s, uint64_t pair)
{
    if (s->count == 0)
        return false;
    for (uint64_t i = qsae__seed_hash(&s->ctx->seed, pair) & (uint64_t)(s->slots - 1);;
         i = (i + 1) & (uint64_t)(s->slots - 1)) {
        if (s->keys[i] == pair)
            return true;
        if (s->keys[i] == UINT64_MAX)
            return false;
    }
}

#endif
