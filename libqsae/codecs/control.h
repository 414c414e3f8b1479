/* SPDX-License-Identifier: BSD-2-Clause */
/* Noise controls (methods.md 7): errors as large as a codec's, without its structure. */
#ifndef QSAE_CODECS_CONTROL_H
#define QSAE_CODECS_CONTROL_H

#include "codecs/qmatrix.h"

/*
 * *out, a matrix of codec none in src's dtype after rounding:
 *   gauss    src + independent normal noise scaled to the Frobenius norm of encoded - src
 *   permute  src + the entries of encoded - src in random order
 * Random numbers are a function of seed and src->stream alone. QSAE_ENOMEM.
 */
int32_t qsae__control_encode(enum qsae__control control, uint64_t seed, const qsae__source *src,
                             const qsae_qmatrix *encoded, qsae_qmatrix **out);

#endif
