/* SPDX-License-Identifier: BSD-2-Clause */
/* safetensors: https://github.com/huggingface/safetensors (format and checks of tensor.rs). */
#include <stdlib.h>
#include <string.h>

#include <qsae/tensor.h>

#include "formats/set.h"
#include "formats/writer.h"

#define HEADER_MAX 100000000

/* A tensor's place in the data buffer, for the check that nothing is left over. */
typedef struct span {
    uint64_t begin, end;
    const char *name;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static uint64_t read_u64(const uint8_t *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static int32_t read_shape(const json_t *shape, const char *file, const char *name, qsae__tensor *t)
{
    const size_t rank = json_array_size(shape);

    if (!json_is_array(shape))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": shape: expected array, found %s", file,
                          name, qsae__json_type_name(shape));
    if (rank > 8)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": rank %zu, at most 8 is supported",
                          file, name, rank);
    t->rank = (int32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": shape[%zu] is not a count", file,
                              name, i);
        t->shape[i] = json_integer_value(v);
    }
    return QSAE_OK;
}

static int32_t read_offsets(const json_t *offsets, const char *file, const char *name, span *s)
{
    const json_t *a = json_array_get(offsets, 0), *b = json_array_get(offsets, 1);

    if (json_array_size(offsets) != 2 || !json_is_integer(a) || !json_is_integer(b) ||
        json_integer_value(a) < 0 || json_integer_value(b) < json_integer_value(a))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": data_offsets: expected [begin, end]",
                          file, name);
    s->begin = (uint64_t)json_integer_value(a);
    s->end = (uint64_t)json_integer_value(b);
    return QSAE_OK;
}

/* One header entry; data is the buffer after the header. */
static int32_t read_entry(const json_t *entry, const qsae__file *file, const uint8_t *data,
                          uint64_t data_size, qsae__tensor *t, span *s)
{
    const char *dtype;
    int32_t status;

    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: tensor \"%s\": expected an object of dtype, shape and data_offsets",
                          file->path, t->name);
    dtype = json_string_value(json_object_get(entry, "dtype"));
    t->dtype = qsae_dtype_from_name(dtype);
    if (qsae_dtype_bits(t->dtype) == 0) /* block types are ggml's alone */
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": unknown dtype \"%s\"", file->path,
                          t->name, dtype == NULL ? "(none)" : dtype);
    status = read_shape(json_object_get(entry, "shape"), file->path, t->name, t);
    if (status == QSAE_OK)
        status = read_offsets(json_object_get(entry, "data_offsets"), file->path, t->name, s);
    if (status != QSAE_OK)
        return status;
    if (!qsae__shape_bytes(t->shape, t->rank, t->dtype, &t->bytes))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": size overflows or is no whole byte",
                          file->path, t->name);
    if (s->end - s->begin != t->bytes)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: tensor \"%s\": shape needs %llu bytes, data_offsets hold %llu",
                          file->path, t->name, (unsigned long long)t->bytes,
                          (unsigned long long)(s->end - s->begin));
    if (!qsae__range_in(s->begin, t->bytes, data_size))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": ends at %llu of %llu data bytes "
                          "(truncated?)", file->path, t->name, (unsigned long long)s->end,
                          (unsigned long long)data_size);
    t->data = data + s->begin;
    return QSAE_OK;
}

/* No holes, no overlaps, no trailing bytes: the tensors tile the data buffer. */
static int32_t check_spans(span *spans, int64_t n, uint64_t data_size, const char *file)
{
    uint64_t at = 0;

    if (n > 1)
        qsort(spans, (size_t)n, sizeof *spans, by_begin);
    for (int64_t i = 0; i < n; i++) {
        if (spans[i].begin != at)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": %s at byte %llu of the data", file,
                              spans[i].name, spans[i].begin > at ? "hole" : "overlap",
                              (unsigned long long)qsae__min_i64((int64_t)at,
                                                                (int64_t)spans[i].begin));
        at = spans[i].end;
    }
    if (at != data_size)
        return qsae__fail(QSAE_EFORMAT, "%s: %llu bytes after the last tensor", file,
                          (unsigned long long)(data_size - at));
    return QSAE_OK;
}

static int32_t read_metadata(qsae__tensors *t, json_t *metadata, const char *file)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata))
        return qsae__fail(QSAE_EFORMAT, "%s: __metadata__: expected object, found %s", file,
                          qsae__json_type_name(metadata));
    json_object_foreach(metadata, key, value)
        if (!json_is_string(value))
            return qsae__fail(QSAE_EFORMAT, "%s: __metadata__ \"%s\": expected string, found %s",
                              file, key, qsae__json_type_name(value));
    if (t->metadata == NULL)
        t->metadata = json_incref(metadata);
    return QSAE_OK;
}

