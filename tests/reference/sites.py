# SPDX-License-Identifier: BSD-2-Clause
"""Rows at every site of the tiny models, and what edits there do.

Per model: token ids, a binary64 oracle of every site of one layer and of the passes with an edit,
torch's fp32 distance from it, and the rows of an eager bf16 run at the same sites.
"""

import json
import sys

import layernorm_models
import models
from common import DATA, folder_size, output_folder, save, save_json, versions
from models import distance, torch

import contextlib

import transformers

# QSAE_SITE_* of a layer, in the order of the pass.
LAYER_SITES = ("resid_pre", "ln1_normalized", "z", "attn_out", "resid_mid", "ln2_normalized",
               "mlp_in", "mlp_post", "mlp_out", "resid_post")


@contextlib.contextmanager
def binary64():
    with models.binary64(), layernorm_models.binary64():
        yield


class Places:
    """Modules of a transformers model by what they mean."""

    def __init__(self, model):
        self.model = model
        self.kind = model.config.get_text_config().model_type
        self.positions = None
        if self.kind == "gpt_neox":
            body = model.gpt_neox
            self.layers, self.final, self.embed = body.layers, body.final_layer_norm, body.embed_in
        elif self.kind == "gpt2":
            body = model.transformer
            self.layers, self.final, self.embed = body.h, body.ln_f, body.wte
            self.positions = body.wpe
        else:
            body = models.text_model(model)
            self.layers, self.final, self.embed = body.layers, body.norm, body.embed_tokens
        self.parallel = self.kind == "gpt_neox" and model.config.use_parallel_residual

    def of_layer(self, i):
        """site -> (module, side): 0 its input, 1 its output. *_normalized: the norm."""
        layer = self.layers[i]
        out = {"resid_pre": (layer, 0), "resid_post": (layer, 1)}
        if self.kind == "gpt_neox":
            ln1, ln2 = layer.input_layernorm, layer.post_attention_layernorm
            attn, mlp = layer.attention.dense, layer.mlp.dense_4h_to_h
        elif self.kind == "gpt2":
            ln1, ln2, attn, mlp = layer.ln_1, layer.ln_2, layer.attn.c_proj, layer.mlp.c_proj
        else:
            ln1, attn, mlp = layer.input_layernorm, layer.self_attn.o_proj, layer.mlp.down_proj
            gemma = hasattr(layer, "pre_feedforward_layernorm")
            ln2 = layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm
            if gemma:
                out["attn_out"] = (layer.post_attention_layernorm, 1)
                out["mlp_out"] = (layer.post_feedforward_layernorm, 1)
        out = {"attn_out": (attn, 1), "mlp_out": (mlp, 1), **out}
        out |= {"z": (attn, 0), "mlp_post": (mlp, 0), "mlp_in": (ln2, 1)}
        out |= {"ln1_normalized": (ln1, 2), "ln2_normalized": (ln2, 2)}
        if not self.parallel:
            out["resid_mid"] = (ln2, 0)
        return out

    def all(self):
        """(layer, site) -> (module, side), in the order of the pass; -1 where it is of no layer."""
        out = {(-1, "embed"): (self.embed, 1)}
        if self.positions is not None:
            out[-1, "pos_embed"] = (self.positions, 1)
        for i in range(len(self.layers)):
            of = self.of_layer(i)
            out |= {(i, site): of[site] for site in LAYER_SITES if site in of}
        out[-1, "final_normalized"] = (self.final, 2)
        out[-1, "final_norm"] = (self.final, 1)
        return out


def normalized(norm, x):
    """A norm's values before gain and bias, in fp32 or binary64."""
    x = x if x.dtype == torch.float64 else x.float()
    if hasattr(norm, "bias"):
        x = x - x.mean(-1, keepdim=True)
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def gained(norm, y):
    """What a norm makes of them."""
    w = norm.weight.to(y.dtype)
    if hasattr(norm, "bias"):
        return y * w + norm.bias.to(y.dtype)
    return y * (1.0 + w if "Gemma" in type(norm).__name__ else w)


