# SPDX-License-Identifier: BSD-2-Clause
"""Small Unigram tokenizers with the ids the tokenizers package gives, and random ones compared.

    python3 tests/reference/unigram_ref.py [FOLDER]
    QSAE_LIBRARY=.../libqsae.so PYTHONPATH=libqsae/python \\
        python3 tests/reference/unigram_ref.py --random 1000 [--seed 1]

The first form writes tests/data/tokenizers/unigram_*; the second makes so many random tokenizers
(vocabularies with ties, rules, normalizers, pre-tokenizers, templates) and compares every id of
libqsae with the package's on random texts. It ends with status 1 if any differs.
"""

import argparse
import base64
import json
import os
import random
import struct
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers_ref as ref
from tokenizers import Tokenizer

from common import DATA, versions

SPACE = ref.SPACE
WHITE = {"type": "WhitespaceSplit"}


# --- SentencePiece's compiled rules ---------------------------------------------------------------


class DoubleArray:
    """A double array in darts-clone's layout, built naively."""

    def __init__(self, rules):
        self.units, self.taken, self.free = [0] * 256, bytearray(256), 1
        self.taken[0] = 1
        tree = {}
        for key, value in rules.items():
            node = tree
            for byte in key:
                node = node.setdefault(byte, {})
            node[None] = value
        self.place(0, tree)

    def fits(self, base, labels):
        while (base | 255) >= len(self.units):
            self.units += [0] * 256
            self.taken += bytes(256)
        return not any(self.taken[base ^ c] for c in labels)

    def place(self, at, node):
        labels = sorted(0 if c is None else c for c in node)
        while self.taken[self.free]:
            self.free += 1
            self.fits(self.free, [])
        base = self.free ^ labels[0]
        while not self.fits(base, labels) or base == 0:
            base += 1
        offset = base ^ at
        if offset >= 1 << 21:
            raise ValueError("too many rules")
        self.units[at] |= offset << 10
        for c in labels:
            self.taken[base ^ c] = 1
        for key, child in node.items():
            if key is None:
                self.units[at] |= 1 << 8
                self.units[base] = child | 1 << 31
            else:
                self.units[base ^ key] |= key
        for key, child in node.items():
            if key is not None:
                self.place(base ^ key, child)


def charsmap(rules):
    """precompiled_charsmap of {text: replacement}."""
    blob, at = bytearray(), {}
    for text in sorted(set(rules.values())):
        at[text] = len(blob)
        blob += text.encode() + b"\0"
    keys = {key.encode(): at[value] for key, value in sorted(rules.items())}
    units = DoubleArray(keys).units
    data = struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + bytes(blob)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def nmt_rules(characters):
    """Rules like nmt_nfkc's for these characters: NFKC, controls removed, spaces made one."""
    out = {chr(c): "" for c in (*range(1, 9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F)}
    spaces = "\t\n\x0c\r\u1680\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2581\ufeff\ufffd"
    out.update(dict.fromkeys(spaces, " "))
    for c in characters:
        to = unicodedata.normalize("NFKC", c)
        if to != c:
            out[c] = to
        apart = unicodedata.normalize("NFD", c)
        if apart != c and unicodedata.normalize("NFC", apart) == c:
            out[apart] = to
    return out


RANGES = [(0xA0, 0x250), (0x1E00, 0x1F00), (0x2000, 0x2070), (0x2100, 0x2190), (0x3000, 0x3100),
          (0xAC00, 0xAC20), (0xFB00, 0xFB07), (0xFF01, 0xFF60), (0x340, 0x345)]
NFKC = [chr(c) for low, high in RANGES for c in range(low, high)]


# --- tokenizers -----------------------------------------------------------------------------------


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def unigram(entries, unk, byte_fallback=False):
    return {"type": "Unigram", "unk_id": unk, "vocab": [list(e) for e in entries],
            "byte_fallback": byte_fallback}


def document(model, tokens, normalizer=None, pre=None, post=None, decoder=None):
    out = ref.document({}, [], tokens, normalizer, pre, post, decoder)
    out["model"] = model
    return out


def pieces(special, with_bytes=(), extra=()):
    """Trained words with falling scores, as EM leaves them in f32."""
    vocabulary, merges = ref.spaced_vocabulary(special, list(with_bytes), list(extra))
    rng = random.Random(5)
    out = []
    for i, piece in enumerate(vocabulary):
        if piece in special or piece in extra:
            score = 0.0
        elif len(piece) > 1 and set(piece) == {"a"}:
            score = -3.5 * len(piece)
        else:
            score = f32(-2.0 - 8.0 * i / len(vocabulary) - 3 * rng.random())
        out.append((piece, score))
    return out


def sequence(kind, items):
    return {"type": "Sequence", kind: items}


def build():
    out = {}
    names = ["<pad>", "</s>", "<unk>"]
    v = pieces(names)
    at = {p: i for i, (p, _) in enumerate(v)}
    tokens = [ref.added(i, t, special=True) for i, t in enumerate(names)]
    extra = [ref.added(len(v) + i, f"<extra_id_{i}>", special=True) for i in range(3)]
    rules = charsmap(nmt_rules(NFKC[::6] + list("\u00e9\ufb01\uff41\u00a8\u2026\u32ff")))
    space = ref.metaspace("always", True)
    out["unigram_t5"] = document(
        unigram(v + [(t["content"], 0.0) for t in extra], 2), tokens + extra, rules,
        sequence("pretokenizers", [WHITE, space]), ref.template(at, [], ["</s>"]), space)
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    runs = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    v = pieces(names)
    tokens = [ref.added(i, t, special=True) for i, t in enumerate(names)]
    tokens.append(ref.added(len(v), "<mask>", special=True, lstrip=True))
    roberta = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0],
               "trim_offsets": True, "add_prefix_space": True}
    out["unigram_xlmr"] = document(
        unigram(v + [("<mask>", 0.0)], 3), tokens,
        sequence("normalizers", [rules, strip, runs]), ref.metaspace("first", True), roberta,
        space)
    albert = ["<pad>", "<unk>", "[CLS]", "[SEP]"]
    v = pieces(albert)
    quotes = [{"type": "Replace", "pattern": {"String": q}, "content": '"'} for q in ("``", "''")]
    steps = [*quotes, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, rules]
    bert = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    out["unigram_albert"] = document(
        unigram(v, 1), [ref.added(i, t, special=True) for i, t in enumerate(albert)],
        sequence("normalizers", steps), sequence("pretokenizers", [WHITE, space]), bert, space)
    gemma = ["<pad>", "<eos>", "<bos>", "<unk>"]
    v = pieces(gemma, ref.BYTES, ["\n\n", "\n\n\n", SPACE * 2])
    at = {p: i for i, (p, _) in enumerate(v)}
    out["unigram_bytes"] = document(
        unigram(v, 3, True), [ref.added(i, t, special=True) for i, t in enumerate(gemma)],
        ref.REPLACE, None, ref.template(at, ["<bos>"]), ref.LLAMA_DECODER)
    v = pieces(["<unk>"])
    puncts = {"type": "Punctuation", "behavior": "MergedWithPrevious"}
    out["unigram_nmt"] = document(
        unigram(v, 0), [ref.added(0, "<unk>", special=True)], {"type": "Nmt"},
        sequence("pretokenizers", [{"type": "Whitespace"}, puncts, ref.metaspace("first", True)]))
    return out


