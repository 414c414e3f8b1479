/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keys of config.json and of GGUF files, one wrong at a time: the status, and a message that names
 * file, key, what was expected and what was found; and what is read from those that are right.
 */
#include "model_test.h"

#include "../memory.h"
#include "../merge.h"
#include "formats/gguf.h"
#include "model/gguf.h"

/* status QSAE_OK: part is {"key": value}. */
struct change {
    const char *base, *change;
    int32_t status;
    const char *part;
};

/* ---- config.json ---- */

#define LLAMA "{\"model_type\":\"llama\",\"hidden_size\":16,\"num_attention_heads\":2," \
              "\"num_hidden_layers\":2}"
#define GEMMA3 "{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":2}"
#define MISTRAL "{\"model_type\":\"mistral\",\"num_key_value_heads\":32}"
#define GPT2 "{\"model_type\":\"gpt2\",\"n_embd\":15,\"n_head\":3}"

static const struct change configs[] = {
    { LLAMA, NULL, QSAE_OK, "{\"eps\":1e-6,\"activation\":0,\"bos\":1,\"eos\":2}" },
    { LLAMA, "{\"hidden_act\":\"swish\",\"rms_norm_eps\":1e-5}", QSAE_OK,
      "{\"activation\":0,\"eps\":1e-5}" },
    { LLAMA, "{\"hidden_act\":\"gelu\"}", QSAE_OK, "{\"activation\":2}" },
    { LLAMA, "{\"hidden_act\":\"gelu_new\"}", QSAE_OK, "{\"activation\":3}" },
    { LLAMA, "{\"hidden_act\":\"gelu_pytorch_tanh\"}", QSAE_OK, "{\"activation\":1}" },
    { LLAMA, "{\"hidden_act\":null}", QSAE_OK, "{\"activation\":0}" },
    { LLAMA, "{\"bos_token_id\":null,\"eos_token_id\":[7,8]}", QSAE_OK, "{\"bos\":-1,\"eos\":7}" },
    { LLAMA, "{\"bos_token_id\":[],\"eos_token_id\":-1}", QSAE_OK, "{\"bos\":-1,\"eos\":-1}" },
    { LLAMA, "{\"rope_factors\":[1,2,3,4.5]}", QSAE_OK, "{\"factor3\":4.5}" },
    { LLAMA, "{\"rope_factors\":null}", QSAE_OK, "{\"factor3\":0}" },
    { GPT2, NULL, QSAE_OK, "{\"head_dim\":5}" },
    { GEMMA3, "{\"use_bidirectional_attention\":\"vision\"}", QSAE_OK, "{\"window\":4096}" },
    { GEMMA3, "{\"use_bidirectional_attention\":false,\"layer_types\":[\"full_attention\","
      "\"full_attention\"],\"sliding_window\":null}", QSAE_OK, "{\"window\":0}" },
    { GEMMA3, "{\"sliding_window_pattern\":1}", QSAE_OK, "{\"window\":0}" },
    { GEMMA3, "{\"sliding_window_pattern\":2,\"sliding_window\":9}", QSAE_OK,
      "{\"window\":9,\"sliding0\":1,\"sliding1\":0}" },
    { LLAMA, "=[]", QSAE_EFORMAT, "expected an object, found array" },
    { LLAMA, "{\"-model_type\":0}", QSAE_EFORMAT, "\"model_type\"" },
    { LLAMA, "{\"model_type\":\"x\"}", QSAE_EUNSUPPORTED, "model_type \"x\" is not supported" },
    { LLAMA, "{\"model_type\":\"gemma3\",\"text_config\":3}", QSAE_EFORMAT, "\"text_config\"" },
    { LLAMA, "{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":3}}", QSAE_EFORMAT,
      "\"model_type\"" },
    { LLAMA, "{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"x\"}}",
      QSAE_EUNSUPPORTED, "text_config.model_type \"x\"" },
    { LLAMA, "{\"vocab_size\":null}", QSAE_EFORMAT, "vocab_size: expected an integer, found null" },
    { LLAMA, "{\"rms_norm_eps\":\"x\"}", QSAE_EFORMAT, "\"rms_norm_eps\"" },
    { LLAMA, "{\"rms_norm_eps\":0}", QSAE_EFORMAT, "rms_norm_eps: expected a positive number" },
    { LLAMA, "{\"attention_bias\":3}", QSAE_EFORMAT, "\"attention_bias\"" },
    { LLAMA, "{\"tie_word_embeddings\":3}", QSAE_EFORMAT, "\"tie_word_embeddings\"" },
    { LLAMA, "{\"hidden_act\":3}", QSAE_EFORMAT, "\"hidden_act\"" },
    { LLAMA, "{\"hidden_act\":\"relu\"}", QSAE_EUNSUPPORTED, "hidden_act: \"relu\"" },
    { LLAMA, "{\"rope_theta\":\"x\"}", QSAE_EFORMAT, "rope_theta" },
    { LLAMA, "{\"bos_token_id\":\"x\"}", QSAE_EFORMAT, "bos_token_id: expected a token id" },
    { LLAMA, "{\"bos_token_id\":-2}", QSAE_EFORMAT, "bos_token_id: expected a token id" },
    { LLAMA, "{\"eos_token_id\":[2147483648]}", QSAE_EFORMAT, "eos_token_id: expected a token id" },
    { LLAMA, "{\"num_attention_heads\":4,\"num_key_value_heads\":3}", QSAE_EFORMAT,
      "num_attention_heads 4 is not a multiple of num_key_value_heads 3" },
    { LLAMA, "{\"hidden_size\":17,\"head_dim\":8}", QSAE_EFORMAT, "hidden_size 17" },
    { LLAMA, "{\"head_dim\":7}", QSAE_EFORMAT, "head_dim: expected an even number in 2..8192" },
    { LLAMA, "{\"head_dim\":8194}", QSAE_EFORMAT, "found 8194" },
    { MISTRAL, "{\"hidden_size\":4}", QSAE_EFORMAT, "head_dim: expected an even number" },
    { LLAMA, "{\"rope_factors\":3}", QSAE_EFORMAT, "\"rope_factors\"" },
    { LLAMA, "{\"rope_factors\":[1,2,3]}", QSAE_EFORMAT, "rope_factors: expected 4 numbers" },
    { LLAMA, "{\"rope_factors\":[1,2,\"x\",4]}", QSAE_EFORMAT, "rope_factors[2]" },
    { LLAMA, "{\"rope_factors\":[1,2,3,0]}", QSAE_EFORMAT, "rope_factors[3]" },
    { LLAMA, "{\"rope_factors\":[1,1e39,3,4]}", QSAE_EFORMAT, "rope_factors[1]" },
    { GEMMA3, "{\"sliding_window\":null}", QSAE_EFORMAT, "but there are sliding layers" },
    { GEMMA3, "{\"sliding_window\":\"x\"}", QSAE_EFORMAT, "\"sliding_window\"" },
    { GEMMA3, "{\"_sliding_window_pattern\":0}", QSAE_EFORMAT, "\"_sliding_window_pattern\"" },
    { GEMMA3, "{\"sliding_window_pattern\":\"x\"}", QSAE_EFORMAT, "\"sliding_window_pattern\"" },
    { GEMMA3, "{\"layer_types\":3}", QSAE_EFORMAT, "\"layer_types\"" },
    { GEMMA3, "{\"layer_types\":[\"full_attention\"]}", QSAE_EFORMAT, "layer_types: expected 2" },
    { GEMMA3, "{\"layer_types\":[\"full_attention\",3]}", QSAE_EFORMAT, "layer_types[1]" },
    { GEMMA3, "{\"layer_types\":[\"x\",\"full_attention\"]}", QSAE_EUNSUPPORTED,
      "layer_types[0]: \"x\"" },
    { GEMMA3, "{\"use_bidirectional_attention\":\"all\"}", QSAE_EUNSUPPORTED, "only causal" },
    { GEMMA3, "{\"use_bidirectional_attention\":true}", QSAE_EUNSUPPORTED, "only causal" },
    { GEMMA3, "{\"hidden_size\":0}", QSAE_EFORMAT, "\"hidden_size\"" },
    { GEMMA3, "{\"num_key_value_heads\":0}", QSAE_EFORMAT, "\"num_key_value_heads\"" },
    { GEMMA3, "{\"head_dim\":0}", QSAE_EFORMAT, "\"head_dim\"" },
    { GEMMA3, "{\"hidden_activation\":3}", QSAE_EFORMAT, "\"hidden_activation\"" },
    { GEMMA3, "{\"query_pre_attn_scalar\":\"x\"}", QSAE_EFORMAT, "\"query_pre_attn_scalar\"" },
};

