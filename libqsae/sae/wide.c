/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encoding with an SAE that is wider than memory allows to pack, or whose file is larger than
 * memory: workers take tiles of features, each of which meets all rows of a stretch, so that every
 * weight is read once per stretch, and pages that were read are given back. Nothing of the size of
 * W_enc is kept. Values have the bits of encode.c: products, screening and selection are the same.
 */
#include <string.h>

#include "sae/encode.h"

#define STRETCH 2048                    /* rows that share one pass over the weights */
#define PREPARED 64                     /* rows that are prepared at once; of whole strips */
#define PACKED_MOST ((int64_t)1 << 29)  /* bytes of packed weights beyond which an SAE is wide */
#define THIN ((int64_t)1 << 22)         /* topk: entries between two looks at what can still stay */

typedef struct wide {
    qsae__encode_job j;          /* worker: [threads]; block: [threads], all rows of the stretch */
    struct qsae__screen screen;
    bool screened;
    int64_t row0, rows;          /* of the stretch */
    float *x;                    /* [rows, d_in] prepared */
    uint8_t *skip, *zero;        /* [rows] */
    float *a, *b;                /* [rows] bounds of the rows */
    uint8_t *strips;
    uint8_t **packed;            /* [threads] a tile of features as panels */
    int32_t *owner;              /* [tiles] worker whose block holds the entries */
    int64_t *thin_at;            /* [threads] entries at which to look next */
} wide;

bool qsae__is_wide(const qsae_sae *sae)
{
    int64_t size;
    if (qsae__sae_has_codes(sae))
        return true; /* packed from the codes */
    if (sae->order != QSAE__ORDER_BY_SIZE)
        return sae->order == QSAE__ORDER_FEATURES;
    return !qsae__mul_i64(sae->config.d_in, sae->config.d_sae, &size) || size > PACKED_MOST / 2;
}

static void job_close(wide *v)
{
    qsae_context *const ctx = v->j.sae->ctx;
    for (int32_t i = 0; v->j.worker && i < ctx->threads; i++) {
        qsae__encode_worker *const w = &v->j.worker[i];
        w->skip = NULL; /* those of the stretch */
        w->a = w->b = NULL;
        qsae__free(ctx, w->tile);
        qsae__free(ctx, w->panels);
        qsae__free(ctx, w->index);
        qsae__free(ctx, w->heap);
        qsae__free(ctx, w->heap_size);
        qsae__screen_worker_close(ctx, w);
    }
    for (int32_t i = 0; v->j.block && i < ctx->threads; i++) {
        qsae__free(ctx, v->j.block[i].entry);
        qsae__free(ctx, v->j.block[i].tile);
    }
    for (int32_t i = 0; v->packed && i < ctx->threads; i++)
        qsae__free(ctx, v->packed[i]);
    void *const all[] = { v->j.worker, v->j.block, v->j.x, v->screen.p, v->screen.q, v->x, v->skip,
                          v->zero, v->a, v->b, v->strips, v->packed, v->owner, v->thin_at };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        qsae__free(ctx, all[i]);
}

static int32_t worker_open(wide *v, int32_t i)
{
    qsae_context *const ctx = v->j.sae->ctx;
    qsae__encode_worker *const w = &v->j.worker[i];
    const int64_t rows = v->j.block_rows, k = v->j.sae->config.k;
    const enum qsae__activation act = v->j.sae->config.activation;
    int64_t heap;
    if (!qsae__mul_i64(rows, k, &heap))
        return QSAE_ENOMEM;
    w->tile = qsae__alloc_array(ctx, rows * QSAE__ENCODE_NB, sizeof *w->tile);
    w->panels = qsae__alloc_array(ctx, QSAE__GEMM_SCRATCH, sizeof *w->panels);
    w->index = qsae__alloc_array(ctx, QSAE__ENCODE_NB, sizeof *w->index);
    v->j.block[i].tile = qsae__calloc(ctx, v->j.tiles + 1, sizeof *v->j.block[i].tile);
    if (!w->tile || !w->panels || !w->index || !v->j.block[i].tile)
        return QSAE_ENOMEM;
    if (act == QSAE__TOPK || act == QSAE__ABSTOPK) {
        w->heap = qsae__alloc_array(ctx, heap, sizeof *w->heap);
        w->heap_size = qsae__calloc(ctx, rows, sizeof *w->heap_size);
        if (!w->heap || !w->heap_size)
            return QSAE_ENOMEM;
    }
    if (v->screened) {
        v->packed[i] = qsae__alloc_array(ctx, v->screen.steps * QSAE__PANEL_STEP,
                                         QSAE__ENCODE_NB / QSAE__COLUMNS);
        if (!v->packed[i])
            return QSAE_ENOMEM;
    }
    w->skip = v->skip;
    w->a = v->a;
    w->b = v->b;
    return QSAE_OK;
}

