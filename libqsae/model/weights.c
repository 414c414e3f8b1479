/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/gguf.h"
#include "model/gguf.h"
#include "model/extras.h"

const qsae__proj_slot qsae__proj_slots[QSAE__GATED_COUNT] = {
    [QSAE__Q_PROJ] = { "self_attn.q_proj", "q_proj", "attn", QSAE__SIZE_Q, QSAE__SIZE_WIDTH },
    [QSAE__K_PROJ] = { "self_attn.k_proj", "k_proj", "attn", QSAE__SIZE_KV, QSAE__SIZE_WIDTH },
    [QSAE__V_PROJ] = { "self_attn.v_proj", "v_proj", "attn", QSAE__SIZE_KV, QSAE__SIZE_WIDTH },
    [QSAE__O_PROJ] = { "self_attn.o_proj", "o_proj", "attn", QSAE__SIZE_WIDTH, QSAE__SIZE_Q },
    [QSAE__GATE_PROJ] = { "mlp.gate_proj", "gate_proj", "mlp", QSAE__SIZE_MLP, QSAE__SIZE_WIDTH },
    [QSAE__UP_PROJ] = { "mlp.up_proj", "up_proj", "mlp", QSAE__SIZE_MLP, QSAE__SIZE_WIDTH },
    [QSAE__DOWN_PROJ] = { "mlp.down_proj", "down_proj", "mlp", QSAE__SIZE_WIDTH, QSAE__SIZE_MLP },
};

/* The text model's names begin with whatever stands before the embedding's. */
static int32_t find_prefix(qsae_weights *w)
{
    const char *found = NULL;
    char embed[64];
    snprintf(embed, sizeof embed, "%s.weight", qsae__family_embed(w->config.family));
    const size_t m = strlen(embed);
    for (int64_t i = 0; i < qsae__tensors_len(w->tensors); i++) {
        const char *name = qsae__tensors_at(w->tensors, i)->name;
        const size_t n = strlen(name);
        if (n < m || strcmp(name + n - m, embed) != 0 || (n > m && name[n - m - 1] != '.'))
            continue;
        if (found)
            return qsae__fail(QSAE_EFORMAT,
                              "%s: both %.200s and %.200s could be the embedding of the text model",
                              w->path, found, name);
        found = name;
    }
    if (!found)
        return qsae__fail(QSAE_ENOENT, "%s: no tensor named *%s", w->path, embed);
    w->prefix = qsae__strndup(w->ctx, found, strlen(found) - m);
    return w->prefix ? QSAE_OK : QSAE_ENOMEM;
}

/* A plain tensor this library can compute with, counted as parameters. */
int32_t qsae__weights_need(qsae_weights *w, const char *name, int32_t rank, const int64_t *shape,
                           const qsae__tensor **out)
{
    const qsae__tensor *t = NULL;
    const int32_t st = qsae__tensors_need(w->tensors, name, rank, shape, &t);
    if (st != QSAE_OK)
        return st;
    if (t->dtype != QSAE_F32 && t->dtype != QSAE_BF16 && t->dtype != QSAE_F16)
        return qsae__fail(QSAE_EUNSUPPORTED,
                          "%s: %s: dtype %s is not supported (F32, F16, BF16 are)", t->file, name,
                          qsae_dtype_name(t->dtype));
    int64_t count = 1;
    for (int32_t i = 0; i < rank; i++)
        count *= shape[i]; /* of a tensor that is there: no overflow */
    w->parameters += count;
    *out = t;
    return QSAE_OK;
}

/* A matrix by its module's name: as the checkpoint encodes it, or plain. */
int32_t qsae__weights_need_matrix(qsae_weights *w, const char *module, int64_t rows, int64_t cols,
                                  bool transposed, qsae__matrix *out)
{
    const int64_t shape[2] = { transposed ? cols : rows, transposed ? rows : cols };
    const size_t size = strlen(module) + sizeof ".weight";
    const qsae__tensor *t = NULL;
    *out = (qsae__matrix){ .rows = rows, .cols = cols, .name = qsae__alloc(w->ctx, size),
                           .transposed = transposed };
    if (!out->name)
        return QSAE_ENOMEM;
    snprintf(out->name, size, "%s.weight", module);
    int32_t st =
        qsae__stored_open(w->ctx, w->scheme, w->tensors, module, rows, cols, &out->stored);
    if (st != QSAE_OK)
        return st;
    if (!out->stored) {
        st = qsae__tensors_need(w->tensors, out->name, 2, shape, &t);
        if (st != QSAE_OK)
            return st;
        if (t->dtype <= QSAE_DTYPE_COUNT)
            return qsae__weights_need(w, out->name, 2, shape, &out->tensor);
        st = qsae__ggml_open(w->ctx, w->tensors, t, &out->stored);
    }
    w->parameters += rows * cols;
    return st;
}