static double member(const qsae__config *c, const char *key)
{
    const struct {
        const char *key;
        double value;
    } all[] = {
        { "eps", c->eps }, { "activation", c->activation }, { "bos", c->bos }, { "eos", c->eos },
        { "factor3", c->rope_factors ? (double)c->rope_factors[3] : 0 },
        { "head_dim", (double)c->head_dim }, { "window", (double)c->window },
        { "sliding0", c->sliding[0] }, { "sliding1", c->sliding[1] },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (!strcmp(all[i].key, key))
            return all[i].value;
    fail_msg("no member %s", key);
    return 0;
}

static void check_config(qsae_context *ctx, const struct change *t)
{
    json_t *const config = merged_json(t->base, t->change), *want, *v;
    const char *key;
    qsae__config c;
    const int32_t st = qsae__config_read(ctx, config, "it.json", &c);
    const char *const message = st == QSAE_OK ? "" : qsae_error_message();
    if (st != t->status || (st != QSAE_OK && (!strstr(message, t->part) ||
                                              !strstr(message, "it.json: "))))
        fail_msg("%s: expected %s with \"%s\", found %s: %s", t->change,
                 qsae_status_name(t->status), t->part, qsae_status_name(st), message);
    json_decref(config);
    if (st != QSAE_OK)
        return;
    want = json_loads(t->part, 0, NULL);
    assert_non_null(want);
    json_object_foreach(want, key, v)
        if (member(&c, key) != json_number_value(v))
            fail_msg("%s: %s: found %g", t->change, key, member(&c, key));
    json_decref(want);
    qsae__config_free(ctx, &c);
}

static void test_configs(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++)
        check_config(ctx, &configs[i]);
    qsae_context_close(&ctx);
}