static int32_t job_open(wide *v)
{
    qsae_context *const ctx = v->j.sae->ctx;
    const int64_t rows = v->j.block_rows, d = v->j.sae->config.d_in;
    int64_t size, padded;
    int32_t st = QSAE_OK;
    if (!qsae__mul_i64(rows, qsae__ceil_div(d, QSAE__ENCODE_KB) * QSAE__ENCODE_KB, &padded) ||
        !qsae__mul_i64(rows, d, &size))
        return QSAE_ENOMEM;
    v->j.worker = qsae__calloc(ctx, ctx->threads, sizeof *v->j.worker);
    v->j.block = qsae__calloc(ctx, ctx->threads, sizeof *v->j.block);
    v->packed = qsae__calloc(ctx, ctx->threads, sizeof *v->packed);
    v->thin_at = qsae__calloc(ctx, ctx->threads, sizeof *v->thin_at);
    v->owner = qsae__alloc_array(ctx, v->j.tiles, sizeof *v->owner);
    v->x = qsae__alloc_array(ctx, size, sizeof *v->x);
    v->skip = qsae__alloc_array(ctx, rows, sizeof *v->skip);
    v->zero = qsae__alloc_array(ctx, rows, sizeof *v->zero);
    if (!v->j.worker || !v->j.block || !v->packed || !v->thin_at || !v->owner || !v->x ||
        !v->skip || !v->zero)
        return QSAE_ENOMEM;
    if (v->screened) {
        st = qsae__screen_init(ctx, d, v->j.sae->config.d_sae, &v->screen);
        v->j.chunk = rows * QSAE__ENCODE_KB;
        v->j.x = qsae__alloc_array(ctx, padded, sizeof *v->j.x);
        v->a = qsae__alloc_array(ctx, rows, sizeof *v->a);
        v->b = qsae__alloc_array(ctx, rows, sizeof *v->b);
        v->strips = qsae__alloc_array(ctx, qsae__ceil_div(rows, QSAE__STRIP),
                                      (size_t)(v->screen.steps * QSAE__STRIP_STEP));
        if (!v->j.x || !v->a || !v->b || !v->strips)
            return QSAE_ENOMEM;
    }
    for (int32_t i = 0; i < ctx->threads && st == QSAE_OK; i++)
        st = worker_open(v, i);
    return st;
}

/* Normalised rows, and what screening needs of them. */
static int32_t prepare(void *arg, int64_t tile, int32_t worker)
{
    wide *const v = arg;
    const qsae_sae *const sae = v->j.sae;
    const int64_t d = sae->config.d_in, r0 = tile * PREPARED;
    const int64_t r1 = qsae__min_i64(r0 + PREPARED, v->rows);
    (void)worker;
    for (int64_t r = r0; r < r1; r++) {
        float none[2];
        bool zero;
        const int64_t row = v->row0 + r;
        float *const state = v->j.state ? v->j.state + row * sae->state_size : none;
        qsae__to_f32(v->j.rows->dtype, qsae__rows_at(v->j.rows, row), d, v->x + r * d);
        v->skip[r] = !qsae__prepare_row(sae, v->x + r * d, state, &zero);
        v->zero[r] = zero;
    }
    if (v->screened)
        qsae__screen_rows(&v->j, &v->screen, v->x + r0 * d, r1 - r0,
                          v->strips + r0 / QSAE__STRIP * v->screen.steps * QSAE__STRIP_STEP,
                          v->j.x + r0 * QSAE__ENCODE_KB, v->a + r0, v->b + r0);
    return qsae__canceled(sae->cancel);
}

