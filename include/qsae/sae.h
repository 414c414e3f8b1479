/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_SAE_H
#define QSAE_SAE_H

#include <qsae/tensor.h>

QSAE_BEGIN_DECLS

/**
 * A sparse autoencoder. Thread-safety: one call at a time per handle.
 */
typedef struct qsae_sae qsae_sae;

typedef struct qsae_sae_settings {
    size_t struct_size;
    /** 0 = f32; QSAE_BF16, QSAE_F16: the matrices are rounded to it first; QSAE_I8: W_enc and W_dec
     * are int8 codes with a scale for each feature. A file of more bits is then copied to memory
     * in it, and not needed after open. Vectors stay f32. */
    int32_t dtype;
    int32_t reserved;
    qsae_cancel_token *cancel; /**< ends encode and decode; must outlive the SAE; or NULL */
    int64_t prefix;          /**< as qsae_sae_set_prefix(); 0 = all features */
    double scale;            /**< the s = sqrt(width) / mean |x| by which training scaled its
                                  input, folded into the weights; 0 = of the files or the table of
                                  releases. Only for files that say they need one */
    const char *layer;       /**< of a set of transcoders: "5", as "#5" behind the path; of a
                                  cross-layer one "5:7": layer 5 with what it writes to layer 7.
                                  NULL = the only one */
    const char *activation;  /**< "relu" or "topk": what runs where a batchtopk file has no fitted
                                  threshold; NULL = such a file is refused */
    int32_t center_input;    /**< 1: the SAE reads x - mean(x) of each row; -1: rows come as it
                                  reads them; 0 = as the files or the table of releases say */
    int32_t reserved2;
} qsae_sae_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_sae_settings). */
QSAE_API void qsae_sae_settings_init(qsae_sae_settings *s, size_t size);

/**
 * Opens an SAE folder or file: SAELens, Gemma Scope 1 and 2, Llama Scope, OpenMOSS, sparsify,
 * dictionary_learning, sets of transcoders and cross-layer transcoders, and plain files of tensors
 * (doc/saes.md lists files and tensors). Weights stay mapped where the format allows.
 * @return QSAE_ENOENT, QSAE_EFORMAT, QSAE_EPICKLE (with the conversion to use), QSAE_EUNSUPPORTED
 *         (architecture or option by name), QSAE_EMISMATCH (shapes), QSAE_EIO, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_sae_open(qsae_context *context, const char *path,
                               const qsae_sae_settings *settings, qsae_sae **out);

/** Closes *sae and NULLs it. NULL is fine. */
QSAE_API void qsae_sae_close(qsae_sae **sae);

typedef struct qsae_sae_info {
    size_t struct_size;
    const char *architecture; /**< "standard", "jumprelu", "topk", ... */
    const char *format;       /**< "saelens", "gemma-scope", "gemma-scope-2", "llama-scope", ... */
    const char *hook;         /**< hook name as the files give it; "" if they do not */
    /** "none", "layer_norm", "constant_norm_rescale", or "expected_average_only_in" where the scale
     * it needs is not known: rows are then encoded as they come, and the log has a warning. */
    const char *normalize;
    const char *hash;         /**< 32 hex digits: XXH3-128 of the parameters in canonical layout */
    const char *path;
    int64_t width;            /**< d_in */
    int64_t width_out;        /**< d_out */
    int64_t features;         /**< d_sae */
    int64_t k;                /**< of topk, abstopk, groupmax, else 0 */
    int64_t context_size;     /**< trained at, 0 if unknown */
    float min_threshold;      /**< of jumprelu, else 0 */
    int32_t prepend_bos;      /**< 1, 0, or -1 if the files do not say */
    int32_t apply_b_dec;      /**< 1: b_dec is subtracted from the input */
    int32_t skip;             /**< 1: has a skip connection (transcoders, affine) */
    int32_t state_size;       /**< floats per row that decode needs from encode; 0 if none */
    const int64_t *widths;    /**< [n_widths] of a matryoshka SAE, ascending, or NULL */
    int64_t n_widths;
    int64_t prefix;           /**< see qsae_sae_set_prefix(); 0 = all */
    int64_t zero_rows;        /**< rows of norm 0 that constant_norm_rescale left alone so far */
    int32_t center_input;     /**< 1: a row's mean is subtracted from it first */
    int32_t encode_only;      /**< 1: one layer of a cross-layer transcoder: decoding is refused */
    const char *hook_out;     /**< of transcoders: where the output belongs; else equal to hook */
    const char *model_name;   /**< as the files give it; "" if they do not */
    const char *neuronpedia_id; /**< "" if the files do not say */
    double scale;             /**< s that was folded into the weights; 0 if none */
    double norm_in;           /**< mean |x| of the training data as the files give it, or 0 */
    double norm_out;          /**< the same at the output hook */
    int32_t transcoder;       /**< 1: reads one place and reconstructs another */
    int32_t head;             /**< the attention head whose columns of the hook are its rows; -1:
                                   all of them are */
} qsae_sae_info;

