# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/data/packing.json: rows of ids as TransformerLens (tokenize_and_concatenate, 3.1 and
later) and SAELens (concat_and_batch_sequences) pack documents, with the bundled tokenizer.

usage: python packing.py
"""

import json
import random

import datasets
import torch
from sae_lens.tokenization_and_batching import concat_and_batch_sequences
from transformer_lens.utils import tokenize_and_concatenate
from transformers import PreTrainedTokenizerFast

from common import DATA

MODEL = DATA.parent.parent / "examples" / "data" / "tiny-gemma3"
WORDS = ["One", "day", "a", "cat", "sat", "down.", "\n", "The", "dog", "ran", "\u4e2d", "<bos>"]


def tokenizer():
    """A new one each time: TransformerLens may add a padding token to what it is given."""
    return PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"), bos_token="<bos>",
                                   eos_token="<eos>", pad_token="<pad>")


def tl(texts, context, bos):
    rows = tokenize_and_concatenate(datasets.Dataset.from_dict({"text": texts}), tokenizer(),
                                    max_length=context, add_bos_token=bos, num_proc=None,
                                    set_format=False)
    return [id for row in rows["tokens"] for id in row]


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
    datasets.disable_progress_bars()
    cases = []
    for seed, n, longest, contexts in ((1, 3, 40, (8, 128)), (2, 12, 12, (2, 3, 5, 17)),
                                       (3, 1203, 3, (32,))):
        texts = texts_of(seed, n, longest)
        cases.append({"texts": texts, "rows": [
            {"context": context, "bos": int(bos), "tl": tl(texts, context, bos),
             "saelens": saelens(texts, context, bos)}
            for context in contexts for bos in (True, False)]})
    (DATA / "packing.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
