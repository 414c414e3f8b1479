/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_AUDIT_H
#define QSAE_AUDIT_H

#include <qsae/model.h>
#include <qsae/sae.h>
#include <qsae/text.h>

QSAE_BEGIN_DECLS

/**
 * A comparison of a model with compressed copies of itself on one text, in one paired pass.
 * Thread-safety: one call at a time per handle.
 */
typedef struct qsae_audit qsae_audit;

#define QSAE_PROFILE_DEFAULT 0 /**< libqsae's own: BOS at chunk start, first position excluded from
                                    feature statistics */
#define QSAE_PROFILE_ARTICLE 1 /**< "A Black Box Made Less Opaque (part 4)": context 512, batch 4,
                                    BOS at document start, bf16, snapshots at 5k..500k tokens;
                                    without conditions: LLM.int8 and NF4 */
#define QSAE_PROFILE_PAPER 2   /**< arXiv 2606.03002: context 512, batch 4, no BOS; models with
                                    LayerNorm processed as TransformerLens does; without conditions:
                                    round to nearest with 8 to 4 bits, and pruning matched to 6 */

/* Sweeps: every condition becomes many, each on a part of what it selects. */
#define QSAE_SWEEP_NONE 0
#define QSAE_SWEEP_LAYERS 1  /**< one per layer */
#define QSAE_SWEEP_MODULES 2 /**< one per linear layer of each layer */
#define QSAE_SWEEP_KINDS 3   /**< one per kind of linear layer (q_proj, ...), in all layers */

/** Of qsae_audit_settings.memory alone: one model is held at a time. The reference goes over the
 * text first and leaves its rows in a temporary file, then each condition does: 2 (bf16) or 4 bytes x
 * tokens x (width + widths of the SAEs' places). */
#define QSAE_MEMORY_IN_TURN 3

