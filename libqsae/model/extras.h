/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What Gemma 4 has beside the tensors and linear layers of other families (transformers'
 * models/gemma4): per-layer embeddings, experts, a factor for each layer's output. Experts are
 * three-dimensional tensors, no linear layers: no codec takes them (bitsandbytes does not either).
 */
#ifndef QSAE_MODEL_EXTRAS_H
#define QSAE_MODEL_EXTRAS_H

#include "model/internal.h"

struct qsae__run;

#define QSAE__PLE_MODULE "per_layer_model_projection"

/* Of one layer; all but the first NULL without experts. */
typedef struct qsae__layer_extra_tensors {
    const qsae__tensor *scalar;       /* [1] */
    const qsae__tensor *router_scale; /* [width] */
    const qsae__tensor *expert_scale; /* [experts] */
    const qsae__tensor *experts_in;   /* [experts, 2 * expert_width, width] gates, then ups */
    const qsae__tensor *experts_out;  /* [experts, width, expert_width] */
} qsae__layer_extra_tensors;

/* Of a checkpoint; matrices have no name and norm is NULL without per-layer embeddings. */
typedef struct qsae__extra_tensors {
    qsae__matrix table;               /* [ple_vocab, layers * ple_width] */
    qsae__matrix projection;          /* [layers * ple_width, width] */
    const qsae__tensor *norm;         /* [ple_width] */
    qsae__layer_extra_tensors *layers;
} qsae__extra_tensors;

/* Of one layer of a model. */
typedef struct qsae__layer_extras {
    float scalar;
    const float *router_scale, *expert_scale;
    qsae__linear **experts_in, **experts_out; /* [experts] */
} qsae__layer_extras;

typedef struct qsae__extras {
    qsae__linear *projection;         /* or NULL */
    float *values;                    /* of all vectors, converted copies */
    const float *norm;
    qsae__layer_extras *layers;
} qsae__extras;

/* Finds the tensors of a family that has extras; frees w->extras. */
int32_t qsae__extras_find(qsae_weights *w);
void qsae__extras_free(qsae_weights *w);
/* Its tensors but for matrices, by index; NULL after the last, and without extras. */
const qsae__tensor *qsae__extras_tensor(const qsae_weights *w, int64_t i);

/* Opens m->extras: projection as the condition says, experts as they are; closes it. */
int32_t qsae__extras_open(qsae_model *m);
void qsae__extras_close(qsae_model *m);
/* What qsae__extras_open does for one layer's experts, and undoing it. */
int32_t qsae__experts_open(qsae_model *m, int64_t layer);
void qsae__experts_close(qsae_model *m, int64_t layer);

/* Linear layers outside of m->layers, by index up to 2 * layers: the projection, then of each layer
 * the first expert's two, which stand for the others'; NULL where there is none. */
const qsae__linear *qsae__extras_linear(const qsae_model *m, int64_t i);

/* Floats that a pass needs beside the blocks' buffers; those that a slab keeps from its embedding
 * on, for later layers: per-layer embeddings, and keys and values that several layers read. False
 * if that overflows. */
bool qsae__extras_floats(const qsae__config *c, int64_t rows, int64_t *floats);
bool qsae__kept_floats(const qsae__config *c, int64_t rows, int64_t *floats);

/* The per-layer embeddings of the slab's ids and x, into what it keeps. */
int32_t qsae__extras_embed(const struct qsae__run *run);
/* run->b.out = sum of the norms of it and of what the experts make of the residual stream. */
int32_t qsae__experts_part(const struct qsae__run *run, int64_t layer);
/* Gemma 3's block, then the part of the per-layer embedding, then the layer's factor. */
int32_t qsae__block_gemma4(const struct qsae__run *run, int64_t layer);

#endif