/* topk: what a worker has of its tiles, without entries that cannot be among the k largest. */
static void thin(wide *v, int32_t worker)
{
    const qsae__encode_worker *const w = &v->j.worker[worker];
    qsae__encode_block *const b = &v->j.block[worker];
    if (w->heap && b->n >= v->thin_at[worker]) {
        qsae__encode_thin(v->j.sae, b, w, v->j.tiles);
        v->thin_at[worker] = 2 * b->n + THIN;
    }
}

/* Candidates become entries: exact products, and of them what is active. */
static int32_t settle(wide *v, int64_t tile, int32_t worker)
{
    qsae__encode_block *const b = &v->j.block[worker];
    qsae__encode_job j = v->j;
    j.block = b;
    j.n_found = 1;
    const int32_t st = qsae__screen_exact(&j, tile, worker);
    int64_t n = b->tile_start;
    for (int64_t i = n; st == QSAE_OK && i < b->n; i++) {
        qsae__entry e = b->entry[i];
        if (qsae__activate(j.sae, e.feature, e.value, &e.value))
            b->entry[n++] = e;
    }
    b->n = b->tile[tile + 1] = n;
    return st;
}

/* All rows of the stretch with a tile of features. */
static int32_t encode_tile(void *arg, int64_t tile, int32_t worker)
{
    wide *const v = arg;
    qsae_sae *const sae = v->j.sae;
    qsae__encode_worker *const w = &v->j.worker[worker];
    qsae__encode_block *const b = &v->j.block[worker];
    const int64_t d = sae->config.d_in, n0 = tile * QSAE__ENCODE_NB;
    const int64_t n1 = qsae__min_i64(n0 + QSAE__ENCODE_NB, sae->config.d_sae);
    bool exact = !v->screened;
    int32_t st = qsae__canceled(sae->cancel);
    v->owner[tile] = worker;
    if (st == QSAE_OK && v->screened) {
        qsae__screen_features(&v->screen, v->j.ops, &v->j.panels, n0, n1, w->panels,
                              v->packed[worker]);
        qsae__screen_multiply(sae->ctx, v->screen.steps, v->strips, v->rows, v->packed[worker],
                              n1 - n0, w->tile);
        st = qsae__encode_tile(&v->j, &v->screen, b, w, n0, n1);
        /* Too many for single products to be worth it. A heap must not see features twice. */
        exact = !w->heap && sae->screening != QSAE__SCREEN_ALWAYS &&
                b->n - b->tile_start > v->rows * (n1 - n0) / 16;
        if (exact)
            b->n = b->tile_start;
        else if (st == QSAE_OK)
            st = settle(v, tile, worker);
    }
    if (st == QSAE_OK && exact) {
        qsae__gemm_tile(sae->ctx, v->rows, v->x, d, &v->j.panels, n0, n1, w->tile,
                        QSAE__ENCODE_NB, w->panels);
        st = qsae__encode_tile(&v->j, NULL, b, w, n0, n1);
    }
    thin(v, worker);
    return st;
}

