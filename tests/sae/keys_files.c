/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files of tensors by any name and without a configuration, thresholds and scales in every form
 * that is written, sizes that cannot be: as keys.c.
 */
#include "layout.h"

#define PLAIN "W_enc=F32[8,10] W_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8]"
#define LOWER "w_enc=F32[8,10] w_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8] threshold=F32[10]:0.5"
#define UPPER "W_enc=F32[8,10] W_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8] threshold=F32[10]:0.5"
#define CFG "{\"d_in\": 8, \"metadata\": {\"sae_lens_version\": \"6.1\"}}"

/* ---- names of files ---- */

#define NAMED(open_) { .folder = "named", .params = "my.safetensors", .tensors = PLAIN, \
                       .config = "cfg.json", .text = CFG, .open = open_ }
static const struct layout named[] = {
    NAMED("my.safetensors"), NAMED("my.safetensors#3"), NAMED("my.safetensors#x"),
    NAMED("my.safetensors#5:x"), NAMED("my.safetensors#1234567"), NAMED("other"),
};
static const struct layout numpy = {
    .folder = "gemma-scope-2b-pt-res/layer_3", .params = "any.npz", .tensors = UPPER,
    .open = "any.npz",
};
static const struct layout lower = {
    .folder = "any", .params = "any.safetensors", .tensors = LOWER, .config = "config.json",
    .text = "{\"model_name\": \"m\"}", .open = "any.safetensors",
};
static const struct layout alone = {
    .folder = "any", .params = "any.safetensors", .tensors = LOWER,
};
static const struct layout nothing = {
    .folder = "any", .params = "any.safetensors", .tensors = "a=F32[8]",
    .open = "any.safetensors",
};
static const struct layout of_set = {
    .folder = "set", .params = "layer_7.safetensors",
    .tensors = "W_enc=F32[10,8] W_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8] threshold=F32[10]:0.5",
    .config = "config.yaml", .text = "model_name: m\n", .open = "layer_7.safetensors",
};
static const struct layout pickles[] = {
    { .folder = "pickles", .params = "ae.bin", .tensors = PLAIN },
    { .folder = "pickles", .params = "ae.pth", .tensors = PLAIN },
};

static const struct change names[] = {
    ROW(&named[0], NULL, NULL, QSAE_OK, "{\"format\": \"saelens\", \"features\": 10}"),
    ROW(&named[1], NULL, NULL, QSAE_EINVAL, "so there is no layer 3"),
    { &named[0], NULL, NULL, QSAE_EINVAL, "so there is no layer 5", "5:7", NULL, 0 },
    ROW(&named[2], NULL, NULL, QSAE_ENOENT, "my.safetensors#x: no such file or folder"),
    ROW(&named[3], NULL, NULL, QSAE_ENOENT, "my.safetensors#5:x: no such"),
    ROW(&named[4], NULL, NULL, QSAE_ENOENT, "my.safetensors#1234567: no such"),
    ROW(&named[5], NULL, NULL, QSAE_ENOENT, "other: no such"),
    { &named[0], NULL, NULL, QSAE_EINVAL, "layer: expected a number such as", "", NULL, 0 },
    { &named[0], NULL, NULL, QSAE_EINVAL, "found \"1234567\"", "1234567", NULL, 0 },
    { &named[0], NULL, NULL, QSAE_EINVAL, "found \"5:\"", "5:", NULL, 0 },
    { &named[0], NULL, NULL, QSAE_EINVAL, "found \"5;7\"", "5;7", NULL, 0 },
    { &named[0], NULL, NULL, QSAE_EINVAL, "found \"5:1234567\"", "5:1234567", NULL, 0 },
    { &named[0], NULL, NULL, QSAE_EINVAL, "found \"5:7x\"", "5:7x", NULL, 0 },
    ROW(&numpy, NULL, NULL, QSAE_OK,
        "{\"format\": \"gemma-scope\", \"hook\": \"blocks.3.hook_resid_post\"}"),
    { &numpy, NULL, NULL, QSAE_EINVAL, "so there is no layer 3", "3", NULL, 0 },
    ROW(&lower, NULL, NULL, QSAE_OK, "{\"format\": \"gemma-scope-2\", \"model\": \"m\"}"),
    { &lower, NULL, NULL, QSAE_EINVAL, "so there is no layer 2", "2", NULL, 0 },
    ROW(&alone, NULL, NULL, QSAE_OK, "{\"format\": \"gemma-scope-2\"}"),
    { &alone, NULL, NULL, QSAE_ENOENT, "no SAE found", "2", NULL, 0 },
    ROW(&nothing, NULL, NULL, QSAE_EFORMAT, "none of its tensors is one of an SAE"),
    { &of_set, NULL, NULL, QSAE_OK, "{\"format\": \"circuit-tracer\"}", "7", NULL, 0 },
    { &of_set, NULL, NULL, QSAE_EINVAL, "layer_7.safetensors: is layer 7, not 3", "3", NULL, 0 },
    ROW(&pickles[0], NULL, NULL, QSAE_EPICKLE, "only the pickle ae.bin"),
    ROW(&pickles[1], NULL, NULL, QSAE_EPICKLE, "only the pickle ae.pth"),
};