# Clusters that are replaced as one, by the rule of their first character, or not at all; characters
# younger than Unicode 9; runs whose cuts tie.
MORE = [
    "e\u0301", "e\u0301\u0301", "\ufb01\u0301", "\uff41\u0301x", "\r\n", "a\r\n\r", "\u0301a",
    "\x01a", "a\x01", "\u200ba", "\u00a8a", "\u30ab\u3099", "\u1100\u1161\u11a8",
    "\u0915\u094d\u0937", "a\u0898b", "\u32ff", "a\u1cf2b", "\U00010781", "\u0301\u0898\u0323",
    "\U0001f1e9\U0001f1ea\u0301", "a" * 31, SPACE * 5, "\u00e9" * 9, "``x''", "\uff21\uff22",
    "\u2026!?", "x\u3000y", "\u0130",
]


# --- random ones ----------------------------------------------------------------------------------

LETTERS = "aabbcxyz\u00e9e\u0301\u00df\u0130\u6f22\ufb01\uff41 \t\n\r\x01_.,'`\u2581\u200b\u00a0"
EXTRA = "\U0001f468\u200d\U0001f469\u2764\ufe0f\u0915\u094d\u0937\u1100\u1161\u0e33\U0001f1e9\0"


def text(rng, most):
    letters = LETTERS + EXTRA if rng.random() < 0.5 else "abx " + SPACE
    return "".join(rng.choice(letters) for _ in range(rng.randint(0, most)))


def random_rules(rng):
    if rng.random() < 0.3:
        return nmt_rules(rng.sample(NFKC, 30) + list("\u00e9\ufb01\uff41"))
    out = {}
    for _ in range(rng.randint(1, 25)):
        key = text(rng, 3).replace("\0", "")
        if key:
            out[key] = text(rng, 3).replace("\0", "")
    return out or {"a": "b"}


