/* SPDX-License-Identifier: BSD-2-Clause */
/* Gemma 4, text part: transformers' models/gemma4. Full and sliding layers differ in the size and
 * number of their key and value heads; what the block adds to Gemma 3's is in gemma4_block.c. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/extras.h"
#include "model/family.h"

#define TYPE_NAME(sliding) ((sliding) ? "sliding_attention" : "full_attention")

/* A dictionary per layer type, both with defaults only if there is none of either. The part of a
 * head that rotates is a matter of "proportional" alone: "default" ignores it. */
static int32_t read_rope_dict(const json_t *params, const char *where, int type, int64_t dim,
                              qsae__rope *rope)
{
    char key[64];
    const json_t *dict = NULL;
    const char *name = NULL;
    double partial = 1;
    snprintf(key, sizeof key, "rope_parameters.%s", TYPE_NAME(type == QSAE__SLIDING));
    int32_t st = qsae__json_get(params, where, TYPE_NAME(type == QSAE__SLIDING), true, JSON_OBJECT,
                                &dict);
    if (st == QSAE_OK)
        st = qsae__json_str(dict, where, "rope_type", false, &name, NULL);
    if (st == QSAE_OK && !name)
        st = qsae__json_str(dict, where, "type", false, &name, NULL);
    if (st == QSAE_OK && !qsae__config_has(dict, "rope_theta"))
        st = qsae__fail(QSAE_EFORMAT, "%s: %s.rope_theta: missing", where, key);
    if (st != QSAE_OK)
        return st;
    if (!name || strcmp(name, "proportional") != 0) {
        st = qsae__rope_read_part(dict, where, key, rope, &partial);
        if (st == QSAE_OK && rope->type != QSAE__ROPE_DEFAULT && partial != 1)
            st = qsae__fail(QSAE_EUNSUPPORTED, "%s: %s.partial_rotary_factor: %g is not supported "
                            "with rope type \"%.64s\"", where, key, partial, name);
        return st;
    }
    rope->type = QSAE__ROPE_PROPORTIONAL;
    rope->factor = 1;
    st = qsae__config_positive(dict, where, "rope_theta", &rope->theta);
    if (st == QSAE_OK)
        st = qsae__config_positive(dict, where, "factor", &rope->factor);
    if (st == QSAE_OK)
        st = qsae__json_f64(dict, where, "partial_rotary_factor", false, &partial, NULL);
    if (st == QSAE_OK && !(partial >= 0 && partial <= 1))
        st = qsae__fail(QSAE_EFORMAT, "%s: %s.partial_rotary_factor: expected 0 to 1, found %g",
                        where, key, partial);
    rope->rotated = (int64_t)floor(partial * (double)dim / 2);
    return st;
}

static int32_t read_rope(const json_t *o, const char *where, qsae__config *c)
{
    const json_t *params = NULL;
    int32_t st = qsae__json_get(o, where, "rope_parameters", false, JSON_OBJECT, &params);
    if (st == QSAE_OK && qsae__config_has(o, "rope_scaling"))
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: rope_scaling: expected rope_parameters with one "
                        "object per layer type", where);
    for (int type = 0; type < QSAE__LAYER_TYPES && st == QSAE_OK; type++) {
        int64_t layer = 0;
        while (layer < c->layers && c->sliding[layer] != (type == QSAE__SLIDING))
            layer++;
        const int64_t dim = layer < c->layers ? c->shapes[layer].head_dim : c->head_dim;
        qsae__rope *const rope = &c->rope[type];
        *rope = (qsae__rope){ .theta = type == QSAE__SLIDING ? 1e4 : 1e6, .dim = dim,
                              .original = (double)c->max_positions };
        if (params && layer < c->layers) {
            st = read_rope_dict(params, where, type, dim, rope);
        } else if (!params && type == QSAE__FULL) {
            rope->type = QSAE__ROPE_PROPORTIONAL;
            rope->factor = 1;
            rope->rotated = dim / 8; /* a quarter of the pairs */
        }
    }
    return st;
}

