/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_HASH_H
#define QSAE_CORE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "core/context.h"

/* XXH3-128 as 32 lower-case hex digits and a NUL. The one hash of the library. */
#define QSAE__HASH_SIZE 33

void qsae__hash(const void *data, size_t size, char hex[QSAE__HASH_SIZE]);

typedef struct qsae__hasher qsae__hasher;
int32_t qsae__hasher_open(qsae_context *ctx, qsae__hasher **out);
void qsae__hasher_update(qsae__hasher *h, const void *data, size_t size);
/* Length and bytes, so that adjacent strings cannot run together. */
void qsae__hasher_string(qsae__hasher *h, const char *s);
void qsae__hasher_i64(qsae__hasher *h, int64_t v);
void qsae__hasher_hex(const qsae__hasher *h, char hex[QSAE__HASH_SIZE]);
void qsae__hasher_close(qsae_context *ctx, qsae__hasher **h);

#endif
