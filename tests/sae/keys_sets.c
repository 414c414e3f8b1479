/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Configurations, tensors and folder names of Gemma Scope, OpenMOSS and circuit-tracer, one wrong
 * at a time, and what is read from those that are right: as keys.c.
 */
#include "layout.h"

#define LOWER "w_enc=F32[8,10] w_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8] threshold=F32[10]:0.5"
#define UPPER "W_enc=F32[8,10] W_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8] threshold=F32[10]:0.5"

/* ---- Gemma Scope 1: params.npz, which may be any file of tensors ---- */

#define SCOPE1(path) { .folder = path, .params = "params.npz", .tensors = UPPER }
static const struct layout scope1[] = {
    SCOPE1("gemma-scope-2b-pt-res/layer_3/width_16k"),
    SCOPE1("gemma-scope-9b-it-mlp/layer_12/layer_x"),
    SCOPE1("gemma-scope-27b-pt-att/width_16k"),
    SCOPE1("gemma-scope-2b-pt-transcoders/layer_4"),
    SCOPE1("gemma-scope-2b-pt-res/embedding"),
    SCOPE1("gemma-scope-b/layer_1"),
    SCOPE1("gemma-scope-123456789b-pt-res/layer_1"),
    { .folder = "gemma-scope-2b-pt-res/lower/embedding", .params = "params.npz",
      .tensors = LOWER },
};

static const struct change scope1_right[] = {
    ROW(&scope1[0], NULL, NULL, QSAE_OK,
        "{\"format\": \"gemma-scope\", \"architecture\": \"jumprelu\", \"context_size\": 1024, "
        "\"prepend_bos\": 1, \"hook\": \"blocks.3.hook_resid_post\", "
        "\"model\": \"google/gemma-2-2b\", \"hook_out\": \"blocks.3.hook_resid_post\"}"),
    ROW(&scope1[1], NULL, NULL, QSAE_OK,
        "{\"hook\": \"blocks.12.hook_mlp_out\", \"model\": \"google/gemma-2-9b-it\"}"),
    ROW(&scope1[2], NULL, NULL, QSAE_OK,
        "{\"hook\": \"\", \"model\": \"google/gemma-2-27b\"}"),
    ROW(&scope1[3], NULL, NULL, QSAE_OK,
        "{\"architecture\": \"jumprelu_transcoder\", \"transcoder\": 1, "
        "\"hook\": \"blocks.4.ln2.hook_normalized\", \"hook_out\": \"blocks.4.hook_mlp_out\"}"),
    ROW(&scope1[4], NULL, "b_dec=F32[8]:3", QSAE_OK,
        "{\"hook\": \"hook_embed\", \"b_dec0\": 8.48528137}"),
    ROW(&scope1[5], NULL, NULL, QSAE_OK, "{\"model\": \"\", \"hook\": \"\"}"),
    ROW(&scope1[6], NULL, NULL, QSAE_OK,
        "{\"model\": \"\", \"hook\": \"blocks.1.hook_resid_post\"}"),
    ROW(&scope1[7], NULL, "b_dec=F32[8]:3", QSAE_OK, "{\"b_dec0\": 8.48528137}"),
};
static const struct change scope1_wrong[] = {
    ROW(&scope1[0], NULL, "-W_enc", QSAE_ENOENT, "\"W_enc\""),
    ROW(&scope1[4], NULL, "-W_enc", QSAE_ENOENT, "\"W_enc\""),
    ROW(&scope1[4], NULL, "W_dec=F32[10]", QSAE_EMISMATCH, "\"W_dec\""),
    ROW(&scope1[4], NULL, "b_enc=I8[10]", QSAE_EUNSUPPORTED, "\"b_enc\""),
    ROW(&scope1[4], NULL, "-threshold", QSAE_ENOENT, "\"threshold\""),
};

/* ---- Gemma Scope 2 ---- */

#define SCOPE2(path) { .folder = path, .params = "params.safetensors", .tensors = LOWER, \
                       .config = "config.json", .text = "{}" }
#define SILENT2(path) { .folder = path, .params = "params.safetensors", .tensors = LOWER }
static const struct layout scope2[] = {
    SCOPE2("gemma-scope-2-1b-pt/resid_post/layer_3_width_16k"),
    SILENT2("gemma-scope-2-270m-it/transcoder_all/layer_11_width_16k"),
    SILENT2("gemma-scope-2-12b/attn_out/layer_7"),
    SILENT2("other/mlp_out/layer_5"),
    SCOPE2("nothing"),
    SILENT2("resid_post_all/mlp_out/layer_6"),
};
#define LAYER(path, file) { .folder = path, .params = file, .tensors = \
    "w_enc=F32[8,10] w_dec=F32[10,2,8] b_enc=F32[10] b_dec=F32[8]:3 threshold=F32[10]:0.5", \
    .more = "params_layer_7.safetensors", .more_tensors = "w_enc=F32[8,10]", \
    .config = "config.json", .text = "{}", .beside = "params_layer_x.safetensors", \
    .beside_text = "", .open = file }
static const struct layout stack = LAYER("gemma-scope-2-1b-pt/clt/width",
                                         "params_layer_4.safetensors");
static const struct layout cross = LAYER("gemma-scope-2-1b-pt/crosscoder/width",
                                         "params_layer_4.safetensors");
static const struct layout alone = {
    .folder = "gemma-scope-2-1b-pt/clt/one", .params = "params_layer_1.safetensors", .tensors =
    "w_enc=F32[8,10] w_dec=F32[10,2,8] b_enc=F32[10] b_dec=F32[8]:3 threshold=F32[10]:0.5",
    .beside = "params_layer_2.txt", .beside_text = "",
};

