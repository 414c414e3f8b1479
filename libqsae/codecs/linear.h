/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CODECS_LINEAR_H
#define QSAE_CODECS_LINEAR_H

#include "codecs/condition.h"
#include "kernels/kernels.h"

/* A weight as the checkpoint has it. Memory must outlive the linear (it may be used in place). */
typedef struct qsae__linear_weight {
    const void *data;         /* element (out, in) at out * out_stride + in * in_stride */
    int32_t dtype;            /* QSAE_F32, _BF16, _F16 */
    int64_t n_out, n_in;
    int64_t out_stride, in_stride;
    const void *bias;         /* [n_out] or NULL */
    int32_t bias_dtype;
    int64_t heads; /* for rtn axis=tl on Q, K, V: number of heads of this matrix, else 0 */
} qsae__linear_weight;

/* A linear layer ready to run. Thread-safe: it never changes. */
typedef struct qsae__linear qsae__linear;

/*
 * Encodes the weight by the codec of c (NULL or codec none: used in place).
 * dtype: QSAE_F32 or QSAE_BF16, the dtype of the model's activations and of its weights: the weight
 * is rounded to it before encoding, results are rounded to it.
 */
int32_t qsae__linear_open(qsae_context *ctx, const qsae__condition *c, const qsae__linear_weight *w,
                          int32_t dtype, qsae__linear **out);
void qsae__linear_close(qsae__linear **linear);

/*
 * y[rows, n_out] = x[rows, n_in] W^T + bias, rounded to the dtype. All rows are one call of the
 * layer (one logical batch): LLM.int8 takes its outlier columns from them.
 */
int32_t qsae__linear_apply(const qsae__linear *linear, int64_t rows, const float *x, int64_t ldx,
                           float *y, int64_t ldy);

/* The effective weight in the activation dtype as a panel source; NULL for LLM.int8. */
const qsae__panels *qsae__linear_panels(const qsae__linear *linear);

int64_t qsae__linear_out(const qsae__linear *linear);
int64_t qsae__linear_in(const qsae__linear *linear);
/* Stored codes and scales, or the weight. */
uint64_t qsae__linear_bytes(const qsae__linear *linear);
int32_t qsae__linear_quantized(const qsae__linear *linear); /* 1 if a codec replaced the weight */
int32_t qsae__linear_batch_dependent(const qsae__linear *linear);

/* What LLM.int8 met so far: calls, calls with outlier columns, outlier columns in all. Zero for
 * other codecs. Thread-safe. */
typedef struct qsae__outliers {
    int64_t calls, with_outliers, columns;
} qsae__outliers;

qsae__outliers qsae__linear_outliers(const qsae__linear *linear);
void qsae__linear_set_outliers(qsae__linear *linear, const qsae__outliers *o);

#endif
