/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/memory.h"

#include <errno.h>
#include <string.h>

#include "core/checked.h"
#include "core/shared.h"
#include "core/status.h"

void *qsae__alloc(qsae_context *ctx, size_t size)
{
    size_t rounded;
    void *p = NULL;
    if (qsae__add_size(size ? size : 1, 63, &rounded))
        p = ctx->alloc(ctx->alloc_cookie, rounded & ~(size_t)63, 64);
    if (!p) {
        qsae__fail(QSAE_ENOMEM, "out of memory: %zu bytes", size);
        errno = ENOMEM; /* as malloc leaves it: a host's allocator may not */
    }
    return p;
}

void *qsae__alloc_array(qsae_context *ctx, int64_t count, size_t size)
{
    size_t bytes;
    if (!qsae__bytes(count, size, &bytes)) {
        qsae__fail(QSAE_ENOMEM, "out of memory: %lld elements of %zu bytes", (long long)count,
                   size);
        return NULL;
    }
    return qsae__alloc(ctx, bytes);
}

void *qsae__calloc(qsae_context *ctx, int64_t count, size_t size)
{
    void *p = qsae__alloc_array(ctx, count, size);
    if (p)
        memset(p, 0, (size_t)count * size);
    return p;
}

void qsae__free(qsae_context *ctx, void *p)
{
    if (p && !(ctx->shares && qsae__share_end(ctx, p)))
        ctx->free(ctx->alloc_cookie, p);
}

/* *p holds n elements from now on, more than it did. */
static int32_t move(qsae_context *ctx, void *p, int64_t *capacity, int64_t n, size_t size)
{
    void *old;
    memcpy(&old, p, sizeof old);
    void *grown = qsae__alloc_array(ctx, n, size);
    if (!grown)
        return QSAE_ENOMEM;
    if (old)
        memcpy(grown, old, (size_t)*capacity * size);
    qsae__free(ctx, old);
    memcpy(p, &grown, sizeof grown);
    *capacity = n;
    return QSAE_OK;
}

int32_t qsae__grow(qsae_context *ctx, void *p, int64_t *capacity, int64_t need, size_t size)
{
    if (need <= *capacity)
        return QSAE_OK;
    int64_t n = *capacity < 16 ? 16 : *capacity;
    while (n < need)
        if (!qsae__mul_i64(n, 2, &n))
            return qsae__fail(QSAE_ENOMEM, "out of memory: %lld elements", (long long)need);
    return move(ctx, p, capacity, n, size);
}

int32_t qsae__widen(qsae_context *ctx, void *p, int64_t *capacity, int64_t need, size_t size)
{
    int64_t n;
    if (need <= *capacity)
        return QSAE_OK;
    if (!qsae__add_i64(*capacity, *capacity / 4 + 64, &n) || n < need)
        n = need;
    return move(ctx, p, capacity, n, size);
}

char *qsae__strndup(qsae_context *ctx, const char *s, size_t n)
{
    size_t bytes;
    char *copy = qsae__add_size(n, 1, &bytes) ? qsae__alloc(ctx, bytes) : NULL;
    if (!copy)
        return NULL;
    memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

char *qsae__strdup(qsae_context *ctx, const char *s)
{
    return qsae__strndup(ctx, s, strlen(s));
}