/* Every sixth layer is full where layer_types does not say otherwise, the last one always. */
static int32_t read_layer_types(qsae_context *ctx, const json_t *o, const char *where,
                                qsae__config *c)
{
    bool any = false;
    c->sliding = qsae__calloc(ctx, c->layers, 1);
    if (!c->sliding)
        return QSAE_ENOMEM;
    for (int64_t n = 0; n < c->layers; n++)
        c->sliding[n] = (n + 1) % 6 != 0;
    int32_t st = qsae__config_layer_types(o, where, c);
    if (st != QSAE_OK)
        return st;
    if (c->sliding[c->layers - 1] && qsae__config_has(o, "layer_types"))
        qsae__log(ctx, QSAE_LOG_WARNING,
                  "%s: layer_types: the last layer is a full one, as in transformers", where);
    c->sliding[c->layers - 1] = 0;
    for (int64_t n = 0; n < c->layers; n++)
        any = any || c->sliding[n];
    c->window = 512;
    st = qsae__config_size(o, where, "sliding_window", 1, INT32_MAX, &c->window);
    if (!any)
        c->window = 0;
    return st;
}

/* per_layer_config.N: what of layer N differs. */
static int32_t read_layer_config(const json_t *o, const char *where, const char *name,
                                 qsae__config *c)
{
    char path[64];
    const char *key;
    json_t *value;
    int64_t layer = 0;
    snprintf(path, sizeof path, "per_layer_config.%.20s", name);
    const size_t digits = strspn(name, "0123456789");
    for (size_t i = 0; i < digits && layer < c->layers; i++)
        layer = layer * 10 + (name[i] - '0');
    if (digits == 0 || name[digits] || layer >= c->layers)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected the number of a layer below %" PRId64,
                          where, path, c->layers);
    if (!json_is_object(o))
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected an object, found %s", where, path,
                          qsae__json_type_name(o));
    int32_t st = qsae__config_size(o, where, "head_dim", 1, INT32_MAX, &c->shapes[layer].head_dim);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "num_key_value_heads", 1, c->heads,
                               &c->shapes[layer].kv_heads);
    json_object_foreach((json_t *)o, key, value)
        if (st == QSAE_OK && strcmp(key, "head_dim") != 0 &&
            strcmp(key, "num_key_value_heads") != 0 &&
            !(strcmp(key, "skip") == 0 && json_is_array(value) && json_array_size(value) == 0))
            st = qsae__fail(QSAE_EUNSUPPORTED, "%s: %s.%.64s: not supported (head_dim and "
                            "num_key_value_heads are)", where, path, key);
    return st;
}

/* The heads of full layers: per_layer_config, or else global_head_dim and, where values are keys,
 * num_global_key_value_heads. */
static int32_t read_heads(const json_t *o, const char *where, bool k_is_v, qsae__config *c)
{
    const json_t *list = NULL;
    const char *name;
    json_t *value;
    int64_t head_dim = 512, kv_heads = c->kv_heads;
    int32_t st = qsae__config_size(o, where, "global_head_dim", 1, INT32_MAX, &head_dim);
    if (st == QSAE_OK)
        st = qsae__json_i64(o, where, "num_global_key_value_heads", false, 1, c->heads, &kv_heads,
                            NULL);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, "per_layer_config", false, JSON_OBJECT, &list);
    if (st != QSAE_OK)
        return st;
    for (int64_t n = 0; n < c->layers; n++) {
        const bool full = !c->sliding[n] && !json_object_get(o, "per_layer_config");
        c->shapes[n] = (qsae__layer_shape){ .head_dim = full ? head_dim : c->head_dim,
                                            .kv_heads = full && k_is_v ? kv_heads : c->kv_heads,
                                            .mlp_width = c->mlp_width, .kv_layer = n,
                                            .no_v = k_is_v && !c->sliding[n] };
    }
    json_object_foreach((json_t *)list, name, value)
        if (st == QSAE_OK)
            st = read_layer_config(value, where, name, c);
    return st;
}

static int64_t first_of_type(const qsae__config *c, int64_t n)
{
    int64_t i = 0;
    while (c->sliding[i] != c->sliding[n])
        i++;
    return i;
}

