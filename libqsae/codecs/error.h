/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CODECS_ERROR_H
#define QSAE_CODECS_ERROR_H

#include "codecs/qmatrix.h"

/*
 * Fills everything of *out but module and layer: the difference of two matrices of one shape,
 * stored ones decoded to f32. bytes: of the other. QSAE_ENOMEM.
 */
int32_t qsae__weight_error(const qsae__source *weight, const qsae__source *other, uint64_t bytes,
                           qsae_weight_error *out);

/* A whole encoded matrix as a source. */
static inline qsae__source qsae__stored_source(const qsae_qmatrix *q)
{
    return (qsae__source){ .ctx = q->ctx, .dtype = q->dtype, .n_out = q->n_out, .n_in = q->n_in,
                           .out_stride = q->n_in, .in_stride = 1, .stored = q };
}

#endif
