/* SPDX-License-Identifier: BSD-2-Clause */
/* Matrices of codec none that are made row by row. */
#ifndef QSAE_CODECS_PLAIN_H
#define QSAE_CODECS_PLAIN_H

#include "codecs/qmatrix.h"

/* *out: a matrix of src's shape and of its dtype after rounding, elements not set. QSAE_EINVAL,
 * QSAE_EOVERFLOW, QSAE_ENOMEM. */
int32_t qsae__plain_new(const qsae__source *src, qsae_qmatrix **out);

/* Elements (row, c0..c0+n) = x[n], rounded to the matrix's dtype. */
void qsae__plain_store(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, const float *x);

#endif