/* ---- without a configuration ---- */

#define OPENAI(name) { .folder = "weights", .params = name, .tensors = \
    "encoder.weight=F32[10,8] latent_bias=F32[10] decoder.weight=F32[8,10] pre_bias=F32[8]:2" }
static const struct layout openai = OPENAI("gpt2-l19.safetensors");
static const struct layout unplaced = OPENAI("x-layer.safetensors");
static const struct layout goodfire = {
    .folder = "weights", .params = "Llama-SAE-l50.safetensors",
    .tensors = "encoder_linear.weight=F32[10,8] encoder_linear.bias=F32[10]:3 "
               "decoder_linear.weight=F32[8,10] decoder_linear.bias=F32[8]",
};
static const struct layout linear = {
    .folder = "weights", .params = "linear.safetensors",
    .tensors = "encoder.weight=F32[10,8] encoder.bias=F32[10] decoder.weight=F32[8,10] "
               "decoder.bias=F32[8]",
};
#define TOLD(tensors, activation, status, part) \
    { &openai, NULL, tensors, status, part, NULL, activation, 0 }

static const struct change plain[] = {
    TOLD(NULL, "relu", QSAE_OK, "{\"format\": \"openai\", \"architecture\": \"standard\", "
         "\"normalize\": \"none\", \"hook\": \"blocks.19.hook_resid_post\", \"apply_b_dec\": 1, "
         "\"prepend_bos\": -1, \"b_dec0\": 2}"),
    TOLD(NULL, "ReLU", QSAE_OK, "{\"architecture\": \"standard\"}"),
    TOLD(NULL, "topk:3", QSAE_OK, "{\"architecture\": \"topk\", \"k\": 3, "
         "\"normalize\": \"layer_norm\", \"apply_b_dec\": 1}"),
    TOLD("k=I32[]:4", "TopK:1e0", QSAE_OK, "{\"k\": 1}"),
    TOLD("k=I32[]:4", "TopK", QSAE_OK, "{\"k\": 4}"),
    TOLD("k=I32[]:4", "topk:", QSAE_OK, "{\"k\": 4}"),
    TOLD("activation.k=I64[]:5 k=I32[]:4", "topk", QSAE_OK, "{\"k\": 5}"),
    TOLD("activation_state_dict.k=F64[1]:6 k=I32[]:4", "topk", QSAE_OK, "{\"k\": 6}"),
    TOLD(NULL, NULL, QSAE_EUNSUPPORTED, "the activation is not in the file; tell"),
    TOLD(NULL, "topkx", QSAE_EUNSUPPORTED, "the activation is topkx; tell"),
    TOLD(NULL, "top", QSAE_EUNSUPPORTED, "the activation is top; tell"),
    TOLD(NULL, "topk", QSAE_EFORMAT, "k of the topk is not in the file; tell"),
    TOLD("k=I32[]:4", "topk:0", QSAE_EFORMAT, "expected a positive integer, found \"0\""),
    TOLD("k=I32[]:4", "topk:x", QSAE_EFORMAT, "expected a positive integer, found \"x\""),
    TOLD("k=I32[]:4", "topk:3x", QSAE_EFORMAT, "expected a positive integer, found \"3x\""),
    TOLD(NULL, "topk:2.5", QSAE_EFORMAT, "expected a positive integer, found \"2.5\""),
    TOLD(NULL, "topk:1e9", QSAE_EFORMAT, "expected a positive integer, found \"1e9\""),
    TOLD(NULL, "topk:nan", QSAE_EFORMAT, "expected a positive integer, found \"nan\""),
    TOLD(NULL, "topk:11", QSAE_EMISMATCH, "k = 11 is more than the 10 features"),
    TOLD("k=F32[]:2.5", "topk", QSAE_EFORMAT, "\"k\": expected a positive integer, found 2.5"),
    TOLD("k=F32[]:nan", "topk", QSAE_ENONFINITE, "\"k\" is not finite"),
    TOLD("k=I32[2]:4", "topk", QSAE_EMISMATCH, "\"k\": expected one number"),
    TOLD("k=F32[1,1]:4", "topk", QSAE_EMISMATCH, "\"k\": expected one number"),
    TOLD("k=F8_E4M3[]", "topk", QSAE_EUNSUPPORTED, "\"k\": expected a number, found F8_E4M3"),
    TOLD("encoder.weight=I32[10,8]", "relu", QSAE_EUNSUPPORTED, "\"encoder.weight\": expected F32"),
    TOLD("-decoder.weight", "relu", QSAE_ENOENT, "\"decoder.weight\""),
    TOLD("decoder.weight=F32[80]", "relu", QSAE_EMISMATCH, "\"decoder.weight\""),
    TOLD("-latent_bias", "relu", QSAE_ENOENT, "\"latent_bias\""),
    { &unplaced, NULL, NULL, QSAE_OK, "{\"hook\": \"\"}", NULL, "relu", 0 },
    ROW(&goodfire, NULL, NULL, QSAE_OK, "{\"format\": \"goodfire\", \"architecture\": "
        "\"standard\", \"hook\": \"blocks.50.hook_resid_post\", \"apply_b_dec\": 0, "
        "\"b_enc0\": 3}"),
    ROW(&goodfire, NULL, "k=F32[]:3", QSAE_EUNSUPPORTED, "tensor \"k\": without a configuration"),
    ROW(&linear, NULL, NULL, QSAE_OK, "{\"format\": \"linear\", \"hook\": \"\"}"),
    ROW(&linear, NULL, "threshold=F32[10]:1", QSAE_EUNSUPPORTED, "tensor \"threshold\": without"),
};

