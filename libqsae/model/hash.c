/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fingerprint of a checkpoint: XXH3-128 over what the configuration means (not how it is spelled)
 * and over the text model's tensors, ordered by name without the prefix. Shards, vision tensors and
 * the model's place on disk do not change it.
 */
#include <stdlib.h>
#include <string.h>

#include "model/extras.h"

struct named {
    const char *name; /* without the prefix */
    const qsae__tensor *tensor; /* or NULL: */
    const qsae_qmatrix *stored;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static void add_f64(qsae__hasher *h, double v)
{
    int64_t bits;
    memcpy(&bits, &v, sizeof bits);
    qsae__hasher_i64(h, bits);
}

/* What layers differ in, where they do. */
static void add_shapes(qsae__hasher *h, const qsae__config *c)
{
    const int64_t sizes[] = { c->ple_width, c->ple_vocab, c->experts, c->top_experts,
                              c->expert_width };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        qsae__hasher_i64(h, sizes[i]);
    for (int i = 0; i < QSAE__LAYER_TYPES; i++) {
        qsae__hasher_i64(h, c->rope[i].dim);
        qsae__hasher_i64(h, c->rope[i].rotated);
    }
    for (int64_t n = 0; n < c->layers; n++) {
        const qsae__layer_shape *const s = &c->shapes[n];
        const int64_t shape[] = { s->head_dim, s->kv_heads, s->mlp_width, s->kv_layer, s->no_v };
        for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++)
            qsae__hasher_i64(h, shape[i]);
    }
}

static void add_config(qsae__hasher *h, const qsae__config *c)
{
    const int64_t sizes[] = { c->layers, c->width, c->heads, c->kv_heads, c->head_dim, c->mlp_width,
                              c->vocab, c->window, c->activation, c->attention_bias, c->mlp_bias,
                              c->tied };
    qsae__hasher_string(h, c->family->name);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        qsae__hasher_i64(h, sizes[i]);
    qsae__hasher_update(h, c->sliding, (size_t)c->layers);
    for (int i = 0; i < QSAE__LAYER_TYPES; i++) {
        const qsae__rope *const r = &c->rope[i];
        qsae__hasher_i64(h, r->type);
        add_f64(h, r->theta);
        add_f64(h, r->type == QSAE__ROPE_DEFAULT ? 1 : r->factor);
        if (r->type == QSAE__ROPE_LLAMA3) {
            add_f64(h, r->low);
            add_f64(h, r->high);
            add_f64(h, r->original);
        }
        if (r->factors)
            qsae__hasher_update(h, r->factors, (size_t)qsae__rotary_pairs(c) * sizeof *r->factors);
    }
    add_f64(h, c->eps);
    add_f64(h, c->attn_scale);
    add_f64(h, c->final_cap);
    if (c->attn_cap > 0)
        add_f64(h, c->attn_cap);
    if (!c->family->slots)
        return;
    qsae__hasher_i64(h, c->rotary_dim);
    qsae__hasher_i64(h, c->parallel);
    qsae__hasher_i64(h, c->scale_by_layer);
    if (c->shapes)
        add_shapes(h, c);
}

/* The arrays a stored matrix consists of. */
static void add_stored(qsae__hasher *h, const qsae_qmatrix *q)
{
    qsae_field f;
    qsae__hasher_string(h, qsae_dtype_name(q->dtype));
    qsae__hasher_i64(h, q->n_out);
    qsae__hasher_i64(h, q->n_in);
    for (int32_t i = 0; q->ops->field(q, i, &f); i++) {
        qsae__hasher_string(h, f.name);
        qsae__hasher_string(h, qsae_dtype_name(f.dtype));
        qsae__hasher_update(h, f.data, (size_t)f.bytes);
    }
}

static void add_tensor(qsae__hasher *h, const struct named *n)
{
    const qsae__tensor *const t = n->tensor;
    qsae__hasher_string(h, n->name);
    if (!t) {
        add_stored(h, n->stored);
        return;
    }
    qsae__hasher_string(h, qsae_dtype_name(t->dtype));
    qsae__hasher_i64(h, t->rank);
    for (int i = 0; i < t->rank; i++)
        qsae__hasher_i64(h, t->shape[i]);
    qsae__hasher_update(h, t->data, (size_t)t->bytes);
}

/* Tensors of the text model; list NULL: only counted. */
static int64_t collect(const qsae_weights *w, struct named *list)
{
    const size_t skip = strlen(w->prefix);
    int64_t n = 0;
#define ADD(tensor, stored, name) \
    do { \
        if (((tensor) || (stored)) && list) \
            list[n] = (struct named){ (name), (tensor), (stored) }; \
        n += (tensor) || (stored); \
    } while (0)
#define ADD_MATRIX(m, s) ADD((m).tensor, (m).stored, (m).name + (s))
#define ADD_VECTOR(t) ADD(t, NULL, (t)->name + skip)
    ADD_MATRIX(w->embed, skip);
    ADD_VECTOR(w->norm);
    ADD_VECTOR(w->norm_bias);
    ADD_VECTOR(w->positions);
    ADD(w->head_bias, NULL, "lm_head.bias");
    if (!w->config.tied)
        ADD(w->head.tensor, w->head.stored, "lm_head.weight");
    for (int64_t i = 0; i < w->config.layers; i++) {
        const qsae__layer_tensors *const l = &w->layers[i];
        for (int p = 0; p < qsae__projs(&w->config); p++) {
            ADD_MATRIX(l->weight[p], skip);
            ADD_VECTOR(l->bias[p]);
        }
        for (int k = 0; k < QSAE__NORM_COUNT; k++) {
            ADD_VECTOR(l->norm[k]);
            ADD_VECTOR(l->norm_bias[k]);
        }
    }
    const qsae__tensor *t;
    for (int64_t i = 0; (t = qsae__extras_tensor(w, i)); i++)
        ADD_VECTOR(t);
    if (w->extras) {
        ADD_MATRIX(w->extras->table, skip);
        ADD_MATRIX(w->extras->projection, skip);
    }
#undef ADD_MATRIX
#undef ADD_VECTOR
#undef ADD
    return n;
}

static int32_t compute(qsae_weights *w)
{
    const int64_t n = collect(w, NULL);
    qsae__hasher *h = NULL;
    struct named *list = qsae__calloc(w->ctx, n, sizeof *list);
    if (!list)
        return QSAE_ENOMEM;
    const int32_t st = qsae__hasher_open(w->ctx, &h);
    if (st == QSAE_OK) {
        collect(w, list);
        qsort(list, (size_t)n, sizeof *list, by_name);
        add_config(h, &w->config);
        if (w->process[0])
            qsae__hasher_string(h, w->process);
        for (int64_t i = 0; i < n; i++) {
            add_tensor(h, &list[i]);
            if (list[i].tensor)
                qsae__tensor_release(w->tensors, list[i].tensor);
        }
        qsae__hasher_hex(h, w->hash);
        qsae__hasher_close(w->ctx, &h);
    }
    qsae__free(w->ctx, list);
    return st;
}

int32_t qsae__weights_hash(qsae_weights *w)
{
    pthread_mutex_lock(&w->mutex);
    const int32_t st = w->hash[0] ? QSAE_OK : compute(w);
    pthread_mutex_unlock(&w->mutex);
    return st;
}
