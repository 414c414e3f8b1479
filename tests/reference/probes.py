# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/data/probes.json: how lm-evaluation-harness 0.4.13 tokenizes pairs of a context and
a continuation, their log-probabilities by transformers in binary64, and what SciPy and NumPy make of
the scores: McNemar's test and bootstrap intervals.

usage: python probes.py SHARED/data/stories260k
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from scipy.stats import binomtest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from common import DATA

EXAMPLES = DATA.parent.parent / "examples" / "data"
TOKENIZERS = ("llama2", "llama3", "gpt2", "neox", "gemma")

PAIRS = [
    ("Once upon a time", " there was a girl", " there were a girl", "plain"),
    ("Once upon a time ", "there was", "they were", "space"),
    ("A cat sat on \t\n ", "the mat.", "a mat!", "space"),
    ("\u00a0\u2003 ", "Tom", "Tim", "space"),
    ("un", "happy dog", "real dog", "border"),
    ("The number is 12", "34", "5", "border"),
    ("He said: \"No", "body\" was here", "thing\" was here", "border"),
    ("", "The end.", "End the.", "empty"),
    ("", " spaces first", "spaces first", "empty"),
    ("Ünï cödé 日本", "語 text", "人 text", "unicode"),
    ("🜂🜂", "🜂", "木", "unicode"),
    ("<s>Lily", " was", " is", "special"),
    ("<bos>Lily", " was", " is", "special"),
    ("Lily and Ben", "</s> more", "<eos> more", "special"),
    ("nul\0inside", " a\0b", " a b", "special"),
    ("line one\nline two\n", "line three\n", "line four", "plain"),
    ("a" * 40, "a", "aa", "border"),
    ("x\x1c\x1f", "y", "z", "space"),
]


def encode_pair(tokenizer, context, continuation, adds_bos, prefix, bos):
    """TemplateLM._encode_pair and loglikelihood, HFLM.tok_encode of lm_eval 0.4.13; (None, None)
    where they assert."""

    def tok_encode(string, special=True):
        ids = tokenizer.encode(string, add_special_tokens=False).ids
        if special and adds_bos and ids[:1] != [bos]:
            ids = [bos] + ids
        return ids

    if context == "":
        ids = tok_encode(continuation, False)
        return ([prefix], ids) if prefix != ids[0] else (ids[:1], ids[1:])
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces > 0:
        continuation = context[-n_spaces:] + continuation
        context = context[:-n_spaces]
    whole = tok_encode(context + continuation)
    context = tok_encode(context)
    rest = whole[len(context):]
    if not context:  # asserted against there; the prefix stands for it here
        return [prefix], rest
    return context, rest


def nll_sum(model, context, continuation):
    ids = context + continuation
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0]
    logp = torch.log_softmax(logits, -1)[len(context) - 1:]
    return logp.gather(1, torch.tensor(continuation)[:, None]).sum().item()


def draws(n, replicates=2000):
    """[replicates, n] indices below n: SplitMix64 of (replicate, draw)."""
    with np.errstate(over="ignore"):
        r = np.arange(replicates, dtype=np.uint64)[:, None] << np.uint64(40)
        z = (r + np.arange(1, n + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64)


def figures(good, bad, rows):
    margin = good - bad
    means = margin[draws(len(margin))].mean(1)
    right = (margin > 0)[draws(len(margin))].mean(1)
    n_good, n_bad = (np.array([len(r[k]) for r in rows]) for k in ("good", "bad"))
    return {
        "accuracy": float((margin > 0).mean()),
        "accuracy_per_token": float((good / n_good > bad / n_bad).mean()),
        "accuracy_per_byte": float((good / [r["good_bytes"] for r in rows]
                                    > bad / [r["bad_bytes"] for r in rows]).mean()),
        "margin": float(margin.mean()),
        "margin_per_token": float((good / n_good - bad / n_bad).mean()),
        "intervals": {"margin": np.quantile(means, [0.025, 0.975]).tolist(),
                      "accuracy": np.quantile(right, [0.025, 0.975]).tolist()},
    }


def tokenized(path, pairs):
    tokenizer = Tokenizer.from_file(str(path))
    config = path.parent / "tokenizer_config.json"
    ids = tokenizer.encode("a").ids
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    adds_bos = len(ids) > len(plain)
    named = json.loads(config.read_text()).get("bos_token") if config.exists() else None
    named = named["content"] if isinstance(named, dict) else named
    bos = ids[0] if adds_bos else tokenizer.token_to_id(named) if named else None
    rows = []
    for context, good, bad, *_ in pairs:
        row = {"good_bytes": len(good.encode()), "bad_bytes": len(bad.encode())}
        if bos is None and context.strip() == "":
            continue  # what stands for it depends on what BOS and EOS are taken to be
        for key, text in ("good", good), ("bad", bad):
            row["context"], row[key] = encode_pair(tokenizer, context, text, adds_bos, bos, bos)
        row["text"] = [context, good, bad]
        rows.append(row if row["good"] and row["bad"] else
                    {"text": [context, good, bad], "refused": True})
    return rows


def scored(folder, pairs):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64,
                                                 attn_implementation="eager").eval()
    rows = [r for r in tokenized(folder / "tokenizer.json", pairs) if "refused" not in r]
    scores = np.array([[nll_sum(model, r["context"], r[k]) for k in ("good", "bad")] for r in rows])
    return rows, scores


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("stories", type=pathlib.Path)
    a = p.parse_args()
    out = {"tokenizers": {}, "models": {}, "mcnemar": []}
    for name in TOKENIZERS:
        out["tokenizers"][name] = tokenized(DATA / "tokenizers" / f"{name}.tokenizer.json", PAIRS)
    bundled = [(o["context"], o["good"], o["bad"]) for o in
               map(json.loads, (EXAMPLES / "probes.jsonl").read_text().splitlines())]
    for name, folder, pairs in (("bundled", EXAMPLES / "tiny-gemma3", bundled[:40]),
                                ("tiny", EXAMPLES / "tiny-gemma3", PAIRS),
                                ("stories", a.stories, PAIRS)):
        rows, scores = scored(folder, pairs)
        out["models"][name] = {"rows": rows, "good": scores[:, 0].tolist(),
                               "bad": scores[:, 1].tolist(), **figures(*scores.T, rows)}
    for b, c in ((0, 0), (1, 0), (5, 5), (3, 11), (12, 2), (0, 60), (40, 77), (700, 600),
                 (1500, 100)):
        p_value = binomtest(b, b + c).pvalue if b + c else 1.0
        out["mcnemar"].append([b, c, p_value])
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":"))
    (DATA / "probes.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
