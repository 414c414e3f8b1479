/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encoding: h = x2 W_enc + b_enc by tiles of rows x features, activation and compaction on the
 * finished tile. A task is a block of rows; a dense [rows, d_sae] matrix never exists. No result
 * depends on the number of threads or on how rows are cut into blocks: an element of the product
 * has the bits of kernels/gemm.h whatever its tile.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sae/parts.h"

#define MAX_ROWS 256
#define MIN_ROWS 16

/* One candidate of a row. */
typedef struct pair {
    float value;
    int32_t index;
} pair;

/* Scratch of one worker. */
typedef struct scratch {
    float *x;        /* [block rows, d_in] prepared input */
    float *tile;     /* [block rows, QSAE__GEMM_NB] */
    float *panels;   /* QSAE__GEMM_SCRATCH */
    pair *heap;      /* topk: [block rows, k] */
    int64_t *heap_size; /* [block rows] */
    uint8_t *skip;   /* [block rows] row is not finite */
} scratch;

/* Entries of a block in the order of the tiles: sorted by feature, not by row. */
typedef struct entries {
    pair *p;
    int32_t *row;
    int64_t n, capacity, row_capacity;
} entries;

typedef struct job {
    qsae_sae *sae;
    const qsae_rows *x;
    float *state;
    qsae__sae_blocks *out;
    qsae__panels panels;
    scratch *scratch;
    int64_t block_rows;
} job;

/* Normalised, centred input of one row (sae.md A.1 steps 1 to 4). False if it is not finite. */
static bool prepare_row(const qsae_sae *sae, float *x, float *state)
{
    const int64_t d = sae->config.d_in;
    bool finite = true;
    for (int64_t i = 0; i < d; i++)
        finite &= isfinite(x[i]) != 0;
    if (sae->config.normalize == QSAE__NORM_LAYER) {
        double mean = 0, sum = 0;
        for (int64_t i = 0; i < d && finite; i++)
            mean += x[i];
        mean /= (double)d;
        for (int64_t i = 0; i < d && finite; i++)
            sum += ((double)x[i] - mean) * ((double)x[i] - mean);
        const double sd = finite && d > 1 ? sqrt(sum / (double)(d - 1)) : 0;
        state[0] = (float)mean;
        state[1] = (float)sd;
        for (int64_t i = 0; i < d && finite; i++)
            x[i] = (float)(((double)x[i] - mean) / (sd + 1e-5));
    } else if (sae->config.normalize == QSAE__NORM_CONSTANT) {
        double sum = 0;
        for (int64_t i = 0; i < d && finite; i++)
            sum += (double)x[i] * x[i];
        /* A zero row stays zero: upstream would multiply by infinity. */
        const double c = finite && sum > 0 ? sqrt((double)d) / sqrt(sum) : 1;
        state[0] = (float)c;
        for (int64_t i = 0; i < d && finite; i++)
            x[i] = (float)(x[i] * c);
    }
    if (!finite)
        memset(x, 0, (size_t)d * sizeof *x);
    else if (sae->config.apply_b_dec)
        for (int64_t i = 0; i < d; i++)
            x[i] -= sae->b_dec[i];
    return finite;
}

static int32_t push(qsae_context *ctx, entries *e, int32_t row, int32_t index, float value)
{
    if (e->n == e->capacity || e->n == e->row_capacity) {
        int32_t st = qsae__grow(ctx, &e->p, &e->capacity, e->n + 1, sizeof *e->p);
        if (st == QSAE_OK)
            st = qsae__grow(ctx, &e->row, &e->row_capacity, e->n + 1, sizeof *e->row);
        if (st != QSAE_OK)
            return st;
    }
    e->p[e->n] = (pair){ value, index };
    e->row[e->n++] = row;
    return QSAE_OK;
}

/* a is kept behind b: smaller, or equal with the higher index. */
static bool behind(pair a, pair b)
{
    return a.value < b.value || (a.value == b.value && a.index > b.index);
}

