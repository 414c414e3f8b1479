# SPDX-License-Identifier: BSD-2-Clause
"""Small random SAEs in the file layouts of their publishers, with activations and outputs.

The expected values are the publishers' formulas in NumPy, in binary64; their own distance in
binary32 is stored beside them. Where SAELens converts a layout without a known fault, its result
is compared with the formula before anything is written.

With --live N nothing is written: N rounds of random SAEs of other sizes go through the installed
qsae package and are compared with the formulas (and those with SAELens).
"""

from common import BF16, DATA, one_thread, round_bf16, save, save_json, versions

torch = one_thread()

import argparse
import logging
import os
import pathlib
import shutil
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np


class Sizes:
    def __init__(self, d, s, out, rows):
        self.d, self.s, self.out, self.rows = d, s, out, rows


class Draw:
    """Parameters as float32 arrays; W_enc [d, s], W_dec [s, out]."""

    def __init__(self, rng, n, out=None, unit=False, bf16=False):
        d, s, out = n.d, n.s, out or n.d
        self.bf16 = bf16
        dec = rng.standard_normal((s, out))
        dec /= np.linalg.norm(dec, axis=1, keepdims=True)
        if not unit:
            dec *= 0.4 + 1.6 * rng.random((s, 1))
        self.enc = self.keep(rng.standard_normal((d, s)) / d**0.5)
        self.dec = self.keep(dec)
        self.b_enc = self.keep(0.4 * rng.standard_normal(s) - 0.2)
        self.b_dec = self.keep(0.5 * rng.standard_normal(out))
        self.t = self.keep(rng.random(s) * (rng.random(s) > 0.1))
        self.skip = self.keep(rng.standard_normal((out, d)) / d**0.5)
        self.b_gate = self.keep(0.4 * rng.standard_normal(s) - 0.2)
        self.b_mag = self.keep(0.4 * rng.standard_normal(s))
        self.r_mag = self.keep(0.3 * rng.standard_normal(s))

    def keep(self, v):
        v = np.asarray(v, np.float32)
        return round_bf16(v) if self.bf16 else v

    def file(self, **tensors):
        """Tensors in the element type of the file."""
        return {
            k.replace("__", "."): BF16(v) if self.bf16 and v.dtype == np.float32 else v
            for k, v in ((k, np.ascontiguousarray(v)) for k, v in tensors.items())
        }


def relu(h):
    return np.maximum(h, 0)


def jump(h, t):
    return np.where(h > t, h, 0)


def topk(h, k):
    order = np.argsort(-h, axis=1, kind="stable")[:, :k]
    out = np.zeros_like(h)
    np.put_along_axis(out, order, relu(np.take_along_axis(h, order, 1)), 1)
    return out


def groupmax(h, k):
    a = relu(h).reshape(len(h), k, -1)
    best = a.argmax(2, keepdims=True)
    out = np.zeros_like(a)
    np.put_along_axis(out, best, np.take_along_axis(a, best, 2), 2)
    return out.reshape(h.shape)


def signed_topk(h, k):
    order = np.argsort(-np.abs(h), axis=1, kind="stable")[:, :k]
    out = np.zeros_like(h)
    np.put_along_axis(out, order, np.take_along_axis(h, order, 1), 1)
    return out


class Case:
    """A layout: run(x) is the publisher's formula in the type of x; told: settings of the open."""

    def __init__(self, path, run, info, told=None, decode=True, saelens=None):
        self.path, self.run, self.info, self.told = path, run, info, told or {}
        self.decode, self.saelens = decode, saelens


def plain(p, activation, beta=True, gate=False, skip=False):
    """x -> (acts, output) of y = act((x - beta b_dec) W_enc + b_enc) W_dec + b_dec."""

    def run(x):
        c = lambda v: v.astype(x.dtype)
        h = (x - (c(p.b_dec) if beta else 0)) @ c(p.enc) + c(p.b_enc)
        n = np.linalg.norm(c(p.dec), axis=1)
        a = activation(h * n) / n if gate else activation(h)
        y = a @ c(p.dec) + c(p.b_dec)
        return a, y + x @ c(p.skip).T if skip else y

    return run


# --- sparsify ------------------------------------------------------------------------------------


