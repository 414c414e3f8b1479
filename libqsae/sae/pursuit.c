/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Matching pursuit (sae.md A.2): with e = x2, the feature with the largest e W_dec^T is added by
 * v = max(e . W_dec[i], 0) and e -= v W_dec[i], until a rule ends it. All rows of a block go
 * through the decoder together, tile by tile; rows that are done leave the block. The products that
 * choose are those of kernels/gemm.h on e rounded to f32, of equal ones the lowest feature wins; v,
 * e and the sums of a feature are f64, in ascending order, and a is rounded once.
 */
#include <math.h>
#include <string.h>

#include "sae/encode.h"

#define MAX_ROWS 256

/* The features of one row, in the order they came. */
typedef struct support {
    int32_t *index;
    double *value;
    int64_t n, index_capacity, value_capacity;
} support;

typedef struct worker {
    double *e;       /* [block rows, d] residuals */
    float *x;        /* [block rows, d] the same in f32, rows at work first */
    float *tile;     /* [block rows, QSAE__ENCODE_NB] products */
    float *panels;   /* QSAE__GEMM_SCRATCH */
    float *atom;     /* [d] a decoder row */
    float *best;     /* [block rows] largest product so far, of row[i] */
    int32_t *at;     /* [block rows] its feature */
    int32_t *row;    /* [block rows] rows at work */
    support *found;  /* [block rows] */
} worker;

typedef struct job {
    qsae_sae *sae;
    const qsae_rows *rows;
    float *state;
    qsae__panels panels;
    worker *worker;
    qsae__sae_block *out;
    int64_t *zeros;  /* [blocks] */
    int64_t block_rows;
} job;

static void job_close(job *j)
{
    qsae_context *const ctx = j->sae->ctx;
    for (int32_t i = 0; j->worker && i < ctx->threads; i++) {
        worker *const w = &j->worker[i];
        for (int64_t r = 0; w->found && r < j->block_rows; r++) {
            qsae__free(ctx, w->found[r].index);
            qsae__free(ctx, w->found[r].value);
        }
        qsae__free(ctx, w->e);
        qsae__free(ctx, w->x);
        qsae__free(ctx, w->tile);
        qsae__free(ctx, w->panels);
        qsae__free(ctx, w->atom);
        qsae__free(ctx, w->best);
        qsae__free(ctx, w->at);
        qsae__free(ctx, w->row);
        qsae__free(ctx, w->found);
    }
    qsae__free(ctx, j->worker);
    qsae__free(ctx, j->zeros);
}

static int32_t job_open(job *j, int64_t blocks)
{
    qsae_context *const ctx = j->sae->ctx;
    const int64_t rows = j->block_rows, d = j->sae->config.d_in;
    int64_t size;
    j->worker = qsae__calloc(ctx, ctx->threads, sizeof *j->worker);
    j->zeros = qsae__calloc(ctx, blocks, sizeof *j->zeros);
    if (!j->worker || !j->zeros || !qsae__mul_i64(rows, d, &size))
        return QSAE_ENOMEM;
    for (int32_t i = 0; i < ctx->threads; i++) {
        worker *const w = &j->worker[i];
        w->e = qsae__alloc_array(ctx, size, sizeof *w->e);
        w->x = qsae__alloc_array(ctx, size, sizeof *w->x);
        w->tile = qsae__alloc_array(ctx, rows * QSAE__ENCODE_NB, sizeof *w->tile);
        w->panels = qsae__alloc_array(ctx, QSAE__GEMM_SCRATCH, sizeof *w->panels);
        w->atom = qsae__alloc_array(ctx, d, sizeof *w->atom);
        w->best = qsae__alloc_array(ctx, rows, sizeof *w->best);
        w->at = qsae__alloc_array(ctx, rows, sizeof *w->at);
        w->row = qsae__alloc_array(ctx, rows, sizeof *w->row);
        w->found = qsae__calloc(ctx, rows, sizeof *w->found);
        if (!w->e || !w->x || !w->tile || !w->panels || !w->atom || !w->best || !w->at || !w->row ||
            !w->found)
            return QSAE_ENOMEM;
    }
    return QSAE_OK;
}

