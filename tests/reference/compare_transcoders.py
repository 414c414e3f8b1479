# SPDX-License-Identifier: BSD-2-Clause
"""Audits with random transcoders, and SAEs of one attention head, against transformers and NumPy.

usage: compare_transcoders.py TOKENIZER [--models N] [--seed N]
TOKENIZER: a folder with the tokenizer.json of a vocabulary of at most 512 ids. For each of N random
models (Llama, Gemma 2, Gemma 3, GPT-2) a set of random transcoders (plain, jumprelu, with skip,
topk; in SAELens' files and circuit-tracer's) runs through qsae.evaluate with the model and a
perturbed copy as the condition: FVU, L0, noise and the spliced cross-entropies must equal those of
f64 formulas on rows that transformers' hooks catch, and of passes whose hooks put outputs in place.
"""

import argparse
import json
import pathlib
import shutil
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

CONTEXT, BATCH, TOKENS, LAYERS, WIDTH = 24, 4, 300, 3, 32


def make_model(kind, seed, folder, tokenizer):
    torch.manual_seed(seed)
    common = dict(hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS,
                  num_attention_heads=4, num_key_value_heads=2, head_dim=8, vocab_size=512,
                  max_position_embeddings=64, tie_word_embeddings=bool(seed % 2), bos_token_id=1,
                  eos_token_id=2, pad_token_id=0)
    if kind == "llama":
        config = transformers.LlamaConfig(**common)
    elif kind == "gemma2":
        config = transformers.Gemma2Config(**common, sliding_window=8, query_pre_attn_scalar=8)
    elif kind == "gemma3":
        config = transformers.Gemma3TextConfig(**common, sliding_window=8, query_pre_attn_scalar=8)
    else:
        config = transformers.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=64,
                                         vocab_size=512, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.dim() > 1 else 0.1) +
                    (1.0 if "norm" in name and p.dim() == 1 and "gemma" not in kind else 0.0) +
                    (1.0 if "ln_" in name and name.endswith("weight") else 0.0))
    model.tie_weights()
    other = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    other.tie_weights()
    for m, name in ((model, "model"), (other, "other")):
        m.save_pretrained(folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / file, folder / name)
    return model, other