static const struct change scope2_right[] = {
    ROW(&scope2[0], NULL, NULL, QSAE_OK,
        "{\"format\": \"gemma-scope-2\", \"architecture\": \"jumprelu\", \"context_size\": 1024, "
        "\"prepend_bos\": 1, \"hook\": \"model.layers.3.output\", "
        "\"model\": \"google/gemma-3-1b-pt\"}"),
    ROW(&scope2[0], "{\"architecture\": \"jump_relu\", \"type\": \"sae\", \"width\": 10, "
        "\"affine_connection\": false, \"hf_hook_point_in\": \"i\", \"hf_hook_point_out\": \"o\", "
        "\"model_name\": \"m\"}", NULL, QSAE_OK,
        "{\"hook\": \"i\", \"hook_out\": \"o\", \"model\": \"m\", \"transcoder\": 0}"),
    ROW(&scope2[0], "{\"type\": \"transcoder\"}", NULL, QSAE_OK,
        "{\"architecture\": \"jumprelu_transcoder\", \"skip\": 0}"),
    ROW(&scope2[0], "{\"type\": \"transcoder\", \"affine_connection\": true}",
        "affine_skip_connection=F32[8,8]", QSAE_OK,
        "{\"architecture\": \"jumprelu_skip_transcoder\", \"skip\": 1}"),
    ROW(&scope2[1], NULL, NULL, QSAE_OK,
        "{\"architecture\": \"jumprelu_transcoder\", \"model\": \"google/gemma-3-270m-it\", "
        "\"hook\": \"model.layers.11.pre_feedforward_layernorm.output\", "
        "\"hook_out\": \"model.layers.11.post_feedforward_layernorm.output\"}"),
    ROW(&scope2[1], NULL, "affine_skip_connection=F32[8,8]", QSAE_OK,
        "{\"architecture\": \"jumprelu_skip_transcoder\", \"skip\": 1}"),
    ROW(&scope2[2], NULL, NULL, QSAE_OK,
        "{\"hook\": \"model.layers.7.self_attn.o_proj.input\", "
        "\"model\": \"google/gemma-3-12b\"}"),
    ROW(&scope2[3], NULL, NULL, QSAE_OK,
        "{\"hook\": \"model.layers.5.post_feedforward_layernorm.output\", \"model\": \"\"}"),
    ROW(&scope2[4], NULL, NULL, QSAE_OK, "{\"hook\": \"\"}"),
    ROW(&scope2[5], NULL, NULL, QSAE_OK,
        "{\"hook\": \"model.layers.6.post_feedforward_layernorm.output\"}"),
    ROW(&stack, "{\"type\": \"sae\"}", NULL, QSAE_OK,
        "{\"architecture\": \"jumprelu_transcoder\"}"),
    ROW(&stack, NULL, NULL, QSAE_OK,
        "{\"format\": \"gemma-scope-2-clt\", \"encode_only\": 1, \"skip\": 0, \"b_dec0\": 3, "
        "\"architecture\": \"jumprelu_transcoder\", "
        "\"hook\": \"model.layers.4.pre_feedforward_layernorm.output\"}"),
    ROW(&stack, "{\"type\": \"clt\"}", "affine_skip_connection=F32[8,8]", QSAE_OK,
        "{\"skip\": 1, \"architecture\": \"jumprelu_skip_transcoder\"}"),
    { &stack, "{\"type\": \"cross_layer_transcoder\"}", "affine_skip_connection=F32[8,8]", QSAE_OK,
      "{\"encode_only\": 0, \"skip\": 0, \"b_dec0\": 0}", "4:7", NULL, 0 },
    { &cross, "{\"type\": \"crosscoder\"}", NULL, QSAE_OK,
      "{\"format\": \"gemma-scope-2-crosscoder\", \"encode_only\": 0, \"b_dec0\": 3}", "4:4", NULL,
      0 },
    ROW(&alone, NULL, NULL, QSAE_OK, "{\"encode_only\": 1}"),
};
static const struct change scope2_wrong[] = {
    ROW(&scope2[0], "=[]", NULL, QSAE_EFORMAT, "config.json: expected an object, found array"),
    ROW(&scope2[0], "={", NULL, QSAE_EFORMAT, "config.json:1"),
    ROW(&scope2[0], "{\"architecture\": 1}", NULL, QSAE_EFORMAT, "\"architecture\""),
    ROW(&scope2[0], "{\"architecture\": \"topk\"}", NULL, QSAE_EUNSUPPORTED,
        "expected \"jump_relu\", found \"topk\""),
    ROW(&scope2[0], "{\"type\": 1}", NULL, QSAE_EFORMAT, "\"type\""),
    ROW(&scope2[0], "{\"type\": \"x\"}", NULL, QSAE_EUNSUPPORTED, "\"type\": \"x\""),
    ROW(&scope2[0], "{\"type\": \"clt\"}", NULL, QSAE_EUNSUPPORTED, "\"type\": \"clt\""),
    ROW(&scope2[0], "{\"width\": 0}", NULL, QSAE_EFORMAT, "\"width\""),
    ROW(&scope2[0], "{\"width\": 11}", NULL, QSAE_EMISMATCH, "d_sae = 11"),
    ROW(&scope2[0], "{\"affine_connection\": 1}", NULL, QSAE_EFORMAT, "\"affine_connection\""),
    ROW(&scope2[0], "{\"affine_connection\": true}", NULL, QSAE_ENOENT,
        "\"affine_skip_connection\""),
    ROW(&scope2[0], "{\"hf_hook_point_in\": 1}", NULL, QSAE_EFORMAT, "\"hf_hook_point_in\""),
    ROW(&scope2[0], "{\"hf_hook_point_out\": 1}", NULL, QSAE_EFORMAT, "\"hf_hook_point_out\""),
    ROW(&scope2[0], "{\"model_name\": 1}", NULL, QSAE_EFORMAT, "\"model_name\""),
    ROW(&stack, "{\"type\": \"x\"}", NULL, QSAE_EUNSUPPORTED, "\"type\": \"x\""),
    ROW(&stack, NULL, "-w_enc", QSAE_ENOENT, "\"w_enc\""),
    ROW(&stack, NULL, "-b_enc", QSAE_ENOENT, "\"b_enc\""),
    ROW(&stack, NULL, "threshold=F32[]", QSAE_EMISMATCH, "\"threshold\""),
    ROW(&stack, NULL, "w_dec=F32[10,8]", QSAE_EMISMATCH, "\"w_dec\""),
    ROW(&stack, NULL, "w_dec=I8[10,2,8]", QSAE_EUNSUPPORTED, "\"w_dec\""),
    ROW(&stack, NULL, "b_dec=F32[1,8]", QSAE_EMISMATCH, "\"b_dec\""),
    ROW(&stack, NULL, "affine_skip_connection=F32[8]", QSAE_EMISMATCH,
        "\"affine_skip_connection\""),
    ROW(&stack, NULL, "affine_skip_connection=F32[7,8]", QSAE_EMISMATCH,
        "\"affine_skip_connection\""),
    { &stack, NULL, NULL, QSAE_EMISMATCH, "expected layer 5", "4:5", NULL, 0 },
    { &stack, NULL, NULL, QSAE_EINVAL, "is layer 4, not 2", "2", NULL, 0 },
    ROW(&stack, NULL, "w_dec=F32[10,3,8]", QSAE_EMISMATCH, "3 layers, of the folder's 2 files"),
    { &alone, NULL, NULL, QSAE_EINVAL, "writes to itself and later layers, not to 0", "1:0", NULL,
      0 },
};

