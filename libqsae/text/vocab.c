/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/vocab.h"

#include <string.h>

#include <xxhash.h>

#include "formats/members.h"

static uint64_t string_hash(const qsae__vocab *v, const char *s, size_t size)
{
    return XXH3_64bits_withSeed(s, size, v->ctx->seed.add);
}

static int64_t power_of_two(int64_t at_least)
{
    int64_t n = 16;

    while (n < at_least)
        n *= 2;
    return n;
}

/* How many entries there are, bytes that hold their names, and the highest id + 1. */
static int32_t check_entries(const char *text, size_t size, const char *where, int64_t limit,
                             int64_t *entries, size_t *bytes, int64_t *count)
{
    qsae__members m;
    qsae__member e;
    bool more;
    int32_t status = qsae__members_open(&m, text, size, where);

    *bytes = 0;
    *entries = *count = 0;
    while (status == QSAE_OK && (status = qsae__members_next(&m, &e, &more)) == QSAE_OK && more) {
        int64_t id = -1;
        const bool whole = qsae__json_integer(e.value, e.value_size, &id);
        if (!whole || id < 0 || id >= limit || id >= INT32_MAX)
            return qsae__fail(QSAE_EFORMAT, "%s: vocab %.*s: expected an id of 0 to %lld, found "
                              "%s", where, (int)qsae__min_i64((int64_t)e.key_size, 100), e.key,
                              (long long)limit - 1,
                              whole ? "one outside" : qsae__json_kind(e.value));
        ++*entries;
        *bytes += e.key_size - 1; /* no quotes, but a NUL; less than the file */
        *count = qsae__max_i64(*count, id + 1);
    }
    if (status == QSAE_OK && *bytes >= UINT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: vocab of %zu bytes", where, *bytes);
    return status;
}

int32_t qsae__vocab_reserve(qsae__vocab *v, qsae_context *ctx, int64_t count, int64_t entries,
                            size_t bytes)
{
    v->ctx = ctx;
    v->count = count;
    v->n_slots = power_of_two(entries + entries / 2);
    v->bytes = qsae__alloc(ctx, bytes);
    v->offsets = qsae__calloc(ctx, count, sizeof *v->offsets);
    v->sizes = qsae__alloc_array(ctx, count, sizeof *v->sizes);
    v->slots = qsae__calloc(ctx, v->n_slots, sizeof *v->slots);
    if (v->bytes == NULL || v->offsets == NULL || v->sizes == NULL || v->slots == NULL)
        return QSAE_ENOMEM;
    memset(v->sizes, 0xff, (size_t)count * sizeof *v->sizes);
    return QSAE_OK;
}

void qsae__vocab_add(qsae__vocab *v, int64_t id, size_t size, int32_t before)
{
    const char *const s = v->bytes + v->used;
    const uint64_t mask = (uint64_t)(v->n_slots - 1);

    v->offsets[id] = v->used;
    v->sizes[id] = (uint32_t)size;
    v->used += (uint32_t)size;
    uint64_t i = string_hash(v, s, size) & mask;
    while (v->slots[i] != 0 && v->slots[i] != (uint32_t)(before + 1))
        i = (i + 1) & mask;
    v->slots[i] = (uint32_t)id + 1;
}

static int32_t add_entry(qsae__vocab *v, const qsae__member *e, const char *where)
{
    char *const text = v->bytes + v->used;
    int64_t id = 0;
    const int32_t status = qsae__json_decode(e->key, e->key_size, where, text);

    if (status != QSAE_OK)
        return status;
    const size_t size = strlen(text);
    (void)qsae__json_integer(e->value, e->value_size, &id); /* was looked at before */
    if (id < 0 || id >= v->count)
        return qsae__fail(QSAE_EIO, "%s: file changed while it was read", where);
    if (qsae__vocab_find(v, text, size) >= 0)
        return qsae__fail(QSAE_EFORMAT, "%s: vocab: duplicate key \"%.100s\"", where, text);
    if (v->sizes[id] != UINT32_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: vocab: id %lld belongs to two tokens", where,
                          (long long)id);
    qsae__vocab_add(v, id, size, -1);
    return QSAE_OK;
}

int32_t qsae__vocab_read(qsae__vocab *v, qsae_context *ctx, const char *text, size_t size,
                         const char *where, int64_t limit)
{
    qsae__members m;
    qsae__member e;
    size_t bytes;
    int64_t count;
    bool more;
    int32_t status = check_entries(text, size, where, limit, &v->entries, &bytes, &count);

    if (status == QSAE_OK)
        status = qsae__vocab_reserve(v, ctx, count, v->entries, bytes);
    if (status == QSAE_OK)
        status = qsae__members_open(&m, text, size, where);
    for (int64_t i = 0; status == QSAE_OK; i++) {
        status = qsae__members_next(&m, &e, &more);
        if (status != QSAE_OK || !more)
            break;
        if (i == v->entries || v->used + e.key_size - 1 > bytes)
            return qsae__fail(QSAE_EIO, "%s: file changed while it was read", where);
        status = add_entry(v, &e, where);
    }
    return status;
}

int32_t qsae__vocab_build(qsae__vocab *v, qsae_context *ctx, const qsae__slice *texts,
                          int64_t count, bool repeats, const char *where)
{
    size_t bytes = 0;
    int32_t status;

    for (int64_t id = 0; id < count; id++)
        if (!qsae__add_size(bytes, texts[id].size, &bytes))
            bytes = SIZE_MAX;
    if (bytes >= UINT32_MAX || count >= INT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: %lld tokens of %zu bytes", where, (long long)count,
                          bytes);
    status = qsae__vocab_reserve(v, ctx, count, count, bytes);
    for (int64_t id = 0; id < count && status == QSAE_OK; id++) {
        const qsae__slice text = texts[id];
        const int32_t before = qsae__vocab_find(v, text.data, text.size);
        if (before >= 0 && !repeats)
            return qsae__fail(QSAE_EFORMAT, "%s: \"%.*s\" is token %d and token %lld", where,
                              (int)qsae__min_i64((int64_t)text.size, 100), text.data, before,
                              (long long)id);
        if (text.size > 0) {
            memcpy(v->bytes + v->used, text.data, text.size);
            qsae__vocab_add(v, id, text.size, before);
        } else { /* offset 0, in no slot */
            v->sizes[id] = 0;
        }
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

int64_t qsae__vocab_bytes(const qsae__vocab *v)
{
    int64_t bytes = 0;

    for (int64_t id = 0; id < v->count; id++)
        bytes += v->sizes[id] != UINT32_MAX ? v->sizes[id] : 0;
    return bytes;
}

int32_t qsae__vocab_find(const qsae__vocab *v, const char *s, size_t size)
{
    const uint64_t mask = (uint64_t)(v->n_slots - 1);
    uint64_t i;

    if (v->n_slots == 0)
        return -1;
    for (i = string_hash(v, s, size) & mask; v->slots[i] != 0; i = (i + 1) & mask) {
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
                i = qsae__seed_hash(&s->ctx->seed, keys[k]) & (uint64_t)(slots - 1);
                while (grown[i] != UINT64_MAX)
                    i = (i + 1) & (uint64_t)(slots - 1);
                grown[i] = keys[k];
            }
        qsae__free(s->ctx, keys);
        s->keys = grown;
        s->slots = slots;
    }
    i = qsae__seed_hash(&s->ctx->seed, pair) & (uint64_t)(s->slots - 1);
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
