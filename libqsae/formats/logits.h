/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * llama.cpp's base-logit files (llama-perplexity --kl-divergence-base), all little-endian:
 * "_logits_", i32 n_ctx, n_vocab, n_chunk, i32 tokens [n_chunk, n_ctx], then for each chunk the
 * rows of its positions n_ctx / 2 .. n_ctx - 2: f32 scale, f32 smallest log-probability, a u16 code
 * per token, one more u16 if their number is odd.
 */
#ifndef QSAE_FORMATS_LOGITS_H
#define QSAE_FORMATS_LOGITS_H

#include "core/core.h"

typedef struct qsae__logits_shape {
    int64_t context, vocab, chunks;
} qsae__logits_shape;

/* First position of a chunk that has a row, number of those that have. */
int64_t qsae__logits_first(const qsae__logits_shape *s);
int64_t qsae__logits_rows(const qsae__logits_shape *s);
/* u16 of a row. */
int64_t qsae__logits_words(int64_t vocab);
/* QSAE_EINVAL: a count out of range. */
int32_t qsae__logits_check(const qsae__logits_shape *s, const char *path);

typedef struct qsae__logits_in {
    qsae__file *file;
    qsae__logits_shape shape;
    const int32_t *tokens;       /* [chunks, context] each below vocab */
    const uint16_t *rows;        /* [chunks, rows, words] */
} qsae__logits_in;

/* QSAE_EFORMAT: not such a file, cut off, too long, or a token that is none. The file stays mapped.
 */
int32_t qsae__logits_open(qsae_context *ctx, const char *path, qsae__logits_in *in);
void qsae__logits_close(qsae__logits_in *in);
/* The rows of a chunk, each with finite numbers and a scale that is not negative (QSAE_EFORMAT). */
int32_t qsae__logits_chunk(const qsae__logits_in *in, int64_t chunk, const uint16_t **rows);
/* They will not be read for a while. */
void qsae__logits_release(const qsae__logits_in *in, int64_t chunk);

typedef struct qsae__logits_out qsae__logits_out;

/* tokens [chunks, context]. */
int32_t qsae__logits_create(qsae_context *ctx, const char *path, const qsae__logits_shape *s,
                            const int32_t *tokens, qsae__logits_out **out);
/* Rows `row`.. of the file, [n, words]; none may be left out in between, rows may be given again.
 */
int32_t qsae__logits_put(qsae__logits_out *out, int64_t row, int64_t n, const uint16_t *rows);
/* The file takes its place, if all rows are there (QSAE_EINVAL); closes *out whatever happens. */
int32_t qsae__logits_commit(qsae__logits_out **out);
/* Closes *out and leaves no file. NULL is fine. */
void qsae__logits_discard(qsae__logits_out **out);

#endif
