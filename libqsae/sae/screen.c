/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Screening: a bf16 product s bounds every exact product h (kernels/gemm.h), and only features that
 * may be active by that bound are computed in f32.
 *
 * With xb, wb the operands rounded to bf16 (subnormals zero, as the product takes them), u = 2^-24
 * and K the padded length, by Cauchy-Schwarz:
 *   |x.w - xb.wb| <= |x - xb| |w| + |xb| |w - wb|         from the residuals themselves
 *   |s - xb.wb|   <= g(K + 2) |xb| |wb| + 2 K 2^-126      each product is exact and added with one
 *                    rounding, in chains of at most K + 2 additions; factors, products and sums
 *                    below 2^-126 may be flushed
 *   |h - x.w|     <= g(256 + blocks) |x| |w| + K 2^-126   a product passes at most 256 fused
 *                    multiply-adds and one addition per block of 256
 * with g(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). In sum
 * |s - h| <= a p + b q + c: p = |w|, q = |w - wb| of the feature, a and b of the row. What is made
 * of s + (a p + b q + c) in f32 must not fall below the true bound: a sum rounds by u |s| <=
 * u |xb| (p + q) (1 + g), for which 8 u |xb| is added to a and b, and the bound itself by at most
 * 4 u of it, for which a, b and c grow by 16 u. Activations compare monotone functions of h,
 * rounded the same way, so a bound on h gives one on what is compared. Norms are f64 sums, rounded
 * up.
 *
 * Rows or features with norms that are NaN, infinite or beyond 2^60 have infinite bounds and are
 * always candidates; for the others nothing can overflow.
 */
#include <math.h>
#include <string.h>

#include "sae/encode.h"

#define U 0x1p-24
#define LARGEST 0x1p60
#define MAX_D ((int64_t)1 << 20)
#define TILE_PANELS (QSAE__ENCODE_NB / QSAE__COLUMNS)

/* The least f32 not below v. */
static float up(double v)
{
    const float f = (float)v;
    return (double)f < v ? nextafterf(f, INFINITY) : f;
}

/* At least the norm whose square was summed. */
static double norm(double sum)
{
    const double v = sqrt(sum) * (1 + 0x1p-20);
    return v < LARGEST ? v : INFINITY;
}

typedef struct norms_job {
    const qsae_sae *sae;
    struct qsae__screen *s;
    const qsae__sparse_ops *ops;
    qsae__panels panels;
    float *scratch;          /* [threads, QSAE__GEMM_SCRATCH] */
} norms_job;

/* Rows k of panels in f32 to the geometry of kernels/packed.h, from group k0 / 2 on. */
static void pack_rows(const float *panels, int64_t columns, int64_t k0, int64_t kb, int64_t panel,
                      uint8_t *packed)
{
    for (int64_t c = 0; c < columns; c += QSAE__COLUMNS) {
        const float *const from = panels + c * kb;
        uint32_t *const to = (uint32_t *)(void *)(packed + c / QSAE__COLUMNS * panel) +
                             k0 / 2 * QSAE__COLUMNS;
        for (int64_t k = 0; k < kb; k += 2)
            for (int64_t i = 0; i < QSAE__COLUMNS; i++) {
                const float *const v = from + k * QSAE__COLUMNS + i;
                const uint32_t low = qsae__f32_to_bf16(v[0]);
                const uint32_t high = k + 1 < kb ? qsae__f32_to_bf16(v[QSAE__COLUMNS]) : 0u;
                to[k / 2 * QSAE__COLUMNS + i] = low | high << 16;
            }
    }
}

