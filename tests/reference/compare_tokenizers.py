# SPDX-License-Identifier: BSD-2-Clause
"""Token ids of libqsae and of the tokenizers package on long mixed texts.

    QSAE_LIBRARY=.../libqsae.so PYTHONPATH=libqsae/python \\
        python3 tests/reference/compare_tokenizers.py --gpt2 FOLDER [--text FILE]...
        [--bytes 1000000] [--seed 1] [--write FOLDER] [KIND]...

FOLDER holds GPT-2's published vocab.json and merges.txt: real words in their real order. From them
come vocabularies of the sizes and with the normalizer, pre-tokenizer and template of each KIND:

gemma gemma2            characters, bytes for the rest, spaces as U+2581; 262,144 and 256,000 tokens
llama2 llama2_new       the same with a space put in front; older and newer spelling; 32,000
llama3 qwen2 qwen35     byte level, the models' regular expressions; up to 151,000
gpt2 gpt2_files neox    byte level, GPT-2's expression; gpt2_files: without a tokenizer.json
smollm phi roberta      the same with single digits; with added runs of spaces; between <s> and </s>
mistral                 as llama2, spaces by Metaspace, all spellings of it at their defaults
t5 t5_new albert xlmr   Unigram, compiled rules of NFKC; 32,000 and 250,000 tokens
unigram_gemma           Unigram with bytes for the rest, a word may be a whole text

The texts hold the files of --text and, mixed with them, emoji, CJK and other scripts, runs of white
space, control characters, special tokens, composed and decomposed pairs, and any code point.
--write only writes the tokenizers (NAME/tokenizer.json) and the text (mixed.txt).
Prints how many ids were compared and ends with status 1 if any differs.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers_ref as ref
import unigram_ref
from tokenizers import Tokenizer

SPACE = ref.SPACE
QWEN35 = ref.QWEN.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+").replace(
    r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{M}\p{N}]+"
)


# --- vocabularies -------------------------------------------------------------------------------


def gpt2_parts(folder):
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [tuple(x.split(" ")) for x in lines if x and not x.startswith("#version")]
    return vocabulary, merges


def longer(vocabulary, merges, size, seed, starts_word):
    """Grows both by joining random tokens inside words until there are `size` tokens."""
    rng = random.Random(seed)
    texts = [left + right for left, right in merges]
    tails = [t for t in texts if not starts_word(t) and len(t) < 9]
    known = dict(vocabulary)
    more = []
    while len(known) < size:
        left, right = rng.choice(texts), rng.choice(tails)
        if len(left) > 16 or left + right in known:
            continue
        known[left + right] = len(known)
        more.append((left, right))
        texts.append(left + right)
    return known, merges + more


def bytes_to_size(vocabulary, merges, size, special):
    base = {t: i for t, i in vocabulary.items() if t != "<|endoftext|>"}
    if size > len(base) + len(special):
        base, merges = longer(base, merges, size - len(special), 7, lambda t: t[0] == "\u0120")
    for piece in special:
        base[piece] = len(base)
    return base, merges


def spaced(merges, size, special):
    """GPT-2's merges whose sides are whole characters, as text with U+2581 for the space."""
    back = {c: b for b, c in ref.byte_map().items()}

    def text(token):
        try:
            return bytes(back[c] for c in token).decode("utf-8").replace(" ", SPACE)
        except UnicodeDecodeError:
            return None

    pairs = [(text(a), text(b)) for a, b in merges]
    letters = dict.fromkeys([SPACE, *map(chr, range(32, 127)), "\t", "\n"])
    for kept in (True, False):
        letters.update(dict.fromkeys(c for p in pairs if None not in p for s in p for c in s))
        if kept:
            letters.update(dict.fromkeys(chr(c) for c in range(0xA0, 0x800)))
            letters.update(dict.fromkeys(chr(c) for c in range(0x4E00, 0x5600)))
    letters.pop(" ")
    vocabulary = {}
    for piece in [*special, *ref.BYTES, *letters]:
        vocabulary.setdefault(piece, len(vocabulary))
    out = []
    for left, right in pairs:
        if left not in vocabulary or right not in vocabulary or len(vocabulary) >= size:
            continue
        out.append((left, right))
        vocabulary.setdefault(left + right, len(vocabulary))
    if len(vocabulary) < size:
        vocabulary, out = longer(vocabulary, out, size, 9, lambda t: t[0] == SPACE)
    return vocabulary, out


