/* SPDX-License-Identifier: BSD-2-Clause */
/* Mistral 7B and what is built like it: transformers' models/mistral. Llama without biases whose
 * layers all slide, or none. */
#include <string.h>

#include "model/block.h"
#include "model/family.h"

/* An absent key is a window of 4096; null is none. layer_types has no effect, as in transformers
 * (Ministral, which has it, is another type there). */
static int32_t read_window(qsae_context *ctx, const json_t *o, const char *where, qsae__config *c)
{
    c->window = 4096;
    const int32_t st =
        qsae__json_i64(o, where, "sliding_window", false, 1, INT32_MAX, &c->window, NULL);
    if (st != QSAE_OK)
        return st;
    if (json_is_null(json_object_get(o, "sliding_window")))
        c->window = 0;
    if (qsae__config_has(o, "layer_types"))
        qsae__log(ctx, QSAE_LOG_WARNING,
                  "%s: layer_types is ignored, as transformers does in this type", where);
    memset(c->sliding, c->window > 0, (size_t)c->layers);
    return QSAE_OK;
}

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    (void)top;
    c->vocab = 32000;
    c->width = 4096;
    c->mlp_width = 14336;
    c->layers = 32;
    c->heads = 32;
    c->kv_heads = 8;
    c->max_positions = 131072;
    c->eps = 1e-6;
    c->activation = QSAE__ACT_SILU;
    c->bos = 1;
    c->eos = 2;
    int32_t st = qsae__config_common(o, where, c);
    if (st != QSAE_OK)
        return st;
    c->attention_bias = false; /* a key that has no effect in this type */
    c->head_dim = c->width / c->heads;
    if (json_is_null(json_object_get(o, "num_key_value_heads")))
        c->kv_heads = c->heads;
    st = qsae__json_i64(o, where, "num_key_value_heads", false, 1, c->heads, &c->kv_heads, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(o, where, "head_dim", false, 1, INT32_MAX, &c->head_dim, NULL);
    if (st == QSAE_OK)
        st = qsae__config_llama(ctx, o, where, c);
    return st == QSAE_OK ? read_window(ctx, o, where, c) : st;
}

const qsae__family qsae__family_mistral = {
    .model_type = "mistral",
    .name = "mistral",
    .norms = { [QSAE__NORM_ATTN_IN] = "input_layernorm",
               [QSAE__NORM_MLP_IN] = "post_attention_layernorm" },
    .norm = QSAE__NORM_LLAMA,
    .any_width = true,
    .processed = true,
    .read = read,
    .block = qsae__block_sequential,
};