/** Describes an SAE. info->struct_size set by the caller; the first call for the hash reads
 * all parameters. QSAE_EINVAL, QSAE_ENOMEM. */
QSAE_API int32_t qsae_sae_get_info(const qsae_sae *sae, qsae_sae_info *info);

/**
 * Decoding, and so reconstructing, adds features below prefix only: the reconstruction of a
 * matryoshka SAE at one of its widths (any number is allowed). Encoding is not touched.
 * @param prefix  1 to features, 0 = all
 * @return QSAE_EINVAL
 */
QSAE_API int32_t qsae_sae_set_prefix(qsae_sae *sae, int64_t prefix);

/**
 * Encodes rows to sparse rows (CSR), indices ascending in a row, values non-zero.
 * @param x         [n, width] f32, f16 or bf16
 * @param indptr    [n + 1]
 * @param indices   [capacity] feature of each entry
 * @param values    [capacity]
 * @param state     [n, state_size] what decode needs, NULL if state_size is 0
 * @param nnz       receives the number of entries
 * @return QSAE_ESPACE: capacity too small; *nnz is the number needed, indptr is valid. QSAE_EINVAL,
 *         QSAE_EMISMATCH (width), QSAE_ENOMEM. Rows with NaN or infinity encode to no entries and
 *         are counted by the metrics.
 */
QSAE_API int32_t qsae_sae_encode_sparse(qsae_sae *sae, const qsae_rows *x, int64_t *indptr,
                                        int32_t *indices, float *values, int64_t capacity,
                                        float *state, int64_t *nnz);

/** Encodes rows to dense rows: acts [n, features] f32. state as above. */
QSAE_API int32_t qsae_sae_encode(qsae_sae *sae, const qsae_rows *x, qsae_rows *acts, float *state);

/** Decodes sparse rows: y [n, width_out] f32. Without the skip connection, as SAELens' decode. */
QSAE_API int32_t qsae_sae_decode_sparse(qsae_sae *sae, int64_t n, const int64_t *indptr,
                                        const int32_t *indices, const float *values,
                                        const float *state, qsae_rows *y);

/** Decodes dense rows: acts [n, features] f32. */
QSAE_API int32_t qsae_sae_decode(qsae_sae *sae, const qsae_rows *acts, const float *state,
                                 qsae_rows *y);

/** The whole module: y = decode(encode(x)), normalisation state and skip connection included. */
QSAE_API int32_t qsae_sae_reconstruct(qsae_sae *sae, const qsae_rows *x, qsae_rows *y);

#define QSAE_FEATURE_SET 1   /**< a = value: 0 ablates, else clamps */
#define QSAE_FEATURE_ADD 2   /**< a = a + value, in every row: steers along the decoder row */
#define QSAE_FEATURE_SCALE 3 /**< a = a value */

/** What is done to one feature's activation a in every row. */
typedef struct qsae_feature_edit {
    size_t struct_size;
    int64_t feature;         /**< 0..features-1 */
    int32_t operation;       /**< QSAE_FEATURE_* */
    float value;             /**< finite; in units of what encode returns */
} qsae_feature_edit;

/**
 * Rows with features edited, to be put in the model's way by an editor. With the error kept the
 * rest of x stays: y = x + decode(a') - decode(a), which is SAE'(x) + (x - SAE(x)); rows in which
 * the edits change no activation are x itself, bit for bit. Without it y = SAE'(x), what
 * reconstruct would return for the edited activations.
 * @param x           [n, width] f32, f16 or bf16
 * @param edits       [n_edits]; struct_size of the first is the stride of the array. Those of one
 *                    feature are applied in their order
 * @param keep_error  non-zero: keep it. A transcoder's error is that of another site's rows: 2, and
 *                    y holds them on entry, or 0
 * @param y           [n, width_out] f32; may be x itself if that is f32
 * @return QSAE_EINVAL (an edit: which and why), QSAE_EMISMATCH (width), QSAE_ENOMEM, QSAE_ECANCELED
 */
QSAE_API int32_t qsae_sae_intervene(qsae_sae *sae, const qsae_rows *x,
                                    const qsae_feature_edit *edits, int64_t n_edits,
                                    int32_t keep_error, qsae_rows *y);

