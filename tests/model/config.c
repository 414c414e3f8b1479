/* SPDX-License-Identifier: BSD-2-Clause */
/* config.json and checkpoint files: what they mean, and what is refused. */
#include "model_test.h"

#include <unistd.h>

static void write_config(const char *json)
{
    test_write("config.json", json, strlen(json));
}

static void load(qsae_context *ctx, const char *json, qsae__config *c)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", test_folder());
    write_config(json);
    json_t *top = NULL;
    OK(qsae__json_load(ctx, path, &top));
    OK(qsae__config_read(ctx, top, path, c));
    json_decref(top);
}

/* Every default, and the sparse text_config of the published 4B file. */
static void test_defaults(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__config c;
    (void)state;
    load(ctx, "{\"model_type\":\"llama\"}", &c);
    assert_int_equal(c.vocab, 32000);
    assert_int_equal(c.width, 4096);
    assert_int_equal(c.mlp_width, 11008);
    assert_int_equal(c.layers, 32);
    assert_int_equal(c.kv_heads, 32);
    assert_int_equal(c.head_dim, 128);
    assert_true(c.eps == 1e-6 && !c.tied && c.bos == 1 && c.eos == 2 && c.window == 0);
    assert_true(c.rope[QSAE__FULL].theta == 1e4 && c.activation == QSAE__ACT_SILU);
    qsae__config_free(ctx, &c);
    load(ctx,
         "{\"model_type\":\"gemma3\",\"text_config\":{\"hidden_size\":2560,"
         "\"intermediate_size\":10240,\"model_type\":\"gemma3_text\",\"num_hidden_layers\":34,"
         "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},\"sliding_window\":1024}}",
         &c);
    assert_int_equal(c.vocab, 262208);
    assert_int_equal(c.heads, 8);
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 256);
    assert_int_equal(c.window, 1024);
    assert_true(c.tied && c.attn_scale == 0.0625 && c.activation == QSAE__ACT_GELU_TANH);
    assert_true(c.final_cap == 0 && c.bos == 2 && c.eos == 1);
    for (int64_t n = 0; n < c.layers; n++)
        assert_int_equal(c.sliding[n], (n + 1) % 6 != 0);
    assert_true(c.attn_cap == 0);
    assert_true(c.rope[QSAE__FULL].theta == 1e6 && c.rope[QSAE__FULL].factor == 8);
    assert_true(c.rope[QSAE__FULL].type == QSAE__ROPE_LINEAR);
    assert_true(c.rope[QSAE__SLIDING].theta == 1e4);
    assert_true(c.rope[QSAE__SLIDING].type == QSAE__ROPE_DEFAULT);
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

