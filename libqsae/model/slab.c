/* SPDX-License-Identifier: BSD-2-Clause */
/* Slabs: all memory of a pass, allocated once; and the steps of the forward pass on them. */
#include <inttypes.h>
#include <string.h>

#include "model/block.h"

/* Positions are exact in f32 up to here. */
#define MAX_TOKENS (1 << 24)

/* Offsets in floats, each a multiple of 16. */
struct layout {
    int64_t normed, out, second, q, k, v, z, gate, up;
    int64_t worker, worker_floats, panels, linear, total;
    bool has_panels;
};

static bool place(int64_t *total, int64_t rows, int64_t columns, int64_t *offset)
{
    int64_t n;
    *offset = *total;
    return qsae__mul_i64(rows, columns, &n) && qsae__add_i64(n, 15, &n) &&
           qsae__add_i64(*total, n / 16 * 16, total);
}

/* Floats of scratch that any linear layer needs. */
static int32_t linear_floats(const qsae_model *m, int64_t rows, int64_t *floats)
{
    size_t most = 0, bytes;
    const int projs = qsae__projs(m->config);
    for (int64_t i = 0; i < m->config->layers * projs; i++) {
        const qsae__linear *const l = m->layers[i / projs].proj[i % projs];
        const int32_t st = qsae__linear_scratch(l, rows, &bytes);
        if (st != QSAE_OK)
            return st;
        most = bytes > most ? bytes : most;
    }
    *floats = (int64_t)(most / sizeof(float)) + 1;
    return QSAE_OK;
}

static int32_t lay_out(const qsae_model *m, int64_t n_seq, int64_t n_tokens, struct layout *l)
{
    const qsae__config *const c = m->config;
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    int64_t rows, mlp;
    memset(l, 0, sizeof *l);
    bool ok = qsae__mul_i64(n_seq, n_tokens, &rows) &&
              place(&l->total, rows, c->width, &l->normed) &&
              place(&l->total, rows, c->width, &l->out) &&
              place(&l->total, c->parallel ? rows : 0, c->width, &l->second);
    mlp = l->total; /* the MLP begins when attention is done: its buffers take the same place */
    ok = ok && place(&l->total, rows, q, &l->q) && place(&l->total, rows, kv, &l->k) &&
         place(&l->total, rows, kv, &l->v) &&
         place(&l->total, rows, c->family->qkv ? 3 * q : q, &l->z);
    ok = ok && place(&mlp, rows, c->mlp_width, &l->gate) && place(&mlp, rows, c->mlp_width, &l->up);
    l->total = qsae__max_i64(l->total, mlp);
    l->worker_floats =
        qsae__max_i64(qsae__kv_worker_floats(m),
                      qsae__attention_floats(c->heads, c->kv_heads, c->head_dim, n_tokens,
                                             m->attention));
    int64_t linear = 0, panels = 0;
    ok = ok && qsae__attention_panels(m->ctx, c->kv_heads, c->head_dim, n_tokens, m->attention,
                                      m->bf16, &panels) &&
         place(&l->total, n_seq, panels, &l->panels);
    l->has_panels = ok && panels > 0;
    if (ok) {
        const int32_t st = linear_floats(m, rows, &linear);
        if (st != QSAE_OK)
            return st;
    }
    if (!ok || !place(&l->total, m->ctx->threads, l->worker_floats, &l->worker) ||
        !place(&l->total, linear, 1, &l->linear))
        return qsae__fail(QSAE_EOVERFLOW,
                          "a pass over %" PRId64 " x %" PRId64 " tokens is too large", n_seq,
                          n_tokens);
    return QSAE_OK;
}

int32_t qsae__run_init(qsae_model *m, const qsae__slab *slab, qsae__run *run)
{
    struct layout l;
    size_t bytes;
    const int32_t st = lay_out(m, slab->n_seq, slab->n_tokens, &l);
    if (st != QSAE_OK)
        return st;
    if (slab->width != m->config->width || !qsae__bytes(l.total, sizeof(float), &bytes) ||
        bytes > slab->scratch_bytes || slab->n_tokens > m->rope.n_tokens)
        return qsae__fail(QSAE_EINVAL, "the slab was not opened for this model (%s)",
                          m->weights->path);
    float *const base = slab->scratch;
    *run = (qsae__run){
        .m = m,
        .slab = slab,
        .ops = qsae__ops_get(m->ctx),
        .rows = slab->n_seq * slab->n_tokens,
        .bf16 = m->bf16,
        .b = { .normed = base + l.normed,
               .out = base + l.out,
               .second = base + l.second,
               .q = base + l.q,
               .k = base + l.k,
               .v = base + l.v,
               .z = base + l.z,
               .gate = base + l.gate,
               .up = base + l.up,
               .worker = base + l.worker,
               .worker_floats = l.worker_floats,
               .panels = l.has_panels ? base + l.panels : NULL,
               .linear = base + l.linear },
    };
    return QSAE_OK;
}

