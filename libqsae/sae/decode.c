/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoding: y = b_dec + sum over the active features, ascending, of a_i W_dec[i, :]. Products of
 * two f32 and their sum are f64, rounded to f32 once at the end (after the normalisation is
 * undone): a row costs little next to its encoding, and the result is nearer to the exact one than
 * any f32 order.
 */
#include <stdatomic.h>
#include <string.h>

#include "kernels/sparse.h"
#include "sae/parts.h"

#define ROWS 32
#define MOST 64 /* active features that are handled at once */

/* A larger W_dec may not fit in memory: a row is done at once, and pages are given back after some
 * decoder rows, each of which may have brought megabytes of its neighbours. */
#define LARGE ((uint64_t)1 << 28)
#define GIVE_BACK 256

typedef struct job {
    qsae_sae *sae;
    const qsae__sparse_ops *ops;
    const int64_t *indptr;
    const int32_t *indices;
    const float *values, *state;
    float *y;
    int64_t n, ldy;
    int64_t row_tiles;
    bool large;
    atomic_llong read;   /* large: decoder rows since pages were given back */
    float *rows;   /* [threads, MOST, QSAE__PIECE] decoder rows in f32, or NULL: read in place */
} job;

/* Adds the active features of row r to sum[cols], columns j0.. of d_out. */
static void add_active(const job *j, int64_t r, int64_t j0, int64_t cols, float *rows, double *sum)
{
    static const int32_t in_order[MOST] = {
        0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63 };
    const qsae_sae *const sae = j->sae;
    const size_t size = (size_t)qsae_dtype_bits(sae->dec_dtype) / 8;
    for (int64_t e0 = j->indptr[r]; e0 < j->indptr[r + 1]; e0 += MOST) {
        const int64_t count = qsae__min_i64(MOST, j->indptr[r + 1] - e0);
        const int32_t *const indices = j->indices + e0;
        double a[MOST];
        int32_t used[MOST];
        int64_t n = 0;
        for (int64_t e = 0; e < count; e++) {
            const int32_t f = indices[e];
            if (sae->prefix && f >= sae->prefix)
                continue;
            used[n] = f;
            a[n] = j->values[e0 + e];
            if (sae->scale)
                a[n] *= sae->scale[f];
            if (sae->norms && !sae->config.norm_undone) /* a dead row decodes to nothing */
                a[n] = sae->norms[f] > 0 ? a[n] / sae->norms[f] : 0;
            n++;
        }
        if (rows) {
            for (int64_t e = 0; e < n; e++)
                qsae__sae_decoder_row(sae, used[e], j0, cols, rows + e * QSAE__PIECE);
            j->ops->rows(QSAE_F32, rows, QSAE__PIECE, in_order, a, n, cols, sum);
        } else {
            j->ops->rows(sae->dec_dtype, (const char *)sae->dec + (size_t)j0 * size,
                         sae->config.d_out, used, a, n, cols, sum);
        }
    }
}

/* Columns j0.. of output row r from their sums. */
static void finish(const job *j, int64_t r, int64_t j0, int64_t cols, const double *sum)
{
    const qsae_sae *const sae = j->sae;
    const float *const b = sae->b_dec + j0, *const state = j->state + r * sae->state_size;
    float *const y = j->y + r * j->ldy + j0;
    const enum qsae__normalize norm =
        sae->config.transcoder ? QSAE__NORM_NONE : sae->config.normalize;
    if (norm == QSAE__NORM_LAYER)
        for (int64_t i = 0; i < cols; i++)
            y[i] = (float)((sum[i] + b[i]) * state[1] + state[0]);
    else if (norm == QSAE__NORM_CONSTANT)
        for (int64_t i = 0; i < cols; i++)
            y[i] = (float)((sum[i] + b[i]) / state[0]);
    else
        for (int64_t i = 0; i < cols; i++)
            y[i] = (float)(sum[i] + b[i]);
}