/* ---- thresholds, scales, sizes ---- */

static const struct layout jump = {
    .folder = "jump", .params = "sae_weights.safetensors",
    .tensors = PLAIN " threshold=F32[10]:0.5", .config = "cfg.json",
    .text = "{\"d_in\": 8, \"architecture\": \"jumprelu\", "
            "\"metadata\": {\"sae_lens_version\": \"6.1\"}}",
};
static const struct layout standard = {
    .folder = "standard", .params = "sae_weights.safetensors", .tensors = PLAIN,
    .config = "cfg.json", .text = CFG,
};

static const struct change parameters[] = {
    ROW(&jump, NULL, NULL, QSAE_OK, "{\"min_threshold\": 0.5}"),
    ROW(&jump, NULL, "-threshold log_threshold=F32[10]:-0.5", QSAE_OK,
        "{\"min_threshold\": 0.60653066}"),
    ROW(&jump, NULL, "log_threshold=F32[10]:-0.5", QSAE_OK, "{\"min_threshold\": 0.5}"),
    ROW(&jump, NULL, "threshold=F32[1]:0.25", QSAE_OK, "{\"min_threshold\": 0.25}"),
    ROW(&jump, NULL, "threshold=F32[]:0.3 b_enc=F32[10]", QSAE_OK, "{\"min_threshold\": 0.3}"),
    ROW(&jump, NULL, "threshold=F32[]:0.3 b_enc=BF16[10]", QSAE_OK,
        "{\"min_threshold\": 0.30078125}"),
    ROW(&jump, NULL, "threshold=F32[]:0.3 b_enc=F16[10]", QSAE_OK,
        "{\"min_threshold\": 0.300048828125}"),
    ROW(&jump, NULL, "W_enc=F32[8,1] W_dec=F32[1,8] b_enc=F32[1] threshold=F32[1]:0.25", QSAE_OK,
        "{\"min_threshold\": 0.25, \"features\": 1}"),
    ROW(&jump, NULL, "threshold=F32[]:inf", QSAE_ENONFINITE, "\"threshold\" is not finite"),
    ROW(&jump, NULL, "threshold=F32[10]:inf", QSAE_ENONFINITE, "element 0 is not finite"),
    ROW(&jump, NULL, "threshold=F8_E4M3[]", QSAE_EUNSUPPORTED,
        "\"threshold\": expected F32, F16, BF16 or F64, found F8_E4M3"),
    ROW(&jump, NULL, "threshold=F32[2]:1", QSAE_EMISMATCH, "\"threshold\""),
    ROW(&jump, NULL, "threshold=F32[1,1]:1", QSAE_EMISMATCH, "\"threshold\""),
    ROW(&standard, NULL, "scaling_factor=F32[10]:1", QSAE_OK, "{\"scaled\": 0}"),
    ROW(&standard, NULL, "scaling_factor=F32[10]:1.000005", QSAE_OK, "{\"scaled\": 0}"),
    ROW(&standard, "{\"finetuning_scaling_factor\": true}", "scaling_factor=F32[10]:2", QSAE_OK,
        "{\"scaled\": 1}"),
    ROW(&standard, NULL, "scaling_factor=F32[10]:2", QSAE_EMISMATCH,
        "\"scaling_factor\" is not all ones, but finetuning_scaling_factor is not set"),
    ROW(&standard, "{\"finetuning_scaling_factor\": true}", "scaling_factor=F32[9]:2",
        QSAE_EMISMATCH, "\"scaling_factor\""),
    ROW(&standard, NULL, "W_enc=F32[0,10] W_dec=F32[10,0] b_dec=F32[0]", QSAE_EFORMAT,
        "sizes 0, 10, 0 (d_in, d_sae, d_out) out of range"),
    ROW(&standard, NULL, "W_enc=F32[8,0] W_dec=F32[0,8] b_enc=F32[0]", QSAE_EFORMAT,
        "sizes 8, 0, 8 (d_in, d_sae, d_out) out of range"),
    ROW(&standard, NULL, "W_dec=F32[10,0] b_dec=F32[0]", QSAE_EFORMAT, "sizes 8, 10, 0"),
    ROW(&standard, NULL, "W_enc=F32[0,4294967296] W_dec=F32[4294967296,0]", QSAE_EFORMAT,
        "sizes 0, 4294967296, 0"),
};

#define CHECK(table) \
    for (size_t i = 0; i < sizeof (table) / sizeof (table)[0]; i++) \
        check_change(ctx, &(table)[i])

static void test_names(void **state)
{
    const struct change c = ROW(&named[0], NULL, NULL, QSAE_OK, "{\"format\": \"saelens\"}");
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    CHECK(names);
    check_relative(ctx, &c);
    qsae_context_close(&ctx);
}

static void test_silent(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    CHECK(plain);
    qsae_context_close(&ctx);
}

static void test_parameters(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    CHECK(parameters);
    qsae_context_close(&ctx);
}

const struct CMUnitTest file_tests[] = {
    cmocka_unit_test(test_names),
    cmocka_unit_test(test_silent),
    cmocka_unit_test(test_parameters),
};
const size_t n_file_tests = sizeof file_tests / sizeof file_tests[0];