def sparsify(root, rng, n):
    for name, layer, more, act in (
        ("topk", "layers.3", {"k": 4}, lambda h: topk(h, 4)),
        ("mlp", "layers.5.mlp", {"k": 3, "transcode": True, "skip_connection": True}, lambda h: topk(h, 3)),
        ("group", "h.2", {"k": 5, "activation": "groupmax"}, lambda h: groupmax(h, 5)),
        ("signed", "embed_tokens", {"k": 4, "signed": True}, lambda h: signed_topk(h, 4)),
    ):
        p = Draw(rng, n, bf16=name == "mlp")
        transcode, skip = bool(more.get("transcode")), bool(more.get("skip_connection"))
        path = f"sparsify_{name}/{layer}"
        tensors = p.file(encoder__weight=p.enc.T, encoder__bias=p.b_enc, W_dec=p.dec, b_dec=p.b_dec)
        if skip:
            tensors.update(p.file(W_skip=p.skip))
        save(root / path / "sae.safetensors", tensors)
        save_json(
            root / path / "cfg.json",
            {"d_in": n.d, "num_latents": n.s, "expansion_factor": 32, "normalize_decoder": True,
             "multi_topk": False, **more},
        )
        save_json(root / f"sparsify_{name}" / "config.json", {"model": "tiny/llama", "ctx_len": 77})
        hooks = {
            "layers.3": ("blocks.3.hook_resid_post",) * 2,
            "layers.5.mlp": ("blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out"),
            "h.2": ("blocks.2.hook_resid_post",) * 2,
            "embed_tokens": ("hook_embed",) * 2,
        }[layer]
        yield Case(
            path,
            plain(p, act, beta=not transcode, skip=skip),
            {"format": "sparsify", "hook": hooks[0], "hook_out": hooks[1], "model_name": "tiny/llama",
             "context_size": 77, "skip": int(skip), "apply_b_dec": int(not transcode)},
        )


# --- OpenMOSS ------------------------------------------------------------------------------------


def llama_scope(root, rng, n):
    for name, gate, unit in (("unit", True, True), ("norms", True, False), ("plain", False, False)):
        p = Draw(rng, n, unit=unit, bf16=name == "plain")
        t, norm_in = 0.3, 1.7 * n.d**0.5
        norm_out = norm_in if name == "unit" else 0.6 * n.d**0.5
        path = f"llama_scope_{name}"
        save(
            root / path / "checkpoints" / "final.safetensors",
            p.file(encoder__weight=p.enc.T, encoder__bias=p.b_enc, decoder__weight=p.dec.T,
                   decoder__bias=p.b_dec),
        )
        save_json(
            root / path / "hyperparams.json",
            {"d_model": n.d, "d_sae": n.s, "hook_point_in": "blocks.15.hook_resid_post",
             "hook_point_out": "blocks.15.hook_resid_post", "jump_relu_threshold": t,
             "dataset_average_activation_norm": {"in": norm_in, "out": norm_out},
             "sparsity_include_decoder_norm": gate, "act_fn": "jumprelu", "top_k": 50,
             "norm_activation": "dataset-wise", "apply_decoder_bias_to_pre_encoder": False},
        )

        def run(x, p=p, gate=gate, s=(n.d**0.5 / norm_in, n.d**0.5 / norm_out), t=t):
            c = lambda v: v.astype(x.dtype)
            dec = c(p.dec) * x.dtype.type(s[0] / s[1])
            h = x @ c(p.enc) + c(p.b_enc) / x.dtype.type(s[0])
            norms = np.linalg.norm(dec, axis=1) if gate else np.ones(len(dec), x.dtype)
            a = jump(h * norms, x.dtype.type(np.float32(t)))
            return a, (a / norms) @ dec + c(p.b_dec) / x.dtype.type(s[1])

        def saelens(folder, x, p=p, s=n.d**0.5 / norm_in):
            # Its activations are in the normalised unit, s times as large.
            a, y = converted("llama_scope", folder, x, {"dtype": "float64"}, scale=s)
            return a / s, y

        yield Case(
            path, run,
            {"format": "llama-scope", "hook": "blocks.15.hook_resid_post", "norm_in": norm_in,
             "norm_out": norm_out, "context_size": 1024},
            saelens=saelens if name == "unit" else None,
        )


def llama_scope_r1(root, rng, n):
    for path, scale in (("400M-Slimpajama-400M-OpenR1-Math-220k/L15R", 5.318041374444156),
                        ("r1_told", 0.37)):
        p = Draw(rng, n)
        p.t = np.exp(np.log(0.01 + p.t)).astype(np.float32)
        log = np.log(p.t)
        save(
            root / path / "sae_weights.safetensors",
            p.file(encoder__weight=p.enc.T, encoder__bias=p.b_enc, decoder__weight=p.dec.T,
                   decoder__bias=p.b_dec, log_jumprelu_threshold=log),
        )
        save_json(
            root / path / "config.json",
            {"d_model": n.d, "expansion_factor": n.s / n.d, "hook_point_in": "blocks.15.hook_resid_post",
             "hook_point_out": "blocks.15.hook_resid_post"},
        )

        def run(x, p=p, s=scale, log=log):
            c = lambda v: v.astype(x.dtype)
            a = jump((x * x.dtype.type(s)) @ c(p.enc) + c(p.b_enc), np.exp(c(log)))
            return a, (a @ c(p.dec) + c(p.b_dec)) / x.dtype.type(s)

        told = {} if "/" in path else {"scale": scale}
        yield Case(
            path, run, {"format": "llama-scope-r1", "scale": scale, "architecture": "jumprelu"}, told,
            saelens=lambda folder, x, s=scale: converted("llama_scope_r1_distill", folder, x,
                                                         {"dtype": "float64"}, scale=s),
        )


