/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_METRICS_H
#define QSAE_METRICS_H

#include <qsae/tensor.h>

QSAE_BEGIN_DECLS

/*
 * Streaming accumulators. Every update carries the index of its first token (qsae_positions), so
 * that updates may be split anywhere, shards merge in any order to the same bytes, and overlaps are
 * refused. Sums are f64, kept per block of 256 tokens (QSAE_METRIC_LEAF), folded in a fixed tree.
 * Without positions (NULL) rows follow the previous update.
 */

/**
 * An accumulator of one kind. Thread-safety: one call at a time per handle.
 */
typedef struct qsae_metric qsae_metric;

#define QSAE_METRIC_LEAF 256

/** Size of the constant above, for bindings. */
QSAE_API int64_t qsae_metric_leaf(void);

typedef struct qsae_metric_settings {
    size_t struct_size;
    int64_t batch_rows;        /**< rows of a batch, for the variants V3..V7; 0 = 2048 */
    uint64_t memory;           /**< bytes for values kept per token (quantiles) and rows kept for
                                    medians; beyond it a systematic sample is kept, and quantiles
                                    of a divergence come from a histogram of all tokens (below
                                    64 KiB: from the sample); 0 = 256 MiB */
    const char *fingerprint;   /**< measurement fingerprint, part of the state; NULL = "" */
    double active_rate;        /**< features: active if firing rate > this; 0 = 0.001 */
    int64_t top;               /**< features: largest activations kept of each, with their tokens
                                    (32 bytes each for the two sides); 0 = none, at most
                                    1024 */
    int64_t prompt_tokens;     /**< features: also count the prompts (context windows) that each
                                    fires in; token t is in prompt t / prompt_tokens. Every update
                                    must then begin with a prompt, and its prompts be whole; the
                                    last of the text may be shorter. 0 = not counted */
    int64_t overlap_k;         /**< divergence: k of topk_overlap; 0 = 10, at most 64 */
    int64_t documents_per_block; /**< features: sums are also kept per block of this many
                                    documents, document d being in block d / documents_per_block,
                                    of which there are at most 32: for intervals of r and of
                                    survival (88 bytes per feature and block it fires in), from 16
                                    blocks on. 0 = no intervals */
    int64_t seed;              /**< of the draws of all intervals (doc/metrics.md); figures of
                                    metrics are paired where it is equal. No part of the state */
} qsae_metric_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_metric_settings). */
QSAE_API void qsae_metric_settings_init(qsae_metric_settings *s, size_t size);

/** Cross-entropy: mean negative log-likelihood, perplexity. */
QSAE_API int32_t qsae_metric_open_cross_entropy(qsae_context *context,
                                                const qsae_metric_settings *s, qsae_metric **out);
/** Reference against compressed output distributions: KL, top-1 agreement, flips, dp. */
QSAE_API int32_t qsae_metric_open_divergence(qsae_context *context, const qsae_metric_settings *s,
                                             qsae_metric **out);
/** Reconstruction error of rows of width d: every FVU variant, MSE, L0, norms. features = width of
 * the SAE for dead-feature counts, 0 if unknown. */
QSAE_API int32_t qsae_metric_open_reconstruction(qsae_context *context, int64_t d, int64_t features,
                                                 const qsae_metric_settings *s, qsae_metric **out);
/** Feature survival: paired sparse activations of `features` features. */
QSAE_API int32_t qsae_metric_open_features(qsae_context *context, int64_t features,
                                           const qsae_metric_settings *s, qsae_metric **out);
/** Noise floor: residual drift against reconstruction error, rows of width d. */
QSAE_API int32_t qsae_metric_open_drift(qsae_context *context, int64_t d,
                                        const qsae_metric_settings *s, qsae_metric **out);

/** Closes *metric and NULLs it. NULL is fine. */
QSAE_API void qsae_metric_close(qsae_metric **metric);

/** "cross_entropy", "divergence", "reconstruction", "features", "drift" or "llama_cpp". Static
 * storage. */
QSAE_API const char *qsae_metric_kind(const qsae_metric *metric);

/**
 * Adds per-token negative log-likelihoods.
 * @param at   where the rows come from (n_rows = n), NULL = they follow the previous update
 * @param n    rows, >= 0
 * @param nll  [n] natural log; NaN = position without label, skipped
 * @return QSAE_EINVAL (another kind, bad counts), QSAE_EMISMATCH (tokens that were added already),
 *         QSAE_ENOMEM. On error the metric is unchanged.
 */
