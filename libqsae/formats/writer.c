/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats/writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "formats/set.h"

#define ENTRY 128      /* an entry's bytes without its name and sizes: dtype, two offsets */
#define NUMBER 20      /* bytes of a number and a comma */
#define METADATA 64    /* at least those of braces and "__metadata__" */

struct qsae__writer {
    qsae_context *ctx;
    qsae__output *file;
    json_t *header;
    uint64_t room;     /* bytes between the length and the data */
    uint64_t at, end;  /* of the present tensor, in the data */
};

size_t qsae__writer_room(const char *name, int32_t rank)
{
    size_t n = ENTRY + (size_t)rank * NUMBER;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        n += *c < 0x20 || *c == '"' || *c == '\\' || *c == 0x7f ? 6 : 1;
    return n;
}

int32_t qsae__writer_open(qsae_context *ctx, const char *path, uint64_t room, qsae__writer **out)
{
    char blank[4096];
    *out = NULL;
    qsae__writer *w = qsae__calloc(ctx, 1, sizeof *w);
    if (!w)
        return QSAE_ENOMEM;
    w->ctx = qsae__context_ref(ctx);
    w->room = (room < METADATA ? METADATA : room) / 8 * 8 + 8; /* data starts at a multiple of 8 */
    int32_t st = QSAE_ENOMEM;
    /* transformers refuses a file that does not say it is PyTorch's */
    w->header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    if (!w->header) {
        (void)qsae__fail(QSAE_ENOMEM, "%s: out of memory", path);
        goto fail;
    }
    st = qsae__output_open(ctx, path, &w->file);
    memset(blank, ' ', sizeof blank);
    for (uint64_t left = 8 + w->room; st == QSAE_OK && left > 0;) {
        const size_t n = left < sizeof blank ? (size_t)left : sizeof blank;
        st = qsae__output_append(w->file, blank, n);
        left -= n;
    }
    if (st != QSAE_OK)
        goto fail;
    *out = w;
    return QSAE_OK;
fail:
    qsae__writer_discard(&w);
    return st;
}

int32_t qsae__writer_begin(qsae__writer *w, const qsae__tensor *t)
{
    uint64_t bytes, end;
    const char *const path = w->file->path;
    if (w->at != w->end)
        return qsae__fail(QSAE_EINTERNAL, "%s: %s begins before another is complete", path,
                          t->name);
    if (t->rank < 0 || t->rank > 8 || qsae_dtype_bits(t->dtype) == 0 ||
        !qsae__shape_bytes(t->shape, t->rank, t->dtype, &bytes) ||
        !qsae__add_u64(w->at, bytes, &end) || end > INT64_MAX)
        return qsae__fail(QSAE_EINVAL, "%s: tensor \"%s\": shape and dtype have no size", path,
                          t->name);
    if (json_object_get(w->header, t->name))
        return qsae__fail(QSAE_EINVAL, "%s: tensor name \"%s\" occurs twice or is reserved", path,
                          t->name);
    json_t *const shape = json_array();
    for (int32_t i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    if (!shape || json_array_size(shape) != (size_t)t->rank) {
        json_decref(shape);
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", path);
    }
    errno = 0;
    if (json_object_set_new(w->header, t->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", qsae_dtype_name(t->dtype),
                                      "shape", shape, "data_offsets", (json_int_t)w->at,
                                      (json_int_t)end)) != 0)
        return errno == ENOMEM
                   ? qsae__fail(QSAE_ENOMEM, "%s: out of memory", path)
                   : qsae__fail(QSAE_EINVAL, "%s: tensor name \"%s\" is not UTF-8", path, t->name);
    w->end = end;
    return QSAE_OK;
}

int32_t qsae__writer_put(qsae__writer *w, const void *data, size_t size)
{
    if (size > w->end - w->at)
        return qsae__fail(QSAE_EINTERNAL, "%s: more data than the tensor has", w->file->path);
    const int32_t st = qsae__output_append(w->file, data, size);
    if (st == QSAE_OK)
        w->at += size;
    return st;
}

static int32_t write_header(qsae__writer *w)
{
    uint8_t length[8];
    char *const text = qsae__json_dumps(w->header, JSON_COMPACT);
    if (!text)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", w->file->path);
    const size_t n = strlen(text);
    int32_t st = n <= w->room ? QSAE_OK
                              : qsae__fail(QSAE_EINTERNAL, "%s: header of %zu bytes in %llu",
                                           w->file->path, n, (unsigned long long)w->room);
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(w->room >> (8 * i));
    if (st == QSAE_OK)
        st = qsae__output_patch(w->file, 0, length, sizeof length);
    if (st == QSAE_OK)
        st = qsae__output_patch(w->file, sizeof length, text, n);
    free(text);
    return st;
}

int32_t qsae__writer_commit(qsae__writer **writer)
{
    qsae__writer *const w = *writer;
    int32_t st = w->at == w->end ? write_header(w)
                                 : qsae__fail(QSAE_EINTERNAL, "%s: the last tensor is incomplete",
                                              w->file->path);
    if (st == QSAE_OK)
        st = qsae__output_commit(&w->file);
    qsae__writer_discard(writer);
    return st;
}

void qsae__writer_discard(qsae__writer **writer)
{
    if (!writer || !*writer)
        return;
    qsae__writer *const w = *writer;
    qsae_context *const ctx = w->ctx;
    *writer = NULL;
    qsae__output_discard(&w->file);
    json_decref(w->header);
    qsae__free(ctx, w);
    qsae__context_unref(ctx);
}