static int32_t check_heads(const char *where, const qsae__config *c)
{
    for (int64_t n = 0; n < c->layers; n++) {
        const qsae__layer_shape *const s = &c->shapes[n],
                                *const first = &c->shapes[first_of_type(c, n)];
        if (c->heads % s->kv_heads != 0)
            return qsae__fail(QSAE_EFORMAT, "%s: num_attention_heads %" PRId64 " is not a multiple "
                              "of the %" PRId64 " key and value heads of layer %" PRId64, where,
                              c->heads, s->kv_heads, n);
        if (s->head_dim % 2 != 0 || s->head_dim > QSAE__MAX_HEAD_DIM)
            return qsae__fail(QSAE_EFORMAT, "%s: head_dim of layer %" PRId64 ": expected an even "
                              "number in 2..%d, found %" PRId64, where, n, QSAE__MAX_HEAD_DIM,
                              s->head_dim);
        if (s->head_dim != first->head_dim || s->kv_heads != first->kv_heads)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: per_layer_config: layer %" PRId64 " has "
                              "other heads than layer %" PRId64 ", both are %s", where, n,
                              first_of_type(c, n), TYPE_NAME(c->sliding[n]));
    }
    return QSAE_OK;
}

/* The last num_kv_shared_layers layers read keys and values of the last layer of their type before
 * them; their MLPs may be twice as wide. */
static int32_t read_sharing(const json_t *o, const char *where, qsae__config *c)
{
    int64_t shared = 0, last[QSAE__LAYER_TYPES] = { -1, -1 };
    bool wide = false;
    int32_t st = qsae__config_size(o, where, "num_kv_shared_layers", 0, c->layers - 1, &shared);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "use_double_wide_mlp", false, &wide, NULL);
    for (int64_t n = 0; n < c->layers - shared && st == QSAE_OK; n++)
        last[c->sliding[n]] = n;
    for (int64_t n = c->layers - shared; n < c->layers && st == QSAE_OK; n++) {
        qsae__layer_shape *const s = &c->shapes[n];
        s->kv_layer = last[c->sliding[n]];
        if (s->kv_layer < 0)
            return qsae__fail(QSAE_EFORMAT, "%s: num_kv_shared_layers: layer %" PRId64 " needs "
                              "keys and values of an earlier %s layer that has them", where, n,
                              TYPE_NAME(c->sliding[n]));
        c->shapes[s->kv_layer].kept = true;
        s->mlp_width = wide ? 2 * c->mlp_width : c->mlp_width;
    }
    return st;
}

static int32_t read_extras(const json_t *o, const char *where, qsae__config *c)
{
    bool moe = false;
    c->ple_width = 256;
    c->ple_vocab = 262144;
    int32_t st = qsae__config_size(o, where, "hidden_size_per_layer_input", 0, QSAE__MAX_WIDTH,
                                   &c->ple_width);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "vocab_size_per_layer_input", 1, QSAE__MAX_VOCAB,
                               &c->ple_vocab);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "enable_moe_block", false, &moe, NULL);
    if (st != QSAE_OK || !moe)
        return st;
    st = qsae__json_i64(o, where, "num_experts", true, 1, QSAE__MAX_HEADS, &c->experts, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(o, where, "top_k_experts", true, 1, c->experts, &c->top_experts, NULL);
    return st == QSAE_OK ? qsae__json_i64(o, where, "moe_intermediate_size", true, 1,
                                          QSAE__MAX_MLP, &c->expert_width, NULL)
                         : st;
}

static int32_t read_keys(const json_t *top, const json_t *o, const char *where, qsae__config *c)
{
    int32_t st = qsae__config_common(o, where, c);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "num_key_value_heads", 1, INT32_MAX, &c->kv_heads);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "head_dim", 1, INT32_MAX, &c->head_dim);
    if (st == QSAE_OK)
        st = qsae__config_activation(o, where, "hidden_activation", &c->activation);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "final_logit_softcapping", &c->final_cap);
    if (st == QSAE_OK && top != o)
        st = qsae__json_bool(top, where, "tie_word_embeddings", false, &c->tied, NULL);
    return st == QSAE_OK
               ? qsae__json_bool(o, where, "tie_word_embeddings", false, &c->tied, NULL)
               : st;
}

static int32_t read_shapes(qsae_context *ctx, const json_t *o, const char *where, qsae__config *c)
{
    bool k_is_v = false;
    int32_t st = read_layer_types(ctx, o, where, c);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "attention_k_eq_v", false, &k_is_v, NULL);
    if (st != QSAE_OK)
        return st;
    c->shapes = qsae__calloc(ctx, c->layers, sizeof *c->shapes);
    if (!c->shapes)
        return QSAE_ENOMEM;
    st = read_heads(o, where, k_is_v, c);
    if (st == QSAE_OK)
        st = check_heads(where, c);
    if (st == QSAE_OK)
        st = read_sharing(o, where, c);
    if (c->window == 0) { /* what the model has at all */
        c->head_dim = c->shapes[0].head_dim;
        c->kv_heads = c->shapes[0].kv_heads;
    }
    return st;
}

