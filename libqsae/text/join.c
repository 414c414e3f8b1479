/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Documents one after the other, with the tokens that stand between them. Packing as other
 * libraries do it is arranged here so that cutting the stream into equal rows gives their rows
 * (models.md F).
 */
#include <string.h>

#include "text/corpus.h"

#define TL_BATCH 1000 /* documents: the batch size of datasets' map, which TransformerLens leaves */

int64_t qsae__pack_content(int64_t context, int32_t bos_policy, int32_t pack)
{
    return context - (bos_policy == QSAE_BOS_CHUNK_START && pack != QSAE_PACK_SAELENS);
}

int32_t qsae__stream_add(qsae_corpus *c, qsae__stream *out, const int32_t *ids,
                         const qsae__extent *extents, int64_t n, int64_t document)
{
    const int64_t first = out->ids.count, need = first + n; /* of two arrays in memory */
    int32_t status = qsae__widen(c->ctx, &out->ids.data, &out->ids.capacity, need,
                                 sizeof *out->ids.data);

    if (status == QSAE_OK)
        status = qsae__widen(c->ctx, &out->documents, &out->documents_capacity, need,
                             sizeof *out->documents);
    if (status == QSAE_OK)
        status = qsae__widen(c->ctx, &out->extents, &out->extents_capacity, need,
                             sizeof *out->extents);
    if (status == QSAE_OK)
        status = qsae__ids_add(&out->ids, ids, n);
    if (status != QSAE_OK)
        return status;
    for (int64_t i = 0; i < n; i++) {
        out->documents[first + i] = document;
        out->extents[first + i] = extents == NULL ? (qsae__extent){ 0, 0 } : extents[i];
    }
    return QSAE_OK;
}

/* BOS as the policies have it, where no other library's packing is asked for. */
static int32_t add_stream(qsae_corpus *c, const qsae_tokenizer *t, const qsae__encoded *s,
                          qsae__stream *out)
{
    const bool want = c->bos_policy == QSAE_BOS_DOC_START ||
                      ((c->bos_policy == QSAE_BOS_STREAM_START ||
                        c->bos_policy == QSAE_BOS_CHUNK_REPLACE) && c->n_documents == 0);
    int32_t status = QSAE_OK;

    if (want && s->ids[0] != t->bos)
        status = qsae__stream_add(c, out, &t->bos, NULL, 1, c->n_documents);
    if (status != QSAE_OK)
        return status;
    return qsae__stream_add(c, out, s->ids, s->extents, s->count, c->n_documents);
}

/* concat_and_batch_sequences with begin_batch_token and sequence_separator_token = BOS: a row
 * begins with BOS, as does a document within a row, if they do not anyway. */
static int32_t add_saelens(qsae_corpus *c, const qsae_tokenizer *t, const qsae__encoded *s,
                           qsae__stream *out)
{
    const bool lead = c->bos_policy == QSAE_BOS_CHUNK_START;
    int32_t status = QSAE_OK;

    if (out->ids.count % c->context != 0 && t->bos >= 0 && s->ids[0] != t->bos)
        status = qsae__stream_add(c, out, &t->bos, NULL, 1, c->n_documents);
    for (int64_t i = 0, n; i < s->count && status == QSAE_OK; i += n) {
        if (out->ids.count % c->context == 0 && lead && s->ids[i] != t->bos)
            status = qsae__stream_add(c, out, &t->bos, NULL, 1, c->n_documents);
        n = qsae__min_i64(c->context - out->ids.count % c->context, s->count - i);
        if (status == QSAE_OK)
            status = qsae__stream_add(c, out, s->ids + i, s->extents + i, n, c->n_documents);
    }
    return status;
}

/* Ends a batch of documents: whole rows, or one that is filled up. */
static int32_t end_batch(qsae_corpus *c, const qsae_tokenizer *t, qsae__stream *out)
{
    const int64_t content = qsae__pack_content(c->context, c->bos_policy, c->pack);
    const int64_t document = qsae__max_i64(c->n_documents - 1, 0);
    const int32_t pad = t->pad >= 0 ? t->pad : t->eos;
    int64_t n;
    int32_t status = QSAE_OK;

    if (out->batch_rows == 0)
        return QSAE_OK;
    if (c->pack == QSAE_PACK_TL2)
        status = qsae__batch_encode(c, t, out);
    n = out->ids.count - out->batch_first;
    if (c->pack == QSAE_PACK_TL2 && out->text_size == 0)
        n = content; /* nothing but white space: not even one row */
    else if (n >= content)
        out->ids.count -= n % content;
    for (int64_t i = n; i < content && status == QSAE_OK; i++)
        status = qsae__stream_add(c, out, &pad, NULL, 1, document);
    if (c->pack == QSAE_PACK_TL2 && status == QSAE_OK)
        status = qsae__batch_measure(c, t, out);
    for (int64_t i = out->batch_document; i < c->n_documents; i++) {
        qsae__document *d = &c->documents[i];
        d->first_token = qsae__min_i64(d->first_token, out->ids.count);
        d->n_tokens = qsae__min_i64(d->n_tokens, out->ids.count - d->first_token);
    }
    out->batch_first = out->ids.count;
    out->batch_document = c->n_documents;
    out->batch_rows = 0;
    return status;
}

/* tokenize_and_concatenate: every document counts, also one without text. */
static int32_t add_tl(qsae_corpus *c, const qsae_tokenizer *t, const qsae__encoded *s,
                      qsae__stream *out)
{
    int32_t status = QSAE_OK;

    if (out->batch_rows > 0)
        status = qsae__stream_add(c, out, &t->eos, NULL, 1, qsae__max_i64(c->n_documents - 1, 0));
    out->batch_rows++;
    if (status != QSAE_OK)
        return status;
    return qsae__stream_add(c, out, s->ids, s->extents, s->count, c->n_documents);
}

int32_t qsae__stream_append(qsae_corpus *c, const qsae_tokenizer *t, const qsae__record *r,
                            qsae__encoded *s, qsae__stream *out)
{
    const bool batches = c->pack == QSAE_PACK_TL || c->pack == QSAE_PACK_TL2;
    int64_t first;
    int32_t status = qsae__widen(c->ctx, &c->documents, &c->documents_capacity,
                                 c->n_documents + 1, sizeof *c->documents);

    if (s->empty && !batches)
        return QSAE_OK;
    if (status == QSAE_OK && batches && out->batch_rows == TL_BATCH)
        status = end_batch(c, t, out);
    first = out->ids.count;
    if (status == QSAE_OK)
        status = c->pack == QSAE_PACK_TL ? add_tl(c, t, s, out)
                 : c->pack == QSAE_PACK_TL2 ? qsae__batch_add(c, t, s, out)
                 : c->pack == QSAE_PACK_SAELENS ? add_saelens(c, t, s, out)
                                                : add_stream(c, t, s, out);
    if (status != QSAE_OK || s->empty)
        return status;
    c->documents[c->n_documents++] = (qsae__document){
        .first_token = first,
        .n_tokens = out->ids.count - first,
        .line = r->line,
        .metadata = s->metadata,
        .source = r->source,
    };
    s->metadata = NULL;
    return QSAE_OK;
}

int32_t qsae__stream_finish(qsae_corpus *c, const qsae_tokenizer *t, qsae__stream *out)
{
    return c->pack == QSAE_PACK_TL || c->pack == QSAE_PACK_TL2 ? end_batch(c, t, out) : QSAE_OK;
}