void qsae__screen_features(struct qsae__screen *s, const qsae__sparse_ops *ops,
                           const qsae__panels *w, int64_t n0, int64_t n1, float *panels,
                           uint8_t *packed)
{
    const int64_t d = w->k, panel = s->steps * QSAE__PANEL_STEP;
    double sum[QSAE__ENCODE_NB] = { 0 }, rest[QSAE__ENCODE_NB] = { 0 };
    if (packed)
        for (int64_t n = 0; n < n1 - n0; n += QSAE__COLUMNS)
            memset(packed + n / QSAE__COLUMNS * panel + (s->steps - 1) * QSAE__PANEL_STEP, 0,
                   QSAE__PANEL_STEP);
    for (int64_t k0 = 0; k0 < d; k0 += QSAE__GEMM_KB) {
        const int64_t k1 = qsae__min_i64(d, k0 + QSAE__GEMM_KB);
        w->fill(w->self, n0, n1, k0, k1, panels, QSAE__COLUMNS);
        for (int64_t n = 0; n < n1 - n0; n += QSAE__COLUMNS)
            ops->squares(panels + n * (k1 - k0), k1 - k0, sum + n, rest + n);
        if (packed)
            pack_rows(panels, n1 - n0, k0, k1 - k0, panel, packed);
    }
    for (int64_t n = n0; n < n1; n++) {
        const double p = norm(sum[n - n0]), q = norm(rest[n - n0]);
        s->p[n] = p + q < INFINITY ? up(p) : INFINITY;
        s->q[n] = p + q < INFINITY ? up(q) : INFINITY;
    }
}

/* p and q of a tile of features. */
static int32_t norms_tile(void *arg, int64_t tile, int32_t worker)
{
    const norms_job *const j = arg;
    const int64_t n0 = tile * QSAE__ENCODE_NB;
    qsae__screen_features(j->s, j->ops, &j->panels, n0,
                          qsae__min_i64(n0 + QSAE__ENCODE_NB, j->sae->config.d_sae),
                          j->scratch + (int64_t)worker * QSAE__GEMM_SCRATCH, NULL);
    return qsae__canceled(j->sae->cancel);
}

void qsae__screen_close(qsae_sae *sae)
{
    struct qsae__screen *const s = sae->screen;
    if (!s)
        return;
    qsae__packed_close(&s->w);
    qsae__free(sae->ctx, s->p);
    qsae__free(sae->ctx, s->q);
    qsae__free(sae->ctx, s);
    sae->screen = NULL;
}

static double gamma_of(int64_t n)
{
    return (double)n * U / (1 - (double)n * U);
}

bool qsae__screen_serves(const qsae_sae *sae)
{
    const enum qsae__activation act = sae->config.activation;
    return sae->screening != QSAE__SCREEN_NEVER && sae->config.d_in <= MAX_D &&
           act != QSAE__ABSTOPK && act != QSAE__GROUPMAX && qsae__packed_get(sae->ctx)->bf16;
}

int32_t qsae__screen_init(qsae_context *ctx, int64_t d, int64_t features, struct qsae__screen *s)
{
    s->steps = qsae__steps(d, 2);
    const int64_t padded = s->steps * (QSAE__STEP / 2);
    s->s_error = gamma_of(padded + 2);
    s->h_error = gamma_of(qsae__min_i64(d, QSAE__GEMM_KB) + qsae__ceil_div(d, QSAE__GEMM_KB));
    s->c = (float)padded * 0x1p-122f; /* 16 K 2^-126 */
    s->p = qsae__alloc_array(ctx, features, sizeof *s->p);
    s->q = qsae__alloc_array(ctx, features, sizeof *s->q);
    return s->p && s->q ? QSAE_OK : QSAE_ENOMEM;
}

int32_t qsae__screen_open(qsae_sae *sae)
{
    qsae_context *const ctx = sae->ctx;
    const int64_t d = sae->config.d_in, features = sae->config.d_sae;
    if (sae->screen || !qsae__screen_serves(sae))
        return QSAE_OK;
    struct qsae__screen *const s = sae->screen = qsae__calloc(ctx, 1, sizeof *s);
    if (!s)
        return QSAE_ENOMEM;
    norms_job j = { .sae = sae, .s = s, .ops = qsae__sparse_get(ctx) };
    int32_t st = qsae__screen_init(ctx, d, features, s);
    j.panels = qsae__panels_dense(&sae->enc, features, d);
    j.scratch = qsae__alloc_array(ctx, (int64_t)ctx->threads * QSAE__GEMM_SCRATCH,
                                  sizeof *j.scratch);
    if (!j.scratch)
        st = QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__packed_dense(ctx, &sae->enc, features, d, &s->w);
    if (st == QSAE_OK)
        st = qsae__parallel(ctx, qsae__ceil_div(features, QSAE__ENCODE_NB), norms_tile, &j);
    qsae__free(ctx, j.scratch);
    if (st == QSAE_OK)
        st = qsae__packed_share(s->w, 1);
    if (st != QSAE_OK)
        qsae__screen_close(sae);
    return st;
}

