/* SPDX-License-Identifier: BSD-2-Clause */
/* Arrays of whole numbers in .npy files, and documents that are such arrays of token ids. */
#include <string.h>

#include "text/corpus.h"

bool qsae__text_is_npy(const char *path)
{
    const size_t n = strlen(path);

    return n > 4 && strcmp(path + n - 4, ".npy") == 0;
}

int32_t qsae__id_array_open(qsae_context *ctx, const char *path, qsae__id_array *a)
{
    const qsae__tensor *t;
    int32_t status;

    memset(a, 0, sizeof *a);
    status = qsae__tensors_load(ctx, path, &a->set);
    if (status != QSAE_OK)
        return status;
    t = qsae__tensors_find(a->set, "data");
    if (t == NULL)
        status = qsae__fail(QSAE_EFORMAT, "%s: expected an npy file", path);
    else if (t->dtype != QSAE_I32 && t->dtype != QSAE_I64 && t->dtype != QSAE_U16 &&
             t->dtype != QSAE_U32)
        status = qsae__fail(QSAE_EFORMAT, "%s: expected int32, int64, uint16 or uint32, found %s",
                            path, qsae_dtype_name(t->dtype));
    else if (t->rank != 1 && t->rank != 2)
        status = qsae__fail(QSAE_EFORMAT, "%s: expected 1 or 2 axes, found %d", path, t->rank);
    if (status != QSAE_OK) {
        qsae__tensors_unref(&a->set);
        return status;
    }
    a->data = t->data;
    a->dtype = t->dtype;
    a->rank = t->rank;
    a->rows = t->rank == 1 ? 1 : t->shape[0];
    a->cols = t->rank == 1 ? t->shape[0] : t->shape[1];
    return QSAE_OK;
}

void qsae__id_array_close(qsae__id_array *a)
{
    if (a->set != NULL)
        qsae__tensors_unref(&a->set);
}

int64_t qsae__id_array_get(const qsae__id_array *a, int64_t i)
{
    union {
        int32_t i32;
        int64_t i64;
        uint16_t u16;
        uint32_t u32;
    } v;
    const size_t size = a->dtype == QSAE_I64 ? 8 : a->dtype == QSAE_U16 ? 2 : 4;

    memcpy(&v, a->data + (size_t)i * size, size);
    return a->dtype == QSAE_I64 ? v.i64 : a->dtype == QSAE_U16 ? v.u16
           : a->dtype == QSAE_U32 ? (int64_t)v.u32 : v.i32;
}

/* One row as a document. */
static int32_t read_row(const qsae_tokenizer *t, const qsae__id_array *a, const char *path,
                        int64_t row, qsae__encoded *out, qsae__strbuf *scratch)
{
    for (int64_t i = 0; i < a->cols; i++) {
        const int64_t id = qsae__id_array_get(a, row * a->cols + i);
        const char *bytes;
        size_t size;
        if (id < 0 || id > INT32_MAX || qsae_tokenizer_token(t, (int32_t)id, &bytes, &size) != 0)
            return qsae__fail(QSAE_EFORMAT, "%s: row %lld, column %lld: expected an id of the "
                              "vocabulary (0..%lld), found %lld", path, (long long)row,
                              (long long)i, (long long)t->vocab - 1, (long long)id);
        out->ids[i] = (int32_t)id;
    }
    out->count = a->cols;
    return qsae__extents_measure(t, out->ids, out->count, NULL, 0, out->extents, scratch);
}

static int32_t read_rows(qsae_corpus *c, const qsae_tokenizer *t, const qsae_corpus_settings *s,
                         const qsae__id_array *a, int64_t need, qsae__stream *stream)
{
    qsae__encoded row = { .count = a->cols };
    int64_t *order, n;
    qsae__strbuf scratch;
    int32_t status = qsae__order_make(c->ctx, s, a->rows, &order, &n);

    if (status != QSAE_OK)
        return status;
    qsae__strbuf_init(&scratch, c->ctx);
    row.ids = qsae__alloc_array(c->ctx, a->cols, sizeof *row.ids);
    row.extents = qsae__alloc_array(c->ctx, a->cols, sizeof *row.extents);
    if (row.ids == NULL || row.extents == NULL)
        status = QSAE_ENOMEM;
    for (int64_t i = 0; i < n && status == QSAE_OK && a->cols > 0; i++) {
        const qsae__record record = { .line = (order ? order[i] : i) + 1 };
        if (need > 0 && stream->ids.count >= need)
            break;
        status = qsae__canceled(s->cancel);
        if (status == QSAE_OK)
            status = read_row(t, a, c->files.sources[0], record.line - 1, &row, &scratch);
        if (status == QSAE_OK)
            status = qsae__stream_append(c, t, &record, &row, stream);
    }
    if (status == QSAE_OK)
        status = qsae__stream_finish(c, t, stream);
    qsae__free(c->ctx, order);
    qsae__free(c->ctx, row.ids);
    qsae__free(c->ctx, row.extents);
    qsae__strbuf_free(&scratch);
    return status;
}

int32_t qsae__stream_ids(qsae_corpus *c, const qsae_tokenizer *t, const char *path,
                         const qsae_corpus_settings *s, int64_t need, qsae__stream *stream)
{
    qsae__id_array a;
    int32_t status = qsae__documents_source(&c->files, c->ctx, path);

    stream->ids.ctx = c->ctx;
    if (status == QSAE_OK)
        status = qsae__id_array_open(c->ctx, path, &a);
    if (status != QSAE_OK)
        return status;
    status = read_rows(c, t, s, &a, need, stream);
    qsae__id_array_close(&a);
    return status;
}