/* Rows of the stretch from the entries of all workers, tile by tile: features ascend in a row. */
static int32_t finish(wide *v, qsae__sae_block *out)
{
    const qsae_sae *const sae = v->j.sae;
    int64_t n = 0;
    for (int32_t i = 0; i < sae->ctx->threads; i++)
        n += v->j.block[i].n;
    out->row0 = v->row0;
    out->rows = v->rows;
    out->count = qsae__calloc(sae->ctx, v->rows + 1, sizeof *out->count);
    out->indices = qsae__alloc_array(sae->ctx, n, sizeof *out->indices);
    out->values = qsae__alloc_array(sae->ctx, n, sizeof *out->values);
    if (!out->count || !out->indices || !out->values)
        return QSAE_ENOMEM;
    int64_t *const at = out->count; /* starts of the rows, their ends, at last counts */
    for (int32_t i = 0; i < sae->ctx->threads; i++)
        for (int64_t e = 0; e < v->j.block[i].n; e++)
            at[v->j.block[i].entry[e].row + 1]++;
    for (int64_t r = 0; r < v->rows; r++)
        at[r + 1] += at[r];
    for (int64_t t = 0; t < v->j.tiles; t++) {
        const qsae__encode_block *const b = &v->j.block[v->owner[t]];
        for (int64_t i = b->tile[t]; i < b->tile[t + 1]; i++) {
            out->indices[at[b->entry[i].row]] = b->entry[i].feature;
            out->values[at[b->entry[i].row]++] = b->entry[i].value;
        }
    }
    for (int64_t r = 0, start = 0; r < v->rows; r++) {
        const int64_t end = at[r];
        const int64_t count =
            qsae__sae_finish_row(sae, v->j.worker[0].heap, out->indices + start,
                                 out->values + start, end - start);
        memmove(out->indices + out->nnz, out->indices + start,
                (size_t)count * sizeof *out->indices);
        memmove(out->values + out->nnz, out->values + start, (size_t)count * sizeof *out->values);
        out->nnz += count;
        out->count[r] = count;
        start = end;
    }
    return QSAE_OK;
}

static int32_t encode_stretch(wide *v, qsae__sae_block *out)
{
    qsae_sae *const sae = v->j.sae;
    for (int32_t i = 0; i < sae->ctx->threads; i++) {
        qsae__encode_block *const b = &v->j.block[i];
        b->n = 0;
        b->rows = v->rows;
        b->x = v->j.x;
        b->screened = v->screened;
        memset(b->tile, 0, (size_t)(v->j.tiles + 1) * sizeof *b->tile);
        v->thin_at[i] = THIN;
        for (int64_t r = 0; v->j.worker[i].heap && r < v->rows; r++)
            v->j.worker[i].heap_size[r] = 0;
    }
    int32_t st = qsae__parallel(sae->ctx, qsae__ceil_div(v->rows, PREPARED), prepare, v);
    for (int64_t r = 0; st == QSAE_OK && r < v->rows; r++)
        sae->zero_rows += v->zero[r];
    if (st == QSAE_OK)
        st = qsae__parallel(sae->ctx, v->j.tiles, encode_tile, v);
    if (st == QSAE_OK && v->screened)
        sae->screened += v->rows;
    if (sae->w_enc)
        qsae__tensor_release(sae->tensors, sae->w_enc);
    return st == QSAE_OK ? finish(v, out) : st;
}

int32_t qsae__wide_blocks(qsae_sae *sae, const qsae_rows *x, float *state, qsae__sae_blocks *out)
{
    qsae_context *const ctx = sae->ctx;
    wide v = { .j = { .sae = sae, .rows = x, .state = state, .ops = qsae__sparse_get(ctx) } };
    v.j.block_rows = qsae__min_i64(STRETCH, x->n_rows);
    qsae__source source;
    v.j.panels = qsae__source_open(sae, &source);
    v.j.tiles = qsae__ceil_div(sae->config.d_sae, QSAE__ENCODE_NB);
    v.screened = qsae__screen_serves(sae);
    out->n = qsae__ceil_div(x->n_rows, v.j.block_rows);
    out->block = qsae__calloc(ctx, out->n, sizeof *out->block);
    int32_t st = out->block ? job_open(&v) : QSAE_ENOMEM;
    for (int64_t i = 0; i < out->n && st == QSAE_OK; i++) {
        v.row0 = i * v.j.block_rows;
        v.rows = qsae__min_i64(v.j.block_rows, x->n_rows - v.row0);
        st = encode_stretch(&v, &out->block[i]);
        out->nnz += out->block[i].nnz;
    }
    job_close(&v);
    qsae__source_close(&source);
    if (st == QSAE_ENOMEM)
        st = qsae__fail(QSAE_ENOMEM, "out of memory for encoding with %s", sae->path);
    if (st != QSAE_OK)
        qsae__sae_blocks_free(out);
    return st;
}
