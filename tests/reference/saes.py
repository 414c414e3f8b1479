# SPDX-License-Identifier: BSD-2-Clause
"""Small random sparse autoencoders in every file format, with activations and reconstructions.

SAELens builds, saves and runs what it can; formats it only loads from the network are written here
and run through the SAELens class they map to, or through plain formulas where it has none.
"""

from common import folder_size, one_thread, output_folder, save, save_json, versions

torch = one_thread()

import json
import logging
import os
import shutil
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAEMetadata

D, S, ROWS = 24, 48, 36
HOOK = {
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_post",
    "context_size": 32,
    "prepend_bos": True,
    "dataset_path": "none",
}


def parameters(seed, names, d_in=D, d_out=D, d_sae=S):
    """Decoder rows of different norms, biases on both sides of zero, some thresholds exactly 0."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=gen)

    out = {
        "W_enc": normal(d_in, d_sae) / d_in**0.5,
        "W_dec": normal(d_sae, d_out)
        / d_out**0.5
        * (0.4 + 1.6 * torch.rand(d_sae, 1, generator=gen)),
        "b_dec": 0.5 * normal(d_out),
        "b_enc": 0.4 * normal(d_sae) - 0.3,
        "threshold": torch.rand(d_sae, generator=gen) * (torch.rand(d_sae, generator=gen) > 0.1),
        "b_gate": 0.4 * normal(d_sae) - 0.2,
        "b_mag": 0.4 * normal(d_sae),
        "r_mag": 0.3 * normal(d_sae),
        "W_skip": normal(d_out, d_in) / d_in**0.5,
    }
    return {name: out[name] for name in names}


NAMES = {
    "standard": ("W_enc", "W_dec", "b_dec", "b_enc"),
    "topk": ("W_enc", "W_dec", "b_dec", "b_enc"),
    "jumprelu": ("W_enc", "W_dec", "b_dec", "b_enc", "threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"),
    "transcoder": ("W_enc", "W_dec", "b_dec", "b_enc"),
    "skip_transcoder": ("W_enc", "W_dec", "b_dec", "b_enc", "W_skip"),
    "jumprelu_transcoder": ("W_enc", "W_dec", "b_dec", "b_enc", "threshold"),
    "jumprelu_skip_transcoder": ("W_enc", "W_dec", "b_dec", "b_enc", "threshold", "W_skip"),
}

PLANS = {
    "standard": dict(architecture="standard"),
    "standard_raw_input": dict(architecture="standard", apply_b_dec_to_input=False),
    "standard_layer_norm": dict(architecture="standard", normalize_activations="layer_norm"),
    "standard_rescale": dict(
        architecture="standard", normalize_activations="constant_norm_rescale"
    ),
    "standard_hook_z": dict(architecture="standard", reshape_activations="hook_z"),
    "jumprelu": dict(architecture="jumprelu"),
    "jumprelu_raw_input": dict(architecture="jumprelu", apply_b_dec_to_input=False),
    "jumprelu_layer_norm": dict(architecture="jumprelu", normalize_activations="layer_norm"),
    "jumprelu_rescale": dict(
        architecture="jumprelu",
        normalize_activations="constant_norm_rescale",
        apply_b_dec_to_input=False,
    ),
    "jumprelu_bf16": dict(architecture="jumprelu", dtype="bfloat16"),
    "topk": dict(architecture="topk", k=8),
    "topk_raw_input": dict(architecture="topk", k=1, apply_b_dec_to_input=False),
    "topk_layer_norm": dict(architecture="topk", k=12, normalize_activations="layer_norm"),
    "topk_rescale": dict(architecture="topk", k=8, normalize_activations="constant_norm_rescale"),
    "topk_decoder_norm": dict(architecture="topk", k=8, rescale_acts_by_decoder_norm=True),
    "topk_decoder_norm_layer_norm": dict(
        architecture="topk",
        k=40,
        rescale_acts_by_decoder_norm=True,
        normalize_activations="layer_norm",
    ),
    "gated": dict(architecture="gated"),
    "gated_layer_norm": dict(
        architecture="gated", normalize_activations="layer_norm", apply_b_dec_to_input=False
    ),
    "transcoder": dict(architecture="transcoder", d_out=20),
    "skip_transcoder": dict(architecture="skip_transcoder", d_out=20),
    "jumprelu_transcoder": dict(architecture="jumprelu_transcoder", d_out=20),
    "jumprelu_skip_transcoder": dict(architecture="jumprelu_skip_transcoder", d_out=24),
}


def make(plan, seed):
    """A SAELens module with the given configuration and random parameters."""
    cfg = {
        "d_in": D,
        "d_sae": S,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **plan,
    }
    if "transcoder" in plan["architecture"]:
        cfg["apply_b_dec_to_input"] = False
    meta = dict(HOOK)
    if cfg["reshape_activations"] == "hook_z":
        meta["hook_name"] = "blocks.1.attn.hook_z"
    cfg["metadata"] = meta
    sae = SAE.from_dict(cfg)
    values = parameters(seed, NAMES[plan["architecture"]], d_out=cfg.get("d_out", D))
    sae.load_state_dict({k: v.to(sae.dtype) for k, v in values.items()})
    return sae


def inputs(seed, count):
    """Rows around a mean, of several magnitudes, the second one zero."""
    rng = np.random.default_rng(seed + 500)
    x = rng.standard_normal((count, D)) * 1.5 + rng.standard_normal(D) * 0.8
    x *= np.exp(0.5 * rng.standard_normal((count, 1)))
    x[3::16] *= 300
    x[1] = 0
    return torch.from_numpy(x.astype(np.float32))


def forward(sae, x):
    """(activations, reconstruction) of the whole module; hook_z modules take [n, heads, d_head]."""
    z = sae.cfg.reshape_activations == "hook_z"
    given = x.reshape(-1, 4, D // 4) if z else x
    with torch.no_grad():
        acts = sae.encode(given)
        # Decoding consumes the normalisation state, so that the module runs afresh.
        sae.decode(acts)
        recon = sae(given)
    return acts, recon.reshape(len(x), -1)


def expect(folder, name, sae32, sae64, entry, x=None, margin=None):
    """Run in fp32 and binary64 and store the rows whose active set is clear."""
    if x is None:
        x = inputs(entry["seed"], 3 * ROWS)
        if "rescale" == entry.get("normalize", "")[-7:]:
            x[1] = 0.25  # a zero row has no scale
    a32, r32 = sae32(x)
    a64, r64 = sae64(x.double())
    clear = ((a32 != 0) == (a64 != 0)).all(1)
    if margin is not None:
        clear &= margin(x.double())
    rows = torch.nonzero(clear).squeeze(1)[:ROWS]
    assert len(rows) == ROWS, (name, len(rows))
    x, a32, r32, a64, r64 = (t[rows] for t in (x, a32, r32, a64, r64))
    assert torch.isfinite(r64).all()
    save(
        folder / f"{name}.expected.safetensors",
        {"x": x, "f32.acts": a32, "f32.recon": r32, "oracle.acts": a64, "oracle.recon": r64},
    )
    scale = x.double().norm(dim=1, keepdim=True).clamp(min=1)
    entry.update(
        {
            "l0": float((a64 != 0).sum(1).double().mean()),
            "f32_error_acts": float("%.3g" % ((a32 - a64).abs() / scale).max()),
            "f32_error_recon": float("%.3g" % ((r32 - r64).abs() / scale).max()),
        }
    )
    entry.pop("seed", None)
    return entry


def from_disk(path, dtype):
    sae = SAE.load_from_disk(path, dtype=dtype)
    return lambda x: forward(sae, x)


def near_decision(sae):
    """True for rows where no pre-activation is within rounding of its decision."""

    def check(x):
        p = {k: v.double() for k, v in sae.state_dict().items()}
        with torch.no_grad():
            inner = sae.process_sae_in(x.reshape(-1, 4, D // 4) if sae.hook_z_reshaping_mode else x)
        size = inner.abs() @ p["W_enc"].abs() + 1e-3
        kind = sae.cfg.architecture()
        if kind == "gated":
            h, edges = inner @ p["W_enc"] + p["b_gate"], torch.zeros(S)
            both = ((inner @ (p["W_enc"] * p["r_mag"].exp()) + p["b_mag"]).abs() > 1e-5 * size).all(
                1
            )
        else:
            h, edges = inner @ p["W_enc"] + p["b_enc"], p.get("threshold", torch.zeros(S))
            both = torch.ones(len(x), dtype=torch.bool)
        clear = ((h - edges).abs() > 1e-5 * size).all(1) & both
        if kind == "topk":
            if sae.cfg.rescale_acts_by_decoder_norm:
                norms = p["W_dec"].norm(dim=-1)
                h, size = h * norms, size * norms
            ranked = h.sort(descending=True).values
            gap = ranked[:, sae.cfg.k - 1] - ranked[:, sae.cfg.k]
            clear = (gap > 1e-5 * size.amax(1)) & (h.abs() > 1e-5 * size).all(1)
        return clear

    return check


def saelens_group(folder, index):
    for seed, (name, plan) in enumerate(PLANS.items()):
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        sae = make(plan, seed)
        sae.save_model(path)
        if name == "standard":
            rate = torch.linspace(0, 0.5, S)
            save(path / "sparsity.safetensors", {"sparsity": torch.log10(rate + 1e-10)})
        tidy(path)
        entry = {
            "name": name,
            "path": name,
            "format": "saelens",
            "seed": seed,
            "d_in": D,
            "d_sae": S,
            "d_out": plan.get("d_out", D),
            "architecture": plan["architecture"],
            "normalize": plan.get("normalize_activations", "none"),
        }
        probe = SAE.load_from_disk(path, dtype="float64")
        index.append(
            expect(
                folder,
                name,
                from_disk(path, "float32"),
                from_disk(path, "float64"),
                entry,
                margin=near_decision(probe),
            )
        )


def tidy(path):
    """Key order of saved files is not fixed by their writers; make it so."""
    from safetensors.torch import load_file

    for file in path.glob("*.safetensors"):
        save(file, load_file(file))
    for file in path.glob("*.json"):
        save_json(file, json.loads(file.read_text()))


def old_group(folder, index):
    """Configurations of SAELens before 6."""
    base = {
        "model_name": "tiny",
        "hook_point": "blocks.1.hook_resid_post",
        "hook_point_layer": 1,
        "hook_point_head_index": None,
        "d_in": D,
        "dtype": "torch.float32",
        "device": "mps",
        "context_size": 32,
        "l1_coefficient": 0.001,
        "lp_norm": 1,
        "noise_scale": 0.0,
        "use_ghost_grads": False,
        "dataset_path": "none",
        "prepend_bos": True,
    }
    plans = {
        "old_standard": (
            {"d_sae": S, "activation_fn_str": "relu", "normalize_activations": False},
            {},
        ),
        "old_expansion": (
            {
                "expansion_factor": 3,
                "d_sae": 72,
                "normalize_activations": None,
                "apply_b_dec_to_input": False,
                "architecture": "jumprelu",
            },
            {},
        ),
        "old_topk": (
            {
                "d_sae": S,
                "activation_fn_str": "topk",
                "activation_fn_kwargs": {"k": 6},
                "normalize_activations": "layer_norm",
                "finetuning_scaling_factor": False,
            },
            {"scaling_factor": torch.ones(S)},
        ),
        "old_hook_z": (
            {
                "d_sae": S,
                "hook_point": "blocks.1.attn.hook_z",
                "activation_fn_str": "relu",
                "normalize_activations": "none",
                "sae_lens_version": "3.1.0",
            },
            {},
        ),
        "old_average": (
            {"d_sae": S, "activation_fn_str": "relu", "normalize_activations": True},
            {},
        ),
    }
    for seed, (name, (keys, extra)) in enumerate(plans.items(), 100):
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        cfg = {**base, **keys}
        kind = "jumprelu" if cfg.get("architecture") == "jumprelu" else "standard"
        values = {**parameters(seed, NAMES[kind], d_sae=cfg["d_sae"]), **extra}
        save(path / "sae_weights.safetensors", values)
        save_json(path / "cfg.json", cfg)
        entry = {
            "name": name,
            "path": name,
            "format": "saelens",
            "seed": seed,
            "d_in": D,
            "d_sae": cfg["d_sae"],
            "d_out": D,
            "architecture": "topk" if "topk" in name else kind,
            "normalize": {"old_topk": "layer_norm", "old_average": "expected_average_only_in"}.get(
                name, "none"
            ),
        }
        probe = SAE.load_from_disk(path, dtype="float64")
        if name == "old_average":
            # Without a known scale the module leaves its input alone; a known one is folded in.
            entry["note"] = "expected: input not scaled; old_average_scaled: scale 0.37 folded in"
            scaled = []
            for dtype in ("float32", "float64"):
                sae = SAE.load_from_disk(path, dtype=dtype)
                sae.fold_activation_norm_scaling_factor(0.37)
                scaled.append(lambda x, sae=sae: forward(sae, x))
            more = dict(entry, name="old_average_scaled", scale=0.37)
            index.append(expect(folder, "old_average_scaled", *scaled, more))
        index.append(
            expect(
                folder,
                name,
                from_disk(path, "float32"),
                from_disk(path, "float64"),
                entry,
                margin=near_decision(probe) if cfg["d_sae"] == S else None,
            )
        )
        if "expansion_factor" in cfg:
            # Readers take the width from the factor; this loader does not, so it ran with both.
            del cfg["d_sae"]
            save_json(path / "cfg.json", cfg)
    finetuned(folder, index, base)


def finetuned(folder, index, base):
    """Decoder scaling per feature: current SAELens refuses the file, the formula is plain."""
    name, seed = "old_finetuned", 120
    path = folder / name
    shutil.rmtree(path, ignore_errors=True)
    values = parameters(seed, NAMES["standard"])
    values["scaling_factor"] = 0.5 + torch.rand(S, generator=torch.Generator().manual_seed(seed))
    save(path / "sae_weights.safetensors", values)
    save_json(
        path / "cfg.json",
        {
            **base,
            "d_sae": S,
            "activation_fn_str": "relu",
            "normalize_activations": "none",
            "finetuning_scaling_factor": True,
        },
    )

    def run(dtype):
        p = {k: v.to(dtype) for k, v in values.items()}

        def call(x):
            acts = torch.relu((x - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
            return acts, (acts * p["scaling_factor"]) @ p["W_dec"] + p["b_dec"]

        return call

    entry = {
        "name": name,
        "path": name,
        "format": "saelens",
        "seed": seed,
        "d_in": D,
        "d_sae": S,
        "d_out": D,
        "architecture": "standard",
        "normalize": "none",
        "note": "scaling_factor applies to the reconstruction only",
    }
    index.append(expect(folder, name, run(torch.float32), run(torch.float64), entry))


def batchtopk(folder, index):
    """A training checkpoint: scalar threshold, decoder norms not folded."""
    for name, flag in (("batchtopk_training", True), ("batchtopk_training_plain", False)):
        seed = 140 + flag
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        sae = BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(
                d_in=D,
                d_sae=S,
                k=6,
                rescale_acts_by_decoder_norm=flag,
                apply_b_dec_to_input=True,
                metadata=SAEMetadata(**HOOK),
            )
        )
        values = parameters(seed, NAMES["standard"])
        sae.load_state_dict(values, strict=False)
        sae.topk_threshold.fill_(0.6180339887498949)
        sae.save_model(path)
        inference = folder / "scratch"
        sae.save_inference_model(inference)
        tidy(path)
        cfg = json.loads((path / "cfg.json").read_text())
        save_json(path / "cfg.json", cfg)
        entry = {
            "name": name,
            "path": name,
            "format": "saelens",
            "seed": seed,
            "d_in": D,
            "d_sae": S,
            "d_out": D,
            "architecture": "batchtopk",
            "normalize": "none",
            "note": "expected: the inference model saved from it",
        }
        # The saved inference model has the decoder norms folded in fp32; the oracle folds exactly.
        probe = SAE.load_from_disk(inference, dtype="float64")
        exact = {k: v.double() for k, v in values.items()}
        norms = exact["W_dec"].norm(dim=1) if flag else torch.ones(S).double()
        exact["W_dec"] /= norms[:, None]
        exact["W_enc"] *= norms
        exact["b_enc"] *= norms
        probe.load_state_dict({**exact, "threshold": probe.threshold.data})
        index.append(
            expect(
                folder,
                name,
                from_disk(inference, "float32"),
                lambda x, m=probe: forward(m, x),
                entry,
                margin=near_decision(probe),
            )
        )
        shutil.rmtree(inference)


def as_jumprelu(values, dtype, architecture="jumprelu", d_out=D):
    cfg = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": S,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": HOOK,
    }
    if architecture != "jumprelu":
        cfg["d_out"] = d_out
    sae = SAE.from_dict(cfg)
    sae.load_state_dict({k: v.to(sae.dtype) for k, v in values.items()})
    return sae


def jumprelu_entry(folder, index, name, path, kind, values, seed, architecture="jumprelu", **more):
    d_out = values["b_dec"].shape[0]
    modules = [as_jumprelu(values, t, architecture, d_out) for t in ("float32", "float64")]
    entry = {
        "name": name,
        "path": path,
        "format": kind,
        "seed": seed,
        "d_in": D,
        "d_sae": S,
        "d_out": d_out,
        "architecture": architecture,
        "normalize": "none",
        **more,
    }
    index.append(
        expect(
            folder,
            name,
            *(lambda x, m=m: forward(m, x) for m in modules),
            entry,
            margin=near_decision(modules[1]),
        )
    )


def gemma_scope(folder, index):
    for name, lower, packed, fortran in (
        ("gemma_scope_npz", False, False, False),
        ("gemma_scope_npz_lower", True, True, False),
        ("gemma_scope_npz_fortran", False, False, True),
    ):
        seed = 160 + len(name)
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        values = parameters(seed, NAMES["jumprelu"])
        arrays = {(k.lower() if lower else k): v.numpy() for k, v in values.items()}
        if fortran:
            arrays = {k: np.asfortranarray(v) for k, v in arrays.items()}
        (np.savez_compressed if packed else np.savez)(path / "params.npz", **arrays)
        jumprelu_entry(folder, index, name, name, "gemma_scope", values, seed)


def gemma_scope_2(folder, index):
    plans = (
        ("gemma_scope_2_resid", "resid_post/layer_2_width_48_l0_small", "sae", "jumprelu", True),
        ("gemma_scope_2_no_config", "mlp_out/layer_1_width_48_l0_big", "sae", "jumprelu", False),
        (
            "gemma_scope_2_transcoder",
            "transcoder/layer_3_width_48_l0_medium",
            "transcoder",
            "jumprelu_transcoder",
            True,
        ),
        (
            "gemma_scope_2_affine",
            "transcoder/layer_3_width_48_l0_medium_affine",
            "transcoder",
            "jumprelu_skip_transcoder",
            True,
        ),
    )
    shutil.rmtree(folder / "gemma_scope_2", ignore_errors=True)
    for seed, (name, place, kind, architecture, config) in enumerate(plans, 200):
        path = folder / "gemma_scope_2" / place
        values = parameters(seed, NAMES[architecture])
        tensors = {
            "w_enc": values["W_enc"],
            "w_dec": values["W_dec"],
            "b_enc": values["b_enc"],
            "b_dec": values["b_dec"],
            "threshold": values["threshold"],
        }
        if "W_skip" in values:
            # Stored as [d_in, d_out]: the term added is x A.
            tensors["affine_skip_connection"] = values["W_skip"].T.contiguous()
        save(path / "params.safetensors", tensors)
        layer = int(place.split("layer_")[1].split("_")[0])
        if config:
            points = (
                (f"model.layers.{layer}.output",) * 2
                if kind == "sae"
                else (
                    f"model.layers.{layer}.pre_feedforward_layernorm.output",
                    f"model.layers.{layer}.post_feedforward_layernorm.output",
                )
            )
            save_json(
                path / "config.json",
                {
                    "architecture": "jump_relu",
                    "model_name": "gemma-v3-1b-pt",
                    "hf_hook_point_in": points[0],
                    "hf_hook_point_out": points[1],
                    "width": S,
                    "l0": 20,
                    "affine_connection": "W_skip" in values,
                    "type": kind,
                },
            )
        jumprelu_entry(
            folder,
            index,
            name,
            f"gemma_scope_2/{place}",
            "gemma_scope_2",
            values,
            seed,
            architecture,
            layer=layer,
        )


def sparsify(folder, index):
    for seed, (name, transcode, skip) in enumerate(
        (("sparsify", False, False), ("sparsify_skip", True, True)), 220
    ):
        path = folder / name / "layers.2"
        shutil.rmtree(folder / name, ignore_errors=True)
        p = parameters(seed, ("W_enc", "W_dec", "b_dec", "b_enc", "W_skip"))
        tensors = {
            "encoder.weight": p["W_enc"].T.contiguous(),
            "encoder.bias": p["b_enc"],
            "W_dec": p["W_dec"],
            "b_dec": p["b_dec"],
        }
        if skip:
            tensors["W_skip"] = p["W_skip"]
        save(path / "sae.safetensors", tensors)
        save_json(
            path / "cfg.json",
            {
                "activation": "topk",
                "expansion_factor": 32,
                "normalize_decoder": True,
                "num_latents": S,
                "k": 8,
                "multi_topk": False,
                "skip_connection": skip,
                "transcode": transcode,
                "d_in": D,
            },
        )

        def run(dtype, p=p, transcode=transcode, skip=skip):
            q = {k: v.to(dtype) for k, v in p.items()}

            def call(x):
                h = (x if transcode else x - q["b_dec"]) @ q["W_enc"] + q["b_enc"]
                top = h.topk(8, dim=-1)
                acts = torch.zeros_like(h).scatter(-1, top.indices, top.values.relu())
                y = acts @ q["W_dec"] + q["b_dec"]
                return acts, y + x @ q["W_skip"].T if skip else y

            return call

        entry = {
            "name": name,
            "path": f"{name}/layers.2",
            "format": "sparsify",
            "seed": seed,
            "d_in": D,
            "d_sae": S,
            "d_out": D,
            "architecture": "topk",
            "normalize": "none",
        }
        index.append(expect(folder, name, run(torch.float32), run(torch.float64), entry))


def main():
    folder = output_folder("saes")
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for group in (saelens_group, old_group, batchtopk, gemma_scope, gemma_scope_2, sparsify):
        group(folder, index)
    save_json(
        folder / "saes.json",
        {"versions": versions("sae-lens", "torch"), "rows": ROWS, "saes": index},
    )
    for e in index:
        print(
            f"{e['name']}: l0 {e['l0']:.1f}, fp32 error acts {e['f32_error_acts']:.1e}, "
            f"reconstruction {e['f32_error_recon']:.1e}"
        )
    print(f"{len(index)} SAEs, {folder_size(folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