static int32_t read_once(qsae_context *ctx, const void *config)
{
    qsae__config c;
    const int32_t st = qsae__config_read(ctx, config, "it.json", &c);
    if (st == QSAE_OK)
        qsae__config_free(ctx, &c);
    return st;
}

static void test_memory(void **state)
{
    json_t *const factors = merged_json(LLAMA, "{\"rope_factors\":[1,2,3,4]}");
    json_t *const layers = merged_json(GEMMA3, NULL);
    (void)state;
    check_every_allocation(read_once, factors, 1);
    check_every_allocation(read_once, layers, 0);
    json_decref(factors);
    json_decref(layers);
}

/* ---- GGUF ----
 * Words: "KEY=u:1", i, f, s, b: a value of that type; "KEY=I:1,2", F, B, S: an array; "-KEY" none;
 * "NAME@2,3:0.5" an F32 tensor of rows and columns (more F16 with '%' for '@'). '$' stands for the
 * architecture. */

#define SIZES " $block_count=u:2 $context_length=u:16 $embedding_length=u:8 " \
              "$feed_forward_length=u:6 $attention.head_count=u:2 token_embd.weight@5,8"
#define GGUF_LLAMA "general.architecture=s:llama $attention.layer_norm_rms_epsilon=f:0.5" SIZES
#define GGUF_GEMMA3 "general.architecture=s:gemma3 $rope.freq_base=f:1000 " \
                    "$attention.layer_norm_rms_epsilon=f:0.5" SIZES
#define GGUF_GEMMA2 "general.architecture=s:gemma2 $attention.layer_norm_rms_epsilon=f:0.5" SIZES
#define GGUF_NEOX "general.architecture=s:gptneox $use_parallel_residual=b:1 " \
                  "$attention.layer_norm_epsilon=f:0.5" SIZES
#define GGUF_GPT2 "general.architecture=s:gpt2 $attention.layer_norm_epsilon=f:0.5" SIZES
#define LONG64 "0123456789012345678901234567890123456789012345678901234567890123"

