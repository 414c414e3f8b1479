/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "model/internal.h"

#define EMBED "embed_tokens.weight"

const qsae__proj_slot qsae__proj_slots[QSAE__PROJ_COUNT] = {
    [QSAE__Q_PROJ] = { "self_attn.q_proj", "q_proj", "attn" },
    [QSAE__K_PROJ] = { "self_attn.k_proj", "k_proj", "attn" },
    [QSAE__V_PROJ] = { "self_attn.v_proj", "v_proj", "attn" },
    [QSAE__O_PROJ] = { "self_attn.o_proj", "o_proj", "attn" },
    [QSAE__GATE_PROJ] = { "mlp.gate_proj", "gate_proj", "mlp" },
    [QSAE__UP_PROJ] = { "mlp.up_proj", "up_proj", "mlp" },
    [QSAE__DOWN_PROJ] = { "mlp.down_proj", "down_proj", "mlp" },
};

void qsae__proj_shape(const qsae__config *c, int proj, int64_t shape[2])
{
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const int64_t out[] = { q, kv, kv, c->width, c->mlp_width, c->mlp_width, c->width };
    const int64_t in[] = { c->width, c->width, c->width, q, c->width, c->width, c->mlp_width };
    shape[0] = out[proj];
    shape[1] = in[proj];
}

/* The text model's names begin with whatever stands before the one embed_tokens.weight. */
static int32_t find_prefix(qsae_weights *w)
{
    const char *found = NULL;
    for (int64_t i = 0; i < qsae__tensors_len(w->tensors); i++) {
        const char *name = qsae__tensors_at(w->tensors, i)->name;
        const size_t n = strlen(name), m = strlen(EMBED);
        if (n < m || strcmp(name + n - m, EMBED) != 0 || (n > m && name[n - m - 1] != '.'))
            continue;
        if (found)
            return qsae__fail(QSAE_EFORMAT,
                              "%s: both %.200s and %.200s could be the embedding of the text model",
                              w->path, found, name);
        found = name;
    }
    if (!found)
        return qsae__fail(QSAE_ENOENT, "%s: no tensor named *" EMBED, w->path);
    w->prefix = qsae__strndup(w->ctx, found, strlen(found) - strlen(EMBED));
    return w->prefix ? QSAE_OK : QSAE_ENOMEM;
}

/* A tensor this library can compute with, counted as parameters. */
static int32_t need(qsae_weights *w, const char *name, int32_t rank, const int64_t *shape,
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
    w->parameters += rank == 2 ? shape[0] * shape[1] : shape[0];
    *out = t;
    return QSAE_OK;
}

/* Layer tensor `path` + suffix; buffer of size bytes for the name. */
static int32_t need_layer(qsae_weights *w, int64_t layer, const char *path, const char *suffix,
                          int32_t rank, const int64_t *shape, char *buffer, size_t size,
                          const qsae__tensor **out)
{
    snprintf(buffer, size, "%slayers.%" PRId64 ".%s%s", w->prefix, layer, path, suffix);
    return need(w, buffer, rank, shape, out);
}

static int32_t find_layer(qsae_weights *w, int64_t layer, char *name, size_t size)
{
    const qsae__config *const c = &w->config;
    qsae__layer_tensors *const l = &w->layers[layer];
    int32_t st = QSAE_OK;
    for (int p = 0; p < QSAE__PROJ_COUNT && st == QSAE_OK; p++) {
        const qsae__proj_slot *const slot = &qsae__proj_slots[p];
        const bool bias = !strcmp(slot->group, "attn") ? c->attention_bias : c->mlp_bias;
        int64_t shape[2];
        qsae__proj_shape(c, p, shape);
        st = need_layer(w, layer, slot->path, ".weight", 2, shape, name, size, &l->weight[p]);
        if (st == QSAE_OK && bias)
            st = need_layer(w, layer, slot->path, ".bias", 1, shape, name, size, &l->bias[p]);
    }
    for (int n = 0; n < QSAE__NORM_COUNT && st == QSAE_OK; n++) {
        const int64_t d = n == QSAE__NORM_Q || n == QSAE__NORM_K ? c->head_dim : c->width;
        if (c->family->norms[n])
            st = need_layer(w, layer, c->family->norms[n], ".weight", 1, &d, name, size,
                            &l->norm[n]);
    }
    return st;
}

/*
 * The head is the embedding if the configuration says so or no head is stored (models.md A.11). A
 * head stored although tied must be the same matrix; if it is not, the embedding is used and the
 * log says so.
 */
