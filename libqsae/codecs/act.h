/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Rows that a layer quantizes and decodes again before it multiplies them, as compressed-tensors'
 * quantized forward does on a CPU (compressed_tensors/quantization/lifecycle/forward.py).
 */
#ifndef QSAE_CODECS_ACT_H
#define QSAE_CODECS_ACT_H

#include "core/core.h"

typedef struct qsae__act {
    enum { QSAE__ACT_INT, QSAE__ACT_FP8, QSAE__ACT_FP4 } type;
    enum { QSAE__ACT_TOKEN, QSAE__ACT_TENSOR, QSAE__ACT_GROUP } scope; /* TENSOR: static */
    enum { QSAE__ACT_PLAIN, QSAE__ACT_POWER, QSAE__ACT_E4M3 } scales;  /* how they are rounded */
    int32_t bits;            /* int: 2 to 8 */
    bool symmetric;
    int64_t group;           /* GROUP: divides the row */
    float scale, zero;       /* TENSOR */
    float global;            /* E4M3: what the scales are multiplied with */
} qsae__act;

/* x[n] of dtype (QSAE_F32, QSAE_BF16, QSAE_F16) = the row decoded again; every operation is rounded
 * to dtype but those with the f32 scale of E4M3. */
void qsae__act_row(const qsae_context *ctx, const qsae__act *a, int32_t dtype, int64_t n, float *x);

/* Whether two layers can share their rows; NULL: as they are. */
bool qsae__act_same(const qsae__act *a, const qsae__act *b);

#endif