QSAE_API int32_t qsae_metric_update_cross_entropy(qsae_metric *metric, const qsae_positions *at,
                                                  int64_t n, const float *nll);

/** Per-token comparison of two output distributions; arrays of n, NULL where not known. */
typedef struct qsae_divergence_rows {
    size_t struct_size;
    int64_t n;
    const float *nll_r;       /**< of the label, reference; NaN = position without label, skipped */
    const float *nll_q;       /**< of the label, compressed */
    const float *kl;          /**< KL(p_r || p_q), nats */
    const int32_t *top_r;     /**< arg-max of the reference */
    const int32_t *top_q;
    const int32_t *label;
    const float *entropy_r;   /**< of the reference's distribution, nats */
    const float *entropy_q;
    const float *topk_overlap; /**< share of the reference's settings.overlap_k likeliest tokens
                                    that are among those of the compressed model, too */
} qsae_divergence_rows;

/**
 * Adds per-token comparisons.
 * @param at    where the rows come from, NULL = they follow the previous update
 * @param rows  what is known of them; nll_r and nll_q are required, the rest may be NULL
 * @return as qsae_metric_update_cross_entropy
 */
QSAE_API int32_t qsae_metric_update_divergence(qsae_metric *metric, const qsae_positions *at,
                                               const qsae_divergence_rows *rows);

/** The same from whole logit rows (engines that have them): logits [n, vocab] f32, label [n] with
 * -100 for none. */
QSAE_API int32_t qsae_metric_update_divergence_logits(qsae_metric *metric, const qsae_positions *at,
                                                      const qsae_rows *logits_r,
                                                      const qsae_rows *logits_q,
                                                      const int32_t *label);

/** Cross-entropy from whole logit rows [n, vocab] f32; label [n] with -100 for none. */
QSAE_API int32_t qsae_metric_update_cross_entropy_logits(qsae_metric *metric,
                                                         const qsae_positions *at,
                                                         const qsae_rows *logits,
                                                         const int32_t *label);

/*
 * llama.cpp's way: a file of the reference's predictions, made by llama-perplexity
 * --kl-divergence-base or here, and the report of --kl-divergence against it. A file holds chunks
 * of `context` token ids and, for the positions context / 2 .. context - 2 of each, the
 * log-probabilities of the next token with 16 bits each, down to 16 nats below the likeliest.
 */
typedef struct qsae_logits_info {
    size_t struct_size;
    int64_t context;          /**< tokens of a chunk, >= 3 */
    int64_t vocab;            /**< >= 1 */
    int64_t chunks;           /**< >= 1 */
    int64_t first;            /**< first position of a chunk with a row: context / 2 */
    int64_t rows;             /**< of a chunk: context - 1 - context / 2; row r is position first +
                                   r, its label the token after it */
} qsae_logits_info;

/** A base-logit file to read. Thread-safety: safe for reading. */
typedef struct qsae_logits_reader qsae_logits_reader;

/** Opens a base-logit file, which must not change meanwhile.
 * @return QSAE_EFORMAT (no such file, cut off, too long, a token beyond the vocabulary: named),
 *         QSAE_ENOENT, QSAE_EIO, QSAE_ENOMEM, QSAE_EINVAL */
QSAE_API int32_t qsae_logits_reader_open(qsae_context *context, const char *path,
                                         qsae_logits_reader **out);

/** Closes *reader and NULLs it. NULL is fine. */
QSAE_API void qsae_logits_reader_close(qsae_logits_reader **reader);

/** Describes the file. info->struct_size set by the caller. QSAE_EINVAL. */
QSAE_API int32_t qsae_logits_reader_get_info(const qsae_logits_reader *reader,
                                             qsae_logits_info *info);

/** The tokens of a chunk.
 * @param ids  receives a view, [context], that belongs to the reader. llama.cpp runs them with BOS
 *             in place of the first one if the vocabulary adds BOS
 * @return QSAE_EINVAL (chunk out of range, NULL) */
QSAE_API int32_t qsae_logits_reader_tokens(const qsae_logits_reader *reader, int64_t chunk,
                                           const int32_t **ids);

/** Log-probabilities of the rows of a chunk, natural log.
 * @param log_p     [rows, vocab]
 * @param capacity  of log_p in elements
 * @return QSAE_EINVAL, QSAE_ESPACE, QSAE_EFORMAT (a row holds no numbers: named) */
QSAE_API int32_t qsae_logits_reader_rows(const qsae_logits_reader *reader, int64_t chunk,
                                         float *log_p, int64_t capacity);

