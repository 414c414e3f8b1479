/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_SPOOL_H
#define QSAE_CORE_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "core/context.h"

/*
 * A temporary file without a name: it is gone when it is closed, or the process ends however it
 * does. What is read back is checked against what was written.
 */
typedef struct qsae__spool qsae__spool;

typedef struct qsae__spooled {
    uint64_t offset, size;
    char hash[33];           /* of the bytes */
} qsae__spooled;

/* In a folder that has room for `bytes`; QSAE_EIO tells how much there is. */
int32_t qsae__spool_open(qsae_context *ctx, const char *folder, uint64_t bytes, qsae__spool **out);
void qsae__spool_close(qsae__spool **spool);
int32_t qsae__spool_append(qsae__spool *s, const void *data, size_t size, qsae__spooled *where);
int32_t qsae__spool_read(const qsae__spool *s, const qsae__spooled *where, void *data);

#endif
