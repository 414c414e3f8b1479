/* SPDX-License-Identifier: BSD-2-Clause */
/* GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Values stay in the mapped file;
 * own memory holds names and one small record per pair. */
#include "formats/pairs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/set.h"

#define HEADER_BYTES 24    /* magic, version, two counts */
#define KEY_MAX 65535
#define NAME_MAX_BYTES 64
#define PAIR_LEAST 14      /* bytes of the smallest pair: key of one byte, a byte as value */
#define INFO_LEAST 33      /* bytes of the smallest description of a tensor */
#define ALIGNMENT 32       /* of tensors, where general.alignment is silent */

/* A place in the header. */
struct reader {
    const qsae__file *file;
    uint64_t at;
};

/* Description of a tensor, as it stands in the file. */
struct info {
    const char *name;
    uint64_t name_size;
    uint64_t dims[4];
    uint64_t offset;
    uint32_t rank, type;
};

static int32_t truncated(const struct reader *r, const char *what)
{
    return qsae__fail(QSAE_EFORMAT, "%s: %s at byte %" PRIu64 " reaches beyond the file's %" PRIu64
                      " bytes (truncated?)", r->file->path, what, r->at, r->file->size);
}

/* n bytes, or NULL at the end of the file. */
static const uint8_t *take(struct reader *r, uint64_t n)
{
    const uint8_t *const p = r->file->data + r->at;

    if (!qsae__range_in(r->at, n, r->file->size))
        return NULL;
    r->at += n;
    return p;
}

static int32_t take_string(struct reader *r, const char *what, const char **s, uint64_t *n)
{
    const uint8_t *p = take(r, 8);

    if (p != NULL) {
        *n = qsae__read_u64(p);
        p = take(r, *n);
    }
    *s = (const char *)p;
    return p != NULL ? QSAE_OK : truncated(r, what);
}

static int32_t check_bools(const struct reader *r, const qsae__pair *pair, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (pair->data[i] > 1)
            return qsae__fail(QSAE_EFORMAT, "%s: %.*s: a bool is 0 or 1, found %d", r->file->path,
                              (int)pair->key_size, pair->key, pair->data[i]);
    return QSAE_OK;
}

static int32_t read_array(struct reader *r, qsae__pair *pair)
{
    const uint8_t *p = take(r, 12);
    uint32_t element;
    uint64_t bytes;

    if (p == NULL)
        return truncated(r, "array");
    element = qsae__read_u32(p);
    pair->count = qsae__read_u64(p + 4);
    pair->data = p + 12;
    if (element == QSAE__GGUF_ARRAY)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %.*s: arrays of arrays are not supported",
                          r->file->path, (int)pair->key_size, pair->key);
    if (element > QSAE__GGUF_F64)
        return qsae__fail(QSAE_EFORMAT, "%s: %.*s: unknown element type %" PRIu32, r->file->path,
                          (int)pair->key_size, pair->key, element);
    pair->element = (uint8_t)element;
    if (pair->count > INT64_MAX)
        return truncated(r, "array");
    if (element == QSAE__GGUF_STRING) {
        const char *s;
        uint64_t n;
        int32_t status = QSAE_OK;
        if (pair->count > (r->file->size - r->at) / 8)
            return truncated(r, "array of strings");
        for (uint64_t i = 0; i < pair->count && status == QSAE_OK; i++)
            status = take_string(r, "string of an array", &s, &n);
        return status;
    }
    if (!qsae__mul_u64(pair->count, qsae__pair_size(element), &bytes) || take(r, bytes) == NULL)
        return truncated(r, "array");
    return element == QSAE__GGUF_BOOL ? check_bools(r, pair, pair->count) : QSAE_OK;
}

