/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SentencePiece vocabularies, which list scores instead of merges. llama.cpp (llama-vocab.cpp, SPM)
 * joins the two neighbours whose joined text is the token of highest score. The same as merges:
 * every cut of every token into two symbols, its rank the place of the token's score among all
 * scores. Tokens of one score share a rank, so that the leftmost goes first there too.
 */
#include <stdlib.h>
#include <string.h>

#include "text/gguf.h"
#include "text/utf8.h"

#define CODE_POINTS 0x110000
#define TEXT_MAX 1024        /* bytes of a token: cutting it costs their square */
#define CUTS_MAX (1 << 23)   /* a vocabulary of 262,144 has 2 million */
#define MERGES_MAX (1 << 22) /* ... and 0.5 million */

/* The table of merges takes at most 4 bytes for each of the file, and 512 KiB: that vocabulary's 3,
 * if the file has nothing else. */
#define TABLE_PER_BYTE 4
#define TABLE_FREE ((uint64_t)1 << 19)

int32_t qsae__pieces_characters(qsae_context *ctx, const qsae__slice *texts, int64_t count,
                                int64_t most, const char *where, qsae__slice **out,
                                int64_t *n_out)
{
    uint8_t *const known = qsae__calloc(ctx, CODE_POINTS / 8, 1);
    int64_t capacity = 0;
    int32_t status = known == NULL ? QSAE_ENOMEM : QSAE_OK;

    *out = NULL;
    *n_out = 0;
    for (int64_t i = 0; i < count && status == QSAE_OK; i++)
        if (texts[i].size > 0 && texts[i].size == qsae__utf8_len(*texts[i].data)) {
            const uint32_t c = qsae__utf8_get(texts[i].data);
            known[c / 8] |= (uint8_t)(1 << c % 8);
        }
    for (int64_t i = 0; i < count && status == QSAE_OK; i++)
        for (size_t at = 0, n; at < texts[i].size && status == QSAE_OK; at += n) {
            const char *const s = texts[i].data + at;
            const uint32_t c = qsae__utf8_get(s);
            n = qsae__utf8_len(*s);
            if (known[c / 8] >> c % 8 & 1)
                continue;
            known[c / 8] |= (uint8_t)(1 << c % 8);
            if (*n_out == most) {
                status = qsae__fail(QSAE_EFORMAT, "%s: expected at most %lld characters that are "
                                    "no tokens in a file of this size, found more", where,
                                    (long long)most);
                continue;
            }
            status = qsae__widen(ctx, out, &capacity, *n_out + 1, sizeof **out);
            if (status == QSAE_OK)
                (*out)[(*n_out)++] = (qsae__slice){ s, n };
        }
    qsae__free(ctx, known);
    if (status != QSAE_OK) {
        qsae__free(ctx, *out);
        *out = NULL;
    }
    return status;
}

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *const x = a, *const y = b;

    return x->score > y->score ? -1 : x->score < y->score;
}

/* ranks [n]: 0 for the highest score. */
static int32_t rank_scores(qsae_context *ctx, const float *scores, int64_t n, uint32_t *ranks)
{
    struct scored *const order = qsae__alloc_array(ctx, n, sizeof *order);
    uint32_t rank = 0;

    if (order == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        order[i] = (struct scored){ scores == NULL ? 0 : scores[i], (int32_t)i };
    if (n > 1)
        qsort(order, (size_t)n, sizeof *order, by_score);
    for (int64_t i = 0; i < n; i++) {
        rank += i > 0 && order[i].score < order[i - 1].score;
        ranks[order[i].id] = rank;
    }
    qsae__free(ctx, order);
    return QSAE_OK;
}

/* A token that two others make, the first of so many bytes. */
struct joined {
    int32_t id;
    uint16_t cut;
};

struct merges {
    struct joined *data;
    int64_t count, capacity, cuts, most;
    bool sizes[TEXT_MAX + 1]; /* there is an entry of so many bytes */
};

/* All cuts of one token. */
static int32_t cut_token(const qsae__bpe *b, int32_t id, struct merges *m, const char *where)
{
    const char *const s = b->vocab.bytes + b->vocab.offsets[id];
    const size_t size = b->vocab.sizes[id];

    if (size > TEXT_MAX)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: token %d has %zu bytes, more than %d", where, id,
                          size, TEXT_MAX);
    for (size_t at = size > 0 ? qsae__utf8_len(*s) : 0; at < size; at += qsae__utf8_len(s[at])) {
        int32_t left, right, status;
        if (!m->sizes[at] || !m->sizes[size - at])
            continue;
        left = qsae__vocab_find(&b->vocab, s, at);
        right = left < 0 ? -1 : qsae__vocab_find(&b->vocab, s + at, size - at);
        if (right < 0 && ++m->cuts < CUTS_MAX)
            continue;
        if (right < 0 || m->count >= m->most)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: too many ways to merge its tokens (%d of "
                              "%d cuts)", where, (int)m->count, (int)(m->cuts + m->count));
        status = qsae__widen(b->ctx, &m->data, &m->capacity, m->count + 1, sizeof *m->data);
        if (status != QSAE_OK)
            return status;
        m->data[m->count++] = (struct joined){ id, (uint16_t)at };
    }
    return QSAE_OK;
}

/* Slots that the table may have in a file of so many bytes. At most four fifths are filled, two
 * thirds if fewer are enough. */
static int64_t most_slots(uint64_t bytes)
{
    int64_t slots = 16;

    while (slots < 2 * MERGES_MAX &&
           2 * (uint64_t)slots * sizeof(qsae__merge) / TABLE_PER_BYTE <=
               bytes + TABLE_FREE / TABLE_PER_BYTE)
        slots *= 2;
    return slots;
}

/* The two tokens, which were found before. */
static int32_t put_joined(qsae__bpe *b, const struct joined *j, uint32_t rank)
{
    const char *const s = b->vocab.bytes + b->vocab.offsets[j->id];
    const size_t size = b->vocab.sizes[j->id];
    const qsae__merge merge = { qsae__pair(qsae__vocab_find(&b->vocab, s, j->cut),
                                           qsae__vocab_find(&b->vocab, s + j->cut,
                                                            size - j->cut)),
                                rank, j->id };

    return qsae__bpe_add_ids(b, &merge);
}

int32_t qsae__pieces_merges(qsae__bpe *b, const float *scores, uint64_t bytes, const char *where)
{
    const int64_t slots = most_slots(bytes);
    struct merges m = { .most = qsae__min_i64(slots / 5 * 4, MERGES_MAX) };
    uint32_t *const ranks = qsae__alloc_array(b->ctx, b->n_tokens, sizeof *ranks);
    int32_t status = ranks == NULL ? QSAE_ENOMEM : QSAE_OK;

    if (status == QSAE_OK)
        status = rank_scores(b->ctx, scores, b->n_tokens, ranks);
    for (int64_t i = 0; i < b->vocab.count && status == QSAE_OK; i++)
        if (b->vocab.sizes[i] <= TEXT_MAX)
            m.sizes[b->vocab.sizes[i]] = true;
    for (int32_t id = 0; id < b->n_tokens && status == QSAE_OK; id++)
        status = cut_token(b, id, &m, where);
    if (status == QSAE_OK)
        status = qsae__bpe_reserve(b, qsae__min_i64(m.count, (slots - 1) * 2 / 3), where);
    for (int64_t i = 0; i < m.count && status == QSAE_OK; i++)
        status = put_joined(b, &m.data[i], ranks[m.data[i].id]);
    qsae__free(b->ctx, m.data);
    qsae__free(b->ctx, ranks);
    return status;
}