/* Residuals of a block; the number of rows at work, those that are not finite left out. */
static int64_t start(const job *j, int64_t block, int64_t rows, worker *w)
{
    const qsae_sae *const sae = j->sae;
    const int64_t d = sae->config.d_in, row0 = block * j->block_rows;
    int64_t n = 0;
    for (int64_t r = 0; r < rows; r++) {
        float none[2];
        bool zero;
        float *const state = j->state ? j->state + (row0 + r) * sae->state_size : none;
        qsae__to_f32(j->rows->dtype, qsae__rows_at(j->rows, row0 + r), d, w->x);
        w->found[r].n = 0;
        if (qsae__prepare_row(sae, w->x, state, &zero))
            w->row[n++] = (int32_t)r;
        j->zeros[block] += zero;
        for (int64_t i = 0; i < d; i++)
            w->e[r * d + i] = w->x[i];
    }
    return n;
}

/* The feature with the largest product with each of n rows; of equal ones the first. */
static void choose(const job *j, int64_t n, worker *w)
{
    const int64_t d = j->sae->config.d_in, features = j->sae->config.d_sae;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < d; i++)
            w->x[r * d + i] = (float)w->e[w->row[r] * d + i];
        w->best[r] = 0; /* max(h, 0): where nothing is above, the first feature */
        w->at[r] = 0;
    }
    for (int64_t n0 = 0; n0 < features; n0 += QSAE__ENCODE_NB) {
        const int64_t n1 = qsae__min_i64(n0 + QSAE__ENCODE_NB, features);
        qsae__gemm_tile(j->sae->ctx, n, w->x, d, &j->panels, n0, n1, w->tile, QSAE__ENCODE_NB,
                        w->panels);
        for (int64_t r = 0; r < n; r++) {
            const float *const h = w->tile + r * QSAE__ENCODE_NB;
            for (int64_t f = 0; f < n1 - n0; f++)
                if (h[f] > w->best[r]) {
                    w->best[r] = h[f];
                    w->at[r] = (int32_t)(n0 + f);
                }
        }
    }
}

/* Adds feature f to a row; *again: it was there, or adds nothing. False if memory ran out. */
static bool add_feature(qsae_context *ctx, support *s, int32_t f, double v, bool *again)
{
    *again = true;
    if (!(v > 0))
        return true;
    for (int64_t i = 0; i < s->n; i++)
        if (s->index[i] == f) {
            s->value[i] += v;
            return true;
        }
    *again = false;
    if (qsae__grow(ctx, &s->index, &s->index_capacity, s->n + 1, sizeof *s->index) != QSAE_OK ||
        qsae__grow(ctx, &s->value, &s->value_capacity, s->n + 1, sizeof *s->value) != QSAE_OK)
        return false;
    s->index[s->n] = f;
    s->value[s->n++] = v;
    return true;
}

/* One feature more for row r of the block. *done: the row is finished. */
static bool advance(const qsae_sae *sae, worker *w, int64_t r, int32_t f, bool *done)
{
    const qsae__sae_config *const c = &sae->config;
    const int64_t d = c->d_in;
    double *const e = w->e + r * d;
    double v = 0, norm = 0;
    bool again;
    qsae__sae_decoder_row(sae, f, 0, d, w->atom);
    for (int64_t i = 0; i < d; i++)
        v += e[i] * (double)w->atom[i];
    v = v > 0 ? v : 0;
    *done = !isfinite((float)v); /* atoms longer than sqrt(2) may make the residual grow */
    if (*done)
        return true;
    if (!add_feature(sae->ctx, &w->found[r], f, v, &again))
        return false;
    for (int64_t i = 0; i < d; i++) {
        e[i] -= v * (double)w->atom[i];
        norm += e[i] * e[i];
    }
    *done = (again && c->stop_on_repeat) || v == 0 ||
            (c->residual_threshold > 0 && sqrt(norm) < c->residual_threshold);
    return true;
}

