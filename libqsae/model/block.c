/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/block.h"

#include <math.h>

#define ROW_TILE 16

typedef void (*row_fn)(const void *arg, int64_t row);

struct row_job {
    row_fn fn;
    const void *arg;
    int64_t rows;
};

static int32_t row_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct row_job *const j = arg;
    const int64_t end = qsae__min_i64(j->rows, (tile + 1) * ROW_TILE);
    (void)worker;
    for (int64_t r = tile * ROW_TILE; r < end; r++)
        j->fn(j->arg, r);
    return QSAE_OK;
}

static int32_t each_row(const qsae__run *run, row_fn fn, const void *arg)
{
    struct row_job j = { fn, arg, run->rows };
    return qsae__parallel(run->m->ctx, qsae__ceil_div(j.rows, ROW_TILE), row_tile, &j);
}

void qsae__norm_vector(const qsae__run *run, const float *w, const float *x, float *y, int64_t n)
{
    const qsae__config *const c = run->m->config;
    const float mean = run->ops->sum_sq(x, n) / (float)n;
    const float r = 1.0f / sqrtf(mean + (float)c->eps);
    if (c->family->norm == QSAE__NORM_GEMMA)
        run->ops->norm_gemma(x, r, w, y, n, run->bf16);
    else
        run->ops->norm_llama(x, r, w, y, n, run->bf16);
}

struct vectors {
    const qsae__run *run;
    const float *w, *from;
    float *a, *to;
};

static void norm_row(const void *arg, int64_t row)
{
    const struct vectors *const v = arg;
    const int64_t d = v->run->m->config->width;
    qsae__norm_vector(v->run, v->w, v->from + row * d, v->to + row * d, d);
}

int32_t qsae__norm_rows(const qsae__run *run, const float *w, const float *x, float *y)
{
    const struct vectors v = { .run = run, .w = w, .from = x, .to = y };
    return each_row(run, norm_row, &v);
}

static void add_row(const void *arg, int64_t row)
{
    const struct vectors *const v = arg;
    const int64_t d = v->run->m->config->width;
    float *const a = v->a + row * d, *const x = v->to + row * d;
    if (v->w)
        qsae__norm_vector(v->run, v->w, a, a, d);
    v->run->ops->add(x, a, x, d, v->run->bf16);
}

int32_t qsae__add_rows(const qsae__run *run, const float *w, float *a, float *x)
{
    const struct vectors v = { .run = run, .w = w, .a = a, .to = x };
    return each_row(run, add_row, &v);
}

struct heads {
    const qsae__run *run;
    const qsae__layer *layer;
    const float *cosine, *sine; /* [n_tokens, head_dim / 2] */
};

/* QK-norm where there is one, then rotation, of one row's query and key heads. */
static void rotate_row(const void *arg, int64_t row)
{
    const struct heads *const h = arg;
    const qsae__run *const run = h->run;
    const qsae__config *const c = run->m->config;
    const int64_t d = c->head_dim, at = row % run->slab->n_tokens * (d / 2);
    for (int64_t i = 0; i < c->heads + c->kv_heads; i++) {
        const bool is_q = i < c->heads;
        float *const x = is_q ? run->b.q + (row * c->heads + i) * d
                              : run->b.k + (row * c->kv_heads + i - c->heads) * d;
        const float *const w = h->layer->norm[is_q ? QSAE__NORM_Q : QSAE__NORM_K];
        if (w)
            qsae__norm_vector(run, w, x, x, d);
        run->ops->rope(x, h->cosine + at, h->sine + at, x, d / 2, run->bf16);
    }
}

static int32_t project(const qsae__run *run, int64_t layer, int p, const float *x, float *y)
{
    const qsae__linear *const l = run->m->layers[layer].proj[p];
    return qsae__linear_apply(l, run->rows, x, qsae__linear_in(l), y, qsae__linear_out(l));
}

int32_t qsae__attention_part(const qsae__run *run, int64_t layer)
{
    const qsae_model *const m = run->m;
    const qsae__config *const c = m->config;
    const int type = c->sliding[layer] ? QSAE__SLIDING : QSAE__FULL;
    int32_t st = project(run, layer, QSAE__Q_PROJ, run->b.normed, run->b.q);
    if (st == QSAE_OK)
        st = project(run, layer, QSAE__K_PROJ, run->b.normed, run->b.k);
    if (st == QSAE_OK)
        st = project(run, layer, QSAE__V_PROJ, run->b.normed, run->b.v);
    if (st != QSAE_OK)
        return st;
    const struct heads h = { run, &m->layers[layer], m->rope.cosine[type], m->rope.sine[type] };
    st = each_row(run, rotate_row, &h);
    if (st != QSAE_OK)
        return st;
    const qsae__attention a = {
        .q = run->b.q,
        .k = run->b.k,
        .v = run->b.v,
        .z = run->b.z,
        .n_seq = run->slab->n_seq,
        .n_tokens = run->slab->n_tokens,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .window = c->sliding[layer] ? c->window : 0,
        .scale = (float)c->attn_scale,
        .mode = m->attention,
        .bf16 = run->bf16,
        .worker = run->b.worker,
        .worker_floats = run->b.worker_floats,
    };
    st = qsae__attention_run(m->ctx, &a);
    return st == QSAE_OK ? project(run, layer, QSAE__O_PROJ, run->b.z, run->b.out) : st;
}

/* gate = act(gate) * up; two roundings */
static void gate_row(const void *arg, int64_t row)
{
    const qsae__run *const run = arg;
    const qsae__config *const c = run->m->config;
    const int64_t n = c->mlp_width;
    float *const g = run->b.gate + row * n;
    if (c->activation == QSAE__ACT_SILU)
        run->ops->silu(g, g, n);
    else
        run->ops->gelu_tanh(g, g, n);
    if (run->bf16)
        run->ops->round_bf16(g, n);
    run->ops->mul(g, run->b.up + row * n, g, n, run->bf16);
}

int32_t qsae__mlp_part(const qsae__run *run, int64_t layer)
{
    int32_t st = project(run, layer, QSAE__GATE_PROJ, run->b.normed, run->b.gate);
    if (st == QSAE_OK)
        st = project(run, layer, QSAE__UP_PROJ, run->b.normed, run->b.up);
    if (st == QSAE_OK)
        st = each_row(run, gate_row, run);
    return st == QSAE_OK ? project(run, layer, QSAE__DOWN_PROJ, run->b.gate, run->b.out) : st;
}

int32_t qsae__block_sequential(const qsae__run *run, int64_t layer)
{
    const float *const *const norm = run->m->layers[layer].norm;
    float *const x = run->slab->x;
    int32_t st = qsae__norm_rows(run, norm[QSAE__NORM_ATTN_IN], x, run->b.normed);
    if (st == QSAE_OK)
        st = qsae__attention_part(run, layer);
    if (st == QSAE_OK)
        st = qsae__add_rows(run, norm[QSAE__NORM_ATTN_OUT], run->b.out, x);
    if (st == QSAE_OK)
        st = qsae__norm_rows(run, norm[QSAE__NORM_MLP_IN], x, run->b.normed);
    if (st == QSAE_OK)
        st = qsae__mlp_part(run, layer);
    return st == QSAE_OK ? qsae__add_rows(run, norm[QSAE__NORM_MLP_OUT], run->b.out, x) : st;
}
