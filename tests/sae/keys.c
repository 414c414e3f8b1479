/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Configurations of SAELens, sparsify and dictionary_learning, one key or tensor wrong at a time:
 * the status, and a message that names file, key, what was expected and what was found; and what is
 * read from those that are right.
 */
#include "layout.h"

#define PLAIN "W_enc=F32[8,10] W_dec=F32[10,8] b_enc=F32[10] b_dec=F32[8]"

static const struct layout saelens = {
    .folder = "saelens", .params = "sae_weights.safetensors", .tensors = PLAIN,
    .config = "cfg.json",
    .text = "{\"d_in\": 8, \"d_sae\": 10, \"dtype\": \"float32\", \"metadata\": "
            "{\"sae_lens_version\": \"6.1\", \"hook_name\": \"blocks.2.hook_resid_post\"}}",
};
static const struct layout saelens_old = {
    .folder = "old", .params = "sae_weights.safetensors", .tensors = PLAIN,
    .config = "cfg.json",
    .text = "{\"d_in\": 8, \"d_sae\": 10, \"hook_point\": \"blocks.2.hook_resid_pre\"}",
};
/* activation_scaler.json lies beside the checkpoint. */
static const struct layout scaler = {
    .folder = "scaler", .params = "sae_weights.safetensors", .tensors = PLAIN,
    .config = "activation_scaler.json", .text = "{\"scaling_factor\": 0.5}",
    .beside = "cfg.json",
    .beside_text = "{\"d_in\": 8, \"normalize_activations\": \"expected_average_only_in\"}",
};
static const struct layout batchtopk = {
    .folder = "training", .params = "sae_weights.safetensors",
    .tensors = PLAIN " threshold=F64[]:0.25", .config = "cfg.json",
    .text = "{\"d_in\": 8, \"architecture\": \"matryoshka_batchtopk\", \"d_sae\": 10}",
};
static const struct layout pursuit = {
    .folder = "pursuit", .params = "sae_weights.safetensors", .tensors = PLAIN,
    .config = "cfg.json", .text = "{\"d_in\": 8, \"architecture\": \"matching_pursuit\"}",
};

static const struct layout mistral = {
    .folder = "Mistral-7B-Residual-Stream-SAEs/x", .params = "sae_weights.safetensors",
    .tensors = PLAIN, .config = "cfg.json", .text = "{\"d_in\": 8}",
};

