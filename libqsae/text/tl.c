/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What TransformerLens 2 makes of a batch of documents (models.md F.2): they are joined by the EOS
 * token's text, that is cut into 20 pieces of equally many characters, wherever that may be, each
 * is encoded with the tokenizer's template, and every padding token is taken out. Without a padding
 * token EOS is one, as HookedTransformer sets it, so that nothing is left between documents.
 */
#include <string.h>

#include "text/corpus.h"
#include "text/utf8.h"

#define PIECES 20

static int32_t append(qsae_corpus *c, qsae__stream *out, const char *text, size_t size)
{
    const int32_t status = qsae__grow(c->ctx, &out->text, &out->text_capacity,
                                      out->text_size + (int64_t)size, 1);

    if (status == QSAE_OK && size > 0)
        memcpy(out->text + out->text_size, text, size);
    if (status == QSAE_OK)
        out->text_size += (int64_t)size;
    return status;
}

int32_t qsae__batch_add(qsae_corpus *c, const qsae_tokenizer *t, const qsae__encoded *s,
                        qsae__stream *out)
{
    const char *eos;
    size_t size;
    int32_t status = qsae_tokenizer_token(t, t->eos, &eos, &size);

    if (status == QSAE_OK)
        status = qsae__grow(c->ctx, &out->ends, &out->ends_capacity, out->batch_rows + 1,
                            sizeof *out->ends);
    if (status == QSAE_OK)
        status = qsae__grow(c->ctx, &out->owners, &out->owners_capacity, out->batch_rows + 1,
                            sizeof *out->owners);
    if (status == QSAE_OK && out->batch_rows > 0) {
        status = append(c, out, eos, size);
        out->ends[out->batch_rows - 1] = out->text_size;
    }
    if (status == QSAE_OK)
        status = append(c, out, s->text, (size_t)s->text_size);
    if (status != QSAE_OK)
        return status;
    out->owners[out->batch_rows] = s->empty ? qsae__max_i64(c->n_documents - 1, 0)
                                            : c->n_documents;
    out->ends[out->batch_rows++] = out->text_size;
    return QSAE_OK;
}

/* Ids that stand in no text, without padding. */
static int32_t add_template(qsae_corpus *c, const qsae__ids *ids, int32_t pad, int64_t document,
                            qsae__stream *out)
{
    int32_t status = QSAE_OK;

    for (int64_t i = 0; i < ids->count && status == QSAE_OK; i++)
        if (ids->data[i] != pad)
            status = qsae__stream_add(c, out, &ids->data[i], NULL, 1, document);
    return status;
}

/* The piece [from, to) of the text. A token belongs to the document its first byte lies in. */
static int32_t add_piece(qsae_corpus *c, const qsae_tokenizer *t, qsae__encoder *e, int64_t from,
                         int64_t to, int64_t *row, qsae__stream *out)
{
    const int32_t pad = t->pad >= 0 ? t->pad : t->eos;
    int64_t at = from;
    int32_t status = qsae__encoder_run(e, out->text + from, (size_t)(to - from));

    while (*row + 1 < out->batch_rows && out->ends[*row] <= at)
        ++*row;
    if (status == QSAE_OK)
        status = add_template(c, &t->prefix, pad, out->owners[*row], out);
    for (int64_t i = 0; i < e->ids.count && status == QSAE_OK; i++) {
        const char *bytes;
        size_t size;
        while (*row + 1 < out->batch_rows && out->ends[*row] <= at)
            ++*row;
        if (e->ids.data[i] != pad)
            status = qsae__stream_add(c, out, &e->ids.data[i], NULL, 1, out->owners[*row]);
        if (status == QSAE_OK)
            status = qsae_tokenizer_token(t, e->ids.data[i], &bytes, &size);
        if (status == QSAE_OK)
            at = qsae__min_i64(at + (int64_t)size, to);
    }
    return status == QSAE_OK ? add_template(c, &t->suffix, pad, out->owners[*row], out) : status;
}

/* End of the next n characters. */
static int64_t skip(const qsae__stream *out, int64_t at, int64_t n)
{
    for (; n > 0 && at < out->text_size; n--)
        at += (int64_t)qsae__utf8_len(out->text[at]);
    return qsae__min_i64(at, out->text_size);
}

int32_t qsae__batch_encode(qsae_corpus *c, const qsae_tokenizer *t, qsae__stream *out)
{
    const char *stripped = out->text;
    size_t size = (size_t)out->text_size;
    int64_t characters = 0, row = 0, at = 0, length;
    qsae__encoder e;
    int32_t status = qsae__strip(&stripped, &size);

    if (status == QSAE_OK && size == 0)
        out->text_size = 0;
    if (status != QSAE_OK || size == 0)
        return status;
    for (int64_t i = 0; i < out->text_size; i += (int64_t)qsae__utf8_len(out->text[i]))
        characters++;
    length = (characters - 1) / PIECES + 1;
    qsae__encoder_init(&e, t);
    for (int i = 0; i < PIECES && status == QSAE_OK; i++) {
        const int64_t end = skip(out, at, length);
        status = add_piece(c, t, &e, at, end, &row, out);
        at = end;
    }
    qsae__encoder_free(&e);
    return status;
}

int32_t qsae__batch_measure(qsae_corpus *c, const qsae_tokenizer *t, qsae__stream *out)
{
    qsae__strbuf scratch;
    int32_t status = QSAE_OK;

    qsae__strbuf_init(&scratch, c->ctx);
    for (int64_t i = out->batch_document; i < c->n_documents; i++) {
        c->documents[i].first_token = out->batch_first;
        c->documents[i].n_tokens = 0;
    }
    for (int64_t i = out->batch_first, n; i < out->ids.count && status == QSAE_OK; i += n) {
        const int64_t document = out->documents[i];
        for (n = 1; i + n < out->ids.count && out->documents[i + n] == document; n++)
            continue;
        status = qsae__extents_measure(t, out->ids.data + i, n, NULL, 0, out->extents + i,
                                       &scratch);
        if (document >= out->batch_document && document < c->n_documents) {
            c->documents[document].first_token = i;
            c->documents[document].n_tokens = n;
        }
    }
    qsae__strbuf_free(&scratch);
    out->text_size = 0;
    return status;
}