typedef struct qsae_audit_settings {
    size_t struct_size;
    const char *model;        /**< folder or GGUF file of the reference model */
    const char *text;         /**< file or folder; may be NULL with kl_divergence_base */
    const char *const *conditions; /**< [n_conditions]: condition strings, or other checkpoints
                                        (a folder or file that exists) */
    const char *const *saes;  /**< [n_saes]: FOLDER[@LAYER[:SITE[:SITE_OUT]]] */
    int64_t n_conditions;
    int64_t n_saes;
    const char *text_field;   /**< as in text.h */
    const char *state;        /**< file to resume from if it exists, kept up to date; or NULL */
    int64_t context;          /**< tokens per chunk; 0 = the profile's */
    int64_t batch;            /**< chunks per logical batch; 0 = the profile's */
    int64_t max_tokens;       /**< 0 = all (article: the largest budget) */
    int32_t profile;          /**< QSAE_PROFILE_* */
    int32_t compute;          /**< QSAE_COMPUTE_*; 0 = the profile's */
    int32_t attention;        /**< QSAE_ATTN_* */
    int32_t bos_policy;       /**< QSAE_BOS_*; 0 = the profile's */
    int32_t cross_labels;     /**< as in text.h */
    int32_t keep_tail;        /**< as in text.h */
    qsae_progress_callback progress; /**< unit "tokens" in phases "match" (the search for a
                                          sparsity) and "measure"; "layers" in phase "stream";
                                          "items" in phase "probe", "windows" in phase
                                          "contexts" */
    void *progress_cookie;
    qsae_cancel_token *cancel;
    int32_t sweep;            /**< QSAE_SWEEP_*: which layer's compression costs what */
    int32_t splice;           /**< non-zero: every model also runs with each SAE spliced in, and
                                   with the SAE's input ablated to zero and to its mean */
    int64_t stride;           /**< windows, as in text.h; `context` is their length */
    int64_t score_from;       /**< as in text.h */
    const char *order;        /**< as in text.h */
    const char *shuffle;      /**< as in text.h */
    int64_t top_contexts;     /**< of each feature, in the reference and each condition, the tokens
                                   of this many largest activations are kept; 0 = none, at most
                                   1024 */
    const char *exclude_tokens; /**< positions that hold these tokens are in no feature statistic
                                   and no splice: "special" (all special tokens of the
                                   tokenizer), or ids: "2,106,107"; NULL = none */
    const char *const *slices; /**< [n_slices] ways to divide the tokens: "position", "class",
                                   "script", "frequency" (of the token; "frequency=FILE": in a
                                   supplied table), "length" (of the document), "entropy" (of the
                                   prediction, in fifths; "entropy=0.1,1,3": borders in nats), a
                                   key of the documents' metadata ("meta.pile_set_name"), or a
                                   product of two or three of these ("class*entropy") */
    int64_t n_slices;
    const char *const *where; /**< [n_where] as in text.h; copied at open */
    int64_t n_where;
    int64_t documents_from;   /**< as in text.h */
    int64_t documents_to;     /**< as in text.h */
    int32_t pack;             /**< QSAE_PACK_* */
    int32_t reserved_pack;
    const char *process;      /**< what is done to the weights of the model, and of checkpoints that
                                   are conditions, before anything else: as
                                   qsae_weights_process; NULL = the profile's ("none"; paper: "tl"
                                   for models with LayerNorm) */
    int64_t stream_bytes;     /**< streamed: of rows that go through the layers together, at least
                                   those of a logical batch; with more the weights are read fewer
                                   times; 0 = 1 GiB. Changes no figure */
    int32_t memory;           /**< QSAE_MEMORY_*, _IN_TURN too; 0 = streamed where the models would
                                   take more than 80% of the machine's memory, or of what its
                                   control group allows. Changes no figure */
    int32_t reserved2;        /**< 0 */
    int64_t overlap_k;        /**< likeliest tokens whose overlap is measured; 0 = 10, at most 64 */
    int32_t controls;         /**< non-zero: noise controls run beside the conditions: for each its
                                   control:gauss and control:permute, and once control:null,
                                   control:floor, control:shuffle; not with a sweep */
    int32_t reserved_controls;
    int32_t reference_only;   /**< non-zero: with n_conditions 0, a profile that has conditions of
                                   its own (article, paper) runs none of them */
    int32_t reserved3;        /**< 0 */
    const char *probes;       /**< file of a probe set (probe.h) that every model is asked after the
                                   text, with the bos_policy above; NULL = none */
    const char *kl_divergence_base; /**< base-logit file of llama.cpp that the model and the
                                         conditions are compared with; text may then be NULL: the
                                         file's tokens are taken, each chunk a document; else they
                                         must be those of the text */
    const char *save_logits;  /**< base-logit file to write of the reference's predictions; not with
                                   a state */
    int32_t kl_divergence;    /**< non-zero: llama.cpp's report of each condition. Each of these
                                   three cuts and scores the text as llama-perplexity does */
    int32_t reserved4;        /**< 0 */
    const char *plan;         /**< what qsae_audit_plan of an earlier audit gave: goes into the
                                   result with what this one measures of its condition, which must
                                   be among the conditions, and of the others; or NULL */
    const int64_t *contexts;  /**< [n_contexts] window lengths, 2..16 different ones of at least 4
                                   tokens, at each of which the same tokens are measured after the
                                   text (doc/evaluate.md); NULL = none */
    int64_t n_contexts;
    int64_t contexts_scored;  /**< tokens at the end of each window that are measured, at most the
                                   shortest length less 2; 0 = half of it */
    int64_t contexts_stride;  /**< tokens between the beginnings of the longest windows, at least
                                   contexts_scored; 0 = the longest length: side by side */
    int64_t shard_index;      /**< 0..shard_count - 1: measures this part of the text alone */
    int64_t shard_count;      /**< parts of the text, of whole logical batches, divided evenly; 0 =
                                   all of it. With more parts than batches some are empty. Their
                                   states are merged with qsae_audit_merge */
    const char *cache;        /**< QSAE_MEMORY_IN_TURN: folder for its temporary file, which has no
                                   name; NULL = that of the state file, or else /var/tmp */
    int64_t seed;             /**< of the draws of all intervals; they are drawn when a result is
                                   made, so it is no part of the measurement or of its state */
} qsae_audit_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_audit_settings). */
QSAE_API void qsae_audit_settings_init(qsae_audit_settings *s, size_t size);

