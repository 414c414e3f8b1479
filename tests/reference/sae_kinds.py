# SPDX-License-Identifier: BSD-2-Clause
"""Random SAEs of the rarer architectures and options, with what SAELens makes of them.

Random modules are built and saved by SAELens itself where it has the architecture; groupmax and the
cases it cannot run (a factor that is undone, centred input, a known prefix) are plain formulas.
Fixed seeds are written to tests/data/sae_kinds; with --library random modules are compared live,
each in a temporary folder.
"""

from common import DATA, folder_size, one_thread, save, save_json, versions

torch = one_thread()

import argparse
import collections
import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata

NORMS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in")
SAELENS = (
    "standard",
    "gated",
    "jumprelu",
    "topk",
    "abstopk",
    "matching_pursuit",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
TRAINING = ("batchtopk", "matryoshka_batchtopk")
FORMULAS = ("groupmax", "tanh-relu", "centred")


def meta(hook="blocks.1.hook_resid_post"):
    return {"model_name": "tiny", "hook_name": hook, "context_size": 32, "prepend_bos": True}


def draw(rng, kind):
    """A configuration: sizes and options at random."""
    heads, d = int(rng.integers(1, 5)), int(rng.integers(2, 16))
    c = {
        "architecture": kind,
        "d_in": heads * d if kind in SAELENS else int(rng.integers(3, 60)),
        "d_sae": int(rng.integers(2, 200)),
        "normalize": str(rng.choice(NORMS)),
        "b_dec": bool(rng.integers(2)),
        "dtype": str(rng.choice(("float32", "float32", "bfloat16", "float16"))),
        "heads": heads,
        "hook_z": False,
    }
    c["d_in"] = max(c["d_in"], 3)
    if "transcoder" in kind:
        c["d_out"] = int(rng.integers(1, 60))
        c["b_dec"] = False
    elif kind in SAELENS and c["d_in"] % heads == 0:
        c["hook_z"] = bool(rng.integers(2))
    if kind in ("topk", "abstopk", "groupmax"):
        c["k"] = int(rng.integers(1, c["d_sae"] + 1))
    if kind in ("topk", "abstopk") or kind in TRAINING:
        c["rescale"] = bool(rng.integers(2))
    if kind == "groupmax":
        c["d_sae"] = c["k"] * int(rng.integers(1, 12))
    if kind == "matching_pursuit":
        c["max_iterations"] = None if rng.integers(2) else int(rng.integers(1, 20))
        c["residual_threshold"] = float(rng.choice((1e-2, 0.0, 3.0)))
        c["stop"] = bool(rng.integers(4)) or c["max_iterations"] is None
    if kind in FORMULAS:
        c["normalize"] = "none"
    return c


def parameters(c, gen):
    d, s, out = c["d_in"], c["d_sae"], c.get("d_out", c["d_in"])

    def normal(*shape):
        return torch.randn(*shape, generator=gen)

    w_dec = normal(s, out)
    if c["architecture"] == "matching_pursuit":
        w_dec /= w_dec.norm(dim=1, keepdim=True)
    else:
        w_dec *= (0.2 + 2 * torch.rand(s, 1, generator=gen)) / out**0.5
    return {
        "W_enc": normal(d, s) / d**0.5,
        "W_dec": w_dec,
        "b_dec": 0.5 * normal(out),
        "b_enc": 0.4 * normal(s) - 0.3,
        "threshold": torch.rand(s, generator=gen) * (torch.rand(s, generator=gen) > 0.1),
        "b_gate": 0.4 * normal(s) - 0.2,
        "b_mag": 0.4 * normal(s),
        "r_mag": 0.3 * normal(s),
        "W_skip": normal(out, d) / d**0.5,
    }


def build(c, values, folder):
    """Saves the SAE; returns forward functions in f32 and f64 of what the file holds."""
    kind = c["architecture"]
    cfg = {
        "d_in": c["d_in"],
        "d_sae": c["d_sae"],
        "dtype": c["dtype"],
        "device": "cpu",
        "apply_b_dec_to_input": c["b_dec"],
        "normalize_activations": c["normalize"],
        "reshape_activations": "hook_z" if c["hook_z"] else "none",
        "metadata": meta("blocks.1.attn.hook_z" if c["hook_z"] else "blocks.1.hook_resid_post"),
    }
    if kind in TRAINING:
        return build_training(c, cfg, values, folder)
    if kind in FORMULAS:
        return build_formula(c, cfg, values, folder)
    cfg["architecture"] = kind
    for key, name in (
        ("d_out", "d_out"),
        ("k", "k"),
        ("rescale", "rescale_acts_by_decoder_norm"),
        ("max_iterations", "max_iterations"),
        ("residual_threshold", "residual_threshold"),
        ("stop", "stop_on_duplicate_support"),
    ):
        if key in c:
            cfg[name] = c[key]
    sae = SAE.from_dict(cfg)
    sae.load_state_dict({k: values[k].to(sae.dtype) for k in sae.state_dict()})
    sae.save_model(folder)
    return [runner(SAE.load_from_disk(folder, dtype=t), c) for t in ("float32", "float64")]


def runner(sae, c):
    heads = c["heads"] if c["hook_z"] else 0

    def run(x):
        given = x.reshape(len(x), heads, -1) if heads else x
        with torch.no_grad():
            acts = sae.encode(given)
            sae.decode(acts)  # consumes the state of the normalisation
            return acts, sae(given).reshape(len(x), -1)

    return run


def build_training(c, cfg, values, folder):
    """A training checkpoint; expected is the inference model that SAELens saves from it."""
    more = {"rescale_acts_by_decoder_norm": c["rescale"], "k": 5}
    config, module = BatchTopKTrainingSAEConfig, BatchTopKTrainingSAE
    if c["architecture"] == "matryoshka_batchtopk":
        config, module = MatryoshkaBatchTopKTrainingSAEConfig, MatryoshkaBatchTopKTrainingSAE
        more["matryoshka_widths"] = sorted({max(1, c["d_sae"] // 4), max(1, c["d_sae"] // 2)})
    cfg["metadata"] = SAEMetadata(**cfg["metadata"])
    sae = module(config(**cfg, **more))
    names = ("W_enc", "W_dec", "b_dec", "b_enc")
    sae.load_state_dict({k: values[k].to(sae.dtype) for k in names}, strict=False)
    sae.topk_threshold.fill_(0.6180339887498949)
    sae.save_model(folder)
    inference = pathlib.Path(str(folder) + "-inference")
    sae.save_inference_model(inference)
    modules = [SAE.load_from_disk(inference, dtype=t) for t in ("float32", "float64")]
    exact = {k: values[k].to(sae.dtype).double() for k in names}
    norms = exact["W_dec"].norm(dim=1).clamp(min=1e-8)
    norms = norms if c["rescale"] else torch.ones_like(norms)
    exact["W_dec"] /= norms[:, None]
    exact["W_enc"] *= norms
    exact["b_enc"] *= norms
    # SAELens folds in the dtype of the file; the oracle, and its f32 form, fold exactly.
    for m in modules:
        state = {k: v.to(m.dtype) for k, v in exact.items()}
        m.load_state_dict({**state, "threshold": m.threshold.data})
    shutil.rmtree(inference)
    return [runner(m, c) for m in modules]


def build_formula(c, cfg, values, folder):
    kind, names = c["architecture"], ("W_enc", "W_dec", "b_dec", "b_enc")
    folder.mkdir(parents=True)
    cfg["architecture"] = "groupmax" if kind == "groupmax" else "standard"
    cfg["metadata"]["sae_lens_version"] = "6.54.12"
    if kind == "groupmax":
        cfg["k"] = c["k"]
    if kind == "tanh-relu":
        cfg["metadata"]["sae_lens_version"] = "5.0.0"
        cfg["activation_fn_str"] = "tanh-relu"
    if kind == "centred":
        cfg["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    stored = {k: values[k].to(getattr(torch, c["dtype"])) for k in names}
    save(folder / "sae_weights.safetensors", stored)
    save_json(folder / "cfg.json", cfg)

    def in_dtype(dtype):
        p = {k: v.to(dtype) for k, v in stored.items()}

        def run(x):
            if kind == "centred":
                x = x - x.mean(1, keepdim=True)
            h = (x - p["b_dec"] if c["b_dec"] else x) @ p["W_enc"] + p["b_enc"]
            acts = h.relu()
            if kind == "tanh-relu":
                acts = acts.tanh()
            if kind == "groupmax":
                # As the fused encoder of sparsify: the first of equal ones, after the ReLU.
                top, at = acts.unflatten(-1, (c["k"], -1)).max(dim=-1)
                at = at + torch.arange(0, c["d_sae"], c["d_sae"] // c["k"])
                acts = torch.zeros_like(acts).scatter(-1, at, top)
            return acts, acts @ p["W_dec"] + p["b_dec"]

        return run

    return [in_dtype(torch.float32), in_dtype(torch.float64)]


def inputs(c, rng, count):
    x = rng.standard_normal((count, c["d_in"])) * 1.5 + rng.standard_normal(c["d_in"]) * 0.8
    x *= np.exp(0.5 * rng.standard_normal((count, 1)))
    x[3::16] *= 50
    return torch.from_numpy(x.astype(np.float32))


def live(library, count, seed):
    """Counts of rows and entries compared; anything beyond the bounds is an error."""
    os.environ["QSAE_LIBRARY"] = library
    sys.path.insert(0, str(DATA.parents[1] / "libqsae" / "python"))
    import qsae

    ctx = qsae.Context(threads=2)
    kinds = SAELENS + TRAINING + FORMULAS
    total = collections.defaultdict(lambda: np.zeros(6))
    bad = 0
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        c = draw(rng, kinds[i % len(kinds)])
        values = parameters(c, torch.Generator().manual_seed(i))
        with tempfile.TemporaryDirectory() as base:
            folder = pathlib.Path(base) / "sae"
            run32, run64 = build(c, values, folder)
            x = inputs(c, rng, 64)
            (a32, y32), (a64, y64) = run32(x), run64(x.double())
            sae = qsae.SAE(ctx, str(folder))
            acts, recon = sae.encode(x.numpy()), sae.reconstruct(x.numpy())
        bad += judge(c, i, x, acts, recon, a32, y32, a64, y64, total[c["architecture"]])
    for kind, t in sorted(total.items()):
        print(
            f"{kind:26} {t[0]:5.0f} SAEs, {t[1]:9.0f} active entries, {t[2]:.0f} flips of "
            f"ours, {t[3]:.0f} of SAELens f32; worst distance / SAELens': acts {t[4]:.2f}, "
            f"recon {t[5]:.2f}"
        )
    print(f"{count} SAEs, {bad} beyond the bounds")
    return bad > 0


def judge(c, i, x, acts, recon, a32, y32, a64, y64, t):
    a32, y32, a64, y64 = (v.numpy().astype(np.float64) for v in (a32, y32, a64, y64))
    flips, theirs = (acts != 0) != (a64 != 0), (a32 != 0) != (a64 != 0)
    t[:4] += 1, (a64 != 0).sum(), flips.sum(), theirs.sum()
    # Rows whose active set is that of the oracle in both.
    same = ~(flips.any(1) | theirs.any(1))
    scale = np.maximum(1, np.linalg.norm(x.numpy(), axis=1, keepdims=True))
    worst = []
    for ours, f32, f64 in ((acts, a32, a64), (recon, y32, y64)):
        mine = (np.abs(ours - f64) / scale)[same].max(initial=0)
        their = (np.abs(f32 - f64) / scale)[same].max(initial=0)
        worst.append(mine / max(their, 1e-9))
        if not mine <= 2 * their + 1e-8:
            print(f"{i} {c}: distance {mine:.3g}, SAELens {their:.3g}")
            return 1
    t[4:] = np.maximum(t[4:], worst)
    # An active set may differ only where SAELens' own rounding decides.
    edge = 2 * (np.abs(a32 - a64) / scale)[same].max(initial=1e-7) * scale
    size = np.maximum(np.abs(acts), np.abs(a64))
    if c["architecture"] in ("standard", "transcoder", "skip_transcoder", "tanh-relu", "centred"):
        if (size > edge)[flips].any():
            print(f"{i} {c}: an active entry of size {size[flips].max():.3g} differs")
            return 1
    return 0


# Name of a fixture: its configuration.
FIXED = {
    "abstopk": dict(architecture="abstopk", k=5),
    "abstopk_norm": dict(architecture="abstopk", k=9, rescale=True, normalize="layer_norm"),
    "abstopk_all": dict(architecture="abstopk", k=40, dtype="bfloat16"),
    "groupmax": dict(architecture="groupmax", k=8),
    "groupmax_one": dict(architecture="groupmax", k=1, b_dec=False),
    "matching_pursuit": dict(architecture="matching_pursuit"),
    "matching_pursuit_few": dict(
        architecture="matching_pursuit", max_iterations=4, b_dec=False, normalize="layer_norm"
    ),
    "matching_pursuit_long": dict(
        architecture="matching_pursuit", residual_threshold=0.0, stop=False, max_iterations=12
    ),
    "batchtopk": dict(architecture="batchtopk", rescale=True),
    "matryoshka": dict(architecture="matryoshka_batchtopk", rescale=True),
    "matryoshka_bf16": dict(architecture="matryoshka_batchtopk", rescale=False, dtype="bfloat16"),
    "tanh_relu": dict(architecture="tanh-relu"),
    "centred": dict(architecture="centred"),
    "unscaled": dict(architecture="standard", normalize="expected_average_only_in"),
}


def write(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = []
    for seed, (name, more) in enumerate(FIXED.items()):
        c = {
            **dict(d_in=16, d_sae=40, normalize="none", b_dec=True, dtype="float32", heads=0),
            **dict(hook_z=False, max_iterations=None, residual_threshold=1e-2, stop=True),
            **more,
        }
        if "pursuit" not in name:
            for key in ("max_iterations", "residual_threshold", "stop"):
                del c[key]
        values = parameters(c, torch.Generator().manual_seed(700 + seed))
        run32, run64 = build(c, values, folder / name)
        for file in (folder / name).glob("*.json"):
            save_json(file, json.loads(file.read_text()))
        x = inputs(c, np.random.default_rng(700 + seed), 60)
        (a32, y32), (a64, y64) = run32(x), run64(x.double())
        edges = (a32 - a64).abs().amax(1) <= 1e-5 * x.norm(dim=1)
        rows = torch.nonzero(edges & ((a32 != 0) == (a64 != 0)).all(1)).squeeze(1)[:16]
        assert len(rows) == 16, name
        x, a32, y32, a64, y64 = (v[rows] for v in (x, a32, y32, a64, y64))
        tensors = {"x": x, "oracle.acts": a64, "oracle.recon": y64}
        save(folder / f"{name}.expected.safetensors", tensors)
        scale = x.double().norm(dim=1, keepdim=True).clamp(min=1)
        index.append(
            {
                "name": name,
                "path": name,
                "format": "saelens",
                "architecture": {"tanh-relu": "standard", "centred": "standard"}.get(
                    c["architecture"], c["architecture"]
                ),
                "normalize": c["normalize"],
                "d_in": c["d_in"],
                "d_sae": c["d_sae"],
                "d_out": c["d_in"],
                "f32_error_acts": float("%.3g" % ((a32 - a64).abs() / scale).max()),
                "f32_error_recon": float("%.3g" % ((y32 - y64).abs() / scale).max()),
            }
        )
    save_json(folder / "saes.json", {"versions": versions("sae-lens", "torch"), "saes": index})
    print(f"{len(index)} SAEs, {folder_size(folder) / 1e3:.0f} kB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=str(DATA / "sae_kinds"), type=pathlib.Path)
    parser.add_argument("--library", help="libqsae.so: compare live instead of writing")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.library:
        sys.exit(live(args.library, args.count, args.seed))
    write(pathlib.Path(args.folder))


if __name__ == "__main__":
    main()