/* Sorted rows of a block; values that round to 0 are no entries. */
static int32_t finish(const job *j, worker *w, int64_t rows, qsae__sae_block *out)
{
    qsae_context *const ctx = j->sae->ctx;
    int64_t n = 0;
    for (int64_t r = 0; r < rows; r++)
        n += w->found[r].n;
    out->count = qsae__calloc(ctx, rows + 1, sizeof *out->count);
    out->indices = qsae__alloc_array(ctx, n, sizeof *out->indices);
    out->values = qsae__alloc_array(ctx, n, sizeof *out->values);
    if (!out->count || !out->indices || !out->values)
        return QSAE_ENOMEM;
    for (int64_t r = 0; r < rows; r++) {
        const support *const s = &w->found[r];
        int32_t *const indices = out->indices + out->nnz;
        float *const values = out->values + out->nnz;
        int64_t count = 0;
        for (int64_t i = 0; i < s->n; i++) {
            const float v = (float)s->value[i];
            int64_t to = count;
            if (!(v > 0))
                continue;
            for (; to > 0 && indices[to - 1] > s->index[i]; to--) {
                indices[to] = indices[to - 1];
                values[to] = values[to - 1];
            }
            indices[to] = s->index[i];
            values[to] = v;
            count++;
        }
        out->count[r] = count;
        out->nnz += count;
    }
    return QSAE_OK;
}

static int32_t encode_block(void *arg, int64_t tile, int32_t index)
{
    const job *const j = arg;
    const qsae_sae *const sae = j->sae;
    worker *const w = &j->worker[index];
    qsae__sae_block *const out = &j->out[tile];
    const int64_t most = sae->config.max_iterations ? sae->config.max_iterations : sae->config.d_in;
    out->row0 = tile * j->block_rows;
    out->rows = qsae__min_i64(j->block_rows, j->rows->n_rows - out->row0);
    int64_t n = start(j, tile, out->rows, w);
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < most && n > 0 && st == QSAE_OK; i++) {
        int64_t left = 0;
        st = qsae__canceled(sae->cancel);
        if (st == QSAE_OK)
            choose(j, n, w);
        for (int64_t r = 0; r < n && st == QSAE_OK; r++) {
            bool done;
            if (!advance(sae, w, w->row[r], w->at[r], &done))
                st = QSAE_ENOMEM;
            else if (!done)
                w->row[left++] = w->row[r];
        }
        n = left;
    }
    return st == QSAE_OK ? finish(j, w, out->rows, out) : st;
}

int32_t qsae__pursuit_blocks(qsae_sae *sae, const qsae_rows *x, float *state,
                             qsae__sae_blocks *out)
{
    qsae_context *const ctx = sae->ctx;
    job j = { .sae = sae, .rows = x, .state = state };
    j.block_rows = qsae__min_i64(MAX_ROWS, qsae__ceil_div(x->n_rows, ctx->threads));
    j.panels = qsae__sae_panels(sae);
    out->n = qsae__ceil_div(x->n_rows, j.block_rows);
    out->block = qsae__calloc(ctx, out->n, sizeof *out->block);
    j.out = out->block;
    int32_t st = out->block ? job_open(&j, out->n) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__parallel(ctx, out->n, encode_block, &j);
    for (int64_t i = 0; st == QSAE_OK && i < out->n; i++) {
        out->nnz += out->block[i].nnz;
        sae->zero_rows += j.zeros[i];
    }
    job_close(&j);
    if (st == QSAE_ENOMEM)
        st = qsae__fail(QSAE_ENOMEM, "out of memory for encoding with %s", sae->path);
    if (st != QSAE_OK)
        qsae__sae_blocks_free(out);
    return st;
}
