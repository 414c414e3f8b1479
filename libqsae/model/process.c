/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Weight processing as TransformerLens does it when it loads a model (weight_processing.py of 3.9):
 * in f32, in this order,
 *
 *   fold_ln                 the gain and bias of a norm go into the layers that read it; of a
 *                           LayerNorm these then lose what is parallel to (1, ..., 1)
 *   center_writing_weights  LayerNorm only: what writes to the residual stream has mean 0 there
 *   center_unembed          the head has mean 0 over the vocabulary: not where logits are capped
 *   fold_value_biases       attention weights sum to 1: the values' bias goes into the output's
 *
 * Sums are f64, rounded once. A layer reads the residual stream if that is as wide as its input,
 * and writes to it if that is as wide as its output.
 */
#include <stdio.h>
#include <string.h>

#include "formats/set.h"
#include "model/internal.h"

#define FOLD_LN 1u
#define CENTER_WRITING 2u
#define CENTER_UNEMBED 4u
#define FOLD_VALUES 8u
#define ALL 15u

static const struct {
    const char *name;
    unsigned steps;
} names[] = {
    { "fold_ln", FOLD_LN },
    { "center_writing_weights", CENTER_WRITING },
    { "center_unembed", CENTER_UNEMBED },
    { "fold_value_biases", FOLD_VALUES },
    { "tl", ALL },
    { "none", 0 },
};

#define N_NAMES (sizeof names / sizeof names[0])
#define N_STEPS 4

struct process {
    qsae_context *ctx;
    const qsae_weights *from;
    qsae_weights *to;
    qsae__tensors *set;  /* memory of what changes */
    unsigned steps;
    bool layer_norm;     /* else an RMSNorm */
};

static int32_t parse(const char *what, unsigned *steps)
{
    *steps = 0;
    while (what && *what) {
        const size_t n = strcspn(what, ",");
        size_t i = 0;
        while (i < N_NAMES && (strlen(names[i].name) != n || memcmp(names[i].name, what, n) != 0))
            i++;
        if (i == N_NAMES || (what[n] && !what[n + 1]))
            return qsae__fail(QSAE_EINVAL, "weight processing: \"%.*s\": expected fold_ln, "
                              "center_writing_weights, center_unembed, fold_value_biases, tl (all "
                              "of them) or none, with commas between", (int)(n < 64 ? n : 64),
                              i == N_NAMES ? what : "");
        *steps |= names[i].steps;
        what += n + (what[n] != 0);
    }
    return QSAE_OK;
}

/* Rows x[n, k] at n * n_stride + k * k_stride, and what happens to each: its dot product with shift
 * is added to its bias, its elements are multiplied by gain, its mean is taken off. */
struct rows {
    float *x;
    int64_t n, k, n_stride, k_stride;
    const float *shift, *gain; /* [k] or NULL */
    float *bias;               /* [n], with shift */
    bool center;
};

#define TILE 16 /* rows at a time: of one layout or the other, a cache line */

static int32_t change_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct rows *const r = arg;
    const int64_t n = qsae__min_i64(TILE, r->n - tile * TILE);
    float *const x = r->x + tile * TILE * r->n_stride;
    double dot[TILE] = { 0 }, sum[TILE] = { 0 };
    float mean[TILE];
    (void)worker;
    for (int64_t k = 0; k < r->k; k++) {
        float *const at = x + k * r->k_stride;
        for (int64_t i = 0; i < n; i++) {
            float *const v = at + i * r->n_stride;
            if (r->shift)
                dot[i] += (double)*v * (double)r->shift[k];
            if (r->gain)
                *v *= r->gain[k];
            sum[i] += (double)*v;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        mean[i] = (float)(sum[i] / (double)r->k);
        if (r->shift)
            r->bias[tile * TILE + i] = (float)((double)r->bias[tile * TILE + i] + dot[i]);
    }
    for (int64_t k = 0; k < r->k && r->center; k++)
        for (int64_t i = 0; i < n; i++)
            x[k * r->k_stride + i * r->n_stride] -= mean[i];
    return QSAE_OK;
}

