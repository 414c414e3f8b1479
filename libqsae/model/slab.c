/* SPDX-License-Identifier: BSD-2-Clause */
/* Slabs: all memory of a pass, allocated once; and the steps of the forward pass on them. */
#include <inttypes.h>
#include <string.h>

#include "model/block.h"
#include "model/extras.h"

/* Positions are exact in f32 up to here. */
#define MAX_TOKENS (1 << 24)

/* Offsets in floats, each a multiple of 16. */
struct layout {
    int64_t normed, out, second, q, k, v, z, gate, up;
    int64_t extra, worker, worker_floats, panels, linear, total;
    bool has_panels;
};

static bool place(int64_t *total, int64_t rows, int64_t columns, int64_t *offset)
{
    int64_t n;
    *offset = *total;
    return qsae__mul_i64(rows, columns, &n) && qsae__add_i64(n, 15, &n) &&
           qsae__add_i64(*total, n / 16 * 16, total);
}

static int32_t too_large(int64_t n_seq, int64_t n_tokens)
{
    return qsae__fail(QSAE_EOVERFLOW, "a pass over %" PRId64 " x %" PRId64 " tokens is too large",
                      n_seq, n_tokens);
}

/* Floats of scratch that any linear layer needs. */
static int32_t linear_floats(const qsae_model *m, int64_t rows, int64_t *floats)
{
    size_t most = 0, bytes;
    const int projs = qsae__projs(m->config);
    for (int64_t i = 0; i < m->config->layers * projs; i++) {
        const qsae__linear *const l = m->layers[i / projs].proj[i % projs];
        const int32_t st = l ? qsae__linear_scratch(l, rows, &bytes) : QSAE_OK;
        if (st != QSAE_OK)
            return st;
        most = l && bytes > most ? bytes : most;
    }
    for (int64_t i = 0; m->extras && i <= 2 * m->config->layers; i++) {
        const qsae__linear *const l = qsae__extras_linear(m, i);
        const int32_t st = l ? qsae__linear_scratch(l, rows, &bytes) : QSAE_OK;
        if (st != QSAE_OK)
            return st;
        most = l && bytes > most ? bytes : most;
    }
    *floats = (int64_t)(most / sizeof(float)) + 1;
    return QSAE_OK;
}

static int32_t lay_out(const qsae_model *m, int64_t n_seq, int64_t n_tokens, struct layout *l)
{
    const qsae__config *const c = m->config;
    int64_t rows, mlp, q = 0, kv = 0, width = c->ple_width, linear = 0, panels = 0, extra = 0;
    memset(l, 0, sizeof *l);
    l->worker_floats = qsae__kv_worker_floats(m);
    for (int64_t n = 0; n < c->layers; n++) {
        const qsae__layer_shape s = qsae__layer_shape_of(c, n);
        int64_t floats;
        q = qsae__max_i64(q, c->heads * s.head_dim);
        kv = qsae__max_i64(kv, s.kv_heads * s.head_dim);
        width = qsae__max_i64(width, s.mlp_width);
        l->worker_floats =
            qsae__max_i64(l->worker_floats, qsae__attention_floats(c->heads, s.kv_heads, s.head_dim,
                                                                   n_tokens, m->attention));
        if (!qsae__attention_panels(m->ctx, s.kv_heads, s.head_dim, n_tokens, m->attention, m->bf16,
                                    &floats))
            return too_large(n_seq, n_tokens);
        panels = qsae__max_i64(panels, floats);
    }
    bool ok = qsae__mul_i64(n_seq, n_tokens, &rows) &&
              place(&l->total, rows, c->width, &l->normed) &&
              place(&l->total, rows, c->width, &l->out) &&
              place(&l->total, c->parallel ? rows : 0, c->width, &l->second);
    mlp = l->total; /* the MLP begins when attention is done: its buffers take the same place */
    ok = ok && place(&l->total, rows, q, &l->q) && place(&l->total, rows, kv, &l->k) &&
         place(&l->total, rows, kv, &l->v) &&
         place(&l->total, rows, c->family->qkv ? 3 * q : q, &l->z);
    ok = ok && place(&mlp, rows, width, &l->gate) && place(&mlp, rows, width, &l->up);
    l->total = qsae__max_i64(l->total, mlp);
    ok = ok && qsae__extras_floats(c, rows, &extra) && place(&l->total, extra, 1, &l->extra) &&
         place(&l->total, n_seq, panels, &l->panels);
    l->has_panels = ok && panels > 0;
    if (ok) {
        const int32_t st = linear_floats(m, rows, &linear);
        if (st != QSAE_OK)
            return st;
    }
    if (!ok || !place(&l->total, m->ctx->threads, l->worker_floats, &l->worker) ||
        !place(&l->total, linear, 1, &l->linear))
        return too_large(n_seq, n_tokens);
    return QSAE_OK;
}