def openmoss(root, rng, n):
    for name, act, gate, mode, bias, out in (
        ("relu", "relu", True, "dataset-wise", False, False),
        ("jump", "jumprelu", True, "dataset-wise", True, True),
        ("topk", "topk", True, "dataset-wise", True, False),
        ("topk_plain", "topk", False, "inference", True, False),
        ("token", "jumprelu", False, "token-wise", True, False),
    ):
        p = Draw(rng, n)
        p.t = (0.05 + p.t).astype(np.float32)
        log = np.log(p.t)
        hooks = "blocks.4.ln2.hook_normalized", "blocks.4.hook_mlp_out" if out else "blocks.4.ln2.hook_normalized"
        norms = [np.float32(1.9 * n.d**0.5), np.float32((0.7 if out else 1.9) * n.d**0.5)]
        tensors = p.file(W_E=p.enc, b_E=p.b_enc, W_D=p.dec)
        if bias:
            tensors["b_D"] = p.b_dec
        if act == "jumprelu":
            tensors["activation_function.log_jumprelu_threshold"] = log
        if mode == "dataset-wise":
            for hook, norm in zip(hooks, norms):
                tensors["dataset_average_activation_norm." + hook] = np.array(norm, np.float32)
        path = f"openmoss_{name}"
        save(root / path / "sae_weights.safetensors", tensors)
        save_json(
            root / path / "config.json",
            {"sae_type": "sae", "d_model": n.d, "expansion_factor": n.s / n.d, "hook_point_in": hooks[0],
             "hook_point_out": hooks[1], "act_fn": act, "top_k": 5, "norm_activation": mode,
             "sparsity_include_decoder_norm": gate, "use_decoder_bias": bias},
        )

        def run(x, p=p, act=act, gate=gate, mode=mode, bias=bias, log=log, norms=norms):
            c = lambda v: v.astype(x.dtype)
            root_d = x.dtype.type(x.shape[1]) ** x.dtype.type(0.5)
            s_in = root_d / c(norms[0]) if mode == "dataset-wise" else x.dtype.type(1)
            s_out = root_d / c(norms[1]) if mode == "dataset-wise" else x.dtype.type(1)
            if mode == "token-wise":
                s_in = s_out = root_d / np.linalg.norm(x, axis=1, keepdims=True)
            h = (x * s_in) @ c(p.enc) + c(p.b_enc)
            w = np.linalg.norm(c(p.dec), axis=1) if gate else x.dtype.type(1)
            f = {"relu": relu, "jumprelu": lambda v: jump(v, np.exp(c(log))), "topk": lambda v: topk(v, 5)}[act]
            a = f(h * w) / w
            y = a @ c(p.dec) + (c(p.b_dec) if bias else 0)
            return a, y / s_out

        yield Case(
            path, run,
            {"format": "openmoss", "hook": hooks[0], "hook_out": hooks[1],
             "normalize": "constant_norm_rescale" if mode == "token-wise" else "none"},
        )


def openmoss_clt(root, rng, n):
    layers = 3
    for name, act, mode in (("jump", "jumprelu", "dataset-wise"), ("relu", "relu", "inference")):
        ps = [Draw(rng, n) for _ in range(layers)]
        logs = [np.log(0.05 + p.t).astype(np.float32) for p in ps]
        writes = [(rng.standard_normal((m + 1, n.s, n.d)) / n.d**0.5).astype(np.float32) for m in range(layers)]
        hooks = [[f"blocks.{l}.{h}" for l in range(layers)] for h in ("ln2.hook_normalized", "hook_mlp_out")]
        norms = (0.5 + 2 * rng.random((2, layers))).astype(np.float32) * np.float32(n.d**0.5)
        tensors = {"W_E": np.stack([p.enc for p in ps]), "b_E": np.stack([p.b_enc for p in ps])}
        for m in range(layers):
            tensors[f"W_D.{m}"], tensors[f"b_D.{m}"] = writes[m], ps[m].b_dec
            for i in range(2):
                tensors["dataset_average_activation_norm." + hooks[i][m]] = np.array(norms[i, m], np.float32)
        if act == "jumprelu":
            tensors["activation_function.log_jumprelu_threshold"] = np.stack(logs)
        path = f"openmoss_clt_{name}"
        save(root / path / "sae_weights.safetensors", tensors)
        save_json(
            root / path / "config.json",
            {"sae_type": "clt", "d_model": n.d, "expansion_factor": n.s / n.d, "hook_points_in": hooks[0],
             "hook_points_out": hooks[1], "act_fn": act, "top_k": 5, "norm_activation": mode,
             "sparsity_include_decoder_norm": True, "use_decoder_bias": True},
        )
        for l, m in ((0, 2), (1, None), (2, 2)) if act == "jumprelu" else ((0, 1),):

            def run(x, l=l, m=l if m is None else m, ps=ps, logs=logs, writes=writes, norms=norms, mode=mode, act=act):
                c = lambda v: v.astype(x.dtype)
                root_d = x.dtype.type(x.shape[1]) ** x.dtype.type(0.5)
                s = [root_d / c(norms[0, l]), root_d / c(norms[1, m])] if mode == "dataset-wise" else [1, 1]
                w = np.sqrt(sum((c(writes[k][l]) ** 2).sum(1) for k in range(l, layers)))
                h = (x * s[0]) @ c(ps[l].enc) + c(ps[l].b_enc)
                a = (jump(h * w, np.exp(c(logs[l]))) if act == "jumprelu" else relu(h * w)) / w
                return a, (a @ c(writes[m][l]) + (c(ps[m].b_dec) if l == m else 0)) / s[1]

            yield Case(
                f"{path}#{l}" + ("" if m is None else f":{m}"), run,
                {"format": "openmoss-clt", "hook": hooks[0][l], "hook_out": hooks[1][l if m is None else m],
                 "encode_only": int(m is None)},
                decode=m is not None,
            )


