# SPDX-License-Identifier: BSD-2-Clause
"""A random checkpoint of the shape of a Pythia model, for measurements of speed; not kept.

    python3 pythia.py FOLDER [--width 512 --layers 6 --heads 8 --vocab 50304]

F16 tensors as published files have them, and a tokenizer of single characters.
"""

import argparse
import json
import pathlib

import numpy as np

from common import save


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=50304)
    args = parser.parse_args()
    d, v = args.width, args.vocab
    rng = np.random.default_rng(1)

    def normal(*shape):
        return (rng.standard_normal(shape, np.float32) * 0.02).astype(np.float16)

    def norm(name):
        return {f"{name}.weight": (1 + normal(d)).astype(np.float16), f"{name}.bias": normal(d)}

    tensors = {"gpt_neox.embed_in.weight": normal(v, d), "embed_out.weight": normal(v, d)}
    tensors |= norm("gpt_neox.final_layer_norm")
    for n in range(args.layers):
        at = f"gpt_neox.layers.{n}."
        tensors |= norm(at + "input_layernorm") | norm(at + "post_attention_layernorm")
        for name, rows, cols in (("attention.query_key_value", 3 * d, d),
                                 ("attention.dense", d, d), ("mlp.dense_h_to_4h", 4 * d, d),
                                 ("mlp.dense_4h_to_h", d, 4 * d)):
            tensors[f"{at}{name}.weight"], tensors[f"{at}{name}.bias"] = normal(rows, cols), normal(
                rows)
    config = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": v,
              "hidden_size": d, "intermediate_size": 4 * d, "num_hidden_layers": args.layers,
              "num_attention_heads": args.heads, "hidden_act": "gelu", "rotary_emb_base": 10000,
              "rotary_pct": 0.25, "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
              "use_parallel_residual": True, "tie_word_embeddings": False,
              "torch_dtype": "float16"}
    letters = {chr(32 + i): i for i in range(95)}
    tokenizer = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None,
                 "post_processor": None, "decoder": None,
                 "model": {"type": "BPE", "vocab": letters, "merges": []}}
    args.folder.mkdir(parents=True, exist_ok=True)
    save(args.folder / "model.safetensors", tensors)
    (args.folder / "config.json").write_text(json.dumps(config, indent=1))
    (args.folder / "tokenizer.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main()
