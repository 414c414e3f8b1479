/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/tensor.h>

#include "formats/set.h"

struct qsae_tensors {
    qsae__handle base;
    qsae_context *ctx;
    qsae__tensors *set;
};

qsae__tensors *qsae__tensors_of(const qsae_tensors *t)
{
    return t->set;
}

qsae_context *qsae__tensors_context(const qsae__tensors *t)
{
    return t->ctx;
}

int32_t qsae__set_new(qsae_context *ctx, const char *path, qsae__tensors **out)
{
    qsae__tensors *t = qsae__calloc(ctx, 1, sizeof *t);

    *out = NULL;
    if (t == NULL)
        return QSAE_ENOMEM;
    atomic_init(&t->refs, 1);
    t->ctx = qsae__context_ref(ctx);
    t->path = qsae__strdup(ctx, path);
    if (t->path == NULL) {
        qsae__tensors_unref(&t);
        return QSAE_ENOMEM;
    }
    *out = t;
    return QSAE_OK;
}

qsae__tensors *qsae__tensors_ref(qsae__tensors *t)
{
    if (t != NULL)
        atomic_fetch_add(&t->refs, 1);
    return t;
}

void qsae__tensors_unref(qsae__tensors **pt)
{
    qsae__tensors *t;
    qsae_context *ctx;

    if (pt == NULL || *pt == NULL)
        return;
    t = *pt;
    *pt = NULL;
    if (atomic_fetch_sub(&t->refs, 1) != 1)
        return;
    ctx = t->ctx;
    for (int64_t i = 0; i < t->n_files; i++)
        qsae__file_close(&t->files[i]);
    for (int64_t i = 0; i < t->n_blocks; i++)
        qsae__free(ctx, t->blocks[i].data);
    qsae__free(ctx, t->files);
    qsae__free(ctx, t->blocks);
    qsae__free(ctx, t->items);
    qsae__free(ctx, t->path);
    qsae__tensors_unref(&t->parent);
    qsae__free(ctx, t);
    qsae__context_unref(ctx);
}

int32_t qsae__set_add_file(qsae__tensors *t, qsae__file **file)
{
    const int32_t status = qsae__grow(t->ctx, &t->files, &t->files_capacity, t->n_files + 1,
                                      sizeof *t->files);

    if (status != QSAE_OK) {
        qsae__file_close(file);
        return status;
    }
    t->files[t->n_files++] = *file;
    *file = NULL;
    return QSAE_OK;
}

void *qsae__set_alloc(qsae__tensors *t, size_t size)
{
    void *p;

    if (qsae__grow(t->ctx, &t->blocks, &t->blocks_capacity, t->n_blocks + 1, sizeof *t->blocks) !=
        QSAE_OK)
        return NULL;
    p = qsae__alloc(t->ctx, size);
    if (p != NULL)
        t->blocks[t->n_blocks++] = (qsae__set_block){ p, size };
    return p;
}

static qsae__set_block *block_of(const qsae__tensors *t, const qsae__tensor *tensor)
{
    for (int64_t i = 0; i < t->n_blocks; i++)
        if (t->blocks[i].data == tensor->data && t->blocks[i].size == tensor->bytes)
            return &t->blocks[i];
    return NULL;
}

int32_t qsae__set_share(qsae__tensors *t, qsae__tensor *tensor)
{
    qsae__set_block *const b = t->ctx->shares ? block_of(t, tensor) : NULL;
    if (!b)
        return QSAE_OK;
    const int32_t st = qsae__share(t->ctx, &b->data, b->size);
    tensor->data = b->data;
    return st;
}

/* Whether another tensor of the set begins in the data of that one. */
static bool is_part(const qsae__tensors *t, int64_t at)
{
    const uintptr_t from = (uintptr_t)t->items[at].data;
    for (int64_t i = 0; i < t->count; i++)
        if (i != at && (uintptr_t)t->items[i].data - from < t->items[at].bytes)
            return true;
    return false;
}

