/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/vocab.h"

#include <string.h>

#include <xxhash.h>

static uint64_t string_hash(const char *s, size_t size)
{
    return XXH3_64bits(s, size);
}

static int64_t power_of_two(int64_t at_least)
{
    int64_t n = 16;

    while (n < at_least)
        n *= 2;
    return n;
}

static int32_t check_entries(json_t *json, const char *where, int64_t limit, size_t *bytes,
                             int64_t *count)
{
    const char *key;
    json_t *value;

    *bytes = 0;
    *count = 0;
    json_object_foreach(json, key, value) {
        const int64_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= limit || id >= INT32_MAX)
            return qsae__fail(QSAE_EFORMAT, "%s: vocab \"%s\": expected an id of 0 to %lld, found "
                              "%s", where, key, (long long)limit - 1,
                              json_is_integer(value) ? "one outside" : qsae__json_type_name(value));
        *bytes += strlen(key); /* less than the file */
        *count = qsae__max_i64(*count, id + 1);
    }
    if (*bytes >= UINT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: vocab of %zu bytes", where, *bytes);
    return QSAE_OK;
}

static int32_t reserve(qsae__vocab *v, qsae_context *ctx, int64_t count, int64_t entries,
                       size_t bytes)
{
    v->ctx = ctx;
    v->count = count;
    v->n_slots = power_of_two(entries * 2);
    v->bytes = qsae__alloc(ctx, bytes);
    v->offsets = qsae__calloc(ctx, count, sizeof *v->offsets);
    v->sizes = qsae__alloc_array(ctx, count, sizeof *v->sizes);
    v->slots = qsae__calloc(ctx, v->n_slots, sizeof *v->slots);
    if (v->bytes == NULL || v->offsets == NULL || v->sizes == NULL || v->slots == NULL)
        return QSAE_ENOMEM;
    memset(v->sizes, 0xff, (size_t)count * sizeof *v->sizes);
    return QSAE_OK;
}

/* `old`: the id of the same text, whose place it takes; -1 if there is none. */
static void insert(qsae__vocab *v, uint32_t id, int32_t old, const char *s, size_t size)
{
    const uint64_t mask = (uint64_t)(v->n_slots - 1);
    uint64_t i = string_hash(s, size) & mask;

    while (v->slots[i] != 0 && v->slots[i] != (uint32_t)(old + 1))
        i = (i + 1) & mask;
    v->slots[i] = id + 1;
}

int32_t qsae__vocab_read(qsae__vocab *v, qsae_context *ctx, const json_t *json, const char *where,
                         int64_t limit)
{
    json_t *object = (json_t *)(uintptr_t)json; /* jansson's iterators take no const */
    const char *key;
    json_t *value;
    size_t bytes;
    int64_t count;
    uint32_t at = 0;
    int32_t status = check_entries(object, where, limit, &bytes, &count);

    if (status == QSAE_OK)
        status = reserve(v, ctx, count, (int64_t)json_object_size(json), bytes);
    if (status != QSAE_OK)
        return status;
    json_object_foreach(object, key, value) {
        const uint32_t id = (uint32_t)json_integer_value(value), size = (uint32_t)strlen(key);
        if (v->sizes[id] != UINT32_MAX)
            return qsae__fail(QSAE_EFORMAT, "%s: vocab: id %u belongs to two tokens", where, id);
        memcpy(v->bytes + at, key, size);
        v->offsets[id] = at;
        v->sizes[id] = size;
        insert(v, id, -1, key, size);
        at += size;
    }
    return QSAE_OK;
}

int32_t qsae__vocab_build(qsae__vocab *v, qsae_context *ctx, const qsae__slice *texts,
                          int64_t count, bool repeats, const char *where)
{
    size_t bytes = 0;
    uint32_t at = 0;
    int32_t status;

    for (int64_t id = 0; id < count; id++)
        if (!qsae__add_size(bytes, texts[id].size, &bytes))
            bytes = SIZE_MAX;
    if (bytes >= UINT32_MAX || count >= INT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: %lld tokens of %zu bytes", where, (long long)count,
                          bytes);
    status = reserve(v, ctx, count, count, bytes);
    for (int64_t id = 0; id < count && status == QSAE_OK; id++) {
        const qsae__slice text = texts[id];
        const int32_t before = qsae__vocab_find(v, text.data, text.size);
        if (before >= 0 && !repeats)
            return qsae__fail(QSAE_EFORMAT, "%s: \"%.*s\" is token %d and token %lld", where,
                              (int)qsae__min_i64((int64_t)text.size, 100), text.data, before,
                              (long long)id);
        v->offsets[id] = at;
        v->sizes[id] = (uint32_t)text.size;
        if (text.size == 0)
            continue;
        memcpy(v->bytes + at, text.data, text.size);
        insert(v, (uint32_t)id, before, text.data, text.size);
        at += (uint32_t)text.size;
    }
    return status;
}

void qsae__vocab_free(qsae__vocab *v)
{
    if (v->ctx == NULL)
        return;
    qsae__free(v->ctx, v->bytes);
    qsae__free(v->ctx, v->offsets);
    qsae__free(v->ctx, v->sizes);
    qsae__free(v->ctx, v->slots);
    memset(v, 0, sizeof *v);
}

int32_t qsae__vocab_find(const qsae__vocab *v, const char *s, size_t size)
{
    const uint64_t mask = (uint64_t)(v->n_slots - 1);
    uint64_t i;

    if (v->n_slots == 0)
        return -1;
    for (i = string_hash(s, size) & mask; v->slots[i] != 0; i = (i + 1) & mask) {
        const uint32_t id = v->slots[i] - 1;
        if (v->sizes[id] == size && memcmp(v->bytes + v->offsets[id], s, size) == 0)
            return (int32_t)id;
    }
    return -1;
}

int32_t qsae__pair_set_add(qsae__pair_set *s, uint64_t pair)
{
    uint64_t i;

    if (qsae__pair_set_has(s, pair))
        return QSAE_OK;
    if (s->count * 2 >= s->slots) {
        const int64_t old = s->slots, slots = old == 0 ? 64 : old * 2;
        uint64_t *keys = s->keys, *grown = qsae__alloc_array(s->ctx, slots, sizeof *keys);
        if (grown == NULL)
            return QSAE_ENOMEM;
        memset(grown, 0xff, (size_t)slots * sizeof *keys);
        for (int64_t k = 0; k < old; k++)
            if (keys[k] != UINT64_MAX) {
                i = qsae__pair_hash(keys[k]) & (uint64_t)(slots - 1);
                while (grown[i] != UINT64_MAX)
                    i = (i + 1) & (uint64_t)(slots - 1);
                grown[i] = keys[k];
            }
        qsae__free(s->ctx, keys);
        s->keys = grown;
        s->slots = slots;
    }
    i = qsae__pair_hash(pair) & (uint64_t)(s->slots - 1);
    while (s->keys[i] != UINT64_MAX)
        i = (i + 1) & (uint64_t)(s->slots - 1);
    s->keys[i] = pair;
    s->count++;
    return QSAE_OK;
}

void qsae__pair_set_free(qsae__pair_set *s)
{
    if (s->ctx != NULL)
        qsae__free(s->ctx, s->keys);
    s->keys = NULL;
    s->slots = s->count = 0;
}
