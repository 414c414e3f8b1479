# SPDX-License-Identifier: BSD-2-Clause
"""Random models of every family: rows and edits at every site through libqsae and transformers.

    QSAE_LIBRARY=.../libqsae.so PYTHONPATH=libqsae/python python3 tests/reference/compare_sites.py
        [--models 40] [--seed 1] [--lens] [family...]

f32   every site of every layer against binary64, by torch's own distance from it: how often more
      than twice that, and less than half; never more than six times
f32   one to three random edits: nll likewise
bf16  each site's rows from torch's rows at the sites before it: bf16 ulps
bits  an edit that changes nothing, at all sites at once; one and three threads
lens  (--lens) hooks of TransformerLens models with the same weights, by their names

Prints what was compared; ends with status 1 if anything is out of bounds.
"""

import argparse
import collections
import sys
import tempfile

import numpy as np

import layernorm_models
import models
import qsae
import sites
from models import torch

import transformers
from layernorm_models import gpt2, neox
from models import gemma, gemma2, llama, mistral, qwen3

CLASSES = {
    "llama": transformers.LlamaForCausalLM, "qwen3": transformers.Qwen3ForCausalLM,
    "mistral": transformers.MistralForCausalLM, "gemma2": transformers.Gemma2ForCausalLM,
    "gemma3": transformers.Gemma3ForCausalLM, "gpt_neox": transformers.GPTNeoXForCausalLM,
    "gpt2": transformers.GPT2LMHeadModel,
}


def config(family, rng):
    heads, d = int(rng.choice([1, 2, 3, 4, 6])), int(rng.choice([8, 12, 16]))
    kv = int(rng.choice([h for h in range(1, heads + 1) if heads % h == 0]))
    layers, vocab = int(rng.integers(1, 5)), int(rng.integers(40, 90))
    width = heads * int(rng.choice([8, 11, 16]))
    bias, tied = bool(rng.integers(2)), bool(rng.integers(2))
    common = dict(vocab_size=vocab, hidden_size=width, intermediate_size=int(rng.integers(20, 90)),
                  num_hidden_layers=layers, num_attention_heads=heads, tie_word_embeddings=tied)
    grouped = dict(num_key_value_heads=kv, head_dim=d)
    window = int(rng.integers(3, 12))
    if family == "llama":
        return llama(**common, **grouped, attention_bias=bias, mlp_bias=not bias)
    if family == "qwen3":
        return qwen3(**common, **grouped, attention_bias=bias)
    if family == "mistral":
        return mistral(**common, **grouped, sliding_window=window)
    if family in ("gemma2", "gemma3"):
        names = ("sliding_attention", "full_attention")
        types = [names[int(k)] for k in rng.integers(2, size=layers)]
        make = gemma2 if family == "gemma2" else gemma
        return make(**common, **grouped, sliding_window=window, layer_types=types)
    if family == "gpt_neox":
        common["hidden_size"] = heads * d
        return neox(**common, use_parallel_residual=bias, rope_parameters={
            "rope_theta": 10000.0, "partial_rotary_factor": float(rng.choice([0.25, 0.5, 1.0]))})
    return gpt2(vocab_size=vocab, n_embd=heads * d, n_layer=layers, n_head=heads, n_positions=24,
                n_inner=common["intermediate_size"], tie_word_embeddings=tied,
                scale_attn_by_inverse_layer_idx=bias)


def build(family, rng, folder):
    c = config(family, rng)
    torch.manual_seed(int(rng.integers(1 << 30)))
    model = CLASSES[family](c)
    seed = int(rng.integers(1 << 30))
    if family in ("gpt_neox", "gpt2"):
        layernorm_models.fill(model, {"outlier": 9.0} if rng.integers(2) else {}, seed)
    else:
        models.fill(model, seed)
    model.save_pretrained(folder)
    return c


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def ulps(a, b):
    """Distance in bf16 steps."""
    def order(x):
        v = qsae.to_bf16(x.astype(np.float32)).astype(np.int64)
        return np.where(v & 0x8000, -(v & 0x7FFF), v)
    return np.abs(order(a) - order(b))


class Tally:
    def __init__(self):
        self.ratio = collections.defaultdict(list)
        self.ulp = collections.defaultdict(lambda: [0, 0, 0])
        self.bad = []
        self.counts = collections.Counter()

    def near(self, what, site, mine, torchs, oracle):
        """mine within twice torch's distance from binary64, and a hair where torch has none."""
        oracle = np.asarray(oracle, np.float64)
        d, t = rms(mine - oracle), rms(torchs - oracle)
        self.counts[what] += 1
        self.ratio[what, site].append(d / max(t, 3e-8 * rms(oracle), 1e-30))
        # Twice is the rule; errors of rounding in tiny models pass it both ways now and then.
        if d > 6 * t + 6e-8 * rms(oracle):
            self.bad.append(f"{what} {site}: {d:.3g}, torch {t:.3g}")

    def same(self, what, a, b):
        self.counts[what] += 1
        if not np.array_equal(a, b, equal_nan=True):
            self.bad.append(f"{what}: other bits")


def random_edit(rng, columns):
    """(NumPy edit, torch edit): zero, half, a vector added, all rows replaced by one."""
    kind, v = int(rng.integers(4)), rng.standard_normal(columns).astype(np.float32)
    t = torch.from_numpy(v)
    mine = (qsae.edits.zero(), lambda rows, info: rows * np.float32(0.5), qsae.edits.add(v, 0.25),
            qsae.edits.mean(v))[kind]
    def theirs(x):
        w = t.to(x.dtype)
        return (x * 0, x * 0.5, x + 0.25 * w, torch.zeros_like(x) + w)[kind]
    return mine, theirs


