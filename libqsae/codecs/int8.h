/* SPDX-License-Identifier: BSD-2-Clause */
/* LLM.int8() (arXiv 2208.07339): row quantiser and forward. */
#ifndef QSAE_CODECS_INT8_H
#define QSAE_CODECS_INT8_H

#include <math.h>

#include "codecs/qmatrix.h"

/* Activations (or weights) after the row quantiser. Arrays belong to the caller. */
typedef struct qsae__int8_rows {
    int8_t *codes;        /* [rows, k]; or NULL and */
    uint8_t *strips;      /* the left operand of a packed product, a strip every `strip` bytes */
    int64_t strip;
    float *scale;         /* [rows] row maxima */
    uint8_t *outlier;     /* [k] 1 for outlier columns; NULL if the threshold is 0 */
    int64_t n_outliers;   /* columns set in outlier */
} qsae__int8_rows;

/* Whether an activation is an outlier; threshold is rounded to f16, and not 0. */
static inline bool qsae__int8_is_outlier(float x, float threshold)
{
    return fabsf(qsae__round_f16(x)) >= threshold;
}

/* Quantises all rows of src, which are one logical batch. threshold 0 = no outliers. by_row: as if
 * each row were a call of its own; outlier then says which columns are an outlier's in some row. */
int32_t qsae__int8_quantize_rows(const qsae__source *src, enum qsae__rules rules, float threshold,
                                 bool by_row, qsae__int8_rows *out);

#endif