static int32_t change(struct process *p, struct rows *r)
{
    return qsae__parallel(p->ctx, qsae__ceil_div(r->n, TILE), change_tile, r);
}

/* The outputs of a matrix whose values are at x. */
static struct rows rows_of(const qsae__matrix *m, float *x)
{
    return (struct rows){
        .x = x,
        .n = m->rows,
        .k = m->cols,
        .n_stride = m->transposed ? 1 : m->cols,
        .k_stride = m->transposed ? m->rows : 1,
    };
}

/* Its inputs: what all outputs have in common is taken off. */
static int32_t center_inputs(struct process *p, const qsae__matrix *m, float *x)
{
    struct rows r = rows_of(m, x);
    r = (struct rows){ .x = x, .n = r.k, .k = r.n, .n_stride = r.k_stride, .k_stride = r.n_stride,
                       .center = true };
    return change(p, &r);
}

static void center_vector(float *x, int64_t n)
{
    struct rows r = { .x = x, .n = 1, .k = n, .n_stride = n, .k_stride = 1, .center = true };
    (void)change_tile(&r, 0, 0);
}

/* Copies are told by the path they are said to be of. */
static bool is_copy(const struct process *p, const qsae__tensor *t)
{
    return t && t->file == p->to->path;
}

/* Of a copy, this file's own memory. */
static float *values_at(const qsae__tensor *t)
{
    return (float *)(uintptr_t)t->data;
}

struct widen {
    const qsae__tensor *from;
    float *to;
    int64_t n;
};

#define WIDEN_PART ((int64_t)1 << 16)

static int32_t widen_part(void *arg, int64_t tile, int32_t worker)
{
    const struct widen *const w = arg;
    const int64_t at = tile * WIDEN_PART, size = qsae_dtype_bits(w->from->dtype) / 8;
    (void)worker;
    (void)qsae__to_f32(w->from->dtype, (const char *)w->from->data + at * size,
                       qsae__min_i64(WIDEN_PART, w->n - at), w->to + at);
    return QSAE_OK;
}

static int32_t widen(struct process *p, const qsae__tensor *t, int64_t n, float *x)
{
    struct widen w = { t, x, n };
    const int32_t st = qsae__parallel(p->ctx, qsae__ceil_div(n, WIDEN_PART), widen_part, &w);
    qsae__tensor_release(p->from->tensors, t);
    return st;
}

