/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What Gemma 4 does beside Gemma 3's block (transformers' modeling_gemma4.py): per-layer
 * embeddings, experts, layers that read an earlier layer's keys and values, a factor for each
 * layer's output.
 */
#include <math.h>
#include <string.h>

#include "model/block.h"
#include "model/extras.h"
#include "model/top.h"

/* Adds rows * columns to *total; the offset before that. Offsets are multiples of 16. */
static bool place(int64_t *total, int64_t rows, int64_t columns, int64_t *offset)
{
    int64_t n;
    *offset = *total;
    return qsae__mul_i64(rows, columns, &n) && qsae__add_i64(n, 15, &n) &&
           qsae__add_i64(*total, n / 16 * 16, total);
}

/* What a slab keeps for later layers, in floats. */
struct kept {
    int64_t ple;                      /* [rows, layers * ple_width] */
    int64_t k[QSAE__LAYER_TYPES], v[QSAE__LAYER_TYPES]; /* [rows, kv_heads * head_dim] */
    int64_t total;
};

static bool place_kept(const qsae__config *c, int64_t rows, struct kept *out)
{
    memset(out, 0, sizeof *out);
    bool ok = place(&out->total, rows, c->layers * c->ple_width, &out->ple);
    for (int64_t n = 0; c->shapes && n < c->layers && ok; n++) {
        const int64_t columns = c->shapes[n].kv_heads * c->shapes[n].head_dim;
        if (c->shapes[n].kept)
            ok = place(&out->total, rows, columns, &out->k[c->sliding[n]]) &&
                 place(&out->total, rows, columns, &out->v[c->sliding[n]]);
    }
    return ok;
}

bool qsae__kept_floats(const qsae__config *c, int64_t rows, int64_t *floats)
{
    struct kept kept;
    const bool ok = place_kept(c, rows, &kept);
    *floats = kept.total;
    return ok;
}

/* Scratch of the experts, in floats. */
struct moe {
    int64_t x, scores, sorted, weight, chosen, order, first; /* see struct experts */
    int64_t in, inner, out, all, total;
};

/* Rows that go through the experts at once: their results are kept apart, k for a row. */
#define EXPERT_ROWS 2048

static bool place_moe(const qsae__config *c, int64_t rows, struct moe *m)
{
    memset(m, 0, sizeof *m);
    if (c->experts == 0)
        return true;
    const int64_t tile = qsae__min_i64(rows, EXPERT_ROWS), k = c->top_experts;
    int64_t pairs;
    return qsae__mul_i64(tile, k, &pairs) && pairs <= INT32_MAX &&
           place(&m->total, rows, c->width, &m->x) &&
           place(&m->total, rows, c->experts, &m->scores) &&
           place(&m->total, rows, c->experts, &m->sorted) &&
           place(&m->total, rows, k, &m->weight) && place(&m->total, rows, k, &m->chosen) &&
           place(&m->total, pairs, 1, &m->order) &&
           place(&m->total, c->experts + 1, 1, &m->first) &&
           place(&m->total, tile, c->width, &m->in) &&
           place(&m->total, tile, 2 * c->expert_width, &m->inner) &&
           place(&m->total, tile, c->width, &m->out) &&
           place(&m->total, pairs, c->width, &m->all);
}

bool qsae__extras_floats(const qsae__config *c, int64_t rows, int64_t *floats)
{
    struct moe moe;
    const bool ok = place_moe(c, rows, &moe);
    *floats = moe.total;
    return ok;
}

/* x *= s, rounded */
static void scale(const qsae__run *run, float s, float *x, int64_t n)
{
    run->ops->scale(x, s, x, n);
    if (run->bf16)
        run->ops->round_bf16(x, n);
}

/* y[rows, out] = x W^T */
static int32_t product(const qsae__run *run, const qsae__linear *w, const qsae__linear_rows *x,
                       float *y)
{
    const int64_t ldy = qsae__linear_out(w);
    return qsae__linear_apply(&w, 1, x, &y, &ldy, NULL, run->b.linear);
}

struct embedding {
    const qsae__run *run;
    float *to;               /* [rows, layers * ple_width] projections, then the embeddings */
    float sigma, width, mix; /* factors of the table, of the projection, of their sum */
};

