/* SPDX-License-Identifier: BSD-2-Clause */
/* LLM.int8() (arXiv 2208.07339): row quantiser and forward. */
#ifndef QSAE_CODECS_INT8_H
#define QSAE_CODECS_INT8_H

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

/* Quantises all rows of src, which are one logical batch. threshold 0 = no outliers. */
int32_t qsae__int8_quantize_rows(const qsae__source *src, enum qsae__rules rules, float threshold,
                                 qsae__int8_rows *out);

#endif