/** A base-logit file that is written. Thread-safety: one call at a time per handle. */
typedef struct qsae_logits_writer qsae_logits_writer;

/**
 * Begins a base-logit file beside its place. With the logits that llama.cpp computes it has the
 * bytes that llama.cpp writes.
 * @param info    context, vocab and chunks
 * @param tokens  [chunks, context] ids below vocab
 * @return QSAE_EINVAL, QSAE_EOVERFLOW, QSAE_ENOENT, QSAE_EIO, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_logits_writer_open(qsae_context *context, const char *path,
                                         const qsae_logits_info *info, const int32_t *tokens,
                                         qsae_logits_writer **out);

/** Adds rows in order, chunk after chunk: logits [n, vocab] f32, any n. QSAE_EINVAL: too many rows,
 * or a row with NaN, infinity or nothing but -infinity; QSAE_EMISMATCH (vocab), QSAE_EIO. On error
 * nothing has been added. */
QSAE_API int32_t qsae_logits_writer_add(qsae_logits_writer *writer, const qsae_rows *logits);

/** The file takes its place. QSAE_EINVAL: rows are missing; QSAE_EIO. No more can be added. */
QSAE_API int32_t qsae_logits_writer_finish(qsae_logits_writer *writer);

/** Closes *writer and NULLs it; a file that was not finished is gone. NULL is fine. */
QSAE_API void qsae_logits_writer_close(qsae_logits_writer **writer);

/** The report of llama-perplexity --kl-divergence. settings.batch_rows: tokens of a chunk, for its
 * running lines. */
QSAE_API int32_t qsae_metric_open_llama_cpp(qsae_context *context, const qsae_metric_settings *s,
                                            qsae_metric **out);

/**
 * Adds tokens from whole logit rows. The reference's go through the 16 bits of a file, as with
 * llama.cpp.
 * @param logits_r, logits_q  [n, vocab] f32
 * @param label               [n], -100 = none: the row is left out
 * @return as qsae_metric_update_divergence_logits
 */
QSAE_API int32_t qsae_metric_update_llama_cpp_logits(qsae_metric *metric, const qsae_positions *at,
                                                     const qsae_rows *logits_r,
                                                     const qsae_rows *logits_q,
                                                     const int32_t *label);

/**
 * Adds the scored tokens of a chunk of a file, at their place in the stream of its tokens.
 * @param logits_q  [rows, vocab] f32 of the positions first .. context - 2
 * @return as above; QSAE_EFORMAT (a row of the file)
 */
QSAE_API int32_t qsae_metric_update_llama_cpp_base(qsae_metric *metric,
                                                   const qsae_logits_reader *base, int64_t chunk,
                                                   const qsae_rows *logits_q);

#define QSAE_METRIC_LLAMA_LINE 10

/** Value of the constant above, for bindings. */
QSAE_API int64_t qsae_metric_llama_line(void);

/**
 * The running lines of kind "llama_cpp", one after each chunk: PPL, ln(PPL(Q)/PPL(base)), KLD, RMS
 * dp, share of the same top token, each followed by its standard error, of all tokens so far.
 * @param chunks    [capacity] index of the chunk
 * @param lines     [capacity, QSAE_METRIC_LLAMA_LINE]
 * @param capacity  0: only count; chunks and lines may be NULL then
 * @param n         receives their number; 0 where settings.memory does not hold all tokens
 * @return QSAE_EINVAL, QSAE_ESPACE
 */
QSAE_API int32_t qsae_metric_llama_lines(qsae_metric *metric, int64_t *chunks, double *lines,
                                         int64_t capacity, int64_t *n);

/** Sparse rows in CSR form. */
typedef struct qsae_sparse_rows {
    size_t struct_size;
    int64_t n;
    const int64_t *indptr;    /**< [n + 1] */
    const int32_t *indices;   /**< ascending in a row */
    const float *values;
} qsae_sparse_rows;

/**
 * Adds rows and their reconstructions.
 * @param at     where the rows come from, NULL = they follow the previous update
 * @param x, y   [n, d] f32, f16, bf16 or f64
 * @param acts   the sparse activations, NULL if not known (then no L0 and firing statistics)
 */
QSAE_API int32_t qsae_metric_update_reconstruction(qsae_metric *metric, const qsae_positions *at,
                                                   const qsae_rows *x, const qsae_rows *y,
                                                   const qsae_sparse_rows *acts);

/** Adds paired sparse activations, reference and compressed, of the same tokens. Returns as
 * qsae_metric_update_cross_entropy; an index out of range, or a document beyond the last block, is
 * QSAE_EINVAL. */