# --- dictionary_learning -------------------------------------------------------------------------


def dictionary_learning(root, rng, n):
    k, t = 5, np.float32(0.45)
    for name in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder",
                 "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "unfitted"):
        p = Draw(rng, n, unit=name == "AutoEncoderTopK")
        linear = dict(encoder__weight=p.enc.T, decoder__weight=p.dec.T)
        native = dict(W_enc=p.enc, W_dec=p.dec, b_enc=p.b_enc, b_dec=p.b_dec)
        count = np.array(k, np.int32)
        tensors = {
            "AutoEncoder": dict(linear, encoder__bias=p.b_enc, bias=p.b_dec),
            "AutoEncoderNew": dict(linear, encoder__bias=p.b_enc, decoder__bias=p.b_dec),
            "GatedAutoEncoder": dict(linear, decoder_bias=p.b_dec, r_mag=p.r_mag, gate_bias=p.b_gate,
                                     mag_bias=p.b_mag),
            "JumpReluAutoEncoder": dict(native, threshold=p.t),
            "AutoEncoderTopK": dict(linear, encoder__bias=p.b_enc, b_dec=p.b_dec, k=count,
                                    threshold=np.array(-1, np.float32)),
            "BatchTopKSAE": dict(linear, encoder__bias=p.b_enc, b_dec=p.b_dec, k=count,
                                 threshold=np.array(t, np.float32)),
            "MatryoshkaBatchTopKSAE": dict(native, k=count, threshold=np.array(t, np.float32),
                                           group_sizes=np.array([4, n.s - 4], np.int32)),
            "unfitted": dict(linear, encoder__bias=p.b_enc, b_dec=p.b_dec, k=count,
                             threshold=np.array(-1, np.float32)),
        }[name]
        path = f"dl_{name}"
        tensors = {key.replace("__", "."): np.ascontiguousarray(v).reshape(v.shape) for key, v in tensors.items()}
        save(root / path / "ae.safetensors", tensors)
        kind = "BatchTopKSAE" if name == "unfitted" else name
        save_json(
            root / path / "config.json",
            {"trainer": {"dict_class": kind, "activation_dim": n.d, "dict_size": n.s, "k": k, "layer": 6,
                         "lm_name": "EleutherAI/pythia-70m", "submodule_name": "resid_post_layer_6",
                         "norm_factor": 13.0},
             "buffer": {"ctx_len": 128, "io": "out", "d_submodule": n.d}},
        )

        def run(x, p=p, name=name):
            c = lambda v: v.astype(x.dtype)
            beta = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
            u = (x - (c(p.b_dec) if beta else 0)) @ c(p.enc)
            norms = np.linalg.norm(c(p.dec), axis=1)
            if name == "GatedAutoEncoder":
                a = (u + c(p.b_gate) > 0) * relu(np.exp(c(p.r_mag)) * u + c(p.b_mag))
                return a, a @ c(p.dec) + c(p.b_dec)
            h = u + c(p.b_enc)
            if name in ("AutoEncoder", "AutoEncoderNew"):
                # Decoder rows of norm 1: what the loader does, what the other one reports.
                a = relu(h) * norms
                return a, (a / norms) @ c(p.dec) + c(p.b_dec)
            a = {"JumpReluAutoEncoder": lambda: jump(relu(h), c(p.t)), "AutoEncoderTopK": lambda: topk(h, k),
                 "unfitted": lambda: topk(h, k)}.get(name, lambda: jump(relu(h), c(t)))()
            return a, a @ c(p.dec) + c(p.b_dec)

        def saelens(folder, x, name=name, p=p):
            a, y = converted("dictionary_learning_1", folder, x, {"dtype": "float64"}, pickled="ae")
            # It leaves the rows as they are.
            return (a * np.linalg.norm(p.dec.astype(np.float64), axis=1) if name == "AutoEncoder" else a), y

        yield Case(
            path, run,
            {"format": "dictionary-learning", "hook": "blocks.6.hook_resid_post", "context_size": 128,
             "model_name": "EleutherAI/pythia-70m"},
            {"activation": "topk"} if name == "unfitted" else {},
            # AutoEncoderNew: beta is wrong there; unfitted runs as a jumprelu with threshold -1.
            saelens=None if name in ("AutoEncoderNew", "unfitted") else saelens,
        )