/* A piece of row r, from column j0 on. */
static void decode_piece(const job *j, int64_t r, int64_t j0, float *rows)
{
    const int64_t cols = qsae__min_i64(QSAE__PIECE, j->sae->config.d_out - j0);
    double sum[QSAE__PIECE] = { 0 };
    add_active(j, r, j0, cols, rows, sum);
    finish(j, r, j0, cols, sum);
}

/* A block of rows and a piece of d_out, whose part of W_dec stays in the caches while all rows pass
 * it; large: all pieces of each row of the block. */
static int32_t decode_tile(void *arg, int64_t tile, int32_t worker)
{
    job *const j = arg;
    const int64_t r0 = tile % j->row_tiles * ROWS, piece = tile / j->row_tiles;
    float *const rows = j->rows ? j->rows + (int64_t)worker * MOST * QSAE__PIECE : NULL;
    const int32_t st = qsae__canceled(j->sae->cancel);
    for (int64_t r = r0; st == QSAE_OK && r < qsae__min_i64(r0 + ROWS, j->n); r++) {
        if (!j->large) {
            decode_piece(j, r, piece * QSAE__PIECE, rows);
            continue;
        }
        const int64_t count = j->indptr[r + 1] - j->indptr[r];
        for (int64_t j0 = 0; j0 < j->sae->config.d_out; j0 += QSAE__PIECE)
            decode_piece(j, r, j0, rows);
        if (atomic_fetch_add(&j->read, count) + count >= GIVE_BACK) {
            atomic_store(&j->read, 0);
            qsae__tensor_release(j->sae->tensors, j->sae->w_dec);
        }
    }
    return st;
}

int32_t qsae__sae_decode(qsae_sae *sae, int64_t n, const int64_t *indptr, const int32_t *indices,
                         const float *values, const float *state, float *y, int64_t ldy)
{
    static const float none[2];
    qsae_context *const ctx = sae->ctx;
    const int32_t dtype = sae->dec_dtype;
    if (sae->config.encode_only)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: one layer of a cross-layer transcoder encodes "
                          "only: what it writes to a layer is chosen as in #5:7", sae->path);
    job j = { .sae = sae, .ops = qsae__sparse_get(ctx), .indptr = indptr, .indices = indices,
              .values = values, .state = state ? state : none, .y = y, .n = n, .ldy = ldy,
              .row_tiles = qsae__ceil_div(n, ROWS),
              .large = sae->w_dec->bytes > LARGE && sae->dec == sae->w_dec->data };
    if (dtype == QSAE_F64 || dtype == QSAE_I8 || (sae->round && sae->round != dtype)) {
        j.rows = qsae__alloc_array(ctx, (int64_t)ctx->threads * MOST * QSAE__PIECE,
                                   sizeof *j.rows);
        if (!j.rows)
            return QSAE_ENOMEM;
    }
    const int64_t pieces = j.large ? 1 : qsae__ceil_div(sae->config.d_out, QSAE__PIECE);
    const int32_t st = qsae__parallel(ctx, j.row_tiles * pieces, decode_tile, &j);
    if (j.large)
        qsae__tensor_release(sae->tensors, sae->w_dec);
    qsae__free(ctx, j.rows);
    return st;
}

int32_t qsae__sae_add_skip(qsae_sae *sae, const float *x, int64_t n, int64_t ldx, float *y,
                           int64_t ldy)
{
    if (!sae->w_skip || n == 0)
        return QSAE_OK;
    const int64_t d = sae->config.d_out;
    int64_t size;
    float *z = qsae__mul_i64(n, d, &size) ? qsae__alloc_array(sae->ctx, size, sizeof *z) : NULL;
    if (!z)
        return qsae__fail(QSAE_ENOMEM, "out of memory for the skip connection of %s", sae->path);
    const qsae__panels w = qsae__panels_dense(&sae->skip, d, sae->config.d_in);
    const int32_t st = qsae__gemm(sae->ctx, n, x, ldx, &w, z, d, NULL);
    for (int64_t r = 0; st == QSAE_OK && r < n; r++)
        for (int64_t i = 0; i < d; i++)
            y[r * ldy + i] += z[r * d + i];
    qsae__free(sae->ctx, z);
    return st;
}