/* ---- OpenMOSS ---- */

#define LINEAR "encoder.weight=F32[10,8] encoder.bias=F32[10]:3 decoder.weight=F32[8,10] " \
               "decoder.bias=F32[8]:3"
#define HOOKS "\"hook_point_in\": \"blocks.4.ln2.hook_normalized\", \"hook_point_out\": "
static const struct layout llama_scope = {
    .folder = "scope", .params = "checkpoints/final.safetensors", .tensors = LINEAR,
    .config = "hyperparams.json",
    .text = "{\"d_model\": 8, \"d_sae\": 10, \"hook_point_in\": \"i\", \"hook_point_out\": \"i\", "
            "\"jump_relu_threshold\": 0.5, \"dataset_average_activation_norm\": {\"in\": 2, "
            "\"out\": 4}, \"sparsity_include_decoder_norm\": false}",
};
static const struct layout r1 = {
    .folder = "r1", .params = "sae_weights.safetensors",
    .tensors = LINEAR " log_jumprelu_threshold=F32[10]:0", .config = "config.json",
    .text = "{\"d_model\": 8, \"hook_point_in\": \"i\", \"hook_point_out\": \"i\"}",
};
#define CURRENT "W_E=F32[8,10] W_D=F32[10,8] b_E=F32[10]:3 b_D=F32[8]:3 " \
                "activation_function.log_jumprelu_threshold=F32[10]:0 "
static const struct layout moss = {
    .folder = "moss", .params = "sae_weights.safetensors", .tensors = CURRENT,
    .config = "config.json",
    .text = "{\"d_model\": 8, \"expansion_factor\": 1.25, " HOOKS "\"blocks.4.hook_mlp_out\", "
            "\"act_fn\": \"jumprelu\", \"norm_activation\": \"inference\"}",
};
#define NORM "dataset_average_activation_norm."
static const struct layout clt = {
    .folder = "clt", .params = "sae_weights.safetensors",
    .tensors = "W_E=F32[2,8,10] b_E=F32[2,10] W_D.0=F32[1,10,8] W_D.1=F32[2,10,8] b_D.0=F32[8]:3 "
               "b_D.1=F32[8]:3 activation_function.log_jumprelu_threshold=F32[2,10]:0",
    .config = "config.json",
    .text = "{\"d_model\": 8, \"hook_points_in\": [\"i0\", \"i1\"], \"hook_points_out\": "
            "[\"o0\", \"o1\"], \"act_fn\": \"jumprelu\", \"norm_activation\": \"inference\"}",
};