static const struct change files[] = {
    { GGUF_LLAMA, NULL, QSAE_OK,
      "{\"model_type\":\"llama\",\"num_hidden_layers\":2,\"hidden_size\":8,\"head_dim\":4,"
      "\"intermediate_size\":6,\"max_position_embeddings\":16,\"num_attention_heads\":2,"
      "\"num_key_value_heads\":2,\"vocab_size\":5,\"rms_norm_eps\":0.5,\"rope_theta\":10000,"
      "\"bos_token_id\":null,\"tie_word_embeddings\":true,\"attention_bias\":false}" },
    { GGUF_LLAMA, "$feed_forward_length=I:7,7 $attention.head_count_kv=F:1,1", QSAE_OK,
      "{\"intermediate_size\":7,\"num_key_value_heads\":1}" },
    { GGUF_LLAMA, "tokenizer.ggml.bos_token_id=i:-1 tokenizer.ggml.eos_token_id=u:7", QSAE_OK,
      "{\"bos_token_id\":null,\"eos_token_id\":7}" },
    { GGUF_LLAMA, "tokenizer.ggml.bos_token_id=u:4294967295", QSAE_OK, "{\"bos_token_id\":null}" },
    { GGUF_LLAMA, "$attention.causal=b:1 $attention.scale=f:0.5 $attention.key_length=u:4 "
      "$attention.value_length=u:4 $rope.dimension_count=u:4 $expert_count=u:0", QSAE_OK, "{}" },
    { GGUF_LLAMA, "$attention.sliding_window=u:4 $rope.freq_base=f:500", QSAE_OK,
      "{\"rope_theta\":500}" },
    { GGUF_LLAMA, "$rope.scaling.type=s:linear $rope.scaling.factor=f:2", QSAE_OK,
      "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.0}}" },
    { GGUF_LLAMA, "$rope.scale_linear=f:4", QSAE_OK,
      "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}}" },
    { GGUF_LLAMA, "$rope.scaling.factor=f:1", QSAE_OK, "{\"rope_scaling\":null}" },
    { GGUF_LLAMA, "$rope.scaling.type=s:none $rope.scaling.factor=f:2", QSAE_OK,
      "{\"rope_scaling\":null}" },
    { GGUF_LLAMA, "rope_freqs.weight@2:3", QSAE_OK, "{\"rope_factors\":[3.0,3.0]}" },
    { GGUF_LLAMA, "output.weight@5,8", QSAE_OK, "{\"tie_word_embeddings\":false}" },
    { GGUF_GEMMA3, NULL, QSAE_OK,
      "{\"model_type\":\"gemma3_text\",\"rope_theta\":1000,\"rope_local_base_freq\":10000,"
      "\"query_pre_attn_scalar\":4,\"layer_types\":[\"full_attention\",\"full_attention\"],"
      "\"sliding_window\":null,\"final_logit_softcapping\":null}" },
    { GGUF_GEMMA3, "$attention.sliding_window=u:3 $final_logit_softcapping=f:30 "
      "$rope.freq_base_swa=f:7", QSAE_OK,
      "{\"layer_types\":[\"sliding_attention\",\"sliding_attention\"],\"sliding_window\":3,"
      "\"final_logit_softcapping\":30,\"rope_local_base_freq\":7}" },
    { GGUF_GEMMA3, "$attention.sliding_window=u:3 $attention.sliding_window_pattern=B:0,1", QSAE_OK,
      "{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}" },
    { GGUF_GEMMA3, "$attention.sliding_window=u:3 $attention.sliding_window_pattern=u:2", QSAE_OK,
      "{\"layer_types\":[\"sliding_attention\",\"full_attention\"]}" },
    { GGUF_GEMMA3, "$attention.sliding_window=u:3 $attention.sliding_window_pattern=u:0", QSAE_OK,
      "{\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]}" },
    { GGUF_GEMMA3, "$block_count=u:62 $attention.key_length=u:6", QSAE_OK,
      "{\"query_pre_attn_scalar\":4,\"head_dim\":6}" },
    { GGUF_GEMMA2, NULL, QSAE_OK,
      "{\"rope_theta\":10000,\"sliding_window\":4096,\"attn_logit_softcapping\":null,"
      "\"layer_types\":[\"sliding_attention\",\"full_attention\"]}" },
    { GGUF_GEMMA2, "$attn_logit_softcapping=f:50 $final_logit_softcapping=f:30 $block_count=u:46 "
      "$attention.key_length=u:6", QSAE_OK,
      "{\"attn_logit_softcapping\":50,\"final_logit_softcapping\":30,"
      "\"query_pre_attn_scalar\":4}" },
    { GGUF_NEOX, NULL, QSAE_OK,
      "{\"use_parallel_residual\":true,\"rotary_pct\":1,\"layer_norm_eps\":0.5}" },
    { GGUF_NEOX, "$rope.dimension_count=u:2 $use_parallel_residual=b:0", QSAE_OK,
      "{\"use_parallel_residual\":false,\"rotary_pct\":0.625}" },
    { GGUF_GPT2, NULL, QSAE_OK, "{\"layer_norm_epsilon\":0.5,\"n_inner\":6}" },
    { GGUF_LLAMA, "$block_count=u:0", QSAE_EFORMAT, "llama.block_count" },
    { GGUF_LLAMA, "-$embedding_length", QSAE_EFORMAT, "llama.embedding_length" },
    { GGUF_LLAMA, "-$feed_forward_length", QSAE_EFORMAT, "llama.feed_forward_length" },
    { GGUF_LLAMA, "-$context_length", QSAE_EFORMAT, "llama.context_length" },
    { GGUF_LLAMA, "-$attention.head_count", QSAE_EFORMAT, "llama.attention.head_count" },
    { GGUF_LLAMA, "$attention.head_count_kv=u:0", QSAE_EFORMAT, "llama.attention.head_count_kv" },
    { GGUF_LLAMA, "$feed_forward_length=S:a,b", QSAE_EFORMAT,
      "llama.feed_forward_length: expected an integer for each of 2 blocks, found an array of 2" },
    { GGUF_LLAMA, "$feed_forward_length=B:1,1", QSAE_EFORMAT, "expected an integer for each" },
    { GGUF_LLAMA, "$feed_forward_length=I:8,8,8", QSAE_EFORMAT, "found an array of 3" },
    { GGUF_LLAMA, "$feed_forward_length=I:8,9", QSAE_EUNSUPPORTED, "8 in block 0, 9 in block 1" },
    { GGUF_LLAMA, "$feed_forward_length=F:8.5,8.5", QSAE_EFORMAT,
      "expected a positive integer, found 8.5" },
    { GGUF_LLAMA, "$feed_forward_length=I:0,0", QSAE_EFORMAT, "positive integer, found 0" },
    { GGUF_LLAMA, "$feed_forward_length=F:2e9,2e9", QSAE_EFORMAT, "positive integer, found 2e+09" },
    { GGUF_LLAMA, "$attention.key_length=s:x", QSAE_EFORMAT, "llama.attention.key_length" },
    { GGUF_LLAMA, "$attention.value_length=s:x", QSAE_EFORMAT, "llama.attention.value_length" },
    { GGUF_LLAMA, "$attention.value_length=u:3", QSAE_EUNSUPPORTED, "value_length: 3" },
    { GGUF_LLAMA, "$rope.dimension_count=s:x", QSAE_EFORMAT, "llama.rope.dimension_count" },
    { GGUF_LLAMA, "-token_embd.weight", QSAE_EFORMAT, "\"token_embd.weight\": expected a matrix, "
      "found none" },
    { GGUF_LLAMA, "token_embd.weight@8", QSAE_EFORMAT, "found another shape" },
    { GGUF_LLAMA, "$expert_count=s:x", QSAE_EFORMAT, "llama.expert_count" },
    { GGUF_LLAMA, "$expert_count=u:2", QSAE_EUNSUPPORTED, "llama.expert_count: 2" },
    { GGUF_LLAMA, "$attention.causal=u:1", QSAE_EFORMAT, "llama.attention.causal" },
    { GGUF_LLAMA, "$attention.causal=b:0", QSAE_EUNSUPPORTED, "only causal models" },
    { GGUF_LLAMA, "-$attention.layer_norm_rms_epsilon", QSAE_EFORMAT, "layer_norm_rms_epsilon" },
    { GGUF_LLAMA, "tokenizer.ggml.bos_token_id=s:x", QSAE_EFORMAT, "bos_token_id" },
    { GGUF_LLAMA, "tokenizer.ggml.eos_token_id=i:-2", QSAE_EFORMAT, "eos_token_id" },
    { GGUF_LLAMA, "$rope.freq_base=s:x", QSAE_EFORMAT, "llama.rope.freq_base" },
    { GGUF_LLAMA, "$rope.freq_base=f:inf", QSAE_EFORMAT, "expected a finite number, found inf" },
    { GGUF_LLAMA, "$attention.scale=s:x", QSAE_EFORMAT, "llama.attention.scale" },
    { GGUF_LLAMA, "$attention.scale=f:0.6", QSAE_EUNSUPPORTED, "attention.scale: 0.6" },
    { GGUF_LLAMA, "$attention.sliding_window=s:x", QSAE_EFORMAT, "attention.sliding_window" },
    { GGUF_LLAMA, "$rope.scaling.type=u:1", QSAE_EFORMAT, "llama.rope.scaling.type" },
    { GGUF_LLAMA, "$rope.scaling.type=s:yarn", QSAE_EUNSUPPORTED, "scaling.type: \"yarn\"" },
    { GGUF_LLAMA, "$rope.scaling.type=s:dynami", QSAE_EUNSUPPORTED, "scaling.type: \"dynami\"" },
    { GGUF_LLAMA, "$rope.scaling.type=s:" LONG64 "XYZ", QSAE_EUNSUPPORTED, "\"" LONG64 "\"" },
    { GGUF_LLAMA, "$rope.scaling.factor=s:x", QSAE_EFORMAT, "llama.rope.scaling.factor" },
    { GGUF_LLAMA, "$rope.scale_linear=s:x", QSAE_EFORMAT, "llama.rope.scale_linear" },
    { GGUF_LLAMA, "$rope.scale_linear=f:-1", QSAE_EFORMAT, "expected a positive factor, found -1" },
    { GGUF_LLAMA, "rope_freqs.weight%2:3", QSAE_EFORMAT, "expected F32 [2], found F16" },
    { GGUF_LLAMA, "rope_freqs.weight@1,2:3", QSAE_EFORMAT, "of rank 2" },
    { GGUF_LLAMA, "rope_freqs.weight@3:3", QSAE_EFORMAT, "\"rope_freqs.weight\"" },
    { GGUF_LLAMA, "rope_freqs.weight@2:inf", QSAE_EFORMAT, "\"rope_freqs.weight\"[0]: expected" },
    { GGUF_LLAMA, "rope_freqs.weight@2:0", QSAE_EFORMAT, "a positive number, found 0" },
    { GGUF_GEMMA3, "-$rope.freq_base", QSAE_EFORMAT, "gemma3.rope.freq_base" },
    { GGUF_GEMMA3, "$rope.freq_base_swa=s:x", QSAE_EFORMAT, "gemma3.rope.freq_base_swa" },
    { GGUF_GEMMA3, "$final_logit_softcapping=s:x", QSAE_EFORMAT, "final_logit_softcapping" },
    { GGUF_GEMMA3, "$attention.scale=f:0.1", QSAE_EUNSUPPORTED, "gemma3.attention.scale: 0.1" },
    { GGUF_GEMMA3, "$attention.sliding_window=s:x", QSAE_EFORMAT, "attention.sliding_window" },
    { GGUF_GEMMA3, "$attention.sliding_window_pattern=s:x", QSAE_EFORMAT,
      "attention.sliding_window_pattern" },
    { GGUF_GEMMA3, "$attention.sliding_window_pattern=B:1,1,1", QSAE_EFORMAT,
      "expected 2 entries, found 3" },
    { GGUF_GEMMA3, "$rope.scaling.type=s:yarn", QSAE_EUNSUPPORTED, "\"yarn\"" },
    { GGUF_GEMMA2, "$rope.freq_base=s:x", QSAE_EFORMAT, "gemma2.rope.freq_base" },
    { GGUF_GEMMA2, "$attention.scale=f:0.1", QSAE_EUNSUPPORTED, "gemma2.attention.scale" },
    { GGUF_GEMMA2, "$attn_logit_softcapping=s:x", QSAE_EFORMAT, "attn_logit_softcapping" },
    { GGUF_GEMMA2, "$attn_logit_softcapping=f:0", QSAE_EFORMAT,
      "attn_logit_softcapping: expected a positive number, found 0" },
    { GGUF_GEMMA2, "$final_logit_softcapping=f:-1", QSAE_EFORMAT, "final_logit_softcapping" },
    { GGUF_NEOX, "$attention.head_count_kv=u:1", QSAE_EUNSUPPORTED, "2 heads of 4 and 1 for k" },
    { GGUF_NEOX, "$attention.key_length=u:6", QSAE_EUNSUPPORTED, "2 heads of 6" },
    { GGUF_NEOX, "$attention.value_length=u:6", QSAE_EUNSUPPORTED, "value_length: 6" },
    { GGUF_NEOX, "$rope.freq_base=s:x", QSAE_EFORMAT, "gptneox.rope.freq_base" },
    { GGUF_NEOX, "$attention.scale=f:0.1", QSAE_EUNSUPPORTED, "gptneox.attention.scale" },
    { GGUF_NEOX, "$rope.dimension_count=s:x", QSAE_EFORMAT, "gptneox.rope.dimension_count" },
    { GGUF_NEOX, "$rope.dimension_count=u:6", QSAE_EFORMAT,
      "expected at most the 4 entries of a head, found 6" },
    { GGUF_NEOX, "-$use_parallel_residual", QSAE_EFORMAT, "gptneox.use_parallel_residual" },
    { GGUF_NEOX, "$use_parallel_residual=u:1", QSAE_EFORMAT, "gptneox.use_parallel_residual" },
    { GGUF_NEOX, "-$attention.layer_norm_epsilon", QSAE_EFORMAT, "layer_norm_epsilon" },
    { GGUF_GPT2, "$attention.scale=f:0.1", QSAE_EUNSUPPORTED, "gpt2.attention.scale" },
};

