/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/extras.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Tensors of a layer in the order of qsae__layer_extra_tensors. */
struct slot {
    const char *name;
    int32_t rank;
    int64_t shape[3];
};

#define LAYER_SLOTS 5

static void layer_slots(const qsae__config *c, struct slot out[LAYER_SLOTS])
{
    const int64_t d = c->width, e = c->experts, f = c->expert_width;
    const struct slot all[LAYER_SLOTS] = {
        { "layer_scalar", 1, { 1 } },
        { "router.scale", 1, { d } },
        { "router.per_expert_scale", 1, { e } },
        { "experts.gate_up_proj", 3, { e, 2 * f, d } },
        { "experts.down_proj", 3, { e, d, f } },
    };
    memcpy(out, all, sizeof all);
}

static const qsae__tensor **slot_of(qsae__layer_extra_tensors *l, int i)
{
    const qsae__tensor **const all[LAYER_SLOTS] = { &l->scalar, &l->router_scale, &l->expert_scale,
                                                    &l->experts_in, &l->experts_out };
    return all[i];
}

static int32_t find_layer(qsae_weights *w, int64_t layer)
{
    const qsae__config *const c = &w->config;
    struct slot slots[LAYER_SLOTS];
    const size_t size = strlen(w->prefix) + 128;
    char *const name = qsae__alloc(w->ctx, size);
    int32_t st = name ? QSAE_OK : QSAE_ENOMEM;
    layer_slots(c, slots);
    for (int i = 0; i < (c->experts ? LAYER_SLOTS : 1) && st == QSAE_OK; i++) {
        snprintf(name, size, "%s%s.%" PRId64 ".%s", w->prefix, qsae__family_layers(c->family),
                 layer, slots[i].name);
        st = qsae__weights_need(w, name, slots[i].rank, slots[i].shape,
                                slot_of(&w->extras->layers[layer], i));
    }
    qsae__free(w->ctx, name);
    return st;
}

static int32_t find_embedding(qsae_weights *w)
{
    const qsae__config *const c = &w->config;
    const int64_t all = c->layers * c->ple_width;
    const size_t size = strlen(w->prefix) + 128;
    char *const name = qsae__alloc(w->ctx, size);
    if (!name)
        return QSAE_ENOMEM;
    snprintf(name, size, "%sembed_tokens_per_layer", w->prefix);
    int32_t st = qsae__weights_need_matrix(w, name, c->ple_vocab, all, false, &w->extras->table);
    if (st == QSAE_OK) {
        snprintf(name, size, "%s" QSAE__PLE_MODULE, w->prefix);
        st = qsae__weights_need_matrix(w, name, all, c->width, false, &w->extras->projection);
    }
    if (st == QSAE_OK) {
        snprintf(name, size, "%sper_layer_projection_norm.weight", w->prefix);
        st = qsae__weights_need(w, name, 1, &c->ple_width, &w->extras->norm);
    }
    qsae__free(w->ctx, name);
    return st;
}

int32_t qsae__extras_find(qsae_weights *w)
{
    const qsae__config *const c = &w->config;
    if (!c->family->extras)
        return QSAE_OK;
    w->extras = qsae__calloc(w->ctx, 1, sizeof *w->extras);
    if (!w->extras)
        return QSAE_ENOMEM;
    w->extras->layers = qsae__calloc(w->ctx, c->layers, sizeof *w->extras->layers);
    int32_t st = w->extras->layers ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK && c->ple_width)
        st = find_embedding(w);
    for (int64_t n = 0; n < c->layers && st == QSAE_OK; n++)
        st = find_layer(w, n);
    return st;
}

void qsae__extras_free(qsae_weights *w)
{
    if (!w->extras)
        return;
    qsae__matrix *const matrices[] = { &w->extras->table, &w->extras->projection };
    for (int i = 0; i < 2; i++) {
        qsae__qmatrix_unref(&matrices[i]->stored);
        qsae__free(w->ctx, matrices[i]->name);
    }
    qsae__free(w->ctx, w->extras->layers);
    qsae__free(w->ctx, w->extras);
}

const qsae__tensor *qsae__extras_tensor(const qsae_weights *w, int64_t i)
{
    qsae__extra_tensors *const x = w->extras;
    const int per_layer = w->config.experts ? LAYER_SLOTS : 1;
    if (!x)
        return NULL;
    if (x->norm && i-- == 0)
        return x->norm;
    return i < w->config.layers * per_layer
               ? *slot_of(&x->layers[i / per_layer], (int)(i % per_layer))
               : NULL;
}

/* Where the next vector goes in m->extras->values. */
static const float *take(const qsae_model *m, const qsae__tensor *t, float **at)
{
    float *const start = *at;
    qsae__model_values(m, t, 0, t->shape[0], start);
    *at += t->shape[0];
    return start;
}

static int32_t open_values(qsae_model *m)
{
    const qsae__config *const c = m->config;
    const qsae__extra_tensors *const from = m->weights->extras;
    const int64_t each = c->experts ? 1 + c->width + c->experts : 1;
    m->extras->values =
        qsae__alloc_array(m->ctx, c->layers * each + c->ple_width, sizeof(float));
    if (!m->extras->values)
        return QSAE_ENOMEM;
    float *at = m->extras->values;
    for (int64_t n = 0; n < c->layers; n++) {
        qsae__layer_extras *const to = &m->extras->layers[n];
        to->scalar = *take(m, from->layers[n].scalar, &at);
        if (!c->experts)
            continue;
        to->router_scale = take(m, from->layers[n].router_scale, &at);
        to->expert_scale = take(m, from->layers[n].expert_scale, &at);
    }
    if (from->norm)
        m->extras->norm = take(m, from->norm, &at);
    return QSAE_OK;
}