def all_cuts(vocabulary, names, merges):
    """Every cut of every merged token, as converters of SentencePiece models list them."""
    out = []
    for token in dict.fromkeys(left + right for left, right in merges):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [c for c in cuts if c[0] in vocabulary and c[1] in vocabulary]
        out += sorted(known, key=lambda c: (vocabulary[c[0]], vocabulary[c[1]]))
    return [c for c in out if not names & {*c}]


def gemma(merges, size):
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    more = [f"<unused{i}>" for i in range(99)] + ["<start_of_turn>", "<end_of_turn>", "<table>"]
    runs = ["\n" * i for i in range(2, 32)] + [SPACE * i for i in range(2, 32)]
    v, m = spaced(merges, size, [*names, *more, *runs])
    m = all_cuts(v, {*names, *more}, [("\n" * i, "\n") for i in range(1, 31)] + m)
    tokens = [
        ref.added(v[t], t, special=t in names or "_of_turn" in t) for t in names + more + runs
    ]
    return v, m, tokens


def documents(folder):
    """Of each kind: whether merges are pairs, and tokenizer.json as an object."""
    vocabulary, merges = gpt2_parts(folder)
    llama = ["<unk>", "<s>", "</s>"]
    base = [ref.added(i, t, special=True) for i, t in enumerate(llama)]
    fallback = {"byte_fallback": True, "fuse_unk": True}
    end = "<|endoftext|>"
    out = {}

    for name, size in (("gemma", 262144), ("gemma2", 256000)):
        v, m, tokens = gemma(merges, size)
        out[name] = ref.document(v, ref.as_arrays(m), tokens, ref.REPLACE, ref.SPLIT,
                                 ref.template(v, ["<bos>"]), ref.LLAMA_DECODER, **fallback)
    v, m = spaced(merges, 32000, llama)
    both = {"type": "Sequence", "normalizers": [ref.PREPEND, ref.REPLACE]}
    post = ref.template(v, ["<s>"])
    out["llama2"] = ref.document(v, ref.as_strings(m), base, both, None, post, ref.LLAMA_DECODER,
                                 **fallback)
    out["llama2_new"] = ref.document(v, ref.as_arrays(m), base, None, ref.metaspace("first", False),
                                     post, ref.LLAMA_DECODER, **fallback)

    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
    v, m = bytes_to_size(vocabulary, merges, 128000, [])
    tokens = [ref.added(len(v) + i, t, special=True) for i, t in enumerate(names)]
    post = ref.template({t["content"]: t["id"] for t in tokens}, names[:1])
    out["llama3"] = ref.document(
        v, ref.as_arrays(m), tokens, None, ref.regex(ref.LLAMA3),
        {"type": "Sequence", "processors": [ref.BYTE_LEVEL, post]}, ref.BYTE_LEVEL, unk_token=None,
        ignore_merges=True)
    names = [end, "<|im_start|>", "<|im_end|>"]
    v, m = bytes_to_size(vocabulary, merges, 151643, [])
    tokens = [ref.added(len(v) + i, t, special=True) for i, t in enumerate(names)]
    tokens += [ref.added(len(v) + 3, "<think>")]
    for name, pattern in (("qwen2", ref.QWEN), ("qwen35", QWEN35)):
        out[name] = ref.document(v, ref.as_arrays(m), tokens, {"type": "NFC"}, ref.regex(pattern),
                                 ref.BYTE_LEVEL, ref.BYTE_LEVEL, unk_token=None)
    level = {**ref.BYTE_LEVEL, "use_regex": True}
    tokens = [ref.added(vocabulary[end], end, special=True)]
    out["gpt2"] = ref.document(vocabulary, ref.as_strings(merges), tokens, None, level, level,
                               level, unk_token=None)
    v, m = bytes_to_size(vocabulary, merges, 0, [])
    tokens = [ref.added(len(v), end, special=True)]
    tokens += [ref.added(len(v) + 1 + i, " " * (24 - i), normalized=True) for i in range(23)]
    out["neox"] = ref.document(v, ref.as_strings(m), tokens, {"type": "NFC"}, level, level, level,
                               unk_token=None)
    tokens = [ref.added(vocabulary[end], end, special=True)]
    digits = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, level]}
    out["smollm"] = ref.document(vocabulary, ref.as_strings(merges), tokens, None, digits, None,
                                 level, unk_token=None)
    runs = [ref.added(len(vocabulary) + i, " " * (31 - i), normalized=True) for i in range(30)]
    runs += [ref.added(len(vocabulary) + 30 + i, "\t" * (9 - i)) for i in range(8)]
    out["phi"] = ref.document(vocabulary, ref.as_arrays(merges), tokens + runs, None, level, level,
                              level, unk_token=None)
    pair = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0],
            "trim_offsets": True, "add_prefix_space": False}
    v = {t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", *vocabulary, "<mask>"])}
    tokens = [ref.added(v[t], t, special=True) for t in ("<s>", "<pad>", "</s>", "<unk>")]
    tokens += [ref.added(v["<mask>"], "<mask>", special=True, lstrip=True)]
    out["roberta"] = ref.document(v, ref.as_strings(merges), tokens, None, level, pair, level,
                                  unk_token=None)
    v, m = spaced(merges, 32000, llama)
    out["mistral"] = ref.document(v, ref.as_arrays(m), base, None,
                                  {"type": "Metaspace", "replacement": SPACE, "split": False},
                                  ref.template(v, ["<s>"]), ref.LLAMA_DECODER, **fallback)
    out.update(unigrams(merges))
    return out


def unigrams(merges):
    """Unigram tokenizers of the words of the merge list, rarer ones with lower scores."""
    rng, out = random.Random(3), {}

    def scored(special, size, more=()):
        pieces, _ = spaced(merges, size, special)
        pieces = [p for p in pieces if p not in ref.BYTES and p not in special]
        scores = [-3.0 - 12.0 * i / len(pieces) - 2 * rng.random() for i in range(len(pieces))]
        entries = [(s, 0.0) for s in special] + [(b, 0.0) for b in more]
        return entries + [(p, unigram_ref.f32(s)) for p, s in zip(pieces, scores)]

    def names(special):
        return [ref.added(i, t, special=True) for i, t in enumerate(special)]

    everything = [chr(c) for c in range(0xA0, 0x110000) if not 0xD800 <= c < 0xE000]
    rules = unigram_ref.charsmap(unigram_ref.nmt_rules(everything))
    space, white = ref.metaspace("always", True), {"type": "WhitespaceSplit"}
    both = {"type": "Sequence", "pretokenizers": [white, space]}
    t5, roberta = ["<pad>", "</s>", "<unk>"], ["<s>", "<pad>", "</s>", "<unk>"]
    v = scored(t5, 32000)
    post = ref.template({"</s>": 1}, [], ["</s>"])
    model = unigram_ref.unigram(v, 2)
    out["t5"] = unigram_ref.document(model, names(t5), rules, both, post, space)
    steps = {"type": "Sequence", "normalizers": [
        rules, {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}]}
    out["t5_new"] = unigram_ref.document(model, names(t5), steps, ref.metaspace("first", True),
                                         post, space)
    quotes = [{"type": "Replace", "pattern": {"String": q}, "content": '"'} for q in ("``", "''")]
    steps = {"type": "Sequence", "normalizers": [
        *quotes, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, rules]}
    out["albert"] = unigram_ref.document(model, names(t5), steps, both, post, space)
    out["xlmr"] = unigram_ref.document(
        unigram_ref.unigram(scored(roberta, 250000), 3), names(roberta), rules, both,
        {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0],
         "trim_offsets": True, "add_prefix_space": True}, space)
    v = scored(roberta, 256000, ref.BYTES)
    out["unigram_gemma"] = unigram_ref.document(
        unigram_ref.unigram(v, 3, True), names(roberta), ref.REPLACE, ref.SPLIT, None,
        ref.LLAMA_DECODER)
    return out


