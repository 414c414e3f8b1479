# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/data/packing.json: rows of ids as TransformerLens (tokenize_and_concatenate, 3.1 and
later, and 2) and SAELens (concat_and_batch_sequences) pack documents, with the bundled tokenizer.

usage: python packing.py TL2    TL2: transformer_lens/utils.py of version 2.15.4
"""

import ast
import json
import pathlib
import random
import sys

import datasets
import einops
import numpy as np
import torch
from sae_lens.tokenization_and_batching import concat_and_batch_sequences
from transformer_lens.utils import keep_single_column, tokenize_and_concatenate
from transformers import PreTrainedTokenizerFast

from common import DATA

MODEL = DATA.parent.parent / "examples" / "data" / "tiny-gemma3"
WORDS = ["One", "day", "a", "cat", "sat", "down.", "\n", "The", "dog", "ran", "\u4e2d", "<bos>"]


def tokenizer():
    """A new one each time: TransformerLens may add a padding token to what it is given."""
    return PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"), bos_token="<bos>",
                                   eos_token="<eos>", pad_token="<pad>")


def function_of(path):
    """The function alone: the package of that version needs another torch."""
    source = pathlib.Path(path).read_text()
    found = next(node for node in ast.parse(source).body
                 if isinstance(node, ast.FunctionDef) and node.name == "tokenize_and_concatenate")
    names = {"np": np, "einops": einops, "keep_single_column": keep_single_column}
    exec("from __future__ import annotations\n" + ast.get_source_segment(source, found), names)
    return names["tokenize_and_concatenate"]


def tl(function, texts, context, bos):
    rows = function(datasets.Dataset.from_dict({"text": texts}), tokenizer(), max_length=context,
                    add_bos_token=bos, num_proc=None)
    return [int(id) for row in rows.with_format(None)["tokens"] for id in row]


def saelens(texts, context, bos):
    """As ActivationsStore calls it with its defaults; bos: its prepend_bos."""
    t = tokenizer()
    ids = (torch.tensor(t.encode(text, add_special_tokens=False), dtype=torch.long)
           for text in texts)
    rows = concat_and_batch_sequences(ids, context, t.bos_token_id if bos else None,
                                      sequence_separator_token_id=t.bos_token_id)
    return [id for row in rows for id in row.tolist()]


def texts_of(seed, n, longest):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, longest))) for _ in range(n)]
    texts[n // 2] = " \n "
    return texts


def main():
    old = function_of(sys.argv[1])
    datasets.disable_progress_bars()
    cases = []
    for seed, n, longest, contexts in ((1, 3, 40, (8, 128)), (2, 12, 12, (2, 3, 5, 17)),
                                       (3, 1203, 3, (32,))):
        texts = texts_of(seed, n, longest)
        cases.append({"texts": texts, "rows": [
            {"context": context, "bos": int(bos),
             "tl": tl(tokenize_and_concatenate, texts, context, bos),
             "tl2": tl(old, texts, context, bos), "saelens": saelens(texts, context, bos)}
            for context in contexts for bos in (True, False)]})
    (DATA / "packing.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