/* Part of the row of a token in the table. */
static void table_values(const qsae_model *m, int32_t id, int64_t first, int64_t n, float *x)
{
    const qsae__matrix *const t = &m->weights->extras->table;
    if (t->stored)
        t->stored->ops->decode(t->stored, id, first, n, m->bf16 ? QSAE_BF16 : QSAE_F32, x);
    else
        qsae__model_values(m, t->tensor, (int64_t)id * t->cols + first, n, x);
}

static void embed_row(const void *arg, int64_t row)
{
    const struct embedding *const e = arg;
    const qsae__run *const run = e->run;
    const qsae__config *const c = run->m->config;
    const int64_t p = c->ple_width;
    float u[256];
    for (int64_t n = 0; n < c->layers; n++) {
        float *const x = e->to + (row * c->layers + n) * p;
        scale(run, e->width, x, p);
        qsae__norm_vector(run, run->m->extras->norm, x, x, p);
        for (int64_t i = 0, part; i < p; i += part) {
            part = qsae__min_i64(p - i, 256);
            table_values(run->m, run->slab->ids[row], n * p + i, part, u);
            scale(run, e->sigma, u, part);
            run->ops->add(x + i, u, x + i, part, run->bf16);
        }
        scale(run, e->mix, x, p);
    }
}

int32_t qsae__extras_embed(const qsae__run *run)
{
    const qsae__config *const c = run->m->config;
    const qsae__linear *const linear = run->m->extras->projection;
    const qsae__linear_rows x = { run->slab->x, QSAE_F32, run->rows, c->width };
    struct kept kept;
    if (!linear)
        return QSAE_OK;
    if (!place_kept(c, run->rows, &kept))
        return QSAE_EOVERFLOW; /* run_init has placed it before */
    struct embedding e = { .run = run, .to = run->slab->kept + kept.ple };
    e.sigma = (float)sqrt((double)c->ple_width);
    if (run->bf16)
        e.sigma = qsae__round_bf16(e.sigma);
    e.width = (float)pow((double)c->width, -0.5);
    e.mix = (float)sqrt(0.5);
    const int32_t st = product(run, linear, &x, e.to);
    return st == QSAE_OK ? qsae__each_row(run, run->rows, embed_row, &e) : st;
}

/* A pass through the experts of a layer. */
struct experts {
    const qsae__run *run;
    const qsae__layer_extras *layer;
    float *x;          /* [rows, width] what the router reads, then what experts read */
    float *scores;     /* [rows, experts] */
    int32_t *sorted;   /* [rows, experts] numbers of experts, the chosen ones first */
    float *weight;     /* [rows, top_experts] */
    int32_t *chosen;   /* [rows, top_experts] */
    /* Of a tile of rows; a pair is a row of it and a choice, row * top_experts + choice. */
    int64_t row0, rows;
    int32_t *order;    /* pairs by expert, then row */
    int32_t *first;    /* [experts + 1] where an expert's pairs begin */
    float *in, *inner, *out; /* [pairs of an expert, width], [.., 2 expert_width], [.., width] */
    float *all;        /* [pairs, width] what experts made of the rows, weighted */
    const int32_t *pairs; /* of the expert at hand */
};

static void router_row(const void *arg, int64_t row)
{
    const struct experts *const e = arg;
    const qsae__run *const run = e->run;
    const int64_t d = run->m->config->width;
    float *const x = e->x + row * d;
    qsae__norm_vector(run, NULL, run->slab->x + row * d, x, d);
    run->ops->mul(x, e->layer->router_scale, x, d, run->bf16);
    scale(run, (float)pow((double)d, -0.5), x, d);
}

/* The most probable experts; their probabilities, in f32 also in bf16 compute, made to sum to 1,
 * times the experts' factors. */
static void choose_row(const void *arg, int64_t row)
{
    const struct experts *const e = arg;
    const qsae__ops *const ops = e->run->ops;
    const qsae__config *const c = e->run->m->config;
    float *const p = e->scores + row * c->experts, *const weight = e->weight + row * c->top_experts;
    int32_t *const chosen = e->chosen + row * c->top_experts;
    int32_t *const sorted = e->sorted + row * c->experts;
    const float all = ops->exp_sum(p, ops->max(p, c->experts), p, c->experts);
    float sum = 0;
    for (int64_t i = 0; i < c->experts; i++)
        p[i] /= all;
    qsae__top(p, c->experts, c->top_experts, sorted);
    for (int64_t k = 0; k < c->top_experts; k++) {
        chosen[k] = sorted[k];
        sum += p[sorted[k]];
    }
    for (int64_t k = 0; k < c->top_experts; k++)
        weight[k] = p[chosen[k]] / sum * e->layer->expert_scale[chosen[k]];
}

