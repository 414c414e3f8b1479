/* SPDX-License-Identifier: BSD-2-Clause */
/* The product of a linear layer, by codec and level: what linear.h and quantizer.h share. */
#ifndef QSAE_CODECS_APPLY_H
#define QSAE_CODECS_APPLY_H

#include "codecs/linear.h"
#include "codecs/qmatrix.h"
#include "kernels/product.h"

/* An encoded matrix as a weight in dtype. */
typedef struct qsae__decoded {
    const qsae_qmatrix *q;
    int32_t dtype;
} qsae__decoded;

/* *d must outlive what reads it. */
qsae__panels qsae__panels_decoded(const qsae__decoded *d);
qsae__rows16 qsae__rows16_decoded(const qsae_qmatrix *q);

/* Dtype the product is computed in: the option compute= of nf4 and fp4, else the activations'. */
int32_t qsae__compute_of(const qsae__condition *c, int32_t dtype);

/* How a layer is multiplied. */
enum qsae__product_kind {
    QSAE__PRODUCT_F32,    /* gemm.h: f32 rows, panels widened or decoded on the way */
    QSAE__PRODUCT_BF16,   /* packed.h: rows rounded to bf16 */
    QSAE__PRODUCT_SPLIT,  /* packed.h: f32 rows in three bf16 parts, weight bf16 */
    QSAE__PRODUCT_INT8    /* packed.h: LLM.int8 */
};

/* A weight ready to be multiplied. */
typedef struct qsae__operand {
    enum qsae__product_kind kind;
    int64_t n, k;
    int32_t dtype, compute;              /* of the activations, of the product */
    const float *bias;                   /* [n] f32 in compute, or NULL */
    qsae__panels panels;                 /* F32 */
    const qsae__packed_weight *packed;   /* BF16 (or NULL: rows), SPLIT, INT8 */
    const qsae__rows16 *rows;
    const qsae_qmatrix *q;               /* INT8: scales, rules, threshold; its act; or NULL */
    bool reverse;                        /* inputs of the weight from the last to the first */
} qsae__operand;

/* What the layer does to its rows first (act.h), or NULL. Layers of a call have the same. */
const struct qsae__act *qsae__operand_act(const qsae__operand *o);

/* Kind for a decoded weight in `compute` at the context's level. */
enum qsae__product_kind qsae__product_kind(const qsae_context *ctx, int32_t compute);

#define QSAE__APPLY_MOST 4 /* layers of a call */

/* Layers that read the same rows and are multiplied alike, side by side. */
typedef struct qsae__apply_call {
    qsae_context *ctx;
    const qsae__operand *const *operand; /* [n], equal kind, k, dtype, compute */
    int64_t n;
    qsae__linear_rows x;
    float *const *y;                     /* [n] of [rows, ldy] */
    const int64_t *ldy;
    const qsae__linear_gate *gate;       /* or NULL; with it n = 2 and y is not written */
    uint8_t *scratch;                    /* qsae__apply_scratch bytes, 64-byte aligned */
    int64_t outliers;                    /* out, INT8: outlier columns met */
} qsae__apply_call;

/* Sizes of the rows that the packed product of o reads, and their bytes. QSAE_EOVERFLOW. */
int32_t qsae__apply_left(const qsae__operand *o, int64_t rows, qsae__left *left, size_t *bytes);
/* Bytes that any call with these rows needs. QSAE_EOVERFLOW. */
int32_t qsae__apply_scratch(const qsae_context *ctx, const qsae__operand *o, int64_t rows,
                            size_t *bytes);
int32_t qsae__apply(qsae__apply_call *call);
/* gate->out = row(y[0], y[1]) for results that lie whole. */
int32_t qsae__apply_gate(qsae_context *ctx, int64_t rows, int64_t n, float *const *y,
                         const int64_t *ldy, const qsae__linear_gate *gate);
/* LLM.int8's part of qsae__apply. */
int32_t qsae__apply_int8(qsae__apply_call *call);

/* acc[n] += bias, rounded to compute and dtype. */
void qsae__finish_row(qsae_context *ctx, const qsae__operand *o, int64_t n0, int64_t n,
                      float *acc);
/* A finished row of a tile, or with a gate a pair of them, to where it belongs. */
void qsae__store_row(const qsae__apply_call *call, int64_t index, int64_t row, int64_t n0,
                     int64_t n, float *a, const float *b);

#endif
