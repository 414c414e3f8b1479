/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_QUANTIZER_H
#define QSAE_QUANTIZER_H

#include <qsae/tensor.h>

QSAE_BEGIN_DECLS

/*
 * Condition strings: CODEC[:options][@selector]...[+part]...
 *   none                          weights as they are; weights=bf16|f16 rounds every tensor first
 *   llm.int8:threshold=6,rules=cuda|torch,outliers=batch|row
 *   nf4:block=64,double=1,compute=model|f32|bf16,rules=cuda|torch        (fp4 likewise)
 *   rtn:bits=8..2,axis=row|column|tensor|tl,group=0,sym=1,arith=f32|weight
 *   ggml:TYPE[,fallback=1]        q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs;
 *                                 rows that are no whole blocks are refused, or as in llama.cpp
 *   control:null                  the reference once more
 *   control:gauss(SPEC)[:seed=N]  normal noise as large as the error of SPEC
 *   control:permute(SPEC)[:seed=N] the errors of SPEC in random order
 *   @layers=0-11   @only=NAMES   @skip=NAMES   @with=embed|head   @compute=f32|bf16
 *   +prune:sparsity=S,scope=tensor|row|tl,ties=all|first     +prune:pattern=2:4
 *   +prune:match=PPL|(SPEC),tokens=0      sparsity found by an audit
 *   +kv:k=CODE,v=CODE,sink=N      f16 bf16 int8 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl turbo1..8
 *                                 turbo1s..8s; rot=1: ggml codes as llama.cpp rotates them
 * NAMES are joined by |: attn, mlp, the last parts of a module's path (q_proj, mlp.down_proj), or
 * /regex/ (PCRE2) found anywhere in the path. What selectors leave out keeps its weights; embedding
 * and head are encoded only by @with=. Weights are pruned before they are encoded. The canonical
 * form lists every option (outliers= only if it is row).
 */

/**
 * One weight codec. Thread-safety: safe.
 */
typedef struct qsae_quantizer qsae_quantizer;

/**
 * Parses a codec or control (a condition string without selectors and parts).
 * @return QSAE_EINVAL (offset, what is wrong, what is allowed), QSAE_EUNSUPPORTED, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_quantizer_open(qsae_context *context, const char *spec, qsae_quantizer **out);

/** Closes *quantizer and NULLs it. NULL is fine. */
QSAE_API void qsae_quantizer_close(qsae_quantizer **quantizer);

/** Canonical form of the specification; belongs to the handle. */
QSAE_API const char *qsae_quantizer_spec(const qsae_quantizer *quantizer);

/**
 * An encoded weight matrix. Thread-safety: safe (it never changes).
 */
typedef struct qsae_qmatrix qsae_qmatrix;

/**
 * Encodes a weight.
 * @param weight  [out, in] f32, f16 or bf16; kept nowhere
 * @param heads   rows of a Q, K or V projection are heads * head_dim: number of heads, for
 *                rtn:axis=tl; 0 for every other matrix
 * @param strict  non-zero: NaN or infinity is QSAE_ENONFINITE instead of being encoded
 * @return QSAE_EINVAL, QSAE_ENONFINITE, QSAE_EOVERFLOW, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_quantizer_encode(const qsae_quantizer *quantizer, const qsae_rows *weight,
                                       int64_t heads, int32_t strict, qsae_qmatrix **out);

/**
 * A tensor of two dimensions as a matrix: of a block type of ggml (GGUF files), or F32, F16, BF16.
 * Stays usable after tensors are closed.
 * @return QSAE_ENOENT, QSAE_EUNSUPPORTED (dtype), QSAE_EMISMATCH (dimensions), QSAE_EINVAL,
 *         QSAE_ENOMEM
 */
QSAE_API int32_t qsae_tensors_matrix(const qsae_tensors *tensors, const char *name,
                                     qsae_qmatrix **out);

/** Closes *matrix and NULLs it; its fields go with it. NULL is fine. */
QSAE_API void qsae_qmatrix_close(qsae_qmatrix **matrix);

/** Rows: outputs of the layer. */
QSAE_API int64_t qsae_qmatrix_rows(const qsae_qmatrix *matrix);

/** Columns: inputs of the layer. */
QSAE_API int64_t qsae_qmatrix_cols(const qsae_qmatrix *matrix);

