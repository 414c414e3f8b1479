# SPDX-License-Identifier: BSD-2-Clause
"""Write a checkpoint of the shape of a Gemma 3 or 2 model with random BF16 weights.

For timing and memory measurements where the published weights cannot be had. Only NumPy is needed;
one tensor is in memory at a time. transformers and libqsae both load the folder.
"""

import argparse
import json
import pathlib
import struct
import sys

import numpy as np

# name: hidden size, layers, query heads, key and value heads, width of the MLP, window
SHAPES = {
    "270m": (640, 18, 4, 1, 2048, 512),
    "1b": (1152, 26, 4, 1, 6912, 512),
    "4b": (2560, 34, 8, 4, 10240, 1024),
    "tiny": (64, 6, 2, 1, 128, 16),
    "gemma2-2b": (2304, 26, 8, 4, 9216, 4096),
    "gemma2-9b": (3584, 42, 16, 8, 14336, 4096),
}

CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 262144,
}

GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "rope_theta": 10000.0,
    "vocab_size": 256000,
}
GEMMA3_ALONE = ("rope_local_base_freq", "rope_scaling", "sliding_window_pattern")


def config_of(shape, vocabulary=0, layers=0):
    hidden, depth, heads, kv_heads, mlp, window = SHAPES[shape]
    base = CONFIG
    if shape.startswith("gemma2"):
        base = {k: v for k, v in CONFIG.items() if k not in GEMMA3_ALONE} | GEMMA2
    return {
        **base,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_hidden_layers": layers or depth,
        "num_key_value_heads": kv_heads,
        "sliding_window": window,
        "vocab_size": vocabulary or base["vocab_size"],
    }


def tensors(config):
    d, f, h = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, k = config["num_attention_heads"] * h, config["num_key_value_heads"] * h
    yield "model.embed_tokens.weight", (config["vocab_size"], d)
    for n in range(config["num_hidden_layers"]):
        p = f"model.layers.{n}."
        yield p + "input_layernorm.weight", (d,)
        yield p + "mlp.down_proj.weight", (d, f)
        yield p + "mlp.gate_proj.weight", (f, d)
        yield p + "mlp.up_proj.weight", (f, d)
        yield p + "post_attention_layernorm.weight", (d,)
        yield p + "post_feedforward_layernorm.weight", (d,)
        yield p + "pre_feedforward_layernorm.weight", (d,)
        if config["model_type"] != "gemma2":
            yield p + "self_attn.k_norm.weight", (h,)
        yield p + "self_attn.k_proj.weight", (k, d)
        yield p + "self_attn.o_proj.weight", (d, q)
        if config["model_type"] != "gemma2":
            yield p + "self_attn.q_norm.weight", (h,)
        yield p + "self_attn.q_proj.weight", (q, d)
        yield p + "self_attn.v_proj.weight", (k, d)
    yield "model.norm.weight", (d,)


def bf16_bytes(x):
    raw = x.view(np.uint32)
    return ((raw + 0x7FFF + (raw >> 16 & 1)) >> 16).astype("<u2").tobytes()


def write(folder, config, seed):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors(config):
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for number, (name, shape) in enumerate(tensors(config)):
            # One stream per tensor: a tensor's values do not depend on those before it.
            rng = np.random.default_rng([seed, number])
            # Norms multiply by 1 + w; the fan-in of a matrix is its last dimension.
            std = np.float32(0.1 if len(shape) == 1 else shape[-1] ** -0.5)
            left = int(np.prod(shape))
            while left:
                count = min(left, 1 << 24)
                out.write(bf16_bytes(rng.standard_normal(count, np.float32) * std))
                left -= count
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--layers", type=int, default=0, help="0: as the shape has")
    parser.add_argument("--vocabulary", type=int, default=0, help="0: as the model has")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    size = write(args.folder, config_of(args.shape, args.vocabulary, args.layers), args.seed)
    print(f"{size // 2} parameters, {size / 1e9:.2f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