static int32_t find_head(qsae_weights *w, const int64_t shape[2])
{
    const char *names[] = { "lm_head.weight", "language_model.lm_head.weight" };
    const qsae__tensor *stored = NULL;
    for (int i = 0; i < 2 && !stored; i++)
        stored = qsae__tensors_find(w->tensors, names[i]);
    if (stored && !w->config.tied)
        return need(w, stored->name, 2, shape, &w->head);
    w->config.tied = true;
    w->head = w->embed;
    if (stored && (stored->dtype != w->embed->dtype || stored->bytes != w->embed->bytes ||
                   memcmp(stored->data, w->embed->data, (size_t)stored->bytes) != 0))
        qsae__log(w->ctx, QSAE_LOG_WARNING,
                  "%s: %s differs from the embedding although tie_word_embeddings is true; the "
                  "embedding is used",
                  w->path, stored->name);
    return QSAE_OK;
}

static int32_t find_tensors(qsae_weights *w)
{
    const qsae__config *const c = &w->config;
    const int64_t matrix[2] = { c->vocab, c->width };
    const size_t size = strlen(w->prefix) + 128;
    char *name = qsae__alloc(w->ctx, size);
    w->layers = qsae__calloc(w->ctx, c->layers, sizeof *w->layers);
    w->packed = qsae__calloc(w->ctx, c->layers * QSAE__PROJ_COUNT + 1, sizeof *w->packed);
    if (!name || !w->layers || !w->packed) {
        qsae__free(w->ctx, name);
        return QSAE_ENOMEM;
    }
    snprintf(name, size, "%s" EMBED, w->prefix);
    int32_t st = need(w, name, 2, matrix, &w->embed);
    for (int64_t n = 0; n < c->layers && st == QSAE_OK; n++)
        st = find_layer(w, n, name, size);
    if (st == QSAE_OK) {
        snprintf(name, size, "%snorm.weight", w->prefix);
        st = need(w, name, 1, &c->width, &w->norm);
    }
    if (st == QSAE_OK)
        st = find_head(w, matrix);
    qsae__free(w->ctx, name);
    return st;
}

static void weights_free(qsae_weights *w)
{
    qsae_context *const ctx = w->ctx;
    for (int64_t i = 0; w->packed && i <= w->config.layers * QSAE__PROJ_COUNT; i++)
        qsae__packed_close(&w->packed[i]);
    qsae__free(ctx, w->packed);
    qsae__tensors_unref(&w->tensors);
    qsae__config_free(ctx, &w->config);
    qsae__free(ctx, w->layers);
    qsae__free(ctx, w->prefix);
    qsae__free(ctx, w->path);
    pthread_mutex_destroy(&w->mutex);
    qsae__free(ctx, w);
    qsae__context_unref(ctx);
}

int32_t qsae_weights_open(qsae_context *context, const char *path, qsae_weights **out)
{
    if (out)
        *out = NULL;
    if (!context || !path || !out)
        return qsae__fail(QSAE_EINVAL, "qsae_weights_open: NULL argument");
    qsae_weights *w = qsae__calloc(context, 1, sizeof *w);
    if (!w)
        return QSAE_ENOMEM;
    w->ctx = qsae__context_ref(context);
    atomic_init(&w->refs, 1);
    pthread_mutex_init(&w->mutex, NULL);
    int32_t st = QSAE_ENOMEM;
    char *config = qsae__path_join(context, path, "config.json");
    w->path = qsae__strdup(context, path);
    if (!config || !w->path)
        goto done;
    st = qsae__config_load(context, config, &w->config);
    if (st == QSAE_OK)
        st = qsae__tensors_load(context, path, &w->tensors);
    if (st == QSAE_OK)
        st = find_prefix(w);
    if (st == QSAE_OK)
        st = find_tensors(w);
done:
    qsae__free(context, config);
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
    if (!weights || !*weights)
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
        .dtype = w->embed->dtype,
        .hash = "",
    };
    if (!with_hash)
        return QSAE_OK;
    info->hash = w->hash;
    return qsae__weights_hash((qsae_weights *)w); /* fills a cache under its own lock */
}

int32_t qsae_weights_get_info(const qsae_weights *weights, qsae_model_info *info)
{
    qsae_model_info out;
    if (!weights || !info)
        return qsae__fail(QSAE_EINVAL, "qsae_weights_get_info: NULL argument");
    const bool with_hash = info->struct_size >= offsetof(qsae_model_info, hash) + sizeof info->hash;
    const int32_t st = qsae__weights_describe(weights, with_hash, &out);
    return st == QSAE_OK ? qsae__info_copy(info, &out, sizeof out, "qsae_model_info") : st;
}