/* Layer tensor `path` + suffix; buffer of size bytes for the name. */
static int32_t need_vector(qsae_weights *w, int64_t layer, const char *path, const char *suffix,
                           int64_t n, char *buffer, size_t size, const qsae__tensor **out)
{
    snprintf(buffer, size, "%s%s.%" PRId64 ".%s%s", w->prefix,
             qsae__family_layers(w->config.family), layer, path, suffix);
    return qsae__weights_need(w, buffer, 1, &n, out);
}

static int32_t find_layer(qsae_weights *w, int64_t layer, char *name, size_t size)
{
    const qsae__config *const c = &w->config;
    qsae__layer_tensors *const l = &w->layers[layer];
    int32_t st = QSAE_OK;
    for (int p = 0; p < qsae__projs(c) && st == QSAE_OK; p++) {
        const qsae__proj_slot *const slot = qsae__proj_slot_of(c, p);
        const bool bias = !strcmp(slot->group, "attn") ? c->attention_bias : c->mlp_bias;
        int64_t shape[2];
        if (!qsae__has_proj(c, layer, p))
            continue;
        qsae__proj_shape(c, layer, p, shape);
        snprintf(name, size, "%s%s.%" PRId64 ".%s", w->prefix, qsae__family_layers(c->family),
                 layer, slot->path);
        st = qsae__weights_need_matrix(w, name, shape[0], shape[1],
                                       c->family->transposed && !w->gguf, &l->weight[p]);
        if (st == QSAE_OK && bias)
            st = need_vector(w, layer, slot->path, ".bias", shape[0], name, size, &l->bias[p]);
    }
    for (int n = 0; n < QSAE__NORM_COUNT && st == QSAE_OK; n++) {
        const int64_t d = qsae__norm_size(c, layer, n);
        if (d > 0)
            st = need_vector(w, layer, c->family->norms[n], ".weight", d, name, size, &l->norm[n]);
        if (st == QSAE_OK && d > 0 && c->family->norm == QSAE__NORM_LAYER)
            st = need_vector(w, layer, c->family->norms[n], ".bias", d, name, size,
                             &l->norm_bias[n]);
    }
    return st;
}

static const qsae__tensor *find_head_tensor(const qsae_weights *w, const char **module)
{
    const char *const modules[] = { qsae__family_head(w->config.family), "lm_head",
                                    "language_model.lm_head" };
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        const qsae__tensor *const t = qsae__stored_key(w->tensors, modules[i]);
        *module = modules[i];
        if (t)
            return t;
    }
    return NULL;
}

/*
 * The head is the embedding if the configuration says so or no head is stored (models.md A.11). A
 * head stored although tied must be the same matrix; if it is not, the embedding is used and the
 * log says so.
 */
static int32_t find_head(qsae_weights *w)
{
    const char *module;
    const qsae__tensor *const stored = find_head_tensor(w, &module),
                       *const embed = w->embed.tensor;
    if (stored && !w->config.tied)
        return qsae__weights_need_matrix(w, module, w->config.vocab, w->config.width, false,
                                         &w->head);
    w->config.tied = true;
    if (stored && (!embed || stored->dtype != embed->dtype || stored->bytes != embed->bytes ||
                   memcmp(stored->data, embed->data, (size_t)stored->bytes) != 0))
        qsae__log(w->ctx, QSAE_LOG_WARNING,
                  "%s: %s differs from the embedding although tie_word_embeddings is true; the "
                  "embedding is used",
                  w->path, stored->name);
    return QSAE_OK;
}

