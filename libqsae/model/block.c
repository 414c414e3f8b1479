/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/block.h"

#include <math.h>
#include <string.h>

#include "model/extras.h"

#define ROW_TILE 16

struct row_job {
    qsae__row_fn fn;
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

int32_t qsae__each_row(const qsae__run *run, int64_t rows, qsae__row_fn fn, const void *arg)
{
    struct row_job j = { fn, arg, rows };
    return qsae__parallel(run->m->ctx, qsae__ceil_div(j.rows, ROW_TILE), row_tile, &j);
}

static int32_t each_row(const qsae__run *run, qsae__row_fn fn, const void *arg)
{
    return qsae__each_row(run, run->rows, fn, arg);
}

void qsae__norm_vector(const qsae__run *run, const float *w, const float *x, float *y, int64_t n)
{
    const qsae__config *const c = run->m->config;
    if (c->family->norm == QSAE__NORM_LAYER) {
        float mean, variance;
        run->ops->moments(x, n, &mean, &variance);
        run->ops->norm_layer(x, mean, 1.0f / sqrtf(variance + (float)c->eps), w, w + n, y, n,
                             run->bf16);
        return;
    }
    const float mean = run->ops->sum_sq(x, n) / (float)n;
    const float r = 1.0f / sqrtf(mean + (float)c->eps);
    if (c->family->norm == QSAE__NORM_PLAIN) {
        if (w)
            run->ops->norm_llama(x, r, w, y, n, 0);
        else
            run->ops->scale(x, r, y, n);
        if (run->bf16)
            run->ops->round_bf16(y, n);
        return;
    }
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
    qsae__layer_shape shape;
    int64_t kv_heads;           /* 0 where keys and values are an earlier layer's */
    const float *cosine, *sine; /* [n_tokens, pairs] */
    int64_t pairs;
};

/* Row of q, k and v together, taken apart. Head a of part p (q, k, v) is its vector 3 a + p or
 * p heads + a. */
static void split_row(const struct heads *h, int64_t row)
{
    const qsae__config *const c = h->run->m->config;
    const int64_t d = c->head_dim, size = c->heads * d;
    const bool by_head = c->family->qkv == QSAE__QKV_BY_HEAD;
    const float *const from = h->run->b.z + row * 3 * size;
    float *const to[] = { h->run->b.q, h->run->b.k, h->run->b.v };
    for (int p = 0; p < 3; p++)
        for (int64_t a = 0; a < c->heads; a++)
            memcpy(to[p] + row * size + a * d, from + (by_head ? 3 * a + p : p * c->heads + a) * d,
                   (size_t)d * sizeof *from);
}

/* QK-norm where there is one, then rotation where there is one, of one row's query and key heads;
 * norms of its values. */
static void rotate_row(const void *arg, int64_t row)
{
    const struct heads *const h = arg;
    const qsae__run *const run = h->run;
    const qsae__config *const c = run->m->config;
    const int64_t d = h->shape.head_dim, kv_heads = h->kv_heads, pairs = h->pairs;
    const int64_t at = row % run->slab->n_tokens * pairs;
    if (c->family->qkv)
        split_row(h, row);
    if (h->shape.no_v)
        memcpy(run->b.v + row * kv_heads * d, run->b.k + row * kv_heads * d,
               (size_t)(kv_heads * d) * sizeof *run->b.k);
    for (int64_t i = 0; c->family->v_norm && i < kv_heads; i++) {
        float *const x = run->b.v + (row * kv_heads + i) * d;
        qsae__norm_vector(run, NULL, x, x, d);
    }
    for (int64_t i = 0; i < c->heads + kv_heads; i++) {
        const bool is_q = i < c->heads;
        float *const x = is_q ? run->b.q + (row * c->heads + i) * d
                              : run->b.k + (row * kv_heads + i - c->heads) * d;
        const float *const w = h->layer->norm[is_q ? QSAE__NORM_Q : QSAE__NORM_K];
        if (w)
            qsae__norm_vector(run, w, x, x, d);
        if (pairs)
            run->ops->rope(x, h->cosine + at, h->sine + at, x, pairs, run->bf16);
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
    const qsae__layer_shape shape = qsae__layer_shape_of(c, layer);
    const bool shared = shape.kv_layer != layer; /* keys and values are there, coded */
    const int n_qkv = shared ? 1 : shape.no_v ? 2 : 3;
    const qsae__linear_rows x = { run->b.normed, QSAE_F32, run->rows, c->width };
    const bool fused = c->family->qkv != QSAE__QKV_SEPARATE;
    float *const qkv[] = { run->b.q, run->b.k, run->b.v }, *const out[] = { run->b.out };
    float *const together[] = { run->b.z };
    int32_t st = fused ? project(run, layer, QSAE__FUSED_QKV, 1, &x, together, NULL)
                       : project(run, layer, QSAE__Q_PROJ, n_qkv, &x, qkv, NULL);
    if (st != QSAE_OK)
        return st;
    const struct heads h = { run, &m->layers[layer], shape, shared ? 0 : shape.kv_heads,
                             m->rope.cosine[type], m->rope.sine[type], qsae__rope_pairs(c, type) };
    st = each_row(run, rotate_row, &h);
    if (st == QSAE_OK && !shared)
        st = qsae__code_kv(run, layer);
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
        .kv_heads = shape.kv_heads,
        .head_dim = shape.head_dim,
        .window = c->sliding[layer] ? c->window : 0,
        .scale = (float)(c->scale_by_layer ? c->attn_scale / (double)(layer + 1) : c->attn_scale),
        .cap = (float)c->attn_cap,
        .mode = m->attention,
        .bf16 = run->bf16,
        .worker = run->b.worker,
        .worker_floats = run->b.worker_floats,
        .panels = run->b.panels,
    };
    st = qsae__attention_run(m->ctx, &a);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, QSAE_SITE_Z, run->b.z, c->heads * shape.head_dim);
    const qsae__linear_rows z = { run->b.z, QSAE_F32, run->rows, c->heads * shape.head_dim };
    return st == QSAE_OK ? project(run, layer, fused ? QSAE__FUSED_OUT : QSAE__O_PROJ, 1, &z, out,
                                   NULL)
                         : st;
}

