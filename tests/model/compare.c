/* SPDX-License-Identifier: BSD-2-Clause */
/* What two checkpoints are said to differ in: every field, in its words, and nothing else. */
#include "model_test.h"

#include "model/internal.h"

#define LLAMA "{\"model_type\":\"llama\",\"num_hidden_layers\":4"
#define GEMMA2 "{\"model_type\":\"gemma2\",\"num_hidden_layers\":3"
#define GEMMA3 "{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":2"
#define GEMMA4 "{\"model_type\":\"gemma4_text\",\"num_hidden_layers\":4"
#define NEOX "{\"model_type\":\"gpt_neox\",\"num_hidden_layers\":4"
#define GPT2 "{\"model_type\":\"gpt2\",\"n_layer\":4"
#define FULL(n) "\"full_attention\":" n
#define TYPES(t) ",\"layer_types\":[" t "]}"
#define S "\"sliding_attention\""
#define F "\"full_attention\""

/* The differences as "field: reference > condition; ", in order. */
struct list {
    char text[4096];
};

static void note(void *cookie, const char *field, const char *reference, const char *other)
{
    struct list *const l = cookie;
    const size_t n = strlen(l->text);
    const int m = snprintf(l->text + n, sizeof l->text - n, "%s: %s > %s; ", field, reference,
                           other);
    assert_true(m > 0 && (size_t)m < sizeof l->text - n);
}

static void read_config(qsae_context *ctx, const char *json, qsae_weights *w)
{
    json_t *top = NULL;
    OK(qsae__json_parse(json, strlen(json), "config.json", &top));
    OK(qsae__config_read(ctx, top, "config.json", &w->config));
    json_decref(top);
}

static void expect(const qsae_weights *a, const qsae_weights *b, const char *want)
{
    struct list l = { "" };
    qsae__weights_compare(a, b, note, &l);
    if (strcmp(l.text, want) != 0)
        fail_msg("expected \"%s\", found \"%s\"", want, l.text);
}

