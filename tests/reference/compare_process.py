# SPDX-License-Identifier: BSD-2-Clause
"""Random models processed by libqsae and by TransformerLens, for every set of steps.

    QSAE_LIBRARY=.../libqsae.so PYTHONPATH=libqsae/python python3 tests/reference/compare_process.py
        [--models 12] [--seed 1]

Per model and set: the largest difference of a processed matrix relative to its largest weight;
logits, nll and residual streams of libqsae's run in f32 against TransformerLens' in binary64, as a
multiple of the distance of TransformerLens' own f32 run (must be at most 2); codes of round to
nearest (axis=tl) against NumPy on TransformerLens' tensors. Ends with status 1 at what is wrong.
"""

import argparse
import itertools
import json
import sys
import tempfile
import warnings

import process
from process import STEPS, torch

import numpy as np
import qsae
from transformers import (Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel,
                          GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM)

warnings.filterwarnings("ignore")


def random_model(rng, kind):
    """The four families, with widths, heads and switches of their own."""
    pick = lambda *values: values[int(rng.integers(len(values)))]
    heads = int(rng.integers(1, 6))
    d, layers, vocab = heads * 4 * int(rng.integers(1, 5)), int(rng.integers(1, 4)), 90
    if kind == "gpt2":
        c = GPT2Config(vocab_size=vocab, n_embd=d, n_layer=layers, n_head=heads, n_positions=40,
                       activation_function=pick("gelu_new", "gelu"), n_inner=d + 6,
                       scale_attn_by_inverse_layer_idx=pick(True, False),
                       tie_word_embeddings=pick(True, False))
        return GPT2LMHeadModel(c)
    if kind == "gpt_neox":
        c = GPTNeoXConfig(vocab_size=vocab, hidden_size=d, intermediate_size=d + 10,
                          num_hidden_layers=layers, num_attention_heads=heads,
                          use_parallel_residual=pick(True, False), max_position_embeddings=64,
                          rope_parameters={"rope_theta": 1e4, "rope_type": "default",
                                           "partial_rotary_factor": pick(0.5, 1.0)})
        return GPTNeoXForCausalLM(c)
    common = dict(vocab_size=vocab, hidden_size=d, intermediate_size=d + 10,
                  num_hidden_layers=layers, num_attention_heads=2 * heads,
                  num_key_value_heads=pick(heads, 2 * heads, 1), head_dim=8,
                  max_position_embeddings=64, tie_word_embeddings=pick(True, False))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**common))
    c = Gemma2Config(**common, sliding_window=12, query_pre_attn_scalar=20,
                     final_logit_softcapping=pick(30.0, None))
    return Gemma2ForCausalLM(c)


def fill(model, rng):
    """Norms and biases that matter, a column of outliers in the residual stream."""
    gemma = model.config.model_type == "gemma2"
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.from_numpy(rng.standard_normal(tuple(p.shape)).astype(np.float32))
            if name.endswith("bias"):
                x *= 0.4
            elif p.ndim == 1:
                x = x * 0.3 + (0.0 if gemma else 1.0)
            else:
                x *= 1.5 / p.shape[1] ** 0.5
            if any(k in name for k in ("embed", "wte")) and p.ndim == 2:
                x[:, int(rng.integers(p.shape[1]))] *= 9
            p.copy_(x)


def module_path(c, key):
    head = {"gpt_neox": "embed_out"}.get(c.model_type, "lm_head")
    embed = {"gpt2": "transformer.wte", "gpt_neox": "gpt_neox.embed_in"}
    if key == "head":
        return head
    if key == "embed":
        return embed.get(c.model_type, "model.embed_tokens")
    layers = {"gpt2": "transformer.h.", "gpt_neox": "gpt_neox.layers."}
    return layers.get(c.model_type, "model.layers.") + key[:-len(".weight")]