/* e->order and e->first: a counting sort. */
static void sort_pairs(const struct experts *e)
{
    const int64_t k = e->run->m->config->top_experts, n = e->rows * k;
    const int64_t experts = e->run->m->config->experts;
    const int32_t *const chosen = e->chosen + e->row0 * k;
    memset(e->first, 0, (size_t)(experts + 1) * sizeof *e->first);
    for (int64_t i = 0; i < n; i++)
        e->first[chosen[i] + 1]++;
    for (int64_t i = 0; i < experts; i++)
        e->first[i + 1] += e->first[i];
    for (int64_t i = 0; i < n; i++)
        e->order[e->first[chosen[i]]++] = (int32_t)i;
    memmove(e->first + 1, e->first, (size_t)experts * sizeof *e->first);
    e->first[0] = 0;
}

static void gather_row(const void *arg, int64_t i)
{
    const struct experts *const e = arg;
    const int64_t d = e->run->m->config->width, row = e->pairs[i] / e->run->m->config->top_experts;
    memcpy(e->in + i * d, e->x + (e->row0 + row) * d, (size_t)d * sizeof *e->x);
}

static void gate_row(const void *arg, int64_t i)
{
    const struct experts *const e = arg;
    const int64_t f = e->run->m->config->expert_width;
    float *const x = e->inner + i * 2 * f;
    qsae__gate_part(e->run, x, x + f, f);
}

static void weigh_row(const void *arg, int64_t i)
{
    const struct experts *const e = arg;
    const int64_t d = e->run->m->config->width, pair = e->pairs[i];
    const float weight = e->weight[e->row0 * e->run->m->config->top_experts + pair];
    e->run->ops->scale(e->out + i * d, weight, e->all + pair * d, d);
}

static int32_t run_expert(struct experts *e, int64_t expert)
{
    const qsae__run *const run = e->run;
    const int64_t d = run->m->config->width, ld = 2 * run->m->config->expert_width;
    const int64_t n = e->first[expert + 1] - e->first[expert];
    const qsae__linear_rows x = { e->in, QSAE_F32, n, d }, inner = { e->inner, QSAE_F32, n, ld };
    if (n == 0)
        return QSAE_OK;
    e->pairs = e->order + e->first[expert];
    int32_t st = qsae__each_row(run, n, gather_row, e);
    if (st == QSAE_OK)
        st = product(run, e->layer->experts_in[expert], &x, e->inner);
    if (st == QSAE_OK)
        st = qsae__each_row(run, n, gate_row, e);
    if (st == QSAE_OK)
        st = product(run, e->layer->experts_out[expert], &inner, e->out);
    return st == QSAE_OK ? qsae__each_row(run, n, weigh_row, e) : st;
}

/* The sum goes from the most probable expert on; products and sum are f32 in bf16 compute too, as
 * in transformers' grouped products. */
static void sum_row(const void *arg, int64_t row)
{
    const struct experts *const e = arg;
    const qsae__run *const run = e->run;
    const int64_t d = run->m->config->width, k = run->m->config->top_experts;
    float *const x = e->all + row * k * d, *const y = run->b.out + (e->row0 + row) * d;
    const float *const *const norm = run->m->layers[e->layer - run->m->extras->layers].norm;
    for (int64_t i = 1; i < k; i++)
        run->ops->add(x, x + i * d, x, d, 0);
    if (run->bf16)
        run->ops->round_bf16(x, d);
    qsae__norm_vector(run, norm[QSAE__NORM_EXPERTS_OUT], x, x, d);
    qsae__norm_vector(run, norm[QSAE__NORM_DENSE_OUT], y, y, d);
    run->ops->add(y, x, y, d, run->bf16);
}

static int32_t run_tile(struct experts *e)
{
    int32_t st = QSAE_OK;
    sort_pairs(e);
    for (int64_t i = 0; i < e->run->m->config->experts && st == QSAE_OK; i++)
        st = run_expert(e, i);
    return st == QSAE_OK ? qsae__each_row(e->run, e->rows, sum_row, e) : st;
}

