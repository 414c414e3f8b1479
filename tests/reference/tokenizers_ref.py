# SPDX-License-Identifier: BSD-2-Clause
"""Small tokenizer.json files with the ids the tokenizers package gives for made-up strings.

Vocabularies are trained here on generated syllables, by a few lines of byte-pair encoding with a
fixed tie rule, so that a file never depends on a trainer's hash order.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import collections
import json
import random

from tokenizers import Tokenizer

from common import folder_size, output_folder, versions

SPACE = "\u2581"
MERGES = 230
BYTES = [f"<0x{i:02X}>" for i in range(256)]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


# --- made-up text -------------------------------------------------------------------------------


def syllables(rng, count):
    return "".join(
        rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(["", "", "n", "s", "r"])
        for _ in range(count)
    )


def corpus():
    """Word counts with a long tail, each word with its leading spaces."""
    rng = random.Random(1)
    stems = [syllables(rng, rng.randint(1, 3)) for _ in range(160)]
    counts = collections.Counter()
    for i in range(6000):
        word = stems[int(len(stems) * rng.random() ** 2.5)]
        form = rng.random()
        if form < 0.1:
            word = word.capitalize()
        elif form < 0.16:
            word += rng.choice(["'s", "ing", "ed", "n't", ",", ".", "!", "...", "?"])
        elif form < 0.2:
            word = str(rng.randrange(2000))
        elif form < 0.23:
            word = rng.choice(
                [
                    "caf\u00e9",
                    "na\u00efve",
                    "\u00fcber",
                    "\u6f22\u5b57",
                    "\u043c\u0438\u0440",
                    "\u03b1\u03b2\u03b3",
                ]
            )
        spaces = 1 if rng.random() < 0.9 else rng.randint(0, 6)
        counts[SPACE * spaces + word] += 1
    for run in range(2, 9):
        counts[SPACE * run] += 40
        counts["a" * run] += 3
    counts["\n\n"] += 30
    counts["\t\t"] += 10
    return counts


def train(counts, merges):
    """Byte-pair encoding: the commonest pair first, ties in text order."""
    words = [(list(word), n) for word, n in sorted(counts.items())]
    out = []
    for _ in range(merges):
        pairs = collections.Counter()
        for symbols, n in words:
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        out.append(best)
        for symbols, _ in words:
            i = 0
            while i + 1 < len(symbols):
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = ["".join(best)]
                i += 1
    return out


def byte_map():
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in keep]
    table = {b: chr(b) for b in keep}
    table.update({b: chr(0x100 + i) for i, b in enumerate(rest)})
    return table


def spaced_vocabulary(special, with_bytes=BYTES, extra=()):
    """Vocabulary and merges over characters, spaces written as U+2581."""
    counts = corpus()
    merges = train(counts, MERGES)
    # Runs of one letter and words reachable by several splits: ties and stale candidates.
    merges += [("a", "a"), ("aa", "aa"), ("aaa", "a"), ("aa", "a")]
    merges += [
        ("x", "y"),
        ("y", "z"),
        ("xy", "z"),
        ("x", "yz"),
        ("z", "x"),
        ("xyz", "xyz"),
        ("n", SPACE),
        ("n" + SPACE, "b"),
    ]
    merges = list(dict.fromkeys(merges))
    letters = sorted({c for word in counts for c in word} | set("xyzqhwjc\n\t-_<>/()\"'0123456789"))
    vocabulary = {}
    for piece in [*special, *with_bytes, *letters, *extra]:
        vocabulary.setdefault(piece, len(vocabulary))
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    return vocabulary, merges


def byte_vocabulary(special):
    """Vocabulary and merges over mapped bytes, spaces inside the words they precede."""
    table = byte_map()
    counts = collections.Counter()
    for word, n in corpus().items():
        word = word.replace(SPACE, " ")
        counts["".join(table[b] for b in word.encode())] += n
    merges = train(counts, MERGES)
    vocabulary = {}
    for piece in [table[b] for b in range(256)]:
        vocabulary[piece] = len(vocabulary)
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    for piece in special:
        vocabulary.setdefault(piece, len(vocabulary))
    return vocabulary, merges


# --- tokenizer files ----------------------------------------------------------------------------


def added(number, content, special=False, normalized=False, **flags):
    return {
        "id": number,
        "content": content,
        "single_word": flags.get("single_word", False),
        "lstrip": flags.get("lstrip", False),
        "rstrip": flags.get("rstrip", False),
        "normalized": normalized,
        "special": special,
    }


def template(vocabulary, before=(), after=()):
    def item(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}

    sequence = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*map(item, before), *sequence, *map(item, after)]
    second = [*map(item, before), {"Sequence": {"id": "B", "type_id": 1}}, *map(item, after)]
    return {
        "type": "TemplateProcessing",
        "single": pair,
        "pair": pair + second,
        "special_tokens": {
            n: {"id": n, "ids": [vocabulary[n]], "tokens": [n]} for n in sorted({*before, *after})
        },
    }


def document(
    vocabulary, merges, tokens, normalizer=None, pre=None, post=None, decoder=None, **model
):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": post,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            **model,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def as_strings(merges):
    return [" ".join(pair) for pair in merges]


def as_arrays(merges):
    return [list(pair) for pair in merges]


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
LLAMA_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def regex(pattern):
    return {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": False,
            },
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
        ],
    }


def build():
    llama = ["<unk>", "<s>", "</s>"]
    gemma = ["<pad>", "<eos>", "<bos>", "<unk>"]
    out = {}

    v, m = spaced_vocabulary(llama)
    base = [added(i, t, special=True) for i, t in enumerate(llama)]
    both = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}
    out["llama2"] = document(
        v,
        as_strings(m),
        base,
        both,
        None,
        template(v, ["<s>"]),
        LLAMA_DECODER,
        byte_fallback=True,
        fuse_unk=True,
    )
    out["llama2_new"] = document(
        v,
        as_arrays(m),
        base,
        None,
        metaspace("first", False),
        template(v, ["<s>"]),
        LLAMA_DECODER,
        byte_fallback=True,
        fuse_unk=True,
    )
    out["metaspace_always"] = document(
        v,
        as_arrays(m),
        base,
        None,
        metaspace("always", True),
        template(v, ["<s>"], ["</s>"]),
        metaspace("always", True),
        byte_fallback=True,
    )
    out["metaspace_always_whole"] = document(
        v,
        as_arrays(m),
        base,
        None,
        metaspace("always", False),
        None,
        byte_fallback=True,
        fuse_unk=True,
    )
    out["metaspace_first"] = document(
        v,
        as_arrays(m),
        base,
        None,
        metaspace("first", True),
        template(v, ["<s>"]),
        byte_fallback=True,
    )
    out["metaspace_never"] = document(
        v,
        as_arrays(m),
        base,
        None,
        metaspace("never", True),
        template(v, [], ["</s>"]),
        byte_fallback=True,
    )
    out["ignore_merges"] = document(
        {**v, SPACE + "xyzxyz": len(v), SPACE + "whole": len(v) + 1},
        as_arrays(m),
        base,
        None,
        metaspace("always", True),
        template(v, ["<s>"]),
        byte_fallback=True,
        ignore_merges=True,
    )

    # Added tokens with every flag, in the vocabulary and beyond it.
    n = len(v)
    flags = base + [
        added(v["xyz"], "xyz", single_word=True),
        added(n, "<|left|>", lstrip=True),
        added(n + 1, "<|right|>", rstrip=True),
        added(n + 2, "<|both|>", lstrip=True, rstrip=True, special=True),
        added(n + 3, "<|plain|>"),
        added(n + 4, "<|plain|>x"),
        added(n + 5, "two words", normalized=True),
        added(n + 6, "ban", single_word=True, normalized=True),
        added(n + 7, "<|norm|>", normalized=True, special=True),
        added(n + 8, "<|normstrip|>", normalized=True, lstrip=True, rstrip=True),
        added(n + 9, "\u00e9\u00e8", single_word=True),
        added(n + 10, "[[", rstrip=True, single_word=True),
    ]
    out["flags_prepend"] = document(
        v, as_arrays(m), flags, both, None, template(v, ["<s>"]), byte_fallback=True, fuse_unk=True
    )
    out["flags_replace"] = document(
        v, as_arrays(m), flags, REPLACE, None, template(v, ["<s>"], ["</s>"]), byte_fallback=True
    )
    out["flags_none"] = document(
        v, as_arrays(m), flags, None, metaspace("first", True), None, byte_fallback=True
    )

    # Gemma: user-defined pieces, newline runs, runs of spaces, a literal tab instead of its byte.
    pieces = [
        "<unused0>",
        "<unused1>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<table>",
        "</table>",
        "<h1>",
    ]
    runs = ["\n" * i for i in range(2, 8)] + [SPACE * i for i in range(2, 8)]
    no_tab = [b for b in BYTES if b != "<0x09>"]
    v, m = spaced_vocabulary(gemma, no_tab, pieces + runs)
    tokens = [added(v[t], t, special=True) for t in gemma + pieces[2:4]]
    tokens += [added(v[t], t) for t in pieces[:2] + pieces[4:] + runs]
    tokens.sort(key=lambda t: t["id"])
    out["gemma"] = document(
        v,
        as_arrays(m),
        tokens,
        REPLACE,
        SPLIT,
        template(v, ["<bos>"]),
        LLAMA_DECODER,
        byte_fallback=True,
        fuse_unk=True,
    )
    out["gemma_strings"] = document(
        v,
        as_strings(m),
        tokens,
        REPLACE,
        SPLIT,
        {"type": "Sequence", "processors": [template(v, ["<bos>"], ["<eos>"])]},
        byte_fallback=True,
        fuse_unk=True,
    )

    # Unknown characters without bytes, with some bytes missing, and without an unknown token.
    v, m = spaced_vocabulary(llama, [])
    base = [added(i, t, special=True) for i, t in enumerate(llama)]
    out["unk_fused"] = document(
        v, as_strings(m), base, both, None, template(v, ["<s>"]), fuse_unk=True
    )
    out["unk_single"] = document(v, as_arrays(m), base, both, None, None)
    out["unk_none"] = document(v, as_arrays(m), base[1:], REPLACE, None, None, unk_token=None)
    v, m = spaced_vocabulary(llama, BYTES[:0xE2] + BYTES[0xF0:])
    out["bytes_missing"] = document(
        v, as_arrays(m), base, both, None, template(v, ["<s>"]), byte_fallback=True, fuse_unk=True
    )

    # Byte level.
    v, m = byte_vocabulary(["<|endoftext|>"])
    end = [added(v["<|endoftext|>"], "<|endoftext|>", special=True)]
    out["gpt2"] = document(
        v, as_strings(m), end, None, BYTE_LEVEL, BYTE_LEVEL, BYTE_LEVEL, unk_token=None
    )
    spaces = [added(len(v) + i, " " * (12 - i), normalized=True) for i in range(11)]
    out["neox"] = document(
        v,
        as_strings(m),
        end + spaces,
        {"type": "NFC"},
        BYTE_LEVEL,
        BYTE_LEVEL,
        BYTE_LEVEL,
        unk_token=None,
    )
    out["qwen"] = document(
        v, as_arrays(m), end, {"type": "NFC"}, regex(QWEN), BYTE_LEVEL, BYTE_LEVEL, unk_token=None
    )
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    v, m = byte_vocabulary([])
    v["\u0120banana"] = len(v)
    start = len(v)
    tokens = [added(start + i, t, special=True) for i, t in enumerate(names)]
    post = {
        "type": "Sequence",
        "processors": [BYTE_LEVEL, template({t["content"]: t["id"] for t in tokens}, names[:1])],
    }
    out["llama3"] = document(
        v,
        as_arrays(m),
        tokens,
        None,
        regex(LLAMA3),
        post,
        BYTE_LEVEL,
        unk_token=None,
        ignore_merges=True,
    )
    return out


# --- test strings -------------------------------------------------------------------------------

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    " .,;:!?'\"-()[]{}<>/\\|@#",
    "\u00e9\u00e8\u00fc\u00f1\u00e7\u00df\u00f8\u0153",
    "\u6f22\u5b57\u4eee\u540d\u3042\u3044\u30a2",
    "\ud55c\uad6d\uc5b4",
    "\u043c\u0438\u0440\u0434\u043b\u044f",
    "\u0627\u0644\u0639\u0631\u0628",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a",
    "\U0001f600\U0001f680\U0001f468\u200d\U0001f469\u200d\U0001f467\u2764\ufe0f"
    "\U0001f1e9\U0001f1ea",
    "e\u0301a\u0308o\u0302\u0323n\u0303",
    "\u00a0\u2009\u3000\u2028\u2029\u0085\u200b\ufeff",
    "\u0378\ue000\ufffd\uffff\U0010ffff\U000e0001",
    SPACE,
    "\t\n\r",
    "\u00b2\u2167\u0663\u00bd\u2460",
    "\u017f\u0130\u01c5\u1e9e\ufb01\u2126\u212b",
]


def strings(seed, tokens):
    """About 150 strings: fixed traps, random mixtures, and the file's own added tokens."""
    rng = random.Random(seed)
    stems = [syllables(random.Random(i), 1 + i % 3) for i in range(40)]
    out = [
        "",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "a",
        " a",
        "a ",
        SPACE,
        SPACE + "a",
        "a" + SPACE,
        SPACE + " " + SPACE,
        "\n\n\n\n\n\n\n\n\n\n",
        "a\n\n\nb",
        "a\r\n\r\nb\n\r",
        " \n \n",
        "   leading",
        "trailing   ",
        "a  b   c    d",
        "\ta\t\tb\t\t\t",
        "aaaaaaaaaaaaa",
        "aaaa aaa aa a",
        "xyzxyzxyz",
        "xyxyzzxyyz",
        "xyz xyz",
        "n b n b",
        "don't can't I'll WE'VE 's",
        "1 12 123 1234 12345",
        "3.14159e-10",
        "under_score-dash",
        "caf\u00e9 cafe\u0301 CAF\u00c9",
        "\u1e69 \u0073\u0323\u0307 s\u0307\u0323",
        "\u212b \u00c5 A\u030a",
        "\uac00\u1100\u1161 \u11a8",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \u2764\ufe0f",
        "\U0001f1e9\U0001f1ea\U0001f1eb",
        "\u0301\u0302\u0303",
        "a\u0301\u0301\u0301",
        "\ufeffbom",
        "\u00a0nbsp\u00a0",
        "\u3000wide\u3000",
        "line\u2028sep\u2029par",
        "zero\u200bwidth",
        "\u202ertl\u202c",
        "\u0378\ue000\uffff",
        "".join(map(chr, range(1, 32))),
        "".join(map(chr, range(32, 127))),
        "".join(map(chr, range(127, 192))),
        # Every lead and continuation byte UTF-8 can have.
        "".join(chr(0x80 + 64 * i + i % 64) for i in range(30)),
        "".join(
            chr(c) for c in (0x800, 0xFFF, *range(0x1000, 0xD000, 0x1041), 0xD7FF, 0xE000, 0xFFFF)
        ),
        "".join(
            chr(c)
            for c in (0x10000, 0x3FFFF, 0x40000, 0x7FFFF, 0x80000, 0xBFFFF, 0xC0000, 0x10FFFF)
        ),
        "<0x41><0x0A>",
        "<unk>",
        "<s>",
        "</s><s>",
        "text<s>text",
        " <s> ",
        "<bos>a<eos>",
        "<pad>",
        "<S>",
        "< s>",
        "<|endoftext|>",
        "a<|endoftext|>b",
        "<|begin_of_text|><|eot_id|>",
        "<|end",
        "banana banana",
        "whole",
        "".join(rng.choice("abnxyz") for _ in range(300)),
        syllables(rng, 90),
        " ".join(rng.choice(stems) for _ in range(40)),
        "ab" * 60 + "\n" * 9 + " " * 33 + "end",
    ]
    contents = [t["content"] for t in tokens]
    contents = contents if len(contents) < 20 else contents[::2]
    for content in contents:
        a, b = rng.choice(stems), rng.choice(stems)
        form = rng.randrange(6)
        out.append(
            [
                content,
                f"{a}{content}{b}",
                f"{a} {content} {b}",
                f"  {content}  ",
                f"{content}{content}",
                f"{a}\n\t {content} \r\n {b}",
            ][form]
        )
        out.append(f"{a}  {content}\t{content}{b} {content[:-1]} {content}")
    for _ in range(24 if len(contents) > 4 else 10):
        parts = []
        for _ in range(rng.randint(2, 5)):
            parts.append(
                rng.choice(
                    [rng.choice(contents), rng.choice(stems), " ", "  ", "\n", SPACE, "x", "\u00e9"]
                )
            )
        out.append("".join(parts))
    while len(out) < 150:
        parts = []
        for _ in range(rng.randint(1, 5)):
            kind = rng.random()
            if kind < 0.4:
                parts.append(rng.choice(["", " ", "  ", SPACE]) + rng.choice(stems))
            elif kind < 0.9:
                alphabet = rng.choice(ALPHABETS)
                parts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 5))))
            else:
                parts.append(
                    chr(rng.choice([rng.randrange(0x100, 0xD800), rng.randrange(0x10000, 0x30000)]))
                )
        out.append("".join(parts))
    return out


