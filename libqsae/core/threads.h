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

/*
 * Floating-point environment of an entry: round to nearest, no flush to zero, all exceptions masked
 * (x86: MXCSR and the x87 control word, by which glibc's strtod and printf round; ARM: FPCR). leave
 * puts the caller's back, its exception flags included.
 */
typedef struct qsae__fpenv {
    uint64_t control; /* MXCSR or FPCR */
    uint16_t x87;
} qsae__fpenv;
qsae__fpenv qsae__fpenv_enter(void);
void qsae__fpenv_leave(qsae__fpenv env);

static inline void qsae__fpenv_close(const qsae__fpenv *env)
{
    qsae__fpenv_leave(*env);
}

/* From here to the end of the block, by whichever way it ends. */
#define QSAE__FPENV \
    const qsae__fpenv fpenv_ __attribute__((cleanup(qsae__fpenv_close), unused)) = \
        qsae__fpenv_enter()

#endif
