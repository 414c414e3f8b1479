/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Codes of the key/value cache: what a head vector is after it was written to the cache and read
 * back. ggml blocks along the head, int8 per token (one scale per head vector), and rotation codes
 * as TurboQuant's (arXiv 2504.19874, methods.md 10). doc/codec-kv.md states each.
 */
#ifndef QSAE_CODECS_KV_H
#define QSAE_CODECS_KV_H

#include "codecs/condition.h"

/* One code for heads of one width. Thread-safe: it never changes. */
typedef struct qsae__kv qsae__kv;

/* QSAE_EINVAL (the code is none, or head_dim does not fit it), QSAE_ENOMEM. */
int32_t qsae__kv_open(qsae_context *ctx, const qsae__kv_code *code, int64_t head_dim,
                      qsae__kv **out);
void qsae__kv_close(qsae__kv **kv);

#define QSAE__KV_ROWS 128 /* most vectors of a call */

/* Floats of scratch that a call needs. */
int64_t qsae__kv_floats(const qsae__kv *kv);

/*
 * x[n, head_dim], n <= QSAE__KV_ROWS: each vector becomes what the cache returns for it, rounded to
 * bf16 if bf16. A vector with a NaN or an infinity comes back as NaN, but from f16 and bf16, which
 * go value by value. scratch: 64-byte aligned. Bits depend on the vector alone, not on n, the
 * kernel level or its place in memory.
 */
void qsae__kv_apply(const qsae__kv *kv, float *x, int64_t n, bool bf16, float *scratch);

/* Bits per cached value, scales included; NULL: 16. */
double qsae__kv_bits(const qsae__kv *kv);

#endif