/* A tensor of the new checkpoint: f32, of that name and shape. */
static int32_t new_tensor(struct process *p, const char *name, int32_t rank, const int64_t *shape,
                          qsae__tensor **out)
{
    qsae__tensor *const t = qsae__set_alloc(p->set, sizeof *t);
    if (!t)
        return QSAE_ENOMEM;
    *t = (qsae__tensor){ .file = p->to->path, .rank = rank, .dtype = QSAE_F32 };
    memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
    if (!qsae__shape_bytes(shape, rank, QSAE_F32, &t->bytes) || t->bytes > SIZE_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: %s: too large", p->from->path, name);
    char *const text = qsae__set_alloc(p->set, strlen(name) + 1);
    t->name = text;
    t->data = qsae__set_alloc(p->set, (size_t)t->bytes);
    if (!text || !t->data)
        return QSAE_ENOMEM;
    memcpy(text, name, strlen(name) + 1);
    *out = t;
    return QSAE_OK;
}

/* Makes *slot a copy in f32, if it is none yet; *x are its values. */
static int32_t copy_tensor(struct process *p, const qsae__tensor **slot, float **x)
{
    const qsae__tensor *const t = *slot;
    qsae__tensor *copy = NULL;
    if (is_copy(p, t)) {
        *x = values_at(t);
        return QSAE_OK;
    }
    int32_t st = new_tensor(p, t->name, t->rank, t->shape, &copy);
    if (st == QSAE_OK)
        st = widen(p, t, (int64_t)(copy->bytes / sizeof(float)), values_at(copy));
    if (st != QSAE_OK)
        return st;
    *slot = copy;
    *x = values_at(copy);
    return QSAE_OK;
}

/* The bias of a matrix, zeros where it has none. */
static int32_t copy_bias(struct process *p, const qsae__matrix *m, const qsae__tensor **slot,
                         float **x)
{
    qsae__tensor *fresh = NULL;
    char name[512];
    if (*slot)
        return copy_tensor(p, slot, x);
    snprintf(name, sizeof name, "%.*s.bias", (int)(strlen(m->name) - strlen(".weight")), m->name);
    const int32_t st = new_tensor(p, name, 1, &m->rows, &fresh);
    if (st != QSAE_OK)
        return st;
    *x = values_at(fresh);
    memset(*x, 0, (size_t)fresh->bytes);
    *slot = fresh;
    p->to->parameters += m->rows;
    return QSAE_OK;
}

/* A norm that is about to be folded: its gain as it acts, and its bias or NULL. *gain and *shift
 * are freed by the caller; the norm becomes the one that does nothing after normalizing. */
static int32_t take_norm(struct process *p, const qsae__tensor **weight, const qsae__tensor **bias,
                         float **gain, float **shift)
{
    const bool offset = p->from->config.family->norm == QSAE__NORM_GEMMA;
    const int64_t n = p->from->config.width;
    const size_t bytes = (size_t)n * sizeof(float);
    float *w = NULL, *b = NULL;
    *shift = NULL;
    *gain = qsae__alloc(p->ctx, bytes);
    int32_t st = *gain ? copy_tensor(p, weight, &w) : QSAE_ENOMEM;
    if (st == QSAE_OK && *bias && !(*shift = qsae__alloc(p->ctx, bytes)))
        st = QSAE_ENOMEM;
    if (st == QSAE_OK && *bias)
        st = copy_tensor(p, bias, &b);
    if (st != QSAE_OK)
        return st;
    for (int64_t i = 0; i < n; i++) {
        (*gain)[i] = offset ? 1.0f + w[i] : w[i];
        w[i] = offset ? 0.0f : 1.0f;
    }
    if (b) {
        memcpy(*shift, b, bytes);
        memset(b, 0, bytes);
    }
    return QSAE_OK;
}

static int32_t fold(struct process *p, const qsae__matrix *m, float *x, const float *gain,
                    const float *shift, float *bias)
{
    struct rows r = rows_of(m, x);
    r.gain = gain;
    r.shift = shift;
    r.bias = bias;
    r.center = p->layer_norm;
    return change(p, &r);
}

/* The norm before attention or MLP into the layers of that group. */
static int32_t fold_norm(struct process *p, qsae__layer_tensors *l, int norm, const char *group)
{
    const qsae__config *const c = &p->from->config;
    float *gain = NULL, *shift = NULL, *x, *bias = NULL;
    if (!l->norm[norm])
        return QSAE_OK;
    int32_t st = take_norm(p, &l->norm[norm], &l->norm_bias[norm], &gain, &shift);
    for (int i = 0; i < qsae__projs(c) && st == QSAE_OK; i++) {
        const qsae__proj_slot *const slot = qsae__proj_slot_of(c, i);
        if (slot->in != QSAE__SIZE_WIDTH || strcmp(slot->group, group) != 0)
            continue;
        st = copy_tensor(p, &l->weight[i].tensor, &x);
        if (st == QSAE_OK && shift)
            st = copy_bias(p, &l->weight[i], &l->bias[i], &bias);
        if (st == QSAE_OK)
            st = fold(p, &l->weight[i], x, gain, shift, bias);
    }
    qsae__free(p->ctx, gain);
    qsae__free(p->ctx, shift);
    return st;
}

static int32_t center_layer(struct process *p, qsae__layer_tensors *l)
{
    const qsae__config *const c = &p->from->config;
    int32_t st = QSAE_OK;
    for (int i = 0; i < qsae__projs(c) && st == QSAE_OK; i++) {
        float *x, *bias;
        if (qsae__proj_slot_of(c, i)->out != QSAE__SIZE_WIDTH)
            continue;
        st = copy_tensor(p, &l->weight[i].tensor, &x);
        if (st == QSAE_OK)
            st = center_inputs(p, &l->weight[i], x);
        if (st == QSAE_OK && l->bias[i] && (st = copy_tensor(p, &l->bias[i], &bias)) == QSAE_OK)
            center_vector(bias, c->width);
    }
    return st;
}

/* Where the bias of element i of value head v lies in the layer that makes it. */
static int64_t value_at(const qsae__config *c, int64_t v, int64_t i)
{
    const int64_t d = c->head_dim;
    return c->family->qkv == QSAE__QKV_BY_HEAD ? (3 * v + 2) * d + i
           : c->family->qkv == QSAE__QKV_WHOLE ? (2 * c->heads + v) * d + i
                                               : v * d + i;
}

/* shift [heads * head_dim]: the values' biases as the output layer meets them; cleared. */
static void take_values(const qsae__config *c, float *bias, float *shift)
{
    const int64_t group = c->heads / c->kv_heads, d = c->head_dim;
    for (int64_t a = 0; a < c->heads; a++)
        for (int64_t i = 0; i < d; i++)
            shift[a * d + i] = bias[value_at(c, a / group, i)];
    for (int64_t v = 0; v < c->kv_heads; v++)
        for (int64_t i = 0; i < d; i++)
            bias[value_at(c, v, i)] = 0;
}

static int32_t fold_values(struct process *p, qsae__layer_tensors *l)
{
    const qsae__config *const c = &p->from->config;
    const int value = c->family->qkv ? QSAE__FUSED_QKV : QSAE__V_PROJ;
    const int out = c->family->qkv ? QSAE__FUSED_OUT : QSAE__O_PROJ;
    const qsae__matrix *const m = &l->weight[out];
    float *bias, *to, *temporary = NULL;
    if (!l->bias[value])
        return QSAE_OK;
    float *const shift = qsae__alloc_array(p->ctx, m->cols, sizeof *shift);
    int32_t st = shift ? copy_tensor(p, &l->bias[value], &bias) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = copy_bias(p, m, &l->bias[out], &to);
    if (st == QSAE_OK && !is_copy(p, m->tensor)) {
        temporary = qsae__alloc_array(p->ctx, m->rows * m->cols, sizeof *temporary);
        st = temporary ? widen(p, m->tensor, m->rows * m->cols, temporary) : QSAE_ENOMEM;
    }
    if (st == QSAE_OK) {
        struct rows r = rows_of(m, temporary ? temporary : values_at(m->tensor));
        take_values(c, bias, shift);
        r.shift = shift;
        r.bias = to;
        st = change(p, &r);
    }
    if (st == QSAE_OK && (p->steps & CENTER_WRITING))
        center_vector(to, c->width);
    qsae__free(p->ctx, shift);
    qsae__free(p->ctx, temporary);
    return st;
}

static int32_t process_layer(struct process *p, qsae__layer_tensors *l)
{
    int32_t st = QSAE_OK;
    if (p->steps & FOLD_LN)
        st = fold_norm(p, l, QSAE__NORM_ATTN_IN, "attn");
    if (st == QSAE_OK && (p->steps & FOLD_LN))
        st = fold_norm(p, l, QSAE__NORM_MLP_IN, "mlp");
    if (st == QSAE_OK && (p->steps & CENTER_WRITING))
        st = center_layer(p, l);
    if (st == QSAE_OK && (p->steps & FOLD_VALUES))
        st = fold_values(p, l);
    return st;
}

/* A tied head that is the embedding no longer. */
static int32_t separate_head(struct process *p)
{
    qsae_weights *const w = p->to;
    const char *const module = qsae__family_head(w->config.family);
    const size_t size = strlen(module) + sizeof ".weight";
    if (!w->config.tied)
        return QSAE_OK;
    w->head = w->embed;
    w->head.name = qsae__alloc(p->ctx, size);
    if (!w->head.name)
        return QSAE_ENOMEM;
    snprintf(w->head.name, size, "%s.weight", module);
    w->config.tied = false;
    w->parameters += w->head.rows * w->head.cols;
    return QSAE_OK;
}

static int32_t process_head(struct process *p)
{
    qsae_weights *const w = p->to;
    float *x, *gain = NULL, *shift = NULL, *bias = NULL;
    int32_t st = copy_tensor(p, &w->head.tensor, &x);
    if (st == QSAE_OK && (p->steps & FOLD_LN)) {
        st = take_norm(p, &w->norm, &w->norm_bias, &gain, &shift);
        if (st == QSAE_OK && shift)
            st = copy_bias(p, &w->head, &w->head_bias, &bias);
        if (st == QSAE_OK)
            st = fold(p, &w->head, x, gain, shift, bias);
    }
    if (st == QSAE_OK && (p->steps & CENTER_UNEMBED))
        st = center_inputs(p, &w->head, x);
    if (st == QSAE_OK && (p->steps & CENTER_UNEMBED) && bias)
        center_vector(bias, w->head.rows);
    qsae__free(p->ctx, gain);
    qsae__free(p->ctx, shift);
    return st;
}

/* Embedding and learned positions: each row has mean 0. */
static int32_t center_embedding(struct process *p)
{
    const qsae__config *const c = &p->from->config;
    const qsae__tensor **const tables[] = { &p->to->embed.tensor, &p->to->positions };
    int32_t st = QSAE_OK;
    for (int i = 0; i < 2 && st == QSAE_OK && *tables[i]; i++) {
        struct rows r = { .n = (*tables[i])->shape[0], .k = c->width, .n_stride = c->width,
                          .k_stride = 1, .center = true };
        st = copy_tensor(p, tables[i], &r.x);
        if (st == QSAE_OK)
            st = change(p, &r);
    }
    return st;
}

static int32_t process_all(struct process *p)
{
    qsae__config *const c = &p->to->config;
    int32_t st = p->steps & ~FOLD_VALUES ? separate_head(p) : QSAE_OK;
    for (int64_t n = 0; n < c->layers && st == QSAE_OK; n++)
        st = process_layer(p, &p->to->layers[n]);
    if (st == QSAE_OK && (p->steps & CENTER_WRITING))
        st = center_embedding(p);
    if (st == QSAE_OK && (p->steps & (FOLD_LN | CENTER_UNEMBED)))
        st = process_head(p);
    for (int i = 0; i < qsae__projs(c) && st == QSAE_OK; i++) {
        const bool attn = !strcmp(qsae__proj_slot_of(c, i)->group, "attn");
        if (p->to->layers[0].bias[i])
            *(attn ? &c->attention_bias : &c->mlp_bias) = true;
    }
    return st;
}

static int32_t share_copy(struct process *p, const qsae__matrix *m)
{
    if (!is_copy(p, m->tensor))
        return QSAE_OK;
    return qsae__set_share(p->set, (qsae__tensor *)(uintptr_t)m->tensor); /* new_tensor's */
}

/* The matrices of the new checkpoint, which are complete now. */
static int32_t share_copies(struct process *p)
{
    const int64_t projs = qsae__projs(&p->to->config);
    int32_t st = share_copy(p, &p->to->embed);
    if (st == QSAE_OK)
        st = share_copy(p, &p->to->head);
    for (int64_t i = 0; i < p->to->config.layers * projs && st == QSAE_OK; i++)
        st = share_copy(p, &p->to->layers[i / projs].weight[i % projs]);
    return st;
}

/* Steps that change this model: TransformerLens leaves out the others too. */
static unsigned applicable(const qsae_weights *w, unsigned steps)
{
    const qsae__config *const c = &w->config;
    if (c->family->norm != QSAE__NORM_LAYER)
        steps &= ~CENTER_WRITING;
    if (c->final_cap > 0)
        steps &= ~CENTER_UNEMBED;
    if (!c->attention_bias && !(c->family->norm == QSAE__NORM_LAYER && (steps & FOLD_LN)))
        steps &= ~FOLD_VALUES;
    return steps;
}

static int32_t check(const qsae_weights *w)
{
    const qsae__config *const c = &w->config;
    const int projs = qsae__projs(c);
    const qsae__matrix *stored = w->embed.stored ? &w->embed : w->head.stored ? &w->head : NULL;
    if (!c->family->processed)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: weight processing is not supported for %s",
                          w->path, c->family->model_type);
    if (w->process[0])
        return qsae__fail(QSAE_EINVAL, "%s: the weights are processed already (%s): all steps "
                          "belong into one call", w->path, w->process);
    for (int64_t i = 0; i < c->layers * projs && !stored; i++)
        if (w->layers[i / projs].weight[i % projs].stored)
            stored = &w->layers[i / projs].weight[i % projs];
    /* Where a configuration is silent, the names of the tensors are bitsandbytes'. */
    if (stored)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: stored compressed (%s); weight processing "
                          "needs plain weights", w->path, stored->name,
                          w->gguf     ? "gguf"
                          : w->scheme ? qsae__scheme_name(w->scheme)
                                      : "bitsandbytes");
    return QSAE_OK;
}

