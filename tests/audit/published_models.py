# SPDX-License-Identifier: BSD-2-Clause
"""Random checkpoints and SAEs in the layout of the published ones that reproduce.sh looks for.

usage: published_models.py OUT TOKENIZER_FOLDER TEXT.jsonl

Names, tensor names, shards, dtypes, layers, heads, rows of the vocabulary and SAE widths are those of
the real files; only the width of the residual stream and of the MLP is smaller. TEXT is what the
corpora are made of.
"""

import json
import os
import shutil
import sys

import numpy as np

WIDTH, MLP = 64, 96
RNG = np.random.default_rng(0)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)


def stored(values, dtype):
    """Bytes of an array as safetensors holds it."""
    if dtype == "BF16":
        return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return np.asarray(values, {"F32": np.float32, "F16": np.float16, "U8": np.uint8}[dtype]).tobytes()


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    data = []
    for name, (values, dtype) in tensors.items():
        data.append(stored(values, dtype))
        header[name] = {"dtype": dtype, "shape": list(values.shape),
                        "data_offsets": [at, at + len(data[-1])]}
        at += len(data[-1])
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(data)


def write_shards(folder, tensors, count):
    """Tensors in the order of the real files, cut into shards with an index."""
    names, per = list(tensors), -(-len(tensors) // count)
    weight_map = {}
    for i in range(count):
        part = {name: tensors[name] for name in names[i * per:(i + 1) * per]}
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        write_safetensors(os.path.join(folder, file), part)
        weight_map.update({name: file for name in part})
    write_json(os.path.join(folder, "model.safetensors.index.json"),
               {"metadata": {"total_size": sum(len(stored(*t)) for t in tensors.values())},
                "weight_map": weight_map})


def normal(*shape, scale=0.08):
    return RNG.standard_normal(shape, np.float32) * np.float32(scale)


def write_tokenizer(folder, source, size):
    """The small tokenizer, its vocabulary filled up to the real size."""
    with open(os.path.join(source, "tokenizer.json"), encoding="utf-8") as file:
        value = json.load(file)
    vocab = value["model"]["vocab"]
    for i in range(len(vocab), size):
        vocab[f"<unused{i}>"] = i
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
    shutil.copy(os.path.join(source, "tokenizer_config.json"), folder)


def gemma_layers(prefix, dtype, layers, heads, kv_heads, qk_norms):
    tensors = {}
    for i in range(layers):
        at = f"{prefix}layers.{i}."
        for name, shape in (("self_attn.q_proj", (heads * 256, WIDTH)),
                            ("self_attn.k_proj", (kv_heads * 256, WIDTH)),
                            ("self_attn.v_proj", (kv_heads * 256, WIDTH)),
                            ("self_attn.o_proj", (WIDTH, heads * 256)), ("mlp.gate_proj", (MLP, WIDTH)),
                            ("mlp.up_proj", (MLP, WIDTH)), ("mlp.down_proj", (WIDTH, MLP))):
            tensors[f"{at}{name}.weight"] = normal(*shape), dtype
        for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                     "post_feedforward_layernorm"):
            tensors[f"{at}{name}.weight"] = normal(WIDTH), dtype
        for name in ("q_norm", "k_norm") if qk_norms else ():
            tensors[f"{at}self_attn.{name}.weight"] = normal(256), dtype
    return tensors


def gemma3(folder, tokenizer, layers, heads, kv_heads, shards):
    """google/gemma-3-*-pt: the wrapper with a vision tower, text keys left to their defaults."""
    os.makedirs(folder)
    text = {"hidden_size": WIDTH, "intermediate_size": MLP, "model_type": "gemma3_text",
            "num_hidden_layers": layers, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024}
    if heads != 8:
        text.update(num_attention_heads=heads, num_key_value_heads=kv_heads)
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
        "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
        "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
        "text_config": text, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
        "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                          "model_type": "siglip_vision_model", "num_attention_heads": 16,
                          "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False}})
    tensors = {"language_model.model.embed_tokens.weight": (normal(262208, WIDTH), "BF16")}
    tensors.update(gemma_layers("language_model.model.", "BF16", layers, heads, kv_heads, True))
    tensors["language_model.model.norm.weight"] = normal(WIDTH), "BF16"
    tensors["multi_modal_projector.mm_input_projection_weight"] = normal(8, WIDTH), "BF16"
    tensors["vision_tower.vision_model.embeddings.patch_embedding.bias"] = normal(8), "BF16"
    write_shards(folder, tensors, shards)
    write_tokenizer(folder, tokenizer, 262144)


