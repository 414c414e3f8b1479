/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory that is never written again, held once by all processes (and all owners in a process) that
 * have the same bytes: qsae_context_settings.share_folder. A file there is named after its bytes,
 * HASH-SIZE with their XXH3-128; it gets that name when it is complete, and whoever has the same
 * bytes maps it. There are no locks and nothing is waited for: two who come at once both write, and
 * the one whose file did not get the name takes the other's. A file is mapped only if it is the
 * user's alone and its bytes are those that are given up for it.
 */
#ifndef QSAE_CORE_SHARED_H
#define QSAE_CORE_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/context.h"

#define QSAE__SHARE_LEAST ((size_t)64 << 10) /* bytes below which memory stays as it is */

/* core.shares for that folder. QSAE_ENOENT, QSAE_EINVAL (not a folder that only this user can
 * write), QSAE_EIO, QSAE_ENOMEM. */
int32_t qsae__shares_open(qsae_context *ctx, const char *folder);
void qsae__shares_close(qsae_context *ctx);
/* The least that is shared; for tests. */
void qsae__shares_set_least(qsae_context *ctx, size_t bytes);
/* Shared memory of this context now: pieces, and their bytes. 0 without a folder. */
int64_t qsae__shares_held(qsae_context *ctx, uint64_t *bytes);

/*
 * data: address of a pointer of any type to `bytes` bytes (at least as many are allocated) from
 * qsae__alloc that only the caller knows and nobody writes any more. With a folder the pointer
 * becomes that of a read-only mapping and the memory is freed; qsae__free undoes the mapping. NULL,
 * what is shared already, what is small and everything without a folder is left alone. So, with a
 * line in the log, is what finds no room, or a file of its name that is not what it should be; and
 * what comes when the folder is removed. An error, with the file, leaves it as it was: QSAE_EIO,
 * QSAE_ENOMEM.
 */
int32_t qsae__share(qsae_context *ctx, void *data, size_t bytes);

/* For qsae__free: whether p was shared memory, which is given back. */
bool qsae__share_end(qsae_context *ctx, void *p);

#endif