static const struct {
    const char *a, *b, *want;
} configs[] = {
    { LLAMA "}", LLAMA "}", "" },
    { LLAMA ",\"hidden_size\":512,\"num_attention_heads\":8,\"num_key_value_heads\":2}",
      LLAMA ",\"hidden_size\":640,\"num_attention_heads\":10,\"num_key_value_heads\":5}",
      "width: 512 > 640; heads: 8 > 10; kv_heads: 2 > 5; " },
    { LLAMA ",\"head_dim\":64,\"intermediate_size\":32,\"vocab_size\":99}",
      LLAMA ",\"head_dim\":16,\"intermediate_size\":48,\"vocab_size\":98}",
      "vocab: 99 > 98; head_dim: 64 > 16; mlp_width: 32 > 48; attention scale: 0.125 > 0.25; "
      "rotary pairs of a head: 32 > 8; " },
    { LLAMA ",\"attention_bias\":true,\"rms_norm_eps\":1e-5}",
      LLAMA ",\"mlp_bias\":true,\"tie_word_embeddings\":true,\"max_position_embeddings\":77}",
      "norm epsilon: 1e-05 > 1e-06; attention_bias: 1 > 0; mlp_bias: 0 > 1; tied: 0 > 1; "
      "max_positions: 2048 > 77; " },
    /* one layer less: no layers are compared */
    { LLAMA "}", "{\"model_type\":\"llama\",\"num_hidden_layers\":3}", "layers: 4 > 3; " },
    { LLAMA ",\"rope_theta\":5e5}",
      LLAMA ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.5}}",
      "rope: theta 500000 > theta 10000, linear, factor 2.5; " },
    { LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
      "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}",
      LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32,\"low_freq_factor\":1.5,"
      "\"high_freq_factor\":4,\"original_max_position_embeddings\":16}}",
      "rope: theta 10000, llama3, factor 8, 1 to 4 of 8192 > theta 10000, llama3, factor 32, 1.5 "
      "to 4 of 16; " },
    { GEMMA2 ",\"attn_logit_softcapping\":null,\"query_pre_attn_scalar\":64}",
      GEMMA2 ",\"final_logit_softcapping\":12.5,\"hidden_activation\":\"gelu\"}",
      "attention scale: 0.125 > 0.0625; attention cap: 0 > 50; final cap: 30 > 12.5; "
      "activation: gelu_tanh > gelu; " },
    { GEMMA2 TYPES(S "," F "," F), GEMMA2 TYPES(F "," S "," S), "sliding layers: 0 > 1 2; " },
    /* a model without sliding layers has no rope of theirs */
    { GEMMA2 TYPES(S "," S "," F), GEMMA2 TYPES(F "," F "," F),
      "window: 4096 > 0; sliding layers: 0 1 > ; " },
    { GEMMA3 ",\"rope_theta\":1e6,\"rope_local_base_freq\":1e4" TYPES(S "," F),
      GEMMA3 ",\"rope_theta\":2e6,\"rope_local_base_freq\":500,\"sliding_window\":8"
      TYPES(S "," F),
      "window: 4096 > 8; rope: theta 1000000 > theta 2000000; "
      "rope of sliding layers: theta 10000 > theta 500; " },
    { NEOX "}", NEOX ",\"use_parallel_residual\":false,\"rotary_pct\":0.5,\"hidden_act\":"
      "\"gelu_new\"}",
      "activation: gelu > gelu_new; rotary pairs of a head: 12 > 24; parallel residual: 1 > 0; " },
    { GPT2 ",\"activation_function\":\"gelu_pytorch_tanh\"}",
      GPT2 ",\"scale_attn_by_inverse_layer_idx\":true,\"scale_attn_weights\":false}",
      "attention scale: 0.125 > 1; activation: gelu_tanh > gelu_new; "
      "attention scale by layer: 0 > 1; " },
    { GEMMA4 "}",
      GEMMA4 ",\"rope_parameters\":{" FULL("{\"rope_type\":\"proportional\",\"rope_theta\":1e6,"
      "\"factor\":2,\"partial_rotary_factor\":0.5}") ",\"sliding_attention\":{\"rope_type\":"
      "\"default\",\"rope_theta\":500}}}",
      "rope: theta 1000000, proportional, factor 1, 64 of 256 pairs > theta 1000000, proportional, "
      "factor 2, 128 of 256 pairs; rope of sliding layers: theta 10000 > theta 500; " },
    { GEMMA4 "}",
      GEMMA4 ",\"hidden_size_per_layer_input\":0,\"enable_moe_block\":true,\"num_experts\":8,"
      "\"top_k_experts\":2,\"moe_intermediate_size\":48}",
      "per-layer embedding width: 256 > 0; experts: 0 > 8; experts of a token: 0 > 2; "
      "expert width: 0 > 48; " },
    { GEMMA4 "}", "{\"model_type\":\"gemma4_text\",\"num_hidden_layers\":5}", "layers: 4 > 5; " },
    /* what speaks of full layers is all there is without others */
    { LLAMA "}",
      LLAMA ",\"rope_parameters\":{" FULL("{\"rope_type\":\"linear\",\"factor\":3}") "}}",
      "rope: theta 10000 > theta 10000, linear, factor 3; " },
    { GEMMA3 TYPES(S "," F),
      GEMMA3 ",\"rope_parameters\":{\"sliding_attention\":{\"rope_theta\":7}}" TYPES(S "," F),
      "rope of sliding layers: theta 10000 > theta 7; " },
    { GEMMA3 TYPES(S "," F),
      GEMMA3 ",\"rope_parameters\":{" FULL("{\"rope_theta\":7}") "}" TYPES(S "," F),
      "rope: theta 1000000 > theta 7; " },
    { GEMMA4 "}", GEMMA4 TYPES(F "," F "," F "," F),
      "head_dim: 256 > 512; window: 512 > 0; sliding layers: 0 1 2 > ; rotary pairs of a head: 128 "
      "> 256; heads, keys and MLP of layer 0: 4 x 256, of layer 0, 9216 > 4 x 512, of layer 0, "
      "9216; " },
    { GEMMA4 TYPES(F "," F "," F "," F),
      GEMMA4 ",\"rope_parameters\":{" FULL("{\"type\":\"linear\",\"rope_theta\":1e6,\"factor\":2}")
      "}" TYPES(F "," F "," F "," F),
      "rope: theta 1000000, proportional, factor 1, 64 of 256 pairs > theta 1000000, linear, "
      "factor 2; " },
    /* the first layer that differs alone */
    { GEMMA4 ",\"num_kv_shared_layers\":2,\"use_double_wide_mlp\":true" TYPES(S "," F "," S "," F),
      GEMMA4 ",\"num_kv_shared_layers\":2" TYPES(S "," F "," S "," F),
      "heads, keys and MLP of layer 2: 4 x 256, of layer 0, 18432 > 4 x 256, of layer 0, 9216; " },
    { GEMMA4 ",\"num_global_key_value_heads\":2,\"attention_k_eq_v\":true}", GEMMA4 "}",
      "heads, keys and MLP of layer 3: 2 x 512, of layer 3, values are keys, 9216 > 4 x 512, of "
      "layer 3, 9216; " },
    { GEMMA4 "}", GEMMA4 ",\"num_global_key_value_heads\":4,\"attention_k_eq_v\":true}",
      "heads, keys and MLP of layer 3: 4 x 512, of layer 3, 9216 > 4 x 512, of layer 3, values are "
      "keys, 9216; " },
};