# --- files of tensors ----------------------------------------------------------------------------


def linear(root, rng, n):
    for name, metadata, told in (("openai_topk", {"activation": "TopK", "k": 6}, {}),
                                 ("openai_relu", None, {"activation": "relu"}),
                                 ("goodfire", None, {}), ("linear", None, {})):
        p = Draw(rng, n)
        openai = name.startswith("openai")
        if openai:
            tensors = p.file(pre_bias=p.b_dec, encoder__weight=p.enc.T, latent_bias=p.b_enc,
                             decoder__weight=p.dec.T)
        else:
            e, d = ("encoder_linear", "decoder_linear") if name == "goodfire" else ("encoder", "decoder")
            tensors = {e + ".weight": np.ascontiguousarray(p.enc.T), e + ".bias": p.b_enc,
                       d + ".weight": np.ascontiguousarray(p.dec.T), d + ".bias": p.b_dec}
        path = f"{name}/SAE-l19.safetensors"
        save(root / path, tensors, metadata)

        def run(x, p=p, name=name, openai=openai):
            if name != "openai_topk":
                return plain(p, relu, beta=openai)(x)
            mean = x.mean(1, keepdims=True)
            sd = x.std(1, ddof=1, keepdims=True)
            a, y = plain(p, lambda h: topk(h, 6))((x - mean) / (sd + x.dtype.type(1e-5)))
            return a, y * sd + mean

        yield Case(path, run, {"format": "openai" if openai else name,
                               "hook": "blocks.19.hook_resid_post"}, told)


# --- circuit-tracer ------------------------------------------------------------------------------


def transcoder_set(root, rng, n):
    for name, keys in (("relu", {}), ("jump", {}), ("topk", {"k": 4}), ("turned", {})):
        for layer in (0, 7):
            p = Draw(rng, n, bf16=name == "jump")
            if name == "jump" and layer:
                p.t = p.keep(p.t - 0.5)  # below 0 its activation lets negative values pass
            tensors = p.file(W_enc=p.enc.T, b_enc=p.b_enc, b_dec=p.b_dec,
                             W_dec=p.dec.T if name == "turned" else p.dec)
            if name == "jump":
                tensors.update(p.file(activation_function__threshold=p.t))
            if name != "relu":
                tensors.update(p.file(W_skip=p.skip))
            folder = root / f"set_{name}"
            save(folder / f"layer_{layer}.safetensors", tensors)
            lines = ["# a set", "model_name: \"tiny/qwen\"", "model_kind: transcoder_set",
                     "feature_input_hook: mlp.hook_in  # after the gain", "feature_output_hook: mlp.hook_out",
                     "scan:", "  - one", "  - two", *(f"{k}: {v}" for k, v in keys.items())]
            (folder / "config.yaml").write_text("\n".join(lines) + "\n")
            act = {"jump": lambda h, p=p: jump(h, p.t.astype(h.dtype)), "topk": lambda h: topk(h, 4)}.get(name, relu)

            def saelens(path, x, layer=layer):
                return converted("mwhanna_transcoder", path, x, {"dtype": "float64"}, file=f"layer_{layer}.safetensors")

            yield Case(
                f"set_{name}#{layer}",
                plain(p, act, beta=False, skip=name != "relu"),
                {"format": "circuit-tracer", "hook": f"blocks.{layer}.mlp.hook_in",
                 "hook_out": f"blocks.{layer}.mlp.hook_out", "model_name": "tiny/qwen"},
                saelens=saelens if name == "relu" else None,
            )


