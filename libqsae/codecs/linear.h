/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CODECS_LINEAR_H
#define QSAE_CODECS_LINEAR_H

#include "codecs/condition.h"
#include "kernels/kernels.h"

struct qsae_qmatrix;

/* A weight as the checkpoint has it. Memory must outlive the linear unless qsae__linear_owns. */
typedef struct qsae__linear_weight {
    const struct qsae_qmatrix *stored; /* the checkpoint stores it encoded; NULL: */
    const void *data;         /* element (out, in) at out * out_stride + in * in_stride */
    int32_t dtype;            /* QSAE_F32, _BF16, _F16 */
    int64_t n_out, n_in;
    int64_t out_stride, in_stride;
    const void *bias;         /* [n_out] or NULL */
    int32_t bias_dtype;
    int64_t heads; /* for rtn axis=tl on Q, K, V: number of heads of this matrix, else 0;
                    * -n: it is Q, K and V of n heads one after the other */
    uint64_t stream;          /* see qsae__source */
    int64_t qkv_runs;         /* the same */
    /* Where a packed copy of the weight, rounded to bf16, is kept for every layer over the same
     * data; the layer that makes it puts a reference there. NULL: not shared. */
    struct qsae__packed_weight **shared;
} qsae__linear_weight;

/* A linear layer. Thread-safe once loaded: it does not change then. */
typedef struct qsae__linear qsae__linear;

/*
 * Encodes the weight as c says (NULL or nothing to encode: used as it is, in place or in its stored
 * form).
 * dtype: QSAE_F32 or QSAE_BF16, the dtype of the model's activations and of its weights: the weight
 * is rounded to it before encoding, results are rounded to it.
 */
int32_t qsae__linear_open(qsae_context *ctx, const qsae__condition *c, const qsae__linear_weight *w,
                          int32_t dtype, qsae__linear **out);
void qsae__linear_close(qsae__linear **linear);

/*
 * The same in two steps. Planned, a layer reads no weight and holds nothing of its size (but the
 * bias), refuses what its shape forbids, and answers everything below; loaded, it runs. c and w are
 * those it was planned with. Loading twice encodes to the same bits; a load that fails leaves the
 * layer as it was; dropping keeps what LLM.int8 has met. Either does nothing where it is done, and
 * dropping nothing for NULL.
 */
int32_t qsae__linear_plan(qsae_context *ctx, const qsae__condition *c, const qsae__linear_weight *w,
                          int32_t dtype, qsae__linear **out);
int32_t qsae__linear_load(qsae__linear *linear, const qsae__condition *c,
                          const qsae__linear_weight *w);
void qsae__linear_drop(qsae__linear *linear);
bool qsae__linear_loaded(const qsae__linear *linear);
/* qsae__share of what a loaded layer holds, before it runs for the first time. Where layers share
 * packed copies (w->shared), under the lock that they are loaded under. */
int32_t qsae__linear_share(qsae__linear *linear);
/* Bytes that loading takes and no other layer shares, about. */
uint64_t qsae__linear_held(const qsae__linear *linear);

/* Whether the weight's memory is not read any more. */
bool qsae__linear_owns(const qsae__linear *linear);

/* Rows that layers read. */
typedef struct qsae__linear_rows {
    const void *x;            /* [rows, ldx] */
    int32_t dtype;            /* QSAE_F32, or QSAE_BF16 */
    int64_t rows, ldx;
} qsae__linear_rows;

/* What becomes of two layers' results a and b instead of being stored: out = row(a, b). */
typedef struct qsae__linear_gate {
    /* a[n] <- act(a) * b, in the activations' dtype; called from workers with parts of rows */
    void (*row)(const void *self, float *a, const float *b, int64_t n);
    const void *self;
    void *out;                /* [rows, ld] */
    int64_t ld;               /* elements of dtype */
    int32_t dtype;            /* QSAE_F32, or QSAE_BF16 where the activations are */
} qsae__linear_gate;

/*
 * y[i][rows, n_out] = x[rows, n_in] W_i^T + bias_i for n layers that read the same rows, rounded to
 * their dtype. All rows are one call of each layer (one logical batch): LLM.int8 takes its outlier
 * columns from them. gate may be NULL; with it n = 2 and y is scratch (it may be gate->out, rows
 * beginning at the same addresses). scratch: qsae__linear_scratch bytes, 64-byte aligned; NULL: the
 * call allocates.
 */
int32_t qsae__linear_apply(const qsae__linear *const *linear, int64_t n,
                           const qsae__linear_rows *x, float *const *y, const int64_t *ldy,
                           const qsae__linear_gate *gate, void *scratch);

/* Bytes of scratch that any call of this layer with that many rows needs. QSAE_EOVERFLOW. */
int32_t qsae__linear_scratch(const qsae__linear *linear, int64_t rows, size_t *bytes);

int64_t qsae__linear_out(const qsae__linear *linear);
int64_t qsae__linear_in(const qsae__linear *linear);
/* Stored codes and scales, or the weight. */
uint64_t qsae__linear_bytes(const qsae__linear *linear);
/* 1 if the weight is not a plain one: a codec replaced it, or the checkpoint stores it encoded. */
int32_t qsae__linear_quantized(const qsae__linear *linear);
int32_t qsae__linear_batch_dependent(const qsae__linear *linear);

/* What LLM.int8 met so far: calls, calls with outlier columns, outlier columns in all. Zero for
 * other codecs. Thread-safe. */
typedef struct qsae__outliers {
    int64_t calls, with_outliers, columns;
} qsae__outliers;

qsae__outliers qsae__linear_outliers(const qsae__linear *linear);
void qsae__linear_set_outliers(qsae__linear *linear, const qsae__outliers *o);

#endif