int32_t qsae__experts_part(const qsae__run *run, int64_t layer)
{
    const qsae__config *const c = run->m->config;
    const float *const *const norm = run->m->layers[layer].norm;
    struct moe at;
    if (!place_moe(c, run->rows, &at))
        return QSAE_EOVERFLOW; /* run_init has placed it before */
    float *const base = run->b.extra;
    struct experts e = { .run = run, .layer = &run->m->extras->layers[layer], .x = base + at.x,
                         .scores = base + at.scores, .weight = base + at.weight,
                         .sorted = (void *)(base + at.sorted),
                         .chosen = (void *)(base + at.chosen),
                         .order = (void *)(base + at.order),
                         .first = (void *)(base + at.first), .in = base + at.in,
                         .inner = base + at.inner, .out = base + at.out, .all = base + at.all };
    const qsae__linear_rows x = { e.x, QSAE_F32, run->rows, c->width };
    int32_t st = qsae__each_row(run, run->rows, router_row, &e);
    if (st == QSAE_OK)
        st = product(run, run->m->layers[layer].proj[QSAE__ROUTER_PROJ], &x, e.scores);
    if (st == QSAE_OK)
        st = qsae__each_row(run, run->rows, choose_row, &e);
    if (st == QSAE_OK)
        st = qsae__norm_rows(run, norm[QSAE__NORM_EXPERTS_IN], run->slab->x, e.x);
    for (; e.row0 < run->rows && st == QSAE_OK; e.row0 += e.rows) {
        e.rows = qsae__min_i64(EXPERT_ROWS, run->rows - e.row0);
        st = run_tile(&e);
    }
    return st;
}

struct ple {
    const qsae__run *run;
    const float *z; /* [rows, layers * ple_width] from the layer's own column on */
};

static void ple_row(const void *arg, int64_t row)
{
    const struct ple *const e = arg;
    const qsae__config *const c = e->run->m->config;
    qsae__gate_part(e->run, e->run->b.gate + row * c->ple_width,
                    e->z + row * c->layers * c->ple_width, c->ple_width);
}

/* x += norm(P2 (act(P1 x) * z)) */
static int32_t ple_part(const qsae__run *run, int64_t layer, const float *z)
{
    const qsae__config *const c = run->m->config;
    const qsae__linear_rows x = { run->slab->x, QSAE_F32, run->rows, c->width };
    const qsae__linear_rows inner = { run->b.gate, QSAE_F32, run->rows, c->ple_width };
    const struct ple e = { run, z + layer * c->ple_width };
    const qsae__layer *const l = &run->m->layers[layer];
    int32_t st = product(run, l->proj[QSAE__PLE_GATE], &x, run->b.gate);
    if (st == QSAE_OK)
        st = qsae__each_row(run, run->rows, ple_row, &e);
    if (st == QSAE_OK)
        st = product(run, l->proj[QSAE__PLE_PROJ], &inner, run->b.out);
    return st == QSAE_OK
               ? qsae__add_rows(run, l->norm[QSAE__NORM_PLE_OUT], run->b.out, run->slab->x)
               : st;
}

struct factor {
    const qsae__run *run;
    float by;
};

static void factor_row(const void *arg, int64_t row)
{
    const struct factor *const f = arg;
    const int64_t d = f->run->m->config->width;
    scale(f->run, f->by, f->run->slab->x + row * d, d);
}

int32_t qsae__block_gemma4(const qsae__run *run, int64_t layer)
{
    const qsae__config *const c = run->m->config;
    const qsae__layer_shape s = qsae__layer_shape_of(c, layer);
    const int type = c->sliding[layer];
    qsae__run own = *run;
    struct kept kept;
    if (!place_kept(c, run->rows, &kept))
        return QSAE_EOVERFLOW; /* run_init has placed it before */
    if (s.kept || s.kv_layer != layer) {
        own.b.k = run->slab->kept + kept.k[type];
        own.b.v = run->slab->kept + kept.v[type];
    }
    int32_t st = qsae__block_sequential(&own, layer);
    if (st == QSAE_OK && c->ple_width)
        st = ple_part(run, layer, run->slab->kept + kept.ple);
    const struct factor f = { run, run->m->extras->layers[layer].scalar };
    return st == QSAE_OK ? qsae__each_row(run, run->rows, factor_row, &f) : st;
}