/** Bytes of codes and scales. */
QSAE_API uint64_t qsae_qmatrix_bytes(const qsae_qmatrix *matrix);

/**
 * Decodes the whole matrix.
 * @param out  [rows, cols] f32, f16 or bf16: one rounding from the f32 product of code and scale
 * @return QSAE_EINVAL, QSAE_EMISMATCH (shape)
 */
QSAE_API int32_t qsae_qmatrix_decode(const qsae_qmatrix *matrix, qsae_rows *out);

/** How far an encoded weight is from the original. Sums are f64, of a row, then of the rows in
 * their order. An element that is not finite on either side is counted and left out of everything
 * else. */
typedef struct qsae_weight_error {
    size_t struct_size;
    const char *module;        /**< path within its layer, "mlp.up_proj"; "embed_tokens", "lm_head";
                                    "" for a matrix by itself. Static storage */
    const char *format;        /**< what the codes are: "nf4", "rtn", "Q4_K", "BF16", the scheme of
                                    the checkpoint ("gptq"). Static storage */
    int64_t layer;             /**< from 0; -1: none (embedding, head, a matrix by itself) */
    int64_t rows, cols;
    int64_t nonfinite;         /**< elements left out */
    uint64_t bytes;            /**< codes and scales */
    double bits_per_weight;    /**< 8 bytes / (rows cols) */
    double frobenius_relative; /**< |decoded - weight| / |weight|, Frobenius norms; 0 if both are 0,
                                    infinity if the weight alone is */
    double sqnr_db;            /**< 10 log10(|weight|^2 / |decoded - weight|^2); infinity if
                                    exact */
    double max_abs, mean_abs;  /**< of |decoded - weight| */
    double weight_norm;        /**< |weight|, the Frobenius norm: to add up errors of matrices */
    double zeros;              /**< share of decoded elements that are exactly 0 */
} qsae_weight_error;

/**
 * The error of an encoded weight, decoded to f32 before any rounding to an activation's dtype.
 * @param weight  [rows, cols] f32, f16 or bf16: the original
 * @param error   error->struct_size set by the caller
 * @return QSAE_EINVAL, QSAE_EMISMATCH (shape), QSAE_ENOMEM
 */
QSAE_API int32_t qsae_qmatrix_error(const qsae_qmatrix *matrix, const qsae_rows *weight,
                                    qsae_weight_error *error);

/** A raw array of an encoded matrix, by its bitsandbytes name ("weight", "absmax", "SCB", ...). */
typedef struct qsae_field {
    size_t struct_size;
    const char *name;
    const void *data;        /**< belongs to the matrix */
    uint64_t bytes;
    int64_t shape[4];
    int32_t rank;
    int32_t dtype;
} qsae_field;

/** Number of arrays. */
QSAE_API int32_t qsae_qmatrix_field_count(const qsae_qmatrix *matrix);

/** Array i (0..count-1). field->struct_size set by the caller. QSAE_EINVAL. */
QSAE_API int32_t qsae_qmatrix_field(const qsae_qmatrix *matrix, int32_t i, qsae_field *field);

/**
 * The linear layer y = x W^T + bias as the codec defines it.
 * @param x     [n, cols] f32 holding values of dtype
 * @param bias  [rows] f32 or NULL
 * @param dtype QSAE_F32, QSAE_BF16 or QSAE_F16: dtype of the activations; results are rounded to it
 * @param y     [n, rows] f32
 * All n rows are one call of the layer: LLM.int8 chooses its outlier columns from them.
 * @return QSAE_EINVAL, QSAE_EMISMATCH (shapes), QSAE_ENOMEM
 */
QSAE_API int32_t qsae_qmatrix_linear(const qsae_qmatrix *matrix, const qsae_rows *x,
                                     const float *bias, int32_t dtype, qsae_rows *y);

/**
 * First phase of LLM.int8 on activations: row scales, codes and outlier columns (bitsandbytes'
 * int8_vectorwise_quant).
 * @param threshold  outlier threshold, 0 = none
 * @param codes      [n, cols] int8
 * @param scales     [n] row absmax
 * @param outlier    [cols] 1 for outlier columns, or NULL
 * @return QSAE_EINVAL, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_int8_quantize(qsae_context *context, const qsae_rows *x, float threshold,
                                    int8_t *codes, float *scales, uint8_t *outlier);

QSAE_END_DECLS

#endif
