/* SPDX-License-Identifier: BSD-2-Clause */
/* Qwen3, dense: transformers' models/qwen3. Llama with a norm on each query and key head. */
#include <inttypes.h>

#include "model/block.h"
#include "model/family.h"

/* sliding_window says nothing unless use_sliding_window is true; then the layers from
 * max_window_layers on slide, or those that layer_types names. Both kinds rotate alike. */
static int32_t read_windows(const json_t *o, const char *where, qsae__config *c)
{
    bool use = false;
    int64_t window = 4096, first = 28;
    int32_t st = qsae__json_bool(o, where, "use_sliding_window", false, &use, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(o, where, "sliding_window", false, use ? 1 : INT32_MIN, INT32_MAX,
                            &window, NULL);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "max_window_layers", INT32_MIN, INT32_MAX, &first);
    if (st != QSAE_OK)
        return st;
    const json_t *const given = json_object_get(o, "sliding_window");
    c->window = use && !json_is_null(given) ? window : 0;
    for (int64_t n = 0; n < c->layers; n++)
        c->sliding[n] = c->window > 0 && n >= first;
    st = qsae__config_layer_types(o, where, c);
    bool any = false;
    for (int64_t n = 0; n < c->layers && st == QSAE_OK; n++) {
        any = any || c->sliding[n];
        if (c->sliding[n] && c->window == 0)
            st = qsae__fail(QSAE_EFORMAT,
                            "%s: layer_types[%" PRId64
                            "]: sliding_attention, but %s: expected a window",
                            where, n, use ? "sliding_window is null"
                                          : "use_sliding_window is false");
    }
    if (!any)
        c->window = 0;
    return st;
}

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    (void)top;
    c->vocab = 151936;
    c->width = 4096;
    c->mlp_width = 22016;
    c->layers = 32;
    c->heads = 32;
    c->kv_heads = 32;
    c->head_dim = 128;
    c->max_positions = 32768;
    c->eps = 1e-6;
    c->activation = QSAE__ACT_SILU;
    c->bos = -1;
    c->eos = -1;
    int32_t st = qsae__config_common(o, where, c);
    if (st == QSAE_OK && json_is_null(json_object_get(o, "num_key_value_heads")))
        c->kv_heads = c->heads;
    if (st == QSAE_OK)
        st = qsae__json_i64(o, where, "num_key_value_heads", false, 1, c->heads, &c->kv_heads,
                            NULL);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "head_dim", 1, INT32_MAX, &c->head_dim);
    if (st == QSAE_OK)
        st = qsae__config_llama(ctx, o, where, c);
    return st == QSAE_OK ? read_windows(o, where, c) : st;
}

const qsae__family qsae__family_qwen3 = {
    .model_type = "qwen3",
    .name = "qwen3",
    .norms = { [QSAE__NORM_ATTN_IN] = "input_layernorm",
               [QSAE__NORM_Q] = "self_attn.q_norm",
               [QSAE__NORM_K] = "self_attn.k_norm",
               [QSAE__NORM_MLP_IN] = "post_attention_layernorm" },
    .norm = QSAE__NORM_LLAMA,
    .any_width = true,
    .processed = true,
    .read = read,
    .block = qsae__block_sequential,
};
