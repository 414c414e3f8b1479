# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/data/contexts.json: cross-entropy of the same tokens after contexts of several
lengths, by a transformers model in binary64 on ids of the tokenizers package.

usage: python contexts.py
"""

import json

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from common import DATA

EXAMPLES = DATA.parent.parent / "examples" / "data"
CASES = [
    {"lengths": [16, 40, 120], "scored": 8, "stride": 120, "bos": "doc_start"},
    {"lengths": [16, 40, 120], "scored": 14, "stride": 30, "bos": "chunk_start"},
    {"lengths": [9, 10], "scored": 7, "stride": 7, "bos": "none"},
]
TOKENS = 1200


def main():
    tokenizer = Tokenizer.from_file(str(EXAMPLES / "tiny-gemma3" / "tokenizer.json"))
    bos = tokenizer.token_to_id("<bos>")
    model = AutoModelForCausalLM.from_pretrained(
        EXAMPLES / "tiny-gemma3", dtype=torch.float64, attn_implementation="eager").eval()
    texts = [json.loads(line)["text"] for line in (EXAMPLES / "eval.jsonl").open(encoding="utf-8")]
    documents = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    for case in CASES:
        in_front = [bos] if case["bos"] == "doc_start" else []
        stream = [i for d in documents for i in in_front + d]
        lead = case["bos"] == "chunk_start"
        longest, scored = case["lengths"][-1], case["scored"]
        content = longest - lead
        ends = [content]
        while ends[-1] < TOKENS:
            # chunks side by side are `content` apart, windows the stride
            ends.append(ends[-1] + (content if case["stride"] == longest else case["stride"]))
        if case["stride"] == longest:
            ends = ends[:-(-TOKENS // longest)]
        case["windows"], case["ce"] = len(ends), []
        for length in case["lengths"]:
            rows = [[bos] * lead + stream[e - length + lead:e] for e in ends]
            with torch.no_grad():
                logp = torch.log_softmax(model(torch.tensor(rows)).logits, -1)
            labels = torch.tensor(rows)[:, length - scored:]
            nll = -logp[:, length - 1 - scored:length - 1].gather(2, labels[..., None])
            case["ce"].append(nll.mean().item())
    out = {"tokens": TOKENS, "cases": CASES}
    (DATA / "contexts.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
