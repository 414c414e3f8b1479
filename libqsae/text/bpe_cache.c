/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ids of words met before. A word's ids depend on its bytes alone, so a table in which the latest
 * word of a slot stays changes nothing but the time: about nine words in ten of a text are hits.
 */
#include <string.h>

#include <xxhash.h>

#include "text/bpe.h"

#define SLOTS_MAX (1 << 14) /* 1 MiB of entries: second-level cache */

int32_t qsae__bpe_scratch_expect(qsae__bpe_scratch *s, size_t size)
{
    int64_t slots = s->cache_slots;

    if (size < 256) /* not worth an allocation */
        return QSAE_OK;
    if (slots == 0)
        slots = 64;
    while (slots < SLOTS_MAX && (size_t)slots < size / 4)
        slots *= 2;
    if (slots == s->cache_slots)
        return QSAE_OK;
    qsae__free(s->ctx, s->cache);
    s->cache_slots = 0;
    s->cache = qsae__calloc(s->ctx, slots, sizeof *s->cache);
    if (s->cache == NULL)
        return QSAE_ENOMEM;
    s->cache_slots = slots;
    return QSAE_OK;
}

qsae__cached *qsae__bpe_cached(const qsae__bpe_scratch *s, const char *text, size_t size)
{
    if (s->cache_slots == 0 || size > QSAE__CACHED_TEXT)
        return NULL;
    return &s->cache[XXH3_64bits(text, size) & (uint64_t)(s->cache_slots - 1)];
}

bool qsae__bpe_cached_is(const qsae__cached *c, const char *text, size_t size)
{
    return c != NULL && c->size == size && memcmp(c->text, text, size) == 0;
}

void qsae__bpe_cached_set(qsae__cached *c, const char *text, size_t size, const qsae__ids *ids,
                          int64_t first)
{
    const int64_t n = ids->count - first;

    if (c == NULL || n > QSAE__CACHED_IDS)
        return;
    c->size = (uint8_t)size;
    c->n = (uint8_t)n;
    memcpy(c->text, text, size);
    if (n > 0) /* else the list may have no array yet */
        memcpy(c->ids, ids->data + first, (size_t)n * sizeof *ids->data);
}