static int32_t open_projection(qsae_model *m)
{
    const int64_t place = qsae__place_outside(m->config);
    const qsae__matrix *const matrix = &m->weights->extras->projection;
    const qsae__source source = qsae__matrix_source(m->weights, matrix, 0);
    char path[512];
    const qsae__place seen = qsae__linear_place(m->weights, place, path, sizeof path);
    const bool all = !qsae__condition_encodes(&m->condition) &&
                     (m->condition.weights || m->condition.control == QSAE__CONTROL_FLOOR);
    const qsae__condition *const changes =
        all ? &m->condition : qsae__condition_at(&m->condition, &seen);
    const qsae__linear_weight w = {
        .stored = matrix->stored,
        .data = source.data,
        .dtype = source.dtype,
        .n_out = matrix->rows,
        .n_in = matrix->cols,
        .out_stride = source.out_stride,
        .in_stride = source.in_stride,
        .stream = (uint64_t)place,
        .shared = &m->weights->packed[place],
    };
    pthread_mutex_lock(&m->weights->mutex);
    int32_t st = qsae__linear_open(m->ctx, changes, &w, m->bf16 ? QSAE_BF16 : QSAE_F32,
                                   &m->extras->projection);
    if (st == QSAE_OK)
        st = qsae__linear_share(m->extras->projection);
    pthread_mutex_unlock(&m->weights->mutex);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s", matrix->name);
    if (matrix->tensor && qsae__linear_owns(m->extras->projection))
        qsae__tensor_release(m->weights->tensors, matrix->tensor);
    return QSAE_OK;
}

/* Slices of a tensor [experts, rows, cols]. No codec takes them; weights= rounds them where it
 * rounds all linear layers. */
static int32_t open_slices(qsae_model *m, const qsae__tensor *t, qsae__linear **out)
{
    const int64_t rows = t->shape[1], cols = t->shape[2];
    const size_t bytes = (size_t)(rows * cols) * ((size_t)qsae_dtype_bits(t->dtype) / 8);
    const bool rounds = !qsae__condition_encodes(&m->condition) &&
                        (m->condition.weights || m->condition.control == QSAE__CONTROL_FLOOR);
    int32_t st = QSAE_OK;
    for (int64_t e = 0; e < t->shape[0] && st == QSAE_OK; e++) {
        const qsae__linear_weight w = { .data = (const char *)t->data + (size_t)e * bytes,
                                        .dtype = t->dtype, .n_out = rows, .n_in = cols,
                                        .out_stride = cols, .in_stride = 1 };
        st = qsae__linear_open(m->ctx, rounds ? &m->condition : NULL, &w,
                               m->bf16 ? QSAE_BF16 : QSAE_F32, &out[e]);
        if (st == QSAE_OK)
            st = qsae__linear_share(out[e]);
    }
    return st == QSAE_OK ? st : qsae__fail_in(st, "%s", t->name);
}

int32_t qsae__experts_open(qsae_model *m, int64_t layer)
{
    const int64_t n = m->config->experts;
    qsae__layer_extras *const l = &m->extras->layers[layer];
    const qsae__layer_extra_tensors *const from = &m->weights->extras->layers[layer];
    if (n == 0)
        return QSAE_OK;
    l->experts_in = qsae__calloc(m->ctx, n, sizeof *l->experts_in);
    l->experts_out = qsae__calloc(m->ctx, n, sizeof *l->experts_out);
    int32_t st = l->experts_in && l->experts_out ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = open_slices(m, from->experts_in, l->experts_in);
    return st == QSAE_OK ? open_slices(m, from->experts_out, l->experts_out) : st;
}

void qsae__experts_close(qsae_model *m, int64_t layer)
{
    qsae__layer_extras *const l = &m->extras->layers[layer];
    for (int64_t e = 0; e < m->config->experts; e++) {
        if (l->experts_in)
            qsae__linear_close(&l->experts_in[e]);
        if (l->experts_out)
            qsae__linear_close(&l->experts_out[e]);
    }
    qsae__free(m->ctx, l->experts_in);
    qsae__free(m->ctx, l->experts_out);
    l->experts_in = l->experts_out = NULL;
}

int32_t qsae__extras_open(qsae_model *m)
{
    if (!m->weights->extras)
        return QSAE_OK;
    m->extras = qsae__calloc(m->ctx, 1, sizeof *m->extras);
    if (!m->extras)
        return QSAE_ENOMEM;
    m->extras->layers = qsae__calloc(m->ctx, m->config->layers, sizeof *m->extras->layers);
    int32_t st = m->extras->layers ? open_values(m) : QSAE_ENOMEM;
    if (st == QSAE_OK && m->config->ple_width)
        st = open_projection(m);
    for (int64_t n = 0; n < m->config->layers && st == QSAE_OK; n++)
        st = qsae__experts_open(m, n);
    return st;
}

void qsae__extras_close(qsae_model *m)
{
    if (!m->extras)
        return;
    for (int64_t n = 0; m->extras->layers && n < m->config->layers; n++)
        qsae__experts_close(m, n);
    qsae__linear_close(&m->extras->projection);
    qsae__free(m->ctx, m->extras->layers);
    qsae__free(m->ctx, m->extras->values);
    qsae__free(m->ctx, m->extras);
    m->extras = NULL;
}

const qsae__linear *qsae__extras_linear(const qsae_model *m, int64_t i)
{
    if (i == 0)
        return m->extras->projection;
    const qsae__layer_extras *const l = &m->extras->layers[(i - 1) / 2];
    qsae__linear *const *const list = i % 2 ? l->experts_in : l->experts_out;
    return list ? list[0] : NULL;
}