static int32_t read_pair(struct reader *r, qsae__pair *pair)
{
    uint64_t key_size = 0;
    const uint8_t *p;
    uint32_t type;
    int32_t status = take_string(r, "key", &pair->key, &key_size);

    if (status != QSAE_OK)
        return status;
    if (key_size == 0 || key_size > KEY_MAX || !qsae__is_text(pair->key, key_size))
        return qsae__fail(QSAE_EFORMAT, "%s: key at byte %" PRIu64 ": expected 1 to %d bytes of "
                          "UTF-8", r->file->path, r->at - key_size, KEY_MAX);
    pair->key_size = (uint32_t)key_size;
    p = take(r, 4);
    if (p == NULL)
        return truncated(r, "type of a value");
    type = qsae__read_u32(p);
    if (type > QSAE__GGUF_F64)
        return qsae__fail(QSAE_EFORMAT, "%s: %.*s: unknown value type %" PRIu32, r->file->path,
                          (int)key_size, pair->key, type);
    pair->type = (uint8_t)type;
    if (type == QSAE__GGUF_ARRAY)
        return read_array(r, pair);
    if (type == QSAE__GGUF_STRING) {
        const char *s;
        status = take_string(r, "string", &s, &pair->count);
        pair->data = (const uint8_t *)s;
        return status;
    }
    pair->data = take(r, qsae__pair_size(type));
    if (pair->data == NULL)
        return truncated(r, "value");
    return type == QSAE__GGUF_BOOL ? check_bools(r, pair, 1) : QSAE_OK;
}

static int32_t read_info(struct reader *r, struct info *info)
{
    const uint8_t *p;
    const int32_t status = take_string(r, "tensor name", &info->name, &info->name_size);

    if (status != QSAE_OK)
        return status;
    if (info->name_size == 0 || info->name_size > NAME_MAX_BYTES ||
        !qsae__is_text(info->name, info->name_size))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor name at byte %" PRIu64 ": expected 1 to %d "
                          "bytes of UTF-8", r->file->path, r->at - info->name_size, NAME_MAX_BYTES);
    p = take(r, 4);
    if (p == NULL)
        return truncated(r, "tensor");
    info->rank = qsae__read_u32(p);
    if (info->rank < 1 || info->rank > 4)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%.*s\": n_dims: expected 1 to 4, found %"
                          PRIu32, r->file->path, (int)info->name_size, info->name, info->rank);
    p = take(r, info->rank * 8 + 12);
    if (p == NULL)
        return truncated(r, "tensor");
    for (uint32_t i = 0; i < info->rank; i++, p += 8)
        info->dims[i] = qsae__read_u64(p);
    info->type = qsae__read_u32(p);
    info->offset = qsae__read_u64(p + 4);
    return QSAE_OK;
}

/* Room for names that were measured before. */
struct names {
    char *at, *end;
};

/* A copy that ends in NUL; NULL if the mapped file holds another name than when it was measured. */
static const char *keep_name(struct names *names, const char *s, uint64_t n)
{
    char *const name = names->at;

    if (n >= (uint64_t)(names->end - name))
        return NULL;
    memcpy(name, s, (size_t)n);
    name[n] = '\0';
    names->at += n + 1;
    return name;
}

static int32_t changed(const struct reader *r)
{
    return qsae__fail(QSAE_EIO, "%s: file changed while it was read", r->file->path);
}

/* Reads the pairs twice: the file is checked before memory is taken for it. */
static int32_t read_pairs(qsae__tensors *t, struct reader *r, uint64_t count, qsae__gguf **out)
{
    struct reader second = *r;
    qsae__pair pair;
    qsae__gguf *g;
    struct names names;
    size_t room = 0, bytes = 0;
    int32_t status;

    *out = NULL;
    if (count > (r->file->size - r->at) / PAIR_LEAST)
        return qsae__fail(QSAE_EFORMAT, "%s: %" PRIu64 " key/value pairs in a file of %" PRIu64
                          " bytes", r->file->path, count, r->file->size);
    for (uint64_t i = 0; i < count; i++) {
        status = read_pair(r, &pair);
        if (status != QSAE_OK)
            return status;
        room += pair.key_size + 1; /* no more than the file has bytes */
    }
    if (!qsae__bytes((int64_t)count, sizeof pair, &bytes))
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", r->file->path);
    g = qsae__set_alloc(t, sizeof *g);
    names.at = qsae__set_alloc(t, room);
    if (g == NULL || names.at == NULL)
        return QSAE_ENOMEM;
    names.end = names.at + room;
    g->path = r->file->path;
    g->size = r->file->size;
    g->count = (int64_t)count;
    g->pairs = qsae__set_alloc(t, bytes);
    if (g->pairs == NULL)
        return QSAE_ENOMEM;
    for (uint64_t i = 0; i < count; i++) {
        status = read_pair(&second, &g->pairs[i]);
        if (status != QSAE_OK)
            return status;
        g->pairs[i].key = keep_name(&names, g->pairs[i].key, g->pairs[i].key_size);
        if (g->pairs[i].key == NULL)
            return changed(r);
    }
    if (count > 1)
        qsort(g->pairs, (size_t)count, sizeof pair, qsae__pair_order);
    for (uint64_t i = 1; i < count; i++)
        if (strcmp(g->pairs[i - 1].key, g->pairs[i].key) == 0)
            return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\" occurs twice", r->file->path,
                              g->pairs[i].key);
    *out = g;
    return QSAE_OK;
}

