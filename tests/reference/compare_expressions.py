# SPDX-License-Identifier: BSD-2-Clause
"""Where random regular expressions cut, in libqsae and in the tokenizers package.

    QSAE_LIBRARY=.../libqsae.so PYTHONPATH=libqsae/python \\
        python3 tests/reference/compare_expressions.py [--number 5000] [--seed 1]

Each is the Split of a tokenizer whose vocabulary has the package's pieces of one random text beside
its characters, so that ids are equal only where the cuts are. Characters are older than Unicode 14.
Expressions that libqsae refuses are counted; ends with status 1 if any other cut differs.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

ATOMS = [
    *"ab1-{}&]", "\u00e9", r"\w", r"\W", r"\s", r"\S", r"\d", r"\D", "[ab]", "[^a]", r"[\w]", r"[\s-]",
    r"[^\w\s]", "[a-c]", r"[^\n]", r"\p{L}", r"\p{N}", r"\P{L}", ".", "^", "$", r"\b", r"\B", r"\A", r"\z",
    r"\Z", "(?:ab)", "(a|b)", "(?>a|ab)", "(?=a)", "(?!b)", "(?<=a)", r"(?<!\w)", "(?i:A)", "(?i)b",
    "[[:punct:]]", "[[:space:]a]", "[[:word:]]", "[[:alpha:]]", "[[:^digit:]]", r"\v", r"\x61", r"\n", r"\r",
    r"\t", r"\.", r"\-", r"\'", r"\h",
]  # fmt: skip
TIMES = ["", "", "", "", "*", "+", "?", "*?", "+?", "??", "++", "*+", "?+", "{2}", "{1,2}", "{1,}",
         "{1,2}+", "{2}+", "{1,2}?", "{2}?", "{,2}"]  # fmt: skip
CHARACTERS = "aab1 \n-.A\r_\x0b\t\u00e9\u0301\u00bd\u203f\u180e\u24b6\u20ac\u017f\u212a"
BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def expression(rng):
    def part():
        return "".join(rng.choice(ATOMS) + rng.choice(TIMES) for _ in range(rng.randint(1, 4)))

    return "|".join(part() for _ in range(rng.choice([1, 1, 1, 2])))


def document(split, words):
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": split, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": True, "vocab": {w: i for i, w in enumerate(words)}, "merges": [],
        },
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    import qsae

    ctx, rng, counts = qsae.Context(threads=1), random.Random(args.seed), [0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        for _ in range(args.number):
            split = {"type": "Split", "pattern": {"Regex": expression(rng)},
                     "behavior": rng.choice(BEHAVIORS), "invert": rng.random() < 0.3}  # fmt: skip
            text = "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, 12)))
            try:
                theirs = Tokenizer.from_str(json.dumps(document(split, [])))
            except Exception:  # the package refuses it
                continue
            cut = [p for p, _ in theirs.pre_tokenizer.pre_tokenize_str(text)]
            file = json.dumps(document(split, sorted({*CHARACTERS, *cut})))
            path.write_text(file, encoding="utf-8")
            try:
                got = qsae.Tokenizer(ctx, str(path)).encode(text, special=False).tolist()
            except qsae.Error as error:
                if "regular expression" not in str(error):
                    raise
                counts[1] += 1
                continue
            same = got == Tokenizer.from_str(file).encode(text).ids
            counts[0 if same else 2] += 1
            if not same:
                print(f"DIFFERENT: {json.dumps(split)} cuts {text!r} into {cut}")
    print(f"{counts[0]} equal, {counts[1]} refused, {counts[2]} different")
    return counts[2] > 0


if __name__ == "__main__":
    sys.exit(main())
