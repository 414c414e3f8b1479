/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"

void qsae__strbuf_init(qsae__strbuf *b, qsae_context *ctx)
{
    *b = (qsae__strbuf){ .ctx = ctx };
}

void qsae__strbuf_free(qsae__strbuf *b)
{
    if (b->ctx)
        qsae__free(b->ctx, b->data);
    *b = (qsae__strbuf){ .ctx = b->ctx };
}

void qsae__strbuf_add(qsae__strbuf *b, const void *data, size_t size)
{
    int64_t need;
    if (b->status != QSAE_OK)
        return;
    if (size > INT64_MAX / 2 || !qsae__add_i64(b->size + 1, (int64_t)size, &need))
        b->status = qsae__fail(QSAE_ENOMEM, "out of memory: a string of %zu bytes", size);
    else
        b->status = qsae__grow(b->ctx, &b->data, &b->capacity, need, 1);
    if (b->status != QSAE_OK)
        return;
    if (size)
        memcpy(b->data + b->size, data, size);
    b->size += (int64_t)size;
    b->data[b->size] = 0;
}

void qsae__strbuf_addf(qsae__strbuf *b, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof text) {
        qsae__strbuf_add(b, text, (size_t)n);
        return;
    }
    if (n < 0 || b->status != QSAE_OK) {
        if (b->status == QSAE_OK)
            b->status = qsae__fail(QSAE_EINTERNAL, "cannot format a string");
        return;
    }
    b->status = qsae__grow(b->ctx, &b->data, &b->capacity, b->size + n + 1, 1);
    if (b->status != QSAE_OK)
        return;
    va_start(args, format);
    vsnprintf(b->data + b->size, (size_t)n + 1, format, args);
    va_end(args);
    b->size += n;
}
