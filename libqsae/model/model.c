/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/extras.h"

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

void qsae__model_embedding(const qsae_model *m, int32_t id, float *x)
{
    const int64_t d = m->config->width;
    if (m->embed_q)
        m->embed_q->ops->decode(m->embed_q, id, 0, d, m->bf16 ? QSAE_BF16 : QSAE_F32, x);
    else
        qsae__model_values(m, m->weights->embed.tensor, (int64_t)id * d, d, x);
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
    for (int64_t n = 0; n < m->config->layers; n++) {
        qsae__model_drop(m, n);
        for (int p = 0; p < qsae__projs(m->config); p++)
            qsae__linear_close(&m->layers[n].proj[p]);
    }
    qsae__free(m->ctx, m->layers);
}

static void model_free(qsae_model *m)
{
    qsae_context *const ctx = m->ctx;
    close_layers(m);
    qsae__extras_close(m);
    qsae__model_close_kv(m);
    qsae__slab_close(&m->slab);
    for (int t = 0; t < QSAE__LAYER_TYPES; t++) {
        qsae__free(ctx, m->rope.cosine[t]);
        qsae__free(ctx, m->rope.sine[t]);
    }
    qsae__packed_close(&m->head_packed);
    qsae__qmatrix_unref(&m->head_q);
    qsae__qmatrix_unref(&m->embed_q);
    qsae__free(ctx, m->norms);
    qsae__free(ctx, m->biases);
    qsae__free(ctx, m->head_bias);
    qsae__condition_free(ctx, &m->condition);
    qsae__weights_unref(m->weights);
    qsae__retire(ctx, m);
    qsae__context_unref(ctx);
}

/* A matrix that is no plain one any more. */
static void count_encoded(qsae_model *m, uint64_t bytes, int64_t weights)
{
    m->cost.quantized_bytes += bytes;
    m->cost.quantized_weights += weights;
    m->cost.quantized_tensors++;
    m->cost.weight_bytes += bytes;
}

static void count_proj(qsae_model *m, const qsae__linear *linear, const qsae__layer_tensors *t,
                       int p)
{
    if (qsae__linear_quantized(linear))
        count_encoded(m, qsae__linear_bytes(linear),
                      qsae__linear_out(linear) * qsae__linear_in(linear));
    else
        m->cost.weight_bytes += t->weight[p].tensor ? stored_bytes(m, t->weight[p].tensor)
                                                    : qsae__linear_bytes(linear);
    if (t->bias[p])
        m->cost.weight_bytes += stored_bytes(m, t->bias[p]);
    if (qsae__linear_batch_dependent(linear))
        m->cost.batch_dependent = 1;
}