static void test_fields(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__tensor t = { .dtype = QSAE_BF16 };
    (void)state;
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        qsae_weights a = { .embed.tensor = &t }, b = { .embed.tensor = &t };
        read_config(ctx, configs[i].a, &a);
        read_config(ctx, configs[i].b, &b);
        expect(&a, &b, configs[i].want);
        expect(&a, &a, "");
        expect(&b, &b, "");
        qsae__config_free(ctx, &a.config);
        qsae__config_free(ctx, &b.config);
    }
    qsae_context_close(&ctx);
}

/* Layers of one shape beside layers that differ: Gemma 3's and Gemma 4's, of the same sizes. */
static void test_one_with_shapes(void **state)
{
    static const char *const sizes =
        ",\"hidden_size\":64,\"intermediate_size\":32,\"head_dim\":16,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":2,\"vocab_size\":99,\"sliding_window\":8,"
        "\"max_position_embeddings\":77,\"query_pre_attn_scalar\":1,\"global_head_dim\":16,"
        "\"hidden_size_per_layer_input\":8,\"rope_parameters\":{\"full_attention\":{\"rope_type\":"
        "\"default\",\"rope_theta\":1e6},\"sliding_attention\":{\"rope_type\":\"default\","
        "\"rope_theta\":1e4}},\"layer_types\":[" S "," F "],\"num_kv_shared_layers\":0}";
    qsae_context *ctx = test_context(1, NULL);
    qsae__tensor t = { .dtype = QSAE_F32 };
    qsae_weights a = { .embed.tensor = &t }, b = { .embed.tensor = &t };
    char json[2][1024];
    (void)state;
    snprintf(json[0], sizeof json[0], "%s%s", GEMMA3, sizes);
    snprintf(json[1], sizeof json[1], "{\"model_type\":\"gemma4_text\",\"num_hidden_layers\":2%s",
             sizes);
    read_config(ctx, json[0], &a);
    read_config(ctx, json[1], &b);
    expect(&a, &b, "type: gemma3_text > gemma4_text; per-layer embedding width: 0 > 8; ");
    expect(&b, &a, "type: gemma4_text > gemma3_text; per-layer embedding width: 8 > 0; ");
    qsae__config_free(ctx, &a.config);
    qsae__config_free(ctx, &b.config);
    qsae_context_close(&ctx);
}