static int32_t read(qsae_context *ctx, const json_t *top, const json_t *o, const char *where,
                    qsae__config *c)
{
    c->vocab = 262144;
    c->width = 2304;
    c->mlp_width = 9216;
    c->layers = 30;
    c->heads = 8;
    c->kv_heads = 4;
    c->head_dim = 256;
    c->max_positions = 131072;
    c->eps = 1e-6;
    c->activation = QSAE__ACT_GELU_TANH;
    c->attn_scale = 1;
    c->bos = 2;
    c->eos = 1;
    c->tied = true;
    int32_t st = qsae__config_causal(o, where);
    if (st == QSAE_OK)
        st = read_keys(top, o, where, c);
    if (st == QSAE_OK)
        st = read_shapes(ctx, o, where, c);
    if (st == QSAE_OK)
        st = read_rope(o, where, c);
    return st == QSAE_OK ? read_extras(o, where, c) : st;
}

/* Linear layers beside Llama's seven, in the order of the enumeration in internal.h. */
static const qsae__proj_slot slots[] = {
    { "self_attn.q_proj", "q_proj", "attn", QSAE__SIZE_Q, QSAE__SIZE_WIDTH },
    { "self_attn.k_proj", "k_proj", "attn", QSAE__SIZE_KV, QSAE__SIZE_WIDTH },
    { "self_attn.v_proj", "v_proj", "attn", QSAE__SIZE_KV, QSAE__SIZE_WIDTH },
    { "self_attn.o_proj", "o_proj", "attn", QSAE__SIZE_WIDTH, QSAE__SIZE_Q },
    { "mlp.gate_proj", "gate_proj", "mlp", QSAE__SIZE_MLP, QSAE__SIZE_WIDTH },
    { "mlp.up_proj", "up_proj", "mlp", QSAE__SIZE_MLP, QSAE__SIZE_WIDTH },
    { "mlp.down_proj", "down_proj", "mlp", QSAE__SIZE_WIDTH, QSAE__SIZE_MLP },
    { "per_layer_input_gate", "per_layer_input_gate", "ple", QSAE__SIZE_PLE, QSAE__SIZE_WIDTH },
    { "per_layer_projection", "per_layer_projection", "ple", QSAE__SIZE_WIDTH, QSAE__SIZE_PLE },
    { "router.proj", "proj", "mlp", QSAE__SIZE_EXPERTS, QSAE__SIZE_WIDTH },
};

#define GEMMA4 \
    .name = "gemma4", \
    .norms = { [QSAE__NORM_ATTN_IN] = "input_layernorm", \
               [QSAE__NORM_Q] = "self_attn.q_norm", \
               [QSAE__NORM_K] = "self_attn.k_norm", \
               [QSAE__NORM_ATTN_OUT] = "post_attention_layernorm", \
               [QSAE__NORM_MLP_IN] = "pre_feedforward_layernorm", \
               [QSAE__NORM_MLP_OUT] = "post_feedforward_layernorm", \
               [QSAE__NORM_DENSE_OUT] = "post_feedforward_layernorm_1", \
               [QSAE__NORM_EXPERTS_IN] = "pre_feedforward_layernorm_2", \
               [QSAE__NORM_EXPERTS_OUT] = "post_feedforward_layernorm_2", \
               [QSAE__NORM_PLE_OUT] = "post_per_layer_input_norm" }, \
    .norm = QSAE__NORM_PLAIN, .scale_embedding = true, .any_width = true, .v_norm = true, \
    .extras = true, .slots = slots, .n_slots = (int)(sizeof slots / sizeof slots[0]), \
    .read = read, .block = qsae__block_gemma4

const qsae__family qsae__family_gemma4_text = { .model_type = "gemma4_text", GEMMA4 };

/* The wrapper with vision and audio, whose tensors are not looked at. */
const qsae__family qsae__family_gemma4 = { .model_type = "gemma4",
                                           .text_key = "text_config",
                                           .text_type = "gemma4_text",
                                           GEMMA4 };