QSAE_API int32_t qsae_metric_update_features(qsae_metric *metric, const qsae_positions *at,
                                             const qsae_sparse_rows *r, const qsae_sparse_rows *q);

/**
 * Adds residual rows of both models and, if an SAE is there, their reconstructions.
 * @param x_r, x_q  [n, d]
 * @param y_r, y_q  [n, d] or both NULL; the same in every update
 * @return as qsae_metric_update_cross_entropy
 */
QSAE_API int32_t qsae_metric_update_drift(qsae_metric *metric, const qsae_positions *at,
                                          const qsae_rows *x_r, const qsae_rows *x_q,
                                          const qsae_rows *y_r, const qsae_rows *y_q);

/** One result. */
typedef struct qsae_value {
    size_t struct_size;
    const char *name;         /**< e.g. "fvu_dim", "ce"; under a mask: "no_specials/fvu_dim" */
    const char *unit;         /**< "nats", "1", "tokens", ... */
    const char *description;  /**< formula */
    double value;             /**< NaN if not defined (yet) */
    double low, high;         /**< interval, NaN if there is none */
    double jackknife_se;      /**< standard error over documents; NaN if there is none */
} qsae_value;

/** Number of results; names are fixed per kind. */
QSAE_API int32_t qsae_metric_count(const qsae_metric *metric);

/** Result i. QSAE_EINVAL (i out of range), QSAE_ENOMEM. Strings are static. */
QSAE_API int32_t qsae_metric_value(qsae_metric *metric, int32_t i, qsae_value *value);

/** One result by name: QSAE_ENOENT if the kind has no such name. *value is NaN if not defined. */
QSAE_API int32_t qsae_metric_get(qsae_metric *metric, const char *name, double *value);

/**
 * Per-feature results of kind "features" (r, rate_r, rate_q, mean_r, mean_q, max_r, max_q, fire_r,
 * fire_q, cofire; gain = sum f_r f_q / sum f_r^2, cosine over all tokens, NaN where it never fired;
 * cofire_jaccard, precision, recall, rate_ratio; r_on, r over the tokens where either is not 0, NaN
 * where one is constant there; sum_r2 = sum f_r^2, sum_delta2 = sum (f_q - f_r)^2, relative_error,
 * their ratio; mean_ratio = sum f_q / sum f_r; with settings.top >= 20 top_overlap, of the 20
 * largest activations; with settings.prompt_tokens prompts_r, prompts_q; with
 * settings.documents_per_block the interval r_low, r_high, else NaN) and "reconstruction" (fire).
 * @param values  [capacity], capacity >= features
 * @return QSAE_ENOENT (the kind has no such name), QSAE_ESPACE, QSAE_EINVAL, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_metric_features(qsae_metric *metric, const char *name, double *values,
                                      int64_t capacity);

/**
 * The largest activations of a feature, larger first, of equal ones the earlier token (kind
 * "features" with settings.top).
 * @param side      0 reference, 1 compressed
 * @param tokens    [capacity] index of each in the token stream
 * @param values    [capacity]
 * @param n         receives their number: fewer than settings.top if the feature fired less often
 * @return QSAE_ENOENT (the metric keeps none), QSAE_EINVAL, QSAE_ESPACE
 */
QSAE_API int32_t qsae_metric_top(const qsae_metric *metric, int64_t feature, int32_t side,
                                 int64_t *tokens, double *values, int64_t capacity, int64_t *n);

/** Adds the tokens of `from` to `metric`. QSAE_EMISMATCH names the differing field; overlapping
 * tokens are refused. On error `metric` is unchanged. */
QSAE_API int32_t qsae_metric_merge(qsae_metric *metric, const qsae_metric *from);

/** Forgets all tokens. */
QSAE_API void qsae_metric_reset(qsae_metric *metric);

/** Writes the state to a file (temporary file, fsync, rename). QSAE_EIO, QSAE_ENOENT (folder),
 * QSAE_ENOMEM; an old file is then untouched. */
QSAE_API int32_t qsae_metric_save(const qsae_metric *metric, const char *path);

/** Replaces the state by a saved one. QSAE_EFORMAT (damaged), QSAE_EMISMATCH (kind, shape, settings
 * or fingerprint: named), QSAE_ENOENT, QSAE_EIO, QSAE_ENOMEM. On error `metric` is unchanged. */
QSAE_API int32_t qsae_metric_load(qsae_metric *metric, const char *path);

QSAE_END_DECLS

#endif
