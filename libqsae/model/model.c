/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/internal.h"

void qsae_model_settings_init(qsae_model_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

void qsae__model_values(const qsae_model *m, const qsae__tensor *t, int64_t first, int64_t n,
                        float *dst)
{
    const size_t bytes = (size_t)qsae_dtype_bits(t->dtype) / 8;
    qsae__to_f32(t->dtype, (const char *)t->data + (size_t)first * bytes, n, dst);
    if (m->condition.weights && m->condition.weights != t->dtype)
        qsae__round(m->ctx, m->condition.weights, dst, n);
    if (m->bf16)
        qsae__round(m->ctx, QSAE_BF16, dst, n);
}

/* Bytes of a tensor as the condition stores it. */
static uint64_t stored_bytes(const qsae_model *m, const qsae__tensor *t)
{
    if (!m->condition.weights)
        return t->bytes;
    return t->bytes / ((uint64_t)qsae_dtype_bits(t->dtype) / 8) *
           ((uint64_t)qsae_dtype_bits(m->condition.weights) / 8);
}

static void close_layers(qsae_model *m)
{
    if (!m->layers)
        return;
    for (int64_t n = 0; n < m->config->layers; n++)
        for (int p = 0; p < QSAE__PROJ_COUNT; p++)
            qsae__linear_close(&m->layers[n].proj[p]);
    qsae__free(m->ctx, m->layers);
}

static void model_free(qsae_model *m)
{
    qsae_context *const ctx = m->ctx;
    close_layers(m);
    qsae__slab_close(&m->slab);
    for (int t = 0; t < QSAE__LAYER_TYPES; t++) {
        qsae__free(ctx, m->rope.cosine[t]);
        qsae__free(ctx, m->rope.sine[t]);
    }
    qsae__packed_close(&m->head_packed);
    qsae__free(ctx, m->norms);
    qsae__free(ctx, m->biases);
    qsae__condition_free(ctx, &m->condition);
    qsae__weights_unref(m->weights);
    qsae__free(ctx, m);
    qsae__context_unref(ctx);
}

static void count_proj(qsae_model *m, const qsae__linear *linear, const qsae__layer_tensors *t,
                       int p)
{
    qsae_model_cost *const cost = &m->cost;
    if (qsae__linear_quantized(linear)) {
        const uint64_t bytes = qsae__linear_bytes(linear);
        cost->quantized_bytes += bytes;
        cost->quantized_weights += qsae__linear_out(linear) * qsae__linear_in(linear);
        cost->quantized_tensors++;
        cost->weight_bytes += bytes;
    } else {
        cost->weight_bytes += stored_bytes(m, t->weight[p]);
    }
    if (t->bias[p])
        cost->weight_bytes += stored_bytes(m, t->bias[p]);
    if (qsae__linear_batch_dependent(linear))
        cost->batch_dependent = 1;
}

/* *bias: where the next bias goes in m->biases. */
static int32_t open_proj(qsae_model *m, int64_t layer, int p, float **bias)
{
    const qsae__config *const c = m->config;
    const qsae__layer_tensors *const t = &m->weights->layers[layer];
    const qsae__proj_slot *const slot = &qsae__proj_slots[p];
    /* The codec where it is selected; rounding to weights= everywhere. */
    const bool codec =
        m->condition.codec == QSAE__NONE
            ? m->condition.weights != 0
            : qsae__condition_selects(&m->condition, layer, slot->module, slot->group);
    int64_t shape[2];
    qsae__proj_shape(c, p, shape);
    if (t->bias[p])
        qsae__model_values(m, t->bias[p], 0, shape[0], *bias);
    const qsae__linear_weight w = {
        .data = t->weight[p]->data,
        .dtype = t->weight[p]->dtype,
        .n_out = shape[0],
        .n_in = shape[1],
        .out_stride = shape[1],
        .in_stride = 1,
        .bias = t->bias[p] ? *bias : NULL,
        .bias_dtype = QSAE_F32,
        .heads = p == QSAE__Q_PROJ                       ? c->heads
                 : p == QSAE__K_PROJ || p == QSAE__V_PROJ ? c->kv_heads
                                                          : 0,
        .shared = &m->weights->packed[layer * QSAE__PROJ_COUNT + p],
    };
    qsae__linear **const out = &m->layers[layer].proj[p];
    pthread_mutex_lock(&m->weights->mutex);
    const int32_t st = qsae__linear_open(m->ctx, codec ? &m->condition : NULL, &w,
                                         m->bf16 ? QSAE_BF16 : QSAE_F32, out);
    pthread_mutex_unlock(&m->weights->mutex);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s", t->weight[p]->name);
    if (qsae__linear_owns(*out))
        qsae__tensor_release(m->weights->tensors, t->weight[p]);
    count_proj(m, *out, t, p);
    if (t->bias[p])
        *bias += shape[0];
    return QSAE_OK;
}

static int32_t open_projections(qsae_model *m, const qsae_model_settings *s)
{
    const int64_t total = m->config->layers * QSAE__PROJ_COUNT;
    int64_t biases = 0;
    for (int p = 0; p < QSAE__PROJ_COUNT; p++)
        biases += m->weights->layers[0].bias[p] ? m->weights->layers[0].bias[p]->shape[0] : 0;
    m->biases = qsae__alloc_array(m->ctx, biases * m->config->layers, sizeof(float));
    if (!m->biases)
        return QSAE_ENOMEM;
    float *bias = m->biases;
    for (int64_t i = 0; i < total; i++) {
        int32_t st = qsae__canceled(s->cancel);
        if (st == QSAE_OK)
            st = open_proj(m, i / QSAE__PROJ_COUNT, (int)(i % QSAE__PROJ_COUNT), &bias);
        if (st == QSAE_OK && s->progress)
            st = s->progress(s->progress_cookie, i + 1, total, "tensors",
                             m->condition.codec == QSAE__NONE ? "load" : "quantize");
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}

/* Norm vectors are small: converted once. */
static int32_t open_norms(qsae_model *m)
{
    const qsae__config *const c = m->config;
    int64_t layer = 0;
    for (int k = 0; k < QSAE__NORM_COUNT; k++)
        if (c->family->norms[k])
            layer += k == QSAE__NORM_Q || k == QSAE__NORM_K ? c->head_dim : c->width;
    m->norms = qsae__alloc_array(m->ctx, c->layers * layer + c->width, sizeof(float));
    if (!m->norms)
        return QSAE_ENOMEM;
    float *at = m->norms;
    for (int64_t n = 0; n < c->layers; n++) {
        for (int k = 0; k < QSAE__NORM_COUNT; k++) {
            const qsae__tensor *t = m->weights->layers[n].norm[k];
            if (!t)
                continue;
            qsae__model_values(m, t, 0, t->shape[0], at);
            m->layers[n].norm[k] = at;
            at += t->shape[0];
            m->cost.weight_bytes += stored_bytes(m, t);
        }
    }
    qsae__model_values(m, m->weights->norm, 0, c->width, at);
    m->final_norm = at;
    m->cost.weight_bytes += stored_bytes(m, m->weights->norm);
    return QSAE_OK;
}

/* Two roundings (F32 file, weights=f16, bf16 compute) need a second pass over the tile. */
static void fill_head(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1, float *tile,
                      int64_t panel)
{
    const qsae_model *const m = self;
    const qsae__panels dense = qsae__panels_dense(&m->head, m->config->vocab, m->config->width);
    dense.fill(dense.self, n0, n1, k0, k1, tile, panel);
    qsae__round(m->ctx, QSAE_BF16, tile, qsae__ceil_div(n1 - n0, panel) * panel * (k1 - k0));
}

/* Packs the head, or takes the copy of another model if the condition leaves the head as it is. */
static int32_t pack_head(qsae_model *m, bool shared)
{
    const qsae__config *const c = m->config;
    qsae__packed_weight **const slot = &m->weights->packed[c->layers * QSAE__PROJ_COUNT];
    int32_t st = QSAE_OK;
    pthread_mutex_lock(&m->weights->mutex);
    if (shared && *slot)
        m->head_packed = qsae__packed_ref(*slot);
    else
        st = qsae__packed_dense(m->ctx, &m->head, c->vocab, c->width, &m->head_packed);
    if (st == QSAE_OK && shared && !*slot)
        *slot = qsae__packed_ref(m->head_packed);
    pthread_mutex_unlock(&m->weights->mutex);
    qsae__tensor_release(m->weights->tensors, m->weights->head);
    return st;
}

static int32_t open_head(qsae_model *m)
{
    const qsae__config *const c = m->config;
    const qsae__tensor *const t = m->weights->head;
    const int32_t rounded = m->condition.weights && m->condition.weights != t->dtype
                                ? m->condition.weights
                                : 0;
    const int32_t held = rounded ? rounded : t->dtype; /* dtype the values fit in */
    const bool twice = m->bf16 && rounded && held != QSAE_BF16;
    m->head = (qsae__dense){
        .data = t->data,
        .dtype = t->dtype,
        .round = rounded ? rounded : m->bf16 && held != QSAE_BF16 ? QSAE_BF16 : 0,
        .level = m->ctx->level,
        .n_stride = c->width,
        .k_stride = 1,
    };
    m->head_panels = qsae__panels_dense(&m->head, c->vocab, c->width);
    if (twice) {
        m->head_panels.fill = fill_head;
        m->head_panels.self = m;
    }
    m->cost.weight_bytes += stored_bytes(m, m->weights->embed);
    if (t != m->weights->embed)
        m->cost.weight_bytes += stored_bytes(m, t);
    if (!m->bf16 && (held != QSAE_BF16 || m->ctx->level < QSAE__LEVEL_AMX))
        return QSAE_OK;
    m->head_parts = m->bf16 ? 1 : 3;
    return qsae__packed_get(m->ctx)->bf16 ? pack_head(m, !rounded) : QSAE_OK;
}

static int32_t resolve(qsae_model *m, const qsae_model_settings *s)
{
    if (s->compute < 0 || s->compute > QSAE_COMPUTE_BF16)
        return qsae__fail(QSAE_EINVAL, "qsae_model_settings.compute: %d is not a QSAE_COMPUTE_*",
                          (int)s->compute);
    if (s->attention < 0 || s->attention > QSAE_ATTN_FP32)
        return qsae__fail(QSAE_EINVAL, "qsae_model_settings.attention: %d is not a QSAE_ATTN_*",
                          (int)s->attention);
    const int32_t st =
        qsae__condition_parse(m->ctx, s->condition ? s->condition : "none", &m->condition);
    if (st != QSAE_OK)
        return st;
    m->compute = m->condition.model_compute ? m->condition.model_compute
                 : s->compute               ? s->compute
                                            : QSAE_COMPUTE_F32;
    m->attention = s->attention ? s->attention : QSAE_ATTN_SDPA;
    m->bf16 = m->compute == QSAE_COMPUTE_BF16;
    m->sigma = 1;
    if (m->config->family->scale_embedding) {
        m->sigma = sqrtf((float)m->config->width);
        if (m->bf16)
            m->sigma = qsae__round_bf16(m->sigma);
    }
    return QSAE_OK;
}

static void finish_cost(qsae_model *m)
{
    qsae_model_cost *const c = &m->cost;
    const bool any = c->quantized_weights > 0;
    c->bits_per_weight = 8.0 * (double)(any ? c->quantized_bytes : c->weight_bytes) /
                         (double)(any ? c->quantized_weights : m->weights->parameters);
    c->condition = m->condition.canonical;
    c->compute = m->compute;
    c->attention = m->attention;
}

int32_t qsae_model_open(qsae_weights *weights, const qsae_model_settings *settings,
                        qsae_model **out)
{
    qsae_model_settings s;
    if (out)
        *out = NULL;
    if (!weights || !out)
        return qsae__fail(QSAE_EINVAL, "qsae_model_open: NULL argument");
    int32_t st = qsae__settings_copy(&s, sizeof s, settings, "qsae_model_settings");
    if (st != QSAE_OK)
        return st;
    qsae_model *m = qsae__calloc(weights->ctx, 1, sizeof *m);
    if (!m)
        return QSAE_ENOMEM;
    m->ctx = qsae__context_ref(weights->ctx);
    m->weights = qsae__weights_ref(weights);
    m->config = &weights->config;
    atomic_flag_clear(&m->busy);
    const qsae__fpenv env = qsae__fpenv_enter();
    st = resolve(m, &s);
    if (st == QSAE_OK) {
        m->layers = qsae__calloc(m->ctx, m->config->layers, sizeof *m->layers);
        st = m->layers ? QSAE_OK : QSAE_ENOMEM;
    }
    if (st == QSAE_OK)
        st = open_projections(m, &s);
    if (st == QSAE_OK)
        st = open_norms(m);
    if (st == QSAE_OK)
        st = open_head(m);
    qsae__fpenv_leave(env);
    if (st != QSAE_OK) {
        model_free(m);
        return st;
    }
    finish_cost(m);
    *out = m;
    return QSAE_OK;
}

void qsae_model_close(qsae_model **model)
{
    if (!model || !*model)
        return;
    model_free(*model);
    *model = NULL;
}

int32_t qsae_model_get_info(const qsae_model *model, qsae_model_info *info)
{
    if (!model || !info)
        return qsae__fail(QSAE_EINVAL, "qsae_model_get_info: NULL argument");
    return qsae_weights_get_info(model->weights, info);
}

int32_t qsae_model_get_cost(const qsae_model *model, qsae_model_cost *cost)
{
    if (!model || !cost)
        return qsae__fail(QSAE_EINVAL, "qsae_model_get_cost: NULL argument");
    return qsae__info_copy(cost, &model->cost, sizeof model->cost, "qsae_model_cost");
}
