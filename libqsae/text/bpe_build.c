/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of a byte-pair model, whatever file it comes from. */
#include <stdio.h>
#include <string.h>

#include "text/bpe.h"
#include "text/utf8.h"

void qsae__bpe_fill_tables(qsae__bpe *b)
{
    char text[8];

    for (int i = 0; i < 256; i++) {
        const int n = snprintf(text, sizeof text, "<0x%02X>", i);
        b->byte_ids[i] = b->byte_fallback ? qsae__vocab_find(&b->vocab, text, (size_t)n) : -1;
    }
    for (uint32_t c = 0; c < QSAE__CHAR_IDS; c++)
        b->char_ids[c] = qsae__vocab_find(&b->vocab, text, qsae__utf8_put(c, text));
    b->unk = b->unk_token == NULL ? -1
                                  : qsae__vocab_find(&b->vocab, b->unk_token, strlen(b->unk_token));
}

int32_t qsae__bpe_reserve(qsae__bpe *b, int64_t n, const char *where)
{
    if (n >= INT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: %lld merges", where, (long long)n);
    b->n_merges = 16;
    while (b->n_merges < n + n / 2 + 1)
        b->n_merges *= 2;
    b->merges = qsae__alloc_array(b->ctx, b->n_merges, sizeof *b->merges);
    if (b->merges == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < b->n_merges; i++)
        b->merges[i] = (qsae__merge){ UINT64_MAX, 0, -1 };
    return QSAE_OK;
}

static void put_merge(qsae__bpe *b, const qsae__merge *merge, bool keep_first)
{
    const uint64_t mask = (uint64_t)(b->n_merges - 1);
    uint64_t i = qsae__seed_hash(&b->ctx->seed, merge->pair) & mask;

    while (b->merges[i].pair != UINT64_MAX && b->merges[i].pair != merge->pair)
        i = (i + 1) & mask;
    if (!keep_first || b->merges[i].pair == UINT64_MAX)
        b->merges[i] = *merge;
}

/* "<0xHH>" at s: the byte token, if the model has it; else -1. */
static int32_t byte_token(const qsae__bpe *b, const char *s)
{
    unsigned byte;
    char text[8];

    if (memcmp(s, "<0x", 3) != 0 || s[5] != '>' || sscanf(s + 3, "%2X", &byte) != 1)
        return -1;
    snprintf(text, sizeof text, "<0x%02X>", byte & 255);
    return memcmp(text, s, 6) == 0 ? b->byte_ids[byte & 255] : -1;
}

/*
 * Symbols that may be the outermost one of a token on one side: its character, or a byte token or
 * the unknown token spelled out there (a merged token's text is that of its symbols, joined). Up
 * to 3.
 */
static int ends_of(const qsae__bpe *b, const char *s, size_t size, bool last, int32_t out[3])
{
    const char *c = last ? qsae__utf8_prev(s + size) : s;
    const uint32_t code = qsae__utf8_get(c);
    const size_t unk = b->unk_token != NULL && b->unk >= 0 ? strlen(b->unk_token) : 0;
    int n = 0;

    out[n] = code < QSAE__CHAR_IDS ? b->char_ids[code]
                                   : qsae__vocab_find(&b->vocab, c, qsae__utf8_len(*c));
    n += out[n] >= 0;
    if (size >= 6) {
        out[n] = byte_token(b, last ? s + size - 6 : s);
        n += out[n] >= 0;
    }
    if (unk > 0 && size >= unk && memcmp(last ? s + size - unk : s, b->unk_token, unk) == 0)
        out[n++] = b->unk;
    return n;
}

static int32_t add_joints(qsae__bpe *b, const qsae__slice side[2])
{
    int32_t left[3], right[3], status = QSAE_OK;
    const int nl = ends_of(b, side[0].data, side[0].size, true, left);
    const int nr = ends_of(b, side[1].data, side[1].size, false, right);

    for (int i = 0; i < nl; i++)
        for (int k = 0; k < nr && status == QSAE_OK; k++)
            status = qsae__pair_set_add(&b->joints, qsae__pair(left[i], right[k]));
    return status;
}

int32_t qsae__bpe_add_texts(qsae__bpe *b, const qsae__slice side[2], uint32_t rank, bool keep_first,
                            const char *where, int64_t at, qsae__strbuf *joined)
{
    int32_t id[2], merged;

    joined->size = 0;
    for (int i = 0; i < 2; i++) {
        id[i] = side[i].size == 0 ? -1 : qsae__vocab_find(&b->vocab, side[i].data, side[i].size);
        if (id[i] < 0)
            return qsae__fail(QSAE_EFORMAT, "%s: merges[%lld]: token \"%.*s\" is not in the "
                              "vocabulary", where, (long long)at,
                              (int)qsae__min_i64((int64_t)side[i].size, 100), side[i].data);
        qsae__strbuf_add(joined, side[i].data, side[i].size);
    }
    if (joined->status != QSAE_OK)
        return joined->status;
    merged = qsae__vocab_find(&b->vocab, joined->data, (size_t)joined->size);
    if (merged < 0)
        return qsae__fail(QSAE_EFORMAT, "%s: merges[%lld]: token \"%.100s\" is not in the "
                          "vocabulary", where, (long long)at, joined->data);
    put_merge(b, &(qsae__merge){ qsae__pair(id[0], id[1]), rank, merged }, keep_first);
    return add_joints(b, side);
}

int32_t qsae__bpe_add_ids(qsae__bpe *b, const qsae__merge *merge)
{
    const uint32_t id[2] = { (uint32_t)(merge->pair >> 32), (uint32_t)merge->pair };
    qsae__slice side[2];

    for (int i = 0; i < 2; i++)
        side[i] = (qsae__slice){ b->vocab.bytes + b->vocab.offsets[id[i]], b->vocab.sizes[id[i]] };
    put_merge(b, merge, false);
    return add_joints(b, side);
}

void qsae__bpe_ready(qsae__bpe *b)
{
    int32_t ids[QSAE__NEAR];

    memset(b->near, 0, sizeof b->near);
    for (uint32_t c = 0; c < QSAE__NEAR; c++)
        ids[c] = b->char_ids[c < 128 ? c : 0x2581];
    for (uint32_t left = 0; left < QSAE__NEAR; left++)
        for (uint32_t right = 0; right < QSAE__NEAR; right++)
            if (ids[left] >= 0 && ids[right] >= 0 &&
                qsae__pair_set_has(&b->joints, qsae__pair(ids[left], ids[right])))
                b->near[left][right / 64] |= UINT64_C(1) << right % 64;
}
