/* SPDX-License-Identifier: BSD-2-Clause */
/* Gemma 3, text part: transformers' models/gemma3. Its attn_logit_softcapping key has no effect
 * there, and none here. */
#include <math.h>

#include "model/block.h"
#include "model/family.h"

/* Dictionaries per layer type (new form), one dictionary, or flat keys (old form), in any mixture:
 * rope_scaling and a single rope_parameters speak of the full layers. */
static int32_t read_rope(const json_t *o, const char *where, qsae__config *c)
{
    qsae__rope *const full = &c->rope[QSAE__FULL], *const sliding = &c->rope[QSAE__SLIDING];
    const json_t *params = NULL, *dict = NULL, *local = NULL, *scaling = NULL;
    *full = (qsae__rope){ .theta = 1e6, .original = (double)c->max_positions };
    *sliding = (qsae__rope){ .theta = 1e4, .original = (double)c->max_positions };
    int32_t st = qsae__config_positive(o, where, "rope_theta", &full->theta);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "rope_local_base_freq", &sliding->theta);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, "rope_parameters", false, JSON_OBJECT, &params);
    if (st != QSAE_OK)
        return st;
    if (params && (json_object_get(params, "full_attention") ||
                   json_object_get(params, "sliding_attention"))) {
        st = qsae__json_get(params, where, "full_attention", false, JSON_OBJECT, &dict);
        if (st == QSAE_OK)
            st = qsae__json_get(params, where, "sliding_attention", false, JSON_OBJECT, &local);
    } else {
        dict = params;
    }
    if (st == QSAE_OK && dict)
        st = qsae__rope_read(dict, where, "rope_parameters", full);
    if (st == QSAE_OK && local)
        st = qsae__rope_read(local, where, "rope_parameters.sliding_attention", sliding);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, "rope_scaling", false, JSON_OBJECT, &scaling);
    if (st == QSAE_OK && scaling)
        st = qsae__rope_read(scaling, where, "rope_scaling", full);
    return st;
}

static int32_t read_keys(const json_t *top, const json_t *o, const char *where, qsae__config *c)
{
    c->tied = true;
    int32_t st = qsae__config_gemma(o, where, c);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "final_logit_softcapping", &c->final_cap);
    if (st == QSAE_OK && top != o)
        st = qsae__json_bool(top, where, "tie_word_embeddings", false, &c->tied, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "tie_word_embeddings", false, &c->tied, NULL);
    return st;
}

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    c->vocab = 262208;
    c->width = 2304;
    c->mlp_width = 9216;
    c->layers = 26;
    c->heads = 8;
    c->kv_heads = 4;
    c->head_dim = 256;
    c->max_positions = 131072;
    c->eps = 1e-6;
    c->activation = QSAE__ACT_GELU_TANH;
    c->bos = 2;
    c->eos = 1;
    int32_t st = qsae__config_causal(o, where);
    if (st == QSAE_OK)
        st = read_keys(top, o, where, c);
    if (st != QSAE_OK)
        return st;
    st = qsae__config_layers(ctx, o, where, 6, c);
    if (st == QSAE_OK)
        st = read_rope(o, where, c);
    return st;
}

#define GEMMA3 \
    .name = "gemma3", \
    .norms = { [QSAE__NORM_ATTN_IN] = "input_layernorm", \
               [QSAE__NORM_Q] = "self_attn.q_norm", \
               [QSAE__NORM_K] = "self_attn.k_norm", \
               [QSAE__NORM_ATTN_OUT] = "post_attention_layernorm", \
               [QSAE__NORM_MLP_IN] = "pre_feedforward_layernorm", \
               [QSAE__NORM_MLP_OUT] = "post_feedforward_layernorm" }, \
    .norm = QSAE__NORM_GEMMA, .scale_embedding = true, .processed = true, .read = read, \
    .block = qsae__block_sequential

const qsae__family qsae__family_gemma3_text = { .model_type = "gemma3_text", GEMMA3 };

/* The vision wrapper of 4B, 12B and 27B; vision tensors are not looked at. */
const qsae__family qsae__family_gemma3 = { .model_type = "gemma3",
                                           .text_key = "text_config",
                                           .text_type = "gemma3_text",
                                           GEMMA3 };
