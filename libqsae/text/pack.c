/* SPDX-License-Identifier: BSD-2-Clause */
/* A stream of ids cut into chunks. */
#include <string.h>

#include "text/corpus.h"

#define NO_LABEL (-100)

/* Where chunks lie in the stream: chunk k begins k * step tokens in. */
struct cut {
    int64_t n;           /* ids of the stream */
    int64_t lead;        /* BOS in front of each chunk: 1 or 0 */
    int64_t content;     /* ids of the stream in a whole chunk */
    int64_t step;
    int64_t used;        /* ids up to the end of the last chunk */
    int64_t chunks;
};

/* Windows go on to the end of the stream, or until they hold max_tokens of it. */
static void cut_windows(struct cut *cut, int64_t stride, int64_t max_tokens)
{
    const int64_t want = max_tokens > 0 ? qsae__min_i64(max_tokens, cut->n) : cut->n;
    const int64_t more = want > cut->content ? want - cut->content : 0;

    cut->step = stride;
    cut->chunks = 1 + qsae__ceil_div(more, stride);
    cut->used = qsae__min_i64((cut->chunks - 1) * stride + cut->content, cut->n);
    if (cut->n + cut->lead < 2)
        cut->chunks = 0;
}

static void cut_chunks(struct cut *cut, int64_t context, int64_t max_tokens, bool keep_tail)
{
    int64_t full = cut->n / cut->content, tail = keep_tail ? cut->n % cut->content : 0;

    if (max_tokens > 0 && full * context >= max_tokens) {
        full = qsae__ceil_div(max_tokens, context);
        tail = 0;
    }
    cut->step = cut->content;
    cut->used = full * cut->content + tail;
    cut->chunks = full + (tail > 0);
}

/* Tokens of the stream from `from` that chunk `chunk` has. */
static int64_t part_of(const struct cut *cut, int64_t chunk, int64_t *from)
{
    *from = chunk * cut->step;
    return qsae__min_i64(*from + cut->content, cut->used) - *from;
}

/* Chunks' extents of labels. What the stream has of them is let go, as below: it is never all there
 * twice. */
static int32_t fill_extents(qsae_corpus *c, qsae__stream *stream, const struct cut *cut)
{
    qsae__extent *to = c->extents = qsae__alloc_array(c->ctx, c->tokens, sizeof *to);

    if (to == NULL)
        return QSAE_ENOMEM;
    for (int64_t chunk = 0, from; chunk < cut->chunks; chunk++) {
        const int64_t size = part_of(cut, chunk, &from),
                      known = qsae__min_i64(from + size + 1, cut->n) - from - 1;
        if (cut->lead)
            *to++ = stream->extents[from];
        memset(to, 0, (size_t)size * sizeof *to);
        memcpy(to, stream->extents + from + 1, (size_t)known * sizeof *to);
        to += size;
    }
    qsae__free(c->ctx, stream->extents);
    stream->extents = NULL;
    return QSAE_OK;
}

static int32_t fill_documents(qsae_corpus *c, qsae__stream *stream, const struct cut *cut)
{
    int64_t *to = c->document = qsae__alloc_array(c->ctx, c->tokens, sizeof *to);

    if (to == NULL)
        return QSAE_ENOMEM;
    for (int64_t chunk = 0, from; chunk < cut->chunks; chunk++) {
        const int64_t size = part_of(cut, chunk, &from);
        if (cut->lead)
            *to++ = stream->documents[from];
        memcpy(to, stream->documents + from, (size_t)size * sizeof *to);
        to += size;
    }
    qsae__free(c->ctx, stream->documents);
    stream->documents = NULL;
    return QSAE_OK;
}

/* Chunks' ids; next [chunks] as qsae__label wants it. */
static void fill_ids(qsae_corpus *c, const qsae__stream *stream, const struct cut *cut, int32_t bos,
                     int32_t *next)
{
    for (int64_t chunk = 0, to = 0, from; chunk < cut->chunks; chunk++) {
        const int64_t size = part_of(cut, chunk, &from);
        if (cut->lead)
            c->ids[to++] = bos;
        memcpy(c->ids + to, stream->ids.data + from, (size_t)size * sizeof *c->ids);
        if (c->bos_policy == QSAE_BOS_CHUNK_REPLACE) {
            c->replaced[chunk] = c->ids[to];
            c->ids[to] = bos;
        }
        to += size;
        next[chunk] = from + size < cut->n ? stream->ids.data[from + size] : NO_LABEL;
    }
}

