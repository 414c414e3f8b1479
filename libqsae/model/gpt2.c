/* SPDX-License-Identifier: BSD-2-Clause */
/* GPT-2: transformers' models/gpt2. Positions are learned; linear layers are stored [in, out]. */
#include <math.h>

#include "model/block.h"
#include "model/family.h"

static int32_t read_sizes(const json_t *o, const char *where, qsae__config *c)
{
    const struct {
        const char *key, *alias; /* the name that other families have for it */
        int64_t high, *out;
    } sizes[] = {
        { "vocab_size", NULL, QSAE__MAX_VOCAB, &c->vocab },
        { "n_embd", "hidden_size", QSAE__MAX_WIDTH, &c->width },
        { "n_layer", "num_hidden_layers", QSAE__MAX_LAYERS, &c->layers },
        { "n_head", "num_attention_heads", QSAE__MAX_HEADS, &c->heads },
        { "n_positions", "max_position_embeddings", INT32_MAX, &c->max_positions },
    };
    int32_t st = QSAE_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && st == QSAE_OK; i++) {
        const bool other = sizes[i].alias && !json_object_get(o, sizes[i].key);
        st = qsae__config_size(o, where, other ? sizes[i].alias : sizes[i].key, 1, sizes[i].high,
                               sizes[i].out);
    }
    c->mlp_width = 4 * c->width;
    if (st == QSAE_OK && qsae__config_has(o, "n_inner"))
        st = qsae__config_size(o, where, "n_inner", 1, QSAE__MAX_MLP, &c->mlp_width);
    return st;
}

/* Switches that change the mathematics in a way this library does not have. */
static int32_t check_switches(const json_t *o, const char *where)
{
    static const char *const keys[] = { "reorder_and_upcast_attn", "add_cross_attention" };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        bool on = false;
        const int32_t st = qsae__json_bool(o, where, keys[i], false, &on, NULL);
        if (st != QSAE_OK)
            return st;
        if (on)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: expected false, found true", where,
                              keys[i]);
    }
    return QSAE_OK;
}

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    bool scaled = true;
    (void)top;
    c->vocab = 50257;
    c->width = 768;
    c->layers = 12;
    c->heads = 12;
    c->max_positions = 1024;
    c->eps = 1e-5;
    c->activation = QSAE__ACT_GELU_NEW;
    c->bos = c->eos = 50256;
    c->rotary_dim = -1;
    c->attention_bias = c->mlp_bias = c->tied = true;
    c->rope[QSAE__FULL] = c->rope[QSAE__SLIDING] = (qsae__rope){ .theta = 10000 };
    int32_t st = read_sizes(o, where, c);
    if (st == QSAE_OK)
        st = check_switches(o, where);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "layer_norm_epsilon", &c->eps);
    if (st == QSAE_OK)
        st = qsae__config_ids(o, where, c);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "scale_attn_weights", false, &scaled, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "scale_attn_by_inverse_layer_idx", false,
                             &c->scale_by_layer, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "tie_word_embeddings", false, &c->tied, NULL);
    if (st == QSAE_OK)
        st = qsae__config_activation(o, where, "activation_function", &c->activation);
    if (st != QSAE_OK)
        return st;
    c->kv_heads = c->heads;
    c->head_dim = c->width / c->heads;
    c->attn_scale = scaled ? 1.0 / sqrt((double)c->head_dim) : 1.0;
    c->sliding = qsae__calloc(ctx, c->layers, 1);
    return c->sliding ? QSAE_OK : QSAE_ENOMEM;
}

static const qsae__proj_slot slots[QSAE__FUSED_COUNT] = {
    [QSAE__FUSED_QKV] = { "attn.c_attn", "c_attn", "attn", QSAE__SIZE_QKV, QSAE__SIZE_WIDTH },
    [QSAE__FUSED_OUT] = { "attn.c_proj", "c_proj", "attn", QSAE__SIZE_WIDTH, QSAE__SIZE_Q },
    [QSAE__FUSED_UP] = { "mlp.c_fc", "c_fc", "mlp", QSAE__SIZE_MLP, QSAE__SIZE_WIDTH },
    [QSAE__FUSED_DOWN] = { "mlp.c_proj", "c_proj", "mlp", QSAE__SIZE_WIDTH, QSAE__SIZE_MLP },
};

const qsae__family qsae__family_gpt2 = {
    .model_type = "gpt2",
    .name = "gpt2",
    .norms = { [QSAE__NORM_ATTN_IN] = "ln_1", [QSAE__NORM_MLP_IN] = "ln_2" },
    .norm = QSAE__NORM_LAYER,
    .slots = slots,
    .n_slots = QSAE__FUSED_COUNT,
    .qkv = QSAE__QKV_WHOLE,
    .transposed = true,
    .embed = "wte",
    .positions = "wpe",
    .layers = "h",
    .final_norm = "ln_f",
    .head = "lm_head",
    .processed = true,
    .read = read,
    .block = qsae__block_sequential,
};
