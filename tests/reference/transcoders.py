# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/data/transcoders: random transcoders, a cross-layer transcoder, a crosscoder and an
SAE of one attention head for the bundled model, and what audits must say of them (golden.json):
f64 formulas on rows of transformers' hooks, and passes whose hooks put outputs in place."""

import json

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

from common import DATA, output_folder
from compare_transcoders import Places, Random, fvu, hook_name, nll, run

MODEL = DATA.parent.parent / "examples" / "data" / "tiny-gemma3"
CONTEXT, CHUNKS, WIDTH, LAYERS, FEATURES = 32, 4, 128, 6, 8
TEXT = ("The small boat left the harbour before dawn. Nobody on the pier waved, and the gulls were "
        "quiet. By noon the wind had turned, so the crew took in the sails and waited. ") * 5


def save(path, tensors, dtype=torch.bfloat16):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: torch.tensor(np.ascontiguousarray(v)).to(dtype) for k, v in tensors.items()}, path)


def bf16(v):
    return torch.tensor(v).to(torch.bfloat16).float().numpy()


def small(rng, architecture, d):
    """A Random of few features in bf16 numbers."""
    t = Random(rng, architecture, d, d)
    for name in ("b_enc", "t"):
        setattr(t, name, bf16(getattr(t, name)[:FEATURES]))
    t.enc, t.dec = bf16(t.enc[:, :FEATURES]), bf16(t.dec[:FEATURES])
    t.b_dec, t.skip = bf16(t.b_dec), bf16(t.skip)
    return t


class Audit:
    """Passes of the model on the chunks of the text, one logical batch."""

    def __init__(self):
        tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
        self.ids = np.array(ids[:CONTEXT * CHUNKS]).reshape(CHUNKS, CONTEXT)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            MODEL, dtype=torch.float32, attn_implementation="eager").eval()
        self.places = Places("gemma3", self.model)

    def ce(self, hooks):
        logits = run(self.model, self.ids, [(self.places, *h) for h in hooks])
        return float(nll(logits, self.ids)[:, 1:].mean())

    def rows(self, places):
        caught = {}

        def keep(key):
            def act(x):
                caught[key] = x.detach().clone().numpy()
            return act
        self.ce([(*p, keep(p)) for p in places])
        return caught

    def spliced(self, values, columns=slice(None), everywhere=False):
        """values: {(layer, site): rows, or a function of nothing that gives them}"""
        def put(v):
            def act(x):
                new, start = x.clone(), 0 if everywhere else 1
                rows = torch.tensor(np.asarray(v() if callable(v) else v)).float()
                new[:, start:, columns] = rows[:, start:] if rows.dim() == 3 else rows
                return new
            return act
        return [(*place, put(v)) for place, v in values.items()]

    def figures(self, targets, outputs, columns=slice(None), live=()):
        """targets, outputs: {(layer, site): rows}; live: hooks that replace them by their own."""
        means = {p: t[:, 1:].astype(np.float64).mean((0, 1)) for p, t in targets.items()}
        return {"ce": self.ce([]),
                "ce_sae": self.ce(list(live) or self.spliced(outputs, columns)),
                "ce_zero": self.ce(self.spliced({p: 0.0 for p in targets}, columns, True)),
                "ce_mean": self.ce(self.spliced(means, columns))}


def flat(x):
    return np.asarray(x)[:, 1:].reshape(-1, np.shape(x)[-1])


def l0(acts):
    return float((flat(acts) != 0).sum(-1).mean())


def single(audit, root, name, t, reads, writes, columns=slice(None)):
    rows = audit.rows({reads, writes})
    x, target = (rows[p][..., columns] for p in (reads, writes))
    y = t(x)
    return {"name": name, "layer": writes[0], "site": writes[1], "input_layer": reads[0],
            "input_site": reads[1], "fvu_dim": float(fvu(flat(target), flat(y))),
            "l0": l0(t.acts(x.astype(np.float64))),
            "splice": audit.figures({writes: target}, {writes: y}, columns)}


def write_single(root, name, t, **metadata):
    t.save(root / name, **metadata)
    tensors = {"W_enc": t.enc, "W_dec": t.dec, "b_enc": t.b_enc, "b_dec": t.b_dec, "threshold": t.t}
    if t.has_skip:
        tensors["W_skip"] = t.skip
    save(root / name / "sae_weights.safetensors", tensors)