def compare(family, number, seed, tally):
    rng = np.random.default_rng([seed, number, sorted(CLASSES).index(family)])
    with tempfile.TemporaryDirectory() as folder:
        c = build(family, rng, folder)
        ids = torch.from_numpy(rng.integers(3, c.vocab_size, (2, int(rng.integers(2, 20)))))
        given = ids.numpy().astype(np.int32)
        attention = "eager" if family == "gemma2" else "sdpa"
        with sites.binary64():
            wide = sites.load(folder, torch.float32, "eager").double()
            oracle = sites.run(wide, ids)
        single = sites.load(folder, torch.float32, attention)
        theirs = sites.run(single, ids)
        keys = [k for k in oracle if isinstance(k, tuple)]
        one, three = qsae.Context(threads=1), qsae.Context(threads=3)
        model = qsae.Model(one, folder)
        plain = model.forward(given, taps=keys, logits=True)
        for key in keys:
            tally.near("f32", key[1], plain.taps[key], theirs[key].numpy(), oracle[key].numpy())
        tally.near("f32", "logits", plain.logits, theirs["logits"].numpy(),
                   oracle["logits"].numpy())
        # edits
        for n in (1, 1, 2, 3):
            chosen = [keys[i] for i in rng.choice(len(keys), min(n, len(keys)), replace=False)]
            pairs = {k: random_edit(rng, plain.taps[k].shape[-1]) for k in chosen}
            mine = model.forward(given, edits={k: p[0] for k, p in pairs.items()}).nll
            with sites.binary64():
                want = sites.run(wide, ids, {k: p[1] for k, p in pairs.items()})["nll"]
            got = sites.run(single, ids, {k: p[1] for k, p in pairs.items()})["nll"]
            tally.near(f"edits of {n}", "+".join(sorted({k[1] for k in chosen})), mine, got.numpy(),
                       want.numpy())
        # bits
        nothing = {k: lambda rows, info: None for k in keys}
        for compute in ("f32", "bf16"):
            a, b = (qsae.Model(ctx, folder, compute=compute) for ctx in (one, three))
            alone = a.forward(given, logits=True)
            tally.same("no edit", a.forward(given, logits=True, edits=nothing).logits, alone.logits)
            seen, other = a.forward(given, taps=keys), b.forward(given, taps=keys)
            tally.same("taps", seen.nll, alone.nll)
            for key in keys:
                tally.same("threads", seen.taps[key], other.taps[key])
                tally.same("one tap", a.forward(given, taps=[key], nll=False).taps[key],
                           seen.taps[key])
            if compute == "f32":
                identities(seen.taps, c, tally)
        # bf16, from equal inputs
        half = sites.run(sites.load(folder, torch.bfloat16, "eager"), ids)
        model = qsae.Model(one, folder, compute="bf16", attn="eager")
        own = {}

        def steer(key):
            def edit(rows, info):
                own[key] = rows.copy().reshape(info.shape)
                return half[key].float().numpy() if "normalized" not in key[1] else None
            return edit

        model.forward(given, edits={k: steer(k) for k in keys})
        for key in keys:
            want = half[key].float().numpy()
            if "normalized" in key[1]:
                gap = np.abs(own[key] - want).max() / np.abs(want).max()
                tally.counts["bf16 normalized"] += 1
                if gap > 1e-6:
                    tally.bad.append(f"bf16 {key}: {gap:.2g}")
                continue
            u = ulps(own[key], want)
            # Sums that cancel: a step of the largest value of the row is what a product is good to.
            size = np.abs(want).max(-1, keepdims=True) / 256
            t = tally.ulp[key[1]]
            t[0] += u.size
            t[1] += int((u > 1).sum())
            t[2] += int(((u > 1) & (np.abs(own[key] - want) > size)).sum())


def identities(taps, c, tally):
    parallel = getattr(c, "use_parallel_residual", False)
    for i in range(c.num_hidden_layers):
        pre, attn, mlp = (taps[i, s] for s in ("resid_pre", "attn_out", "mlp_out"))
        if parallel:
            tally.same("sums", taps[i, "resid_post"], (mlp + attn) + pre)
            continue
        tally.same("sums", taps[i, "resid_mid"], pre + attn)
        tally.same("sums", taps[i, "resid_post"], taps[i, "resid_mid"] + mlp)
        if i:
            tally.same("sums", pre, taps[i - 1, "resid_post"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=sorted(CLASSES))
    parser.add_argument("--models", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lens", action="store_true")
    args = parser.parse_args()
    tally = Tally()
    for family in args.families:
        for number in range(args.models):
            if args.lens:
                import lens
                lens.compare(family, number, args.seed, tally, build, CLASSES)
            else:
                compare(family, number, args.seed, tally)
        print(f"{family}: {args.models} models, {len(tally.bad)} out of bounds so far", flush=True)
    print(dict(tally.counts))
    every = [r for ratios in tally.ratio.values() for r in ratios if r > 0]
    if every and not args.lens:
        print(f"distance from binary64 / torch's: above 2 {sum(r > 2 for r in every)}, below 1/2 "
              f"{sum(r < 0.5 for r in every)} of {len(every)}")
    for (what, site), ratios in sorted(tally.ratio.items()):
        if not what.startswith("edits"):
            print(f"{what} {site}: {len(ratios)}, median {np.median(ratios):.2g}, largest "
                  f"{max(ratios):.2g}")
    for site, (n, over, far) in tally.ulp.items():
        print(f"bf16 {site}: {n} values, more than 1 ulp apart {over} ({100 * over / n:.3f}%), of "
              f"these {far} by more than an ulp of the row's largest")
    print("\n".join(tally.bad[:60]))
    return bool(tally.bad)


if __name__ == "__main__":
    sys.exit(main())
