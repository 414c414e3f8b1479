/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_H
#define QSAE_MODEL_H

#include <qsae/quantizer.h>

QSAE_BEGIN_DECLS

/**
 * A checkpoint: configuration and mapped tensors. Any number of models are made from it; tensors
 * that they do not change are shared. Thread-safety: safe.
 */
typedef struct qsae_weights qsae_weights;

/**
 * Opens a Hugging Face folder (config.json and model.safetensors, one file or sharded with index),
 * plain or with weights stored by bitsandbytes, GPTQ, AWQ, compressed-tensors or in FP8; or a GGUF
 * file, or a folder that holds one.
 * @return QSAE_ENOENT, QSAE_EFORMAT, QSAE_EPICKLE, QSAE_EUNSUPPORTED (model type or feature),
 *         QSAE_EMISMATCH (a tensor's shape is not what the configuration implies), QSAE_EIO,
 *         QSAE_ENOMEM
 */
QSAE_API int32_t qsae_weights_open(qsae_context *context, const char *path, qsae_weights **out);

/** Closes *weights and NULLs it; models made of it stay usable. NULL is fine. */
QSAE_API void qsae_weights_close(qsae_weights **weights);

typedef struct qsae_model_info {
    size_t struct_size;
    const char *type;         /**< model_type: "llama", "gemma3_text", ... */
    const char *path;
    int64_t layers;
    int64_t width;            /**< residual width d */
    int64_t vocab;            /**< rows of the head */
    int64_t heads, kv_heads, head_dim;
    int64_t mlp_width;
    int64_t window;           /**< sliding window in tokens, 0 if none */
    int64_t max_positions;
    int64_t parameters;       /**< of the text model, tied head counted once */
    int32_t tied;             /**< 1 if head and embedding are one matrix */
    int32_t bos, eos;         /**< from the configuration, -1 if none */
    int32_t dtype;            /**< of the embedding in the file */
    const char *storage;      /**< how compressed weights are stored: "gguf", or the quant_method of
                                   quantization_config ("bitsandbytes", ...); "" if plain */
    const char *hash;         /**< 32 hex digits: XXH3-128 over configuration and tensors; computed
                                   on the first call that asks (reads the file once) */
} qsae_model_info;

/** Describes a checkpoint. info->struct_size set by the caller; info->hash is filled only if it is
 * covered (the first such call reads the file). QSAE_EINVAL, QSAE_ENOMEM. */
QSAE_API int32_t qsae_weights_get_info(const qsae_weights *weights, qsae_model_info *info);

/**
 * Processes weights as TransformerLens does when it loads a model. The result is a checkpoint of
 * its own: what a step changes is copied, in f32 (memory: 4 bytes per weight of it); all else is
 * shared. A tied head becomes a matrix of its own. qsae_weights_save refuses it.
 * @param what  steps with commas between, done in this order whichever comes first in the list:
 *              "fold_ln" (gain and bias of norms into the layers that read them),
 *              "center_writing_weights" (embedding, positions and what writes to the residual
 *              stream have mean 0 over it; models with LayerNorm), "center_unembed" (the head has
 *              mean 0 over the vocabulary; models without a final soft cap), "fold_value_biases"
 *              (into the bias of attention's output); "tl" is all four. A step that a model cannot
 *              have is left out, as TransformerLens leaves it out; qsae_weights_processing says
 *              which were done. NULL, "" or "none": none, and *out is another reference to the
 *              same weights
 * @param out   to be closed with qsae_weights_close, before or after weights
 * @return QSAE_EINVAL (an unknown step; weights that are processed already), QSAE_EUNSUPPORTED
 *         (weights stored compressed, a model type that it is not defined for), QSAE_ENOMEM
 */
QSAE_API int32_t qsae_weights_process(qsae_weights *weights, const char *what, qsae_weights **out);

/** The steps that were done, in their order: "fold_ln,center_unembed"; "" if none. Valid until the
 * weights are closed. */
QSAE_API const char *qsae_weights_processing(const qsae_weights *weights);

typedef struct qsae_save_settings {
    size_t struct_size;
    int32_t dtype;             /**< QSAE_F32, _BF16, _F16: every F32, F16 and BF16 tensor is cast to
                                    it, before weights are encoded; 0 = as stored */
    int32_t reserved;          /**< 0 */
    uint64_t max_shard_bytes;  /**< of one file's tensors, above which another begins; a tensor that
                                    exceeds it has a file of its own; 0 = 5,000,000,000 */
    qsae_progress_callback progress; /**< unit "tensors" */
    void *progress_cookie;
    qsae_cancel_token *cancel;
} qsae_save_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_save_settings). */
QSAE_API void qsae_save_settings_init(qsae_save_settings *s, size_t size);