/**
 * Opens models, SAEs and text and checks that they fit together; measures nothing yet.
 * @return what the parts return; QSAE_EINVAL: also a sweep over a condition that changes no weights
 *         or whose sparsity is searched for; QSAE_EMISMATCH: an SAE's width or layer does not fit
 *         the model, another checkpoint has another tokenizer (the difference is named), or the
 *         state file belongs to another measurement
 */
QSAE_API int32_t qsae_audit_open(qsae_context *context, const qsae_audit_settings *settings,
                                 qsae_audit **out);

/** Closes *audit and NULLs it; a running qsae_audit_run must have returned. NULL is fine. */
QSAE_API void qsae_audit_close(qsae_audit **audit);

/**
 * Finds the sparsities that conditions leave open (prune:match=), then measures up to the end of
 * the text. After QSAE_ECANCELED the state is at the last whole batch, or the last finished search,
 * and a further call goes on from there. So it does after QSAE_ENOMEM; a batch that was measured in
 * part by then is completed first, and until it is there is no result (QSAE_ESTATE) and the state
 * file stays as it was.
 */
QSAE_API int32_t qsae_audit_run(qsae_audit *audit);

/**
 * The result document (JSON, see doc/result.md) of what has been measured so far.
 * @param json  receives a NUL-terminated string of the audit's, valid until its next call
 */
QSAE_API int32_t qsae_audit_result(qsae_audit *audit, const char **json, size_t *n_bytes);

/**
 * A mixed-precision plan from an audit with a sweep, as far as it has run: for each part one of the
 * swept conditions, or the weights as they are, such that their mean KL (by_dce non-zero: rise in
 * cross-entropy) adds up to the least within a budget. Parts' costs are taken to add up; measure
 * the plan's condition to know. See doc/evaluate.md.
 * @param bits  budget in bits per weight, scales included, over all weights that the sweep changes
 * @param json  receives a JSON object with the condition (doc/result.md), of the audit's, valid
 *              until the next call
 * @return QSAE_EINVAL: no sweep, nothing measured, a budget that no choice fits, conditions that
 *         select different weights; QSAE_EOVERFLOW, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_audit_plan(qsae_audit *audit, double bits, int32_t by_dce,
                                 const char **json);

#define QSAE_MERGE_NUMERICS 1 /**< states measured with other arithmetic (CPU level, f32 kernel)
                                   merge too; the result lists them */

/** What merged states hold. */
typedef struct qsae_merge_info {
    size_t struct_size;
    int64_t chunks;           /**< of the text */
    int64_t measured_chunks;
    int64_t gaps;             /**< ranges of chunks that are missing */
    int64_t gap_from, gap_to; /**< the first of them: chunks gap_from..gap_to - 1 */
} qsae_merge_info;

/**
 * Makes one state file of those of shards, or of merged ones: in any order, to the same bytes as
 * one process would have written, but for what the run took (seconds, which are added, and peak
 * memory). An audit with the same settings and this state has the result, or goes on with what is
 * missing. Needs neither model nor text.
 * @param files  [n] state files; untrusted
 * @param out    file to write, which may be one of them; unchanged on error
 * @param flags  0 or QSAE_MERGE_NUMERICS
 * @param info   may be NULL
 * @return QSAE_EMISMATCH: they are of different measurements (the field is named), were measured
 *         with other arithmetic, or have chunks in common (which are named); QSAE_EINVAL: also a
 *         run stopped while some conditions had seen more than others; QSAE_EFORMAT: damaged
 */
QSAE_API int32_t qsae_audit_merge(qsae_context *context, const char *const *files, int64_t n,
                                  const char *out, int32_t flags, qsae_merge_info *info);

/** Receives a line of text, [n_bytes] without line end, NUL-terminated, valid during the call.
 * @return 0, or any value to stop with it */
typedef int32_t (*qsae_line_callback)(void *cookie, const char *line, size_t n_bytes);

/**
 * What has been measured of every feature of an SAE so far: one JSON object per feature, in order
 * (doc/result.md, features). Needs settings.top_contexts.
 * @param sae   0..n_saes-1
 * @param line  called once per feature
 * @return QSAE_EINVAL, QSAE_ENOMEM, or what the callback returned
 */
QSAE_API int32_t qsae_audit_features(qsae_audit *audit, int64_t sae, qsae_line_callback line,
                                     void *cookie);

QSAE_END_DECLS

#endif