/* dtype of a ggml type; 0: one that this library does not decode, or none. */
static int32_t dtype_of(uint32_t type)
{
    static const uint8_t plain[][2] = {
        { 0, QSAE_F32 }, { 1, QSAE_F16 }, { 24, QSAE_I8 }, { 25, QSAE_I16 }, { 26, QSAE_I32 },
        { 27, QSAE_I64 }, { 28, QSAE_F64 }, { 30, QSAE_BF16 },
    };
    int64_t elements, bytes;

    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (plain[i][0] == type)
            return plain[i][1];
    if (type < 100 && qsae_dtype_block((int32_t)type + 100, &elements, &bytes))
        return (int32_t)type + 100;
    return 0;
}

/* Names of ggml types that are not decoded, for messages. */
static const char *foreign_type(uint32_t type)
{
    static const struct {
        uint32_t type;
        const char *name;
    } names[] = {
        { 4, "Q4_2, removed from ggml" }, { 5, "Q4_3, removed from ggml" }, { 9, "Q8_1" },
        { 15, "Q8_K" }, { 31, "Q4_0_4_4, removed from ggml" },
        { 32, "Q4_0_4_8, removed from ggml" }, { 33, "Q4_0_8_8, removed from ggml" },
        { 36, "IQ4_NL_4_4, removed from ggml" }, { 37, "IQ4_NL_4_8, removed from ggml" },
        { 38, "IQ4_NL_8_8, removed from ggml" }, { 41, "Q1_0" },
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].type == type)
            return names[i].name;
    return "unknown";
}

/* Shape and size of a tensor; its data are checked by the caller. */
static int32_t describe(const struct info *info, const char *file, qsae__tensor *x)
{
    int64_t elements = 0, block = 0;

    x->rank = (int32_t)info->rank;
    x->dtype = dtype_of(info->type);
    if (x->dtype == 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": ggml type %" PRIu32 " (%s) is not "
                          "supported", file, x->name, info->type, foreign_type(info->type));
    for (uint32_t i = 0; i < info->rank; i++) {
        if (info->dims[i] == 0 || info->dims[i] > INT64_MAX)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": dims[%" PRIu32 "]: expected a "
                              "positive size, found %" PRIu64, file, x->name, i, info->dims[i]);
        x->shape[info->rank - 1 - i] = (int64_t)info->dims[i];
    }
    (void)qsae_dtype_block(x->dtype, &elements, &block);
    if (info->dims[0] % (uint64_t)elements != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": rows of %" PRIu64 " elements are no "
                          "whole %s blocks of %" PRId64, file, x->name, info->dims[0],
                          qsae_dtype_name(x->dtype), elements);
    if (!qsae__shape_bytes(x->shape, x->rank, x->dtype, &x->bytes))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": size overflows", file, x->name);
    return QSAE_OK;
}

/* A tensor's place, for the check that none lies in another. */
struct span {
    uint64_t begin, end;
    const char *name;
};

