#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Measure the bundled model and SAE with transformers and SAELens, and write reference.json.

Each document is tokenized with one <bos> at its start and no <eos>; documents are joined in file
order and cut into chunks of the context, the tail dropped. Each chunk scores its positions
0..n-2. A predicted token belongs to the kind of the document it came from.
"""
import argparse
import hashlib
import json
import math
import os

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers import __version__ as transformers_version

BOS = 2


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def pack(tok, path, context):
    """Ids [chunks, context], the document of each, the documents, and the tokens before the cut."""
    with open(path, encoding="utf-8") as f:
        documents = [json.loads(line) for line in f]
    ids, owner = [], []
    for i, row in enumerate(documents):
        e = tok.encode(row["text"]).ids
        ids += e
        owner += [i] * len(e)
    n = len(ids) // context
    cut = n * context
    return (np.array(ids[:cut], np.int64).reshape(n, context),
            np.array(owner[:cut]).reshape(n, context), documents, len(ids))


@torch.no_grad()
def forward(folder, ids, layer, dtype):
    """Negative log-likelihoods [chunks, context - 1] and rows after block `layer` [tokens, d]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype,
                                                 attn_implementation="sdpa").eval()
    rows, nll = [], []
    model.model.layers[layer].register_forward_hook(
        lambda _, __, out: rows.append((out[0] if isinstance(out, tuple) else out).flatten(0, 1)))
    for x in torch.from_numpy(ids).split(4):
        logits = model(input_ids=x, use_cache=False).logits[:, :-1]
        nll.append(-logits.double().log_softmax(-1).gather(-1, x[:, 1:, None])[..., 0])
    return torch.cat(nll).numpy(), torch.cat(rows).float()


@torch.no_grad()
def reconstruction(sae, x):
    """FVU_dim, FVU_scalar, L0 and unused features; sums in f64 about the mean, in two passes."""
    mean, wide = x.double().mean(0), x.double()
    parts = [sae.encode(r) for r in x.split(4096)]
    fired = sum((p > 0).sum(0) for p in parts)
    error = sum(float((r.double() - sae.decode(p).double()).pow(2).sum())
                for r, p in zip(x.split(4096), parts))
    return {"fvu_dim": error / float((wide - mean).pow(2).sum()),
            "fvu_scalar": error / float((wide - wide.mean()).pow(2).sum()),
            "mse": error / x.numel(), "l0": int(fired.sum()) / len(x),
            "dead_features": int((fired == 0).sum()), "tokens": len(x)}


def baselines(train, ids, vocab):
    """Unigram and interpolated bigram cross-entropy over the tokens the model is scored on."""
    uni = (np.bincount(train, minlength=vocab) + 1.0) / (len(train) + vocab)
    pair = train[:-1].astype(np.int64) * vocab + train[1:]
    count = np.bincount(pair, minlength=vocab * vocab).reshape(vocab, vocab)
    a, b = ids[:, :-1].ravel(), ids[:, 1:].ravel()
    hits, total = count[a, b], count.sum(1)[a]
    # The weight of the unigram is the best one for this very file: that favours the baseline.
    best = min((float(-np.log((hits + k * uni[b]) / (total + k)).mean()), k)
               for k in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500))
    return {"train_tokens": len(train), "unigram_ce": float(-np.log(uni[b]).mean()),
            "bigram_ce": best[0], "bigram_unigram_weight": best[1]}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", default="examples/data")
    p.add_argument("--ids", default="build/train/train-ids.npy",
                   help="training token ids for the baselines; without them these are left out")
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    from sae_lens import SAE
    from sae_lens import __version__ as sae_lens_version
    folder = os.path.join(a.data, "tiny-gemma3")
    sae_folder = os.path.join(a.data, "tiny-gemma3-sae")
    text = os.path.join(a.data, "eval.jsonl")
    tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    sae = SAE.load_from_disk(sae_folder, device="cpu")
    hook = sae.cfg.metadata.hook_name
    layer = int(hook.split(".")[1])
    ids, owner, documents, tokens = pack(tok, text, a.context)
    target = owner[:, 1:]
    kind = np.array([row["kind"] for row in documents])[target]
    keep = torch.from_numpy(ids).flatten() != BOS
    out = {
        "made_with": {"torch": torch.__version__, "transformers": transformers_version,
                      "sae_lens": sae_lens_version, "attn": "sdpa",
                      "log_softmax": "f64 of the logits"},
        "sha256": {name: digest(os.path.join(a.data, name)) for name in (
            "eval.jsonl", "tiny-gemma3/model.safetensors", "tiny-gemma3/tokenizer.json",
            "tiny-gemma3-sae/sae_weights.safetensors")},
        "corpus": {"documents": len(documents), "tokens": tokens, "context": a.context,
                   "chunks": len(ids), "chunk_tokens": ids.size,
                   "predicted_tokens": int(target.size), "bos_policy": "document start",
                   "token_hash": hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest(),
                   "token_hash_of": "sha256 of the ids of all whole chunks, u32 little endian",
                   "first_ids": ids.flatten()[:16].tolist()}}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        nll, rows = forward(folder, ids, layer, dtype)
        ce = float(nll.mean())
        out[name] = {
            "ce": ce, "ppl": math.exp(ce),
            "kinds": {k: {"predicted_tokens": int((kind == k).sum()),
                          "ce": float(nll[kind == k].mean())} for k in sorted(set(kind.flat))},
            "sae": {"hook_name": hook, **reconstruction(sae, rows),
                    "without_bos": reconstruction(sae, rows[keep])}}
    if os.path.exists(a.ids):
        out["baselines"] = baselines(np.load(a.ids), ids, tok.get_vocab_size())
    path = os.path.join(a.data, "reference.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(out, f, indent=1)
        f.write("\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
