/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CODECS_CONDITION_H
#define QSAE_CODECS_CONDITION_H

#include "core/core.h"

enum qsae__codec {
    QSAE__NONE,
    QSAE__INT8,
    QSAE__NF4,
    QSAE__FP4,
    QSAE__RTN,
    QSAE__GGML,
    QSAE__STORED  /* a format that checkpoints come in and no condition names */
};
enum qsae__rules { QSAE__RULES_CUDA, QSAE__RULES_TORCH };
enum qsae__axis { QSAE__AXIS_ROW, QSAE__AXIS_COLUMN, QSAE__AXIS_TENSOR, QSAE__AXIS_TL };

/* Which weights of a matrix become zero. */
typedef struct qsae__prune {
    enum { QSAE__PRUNE_NONE, QSAE__PRUNE_TENSOR, QSAE__PRUNE_ROW, QSAE__PRUNE_PATTERN } kind;
    double sparsity;          /* tensor, row: share of zeros, floor(share * n) of them */
    bool ties_first;          /* exactly that many, the first of equals; else all of equals too */
    int32_t keep, of;         /* pattern: of each `of` inputs in a row `keep` stay */
    bool apart;               /* tensor: Q, K and V that are one matrix each by themselves */
} qsae__prune;

/* FLOOR: the weights as they are, sums over a layer's inputs from the last to the first.
 * SHUFFLE: as NULL; what pairs the rows takes them from elsewhere. */
enum qsae__control { QSAE__CONTROL_NONE, QSAE__CONTROL_NULL, QSAE__CONTROL_GAUSS,
                     QSAE__CONTROL_PERMUTE, QSAE__CONTROL_FLOOR, QSAE__CONTROL_SHUFFLE };

/* How keys or values are cached. */
typedef struct qsae__kv_code {
    enum { QSAE__KV_NONE, QSAE__KV_F16, QSAE__KV_BF16, QSAE__KV_INT8, QSAE__KV_GGML,
           QSAE__KV_TURBO } kind;
    int32_t dtype;            /* ggml: a block dtype */
    int32_t bits;             /* turbo: 1 to 8 per value */
    bool sketch;              /* turbo: one bit more for the sign of the rotated residual */
    /* ggml: heads that are a multiple of 64 wide are cached as their Hadamard transform, as
     * llama.cpp does since 2026: of 64 values each (its values), or of the largest power of two
     * that divides the head (its keys). */
    enum { QSAE__KV_ROTATE_NONE, QSAE__KV_ROTATE_64, QSAE__KV_ROTATE_WIDE } rotate;
} qsae__kv_code;

typedef struct qsae__names qsae__names; /* "a|b|/regex/", compiled */

/* A parsed condition string (quantizer.h has the grammar). */
typedef struct qsae__condition {
    enum qsae__codec codec;
    enum qsae__rules rules;
    int32_t block;            /* nf4, fp4 */
    int32_t nested;           /* double=1 */
    int32_t compute;          /* nf4, fp4: 0 = the model's, else QSAE_F32, QSAE_BF16, QSAE_F16 */
    float threshold;          /* llm.int8 */
    bool outliers_by_row;     /* llm.int8: a row's outlier columns are its own */
    int32_t bits;             /* rtn */
    enum qsae__axis axis;
    int64_t group;            /* rtn, 0 = none */
    int32_t symmetric;
    int32_t weight_arith;     /* rtn: arithmetic in the weight dtype instead of f32 */
    int32_t weights;          /* none: 0, or QSAE_BF16/QSAE_F16: round every tensor of the model */
    int32_t model_compute;    /* @compute: 0, QSAE_COMPUTE_F32, QSAE_COMPUTE_BF16 */
    int32_t ggml;             /* ggml: a block dtype */
    bool ggml_fallback;       /* rows that are no whole blocks: the type llama.cpp takes */
    enum qsae__control control; /* of the codec and selectors here */
    uint64_t seed;            /* control */
    qsae__prune prune;
    /* prune:match=: sparsity is to be found, at this perplexity or at that of this condition; 0 and
     * NULL: no. A condition with either cannot be run, only one made of it by with_sparsity. */
    double prune_match;
    char *prune_target;       /* canonical */
    int64_t prune_tokens;     /* tokens the search looks at, 0 = all */
    qsae__kv_code kv_k, kv_v;
    int64_t kv_sink;          /* positions at the start kept in f16 */
    int64_t layer_first, layer_last; /* @layers, inclusive; 0 and INT64_MAX = all */
    bool with_embed, with_head; /* @with=embed|head */
    qsae__names *only, *skip;
    char *canonical;          /* full canonical form */
    char *codec_canonical;    /* without selectors and kv */
    int64_t codec_end;        /* offset in the text of what follows the codec */
    char decimal[3][24];      /* as written: threshold, sparsity, perplexity */
    struct qsae__condition *parts; /* [n_parts] mix: a matrix takes the first that selects it */
    int64_t n_parts;
} qsae__condition;

int32_t qsae__condition_parse(qsae_context *ctx, const char *text, qsae__condition *out);
void qsae__condition_free(qsae_context *ctx, qsae__condition *c);

/* Canonical string of the condition with prune:sparsity=S instead of match; the caller frees it. S
 * is rounded to 14 decimals. QSAE_EINVAL (not in 0..1), QSAE_ENOMEM. */
int32_t qsae__condition_with_sparsity(qsae_context *ctx, const qsae__condition *c, double sparsity,
                                      char **out);

/* Canonical string of the control (GAUSS or PERMUTE, seed 0) of what the condition does to weights,
 * its compute and cache kept; the caller frees it. QSAE_EINVAL: it does nothing to them, is a
 * control, or its sparsity is to be found. QSAE_ENOMEM. */
int32_t qsae__condition_with_control(qsae_context *ctx, const qsae__condition *c,
                                     enum qsae__control control, char **out);

/* A linear layer, as selectors see it. */
typedef struct qsae__place {
    int64_t layer;            /* -1: embedding, head */
    const char *path;         /* "model.layers.3.mlp.down_proj" */
    const char *module;       /* its last part */
    const char *group;        /* "attn", "mlp", "embed" or "head" */
} qsae__place;

/* Whether weights are changed at all: by a codec, pruning or a control. */
bool qsae__condition_encodes(const qsae__condition *c);
/* Whether those of this layer are. Embedding and head only if asked for. */
bool qsae__condition_selects(const qsae__condition *c, const qsae__place *place);
/* What changes those of this layer: c, a part of a mix, or NULL. */
const qsae__condition *qsae__condition_at(const qsae__condition *c, const qsae__place *place);

#endif