static int by_begin(const void *a, const void *b)
{
    const struct span *const x = a, *const y = b;

    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Where the tensors' data begin. */
static int32_t data_start(const qsae__gguf *g, const struct reader *r, uint64_t *alignment,
                          uint64_t *start)
{
    int64_t n = ALIGNMENT;
    const int32_t status = qsae__gguf_i64(g, "general.alignment", false, 8, 1 << 30, &n, NULL);

    if (status != QSAE_OK)
        return status;
    if ((n & (n - 1)) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: general.alignment: expected a power of two, found %"
                          PRId64, r->file->path, n);
    *alignment = (uint64_t)n;
    *start = r->at + ((uint64_t)n - r->at % (uint64_t)n) % (uint64_t)n;
    return QSAE_OK;
}

/* Where the data of tensor x lie: `offset` behind start. */
static int32_t place(const qsae__file *file, uint64_t alignment, uint64_t start, uint64_t offset,
                     qsae__tensor *x, struct span *span)
{
    uint64_t begin;

    if (offset % alignment != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": offset %" PRIu64 " is no multiple of "
                          "the alignment %" PRIu64, file->path, x->name, offset, alignment);
    if (!qsae__add_u64(start, offset, &begin) || !qsae__range_in(begin, x->bytes, file->size))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": %" PRIu64 " bytes at offset %" PRIu64
                          " of the data reach beyond the file's %" PRIu64 " bytes (truncated?)",
                          file->path, x->name, x->bytes, offset, file->size);
    *span = (struct span){ begin, begin + x->bytes, x->name };
    x->data = file->data + begin;
    return QSAE_OK;
}

/* infos: where the descriptions begin; `count` of them were checked to lie in the file. */
static int32_t add_tensors(qsae__tensors *t, struct reader infos, uint64_t count,
                           struct names names, uint64_t alignment, uint64_t start)
{
    const qsae__file *const file = infos.file;
    struct span *const spans = qsae__alloc_array(t->ctx, (int64_t)count, sizeof *spans);
    int32_t status;

    if (spans == NULL)
        return QSAE_ENOMEM;
    status = qsae__grow(t->ctx, &t->items, &t->capacity, t->count + (int64_t)count,
                        sizeof *t->items);
    for (uint64_t i = 0; i < count && status == QSAE_OK; i++) {
        qsae__tensor x = { .file = file->path };
        struct info info;
        status = read_info(&infos, &info);
        if (status == QSAE_OK) {
            x.name = keep_name(&names, info.name, info.name_size);
            status = x.name == NULL ? changed(&infos) : describe(&info, file->path, &x);
        }
        if (status == QSAE_OK)
            status = place(file, alignment, start, info.offset, &x, &spans[i]);
        if (status == QSAE_OK)
            status = qsae__set_add(t, &x);
    }
    if (status == QSAE_OK && count > 1)
        qsort(spans, (size_t)count, sizeof *spans, by_begin);
    for (uint64_t i = 1; i < count && status == QSAE_OK; i++)
        if (spans[i].begin < spans[i - 1].end)
            status = qsae__fail(QSAE_EFORMAT, "%s: tensors \"%s\" and \"%s\" overlap", file->path,
                                spans[i - 1].name, spans[i].name);
    qsae__free(t->ctx, spans);
    return status;
}

/* One file; pairs that stay in the set's memory. */
static int32_t read_one(qsae__tensors *t, const qsae__file *file, qsae__gguf **out)
{
    struct reader r = { .file = file }, infos;
    const uint8_t *const p = take(&r, HEADER_BYTES);
    uint64_t tensors, alignment = 0, start = 0;
    uint32_t version;
    struct names names;
    size_t room = 0;
    int32_t status;

    if (p == NULL)
        return truncated(&r, "header");
    version = qsae__read_u32(p + 4);
    if (version != 0 && (version & 0xffff) == 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: big-endian GGUF files are not supported",
                          file->path);
    if (version != 2 && version != 3)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: GGUF version %" PRIu32 " is not supported (2 and "
                          "3 are)", file->path, version);
    tensors = qsae__read_u64(p + 8);
    status = read_pairs(t, &r, qsae__read_u64(p + 16), out);
    if (status != QSAE_OK)
        return status;
    if (tensors > (file->size - r.at) / INFO_LEAST)
        return qsae__fail(QSAE_EFORMAT, "%s: %" PRIu64 " tensors in a file of %" PRIu64 " bytes",
                          file->path, tensors, file->size);
    infos = r;
    for (uint64_t i = 0; i < tensors; i++) {
        struct info info;
        status = read_info(&r, &info);
        if (status != QSAE_OK)
            return status;
        room += (size_t)info.name_size + 1;
    }
    status = data_start(*out, &r, &alignment, &start);
    if (status != QSAE_OK)
        return status;
    names.at = qsae__set_alloc(t, room);
    if (names.at == NULL)
        return QSAE_ENOMEM;
    names.end = names.at + room;
    return add_tensors(t, infos, tensors, names, alignment, start);
}

