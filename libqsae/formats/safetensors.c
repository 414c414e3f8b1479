/* SPDX-License-Identifier: BSD-2-Clause */
/* safetensors: https://github.com/huggingface/safetensors (format and checks of tensor.rs). */
#include <stdlib.h>
#include <string.h>

#include <qsae/tensor.h>

#include "formats/members.h"
#include "formats/set.h"
#include "formats/writer.h"

#define HEADER_MAX 100000000
#define ENTRY_MAX 4096 /* bytes of a tensor's description, of which some 200 can be needed */
#define METADATA "__metadata__"

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

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The first of two equal strings among n, or NULL; sorts them. stride: bytes between two. */
static const char *twice(void *strings, size_t n, size_t stride)
{
    if (n > 1)
        qsort(strings, n, stride, by_text);
    for (size_t i = 1; i < n; i++) {
        const char *const *const p = (const char *const *)((const char *)strings + i * stride);
        const char *const *const q = (const char *const *)((const char *)p - stride);
        if (strcmp(*p, *q) == 0)
            return *p;
    }
    return NULL;
}

static int32_t read_metadata(qsae__tensors *t, const qsae__member *whole, const char *file)
{
    qsae__members m;
    qsae__member member;
    size_t names, i = 0;
    int64_t n;
    char *text;
    const char *again;
    bool more;
    int32_t status;

    if (*whole->value != '{')
        return qsae__fail(QSAE_EFORMAT, "%s: __metadata__: expected object, found %s", file,
                          qsae__json_kind(whole->value));
    status = qsae__json_count(whole->value, whole->value_size, file, &n, &names);
    if (status != QSAE_OK)
        return status;
    qsae__note *const notes = qsae__set_alloc(t, (size_t)n * sizeof *notes);
    if (notes == NULL || (text = qsae__set_alloc(t, whole->value_size)) == NULL)
        return QSAE_ENOMEM;
    status = qsae__members_open(&m, whole->value, whole->value_size, file);
    while (status == QSAE_OK &&
           (status = qsae__members_next(&m, &member, &more)) == QSAE_OK && more) {
        notes[i].key = text;
        status = qsae__json_decode(member.key, member.key_size, file, text);
        if (status != QSAE_OK)
            break;
        text += strlen(text) + 1;
        if (*member.value != '"')
            return qsae__fail(QSAE_EFORMAT, "%s: __metadata__ \"%s\": expected string, found %s",
                              file, notes[i].key, qsae__json_kind(member.value));
        notes[i++].value = text;
        status = qsae__json_decode(member.value, member.value_size, file, text);
        if (status == QSAE_OK)
            text += strlen(text) + 1;
    }
    if (status == QSAE_OK && (again = twice(notes, (size_t)n, sizeof *notes)) != NULL)
        return qsae__fail(QSAE_EFORMAT, "%s: __metadata__: duplicate key \"%s\"", file, again);
    if (status == QSAE_OK && t->metadata == NULL) {
        t->metadata = notes;
        t->n_metadata = n;
    }
    return status;
}

/* A member of the header: a tensor, whose name is put at *name, or the metadata. */
static int32_t read_member(qsae__tensors *t, const qsae__member *m, const qsae__file *file,
                           const uint8_t *data, uint64_t data_size, char *name, span *s,
                           bool *is_tensor)
{
    qsae__tensor tensor = { .name = name, .file = file->path };
    json_t *entry = NULL;
    int32_t status = qsae__json_decode(m->key, m->key_size, file->path, name);

    if (status != QSAE_OK)
        return status;
    *is_tensor = strcmp(name, METADATA) != 0;
    s->name = name;
    if (!*is_tensor)
        return read_metadata(t, m, file->path);
    if (m->value_size > ENTRY_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": a description of %zu bytes, at most %d "
                          "are read", file->path, name, m->value_size, ENTRY_MAX);
    status = qsae__json_parse(m->value, m->value_size, file->path, &entry);
    if (status != QSAE_OK)
        return qsae__fail_in(status, "tensor \"%s\"", name);
    status = read_entry(entry, file, data, data_size, &tensor, s);
    json_decref(entry);
    return status == QSAE_OK ? qsae__set_add(t, &tensor) : status;
}

static int32_t no_name_twice(qsae__tensors *t, const span *spans, int64_t n, size_t metadata,
                             const char *file)
{
    const char **const names = qsae__alloc_array(t->ctx, n, sizeof *names);
    const char *again = metadata > 1 ? METADATA : NULL;

    if (names == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        names[i] = spans[i].name;
    if (again == NULL)
        again = twice(names, (size_t)n, sizeof *names);
    qsae__free(t->ctx, names);
    return again == NULL ? QSAE_OK
                         : qsae__fail(QSAE_EFORMAT, "%s: duplicate key \"%s\"", file, again);
}

/* header: [size]. Each entry is parsed and forgotten, so memory stays in proportion. */
static int32_t read_entries(qsae__tensors *t, const char *header, size_t size,
                            const qsae__file *file, const uint8_t *data, uint64_t data_size)
{
    qsae__members m;
    qsae__member member;
    size_t names, metadata = 0;
    int64_t n = 0, most;
    span *spans;
    char *name;
    bool more, is_tensor = false;
    int32_t status = size > 0 ? qsae__json_count(header, size, file->path, &most, &names)
                              : qsae__fail(QSAE_EFORMAT, "%s:1: '{' expected", file->path);

    if (status != QSAE_OK)
        return status;
    spans = qsae__alloc_array(t->ctx, most, sizeof *spans);
    name = spans != NULL ? qsae__set_alloc(t, names) : NULL;
    status = name != NULL ? qsae__grow(t->ctx, &t->items, &t->capacity, t->count + most,
                                       sizeof *t->items)
                          : QSAE_ENOMEM;
    if (status == QSAE_OK)
        status = qsae__members_open(&m, header, size, file->path);
    while (status == QSAE_OK &&
           (status = qsae__members_next(&m, &member, &more)) == QSAE_OK && more) {
        status = read_member(t, &member, file, data, data_size, name, &spans[n], &is_tensor);
        if (status != QSAE_OK)
            break;
        name += is_tensor ? strlen(name) + 1 : 0;
        metadata += !is_tensor;
        n += is_tensor;
    }
    if (status == QSAE_OK)
        status = no_name_twice(t, spans, n, metadata, file->path);
    if (status == QSAE_OK)
        status = check_spans(spans, n, data_size, file->path);
    qsae__free(t->ctx, spans);
    return status;
}

int32_t qsae__safetensors_read(qsae__tensors *t, const qsae__file *file)
{
    uint64_t n;

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
    return read_entries(t, (const char *)file->data + 8, (size_t)n, file, file->data + 8 + n,
                        file->size - 8 - n);
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