def check_codes(ctx, weights, model, c, out):
    """Codes of libqsae on its own processed matrices; c_attn's three thirds each with its heads."""
    quant = qsae.Quantizer(ctx, "rtn:bits=6,axis=tl,arith=f32")
    for key, want in process.codes(model, c, 6).items():
        mine = weights.matrix(module_path(c, key)).decode()
        path, heads, parts = key[:-len(".weight")], 0, 1
        if path.endswith(("query_key_value", "c_attn", "q_proj")):
            heads, parts = c.num_attention_heads, 3 if path.endswith("c_attn") else 1
        elif path.endswith(("k_proj", "v_proj")):
            heads = c.num_key_value_heads
        got = np.concatenate([quant.encode(np.ascontiguousarray(part), heads=heads).fields()[
            "codes"] for part in np.split(mine, parts)])
        out["codes"] += want.size
        out["differing codes"] += int(np.sum(got != want))


def compare(ctx, folder, steps, ids, out):
    tl, c = process.hooked(folder, steps)
    exact, _ = process.hooked(folder, steps, torch.float64)
    layers = c.num_hidden_layers
    weights = qsae.Weights(ctx, folder, process=",".join(steps) or "none")
    for key, want in process.modules(tl, c).items():
        if key == "positions" or key.endswith("bias"):
            continue
        if key == "head" and weights.config["tied"]:
            key = "embed"
        got = weights.matrix(module_path(c, key)).decode()
        worst = np.abs(got - want).max() / np.abs(want).max()
        out["matrices"] += 1
        out["largest difference"] = max(out["largest difference"], float(worst))
        if worst > 1e-6:
            print(f"{folder}: {steps}: {key}: differs by {worst:g}")
            out["wrong"] += 1
    check_codes(ctx, weights, tl, c, out)
    model = qsae.Model(ctx, weights)
    taps = [(n, "resid_post") for n in range(layers)]
    mine = model.forward(ids, taps=taps, logits=True)
    got = {"logits": mine.logits, "nll": mine.nll}
    got |= {f"resid.{n}": mine.taps[n, "resid_post"] for n in range(layers)}
    truth, own = process.run(exact, ids, layers), process.run(tl, ids, layers)
    plain = qsae.Model(ctx, str(folder)).forward(ids, logits=True)
    for key, want in truth.items():
        ratio = process.rms(got[key] - want) / process.rms(own[key] - want)
        out["values"] += 1
        out["largest ratio"] = max(out["largest ratio"], ratio)
        if ratio > 2:
            print(f"{folder}: {steps}: {key}: {ratio:.2f} times TransformerLens' f32 distance")
            out["above 2"] += 1
    shift = (mine.logits - plain.logits).astype(np.float64)
    spread = np.abs(shift - shift.mean(-1, keepdims=True)).max() / np.abs(plain.logits).max()
    out["spread of the shift"] = max(out["spread of the shift"], float(spread))
    if spread > 2e-5:
        out["wrong"] += 1
        print(f"{folder}: {steps}: logits are not those of the model and a constant: {spread:g}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    ctx = qsae.Context(threads=1)
    out = dict.fromkeys(["matrices", "values", "codes", "differing codes", "wrong", "above 2"], 0)
    out |= dict.fromkeys(["largest difference", "largest ratio", "spread of the shift"], 0.0)
    for i in range(args.models):
        kind = ("gpt2", "gpt_neox", "llama", "gemma2")[i % 4]
        model = random_model(rng, kind)
        fill(model, rng)
        sets = [list(s) for n in range(5) for s in itertools.combinations(STEPS, n)]
        chosen = [STEPS] + [sets[int(k)] for k in rng.choice(len(sets), 5, replace=False)]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            ids = rng.integers(0, 90, (2, 24)).astype(np.int32)
            for steps in chosen:
                compare(ctx, folder, steps, ids, out)
    print(json.dumps(out, indent=1))
    sys.exit(1 if out["wrong"] else 0)


if __name__ == "__main__":
    main()
