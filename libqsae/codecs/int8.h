/* SPDX-License-Identifier: BSD-2-Clause */
/* LLM.int8() (arXiv 2208.07339): row quantiser and forward. */
#ifndef QSAE_CODECS_INT8_H
#define QSAE_CODECS_INT8_H

#include "codecs/qmatrix.h"

/* Activations (or weights) after the row quantiser. Arrays belong to the caller. */
typedef struct qsae__int8_rows {
    int8_t *codes;        /* [rows, k] */
    float *scale;         /* [rows] row maxima */
    uint8_t *outlier;     /* [k] 1 for outlier columns; NULL if the threshold is 0 */
    int64_t n_outliers;   /* columns set in outlier */
} qsae__int8_rows;

/* Quantises all rows of src, which are one logical batch. threshold 0 = no outliers. */
int32_t qsae__int8_quantize_rows(const qsae__source *src, enum qsae__rules rules, float threshold,
                                 qsae__int8_rows *out);

/* y[rows, n_out] of x[rows, n_in] by the rules of q's codec; bias [n_out] in dtype, or NULL.
 * n_outliers receives the number of outlier columns; may be NULL. */
int32_t qsae__int8_linear(const qsae_qmatrix *q, int64_t rows, const float *x, int64_t ldx,
                          const float *bias, int32_t dtype, float *y, int64_t ldy,
                          int64_t *n_outliers);

#endif
