/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_CONTEXT_H
#define QSAE_CORE_CONTEXT_H

#include <stdatomic.h>
#include <stdbool.h>

#include <qsae/context.h>

#include "core/handle.h"
#include "core/seed.h"

/* Kernel levels, each including the ones below it. */
enum qsae__level {
    QSAE__LEVEL_C,
    QSAE__LEVEL_AVX2,       /* AVX2, FMA, F16C */
    QSAE__LEVEL_AVX512,     /* F, BW, DQ, VL */
    QSAE__LEVEL_AVX512BF16, /* BF16, VNNI */
    QSAE__LEVEL_AMX,        /* tiles, bf16, int8 */
    QSAE__LEVEL_COUNT
};

struct qsae__pool;

/* Two of these are made: one that every handle refers to, and a copy of it that the caller gets and
 * that alone is closed by him: what the library opens with the first goes on working. */
struct qsae_context {
    qsae__handle base;
    qsae_context *core;     /* the one of handles; of itself too */
    qsae__retired retired;  /* of the core */
    atomic_int refs;        /* of the core */
    int32_t level;          /* enum qsae__level */
    int32_t threads;
    int32_t log_level;
    int32_t files;
    int32_t pin;
    qsae_log_callback log;
    void *log_cookie;
    qsae_alloc_callback alloc;
    qsae_free_callback free;
    void *alloc_cookie;
    struct qsae__pool *pool;
    struct qsae__shares *shares; /* or NULL: no share_folder */
    long pid;
    qsae__seed seed;        /* of hash tables */
    bool blis;              /* computes f32 products, as the settings ask */
    char gemm_name[48];
    char blis_name[96];
};

/* Creates a context without choosing a GEMM (kernels/ does that on top). */
int32_t qsae__context_new(const qsae_context_settings *settings, qsae_context **out);

/* The caller's one of a context that is made. */
qsae_context *qsae__context_view(qsae_context *core);

/* Every handle holds one reference. */
qsae_context *qsae__context_ref(qsae_context *ctx);
void qsae__context_unref(qsae_context *ctx);

void qsae__log(qsae_context *ctx, int32_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Highest level of the CPU and the operating system. */
int32_t qsae__cpu_level(void);
const char *qsae__level_name(int32_t level);
int32_t qsae__level_from_name(const char *name); /* -1 if unknown */

/* QSAE_ECANCELED if the token is set; token may be NULL. */
int32_t qsae__canceled(const qsae_cancel_token *token);

#endif