static void exact_close(qsae_context *ctx, qsae__exact *e)
{
    qsae__free(ctx, e->x);
    qsae__free(ctx, e->column);
    qsae__free(ctx, e->part);
    qsae__free(ctx, e->sum);
    qsae__free(ctx, e->entry);
    memset(e, 0, sizeof *e);
}

/* Room for n candidates; what was there is lost. */
static int32_t exact_open(qsae_context *ctx, qsae__exact *e, int64_t n)
{
    if (n <= e->capacity)
        return QSAE_OK;
    exact_close(ctx, e);
    n += n / 4;
    e->x = qsae__alloc_array(ctx, n, sizeof *e->x);
    e->column = qsae__alloc_array(ctx, n, sizeof *e->column);
    e->part = qsae__alloc_array(ctx, n, sizeof *e->part);
    e->sum = qsae__alloc_array(ctx, n, sizeof *e->sum);
    e->entry = qsae__alloc_array(ctx, n, sizeof *e->entry);
    if (!e->x || !e->column || !e->part || !e->sum || !e->entry)
        return QSAE_ENOMEM;
    e->capacity = n;
    return QSAE_OK;
}

/* The chunk of all rows stays in the second cache while a tile of features meets it. */
int32_t qsae__screen_job_open(qsae__encode_job *j)
{
    const int64_t chunks = qsae__ceil_div(j->sae->config.d_in, QSAE__ENCODE_KB);
    int64_t size;
    j->chunk = j->n_blocks * j->block_rows * QSAE__ENCODE_KB;
    if (!qsae__mul_i64(chunks, j->chunk, &size))
        return QSAE_ENOMEM;
    j->x = qsae__alloc_array(j->sae->ctx, size, sizeof *j->x);
    if (!j->x)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < j->n_blocks; i++)
        j->block[i].x = j->x + i * j->block_rows * QSAE__ENCODE_KB;
    return QSAE_OK;
}

int32_t qsae__screen_worker_open(const qsae__encode_job *j, qsae__encode_worker *w)
{
    qsae_context *const ctx = j->sae->ctx;
    const int64_t rows = j->block_rows;
    const int64_t strip = j->sae->screen->w->steps * QSAE__STRIP_STEP;
    w->strips = qsae__alloc_array(ctx, qsae__ceil_div(rows, QSAE__STRIP), (size_t)strip);
    w->a = qsae__alloc_array(ctx, rows, sizeof *w->a);
    w->b = qsae__alloc_array(ctx, rows, sizeof *w->b);
    return w->strips && w->a && w->b ? QSAE_OK : QSAE_ENOMEM;
}

void qsae__screen_worker_close(qsae_context *ctx, qsae__encode_worker *w)
{
    qsae__free(ctx, w->strips);
    qsae__free(ctx, w->a);
    qsae__free(ctx, w->b);
    exact_close(ctx, &w->exact);
}

/* a and b of a row. */
static void row_bounds(const qsae__sparse_ops *ops, const struct qsae__screen *s, const float *x,
                       int64_t d, float *a, float *b)
{
    double sum[QSAE__COLUMNS] = { 0 }, rest[QSAE__COLUMNS] = { 0 };
    const int64_t whole = d / QSAE__COLUMNS;
    ops->squares(x, whole, sum, rest);
    if (whole * QSAE__COLUMNS < d) {
        float last[QSAE__COLUMNS] = { 0 };
        memcpy(last, x + whole * QSAE__COLUMNS,
               (size_t)(d - whole * QSAE__COLUMNS) * sizeof *last);
        ops->squares(last, 1, sum, rest);
    }
    for (int i = 1; i < QSAE__COLUMNS; i++) {
        sum[0] += sum[i];
        rest[0] += rest[i];
    }
    const double nx = norm(sum[0]), rx = norm(rest[0]), xb = nx + rx;
    const double wide = 1 + 16 * U;
    const bool fits = xb < INFINITY;
    *a = fits ? up((rx + s->h_error * nx + (s->s_error + 8 * U) * xb) * wide) : INFINITY;
    *b = fits ? up((1 + s->s_error + 8 * U) * xb * wide) : INFINITY;
}