/**
 * Writes a checkpoint under a condition as a Hugging Face folder. llm.int8, nf4 and fp4 become
 * weights as bitsandbytes stores them, which transformers loads as its own; whatever else a
 * condition does to weights becomes plain ones with its values, and config.json says so under
 * qsae_condition. All other tensors are kept, and tokenizer and settings files copied.
 * @param weights    of a folder with plain weights
 * @param condition  see quantizer.h; NULL = "none"
 * @param folder     absent or empty; it appears whole or not at all. A folder beside it, named
 *                   FOLDER.tmp-XXXXXX, holds what is written until then
 * @param settings   NULL = defaults
 * @return QSAE_EINVAL (condition; the folder is not empty), QSAE_EUNSUPPORTED (a condition that no
 *         folder can hold, weights stored compressed), QSAE_ENONFINITE, QSAE_ENOENT, QSAE_EIO,
 *         QSAE_ENOMEM, QSAE_ECANCELED, or what the progress callback returned
 */
QSAE_API int32_t qsae_weights_save(qsae_weights *weights, const char *condition, const char *folder,
                                   const qsae_save_settings *settings);

#define QSAE_COMPUTE_DEFAULT 0 /**< f32 */
#define QSAE_COMPUTE_F32 1     /**< nothing is rounded below f32 */
#define QSAE_COMPUTE_BF16 2    /**< each operation's result is rounded to bf16 as PyTorch does */

#define QSAE_ATTN_DEFAULT 0 /**< sdpa; eager for Gemma 2, as in transformers */
#define QSAE_ATTN_EAGER 1   /**< scores, probabilities rounded step by step (bf16) */
#define QSAE_ATTN_SDPA 2    /**< PyTorch's CPU flash kernel: online softmax, 512 keys a block */
#define QSAE_ATTN_FP32 3    /**< no rounding inside attention */

/**
 * The matrix of a module as the checkpoint stores it: "model.layers.0.self_attn.q_proj", the
 * embedding ("model.embed_tokens"), an untied head ("lm_head"). Those of a GGUF file have the names
 * of the same model in Hugging Face's form. Stays usable after the weights are closed.
 * @return QSAE_ENOENT (no such module), QSAE_ENOMEM
 */
QSAE_API int32_t qsae_weights_matrix(const qsae_weights *weights, const char *module,
                                     qsae_qmatrix **out);

/**
 * Number of matrices that qsae_weights_error compares: the linear layers of every block (q, k, v,
 * o, gate, up, down, ...), then one that stands before the blocks (Gemma 4), the embedding, and the
 * head, which is left out if each checkpoint ties it.
 * @param other  or NULL
 */
QSAE_API int64_t qsae_weights_matrix_count(const qsae_weights *reference,
                                           const qsae_weights *other);

/**
 * How far matrix i of a checkpoint under a condition is from the reference. Takes the memory of
 * that matrix, encoded. Weights are encoded from the dtype they are stored in, or that of
 * `@compute=`.
 * @param other      a checkpoint of the same shape, stored in any way; NULL = the reference itself
 * @param condition  what is done to its weights, see quantizer.h; NULL = "none"
 * @param i          0..qsae_weights_matrix_count(reference, other)-1
 * @param error      error->struct_size set by the caller
 * @return QSAE_EINVAL, QSAE_EMISMATCH (layers or shape of the other), QSAE_EUNSUPPORTED,
 *         QSAE_ENOMEM
 */
QSAE_API int32_t qsae_weights_error(qsae_weights *reference, qsae_weights *other,
                                    const char *condition, int64_t i, qsae_weight_error *error);

#define QSAE_MEMORY_DEFAULT 0  /**< resident; an audit decides by the memory there is */
#define QSAE_MEMORY_RESIDENT 1 /**< weights are made ready once, at open, and held */
#define QSAE_MEMORY_STREAMED 2 /**< weights are made ready layer by layer in every pass and given
                                    back, for models larger than memory: a pass holds one layer,
                                    embedding, head and activations. Same bits as resident */

typedef struct qsae_model_settings {
    size_t struct_size;
    const char *condition;    /**< see quantizer.h; NULL = "none" */
    int32_t compute;          /**< QSAE_COMPUTE_*; "@compute=" in the condition wins */
    int32_t attention;        /**< QSAE_ATTN_* */
    qsae_progress_callback progress; /**< unit "tensors" */
    void *progress_cookie;
    qsae_cancel_token *cancel;
    int32_t memory;           /**< QSAE_MEMORY_* */
    int32_t reserved;         /**< 0 */
} qsae_model_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_model_settings). */
QSAE_API void qsae_model_settings_init(qsae_model_settings *s, size_t size);