static const struct change saelens_right[] = {
    ROW(&mistral, NULL, NULL, QSAE_OK, "{\"normalize\": \"constant_norm_rescale\"}"),
    ROW(&mistral, "{\"normalize_activations\": \"layer_norm\"}", NULL, QSAE_OK,
        "{\"normalize\": \"layer_norm\"}"),
    ROW(&saelens, NULL, NULL, QSAE_OK,
        "{\"format\": \"saelens\", \"architecture\": \"standard\", \"width\": 8, \"features\": 10, "
        "\"hook\": \"blocks.2.hook_resid_post\", \"apply_b_dec\": 1, \"prepend_bos\": -1, "
        "\"normalize\": \"none\", \"context_size\": 0, \"head\": -1, \"model\": \"\"}"),
    ROW(&saelens, "{\"metadata\": {\"sae_lens_version\": null, \"model_name\": \"m\", "
        "\"prepend_bos\": false, \"context_size\": 64, \"neuronpedia_id\": \"n\", "
        "\"hook_name_out\": \"o\"}}", NULL, QSAE_OK,
        "{\"prepend_bos\": 0, \"context_size\": 64, \"model\": \"m\", \"neuronpedia\": \"n\"}"),
    ROW(&saelens, "{\"sae_lens_version\": \"5.9\", \"prepend_bos\": 3, \"context_size\": 0}", NULL,
        QSAE_OK, "{\"prepend_bos\": 1, \"context_size\": 0}"),
    ROW(&saelens, "{\"sae_lens_version\": \"x\", \"prepend_bos\": true, \"context_size\": \"9\"}",
        NULL, QSAE_OK, "{\"prepend_bos\": 1, \"context_size\": 0}"),
    ROW(&saelens, "{\"sae_lens_version\": \":6\"}", NULL, QSAE_OK, "{\"prepend_bos\": 1}"),
    ROW(&saelens, "{\"metadata\": {\"-hook_name\": 0}, \"hook_name\": null}", NULL, QSAE_OK,
        "{\"hook\": \"\"}"),
    ROW(&saelens, "{\"metadata\": {\"hook_name\": \"blocks.3.hook_mlp_in\", \"hf_hook_name\": "
        "\"model.layers.3.pre_feedforward_layernorm.output\"}}", NULL, QSAE_OK,
        "{\"hook\": \"model.layers.3.pre_feedforward_layernorm.output\"}"),
    ROW(&saelens, "{\"metadata\": {\"hook_name\": \"blocks.3.hook_mlp_in\", \"hf_hook_name\": 3}}",
        NULL, QSAE_OK, "{\"hook\": \"blocks.3.hook_mlp_in\"}"),
    ROW(&saelens, "{\"normalize_activations\": null}", NULL, QSAE_OK, "{\"normalize\": \"none\"}"),
    ROW(&saelens, "{\"normalize_activations\": false}", NULL, QSAE_OK, "{\"normalize\": \"none\"}"),
    ROW(&saelens, "{\"normalize_activations\": \"none\"}", NULL, QSAE_OK,
        "{\"normalize\": \"none\"}"),
    ROW(&saelens, "{\"normalize_activations\": true}", NULL, QSAE_OK,
        "{\"normalize\": \"expected_average_only_in\"}"),
    ROW(&saelens, "{\"normalize_activations\": \"layer_norm\"}", NULL, QSAE_OK,
        "{\"normalize\": \"layer_norm\"}"),
    ROW(&saelens, "{\"normalize_activations\": \"constant_norm_rescale\"}", NULL, QSAE_OK,
        "{\"normalize\": \"constant_norm_rescale\"}"),
    ROW(&saelens, "{\"dtype\": \"torch.bfloat16\", \"reshape_activations\": \"none\"}", NULL,
        QSAE_OK, "{}"),
    ROW(&saelens, "{\"dtype\": null, \"reshape_activations\": \"hook_z\", \"metadata\": "
        "{\"hook_head_index\": null, \"hook_point_head_index\": 3}}", NULL, QSAE_OK,
        "{\"head\": 3}"),
    ROW(&saelens, "{\"metadata\": {\"model_from_pretrained_kwargs\": {\"center_writing_weights\": "
        "true}}}", NULL, QSAE_OK, "{\"center_input\": 1}"),
    ROW(&saelens, "{\"metadata\": {\"model_from_pretrained_kwargs\": {\"center_writing_weights\": "
        "1}}}", NULL, QSAE_OK, "{\"center_input\": 0}"),
    ROW(&saelens, "{\"metadata\": {\"neuronpedia_id\": \"gpt2-small/3-res-jb\"}}", NULL, QSAE_OK,
        "{\"center_input\": 1}"),
    ROW(&saelens, "{\"metadata\": {\"neuronpedia_id\": \"gpt2-small/3-att-kk\"}}", NULL, QSAE_OK,
        "{\"center_input\": 0}"),
    ROW(&saelens, "{\"metadata\": {\"neuronpedia_id\": \"pythia/3-res-jb\"}}", NULL, QSAE_OK,
        "{\"center_input\": 0}"),
    ROW(&saelens, "{\"architecture\": \"topk\", \"k\": 4, \"rescale_acts_by_decoder_norm\": true}",
        NULL, QSAE_OK, "{\"k\": 4, \"rescale_by_norm\": 1}"),
    ROW(&saelens, "{\"architecture\": \"abstopk\", \"k\": 4}", NULL, QSAE_OK,
        "{\"k\": 4, \"rescale_by_norm\": 0}"),
    ROW(&saelens, "{\"architecture\": \"groupmax\", \"k\": 5}", NULL, QSAE_OK, "{\"k\": 5}"),
    ROW(&saelens, "{\"architecture\": \"transcoder\", \"apply_b_dec_to_input\": false}", NULL,
        QSAE_OK, "{\"transcoder\": 1, \"apply_b_dec\": 0, \"skip\": 0}"),
    ROW(&saelens, "{\"architecture\": \"skip_transcoder\"}", "W_skip=F32[8,8]", QSAE_OK,
        "{\"transcoder\": 1, \"skip\": 1}"),
    ROW(&saelens, "{\"finetuning_scaling_factor\": true}", "scaling_factor=F32[10]:2", QSAE_OK,
        "{}"),
    ROW(&saelens_old, NULL, NULL, QSAE_OK,
        "{\"prepend_bos\": 1, \"hook\": \"blocks.2.hook_resid_pre\"}"),
    ROW(&saelens_old, "{\"activation_fn\": \"relu\"}", NULL, QSAE_OK,
        "{\"architecture\": \"standard\"}"),
    ROW(&saelens_old, "{\"activation_fn_str\": null, \"activation_fn\": null}", NULL, QSAE_OK,
        "{\"architecture\": \"standard\"}"),
    ROW(&saelens_old, "{\"activation_fn_str\": \"tanh-relu\"}", NULL, QSAE_OK,
        "{\"architecture\": \"standard\"}"),
    ROW(&saelens_old, "{\"activation_fn_str\": \"topk\", \"activation_fn_kwargs\": {\"k\": 3}}",
        NULL, QSAE_OK, "{\"architecture\": \"topk\", \"k\": 3}"),
    ROW(&saelens_old, "{\"-d_sae\": 0, \"expansion_factor\": 1.25}", NULL, QSAE_OK,
        "{\"features\": 10}"),
    ROW(&saelens_old, "{\"-d_sae\": 0, \"expansion_factor\": null}", NULL, QSAE_OK,
        "{\"features\": 10}"),
    ROW(&batchtopk, NULL, NULL, QSAE_OK,
        "{\"widths\": 0, \"rescale_by_norm\": 1, \"min_threshold\": 0.25}"),
    ROW(&batchtopk, "{\"matryoshka_widths\": []}", NULL, QSAE_OK, "{\"widths\": 0}"),
    ROW(&batchtopk, "{\"matryoshka_widths\": [2, 7]}", NULL, QSAE_OK,
        "{\"widths\": 3, \"last_width\": 10}"),
    ROW(&batchtopk, "{\"matryoshka_widths\": [2, 10]}", NULL, QSAE_OK,
        "{\"widths\": 2, \"last_width\": 10}"),
    ROW(&batchtopk, "{\"matryoshka_widths\": [2, 10], \"-d_sae\": 0}", NULL, QSAE_OK,
        "{\"widths\": 2, \"last_width\": 10}"),
    ROW(&batchtopk, "{\"rescale_acts_by_decoder_norm\": false}", NULL, QSAE_OK,
        "{\"rescale_by_norm\": 0}"),
    ROW(&pursuit, NULL, NULL, QSAE_OK,
        "{\"residual_threshold\": 0.01, \"max_iterations\": 0, \"stop_on_repeat\": 1}"),
    ROW(&pursuit, "{\"residual_threshold\": 0.5, \"max_iterations\": 3, "
        "\"stop_on_duplicate_support\": false}", NULL, QSAE_OK,
        "{\"residual_threshold\": 0.5, \"max_iterations\": 3, \"stop_on_repeat\": 0}"),
    ROW(&scaler, NULL, NULL, QSAE_OK, "{\"scale\": 0.5, \"normalize\": \"none\"}"),
    ROW(&saelens, "{\"d_in\": 1, \"d_sae\": 1, \"d_out\": 1}",
        "W_enc=F32[1,1] W_dec=F32[1,1] b_enc=F32[1] b_dec=F32[1]", QSAE_OK, "{\"features\": 1}"),
    { &scaler, NULL, NULL, QSAE_OK, "{\"scale\": 3}", NULL, NULL, 3 },
    ROW(&scaler, "{\"scaling_factor\": null}", NULL, QSAE_OK,
        "{\"scale\": 0, \"normalize\": \"expected_average_only_in\"}"),
};