def gemma2(folder, tokenizer):
    """google/gemma-2-2b: f32 in three shards."""
    os.makedirs(folder)
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid",
        "eos_token_id": 1, "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": WIDTH, "initializer_range": 0.02, "intermediate_size": MLP,
        "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
        "sliding_window": 4096, "torch_dtype": "float32", "transformers_version": "4.42.4",
        "use_cache": True, "vocab_size": 256000})
    tensors = {"model.embed_tokens.weight": (normal(256000, WIDTH), "F32")}
    tensors.update(gemma_layers("model.", "F32", 26, 8, 4, False))
    tensors["model.norm.weight"] = normal(WIDTH), "F32"
    write_shards(folder, tensors, 3)
    write_tokenizer(folder, tokenizer, 256000)


def pythia(folder, tokenizer):
    """EleutherAI/pythia-70m-deduped: f16, with the masks that old checkpoints carry."""
    os.makedirs(folder)
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0,
        "hidden_act": "gelu", "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": 4 * WIDTH, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
        "model_type": "gpt_neox", "num_attention_heads": 8, "num_hidden_layers": 6,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
        "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": True,
        "use_parallel_residual": True, "vocab_size": 50304})
    tensors = {"gpt_neox.embed_in.weight": (normal(50304, WIDTH), "F16")}
    for i in range(6):
        at = f"gpt_neox.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = 1 + normal(WIDTH), "F16"
            tensors[f"{at}{name}.bias"] = normal(WIDTH), "F16"
        tensors[f"{at}attention.bias"] = np.tril(np.ones((1, 1, 64, 64), np.uint8)), "U8"
        tensors[f"{at}attention.masked_bias"] = np.float32(-1e4).reshape(()), "F16"
        tensors[f"{at}attention.rotary_emb.inv_freq"] = normal(1), "F16"
        for name, shape in (("attention.query_key_value", (3 * WIDTH, WIDTH)),
                            ("attention.dense", (WIDTH, WIDTH)),
                            ("mlp.dense_h_to_4h", (4 * WIDTH, WIDTH)),
                            ("mlp.dense_4h_to_h", (WIDTH, 4 * WIDTH))):
            tensors[f"{at}{name}.weight"] = normal(*shape), "F16"
            tensors[f"{at}{name}.bias"] = normal(shape[0]), "F16"
    tensors["gpt_neox.final_layer_norm.weight"] = 1 + normal(WIDTH), "F16"
    tensors["gpt_neox.final_layer_norm.bias"] = normal(WIDTH), "F16"
    tensors["embed_out.weight"] = normal(50304, WIDTH), "F16"
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    write_tokenizer(folder, tokenizer, 50254)


def threshold(layer):
    """About 1% of the features fire: each half of a block adds a vector of mean square 1."""
    return np.float32(2.4 * np.sqrt(2 * layer + 2))


def directions(features):
    w = normal(WIDTH, features, scale=1)
    return w / np.linalg.norm(w, axis=0)


def gemma_scope_2(folder, model, layer):
    """google/gemma-scope-2: config.json and params.safetensors."""
    os.makedirs(folder)
    w = directions(16384)
    write_json(os.path.join(folder, "config.json"), {
        "architecture": "jump_relu", "model_name": model, "width": 16384, "l0": 60,
        "hf_hook_point_in": f"model.layers.{layer}.output",
        "hf_hook_point_out": f"model.layers.{layer}.output", "affine_connection": False,
        "type": "sae"})
    write_safetensors(os.path.join(folder, "params.safetensors"), {
        "w_enc": (w, "F32"), "w_dec": (np.ascontiguousarray(w.T), "F32"),
        "b_enc": (np.zeros(16384, np.float32), "F32"), "b_dec": (normal(WIDTH), "F32"),
        "threshold": (np.full(16384, threshold(layer)), "F32")})


