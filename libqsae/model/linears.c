/* SPDX-License-Identifier: BSD-2-Clause */
/* Which linear layers a model has, in one order, and what is known of each. */
#include <stdio.h>
#include <string.h>

#include "model/extras.h"

bool qsae__has_proj(const qsae__config *c, int64_t layer, int proj)
{
    const qsae__layer_shape s = qsae__layer_shape_of(c, layer);
    if (!c->shapes)
        return true;
    switch (proj) {
    case QSAE__K_PROJ:
        return s.kv_layer == layer;
    case QSAE__V_PROJ:
        return s.kv_layer == layer && !s.no_v;
    case QSAE__PLE_GATE:
    case QSAE__PLE_PROJ:
        return c->ple_width > 0;
    case QSAE__ROUTER_PROJ:
        return c->experts > 0;
    default:
        return true;
    }
}

void qsae__proj_shape(const qsae__config *c, int64_t layer, int proj, int64_t shape[2])
{
    const qsae__proj_slot *const slot = qsae__proj_slot_of(c, proj);
    const qsae__layer_shape s = qsae__layer_shape_of(c, layer);
    const int64_t q = c->heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    const int64_t sizes[] = { [QSAE__SIZE_WIDTH] = c->width, [QSAE__SIZE_Q] = q,
                              [QSAE__SIZE_KV] = kv, [QSAE__SIZE_QKV] = q + 2 * kv,
                              [QSAE__SIZE_MLP] = s.mlp_width, [QSAE__SIZE_PLE] = c->ple_width,
                              [QSAE__SIZE_EXPERTS] = c->experts };
    shape[0] = sizes[slot->out];
    shape[1] = sizes[slot->in];
}

/* rtn axis=tl shares a scale between equal rows of all heads; q, k, v by head are such rows of one
 * larger head. */
int64_t qsae__proj_heads(const qsae__config *c, int64_t layer, int proj)
{
    switch (c->family->qkv) {
    case QSAE__QKV_SEPARATE:
        return proj == QSAE__Q_PROJ ? c->heads
               : proj == QSAE__K_PROJ || proj == QSAE__V_PROJ
                   ? qsae__layer_shape_of(c, layer).kv_heads
                   : 0;
    case QSAE__QKV_BY_HEAD:
        return proj == QSAE__FUSED_QKV ? c->heads : 0;
    default:
        return proj == QSAE__FUSED_QKV ? -c->heads : 0;
    }
}

int64_t qsae__proj_qkv_runs(const qsae__config *c, int proj)
{
    if (c->family->qkv == QSAE__QKV_SEPARATE || proj != QSAE__FUSED_QKV)
        return 0;
    return c->family->qkv == QSAE__QKV_BY_HEAD ? c->heads : 1;
}

int64_t qsae__norm_size(const qsae__config *c, int64_t layer, int norm)
{
    const qsae__layer_shape s = qsae__layer_shape_of(c, layer);
    if (!c->family->norms[norm])
        return 0;
    switch (norm) {
    case QSAE__NORM_Q:
        return s.head_dim;
    case QSAE__NORM_K:
        return s.kv_layer == layer ? s.head_dim : 0;
    case QSAE__NORM_DENSE_OUT:
    case QSAE__NORM_EXPERTS_IN:
    case QSAE__NORM_EXPERTS_OUT:
        return c->experts ? c->width : 0;
    case QSAE__NORM_PLE_OUT:
        return c->ple_width ? c->width : 0;
    default:
        return c->width;
    }
}

int32_t qsae__linears_open(qsae_weights *w)
{
    const qsae__config *const c = &w->config;
    const int projs = qsae__projs(c);
    w->linears = qsae__alloc_array(w->ctx, qsae__place_embed(c) + 1, sizeof *w->linears);
    if (!w->linears)
        return QSAE_ENOMEM;
    for (int64_t at = 0; at < qsae__place_embed(c); at++)
        if (qsae__has_proj(c, at / projs, (int)(at % projs)))
            w->linears[w->n_linears++] = at;
    if (w->extras && w->extras->projection.name)
        w->linears[w->n_linears++] = qsae__place_outside(c);
    return QSAE_OK;
}

const qsae__matrix *qsae__linear_matrix(const qsae_weights *w, int64_t place)
{
    const int projs = qsae__projs(&w->config);
    return place < qsae__place_embed(&w->config)
               ? &w->layers[place / projs].weight[place % projs]
               : &w->extras->projection;
}

int64_t qsae__linear_layer(const qsae_weights *w, int64_t place)
{
    return place < qsae__place_embed(&w->config) ? place / qsae__projs(&w->config) : -1;
}

int64_t qsae__linear_heads(const qsae_weights *w, int64_t place)
{
    const int projs = qsae__projs(&w->config);
    return place < qsae__place_embed(&w->config)
               ? qsae__proj_heads(&w->config, place / projs, (int)(place % projs))
               : 0;
}

int64_t qsae__linear_qkv_runs(const qsae_weights *w, int64_t place)
{
    const int projs = qsae__projs(&w->config);
    return place < qsae__place_embed(&w->config)
               ? qsae__proj_qkv_runs(&w->config, (int)(place % projs))
               : 0;
}

const char *qsae__linear_module(const qsae_weights *w, int64_t place)
{
    return place < qsae__place_embed(&w->config)
               ? qsae__proj_slot_of(&w->config, (int)(place % qsae__projs(&w->config)))->path
               : QSAE__PLE_MODULE;
}

/* What stands before the blocks counts as of the first of them. */
qsae__place qsae__linear_place(const qsae_weights *w, int64_t place, char *path, size_t size)
{
    const char *const name = qsae__linear_matrix(w, place)->name;
    const int64_t layer = qsae__linear_layer(w, place);
    snprintf(path, size, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
    if (layer < 0)
        return (qsae__place){ 0, path, QSAE__PLE_MODULE, "ple" };
    const qsae__proj_slot *const slot =
        qsae__proj_slot_of(&w->config, (int)(place % qsae__projs(&w->config)));
    return (qsae__place){ layer, path, slot->module, slot->group };
}