static const struct change moss_right[] = {
    ROW(&llama_scope, NULL, NULL, QSAE_OK,
        "{\"format\": \"llama-scope\", \"architecture\": \"jumprelu\", \"context_size\": 1024, "
        "\"prepend_bos\": 1, \"hook\": \"i\", \"hook_out\": \"i\", \"transcoder\": 0, "
        "\"norm_in\": 2, \"norm_out\": 4, \"min_threshold\": 0.5, \"b_enc0\": 2.12132034, "
        "\"b_dec0\": 4.24264069, \"apply_b_dec\": 0, \"model\": \"meta-llama/Llama-3.1-8B\"}"),
    ROW(&llama_scope, "{\"sparsity_include_decoder_norm\": true, \"jump_relu_threshold\": -0.5, "
        "\"dataset_average_activation_norm\": {\"-out\": 0}, \"act_fn\": \"jumprelu\"}",
        "decoder.weight=F32[8,10]:2", QSAE_OK,
        "{\"norm_out\": 2, \"b_enc0\": 12, \"keeps_negative\": 1, \"min_threshold\": -0.5}"),
    ROW(&llama_scope, "{\"act_fn\": \"topk\", \"top_k\": 3, \"-jump_relu_threshold\": 0}", NULL,
        QSAE_OK, "{\"architecture\": \"topk\", \"k\": 3}"),
    ROW(&llama_scope, "{\"act_fn\": \"relu\", \"apply_decoder_bias_to_pre_encoder\": true, "
        "\"use_glu_encoder\": false}", NULL, QSAE_OK,
        "{\"architecture\": \"standard\", \"apply_b_dec\": 1, \"skip\": 0}"),
    ROW(&llama_scope, "{\"hook_point_out\": \"o\", \"act_fn\": \"relu\"}", NULL, QSAE_OK,
        "{\"architecture\": \"transcoder\", \"hook_out\": \"o\", \"transcoder\": 1}"),
    ROW(&r1, NULL, NULL, QSAE_OK,
        "{\"format\": \"llama-scope-r1\", \"architecture\": \"jumprelu\", \"context_size\": 1024, "
        "\"prepend_bos\": 1, \"min_threshold\": 1, \"scale\": 0, "
        "\"normalize\": \"expected_average_only_in\"}"),
    { &r1, NULL, NULL, QSAE_OK, "{\"scale\": 2, \"scale_out\": 2, \"normalize\": \"none\", "
      "\"b_dec0\": 1.5, \"b_enc0\": 3}", NULL, NULL, 2 },
    ROW(&r1, "{\"dataset_average_activation_norm\": {\"in\": 4}}", NULL, QSAE_OK,
        "{\"scale\": 0.70710678, \"scale_out\": 0.70710678, \"norm_in\": 4, \"norm_out\": 4}"),
    ROW(&moss, NULL, "W_D=F32[10,8]:2", QSAE_OK,
        "{\"format\": \"openmoss\", \"architecture\": \"jumprelu_transcoder\", \"transcoder\": 1, "
        "\"context_size\": 0, \"prepend_bos\": -1, \"features\": 10, \"b_dec0\": 3, "
        "\"min_threshold\": 0.1767767}"),
    ROW(&moss, "{\"sparsity_include_decoder_norm\": false, \"d_sae\": 10, "
        "\"expansion_factor\": 7}", NULL, QSAE_OK, "{\"min_threshold\": 1}"),
    ROW(&moss, "{\"expansion_factor\": null}", "W_D=F32[10,8]:0", QSAE_OK,
        "{\"min_threshold\": 3.4028234663852886e38}"),
    ROW(&moss, "{\"use_decoder_bias\": false}", "-b_D", QSAE_OK, "{\"b_dec0\": 0}"),
    ROW(&moss, "{\"act_fn\": \"topk\", \"top_k\": 3, \"hook_point_out\": "
        "\"blocks.4.ln2.hook_normalized\"}", NULL, QSAE_OK,
        "{\"architecture\": \"topk\", \"k\": 3, \"rescale_by_norm\": 1, \"transcoder\": 0}"),
    ROW(&moss, "{\"-act_fn\": 0}", NULL, QSAE_OK, "{\"architecture\": \"transcoder\"}"),
    ROW(&moss, "{\"-hook_point_in\": 0, \"-hook_point_out\": 0, \"norm_activation\": "
        "\"token-wise\"}", NULL, QSAE_OK,
        "{\"hook\": \"\", \"normalize\": \"constant_norm_rescale\", \"transcoder\": 0}"),
    ROW(&moss, "{\"norm_activation\": \"dataset-wise\"}",
        NORM "blocks.4.ln2.hook_normalized=F32[]:4 " NORM "blocks.4.hook_mlp_out=F32[]:2", QSAE_OK,
        "{\"scale\": 0.70710678, \"scale_out\": 1.41421356, \"norm_in\": 4, \"norm_out\": 2, "
        "\"b_dec0\": 2.12132034}"),
    ROW(&moss, "{\"norm_activation\": \"dataset-wise\"}",
        NORM "blocks.4.ln2.hook_normalized=F32[]:4", QSAE_OK,
        "{\"scale\": 0, \"normalize\": \"expected_average_only_in\"}"),
    ROW(&moss, "{\"-norm_activation\": 0}", NORM "blocks.4.hook_mlp_out=F32[]:4", QSAE_OK,
        "{\"scale\": 0, \"normalize\": \"expected_average_only_in\"}"),
    { &clt, NULL, "W_D.0=F32[1,10,8]:2 W_D.1=F32[2,10,8]:2", QSAE_OK,
      "{\"format\": \"openmoss-clt\", \"encode_only\": 1, \"hook\": \"i0\", \"hook_out\": \"o0\", "
      "\"b_dec0\": 3, \"min_threshold\": 0.125}", "0", NULL, 0 },
    { &clt, NULL, "W_D.0=F32[1,10,8]:2 W_D.1=F32[2,10,8]:2", QSAE_OK,
      "{\"encode_only\": 0, \"hook\": \"i1\", \"hook_out\": \"o1\", \"b_dec0\": 3, "
      "\"min_threshold\": 0.1767767}", "1:1", NULL, 0 },
    { &clt, "{\"sparsity_include_decoder_norm\": false}", NULL, QSAE_OK,
      "{\"hook_out\": \"o1\", \"b_dec0\": 0, \"min_threshold\": 1}", "0:1", NULL, 0 },
    { &clt, NULL, "W_D.1=F32[2,10,8]:0 -b_D.1", QSAE_OK,
      "{\"b_dec0\": 0, \"min_threshold\": 3.4028234663852886e38}", "1", NULL, 0 },
    { &clt, "{\"-act_fn\": 0}", NULL, QSAE_OK, "{\"architecture\": \"transcoder\"}", "1", NULL, 0 },
    { &clt, "{\"act_fn\": \"topk\", \"top_k\": 3, \"sparsity_include_decoder_norm\": false}", NULL,
      QSAE_OK, "{\"k\": 3}", "1", NULL, 0 },
    { &clt, "{\"norm_activation\": \"dataset-wise\"}", NULL, QSAE_OK,
      "{\"scale\": 2, \"scale_out\": 2, \"b_dec0\": 1.5}", "1", NULL, 2 },
};
static const struct change moss_wrong[] = {
    ROW(&llama_scope, "=[]", NULL, QSAE_EFORMAT, "hyperparams.json: expected an object, found"),
    ROW(&llama_scope, "={", NULL, QSAE_EFORMAT, "hyperparams.json:1"),
    ROW(&llama_scope, "{\"-d_model\": 0}", NULL, QSAE_EFORMAT, "\"d_model\""),
    ROW(&llama_scope, "{\"d_sae\": 0}", NULL, QSAE_EFORMAT, "\"d_sae\""),
    ROW(&llama_scope, "{\"expansion_factor\": \"x\"}", NULL, QSAE_EFORMAT, "\"expansion_factor\""),
    ROW(&llama_scope, "{\"-d_sae\": 0, \"expansion_factor\": -1}", NULL, QSAE_EFORMAT,
        "\"expansion_factor\": expected a positive number, found -1"),
    ROW(&llama_scope, "{\"-d_sae\": 0, \"expansion_factor\": 1e6}", NULL, QSAE_EFORMAT,
        "\"expansion_factor\""),
    ROW(&llama_scope, "{\"apply_decoder_bias_to_pre_encoder\": 1}", NULL, QSAE_EFORMAT,
        "\"apply_decoder_bias_to_pre_encoder\""),
    ROW(&llama_scope, "{\"use_glu_encoder\": 1}", NULL, QSAE_EFORMAT, "\"use_glu_encoder\""),
    ROW(&llama_scope, "{\"use_glu_encoder\": true}", NULL, QSAE_EUNSUPPORTED,
        "\"use_glu_encoder\": true"),
    ROW(&llama_scope, "{\"hook_point_in\": 1}", NULL, QSAE_EFORMAT, "\"hook_point_in\""),
    ROW(&llama_scope, "{\"hook_point_out\": 1}", NULL, QSAE_EFORMAT, "\"hook_point_out\""),
    ROW(&llama_scope, "{\"act_fn\": 1}", NULL, QSAE_EFORMAT, "\"act_fn\""),
    ROW(&llama_scope, "{\"act_fn\": \"x\"}", NULL, QSAE_EUNSUPPORTED,
        "expected relu, jumprelu or topk, found \"x\""),
    ROW(&llama_scope, "{\"jump_relu_threshold\": null}", NULL, QSAE_EFORMAT,
        "\"jump_relu_threshold\""),
    ROW(&llama_scope, "{\"act_fn\": \"topk\"}", NULL, QSAE_EFORMAT, "\"top_k\""),
    ROW(&llama_scope, "{\"sparsity_include_decoder_norm\": 1}", NULL, QSAE_EFORMAT,
        "\"sparsity_include_decoder_norm\""),
    ROW(&llama_scope, "{\"-dataset_average_activation_norm\": 1}", NULL, QSAE_EFORMAT,
        "\"dataset_average_activation_norm\""),
    ROW(&llama_scope, "{\"dataset_average_activation_norm\": {\"-in\": 1}}", NULL, QSAE_EFORMAT,
        "\"in\""),
    ROW(&llama_scope, "{\"dataset_average_activation_norm\": {\"out\": \"x\"}}", NULL,
        QSAE_EFORMAT, "\"out\""),
    ROW(&llama_scope, "{\"dataset_average_activation_norm\": {\"in\": 0}}", NULL, QSAE_EFORMAT,
        "expected a positive number, found 0"),
    ROW(&llama_scope, "{\"dataset_average_activation_norm\": {\"out\": 1e20}}", NULL, QSAE_EFORMAT,
        "expected a positive number, found 1e+20"),
    ROW(&llama_scope, NULL, "-encoder.weight", QSAE_ENOENT, "\"encoder.weight\""),
    ROW(&llama_scope, NULL, "-encoder.bias", QSAE_ENOENT, "\"encoder.bias\""),
    ROW(&llama_scope, NULL, "decoder.weight=F32[80]", QSAE_EMISMATCH, "\"decoder.weight\""),
    ROW(&llama_scope, NULL, "-decoder.bias", QSAE_ENOENT, "\"decoder.bias\""),
    ROW(&r1, "=[]", NULL, QSAE_EFORMAT, "config.json: expected an object"),
    ROW(&r1, "{\"act_fn\": 1}", NULL, QSAE_EFORMAT, "\"act_fn\""),
    ROW(&r1, NULL, "-log_jumprelu_threshold", QSAE_ENOENT, "\"log_jumprelu_threshold\""),
    ROW(&r1, NULL, NORM "i=F32[2]:1", QSAE_EMISMATCH, NORM "i"),
    ROW(&r1, "{\"dataset_average_activation_norm\": {\"in\": 4, \"out\": -1}}", NULL, QSAE_EFORMAT,
        "expected a positive number, found -1"),
    ROW(&r1, "{\"dataset_average_activation_norm\": {\"in\": 1e20, \"out\": 1}}", NULL,
        QSAE_EFORMAT, "expected a positive number, found 1e+20"),
    { &r1, NULL, NULL, QSAE_EINVAL, "scale: expected a positive number, found -1", NULL, NULL, -1 },
    { &r1, NULL, NULL, QSAE_EINVAL, "scale: expected a positive number", NULL, NULL, 1e30 },
    { &r1, NULL, NULL, QSAE_EINVAL, "there is no layer 1 to choose", "1", NULL, 0 },
    ROW(&moss, "{\"top_k\": 0, \"act_fn\": \"topk\"}", NULL, QSAE_EFORMAT, "\"top_k\""),
    ROW(&moss, "{\"norm_activation\": 1}", NULL, QSAE_EFORMAT, "\"norm_activation\""),
    ROW(&moss, "{\"norm_activation\": \"batch-wise\"}", NULL, QSAE_EUNSUPPORTED,
        "expected token-wise, dataset-wise or inference"),
    ROW(&moss, "{\"norm_activation\": \"token-wise\"}", NULL, QSAE_EUNSUPPORTED,
        "not supported where hook_point_out differs"),
    ROW(&moss, "{\"dataset_average_activation_norm\": 1}", NULL, QSAE_EFORMAT,
        "\"dataset_average_activation_norm\""),
    ROW(&moss, "{\"use_decoder_bias\": 1}", NULL, QSAE_EFORMAT, "\"use_decoder_bias\""),
    ROW(&moss, "{\"sparsity_include_decoder_norm\": 1}", NULL, QSAE_EFORMAT,
        "\"sparsity_include_decoder_norm\""),
    ROW(&moss, NULL, "W_E=F32[80]", QSAE_EMISMATCH, "\"W_E\""),
    ROW(&moss, NULL, "-b_E", QSAE_ENOENT, "\"b_E\""),
    ROW(&moss, NULL, "-W_D", QSAE_ENOENT, "\"W_D\""),
    ROW(&moss, NULL, "-b_D", QSAE_ENOENT, "\"b_D\""),
    ROW(&moss, "{\"norm_activation\": \"dataset-wise\"}",
        NORM "blocks.4.hook_mlp_out=F32[]:nan", QSAE_ENONFINITE, NORM "blocks.4.hook_mlp_out"),
    { &clt, NULL, NULL, QSAE_EINVAL, "holds 2 layers", NULL, NULL, 0 },
    { &clt, NULL, NULL, QSAE_EINVAL, "holds 2 layers", "2", NULL, 0 },
    { &clt, NULL, NULL, QSAE_EINVAL, "holds 2 layers", "1:0", NULL, 0 },
    { &clt, NULL, NULL, QSAE_EINVAL, "holds 2 layers", "0:2", NULL, 0 },
    { &clt, "{\"-hook_points_in\": 0}", NULL, QSAE_EFORMAT, "\"hook_points_in\"", "0", NULL, 0 },
    { &clt, "{\"hook_points_in\": [\"i0\"]}", NULL, QSAE_EFORMAT,
      "\"hook_points_in\": expected a name for layer 1, found none", "1", NULL, 0 },
    { &clt, "{\"hook_points_out\": [\"o0\", 1]}", NULL, QSAE_EFORMAT, "\"hook_points_out\"", "0:1",
      NULL, 0 },
    { &clt, "{\"act_fn\": 1}", NULL, QSAE_EFORMAT, "\"act_fn\"", "0", NULL, 0 },
    { &clt, "{\"act_fn\": \"x\"}", NULL, QSAE_EUNSUPPORTED, "found \"x\"", "0", NULL, 0 },
    { &clt, "{\"act_fn\": \"topk\"}", NULL, QSAE_EFORMAT, "\"top_k\"", "0", NULL, 0 },
    { &clt, "{\"act_fn\": \"topk\", \"top_k\": 3}", NULL, QSAE_EUNSUPPORTED,
      "true is not supported for topk over layers", "0", NULL, 0 },
    { &clt, "{\"sparsity_include_decoder_norm\": 1}", NULL, QSAE_EFORMAT,
      "\"sparsity_include_decoder_norm\"", "0", NULL, 0 },
    { &clt, "{\"norm_activation\": 1}", NULL, QSAE_EFORMAT, "\"norm_activation\"", "0", NULL, 0 },
    { &clt, NULL, "b_E=F32[1,10]", QSAE_EMISMATCH, "\"b_E\"", "1", NULL, 0 },
    { &clt, NULL, "b_E=F32[]", QSAE_EMISMATCH, "\"b_E\": expected axis 0 to have an element 1, "
      "found 0", "1", NULL, 0 },
    { &clt, NULL, "-W_D.1", QSAE_ENOENT, "\"W_D.1\"", "0:1", NULL, 0 },
    { &clt, NULL, "-W_D.1", QSAE_ENOENT, "\"W_D.1\"", "0", NULL, 0 },
    { &clt, NULL, "W_D.1=F32[2,9,8]", QSAE_EMISMATCH, "\"W_D.1\"", "0", NULL, 0 },
    { &clt, NULL, "W_D.1=F8_E4M3[2,10,8]", QSAE_EUNSUPPORTED, "\"W_D.1\"", "0", NULL, 0 },
    { &clt, NULL, "b_D.1=F32[1,8]", QSAE_EMISMATCH, "\"b_D.1\"", "1", NULL, 0 },
    { &clt, NULL, "-activation_function.log_jumprelu_threshold", QSAE_ENOENT,
      "\"activation_function.log_jumprelu_threshold\"", "1", NULL, 0 },
    { &clt, "{\"sparsity_include_decoder_norm\": false}",
      "activation_function.log_jumprelu_threshold=F32[1,10]", QSAE_EMISMATCH,
      "\"activation_function.log_jumprelu_threshold\"", "1", NULL, 0 },
};

