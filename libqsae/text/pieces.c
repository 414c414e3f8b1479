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

int32_t qsae__pieces_characters(qsae_context *ctx, const qsae__slice *texts, int64_t count,
                                qsae__slice **out, int64_t *n_out)
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
            status = qsae__grow(ctx, out, &capacity, *n_out + 1, sizeof **out);
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

struct merges {
    qsae__merge *data;
    int64_t count, capacity, cuts;
    bool sizes[TEXT_MAX + 1]; /* there is an entry of so many bytes */
};

/* All cuts of one token. */
static int32_t cut_token(const qsae__bpe *b, int32_t id, uint32_t rank, struct merges *m,
                         const char *where)
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
        if (right < 0 || m->count >= MERGES_MAX)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: too many ways to merge its tokens (%d of "
                              "%d cuts)", where, (int)m->count, (int)(m->cuts + m->count));
        status = qsae__grow(b->ctx, &m->data, &m->capacity, m->count + 1, sizeof *m->data);
        if (status != QSAE_OK)
            return status;
        m->data[m->count++] = (qsae__merge){ qsae__pair(left, right), rank, id };
    }
    return QSAE_OK;
}

int32_t qsae__pieces_merges(qsae__bpe *b, const float *scores, const char *where)
{
    struct merges m = { 0 };
    uint32_t *const ranks = qsae__alloc_array(b->ctx, b->n_tokens, sizeof *ranks);
    int32_t status = ranks == NULL ? QSAE_ENOMEM : QSAE_OK;

    if (status == QSAE_OK)
        status = rank_scores(b->ctx, scores, b->n_tokens, ranks);
    for (int64_t i = 0; i < b->vocab.count && status == QSAE_OK; i++)
        if (b->vocab.sizes[i] <= TEXT_MAX)
            m.sizes[b->vocab.sizes[i]] = true;
    for (int32_t id = 0; id < b->n_tokens && status == QSAE_OK; id++)
        status = cut_token(b, id, ranks[id], &m, where);
    if (status == QSAE_OK)
        status = qsae__bpe_reserve(b, m.count, where);
    for (int64_t i = 0; i < m.count && status == QSAE_OK; i++)
        status = qsae__bpe_add_ids(b, &m.data[i]);
    qsae__free(b->ctx, m.data);
    qsae__free(b->ctx, ranks);
    return status;
}
