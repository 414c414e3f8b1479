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
extern const qsae__proj_slot qsae__proj_slots[QSAE__PROJ_COUNT];

/* Linear layers of a block, and one of them. */
static inline int qsae__projs(const qsae__config *c)
{
    return c->family->slots ? c->family->n_slots : QSAE__PROJ_COUNT;
}

static inline const qsae__proj_slot *qsae__proj_slot_of(const qsae__config *c, int proj)
{
    return c->family->slots ? &c->family->slots[proj] : &qsae__proj_slots[proj];
}

/* [out, in] of a projection. */
void qsae__proj_shape(const qsae__config *c, int proj, int64_t shape[2]);
/* Its heads as qsae__qmatrix_encode takes them. */
int64_t qsae__proj_heads(const qsae__config *c, int proj);

/* A matrix [rows, cols] of the checkpoint. */
typedef struct qsae__matrix {
    const qsae__tensor *tensor;    /* a plain one, or NULL: */
    qsae_qmatrix *stored;          /* as the checkpoint encodes it */
    char *name;                    /* "model.layers.0.mlp.up_proj.weight" */
    int64_t rows, cols;
    bool transposed;               /* the plain tensor is [cols, rows] */
} qsae__matrix;

/* Tensors of one layer; biases and norms a family lacks are NULL. */
typedef struct qsae__layer_tensors {
    qsae__matrix weight[QSAE__PROJ_COUNT];        /* [out, in] */
    const qsae__tensor *bias[QSAE__PROJ_COUNT];   /* [out] */
    const qsae__tensor *norm[QSAE__NORM_COUNT];   /* [width], [head_dim] for Q and K */
    const qsae__tensor *norm_bias[QSAE__NORM_COUNT]; /* likewise, of a LayerNorm */
} qsae__layer_tensors;

struct qsae_weights {
    qsae_context *ctx;
    atomic_int refs;
    char *path;
    char *prefix;                  /* of the text model's tensor names, "" or ending in '.' */
    qsae__config config;
    qsae__tensors *tensors;
    qsae__scheme *scheme;          /* quantization_config, or NULL */
    bool gguf;                     /* of a GGUF file */
    qsae__matrix embed;            /* [vocab, width] */
    qsae__matrix head;             /* [vocab, width]; not set if tied */
    const qsae__tensor *norm;      /* [width] */
    const qsae__tensor *norm_bias; /* [width], of a LayerNorm */
    const qsae__tensor *positions; /* [max_positions, width], or NULL */
    qsae__layer_tensors *layers;   /* [config.layers] */
    int64_t parameters;
    /* Packed copies that models share: of projection p of layer n at n * qsae__projs + p, of the
     * head last. */
    qsae__packed_weight **packed;
    pthread_mutex_t mutex;         /* of packed and hash */
    char hash[QSAE__HASH_SIZE];    /* "" until asked for */
};

/* The head's matrix: the embedding if tied. */
static inline const qsae__matrix *qsae__weights_head(const qsae_weights *w)
{
    return w->config.tied ? &w->embed : &w->head;
}

/* A matrix as rows to encode; round: see qsae__source. */
qsae__source qsae__matrix_source(const qsae_weights *w, const qsae__matrix *m, int32_t round);

qsae_weights *qsae__weights_ref(qsae_weights *w);
void qsae__weights_unref(qsae_weights *w);
/* hash.c: fills w->hash. */
int32_t qsae__weights_hash(qsae_weights *w);
/* Fills *info from the checkpoint, the hash only if asked for. */
int32_t qsae__weights_describe(const qsae_weights *w, bool with_hash, qsae_model_info *info);

/* One layer ready to run. The bias of a LayerNorm follows its weight. */
typedef struct qsae__layer {
    qsae__linear *proj[QSAE__PROJ_COUNT];
    const float *norm[QSAE__NORM_COUNT];
} qsae__layer;

/* Rotary tables [rope_tokens, qsae__rotary_pairs] per layer type. */
typedef struct qsae__rope_tables {
    float *cosine[QSAE__LAYER_TYPES], *sine[QSAE__LAYER_TYPES];
    int64_t n_tokens;
} qsae__rope_tables;

struct qsae_model {
    qsae_context *ctx;
    qsae_weights *weights;
    const qsae__config *config;   /* of weights */
    qsae__condition condition;
    int32_t compute, attention;
    bool streamed;                /* layers are loaded one by one and dropped */
    int32_t bf16;                 /* compute == QSAE_COMPUTE_BF16 */
    qsae__layer *layers;
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
    qsae__rope_tables rope;       /* grown by qsae__slab_open */
    qsae__kv *kv_k, *kv_v;        /* codes of the cache, NULL = none */
    qsae_model_cost cost;
    qsae__slab slab;              /* of the last qsae_model_forward */
    atomic_flag busy;
};

/* kv.c: opens m->kv_k and m->kv_v as the condition says and fills the cost's field; closes them. */
int32_t qsae__model_open_kv(qsae_model *m);
void qsae__model_close_kv(qsae_model *m);
/* Floats of scratch that coding keys and values takes per worker. */
int64_t qsae__kv_worker_floats(const qsae_model *m);

/* Whether the condition has a say on a projection: where its codec is selected; rounding to
 * weights= everywhere. */
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