/* ---- circuit-tracer ---- */

#define TURNED "W_enc=F32[10,8] W_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8]"
#define YAML "model_name: m\nfeature_input_hook: in\nfeature_output_hook: out\n"
static const struct layout set = {
    .folder = "set", .params = "layer_7.safetensors", .tensors = TURNED " threshold=F32[10]:0.5",
    .config = "config.yaml", .text = YAML,
};
static const struct layout set_plain = {
    .folder = "plain", .params = "layer_7.safetensors", .tensors = TURNED,
    .config = "config.yaml", .text = YAML,
};
static const struct layout set_silent = {
    .folder = "silent", .params = "layer_7.safetensors", .tensors = TURNED,
};
static const struct layout wandb = {
    .folder = "wandb", .params = "layer_7.safetensors", .tensors = TURNED,
    .config = "wandb-config.yaml", .text = "d_model:\n  value: 8\nd_feature:\n  value: 10\n",
};
static const struct layout wanb = {
    .folder = "wanb", .params = "layer_7.safetensors", .tensors = TURNED,
    .config = "wanb-config.yaml", .text = "d_model:\n  desc: x\nd_feature:\n  value: 10\n",
};
static const struct layout tracer = {
    .folder = "tracer", .params = "W_enc_1.safetensors",
    .tensors = "W_enc_1=F32[10,8] b_enc_1=F32[10] b_dec_1=F32[8]:3 threshold_1=F32[10]:0.5",
    .more = "W_dec_1.safetensors", .more_tensors = "W_dec_1=F32[10,2,8]",
    .config = "config.yaml", .text = YAML,
};
/* The decoders in the file that changes. */
static const struct layout tracer_dec = {
    .folder = "tracer", .params = "W_dec_1.safetensors", .tensors = "W_dec_1=F32[10,2,8]",
    .more = "W_enc_1.safetensors",
    .more_tensors = "W_enc_1=F32[10,8] b_enc_1=F32[10] b_dec_1=F32[8]:3",
    .config = "config.yaml", .text = YAML,
};