static const struct change saelens_wrong[] = {
    ROW(&saelens, "=[1]", NULL, QSAE_EFORMAT, "cfg.json: expected an object, found array"),
    ROW(&saelens, "={", NULL, QSAE_EFORMAT, "cfg.json:1"),
    ROW(&saelens, "{\"metadata\": 1}", NULL, QSAE_EFORMAT, "\"metadata\": expected object"),
    ROW(&saelens, "{\"sae_lens_version\": 6}", NULL, QSAE_EFORMAT, "\"sae_lens_version\""),
    ROW(&saelens, "{\"metadata\": {\"sae_lens_version\": 6}}", NULL, QSAE_EFORMAT,
        "\"sae_lens_version\""),
    ROW(&saelens, "{\"architecture\": 1}", NULL, QSAE_EFORMAT, "\"architecture\""),
    ROW(&saelens, "{\"architecture\": \"tempora\"}", NULL, QSAE_EUNSUPPORTED,
        "\"tempora\" is not supported"),
    ROW(&saelens, "{\"architecture\": \"temporal\"}", NULL, QSAE_EUNSUPPORTED, "earlier tokens"),
    ROW(&saelens, "{\"metadata\": {\"hook_head_index\": \"1\"}}", NULL, QSAE_EFORMAT,
        "\"hook_head_index\": expected the number of a head"),
    ROW(&saelens, "{\"metadata\": {\"hook_head_index\": -1}}", NULL, QSAE_EFORMAT,
        "\"hook_head_index\""),
    ROW(&saelens, "{\"hook_point_head_index\": 2147483648}", NULL, QSAE_EFORMAT,
        "\"hook_point_head_index\""),
    ROW(&saelens, "{\"reshape_activations\": 1}", NULL, QSAE_EFORMAT, "\"reshape_activations\""),
    ROW(&saelens, "{\"reshape_activations\": \"x\"}", NULL, QSAE_EUNSUPPORTED,
        "\"reshape_activations\": \"x\""),
    ROW(&saelens, "{\"dtype\": 1}", NULL, QSAE_EFORMAT, "\"dtype\""),
    ROW(&saelens, "{\"dtype\": \"torch.int8\"}", NULL, QSAE_EUNSUPPORTED, "\"torch.int8\""),
    ROW(&saelens, "{\"-d_in\": 0}", NULL, QSAE_EFORMAT, "\"d_in\""),
    ROW(&saelens, "{\"d_in\": 1099511627777}", NULL, QSAE_EFORMAT, "\"d_in\""),
    ROW(&saelens, "{\"d_in\": 9}", NULL, QSAE_EMISMATCH, "d_in = 9"),
    ROW(&saelens, "{\"d_sae\": \"10\"}", NULL, QSAE_EFORMAT, "\"d_sae\""),
    ROW(&saelens, "{\"d_sae\": null, \"expansion_factor\": \"2\"}", NULL, QSAE_EFORMAT,
        "\"expansion_factor\""),
    ROW(&saelens, "{\"d_sae\": null, \"expansion_factor\": -1}", NULL, QSAE_EFORMAT,
        "\"expansion_factor\": expected a positive number, found -1"),
    ROW(&saelens, "{\"d_sae\": null, \"expansion_factor\": 1e12}", NULL, QSAE_EFORMAT,
        "\"expansion_factor\""),
    ROW(&saelens, "{\"d_out\": 0}", NULL, QSAE_EFORMAT, "\"d_out\""),
    ROW(&saelens, "{\"apply_b_dec_to_input\": 1}", NULL, QSAE_EFORMAT, "\"apply_b_dec_to_input\""),
    ROW(&saelens, "{\"architecture\": \"transcoder\", \"apply_b_dec_to_input\": true}", NULL,
        QSAE_EFORMAT, "expected false for architecture \"transcoder\", found true"),
    ROW(&saelens, "{\"normalize_activations\": 1}", NULL, QSAE_EFORMAT,
        "\"normalize_activations\": expected a string, found"),
    ROW(&saelens, "{\"normalize_activations\": \"x\"}", NULL, QSAE_EUNSUPPORTED,
        "\"x\" is not supported"),
    ROW(&saelens, "{\"normalize_activations\": \"covariance_whitening\"}", NULL, QSAE_EUNSUPPORTED,
        "matrices"),
    ROW(&saelens, "{\"normalize_activations\": \"constant_scalar_rescale\"}", NULL,
        QSAE_EUNSUPPORTED, "only temporal"),
    ROW(&saelens, "{\"architecture\": \"topk\", \"k\": 0}", NULL, QSAE_EFORMAT, "\"k\""),
    ROW(&saelens, "{\"architecture\": \"abstopk\", \"k\": \"3\"}", NULL, QSAE_EFORMAT, "\"k\""),
    ROW(&saelens, "{\"architecture\": \"groupmax\", \"k\": 3}", NULL, QSAE_EMISMATCH,
        "3 equal groups"),
    ROW(&saelens, "{\"architecture\": \"topk\", \"k\": 3, \"rescale_acts_by_decoder_norm\": 1}",
        NULL, QSAE_EFORMAT, "\"rescale_acts_by_decoder_norm\""),
    ROW(&saelens, "{\"finetuning_scaling_factor\": 1}", NULL, QSAE_EFORMAT,
        "\"finetuning_scaling_factor\""),
    ROW(&saelens, "{\"metadata\": {\"hook_name\": 3}}", NULL, QSAE_EFORMAT,
        "\"hook_name\": expected a string, found"),
    ROW(&saelens, "{\"metadata\": {\"-hook_name\": 0}, \"hook_point\": []}", NULL, QSAE_EFORMAT,
        "\"hook_point\": expected a string, found array"),
    ROW(&saelens_old, "{\"activation_fn_str\": 1}", NULL, QSAE_EFORMAT,
        "\"activation_fn\": expected a string"),
    ROW(&saelens_old, "{\"activation_fn\": \"gelu\"}", NULL, QSAE_EUNSUPPORTED, "\"gelu\""),
    ROW(&saelens_old, "{\"activation_fn\": \"tanh-relu\", \"architecture\": \"gated\"}", NULL,
        QSAE_EUNSUPPORTED, "\"tanh-relu\""),
    ROW(&saelens_old, "{\"activation_fn\": \"topk\", \"activation_fn_kwargs\": 1}", NULL,
        QSAE_EFORMAT, "\"activation_fn_kwargs\""),
    ROW(&saelens_old, "{\"activation_fn\": \"topk\", \"activation_fn_kwargs\": {\"k\": 0}}", NULL,
        QSAE_EFORMAT, "\"k\""),
    ROW(&batchtopk, "{\"rescale_acts_by_decoder_norm\": \"x\"}", NULL, QSAE_EFORMAT,
        "\"rescale_acts_by_decoder_norm\""),
    ROW(&batchtopk, "{\"matryoshka_widths\": 3}", NULL, QSAE_EFORMAT, "\"matryoshka_widths\""),
    ROW(&batchtopk, "{\"matryoshka_widths\": [\"3\"]}", NULL, QSAE_EFORMAT, "at place 0"),
    ROW(&batchtopk, "{\"matryoshka_widths\": [0]}", NULL, QSAE_EFORMAT, "at place 0"),
    ROW(&batchtopk, "{\"matryoshka_widths\": [3, 3]}", NULL, QSAE_EFORMAT, "at place 1"),
    ROW(&batchtopk, "{\"matryoshka_widths\": [3, 11]}", NULL, QSAE_EFORMAT, "at place 1"),
    ROW(&batchtopk, "{\"matryoshka_widths\": [1099511627777], \"-d_sae\": 0}", NULL, QSAE_EFORMAT,
        "at place 0"),
    ROW(&pursuit, "{\"residual_threshold\": \"x\"}", NULL, QSAE_EFORMAT, "\"residual_threshold\""),
    ROW(&pursuit, "{\"max_iterations\": 0}", NULL, QSAE_EFORMAT, "\"max_iterations\""),
    ROW(&pursuit, "{\"stop_on_duplicate_support\": 1}", NULL, QSAE_EFORMAT,
        "\"stop_on_duplicate_support\""),
    ROW(&scaler, "=[]", NULL, QSAE_EFORMAT, "activation_scaler.json: expected an object, found"),
    ROW(&scaler, "={", NULL, QSAE_EFORMAT, "activation_scaler.json:1"),
    ROW(&scaler, "{\"scaling_factor\": \"1\"}", NULL, QSAE_EFORMAT, "\"scaling_factor\""),
    ROW(&scaler, "{\"scaling_factor\": -1}", NULL, QSAE_EINVAL,
        "scale: expected a positive number, found -1"),
    ROW(&scaler, "{\"scaling_factor\": 1e30}", NULL, QSAE_EINVAL, "scale"),
    ROW(&scaler, NULL, "-W_enc", QSAE_ENOENT, "\"W_enc\""),
    ROW(&scaler, NULL, "-W_dec", QSAE_ENOENT, "\"W_dec\""),
    ROW(&scaler, NULL, "b_dec=F32[8,1]", QSAE_EMISMATCH, "\"b_dec\""),
    ROW(&scaler, NULL, "b_dec=I32[8]", QSAE_EUNSUPPORTED, "\"b_dec\": expected F32"),
};

