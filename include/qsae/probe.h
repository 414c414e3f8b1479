/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_PROBE_H
#define QSAE_PROBE_H

#include <qsae/model.h>
#include <qsae/text.h>

QSAE_BEGIN_DECLS

/**
 * A probe set: contexts, each with a good and a bad continuation, tokenized. Thread-safety: safe
 * for reading; runs on different models may go on at once.
 */
typedef struct qsae_probes qsae_probes;

typedef struct qsae_probe_settings {
    size_t struct_size;
    int32_t bos_policy;      /**< QSAE_BOS_DEFAULT: BOS in front of a context where the tokenizer's
                                  template puts it; QSAE_BOS_NONE: never; another one: always */
    int32_t reserved;        /**< 0 */
} qsae_probe_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_probe_settings). */
QSAE_API void qsae_probe_settings_init(qsae_probe_settings *s, size_t size);

/**
 * Reads JSON lines {"context": str, "good": str, "bad": str, "tags": [str] or str}; "tags" may be
 * missing, other keys are ignored, blank lines too. A continuation follows its context directly: a
 * space between them belongs to one of the two.
 *
 * Tokens are those of lm-evaluation-harness (TemplateLM._encode_pair): white space at the end of
 * the context moves to the continuation; context and continuation are tokenized as one string, of
 * which whatever exceeds the number of tokens of the context alone is the continuation. BOS, or
 * else EOS, stands for a context without tokens. No EOS is added.
 *
 * @param path      a file; .zst is decompressed, as qsae_corpus_open does
 * @param settings  NULL = defaults
 * @return QSAE_ENOENT, QSAE_EFORMAT (file, line, key: also an empty or equal continuation, or one
 *         that merges with its context to nothing), QSAE_EINVAL (a BOS that there is not),
 *         QSAE_EIO, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_probes_open(qsae_context *context, qsae_tokenizer *tokenizer,
                                  const char *path, const qsae_probe_settings *settings,
                                  qsae_probes **out);

/** Closes *probes and NULLs it. NULL is fine. */
QSAE_API void qsae_probes_close(qsae_probes **probes);

typedef struct qsae_probes_info {
    size_t struct_size;
    int64_t items;
    int64_t tags;            /**< different ones */
    int64_t longest;         /**< tokens a model reads of the longest item */
    int64_t scored_tokens;   /**< of all continuations */
    int32_t bos;             /**< id in front of each context, -1 if none */
    int32_t bos_policy;      /**< as in the settings */
    const char *hash;        /**< 32 hex digits: XXH3-128 of ids, lengths and tags */
} qsae_probes_info;

/** Describes a set. info->struct_size set by the caller. QSAE_EINVAL. */
QSAE_API int32_t qsae_probes_get_info(const qsae_probes *probes, qsae_probes_info *info);

/** Name of tag 0..tags-1, in the order of their first mention; NULL if out of range. */
QSAE_API const char *qsae_probes_tag(const qsae_probes *probes, int64_t tag);

/** One item; its arrays belong to the set. A model reads context and continuation one after the
 * other. */
typedef struct qsae_probe {
    size_t struct_size;
    const int32_t *context;  /**< [n_context] ids, BOS included */
    const int32_t *good;     /**< [n_good] ids */
    const int32_t *bad;      /**< [n_bad] ids */
    const int32_t *tags;     /**< [n_tags] ascending */
    int64_t n_context, n_good, n_bad, n_tags;
    int64_t good_bytes;      /**< of the string in the file, UTF-8 */
    int64_t bad_bytes;
    int64_t line;            /**< 1-based line of the file */
} qsae_probe;

/** Item 0..items-1. probe->struct_size set by the caller. QSAE_EINVAL. */
QSAE_API int32_t qsae_probes_item(const qsae_probes *probes, int64_t item, qsae_probe *probe);

/** What a model makes of one item. */
typedef struct qsae_probe_score {
    size_t struct_size;
    int64_t item;
    double good;             /**< ln p(good | context): sum over its tokens, nats */
    double bad;
} qsae_probe_score;

/** Receives a score, valid during the call. @return 0, or any value to end the run with it */
typedef int32_t (*qsae_probe_callback)(void *cookie, const qsae_probe_score *score);

/**
 * Scores every item. Each sequence is a logical batch of its own, so scores do not depend on which
 * items a set has (LLM.int8 picks its outlier columns from one sequence).
 * @param model     one whose ids the tokenizer makes
 * @param cancel    or NULL
 * @param callback  called once per item, in order, on the caller's thread
 * @return QSAE_EINVAL (an id that the model has not, an item longer than its max_positions: the
 *         line is named), QSAE_ENOMEM, QSAE_ECANCELED, or what the callback returned
 */
QSAE_API int32_t qsae_probes_run(const qsae_probes *probes, qsae_model *model,
                                 const qsae_cancel_token *cancel, qsae_probe_callback callback,
                                 void *cookie);

QSAE_END_DECLS

#endif