/* How a file says that it is one part of several (llama.cpp's gguf-split). */
static int32_t read_split(const qsae__gguf *g, int64_t *no, int64_t *count, int64_t *tensors)
{
    int32_t status;

    *no = 0;
    *count = 1;
    *tensors = -1;
    status = qsae__gguf_i64(g, "split.count", false, 0, 99999, count, NULL);
    if (status == QSAE_OK && *count > 1)
        status = qsae__gguf_i64(g, "split.no", true, 0, *count - 1, no, NULL);
    if (status == QSAE_OK && *count > 1)
        status = qsae__gguf_i64(g, "split.tensors.count", false, 0, INT64_MAX, tensors, NULL);
    return status;
}

/* Part i lies beside part 0: NAME-00001-of-00003.gguf, NAME-00002-of-00003.gguf, ... */
static int32_t read_part(qsae__tensors *t, const char *folder, char *name, int64_t i, int64_t count)
{
    char *const digits = name + strlen(name) - strlen("00001-of-00001.gguf");
    qsae__gguf *g = NULL;
    int64_t no, parts, tensors;
    char number[8];
    int32_t status;

    snprintf(number, sizeof number, "%05d", (int)(i + 1));
    memcpy(digits, number, 5);
    status = qsae__set_open_beside(t, folder, t->gguf->path, name);
    if (status == QSAE_OK)
        status = qsae__is_gguf(t->files[t->n_files - 1])
                     ? read_one(t, t->files[t->n_files - 1], &g)
                     : qsae__fail(QSAE_EFORMAT, "%s: part \"%s\" is no GGUF file", t->gguf->path,
                                  name);
    if (status == QSAE_OK)
        status = read_split(g, &no, &parts, &tensors);
    if (status == QSAE_OK && (parts != count || no != i))
        status = qsae__fail(QSAE_EFORMAT, "%s: expected part %" PRId64 " of %" PRId64 " (split.no, "
                            "split.count), found part %" PRId64 " of %" PRId64, g->path, i, count,
                            no, parts);
    return status;
}

static int32_t read_parts(qsae__tensors *t, int64_t no, int64_t count, int64_t tensors)
{
    const char *const path = t->gguf->path;
    const char *const slash = strrchr(path, '/');
    const char *const base = slash == NULL ? path : slash + 1;
    const size_t n = strlen(base);
    char ending[32], *folder, *name;
    int32_t status = QSAE_OK;

    if (no != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: part %" PRId64 " of a file split in %" PRId64 "; open "
                          "the first one, *-00001-of-%05" PRId64 ".gguf", path, no + 1, count,
                          count);
    snprintf(ending, sizeof ending, "-00001-of-%05d.gguf", (int)count);
    if (n < strlen(ending) || strcmp(base + n - strlen(ending), ending) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: one of %" PRId64 " parts (split.count) of a split "
                          "file; expected a name ending in %s", path, count, ending);
    folder = slash == NULL ? qsae__strdup(t->ctx, ".")
                           : qsae__strndup(t->ctx, path, (size_t)(slash - path) + 1);
    name = qsae__strdup(t->ctx, base);
    if (folder == NULL || name == NULL)
        status = QSAE_ENOMEM;
    for (int64_t i = 1; i < count && status == QSAE_OK; i++)
        status = read_part(t, folder, name, i, count);
    if (status == QSAE_OK && tensors >= 0 && tensors != t->count)
        status = qsae__fail(QSAE_EFORMAT, "%s: split.tensors.count: %" PRId64 ", the parts hold %"
                            PRId64, path, tensors, t->count);
    qsae__free(t->ctx, folder);
    qsae__free(t->ctx, name);
    return status;
}

bool qsae__is_gguf(const qsae__file *file)
{
    return file->size >= 4 && memcmp(file->data, "GGUF", 4) == 0;
}

int32_t qsae__gguf_read(qsae__tensors *t, const qsae__file *file)
{
    qsae__gguf *g = NULL;
    int64_t no, count, tensors;
    int32_t status = read_one(t, file, &g);

    if (status != QSAE_OK)
        return status;
    t->gguf = g;
    status = read_split(g, &no, &count, &tensors);
    if (status == QSAE_OK && count > 1)
        status = read_parts(t, no, count, tensors);
    return status;
}