/* A file while it is made: words by what stands before '=' or '@'; the later takes the place. */
struct words {
    char *word[64];
    int n;
};

static size_t name_size(const char *word)
{
    return strcspn(word, "=@%");
}

static void take_words(struct words *w, const char *text)
{
    char *const copy = strdup(text ? text : ""), *rest = NULL;
    for (char *p = strtok_r(copy, " ", &rest); p; p = strtok_r(NULL, " ", &rest)) {
        const char *const name = p + (*p == '-');
        int i = 0;
        while (i < w->n && (name_size(w->word[i]) != name_size(name) ||
                            strncmp(w->word[i], name, name_size(name)) != 0))
            i++;
        assert_true(*p != '-' || i < w->n);
        if (i < w->n)
            free(w->word[i]);
        if (*p == '-') {
            w->word[i] = w->word[--w->n];
        } else {
            assert_in_range(i, 0, 63);
            w->word[i] = strdup(p);
            w->n += i == w->n;
        }
    }
    free(copy);
}

struct bytes {
    uint8_t data[8192];
    size_t n;
};

static void put(struct bytes *b, const void *data, size_t size)
{
    assert_true(b->n + size <= sizeof b->data);
    memcpy(b->data + b->n, data, size);
    b->n += size;
}

static void put_int(struct bytes *b, uint64_t v, size_t size)
{
    put(b, &v, size); /* GGUF is little-endian, as what runs this */
}