def run(model, ids, edits=None, keep=True):
    """Rows at all places, edits applied, and logits and nll. edits: (layer, site) -> function of
    rows; resid_mid is edited where it is written: through attn_out."""
    places = Places(model)
    table, out, hooks, edits = places.all(), {}, [], dict(edits or {})
    if not keep:
        table = {k: v for k, v in table.items() if k in edits or (k[0], "resid_mid") in edits}

    def first(value):
        return value[0] if isinstance(value, tuple) else value

    def after(key, module, side):
        edit = edits.get(key)
        middle = edits.get((key[0], "resid_mid")) if key[1] == "attn_out" else None

        def hook(m, args, result):
            rows = normalized(m, args[0]) if side == 2 else first(result)
            if edit:
                rows = edit(rows)
                # side 2: through the gain, on the module's own dtype
                new = gained(m, rows).to(first(result).dtype) if side == 2 else rows
                result = (new, *result[1:]) if isinstance(result, tuple) else new
            if middle:
                pre = out[key[0], "resid_pre"]
                result = middle(pre + first(result)) - pre
            out[key] = rows.detach().clone()
            return result if edit or middle else None

        return module.register_forward_hook(hook)

    def before(key, module):
        edit = edits.get(key) if key[1] != "resid_mid" else None

        def hook(m, args, kwargs):
            named = "hidden_states" in kwargs
            rows = kwargs["hidden_states"] if named else args[0]
            if edit:
                rows = edit(rows)
                args, kwargs = (args, kwargs | {"hidden_states": rows}) if named else \
                    ((rows, *args[1:]), kwargs)
            out[key] = rows.detach().clone()
            return (args, kwargs) if edit else None

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    if any(site == "resid_mid" for _, site in edits):
        table = places.all()
    for key, (module, side) in table.items():
        hooks.append(before(key, module) if side == 0 else after(key, module, side))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    for key, value in out.items():
        out[key] = value.expand(*ids.shape, -1) if value.ndim == 3 else value
    out["logits"] = logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    logp = torch.log_softmax(wide[:, :-1], dim=-1)
    out["nll"] = -logp.gather(2, ids[:, 1:, None]).squeeze(2)
    return out


def load(path, dtype, attention):
    config = transformers.AutoConfig.from_pretrained(path)
    cls = getattr(transformers, config.architectures[0])
    return cls.from_pretrained(path, dtype=dtype, attn_implementation=attention).eval()


# --- fixtures ------------------------------------------------------------------------------------

MODELS = ("llama_bias", "gemma2_cap", "gemma3_cap", "qwen3_windows", "neox_parallel",
          "neox_sequential", "gpt2_layers")
TOKENS = 6


def halve(rows):
    return rows * 0.5


def zero(rows):
    return rows * 0


def plans(keys):
    """Edits of the fixture: half and zero of each site of layer 1; two sites in two layers."""
    out = {}
    for layer, site in keys:
        if layer in (-1, 1):
            out[f"half.{site}"] = {(layer, site): halve}
    for site in ("z", "attn_out", "mlp_out"):
        out[f"zero.{site}"] = {(1, site): zero}
    out["two"] = {(0, "mlp_out"): halve, (1, "z"): zero}
    return out


def name_of(key):
    return key if isinstance(key, str) else key[1] if key[0] < 0 else f"{key[1]}.{key[0]}"


def reference(name):
    source = DATA / "models" / name
    gen = torch.Generator().manual_seed(len(name) + 77)
    vocab = json.loads((source / "config.json").read_text())["vocab_size"]
    ids = torch.randint(3, vocab, (2, TOKENS), generator=gen)
    capped = name.startswith("gemma2")
    with binary64():
        m = load(source, torch.float32, "eager").double()
        oracle = run(m, ids)
        keys = [k for k in oracle if isinstance(k, tuple)]
        edited = {n: run(m, ids, e, keep=False)["nll"] for n, e in plans(keys).items()}
    m = load(source, torch.float32, "eager" if capped else "sdpa")
    single = run(m, ids)
    halves = torch.bfloat16
    bf16 = run(load(source, halves, "eager"), ids)
    tensors, error = {"ids": ids.to(torch.int32)}, {}

    def put(key, want, got):
        # The oracle as fp32: its rounding is far below torch's own error; that is against it too.
        tensors[f"oracle.{key}"] = want.float()
        error[key] = distance(got.double(), want.float().double())["rms"]

    for key in keys:
        if key[0] not in (-1, 1):
            continue
        put(name_of(key), oracle[key], single[key])
        if "normalized" not in key[1]:
            tensors[f"bf16.{name_of(key)}"] = bf16[key]
    for n, e in plans(keys).items():
        put(n, edited[n], run(m, ids, e, keep=False)["nll"])
    tensors["bf16.nll"] = bf16["nll"]
    report = {"versions": versions("torch", "transformers"), "f32_error": error}
    return tensors, report


def main():
    folder = output_folder("sites")
    for name in MODELS:
        tensors, report = reference(name)
        save(folder / f"{name}.safetensors", tensors, {"content": "see tests/data/README.md"})
        save_json(folder / f"{name}.json", report)
        print(f"{name}: {len(tensors)} tensors", flush=True)
    print(f"{folder_size(folder) / 1e3:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