/**
 * A figure of the weights of each feature, as the SAE runs: rounded as settings.dtype says, scales
 * folded in. Reads W_enc and W_dec, over the context's threads.
 * @param name  "encoder_norm", "decoder_norm": |W_enc[:, i]|, |W_dec[i, :]|; "encoder_bias" (of
 *              gated SAEs b_mag); "encoder_decoder_cosine" of those two vectors;
 *              "encoder_max_cosine", "decoder_max_cosine": the largest to another feature's, for
 *              features^2 * width multiplications
 * @param out   [n] in the order of the features; NaN where a vector is zero
 * @param n     the features
 * @return QSAE_ENOENT (name), QSAE_EINVAL, QSAE_EMISMATCH (a cosine of transcoders whose sides
 *         differ in width), QSAE_EUNSUPPORTED (no decoder), QSAE_ENOMEM, QSAE_ECANCELED
 */
QSAE_API int32_t qsae_sae_features(const qsae_sae *sae, const char *name, double *out, int64_t n);

/**
 * Several layers of transcoders whole: a cross-layer transcoder, a crosscoder, or a set of
 * transcoders. Every layer l reads rows x_l at a place of its own and has features of its own,
 * a_l = encode_l(x_l). The output at layer m adds up what they write there, with the bias and the
 * skip connection of m:
 *     y_m = b_dec_m + sum over l of a_l W_dec_l[:, m, :] (+ x_m W_skip_m^T)
 * over l <= m of a cross-layer transcoder, all l of a crosscoder, l = m of a set (sae.md A.2).
 * Thread-safety: one call at a time per handle, its layers' included.
 */
typedef struct qsae_sae_layers qsae_sae_layers;

/**
 * Opens all layers of a folder: circuit-tracer's cross-layer transcoders and sets, Gemma Scope 2's
 * clt and crosscoder, OpenMOSS' clt. Decoders stay mapped; each layer also holds what it writes to
 * itself.
 * @param settings  as of qsae_sae_open; layer NULL, prefix 0, dtype 0 or QSAE_F32. NULL = defaults
 * @return as qsae_sae_open; QSAE_EUNSUPPORTED: a folder of one SAE; QSAE_EMISMATCH: layers missing
 */
QSAE_API int32_t qsae_sae_layers_open(qsae_context *context, const char *path,
                                      const qsae_sae_settings *settings, qsae_sae_layers **out);

/** Closes *layers and the SAEs it has lent, and NULLs it. NULL is fine. */
QSAE_API void qsae_sae_layers_close(qsae_sae_layers **layers);

typedef struct qsae_sae_layers_info {
    size_t struct_size;
    const char *kind;         /**< "clt", "crosscoder" or "transcoders" */
    const char *format;       /**< as of qsae_sae_info */
    const char *hash;         /**< 32 hex digits: of all layers' parameters */
    const char *path;
    const char *model_name;   /**< "" if the files do not say */
    int64_t layers;
    int64_t features;         /**< of all layers together */
    int64_t width;            /**< of the rows each reads */
    int64_t width_out;        /**< of the rows each output has */
} qsae_sae_layers_info;

/** Describes them. info->struct_size set by the caller; the first call reads all parameters.
 * QSAE_EINVAL, QSAE_ENOMEM. */
QSAE_API int32_t qsae_sae_layers_get_info(const qsae_sae_layers *layers,
                                          qsae_sae_layers_info *info);

/**
 * One of them, lent: to encode with, and for its hooks. Of a cross-layer one it refuses to decode.
 * @param i      0 to layers - 1, ascending by number
 * @param layer  receives the number that the files give it, or NULL
 * @param sae    receives the handle, which layers owns
 * @return QSAE_EINVAL
 */
QSAE_API int32_t qsae_sae_layers_get(const qsae_sae_layers *layers, int64_t i, int64_t *layer,
                                     qsae_sae **sae);

/** Sparse rows (CSR) as qsae_sae_encode_sparse() gives them. */
typedef struct qsae_sae_acts {
    size_t struct_size;
    const int64_t *indptr;    /**< [n + 1] */
    const int32_t *indices;   /**< ascending in a row */
    const float *values;
} qsae_sae_acts;

/**
 * The output at a layer of given activations, without the skip connection.
 * @param acts  [layers]; those of layers that do not write to it are not read. struct_size of the
 *              first is the stride of the array
 * @param to    index of the layer
 * @param y     [n, width_out] f32
 * @return QSAE_EINVAL, QSAE_EMISMATCH (width), QSAE_ENOMEM, QSAE_ECANCELED
 */
QSAE_API int32_t qsae_sae_layers_decode_sparse(qsae_sae_layers *layers, const qsae_sae_acts *acts,
                                               int64_t to, int64_t n, qsae_rows *y);

/**
 * The whole module, skip connections included.
 * @param x  [layers] rows [n, width] f32, f16 or bf16 each; NULL for layers that no wanted output
 *           depends on
 * @param y  [layers] rows [n, width_out] f32 each, or NULL: not wanted
 */
QSAE_API int32_t qsae_sae_layers_reconstruct(qsae_sae_layers *layers, const qsae_rows *const *x,
                                             qsae_rows *const *y);

QSAE_END_DECLS

#endif