static const struct change tracer_right[] = {
    ROW(&set, NULL, NULL, QSAE_OK,
        "{\"format\": \"circuit-tracer\", \"prepend_bos\": -1, "
        "\"architecture\": \"jumprelu_transcoder\", "
        "\"model\": \"m\", \"hook\": \"blocks.7.in\", \"hook_out\": \"blocks.7.out\", "
        "\"min_threshold\": 0.5, \"keeps_negative\": 0, \"transcoder\": 1, \"k\": 0}"),
    ROW(&set, "activation: jump_relu\nk: 3\n", "threshold=F32[]:-0.75", QSAE_OK,
        "{\"min_threshold\": -0.75, \"keeps_negative\": 1, \"hook\": \"\", \"k\": 0}"),
    { &set, "activation: jumprelu\n", "-threshold activation_function.threshold=F32[10]:2", QSAE_OK,
      "{\"min_threshold\": 2}", "7:7", NULL, 0 },
    ROW(&set_plain, YAML "activation: relu\n", "W_skip=F32[8,8]", QSAE_OK,
        "{\"architecture\": \"skip_transcoder\", \"skip\": 1}"),
    ROW(&set, NULL, "W_skip=F32[8,8]", QSAE_OK,
        "{\"architecture\": \"jumprelu_skip_transcoder\"}"),
    ROW(&set_plain, YAML "activation: topk\nk: 3\n", NULL, QSAE_OK,
        "{\"architecture\": \"topk\", \"k\": 3, \"keeps_negative\": 0}"),
    ROW(&set_plain, YAML, "k=I32[]:4", QSAE_OK, "{\"architecture\": \"topk\", \"k\": 4}"),
    ROW(&set_plain, NULL, "W_dec=F32[8,10]", QSAE_OK, "{\"width_out\": 8}"),
    ROW(&set_plain, NULL, "W_enc=F32[8,8] W_dec=F32[8,8] b_enc=F32[8]", QSAE_OK,
        "{\"features\": 8}"),
    ROW(&set_silent, NULL, NULL, QSAE_OK, "{\"hook\": \"\", \"model\": \"\"}"),
    ROW(&wandb, NULL, NULL, QSAE_OK, "{\"features\": 10}"),
    ROW(&wanb, NULL, NULL, QSAE_OK, "{\"features\": 10}"),
    ROW(&wanb, "other: 1\n", NULL, QSAE_OK, "{\"features\": 10}"),
    ROW(&tracer, NULL, NULL, QSAE_OK,
        "{\"format\": \"circuit-tracer-clt\", \"prepend_bos\": -1, "
        "\"architecture\": \"jumprelu_transcoder\", "
        "\"encode_only\": 1, \"hook\": \"blocks.1.in\", \"hook_out\": \"blocks.1.out\", "
        "\"b_dec0\": 3}"),
    { &tracer, NULL, NULL, QSAE_OK, "{\"encode_only\": 0, \"hook_out\": \"blocks.2.out\", "
      "\"b_dec0\": 0}", "1:2", NULL, 0 },
    ROW(&tracer, YAML "activation: topk\nk: 3\n", "-threshold_1", QSAE_OK,
        "{\"architecture\": \"topk\", \"k\": 3}"),
};
static const struct change tracer_wrong[] = {
    ROW(&set, "a: [\n", NULL, QSAE_EUNSUPPORTED, "config.yaml: line 1"),
    ROW(&set, "model_name: 3\n", NULL, QSAE_EFORMAT, "\"model_name\""),
    ROW(&set, "feature_input_hook: 3\n", NULL, QSAE_EFORMAT, "\"feature_input_hook\""),
    ROW(&set, "feature_output_hook: 3\n", NULL, QSAE_EFORMAT, "\"feature_output_hook\""),
    ROW(&set, "activation: 3\n", NULL, QSAE_EFORMAT, "\"activation\""),
    ROW(&set, "k: 0\n", NULL, QSAE_EFORMAT, "\"k\""),
    ROW(&set, "activation: topk\nk: 3\n", NULL, QSAE_EMISMATCH,
        "\"activation\": \"topk\", but the files have thresholds"),
    ROW(&set_plain, "activation: jump_relu\n", NULL, QSAE_EMISMATCH, "neither thresholds nor k"),
    ROW(&set_plain, "activation: relu\nk: 3\n", NULL, QSAE_EMISMATCH, "but the files have k"),
    ROW(&set, NULL, "-W_enc", QSAE_ENOENT, "\"W_enc\""),
    ROW(&set, NULL, "W_enc=I8[10,8]", QSAE_EUNSUPPORTED, "\"W_enc\""),
    ROW(&set, NULL, "-b_enc", QSAE_ENOENT, "\"b_enc\""),
    ROW(&set, NULL, "k=F32[]:0", QSAE_EFORMAT, "\"k\": expected a positive integer, found 0"),
    ROW(&set, NULL, "k=F32[]:2.5", QSAE_EFORMAT, "\"k\": expected a positive integer, found 2.5"),
    ROW(&set, NULL, "k=F32[]:1e9", QSAE_EFORMAT, "\"k\": expected a positive integer"),
    ROW(&set, NULL, "k=F32[2]:1", QSAE_EMISMATCH, "\"k\""),
    ROW(&set, NULL, "log_thresholds=F32[10]", QSAE_EUNSUPPORTED, "\"log_thresholds\""),
    ROW(&set, NULL, "threshold=F8_E4M3[]", QSAE_EUNSUPPORTED, "\"threshold\""),
    ROW(&set, NULL, "threshold=F32[2,5]", QSAE_EMISMATCH, "\"threshold\""),
    ROW(&set, NULL, "threshold=F32[9]", QSAE_EMISMATCH, "\"threshold\""),
    ROW(&set, NULL, "-W_dec", QSAE_ENOENT, "\"W_dec\""),
    ROW(&set, NULL, "W_dec=F32[7,8]", QSAE_EMISMATCH, "\"W_dec\""),
    ROW(&set, NULL, "-b_dec", QSAE_ENOENT, "\"b_dec\""),
    ROW(&set, NULL, "W_skip=F32[8]", QSAE_EMISMATCH, "\"W_skip\""),
    { &set, NULL, NULL, QSAE_EINVAL, "layer 7 writes to itself only", "7:8", NULL, 0 },
    ROW(&wandb, "d_model: 3\n", NULL, QSAE_EFORMAT, "\"d_model\""),
    ROW(&wandb, "d_model:\n  value: 0\n", NULL, QSAE_EFORMAT, "\"value\""),
    ROW(&wandb, "d_model:\n  value: 9\n", NULL, QSAE_EMISMATCH, "d_in = 9"),
    ROW(&wandb, "d_feature: 3\n", NULL, QSAE_EFORMAT, "\"d_feature\""),
    ROW(&wandb, "d_feature:\n  value: x\n", NULL, QSAE_EFORMAT, "\"value\""),
    ROW(&wandb, "d_feature: [\n", NULL, QSAE_EUNSUPPORTED, "wandb-config.yaml: line 1"),
    ROW(&wanb, "d_feature:\n  value: 11\n", NULL, QSAE_EMISMATCH, "d_sae = 11"),
    ROW(&tracer, "k: -1\n", NULL, QSAE_EFORMAT, "\"k\""),
    ROW(&tracer, "activation: relu\n", NULL, QSAE_EMISMATCH, "but the files have thresholds"),
    ROW(&tracer, NULL, "-W_enc_1", QSAE_ENOENT, "\"W_enc_1\""),
    ROW(&tracer, NULL, "-b_enc_1", QSAE_ENOENT, "\"b_enc_1\""),
    ROW(&tracer, NULL, "-b_dec_1", QSAE_ENOENT, "\"b_dec_1\""),
    ROW(&tracer_dec, NULL, "-W_dec_1 x=F32[1]", QSAE_ENOENT, "\"W_dec_1\""),
    ROW(&tracer_dec, NULL, "W_dec_1=I8[10,2,8]", QSAE_EUNSUPPORTED, "\"W_dec_1\""),
    { &tracer_dec, NULL, NULL, QSAE_EINVAL, "writes to layers 1 to 2, not to 0", "1:0", NULL, 0 },
    { &tracer_dec, NULL, NULL, QSAE_EINVAL, "writes to layers 1 to 2, not to 3", "1:3", NULL, 0 },
};