static void put_text(struct bytes *b, const char *s, size_t n)
{
    put_int(b, n, 8);
    put(b, s, n);
}

/* A name with the architecture in place of '$'. */
static void put_name(struct bytes *b, const struct words *w, const char *word)
{
    char text[160];
    const char *arch = "";
    const size_t n = name_size(word);
    for (int i = 0; i < w->n; i++)
        if (strncmp(w->word[i], "general.architecture=s:", 23) == 0)
            arch = w->word[i] + 23;
    if (*word == '$')
        snprintf(text, sizeof text, "%s.%.*s", arch, (int)n - 1, word + 1);
    else
        snprintf(text, sizeof text, "%.*s", (int)n, word);
    put_text(b, text, strlen(text));
}

/* One value of type u, i, f, s or b; its number in GGUF files. */
static uint64_t put_value(struct bytes *b, char type, const char *text, size_t n, bool write)
{
    const float f = strtof(text, NULL);
    const int64_t v = strtoll(text, NULL, 10);
    if (write && type == 's')
        put_text(b, text, n);
    else if (write && type == 'f')
        put(b, &f, sizeof f);
    else if (write)
        put_int(b, (uint64_t)v, type == 'b' ? 1 : 4);
    return type == 's' ? QSAE__GGUF_STRING : type == 'f' ? QSAE__GGUF_F32 :
           type == 'b' ? QSAE__GGUF_BOOL : type == 'i' ? QSAE__GGUF_I32 : QSAE__GGUF_U32;
}

