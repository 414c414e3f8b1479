/* SPDX-License-Identifier: BSD-2-Clause */
/* GGUF files that are no models of ours. */
#include "gguf_file.h"

static void test_refused_keys(void **state)
{
    static const char *const others[] = { "qwen3moe", "gemma4", "gptj", "qwen2", "clip",
                                          "llama4", "llam", "LLAMA", "" };
    static const char *const scalars[] = { "expert_count", "attention.clamp_kqv",
                                           "attention.shared_kv_layers", "nextn_predict_layers" };
    qsae_context *ctx = test_context(1, NULL);
    struct file f;
    char text[120];
    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        start(&f);
        add_str(&f, "general.architecture", others[i]);
        snprintf(text, sizeof text, "\"%s\" is not supported (llama, gemma3, gemma2, qwen3, "
                 "gptneox, gpt2 are)", others[i]);
        refused(ctx, &f, QSAE_EUNSUPPORTED, text);
    }
    start(&f);
    refused(ctx, &f, QSAE_EFORMAT, "general.architecture");
    start(&f);
    add_int(&f, "general.architecture", 1);
    refused(ctx, &f, QSAE_EFORMAT, "general.architecture: expected a string");
#define REFUSE(status, part, ...) \
    do { \
        start_llama(&f); \
        __VA_ARGS__; \
        refused(ctx, &f, status, part); \
    } while (0)
    REFUSE(QSAE_EUNSUPPORTED, "general.type", add_str(&f, "general.type", "adapter"));
    for (size_t i = 0; i < sizeof scalars / sizeof scalars[0]; i++) {
        snprintf(text, sizeof text, "llama.%s", scalars[i]);
        REFUSE(QSAE_EUNSUPPORTED, text, add_int(&f, text, 8));
    }
    REFUSE(QSAE_EUNSUPPORTED, "llama.embedding_scale", add_f32(&f, "llama.embedding_scale", 12));
    REFUSE(QSAE_EUNSUPPORTED, "llama.logit_scale", add_f32(&f, "llama.logit_scale", 0.5f));
    REFUSE(QSAE_EUNSUPPORTED, "causal", add_bool(&f, "llama.attention.causal", false));
    REFUSE(QSAE_EUNSUPPORTED, "llama.attention.scale",
           add_f32(&f, "llama.attention.scale", 0.1f));
    REFUSE(QSAE_EUNSUPPORTED, "value_length: 4", add_int(&f, "llama.attention.value_length", 4));
    REFUSE(QSAE_EUNSUPPORTED, "rope.dimension_count", add_int(&f, "llama.rope.dimension_count", 1));
    REFUSE(QSAE_EUNSUPPORTED, "\"yarn\"", add_str(&f, "llama.rope.scaling.type", "yarn"));
    REFUSE(QSAE_EUNSUPPORTED, "\"longrope\"", add_str(&f, "llama.rope.scaling.type", "longrope"));
    REFUSE(QSAE_EFORMAT, "rope.scaling.factor", add_f32(&f, "llama.rope.scaling.factor", -1));
    REFUSE(QSAE_EFORMAT, "rope.scaling.factor: expected a finite",
           add_f32(&f, "llama.rope.scaling.factor", NAN));
    REFUSE(QSAE_EFORMAT, "rope_theta", add_f32(&f, "llama.rope.freq_base", 0));
    REFUSE(QSAE_EFORMAT, "rope.freq_base: expected a finite",
           add_f32(&f, "llama.rope.freq_base", INFINITY));
    REFUSE(QSAE_EFORMAT, "freq_base: expected a number", add_str(&f, "llama.rope.freq_base", "1"));
    REFUSE(QSAE_EFORMAT, "bos_token_id", add_f32(&f, "tokenizer.ggml.bos_token_id", 1));