#define CHECK(table) \
    for (size_t i = 0; i < sizeof (table) / sizeof (table)[0]; i++) \
        check_change(ctx, &(table)[i])

static void test_set_keys(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    CHECK(scope1_right);
    CHECK(scope1_wrong);
    CHECK(scope2_right);
    CHECK(scope2_wrong);
    CHECK(moss_right);
    CHECK(moss_wrong);
    CHECK(tracer_right);
    CHECK(tracer_wrong);
    qsae_context_close(&ctx);
}

static void test_set_memory(void **state)
{
    static const struct change all[] = {
        { .layout = &scope1[0] }, { .layout = &scope1[3] }, { .layout = &scope1[4] },
        { .layout = &scope2[0], .text = "{\"type\": \"transcoder\", \"affine_connection\": true, "
          "\"model_name\": \"m\", \"hf_hook_point_out\": \"o\"}",
          .tensors = "affine_skip_connection=F32[8,8]" },
        { .layout = &scope2[1] }, { .layout = &stack }, { .layout = &cross, .layer = "4:7" },
        { .layout = &llama_scope, .text = "{\"sparsity_include_decoder_norm\": true, "
          "\"hook_point_out\": \"o\"}" },
        { .layout = &r1, .scale = 2 }, { .layout = &moss, .text = "{\"norm_activation\": "
          "\"dataset-wise\", \"use_decoder_bias\": false}", .scale = 2 },
        { .layout = &clt, .layer = "0:1" }, { .layout = &clt, .layer = "1" },
        { .layout = &set, .tensors = "W_skip=F32[8,8] threshold=F32[]:1 W_dec=F32[8,10]" },
        { .layout = &set_plain, .text = YAML "k: 3\n" }, { .layout = &set_silent },
        { .layout = &wandb }, { .layout = &tracer }, { .layout = &tracer, .layer = "1:2" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        check_memory(&all[i]);
}

const struct CMUnitTest set_tests[] = {
    cmocka_unit_test(test_set_keys),
    cmocka_unit_test(test_set_memory),
};
const size_t n_set_tests = sizeof set_tests / sizeof set_tests[0];
