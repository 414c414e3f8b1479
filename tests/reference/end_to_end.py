# SPDX-License-Identifier: BSD-2-Clause
"""Logits of whole models under every weight codec, against torch on the same dequantised weights.

usage: end_to_end.py [--tokens N] [--exact N] [--threads N] [--only REGEX] [MODEL TEXT]...
Default models: the bundled one on its text, and a random Llama whose widths take the 256-value
blocks of ggml; further ones are folders with a text for each (windows of 512 tokens, further apart
or overlapping as the text needs it). Each codec's weights are written as a checkpoint by
Weights.save, which torch loads in f32; on the first --exact tokens a binary64 copy of that says
which of the two is off.
compute=f32 has to be within the bounds below over all rows; a logit beyond them is "f32", not
EXCEEDED, where torch is as far from binary64 as we are, by root mean square within 1.1: weights of
2 bits make numbers so large that f32 itself ends there. Apart, without bounds: compute=bf16 against
torch in bf16, and LLM.int8, whose activations are quantised too.
QSAE_LIBRARY names the library. Prints one table; 1 when a bound is exceeded.
"""

from models import binary64, torch

import argparse
import pathlib
import re
import sys
import tempfile
import warnings

import numpy as np
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import qsae

DATA = pathlib.Path(__file__).resolve().parents[2] / "examples" / "data"
BOUND_LOGIT, BOUND_ARGMAX, BOUND_KL, BOUND_AS_TORCH = 1e-4, 0.9999, 1e-8, 1.1
CONTEXT, BATCH = 512, 8