#undef REFUSE
    start(&f);
    add_str(&f, "general.architecture", "llama");
    refused(ctx, &f, QSAE_EFORMAT, "key \"llama.block_count\"");
    for (uint32_t blocks = 0; blocks < 3; blocks += 2) {
        start(&f);
        add_str(&f, "general.architecture", "llama");
        add_int(&f, "llama.block_count", blocks ? 0xffffffff : 0);
        refused(ctx, &f, QSAE_EFORMAT, "llama.block_count: expected 1 to");
    }
    start(&f);
    add_str(&f, "general.architecture", "llama");
    add_int(&f, "llama.block_count", 2);
    add_int(&f, "llama.context_length", 16);
    add_int(&f, "llama.embedding_length", 4);
    add_ints(&f, "llama.feed_forward_length", (const int32_t[]){ 8, 16 }, 2);
    refused(ctx, &f, QSAE_EUNSUPPORTED, "feed_forward_length: 8 in block 0, 16 in block 1");
    start_gemma3(&f);
    refused(ctx, &f, QSAE_EFORMAT, "gemma3.rope.freq_base");
    start_gemma3(&f);
    add_f32(&f, "gemma3.rope.freq_base", 1e6f);
    add_int(&f, "gemma3.attention.sliding_window", 4);
    add_ints(&f, "gemma3.attention.sliding_window_pattern", (const int32_t[]){ 1, 1 }, 2);
    refused(ctx, &f, QSAE_EFORMAT, "sliding_window_pattern: expected an integer");
    start_gemma3(&f);
    add_f32(&f, "gemma3.rope.freq_base", 1e6f);
    add_f32(&f, "gemma3.attention.scale", 0.25f);
    refused(ctx, &f, QSAE_EUNSUPPORTED, "gemma3.attention.scale: 0.25");
    start_gemma3(&f);
    add_f32(&f, "gemma3.rope.freq_base", 1e6f);
    add_f32(&f, "gemma3.attention.scale", 0.5f); /* what it would be anyway */
    add_tensor(&f, "blk.0.ffn_up.bias", 8, 0);
    refused(ctx, &f, QSAE_EUNSUPPORTED, "blk.0.ffn_up.bias");
    start_gemma3(&f);
    add_f32(&f, "gemma3.rope.freq_base", 1e6f);
    refused(ctx, &f, QSAE_ENOENT, "model.layers.0.self_attn.q_proj");
    qsae_context_close(&ctx);
}

static void test_refused_tensors(void **state)
{
    static const char *const names[] = {
        "blk.0.attn_q.scale", "blk.0.ffn_gate_inp.weight", "blk.0.attn_q_norm.weight",
        "blk.0.attn_sinks.weight", "blk.00.attn_v.weight", "blk..attn_v.weight",
        "blk.0attn_v.weight", "blk.0.attn_norm.bias", "output.bias", "token_embd.bias",
        "rope_freqs", "blk.0.attn_q.weight.weight", "model.norm.weight", "blk.*.attn_q.bias",
        "blk.-1.attn_q.bias",
        "blk.99999999999999999999.attn_q.weight", "attn_q.weight", "blk.0.token_embd.weight",
    };
    qsae_context *ctx = test_context(1, NULL);
    struct file f;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        start_llama(&f);
        add_tensor(&f, names[i], 2, 0);
        refused(ctx, &f, QSAE_EUNSUPPORTED, names[i]);
    }
    start_llama(&f);
    add_tensor(&f, "blk.1.attn_q.weight", 4, 4);
    refused(ctx, &f, QSAE_EFORMAT, "the model has 1 blocks");
    start_llama(&f);
    add_tensor(&f, "rope_freqs.weight", 2, 0);
    refused(ctx, &f, QSAE_EFORMAT, "\"rope_freqs.weight\": expected F32 [1]");
    start(&f); /* llama.cpp has no such factors in this architecture, and no biases in its MLP */
    add_str(&f, "general.architecture", "qwen3");
    add_int(&f, "qwen3.block_count", 1);
    add_int(&f, "qwen3.context_length", 16);
    add_int(&f, "qwen3.embedding_length", 4);
    add_int(&f, "qwen3.feed_forward_length", 8);
    add_int(&f, "qwen3.attention.head_count", 2);
    add_f32(&f, "qwen3.attention.layer_norm_rms_epsilon", 1e-6f);
    add_tensor(&f, "token_embd.weight", 6, 4);
    add_tensor(&f, "rope_freqs.weight", 1, 0);
    struct file g = f;
    refused(ctx, &f, QSAE_EUNSUPPORTED, "\"rope_freqs.weight\" is not supported in architecture");
    add_str(&g, "qwen3.rope.scaling.type", "yarn");
    refused(ctx, &g, QSAE_EUNSUPPORTED, "qwen3.rope.scaling.type: \"yarn\"");
    start_llama(&f);
    add_tensor(&f, "output.weight", 5, 4);
    refused(ctx, &f, QSAE_EMISMATCH, "lm_head.weight");
    start_llama(&f); /* rows that are no whole heads: width 4 holds 2 heads, 3 rows do not */
    f.tensors = 0;
    f.n_infos = f.body = 0;
    add_tensor(&f, "token_embd.weight", 6, 4);
    add_tensor(&f, "blk.0.attn_q.weight", 3, 4);
    refused(ctx, &f, QSAE_EFORMAT, "blk.0.attn_q.weight");
    start_llama(&f);
    f.tensors = 0;
    f.n_infos = f.body = 0;
    add_tensor(&f, "output_norm.weight", 4, 0);
    refused(ctx, &f, QSAE_EFORMAT, "token_embd.weight");
    qsae_context_close(&ctx);
}