# --- text ---------------------------------------------------------------------------------------

SCRIPTS = [
    (0x4E00, 0x9FFF), (0x3041, 0x30FF), (0xAC00, 0xD7A3), (0x400, 0x4FF), (0x370, 0x3FF),
    (0x600, 0x6FF), (0x5D0, 0x5EA), (0x900, 0x97F), (0xE01, 0xE5B), (0x1F300, 0x1FAFF),
    (0x2600, 0x27BF), (0x1F1E6, 0x1F1FF), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0x2100, 0x218F),
    (0x300, 0x36F), (0x2000, 0x206F), (0xFE00, 0xFE0F), (0x1100, 0x11FF), (0x20000, 0x2A6DF),
]
SPECIAL = [
    "<bos>", "<eos>", "<pad>", "<unk>", "<s>", "</s>", "<|endoftext|>", "<|begin_of_text|>",
    "<|eot_id|>", "<|im_start|>", "<think>", "<start_of_turn>", "<unused7>", "<table>", "<0x41>",
    "<|end", SPACE, SPACE * 3, "\n" * 5,
]


def snippet(rng):
    kind = rng.randrange(9)
    n = rng.randint(1, 12)
    if kind == 0:
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(n))
    if kind == 1:
        spaces = " \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000\u200b"
        return "".join(rng.choice(spaces) for _ in range(n))
    if kind == 2:
        return "".join(chr(rng.choice([*range(32), *range(127, 160)])) for _ in range(n))
    if kind == 3:
        return rng.choice(["", " ", "\n"]) + rng.choice(SPECIAL) + rng.choice(["", " ", "a"])
    if kind == 4:
        text = "".join(chr(rng.choice([*range(0xC0, 0x180), *range(0x1EA0, 0x1EFA),
                                       *range(0xAC00, 0xAC80)])) for _ in range(n))
        return unicodedata.normalize(rng.choice(["NFC", "NFD"]), text)
    if kind == 5:
        return rng.choice(["\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f",
                           "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea"]) * rng.randint(1, 3)
    if kind == 6:
        after = rng.choice(["", ".", ",", "%", "e-3", "\u00b2", "\u0663"])
        return str(rng.randrange(10**n)) + after
    if kind == 7:
        while True:
            c = rng.randrange(0x110000)
            if not 0xD800 <= c < 0xE000:
                return chr(c)
    return rng.choice([" ", "\n", "a", "'s", "'LL", "_", "..."]) * n