int32_t qsae__tensors_share(qsae__tensors *t)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; t->ctx->shares && i < t->count && st == QSAE_OK; i++)
        if (block_of(t, &t->items[i]) && !is_part(t, i))
            st = qsae__set_share(t, &t->items[i]);
    return st;
}

int32_t qsae__set_add(qsae__tensors *t, const qsae__tensor *tensor)
{
    const int32_t status = qsae__grow(t->ctx, &t->items, &t->capacity, t->count + 1,
                                      sizeof *t->items);

    if (status == QSAE_OK)
        t->items[t->count++] = *tensor;
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const qsae__tensor *)a)->name, ((const qsae__tensor *)b)->name);
}

int32_t qsae__set_finish(qsae__tensors *t)
{
    if (t->count > 1)
        qsort(t->items, (size_t)t->count, sizeof *t->items, by_name);
    for (int64_t i = 1; i < t->count; i++)
        if (strcmp(t->items[i - 1].name, t->items[i].name) == 0)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\" occurs twice (%s and %s)", t->path,
                              t->items[i].name, t->items[i - 1].file, t->items[i].file);
    return QSAE_OK;
}

bool qsae__shape_bytes(const int64_t *shape, int32_t rank, int32_t dtype, uint64_t *bytes)
{
    int64_t n = 1, elements = 1, block = 0;
    uint64_t bits;

    for (int32_t i = 0; i < rank; i++)
        if (shape[i] < 0 || !qsae__mul_i64(n, shape[i], &n))
            return false;
    if (qsae_dtype_block(dtype, &elements, &block) && elements > 1)
        return rank > 0 && shape[rank - 1] % elements == 0 &&
               qsae__mul_u64((uint64_t)(n / elements), (uint64_t)block, bytes);
    if (!qsae__mul_u64((uint64_t)n, (uint64_t)qsae_dtype_bits(dtype), &bits) || bits % 8 != 0)
        return false;
    *bytes = bits / 8;
    return true;
}

int64_t qsae__tensors_len(const qsae__tensors *t)
{
    return t->count;
}

const qsae__tensor *qsae__tensors_at(const qsae__tensors *t, int64_t i)
{
    return i >= 0 && i < t->count ? &t->items[i] : NULL;
}

const qsae__tensor *qsae__tensors_find(const qsae__tensors *t, const char *name)
{
    const qsae__tensor key = { .name = name };

    if (t->count == 0)
        return NULL;
    return bsearch(&key, t->items, (size_t)t->count, sizeof *t->items, by_name);
}

/* Data of the set's own memory lie in no file, and qsae__file_* leave them alone. */
void qsae__tensor_release(const qsae__tensors *t, const qsae__tensor *x)
{
    for (const qsae__tensors *s = t; s != NULL; s = s->parent)
        for (int64_t i = 0; i < s->n_files; i++)
            qsae__file_release(s->files[i], x->data, (size_t)x->bytes);
}

int qsae__tensor_reopen(const qsae__tensors *t, const qsae__tensor *x, uint64_t *offset)
{
    const uintptr_t at = (uintptr_t)x->data;

    for (const qsae__tensors *s = t; s != NULL; s = s->parent)
        for (int64_t i = 0; i < s->n_files; i++) {
            const uintptr_t base = (uintptr_t)s->files[i]->data;
            if (at >= base && at - base < s->files[i]->size) {
                *offset = at - base;
                return qsae__file_reopen(s->files[i]);
            }
        }
    return -1;
}

void qsae__tensor_expect(const qsae__tensors *t, const qsae__tensor *x)
{
    for (const qsae__tensors *s = t; s != NULL; s = s->parent)
        for (int64_t i = 0; i < s->n_files; i++)
            qsae__file_expect(s->files[i], x->data, (size_t)x->bytes);
}

