/* SPDX-License-Identifier: BSD-2-Clause */
/* Keys and values as a coded cache returns them. Engines write both to the cache before attention
 * reads them, so a query sees its own position coded as well. */
#include "model/block.h"

static int32_t open_one(qsae_model *m, const qsae__kv_code *code, int64_t head_dim, qsae__kv **out)
{
    if (code->kind == QSAE__KV_NONE || *out)
        return QSAE_OK;
    return qsae__kv_open(m->ctx, code, head_dim, out);
}

/* Bits are the mean over all values of the cache. */
int32_t qsae__model_open_kv(qsae_model *m)
{
    const qsae__config *const c = m->config;
    double bits = 0, values = 0;
    for (int64_t n = 0; n < c->layers; n++) {
        const qsae__layer_shape s = qsae__layer_shape_of(c, n);
        const int type = c->sliding[n];
        if (s.kv_layer != n)
            continue;
        int32_t st = open_one(m, &m->condition.kv_k, s.head_dim, &m->kv_k[type]);
        if (st == QSAE_OK)
            st = open_one(m, &m->condition.kv_v, s.head_dim, &m->kv_v[type]);
        if (st != QSAE_OK)
            return st;
        const double share = (double)(s.kv_heads * s.head_dim);
        bits += share * (qsae__kv_bits(m->kv_k[type]) + qsae__kv_bits(m->kv_v[type])) / 2;
        values += share;
    }
    const int type = c->sliding[0];
    m->cost.kv_bits_per_value =
        c->shapes ? bits / values
                  : (qsae__kv_bits(m->kv_k[type]) + qsae__kv_bits(m->kv_v[type])) / 2;
    return QSAE_OK;
}

void qsae__model_close_kv(qsae_model *m)
{
    for (int type = 0; type < QSAE__LAYER_TYPES; type++) {
        qsae__kv_close(&m->kv_k[type]);
        qsae__kv_close(&m->kv_v[type]);
    }
}

int64_t qsae__kv_worker_floats(const qsae_model *m)
{
    int64_t most = 0;
    for (int type = 0; type < QSAE__LAYER_TYPES; type++) {
        most = qsae__max_i64(most, m->kv_k[type] ? qsae__kv_floats(m->kv_k[type]) : 0);
        most = qsae__max_i64(most, m->kv_v[type] ? qsae__kv_floats(m->kv_v[type]) : 0);
    }
    return most;
}

struct job {
    const qsae__run *run;
    const qsae__kv *k, *v;  /* NULL: as they are */
    int64_t heads, head_dim;
    int64_t vectors, tiles; /* head vectors of the keys, tiles of them */
    int64_t sink;           /* positions at the start of a sequence that are kept in f16 */
};

/* Tiles of keys come first, then those of values. */
static int32_t code_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct job *const j = arg;
    const qsae__run *const run = j->run;
    const qsae_model *const m = run->m;
    const int64_t heads = j->heads, d = j->head_dim;
    const bool keys = j->k && tile < j->tiles;
    const qsae__kv *const kv = keys ? j->k : j->v;
    float *const x = keys ? run->b.k : run->b.v;
    float *const scratch = run->b.worker + worker * run->b.worker_floats;
    const int64_t first = tile % j->tiles * QSAE__KV_ROWS;
    const int64_t end = qsae__min_i64(j->vectors, first + QSAE__KV_ROWS);
    for (int64_t i = first, stop; i < end; i = stop) {
        const bool sink = i / heads % run->slab->n_tokens < j->sink;
        for (stop = i + 1; stop < end; stop++)
            if ((stop / heads % run->slab->n_tokens < j->sink) != sink)
                break;
        if (!sink) {
            qsae__kv_apply(kv, x + i * d, stop - i, run->bf16, scratch);
            continue;
        }
        qsae__round(m->ctx, QSAE_F16, x + i * d, (stop - i) * d);
        if (run->bf16)
            run->ops->round_bf16(x + i * d, (stop - i) * d);
    }
    return QSAE_OK;
}

int32_t qsae__code_kv(const qsae__run *run, int64_t layer)
{
    const qsae_model *const m = run->m;
    const qsae__layer_shape s = qsae__layer_shape_of(m->config, layer);
    const int type = m->config->sliding[layer];
    struct job j = { .run = run, .k = m->kv_k[type], .v = m->kv_v[type], .heads = s.kv_heads,
                     .head_dim = s.head_dim, .vectors = run->rows * s.kv_heads,
                     .sink = m->condition.kv_sink };
    const int64_t kinds = (j.k != NULL) + (j.v != NULL);
    j.tiles = qsae__ceil_div(j.vectors, QSAE__KV_ROWS);
    return kinds ? qsae__parallel(m->ctx, kinds * j.tiles, code_tile, &j) : QSAE_OK;
}
