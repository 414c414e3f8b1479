/* SPDX-License-Identifier: BSD-2-Clause */
/* Gemma 2: transformers' models/gemma2. Gemma 3's block without norms of queries and keys, with
 * capped scores; one rotary base for all layers. Eager attention is its definition: transformers
 * runs no other on a CPU, its fused kernels there know no cap. */
#include <math.h>

#include "model/block.h"
#include "model/family.h"

/* null is no cap; *cap holds the default. */
static int32_t read_cap(const json_t *o, const char *where, const char *key, double *cap)
{
    if (json_is_null(json_object_get(o, key))) {
        *cap = 0;
        return QSAE_OK;
    }
    return qsae__config_positive(o, where, key, cap);
}

static int32_t read_keys(const json_t *o, const char *where, qsae__config *c)
{
    int32_t st = qsae__config_gemma(o, where, c);
    if (st == QSAE_OK)
        st = read_cap(o, where, "attn_logit_softcapping", &c->attn_cap);
    if (st == QSAE_OK)
        st = read_cap(o, where, "final_logit_softcapping", &c->final_cap);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "tie_word_embeddings", false, &c->tied, NULL);
    return st;
}

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    (void)top;
    c->vocab = 256000;
    c->width = 2304;
    c->mlp_width = 9216;
    c->layers = 26;
    c->heads = 8;
    c->kv_heads = 4;
    c->head_dim = 256;
    c->max_positions = 8192;
    c->eps = 1e-6;
    c->activation = QSAE__ACT_GELU_TANH;
    c->attn_cap = 50;
    c->final_cap = 30;
    c->tied = true;
    c->bos = 2;
    c->eos = 1;
    int32_t st = qsae__config_causal(o, where);
    if (st == QSAE_OK)
        st = read_keys(o, where, c);
    if (st == QSAE_OK)
        st = qsae__config_layers(ctx, o, where, 2, c);
    return st == QSAE_OK ? qsae__rope_read_one(o, where, c) : st;
}

const qsae__family qsae__family_gemma2 = {
    .model_type = "gemma2",
    .name = "gemma2",
    .norms = { [QSAE__NORM_ATTN_IN] = "input_layernorm",
               [QSAE__NORM_ATTN_OUT] = "post_attention_layernorm",
               [QSAE__NORM_MLP_IN] = "pre_feedforward_layernorm",
               [QSAE__NORM_MLP_OUT] = "post_feedforward_layernorm" },
    .norm = QSAE__NORM_GEMMA,
    .scale_embedding = true,
    .eager = true,
    .processed = true,
    .read = read,
    .block = qsae__block_sequential,
};