const char *qsae__tensors_metadata(const qsae__tensors *t, const char *key)
{
    for (int64_t i = 0; i < t->n_metadata; i++)
        if (strcmp(t->metadata[i].key, key) == 0)
            return t->metadata[i].value;
    return NULL;
}

static void shape_text(const int64_t *shape, int32_t rank, char *text, size_t size)
{
    size_t at = 0;

    for (int32_t i = 0; i < rank && at < size; i++) {
        const char *comma = i == 0 ? "" : ", ";
        const int n = shape[i] < 0 ? snprintf(text + at, size - at, "%s*", comma)
                                   : snprintf(text + at, size - at, "%s%lld", comma,
                                              (long long)shape[i]);
        at += n > 0 ? (size_t)n : 0;
    }
    if (rank == 0)
        text[0] = '\0';
}

int32_t qsae__tensors_need(const qsae__tensors *t, const char *name, int32_t rank,
                           const int64_t *shape, const qsae__tensor **out)
{
    const qsae__tensor *found = qsae__tensors_find(t, name);
    char want[192], have[192];
    bool same;

    *out = NULL;
    if (found == NULL)
        return qsae__fail(QSAE_ENOENT, "%s: tensor \"%s\" is missing", t->path, name);
    same = rank < 0 || found->rank == rank;
    for (int32_t i = 0; same && shape != NULL && i < rank; i++)
        same = shape[i] < 0 || found->shape[i] == shape[i];
    if (!same) {
        shape_text(found->shape, found->rank, have, sizeof have);
        if (shape == NULL)
            return qsae__fail(QSAE_EMISMATCH, "%s: tensor \"%s\": expected rank %d, found shape "
                              "[%s]", found->file, name, rank, have);
        shape_text(shape, rank, want, sizeof want);
        return qsae__fail(QSAE_EMISMATCH, "%s: tensor \"%s\": expected shape [%s], found [%s]",
                          found->file, name, want, have);
    }
    *out = found;
    return QSAE_OK;
}

int32_t qsae_tensors_open(qsae_context *context, const char *path, qsae_tensors **out)
{
    QSAE__FPENV;
    qsae_tensors *t;
    int32_t status;

    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (path == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_tensors_open: path is NULL");
    t = qsae__calloc(context, 1, sizeof *t);
    if (t == NULL)
        return QSAE_ENOMEM;
    status = qsae__tensors_load(context, path, &t->set);
    if (status != QSAE_OK) {
        qsae__free(context, t);
        return status;
    }
    qsae__handle_init(t);
    t->ctx = qsae__context_ref(context);
    *out = t;
    return QSAE_OK;
}

void qsae_tensors_close(qsae_tensors **tensors)
{
    qsae_context *ctx;

    if (!qsae__leave(tensors, "tensors"))
        return;
    ctx = (*tensors)->ctx;
    qsae__tensors_unref(&(*tensors)->set);
    qsae__retire(ctx, *tensors);
    *tensors = NULL;
    qsae__context_unref(ctx);
}

int64_t qsae_tensors_count(const qsae_tensors *tensors)
{
    return qsae__is_open(tensors) ? qsae__tensors_len(tensors->set) : 0;
}

int32_t qsae_tensors_get(const qsae_tensors *tensors, int64_t i, qsae_tensor_info *info)
{
    const qsae__tensor *t;
    qsae_tensor_info full = { .struct_size = sizeof full };

    if (qsae__need(tensors, "tensors"))
        return QSAE_EINVAL;
    if (info == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_tensors_get: info is NULL");
    t = qsae__tensors_at(tensors->set, i);
    if (t == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_tensors_get: index %lld, there are %lld tensors",
                          (long long)i, (long long)qsae__tensors_len(tensors->set));
    full.name = t->name;
    full.file = t->file;
    memcpy(full.shape, t->shape, sizeof full.shape);
    full.bytes = t->bytes;
    full.rank = t->rank;
    full.dtype = t->dtype;
    return qsae__info_copy(info, &full, sizeof full, "qsae_tensor_info");
}