def clt(root, rng, n):
    layers = 3
    ps = [Draw(rng, n, bf16=True) for _ in range(layers)]
    for name in ("clt", "clt_relu"):
        for l, p in enumerate(ps):
            dec = p.keep(rng.standard_normal((n.s, layers - l, n.d)) / n.d**0.5)
            p.writes = dec
            tensors = {f"W_enc_{l}": p.enc.T, f"b_enc_{l}": p.b_enc, f"b_dec_{l}": p.b_dec}
            if name == "clt":
                tensors[f"threshold_{l}"] = p.t
            save(root / name / f"W_enc_{l}.safetensors", p.file(**tensors))
            save(root / name / f"W_dec_{l}.safetensors", p.file(**{f"W_dec_{l}": dec}))
        (root / name / "config.yaml").write_text(
            "model_name: google/gemma-2-2b\nmodel_kind: cross_layer_transcoder\n"
            "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n")
        for l, m in ((0, None), (1, 1), (1, 2)) if name == "clt" else ((2, 2), (0, 1)):
            p = ps[l]

            def run(x, p=p, l=l, m=m, dec=p.writes, act=name):
                c = lambda v: v.astype(x.dtype)
                h = x @ c(p.enc) + c(p.b_enc)
                a = jump(h, c(p.t)) if act == "clt" else relu(h)
                to = l if m is None else m
                return a, a @ c(dec[:, to - l]) + (c(p.b_dec) if to == l else 0)

            def saelens(path, x, l=l):
                # It sums the decoders of all layers: no output to compare.
                return converted("mntss_clt_layer_transcoder", path, x, {"dtype": "float64"}, file=str(l))[0], None

            yield Case(
                f"{name}#{l}" + ("" if m is None else f":{m}"), run,
                {"format": "circuit-tracer-clt", "encode_only": int(m is None),
                 "hook": f"blocks.{l}.hook_resid_mid"},
                decode=m is not None, saelens=saelens if name == "clt_relu" else None,
            )


# --- Gemma Scope ---------------------------------------------------------------------------------


def gemma_scope(root, rng, n):
    for path, hook, out in (
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "hook_embed", None),
        ("gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_41",
         "blocks.5.ln2.hook_normalized", "blocks.5.hook_mlp_out"),
        ("gemma-scope-9b-pt-att/layer_9/width_16k/average_l0_20", "blocks.9.attn.hook_z", None),
    ):
        p = Draw(rng, n)
        (root / path).mkdir(parents=True, exist_ok=True)
        np.savez(root / path / "params.npz", W_enc=p.enc, W_dec=p.dec, b_enc=p.b_enc, b_dec=p.b_dec,
                 threshold=p.t)
        embedding = "embedding" in path

        def run(x, p=p, embedding=embedding):
            root_d = x.dtype.type(x.shape[1]) ** x.dtype.type(0.5) if embedding else x.dtype.type(1)
            c = lambda v: v.astype(x.dtype)
            a = jump(relu((x / root_d) @ c(p.enc) + c(p.b_enc)), c(p.t))
            return a, (a @ c(p.dec) + c(p.b_dec)) * root_d

        def saelens(folder, x, p=p, embedding=embedding, out=out):
            a, y = converted("gemma_2_transcoder" if out else "gemma_2", folder, x,
                             {"d_in": x.shape[1], "d_out": x.shape[1]})
            # It leaves b_dec of an embedding SAE unscaled.
            return a, y + (x.shape[1] ** 0.5 - 1) * p.b_dec if embedding else y

        yield Case(path, run, {"format": "gemma-scope", "hook": hook, "hook_out": out or hook,
                               "context_size": 1024, "prepend_bos": 1,
                               "model_name": "google/gemma-2-9b" if "9b" in path else "google/gemma-2-2b"},
                   saelens=None if "att" in path else saelens)


def gemma_scope_2(root, rng, n):
    base = "gemma-scope-2-1b-it"
    for site, affine, hook, out in (
        ("transcoder_all/layer_11_width_16k_l0_small_affine", True, "pre_feedforward_layernorm.output",
         "post_feedforward_layernorm.output"),
        ("resid_post/layer_13_width_262k_l0_medium_seed_1", False, "output", None),
        ("attn_out/layer_7_width_16k_l0_big", False, "self_attn.o_proj.input", None),
    ):
        layer = int(site.split("layer_")[1].split("_")[0])
        p = Draw(rng, n)
        tensors = dict(w_enc=p.enc, w_dec=p.dec, b_enc=p.b_enc, b_dec=p.b_dec, threshold=p.t)
        if affine:
            tensors["affine_skip_connection"] = np.ascontiguousarray(p.skip.T)
        path = f"{base}/{site}"
        save(root / path / "params.safetensors", tensors)
        yield Case(
            path, plain(p, lambda h, p=p: jump(relu(h), p.t.astype(h.dtype)), beta=False, skip=affine),
            {"format": "gemma-scope-2", "hook": f"model.layers.{layer}.{hook}",
             "hook_out": f"model.layers.{layer}.{out or hook}", "model_name": "google/gemma-3-1b-it",
             "architecture": "jumprelu_skip_transcoder" if affine else "jumprelu"},
            saelens=lambda folder, x: converted("gemma_3", folder, x, {"dtype": "float64"}),
        )
    yield from gemma_layers(root, rng, n)


