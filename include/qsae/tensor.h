/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TENSOR_H
#define QSAE_TENSOR_H

#include <qsae/context.h>

QSAE_BEGIN_DECLS

/** X(NAME, number, name in safetensors files, bits): element types, once. */
#define QSAE_DTYPE_MAP(X) \
    X(F32, 1, "F32", 32) \
    X(F16, 2, "F16", 16) \
    X(BF16, 3, "BF16", 16) \
    X(F64, 4, "F64", 64) \
    X(I8, 5, "I8", 8) \
    X(U8, 6, "U8", 8) \
    X(I16, 7, "I16", 16) \
    X(U16, 8, "U16", 16) \
    X(I32, 9, "I32", 32) \
    X(U32, 10, "U32", 32) \
    X(I64, 11, "I64", 64) \
    X(U64, 12, "U64", 64) \
    X(BOOL, 13, "BOOL", 8) \
    X(F8_E4M3, 14, "F8_E4M3", 8) \
    X(F8_E5M2, 15, "F8_E5M2", 8) \
    X(F8_E8M0, 16, "F8_E8M0", 8) \
    X(F8_E4M3FNUZ, 17, "F8_E4M3FNUZ", 8) \
    X(F8_E5M2FNUZ, 18, "F8_E5M2FNUZ", 8) \
    X(C64, 19, "C64", 64) \
    X(F6_E2M3, 20, "F6_E2M3", 6) \
    X(F6_E3M2, 21, "F6_E3M2", 6) \
    X(F4, 22, "F4", 4)

/** X(NAME, number, name, elements, bytes): ggml's block types; the number is 100 + ggml's. Rows of
 * such a tensor are whole blocks of that many elements in that many bytes. */
#define QSAE_BLOCK_DTYPE_MAP(X) \
    X(Q4_0, 102, "Q4_0", 32, 18) \
    X(Q4_1, 103, "Q4_1", 32, 20) \
    X(Q5_0, 106, "Q5_0", 32, 22) \
    X(Q5_1, 107, "Q5_1", 32, 24) \
    X(Q8_0, 108, "Q8_0", 32, 34) \
    X(Q2_K, 110, "Q2_K", 256, 84) \
    X(Q3_K, 111, "Q3_K", 256, 110) \
    X(Q4_K, 112, "Q4_K", 256, 144) \
    X(Q5_K, 113, "Q5_K", 256, 176) \
    X(Q6_K, 114, "Q6_K", 256, 210) \
    X(IQ2_XXS, 116, "IQ2_XXS", 256, 66) \
    X(IQ2_XS, 117, "IQ2_XS", 256, 74) \
    X(IQ3_XXS, 118, "IQ3_XXS", 256, 98) \
    X(IQ1_S, 119, "IQ1_S", 256, 50) \
    X(IQ4_NL, 120, "IQ4_NL", 32, 18) \
    X(IQ3_S, 121, "IQ3_S", 256, 110) \
    X(IQ2_S, 122, "IQ2_S", 256, 82) \
    X(IQ4_XS, 123, "IQ4_XS", 256, 136) \
    X(IQ1_M, 129, "IQ1_M", 256, 56) \
    X(TQ1_0, 134, "TQ1_0", 256, 54) \
    X(TQ2_0, 135, "TQ2_0", 256, 66) \
    X(MXFP4, 139, "MXFP4", 32, 17) \
    X(NVFP4, 140, "NVFP4", 64, 36)

#define QSAE_DTYPE_ENUM_(name, number, text, bits) QSAE_##name = number,
#define QSAE_BLOCK_ENUM_(name, number, text, elements, bytes) QSAE_##name = number,
enum {
    QSAE_DTYPE_MAP(QSAE_DTYPE_ENUM_)
    QSAE_DTYPE_COUNT = 23,
    QSAE_BLOCK_DTYPE_MAP(QSAE_BLOCK_ENUM_)
};
#undef QSAE_DTYPE_ENUM_
#undef QSAE_BLOCK_ENUM_

