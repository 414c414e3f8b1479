/* SPDX-License-Identifier: BSD-2-Clause */
/* What an encoded weight is inside: one struct for every codec, and the codec's operations. */
#ifndef QSAE_CODECS_QMATRIX_H
#define QSAE_CODECS_QMATRIX_H

#include <stdatomic.h>

#include <qsae/quantizer.h>

#include "codecs/condition.h"
#include "formats/formats.h"
#include "kernels/kernels.h"

/* A weight to encode, read row by row, rounded to `round` (0: as it is) on the way. */
typedef struct qsae__source {
    qsae_context *ctx;
    const void *data;      /* element (out, in) at out * out_stride + in * in_stride */
    int32_t dtype;         /* QSAE_F32, _BF16, _F16 */
    int32_t round;         /* 0, QSAE_F32, QSAE_BF16, QSAE_F16 */
    int64_t n_out, n_in;
    int64_t out_stride, in_stride;
    const qsae_qmatrix *stored; /* or NULL; if given, its decoded elements are read, not data */
    uint64_t stream;       /* tells matrices apart where random numbers are drawn */
    int64_t qkv_runs;      /* Q, K and V in one matrix: its rows are this many equal runs of q, then
                            * k, then v (GPT-2: 1; GPT-NeoX: one per head); 0: no such matrix */
} qsae__source;

/* dst[n] = elements (row, c0..c0+n). */
void qsae__source_row(const qsae__source *s, int64_t row, int64_t c0, int64_t n, float *dst);

/* dst[n] = elements i0..i0+n of the row-major flat matrix. */
void qsae__source_flat(const qsae__source *s, int64_t i0, int64_t n, float *dst);

/* QSAE_ENONFINITE naming the first row and column that holds NaN or infinity. */
int32_t qsae__source_check_finite(const qsae__source *s);

typedef struct qsae__codec_ops qsae__codec_ops;

struct qsae_qmatrix {
    qsae__handle base;
    qsae_context *ctx;
    atomic_int refs;
    const qsae__codec_ops *ops;
    qsae__condition codec;   /* parameters only; its strings are NULL. Of a stored matrix too as far
                              * as a codec of conditions describes it: then codec is that one */
    int32_t dtype;           /* the weight's, after rounding */
    int64_t n_out, n_in;
    int64_t heads;           /* rtn axis=tl, at least 1: of each of */
    int64_t parts;           /* as many equal runs of rows, at least 1 */
    void *codes;             /* 4-bit: packed; llm.int8, rtn: one byte each; none: the elements */
    uint64_t code_bytes;
    float *scale;            /* nf4/fp4: block maxima as decoding sees them; llm.int8: SCB; rtn */
    int64_t scale_rows, scale_cols; /* rtn: [rows, groups] and so on; others: [count, 1] */
    float *zero;             /* rtn sym=0, like scale */
    uint8_t *q_absmax;       /* nested: 8-bit codes of the block maxima [scale_rows] */
    float *nested_absmax;    /* [n_nested], one per 256 block maxima */
    int64_t n_nested;
    float offset;
    /* Of matrices that a file stores: */
    bool borrowed;           /* codes lie in `file` */
    qsae__tensors *file;     /* kept open for them, or NULL */
    void *state;             /* what else the codec needs; freed by ops->close */
    struct qsae__act *act;   /* what the layer does to its rows first (act.h), or NULL */
};

/* Each function but encode may be called from several threads at once. */
struct qsae__codec_ops {
    /* Fills codes and scales; ctx, codec, dtype, shape and heads are set. */
    int32_t (*encode)(qsae_qmatrix *q, const qsae__source *src);
    /* dst[n] = decoded (row, c0..c0+n), the f32 product rounded to dtype. */
    void (*decode)(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                   float *dst);
    /* The same as bf16 values: what decode to QSAE_BF16 gives. */
    void (*decode16)(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, uint16_t *dst);
    /* Describes array i; false beyond the last. */
    bool (*field)(const qsae_qmatrix *q, int32_t i, qsae_field *f);
    /* Of codes and scales, as a file would hold them. */
    uint64_t (*bytes)(const qsae_qmatrix *q);
    /* Frees q->state; or NULL. */
    void (*close)(qsae_qmatrix *q);
    /* What encode makes of any weight of this shape: code_bytes and counts of scales; refuses
     * shapes. encode calls it first. NULL for codecs that do not encode. */
    int32_t (*plan)(qsae_qmatrix *q);
};

extern const qsae__codec_ops qsae__codec_none, qsae__codec_4bit, qsae__codec_int8, qsae__codec_rtn,
    qsae__codec_ggml;

/*
 * Encodes a weight as c says: pruned, then encoded by the codec, then replaced by its control.
 * heads: see quantizer.h; -n: n heads' q, all their k, all their v. QSAE_EINVAL, QSAE_EUNSUPPORTED,
 * QSAE_EOVERFLOW, QSAE_ENOMEM.
 */
int32_t qsae__qmatrix_encode(qsae_context *ctx, const qsae__condition *c, const qsae__source *src,
                             int64_t heads, qsae_qmatrix **out);

/*
 * As qsae__qmatrix_encode without reading the weight: a matrix without codes and scales that
 * answers qsae_qmatrix_bytes, and whose codec, ops and dtype are those of the encoded one. Shapes
 * are refused here. Nothing may decode it.
 */
int32_t qsae__qmatrix_plan(qsae_context *ctx, const qsae__condition *c, const qsae__source *src,
                           int64_t heads, qsae_qmatrix **out);

/* ggml.c: the dtype of rows of n_in weights that are to be of a block dtype: that one, or if they
 * are no whole blocks what llama.cpp falls back to, QSAE_F16 in the end. */
int32_t qsae__ggml_fallback(int32_t dtype, int64_t n_in);

/* A matrix without codes, for the readers of stored ones: ctx, ops, dtype and shape set, one
 * reference. QSAE_EINVAL, QSAE_EOVERFLOW (shape), QSAE_ENOMEM. */
int32_t qsae__qmatrix_new(qsae_context *ctx, const qsae__codec_ops *ops, int32_t dtype,
                          int64_t n_out, int64_t n_in, qsae_qmatrix **out);
qsae_qmatrix *qsae__qmatrix_ref(const qsae_qmatrix *q);
/* Gives one reference back and NULLs *q, which may be NULL. */
void qsae__qmatrix_unref(qsae_qmatrix **q);
/* Public functions that return a matrix end with this: the caller closes it. Returns st. */
int32_t qsae__qmatrix_give(int32_t st, qsae_qmatrix *const *q);
/* qsae__share of what it holds, but for codes that lie in a file; nobody may read it meanwhile.
 * NULL: nothing. */
int32_t qsae__qmatrix_share(qsae_qmatrix *q);
uint64_t qsae__qmatrix_bytes(const qsae_qmatrix *q);
/* Codes that lie in a file will not be read for a while, see qsae__tensor_release. */
void qsae__qmatrix_release(const qsae_qmatrix *q);

/* Describes an array of at most two dimensions. */
void qsae__field_set(qsae_field *f, const char *name, const void *data, int32_t dtype, int32_t rank,
                     int64_t rows, int64_t cols);

/* f32 to dtype, kept in f32. */
static inline float qsae__round_to(int32_t dtype, float v)
{
    return dtype == QSAE_BF16 ? qsae__round_bf16(v) : dtype == QSAE_F16 ? qsae__round_f16(v) : v;
}

#endif