SMALL = [f"ggml:{t}" for t in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")]
LARGE = [f"ggml:{t}" for t in ("q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "iq4_xs")]
CODECS = ["none", "none:weights=f16", "none:weights=bf16", "nf4", "nf4:block=128,double=0", "fp4",
          "rtn:bits=8", "rtn:bits=6,axis=tl", "rtn:bits=4,axis=column", "rtn:bits=3,axis=tensor",
          "rtn:bits=4,group=4,sym=0", "rtn:bits=2,arith=weight", "none+prune:sparsity=0.175",
          "nf4@layers=0-2@skip=down_proj", "ggml:q4_0@with=embed|head"]


class Rows:
    """Sums over rows of two sets of logits, in binary64."""

    def __init__(self):
        self.n = self.equal = 0
        self.kl = self.kl_max = self.worst = self.square = 0.0
        self.where = (0, 0, 0)

    def add(self, window, ours, other):
        """ours, other: [windows, tokens, vocabulary]."""
        d = ours - other if ours.dtype == other.dtype else ours.double() - other.double()
        off = torch.where(torch.isnan(d), torch.inf, d.abs())
        if off.max() > self.worst:
            self.worst = off.max().item()
            at = np.unravel_index(off.argmax().item(), off.shape)
            self.where = (window + int(at[0]), int(at[1]), int(at[2]))
        self.square += (d.double() ** 2).sum().item()
        self.equal += (ours.argmax(-1) == other.argmax(-1)).sum().item()
        # KL(other || ours) = log sum p exp(d) - sum p d; below 1e-3 the variance of d under p, half
        # of it, is that to 3 digits, and without a difference of large numbers.
        if off.max() < 1e-3:
            p = torch.softmax(other, -1)
            kl = (p * (d - (p * d).sum(-1, keepdim=True)) ** 2).sum(-1).double() / 2
        else:
            p, d = torch.softmax(other.double(), -1), d.double()
            kl = torch.log1p((p * torch.expm1(d)).sum(-1)) - (p * d).sum(-1)
        self.kl += kl.sum().item()
        self.kl_max = max(self.kl_max, kl.max().item())
        self.n += kl.numel()

    def within(self, logit):
        return (self.worst <= logit and self.equal >= BOUND_ARGMAX * self.n
                and abs(self.kl) <= BOUND_KL * self.n)


def windows(ctx, folder, text, tokens):
    """At least that many tokens of a text as evaluate cuts it: [windows, CONTEXT]."""
    tokenizer = qsae.Tokenizer(ctx, folder)
    stride = CONTEXT
    while True:
        corpus = qsae.Corpus(ctx, tokenizer, text, context=CONTEXT, stride=stride % CONTEXT)
        ids = [chunk.ids for chunk in corpus if len(chunk.ids) == CONTEXT]
        if len(ids) * CONTEXT >= tokens or stride == 16:
            break
        stride //= 2
    n = min(len(ids), -(-tokens // CONTEXT))
    return np.stack([ids[i] for i in np.linspace(0, len(ids) - 1, n).astype(int)])


def random_model(folder, tokens):
    """A Llama of width 256 with logits of the size of a trained one's; its ids."""
    torch.manual_seed(14)
    config = LlamaConfig(vocab_size=512, hidden_size=256, intermediate_size=512,
                         num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
                         max_position_embeddings=CONTEXT, initializer_range=0.06,
                         tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight *= 5
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
    model.save_pretrained(folder)
    return np.random.default_rng(14).integers(0, 512, (-(-tokens // CONTEXT), CONTEXT), np.int32)


def on_torch(ctx, base, spec, compute):
    """torch's f32 model with the weights of a condition, encoded from what `compute` loads."""
    with tempfile.TemporaryDirectory() as out:
        with qsae.Weights(ctx, base) as weights:
            weights.save(out, spec, dtype=None if "weights=" in spec else compute)
        if not spec.startswith(("nf4", "fp4", "llm.int8")):
            return load(out)
        # bitsandbytes' format: what it holds, decoded, is put into the model as it was.
        model = load(base)
        if compute == "bf16":
            model = model.bfloat16().float()
        with qsae.Weights(ctx, out) as stored, torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, torch.nn.Linear) and name != "lm_head":
                    module.weight.copy_(torch.tensor(stored.matrix(name).decode()))
        return model


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def blame(window, ours, theirs, exact):
    """Who is off where a window exceeds the bound of a logit."""
    for w in ((ours - theirs).abs() > BOUND_LOGIT).flatten(1).any(1).nonzero().flatten().tolist():
        print(f"  window {window + w}: {(ours[w] - theirs[w]).abs().max():.2e} apart; from "
              f"binary64 we are {(ours[w] - exact[w]).abs().max():.2e}, "
              f"torch is {(theirs[w] - exact[w]).abs().max():.2e}")


def run(ctx, base, spec, compute, ids, n_exact):
    """(ours against torch, ours against binary64, torch against binary64, largest logit)."""
    plain = on_torch(ctx, base, spec, compute)
    with binary64():
        wide = on_torch(ctx, base, spec, compute).double()
    if compute == "bf16":
        plain = plain.bfloat16()
    sums, largest = [Rows(), Rows(), Rows()], 0.0
    with qsae.Model(ctx, base, quantizer=spec, compute=compute) as model, torch.inference_mode():
        for first in range(0, len(ids), BATCH):
            batch = ids[first : first + BATCH]
            ours = torch.from_numpy(model.forward(batch, logits=True, nll=False).logits)
            given = torch.from_numpy(batch).long()
            theirs = plain(given, use_cache=False).logits
            sums[0].add(first, ours, theirs)
            largest = max(largest, theirs.abs().max().item())
            strict = compute == "f32" and "int8" not in spec
            beyond = strict and (ours - theirs).abs().max() > BOUND_LOGIT
            if first * CONTEXT >= n_exact and not beyond:
                continue
            with binary64():
                exact = wide(given, use_cache=False).logits
            if beyond:
                blame(first, ours, theirs, exact)
            sums[1].add(first, ours, exact)
            sums[2].add(first, theirs, exact)
    return *sums, largest


def row(name, spec, compute, result):
    """Prints a line of the table; returns its verdict."""
    to_torch, ours, theirs, largest = result
    as_torch = ours.square**0.5 <= BOUND_AS_TORCH * theirs.square**0.5
    verdict = "EXCEEDED"
    if compute == "bf16" or "int8" in spec:
        verdict = "apart"
    elif to_torch.within(BOUND_LOGIT):
        verdict = "ok"
    elif to_torch.within(torch.inf) and as_torch:
        verdict = "f32"
    window, position, token = to_torch.where
    print(f"{name:<14} {spec:<30} {compute:<4} {to_torch.n:>7} {largest:>6.1f} "
          f"{to_torch.worst:>9.2e} {window:>5}/{position:<3}/{token:<5} "
          f"{100 * to_torch.equal / to_torch.n:>8.4f} {to_torch.kl / to_torch.n:>9.1e} "
          f"{to_torch.kl_max:>9.1e} {ours.worst:>9.2e} {theirs.worst:>9.2e} "
          f"{(ours.square / max(theirs.square, 1e-300))**0.5:>5.2f}  {verdict}", flush=True)
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL TEXT")
    parser.add_argument("--tokens", type=int, default=100000)
    parser.add_argument("--exact", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="regular expression in CONDITION COMPUTE")
    args = parser.parse_args()
    if len(args.models) % 2:
        parser.error("a text for each model")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    ctx = qsae.Context(threads=args.threads)
    plans = [(pathlib.Path(m).name, m, windows(ctx, m, t, args.tokens), CODECS + SMALL)
             for m, t in [(str(DATA / "tiny-gemma3"), str(DATA / "eval.jsonl")),
                          *zip(args.models[::2], args.models[1::2])]]
    print(f"level {ctx.cpu}; bounds at f32: logit {BOUND_LOGIT:g}, argmax {BOUND_ARGMAX:.2%}, "
          f"mean KL {BOUND_KL:g}")
    print(f"{'model':<14} {'condition':<30} {'':<4} {'rows':>7} {'logit':>6} {'off torch':>9} "
          f"{'window/pos/id':>15} {'argmax %':>8} {'KL mean':>9} {'KL max':>9} {'off f64':>9} "
          f"{'torch f64':>9} {'rms':>5}")
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        plans.append(("random-256", folder, random_model(folder, args.tokens),
                      ["none", "nf4", *LARGE]))
        for name, base, ids, specs in plans:
            jobs = [(s, "f32") for s in [*specs, "llm.int8"]]
            jobs += [(s, "bf16") for s in ("none", "nf4", "rtn:bits=4")]
            for spec, compute in jobs:
                if not re.search(args.only, f"{spec} {compute}"):
                    continue
                try:
                    result = run(ctx, base, spec, compute, ids, args.exact)
                except qsae.Error as error:
                    if "ggml" not in spec or error.name not in ("QSAE_EINVAL", "QSAE_EUNSUPPORTED"):
                        raise
                    print(f"{name:<14} {spec:<30} {error.message[-90:]}")
                    continue
                verdicts.append(row(name, spec, compute, result))
    print(f"{len(verdicts)} compared: " +
          ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts))))
    return 1 if "EXCEEDED" in verdicts or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