static void put_pair(struct bytes *b, const struct words *w, const char *word)
{
    const char *text = word + name_size(word) + 3;
    const char letter = text[-2];
    const bool array = letter >= 'A' && letter <= 'Z';
    const char type = array ? (char)(letter + 32) : letter;
    uint64_t count = 1;
    put_name(b, w, word);
    for (const char *p = text; array && *p; p++)
        count += *p == ',';
    if (array)
        put_int(b, QSAE__GGUF_ARRAY, 4);
    put_int(b, put_value(b, type, text, 0, false), 4);
    if (array)
        put_int(b, count, 8);
    for (uint64_t i = 0; i < count; i++) {
        const size_t n = array ? strcspn(text, ",") : strlen(text);
        put_value(b, type, text, n, true);
        text += n + 1;
    }
}

/* Description of a tensor; its values go to the end of `body`. */
static void put_tensor(struct bytes *b, struct bytes *body, const struct words *w, const char *word)
{
    const char *const at = word + name_size(word);
    uint64_t shape[2] = { 1, 0 }, n;
    char *end;
    put_name(b, w, word);
    shape[0] = strtoull(at + 1, &end, 10);
    if (*end == ',')
        shape[1] = strtoull(end + 1, &end, 10);
    put_int(b, shape[1] ? 2 : 1, 4);
    if (shape[1])
        put_int(b, shape[1], 8);
    put_int(b, shape[0], 8);
    put_int(b, *at == '%', 4);
    put_int(b, body->n, 8);
    n = shape[0] * (shape[1] ? shape[1] : 1);
    const float v = *end == ':' ? strtof(end + 1, NULL) : 0.25f;
    for (uint64_t i = 0; i < n; i++)
        put(body, &v, *at == '%' ? 2 : 4);
    while (body->n % 32)
        put_int(body, 0, 1);
}

