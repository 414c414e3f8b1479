/* SPDX-License-Identifier: BSD-2-Clause */
/* Structures behind the handles of model.h. */
#ifndef QSAE_MODEL_INTERNAL_H
#define QSAE_MODEL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "codecs/apply.h"
#include "codecs/stored.h"
#include "formats/formats.h"
#include "model/family.h"
#include "model/model.h"

/* Linear layers of a block, in the order of qsae__proj_slots. */
enum {
    QSAE__Q_PROJ,
    QSAE__K_PROJ,
    QSAE__V_PROJ,
    QSAE__O_PROJ,
    QSAE__GATE_PROJ,
    QSAE__UP_PROJ,
    QSAE__DOWN_PROJ,
    QSAE__GATED_COUNT, /* that many of Llama */
    QSAE__PLE_GATE = QSAE__GATED_COUNT, /* Gemma 4: per-layer embeddings, */
    QSAE__PLE_PROJ,
    QSAE__ROUTER_PROJ,                  /* experts */
    QSAE__PROJ_COUNT /* most that a family has */
};

/* Those of a family whose q, k and v are one layer and whose MLP is no gated one. */
enum {
    QSAE__FUSED_QKV,
    QSAE__FUSED_OUT,
    QSAE__FUSED_UP,
    QSAE__FUSED_DOWN,
    QSAE__FUSED_COUNT
};

/* What most families have, and all that do not list their own. */
extern const qsae__proj_slot qsae__proj_slots[QSAE__GATED_COUNT];

/* Linear layers of a block, and one of them. */
static inline int qsae__projs(const qsae__config *c)
{
    return c->family->slots ? c->family->n_slots : QSAE__GATED_COUNT;
}

static inline const qsae__proj_slot *qsae__proj_slot_of(const qsae__config *c, int proj)
{
    return c->family->slots ? &c->family->slots[proj] : &qsae__proj_slots[proj];
}

/* Whether a layer has a projection of its family. */
bool qsae__has_proj(const qsae__config *c, int64_t layer, int proj);
/* [out, in] of a projection. */
void qsae__proj_shape(const qsae__config *c, int64_t layer, int proj, int64_t shape[2]);
/* Its heads as qsae__qmatrix_encode takes them. */
int64_t qsae__proj_heads(const qsae__config *c, int64_t layer, int proj);
/* Its qkv_runs as qsae__source has them. */
int64_t qsae__proj_qkv_runs(const qsae__config *c, int proj);
/* Elements of a norm's weight; 0 where the layer has no such norm. */
int64_t qsae__norm_size(const qsae__config *c, int64_t layer, int norm);

/* A matrix [rows, cols] of the checkpoint. */
typedef struct qsae__matrix {
    const qsae__tensor *tensor;    /* a plain one, or NULL: */
    qsae_qmatrix *stored;          /* as the checkpoint encodes it */
    char *name;                    /* "model.layers.0.mlp.up_proj.weight" */
    int64_t rows, cols;
    bool transposed;               /* the plain tensor is [cols, rows] */
} qsae__matrix;

/* Tensors of one layer; what the layer lacks is NULL or has no name. */
typedef struct qsae__layer_tensors {
    qsae__matrix weight[QSAE__PROJ_COUNT];        /* [out, in] */
    const qsae__tensor *bias[QSAE__PROJ_COUNT];   /* [out] */
    const qsae__tensor *norm[QSAE__NORM_COUNT];   /* [width], [head_dim] for Q and K */
    const qsae__tensor *norm_bias[QSAE__NORM_COUNT]; /* likewise, of a LayerNorm */
} qsae__layer_tensors;

