/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_STRBUF_H
#define QSAE_CORE_STRBUF_H

#include "core/context.h"
#include "core/status.h"

/* A growing byte string; after an allocation failure it stays failed and appends do nothing. */
typedef struct qsae__strbuf {
    qsae_context *ctx;
    char *data;        /* NUL-terminated once anything was appended */
    int64_t size;      /* without the NUL */
    int64_t capacity;
    int32_t status;
} qsae__strbuf;

void qsae__strbuf_init(qsae__strbuf *b, qsae_context *ctx);
void qsae__strbuf_free(qsae__strbuf *b);
void qsae__strbuf_add(qsae__strbuf *b, const void *data, size_t size);
void qsae__strbuf_addf(qsae__strbuf *b, const char *format, ...) QSAE__PRINTF(2, 3);

#endif