class Places:
    """Rows of a model at the places that transcoders use, and hooks that replace them."""

    def __init__(self, kind, model):
        self.kind = kind
        base = model.transformer if kind == "gpt2" else model.model
        self.layers = base.h if kind == "gpt2" else base.layers

    def module(self, layer, site):
        """Module and side: "in" or "out"."""
        block = self.layers[layer]
        gemma = self.kind.startswith("gemma")
        if site == "mlp_in":
            return block.mlp, "in"
        if site == "mlp_out":
            return (block.post_feedforward_layernorm if gemma else block.mlp), "out"
        if site == "resid_mid":
            return (block.ln_2 if self.kind == "gpt2" else block.pre_feedforward_layernorm if gemma
                    else block.post_attention_layernorm), "in"
        if site == "z":
            return (block.attn.c_proj if self.kind == "gpt2" else block.self_attn.o_proj), "in"
        if site == "resid_pre":
            return block, "in"
        return block, "out"  # resid_post

    def hook(self, layer, site, act):
        """act(rows) gives rows to put there, or None."""
        module, side = self.module(layer, site)
        if side == "in":
            def pre(_, args, kwargs):
                rows = args[0] if args else kwargs["hidden_states"]
                new = act(rows)
                if new is None:
                    return None
                if args:
                    return (new, *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": new}
            return module.register_forward_pre_hook(pre, with_kwargs=True)

        def post(_, args, out):
            new = act(out[0] if isinstance(out, tuple) else out)
            if new is None:
                return None
            return (new, *out[1:]) if isinstance(out, tuple) else new
        return module.register_forward_hook(post)


def run(model, ids, hooks):
    handles = [places.hook(layer, site, act) for places, layer, site, act in hooks]
    try:
        with torch.no_grad():
            return model(torch.tensor(ids)).logits.double()
    finally:
        for h in handles:
            h.remove()


def nll(logits, ids):
    log_p = torch.log_softmax(logits[:, :-1], -1)
    return -log_p.gather(-1, torch.tensor(ids)[:, 1:, None].long())[..., 0]  # [seq, tokens - 1]


class Random:
    """A random transcoder; f64 formulas of sae.md A.1 and A.2."""

    def __init__(self, rng, architecture, d_in, d_out, x_scale=1.0):
        self.architecture, self.k = architecture, 6
        f = 40
        self.enc = (rng.standard_normal((d_in, f)) / d_in**0.5).astype(np.float32)
        self.dec = (rng.standard_normal((f, d_out)) / f**0.5).astype(np.float32)
        self.b_enc = (rng.standard_normal(f) * 0.1).astype(np.float32)
        self.b_dec = (rng.standard_normal(d_out) * 0.1).astype(np.float32)
        self.t = (rng.random(f) * 0.8).astype(np.float32)
        self.skip = (rng.standard_normal((d_out, d_in)) * 0.1).astype(np.float32)
        self.has_skip = "skip" in architecture

    def acts(self, x):
        h = x @ self.enc.astype(np.float64) + self.b_enc
        if "jumprelu" in self.architecture:
            return np.where(h > self.t, np.maximum(h, 0), 0)
        a = np.maximum(h, 0)
        if "topk" in self.architecture:
            cut = np.sort(a, -1)[..., -self.k, None]
            a = np.where(a >= cut, a, 0)
        return a

    def __call__(self, x):
        x = np.asarray(x, np.float64)
        y = self.acts(x) @ self.dec.astype(np.float64) + self.b_dec
        return y + x @ self.skip.T.astype(np.float64) if self.has_skip else y

    def save(self, folder, **metadata):
        folder.mkdir(parents=True, exist_ok=True)
        t = {"W_enc": self.enc, "W_dec": self.dec, "b_enc": self.b_enc, "b_dec": self.b_dec}
        if "jumprelu" in self.architecture:
            t["threshold"] = self.t
        if self.has_skip:
            t["W_skip"] = self.skip
        save_file({k: torch.tensor(v) for k, v in t.items()}, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps({
            "architecture": self.architecture, "d_in": len(self.enc), "d_sae": len(self.dec),
            "d_out": self.dec.shape[1], "dtype": "float32", "apply_b_dec_to_input": False,
            "normalize_activations": "none", "reshape_activations": "none",
            "metadata": {"sae_lens_version": "6.54.12", **metadata}}))

    def save_set(self, folder, layer):
        folder.mkdir(parents=True, exist_ok=True)
        t = {"W_enc": self.enc.T.copy(), "W_dec": self.dec, "b_enc": self.b_enc,
             "b_dec": self.b_dec}
        if "jumprelu" in self.architecture:
            t["activation_function.threshold"] = self.t
        if "topk" in self.architecture:
            t["k"] = np.array(self.k, np.int64)
        if self.has_skip:
            t["W_skip"] = self.skip
        save_file({k: torch.tensor(v) for k, v in t.items()}, folder / f"layer_{layer}.safetensors")


class Check:
    def __init__(self):
        self.n, self.worst = 0, 0.0

    def near(self, what, got, want, relative):
        distance = abs(got - want) / max(abs(want), 1e-12)
        self.n += 1
        self.worst = max(self.worst, distance / relative)
        if not distance <= relative:
            raise SystemExit(f"{what}: expected {want!r}, found {got!r}")


def fvu(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()


def hook_name(layer, site):
    return {"mlp_in": f"blocks.{layer}.mlp.hook_in", "mlp_out": f"blocks.{layer}.hook_mlp_out",
            "resid_mid": f"blocks.{layer}.hook_resid_mid", "z": f"blocks.{layer}.attn.hook_z",
            "resid_pre": f"blocks.{layer}.hook_resid_pre",
            "resid_post": f"blocks.{layer}.hook_resid_post"}[site]


def draw(rng, folder):
    """[(name for evaluate, transcoder, (layer, site) in and out, columns)]"""
    out = []
    for i, architecture in enumerate(("transcoder", "jumprelu_transcoder", "skip_transcoder",
                                      "jumprelu_skip_transcoder", "topk_transcoder")):
        layer = int(rng.integers(LAYERS))
        to = int(rng.integers(layer, LAYERS)) if i % 2 else layer
        site = ("mlp_in", "resid_mid", "resid_pre")[int(rng.integers(3))]
        where = "mlp_out" if i != 2 else "resid_post"
        t = Random(rng, architecture, WIDTH, WIDTH)
        path = folder / f"t{i}"
        if architecture == "topk_transcoder":
            t.save_set(path, 0)
            separator = ":>"[int(rng.integers(2))]
            end = hook_name(to, where) if to != layer else where
            name = f"{path}@{layer}:{site}{separator}{end}"
        elif i % 2:
            t.save(path, hook_name=hook_name(layer, site), hook_name_out=hook_name(to, where))
            name = str(path)
        else:
            t.save(path, hook_name=hook_name(0, site), hook_name_out=hook_name(0, where))
            name = f"{path}@{layer}"
        out.append((name, t, (layer, site), (to, where), slice(None)))
    head, layer = int(rng.integers(4)), int(rng.integers(LAYERS))
    t = Random(rng, "jumprelu", 8, 8)
    t.save(folder / "head", hook_name=hook_name(layer, "z"), hook_head_index=head)
    out.append((str(folder / "head"), t, (layer, "z"), (layer, "z"), slice(8 * head, 8 * head + 8)))
    return out


class Whole:
    """A random cross-layer transcoder, crosscoder or set over all layers of the model."""

    def __init__(self, rng, kind, folder):
        self.kind = kind
        self.members = [Random(rng, "jumprelu_transcoder" if kind != "clt" or rng.integers(2)
                               else "transcoder", WIDTH, WIDTH) for _ in range(LAYERS)]
        if kind == "clt":
            for m in self.members:
                m.architecture = self.members[0].architecture
        self.dec = [(rng.standard_normal((40, LAYERS, WIDTH)) / 8).astype(np.float32)
                    for _ in self.members]
        if kind == "transcoders":
            for m, dec in zip(self.members, self.dec):
                m.has_skip, m.dec = bool(rng.integers(2)), dec[:, 0].copy()
        self.site_in = ("mlp_in", "resid_mid")[int(rng.integers(2))] if kind != "crosscoder" \
            else "resid_post"
        self.site_out = "mlp_out" if kind != "crosscoder" else "resid_post"
        self.folder = folder
        if kind == "crosscoder":
            self.folder = folder / "gemma-scope-2-1b-pt" / "crosscoder" / "layers"
        self.folder.mkdir(parents=True)
        self.save()
        self.live = kind != "crosscoder"

    def save(self):
        for l, (m, dec) in enumerate(zip(self.members, self.dec)):
            tensors = lambda t: {k: torch.tensor(np.ascontiguousarray(v)) for k, v in t.items()}
            if self.kind == "crosscoder":
                t = {"w_enc": m.enc, "b_enc": m.b_enc, "threshold": m.t, "w_dec": dec,
                     "b_dec": m.b_dec}
                save_file(tensors(t), self.folder / f"params_layer_{l}.safetensors")
            elif self.kind == "transcoders":
                m.save_set(self.folder, l)
            else:
                t = {f"W_enc_{l}": m.enc.T, f"b_enc_{l}": m.b_enc, f"b_dec_{l}": m.b_dec}
                if "jumprelu" in m.architecture:
                    t[f"threshold_{l}"] = m.t
                save_file(tensors(t), self.folder / f"W_enc_{l}.safetensors")
                save_file(tensors({f"W_dec_{l}": dec[:, l:]}),
                          self.folder / f"W_dec_{l}.safetensors")
        if self.kind != "crosscoder":
            hooks = {"mlp_in": "mlp.hook_in", "resid_mid": "hook_resid_mid",
                     "mlp_out": "hook_mlp_out"}
            (self.folder / "config.yaml").write_text(
                f"model_name: random\nfeature_input_hook: {hooks[self.site_in]}\n"
                f"feature_output_hook: {hooks[self.site_out]}\n")

    def output(self, m, xs):
        """At layer m, of the inputs of all layers; above m only a crosscoder reads them."""
        xs = [None if x is None else np.asarray(x, np.float64) for x in xs]
        if self.kind == "transcoders":
            return self.members[m](xs[m])
        y = self.members[m].b_dec.astype(np.float64)
        for l, t in enumerate(self.members):
            if self.kind == "crosscoder" or l <= m:
                y = y + t.acts(xs[l]) @ self.dec[l][:, m].astype(np.float64)
        return y


def check_whole(check, g, participants, ids, batches):
    """All layers of a Whole: one entry each, figures of all together, splices of all at once."""
    for who, (model, places, entry) in enumerate(participants):
        part = [p for p in entry["sae_layers"] if p["name"] == g.folder.name][0]
        assert part["layers"] == list(range(LAYERS)) and part["kind"] == g.kind
        rows, outcome = [], {k: [] for k in ("ce", "ce_sae", "ce_zero", "ce_mean")}
        for b in batches:
            ins, outs = [None] * LAYERS, [None] * LAYERS

            def keep(where, l):
                def act(x):
                    where[l] = x.detach().clone().numpy()
                return act

            hooks = [(places, l, g.site_in, keep(ins, l)) for l in range(LAYERS)]
            hooks += [(places, l, g.site_out, keep(outs, l)) for l in range(LAYERS)]
            outcome["ce"].append(nll(run(model, ids[b], hooks), ids[b]))
            ys = [g.output(m, ins) for m in range(LAYERS)]
            rows.append((ins, outs, ys))
            means = [o[:, 1:].astype(np.float64).mean((0, 1)) for o in outs]
            current = [None] * LAYERS

            def put(m, kind):
                def act(x):
                    new = x.clone()
                    if kind == "ce_zero":
                        new[:] = 0
                    elif kind == "ce_mean":
                        new[:, 1:] = torch.tensor(means[m]).float()
                    else:
                        y = g.output(m, current) if g.live else ys[m]
                        new[:, 1:] = torch.tensor(y[:, 1:]).float()
                    return new
                return act

            for kind in ("ce_sae", "ce_zero", "ce_mean"):
                hooks = [(places, l, g.site_in, keep(current, l)) for l in range(LAYERS)] \
                    if g.live else []
                hooks += [(places, l, g.site_out, put(l, kind)) for l in range(LAYERS)]
                outcome[kind].append(nll(run(model, ids[b], hooks), ids[b]))
        sse = m2 = l0 = 0.0
        for m in range(LAYERS):
            cat = lambda i: np.concatenate([r[i][m][:, 1:].reshape(-1, WIDTH) for r in rows])
            x, target, y = cat(0), cat(1), cat(2)
            e = entry["saes"][part["first"] + m]
            own = (g.members[m].acts(x.astype(np.float64)) != 0).sum(-1).mean()
            where = f"{g.kind} {who} layer {m}"
            assert (e["layer"], e["site"]) == (m, g.site_out) and e["splice"] is None
            check.near(where + " fvu_dim", e["fvu_dim"], fvu(target, y), 1e-4)
            check.near(where + " l0", e["l0"], own, 2e-3)
            d = target.astype(np.float64)
            sse, m2, l0 = sse + ((d - y)**2).sum(), m2 + ((d - d.mean(0))**2).sum(), l0 + own
        check.near(f"{g.kind} {who} fvu_dim", part["fvu_dim"], sse / m2, 1e-4)
        check.near(f"{g.kind} {who} l0", part["l0"], l0, 2e-3)
        for key, got in outcome.items():
            want = float(torch.cat([v[:, 1:].reshape(-1) for v in got]).mean())
            check.near(f"{g.kind} {who} {key}", part["splice"][key], want, 5e-6)


def check_one(check, i, name, t, reads, writes, columns, participants, ids, batches):
    """participants: [(model, places, entry of the result)]; i: index of the SAE there."""
    kept = {}
    for who, (model, places, entry) in enumerate(participants):
        rows, spliced, zeroed, averaged = [], [], [], []
        for b in batches:
            caught = {}

            def catch(key):
                def act(rows):
                    caught[key] = rows.detach().clone()
                return act

            base = run(model, ids[b], [(places, *reads, catch("in")),
                                       (places, *writes, catch("out"))])
            x, target = caught["in"][..., columns], caught["out"][..., columns]
            y = torch.tensor(t(x.numpy()))
            rows.append((x.numpy(), target.numpy(), y.numpy(), nll(base, ids[b])))
            mean = target[:, 1:].double().mean((0, 1))

            def put(value, all_rows=False):
                def act(rows):
                    new = rows.clone()
                    if all_rows:
                        new[..., columns] = value
                    else:
                        new[:, 1:, columns] = value
                    return new
                return act

            for keep, act in ((spliced, put(y[:, 1:].float())), (zeroed, put(0.0, True)),
                              (averaged, put(mean.float()))):
                keep.append(nll(run(model, ids[b], [(places, *writes, act)]), ids[b]))
        x = np.concatenate([r[0][:, 1:].reshape(-1, r[0].shape[-1]) for r in rows])
        target = np.concatenate([r[1][:, 1:].reshape(-1, r[1].shape[-1]) for r in rows])
        y = np.concatenate([r[2][:, 1:].reshape(-1, r[2].shape[-1]) for r in rows])
        kept[who] = target, y
        e = entry["saes"][i]
        where = f"{name} {who}"
        found = e["layer"], e["site"], e["input_layer"], e["input_site"]
        assert found == (*writes, *reads), where
        check.near(where + " fvu_dim", e["fvu_dim"], fvu(target, y), 1e-4)
        check.near(where + " l0", e["l0"], (t.acts(x.astype(np.float64)) != 0).sum(-1).mean(), 2e-3)
        s = e["splice"]
        for key, got in (("ce", [r[3] for r in rows]), ("ce_sae", spliced), ("ce_zero", zeroed),
                         ("ce_mean", averaged)):
            want = float(torch.cat([v[:, 1:].reshape(-1) for v in got]).mean())
            check.near(f"{where} {key}", s[key], want, 1e-6)
    (xr, yr), (xq, yq) = kept[0], kept[1]
    noise = participants[1][2]["saes"][i]["noise"]
    power = lambda v: (np.asarray(v, np.float64) ** 2).sum()
    check.near(name + " P", noise["p"], (power(xq - xr) / power(xr)) ** 0.5, 1e-5)
    check.near(name + " R", noise["r"], (power(xq - yq) / power(xq)) ** 0.5, 1e-5)


def same(a, b):
    def strip(v):
        if isinstance(v, dict):
            return {k: strip(u) for k, u in v.items()
                    if k not in ("timing", "tokens_per_second", "peak_rss_bytes")}
        return [strip(u) for u in v] if isinstance(v, list) else v
    return json.dumps(strip(a)) == json.dumps(strip(b))


def main():
    import qsae

    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    check = Check()
    ctx = qsae.Context(threads=2)
    for seed in range(args.seed, args.seed + args.models):
        kind = ("llama", "gemma2", "gpt2", "gemma3")[seed % 4]
        rng = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            model, other = make_model(kind, seed, folder, args.tokenizer)
            text = folder / "text.txt"
            text.write_text("Once upon a time there was a little dog named Tim. " * 40 +
                            "She saw a red ball and said, \"Can we play?\" " * 20)
            given = draw(rng, folder)
            whole = [Whole(rng, k, folder / k) for k in ("clt", "crosscoder", "transcoders")]
            names = [g[0] for g in given] + [str(w.folder) for w in whole]
            settings = dict(saes=names, text=str(text), context=CONTEXT,
                            batch=BATCH, tokens=TOKENS, conditions=[str(folder / "other")],
                            splice=True, bos="none", compute="f32")
            result = qsae.evaluate(str(folder / "model"), **settings, memory="resident")
            streamed = qsae.evaluate(str(folder / "model"), **settings, memory="streamed",
                                     stream_bytes=1 << 18)
            assert same(result, streamed), "streamed differs"
            corpus = qsae.Corpus(ctx, qsae.Tokenizer(ctx, str(folder / "model")), str(text),
                                 context=CONTEXT, max_tokens=TOKENS, bos="none")
            ids = np.stack([corpus[k].ids for k in range(len(corpus))])
            batches = [slice(b, min(b + BATCH, len(ids))) for b in range(0, len(ids), BATCH)]
            participants = [(model, Places(kind, model), result["reference"]),
                            (other, Places(kind, other), result["conditions"][0])]
            for i, g in enumerate(given):
                check_one(check, i, *g, participants, ids, batches)
            for g in whole:
                check_whole(check, g, participants, ids, batches)
        print(f"{seed} {kind}: {check.n} figures equal, worst {check.worst:.3f} of the tolerance",
              flush=True)


if __name__ == "__main__":
    main()
