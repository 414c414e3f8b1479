/* SPDX-License-Identifier: BSD-2-Clause */
/* The linear layer of every codec but LLM.int8: decode, multiply, add bias, round. */
#ifndef QSAE_CODECS_APPLY_H
#define QSAE_CODECS_APPLY_H

#include "codecs/qmatrix.h"

/* An encoded matrix as a weight in dtype. */
typedef struct qsae__decoded {
    const qsae_qmatrix *q;
    int32_t dtype;
} qsae__decoded;

/* *d must outlive the panels. */
qsae__panels qsae__panels_decoded(const qsae__decoded *d);

/* Dtype the product is computed in: the option compute= of nf4 and fp4, else the activations'. */
int32_t qsae__compute_of(const qsae__condition *c, int32_t dtype);

/*
 * y[rows, n] = w x^T + bias: x is cast to compute (where that is coarser than dtype), sums are f32,
 * the result is rounded to compute and then to dtype. bias [n] f32 in compute, or NULL.
 */
int32_t qsae__panels_apply(qsae_context *ctx, const qsae__panels *w, int64_t rows, const float *x,
                           int64_t ldx, const float *bias, int32_t dtype, int32_t compute, float *y,
                           int64_t ldy);

#endif