static const struct layout sparsify = {
    .folder = "run/layers.3", .params = "sae.safetensors",
    .tensors = "encoder.weight=F32[10,8] encoder.bias=F32[10] W_dec=F32[10,8] b_dec=F32[8]",
    .config = "cfg.json", .text = "{\"d_in\": 8, \"num_latents\": 10, \"k\": 4}",
};
#define SPARSIFY(path) { \
    .folder = path, .params = "sae.safetensors", .tensors = \
        "encoder.weight=F32[10,8] encoder.bias=F32[10] W_dec=F32[10,8] b_dec=F32[8]", \
    .config = "cfg.json", .text = "{\"d_in\": 8, \"num_latents\": 10, \"k\": 4}" }
static const struct layout places[] = {
    SPARSIFY("run/gpt_neox.layers.12.mlp"), SPARSIFY("run/xlayers.3"), SPARSIFY("run/layers.x"),
    SPARSIFY("run/layers.3.attn"), SPARSIFY("run/h.7"), SPARSIFY("run/wte"),
    SPARSIFY("run/embed_tokens"), SPARSIFY("run/transformer.h.7.mlp"),
};
/* The configuration of the training run lies above. */
static const struct layout run = {
    .folder = "run", .params = "layers.3/sae.safetensors",
    .tensors = "encoder.weight=F32[10,8] encoder.bias=F32[10] W_dec=F32[10,8] b_dec=F32[8]",
    .config = "config.json", .text = "{\"model\": \"tiny\", \"ctx_len\": 77}",
    .beside = "layers.3/cfg.json", .beside_text = "{\"d_in\": 8, \"k\": 4, \"num_latents\": 10}",
    .open = "layers.3",
};

