/* SPDX-License-Identifier: BSD-2-Clause */
/* Inside of the reader of GGUF models: gguf.c (tensors) and gguf_keys.c (configuration). */
#ifndef QSAE_MODEL_GGUF_BUILD_H
#define QSAE_MODEL_GGUF_BUILD_H

#include "model/gguf.h"

#define QSAE__GGUF_BLOCKS 4096 /* more than any model has */
#define QSAE__GGUF_TABLES 5

/* A change of the converter, to undo. */
enum qsae__undo {
    QSAE__UNDO_NOTHING,
    QSAE__UNDO_Q,         /* rows of a head interleaved for rotary positions, query heads */
    QSAE__UNDO_K,         /* the same, key heads */
    QSAE__UNDO_QKV,       /* rows of all heads' q, then k, then v: of a head together */
    QSAE__UNDO_ONE,       /* norm weights stored as 1 + w */
    QSAE__UNDO_FACTORS    /* no weight: divisors of the rotary frequencies */
};

/* '*' stands for the block's number; the name goes on with ".weight" or, if it may, ".bias". */
typedef struct qsae__gguf_row {
    const char *gguf, *hf;
    enum qsae__undo undo;
    bool bias;
} qsae__gguf_row;

typedef struct qsae__gguf_build qsae__gguf_build;

/* An architecture: its names and what its keys say. One entry of `architectures`. */
typedef struct qsae__gguf_family {
    const char *name, *model_type;
    const qsae__gguf_row *tables[QSAE__GGUF_TABLES]; /* each ends with an entry of NULLs; or NULL */
    int32_t (*keys)(qsae__gguf_build *b);
    bool layer_norm;  /* LayerNorm, q, k and v in one matrix, biases everywhere */
} qsae__gguf_family;

struct qsae__gguf_build {
    qsae_context *ctx;
    qsae__tensors *raw, *out;
    const qsae__gguf *g;
    const char *path;
    const qsae__gguf_family *arch;
    json_t *config;
    int64_t blocks, width, heads, kv_heads, head_dim;
    bool attention_bias, mlp_bias;
};

/* Sizes of all architectures, into *b and b->config. */
int32_t qsae__gguf_sizes(qsae__gguf_build *b);
/* Their other keys; attention_bias and mlp_bias are set. */
int32_t qsae__gguf_common(qsae__gguf_build *b);
/* Those of one. */
int32_t qsae__gguf_llama(qsae__gguf_build *b);
int32_t qsae__gguf_gemma3(qsae__gguf_build *b);
int32_t qsae__gguf_gemma2(qsae__gguf_build *b);
int32_t qsae__gguf_gpt_neox(qsae__gguf_build *b);
int32_t qsae__gguf_gpt2(qsae__gguf_build *b);

#endif
