# SPDX-License-Identifier: BSD-2-Clause
"""Folders with vocab.json and merges.txt, read by libqsae and by the classes of transformers.

    QSAE_LIBRARY=.../libqsae.so PYTHONPATH=libqsae/python \\
        python3 tests/reference/compare_folders.py [--number 200] [--seed 1]

Each folder has a class, random settings and random files beside the two. Compared are the ids of
texts with and without special tokens, and the ids of BOS, EOS, padding and unknown token. Ends with
status 1 at the first difference.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import qsae
import tokenizers_ref as ref
import transformers

CLASSES = ["GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer", "CodeGenTokenizer"]
END = "<|endoftext|>"


def token(rng, text):
    if rng.random() < 0.6:
        return text
    flags = {k: rng.random() < 0.4 for k in ("single_word", "lstrip", "rstrip", "normalized")}
    return {"__type": "AddedToken", "content": text, **flags}


def config(rng, name, vocabulary):
    out = {"tokenizer_class": name + rng.choice(["", "Fast"])}
    texts = [token(rng, t) for t in (END, "<s>", "<|im_end|>", "<pad>", "ba")]
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        kind = rng.random()
        if kind < 0.35:
            out[key] = rng.choice(texts)
        elif kind < 0.45 and key in ("bos_token", "pad_token"):
            out[key] = None
    for key in ("add_prefix_space", "add_bos_token", "add_eos_token"):
        if rng.random() < 0.3:
            out[key] = rng.random() < 0.7
    if rng.random() < 0.4:
        at = len(vocabulary)
        rows = {str(at + i): {"content": t, "special": rng.random() < 0.5, "lstrip": False,
                              "rstrip": rng.random() < 0.3, "single_word": False,
                              "normalized": rng.random() < 0.3}
                for i, t in enumerate(["<think>", "<|im_end|>", "<s>"])}
        if END in vocabulary:
            rows[str(vocabulary[END])] = {"content": END, "special": True, "lstrip": False,
                                          "rstrip": False, "single_word": False,
                                          "normalized": False}
        out["added_tokens_decoder"] = rows
    if rng.random() < 0.2:
        out["additional_special_tokens"] = ["<x>", "<|im_end|>"]
    return out


def texts(rng):
    out = ref.strings(rng.randrange(1 << 30), [ref.added(0, t) for t in (END, "<s>", "<think>")])
    return rng.sample(out, 40) + ["<x><|im_end|> a", "e\u0301 don't 12345", "a<|padding|>b<pad> c"]


def names(tokenizer):
    found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
             tokenizer.unk_token_id)
    return [-1 if i is None else i for i in found]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    ctx, ids, total = qsae.Context(threads=1), 0, 0
    for i in range(args.number):
        rng = random.Random(f"{args.seed}/{i}")
        name = CLASSES[i % len(CLASSES)]
        vocabulary, merges = ref.byte_vocabulary([END] if rng.random() < 0.8 else [])
        with tempfile.TemporaryDirectory() as folder:
            settings = config(rng, name, vocabulary)
            Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
            Path(folder, "merges.txt").write_text(
                "#version: 0.2\n" + "\n".join(ref.as_strings(merges)) + rng.choice(["", "\n"]),
                encoding="utf-8")
            Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
            theirs = getattr(transformers, name).from_pretrained(folder)
            ours = qsae.Tokenizer(ctx, folder)
            if [ours.bos, ours.eos, ours.pad, ours.unk] != names(theirs):
                print(i, settings, [ours.bos, ours.eos, ours.pad, ours.unk], names(theirs))
                return 1
            for text in texts(rng):
                for special in (False, True):
                    want = theirs(text, add_special_tokens=special)["input_ids"]
                    got = ours.encode(text, special=special).tolist()
                    ids, total = ids + len(want), total + 1
                    if got != want:
                        print(i, settings, repr(text), special, got, want)
                        return 1
    print(f"{args.number} folders, {total} texts, {ids} ids, equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
