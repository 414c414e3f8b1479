#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Writes a Gemma 3 text model with a BPE tokenizer as a GGUF file, needing NumPy alone.

usage: to_gguf.py FOLDER OUT.gguf [f16|q8_0|q4_0]

For the bundled model, so that what needs a GGUF file can be tried without another package. For
models of your own take llama.cpp's convert_hf_to_gguf.py and llama-quantize, which know all
families and types. The layout is that of ggml's docs/gguf.md; see doc/gguf.md for the names.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}
FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7}
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, rest = name[len("model.layers."):].split(".", 1)
    return f"blk.{layer}.{NAMES[rest[:-len('.weight')]]}.weight"


def tensors(path):
    """(name, float32 array) of every BF16 or F32 tensor of a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        elif entry["dtype"] == "F32":
            values = np.frombuffer(data[begin:end], "<f4")
        else:
            sys.exit(f"{path}: {name}: expected BF16 or F32, found {entry['dtype']}")
        yield name, values.reshape(entry["shape"])


def blocks(values, kind):
    """Rows of 32 values to ggml's blocks: an f16 scale, then codes (quantize_row_q8_0_ref,
    quantize_row_q4_0_ref)."""
    x = values.reshape(-1, 32)
    if kind == "q8_0":
        d = np.abs(x).max(1, keepdims=True) / np.float32(127)
    else:
        d = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1) / np.float32(-8)
    inverse = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    if kind == "q8_0":
        scaled = x * inverse
        codes = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)
    else:
        q = np.minimum(15, (x * inverse + np.float32(8.5)).astype(np.int8)).astype(np.uint8)
        codes = q[:, :16] | q[:, 16:] << 4
    return np.concatenate([d.astype("<f2").view(np.uint8), codes.view(np.uint8)], 1).tobytes()


def encode(values, kind):
    if kind == "f32":
        return values.astype("<f4").tobytes()
    return values.astype("<f2").tobytes() if kind == "f16" else blocks(values, kind)


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, value):
    """One key; kind: I u32, f f32, ? bool, s string, or [ with one of these for an array."""
    codes = {"I": 4, "i": 5, "f": 6, "?": 7, "s": 8}
    one = text if kind[-1] == "s" else lambda v: struct.pack("<" + kind[-1], v)
    if kind[0] == "[":
        head = struct.pack("<IIQ", 9, codes[kind[1]], len(value))
        return text(key) + head + b"".join(map(one, value))
    return text(key) + struct.pack("<I", codes[kind]) + one(value)


def model_pairs(config, kind):
    base = config["rope_parameters"]
    layers = [layer == "sliding_attention" for layer in config["layer_types"]]
    for key, type_, value in (
            ("context_length", "I", config["max_position_embeddings"]),
            ("embedding_length", "I", config["hidden_size"]),
            ("block_count", "I", config["num_hidden_layers"]),
            ("feed_forward_length", "I", config["intermediate_size"]),
            ("attention.head_count", "I", config["num_attention_heads"]),
            ("attention.head_count_kv", "I", config["num_key_value_heads"]),
            ("attention.key_length", "I", config["head_dim"]),
            ("attention.value_length", "I", config["head_dim"]),
            ("attention.layer_norm_rms_epsilon", "f", config["rms_norm_eps"]),
            ("attention.sliding_window", "I", config["sliding_window"]),
            ("attention.sliding_window_pattern", "[?", layers),
            ("rope.freq_base", "f", base["full_attention"]["rope_theta"]),
            ("rope.freq_base_swa", "f", base["sliding_attention"]["rope_theta"])):
        yield pair("gemma3." + key, type_, value)
    yield pair("general.architecture", "s", "gemma3")
    yield pair("general.type", "s", "model")
    yield pair("general.name", "s", "tiny-gemma3")
    yield pair("general.file_type", "I", FILE_TYPES[kind])


def tokenizer_pairs(path):
    """A token that the n-th merge makes has the score -n, so that the best pair is the first."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    added = {a["id"]: a for a in tokenizer["added_tokens"]}
    order = {"".join(merge): n for n, merge in enumerate(tokenizer["model"]["merges"])}
    names = sorted(vocabulary, key=vocabulary.get)
    special = {name: vocabulary[name] for name in ("<pad>", "<eos>", "<bos>", "<unk>")}
    types = [2 if i == special["<unk>"] else 3 if i in added and added[i]["special"] else
             4 if i in added else 6 if name.startswith("<0x") and len(name) == 6 else 1
             for i, name in enumerate(names)]
    yield pair("tokenizer.ggml.model", "s", "llama")
    yield pair("tokenizer.ggml.tokens", "[s", names)
    yield pair("tokenizer.ggml.scores", "[f", [-float(order.get(n, len(order))) for n in names])
    yield pair("tokenizer.ggml.token_type", "[i", types)
    for key, name in (("padding", "<pad>"), ("eos", "<eos>"), ("bos", "<bos>"),
                      ("unknown", "<unk>")):
        yield pair(f"tokenizer.ggml.{key}_token_id", "I", special[name])
    yield pair("tokenizer.ggml.add_bos_token", "?", True)
    yield pair("tokenizer.ggml.add_eos_token", "?", False)
    yield pair("tokenizer.ggml.add_space_prefix", "?", False)


def main():
    if len(sys.argv) not in (3, 4) or (kind := (sys.argv + ["q8_0"])[3]) not in FILE_TYPES:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "gemma3_text":
        sys.exit(f"{folder}: model_type: expected gemma3_text, found {config['model_type']}")
    pairs = [*model_pairs(config, kind), *tokenizer_pairs(folder / "tokenizer.json")]
    head, data, count = [], [], 0
    size = 0
    for name, values in tensors(folder / "model.safetensors"):
        matrix = values.ndim == 2
        stored = kind if matrix else "f32"
        raw = encode(values if matrix else values + np.float32(1), stored)  # norms: 1 + w
        raw += bytes(-len(raw) % 32)
        dims = values.shape[::-1]
        head.append(text(gguf_name(name)) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims,
                                                        TYPES[stored], size))
        data.append(raw)
        size += len(raw)
        count += 1
    start = b"GGUF" + struct.pack("<IQQ", 3, count, len(pairs)) + b"".join(pairs + head)
    Path(sys.argv[2]).write_bytes(start + bytes(-len(start) % 32) + b"".join(data))


main()
