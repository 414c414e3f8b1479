/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_CONFIG_H
#define QSAE_MODEL_CONFIG_H

#include "formats/formats.h"

enum qsae__activation { QSAE__ACT_SILU, QSAE__ACT_GELU_TANH, QSAE__ACT_GELU, QSAE__ACT_GELU_NEW };

enum qsae__rope_type {
    QSAE__ROPE_DEFAULT,
    QSAE__ROPE_LINEAR,
    QSAE__ROPE_LLAMA3,
    QSAE__ROPE_PROPORTIONAL /* Gemma 4: only the first frequencies of a whole head */
};

/* Rotary positions of one layer type (specs: transformers' modeling_rope_utils). */
typedef struct qsae__rope {
    enum qsae__rope_type type;
    double theta;
    double factor;          /* linear, llama3, proportional */
    double low, high;       /* llama3 */
    double original;        /* llama3: context length before scaling */
    const float *factors;   /* [pairs] what frequencies are divided by, or NULL */
    int64_t rotated;        /* proportional: pairs that rotate, the first ones */
    int64_t dim;            /* entries of a head that rotate; 0 = as qsae__rotary_pairs says */
} qsae__rope;

struct qsae__family;

/* Layer types: index of `rope`, value of `sliding`. */
enum { QSAE__FULL, QSAE__SLIDING, QSAE__LAYER_TYPES };

/* What a layer's attention and MLP measure. */
typedef struct qsae__layer_shape {
    int64_t head_dim, kv_heads, mlp_width;
    int64_t kv_layer;        /* whose keys and values its attention reads: its own, or an earlier
                              * layer's, and then it has none */
    bool kept;               /* later layers read its keys and values */
    bool no_v;               /* values are what k_proj gives, before norm and rotation */
} qsae__layer_shape;

/* What config.json means, defaults filled in. */
typedef struct qsae__config {
    const struct qsae__family *family;
    int64_t layers, width, heads, kv_heads, head_dim, mlp_width, vocab, max_positions;
    int64_t window;          /* keys a sliding layer sees, the token itself included; 0 = none */
    uint8_t *sliding;        /* [layers] 1 on sliding layers */
    qsae__rope rope[QSAE__LAYER_TYPES];
    float *rope_factors;     /* [head_dim / 2] of the full layers' rope, or NULL */
    double eps;
    double attn_scale;
    double attn_cap;         /* of scores, final_cap of logits: c tanh(x / c); 0 = none */
    double final_cap;
    enum qsae__activation activation;
    int64_t rotary_dim;      /* entries of a head that rotate; 0 = all, -1 = none */
    bool parallel;           /* attention and MLP read the same residual stream */
    bool scale_by_layer;     /* attn_scale of layer n is divided by n + 1 */
    bool attention_bias, mlp_bias, tied;
    int32_t bos, eos;        /* -1 = none */
    qsae__layer_shape *shapes; /* [layers] where layers differ (Gemma 4), or NULL */
    int64_t ple_width;       /* of per-layer embeddings; 0 = none */
    int64_t ple_vocab;       /* rows of their table */
    int64_t experts, top_experts, expert_width; /* 0 = none */
} qsae__config;

/* Reads and checks what config.json says; where: for messages. GGUF files have one key more:
 * rope_factors, an array of numbers. */
int32_t qsae__config_read(qsae_context *ctx, const json_t *config, const char *where,
                          qsae__config *out);
void qsae__config_free(qsae_context *ctx, qsae__config *c);

/* Pairs of entries of a head that rotate: what the rotary tables have columns. Of an odd number of
 * entries there is one pair more than fit in it, as in transformers. */
static inline int64_t qsae__rotary_pairs(const qsae__config *c)
{
    const int64_t n = c->rotary_dim ? c->rotary_dim : c->head_dim;
    return n < 0 ? 0 : (n + 1) / 2;
}

/* The same for layers of a type, whose heads may be of a size of their own. */
static inline int64_t qsae__rope_pairs(const qsae__config *c, int type)
{
    return c->rope[type].dim ? (c->rope[type].dim + 1) / 2 : qsae__rotary_pairs(c);
}