/** Name of a dtype, e.g. "BF16", "Q4_K"; "?" if unknown. Static storage. */
QSAE_API const char *qsae_dtype_name(int32_t dtype);

/** Bits of one element; 0 if unknown or a block type. */
QSAE_API int32_t qsae_dtype_bits(int32_t dtype);

/** Elements and bytes of a block: 1 and the element's for plain types of whole bytes. 1 if the
 * dtype has blocks so described, 0 (nothing written) if not. */
QSAE_API int32_t qsae_dtype_block(int32_t dtype, int64_t *elements, int64_t *bytes);

/** Number of a dtype name as safetensors or ggml writes it; 0 if unknown. */
QSAE_API int32_t qsae_dtype_from_name(const char *name);

/** A matrix in the caller's memory. Row r starts at element r * row_stride of data. */
typedef struct qsae_rows {
    size_t struct_size;  /**< sizeof(qsae_rows) */
    void *data;          /**< [n_rows, n_cols], aligned to its elements (else QSAE_EINVAL); input rows
                              are never written to */
    int64_t n_rows;      /**< >= 0 */
    int64_t n_cols;      /**< >= 0 */
    int64_t row_stride;  /**< elements, >= n_cols */
    int32_t dtype;       /**< QSAE_F32, QSAE_F16, QSAE_BF16, QSAE_F64 as the call allows */
    int32_t reserved;    /**< 0 */
} qsae_rows;

/** Where rows come from. Arrays have n_rows entries; each may be NULL. */
typedef struct qsae_positions {
    size_t struct_size;
    int64_t first_token;       /**< index in the token stream of row 0; rows follow one another */
    const int64_t *document;   /**< document of each row; NULL = all of one document, 0 */
    const int32_t *position;   /**< position in its chunk; NULL = unknown */
    const uint8_t *mask;       /**< bits: QSAE_MASK_*; NULL = 0 */
    int64_t n_rows;
} qsae_positions;

#define QSAE_MASK_EXCLUDED 1 /**< counted nowhere */
#define QSAE_MASK_SPECIAL 2  /**< token is a special token of the tokenizer */
#define QSAE_MASK_FIRST 4    /**< first position of its chunk */

/** One tensor of a file. */
typedef struct qsae_tensor_info {
    size_t struct_size;
    const char *name;    /**< belongs to the qsae_tensors */
    const char *file;    /**< file the tensor lies in; belongs to the qsae_tensors */
    int64_t shape[8];
    uint64_t bytes;
    int32_t rank;        /**< 0..8 */
    int32_t dtype;
} qsae_tensor_info;

/**
 * Read-only listing of the tensors of a file or folder (safetensors, sharded or not; GGUF, split or
 * not; npz; npy).
 * Thread-safety: safe for reading.
 */
typedef struct qsae_tensors qsae_tensors;

/**
 * @param path  a file, or a folder with model.safetensors(.index.json), *.safetensors, params.npz
 *              or *.gguf
 * @return QSAE_ENOENT, QSAE_EFORMAT, QSAE_EPICKLE, QSAE_EUNSUPPORTED, QSAE_EIO, QSAE_ENOMEM
 */
QSAE_API int32_t qsae_tensors_open(qsae_context *context, const char *path, qsae_tensors **out);

/** Closes *tensors and NULLs it; its names go with it. NULL is fine. */
QSAE_API void qsae_tensors_close(qsae_tensors **tensors);

/** Number of tensors. */
QSAE_API int64_t qsae_tensors_count(const qsae_tensors *tensors);

/** Describes tensor i (0..count-1, ordered by name). info->struct_size set by the caller. */
QSAE_API int32_t qsae_tensors_get(const qsae_tensors *tensors, int64_t i, qsae_tensor_info *info);

QSAE_END_DECLS

#endif