struct qsae_weights {
    qsae__handle base;
    qsae_context *ctx;
    atomic_int refs;
    char *path;
    char *prefix;                  /* of the text model's tensor names, "" or ending in '.' */
    qsae__config config;
    qsae__tensors *tensors;
    qsae__scheme *scheme;          /* quantization_config, or NULL */
    bool gguf;                     /* of a GGUF file */
    qsae_weights *source;          /* what these were processed from, or NULL: owns their config */
    char process[96];              /* how, in canonical form, or "" */
    qsae__matrix embed;            /* [vocab, width] */
    qsae__matrix head;             /* [vocab, width]; not set if tied */
    const qsae__tensor *head_bias; /* [vocab], of processed weights, or NULL */
    const qsae__tensor *norm;      /* [width] */
    const qsae__tensor *norm_bias; /* [width], of a LayerNorm */
    const qsae__tensor *positions; /* [max_positions, width], or NULL */
    qsae__layer_tensors *layers;   /* [config.layers] */
    struct qsae__extra_tensors *extras; /* extras.h; NULL in families without */
    int64_t *linears;              /* [n_linears] places (below) of the linear layers there are */
    int64_t n_linears;
    int64_t parameters;
    /* Packed copies that models share, by place; the head's at that of the embedding. */
    qsae__packed_weight **packed;
    pthread_mutex_t mutex;         /* of packed and hash */
    char hash[QSAE__HASH_SIZE];    /* "" until asked for */
};

/*
 * Places: projection p of layer n is at n * qsae__projs + p whether or not there is one; then come
 * embedding, head and a linear layer outside of the blocks. Streams of random numbers and packed
 * copies go by place.
 */
static inline int64_t qsae__place_embed(const qsae__config *c)
{
    return c->layers * qsae__projs(c);
}

static inline int64_t qsae__place_outside(const qsae__config *c)
{
    return qsae__place_embed(c) + 2;
}

/* linears.c: w->linears. */
int32_t qsae__linears_open(qsae_weights *w);
/* The matrix at the place of a linear layer, and the layer as selectors see it; path: buffer. */
const qsae__matrix *qsae__linear_matrix(const qsae_weights *w, int64_t place);
qsae__place qsae__linear_place(const qsae_weights *w, int64_t place, char *path, size_t size);
int64_t qsae__linear_heads(const qsae_weights *w, int64_t place);
int64_t qsae__linear_qkv_runs(const qsae_weights *w, int64_t place);
/* Its module's path within the layer, and the layer; -1 outside of the blocks. */
const char *qsae__linear_module(const qsae_weights *w, int64_t place);
int64_t qsae__linear_layer(const qsae_weights *w, int64_t place);

/* weights.c: a plain tensor, and a matrix by its module's name, counted as parameters. */
int32_t qsae__weights_need(qsae_weights *w, const char *name, int32_t rank, const int64_t *shape,
                           const qsae__tensor **out);
int32_t qsae__weights_need_matrix(qsae_weights *w, const char *module, int64_t rows, int64_t cols,
                                  bool transposed, qsae__matrix *out);

/* The head's matrix: the embedding if tied. */
static inline const qsae__matrix *qsae__weights_head(const qsae_weights *w)
{
    return w->config.tied ? &w->embed : &w->head;
}

/* A matrix as rows to encode; round: see qsae__source. */
qsae__source qsae__matrix_source(const qsae_weights *w, const qsae__matrix *m, int32_t round);

qsae_weights *qsae__weights_ref(qsae_weights *w);
void qsae__weights_unref(qsae_weights *w);
/* qsae_weights_get_info, also of a checkpoint that its caller has closed. */
int32_t qsae__weights_info(const qsae_weights *weights, qsae_model_info *info);
/* A checkpoint of the same tensors; others, in memory of `tensors` (referenced), may replace them.
 * Plain ones only: nothing of it is stored compressed. */
int32_t qsae__weights_derive(qsae_weights *from, qsae__tensors *tensors, qsae_weights **out);
/* hash.c: fills w->hash. */
int32_t qsae__weights_hash(qsae_weights *w);
/* Fills *info from the checkpoint, the hash only if asked for. */
int32_t qsae__weights_describe(const qsae_weights *w, bool with_hash, qsae_model_info *info);

