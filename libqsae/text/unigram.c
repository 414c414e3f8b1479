/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/unigram.h"

#include <string.h>

#include "text/utf8.h"

void qsae__unigram_free(qsae__unigram *u)
{
    if (u->ctx == NULL)
        return;
    qsae__free(u->ctx, u->nodes);
    qsae__free(u->ctx, u->labels);
    qsae__free(u->ctx, u->scores);
    memset(u, 0, sizeof *u);
}

/* A node's child by a byte, 0 if there is none. */
static inline uint32_t child_of(const qsae__unigram *u, uint32_t node, uint8_t byte)
{
    const uint32_t first = u->nodes[node].first, n = u->nodes[node + 1].first - first;
    const uint8_t *hit;

    if (n < 4) {
        for (uint32_t i = first; i < first + n; i++)
            if (u->labels[i] == byte)
                return i;
        return 0;
    }
    hit = memchr(u->labels + first, byte, n);
    return hit == NULL ? 0 : (uint32_t)(hit - u->labels);
}

/* A way to a place is taken if it is the first one or better than those before. */
static inline void offer(qsae__step *to, double score, uint32_t from, int32_t id)
{
    if (to->other == UINT32_MAX || score > to->score)
        *to = (qsae__step){ score, from, id };
}

/* All tokens that start at a place, shortest first. */
static int32_t visit(const qsae__unigram *u, int32_t unk, const char *text, uint32_t size,
                     uint32_t at, qsae__step *steps)
{
    const double here = steps[at].score;
    const uint32_t character = (uint32_t)qsae__utf8_len(text[at]);
    uint32_t node = u->roots[(uint8_t)text[at]];
    bool single = false;

    for (uint32_t end = at + 1; node != 0; end++) {
        const qsae__branch *const b = &u->nodes[node];
        if (b->id >= 0) {
            offer(&steps[end], u->scores[b->id] + here, at, b->id);
            single |= end == at + character;
        }
        node = end < size ? child_of(u, node, (uint8_t)text[end]) : 0;
    }
    if (single)
        return QSAE_OK;
    if (unk < 0 && (steps[at + character].other == UINT32_MAX ||
                    u->unknown + here > steps[at + character].score))
        return qsae__fail(QSAE_EFORMAT, "U+%04X is no token and there is no unknown token",
                          (unsigned)qsae__utf8_get(text + at));
    offer(&steps[at + character], u->unknown + here, at, unk);
    return QSAE_OK;
}

/* What unknown characters in a row become: they may spell a token after all, else their bytes may
 * be tokens. */
static int32_t add_unknown(const qsae__bpe *b, const char *text, size_t size, qsae__ids *ids)
{
    const int32_t id = qsae__vocab_find(&b->vocab, text, size);
    int32_t status = QSAE_OK;
    bool bytes = true;

    if (id >= 0)
        return qsae__ids_add(ids, &id, 1);
    for (size_t i = 0; i < size && bytes; i++)
        bytes = b->byte_ids[(uint8_t)text[i]] >= 0;
    if (!bytes)
        return qsae__ids_add(ids, &b->unk, 1);
    for (size_t i = 0; i < size && status == QSAE_OK; i++)
        status = qsae__ids_add(ids, &b->byte_ids[(uint8_t)text[i]], 1);
    return status;
}

/* The ids on the best way, once its steps lead forward: step[i].other is where the token that
 * starts at i ends, and the id is kept there. */
static int32_t add_way(const qsae__bpe *b, const qsae__step *steps, const char *text,
                       uint32_t size, qsae__ids *ids)
{
    int32_t status = QSAE_OK;

    for (uint32_t at = 0, end; at < size && status == QSAE_OK; at = end) {
        end = steps[at].other;
        if (steps[end].id != b->unk) {
            status = qsae__ids_add(ids, &steps[end].id, 1);
            continue;
        }
        while (end < size && steps[steps[end].other].id == b->unk)
            end = steps[end].other;
        status = add_unknown(b, text + at, end - at, ids);
    }
    return status;
}

static int32_t find_way(const qsae__unigram *u, const qsae__bpe *b, qsae__lattice *l,
                        const char *text, size_t size, const qsae_cancel_token *cancel,
                        qsae__ids *ids)
{
    uint32_t turn = 0;
    int32_t status;

    if (size >= INT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "a word of %zu bytes", size);
    status = qsae__grow(u->ctx, &l->steps, &l->capacity, (int64_t)size + 1, sizeof *l->steps);
    if (status != QSAE_OK)
        return status;
    for (size_t i = 0; i <= size; i++)
        l->steps[i] = (qsae__step){ 0, UINT32_MAX, 0 };
    for (uint32_t at = 0; at < size && status == QSAE_OK;
         at += (uint32_t)qsae__utf8_len(text[at])) {
        status = visit(u, b->unk, text, (uint32_t)size, at, l->steps);
        if (status == QSAE_OK && ++turn % 1024 == 0)
            status = qsae__canceled(cancel);
    }
    for (uint32_t at = (uint32_t)size, end = at, from; at > 0 && status == QSAE_OK; at = from) {
        from = l->steps[at].other;
        l->steps[at].other = end;
        end = at;
        if (from == 0)
            l->steps[0].other = end;
    }
    return status == QSAE_OK ? add_way(b, l->steps, text, (uint32_t)size, ids) : status;
}

int32_t qsae__unigram_word(const qsae__unigram *u, const qsae__bpe *b, qsae__bpe_scratch *s,
                           qsae__lattice *l, const char *text, size_t size, qsae__ids *ids)
{
    qsae__cached *const slot = qsae__bpe_cached(s, text, size);
    const int64_t before = ids->count;
    int32_t status;

    if (qsae__bpe_cached_is(slot, text, size))
        return qsae__ids_add(ids, slot->ids, slot->n);
    status = find_way(u, b, l, text, size, s->cancel, ids);
    if (status == QSAE_OK)
        qsae__bpe_cached_set(slot, text, size, ids, before);
    return status;
}

int32_t qsae__unigram_bytes(const qsae__unigram *u, const qsae__bpe *b, qsae__bpe_scratch *s,
                            qsae__lattice *l, const char *text, size_t size, qsae__ids *ids)
{
    size_t n;
    const int32_t status = qsae__bpe_map(s, text, size, &n);

    return status == QSAE_OK ? qsae__unigram_word(u, b, s, l, s->mapped, n, ids) : status;
}
