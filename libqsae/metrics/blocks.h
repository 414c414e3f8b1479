/* SPDX-License-Identifier: BSD-2-Clause */
/* Sums per feature and block of documents, for the block jackknife of r (methods.md section 9). */
#ifndef QSAE_METRICS_BLOCKS_H
#define QSAE_METRICS_BLOCKS_H

#include <math.h>

#include "metrics/metrics.h"

#define QSAE__BLOCKS 32        /* most */
#define QSAE__BLOCKS_LEAST 16  /* with rows, for an interval */

enum { QSAE__CELL_X, QSAE__CELL_Y, QSAE__CELL_XX, QSAE__CELL_YY, QSAE__CELL_XY, QSAE__CELL_SUMS };

/*
 * Sums of one feature over one block. A sum is digit[0] 2^(40 top) + digit[1] 2^(40 (top - 1)): of
 * every addend the digits of base 2^40 at the place of the largest addend and at the next. Digits
 * are integers, so the order of the addends does not matter, which no f64 sum can say. Less than
 * 2^-40 of the largest addend is lost of each.
 */
typedef struct qsae__cell {
    int64_t digit[QSAE__CELL_SUMS][2];
    int8_t top[QSAE__CELL_SUMS]; /* QSAE__CELL_EMPTY: nothing added */
    int8_t zero[3];
} qsae__cell;
#define QSAE__CELL_EMPTY (-128)

typedef struct qsae__blocks {
    int64_t features, per;     /* documents per block; 0 = none are kept */
    int32_t *index;            /* [features, QSAE__BLOCKS] cell + 1; 0 = none */
    qsae__cell *cell;          /* [n]; some may be empty */
    int64_t n, capacity;
    int64_t rows[QSAE__BLOCKS];
} qsae__blocks;

int32_t qsae__blocks_open(qsae_context *ctx, qsae__blocks *b, int64_t features, int64_t per);
void qsae__blocks_free(qsae_context *ctx, qsae__blocks *b);
void qsae__blocks_reset(qsae__blocks *b);
/* Makes room for rows [n] of documents (NULL: all 0), but of those whose mask says excluded.
 * QSAE_EINVAL: a document beyond the last block. Changes no sum. */
int32_t qsae__blocks_reserve(qsae_context *ctx, qsae__blocks *b, int64_t n, const int64_t *document,
                             const uint8_t *mask, const qsae_sparse_rows *r,
                             const qsae_sparse_rows *q);
/* Adds row t, for which there is room. */
void qsae__blocks_add(qsae__blocks *b, int64_t document, const qsae_sparse_rows *r,
                      const qsae_sparse_rows *q, int64_t t);
int32_t qsae__blocks_merge(qsae_context *ctx, qsae__blocks *to, const qsae__blocks *from);

/* State files: words per, rows [QSAE__BLOCKS], n, then per cell feature QSAE__BLOCKS + block and
 * the cell, ascending, empty ones left out. */
void qsae__blocks_write(const qsae__blocks *b, qsae__strbuf *out);
/* What write wrote, from hostile bytes; *used: how many of them. */
int32_t qsae__blocks_read(qsae_context *ctx, qsae__blocks *b, const uint8_t *data, size_t size,
                          size_t *used);

/* Blocks with rows; 0 where there are too few, or one is beyond what the sums can hold. */
int64_t qsae__blocks_count(const qsae__blocks *b);
/* Degrees of freedom of the jackknife: (sum of rows)^2 / sum of rows^2 - 1, at least 1. */
double qsae__blocks_freedom(const qsae__blocks *b);
/* Sums of feature f in each block. False: it never fired. */
bool qsae__blocks_sums(const qsae__blocks *b, int64_t f,
                       double part[QSAE__BLOCKS][QSAE__CELL_SUMS]);
/* Pearson's r with block g left out, from those sums, r [QSAE__BLOCKS]; NaN where g has no rows. */
void qsae__blocks_left_out(const qsae__blocks *b, double part[QSAE__BLOCKS][QSAE__CELL_SUMS],
                           double *r);
/* Standard error of a figure from its values with a block left out, NaN where it has no rows. */
double qsae__blocks_error(const double *left_out);
/* Student's t for intervals of r. */
typedef struct qsae__blocks_t {
    double quantile[QSAE__BLOCKS + 2]; /* 0.975, of so many degrees of freedom; 0 is not used */
    double freedom;            /* qsae__blocks_freedom() */
} qsae__blocks_t;
/* 95% interval of r on the scale of atanh. Degrees of freedom are those of the blocks, or as many as
 * the blocks that the squares of the deviations come from, if fewer: a few documents of large
 * activations rule r, and its error, too. */
void qsae__blocks_interval(const double *left_out, double r, const qsae__blocks_t *t, double *low,
                           double *high);

/* r = (Sxy - Sx Sy / n) / sqrt(max((Sxx - Sx^2 / n)(Syy - Sy^2 / n), 1e-12)) in [-1, 1]; s: x, y,
 * xx, yy, xy. */
static inline double qsae__pearson(const double *s, double n)
{
    const double cov = s[QSAE__CELL_XY] - s[QSAE__CELL_X] * s[QSAE__CELL_Y] / n;
    const double x = s[QSAE__CELL_XX] - s[QSAE__CELL_X] * s[QSAE__CELL_X] / n,
                 y = s[QSAE__CELL_YY] - s[QSAE__CELL_Y] * s[QSAE__CELL_Y] / n;
    const double r = cov / sqrt(fmax(x * y, 1e-12));
    return r < -1 ? -1 : r > 1 ? 1 : r;
}

#endif