/* One layer ready to run. The bias of a LayerNorm follows its weight. */
typedef struct qsae__layer {
    qsae__linear *proj[QSAE__PROJ_COUNT];
    const float *norm[QSAE__NORM_COUNT];
} qsae__layer;

/* Rotary tables [rope_tokens, qsae__rope_pairs] per layer type. */
typedef struct qsae__rope_tables {
    float *cosine[QSAE__LAYER_TYPES], *sine[QSAE__LAYER_TYPES];
    int64_t n_tokens;
} qsae__rope_tables;

struct qsae_model {
    qsae__handle base;
    qsae_context *ctx;
    qsae_weights *weights;
    const qsae__config *config;   /* of weights */
    qsae__condition condition;
    int32_t compute, attention;
    bool streamed;                /* layers are loaded one by one and dropped */
    int32_t bf16;                 /* compute == QSAE_COMPUTE_BF16 */
    qsae__layer *layers;
    struct qsae__extras *extras;  /* extras.h; NULL in families without */
    float *norms;                 /* of all layers and the final one, converted copies */
    float *biases;                /* of all projections, converted copies */
    const float *final_norm;      /* [width], and a LayerNorm's bias */
    float sigma;                  /* factor of the embedding */
    qsae_qmatrix *embed_q;        /* the embedding, if it is an encoded one */
    qsae_qmatrix *head_q;         /* the head, likewise, and */
    qsae__decoded head_decoded;   /* its values in the compute dtype; else */
    qsae__dense head;
    qsae__panels head_panels;
    qsae__packed_weight *head_packed; /* the head for the bf16 product; NULL: head_panels, f32 */
    int32_t head_parts;               /* of the rows it multiplies: 1 bf16, 3 f32 in parts */
    float *head_bias;                 /* [vocab], added to logits before rounding, or NULL */
    qsae__rope_tables rope;       /* grown by qsae__slab_open */
    /* Codes of the cache, per layer type; NULL = none. */
    qsae__kv *kv_k[QSAE__LAYER_TYPES], *kv_v[QSAE__LAYER_TYPES];
    qsae_model_cost cost;
    qsae__slab slab;              /* of the last qsae_model_forward */
};

/* kv.c: opens m->kv_k and m->kv_v as the condition says and fills the cost's field; closes them. */
int32_t qsae__model_open_kv(qsae_model *m);
void qsae__model_close_kv(qsae_model *m);
/* Floats of scratch that coding keys and values takes per worker. */
int64_t qsae__kv_worker_floats(const qsae_model *m);

/* What changes a projection, or NULL: the condition where its codec is selected, a part of a mix,
 * and everywhere one that rounds to weights=. */
const qsae__condition *qsae__model_condition(const qsae_model *m, int64_t layer, int p);
bool qsae__model_changes(const qsae_model *m, int64_t layer, int p);

/* A projection as qsae__linear_* take it. bias: [rows] f32, or NULL. */
qsae__linear_weight qsae__model_weight(const qsae_model *m, int64_t layer, int p,
                                       const float *bias);

/* Whether a step on this layer finds its weights. */
bool qsae__model_loaded(const qsae_model *m, int64_t layer);

/* Values of a tensor as this model sees them: rounded to the condition's weights= and to the
 * compute dtype. dst [n], from element `first`. */
void qsae__model_values(const qsae_model *m, const qsae__tensor *t, int64_t first, int64_t n,
                        float *dst);

/* x[width] = the embedding of a token before its factor, as this model sees it. */
void qsae__model_embedding(const qsae_model *m, int32_t id, float *x);

/* Refuses a model, slab or pointer that does not fit. */
int32_t qsae__model_check_ids(const qsae_model *m, const int32_t *ids, int64_t n_seq,
                              int64_t n_tokens);

#endif