def gemma_layers(root, rng, n):
    for kind, layers in (("clt/width_262k_l0_big_affine", (0, 1, 2)),
                         ("crosscoder/width_262k_l0_medium", (4, 9, 11))):
        cross = "crosscoder" in kind
        path = f"gemma-scope-2-1b-pt/{kind}"
        cases = []  # only a folder that is complete can be opened
        for at, l in enumerate(layers):
            p = Draw(rng, n)
            writes = p.keep(rng.standard_normal((n.s, len(layers), n.d)) / n.d**0.5)
            tensors = dict(w_enc=p.enc, w_dec=writes, b_enc=p.b_enc, b_dec=p.b_dec, threshold=p.t)
            if not cross:
                tensors["affine_skip_connection"] = np.ascontiguousarray(p.skip.T)
            save(root / path / f"params_layer_{l}.safetensors", tensors)
            if at != 1:
                continue
            for to in (1, 0) if cross else (None, 1, 2):

                def run(x, p=p, writes=writes, to=1 if to is None else to, own=to == 1, cross=cross):
                    c = lambda v: v.astype(x.dtype)
                    a = jump(relu(x @ c(p.enc) + c(p.b_enc)), c(p.t))
                    y = a @ c(writes[:, to])
                    if own:
                        y = y + c(p.b_dec) + (0 if cross else x @ c(p.skip).T)
                    return a, y

                cases.append(Case(
                    f"{path}#{l}" + ("" if to is None else f":{layers[to]}"), run,
                    {"format": "gemma-scope-2-crosscoder" if cross else "gemma-scope-2-clt",
                     "encode_only": int(to is None), "model_name": "google/gemma-3-1b-pt"},
                    decode=to is not None,
                ))
        yield from cases


# --- SAELens -------------------------------------------------------------------------------------


def saelens_folders(root, rng, n):
    """Scales that lie beside the weights or are told, and centred models."""
    for path, scale, extra, told in (
        ("saelens_checkpoint", 0.43, {}, {}),
        ("saelens_told", 1.9, {}, {"scale": 1.9}),
        ("sae_group_gpt2_blocks.5.hook_mlp_out_24576:v0", 1.550234472245924, {}, {}),
        ("GPT2-Small-SAEs-Reformatted/blocks.1.hook_resid_pre", None, {}, {}),
        ("centred_told", None, {}, {"center_input": 1}),
        ("Mistral-7B-Residual-Stream-SAEs/mistral_7b_layer_8", None, {}, {}),
    ):
        p = Draw(rng, n)
        save(root / path / "sae_weights.safetensors",
             dict(W_enc=p.enc, W_dec=p.dec, b_enc=p.b_enc, b_dec=p.b_dec))
        save_json(root / path / "cfg.json",
                  {"architecture": "standard", "d_in": n.d, "d_sae": n.s, "dtype": "float32",
                   "hook_point": "blocks.1.hook_resid_pre", "model_name": "gpt2-small",
                   "normalize_activations": "expected_average_only_in" if scale else "none"})
        if path == "saelens_checkpoint":
            save_json(root / path / "activation_scaler.json", {"scaling_factor": scale})

        def run(x, p=p, s=scale, path=path):
            if s:
                a, y = plain(p, relu)(x * x.dtype.type(s))
                return a, y / x.dtype.type(s)
            if "Mistral" in path:
                norm = x.dtype.type(x.shape[1]) ** x.dtype.type(0.5) / np.linalg.norm(x, axis=1, keepdims=True)
                a, y = plain(p, relu)(x * norm)
                return a, y / norm
            return plain(p, relu)(x - x.mean(1, keepdims=True))

        yield Case(path, run, {"format": "saelens", "scale": scale or 0, "model_name": "gpt2-small",
                               "normalize": "constant_norm_rescale" if "Mistral" in path else "none"}, told)


GROUPS = (sparsify, llama_scope, llama_scope_r1, openmoss, openmoss_clt, dictionary_learning, linear, transcoder_set, clt,
          gemma_scope, gemma_scope_2, saelens_folders)


# --- SAELens' converters -------------------------------------------------------------------------


def converted(name, folder, x, overrides, scale=None, pickled=None, file=None):
    """The folder through a converter of SAELens, in binary64; hub files are taken from beside it."""
    from huggingface_hub.utils import EntryNotFoundError
    from safetensors.torch import load_file

    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    folder = pathlib.Path(folder)
    base = folder.parent
    for part in folder.parents:
        if part.name.startswith("gemma-scope"):
            base = part

    def local(repo_id, filename, subfolder=None, **_):
        at = base / (subfolder or "") / filename
        if pickled and at.name == pickled + ".pt":
            made = pathlib.Path(tempfile.mkdtemp()) / at.name
            torch.save(load_file(at.with_suffix(".safetensors")), made)
            return str(made)
        if file and filename.startswith(("wandb", "wanb")):
            made = pathlib.Path(tempfile.mkdtemp()) / filename
            made.write_text(
                f"d_model:\n  value: {x.shape[1]}\nd_feature:\n  value: 1\nbatch_size:\n  value: 9\n"
            )
            return str(made)
        if file and not at.exists():
            at = folder / filename
        if not at.exists():
            raise EntryNotFoundError(str(at))
        return str(at)

    def shapes(repo_id, filename):
        return {k: list(v.shape) for k, v in load_file(local(repo_id, filename)).items()}

    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
    cfg, state, _ = loaders.NAMED_PRETRAINED_SAE_LOADERS[name](
        base.name, file or str(folder.relative_to(base)), "cpu", False, {"device": "cpu", **overrides}
    )
    state = {k: v.double() for k, v in state.items()}
    cfg = loaders.handle_config_defaulting({**cfg, "d_sae": state["W_enc"].shape[1], "dtype": "float64"})
    sae = SAE.from_dict({**cfg, "d_sae": state["W_enc"].shape[1], "dtype": "float64"})
    sae.load_state_dict(state)
    if scale:
        sae.fold_activation_norm_scaling_factor(scale)
    with torch.no_grad():
        xt = torch.from_numpy(x.astype(np.float64))
        if sae.cfg.reshape_activations == "hook_z":
            sae.turn_off_forward_pass_hook_z_reshaping()
        a = sae.encode(xt)
        sae.decode(a)
        return a.numpy(), sae(xt).numpy()