void qsae__screen_rows(const qsae__encode_job *j, const struct qsae__screen *s, const float *x,
                       int64_t rows, uint8_t *strips, float *chunks, float *a, float *b)
{
    const qsae__pack_ops *const pack = qsae__packed_get(j->sae->ctx)->pack;
    const int64_t d = j->sae->config.d_in;
    for (int64_t r = 0; r < rows; r += QSAE__STRIP)
        pack->rows(QSAE_F32, x + r * d, d, qsae__min_i64(QSAE__STRIP, rows - r), d,
                   strips + r / QSAE__STRIP * s->steps * QSAE__STRIP_STEP);
    for (int64_t r = 0; r < rows; r++) {
        row_bounds(j->ops, s, x + r * d, d, &a[r], &b[r]);
        for (int64_t k = 0; k < d; k += QSAE__ENCODE_KB)
            memcpy(chunks + k / QSAE__ENCODE_KB * j->chunk + r * QSAE__ENCODE_KB, x + r * d + k,
                   (size_t)qsae__min_i64(QSAE__ENCODE_KB, d - k) * sizeof *x);
    }
}

void qsae__screen_multiply(const qsae_context *ctx, int64_t steps, const uint8_t *strips,
                           int64_t rows, const uint8_t *packed, int64_t n, float *tile)
{
    const qsae__packed_kernel *const kernel = qsae__packed_get(ctx);
    const int64_t slabs = qsae__ceil_div(steps, kernel->slab);
    const int64_t slab = qsae__ceil_div(steps, slabs), panel = steps * QSAE__PANEL_STEP;
    qsae__packed_product p = { .m = rows, .n = n, .a_strip = steps * QSAE__STRIP_STEP,
                               .parts = 1, .w_panel = panel, .c = tile, .ldc = QSAE__ENCODE_NB };
    for (int64_t t = 0; t < steps; t += slab) {
        p.steps = qsae__min_i64(slab, steps - t);
        p.add = t > 0;
        p.a = strips + t * QSAE__STRIP_STEP;
        p.w = packed + t * QSAE__PANEL_STEP;
        kernel->bf16(&p);
    }
}

int32_t qsae__screen_block(const qsae__encode_job *j, qsae__encode_block *b,
                           qsae__encode_worker *w, bool *dense)
{
    const qsae_sae *const sae = j->sae;
    const struct qsae__screen *const s = sae->screen;
    const int64_t features = sae->config.d_sae;
    const int64_t share = qsae__max_i64(features / 16, qsae__min_i64(2 * sae->config.k,
                                                                     features / 8));
    const int64_t most =
        b->rows * (sae->screening == QSAE__SCREEN_ALWAYS ? features : share);
    int32_t st = QSAE_OK;
    b->n = 0;
    b->screened = true;
    qsae__screen_rows(j, s, w->x, b->rows, w->strips, b->x, w->a, w->b);
    for (int64_t r = 0; w->heap && r < b->rows; r++)
        w->heap_size[r] = 0;
    *dense = false;
    for (int64_t n0 = 0; n0 < features && st == QSAE_OK && !*dense; n0 += QSAE__ENCODE_NB) {
        const int64_t n1 = qsae__min_i64(n0 + QSAE__ENCODE_NB, features);
        qsae__screen_multiply(sae->ctx, s->steps, w->strips, b->rows,
                              s->w->data + n0 / QSAE__COLUMNS * s->w->panel, n1 - n0, w->tile);
        st = qsae__encode_tile(j, s, b, w, n0, n1);
        if (b->n > most)
            qsae__encode_thin(sae, b, w, n0 / QSAE__ENCODE_NB + 1);
        *dense = b->n > most;
    }
    return st;
}