/* Any architecture: heads of each 16 entries, two of them, one block. */
static void start_any(struct file *f, const char *name, uint32_t kv_heads)
{
    char key[80];
    static const struct {
        const char *key;
        uint32_t v;
    } sizes[] = { { "block_count", 1 }, { "context_length", 16 }, { "embedding_length", 32 },
                  { "feed_forward_length", 8 }, { "attention.head_count", 2 } };
    start(f);
    add_str(f, "general.architecture", name);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(key, sizeof key, "%s.%s", name, sizes[i].key);
        add_int(f, key, sizes[i].v);
    }
    snprintf(key, sizeof key, "%s.attention.head_count_kv", name);
    add_int(f, key, kv_heads);
    snprintf(key, sizeof key, "%s.attention.%s", name,
             name[0] == 'g' ? "layer_norm_epsilon" : "layer_norm_rms_epsilon");
    add_f32(f, key, 1e-5f);
    if (!strcmp(name, "gptneox")) {
        add_bool(f, "gptneox.use_parallel_residual", true);
        add_int(f, "gptneox.rope.dimension_count", 16);
    }
    add_tensor(f, "token_embd.weight", 6, 32);
}

/* Ranks, sizes and types that rows of heads cannot be taken from. */
static void test_refused_rows(void **state)
{
    static const struct {
        const char *architecture, *name;
        uint32_t kv_heads, type, rank;
        uint64_t rows, cols;
        const char *part;
    } cases[] = {
        { "llama", "blk.0.attn_q.weight", 2, TYPE_F32, 3, 32, 32,
          "32 rows (F32 of rank 3) are no 2 heads of even" },
        { "llama", "blk.0.attn_q.weight", 2, TYPE_F32, 2, 33, 32,
          "33 rows (F32 of rank 2) are no 2 heads" },
        { "llama", "blk.0.attn_k.weight", 1, TYPE_F32, 2, 33, 32,
          "33 rows (F32 of rank 2) are no 1 heads" },
        { "llama", "blk.0.attn_k.bias", 2, TYPE_F32, 1, 2, 0,
          "2 rows (F32 of rank 1) are no 2 heads" },
        { "llama", "blk.0.attn_q.bias", 2, TYPE_Q8_0, 1, 32, 0, "32 rows (Q8_0 of rank 1) are" },
        { "gptneox", "blk.0.attn_qkv.weight", 2, TYPE_F32, 3, 96, 32, "found 96 (F32 of rank 3)" },
        { "gptneox", "blk.0.attn_qkv.weight", 2, TYPE_F32, 2, 95, 32,
          "expected 96 rows, of q, k and v, found 95 (F32 of rank 2)" },
        { "gptneox", "blk.0.attn_qkv.bias", 2, TYPE_Q8_0, 1, 96, 0, "found 96 (Q8_0 of rank 1)" },
        { "qwen3", "blk.0.attn_qkv.weight", 1, TYPE_F32, 3, 64, 32, "found 64 (F32 of rank 3)" },
        { "qwen3", "blk.0.attn_qkv.bias", 1, TYPE_Q8_0, 1, 64, 0, "found 64 (Q8_0 of rank 1)" },
    };
    static const char *const architectures[] = { "llama", "gptneox", "gpt2", "qwen3" };
    qsae_context *ctx = test_context(1, NULL);
    struct file f;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        start_any(&f, cases[i].architecture, cases[i].kv_heads);
        add_typed(&f, cases[i].name, cases[i].type, cases[i].rank, cases[i].rows, cases[i].cols);
        refused(ctx, &f, QSAE_EFORMAT, cases[i].part);
    }
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++) {
        static const char *const names[] = { "blk.0.attn_qkv.scale", "blk.0.ffn.weight" };
        for (int k = 0; k < 2; k++) {
            char text[96];
            start_any(&f, architectures[i], 2);
            add_tensor(&f, names[k], 32, 0);
            snprintf(text, sizeof text, "\"%s\" is not supported in architecture \"%s\"", names[k],
                     architectures[i]);
            refused(ctx, &f, QSAE_EUNSUPPORTED, text);
        }
    }
    qsae_context_close(&ctx);
}

