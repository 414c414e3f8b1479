/* SPDX-License-Identifier: BSD-2-Clause */
/* Keys and values as a coded cache returns them. Engines write both to the cache before attention
 * reads them, so a query sees its own position coded as well. */
#include "model/block.h"

static int32_t open_one(qsae_model *m, const qsae__kv_code *code, qsae__kv **out)
{
    if (code->kind == QSAE__KV_NONE)
        return QSAE_OK;
    return qsae__kv_open(m->ctx, code, m->config->head_dim, out);
}

int32_t qsae__model_open_kv(qsae_model *m)
{
    int32_t st = open_one(m, &m->condition.kv_k, &m->kv_k);
    if (st == QSAE_OK)
        st = open_one(m, &m->condition.kv_v, &m->kv_v);
    m->cost.kv_bits_per_value = (qsae__kv_bits(m->kv_k) + qsae__kv_bits(m->kv_v)) / 2;
    return st;
}

void qsae__model_close_kv(qsae_model *m)
{
    qsae__kv_close(&m->kv_k);
    qsae__kv_close(&m->kv_v);
}

int64_t qsae__kv_worker_floats(const qsae_model *m)
{
    return qsae__max_i64(m->kv_k ? qsae__kv_floats(m->kv_k) : 0,
                         m->kv_v ? qsae__kv_floats(m->kv_v) : 0);
}

struct job {
    const qsae__run *run;
    int64_t vectors, tiles; /* head vectors of the keys, tiles of them */
    int64_t sink;           /* positions at the start of a sequence that are kept in f16 */
};

/* Tiles of keys come first, then those of values. */
static int32_t code_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct job *const j = arg;
    const qsae__run *const run = j->run;
    const qsae_model *const m = run->m;
    const int64_t heads = m->config->kv_heads, d = m->config->head_dim;
    const bool keys = m->kv_k && tile < j->tiles;
    const qsae__kv *const kv = keys ? m->kv_k : m->kv_v;
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

int32_t qsae__code_kv(const qsae__run *run)
{
    const qsae_model *const m = run->m;
    struct job j = { .run = run, .vectors = run->rows * m->config->kv_heads,
                     .sink = m->condition.kv_sink };
    const int64_t kinds = (m->kv_k != NULL) + (m->kv_v != NULL);
    j.tiles = qsae__ceil_div(j.vectors, QSAE__KV_ROWS);
    return kinds ? qsae__parallel(m->ctx, kinds * j.tiles, code_tile, &j) : QSAE_OK;
}