const qsae__condition *qsae__model_condition(const qsae_model *m, int64_t layer, int p)
{
    const qsae__proj_slot *const slot = qsae__proj_slot_of(m->config, p);
    const char *const name = m->weights->layers[layer].weight[p].name;
    char path[512];
    if (!name) /* the layer has none */
        return NULL;
    snprintf(path, sizeof path, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
    const qsae__place place = { layer, path, slot->module, slot->group };
    if (qsae__condition_encodes(&m->condition))
        return qsae__condition_at(&m->condition, &place);
    const bool all = m->condition.weights || m->condition.control == QSAE__CONTROL_FLOOR;
    return all ? &m->condition : NULL;
}

bool qsae__model_changes(const qsae_model *m, int64_t layer, int p)
{
    return qsae__model_condition(m, layer, p) != NULL;
}

qsae__linear_weight qsae__model_weight(const qsae_model *m, int64_t layer, int p,
                                       const float *bias)
{
    const qsae__matrix *const matrix = &m->weights->layers[layer].weight[p];
    const int64_t at = layer * qsae__projs(m->config) + p;
    const qsae__source source = qsae__matrix_source(m->weights, matrix, 0);
    return (qsae__linear_weight){
        .stored = matrix->stored,
        .data = source.data,
        .dtype = source.dtype,
        .n_out = matrix->rows,
        .n_in = matrix->cols,
        .out_stride = source.out_stride,
        .in_stride = source.in_stride,
        .bias = bias,
        .bias_dtype = QSAE_F32,
        .heads = qsae__proj_heads(m->config, layer, p),
        .qkv_runs = qsae__proj_qkv_runs(m->config, p),
        .stream = (uint64_t)at,
        .shared = &m->weights->packed[at],
    };
}

/* *bias: where the next bias goes in m->biases. */
static int32_t plan_proj(qsae_model *m, int64_t layer, int p, float **bias)
{
    const qsae__layer_tensors *const t = &m->weights->layers[layer];
    const int64_t rows = t->weight[p].rows;
    if (!qsae__has_proj(m->config, layer, p))
        return QSAE_OK;
    if (t->bias[p])
        qsae__model_values(m, t->bias[p], 0, rows, *bias);
    const qsae__linear_weight w = qsae__model_weight(m, layer, p, t->bias[p] ? *bias : NULL);
    qsae__linear **const out = &m->layers[layer].proj[p];
    const int32_t st =
        qsae__linear_plan(m->ctx, qsae__model_condition(m, layer, p), &w,
                          m->bf16 ? QSAE_BF16 : QSAE_F32, out);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s", t->weight[p].name);
    count_proj(m, *out, t, p);
    if (t->bias[p])
        *bias += rows;
    return QSAE_OK;
}

/* Layers are ready to be loaded; nothing of their size is read or held yet. */
static int32_t plan_projections(qsae_model *m, const qsae_model_settings *s)
{
    const int projs = qsae__projs(m->config);
    const int64_t total = m->config->layers * projs;
    int64_t biases = 0;
    for (int64_t i = 0; i < total; i++) {
        const qsae__tensor *const t = m->weights->layers[i / projs].bias[i % projs];
        biases += t ? t->shape[0] : 0;
    }
    m->biases = qsae__alloc_array(m->ctx, biases, sizeof(float));
    if (!m->biases)
        return QSAE_ENOMEM;
    float *bias = m->biases;
    for (int64_t i = 0; i < total; i++) {
        int32_t st = qsae__canceled(s->cancel);
        if (st == QSAE_OK)
            st = plan_proj(m, i / projs, (int)(i % projs), &bias);
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}

/* *at: where the next values go in m->norms. Returns where these went. */
static const float *open_norm(qsae_model *m, const qsae__tensor *weight, const qsae__tensor *bias,
                              float **at)
{
    const float *const start = *at;
    const qsae__tensor *const both[] = { weight, bias };
    for (int i = 0; i < 2; i++) {
        if (!both[i])
            continue;
        qsae__model_values(m, both[i], 0, both[i]->shape[0], *at);
        *at += both[i]->shape[0];
        m->cost.weight_bytes += stored_bytes(m, both[i]);
    }
    return start;
}

/* Norm vectors are small: converted once. */
static int32_t open_norms(qsae_model *m)
{
    const qsae__config *const c = m->config;
    const qsae_weights *const w = m->weights;
    int64_t all = 0, parts = w->norm_bias ? 2 : 1;
    for (int64_t n = 0; n < c->layers; n++)
        for (int k = 0; k < QSAE__NORM_COUNT; k++)
            all += qsae__norm_size(c, n, k);
    m->norms = qsae__alloc_array(m->ctx, parts * (all + c->width), sizeof(float));
    if (!m->norms)
        return QSAE_ENOMEM;
    float *at = m->norms;
    for (int64_t n = 0; n < c->layers; n++)
        for (int k = 0; k < QSAE__NORM_COUNT; k++)
            if (w->layers[n].norm[k])
                m->layers[n].norm[k] =
                    open_norm(m, w->layers[n].norm[k], w->layers[n].norm_bias[k], &at);
    m->final_norm = open_norm(m, w->norm, w->norm_bias, &at);
    return QSAE_OK;
}

/* Per-layer embeddings and experts, where there are such. */
static int32_t open_extras(qsae_model *m)
{
    const int32_t st = qsae__extras_open(m);
    const qsae__tensor *t;
    if (st != QSAE_OK || !m->extras)
        return st;
    for (int64_t i = 0; (t = qsae__extras_tensor(m->weights, i)); i++)
        m->cost.weight_bytes += stored_bytes(m, t);
    const qsae__linear *const linear = m->extras->projection;
    const qsae__extra_tensors *const from = m->weights->extras;
    if (!linear)
        return QSAE_OK;
    m->cost.weight_bytes += from->table.tensor ? stored_bytes(m, from->table.tensor)
                                               : qsae__qmatrix_bytes(from->table.stored);
    if (qsae__linear_quantized(linear))
        count_encoded(m, qsae__linear_bytes(linear),
                      qsae__linear_out(linear) * qsae__linear_in(linear));
    else
        m->cost.weight_bytes += from->projection.tensor
                                    ? stored_bytes(m, from->projection.tensor)
                                    : qsae__linear_bytes(linear);
    if (qsae__linear_batch_dependent(linear))
        m->cost.batch_dependent = 1;
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
    qsae__packed_weight **const slot = &m->weights->packed[c->layers * qsae__projs(c)];
    int32_t st = QSAE_OK;
    pthread_mutex_lock(&m->weights->mutex);
    if (shared && *slot)
        m->head_packed = qsae__packed_ref(*slot);
    else
        st = qsae__packed_dense(m->ctx, &m->head, c->vocab, c->width, &m->head_packed);
    if (st == QSAE_OK && shared && !*slot)
        *slot = qsae__packed_ref(m->head_packed);
    if (st == QSAE_OK)
        st = qsae__packed_share(m->head_packed, shared ? 2 : 1);
    pthread_mutex_unlock(&m->weights->mutex);
    qsae__tensor_release(m->weights->tensors, qsae__weights_head(m->weights)->tensor);
    return st;
}

/* The encoded form of embedding or head, if there is one: the condition's, or the checkpoint's. */
static int32_t open_encoded(qsae_model *m, const qsae__matrix *matrix, const char *group,
                            uint64_t stream, qsae_qmatrix **out)
{
    const int32_t dtype = m->bf16 ? QSAE_BF16 : QSAE_F32;
    const qsae__place place = { -1, NULL, NULL, group };
    qsae__source src = qsae__matrix_source(m->weights, matrix, dtype);
    src.stream = stream;
    const qsae__condition *const at = qsae__condition_at(&m->condition, &place),
                          *const c = at ? at : &m->condition;
    const bool encodes = qsae__condition_encodes(&m->condition)
                             ? at != NULL
                             : matrix->stored && m->condition.weights;
    int32_t st = QSAE_OK;
    if (!encodes)
        *out = qsae__qmatrix_ref(matrix->stored);
    else if (c->codec == QSAE__INT8 && c->control == QSAE__CONTROL_NONE)
        return qsae__fail(QSAE_EUNSUPPORTED, "condition %s: LLM.int8 is for the linear layers of "
                          "blocks; embedding and head take every other codec",
                          m->condition.canonical);
    else
        st = qsae__qmatrix_encode(m->ctx, c, &src, 0, out);
    if (st == QSAE_OK && encodes)
        st = qsae__qmatrix_share(*out);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s", matrix->name);
    if (!*out)
        return QSAE_OK;
    /* Values without a code weigh what they would in the checkpoint. */
    const int64_t weights = matrix->rows * matrix->cols;
    const int32_t bits = qsae_dtype_bits(m->condition.weights ? m->condition.weights : src.dtype);
    const bool values =
        encodes && (c->codec == QSAE__NONE || c->control != QSAE__CONTROL_NONE);
    count_encoded(m, values ? (uint64_t)weights * (uint64_t)bits / 8 : qsae__qmatrix_bytes(*out),
                  weights);
    return QSAE_OK;
}

static int32_t open_head_bias(qsae_model *m)
{
    const qsae__tensor *const t = m->weights->head_bias;
    if (!t)
        return QSAE_OK;
    m->head_bias = qsae__alloc_array(m->ctx, m->config->vocab, sizeof *m->head_bias);
    if (!m->head_bias)
        return QSAE_ENOMEM;
    qsae__model_values(m, t, 0, m->config->vocab, m->head_bias);
    m->cost.weight_bytes += stored_bytes(m, t);
    return QSAE_OK;
}

/* Whether embedding and head are encoded by the same condition. */
static bool same_vocabulary(const qsae_model *m)
{
    const qsae__place embed = { -1, NULL, NULL, "embed" }, head = { -1, NULL, NULL, "head" };
    const qsae__condition *const at = qsae__condition_at(&m->condition, &head);
    return at && at == qsae__condition_at(&m->condition, &embed);
}

/* A tied matrix is encoded once if both of its uses are. */
static int32_t open_vocabulary(qsae_model *m)
{
    const qsae_weights *const w = m->weights;
    const uint64_t stream = (uint64_t)(m->config->layers * qsae__projs(m->config));
    const bool tied = m->config->tied;
    int32_t st = open_encoded(m, &w->embed, "embed", stream, &m->embed_q);
    if (st != QSAE_OK)
        return st;
    if (!m->embed_q)
        m->cost.weight_bytes += stored_bytes(m, w->embed.tensor);
    if (w->positions)
        m->cost.weight_bytes += stored_bytes(m, w->positions);
    if (tied && m->embed_q && (w->embed.stored == m->embed_q || same_vocabulary(m)))
        m->head_q = qsae__qmatrix_ref(m->embed_q);
    else
        st = open_encoded(m, qsae__weights_head(w), "head", tied ? stream : stream + 1, &m->head_q);
    if (st == QSAE_OK && !tied && !m->head_q)
        m->cost.weight_bytes += stored_bytes(m, w->head.tensor);
    return st;
}

static int32_t use_encoded_head(qsae_model *m)
{
    m->head_decoded = (qsae__decoded){ m->head_q, m->bf16 ? QSAE_BF16 : QSAE_F32 };
    m->head_panels = qsae__panels_decoded(&m->head_decoded);
    m->head_parts = m->bf16 ? 1 : 3;
    if (!m->bf16 || !qsae__packed_get(m->ctx)->bf16)
        return QSAE_OK;
    const qsae__rows16 rows = qsae__rows16_decoded(m->head_q);
    const int32_t st = qsae__packed_rows16(m->ctx, &rows, &m->head_packed);
    return st == QSAE_OK ? qsae__packed_share(m->head_packed, 1) : st;
}

static int32_t open_head(qsae_model *m)
{
    const qsae__config *const c = m->config;
    const qsae__tensor *const t = qsae__weights_head(m->weights)->tensor;
    if (m->head_q)
        return use_encoded_head(m);
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
    if (s->memory < 0 || s->memory > QSAE_MEMORY_STREAMED)
        return qsae__fail(QSAE_EINVAL, "qsae_model_settings.memory: %d is not a QSAE_MEMORY_*",
                          (int)s->memory);
    m->streamed = true; /* until its layers are loaded for good */
    const int32_t st =
        qsae__condition_parse(m->ctx, s->condition ? s->condition : "none", &m->condition);
    if (st != QSAE_OK)
        return st;
    if (m->condition.prune_match > 0 || m->condition.prune_target)
        return qsae__fail(QSAE_EINVAL, "condition %s: prune:match= is found by an audit; a model "
                          "takes prune:sparsity=", m->condition.canonical);
    m->compute = m->condition.model_compute ? m->condition.model_compute
                 : s->compute               ? s->compute
                                            : QSAE_COMPUTE_F32;
    m->attention = s->attention              ? s->attention
                   : m->config->family->eager ? QSAE_ATTN_EAGER
                                              : QSAE_ATTN_SDPA;
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
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__need(weights, "weights"))
        return QSAE_EINVAL;
    int32_t st = qsae__settings_copy(&s, sizeof s, settings, "qsae_model_settings");
    if (st != QSAE_OK)
        return st;
    qsae_model *m = qsae__calloc(weights->ctx, 1, sizeof *m);
    if (!m)
        return QSAE_ENOMEM;
    qsae__handle_init(m);
    m->ctx = qsae__context_ref(weights->ctx);
    m->weights = qsae__weights_ref(weights);
    m->config = &weights->config;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = resolve(m, &s);
    if (st == QSAE_OK) {
        m->layers = qsae__calloc(m->ctx, m->config->layers, sizeof *m->layers);
        st = m->layers ? QSAE_OK : QSAE_ENOMEM;
    }
    if (st == QSAE_OK)
        st = plan_projections(m, &s);
    if (st == QSAE_OK && s.memory != QSAE_MEMORY_STREAMED)
        st = qsae__model_keep(m, s.progress, s.progress_cookie, s.cancel);
    if (st == QSAE_OK)
        st = open_norms(m);
    if (st == QSAE_OK)
        st = open_extras(m);
    if (st == QSAE_OK)
        st = qsae__model_open_kv(m);
    if (st == QSAE_OK)
        st = open_vocabulary(m);
    if (st == QSAE_OK)
        st = open_head(m);
    if (st == QSAE_OK)
        st = open_head_bias(m);
    qsae__fpenv_leave(env);
    if (st != QSAE_OK) {
        model_free(m);
        return st;
    }
    finish_cost(m);
    *out = m;
    return QSAE_OK;
}

size_t qsae__model_kept(const qsae_model *m, int64_t rows)
{
    int64_t floats;
    size_t bytes;
    return qsae__kept_floats(m->config, rows, &floats) &&
                   qsae__bytes(floats, sizeof(float), &bytes)
               ? bytes : 0;
}

bool qsae__model_resumes(const qsae_model *m)
{
    return qsae__model_kept(m, 1) == 0;
}

int64_t qsae__model_first_changed(const qsae_model *reference, const qsae_model *m)
{
    const qsae__condition *const c = &m->condition, *const r = &reference->condition;
    const bool plain = !qsae__condition_encodes(r) && !r->weights &&
                       r->kv_k.kind == QSAE__KV_NONE && r->kv_v.kind == QSAE__KV_NONE;
    if (!plain || m->weights != reference->weights || m->compute != reference->compute ||
        m->attention != reference->attention || c->weights || c->with_embed ||
        c->kv_k.kind != QSAE__KV_NONE || c->kv_v.kind != QSAE__KV_NONE)
        return 0;
    /* Later layers read more than the residual stream that the reference leaves. */
    if (!qsae__model_resumes(m))
        return 0;
    for (int64_t n = 0; n < m->config->layers; n++)
        for (int p = 0; p < qsae__projs(m->config); p++)
            if (qsae__model_changes(m, n, p))
                return n;
    return m->config->layers;
}

void qsae_model_close(qsae_model **model)
{
    if (!qsae__leave(model, "model"))
        return;
    model_free(*model);
    *model = NULL;
}

int32_t qsae_model_get_info(const qsae_model *model, qsae_model_info *info)
{
    if (qsae__need(model, "model"))
        return QSAE_EINVAL;
    return qsae__weights_info(model->weights, info);
}

int32_t qsae_model_get_cost(const qsae_model *model, qsae_model_cost *cost)
{
    QSAE__FPENV;
    if (qsae__need(model, "model"))
        return QSAE_EINVAL;
    if (!cost)
        return qsae__fail(QSAE_EINVAL, "qsae_model_get_cost: NULL argument");
    return qsae__info_copy(cost, &model->cost, sizeof model->cost, "qsae_model_cost");
}
