/* SPDX-License-Identifier: BSD-2-Clause */
/* GPT-NeoX and Pythia: transformers' models/gpt_neox. */
#include <math.h>

#include "model/block.h"
#include "model/family.h"

/*
 * rope_scaling (old) or rope_parameters (new); what neither says is in the flat keys
 * rotary_emb_base, or rope_theta, and rotary_pct.
 */
static int32_t read_rope(const json_t *o, const char *where, qsae__config *c)
{
    qsae__rope *const rope = &c->rope[QSAE__FULL];
    const json_t *dict = NULL;
    const char *key = "rope_scaling";
    double part = 0.25;
    *rope = (qsae__rope){ .theta = 10000, .original = (double)c->max_positions };
    int32_t st = qsae__config_positive(o, where, "rope_theta", &rope->theta);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "rotary_emb_base", &rope->theta);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "rotary_pct", &part);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, key, false, JSON_OBJECT, &dict);
    if (st == QSAE_OK && !dict)
        st = qsae__json_get(o, where, key = "rope_parameters", false, JSON_OBJECT, &dict);
    if (st == QSAE_OK && dict)
        st = qsae__rope_read_part(dict, where, key, rope, &part);
    if (st != QSAE_OK)
        return st;
    c->rope[QSAE__SLIDING] = *rope;
    c->rotary_dim = part <= 1 ? (int64_t)((double)c->head_dim * part) : 0;
    if (c->rotary_dim < 1 || 2 * qsae__rotary_pairs(c) > c->head_dim)
        return qsae__fail(QSAE_EFORMAT, "%s: rotary_pct: %g of head dimension %lld: expected at "
                          "least one entry that rotates, and pairs that fit", where, part,
                          (long long)c->head_dim);
    return QSAE_OK;
}

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    (void)top;
    c->vocab = 50432;
    c->width = 6144;
    c->mlp_width = 24576;
    c->layers = 44;
    c->heads = 64;
    c->max_positions = 2048;
    c->eps = 1e-5;
    c->activation = QSAE__ACT_GELU;
    c->bos = 0;
    c->eos = 2;
    c->attention_bias = c->mlp_bias = c->parallel = true;
    int32_t st = qsae__config_common(o, where, c);
    if (st != QSAE_OK)
        return st;
    c->eps = 1e-5; /* rms_norm_eps is not this family's */
    c->kv_heads = c->heads;
    c->head_dim = c->width / c->heads;
    st = qsae__config_positive(o, where, "layer_norm_eps", &c->eps);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "use_parallel_residual", false, &c->parallel, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "tie_word_embeddings", false, &c->tied, NULL);
    if (st == QSAE_OK)
        st = qsae__config_activation(o, where, "hidden_act", &c->activation);
    if (st == QSAE_OK)
        st = read_rope(o, where, c);
    if (st != QSAE_OK)
        return st;
    c->attn_scale = 1.0 / sqrt((double)c->head_dim);
    c->sliding = qsae__calloc(ctx, c->layers, 1);
    return c->sliding ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t block(const qsae__run *run, int64_t layer)
{
    return (run->m->config->parallel ? qsae__block_parallel : qsae__block_sequential)(run, layer);
}

static const qsae__proj_slot slots[QSAE__FUSED_COUNT] = {
    [QSAE__FUSED_QKV] = { "attention.query_key_value", "query_key_value", "attn", QSAE__SIZE_QKV,
                          QSAE__SIZE_WIDTH },
    [QSAE__FUSED_OUT] = { "attention.dense", "dense", "attn", QSAE__SIZE_WIDTH, QSAE__SIZE_Q },
    [QSAE__FUSED_UP] = { "mlp.dense_h_to_4h", "dense_h_to_4h", "mlp", QSAE__SIZE_MLP,
                         QSAE__SIZE_WIDTH },
    [QSAE__FUSED_DOWN] = { "mlp.dense_4h_to_h", "dense_4h_to_h", "mlp", QSAE__SIZE_WIDTH,
                           QSAE__SIZE_MLP },
};

const qsae__family qsae__family_gpt_neox = {
    .model_type = "gpt_neox",
    .name = "gpt_neox",
    .norms = { [QSAE__NORM_ATTN_IN] = "input_layernorm",
               [QSAE__NORM_MLP_IN] = "post_attention_layernorm" },
    .norm = QSAE__NORM_LAYER,
    .slots = slots,
    .n_slots = QSAE__FUSED_COUNT,
    .qkv = QSAE__QKV_BY_HEAD,
    .embed = "embed_in",
    .final_norm = "final_layer_norm",
    .head = "embed_out",
    .processed = true,
    .read = read,
    .block = block,
};