/* Gemma 2: the 2B model is all defaults; caps can be taken off. */
static void test_gemma2(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__config c;
    (void)state;
    load(ctx, "{\"model_type\":\"gemma2\",\"hidden_act\":\"silu\"}", &c);
    assert_true(c.vocab == 256000 && c.width == 2304 && c.mlp_width == 9216 && c.layers == 26);
    assert_true(c.heads == 8 && c.kv_heads == 4 && c.head_dim == 256 && c.window == 4096);
    assert_true(c.attn_cap == 50 && c.final_cap == 30 && c.attn_scale == 0.0625 && c.tied);
    assert_true(c.max_positions == 8192 && c.eps == 1e-6 && c.bos == 2 && c.eos == 1);
    assert_true(c.activation == QSAE__ACT_GELU_TANH && !c.attention_bias);
    for (int64_t n = 0; n < c.layers; n++)
        assert_int_equal(c.sliding[n], n % 2 == 0);
    for (int i = 0; i < QSAE__LAYER_TYPES; i++)
        assert_true(c.rope[i].theta == 1e4 && c.rope[i].type == QSAE__ROPE_DEFAULT);
    qsae__config_free(ctx, &c);
    load(ctx,
         "{\"model_type\":\"gemma2\",\"num_hidden_layers\":3,\"attn_logit_softcapping\":null,"
         "\"final_logit_softcapping\":null,\"query_pre_attn_scalar\":144,\"rope_theta\":5e5,"
         "\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\"],"
         "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4},\"sliding_window\":7,"
         "\"tie_word_embeddings\":false,\"use_bidirectional_attention\":null}",
         &c);
    assert_true(c.attn_cap == 0 && c.final_cap == 0 && c.attn_scale == 1.0 / 12 && !c.tied);
    assert_true(!c.sliding[0] && !c.sliding[1] && c.sliding[2] && c.window == 7);
    for (int i = 0; i < QSAE__LAYER_TYPES; i++)
        assert_true(c.rope[i].theta == 5e5 && c.rope[i].factor == 4 &&
                    c.rope[i].type == QSAE__ROPE_LINEAR);
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

/* The back end where none is asked for. */
static void test_attention_default(void **state)
{
    static const char *const names[] = { "gemma2_cap", "gemma3_cap", "llama_gqa" };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (int i = 0; i < 3; i++) {
        qsae_model_cost cost = { .struct_size = sizeof cost };
        qsae_model *m = test_model(ctx, test_model_path(names[i]), NULL, 0, 0);
        OK(qsae_model_get_cost(m, &cost));
        assert_int_equal(cost.attention, i == 0 ? QSAE_ATTN_EAGER : QSAE_ATTN_SDPA);
        qsae_model_close(&m);
    }
    qsae_context_close(&ctx);
}

static void test_qwen3(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__config c;
    (void)state;
    load(ctx, "{\"model_type\":\"qwen3\"}", &c);
    assert_true(c.vocab == 151936 && c.width == 4096 && c.mlp_width == 22016 && c.layers == 32);
    assert_true(c.heads == 32 && c.kv_heads == 32 && c.head_dim == 128 && c.window == 0);
    assert_true(c.eps == 1e-6 && !c.tied && !c.attention_bias && !c.mlp_bias && c.bos == -1);
    assert_true(c.eos == -1 && c.max_positions == 32768 && c.attn_scale == 1 / sqrt(128));
    assert_true(c.rope[QSAE__FULL].theta == 1e4 && c.rope[QSAE__SLIDING].theta == 1e4);
    qsae__config_free(ctx, &c);
    /* without use_sliding_window the other keys say nothing; hidden_size is no multiple of heads */
    load(ctx,
         "{\"model_type\":\"qwen3\",\"num_hidden_layers\":3,\"max_window_layers\":0,"
         "\"sliding_window\":0,\"num_attention_heads\":3,\"num_key_value_heads\":null,"
         "\"rope_theta\":1000000,\"rope_scaling\":null,\"mlp_bias\":true}",
         &c);
    assert_true(c.window == 0 && !c.sliding[0] && !c.sliding[2] && c.kv_heads == 3 && !c.mlp_bias);
    assert_true(c.rope[QSAE__FULL].theta == 1e6);
    qsae__config_free(ctx, &c);
    load(ctx,
         "{\"model_type\":\"qwen3\",\"num_hidden_layers\":30,\"use_sliding_window\":true,"
         "\"layer_types\":null}",
         &c);
    assert_true(c.window == 4096);
    for (int64_t n = 0; n < c.layers; n++)
        assert_int_equal(c.sliding[n], n >= 28);
    qsae__config_free(ctx, &c);
    load(ctx,
         "{\"model_type\":\"qwen3\",\"num_hidden_layers\":3,\"use_sliding_window\":true,"
         "\"sliding_window\":9,\"max_window_layers\":1,\"layer_types\":[\"sliding_attention\","
         "\"full_attention\",\"sliding_attention\"]}",
         &c);
    assert_true(c.window == 9 && c.sliding[0] && !c.sliding[1] && c.sliding[2]);
    qsae__config_free(ctx, &c);
    load(ctx,
         "{\"model_type\":\"qwen3\",\"num_hidden_layers\":3,\"use_sliding_window\":true,"
         "\"sliding_window\":null,\"max_window_layers\":0}",
         &c);
    assert_true(c.window == 0 && !c.sliding[0] && !c.sliding[2]);
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

static void count_ignored(void *cookie, int32_t level, const char *message)
{
    *(int *)cookie += level == QSAE_LOG_WARNING && strstr(message, "layer_types is ignored");
}

static void test_mistral(void **state)
{
    int warnings = 0;
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae__config c;
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.log = count_ignored;
    s.log_cookie = &warnings;
    OK(qsae_context_open(&s, &ctx));
    load(ctx, "{\"model_type\":\"mistral\"}", &c);
    assert_true(c.vocab == 32000 && c.width == 4096 && c.mlp_width == 14336 && c.layers == 32);
    assert_true(c.heads == 32 && c.kv_heads == 8 && c.head_dim == 128 && c.window == 4096);
    assert_true(c.eps == 1e-6 && !c.tied && c.bos == 1 && c.eos == 2 && c.max_positions == 131072);
    for (int64_t n = 0; n < c.layers; n++)
        assert_int_equal(c.sliding[n], 1);
    qsae__config_free(ctx, &c);
    assert_int_equal(warnings, 0);
    load(ctx,
         "{\"model_type\":\"mistral\",\"num_hidden_layers\":2,\"sliding_window\":null,"
         "\"hidden_size\":5120,\"head_dim\":160,\"num_key_value_heads\":null,"
         "\"attention_bias\":true,\"mlp_bias\":true,\"rope_theta\":1000000.0,"
         "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         &c);
    assert_true(c.window == 0 && !c.sliding[0] && !c.sliding[1] && c.head_dim == 160);
    assert_true(c.kv_heads == 32 && !c.attention_bias && !c.mlp_bias);
    assert_true(c.rope[QSAE__FULL].theta == 1e6 && c.rope[QSAE__SLIDING].theta == 1e6);
    assert_int_equal(warnings, 1);
    qsae__config_free(ctx, &c);
    load(ctx, "{\"model_type\":\"mistral\",\"head_dim\":null,\"num_attention_heads\":24}", &c);
    assert_true(c.head_dim == 170 && c.sliding[31]); /* 4096 / 24, rounded down */
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

/* Mixtures of old and new keys. */
static void test_forms(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__config c;
    (void)state;
    load(ctx,
         "{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":4,\"sliding_window_pattern\":2,"
         "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4},"
         "\"sliding_attention\":null},\"rope_theta\":5e5,\"rope_local_base_freq\":2e4,"
         "\"final_logit_softcapping\":30,\"attn_logit_softcapping\":50,"
         "\"use_bidirectional_attention\":\"vision\",\"eos_token_id\":[1,106],\"bos_token_id\":"
         "null}",
         &c);
    assert_true(c.rope[QSAE__FULL].theta == 5e5 && c.rope[QSAE__FULL].factor == 4);
    assert_true(c.rope[QSAE__SLIDING].theta == 2e4);
    assert_true(c.final_cap == 30 && c.eos == 1 && c.bos == -1);
    assert_true(c.sliding[0] && !c.sliding[1] && c.sliding[2] && !c.sliding[3]);
    qsae__config_free(ctx, &c);
    load(
        ctx,
        "{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":2,\"sliding_window\":null,"
        "\"layer_types\":[\"full_attention\",\"full_attention\"],\"final_logit_softcapping\":null}",
        &c);
    assert_true(c.window == 0 && c.final_cap == 0 && !c.sliding[0] && !c.sliding[1]);
    qsae__config_free(ctx, &c);
    load(ctx,
         "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":32.0,"
         "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"rope_theta\":500000.0,"
         "\"original_max_position_embeddings\":8192},\"num_key_value_heads\":8,\"head_dim\":null}",
         &c);
    assert_true(c.rope[QSAE__FULL].type == QSAE__ROPE_LLAMA3 && c.rope[QSAE__FULL].factor == 32);
    assert_true(c.rope[QSAE__FULL].original == 8192 && c.rope[QSAE__FULL].theta == 5e5);
    assert_int_equal(c.head_dim, 128);
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

/* Frequencies of Llama 3.2 1B (all three ranges) as transformers 5.23 computes them. */
static void test_frequencies(void **state)
{
    static const float want[32] = {
        1.0f,
        0.663601279f,
        0.440366626f,
        0.292227834f,
        0.193922758f,
        0.128687382f,
        0.0853971019f,
        0.0566696189f,
        0.0376060307f,
        0.0249554086f,
        0.0165604409f,
        0.0109895291f,
        0.00729266508f,
        0.00483942125f,
        0.00321144611f,
        0.00129054801f,
        0.000429556705f,
        9.70828623e-05f,
        1.94616387e-05f,
        1.29147675e-05f,
        8.57025589e-06f,
        5.68723226e-06f,
        3.77405445e-06f,
        2.50446715e-06f,
        1.66196742e-06f,
        1.10288363e-06f,
        7.31874934e-07f,
        4.85673127e-07f,
        3.22293289e-07f,
        2.1387423e-07f,
        1.41927202e-07f,
        9.41830649e-08f,
    };
    const qsae__rope rope = { .type = QSAE__ROPE_LLAMA3,
                              .theta = 500000,
                              .factor = 32,
                              .low = 1,
                              .high = 4,
                              .original = 8192 };
    float f[32];
    (void)state;
    qsae__rope_frequencies(&rope, 64, f);
    for (int i = 0; i < 32; i++)
        assert_true(fabsf(f[i] - want[i]) <= 4e-7f * want[i]);
}

#define GEMMA2 "{\"model_type\":\"gemma2\","
#define LLAMA "{\"model_type\":\"llama\","
#define GEMMA "{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":2,"

#define QWEN3 "{\"model_type\":\"qwen3\",\"num_hidden_layers\":2,"
#define MISTRAL "{\"model_type\":\"mistral\",\"num_hidden_layers\":2,"
#define NEOX "{\"model_type\":\"gpt_neox\","
#define GPT2 "{\"model_type\":\"gpt2\","

static const struct {
    const char *json;
    int32_t status;
    const char *part;
} refused[] = {
    { "[]", QSAE_EFORMAT, "object" },
    { "{}", QSAE_EFORMAT, "model_type" },
    { "{\"model_type\":3}", QSAE_EFORMAT, "model_type" },
    { "{\"model_type\":\"llama\"", QSAE_EFORMAT, "config.json" },
    { "{\"model_type\":\"gemma3n_text\"}", QSAE_EUNSUPPORTED, "gemma3n_text" },
    { "{\"model_type\":\"qwen3_moe\"}", QSAE_EUNSUPPORTED, "qwen3_moe" },
    { "{\"model_type\":\"bert\"}", QSAE_EUNSUPPORTED, "bert" },
    { "{\"model_type\":\"gemma3\"}", QSAE_EFORMAT, "text_config" },
    { "{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"gemma2\"}}", QSAE_EUNSUPPORTED,
      "text_config.model_type" },
    { LLAMA "\"quantization_config\":{\"quant_method\":\"hqq\"}}", QSAE_EUNSUPPORTED, "\"hqq\"" },
    { LLAMA "\"quantization_config\":{\"bits\":4}}", QSAE_EFORMAT, "quant_method" },
    { LLAMA "\"quantization_config\":{\"quant_method\":4}}", QSAE_EFORMAT, "quant_method" },
    { LLAMA "\"quantization_config\":[]}", QSAE_EFORMAT, "quantization_config" },
    { GEMMA2 "\"attn_logit_softcapping\":0}", QSAE_EFORMAT, "attn_logit_softcapping" },
    { GEMMA2 "\"attn_logit_softcapping\":\"50\"}", QSAE_EFORMAT, "attn_logit_softcapping" },
    { GEMMA2 "\"final_logit_softcapping\":-30}", QSAE_EFORMAT, "final_logit_softcapping" },
    { GEMMA2 "\"query_pre_attn_scalar\":0}", QSAE_EFORMAT, "query_pre_attn_scalar" },
    { GEMMA2 "\"sliding_window\":null}", QSAE_EFORMAT, "sliding_window" },
    { GEMMA2 "\"layer_types\":[]}", QSAE_EFORMAT, "layer_types" },
    { GEMMA2 "\"hidden_activation\":\"relu2\"}", QSAE_EUNSUPPORTED, "hidden_activation" },
    { GEMMA2 "\"use_bidirectional_attention\":true}", QSAE_EUNSUPPORTED, "causal" },
    { GEMMA2 "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}}", QSAE_EUNSUPPORTED, "yarn" },
    { LLAMA "\"hidden_size\":0}", QSAE_EFORMAT, "hidden_size" },
    { LLAMA "\"hidden_size\":-64}", QSAE_EFORMAT, "hidden_size" },
    { LLAMA "\"hidden_size\":64.5}", QSAE_EFORMAT, "hidden_size" },
    { LLAMA "\"hidden_size\":null}", QSAE_EFORMAT, "hidden_size" },
    { LLAMA "\"hidden_size\":4611686018427387904}", QSAE_EFORMAT, "hidden_size" },
    { LLAMA "\"num_hidden_layers\":1000000000}", QSAE_EFORMAT, "num_hidden_layers" },
    { LLAMA "\"vocab_size\":\"many\"}", QSAE_EFORMAT, "vocab_size" },
    { LLAMA "\"num_key_value_heads\":5}", QSAE_EFORMAT, "num_key_value_heads" },
    { LLAMA "\"hidden_size\":100,\"head_dim\":4}", QSAE_EFORMAT, "num_attention_heads" },
    { LLAMA "\"head_dim\":7}", QSAE_EFORMAT, "head_dim" },
    { LLAMA "\"hidden_act\":\"relu\"}", QSAE_EUNSUPPORTED, "relu" },
    { LLAMA "\"rms_norm_eps\":-1}", QSAE_EFORMAT, "rms_norm_eps" },
    { LLAMA "\"rope_theta\":0}", QSAE_EFORMAT, "rope_theta" },
    { LLAMA "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", QSAE_EUNSUPPORTED, "dynamic" },
    { LLAMA "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", QSAE_EUNSUPPORTED, "yarn" },
    { LLAMA "\"rope_parameters\":{\"rope_type\":\"longrope\"}}", QSAE_EUNSUPPORTED, "longrope" },
    { LLAMA "\"rope_scaling\":{\"type\":\"linear\"}}", QSAE_EFORMAT, "factor" },
    { LLAMA "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}}", QSAE_EFORMAT,
      "low_freq_factor" },
    { LLAMA "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
            "\"high_freq_factor\":4}}",
      QSAE_EFORMAT, "high_freq_factor" },
    { LLAMA "\"rope_scaling\":[1]}", QSAE_EFORMAT, "rope_scaling" },
    { LLAMA "\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", QSAE_EUNSUPPORTED,
      "partial_rotary_factor" },
    { LLAMA "\"bos_token_id\":\"<s>\"}", QSAE_EFORMAT, "bos_token_id" },
    { LLAMA "\"attention_bias\":1}", QSAE_EFORMAT, "attention_bias" },
    { LLAMA "\"vocab_size\":1,\"vocab_size\":2}", QSAE_EFORMAT, "vocab_size" },
    { GEMMA "\"hidden_activation\":\"relu2\"}", QSAE_EUNSUPPORTED, "relu2" },
    { GEMMA "\"use_bidirectional_attention\":true}", QSAE_EUNSUPPORTED, "bidirectional" },
    { GEMMA "\"layer_types\":[\"full_attention\"]}", QSAE_EFORMAT, "layer_types" },
    { GEMMA "\"layer_types\":[\"full_attention\",\"chunked_attention\"]}", QSAE_EUNSUPPORTED,
      "chunked_attention" },
    { GEMMA "\"layer_types\":[\"full_attention\",2]}", QSAE_EFORMAT, "layer_types[1]" },
    { GEMMA "\"sliding_window_pattern\":0}", QSAE_EFORMAT, "sliding_window_pattern" },
    { GEMMA "\"sliding_window\":null}", QSAE_EFORMAT, "sliding_window" },
    { GEMMA "\"sliding_window\":0}", QSAE_EFORMAT, "sliding_window" },
    { GEMMA "\"query_pre_attn_scalar\":0}", QSAE_EFORMAT, "query_pre_attn_scalar" },
    { NEOX "\"hidden_act\":\"relu2\"}", QSAE_EUNSUPPORTED, "relu2" },
    { NEOX "\"rotary_pct\":1.5}", QSAE_EFORMAT, "rotary_pct" },
    { NEOX "\"rotary_pct\":0.001}", QSAE_EFORMAT, "rotary_pct" },
    { NEOX "\"hidden_size\":15,\"num_attention_heads\":3,\"rotary_pct\":1}", QSAE_EFORMAT,
      "rotary_pct" },
    { NEOX "\"layer_norm_eps\":0}", QSAE_EFORMAT, "layer_norm_eps" },
    { NEOX "\"use_parallel_residual\":1}", QSAE_EFORMAT, "use_parallel_residual" },
    { GPT2 "\"n_embd\":0}", QSAE_EFORMAT, "n_embd" },
    { GPT2 "\"n_head\":7}", QSAE_EFORMAT, "768" },
    { GPT2 "\"n_inner\":\"4\"}", QSAE_EFORMAT, "n_inner" },
    { GPT2 "\"reorder_and_upcast_attn\":true}", QSAE_EUNSUPPORTED, "reorder_and_upcast_attn" },
    { GPT2 "\"add_cross_attention\":true}", QSAE_EUNSUPPORTED, "add_cross_attention" },
    { GEMMA "\"final_logit_softcapping\":-30}", QSAE_EFORMAT, "final_logit_softcapping" },
    { "{\"model_type\":\"mistral3\"}", QSAE_EUNSUPPORTED, "\"mistral3\"" },
    { QWEN3 "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}", QSAE_EUNSUPPORTED, "yarn" },
    { QWEN3 "\"head_dim\":null}", QSAE_EFORMAT, "head_dim" },
    { QWEN3 "\"num_attention_heads\":16}", QSAE_EFORMAT, "num_key_value_heads 32" },
    { QWEN3 "\"use_sliding_window\":1}", QSAE_EFORMAT, "use_sliding_window" },
    { QWEN3 "\"use_sliding_window\":true,\"sliding_window\":0}", QSAE_EFORMAT, "sliding_window" },
    { QWEN3 "\"max_window_layers\":null}", QSAE_EFORMAT, "max_window_layers" },
    { QWEN3 "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", QSAE_EFORMAT,
      "layer_types[1]: sliding_attention, but use_sliding_window is false" },
    { QWEN3 "\"use_sliding_window\":true,\"sliding_window\":null,"
            "\"layer_types\":[\"sliding_attention\",\"full_attention\"]}",
      QSAE_EFORMAT, "layer_types[0]: sliding_attention, but sliding_window is null" },
    { QWEN3 "\"layer_types\":[\"full_attention\"]}", QSAE_EFORMAT, "layer_types: expected 2" },
    { QWEN3 "\"layer_types\":[\"full_attention\",3]}", QSAE_EFORMAT, "layer_types[1]" },
    { QWEN3 "\"layer_types\":[\"full_attention\",\"linear_attention\"]}", QSAE_EUNSUPPORTED,
      "linear_attention" },
    { MISTRAL "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", QSAE_EUNSUPPORTED, "yarn" },
    { MISTRAL "\"sliding_window\":0}", QSAE_EFORMAT, "sliding_window" },
    { MISTRAL "\"num_attention_heads\":4,\"head_dim\":8}", QSAE_EFORMAT, "num_key_value_heads 8" },
    { MISTRAL "\"head_dim\":9}", QSAE_EFORMAT, "head_dim" },
};

/* GPT-NeoX and GPT-2: defaults, and the spellings of both generations of files. */
static void test_layer_norm_families(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__config c;
    (void)state;
    load(ctx, "{\"model_type\":\"gpt_neox\",\"rms_norm_eps\":1}", &c);
    assert_int_equal(c.vocab, 50432);
    assert_int_equal(c.width, 6144);
    assert_int_equal(c.mlp_width, 24576);
    assert_int_equal(c.layers, 44);
    assert_int_equal(c.heads, 64);
    assert_int_equal(c.max_positions, 2048);
    assert_int_equal(c.rotary_dim, 24);
    assert_true(c.parallel && c.attention_bias && c.mlp_bias && !c.tied && c.eps == 1e-5);
    assert_int_equal(c.bos, 0);
    assert_int_equal(c.eos, 2);
    qsae__config_free(ctx, &c);
    load(ctx, "{\"model_type\":\"gpt_neox\",\"rotary_pct\":1,\"rotary_emb_base\":500,"
              "\"use_parallel_residual\":false}", &c);
    assert_true(c.rotary_dim == 96 && c.rope[QSAE__FULL].theta == 500 && !c.parallel);
    qsae__config_free(ctx, &c);
    load(ctx, "{\"model_type\":\"gpt_neox\",\"rotary_emb_base\":500,\"rope_parameters\":"
              "{\"rope_theta\":200,\"partial_rotary_factor\":0.14}}", &c);
    assert_true(c.rotary_dim == 13 && c.rope[QSAE__FULL].theta == 200);
    assert_int_equal(qsae__rotary_pairs(&c), 7);
    qsae__config_free(ctx, &c);
    load(ctx, "{\"model_type\":\"gpt2\"}", &c);
    assert_int_equal(c.vocab, 50257);
    assert_int_equal(c.width, 768);
    assert_int_equal(c.mlp_width, 3072);
    assert_int_equal(c.layers, 12);
    assert_int_equal(c.heads, 12);
    assert_int_equal(c.max_positions, 1024);
    assert_int_equal(qsae__rotary_pairs(&c), 0);
    assert_true(c.tied && !c.scale_by_layer && c.attn_scale == 0.125);
    assert_int_equal(c.activation, QSAE__ACT_GELU_NEW);
    assert_int_equal(c.eos, 50256);
    qsae__config_free(ctx, &c);
    load(ctx, "{\"model_type\":\"gpt2\",\"hidden_size\":48,\"n_inner\":null,"
              "\"scale_attn_weights\":false,\"n_ctx\":7}", &c);
    assert_true(c.width == 48 && c.mlp_width == 192 && c.attn_scale == 1);
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

/* What learned positions do not take; GPT-2's fused matrix has scales for each of q, k and v. */
static void test_layer_norm_limits(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_model_settings s;
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    int32_t ids[25] = { 0 };
    qsae_pass p;
    (void)state;
    qsae_model_settings_init(&s, sizeof s);
    OK(qsae_weights_open(ctx, test_model_path("gpt2_small"), &w));
    s.condition = "rtn:bits=4,axis=tl";
    OK(qsae_model_open(w, &s, &m));
    qsae_model_close(&m);
    s.condition = "rtn:bits=4,axis=tl@only=mlp";
    OK(qsae_model_open(w, &s, &m));
    qsae_pass_init(&p, sizeof p);
    p.ids = ids;
    p.n_seq = 1;
    p.n_tokens = 24;
    p.stop_layer = 1;
    OK(qsae_model_forward(m, &p));
    p.n_tokens = 25;
    REFUSED(qsae_model_forward(m, &p), QSAE_EINVAL, "24 learned positions");
    qsae_model_close(&m);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        qsae_weights *w = (qsae_weights *)&i;
        write_config(refused[i].json);
        const int32_t st = qsae_weights_open(ctx, test_folder(), &w);
        if (st != refused[i].status || !strstr(qsae_error_message(), refused[i].part))
            fail_msg("%s: expected %s with \"%s\", got %s: %s", refused[i].json,
                     qsae_status_name(refused[i].status), refused[i].part, qsae_status_name(st),
                     qsae_error_message());
        assert_null(w);
    }
    qsae_context_close(&ctx);
}

/* The tensors of llama_gqa under other names or values; drop, rename or change one. */
struct rewrite {
    const char *prefix;  /* instead of "model." */
    const char *tensor;  /* this one (by its old name) ... */
    const char *rename;  /* ... is renamed, */
    int32_t dtype;       /* or gets another dtype of the same size, */
    bool drop, flip;     /* or is dropped, or its first bit flipped */
    int32_t round;       /* all values are rounded to this */
};

static void rewrite(qsae_context *ctx, const struct rewrite *r, const char *config)
{
    qsae__tensors *t = NULL;
    qsae__tensor list[64];
    char names[64][128], path[512];
    void *copies[64];
    int64_t n = 0;
    OK(qsae__tensors_load(ctx, MODELS "llama_gqa", &t));
    for (int64_t i = 0; i < qsae__tensors_len(t); i++) {
        const qsae__tensor *x = qsae__tensors_at(t, i);
        const bool hit = r->tensor && !strcmp(x->name, r->tensor);
        if (hit && r->drop)
            continue;
        copies[n] = malloc((size_t)x->bytes);
        assert_non_null(copies[n]);
        memcpy(copies[n], x->data, (size_t)x->bytes);
        if (hit && r->flip)
            *(unsigned char *)copies[n] ^= 1;
        if (r->round)
            qsae__round(ctx, r->round, copies[n], (int64_t)x->bytes / 4);
        const bool body = !strncmp(x->name, "model.", 6);
        snprintf(names[n], sizeof names[n], "%s%s", body && r->prefix ? r->prefix : "",
                 hit && r->rename ? r->rename : body && r->prefix ? x->name + 6 : x->name);
        list[n] = *x;
        list[n].name = names[n];
        list[n].data = copies[n];
        if (hit && r->dtype)
            list[n].dtype = r->dtype;
        n++;
        assert_true(n < 64);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", test_folder());
    OK(qsae__safetensors_write(ctx, path, list, n));
    for (int64_t i = 0; i < n; i++)
        free(copies[i]);
    qsae__tensors_unref(&t);
    if (config) {
        write_config(config);
    } else {
        size_t size;
        char *text = test_read(MODELS "llama_gqa/config.json", &size);
        test_write("config.json", text, size);
        free(text);
    }
}

#define GQA \
    "{\"model_type\":\"llama\",\"vocab_size\":96,\"hidden_size\":32,\"intermediate_size\":48," \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,"

static void test_tensors(void **state)
{
    static const struct {
        struct rewrite r;
        const char *config;
        int32_t status;
        const char *part;
    } cases[] = {
        { { .tensor = "model.layers.1.mlp.up_proj.weight", .drop = true },
          NULL,
          QSAE_ENOENT,
          "model.layers.1.mlp.up_proj.weight" },
        { { .tensor = "model.norm.weight", .drop = true }, NULL, QSAE_ENOENT, "model.norm.weight" },
        { { .tensor = "model.embed_tokens.weight", .drop = true },
          NULL,
          QSAE_ENOENT,
          "embed_tokens" },
        { { .tensor = "model.norm.weight", .rename = "vision.embed_tokens.weight" },
          NULL,
          QSAE_EFORMAT,
          "both" },
        { { .tensor = "model.layers.0.self_attn.q_proj.weight", .dtype = QSAE_I32 },
          NULL,
          QSAE_EUNSUPPORTED,
          "I32" },
        { { 0 }, GQA "\"num_hidden_layers\":4}", QSAE_ENOENT, "model.layers.3." },
        { { 0 },
          GQA "\"num_hidden_layers\":3,\"attention_bias\":true}",
          QSAE_ENOENT,
          "q_proj.bias" },
        { { 0 }, GQA "\"num_hidden_layers\":3,\"head_dim\":16}", QSAE_EMISMATCH, "q_proj.weight" },
        { { 0 },
          "{\"model_type\":\"llama\",\"vocab_size\":97,\"hidden_size\":32,"
          "\"num_attention_heads\":4}",
          QSAE_EMISMATCH,
          "embed_tokens.weight" },
    };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_weights *w = NULL;
        rewrite(ctx, &cases[i].r, cases[i].config);
        REFUSED(qsae_weights_open(ctx, test_folder(), &w), cases[i].status, cases[i].part);
        assert_null(w);
    }
    char path[512];
    qsae_weights *w = NULL;
    snprintf(path, sizeof path, "%s/model.safetensors", test_folder());
    unlink(path);
    REFUSED(qsae_weights_open(ctx, test_folder(), &w), QSAE_ENOENT, test_folder());
    REFUSED(qsae_weights_open(ctx, "/nonexistent-folder", &w), QSAE_ENOENT, "/nonexistent-folder");
    REFUSED(qsae_weights_open(NULL, "x", &w), QSAE_EINVAL, "NULL");
    REFUSED(qsae_weights_open(ctx, NULL, &w), QSAE_EINVAL, "NULL");
    qsae_context_close(&ctx);
}

static void hash_of(qsae_context *ctx, char out[QSAE__HASH_SIZE])
{
    qsae_weights *w = NULL;
    qsae_model_info info = { .struct_size = sizeof info };
    OK(qsae_weights_open(ctx, test_folder(), &w));
    OK(qsae_weights_get_info(w, &info));
    assert_int_equal(strlen(info.hash), QSAE__HASH_SIZE - 1);
    memcpy(out, info.hash, QSAE__HASH_SIZE);
    qsae_weights_close(&w);
}

/* The fingerprint is of meaning and values, not of spelling, prefix or place. */
static void test_hash(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    char plain[QSAE__HASH_SIZE], other[QSAE__HASH_SIZE];
    (void)state;
    rewrite(ctx, &(struct rewrite){ 0 }, NULL);
    hash_of(ctx, plain);
    rewrite(ctx, &(struct rewrite){ 0 }, GQA "\"num_hidden_layers\":3,\"unknown\":[1,2]}");
    hash_of(ctx, other);
    assert_string_equal(plain, other);
    rewrite(ctx, &(struct rewrite){ .prefix = "language_model.model." }, NULL);
    hash_of(ctx, other);
    assert_string_equal(plain, other);
    rewrite(ctx, &(struct rewrite){ .prefix = "" }, NULL);
    hash_of(ctx, other);
    assert_string_equal(plain, other);
    rewrite(ctx, &(struct rewrite){ .tensor = "model.layers.2.mlp.down_proj.weight", .flip = true },
            NULL);
    hash_of(ctx, other);
    assert_string_not_equal(plain, other);
    rewrite(ctx, &(struct rewrite){ 0 }, GQA "\"num_hidden_layers\":3,\"rope_theta\":20000}");
    hash_of(ctx, other);
    assert_string_not_equal(plain, other);
    qsae_context_close(&ctx);
}

static int warnings;

static void count_warnings(void *cookie, int32_t level, const char *message)
{
    (void)cookie;
    warnings += level == QSAE_LOG_WARNING && strstr(message, "lm_head.weight") != NULL;
}

/* A head stored although tied: the embedding is used, with a warning if they differ. */
static void test_tied(void **state)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_weights *w = NULL;
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.log = count_warnings;
    s.log_level = QSAE_LOG_WARNING;
    OK(qsae_context_open(&s, &ctx));
    rewrite(ctx, &(struct rewrite){ 0 },
            GQA "\"num_hidden_layers\":3,\"tie_word_embeddings\":true}");
    warnings = 0;
    OK(qsae_weights_open(ctx, test_folder(), &w));
    assert_int_equal(warnings, 1);
    OK(qsae_weights_get_info(w, &info));
    assert_int_equal(info.tied, 1);
    assert_null(info.hash); /* beyond the caller's struct_size */
    const int64_t tied = info.parameters;
    qsae_weights_close(&w);
    rewrite(ctx, &(struct rewrite){ 0 }, NULL);
    OK(qsae_weights_open(ctx, test_folder(), &w));
    OK(qsae_weights_get_info(w, &info));
    assert_int_equal(info.tied, 0);
    assert_int_equal(info.parameters, tied + 96 * 32);
    assert_int_equal(warnings, 1);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

/* none:weights=X is the same model with every tensor rounded in the file. */
static void test_rounded_weights(void **state)
{
    static const struct {
        const char *condition;
        int32_t dtype;
        int compute;
    } cases[] = { { "none:weights=bf16", QSAE_BF16, QSAE_COMPUTE_F32 },
                  { "none:weights=f16", QSAE_F16, QSAE_COMPUTE_F32 },
                  { "none:weights=f16", QSAE_F16, QSAE_COMPUTE_BF16 },
                  { "none:weights=bf16", QSAE_BF16, QSAE_COMPUTE_BF16 } };
    /* At amx what a file holds as bf16 is summed in another order than the same values in f32. */
    const bool amx = strcmp(qsae_cpu_best(), "amx") == 0;
    qsae_context *ctx = test_context(2, amx ? "avx512bf16" : NULL);
    const int32_t ids[5] = { 3, 90, 17, 4, 55 };
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct test_result a, b;
        qsae_model_cost cost = { .struct_size = sizeof cost };
        rewrite(ctx, &(struct rewrite){ .round = cases[i].dtype }, NULL);
        qsae_model *m = test_model(ctx, test_folder(), NULL, cases[i].compute, 0);
        test_run(m, ids, 1, 5, &a);
        qsae_model_close(&m);
        m = test_model(ctx, MODELS "llama_gqa", cases[i].condition, cases[i].compute, 0);
        test_run(m, ids, 1, 5, &b);
        OK(qsae_model_get_cost(m, &cost));
        assert_true(cost.bits_per_weight == 16 && cost.quantized_weights == 0);
        qsae_model_close(&m);
        assert_true(test_result_equal(&a, &b));
        test_result_free(&a);
        test_result_free(&b);
    }
    qsae_context_close(&ctx);
}

static int32_t stop_load(void *cookie, int64_t done, int64_t total, const char *unit,
                         const char *phase)
{
    (void)phase;
    assert_string_equal(unit, "tensors");
    assert_int_equal(total, 21);
    return done == *(int64_t *)cookie ? 9 : 0;
}

static void test_open(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    qsae_model_settings s;
    qsae_model_cost cost = { .struct_size = sizeof cost };
    int64_t at = 4;
    (void)state;
    OK(qsae_weights_open(ctx, MODELS "llama_gqa", &w));
    qsae_model_settings_init(&s, sizeof s);
    s.progress = stop_load;
    s.progress_cookie = &at;
    assert_int_equal(qsae_model_open(w, &s, &m), 9);
    assert_null(m);
    at = -1;
    OK(qsae_model_open(w, &s, &m));
    OK(qsae_model_get_cost(m, &cost));
    assert_string_equal(cost.condition, m->condition.canonical);
    assert_int_equal(cost.compute, QSAE_COMPUTE_F32);
    assert_int_equal(cost.attention, QSAE_ATTN_SDPA);
    assert_true(cost.bits_per_weight == 32 && cost.quantized_tensors == 0 && !cost.batch_dependent);
    qsae_model_close(&m);
    s.condition = "nf4@layers=1-2@only=mlp@compute=bf16";
    OK(qsae_model_open(w, &s, &m));
    OK(qsae_model_get_cost(m, &cost));
    assert_int_equal(cost.quantized_tensors, 6);
    assert_int_equal(cost.quantized_weights, 6 * 32 * 48);
    assert_int_equal(cost.compute, QSAE_COMPUTE_BF16);
    assert_true(cost.bits_per_weight > 4 && cost.bits_per_weight < 5);
    qsae_model_close(&m);
    s.condition = "llm.int8";
    OK(qsae_model_open(w, &s, &m));
    OK(qsae_model_get_cost(m, &cost));
    assert_int_equal(cost.quantized_tensors, 21);
    assert_int_equal(cost.batch_dependent, 1);
    qsae_weights_close(&w); /* the model keeps the weights, and the context */
    qsae_context_close(&ctx);
    const int32_t ids[2] = { 1, 2 };
    struct test_result r;
    test_run(m, ids, 1, 2, &r);
    assert_true(r.nll[0] > 0);
    test_result_free(&r);
    qsae_model_close(&m);
    ctx = test_context(1, NULL);
    OK(qsae_weights_open(ctx, MODELS "llama_gqa", &w));
    s.condition = "nf5";
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "nf5");
    s.condition = NULL;
    s.compute = 7;
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "compute");
    s.compute = 0;
    s.attention = -1;
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "attention");
    REFUSED(qsae_model_open(NULL, &s, &m), QSAE_EINVAL, "NULL");
    REFUSED(qsae_model_open(w, &s, NULL), QSAE_EINVAL, "NULL");
    qsae_weights_close(&w);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

const struct CMUnitTest config_tests[] = {
    cmocka_unit_test(test_defaults), cmocka_unit_test(test_forms),
    cmocka_unit_test(test_gemma2),   cmocka_unit_test(test_attention_default),
    cmocka_unit_test(test_qwen3),    cmocka_unit_test(test_mistral),
    cmocka_unit_test(test_frequencies),
    cmocka_unit_test(test_layer_norm_families),
    cmocka_unit_test(test_layer_norm_limits),
    cmocka_unit_test(test_refused),  cmocka_unit_test(test_tensors),
    cmocka_unit_test(test_hash),     cmocka_unit_test(test_tied),
    cmocka_unit_test(test_rounded_weights), cmocka_unit_test(test_open),
};
const size_t n_config_tests = sizeof config_tests / sizeof config_tests[0];
