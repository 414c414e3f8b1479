/* SPDX-License-Identifier: BSD-2-Clause */
/* A stream of ids cut into chunks. */
#include <string.h>

#include "text/corpus.h"

#define NO_LABEL (-100)

static int32_t reserve(qsae_corpus *c)
{
    c->ids = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->ids);
    c->labels = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->labels);
    c->document = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->document);
    return c->ids == NULL || c->labels == NULL || c->document == NULL ? QSAE_ENOMEM : QSAE_OK;
}

int32_t qsae__pack(qsae_corpus *c, const qsae__stream *stream, int32_t bos, int64_t max_tokens,
                   bool keep_tail)
{
    const int64_t lead = bos >= 0, content = c->context - lead, n = stream->ids.count;
    int64_t full = n / content, tail = n % content, used;
    int32_t *next = NULL, status;

    if (max_tokens > 0 && full * c->context >= max_tokens) {
        full = qsae__ceil_div(max_tokens, c->context);
        tail = 0;
    } else if (!keep_tail) {
        tail = 0;
    }
    if (full == 0 && tail == 0)
        return qsae__fail(QSAE_EINVAL, "%lld tokens of text are less than one chunk of %lld",
                          (long long)n, (long long)content);
    used = full * content + tail;
    c->chunks = full + (tail > 0);
    c->tokens = used + lead * c->chunks;
    c->stream_tokens = n + lead * c->chunks;
    status = reserve(c);
    if (status != QSAE_OK)
        return status;
    next = qsae__alloc_array(c->ctx, c->chunks, sizeof *next);
    if (next == NULL)
        return QSAE_ENOMEM;
    for (int64_t chunk = 0, to = 0; chunk < c->chunks; chunk++) {
        const int64_t from = chunk * content, size = qsae__min_i64(content, used - from);
        if (lead) {
            c->ids[to] = bos;
            c->document[to++] = stream->documents[from];
        }
        memcpy(c->ids + to, stream->ids.data + from, (size_t)size * sizeof *c->ids);
        memcpy(c->document + to, stream->documents + from, (size_t)size * sizeof *c->document);
        to += size;
        next[chunk] = from + size < n ? stream->ids.data[from + size] : NO_LABEL;
    }
    qsae__label(c, c->cross_labels ? next : NULL);
    qsae__free(c->ctx, next);
    return qsae__corpus_hash(c);
}

void qsae__label(qsae_corpus *c, const int32_t *next)
{
    c->predicted = 0;
    for (int64_t chunk = 0; chunk < c->chunks; chunk++) {
        const int64_t from = chunk * c->context, to = qsae__min_i64(from + c->context, c->tokens);
        for (int64_t i = from; i + 1 < to; i++)
            c->labels[i] = c->ids[i + 1];
        c->labels[to - 1] = next != NULL ? next[chunk] : NO_LABEL;
        c->predicted += to - from - 1 + (c->labels[to - 1] != NO_LABEL);
    }
}

int32_t qsae__corpus_hash(qsae_corpus *c)
{
    qsae__hasher *h = NULL;
    const int32_t status = qsae__hasher_open(c->ctx, &h);

    if (status != QSAE_OK)
        return status;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    qsae__hasher_update(h, c->ids, (size_t)c->tokens * sizeof *c->ids);
#else
    for (int64_t i = 0; i < c->tokens; i++) {
        const uint32_t swapped = __builtin_bswap32((uint32_t)c->ids[i]);
        qsae__hasher_update(h, &swapped, sizeof swapped);
    }
#endif
    qsae__hasher_i64(h, c->context);
    qsae__hasher_i64(h, c->bos_policy);
    qsae__hasher_i64(h, c->cross_labels);
    qsae__hasher_hex(h, c->hash);
    qsae__hasher_close(c->ctx, &h);
    return QSAE_OK;
}
