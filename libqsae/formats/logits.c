/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats/logits.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char magic[8] = { '_', 'l', 'o', 'g', 'i', 't', 's', '_' };
#define HEAD_BYTES (sizeof magic + 3 * sizeof(int32_t))

int64_t qsae__logits_first(const qsae__logits_shape *s)
{
    return s->context / 2;
}

int64_t qsae__logits_rows(const qsae__logits_shape *s)
{
    return s->context - 1 - s->context / 2;
}

int64_t qsae__logits_words(int64_t vocab)
{
    return 4 + (vocab + 1) / 2 * 2;
}

/* Bytes of the tokens, of a chunk's rows, of the whole. */
static bool sizes(const qsae__logits_shape *s, int64_t *tokens, int64_t *chunk, int64_t *all)
{
    int64_t rows;
    return qsae__mul_i64(s->chunks, s->context, tokens) &&
           qsae__mul_i64(*tokens, (int64_t)sizeof(int32_t), tokens) &&
           qsae__mul_i64(qsae__logits_rows(s), 2 * qsae__logits_words(s->vocab), chunk) &&
           qsae__mul_i64(*chunk, s->chunks, &rows) && qsae__add_i64(*tokens, rows, all) &&
           qsae__add_i64(*all, (int64_t)HEAD_BYTES, all);
}

int32_t qsae__logits_check(const qsae__logits_shape *s, const char *path)
{
    const struct {
        const char *name;
        int64_t value, low;
    } counts[] = { { "n_ctx", s->context, 3 }, { "n_vocab", s->vocab, 1 },
                   { "n_chunk", s->chunks, 1 } };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (counts[i].value < counts[i].low || counts[i].value > INT32_MAX)
            return qsae__fail(QSAE_EINVAL, "%s: %s: expected %" PRId64 "..%d, found %" PRId64,
                              path, counts[i].name, counts[i].low, INT32_MAX, counts[i].value);
    return QSAE_OK;
}

