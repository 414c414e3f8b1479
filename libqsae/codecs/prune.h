/* SPDX-License-Identifier: BSD-2-Clause */
/* Magnitude pruning (methods.md 3.3; 2:4 as NVIDIA's ASP). */
#ifndef QSAE_CODECS_PRUNE_H
#define QSAE_CODECS_PRUNE_H

#include "codecs/qmatrix.h"

/* *out = src with its smallest weights set to zero, as a matrix of codec none in src's dtype after
 * rounding. QSAE_EINVAL (pattern that does not divide n_in), QSAE_ENOMEM. */
int32_t qsae__prune_encode(const qsae__prune *p, const qsae__source *src, qsae_qmatrix **out);

/* What that refuses of a weight with n_in inputs: QSAE_EINVAL. */
int32_t qsae__prune_check(const qsae__prune *p, int64_t n_in);

#endif