static const struct change sparsify_right[] = {
    ROW(&sparsify, NULL, NULL, QSAE_OK,
        "{\"format\": \"sparsify\", \"architecture\": \"topk\", \"k\": 4, \"apply_b_dec\": 1, "
        "\"hook\": \"blocks.3.hook_resid_post\", \"hook_out\": \"blocks.3.hook_resid_post\", "
        "\"model\": \"\", \"prepend_bos\": -1}"),
    ROW(&sparsify, "{\"-k\": 0, \"-num_latents\": 0, \"expansion_factor\": 4}",
        "encoder.weight=F32[32,8] encoder.bias=F32[32] W_dec=F32[32,8]", QSAE_OK,
        "{\"k\": 32, \"features\": 32}"),
    ROW(&sparsify, "{\"activation\": \"groupmax\", \"k\": 5}", NULL, QSAE_OK,
        "{\"architecture\": \"groupmax\"}"),
    ROW(&sparsify, "{\"signed\": true}", NULL, QSAE_OK, "{\"architecture\": \"abstopk\"}"),
    ROW(&sparsify, "{\"transcode\": true}", NULL, QSAE_OK,
        "{\"transcoder\": 1, \"apply_b_dec\": 0, \"hook\": \"blocks.3.hook_resid_pre\", "
        "\"hook_out\": \"blocks.3.hook_resid_post\"}"),
    ROW(&sparsify, "{\"transcode\": true, \"skip_connection\": true}", "W_skip=F32[8,8]", QSAE_OK,
        "{\"skip\": 1}"),
    ROW(&places[0], NULL, NULL, QSAE_OK, "{\"hook\": \"blocks.12.hook_mlp_out\"}"),
    ROW(&places[0], "{\"transcode\": true}", NULL, QSAE_OK,
        "{\"hook\": \"blocks.12.mlp.hook_in\", \"hook_out\": \"blocks.12.hook_mlp_out\"}"),
    ROW(&places[1], NULL, NULL, QSAE_OK, "{\"hook\": \"xlayers.3\"}"),
    ROW(&places[1], "{\"transcode\": true}", NULL, QSAE_OK,
        "{\"hook\": \"xlayers.3\", \"hook_out\": \"xlayers.3\"}"),
    ROW(&places[2], NULL, NULL, QSAE_OK, "{\"hook\": \"layers.x\"}"),
    ROW(&places[3], NULL, NULL, QSAE_OK, "{\"hook\": \"layers.3.attn\"}"),
    ROW(&places[4], NULL, NULL, QSAE_OK, "{\"hook\": \"blocks.7.hook_resid_post\"}"),
    ROW(&places[5], NULL, NULL, QSAE_OK, "{\"hook\": \"hook_embed\"}"),
    ROW(&places[6], NULL, NULL, QSAE_OK, "{\"hook\": \"hook_embed\"}"),
    ROW(&places[7], NULL, NULL, QSAE_OK, "{\"hook\": \"blocks.7.hook_mlp_out\"}"),
    ROW(&run, NULL, NULL, QSAE_OK, "{\"model\": \"tiny\", \"context_size\": 77}"),
    ROW(&run, "{\"model\": 3, \"ctx_len\": 0}", NULL, QSAE_OK,
        "{\"model\": \"\", \"context_size\": 0}"),
    ROW(&run, "{\"ctx_len\": \"9\"}", NULL, QSAE_OK, "{\"context_size\": 0}"),
};

