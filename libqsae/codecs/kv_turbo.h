/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TurboQuant (arXiv 2504.19874, algorithms 1 and 2): the norm of a vector is stored, its direction
 * rotated by a random orthogonal matrix, and each coordinate replaced by the nearest of 2^bits
 * values that are best for the law such coordinates have. With a sketch, the signs of a random
 * projection of what is left (QJL, arXiv 2406.03482) make inner products unbiased.
 */
#ifndef QSAE_CODECS_KV_TURBO_H
#define QSAE_CODECS_KV_TURBO_H

#include "core/core.h"

#define QSAE__TURBO_MIN_DIM 3
#define QSAE__TURBO_MAX_DIM 1024 /* the matrices take 16 d^2 bytes, making them 2 d^3 operations */
#define QSAE__TURBO_MAX_BITS 8

typedef struct qsae__turbo {
    qsae_context *ctx;
    int64_t dim;
    int32_t bits;
    float *rotation;    /* [dim, dim], orthonormal rows: Pi */
    float *rotation_t;  /* its transpose */
    float *sketch;      /* [dim, dim], independent standard normal entries: S; or NULL */
    float *sketch_t;
    /* Values in ascending order and the midpoints between them. */
    float value[1 << QSAE__TURBO_MAX_BITS], middle[1 << QSAE__TURBO_MAX_BITS];
} qsae__turbo;

/* Fills *t; free with qsae__turbo_free, also after a failure. QSAE_ENOMEM. */
int32_t qsae__turbo_init(qsae_context *ctx, int64_t dim, int32_t bits, bool sketch, qsae__turbo *t);
void qsae__turbo_free(qsae__turbo *t);

/* Floats of scratch for a call with n vectors. */
int64_t qsae__turbo_floats(const qsae__turbo *t, int64_t n);

/* x[n, dim] to what the code returns; all values finite. A norm beyond the range of f16 gives NaN.
 */
void qsae__turbo_apply(const qsae__turbo *t, float *x, int64_t n, float *scratch);

/*
 * The n values that are best for one coordinate of a uniformly random unit vector of `dim` >= 3
 * dimensions in mean squared error (Lloyd-Max), ascending; n a power of two up to 256. The same
 * bits everywhere: no library function is used but sqrt.
 */
void qsae__turbo_codebook(int64_t dim, int32_t n, double *value);

/* m[n, n] of independent standard normal entries, a function of seed and n alone; rows made
 * orthonormal if orthonormal. */
void qsae__turbo_matrix(uint64_t seed, int64_t n, bool orthonormal, double *m);

#endif