static void write_name(unsigned steps, char *text, size_t size)
{
    size_t n = 0;
    text[0] = 0;
    for (int i = 0; i < N_STEPS; i++)
        if (steps & names[i].steps)
            n += (size_t)snprintf(text + n, size - n, "%s%s", n ? "," : "", names[i].name);
}

const char *qsae_weights_processing(const qsae_weights *weights)
{
    return qsae__is_open(weights) ? weights->process : "";
}

bool qsae__weights_layer_norm(const qsae_weights *weights)
{
    return weights->config.family->norm == QSAE__NORM_LAYER;
}

int32_t qsae_weights_process(qsae_weights *weights, const char *what, qsae_weights **out)
{
    struct process p = { .from = weights };
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__need(weights, "weights"))
        return QSAE_EINVAL;
    int32_t st = parse(what, &p.steps);
    if (st == QSAE_OK && p.steps)
        st = check(weights);
    if (st != QSAE_OK)
        return st;
    p.ctx = weights->ctx;
    p.steps = applicable(weights, p.steps);
    p.layer_norm = weights->config.family->norm == QSAE__NORM_LAYER;
    if (!p.steps) {
        *out = qsae__weights_ref(weights);
        qsae__handle_share(weights);
        return QSAE_OK;
    }
    st = qsae__set_new(p.ctx, weights->path, &p.set);
    if (st != QSAE_OK)
        return st;
    p.set->parent = qsae__tensors_ref(weights->tensors);
    st = qsae__weights_derive(weights, p.set, &p.to);
    if (st == QSAE_OK) {
        const qsae__fpenv env = qsae__fpenv_enter();
        write_name(p.steps, p.to->process, sizeof p.to->process);
        st = process_all(&p);
        if (st == QSAE_OK)
            st = share_copies(&p);
        qsae__fpenv_leave(env);
    }
    qsae__tensors_unref(&p.set);
    if (st != QSAE_OK) {
        qsae__weights_unref(p.to);
        return st;
    }
    qsae__handle_share(p.to);
    *out = p.to;
    return st;
}