# --- comparing -----------------------------------------------------------------------------------


def rows_of(case, rng, n):
    """Inputs around a mean whose active sets no rounding decides."""
    x = rng.standard_normal((6 * n.rows, n.d)) * 1.5 + rng.standard_normal(n.d) * 0.8
    x = (x * np.exp(0.5 * rng.standard_normal((len(x), 1)))).astype(np.float32)
    wide = x.astype(np.float64)
    sets = [case.run(v)[0] != 0 for v in (x, wide, wide * (1 + 1e-5), wide * (1 - 1e-5))]
    clear = np.all([(s == sets[0]).all(1) for s in sets], axis=0)
    assert clear.sum() >= n.rows, case.path
    return x[clear][: n.rows]


def distance(a, b, x):
    scale = np.maximum(np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True), 1)
    return float((np.abs(a - b) / scale).max())


def checked(case, root, rng, n):
    """x, the exact results, their binary32 distances; SAELens agrees where it converts."""
    x = rows_of(case, rng, n)
    a, y = case.run(x.astype(np.float64))
    a32, y32 = case.run(x)
    if case.saelens:
        other = case.saelens(root / case.path.split("#")[0], x)
        assert distance(other[0], a, x) < 1e-6, (case.path, distance(other[0], a, x))
        assert other[1] is None or distance(other[1], y, x) < 1e-6, (case.path, distance(other[1], y, x))
    return x, a, y, distance(a32, a, x), distance(y32, y, x)


def write(folder):
    rng = np.random.default_rng(71)
    n = Sizes(8, 10, 8, 4)
    shutil.rmtree(folder, ignore_errors=True)
    index = []
    for group in GROUPS:
        for case in group(folder, rng, n):
            x, a, y, error_acts, error_recon = checked(case, folder, rng, n)
            name = "%02d" % len(index)
            save(folder / f"{name}.expected.safetensors", {"x": x, "oracle.acts": a, "oracle.recon": y})
            index.append({"name": name, "path": case.path, "settings": case.told, "info": case.info,
                          "decode": case.decode, "f32_error_acts": float("%.3g" % error_acts),
                          "f32_error_recon": float("%.3g" % error_recon)})
    save_json(folder / "saes.json", {"versions": versions("numpy", "torch", "sae_lens"), "saes": index})


def live(rounds, seed):
    import qsae

    ctx = qsae.Context(threads=2)
    counts = {"saes": 0, "saelens": 0, "entries": 0, "other sets": 0}
    for i in range(rounds):
        rng = np.random.default_rng(seed + i)
        d = int(rng.integers(3, 12)) * 4
        n = Sizes(d, 5 * int(rng.integers(3, 40)), d, 40)
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for group in GROUPS:
                for case in group(root, rng, n):
                    x, a, y, error_acts, error_recon = checked(case, root, rng, n)
                    sae = qsae.SAE(ctx, str(root) + "/" + case.path, **case.told)
                    got = sae.encode(x)
                    for key, want in case.info.items():
                        have = sae.info[key]
                        same = abs(have - want) <= 1e-6 * abs(want) if isinstance(want, float) else have == want
                        assert same, (case.path, key, want, have)
                    counts["saes"] += 1
                    counts["saelens"] += case.saelens is not None
                    counts["entries"] += int((a != 0).sum())
                    counts["other sets"] += int(((a != 0) != (got != 0)).sum())
                    assert distance(got, a, x) <= 2 * error_acts + 1e-7, (case.path, distance(got, a, x), error_acts)
                    if case.decode:
                        back = sae.reconstruct(x)
                        assert distance(back, y, x) <= 2 * error_recon + 1e-7, (
                            case.path, distance(back, y, x), error_recon)
    print(", ".join(f"{v} {k}" for k, v in counts.items()))
    return counts["other sets"] == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(DATA / "sae_formats"))
    parser.add_argument("--live", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    if options.live:
        raise SystemExit(0 if live(options.live, options.seed) else 1)
    write(pathlib.Path(options.folder))