/* What GGUF files have for the llama3 scaling: divisors, of which the first other one is named. */
static void test_factors(void **state)
{
    static const char *const factors[] = { "", ",\"rope_factors\":[1,1,1,1]",
                                           ",\"rope_factors\":[1,1,2.5,8]",
                                           ",\"rope_factors\":[1,1,2.5,32]" };
    static const char *const want[4][4] = {
        { "", "", "rope factor of pair 2: 1 > 2.5; ", "rope factor of pair 2: 1 > 2.5; " },
        { "", "", "rope factor of pair 2: 1 > 2.5; ", "rope factor of pair 2: 1 > 2.5; " },
        { "rope factor of pair 2: 2.5 > 1; ", "rope factor of pair 2: 2.5 > 1; ", "",
          "rope factor of pair 3: 8 > 32; " },
        { "rope factor of pair 2: 2.5 > 1; ", "rope factor of pair 2: 2.5 > 1; ",
          "rope factor of pair 3: 32 > 8; ", "" },
    };
    qsae_context *ctx = test_context(1, NULL);
    qsae__tensor t = { .dtype = QSAE_F32 };
    qsae_weights w[4], other[2];
    char json[256];
    (void)state;
    for (int i = 0; i < 4; i++) {
        w[i] = (qsae_weights){ .embed.tensor = &t };
        snprintf(json, sizeof json, "%s,\"head_dim\":8%s}", LLAMA, factors[i]);
        read_config(ctx, json, &w[i]);
    }
    for (int i = 0; i < 16; i++)
        expect(&w[i / 4], &w[i % 4], want[i / 4][i % 4]);
    /* beside another type of scaling, or another number of pairs, those are what differs */
    for (int i = 0; i < 2; i++)
        other[i] = (qsae_weights){ .embed.tensor = &t };
    read_config(ctx, LLAMA ",\"head_dim\":8,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}",
                &other[0]);
    expect(&w[2], &other[0], "rope: theta 10000 > theta 10000, linear, factor 4; ");
    read_config(ctx, LLAMA ",\"head_dim\":4}", &other[1]);
    expect(&w[2], &other[1], "head_dim: 8 > 4; attention scale: 0.3535534 > 0.5; "
                             "rotary pairs of a head: 4 > 2; ");
    for (int i = 0; i < 4; i++)
        qsae__config_free(ctx, &w[i].config);
    for (int i = 0; i < 2; i++)
        qsae__config_free(ctx, &other[i].config);
    qsae_context_close(&ctx);
}

/* What is no matter of config.json. */
static void test_storage(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__tensor t = { .dtype = QSAE_F32 }, u = { .dtype = QSAE_F16 };
    qsae_weights a = { .embed.tensor = &t, .process = "fold" };
    qsae_weights b = { .embed.tensor = &u, .gguf = true };
    (void)state;
    read_config(ctx, LLAMA "}", &a);
    b.config = a.config;
    expect(&a, &b, "dtype: F32 > F16; weight processing: fold > none; storage: plain > gguf; ");
    expect(&b, &a, "dtype: F16 > F32; weight processing: none > fold; storage: gguf > plain; ");
    qsae__config_free(ctx, &a.config);
    qsae_context_close(&ctx);
}

/* More layers than the text holds: it ends with a whole number, and what it holds is compared. */
static void test_many_layers(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__tensor t = { .dtype = QSAE_F32 };
    qsae_weights a = { .embed.tensor = &t }, b = { .embed.tensor = &t };
    struct list l = { "" };
    char want[4096] = "sliding layers: 0";
    size_t n = strlen(want);
    (void)state;
    read_config(ctx, "{\"model_type\":\"mistral\",\"num_hidden_layers\":400}", &a);
    read_config(ctx, "{\"model_type\":\"mistral\",\"num_hidden_layers\":400}", &b);
    b.config.sliding[0] = 0;
    qsae__weights_compare(&a, &b, note, &l);
    for (int i = 1; i < 240; i++) /* far fewer than 400, and than a text of 1,024 bytes */
        n += (size_t)snprintf(want + n, sizeof want - n, " %d", i);
    assert_true(strncmp(l.text, want, n) == 0);
    const char *const second = strstr(l.text, " > 1 2 3 ");
    assert_non_null(second);
    assert_true(second - l.text < 1024 + (ptrdiff_t)strlen("sliding layers: "));
    assert_true(strlen(second) < 1024 + strlen(" > ; "));
    assert_true(second[-1] >= '0' && second[-1] <= '9');
    qsae__config_free(ctx, &a.config);
    qsae__config_free(ctx, &b.config);
    qsae_context_close(&ctx);
}

const struct CMUnitTest compare_tests[] = {
    cmocka_unit_test(test_fields),  cmocka_unit_test(test_one_with_shapes),
    cmocka_unit_test(test_factors), cmocka_unit_test(test_storage),
    cmocka_unit_test(test_many_layers),
};
const size_t n_compare_tests = sizeof compare_tests / sizeof compare_tests[0];
