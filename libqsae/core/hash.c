/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/hash.h"

#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "core/memory.h"
#include "core/status.h"

struct qsae__hasher {
    XXH3_state_t *state;
};

static void to_hex(XXH128_hash_t h, char hex[QSAE__HASH_SIZE])
{
    snprintf(hex, QSAE__HASH_SIZE, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

void qsae__hash(const void *data, size_t size, char hex[QSAE__HASH_SIZE])
{
    to_hex(XXH3_128bits(data, size), hex);
}

int32_t qsae__hasher_open(qsae_context *ctx, qsae__hasher **out)
{
    qsae__hasher *h = qsae__alloc(ctx, sizeof *h);
    *out = NULL;
    if (!h)
        return QSAE_ENOMEM;
    h->state = XXH3_createState();
    if (!h->state) {
        qsae__free(ctx, h);
        return qsae__fail(QSAE_ENOMEM, "out of memory: a hash state");
    }
    XXH3_128bits_reset(h->state);
    *out = h;
    return QSAE_OK;
}

void qsae__hasher_update(qsae__hasher *h, const void *data, size_t size)
{
    XXH3_128bits_update(h->state, data, size);
}

void qsae__hasher_i64(qsae__hasher *h, int64_t v)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)v >> (8 * i));
    qsae__hasher_update(h, bytes, sizeof bytes);
}

void qsae__hasher_string(qsae__hasher *h, const char *s)
{
    const size_t n = strlen(s);
    qsae__hasher_i64(h, (int64_t)n);
    qsae__hasher_update(h, s, n);
}

void qsae__hasher_hex(const qsae__hasher *h, char hex[QSAE__HASH_SIZE])
{
    to_hex(XXH3_128bits_digest(h->state), hex);
}

void qsae__hasher_close(qsae_context *ctx, qsae__hasher **h)
{
    if (!h || !*h)
        return;
    XXH3_freeState((*h)->state);
    qsae__free(ctx, *h);
    *h = NULL;
}
