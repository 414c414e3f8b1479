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

/* y[i][rows, out] = x W_i^T for n projections from p on, which read the same rows. */
static int32_t project(const qsae__run *run, int64_t layer, int p, int n,
                       const qsae__linear_rows *x, float *const *y, const qsae__linear_gate *gate)
{
    const qsae__linear *const *const l =
        (const qsae__linear *const *)run->m->layers[layer].proj + p;
    int64_t ldy[QSAE__PROJ_COUNT];
    for (int i = 0; i < n; i++)
        ldy[i] = qsae__linear_out(l[i]);
    return qsae__linear_apply(l, n, x, y, ldy, gate, run->b.linear);
}

int32_t qsae__attention_part(const qsae__run *run, int64_t layer)
{
    const qsae_model *const m = run->m;
    const qsae__config *const c = m->config;
    const int type = c->sliding[layer] ? QSAE__SLIDING : QSAE__FULL;
    const qsae__linear_rows x = { run->b.normed, QSAE_F32, run->rows, c->width };
    float *const qkv[] = { run->b.q, run->b.k, run->b.v }, *const out[] = { run->b.out };
    int32_t st = project(run, layer, QSAE__Q_PROJ, 3, &x, qkv, NULL);
    if (st != QSAE_OK)
        return st;
    const struct heads h = { run, &m->layers[layer], m->rope.cosine[type], m->rope.sine[type] };
    st = each_row(run, rotate_row, &h);
    if (st == QSAE_OK)
        st = qsae__code_kv(run);
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
        .cap = (float)c->attn_cap,
        .mode = m->attention,
        .bf16 = run->bf16,
        .worker = run->b.worker,
        .worker_floats = run->b.worker_floats,
        .panels = run->b.panels,
    };
    st = qsae__attention_run(m->ctx, &a);
    const qsae__linear_rows z = { run->b.z, QSAE_F32, run->rows, c->heads * c->head_dim };
    return st == QSAE_OK ? project(run, layer, QSAE__O_PROJ, 1, &z, out, NULL) : st;
}

/* gate = act(gate) * up; two roundings */
static void gate_part(const void *arg, float *gate, const float *up, int64_t n)
{
    const qsae__run *const run = arg;
    if (run->m->config->activation == QSAE__ACT_SILU)
        run->ops->silu(gate, gate, n);
    else
        run->ops->gelu_tanh(gate, gate, n);
    if (run->bf16)
        run->ops->round_bf16(gate, n);
    run->ops->mul(gate, up, gate, n, run->bf16);
}

int32_t qsae__mlp_part(const qsae__run *run, int64_t layer)
{
    const qsae__config *const c = run->m->config;
    /* The product that comes next reads bf16 rows as they are where it has bf16 instructions; row
     * for row they take the place of the gate's. */
    const bool half = run->bf16 && qsae__packed_get(run->m->ctx)->bf16;
    const int32_t dtype = half ? QSAE_BF16 : QSAE_F32;
    const int64_t ld = half ? 2 * c->mlp_width : c->mlp_width;
    const qsae__linear_rows x = { run->b.normed, QSAE_F32, run->rows, c->width };
    const qsae__linear_rows inner = { run->b.gate, dtype, run->rows, ld };
    const qsae__linear_gate gate = { gate_part, run, run->b.gate, ld, dtype };
    float *const both[] = { run->b.gate, run->b.up }, *const out[] = { run->b.out };
    const int32_t st = project(run, layer, QSAE__GATE_PROJ, 2, &x, both, &gate);
    return st == QSAE_OK ? project(run, layer, QSAE__DOWN_PROJ, 1, &inner, out, NULL) : st;
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
