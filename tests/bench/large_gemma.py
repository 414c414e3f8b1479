# SPDX-License-Identifier: BSD-2-Clause
"""Write a random checkpoint of Gemma 3's shape (12B unless told otherwise), an SAE and token ids.

OUT/model  config.json, shards with their index, a tokenizer of as many tokens, as Gemma 3's
           multimodal folders name things; bf16
OUT/sae    a JumpReLU SAE in Gemma Scope 2's format for the layer in the middle
OUT/ids.npy

Values are drawn and written a few MiB at a time. Matrices have deviation 1 / sqrt(inputs); the norms
before attention and MLP have a few large gains, whose columns LLM.int8 takes for outliers. Only
NumPy is needed.
"""

import argparse
import json
import math
import pathlib
import struct

import numpy as np

PART = 1 << 22
LARGE = (7, 511, 1023, 1729, 2600, 3333)  # channels with large gains


def bf16(x):
    """Bits of float32 values rounded to the nearest bf16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def tensors_of(o):
    """Name, shape and kind of every tensor, in the order of the file."""
    d, f, q, kv = o.width, o.mlp, o.heads * o.head_dim, o.kv_heads * o.head_dim
    yield "embed_tokens.weight", (o.vocab, d), "embed"
    for n in range(o.layers):
        at = f"layers.{n}."
        yield at + "input_layernorm.weight", (d,), "gain"
        yield at + "self_attn.q_proj.weight", (q, d), "matrix"
        yield at + "self_attn.k_proj.weight", (kv, d), "matrix"
        yield at + "self_attn.v_proj.weight", (kv, d), "matrix"
        yield at + "self_attn.o_proj.weight", (d, q), "matrix"
        yield at + "self_attn.q_norm.weight", (o.head_dim,), "norm"
        yield at + "self_attn.k_norm.weight", (o.head_dim,), "norm"
        yield at + "post_attention_layernorm.weight", (d,), "norm"
        yield at + "pre_feedforward_layernorm.weight", (d,), "gain"
        yield at + "mlp.gate_proj.weight", (f, d), "matrix"
        yield at + "mlp.up_proj.weight", (f, d), "matrix"
        yield at + "mlp.down_proj.weight", (d, f), "matrix"
        yield at + "post_feedforward_layernorm.weight", (d,), "norm"
    yield "norm.weight", (d,), "norm"


def values(rng, shape, kind):
    """The tensor's values in parts, as bf16 bits."""
    count = math.prod(shape)
    scale = {"embed": 1 / math.sqrt(shape[-1]), "matrix": 1 / math.sqrt(shape[-1])}.get(kind, 0.3)
    for start in range(0, count, PART):
        x = rng.standard_normal(min(PART, count - start), np.float32)
        x *= np.float32(scale)
        if kind == "gain":
            x[[c for c in LARGE if c < count]] = 15
        yield bf16(x)


def write_safetensors(path, entries, parts):
    """entries: (name, dtype, shape, bytes); parts: arrays that follow each other in the file."""
    header, at = {}, 0
    for name, dtype, shape, size in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            part.tofile(f)


def write_model(folder, o, rng):
    folder.mkdir(parents=True, exist_ok=True)
    shards, size = [[]], 0
    for name, shape, kind in tensors_of(o):
        bytes_ = 2 * math.prod(shape)
        if shards[-1] and size + bytes_ > o.shard:
            shards.append([])
            size = 0
        shards[-1].append(("language_model.model." + name, shape, kind, bytes_))
        size += bytes_
    index = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(
            folder / file,
            [(name, "BF16", shape, bytes_) for name, shape, _, bytes_ in shard],
            (part for _, shape, kind, _ in shard for part in values(rng, shape, kind)),
        )
        index |= {name: file for name, *_ in shard}
    total = sum(bytes_ for shard in shards for *_, bytes_ in shard)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
    )
    text = {
        "model_type": "gemma3_text",
        "hidden_size": o.width,
        "intermediate_size": o.mlp,
        "num_hidden_layers": o.layers,
        "num_attention_heads": o.heads,
        "num_key_value_heads": o.kv_heads,
        "head_dim": o.head_dim,
        "vocab_size": o.vocab,
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "query_pre_attn_scalar": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-06,
        "hidden_activation": "gelu_pytorch_tanh",
    }
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "text_config": text,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return total


def write_tokenizer(folder, vocab):
    """Every id is a token; no text becomes any of them but the unknown one."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = special + [f"t{i}" for i in range(len(special), vocab)]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": i,
                "content": word,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, word in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_sae(folder, o, rng):
    """Decoder rows are unit vectors, the encoder their transpose; the threshold leaves about
    --l0 features of rows as large as the model's in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    layer = o.layers // 2
    # every block adds two normed outputs of root mean square sqrt(1 + 0.3^2)
    rms = math.sqrt(1 + 2 * (layer + 1) * 1.09)
    high, low = 9.0, 0.0
    for _ in range(60):
        middle = (high + low) / 2
        low, high = (
            (middle, high)
            if math.erfc(middle / math.sqrt(2)) / 2 * o.features > o.l0
            else (low, middle)
        )
    decoder = rng.standard_normal((o.features, o.width), np.float32)
    decoder /= np.sqrt(np.einsum("ij,ij->i", decoder, decoder))[:, None]
    arrays = {
        "w_enc": np.ascontiguousarray(decoder.T),
        "w_dec": decoder,
        "b_enc": np.zeros(o.features, np.float32),
        "b_dec": np.zeros(o.width, np.float32),
        "threshold": np.full(o.features, rms * low, np.float32),
    }
    write_safetensors(
        folder / "params.safetensors",
        [(name, "F32", x.shape, x.nbytes) for name, x in arrays.items()],
        arrays.values(),
    )
    config = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-12b-pt",
        "hf_hook_point_in": f"model.layers.{layer}.output",
        "hf_hook_point_out": f"model.layers.{layer}.output",
        "width": o.features,
        "l0": o.l0,
        "affine_connection": False,
        "type": "sae",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    for name, value in [
        ("layers", 48), ("width", 3840), ("mlp", 15360), ("heads", 16), ("kv-heads", 8),
        ("head-dim", 256), ("vocab", 262208), ("features", 16384), ("l0", 60),
        ("tokens", 2048), ("seed", 0),
    ]:  # fmt: skip
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--shard", type=int, default=5_000_000_000, help="bytes of a file")
    o = parser.parse_args()
    rng = np.random.default_rng(o.seed)
    total = write_model(o.out / "model", o, rng)
    write_tokenizer(o.out / "model", o.vocab)
    write_sae(o.out / "sae", o, rng)
    ids = rng.integers(4, o.vocab, o.tokens).astype(np.int32)
    np.save(o.out / "ids.npy", ids)
    print(f"{o.out}: {total / 1e9:.2f} GB of weights, {o.tokens} tokens")


if __name__ == "__main__":
    main()
