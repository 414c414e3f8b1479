/* SPDX-License-Identifier: BSD-2-Clause */
/* Llama 2 and 3 and what is built like them: transformers' models/llama. */
#include "model/block.h"
#include "model/family.h"

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    (void)top;
    c->vocab = 32000;
    c->width = 4096;
    c->mlp_width = 11008;
    c->layers = 32;
    c->heads = 32;
    c->max_positions = 2048;
    c->eps = 1e-6;
    c->activation = QSAE__ACT_SILU;
    c->bos = 1;
    c->eos = 2;
    int32_t st = qsae__config_common(o, where, c);
    if (st != QSAE_OK)
        return st;
    c->kv_heads = c->heads; /* null means the same as absent for these two */
    c->head_dim = c->width / c->heads;
    st = qsae__json_i64(o, where, "num_key_value_heads", false, 1, c->heads, &c->kv_heads, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(o, where, "head_dim", false, 1, INT32_MAX, &c->head_dim, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "mlp_bias", false, &c->mlp_bias, NULL);
    return st == QSAE_OK ? qsae__config_llama(ctx, o, where, c) : st;
}

const qsae__family qsae__family_llama = {
    .model_type = "llama",
    .name = "llama",
    .norms = { [QSAE__NORM_ATTN_IN] = "input_layernorm",
               [QSAE__NORM_MLP_IN] = "post_attention_layernorm" },
    .norm = QSAE__NORM_LLAMA,
    .processed = true,
    .read = read,
    .block = qsae__block_sequential,
};