/* x = act(x), rounded */
static void activate(const qsae__run *run, float *x, int64_t n)
{
    switch (run->m->config->activation) {
    case QSAE__ACT_SILU:
        run->ops->silu(x, x, n);
        break;
    case QSAE__ACT_GELU_TANH:
        run->ops->gelu_tanh(x, x, n);
        break;
    case QSAE__ACT_GELU:
        run->ops->gelu(x, x, n);
        break;
    case QSAE__ACT_GELU_NEW:
        run->ops->gelu_new(x, x, n, run->bf16);
        return;
    }
    if (run->bf16)
        run->ops->round_bf16(x, n);
}

void qsae__gate_part(const void *arg, float *gate, const float *up, int64_t n)
{
    const qsae__run *const run = arg;
    activate(run, gate, n);
    run->ops->mul(gate, up, gate, n, run->bf16);
}

static void activate_row(const void *arg, int64_t row)
{
    const qsae__run *const run = arg;
    const int64_t n = run->m->config->mlp_width;
    activate(run, run->b.gate + row * n, n);
}

/* run->b.out = W2 act(W1 normed + b1) + b2 */
static int32_t plain_mlp(const qsae__run *run, int64_t layer)
{
    const qsae__config *const c = run->m->config;
    const qsae__linear_rows x = { run->b.normed, QSAE_F32, run->rows, c->width };
    const qsae__linear_rows inner = { run->b.gate, QSAE_F32, run->rows, c->mlp_width };
    float *const up[] = { run->b.gate }, *const out[] = { run->b.out };
    int32_t st = project(run, layer, QSAE__FUSED_UP, 1, &x, up, NULL);
    if (st == QSAE_OK)
        st = each_row(run, activate_row, run);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, QSAE_SITE_MLP_POST, run->b.gate, c->mlp_width);
    return st == QSAE_OK ? project(run, layer, QSAE__FUSED_DOWN, 1, &inner, out, NULL) : st;
}