def ids(tokenizer, text):
    return [
        text,
        tokenizer.encode(text, add_special_tokens=False).ids,
        tokenizer.encode(text, add_special_tokens=True).ids,
    ]


def write_cases(path, head, cases):
    """One case per line; text as UTF-8 except control characters."""
    lines = [json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases]
    start = json.dumps(head, ensure_ascii=False)[:-1]
    path.write_text(
        start + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8", newline="\n"
    )


def main():
    folder = output_folder("tokenizers")
    folder.mkdir(parents=True, exist_ok=True)
    zero = []
    for seed, (name, file) in enumerate(build().items()):
        path = folder / f"{name}.tokenizer.json"
        path.write_text(
            json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n",
            encoding="utf-8",
            newline="\n",
        )
        tokenizer = Tokenizer.from_file(str(path))
        cases = [ids(tokenizer, text) for text in strings(seed, file["added_tokens"])]
        write_cases(
            folder / f"{name}.json",
            {"versions": versions("tokenizers"), "tokenizer": path.name},
            cases,
        )
        for text in ("\0", "a\0b", " \0\0 \n", "\0" * 3 + "xyz"):
            zero.append([path.name, *ids(tokenizer, text)])
        print(
            f"{name}: {tokenizer.get_vocab_size()} pieces, {len(cases)} strings, "
            f"{sum(len(c[1]) for c in cases)} ids"
        )
    write_cases(folder / "nul.json", {"versions": versions("tokenizers")}, zero)
    print(f"{folder_size(folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