static const struct change sparsify_wrong[] = {
    ROW(&sparsify, "=[]", NULL, QSAE_EFORMAT, "cfg.json: expected an object, found array"),
    ROW(&sparsify, "={", NULL, QSAE_EFORMAT, "cfg.json:1"),
    ROW(&sparsify, "{\"-d_in\": 0}", NULL, QSAE_EFORMAT, "\"d_in\""),
    ROW(&sparsify, "{\"num_latents\": -1}", NULL, QSAE_EFORMAT, "\"num_latents\""),
    ROW(&sparsify, "{\"expansion_factor\": 0}", NULL, QSAE_EFORMAT, "\"expansion_factor\""),
    ROW(&sparsify, "{\"num_latents\": 0, \"d_in\": 1099511627776, \"expansion_factor\": 1048577}",
        NULL, QSAE_EFORMAT, "\"expansion_factor\""),
    ROW(&sparsify, "{\"activation\": 1}", NULL, QSAE_EFORMAT, "\"activation\""),
    ROW(&sparsify, "{\"activation\": \"relu\"}", NULL, QSAE_EUNSUPPORTED,
        "expected topk or groupmax, found \"relu\""),
    ROW(&sparsify, "{\"signed\": 1}", NULL, QSAE_EFORMAT, "\"signed\""),
    ROW(&sparsify, "{\"transcode\": 1}", NULL, QSAE_EFORMAT, "\"transcode\""),
    ROW(&sparsify, "{\"skip_connection\": 1}", NULL, QSAE_EFORMAT, "\"skip_connection\""),
    ROW(&sparsify, "{\"k\": 0}", NULL, QSAE_EFORMAT, "\"k\""),
    ROW(&sparsify, "{\"k\": 11}", NULL, QSAE_EMISMATCH, "k = 11"),
    ROW(&sparsify, NULL, "-encoder.weight", QSAE_ENOENT, "\"encoder.weight\""),
    ROW(&sparsify, NULL, "-encoder.bias", QSAE_ENOENT, "\"encoder.bias\""),
    ROW(&sparsify, NULL, "W_dec=F32[10]", QSAE_EMISMATCH, "\"W_dec\""),
    ROW(&sparsify, NULL, "b_dec=F32[1,8]", QSAE_EMISMATCH, "\"b_dec\""),
    ROW(&sparsify, NULL, "W_skip=F32[8]", QSAE_EMISMATCH, "\"W_skip\""),
    ROW(&sparsify, NULL, "W_skip=F32[8,8]", QSAE_EMISMATCH, "W_skip"),
    ROW(&sparsify, NULL, "W_decs.0=F32[8]", QSAE_EUNSUPPORTED, "\"W_decs.0\""),
    ROW(&sparsify, NULL, "post_encs.0=F32[8]", QSAE_EUNSUPPORTED, "several targets"),
    ROW(&run, "={", NULL, QSAE_EFORMAT, "config.json:1"),
};

#define TOPK_TENSORS "encoder.weight=F32[10,8] encoder.bias=F32[10] decoder.weight=F32[8,10] " \
                     "b_dec=F32[8] k=I32[]:3 threshold=F32[]:0.5"
#define DL(name_, class_, tensors_) { \
    .folder = name_, .params = "ae.safetensors", .tensors = tensors_, .config = "config.json", \
    .text = "{\"trainer\": {\"dict_class\": \"" class_ "\", \"activation_dim\": 8, " \
            "\"dict_size\": 10, \"k\": 5, \"layer\": 6, \"lm_name\": \"m\", " \
            "\"submodule_name\": \"resid_post_layer_6\"}, \"buffer\": {\"ctx_len\": 128, " \
            "\"io\": \"out\"}}" }
static const struct layout dl_plain = DL("dl", "AutoEncoder", "bias=F32[8] encoder.bias=F32[10] "
                                         "encoder.weight=F32[10,8] decoder.weight=F32[8,10]");
static const struct layout dl_gated = DL("dl", "GatedAutoEncoder", "decoder_bias=F32[8] "
                                         "encoder.weight=F32[10,8] decoder.weight=F32[8,10] "
                                         "gate_bias=F32[10] mag_bias=F32[10] r_mag=F32[10]");
static const struct layout dl_jump = DL("dl", "JumpReluAutoEncoder", PLAIN
                                        " threshold=F32[10]:0.5");
static const struct layout dl_topk = DL("dl", "AutoEncoderTopK", TOPK_TENSORS);
static const struct layout dl_batch = DL("dl", "BatchTopKSAE", TOPK_TENSORS);
static const struct layout dl_nested = DL("dl", "MatryoshkaBatchTopKSAE", PLAIN
                                          " k=I32[]:3 threshold=F32[]:0.5 group_sizes=I32[2]:5");