int32_t qsae__run_floats(const qsae_model *m, int64_t n_seq, int64_t n_tokens, int64_t *floats)
{
    struct layout l;
    const int32_t st = lay_out(m, n_seq, n_tokens, &l);
    *floats = l.total;
    return st;
}

static int32_t check_positions(const qsae_model *m, int64_t n_tokens)
{
    if (!m->weights->positions || n_tokens <= m->config->max_positions)
        return QSAE_OK;
    return qsae__fail(QSAE_EINVAL, "%s: n_tokens %" PRId64 ": the model has %" PRId64
                      " learned positions", m->weights->path, n_tokens, m->config->max_positions);
}

/* Makes the model's rotary tables reach n_tokens. */
static int32_t grow_rope(qsae_model *m, int64_t n_tokens)
{
    const qsae__config *const c = m->config;
    const int64_t half = qsae__rotary_pairs(c), dim = c->rotary_dim ? c->rotary_dim : c->head_dim;
    qsae__rope_tables fresh = { .n_tokens = n_tokens };
    if (m->rope.n_tokens >= n_tokens)
        return QSAE_OK;
    bool ok = true;
    for (int t = 0; t < QSAE__LAYER_TYPES && ok && half > 0; t++) {
        fresh.cosine[t] = qsae__alloc_array(m->ctx, n_tokens * half, sizeof(float));
        fresh.sine[t] = qsae__alloc_array(m->ctx, n_tokens * half, sizeof(float));
        ok = fresh.cosine[t] && fresh.sine[t];
        if (ok)
            qsae__rope_table(&c->rope[t], dim, n_tokens, m->bf16, fresh.cosine[t],
                             fresh.sine[t]);
    }
    const qsae__rope_tables drop = ok ? m->rope : fresh;
    if (ok)
        m->rope = fresh;
    for (int t = 0; t < QSAE__LAYER_TYPES; t++) {
        qsae__free(m->ctx, drop.cosine[t]);
        qsae__free(m->ctx, drop.sine[t]);
    }
    return ok ? QSAE_OK : QSAE_ENOMEM;
}

int32_t qsae__slab_open(qsae_context *ctx, qsae_model *const *models, int64_t n_models,
                        int64_t n_seq, int64_t n_tokens, qsae__slab *out)
{
    int64_t most = 0, width = -1, rows;
    size_t scratch, residual;
    memset(out, 0, sizeof *out);
    if (n_seq < 1 || n_tokens < 1 || n_tokens > MAX_TOKENS)
        return qsae__fail(QSAE_EINVAL,
                          "n_seq %" PRId64 ", n_tokens %" PRId64
                          ": expected at least 1, at most %d tokens",
                          n_seq, n_tokens, MAX_TOKENS);
    for (int64_t i = 0; i < n_models; i++) {
        int64_t floats;
        if (!models[i])
            continue;
        if (width >= 0 && models[i]->config->width != width)
            return qsae__fail(QSAE_EMISMATCH, "models of width %" PRId64 " and %" PRId64
                              " cannot share a slab", width, models[i]->config->width);
        width = models[i]->config->width;
        int32_t st = check_positions(models[i], n_tokens);
        if (st == QSAE_OK)
            st = qsae__run_floats(models[i], n_seq, n_tokens, &floats);
        if (st == QSAE_OK)
            st = grow_rope(models[i], n_tokens);
        if (st != QSAE_OK)
            return st;
        most = qsae__max_i64(most, floats);
    }
    if (width < 0)
        return qsae__fail(QSAE_EINVAL, "a slab needs a model");
    if (!qsae__mul_i64(n_seq, n_tokens, &rows) || !qsae__mul_i64(rows, width, &rows) ||
        !qsae__bytes(rows, sizeof(float), &residual) || !qsae__bytes(most, sizeof(float), &scratch))
        return qsae__fail(QSAE_EOVERFLOW,
                          "a pass over %" PRId64 " x %" PRId64 " tokens is too large", n_seq,
                          n_tokens);
    out->ctx = qsae__context_ref(ctx);
    out->n_seq = n_seq;
    out->n_tokens = n_tokens;
    out->width = width;
    out->x = qsae__alloc(ctx, residual);
    out->scratch = qsae__alloc(ctx, scratch);
    out->scratch_bytes = scratch;
    if (out->x && out->scratch)
        return QSAE_OK;
    qsae__slab_close(out);
    return QSAE_ENOMEM;
}