/* The candidates of a tile of features, by panel; start[TILE_PANELS + 1]. */
static int32_t collect(const qsae__encode_job *j, int64_t tile, qsae__exact *x, int64_t *start)
{
    int64_t at[TILE_PANELS] = { 0 };
    memset(start, 0, (TILE_PANELS + 1) * sizeof *start);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < j->n_found; i++) {
            const qsae__encode_block *const b = &j->block[i];
            for (int64_t e = b->tile[tile]; b->screened && e < b->tile[tile + 1]; e++) {
                qsae__entry *const entry = &b->entry[e];
                const int64_t f = entry->feature - tile * QSAE__ENCODE_NB;
                const int64_t to = at[f / QSAE__COLUMNS]++;
                if (pass == 0)
                    continue;
                x->x[to] = b->x + entry->row * QSAE__ENCODE_KB;
                x->column[to] = (int32_t)(f % QSAE__COLUMNS);
                x->entry[to] = entry;
            }
        }
        for (int p = 0; pass == 0 && p < TILE_PANELS; p++) {
            start[p + 1] = start[p] + qsae__ceil_div(at[p], QSAE__PAIRS) * QSAE__PAIRS;
            at[p] = start[p];
        }
        const int32_t st = exact_open(j->sae->ctx, x, start[TILE_PANELS]);
        if (st != QSAE_OK)
            return st;
    }
    for (int p = 0; p < TILE_PANELS; p++)
        for (int64_t i = at[p]; i < start[p + 1]; i++) {
            x->x[i] = x->x[start[p]];
            x->column[i] = x->column[start[p]];
            x->entry[i] = NULL;
        }
    return QSAE_OK;
}

/* Fetches the rows of the next group while one is computed. */
static void fetch(const float *const *x, int64_t at)
{
    for (int l = 0; l < QSAE__PAIRS; l++)
        for (int i = 0; i < QSAE__ENCODE_KB; i += 16)
            __builtin_prefetch(x[l] + at + i);
}

/* Part k0..k1 of the products, which lies in one block of the definition; last ends the block. */
static void add_chunk(const qsae__encode_job *j, qsae__encode_worker *w, const int64_t *start,
                      int64_t n0, int64_t k0, int64_t k1, bool last)
{
    const int64_t n1 = qsae__min_i64(n0 + QSAE__ENCODE_NB, j->sae->config.d_sae);
    const int64_t at = k0 / QSAE__ENCODE_KB * j->chunk, kb = k1 - k0;
    qsae__exact *const x = &w->exact;
    if (k0 % QSAE__GEMM_KB == 0)
        for (int64_t i = 0; i < start[TILE_PANELS]; i++)
            x->part[i] = 0;
    for (int p = 0, q; p < TILE_PANELS; p = q > p ? q : p + 1) {
        for (q = p; q < TILE_PANELS && start[q + 1] > start[q]; q++)
            ; /* a run of panels that have candidates */
        if (q > p)
            j->panels.fill(j->panels.self, n0 + p * QSAE__COLUMNS,
                           qsae__min_i64(n0 + q * QSAE__COLUMNS, n1), k0, k1, w->panels,
                           QSAE__COLUMNS);
        for (int c = p; c < q; c++)
            for (int64_t i = start[c]; i < start[c + 1]; i += QSAE__PAIRS) {
                if (i + QSAE__PAIRS < start[TILE_PANELS])
                    fetch(x->x + i + QSAE__PAIRS, at);
                j->ops->pairs(at, kb, x->x + i, w->panels + (c - p) * QSAE__COLUMNS * kb,
                              x->column + i, x->part + i);
            }
    }
    if (last)
        for (int64_t i = 0; i < start[TILE_PANELS]; i++)
            x->sum[i] = k1 > QSAE__GEMM_KB ? x->sum[i] + x->part[i] : x->part[i];
}

int32_t qsae__screen_exact(void *job, int64_t tile, int32_t worker)
{
    const qsae__encode_job *const j = job;
    qsae__encode_worker *const w = &j->worker[worker];
    const int64_t d = j->sae->config.d_in;
    int64_t start[TILE_PANELS + 1];
    int32_t st = qsae__canceled(j->sae->cancel);
    if (st == QSAE_OK)
        st = collect(j, tile, &w->exact, start);
    if (st != QSAE_OK || start[TILE_PANELS] == 0)
        return st;
    for (int64_t k0 = 0, k1; k0 < d; k0 = k1) {
        k1 = qsae__min_i64(d, k0 + QSAE__ENCODE_KB);
        add_chunk(j, w, start, tile * QSAE__ENCODE_NB, k0, k1, k1 % QSAE__GEMM_KB == 0 || k1 == d);
    }
    for (int64_t i = 0; i < start[TILE_PANELS]; i++)
        if (w->exact.entry[i])
            w->exact.entry[i]->value = w->exact.sum[i];
    return QSAE_OK;
}
