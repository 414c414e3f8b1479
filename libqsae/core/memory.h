/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_MEMORY_H
#define QSAE_CORE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "core/context.h"

/* 64-byte aligned memory of the context's allocator. NULL with QSAE_ENOMEM's message set. Size 0
 * gives a valid pointer. */
void *qsae__alloc(qsae_context *ctx, size_t size);

/* count * size bytes, zeroed; an overflow is out of memory. */
void *qsae__calloc(qsae_context *ctx, int64_t count, size_t size);

/* count * size bytes, not zeroed. */
void *qsae__alloc_array(qsae_context *ctx, int64_t count, size_t size);

void qsae__free(qsae_context *ctx, void *p);

/* Makes *p (of *capacity elements) hold at least need elements of size bytes, doubling; contents
 * are kept. QSAE_OK or QSAE_ENOMEM with *p unchanged. */
int32_t qsae__grow(qsae_context *ctx, void *p, int64_t *capacity, int64_t need, size_t size);

/* The same by a quarter at a time, for what much memory goes into: less of it is empty, and less
 * lies beside its copy. */
int32_t qsae__widen(qsae_context *ctx, void *p, int64_t *capacity, int64_t need, size_t size);

char *qsae__strdup(qsae_context *ctx, const char *s);
char *qsae__strndup(qsae_context *ctx, const char *s, size_t n);

#endif
