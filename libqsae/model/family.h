/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_FAMILY_H
#define QSAE_MODEL_FAMILY_H

#include "model/config.h"

struct qsae__run;

/* Norms a block may have, in the order of the block. */
enum {
    QSAE__NORM_ATTN_IN,
    QSAE__NORM_Q,
    QSAE__NORM_K,
    QSAE__NORM_ATTN_OUT,
    QSAE__NORM_MLP_IN,
    QSAE__NORM_MLP_OUT,
    QSAE__NORM_DENSE_OUT,   /* of the MLP beside experts, before their sum */
    QSAE__NORM_EXPERTS_IN,
    QSAE__NORM_EXPERTS_OUT,
    QSAE__NORM_PLE_OUT,     /* of the per-layer embedding's part */
    QSAE__NORM_COUNT
};

enum qsae__norm_kind {
    QSAE__NORM_LLAMA, /* w * rb(x r) */
    QSAE__NORM_GEMMA, /* (x r) (1 + w), one rounding */
    QSAE__NORM_PLAIN, /* (x r) w, one rounding */
    QSAE__NORM_LAYER  /* LayerNorm: (x - mean) r w + b, one rounding */
};

/* What a linear layer's rows or columns are. */
enum qsae__proj_size {
    QSAE__SIZE_WIDTH,
    QSAE__SIZE_Q,    /* heads * head_dim */
    QSAE__SIZE_KV,   /* kv_heads * head_dim */
    QSAE__SIZE_QKV,  /* q, k and v together */
    QSAE__SIZE_MLP,
    QSAE__SIZE_PLE,
    QSAE__SIZE_EXPERTS
};

/* A linear layer of a block. */
typedef struct qsae__proj_slot {
    const char *path;   /* within a layer */
    const char *module; /* last part: name for selectors */
    const char *group;  /* "attn", "mlp" or "ple" */
    enum qsae__proj_size out, in;
} qsae__proj_slot;

/* How the rows of a layer that is q, k and v together are ordered. */
enum qsae__qkv {
    QSAE__QKV_SEPARATE, /* there is none: three layers, and a gated MLP */
    QSAE__QKV_BY_HEAD,  /* q, k, v of head 0, those of head 1, ... */
    QSAE__QKV_WHOLE     /* q of all heads, k of all, v of all */
};

/* An architecture: what a new one must say. One row per model_type in family.c. */
typedef struct qsae__family {
    const char *model_type; /* in config.json */
    const char *text_key;   /* object of config.json with the text model's keys; NULL = top level */
    const char *text_type;  /* model_type inside that object */
    const char *name;       /* of the architecture: what the fingerprint of the weights says */
    const char *norms[QSAE__NORM_COUNT]; /* tensor names within a layer, NULL = no such norm */
    enum qsae__norm_kind norm;
    bool scale_embedding;   /* x_0 = E sqrt(width) */
    bool eager;             /* attention where none is asked for; else sdpa */
    bool any_width;         /* hidden_size need not be a multiple of the number of heads */
    bool v_norm;            /* values are normed, without a weight */
    bool extras;            /* has what extras.h is about */
    bool processed;         /* no layer but those of its slots and the head reads a norm or writes
                               to the residual stream: what process.c relies on */
    /* Where the family differs; 0 or NULL: q, k, v and a gated MLP as in Llama, and its names. */
    const qsae__proj_slot *slots;
    int n_slots;
    enum qsae__qkv qkv;
    bool transposed;        /* linear layers are stored [in, out] */
    const char *embed, *positions, *layers, *final_norm, *head; /* modules; positions: learned */
    /* Fills *c from defaults and keys; text: object with the model's keys, top: whole file. */
    int32_t (*read)(qsae_context *ctx, const json_t *top, const json_t *text, const char *where,
                    qsae__config *c);
    /* x of the slab = block(x) */
    int32_t (*block)(const struct qsae__run *run, int64_t layer);
} qsae__family;

extern const qsae__family qsae__family_gpt_neox, qsae__family_gpt2;
extern const qsae__family qsae__family_llama, qsae__family_gemma3_text, qsae__family_gemma3;
extern const qsae__family qsae__family_gemma2;
extern const qsae__family qsae__family_qwen3, qsae__family_mistral;
extern const qsae__family qsae__family_gemma4_text, qsae__family_gemma4;

/* Names of modules, those of the most families where a family says nothing. */
static inline const char *qsae__family_embed(const qsae__family *f)
{
    return f->embed ? f->embed : "embed_tokens";
}

static inline const char *qsae__family_layers(const qsae__family *f)
{
    return f->layers ? f->layers : "layers";
}

static inline const char *qsae__family_final_norm(const qsae__family *f)
{
    return f->final_norm ? f->final_norm : "norm";
}

static inline const char *qsae__family_head(const qsae__family *f)
{
    return f->head ? f->head : "lm_head";
}

/* Family of a model_type, or NULL. */
const qsae__family *qsae__family_find(const char *model_type);
/* All of them by index from 0, then NULL. */
const qsae__family *qsae__family_at(size_t i);
/* Supported names for messages, "llama, ..." */
const char *qsae__family_names(void);

#endif
