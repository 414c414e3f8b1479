/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_THREADS_H
#define QSAE_CORE_THREADS_H

#include <stdint.h>

#include "core/context.h"

/* Work on tile 0..n-1; worker is 0..threads-1 (the caller is 0), for per-worker scratch. */
typedef int32_t (*qsae__tile_fn)(void *arg, int64_t tile, int32_t worker);

/* Runs fn over all tiles on the context's threads and waits. Tiles are handed out in ascending
 * order. If tiles fail, the rest are skipped and the failure of the lowest failing tile is
 * returned, with its message moved to the calling thread. Called from inside a tile it runs
 * serially in place. */
int32_t qsae__parallel(qsae_context *ctx, int64_t n_tiles, qsae__tile_fn fn, void *arg);

int32_t qsae__pool_open(qsae_context *ctx);
void qsae__pool_close(qsae_context *ctx);

/* Floating-point environment of a compute entry: round to nearest, no flush to zero. */
typedef struct qsae__fpenv {
    unsigned mxcsr;
} qsae__fpenv;
qsae__fpenv qsae__fpenv_enter(void);
void qsae__fpenv_leave(qsae__fpenv env);

#endif