def whole(audit, root, kind, rng, layers, reads, writes):
    """A cross-layer transcoder or crosscoder over some layers."""
    members = [small(rng, "jumprelu_transcoder", WIDTH) for _ in layers]
    dec = [bf16(rng.standard_normal((FEATURES, len(layers), WIDTH)) / 4) for _ in layers]
    folder = root / ("clt" if kind == "clt" else "gemma-scope-2/crosscoder/layers")
    for i, (l, t) in enumerate(zip(layers, members)):
        if kind == "clt":
            save(folder / f"W_enc_{i}.safetensors", {
                f"W_enc_{i}": t.enc.T, f"b_enc_{i}": t.b_enc, f"b_dec_{i}": t.b_dec,
                f"threshold_{i}": t.t})
            save(folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": dec[i][:, i:]})
        else:
            save(folder / f"params_layer_{l}.safetensors", {
                "w_enc": t.enc, "b_enc": t.b_enc, "b_dec": t.b_dec, "threshold": t.t,
                "w_dec": dec[i]})
    if kind == "clt":
        (folder / "config.yaml").write_text("feature_input_hook: hook_resid_mid\n"
                                            "feature_output_hook: hook_mlp_out\n")
    ins, outs = [(l, reads) for l in layers], [(l, writes) for l in layers]

    def output(m, xs):
        y = members[m].b_dec.astype(np.float64)
        for i, t in enumerate(members):
            if kind != "clt" or i <= m:
                y = y + t.acts(np.asarray(xs[ins[i]], np.float64)) @ dec[i][:, m].astype(np.float64)
        return y

    rows = audit.rows(set(ins + outs))
    ys = {outs[m]: output(m, rows) for m in range(len(layers))}
    current, live = {}, []

    def keep(place):
        def act(x):
            current[place] = x.detach().clone().numpy()
        return act
    if kind == "clt":
        live = [(*p, keep(p)) for p in ins]
        live += audit.spliced({p: (lambda m=m: output(m, current)) for m, p in enumerate(outs)})
    sse, m2 = 0.0, 0.0
    entries = []
    for m, t in enumerate(members):
        target = flat(rows[outs[m]]).astype(np.float64)
        d = ((target - flat(ys[outs[m]])) ** 2).sum(), ((target - target.mean(0)) ** 2).sum()
        sse, m2 = sse + d[0], m2 + d[1]
        entries.append({"layer": layers[m], "site": writes, "input_layer": layers[m],
                        "input_site": reads, "fvu_dim": d[0] / d[1],
                        "l0": l0(t.acts(rows[ins[m]].astype(np.float64)))})
    return {"name": str(folder.relative_to(root)), "kind": kind, "layers": layers,
            "features": FEATURES * len(layers), "fvu_dim": sse / m2,
            "l0": sum(e["l0"] for e in entries), "saes": entries,
            "splice": audit.figures({p: rows[p] for p in outs}, ys, live=live)}


def main():
    root = output_folder("transcoders")
    root.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rng = np.random.default_rng(20)
    audit = Audit()
    (root / "text.txt").write_text(TEXT)
    golden = {"context": CONTEXT, "tokens": CONTEXT * CHUNKS, "versions": {
        "torch": torch.__version__, "transformers": transformers.__version__}, "saes": []}
    t = small(rng, "jumprelu_skip_transcoder", WIDTH)
    write_single(root, "skip", t, hook_name=hook_name(2, "mlp_in"),
                 hook_name_out=hook_name(3, "mlp_out"))
    golden["saes"].append(single(audit, root, "skip", t, (2, "mlp_in"), (3, "mlp_out")))
    golden["saes"].append(single(audit, root, "skip@4:resid_pre:resid_post", t, (4, "resid_pre"),
                                 (4, "resid_post")))
    t = small(rng, "jumprelu", 32)
    write_single(root, "head", t, hook_name=hook_name(1, "z"), hook_head_index=2)
    golden["saes"].append(single(audit, root, "head", t, (1, "z"), (1, "z"), slice(64, 96)))
    golden["layers"] = [
        whole(audit, root, "clt", rng, list(range(LAYERS)), "resid_mid", "mlp_out"),
        whole(audit, root, "crosscoder", rng, [1, 3, 4], "resid_post", "resid_post")]
    (root / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