/**
 * A runnable model: a checkpoint under a condition.
 * Thread-safety: one call at a time per model; different models of one context may be used from
 * different threads (their work queues on the context's threads).
 */
typedef struct qsae_model qsae_model;

/**
 * Makes a model, quantizing its linear layers as the condition says: here, or in a streamed model
 * in every pass, which then returns what refuses a layer's values.
 * @return QSAE_EINVAL (condition string: offset and reason), QSAE_EUNSUPPORTED, QSAE_ENONFINITE,
 *         QSAE_ENOMEM, QSAE_ECANCELED
 */
QSAE_API int32_t qsae_model_open(qsae_weights *weights, const qsae_model_settings *settings,
                                 qsae_model **out);

/** Closes *model and NULLs it. Not while a pass runs. NULL is fine. */
QSAE_API void qsae_model_close(qsae_model **model);

/** Describes the checkpoint of a model, as qsae_weights_get_info. */
QSAE_API int32_t qsae_model_get_info(const qsae_model *model, qsae_model_info *info);

typedef struct qsae_model_cost {
    size_t struct_size;
    uint64_t weight_bytes;     /**< all weights as stored under the condition, scales included */
    uint64_t quantized_bytes;  /**< of the matrices the codec replaced */
    int64_t quantized_weights; /**< number of weights in them */
    int64_t quantized_tensors;
    double bits_per_weight;    /**< 8 quantized_bytes / quantized_weights; of all weights if none */
    const char *condition;     /**< canonical form */
    int32_t compute;           /**< QSAE_COMPUTE_F32 or _BF16, as resolved */
    int32_t attention;
    int32_t batch_dependent;   /**< 1: results depend on which sequences share a call (LLM.int8) */
    double kv_bits_per_value;  /**< of the key/value cache, scales included: mean of keys and
                                    values; 16 for those without a code; positions kept in f16 are
                                    not counted */
} qsae_model_cost;

/** What the model weighs. cost->struct_size set by the caller; QSAE_EINVAL. */
QSAE_API int32_t qsae_model_get_cost(const qsae_model *model, qsae_model_cost *cost);

/* Places whose rows a pass shows and lets change. */
#define QSAE_SITE_RESID_POST 1       /**< output of a decoder block, after its last residual add */
#define QSAE_SITE_RESID_PRE 2        /**< its input */
#define QSAE_SITE_RESID_MID 3        /**< between attention and MLP; not where both read one stream
                                          (GPT-NeoX with use_parallel_residual) */
#define QSAE_SITE_ATTN_OUT 4         /**< what attention adds to the stream, after Gemma's
                                          post-norm */
#define QSAE_SITE_MLP_OUT 5          /**< what the MLP adds, likewise */
#define QSAE_SITE_Z 6                /**< the heads' output, input of o_proj: heads * head_dim
                                          wide */
#define QSAE_SITE_MLP_IN 7           /**< input of the MLP, after the norm and its gain */
#define QSAE_SITE_EMBED 8            /**< embedding after its factor, before learned positions */
#define QSAE_SITE_FINAL_NORM 9       /**< input of the head, after the final norm and its gain */
#define QSAE_SITE_LN2_NORMALIZED 10  /**< inside the norm before the MLP: before gain and bias */
#define QSAE_SITE_FINAL_NORMALIZED 11 /**< inside the final norm, likewise */
#define QSAE_SITE_LN1_NORMALIZED 12  /**< inside the norm before attention, likewise */
#define QSAE_SITE_MLP_POST 13        /**< input of down_proj, after the gate: mlp_width wide */
#define QSAE_SITE_POS_EMBED 14       /**< learned positions (GPT-2) */

/** "resid_post", "z", ...: QSAE_SITE_* in small letters; NULL if unknown. Static storage. */
QSAE_API const char *qsae_site_name(int32_t site);

/**
 * Number of a site by its name, or by a full hook name: TransformerLens'
 * ("blocks.3.hook_resid_post", "blocks.3.attn.hook_z", "hook_embed", "ln_final.hook_normalized") or
 * a module of transformers with ".input" or ".output", which may be missing
 * ("model.layers.3.output", "h.3", "layers.3.mlp", "model.layers.3.self_attn.o_proj.input").
 * Only names that mean one site in all families that have it as a site: qsae_model_site knows the
 * family.
 * @param layer  receives the layer of a full name, -1 for sites of no layer; else untouched; or
 *               NULL
 * @return 0 if unknown
 */