static const struct change dl_right[] = {
    ROW(&dl_plain, NULL, NULL, QSAE_OK,
        "{\"format\": \"dictionary-learning\", \"architecture\": \"standard\", \"model\": \"m\", "
        "\"hook\": \"blocks.6.hook_resid_post\", \"context_size\": 128, \"apply_b_dec\": 1, "
        "\"prepend_bos\": -1}"),
    ROW(&dl_plain, "{\"-buffer\": 0, \"trainer\": {\"-lm_name\": 0, \"-layer\": 0, "
        "\"-dict_size\": 0, \"-activation_dim\": 0}}", NULL, QSAE_OK,
        "{\"hook\": \"\", \"model\": \"\", \"context_size\": 0, \"features\": 10}"),
    ROW(&dl_plain, "{\"trainer\": {\"-submodule_name\": 0}, \"buffer\": {\"io\": \"in\"}}", NULL,
        QSAE_OK, "{\"hook\": \"blocks.6.hook_resid_pre\"}"),
    ROW(&dl_plain, "{\"trainer\": {\"submodule_name\": \"mlp_6\"}}", NULL, QSAE_OK,
        "{\"hook\": \"blocks.6.hook_mlp_out\"}"),
    ROW(&dl_plain, "{\"trainer\": {\"submodule_name\": \"mlp_6\"}, \"buffer\": {\"io\": \"in\"}}",
        NULL, QSAE_OK, "{\"hook\": \"blocks.6.mlp.hook_in\"}"),
    ROW(&dl_plain, "{\"trainer\": {\"submodule_name\": \"attn_6\"}}", NULL, QSAE_OK,
        "{\"hook\": \"blocks.6.hook_attn_out\"}"),
    ROW(&dl_plain, "{\"trainer\": {\"submodule_name\": \"attention_6\"}, \"buffer\": "
        "{\"io\": \"in\"}}", NULL, QSAE_OK, "{\"hook\": \"blocks.6.hook_attn_in\"}"),
    ROW(&dl_plain, NULL, "-bias decoder.bias=F32[8]:2", QSAE_OK, "{\"b_dec0\": 2}"),
    ROW(&dl_plain, NULL, "b_dec=F32[8]:3", QSAE_OK, "{\"b_dec0\": 3}"),
    ROW(&dl_plain, "{\"trainer\": {\"activation_dim\": 1, \"dict_size\": 1, \"layer\": 0}, "
        "\"buffer\": {\"ctx_len\": 1}}", "bias=F32[1] encoder.bias=F32[1] encoder.weight=F32[1,1] "
        "decoder.weight=F32[1,1]", QSAE_OK,
        "{\"features\": 1, \"context_size\": 1, \"hook\": \"blocks.0.hook_resid_post\"}"),
    ROW(&dl_gated, NULL, NULL, QSAE_OK, "{\"architecture\": \"gated\"}"),
    ROW(&dl_jump, NULL, NULL, QSAE_OK, "{\"architecture\": \"jumprelu\", \"min_threshold\": 0.5, "
        "\"apply_b_dec\": 0}"),
    ROW(&dl_jump, NULL, "threshold=F32[]:0.75", QSAE_OK, "{\"min_threshold\": 0.75}"),
    ROW(&dl_topk, NULL, NULL, QSAE_OK, "{\"architecture\": \"topk\", \"k\": 3}"),
    ROW(&dl_topk, NULL, "-k", QSAE_OK, "{\"k\": 5}"),
    ROW(&dl_batch, NULL, NULL, QSAE_OK,
        "{\"architecture\": \"jumprelu\", \"min_threshold\": 0.5, \"k\": 0, \"widths\": 0}"),
    ROW(&dl_batch, NULL, "threshold=F32[]:0", QSAE_OK, "{\"min_threshold\": 0}"),
    { &dl_batch, NULL, "threshold=F32[]:-1", QSAE_OK,
      "{\"architecture\": \"standard\"}", NULL, "relu", 0 },
    { &dl_batch, NULL, "-threshold", QSAE_OK, "{\"architecture\": \"topk\", \"k\": 3}", NULL,
      "topk", 0 },
    ROW(&dl_nested, NULL, NULL, QSAE_OK, "{\"architecture\": \"matryoshka_batchtopk\", "
        "\"widths\": 2, \"last_width\": 10}"),
    ROW(&dl_nested, NULL, "group_sizes=F32[5]:2", QSAE_OK, "{\"widths\": 5, \"last_width\": 10}"),
    ROW(&dl_nested, NULL, "-group_sizes", QSAE_OK, "{\"widths\": 0}"),
};

