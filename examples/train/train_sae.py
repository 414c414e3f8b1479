#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Train the bundled JumpReLU SAE on the residual stream of the bundled model.

The threshold is trained through a rectangle kernel (Rajamanoharan et al. 2024, arXiv:2407.14435)
and the mean number of active features is held at a target. Written in the SAELens layout, and read
back with SAELens before the script ends.
"""
import argparse
import os
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM

CONTEXT = 256
BOS = 2


class Jump(torch.autograd.Function):
    """h where h > t, else 0; and the gate itself, whose slope in t is a box of width `box`."""

    @staticmethod
    def forward(ctx, h, t, box):
        gate = (h > t).to(h.dtype)
        ctx.save_for_backward(h, t, gate)
        ctx.box = box
        return h * gate, gate

    @staticmethod
    def backward(ctx, grad_value, grad_gate):
        h, t, gate = ctx.saved_tensors
        near = ((h - t).abs() < ctx.box / 2).to(h.dtype) / ctx.box
        return grad_value * gate, -((grad_value * t + grad_gate) * near).sum(0), None


@torch.no_grad()
def activations(folder, ids, layer, tokens):
    """Rows [tokens, d] after block `layer`, in f32, and which of them are <bos>."""
    body = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model.eval()
    rows = []
    body.layers[layer].register_forward_hook(
        lambda _, __, out: rows.append((out[0] if isinstance(out, tuple) else out).flatten(0, 1)))
    chunks = min(tokens, len(ids)) // CONTEXT
    data = torch.from_numpy(ids[:chunks * CONTEXT].astype(np.int64)).view(chunks, CONTEXT)
    for x in data.split(16):
        body(input_ids=x, use_cache=False)
    return torch.cat(rows), data.flatten() == BOS


def train(x, bos, a):
    gen = torch.Generator().manual_seed(a.seed)
    d = x.shape[1]
    # <bos> rows are few and may be far larger than the rest: they do not set the scale.
    mean = x[~bos].mean(0)
    scale = (d / (x[~bos] - mean).pow(2).sum(1).mean()).sqrt()
    w_dec = torch.nn.functional.normalize(torch.randn(a.width, d, generator=gen), dim=1)
    w = {"W_enc": w_dec.T.clone(), "W_dec": w_dec, "b_dec": mean * scale}
    w["b_enc"] = -(w["b_dec"] @ w["W_enc"])
    w["log_t"] = torch.full((a.width,), 0.7).log()
    w = {k: v.clone().requires_grad_() for k, v in w.items()}
    opt = torch.optim.Adam(w.values(), lr=a.rate, betas=(0.9, 0.999), fused=True)
    silent = torch.zeros(a.width)
    began, sums, n = time.time(), np.zeros(3), 0
    for step in range(a.steps):
        rate = a.rate * min((step + 1) / 300, 1, 2.5 * (a.steps - step) / a.steps)
        for group in opt.param_groups:
            group["lr"] = rate
        rows = x[torch.randint(len(x), (a.batch,), generator=gen)] * scale
        h = rows @ w["W_enc"] + w["b_enc"]
        t = w["log_t"].exp()
        value, gate = Jump.apply(h, t, 0.4)
        l0 = gate.sum(1).mean()
        error = (rows - value @ w["W_dec"] - w["b_dec"]).pow(2).sum(1).mean() / d
        # Features silent for a while are pulled over their threshold by the rows nearest to it.
        idle = silent > a.idle
        loss = error + min(1, step / 1000) * a.weight * (l0 / a.target - 1) ** 2
        if idle.any():
            loss = loss + 0.3 * torch.relu(t[idle] - h[:, idle]).mean(0).sum() / a.width
        opt.zero_grad()
        loss.backward()
        with torch.no_grad():
            g = w["W_dec"].grad             # the part along a unit row would only change its norm
            g -= (g * w["W_dec"]).sum(1, keepdim=True) * w["W_dec"]
            torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
            opt.step()
            w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)
            silent += 1
            silent[gate.any(0)] = 0
        sums += [error.item(), l0.item(), idle.sum().item()]
        n += 1
        if (step + 1) % 250 == 0:
            print("step {}/{} error {:.4f} l0 {:.1f} idle {:.0f}  {:.0f} s".format(
                step + 1, a.steps, *sums / n, time.time() - began), flush=True)
            sums[:], n = 0, 0
    w = {k: v.detach() for k, v in w.items()}
    # Fold the scale away: rows come in unscaled, and decoder rows stay of norm 1.
    return {"W_enc": w["W_enc"].contiguous(), "W_dec": w["W_dec"].contiguous(),
            "b_enc": w["b_enc"] / scale, "b_dec": w["b_dec"] / scale,
            "threshold": w["log_t"].exp() / scale}


def save(w, a):
    from sae_lens import SAE, __version__
    from sae_lens.saes.sae import SAEMetadata
    d, width = w["W_enc"].shape
    sae = SAE.from_dict({"architecture": "jumprelu", "d_in": d, "d_sae": width, "dtype": "float32",
                         "device": "cpu", "apply_b_dec_to_input": False,
                         "normalize_activations": "none"})
    sae.cfg.metadata = SAEMetadata(
        model_name="tiny-gemma3", hook_name=f"blocks.{a.layer}.hook_resid_post",
        hf_hook_name=f"model.layers.{a.layer}", context_size=CONTEXT, prepend_bos=True,
        exclude_special_tokens=False, dataset_path="examples/train/generate.py",
        sae_lens_version=__version__)
    sae.load_state_dict(w)
    sae.save_model(a.output)
    again = SAE.load_from_disk(a.output, device="cpu").state_dict()
    assert set(again) == set(w) and all(torch.equal(again[k], v) for k, v in w.items())


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", default="examples/data/tiny-gemma3")
    p.add_argument("--ids", default="build/train/train-ids.npy",
                   help="token ids, from train_model.py")
    p.add_argument("--output", default="examples/data/tiny-gemma3-sae")
    p.add_argument("--layer", type=int, default=3)
    p.add_argument("--width", type=int, default=1024)
    p.add_argument("--tokens", type=int, default=1_500_000)
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--target", type=float, default=20.0, help="mean number of active features")
    p.add_argument("--weight", type=float, default=0.5, help="of keeping to the target")
    p.add_argument("--idle", type=int, default=12, help="batches a feature may stay silent")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    x, bos = activations(a.model, np.load(a.ids), a.layer, a.tokens)
    norms = x.norm(dim=1)
    print(f"rows {len(x)} norm: median {norms[~bos].median():.2f} max {norms[~bos].max():.2f} "
          f"<bos> median {norms[bos].median():.2f}", flush=True)
    save(train(x, bos, a), a)


if __name__ == "__main__":
    main()