int32_t qsae__run_init(qsae_model *m, const qsae__slab *slab, qsae__run *run)
{
    struct layout l;
    size_t bytes, kept_bytes;
    int64_t kept;
    const int32_t st = lay_out(m, slab->n_seq, slab->n_tokens, &l);
    if (st != QSAE_OK)
        return st;
    if (slab->width != m->config->width || !qsae__bytes(l.total, sizeof(float), &bytes) ||
        bytes > slab->scratch_bytes || slab->n_tokens > m->rope.n_tokens ||
        !qsae__kept_floats(m->config, slab->n_seq * slab->n_tokens, &kept) ||
        !qsae__bytes(kept, sizeof(float), &kept_bytes) || kept_bytes > slab->kept_bytes)
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
               .extra = base + l.extra,
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
    qsae__rope_tables fresh = { .n_tokens = n_tokens };
    if (m->rope.n_tokens >= n_tokens)
        return QSAE_OK;
    bool ok = true;
    for (int t = 0; t < QSAE__LAYER_TYPES && ok; t++) {
        const int64_t half = qsae__rope_pairs(c, t);
        const int64_t dim = c->rope[t].dim ? c->rope[t].dim
                            : c->rotary_dim ? c->rotary_dim
                                            : c->head_dim;
        if (half == 0)
            continue;
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
    int64_t most = 0, most_kept = 0, width = -1, rows;
    size_t scratch, residual, kept_bytes;
    memset(out, 0, sizeof *out);
    if (n_seq < 1 || n_tokens < 1 || n_tokens > MAX_TOKENS)
        return qsae__fail(QSAE_EINVAL,
                          "n_seq %" PRId64 ", n_tokens %" PRId64
                          ": expected at least 1, at most %d tokens",
                          n_seq, n_tokens, MAX_TOKENS);
    for (int64_t i = 0; i < n_models; i++) {
        int64_t floats, kept;
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
        if (!qsae__kept_floats(models[i]->config, n_seq * n_tokens, &kept)) /* run_floats: fits */
            return too_large(n_seq, n_tokens);
        most_kept = qsae__max_i64(most_kept, kept);
    }
    if (width < 0)
        return qsae__fail(QSAE_EINVAL, "a slab needs a model");
    if (!qsae__mul_i64(n_seq, n_tokens, &rows) || !qsae__mul_i64(rows, width, &rows) ||
        !qsae__bytes(rows, sizeof(float), &residual) ||
        !qsae__bytes(most, sizeof(float), &scratch) ||
        !qsae__bytes(most_kept, sizeof(float), &kept_bytes))
        return too_large(n_seq, n_tokens);
    out->ctx = qsae__context_ref(ctx);
    out->n_seq = n_seq;
    out->n_tokens = n_tokens;
    out->width = width;
    out->x = qsae__alloc(ctx, residual);
    out->scratch = qsae__alloc(ctx, scratch);
    out->scratch_bytes = scratch;
    out->kept = qsae__alloc(ctx, kept_bytes);
    out->kept_bytes = kept_bytes;
    if (out->x && out->scratch && out->kept)
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
    qsae__free(slab->ctx, slab->kept);
    qsae__context_unref(slab->ctx);
    memset(slab, 0, sizeof *slab);
}

int32_t qsae__model_check_ids(const qsae_model *m, const int32_t *ids, int64_t n_seq,
                              int64_t n_tokens)
{
    const int64_t vocab = m->config->ple_width
                              ? qsae__min_i64(m->config->vocab, m->config->ple_vocab)
                              : m->config->vocab;
    for (int64_t i = 0; i < n_seq * n_tokens; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return qsae__fail(QSAE_EINVAL,
                              "token id %" PRId32 " at sequence %" PRId64 ", position %" PRId64
                              ": expected 0..%" PRId64,
                              ids[i], i / n_tokens, i % n_tokens, vocab - 1);
    return QSAE_OK;
}

struct embed {
    const qsae_model *m;
    const qsae__slab *slab;
    const qsae__ops *ops;
    const qsae__run *run; /* where sites of the embedding are watched: positions come later; NULL */
};

/* y[width] = x + the learned row of a position; x NULL: that row. */
static void add_position(const struct embed *e, int64_t position, const float *x, float *y)
{
    const qsae__tensor *const t = e->m->weights->positions;
    const int64_t d = e->m->config->width;
    float part[256];
    for (int64_t i = 0, n; i < d; i += n) {
        n = qsae__min_i64(d - i, 256);
        qsae__model_values(e->m, t, position * d + i, n, x ? part : y + i);
        if (x)
            e->ops->add(x + i, part, y + i, n, e->m->bf16);
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
    if (e->m->weights->positions && !e->run)
        add_position(e, row % e->slab->n_tokens, x, x);
    return QSAE_OK;
}

static int32_t position_row(void *arg, int64_t row, int32_t worker)
{
    const struct embed *const e = arg;
    (void)worker;
    add_position(e, row % e->slab->n_tokens, NULL, e->run->b.out + row * e->m->config->width);
    return QSAE_OK;
}

/* The embedding in steps that can be watched. */
static int32_t embed_watched(struct embed *e)
{
    const qsae__run *const run = e->run;
    qsae_context *const ctx = e->m->ctx;
    const int64_t d = e->m->config->width;
    int32_t st = qsae__parallel(ctx, run->rows, embed_row, e);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, 0, QSAE_SITE_EMBED, e->slab->x, d);
    if (st != QSAE_OK || !e->m->weights->positions)
        return st;
    st = qsae__parallel(ctx, run->rows, position_row, e);
    if (st == QSAE_OK)
        st = qsae__watch_rows(run, 0, QSAE_SITE_POS_EMBED, run->b.out, d);
    return st == QSAE_OK ? qsae__add_rows(run, NULL, run->b.out, e->slab->x) : st;
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
    struct embed e = { m, slab, qsae__ops_get(m->ctx), NULL };
    qsae__run run = { .slab = slab };
    const bool watched =
        qsae__watched(&run, 0, QSAE_SITE_EMBED) || qsae__watched(&run, 0, QSAE_SITE_POS_EMBED);
    if ((watched || m->extras) && (st = qsae__run_init(m, slab, &run)) != QSAE_OK)
        return st;
    if (watched)
        e.run = &run;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = e.run ? embed_watched(&e)
               : qsae__parallel(m->ctx, slab->n_seq * slab->n_tokens, embed_row, &e);
    if (st == QSAE_OK && m->extras)
        st = qsae__extras_embed(&run);
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
    st = qsae__watch_rows(&run, layer, QSAE_SITE_RESID_PRE, slab->x, slab->width);
    if (st == QSAE_OK)
        st = m->config->family->block(&run, layer);
    if (st == QSAE_OK)
        st = qsae__watch_rows(&run, layer, QSAE_SITE_RESID_POST, slab->x, slab->width);
    qsae__fpenv_leave(env);
    if (own)
        qsae__model_drop(m, layer);
    return st;
}

void qsae__model_round(const qsae_model *m, float *x, int64_t n)
{
    if (m->bf16)
        qsae__round(m->ctx, QSAE_BF16, x, n);
}

int32_t qsae__model_enter(qsae_model *m, int64_t layer, const qsae__slab *slab)
{
    qsae__run run;
    const int32_t st = qsae__run_init(m, slab, &run);
    return st == QSAE_OK
               ? qsae__watch_rows(&run, layer, QSAE_SITE_RESID_PRE, slab->x, slab->width)
               : st;
}

int32_t qsae__model_final(qsae_model *m, const qsae__slab *slab, float *out)
{
    qsae__run run;
    int32_t st = qsae__run_init(m, slab, &run);
    if (st != QSAE_OK)
        return st;
    const qsae__fpenv env = qsae__fpenv_enter();
    const int64_t last = m->config->layers - 1;
    st = qsae__norm_rows_at(&run, last, QSAE_SITE_FINAL_NORMALIZED, m->final_norm, slab->x, out);
    if (st == QSAE_OK)
        st = qsae__watch_rows(&run, last, QSAE_SITE_FINAL_NORM, out, slab->width);
    qsae__fpenv_leave(env);
    return st;
}