void qsae__slab_close(qsae__slab *slab)
{
    if (!slab || !slab->ctx)
        return;
    qsae__free(slab->ctx, slab->x);
    qsae__free(slab->ctx, slab->scratch);
    qsae__context_unref(slab->ctx);
    memset(slab, 0, sizeof *slab);
}

int32_t qsae__model_check_ids(const qsae_model *m, const int32_t *ids, int64_t n_seq,
                              int64_t n_tokens)
{
    for (int64_t i = 0; i < n_seq * n_tokens; i++)
        if (ids[i] < 0 || ids[i] >= m->config->vocab)
            return qsae__fail(QSAE_EINVAL,
                              "token id %" PRId32 " at sequence %" PRId64 ", position %" PRId64
                              ": expected 0..%" PRId64,
                              ids[i], i / n_tokens, i % n_tokens, m->config->vocab - 1);
    return QSAE_OK;
}

struct embed {
    const qsae_model *m;
    const qsae__slab *slab;
    const qsae__ops *ops;
};

/* x[width] += the learned row of the position, where there are such. */
static void add_position(const struct embed *e, int64_t position, float *x)
{
    const qsae__tensor *const t = e->m->weights->positions;
    const int64_t d = e->m->config->width;
    float part[256];
    for (int64_t i = 0, n; t && i < d; i += n) {
        n = qsae__min_i64(d - i, 256);
        qsae__model_values(e->m, t, position * d + i, n, part);
        e->ops->add(x + i, part, x + i, n, e->m->bf16);
    }
}

static int32_t embed_row(void *arg, int64_t row, int32_t worker)
{
    const struct embed *const e = arg;
    const int64_t d = e->m->config->width;
    float *const x = e->slab->x + row * d;
    (void)worker;
    qsae__model_embedding(e->m, e->slab->ids[row], x);
    if (e->m->config->family->scale_embedding) {
        e->ops->scale(x, e->m->sigma, x, d);
        if (e->m->bf16)
            e->ops->round_bf16(x, d);
    }
    add_position(e, row % e->slab->n_tokens, x);
    return QSAE_OK;
}

int32_t qsae__model_embed(qsae_model *m, qsae__slab *slab)
{
    int32_t st = qsae__model_check_ids(m, slab->ids, slab->n_seq, slab->n_tokens);
    if (st == QSAE_OK)
        st = check_positions(m, slab->n_tokens);
    if (st != QSAE_OK)
        return st;
    if (slab->width != m->config->width)
        return qsae__fail(QSAE_EINVAL, "the slab was not opened for this model (%s)",
                          m->weights->path);
    struct embed e = { m, slab, qsae__ops_get(m->ctx) };
    const qsae__fpenv env = qsae__fpenv_enter();
    st = qsae__parallel(m->ctx, slab->n_seq * slab->n_tokens, embed_row, &e);
    qsae__fpenv_leave(env);
    return st;
}

int32_t qsae__model_step(qsae_model *m, int64_t layer, qsae__slab *slab)
{
    qsae__run run;
    if (layer < 0 || layer >= m->config->layers)
        return qsae__fail(QSAE_EINVAL, "layer %" PRId64 ": expected 0..%" PRId64, layer,
                          m->config->layers - 1);
    int32_t st = qsae__run_init(m, slab, &run);
    if (st != QSAE_OK)
        return st;
    const bool own = !qsae__model_loaded(m, layer);
    if (own && (st = qsae__model_load(m, layer)) != QSAE_OK)
        return st;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = m->config->family->block(&run, layer);
    qsae__fpenv_leave(env);
    if (own)
        qsae__model_drop(m, layer);
    return st;
}

int32_t qsae__model_final(qsae_model *m, const qsae__slab *slab, float *out)
{
    qsae__run run;
    int32_t st = qsae__run_init(m, slab, &run);
    if (st != QSAE_OK)
        return st;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = qsae__norm_rows(&run, m->final_norm, slab->x, out);
    qsae__fpenv_leave(env);
    return st;
}