def random_normalizer(rng):
    kinds = [
        lambda: charsmap(random_rules(rng)), lambda: charsmap(random_rules(rng)),
        lambda: {"type": rng.choice(["NFC", "NFD", "NFKC", "NFKD"])}, lambda: {"type": "Nmt"},
        lambda: {"type": "Lowercase"}, lambda: {"type": "StripAccents"}, lambda: ref.REPLACE,
        lambda: {"type": "Strip", "strip_left": rng.random() < 0.5, "strip_right": True},
        lambda: {"type": "Prepend", "prepend": SPACE},
        lambda: {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]
    n = rng.choice([0, 1, 1, 2, 3])
    return sequence("normalizers", [rng.choice(kinds)() for _ in range(n)]) if n else None


def random_pre(rng):
    behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    kinds = [
        lambda: WHITE, lambda: {"type": "Whitespace"},
        lambda: {"type": "Punctuation", "behavior": rng.choice(behaviors)},
        lambda: {"type": "CharDelimiterSplit", "delimiter": rng.choice(" a_\u00e9")},
        lambda: {"type": "Digits", "individual_digits": rng.random() < 0.5},
        lambda: ref.metaspace(rng.choice(["always", "first", "never"]), rng.random() < 0.7),
        lambda: ref.metaspace(rng.choice(["always", "first", "never"]), rng.random() < 0.7),
        lambda: {**ref.BYTE_LEVEL, "use_regex": rng.random() < 0.5},
    ]
    n = rng.choice([0, 1, 1, 2, 3])
    steps = [rng.choice(kinds)() for _ in range(n)]
    while sum(s["type"] == "Metaspace" for s in steps) > 1:
        steps.pop()
    return sequence("pretokenizers", steps) if steps else None


def random_document(rng):
    entries = [("<unk>", rng.choice([0.0, -5.0]))]
    if rng.random() < 0.4:
        entries += [(b, f32(-rng.random())) for b in rng.sample(ref.BYTES, 256)]
    seen = {e[0] for e in entries}
    for _ in range(rng.randint(0, 120)):
        piece = text(rng, rng.choice([1, 2, 5])).replace("\0", "")
        if piece in seen and rng.random() < 0.9 or not piece:
            continue
        seen.add(piece)
        score = rng.choice([-1.5, -float(rng.randint(1, 9)), f32(-9 * rng.random()),
                            round(-9 * rng.random(), rng.randint(1, 17)), 1.25])
        entries.append((piece, score))
    tokens = []
    for i in range(rng.choice([0, 0, 2])):
        flags = {k: rng.random() < 0.3 for k in ("single_word", "lstrip", "rstrip")}
        content = ["[X]", "ab"][i]
        at = max((k for k, e in enumerate(entries) if e[0] == content), default=-1)
        tokens.append(ref.added(len(entries) + i if at < 0 else at, content,
                                special=rng.random() < 0.5, normalized=rng.random() < 0.5, **flags))
    entries = entries[:1] + entries[1:]
    unk = 0 if rng.random() < 0.9 else None
    model = unigram(entries, unk, rng.random() < 0.5)
    if rng.random() < 0.1:
        del model["type"]
    pair = {"type": rng.choice(["BertProcessing", "RobertaProcessing"]), "sep": ["<unk>", 0],
            "cls": ["<unk>", 0], "trim_offsets": True, "add_prefix_space": False}
    if pair["type"] == "BertProcessing":
        del pair["trim_offsets"], pair["add_prefix_space"]
    return document(model, tokens, random_normalizer(rng), random_pre(rng),
                    rng.choice([None, pair]))


def compare(number, seed):
    import qsae

    ctx, texts, ids, refused, skipped = qsae.Context(threads=1), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        for i in range(number):
            rng = random.Random(f"{seed}/{i}")
            path.write_text(json.dumps(random_document(rng)), encoding="utf-8")
            theirs = Tokenizer.from_file(str(path))
            try:
                ours = qsae.Tokenizer(ctx, str(path))
            except qsae.Error as error:
                if 'prepend_scheme "first"' not in str(error):
                    raise
                skipped += 1
                continue
            for _ in range(40):
                sample = text(rng, rng.choice([3, 10, 40]))
                texts += 1
                special = rng.random() < 0.5
                try:
                    want = theirs.encode(sample, add_special_tokens=special).ids
                except BaseException as error:  # a panic of the package is no Exception
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    want = str(error)
                try:
                    got = ours.encode(sample, special=special).tolist()
                except qsae.Error as error:
                    got = str(error)
                if isinstance(want, str) and (isinstance(got, str) or "bad split" in want):
                    refused += 1
                    continue
                if got != want:
                    print(f"tokenizer {i}, {sample!r}: {got} and {want}")
                    return 1
                ids += len(want)
    print(f"{number} tokenizers ({skipped} refused by name), {texts} texts, {ids} ids, {refused} "
          "texts refused by the package")
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=str(DATA / "tokenizers"))
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.random > 0:
        return compare(args.random, args.seed)
    folder = Path(args.folder)
    for seed, (name, file) in enumerate(build().items()):
        path = folder / f"{name}.tokenizer.json"
        body = json.dumps(file, ensure_ascii=False, separators=(",", ":"))
        path.write_text(body + "\n", encoding="utf-8", newline="\n")
        tokenizer = Tokenizer.from_file(str(path))
        texts = ref.strings(seed, file["added_tokens"])[seed % 2::2] + MORE
        cases = [ref.ids(tokenizer, t) for t in texts]
        ref.write_cases(folder / f"{name}.json",
                        {"versions": versions("tokenizers"), "tokenizer": path.name}, cases)
        print(f"{name}: {tokenizer.get_vocab_size()} pieces, {len(cases)} strings, "
              f"{path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