/* LLM.int8 is a product's business: there is none in an embedding, and the head's runs in tiles. So
 * is the quantization of activations. */
static int32_t check_int8(const qsae_weights *w, const qsae__matrix *m)
{
    if (m->stored && m->stored->act)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: stored with quantized activations, which are "
                          "supported for the linear layers of blocks only", w->path, m->name);
    if (!m->stored || m->stored->codec.codec != QSAE__INT8)
        return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: stored by LLM.int8, which is supported for the "
                      "linear layers of blocks only", w->path, m->name);
}

static int32_t find_tensors(qsae_weights *w)
{
    const qsae__config *const c = &w->config;
    const size_t size = strlen(w->prefix) + 128;
    char *name = qsae__alloc(w->ctx, size);
    w->layers = qsae__calloc(w->ctx, c->layers, sizeof *w->layers);
    w->packed = qsae__calloc(w->ctx, qsae__place_outside(c) + 1, sizeof *w->packed);
    if (!name || !w->layers || !w->packed) {
        qsae__free(w->ctx, name);
        return QSAE_ENOMEM;
    }
    snprintf(name, size, "%s%s", w->prefix, qsae__family_embed(c->family));
    int32_t st = qsae__weights_need_matrix(w, name, c->vocab, c->width, false, &w->embed);
    if (st == QSAE_OK && c->family->positions) {
        const int64_t shape[2] = { c->max_positions, c->width };
        snprintf(name, size, "%s%s.weight", w->prefix, c->family->positions);
        st = qsae__weights_need(w, name, 2, shape, &w->positions);
    }
    for (int64_t n = 0; n < c->layers && st == QSAE_OK; n++)
        st = find_layer(w, n, name, size);
    if (st == QSAE_OK) {
        snprintf(name, size, "%s%s.weight", w->prefix, qsae__family_final_norm(c->family));
        st = qsae__weights_need(w, name, 1, &c->width, &w->norm);
    }
    if (st == QSAE_OK && c->family->norm == QSAE__NORM_LAYER) {
        snprintf(name, size, "%s%s.bias", w->prefix, qsae__family_final_norm(c->family));
        st = qsae__weights_need(w, name, 1, &c->width, &w->norm_bias);
    }
    if (st == QSAE_OK)
        st = find_head(w);
    if (st == QSAE_OK)
        st = qsae__extras_find(w);
    if (st == QSAE_OK)
        st = qsae__linears_open(w);
    if (st == QSAE_OK)
        st = check_int8(w, &w->embed);
    if (st == QSAE_OK)
        st = check_int8(w, &w->head);
    qsae__free(w->ctx, name);
    return st;
}

static void matrix_free(qsae_context *ctx, qsae__matrix *m)
{
    qsae__qmatrix_unref(&m->stored);
    qsae__free(ctx, m->name);
}

static void weights_free(qsae_weights *w)
{
    qsae_context *const ctx = w->ctx;
    const int64_t projs = w->layers ? qsae__projs(&w->config) : 0;
    for (int64_t i = 0; i < w->config.layers * projs; i++)
        matrix_free(ctx, &w->layers[i / projs].weight[i % projs]);
    matrix_free(ctx, &w->embed);
    matrix_free(ctx, &w->head);
    qsae__scheme_close(ctx, &w->scheme);
    qsae__extras_free(w);
    for (int64_t i = 0; w->packed && i <= qsae__place_outside(&w->config); i++)
        qsae__packed_close(&w->packed[i]);
    qsae__free(ctx, w->packed);
    qsae__free(ctx, w->linears);
    qsae__tensors_unref(&w->tensors);
    if (!w->source)
        qsae__config_free(ctx, &w->config);
    qsae__weights_unref(w->source);
    qsae__free(ctx, w->layers);
    qsae__free(ctx, w->prefix);
    qsae__free(ctx, w->path);
    pthread_mutex_destroy(&w->mutex);
    qsae__retire(ctx, w);
    qsae__context_unref(ctx);
}

