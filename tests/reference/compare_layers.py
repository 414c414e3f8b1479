# SPDX-License-Identifier: BSD-2-Clause
"""Random cross-layer transcoders, crosscoders and sets, whole, against circuit-tracer and NumPy.

usage: compare_layers.py [--count N] [--seed N]
Circuit-tracer's CLTs are written by its own to_safetensors and run by its CrossLayerTranscoder in
f64; Gemma Scope 2's by its load_gemma_scope_2_clt; crosscoders and OpenMOSS' by the formulas of
sae.md A.2 in f64. Activations and outputs of every layer must be equal to 2e-5 of the largest.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import save_file

import qsae


def bf16(v):
    return torch.tensor(v).to(torch.bfloat16).double().numpy()


class Draw:
    def __init__(self, rng, n, features, d, d_out, jump, kind):
        normal = rng.standard_normal
        self.n, self.kind, self.jump = n, kind, jump
        self.enc = [bf16(normal((d, f)) / d**0.5) for f in features]
        self.b_enc = [bf16(normal(f) * 0.3) for f in features]
        self.t = [bf16(rng.random(f)) for f in features]
        self.b_dec = [bf16(normal(d_out)) for _ in features]
        self.skip = [bf16(normal((d, d_out)) * 0.2) for _ in features]
        # [from][f, to, d]: entries a layer does not write are noise that must not be read
        self.dec = [bf16(normal((f, n, d_out)) / 4) for f in features]

    def acts(self, xs):
        out = []
        for l, x in enumerate(xs):
            h = x @ self.enc[l] + self.b_enc[l]
            out.append(np.where(h > self.t[l], h, 0) if self.jump else np.maximum(h, 0))
        return out

    def outputs(self, xs, skip):
        a, ys = self.acts(xs), []
        for m in range(self.n):
            y = self.b_dec[m] + sum(a[l] @ self.dec[l][:, m] for l in range(self.n)
                                    if self.kind == "crosscoder" or l <= m)
            ys.append(y + xs[m] @ self.skip[m] if skip else y)
        return ys


def save(path, tensors, dtype=torch.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: torch.tensor(np.ascontiguousarray(v)).to(dtype) for k, v in tensors.items()}
    save_file(tensors, path)


def write_circuit_tracer(p, folder, dtype):
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
    clt = CrossLayerTranscoder(p.n, p.enc[0].shape[1], p.enc[0].shape[0],
                               "jump_relu" if p.jump else "relu", lazy_decoder=False,
                               device=torch.device("cpu"), dtype=dtype)
    with torch.no_grad():
        for l in range(p.n):
            clt.W_enc[l] = torch.tensor(p.enc[l].T)
            clt.b_enc[l] = torch.tensor(p.b_enc[l])
            clt.b_dec[l] = torch.tensor(p.b_dec[l])
            clt.W_dec[l].copy_(torch.tensor(p.dec[l][:, l:]))
            if p.jump:
                clt.activation_function.threshold[l, 0] = torch.tensor(p.t[l])
    clt.to_safetensors(str(folder))
    return load_clt(str(folder), device=torch.device("cpu"), dtype=torch.float64)


def write_scope(p, folder, skip, ids):
    for l, layer in enumerate(ids):
        t = {"w_enc": p.enc[l], "b_enc": p.b_enc[l], "threshold": p.t[l], "b_dec": p.b_dec[l],
             "w_dec": p.dec[l]}
        if skip:
            t["affine_skip_connection"] = p.skip[l]
        save(folder / f"params_layer_{layer}.safetensors", t)


def scope_reference(p, folder):
    from circuit_tracer.transcoder.cross_layer_transcoder import load_gemma_scope_2_clt
    # It reads layers below the largest key: one more key than there are layers.
    paths = {l: str(folder / f"params_layer_{l}.safetensors") for l in range(p.n)}
    clt = load_gemma_scope_2_clt({**paths, p.n: ""}, device=torch.device("cpu"),
                                 dtype=torch.float64)
    if clt.W_skip is not None:
        clt.W_skip.data = clt.W_skip.data.double()
    return clt


def write_openmoss(p, folder, rng, d, features):
    norm_in = [float(rng.random() * 20 + 3) for _ in range(p.n)]
    norm_out = [float(rng.random() * 20 + 3) for _ in range(p.n)]
    hooks = [f"blocks.{l}.ln2.hook_normalized" for l in range(p.n)], \
        [f"blocks.{l}.hook_mlp_out" for l in range(p.n)]
    t = {"W_E": np.stack(p.enc), "b_E": np.stack(p.b_enc)}
    for m in range(p.n):
        t[f"W_D.{m}"] = np.stack([p.dec[l][:, m] for l in range(m + 1)])
        t[f"b_D.{m}"] = p.b_dec[m]
        t[f"dataset_average_activation_norm.{hooks[0][m]}"] = np.array(norm_in[m])
        t[f"dataset_average_activation_norm.{hooks[1][m]}"] = np.array(norm_out[m])
    if p.jump:
        t["activation_function.log_jumprelu_threshold"] = np.log(np.stack(p.t) + 1e-3)
    save(folder / "sae_weights.safetensors", t)
    (folder / "config.json").write_text(json.dumps({
        "sae_type": "clt", "d_model": d, "expansion_factor": features / d,
        "hook_points_in": hooks[0],
        "hook_points_out": hooks[1], "act_fn": "jumprelu" if p.jump else "relu",
        "sparsity_include_decoder_norm": False, "norm_activation": "dataset-wise"}))
    # The same in f64: inputs times s_in, outputs divided by s_out.
    f32 = lambda v: np.asarray(v, np.float32).astype(np.float64)
    s_in, s_out = d**0.5 / f32(norm_in), d**0.5 / f32(norm_out)
    p.t = [np.exp(f32(np.log(v + 1e-3))) for v in p.t]

    def run(xs):
        scaled = [x * s for x, s in zip(xs, s_in)]
        return p.acts(scaled), [y / s for y, s in zip(p.outputs(scaled, False), s_out)]
    return run


def by_formula(p, skip):
    return lambda xs: (p.acts(xs), p.outputs(xs, skip))


def by_module(clt):
    def run(xs):
        x = torch.tensor(np.stack(xs))
        with torch.no_grad():
            a = clt.encode(x)  # its forward() does not run with a skip connection (0.5.0)
            return list(a.numpy()), list(clt.decode(a, x).numpy())
    return run


def one(rng, folder, i):
    n, d, f = int(rng.integers(1, 6)), int(rng.integers(3, 40)), int(rng.integers(5, 90))
    kind = ("circuit-tracer", "scope", "openmoss", "crosscoder", "scope-formula")[i % 5]
    jump = kind in ("scope", "crosscoder", "scope-formula") or bool(rng.integers(2))
    skip = kind.startswith("scope") and bool(rng.integers(2))
    f = d * int(rng.integers(1, 4)) if kind == "openmoss" else f  # its expansion_factor is whole
    features = [int(rng.integers(5, 90)) if kind in ("crosscoder", "scope-formula") else f
                for _ in range(n)]
    p = Draw(rng, n, features, d, d, jump, kind)
    if kind == "circuit-tracer":
        dtype = (torch.bfloat16, torch.float32, torch.float64, torch.float16)[i // 5 % 4]
        if dtype == torch.float16:
            p.dec = [v.astype(np.float16).astype(np.float64) for v in p.dec]
            p.enc = [v.astype(np.float16).astype(np.float64) for v in p.enc]
        run = by_module(write_circuit_tracer(p, folder / "x", dtype))
        folder = folder / "x"
    elif kind == "openmoss":
        folder = folder / "x"
        run = write_openmoss(p, folder, rng, d, f)
    else:
        cross = kind == "crosscoder"
        folder = folder / "gemma-scope-2-1b-pt" / ("crosscoder" if cross else "clt") / "x"
        ids = sorted(rng.choice(40, n, replace=False).tolist()) if cross else range(n)
        write_scope(p, folder, skip, ids)
        run = by_module(scope_reference(p, folder)) if kind == "scope" else by_formula(p, skip)
    return kind, folder, run, n, d


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ctx = qsae.Context(threads=2)
    counts, worst = {}, 0.0
    for i in range(args.count):
        rng = np.random.default_rng((args.seed, i))
        with tempfile.TemporaryDirectory() as folder:
            kind, path, run, n, d = one(rng, pathlib.Path(folder), i)
            layers = qsae.SAELayers(ctx, str(path))
            xs = [rng.standard_normal((int(11), d)).astype(np.float32) for _ in range(n)]
            acts, ys = run([x.astype(np.float64) for x in xs])
            for what, got, want in (("acts", layers.encode(xs), acts),
                                    ("y", layers.reconstruct(xs), ys)):
                for l in range(n):
                    scale = max(1.0, np.abs(want[l]).max())
                    distance = np.abs(got[l] - want[l])
                    if what == "acts":  # a feature next to its threshold may fall either way
                        distance = np.where((got[l] != 0) == (want[l] != 0), distance, 0)
                    worst = max(worst, distance.max() / scale / 2e-5)
                    if not distance.max() <= 2e-5 * scale:
                        sys.exit(f"{i} {kind} layer {l} {what}: off by {distance.max()}")
            layers.close()
            counts[kind] = counts.get(kind, 0) + 1
    print(f"equal: {counts}, worst {worst:.3f} of the tolerance")


if __name__ == "__main__":
    main()
