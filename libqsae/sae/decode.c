/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoding: y = b_dec + sum over the active features, ascending, of a_i W_dec[i, :]. Products of
 * two f32 and their sum are f64, rounded to f32 once at the end (after the normalisation is
 * undone): a row costs little next to its encoding, and the result is nearer to the exact one than
 * any f32 order.
 */
#include <string.h>

#include "sae/parts.h"

#define ROWS 32

typedef struct job {
    qsae_sae *sae;
    const int64_t *indptr;
    const int32_t *indices;
    const float *values, *state;
    float *y;
    int64_t n, ldy;
    double *sum;   /* [threads, d_out] */
    float *row;    /* [threads, d_out] a decoder row in f32 */
} job;

/* Row i of W_dec in f32: in place where the file has aligned f32 and nothing is rounded. */
static const float *decoder_row(const qsae_sae *sae, int64_t i, float *buffer)
{
    const int64_t d = sae->config.d_out;
    const qsae__tensor *const w = sae->w_dec;
    const char *const at = (const char *)w->data +
                           (size_t)(i * d) * ((size_t)qsae_dtype_bits(w->dtype) / 8);
    if (w->dtype == QSAE_F32 && !sae->round && (uintptr_t)at % sizeof(float) == 0)
        return (const float *)(const void *)at;
    qsae__to_f32(w->dtype, at, d, buffer);
    if (sae->round)
        qsae__round(sae->ctx, sae->round, buffer, d);
    return buffer;
}

static void decode_row(const job *j, int64_t r, double *sum, float *buffer)
{
    const qsae_sae *const sae = j->sae;
    const int64_t d = sae->config.d_out;
    memset(sum, 0, (size_t)d * sizeof *sum);
    for (int64_t e = j->indptr[r]; e < j->indptr[r + 1]; e++) {
        const int64_t f = j->indices[e];
        double a = j->values[e];
        if (sae->scale)
            a *= sae->scale[f];
        if (sae->norms)
            a = sae->norms[f] > 0 ? a / sae->norms[f] : 0; /* a dead row decodes to nothing */
        const float *const w = decoder_row(sae, f, buffer);
        for (int64_t i = 0; i < d; i++)
            sum[i] += a * w[i];
    }
    float *const y = j->y + r * j->ldy;
    const float *const state = j->state + r * sae->state_size;
    const enum qsae__normalize norm =
        sae->config.transcoder ? QSAE__NORM_NONE : sae->config.normalize;
    for (int64_t i = 0; i < d; i++) {
        double v = sum[i] + sae->b_dec[i];
        if (norm == QSAE__NORM_LAYER)
            v = v * state[1] + state[0];
        else if (norm == QSAE__NORM_CONSTANT)
            v /= state[0];
        y[i] = (float)v;
    }
}

static int32_t decode_tile(void *arg, int64_t tile, int32_t worker)
{
    const job *const j = arg;
    const int64_t d = j->sae->config.d_out;
    const int64_t end = qsae__min_i64((tile + 1) * ROWS, j->n);
    const int32_t st = qsae__canceled(j->sae->cancel);
    for (int64_t r = tile * ROWS; r < end && st == QSAE_OK; r++)
        decode_row(j, r, j->sum + worker * d, j->row + worker * d);
    return st;
}

int32_t qsae__sae_decode(qsae_sae *sae, int64_t n, const int64_t *indptr, const int32_t *indices,
                         const float *values, const float *state, float *y, int64_t ldy)
{
    static const float none[2] = { 0, 0 };
    qsae_context *const ctx = sae->ctx;
    int64_t size;
    if (n == 0)
        return QSAE_OK;
    if (!qsae__mul_i64(ctx->threads, sae->config.d_out, &size))
        return qsae__fail(QSAE_EOVERFLOW, "%s: too wide to decode", sae->path);
    job j = { .sae = sae, .indptr = indptr, .indices = indices, .values = values,
              .state = state ? state : none, .y = y, .n = n, .ldy = ldy };
    j.sum = qsae__alloc_array(ctx, size, sizeof *j.sum);
    j.row = qsae__alloc_array(ctx, size, sizeof *j.row);
    int32_t st = j.sum && j.row ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__parallel(ctx, qsae__ceil_div(n, ROWS), decode_tile, &j);
    qsae__free(ctx, j.sum);
    qsae__free(ctx, j.row);
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