static inline qsae__layer_shape qsae__layer_shape_of(const qsae__config *c, int64_t layer)
{
    return c->shapes ? c->shapes[layer]
                     : (qsae__layer_shape){ .head_dim = c->head_dim, .kv_heads = c->kv_heads,
                                            .mlp_width = c->mlp_width, .kv_layer = layer };
}

/*
 * Helpers of the families. `where` names file and object in messages. A missing key leaves *out
 * (the default) as it is.
 */

/* A size: present means an integer in [low, high]; null is an error. */
int32_t qsae__config_size(const json_t *o, const char *where, const char *key, int64_t low,
                          int64_t high, int64_t *out);
/* A finite positive number; null leaves *out. */
int32_t qsae__config_positive(const json_t *o, const char *where, const char *key, double *out);
/* Activation by name; one this library does not run is QSAE_EUNSUPPORTED. */
int32_t qsae__config_activation(const json_t *o, const char *where, const char *key,
                                enum qsae__activation *out);
/* Largest sizes that a model may have: no published one comes near. */
#define QSAE__MAX_LAYERS 4096
#define QSAE__MAX_WIDTH (1 << 20)
#define QSAE__MAX_HEADS 65536
#define QSAE__MAX_HEAD_DIM 8192
#define QSAE__MAX_MLP (1 << 24)
#define QSAE__MAX_VOCAB (INT32_MAX - 1)

/* bos and eos: an id, null, or a list of ids of which the first counts. */
int32_t qsae__config_ids(const json_t *o, const char *where, qsae__config *c);
/* Sizes that most families have under the same key. */
int32_t qsae__config_common(const json_t *o, const char *where, qsae__config *c);

/* What Llama and what is built like it read alike, once c->head_dim is known: tying, hidden_act,
 * one rope for all layers; the scale of scores; c->sliding [c->layers], none set. */
int32_t qsae__config_llama(qsae_context *ctx, const json_t *o, const char *where, qsae__config *c);
/* layer_types.c: what Gemma 2 and 3 read alike first: sizes, hidden_activation and the scale of
 * scores. */
int32_t qsae__config_gemma(const json_t *o, const char *where, qsae__config *c);

/* layer_types.c: c->sliding and c->window from layer_types or the period (pattern: its default).
 * The last layer of a period is full. */
int32_t qsae__config_layers(qsae_context *ctx, const json_t *o, const char *where, int64_t pattern,
                            qsae__config *c);
/* layer_types.c: false, null, absent and "vision" keep text causal; true (embedding models) does
 * not and is refused. */
int32_t qsae__config_causal(const json_t *o, const char *where);
/* layer_types.c: that key, if it is there, into c->sliding [c->layers]. */
int32_t qsae__config_layer_types(const json_t *o, const char *where, qsae__config *c);

/* Whether a member is there and not null. */
bool qsae__config_has(const json_t *o, const char *key);

/* rope.c: merges one rope dictionary into *rope, which holds the defaults. */
int32_t qsae__rope_read(const json_t *dict, const char *where, const char *key, qsae__rope *rope);
/* rope.c: the flat keys and the dictionary of a model whose layers all rotate alike, into c->rope;
 * c->max_positions is set. */
int32_t qsae__rope_read_one(const json_t *o, const char *where, qsae__config *c);
/* The same for families where only a part of each head may rotate: partial_rotary_factor. */
int32_t qsae__rope_read_part(const json_t *dict, const char *where, const char *key,
                             qsae__rope *rope, double *partial);
/* rope.c: f [(dim + 1) / 2], the frequencies of dim entries in f32 as torch computes them. */
void qsae__rope_frequencies(const qsae__rope *rope, int64_t dim, float *f);
/* rope.c: cos, sin [n_tokens, (dim + 1) / 2]; bf16: rounded. */
void qsae__rope_table(const qsae__rope *rope, int64_t dim, int64_t n_tokens, int32_t bf16,
                      float *cosine, float *sine);

#endif