def assigned(text):
    """Without the characters that Python's Unicode lacks: engines differ in the younger ones."""
    return "".join(c for c in text if unicodedata.category(c) != "Cn")


def mixed(rng, texts, size):
    """About `size` bytes: stretches of the files between snippets."""
    out, total = [], 0
    while total < size:
        if rng.random() < 0.5 and texts:
            text = rng.choice(texts)
            at = rng.randrange(len(text))
            part = text[at:at + rng.randint(1, 60)]
        else:
            part = assigned(snippet(rng))
        out.append(part)
        total += len(part.encode())
    return "".join(out)


# --- comparison ---------------------------------------------------------------------------------


def write(folder, name, file):
    (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / name / "tokenizer.json"
    path.write_text(json.dumps(file, ensure_ascii=False, indent=2), encoding="utf-8")
    return path


def pieces(rng, text):
    """The text whole, and cut at random places into short ones."""
    yield text
    at = 0
    while at < len(text):
        n = rng.choice([1, 3, 10, 50, 300, 3000])
        yield text[at:at + n]
        at += n


def compare(name, ours, theirs, texts):
    ids = 0
    for text in texts:
        for special in (False, True):
            got = ours.encode(text, special=special).tolist()
            want = theirs.encode(text, add_special_tokens=special).ids
            ids += len(want)
            if got == want:
                continue
            at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b),
                      min(len(got), len(want)))
            print(f"{name}: {len(got)} and {len(want)} ids, id {at}: {got[at:at + 8]} and "
                  f"{want[at:at + 8]}: {theirs.decode(want[max(0, at - 3):at + 5])!r}")
            return ids, False
    return ids, True


def invalid(name, ours, rng, text):
    """Bytes that are not UTF-8 are refused with their offset, whatever surrounds them."""
    import qsae

    data = text.encode()[:2000]
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"):
        at = len(data[: rng.randrange(len(data))].decode(errors="ignore").encode())
        try:
            ours.encode(data[:at] + bad + data[at:])
        except qsae.Error as error:
            if error.name == "QSAE_EFORMAT" and f"offset {at}" in str(error):
                continue
        sys.exit(f"{name}: {bad!r} at {at} was not refused as it should")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", default=[])
    parser.add_argument("--bytes", type=int, default=1000000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path)
    parser.add_argument("kinds", nargs="*")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    texts = [p.read_text(encoding="utf-8") for p in args.text]
    text = mixed(rng, texts, args.bytes)
    files = documents(args.gpt2)
    kinds = args.kinds or [*files, "gpt2_files"]
    if args.write:
        for name in kinds:
            if name in files:
                write(args.write, name, files[name])
        (args.write / "mixed.txt").write_text(text, encoding="utf-8", newline="")
        return 0

    import qsae

    ctx, failed = qsae.Context(threads=1), 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in kinds:
            path = write(folder, name, files["gpt2" if name == "gpt2_files" else name])
            theirs = Tokenizer.from_file(str(path))
            if name == "gpt2_files":
                path.unlink()
                for part in ("vocab.json", "merges.txt"):
                    shutil.copy(args.gpt2 / part, path.parent)
            ours = qsae.Tokenizer(ctx, str(path.parent))
            ids, same = compare(name, ours, theirs, pieces(random.Random(args.seed), text))
            invalid(name, ours, rng, text)
            failed += not same
            print(f"{name}: {ours.vocab} tokens, {ids} ids, {'equal' if same else 'DIFFERENT'}",
                  flush=True)
            shutil.rmtree(path.parent)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