def gemma_scope(folder):
    """google/gemma-scope-2b-pt-res: params.npz."""
    os.makedirs(folder)
    w = directions(16384)
    np.savez(os.path.join(folder, "params.npz"), W_enc=w, W_dec=np.ascontiguousarray(w.T),
             b_enc=np.zeros(16384, np.float32), b_dec=normal(WIDTH),
             threshold=np.full(16384, threshold(12)))


def saelens(folder):
    """pythia-70m-deduped-res-sm: SAELens' files of 2024."""
    os.makedirs(folder)
    w = directions(32768)
    write_json(os.path.join(folder, "cfg.json"), {
        "model_name": "pythia-70m-deduped", "hook_point": "blocks.4.hook_resid_post",
        "hook_name": "blocks.4.hook_resid_post", "hook_point_layer": 4, "hook_layer": 4,
        "d_in": WIDTH, "d_sae": 32768, "architecture": "standard", "dtype": "torch.float32",
        "context_size": 128, "activation_fn_str": "relu", "apply_b_dec_to_input": False,
        "normalize_activations": "none", "prepend_bos": True, "finetuning_scaling_factor": False,
        "dataset_path": "EleutherAI/the_pile_deduplicated", "sae_lens_training_version": None})
    write_safetensors(os.path.join(folder, "sae_weights.safetensors"), {
        "W_enc": (w, "F32"), "W_dec": (np.ascontiguousarray(w.T), "F32"),
        "b_enc": (np.full(32768, np.float32(-3)), "F32"), "b_dec": (normal(WIDTH), "F32")})


def corpora(out, text):
    with open(text, encoding="utf-8") as file:
        documents = [json.loads(line)["text"] for line in file]
    with open(os.path.join(out, "pile-10k.jsonl"), "w", encoding="utf-8") as file:
        for i, document in enumerate(documents):
            meta = {"pile_set_name": "Pile-CC" if i % 2 else "Github"}
            file.write(json.dumps({"text": document, "meta": meta}) + "\n")
    os.makedirs(os.path.join(out, "wikitext-2-raw"))
    for split, part in (("train", documents[:100]), ("test", documents[100:102])):
        path = os.path.join(out, "wikitext-2-raw", f"wiki.{split}.raw")
        with open(path, "w", encoding="utf-8") as file:
            for document in part:
                file.write(" \n " + " \n \n ".join(document.split("\n")) + " \n")


def main():
    out, tokenizer, text = sys.argv[1:]
    gemma3(os.path.join(out, "gemma-3-4b-pt"), tokenizer, 34, 8, 4, 2)
    gemma3(os.path.join(out, "gemma-3-12b-pt"), tokenizer, 48, 16, 8, 5)
    gemma2(os.path.join(out, "gemma-2-2b"), tokenizer)
    pythia(os.path.join(out, "pythia-70m-deduped"), tokenizer)
    gemma_scope_2(os.path.join(out, "gemma-scope-2-4b-pt-res", "layer_17_width_16k_l0_medium"),
                  "google/gemma-3-4b-pt", 17)
    gemma_scope_2(os.path.join(out, "gemma-scope-2-12b-pt-res", "layer_24_width_16k_l0_medium"),
                  "google/gemma-3-12b-pt", 24)
    gemma_scope(os.path.join(out, "gemma-scope-2b-pt-res-canonical", "layer_12", "width_16k",
                             "canonical"))
    saelens(os.path.join(out, "pythia-70m-deduped-res-sm", "blocks.4.hook_resid_post"))
    corpora(out, text)


if __name__ == "__main__":
    main()