qsae__source qsae__matrix_source(const qsae_weights *w, const qsae__matrix *m, int32_t round)
{
    return (qsae__source){
        .ctx = w->ctx,
        .data = m->tensor ? m->tensor->data : NULL,
        .dtype = m->tensor ? m->tensor->dtype : m->stored->dtype,
        .round = round,
        .n_out = m->rows,
        .n_in = m->cols,
        .out_stride = m->transposed ? 1 : m->cols,
        .in_stride = m->transposed ? m->rows : 1,
        .stored = m->stored,
    };
}

/* What config.json says of weights that are stored compressed; early GPTQ and AWQ folders have a
 * file of its own for it. */
static int32_t open_scheme(qsae_weights *w, const json_t *json, const char *config)
{
    static const char *const keys[] = { "quantization_config", "compression_config" };
    static const char *const files[] = { "quantize_config.json", "quant_config.json" };
    int32_t st = QSAE_OK;
    for (size_t i = 0; i < 2 && st == QSAE_OK && !w->scheme; i++) {
        const json_t *found = NULL;
        st = qsae__json_get(json, config, keys[i], false, JSON_OBJECT, &found);
        if (st == QSAE_OK && found)
            st = qsae__scheme_open(w->ctx, found, config, &w->scheme);
    }
    for (size_t i = 0; i < 2 && st == QSAE_OK && !w->scheme; i++) {
        char *const path = qsae__path_join(w->ctx, w->path, files[i]);
        json_t *found = NULL;
        if (!path)
            return QSAE_ENOMEM;
        if (qsae__file_exists(path))
            st = qsae__json_load(w->ctx, path, &found);
        if (st == QSAE_OK && json_is_object(found) && !json_object_get(found, "quant_method") &&
            json_object_set_new(found, "quant_method", json_string(i ? "awq" : "gptq")) != 0)
            st = QSAE_ENOMEM;
        if (st == QSAE_OK && found)
            st = qsae__scheme_open(w->ctx, found, path, &w->scheme);
        json_decref(found);
        qsae__free(w->ctx, path);
    }
    return st;
}

/* A Hugging Face folder: config.json, and the tensors beside it. */
static int32_t open_folder(qsae_weights *w, const char *config)
{
    json_t *json = NULL;
    int32_t st = qsae__json_load(w->ctx, config, &json);
    if (st == QSAE_OK)
        st = qsae__config_read(w->ctx, json, config, &w->config);
    if (st == QSAE_OK)
        st = open_scheme(w, json, config);
    json_decref(json);
    return st == QSAE_OK ? qsae__tensors_load(w->ctx, w->path, &w->tensors) : st;
}

/* w->tensors are a GGUF file's: the model is what that says, whatever stands beside it. */
static int32_t open_gguf(qsae_weights *w)
{
    qsae__tensors *raw = w->tensors;
    json_t *json = NULL;
    w->tensors = NULL;
    w->gguf = true;
    qsae__config_free(w->ctx, &w->config);
    qsae__scheme_close(w->ctx, &w->scheme);
    int32_t st = qsae__gguf_model(w->ctx, raw, &json, &w->tensors);
    if (st == QSAE_OK)
        st = qsae__config_read(w->ctx, json, w->path, &w->config);
    json_decref(json);
    qsae__tensors_unref(&raw);
    return st;
}

static int32_t open_source(qsae_weights *w)
{
    char *config = qsae__path_join(w->ctx, w->path, "config.json");
    if (!config)
        return QSAE_ENOMEM;
    const bool described = qsae__file_exists(config);
    int32_t st = described ? open_folder(w, config)
                           : qsae__tensors_load(w->ctx, w->path, &w->tensors);
    if (st == QSAE_OK && qsae__tensors_gguf(w->tensors))
        st = open_gguf(w);
    else if (st == QSAE_OK && !described)
        st = qsae__fail(QSAE_ENOENT, "%s: no such file", config);
    qsae__free(w->ctx, config);
    return st;
}

/* What a stored matrix has in memory beside the file: unpacked codes, scales in f32. */
static int32_t share_stored(qsae_weights *w)
{
    const int64_t projs = qsae__projs(&w->config);
    int32_t st = qsae__qmatrix_share(w->embed.stored);
    if (st == QSAE_OK)
        st = qsae__qmatrix_share(w->head.stored);
    if (st == QSAE_OK && w->extras)
        st = qsae__qmatrix_share(w->extras->table.stored);
    if (st == QSAE_OK && w->extras)
        st = qsae__qmatrix_share(w->extras->projection.stored);
    for (int64_t i = 0; i < w->config.layers * projs && st == QSAE_OK; i++)
        st = qsae__qmatrix_share(w->layers[i / projs].weight[i % projs].stored);
    return st;
}