int32_t qsae__pack(qsae_corpus *c, qsae__stream *stream, int32_t bos, int64_t max_tokens,
                   bool keep_tail)
{
    struct cut cut = { .n = stream->ids.count };
    int64_t over;
    int32_t *next = NULL, status;

    cut.content = qsae__pack_content(c->context, c->bos_policy, c->pack);
    cut.lead = c->context - cut.content;
    if (c->stride > 0)
        cut_windows(&cut, c->stride, max_tokens);
    else
        cut_chunks(&cut, c->context, max_tokens, keep_tail);
    if (cut.chunks == 0)
        return qsae__fail(QSAE_EINVAL, "%lld tokens of text are less than one chunk of %lld",
                          (long long)cut.n, (long long)cut.content);
    /* What chunks hold together: `used`, and what each has in common with the one before. */
    if (!qsae__mul_i64(cut.chunks - 1, cut.content - cut.step, &over) ||
        over > INT64_MAX - cut.used - cut.chunks)
        return qsae__fail(QSAE_EOVERFLOW, "%lld windows of %lld tokens", (long long)cut.chunks,
                          (long long)c->context);
    c->chunks = cut.chunks;
    c->tokens = cut.used + over + cut.lead * cut.chunks;
    c->stream_tokens = cut.n + cut.lead * cut.chunks;
    status = fill_extents(c, stream, &cut);
    if (status == QSAE_OK)
        status = fill_documents(c, stream, &cut);
    if (status != QSAE_OK)
        return status;
    c->ids = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->ids);
    c->labels = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->labels);
    next = qsae__alloc_array(c->ctx, c->chunks, sizeof *next);
    if (c->bos_policy == QSAE_BOS_CHUNK_REPLACE)
        c->replaced = qsae__alloc_array(c->ctx, c->chunks, sizeof *c->replaced);
    if (c->ids == NULL || c->labels == NULL || next == NULL ||
        (c->bos_policy == QSAE_BOS_CHUNK_REPLACE && c->replaced == NULL)) {
        qsae__free(c->ctx, next);
        return QSAE_ENOMEM;
    }
    fill_ids(c, stream, &cut, bos, next);
    qsae__label(c, c->cross_labels ? next : NULL);
    qsae__free(c->ctx, next);
    return qsae__corpus_hash(c);
}

/* Positions of a chunk without label: those before score_from, and those whose label the window
 * before has as well. */
static int64_t skipped(const qsae_corpus *c, int64_t chunk)
{
    const int64_t seen = c->stride > 0 && chunk > 0 ? c->context - c->stride - 1 : 0;

    return qsae__max_i64(seen, c->score_from);
}

void qsae__label(qsae_corpus *c, const int32_t *next)
{
    c->predicted = 0;
    for (int64_t chunk = 0; chunk < c->chunks; chunk++) {
        const int64_t from = chunk * c->context, to = qsae__min_i64(from + c->context, c->tokens);
        for (int64_t i = from; i + 1 < to; i++)
            c->labels[i] = c->ids[i + 1];
        c->labels[to - 1] = next != NULL ? next[chunk] : NO_LABEL;
        for (int64_t i = from; i < qsae__min_i64(from + skipped(c, chunk), to); i++)
            c->labels[i] = NO_LABEL;
        for (int64_t i = from; i < to; i++)
            c->predicted += c->labels[i] != NO_LABEL;
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
    if (c->stride > 0 || c->score_from > 0) {
        qsae__hasher_i64(h, c->stride);
        qsae__hasher_i64(h, c->score_from);
    }
    if (c->pack != QSAE_PACK_STREAM)
        qsae__hasher_string(h, qsae_pack_name(c->pack));
    qsae__hasher_hex(h, c->hash);
    qsae__hasher_close(c->ctx, &h);
    return QSAE_OK;
}
