/* SPDX-License-Identifier: BSD-2-Clause */
/* Sites inside blocks: rows are shown where somebody watches. What runs together where nobody does
 * is taken apart there, with the same bits. */
#include <math.h>

#include "model/block.h"

#define PIECE 256 /* columns that the constants below serve at once */
#define ROW_TILE 16

bool qsae__watched(const qsae__run *run, int64_t layer, int32_t site)
{
    const qsae__watch *const w = run->slab->watch;
    return w && w->wants(w->self, layer, site);
}

int32_t qsae__watch_rows(const qsae__run *run, int64_t layer, int32_t site, float *rows,
                         int64_t cols)
{
    const qsae__watch *const w = run->slab->watch;
    const int32_t st = qsae__canceled(run->slab->cancel);
    if (st != QSAE_OK)
        return st;
    return qsae__watched(run, layer, site)
               ? w->rows(w->self, layer, site, rows, run->rows, cols, cols)
               : QSAE_OK;
}

struct norm_job {
    const qsae__run *run;
    const float *w, *from;
    float *to;
    bool gain; /* second half: to = gain to + bias; else to = normalized from */
};

/*
 * The family's norm cut in two: with gain one and bias zero, and with mean zero and factor one. The
 * kernels multiply in that order, and a product by one is exact. -0 is the bias that changes
 * nothing, the sign of zero included.
 */
static void half_row(const struct norm_job *j, int64_t row)
{
    const qsae__run *const run = j->run;
    const qsae__config *const c = run->m->config;
    const enum qsae__norm_kind kind = c->family->norm;
    const int64_t d = c->width;
    const float *const x = (j->gain ? j->to : j->from) + row * d;
    float *const y = j->to + row * d;
    float unit[PIECE], zero[PIECE], mean = 0, r = 1;
    for (int i = 0; i < PIECE; i++) {
        unit[i] = kind == QSAE__NORM_GEMMA ? 0.0f : 1.0f;
        zero[i] = -0.0f;
    }
    if (!j->gain && kind == QSAE__NORM_LAYER) {
        run->ops->moments(x, d, &mean, &r);
        r = 1.0f / sqrtf(r + (float)c->eps);
    } else if (!j->gain) {
        r = 1.0f / sqrtf(run->ops->sum_sq(x, d) / (float)d + (float)c->eps);
    }
    const int32_t bf16 = j->gain && run->bf16;
    for (int64_t i = 0, n; i < d; i += n) {
        n = qsae__min_i64(d - i, PIECE);
        const float *const w = j->gain ? j->w + i : unit;
        if (kind == QSAE__NORM_LAYER)
            run->ops->norm_layer(x + i, mean, r, w, j->gain ? w + d : zero, y + i, n, bf16);
        else if (kind == QSAE__NORM_GEMMA)
            run->ops->norm_gemma(x + i, r, w, y + i, n, bf16);
        else
            run->ops->norm_llama(x + i, r, w, y + i, n, bf16 && kind != QSAE__NORM_PLAIN);
        if (bf16 && kind == QSAE__NORM_PLAIN)
            run->ops->round_bf16(y + i, n);
    }
}

static int32_t half_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct norm_job *const j = arg;
    const int64_t end = qsae__min_i64(j->run->rows, (tile + 1) * ROW_TILE);
    (void)worker;
    for (int64_t r = tile * ROW_TILE; r < end; r++)
        half_row(j, r);
    return QSAE_OK;
}

int32_t qsae__norm_rows_at(const qsae__run *run, int64_t layer, int32_t site, const float *w,
                           const float *x, float *y)
{
    struct norm_job j = { .run = run, .w = w, .from = x, .to = y };
    const int64_t tiles = qsae__ceil_div(run->rows, ROW_TILE);
    if (!qsae__watched(run, layer, site))
        return qsae__norm_rows(run, w, x, y);
    int32_t st = qsae__parallel(run->m->ctx, tiles, half_tile, &j);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, site, y, run->m->config->width);
    j.gain = true;
    return st == QSAE_OK ? qsae__parallel(run->m->ctx, tiles, half_tile, &j) : st;
}

int32_t qsae__add_rows_at(const qsae__run *run, int64_t layer, int32_t site, const float *w,
                          float *a, float *x)
{
    if (!qsae__watched(run, layer, site))
        return qsae__add_rows(run, w, a, x);
    int32_t st = w ? qsae__norm_rows(run, w, a, a) : QSAE_OK;
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, site, a, run->m->config->width);
    return st == QSAE_OK ? qsae__add_rows(run, NULL, a, x) : st;
}