static const struct change dl_wrong[] = {
    ROW(&dl_plain, "=3", NULL, QSAE_EFORMAT, "config.json: expected an object, found integer"),
    ROW(&dl_plain, "={", NULL, QSAE_EFORMAT, "config.json:1"),
    ROW(&dl_plain, "{\"trainer\": 1}", NULL, QSAE_EFORMAT, "\"trainer\""),
    ROW(&dl_plain, "{\"-trainer\": 1}", NULL, QSAE_EFORMAT, "\"trainer\""),
    ROW(&dl_plain, "{\"buffer\": []}", NULL, QSAE_EFORMAT, "\"buffer\""),
    ROW(&dl_plain, "{\"trainer\": {\"dict_class\": 1}}", NULL, QSAE_EFORMAT, "\"dict_class\""),
    ROW(&dl_plain, "{\"trainer\": {\"dict_class\": \"X\"}}", NULL, QSAE_EUNSUPPORTED,
        "\"dict_class\": \"X\""),
    ROW(&dl_plain, "{\"trainer\": {\"activation_dim\": 0}}", NULL, QSAE_EFORMAT,
        "\"activation_dim\""),
    ROW(&dl_plain, "{\"trainer\": {\"activation_dim\": 9}}", NULL, QSAE_EMISMATCH, "d_in = 9"),
    ROW(&dl_plain, "{\"trainer\": {\"dict_size\": \"x\"}}", NULL, QSAE_EFORMAT, "\"dict_size\""),
    ROW(&dl_plain, "{\"buffer\": {\"ctx_len\": 0}}", NULL, QSAE_EFORMAT, "\"ctx_len\""),
    ROW(&dl_plain, "{\"trainer\": {\"layer\": -1}}", NULL, QSAE_EFORMAT, "\"layer\""),
    ROW(&dl_plain, "{\"trainer\": {\"submodule_name\": 1}}", NULL, QSAE_EFORMAT,
        "\"submodule_name\""),
    ROW(&dl_plain, "{\"trainer\": {\"lm_name\": 1}}", NULL, QSAE_EFORMAT, "\"lm_name\""),
    ROW(&dl_plain, "{\"buffer\": {\"io\": 1}}", NULL, QSAE_EFORMAT, "\"io\""),
    ROW(&dl_plain, NULL, "-encoder.weight", QSAE_ENOENT, "\"encoder.weight\""),
    ROW(&dl_plain, NULL, "-decoder.weight", QSAE_ENOENT, "\"decoder.weight\""),
    ROW(&dl_plain, NULL, "-bias", QSAE_ENOENT, "\"b_dec\""),
    ROW(&dl_plain, NULL, "-encoder.bias", QSAE_ENOENT, "\"b_enc\""),
    ROW(&dl_plain, NULL, "decoder.weight=I32[8,10]", QSAE_EUNSUPPORTED, "\"decoder.weight\""),
    ROW(&dl_gated, NULL, "-gate_bias", QSAE_ENOENT, "\"gate_bias\""),
    ROW(&dl_gated, NULL, "-mag_bias", QSAE_ENOENT, "\"mag_bias\""),
    ROW(&dl_gated, NULL, "-r_mag", QSAE_ENOENT, "\"r_mag\""),
    ROW(&dl_jump, NULL, "W_enc=F32[80]", QSAE_EMISMATCH, "\"W_enc\""),
    ROW(&dl_jump, NULL, "-W_dec", QSAE_ENOENT, "\"W_dec\""),
    ROW(&dl_jump, NULL, "-threshold", QSAE_ENOENT, "\"threshold\""),
    ROW(&dl_jump, NULL, "threshold=F8_E4M3[]", QSAE_EUNSUPPORTED,
        "\"threshold\": expected a number"),
    ROW(&dl_jump, NULL, "threshold=F32[]:nan", QSAE_ENONFINITE, "\"threshold\""),
    ROW(&dl_topk, NULL, "k=F32[]:0.5", QSAE_EFORMAT,
        "\"k\": expected a positive integer, found 0.5"),
    ROW(&dl_topk, NULL, "k=F32[]:2.5", QSAE_EFORMAT,
        "\"k\": expected a positive integer, found 2.5"),
    ROW(&dl_topk, NULL, "k=F32[]:1e9", QSAE_EFORMAT,
        "\"k\": expected a positive integer"),
    ROW(&dl_topk, NULL, "k=F32[2]:1", QSAE_EMISMATCH, "\"k\": expected one number"),
    ROW(&dl_topk, "{\"trainer\": {\"-k\": 0}}", "-k", QSAE_EFORMAT, "\"k\""),
    ROW(&dl_batch, NULL, "threshold=F32[2]:1", QSAE_EMISMATCH, "\"threshold\""),
    ROW(&dl_batch, NULL, "threshold=F32[]:-1", QSAE_EUNSUPPORTED, "never fitted"),
    { &dl_batch, NULL, "threshold=F32[]:-1", QSAE_EUNSUPPORTED, "never fitted", NULL, "gelu", 0 },
    { &dl_batch, NULL, "-threshold k=F32[]:0", QSAE_EFORMAT, "\"k\"", NULL, "topk", 0 },
    ROW(&dl_nested, NULL, "group_sizes=I32[2,1]:5", QSAE_EMISMATCH, "\"group_sizes\""),
    ROW(&dl_nested, NULL, "group_sizes=F8_E4M3[2]", QSAE_EFORMAT,
        "\"group_sizes\": element 0"),
    ROW(&dl_nested, NULL, "group_sizes=I32[2]:0", QSAE_EFORMAT, "\"group_sizes\": element 0"),
    ROW(&dl_nested, NULL, "group_sizes=F32[2]:2.5", QSAE_EFORMAT, "\"group_sizes\": element 0"),
    ROW(&dl_nested, NULL, "group_sizes=F32[2]:1e9", QSAE_EFORMAT, "\"group_sizes\": element 0"),
    ROW(&dl_nested, NULL, "group_sizes=I32[2]:4", QSAE_EMISMATCH, "matryoshka_widths end at 8"),
};

#define CHECK(table) \
    for (size_t i = 0; i < sizeof (table) / sizeof (table)[0]; i++) \
        check_change(ctx, &(table)[i])

static void test_keys(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    CHECK(saelens_right);
    CHECK(saelens_wrong);
    CHECK(sparsify_right);
    CHECK(sparsify_wrong);
    CHECK(dl_right);
    CHECK(dl_wrong);
    qsae_context_close(&ctx);
}

static void test_memory(void **state)
{
    static const struct change all[] = {
        { .layout = &saelens }, { .layout = &scaler }, { .layout = &batchtopk, .text =
          "{\"matryoshka_widths\": [2, 7]}" }, { .layout = &run }, { .layout = &dl_gated },
        { .layout = &saelens_old, .text = "{\"activation_fn\": \"topk\", \"model_name\": \"m\", "
          "\"activation_fn_kwargs\": {\"k\": 3}}" },
        { .layout = &dl_plain }, { .layout = &dl_jump }, { .layout = &dl_nested },
        { .layout = &sparsify, .text = "{\"transcode\": true, \"skip_connection\": "
          "true}", .tensors = "W_skip=F32[8,8]" },
        { .layout = &dl_batch, .tensors = "-threshold", .activation = "topk" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        check_memory(&all[i]);
}

/* A folder of the current one, by its own name. */
static void test_relative(void **state)
{
    const struct change c = ROW(&sparsify, NULL, NULL, QSAE_OK,
                                "{\"hook\": \"blocks.3.hook_resid_post\", \"model\": \"\"}");
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    check_relative(ctx, &c);
    qsae_context_close(&ctx);
}

const struct CMUnitTest key_tests[] = {
    cmocka_unit_test(test_keys),
    cmocka_unit_test(test_memory),
    cmocka_unit_test(test_relative),
};
const size_t n_key_tests = sizeof key_tests / sizeof key_tests[0];