/* Norms of Gemma lose the one that the converter added, in f32 whatever their type; only vectors of
 * numbers do. */
static void test_norm_types(void **state)
{
    static const struct {
        uint32_t type;
        float want[4]; /* of the bytes of 1.0f, 2.0f as f32, less 1 */
    } cases[] = { { TYPE_F32, { 0, 1, 2, 3 } }, { TYPE_F16, { -1, 0.875f, -1, 1 } },
                  { TYPE_BF16, { -1, 0, -1, 1 } } };
    static const struct {
        uint32_t type, rank;
        const char *part;
    } bad[] = { { TYPE_I32, 1, "I32 of rank 1" }, { TYPE_Q8_0, 1, "Q8_0 of rank 1" },
                { TYPE_F16, 2, "F16 of rank 2" } };
    qsae_context *ctx = test_context(1, NULL);
    struct file f;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae__tensors *raw = NULL, *t = NULL;
        json_t *config = NULL;
        start_gemma3(&f);
        add_f32(&f, "gemma3.rope.freq_base", 1e6f);
        f.tensors = 0;
        f.n_infos = f.body = 0;
        add_typed(&f, "output_norm.weight", cases[i].type, 1, 4, 0); /* the first values */
        add_tensor(&f, "token_embd.weight", 6, 4);
        OK(qsae__tensors_load(ctx, finish(&f), &raw));
        OK(qsae__gguf_model(ctx, raw, &config, &t));
        const qsae__tensor *const x = qsae__tensors_find(t, "model.norm.weight");
        assert_true(x && x->rank == 1 && x->dtype == QSAE_F32 && x->bytes == 16);
        assert_memory_equal(x->data, cases[i].want, 16);
        json_decref(config);
        qsae__tensors_unref(&raw);
        qsae__tensors_unref(&t);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        start_gemma3(&f);
        add_f32(&f, "gemma3.rope.freq_base", 1e6f);
        add_typed(&f, "blk.0.attn_norm.weight", bad[i].type, bad[i].rank, 32,
                  bad[i].rank == 2 ? 2 : 0);
        refused(ctx, &f, QSAE_EUNSUPPORTED, bad[i].part);
        assert_non_null(strstr(qsae_error_message(), "in a norm (F32, F16, BF16 vectors are)"));
    }
    qsae_context_close(&ctx);
}

/* Names that are not ours, cut where they are long; what is no GGUF file at all. */
static void test_long_names(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    char name[101], part[120];
    struct file f;
    qsae__tensors *raw = NULL, *t = NULL;
    json_t *config = NULL;
    (void)state;
    memset(name, 'm', 100);
    name[100] = 0;
    snprintf(part, sizeof part, "general.architecture: \"%.64s\" is not", name);
    start(&f);
    add_str(&f, "general.architecture", name);
    refused(ctx, &f, QSAE_EUNSUPPORTED, part);
    start_llama(&f);
    add_str(&f, "general.type", name);
    snprintf(part, sizeof part, "general.type: \"%.64s\" is not", name);
    refused(ctx, &f, QSAE_EUNSUPPORTED, part);
    start_llama(&f);
    add_str(&f, "general.type", "lorax"); /* as long as "model" */
    refused(ctx, &f, QSAE_EUNSUPPORTED, "general.type: \"lorax\"");
    OK(qsae__tensors_load(ctx, MODELS "llama_gqa/model.safetensors", &raw));
    REFUSED(qsae__gguf_model(ctx, raw, &config, &t), QSAE_EINVAL, "not a GGUF file");
    assert_true(!config && !t);
    qsae__tensors_unref(&raw);
    qsae_context_close(&ctx);
}

const struct CMUnitTest gguf_refused_tests[] = {
    cmocka_unit_test(test_refused_keys),
    cmocka_unit_test(test_refused_tensors),
    cmocka_unit_test(test_refused_rows),
    cmocka_unit_test(test_norm_types),
    cmocka_unit_test(test_long_names),
};
const size_t n_gguf_refused_tests = sizeof gguf_refused_tests / sizeof gguf_refused_tests[0];