/* Bounded selection: a heap of the k best with the worst at the root. */
static void offer(pair *heap, int64_t *size, int64_t k, pair p)
{
    int64_t i;
    if (*size < k) {
        for (i = (*size)++; i > 0; i = (i - 1) / 2) {
            if (!behind(p, heap[(i - 1) / 2]))
                break;
            heap[i] = heap[(i - 1) / 2];
        }
        heap[i] = p;
        return;
    }
    if (!behind(heap[0], p))
        return;
    for (i = 0;;) {
        int64_t child = 2 * i + 1;
        if (child >= k)
            break;
        if (child + 1 < k && behind(heap[child + 1], heap[child]))
            child++;
        if (!behind(heap[child], p))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = p;
}

/* Activation of one row of a finished tile; h holds the products of features n0..n1. */
static int32_t finish_row(const qsae_sae *sae, scratch *s, entries *e, int64_t row, const float *h,
                          int64_t n0, int64_t n1)
{
    qsae_context *const ctx = sae->ctx;
    int32_t st = QSAE_OK;
    const float *const b = sae->b_enc;
    switch (sae->config.activation) {
    case QSAE__RELU:
        for (int64_t f = n0; f < n1 && st == QSAE_OK; f++) {
            const float v = h[f - n0] + b[f];
            if (v > 0)
                st = push(ctx, e, (int32_t)row, (int32_t)f, v);
        }
        break;
    case QSAE__JUMPRELU:
        for (int64_t f = n0; f < n1 && st == QSAE_OK; f++) {
            const float v = h[f - n0] + b[f];
            if (v > sae->threshold[f] && v > 0)
                st = push(ctx, e, (int32_t)row, (int32_t)f, v);
        }
        break;
    case QSAE__TOPK:
        /* Values that are not positive become zero anyway. */
        for (int64_t f = n0; f < n1; f++) {
            float v = h[f - n0] + b[f];
            if (sae->norms)
                v *= sae->norms[f];
            if (v > 0)
                offer(s->heap + row * sae->config.k, &s->heap_size[row], sae->config.k,
                      (pair){ v, (int32_t)f });
        }
        break;
    case QSAE__GATED:
        for (int64_t f = n0; f < n1 && st == QSAE_OK; f++) {
            const float u = h[f - n0], m = sae->gain[f] * u + sae->b_mag[f];
            if (u + b[f] > 0 && m > 0)
                st = push(ctx, e, (int32_t)row, (int32_t)f, m);
        }
        break;
    }
    return st;
}

static int by_index(const void *a, const void *b)
{
    const pair *const p = a, *const q = b;
    return (p->index > q->index) - (p->index < q->index);
}

/* The heaps of a block as entries, row by row. */
static int32_t drain_heaps(const qsae_sae *sae, scratch *s, int64_t rows, entries *e)
{
    int32_t st = QSAE_OK;
    for (int64_t r = 0; r < rows && st == QSAE_OK; r++) {
        pair *const heap = s->heap + r * sae->config.k;
        qsort(heap, (size_t)s->heap_size[r], sizeof *heap, by_index);
        for (int64_t i = 0; i < s->heap_size[r] && st == QSAE_OK; i++)
            st = push(sae->ctx, e, (int32_t)r, heap[i].index, heap[i].value);
    }
    return st;
}

/* Tile order to row order; stable, so that indices ascend in a row. */
static int32_t sort_rows(qsae_context *ctx, const entries *e, qsae__sae_block *b)
{
    b->nnz = e->n;
    b->count = qsae__calloc(ctx, b->rows, sizeof *b->count);
    b->indices = qsae__alloc_array(ctx, e->n, sizeof *b->indices);
    b->values = qsae__alloc_array(ctx, e->n, sizeof *b->values);
    int64_t *const at = qsae__calloc(ctx, b->rows, sizeof *at);
    int32_t st = QSAE_ENOMEM;
    if (b->count && b->indices && b->values && at) {
        for (int64_t i = 0; i < e->n; i++)
            b->count[e->row[i]]++;
        for (int64_t r = 1; r < b->rows; r++)
            at[r] = at[r - 1] + b->count[r - 1];
        for (int64_t i = 0; i < e->n; i++) {
            const int64_t to = at[e->row[i]]++;
            b->indices[to] = e->p[i].index;
            b->values[to] = e->p[i].value;
        }
        st = QSAE_OK;
    }
    qsae__free(ctx, at);
    return st;
}

static int32_t encode_block(void *arg, int64_t tile, int32_t worker)
{
    const job *const j = arg;
    qsae_sae *const sae = j->sae;
    scratch *const s = &j->scratch[worker];
    qsae__sae_block *const b = &j->out->block[tile];
    const int64_t d = sae->config.d_in, features = sae->config.d_sae;
    entries e = { .p = NULL };
    int32_t st = qsae__canceled(sae->cancel);
    if (st != QSAE_OK)
        return st;
    b->row0 = tile * j->block_rows;
    b->rows = qsae__min_i64(j->block_rows, j->x->n_rows - b->row0);
    for (int64_t r = 0; r < b->rows; r++) {
        float none[2];
        float *const state = j->state ? j->state + (b->row0 + r) * sae->state_size : none;
        qsae__to_f32(j->x->dtype, qsae__rows_at(j->x, b->row0 + r), d, s->x + r * d);
        s->skip[r] = !prepare_row(sae, s->x + r * d, state);
        if (s->heap_size)
            s->heap_size[r] = 0;
    }
    for (int64_t n0 = 0; n0 < features && st == QSAE_OK; n0 += QSAE__GEMM_NB) {
        const int64_t n1 = qsae__min_i64(n0 + QSAE__GEMM_NB, features);
        qsae__gemm_tile(sae->ctx, b->rows, s->x, d, &j->panels, n0, n1, s->tile, QSAE__GEMM_NB,
                        s->panels);
        for (int64_t r = 0; r < b->rows && st == QSAE_OK; r++)
            if (!s->skip[r])
                st = finish_row(sae, s, &e, r, s->tile + r * QSAE__GEMM_NB, n0, n1);
    }
    if (st == QSAE_OK && s->heap)
        st = drain_heaps(sae, s, b->rows, &e);
    if (st == QSAE_OK)
        st = sort_rows(sae->ctx, &e, b);
    qsae__free(sae->ctx, e.p);
    qsae__free(sae->ctx, e.row);
    return st;
}

static void scratch_free(qsae_context *ctx, scratch *s, int32_t n)
{
    for (int32_t i = 0; s && i < n; i++) {
        qsae__free(ctx, s[i].x);
        qsae__free(ctx, s[i].tile);
        qsae__free(ctx, s[i].panels);
        qsae__free(ctx, s[i].heap);
        qsae__free(ctx, s[i].heap_size);
        qsae__free(ctx, s[i].skip);
    }
    qsae__free(ctx, s);
}

static int32_t scratch_open(qsae_sae *sae, int64_t rows, scratch **out)
{
    qsae_context *const ctx = sae->ctx;
    const int32_t n = ctx->threads;
    int64_t x_size, heap_size;
    scratch *const s = qsae__calloc(ctx, n, sizeof *s);
    bool ok = s && qsae__mul_i64(rows, sae->config.d_in, &x_size) &&
              qsae__mul_i64(rows, sae->config.k, &heap_size);
    for (int32_t i = 0; ok && i < n; i++) {
        s[i].x = qsae__alloc_array(ctx, x_size, sizeof *s[i].x);
        s[i].tile = qsae__alloc_array(ctx, rows * QSAE__GEMM_NB, sizeof *s[i].tile);
        s[i].panels = qsae__alloc_array(ctx, QSAE__GEMM_SCRATCH, sizeof *s[i].panels);
        s[i].skip = qsae__alloc_array(ctx, rows, sizeof *s[i].skip);
        ok = s[i].x && s[i].tile && s[i].panels && s[i].skip;
        if (ok && sae->config.activation == QSAE__TOPK) {
            s[i].heap = qsae__alloc_array(ctx, heap_size, sizeof *s[i].heap);
            s[i].heap_size = qsae__calloc(ctx, rows, sizeof *s[i].heap_size);
            ok = s[i].heap && s[i].heap_size;
        }
    }
    if (!ok) {
        scratch_free(ctx, s, n);
        return qsae__fail(QSAE_ENOMEM, "out of memory for encoding with %s", sae->path);
    }
    *out = s;
    return QSAE_OK;
}

void qsae__sae_blocks_free(qsae__sae_blocks *b)
{
    for (int64_t i = 0; b->block && i < b->n; i++) {
        qsae__free(b->ctx, b->block[i].count);
        qsae__free(b->ctx, b->block[i].indices);
        qsae__free(b->ctx, b->block[i].values);
    }
    qsae__free(b->ctx, b->block);
    memset(b, 0, sizeof *b);
}

int32_t qsae__sae_encode_blocks(qsae_sae *sae, const qsae_rows *x, float *state,
                                qsae__sae_blocks *out)
{
    qsae_context *const ctx = sae->ctx;
    memset(out, 0, sizeof *out);
    out->ctx = ctx;
    if (x->n_rows == 0)
        return QSAE_OK;
    /* As large as keeps every thread busy: each block reads all of W_enc once. */
    int64_t rows = qsae__ceil_div(x->n_rows, ctx->threads);
    rows = qsae__max_i64(MIN_ROWS, qsae__min_i64(qsae__ceil_div(rows, 16) * 16, MAX_ROWS));
    rows = qsae__min_i64(rows, x->n_rows);
    job j = { .sae = sae, .x = x, .state = state, .out = out, .block_rows = rows };
    j.panels = qsae__panels_dense(&sae->enc, sae->config.d_sae, sae->config.d_in);
    out->n = qsae__ceil_div(x->n_rows, rows);
    out->block = qsae__calloc(ctx, out->n, sizeof *out->block);
    int32_t st = out->block ? scratch_open(sae, rows, &j.scratch) : QSAE_ENOMEM;
    if (st == QSAE_OK) {
        st = qsae__parallel(ctx, out->n, encode_block, &j);
        scratch_free(ctx, j.scratch, ctx->threads);
    }
    for (int64_t i = 0; st == QSAE_OK && i < out->n; i++)
        out->nnz += out->block[i].nnz;
    if (st != QSAE_OK)
        qsae__sae_blocks_free(out);
    return st;
}
