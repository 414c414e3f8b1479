# SPDX-License-Identifier: BSD-2-Clause
"""Small GGUF files that hold only a tokenizer, with the ids llama.cpp gives for made-up strings.

Special tokens in the text are parsed. Where llama.cpp approximates a model's regular expression
(tekken, gpt-4o) the ids are those of the tokenizers package with the expression itself.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import ctypes
import json
import random

import gguf
import llama_cpp
from tokenizers import Tokenizer

from common import folder_size, output_folder, versions
from tokenizers_ref import (
    BYTE_LEVEL,
    BYTES,
    added,
    as_arrays,
    byte_map,
    byte_vocabulary,
    document,
    regex,
    spaced_vocabulary,
    strings,
    write_cases,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
CASES = 90
PROBE = [byte_map()[b] for b in b" \n\r'sS12!(aA/"]
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def by_case(ending, digits):
    """The expression of Mistral's tekken and of OpenAI's o200k."""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ending}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
        rf"{ending}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


EXPRESSIONS = {
    "tekken": by_case("", r"\p{N}"),
    "gpt-4o": by_case("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}"),
}


def write(path, model, tokens, types=None, scores=None, merges=None, pre=None, **rest):
    """A GGUF file without tensors. rest: other keys, e.g. bos=1, add_bos=False."""
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_context_length(64)  # llama.cpp asks for these
    w.add_embedding_length(8)
    w.add_block_count(1)
    w.add_feed_forward_length(8)
    w.add_head_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model(model)
    if pre is not None:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    if types is not None:
        w.add_token_types(types)
    if scores is not None:
        w.add_token_scores(scores)
    if merges is not None:
        w.add_token_merges([" ".join(pair) for pair in merges])
    setters = {
        "bos": w.add_bos_token_id,
        "eos": w.add_eos_token_id,
        "unk": w.add_unk_token_id,
        "pad": w.add_pad_token_id,
        "add_bos": w.add_add_bos_token,
        "add_eos": w.add_add_eos_token,
        "prefix": w.add_add_space_prefix,
    }
    for key, value in rest.items():
        setters[key](value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Llama:
    """llama.cpp on the tokenizer of a file."""

    def __init__(self, path):
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, None)
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, path
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text, special):
        data = text.encode()
        room = len(data) + 16
        ids = (ctypes.c_int32 * room)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, special, True)
        assert n >= 0
        return list(ids[:n])


class Crate:
    """The tokenizers package on the same vocabulary and one expression; no BOS."""

    def __init__(self, vocabulary, merges, tokens, expression, bos):
        file = document(
            vocabulary,
            as_arrays(merges),
            tokens,
            None,
            regex(expression),
            None,
            BYTE_LEVEL,
            unk_token=None,
            ignore_merges=bos is not None,
        )
        self.tokenizer = Tokenizer.from_str(json.dumps(file))
        self.bos = bos

    def encode(self, text, special):
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ([self.bos] if special and self.bos is not None else []) + ids


def types_of(vocabulary, control, user_defined=()):
    out = []
    for token in vocabulary:
        if token == "<unk>":
            out.append(UNKNOWN)
        elif token in control:
            out.append(CONTROL)
        elif token in user_defined:
            out.append(USER_DEFINED)
        else:
            out.append(BYTE if len(token) == 6 and token.startswith("<0x") else NORMAL)
    return out


def piece_scores(vocabulary, merges):
    """As SentencePiece trains them: the earlier a merge, the higher; letters lowest."""
    rank = {}
    for i, pair in enumerate(merges):
        rank.setdefault("".join(pair), i)
    return [-float(rank.get(token, len(merges) + i)) for i, token in enumerate(vocabulary)]


def build(folder):
    """Writes the files; yields name, texts' special tokens, and what encodes."""

    def llama_file(name, contents, *args, **rest):
        write(folder / f"{name}.gguf", *args, **rest)
        return name, contents, Llama(folder / f"{name}.gguf")

    llama = ["<unk>", "<s>", "</s>"]
    v, m = spaced_vocabulary(llama)
    tokens, scores = list(v), piece_scores(v, m)
    types = types_of(v, llama)
    yield llama_file("llama", llama, "llama", tokens, types, scores, bos=1, eos=2, unk=0)

    # Equal scores, and pieces with letters that are no pieces themselves; no prefix; EOS.
    rng = random.Random(5)
    dropped = set(rng.sample("bdfgklmnprstvz", 5)) | {"x"}
    kept = [t for t in tokens if t not in dropped]
    yield llama_file(
        "llama_sparse",
        llama,
        "llama",
        kept,
        types_of(kept, llama),
        [float(rng.randint(-4, 0)) for _ in kept],
        bos=1,
        eos=2,
        prefix=False,
        add_bos=False,
        add_eos=True,
    )

    # Gemma: user-defined tokens in the raw text, spaces as spaces there, unused ones.
    gemma = ["<pad>", "<eos>", "<bos>", "<unk>"]
    control = [*gemma[:3], "<start_of_turn>", "<end_of_turn>"]
    user = ["<unused0>", "<table>", "</table>", "<h1>", "\t"]
    user += ["\n" * i for i in range(2, 8)] + [" " * i for i in range(2, 8)]
    no_tab = [b for b in BYTES if b != "<0x09>"]
    v, m = spaced_vocabulary(gemma, no_tab, control[3:] + user)
    scores = piece_scores(v, m)
    types = types_of(v, control, user)
    types[list(v).index("7")] = UNUSED
    ids = {"bos": 2, "eos": 1, "unk": 3, "pad": 0}
    yield llama_file("gemma", control + user, "llama", list(v), types, scores, prefix=False, **ids)
    merges = [pair for pair in m if "\n" not in "".join(pair)]
    yield llama_file("gemma4", control + user, "gemma4", list(v), types, None, merges, **ids)

    end = ["<|endoftext|>", "<|user|>"]
    runs = [" " * i for i in range(2, 6)]
    v, m = byte_vocabulary([*end, *runs])
    v["\u0120banana"] = len(v)
    for left in PROBE:  # pairs that show where words are cut
        for right in PROBE:
            if left + right not in v:
                m.append((left, right))
                v[left + right] = len(v)
    tokens, types = list(v), types_of(v, end, runs)
    bos = v[end[0]]
    for name, pre in (
        ("default", None),
        ("gpt2", "gpt-2"),
        ("llama3", "llama-bpe"),
        ("dbrx", "dbrx"),
        ("qwen2", "qwen2"),
        ("qwen35", "qwen35"),
        ("starcoder", "starcoder"),
        ("falcon", "falcon"),
        ("deepseek3", "deepseek-v3"),
    ):
        # Old files call the end a normal token, or have no types.
        old = None if pre == "gpt-2" else [NORMAL if t == end[0] else k for t, k in zip(v, types)]
        yield llama_file(
            name, end + runs, "gpt2", tokens, old, None, m, pre, bos=bos, eos=bos
        )
    extra = [added(v[t], t, special=t in end) for t in end + runs]
    for name, pre in (("tekken", "tekken"), ("gpt4o", "gpt-4o")):
        write(
            folder / f"{name}.gguf", "gpt2", tokens, types, None, m, pre, bos=bos, eos=bos
        )
        crate = Crate(v, m, extra, EXPRESSIONS[pre], bos if pre == "tekken" else None)
        yield name, end + runs, crate


def main():
    folder = output_folder("tokenizers") / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, contents, reference) in enumerate(build(folder)):
        texts = strings(300 + seed, [added(i, c) for i, c in enumerate(contents)])
        rng = random.Random(seed)
        texts = texts[:70] + rng.sample(texts[70:], CASES - 70)
        cases = [[t, reference.encode(t, False), reference.encode(t, True)] for t in texts]
        package = "llama-cpp-python" if isinstance(reference, Llama) else "tokenizers"
        head = {"versions": versions("gguf", package), "tokenizer": f"{name}.gguf"}
        write_cases(folder / f"{name}.json", head, cases)
        print(f"{name}: {len(cases)} strings, {sum(len(c[1]) for c in cases)} ids")
    print(f"{folder_size(folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