static void make_file(const struct change *t)
{
    static struct bytes file, infos, body;
    struct words w = { .n = 0 };
    uint64_t pairs = 0, tensors = 0;
    take_words(&w, t->base);
    take_words(&w, t->change);
    file.n = infos.n = body.n = 0;
    put(&file, "GGUF\3\0\0\0", 8);
    for (int i = 0; i < w.n; i++)
        *(w.word[i][name_size(w.word[i])] == '=' ? &pairs : &tensors) += 1;
    put_int(&file, tensors, 8);
    put_int(&file, pairs, 8);
    for (int i = 0; i < w.n; i++)
        if (w.word[i][name_size(w.word[i])] == '=')
            put_pair(&file, &w, w.word[i]);
        else
            put_tensor(&infos, &body, &w, w.word[i]);
    put(&file, infos.data, infos.n);
    while (file.n % 32)
        put_int(&file, 0, 1);
    put(&file, body.data, body.n);
    test_write("it.gguf", file.data, file.n);
    while (w.n > 0)
        free(w.word[--w.n]);
}

static void check_file(qsae_context *ctx, const struct change *t)
{
    char path[600];
    qsae__tensors *raw = NULL, *renamed = NULL;
    json_t *config = NULL, *want, *v;
    const char *key;
    make_file(t);
    snprintf(path, sizeof path, "%s/it.gguf", test_folder());
    OK(qsae__tensors_load(ctx, path, &raw));
    const int32_t st = qsae__gguf_model(ctx, raw, &config, &renamed);
    const char *const message = st == QSAE_OK ? "" : qsae_error_message();
    if (st != t->status || (st != QSAE_OK && (!strstr(message, t->part) || !strstr(message, path))))
        fail_msg("%.30s %s: expected %s with \"%s\", found %s: %s", t->base, t->change,
                 qsae_status_name(t->status), t->part, qsae_status_name(st), message);
    if (st == QSAE_OK) {
        want = json_loads(t->part, 0, NULL);
        if (!want)
            fail_msg("no JSON: %s", t->part);
        json_object_foreach(want, key, v) {
            const json_t *const have = json_object_get(config, key);
            if (!(json_is_number(v) ? json_number_value(v) == json_number_value(have) :
                  json_is_null(v) ? !have || json_is_null(have) : json_equal(v, have)))
                fail_msg("%.30s %s: %s differs", t->base, t->change ? t->change : "", key);
        }
        json_decref(want);
    }
    json_decref(config);
    qsae__tensors_unref(&renamed);
    qsae__tensors_unref(&raw);
}

static void test_files(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        check_file(ctx, &files[i]);
    qsae_context_close(&ctx);
}

const struct CMUnitTest key_tests[] = {
    cmocka_unit_test(test_configs),
    cmocka_unit_test(test_memory),
    cmocka_unit_test(test_files),
};
const size_t n_key_tests = sizeof key_tests / sizeof key_tests[0];