int32_t qsae__mlp_part(const qsae__run *run, int64_t layer)
{
    const qsae__config *const c = run->m->config;
    int32_t st = qsae__watch_rows(run, layer, QSAE_SITE_MLP_IN, run->b.normed, c->width);
    if (st != QSAE_OK || c->family->qkv)
        return st == QSAE_OK ? plain_mlp(run, layer) : st;
    /* The product that comes next reads bf16 rows as they are where it has bf16 instructions; row
     * for row they take the place of the gate's. Who watches them gets f32. */
    const bool half = run->bf16 && qsae__packed_get(run->m->ctx)->bf16 &&
                      !qsae__watched(run, layer, QSAE_SITE_MLP_POST);
    const int32_t dtype = half ? QSAE_BF16 : QSAE_F32;
    const int64_t width = qsae__layer_shape_of(c, layer).mlp_width, ld = half ? 2 * width : width;
    const qsae__linear_rows x = { run->b.normed, QSAE_F32, run->rows, c->width };
    const qsae__linear_rows inner = { run->b.gate, dtype, run->rows, ld };
    const qsae__linear_gate gate = { qsae__gate_part, run, run->b.gate, ld, dtype };
    float *const both[] = { run->b.gate, run->b.up }, *const out[] = { run->b.out };
    st = project(run, layer, QSAE__GATE_PROJ, 2, &x, both, &gate);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, QSAE_SITE_MLP_POST, run->b.gate, width);
    return st == QSAE_OK ? project(run, layer, QSAE__DOWN_PROJ, 1, &inner, out, NULL) : st;
}

int32_t qsae__block_sequential(const qsae__run *run, int64_t layer)
{
    const float *const *const norm = run->m->layers[layer].norm;
    float *const x = run->slab->x, *const normed = run->b.normed, *const out = run->b.out;
    int32_t st = qsae__norm_rows_at(run, layer, QSAE_SITE_LN1_NORMALIZED, norm[QSAE__NORM_ATTN_IN],
                                    x, normed);
    if (st == QSAE_OK)
        st = qsae__attention_part(run, layer);
    if (st == QSAE_OK)
        st = qsae__add_rows_at(run, layer, QSAE_SITE_ATTN_OUT, norm[QSAE__NORM_ATTN_OUT], out, x);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, QSAE_SITE_RESID_MID, x, run->m->config->width);
    if (st == QSAE_OK)
        st = qsae__norm_rows_at(run, layer, QSAE_SITE_LN2_NORMALIZED, norm[QSAE__NORM_MLP_IN], x,
                                normed);
    if (st == QSAE_OK)
        st = qsae__mlp_part(run, layer);
    if (st == QSAE_OK && run->m->config->experts)
        st = qsae__experts_part(run, layer);
    return st == QSAE_OK ? qsae__add_rows_at(run, layer, QSAE_SITE_MLP_OUT,
                                             norm[QSAE__NORM_MLP_OUT], out, x)
                         : st;
}

static void sum_row(const void *arg, int64_t row)
{
    const qsae__run *const run = arg;
    const int64_t d = run->m->config->width;
    float *const x = run->slab->x + row * d, *const mlp = run->b.out + row * d;
    run->ops->add(mlp, run->b.second + row * d, mlp, d, run->bf16);
    run->ops->add(mlp, x, x, d, run->bf16);
}

int32_t qsae__block_parallel(const qsae__run *run, int64_t layer)
{
    const float *const *const norm = run->m->layers[layer].norm;
    const float *const x = run->slab->x;
    const int64_t d = run->m->config->width;
    qsae__run attention = *run;
    attention.b.out = run->b.second;
    int32_t st = qsae__norm_rows_at(run, layer, QSAE_SITE_LN1_NORMALIZED, norm[QSAE__NORM_ATTN_IN],
                                    x, run->b.normed);
    if (st == QSAE_OK)
        st = qsae__attention_part(&attention, layer);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, QSAE_SITE_ATTN_OUT, run->b.second, d);
    if (st == QSAE_OK)
        st = qsae__norm_rows_at(run, layer, QSAE_SITE_LN2_NORMALIZED, norm[QSAE__NORM_MLP_IN], x,
                                run->b.normed);
    if (st == QSAE_OK)
        st = qsae__mlp_part(run, layer);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, layer, QSAE_SITE_MLP_OUT, run->b.out, d);
    return st == QSAE_OK ? each_row(run, sum_row, run) : st;
}