static int32_t read_entries(qsae__tensors *t, json_t *header, const qsae__file *file,
                            const uint8_t *data, uint64_t data_size)
{
    const int64_t most = (int64_t)json_object_size(header);
    span *spans = qsae__alloc_array(t->ctx, most, sizeof *spans);
    size_t names = 0;
    int64_t n = 0;
    char *name;
    int32_t status = QSAE_ENOMEM;

    if (spans == NULL)
        return QSAE_ENOMEM;
    for (void *it = json_object_iter(header); it != NULL; it = json_object_iter_next(header, it))
        names += strlen(json_object_iter_key(it)) + 1; /* bounded by the header's size */
    name = qsae__set_alloc(t, names);
    if (name == NULL)
        goto fail;
    status = qsae__grow(t->ctx, &t->items, &t->capacity, t->count + most, sizeof *t->items);
    if (status != QSAE_OK)
        goto fail;
    for (void *it = json_object_iter(header); it != NULL; it = json_object_iter_next(header, it)) {
        const char *key = json_object_iter_key(it);
        const size_t size = strlen(key) + 1;
        qsae__tensor tensor = { .name = name, .file = file->path };

        if (strcmp(key, "__metadata__") == 0) {
            status = read_metadata(t, json_object_iter_value(it), file->path);
        } else {
            memcpy(name, key, size);
            name += size;
            status = read_entry(json_object_iter_value(it), file, data, data_size, &tensor,
                                &spans[n]);
            spans[n++].name = tensor.name;
            if (status == QSAE_OK)
                status = qsae__set_add(t, &tensor);
        }
        if (status != QSAE_OK)
            goto fail;
    }
    status = check_spans(spans, n, data_size, file->path);
fail:
    qsae__free(t->ctx, spans);
    return status;
}

int32_t qsae__safetensors_read(qsae__tensors *t, const qsae__file *file)
{
    json_t *header = NULL;
    uint64_t n;
    int32_t status;

    if (file->size < 8)
        return qsae__fail(QSAE_EFORMAT, "%s: %llu bytes are too few for a safetensors file",
                          file->path, (unsigned long long)file->size);
    n = read_u64(file->data);
    if (n > HEADER_MAX)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: not a safetensors file, or its header of %llu bytes exceeds %d",
                          file->path, (unsigned long long)n, HEADER_MAX);
    if (!qsae__range_in(8, n, file->size))
        return qsae__fail(QSAE_EFORMAT, "%s: header of %llu bytes in a file of %llu (truncated?)",
                          file->path, (unsigned long long)n, (unsigned long long)file->size);
    status = qsae__json_parse((const char *)file->data + 8, (size_t)n, file->path, &header);
    if (status != QSAE_OK)
        return status;
    if (!json_is_object(header))
        status = qsae__fail(QSAE_EFORMAT, "%s: header: expected object, found %s", file->path,
                            qsae__json_type_name(header));
    else
        status = read_entries(t, header, file, file->data + 8 + n, file->size - 8 - n);
    json_decref(header);
    return status;
}

/* Shape, dtype and size of a tensor to be written agree. */
static int32_t check_tensor(const qsae__tensor *t, int64_t i)
{
    uint64_t bytes;

    if (t->name == NULL || t->rank < 0 || t->rank > 8 || qsae_dtype_bits(t->dtype) == 0 ||
        !qsae__shape_bytes(t->shape, t->rank, t->dtype, &bytes) || bytes != t->bytes ||
        (t->data == NULL && bytes > 0) || bytes > SIZE_MAX)
        return qsae__fail(QSAE_EINVAL, "safetensors: tensor %lld (\"%s\"): shape, dtype and size "
                          "do not agree", (long long)i, t->name == NULL ? "" : t->name);
    return QSAE_OK;
}

int32_t qsae__safetensors_write(qsae_context *ctx, const char *path, const qsae__tensor *tensors,
                                int64_t count)
{
    qsae__writer *w = NULL;
    uint64_t room = 0;
    int32_t status = QSAE_OK;

    for (int64_t i = 0; i < count && status == QSAE_OK; i++) {
        status = check_tensor(&tensors[i], i);
        if (status == QSAE_OK)
            room += qsae__writer_room(tensors[i].name, tensors[i].rank);
    }
    if (status == QSAE_OK)
        status = qsae__writer_open(ctx, path, room + 64, &w);
    for (int64_t i = 0; i < count && status == QSAE_OK; i++) {
        status = qsae__writer_begin(w, &tensors[i]);
        if (status == QSAE_OK)
            status = qsae__writer_put(w, tensors[i].data, (size_t)tensors[i].bytes);
    }
    if (status == QSAE_OK)
        return qsae__writer_commit(&w);
    qsae__writer_discard(&w);
    return status;
}