QSAE_API int32_t qsae_site_from_name(const char *name, int32_t *layer);

/**
 * Number of a site by its name in this model: what qsae_site_from_name takes, but modules are those
 * of the model's family ("model.layers.3.post_attention_layernorm.output" is mlp_in in Llama and
 * attn_out in Gemma; in Gemma "model.layers.3.mlp.output", before the post-norm, is no site).
 * Whatever precedes the layers ("model.", "model.language_model.", ...) is not compared.
 * @param layer  receives the layer of a full name, as qsae_tap takes it: not compared with the
 *               model's; for sites of none 0 or the last one; else untouched. Or NULL
 * @return 0 if it is no site of the family, or an argument but layer is NULL
 */
QSAE_API int32_t qsae_model_site(const qsae_model *model, const char *name, int32_t *layer);

/** Columns of the rows at a site, in layer 0 where layers differ; 0 if the model has none. */
QSAE_API int64_t qsae_model_site_width(const qsae_model *model, int32_t site);

/** Columns of the rows at a site of a layer (Gemma 4: z and mlp_post of layers differ); 0 if the
 * model has no such site or layer. */
QSAE_API int64_t qsae_model_site_width_at(const qsae_model *model, int32_t site, int32_t layer);

/**
 * Sees rows at a site; rows->data is f32 [n_seq * n_tokens, columns of the site], valid
 * during the call. In bf16 compute they hold bf16 values, but inside norms (*_NORMALIZED), where
 * nothing is rounded yet.
 * @return 0, or any value to end the pass with it
 */
typedef int32_t (*qsae_observer)(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows);

/** As qsae_observer, but may change the rows in place; in bf16 compute they are rounded again where
 * they hold bf16 values. What follows sees them: the gain of a norm multiplies what is edited
 * before it. */
typedef int32_t (*qsae_editor)(void *cookie, int32_t layer, int32_t site, qsae_rows *rows);

/** One place to look at or to change. Callbacks run on the caller's thread, one at a time, in
 * the order of the forward pass, at one site in that of registration. They may use SAEs and metrics
 * of the same context, but not run or close this model. */
typedef struct qsae_tap {
    size_t struct_size;
    int32_t layer;           /**< 0..layers-1; EMBED and POS_EMBED: 0 or -1, FINAL_*: the last or
                                  -1 */
    int32_t site;            /**< QSAE_SITE_*, one that the model has */
    qsae_observer observe;   /**< or NULL */
    qsae_editor edit;        /**< or NULL; runs before observers registered after it */
    void *cookie;
} qsae_tap;

typedef struct qsae_pass {
    size_t struct_size;
    const int32_t *ids;      /**< [n_seq, n_tokens], 0..vocab-1 */
    const int32_t *labels;   /**< [n_seq, n_tokens], -100 = none; NULL = the next token, none at the
                                  last position */
    int64_t n_seq;           /**< >= 1; all sequences of a call form one logical batch */
    int64_t n_tokens;        /**< >= 1, positions 0..n_tokens-1 */
    float *nll;              /**< [n_seq, n_tokens] natural log; NaN without label; or NULL */
    float *logits;           /**< [n_seq, n_tokens, vocab] or NULL */
    const qsae_tap *taps;    /**< [n_taps]; struct_size of the first is the stride of the array */
    int64_t n_taps;
    int32_t stop_layer;      /**< with nll and logits NULL: run blocks below this one; 0 = as many
                                  as the taps need */
    int32_t reserved;
    qsae_progress_callback progress; /**< unit "layers" */
    void *progress_cookie;
    qsae_cancel_token *cancel;
} qsae_pass;

/** Zeroes *pass up to size bytes and sets struct_size. size: sizeof(qsae_pass). */
QSAE_API void qsae_pass_init(qsae_pass *pass, size_t size);

/**
 * Runs the model over a batch. Logits of more than a tile exist only if asked for. The model keeps
 * the memory of its last pass (per token about the widths of its projections in f32) for the next
 * one of the same shape, until it is closed.
 * @return QSAE_EINVAL (id out of range: where), QSAE_ENOMEM, QSAE_ECANCELED, or what a callback
 *         returned. The model stays usable; outputs are then undefined.
 */
QSAE_API int32_t qsae_model_forward(qsae_model *model, const qsae_pass *pass);

QSAE_END_DECLS

#endif