/* Head of the file, its size, its tokens. */
static int32_t read_head(qsae__logits_in *in)
{
    const qsae__file *const f = in->file;
    qsae__logits_shape *const s = &in->shape;
    int32_t counts[3];
    int64_t tokens, chunk, all;
    if (f->size < HEAD_BYTES || memcmp(f->data, magic, sizeof magic) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: expected a base-logit file of llama.cpp (magic "
                          "\"_logits_\")", f->path);
    memcpy(counts, f->data + sizeof magic, sizeof counts);
    *s = (qsae__logits_shape){ counts[0], counts[1], counts[2] };
    if (qsae__logits_check(s, f->path) != QSAE_OK)
        return QSAE_EFORMAT; /* with that message */
    if (!sizes(s, &tokens, &chunk, &all))
        return qsae__fail(QSAE_EFORMAT, "%s: %d chunks of %d tokens with %d logits each are no "
                          "file", f->path, counts[2], counts[0], counts[1]);
    if (f->size != (uint64_t)all)
        return qsae__fail(QSAE_EFORMAT, "%s: size: expected %" PRId64 " bytes (%d chunks of %d "
                          "tokens, %d logits), found %" PRIu64 "%s", f->path, all, counts[2],
                          counts[0], counts[1], f->size,
                          f->size < (uint64_t)all ? ": cut off" : "");
    in->tokens = (const int32_t *)(const void *)(f->data + HEAD_BYTES);
    in->rows = (const uint16_t *)(const void *)(f->data + HEAD_BYTES + tokens);
    for (int64_t i = 0; i < s->chunks * s->context; i++)
        if (in->tokens[i] < 0 || in->tokens[i] >= s->vocab)
            return qsae__fail(QSAE_EFORMAT, "%s: token %" PRId64 ": expected 0..%" PRId64 ", "
                              "found %d", f->path, i, s->vocab - 1, (int)in->tokens[i]);
    return QSAE_OK;
}

int32_t qsae__logits_open(qsae_context *ctx, const char *path, qsae__logits_in *in)
{
    memset(in, 0, sizeof *in);
    int32_t st = qsae__file_open(ctx, path, &in->file);
    if (st == QSAE_OK && (st = read_head(in)) != QSAE_OK)
        qsae__logits_close(in);
    return st;
}

void qsae__logits_close(qsae__logits_in *in)
{
    if (in->file)
        qsae__file_close(&in->file);
    memset(in, 0, sizeof *in);
}

int32_t qsae__logits_chunk(const qsae__logits_in *in, int64_t chunk, const uint16_t **out)
{
    const int64_t rows = qsae__logits_rows(&in->shape), words = qsae__logits_words(in->shape.vocab);
    const uint16_t *const first = in->rows + chunk * rows * words;
    for (int64_t r = 0; r < rows; r++) {
        float head[2];
        memcpy(head, first + r * words, sizeof head);
        if (!isfinite(head[0]) || !(head[0] >= 0) || !isfinite(head[1]) ||
            !isfinite(head[0] * 65535.0f + head[1]))
            return qsae__fail(QSAE_EFORMAT, "%s: chunk %" PRId64 ", position %" PRId64 ": expected "
                              "a scale of 0 or more and finite log-probabilities, found %g and %g",
                              in->file->path, chunk, qsae__logits_first(&in->shape) + r,
                              (double)head[0], (double)head[1]);
    }
    *out = first;
    return QSAE_OK;
}

void qsae__logits_release(const qsae__logits_in *in, int64_t chunk)
{
    const int64_t size = qsae__logits_rows(&in->shape) * qsae__logits_words(in->shape.vocab);
    qsae__file_release(in->file, in->rows + chunk * size, (size_t)size * sizeof *in->rows);
}

struct qsae__logits_out {
    qsae__output *file;
    qsae__logits_shape shape;
    uint64_t start, row_bytes;   /* of the rows */
    int64_t rows, n_rows;        /* written, expected */
};

int32_t qsae__logits_create(qsae_context *ctx, const char *path, const qsae__logits_shape *s,
                            const int32_t *tokens, qsae__logits_out **out)
{
    int64_t token_bytes, chunk, all;
    int32_t st = qsae__logits_check(s, path);
    *out = NULL;
    if (st != QSAE_OK)
        return st;
    if (!sizes(s, &token_bytes, &chunk, &all))
        return qsae__fail(QSAE_EOVERFLOW, "%s: too large", path);
    qsae__logits_out *o = qsae__calloc(ctx, 1, sizeof *o);
    if (!o)
        return QSAE_ENOMEM;
    const int32_t counts[3] = { (int32_t)s->context, (int32_t)s->vocab, (int32_t)s->chunks };
    o->shape = *s;
    o->row_bytes = 2 * (uint64_t)qsae__logits_words(s->vocab);
    o->n_rows = qsae__logits_rows(s) * s->chunks;
    st = qsae__output_open(ctx, path, &o->file);
    if (st == QSAE_OK)
        st = qsae__output_append(o->file, magic, sizeof magic);
    if (st == QSAE_OK)
        st = qsae__output_append(o->file, counts, sizeof counts);
    if (st == QSAE_OK)
        st = qsae__output_append(o->file, tokens, (size_t)token_bytes);
    if (st != QSAE_OK) {
        if (o->file)
            qsae__output_discard(&o->file);
        qsae__free(ctx, o);
        return st;
    }
    o->start = o->file->size;
    *out = o;
    return QSAE_OK;
}

int32_t qsae__logits_put(qsae__logits_out *o, int64_t row, int64_t n, const uint16_t *rows)
{
    int32_t st = QSAE_OK;
    if (row < 0 || n < 0 || row > o->rows || n > o->n_rows - row)
        return qsae__fail(QSAE_EINVAL, "%s: rows %" PRId64 " to %" PRId64 ": expected up to %"
                          PRId64 " of %" PRId64, o->file->path, row, row + n, o->rows, o->n_rows);
    const int64_t again = qsae__min_i64(n, o->rows - row);
    if (again > 0)
        st = qsae__output_patch(o->file, o->start + (uint64_t)row * o->row_bytes, rows,
                                (size_t)((uint64_t)again * o->row_bytes));
    if (st != QSAE_OK || n == again)
        return st;
    st = qsae__output_append(o->file, (const uint8_t *)rows + (uint64_t)again * o->row_bytes,
                             (size_t)((uint64_t)(n - again) * o->row_bytes));
    if (st == QSAE_OK)
        o->rows = row + n;
    return st;
}

int32_t qsae__logits_commit(qsae__logits_out **out)
{
    qsae__logits_out *const o = *out;
    if (o->rows < o->n_rows) {
        const int32_t st = qsae__fail(QSAE_EINVAL, "%s: %" PRId64 " rows, expected %" PRId64,
                                      o->file->path, o->rows, o->n_rows);
        qsae__logits_discard(out);
        return st;
    }
    qsae_context *const ctx = qsae__context_ref(o->file->ctx);
    const int32_t st = qsae__output_commit(&o->file);
    qsae__free(ctx, o);
    qsae__context_unref(ctx);
    *out = NULL;
    return st;
}

void qsae__logits_discard(qsae__logits_out **out)
{
    if (!out || !*out)
        return;
    qsae__logits_out *const o = *out;
    qsae_context *const ctx = qsae__context_ref(o->file->ctx);
    qsae__output_discard(&o->file);
    qsae__free(ctx, o);
    qsae__context_unref(ctx);
    *out = NULL;
}