int32_t qsae_weights_open(qsae_context *context, const char *path, qsae_weights **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_weights_open: NULL argument");
    qsae_weights *w = qsae__calloc(context, 1, sizeof *w);
    if (!w)
        return QSAE_ENOMEM;
    const int e = pthread_mutex_init(&w->mutex, NULL);
    if (e) {
        qsae__free(context, w);
        return qsae__fail(QSAE_EENV, "%s: cannot make a lock: %s", path, strerror(e));
    }
    qsae__handle_init(w);
    w->ctx = qsae__context_ref(context);
    atomic_init(&w->refs, 1);
    w->path = qsae__strdup(context, path);
    int32_t st = w->path ? open_source(w) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__tensors_share(w->tensors);
    if (st == QSAE_OK)
        st = find_prefix(w);
    if (st == QSAE_OK)
        st = find_tensors(w);
    if (st == QSAE_OK)
        st = share_stored(w);
    if (st != QSAE_OK)
        weights_free(w);
    else
        *out = w;
    return st;
}

/* Copies what a matrix is, but for its values. */
static int32_t derive_matrix(qsae_weights *w, const qsae__matrix *from, qsae__matrix *to)
{
    if (!from->name)
        return QSAE_OK;
    *to = *from;
    to->name = qsae__strdup(w->ctx, from->name);
    return to->name ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t derive_tensors(const qsae_weights *from, qsae_weights *w)
{
    const int64_t layers = w->config.layers, projs = qsae__projs(&w->config);
    int32_t st = derive_matrix(w, &from->embed, &w->embed);
    if (st == QSAE_OK)
        st = derive_matrix(w, &from->head, &w->head);
    for (int64_t i = 0; i < layers * projs && st == QSAE_OK; i++) {
        const qsae__layer_tensors *const a = &from->layers[i / projs];
        qsae__layer_tensors *const b = &w->layers[i / projs];
        st = derive_matrix(w, &a->weight[i % projs], &b->weight[i % projs]);
        b->bias[i % projs] = a->bias[i % projs];
        memcpy(b->norm, a->norm, sizeof b->norm);
        memcpy(b->norm_bias, a->norm_bias, sizeof b->norm_bias);
    }
    w->norm = from->norm;
    w->norm_bias = from->norm_bias;
    w->positions = from->positions;
    return st;
}

int32_t qsae__weights_derive(qsae_weights *from, qsae__tensors *tensors, qsae_weights **out)
{
    qsae_weights *const w = qsae__calloc(from->ctx, 1, sizeof *w);
    *out = NULL;
    if (!w)
        return QSAE_ENOMEM;
    const int e = pthread_mutex_init(&w->mutex, NULL);
    if (e) {
        qsae__free(from->ctx, w);
        return qsae__fail(QSAE_EENV, "%s: cannot make a lock: %s", from->path, strerror(e));
    }
    qsae__handle_set(&w->base, QSAE__A_WEIGHTS, 0); /* no caller has it yet */
    w->ctx = qsae__context_ref(from->ctx);
    atomic_init(&w->refs, 1);
    w->source = qsae__weights_ref(from);
    w->config = from->config;
    w->gguf = from->gguf;
    w->parameters = from->parameters;
    w->tensors = qsae__tensors_ref(tensors);
    w->path = qsae__strdup(w->ctx, from->path);
    w->prefix = qsae__strdup(w->ctx, from->prefix);
    w->layers = qsae__calloc(w->ctx, w->config.layers, sizeof *w->layers);
    w->packed = qsae__calloc(w->ctx, qsae__place_outside(&w->config) + 1, sizeof *w->packed);
    int32_t st = w->path && w->prefix && w->layers && w->packed ? derive_tensors(from, w)
                                                                : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__linears_open(w);
    if (st != QSAE_OK)
        weights_free(w);
    else
        *out = w;
    return st;
}

qsae_weights *qsae__weights_ref(qsae_weights *w)
{
    atomic_fetch_add(&w->refs, 1);
    return w;
}

void qsae__weights_unref(qsae_weights *w)
{
    if (w && atomic_fetch_sub(&w->refs, 1) == 1)
        weights_free(w);
}

void qsae_weights_close(qsae_weights **weights)
{
    if (!qsae__leave(weights, "weights"))
        return;
    qsae__weights_unref(*weights);
    *weights = NULL;
}

int32_t qsae__weights_describe(const qsae_weights *w, bool with_hash, qsae_model_info *info)
{
    const qsae__config *const c = &w->config;
    *info = (qsae_model_info){
        .type = c->family->model_type,
        .path = w->path,
        .layers = c->layers,
        .width = c->width,
        .vocab = c->vocab,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .mlp_width = c->mlp_width,
        .window = c->window,
        .max_positions = c->max_positions,
        .parameters = w->parameters,
        .tied = c->tied,
        .bos = c->bos,
        .eos = c->eos,
        .dtype = w->embed.tensor ? w->embed.tensor->dtype : w->embed.stored->dtype,
        .hash = "",
        .storage = w->gguf ? "gguf" : qsae__scheme_name(w->scheme),
    };
    if (!with_hash)
        return QSAE_OK;
    info->hash = w->hash;
    return qsae__weights_hash((qsae_weights *)w); /* fills a cache under its own lock */
}

int32_t qsae__weights_info(const qsae_weights *weights, qsae_model_info *info)
{
    qsae_model_info out;
    size_t given;
    if (!info)
        return qsae__fail(QSAE_EINVAL, "qsae_model_info: info is NULL");
    memcpy(&given, info, sizeof given); /* which may be misaligned */
    const bool with_hash = given >= offsetof(qsae_model_info, hash) + sizeof info->hash;
    const int32_t st = qsae__weights_describe(weights, with_hash, &out);
    return st == QSAE_OK ? qsae__info_copy(info, &out, sizeof out, "qsae_model_info") : st;
}

static const qsae__matrix *find_matrix(const qsae_weights *w, const char *module)
{
    const size_t n = strlen(module);
    const qsae__matrix *const ends[] = { &w->embed, &w->head,
                                         w->extras ? &w->extras->table : &w->head };
    for (int64_t i = 0; i < w->n_linears + 3; i++) {
        const qsae__matrix *const m = i < 3 ? ends[i] : qsae__linear_matrix(w, w->linears[i - 3]);
        if (m->name && !strncmp(m->name, module, n) && !strcmp(m->name + n, ".weight"))
            return m;
    }
    return NULL;
}

/* A copy of a plain matrix in the order of its rows. */
static int32_t turned(const qsae_weights *w, const qsae__matrix *m, qsae_qmatrix **out)
{
    const qsae__source src = qsae__matrix_source(w, m, 0);
    qsae__condition c;
    int32_t st = qsae__condition_parse(w->ctx, "none", &c);
    if (st != QSAE_OK)
        return st;
    st = qsae__qmatrix_encode(w->ctx, &c, &src, 0, out);
    qsae__condition_free(w->ctx, &c);
    return st;
}

int32_t qsae_weights_get_info(const qsae_weights *weights, qsae_model_info *info)
{
    if (qsae__need(weights, "weights"))
        return QSAE_EINVAL;
    return qsae__weights_info(weights, info);
}

int32_t qsae_weights_matrix(const qsae_weights *weights, const char *module, qsae_qmatrix **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__need(weights, "weights"))
        return QSAE_EINVAL;
    if (!module)
        return qsae__fail(QSAE_EINVAL, "qsae_weights_matrix: NULL argument");
    const qsae__matrix *const m = find_matrix(weights, module);
    if (!m)
        return qsae__fail(QSAE_ENOENT, "%s: no matrix of a module named %.200s", weights->path,
                          module);
    if (m->transposed && !m->stored)
        return qsae__qmatrix_give(turned(weights, m, out), out);
    *out = qsae__qmatrix_ref(m->stored);
    const int32_t st =
        m->stored ? QSAE_OK : qsae__ggml_open(weights->ctx, weights->tensors, m->tensor, out);
    return qsae__qmatrix_give(st, out);
}
