/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first member of every struct behind a public handle: what it is, whether it is open and
 * whether a call is using it. A public function looks at it before anything else:
 *
 *     if (qsae__need(model, "model"))
 *         return QSAE_EINVAL;
 *
 * The struct of a closed handle stays readable for a while, so that a call with a copy of its
 * pointer finds "closed" there and not somebody else's memory (qsae__retire).
 */
#ifndef QSAE_CORE_HANDLE_H
#define QSAE_CORE_HANDLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qsae_context;

/* id, name of the type after qsae_, article, name in messages */
#define QSAE__HANDLES(X) \
    X(CONTEXT, context, "a", "context") \
    X(CANCEL_TOKEN, cancel_token, "a", "cancel token") \
    X(TENSORS, tensors, "a", "list of tensors") \
    X(TOKENIZER, tokenizer, "a", "tokenizer") \
    X(CORPUS, corpus, "a", "corpus") \
    X(PROBES, probes, "a", "probe set") \
    X(QUANTIZER, quantizer, "a", "quantizer") \
    X(QMATRIX, qmatrix, "a", "matrix") \
    X(WEIGHTS, weights, "a", "checkpoint") \
    X(MODEL, model, "a", "model") \
    X(SAE, sae, "an", "SAE") \
    X(SAE_LAYERS, sae_layers, "a", "set of SAEs") \
    X(METRIC, metric, "a", "metric") \
    X(LOGITS_READER, logits_reader, "a", "reader of logits") \
    X(LOGITS_WRITER, logits_writer, "a", "writer of logits") \
    X(AUDIT, audit, "an", "audit") \
    X(PREDICTOR, predictor, "a", "predictor")

enum qsae__handle_kind {
    QSAE__NO_HANDLE,
#define QSAE__ID(id, type, article, name) QSAE__A_##id,
    QSAE__HANDLES(QSAE__ID)
#undef QSAE__ID
};

typedef struct qsae__handle {
    atomic_ullong mark;         /* kind and whether it is open; see handle.c */
    atomic_int users;           /* pointers to it that callers have to close */
    atomic_int calls;           /* calls that use it now; such a handle is not closed */
    struct qsae__handle *next;  /* of the closed handles of a context */
    size_t size;                /* 0: no caller had it; of a closed handle: its struct's */
} qsae__handle;

/* Closed handles of a context, oldest first. */
typedef struct qsae__retired {
    atomic_flag lock;
    qsae__handle *first, *last;
    int32_t count;
    size_t bytes;
} qsae__retired;

#define QSAE__RETIRED_MOST 256
#define QSAE__RETIRED_BYTES ((size_t)256 << 10)

#define QSAE__CASE(id, type, article, name) \
    , struct qsae_##type *: QSAE__A_##id, const struct qsae_##type *: QSAE__A_##id
/* Kind of a handle by the type of its pointer. Tools that do not know _Generic have their own. */
#ifndef QSAE__KIND_OF
#define QSAE__KIND_OF(handle) _Generic((handle)QSAE__HANDLES(QSAE__CASE))
#endif

/* Whether it is an open handle of its pointer's type: not NULL, not misaligned, not another one. */
#define qsae__is_open(handle) qsae__handle_is_open((handle), QSAE__KIND_OF(handle))

/* 0, or QSAE_EINVAL with a message that names the parameter, what was expected and found. */
#define qsae__need(handle, parameter) \
    (qsae__is_open(handle) ? 0 : qsae__handle_fail((handle), QSAE__KIND_OF(handle), (parameter)))

/* As qsae__need of a context, and then replaces *context by the one that lives as long as any of
 * its handles: what is kept must be kept of that one. */
#define qsae__enter(context) \
    (qsae__need(*(context), "context") ? QSAE_EINVAL : (*(context) = (*(context))->core, QSAE_OK))

/* For functions that close *place: false where there is nothing to close (NULL: silently; a handle
 * of another kind, a closed one, one that a call is using: with a message); else the caller's
 * pointer counts no longer, and with the last one the handle is closed. */
#define qsae__leave(place, parameter) \
    (qsae__is_aligned((place), sizeof *(place)) && \
     qsae__handle_leave(*(place), QSAE__KIND_OF(*(place)), (parameter)))

/* Where a function leaves a handle: 0 and *out is NULL, or QSAE_EINVAL if out is NULL or
 * misaligned. */
#define qsae__need_out(out) \
    (qsae__is_aligned((out), sizeof *(out)) ? (*(out) = NULL, 0) : qsae__out_fail(out))

/* 0, or QSAE_EINVAL if a pointer to elements of 2, 4 or 8 bytes is misaligned; NULL is not. */
#define qsae__need_aligned(pointer, parameter) \
    qsae__alignment((pointer), sizeof *(pointer), (parameter))

/* Makes a zeroed struct's head that of an open handle with one pointer to it. */
#define qsae__handle_init(handle) qsae__handle_set(&(handle)->base, QSAE__KIND_OF(handle), 1)

/* Another pointer to a handle (which is open again if all were closed). */
#define qsae__handle_share(handle) \
    qsae__handle_set(&(handle)->base, QSAE__KIND_OF(handle), \
                     atomic_load(&(handle)->base.users) + 1)

/* A handle that could not be opened, or NULL: no caller had it, its struct is freed at once. */
#define qsae__unshare(handle) ((handle) ? (void)((handle)->base.size = 0) : (void)0)

/* Marks a handle closed, clears its struct and gives its memory to the context's list, which frees
 * the oldest beyond QSAE__RETIRED_MOST and QSAE__RETIRED_BYTES. Before the context's reference
 * goes. One that no caller had is freed at once. */
#define qsae__retire(context, handle) \
    qsae__handle_retire((context), &(handle)->base, sizeof *(handle))

/* A call that uses a handle alone: QSAE_EBUSY if one does. Ends with qsae__end_call. */
#define qsae__begin_call(handle, function) qsae__handle_claim(&(handle)->base, (function))
/* A call beside others. */
#define qsae__join_call(handle) ((void)atomic_fetch_add(&(handle)->base.calls, 1))
#define qsae__end_call(handle) ((void)atomic_fetch_sub(&(handle)->base.calls, 1))

bool qsae__handle_is_open(const void *handle, enum qsae__handle_kind kind);
/* Not NULL, and divisible by size. */
static inline bool qsae__is_aligned(const void *pointer, size_t size)
{
    return pointer && (uintptr_t)pointer % size == 0;
}
int32_t qsae__alignment(const void *pointer, size_t size, const char *parameter);
int32_t qsae__out_fail(const void *out);
int32_t qsae__handle_fail(const void *handle, enum qsae__handle_kind kind, const char *parameter);
bool qsae__handle_leave(void *handle, enum qsae__handle_kind kind, const char *parameter);
void qsae__handle_set(qsae__handle *head, enum qsae__handle_kind kind, int users);
void qsae__handle_close(qsae__handle *head, enum qsae__handle_kind kind);
void qsae__handle_retire(struct qsae_context *ctx, qsae__handle *head, size_t size);
int32_t qsae__handle_claim(qsae__handle *head, const char *function);

/* Frees the closed handles of a context that ends. */
void qsae__retired_free(struct qsae_context *ctx);

#endif
