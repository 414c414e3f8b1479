# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/data/windows.json: sliding-window and llama.cpp-style perplexity, and perplexity per
byte and word, of transformers models in binary64 on ids of the tokenizers package.

usage: python windows.py SHARED/data/stories260k
"""

import argparse
import json
import math
import pathlib
import re

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from common import DATA

EXAMPLES = DATA.parent.parent / "examples" / "data"


def nll_of(model, ids, first):
    """Sum of nll of ids[first:] in one window, ids[0] on."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    logp = torch.log_softmax(logits, -1)
    targets = torch.tensor(ids[first:])
    return -logp[first - 1:len(ids) - 1].gather(1, targets[:, None]).sum().item()


def sliding(model, ids, window, stride):
    """The loop of the transformers manual ("Perplexity of fixed-length models"), with sums."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        new = end - before
        part = ids[begin:end]
        first = max(len(part) - new, 1)
        if first < len(part):
            total += nll_of(model, part, first)
            count += len(part) - first
        before = end
        if end == len(ids):
            break
    return total, count


def llama(model, ids, window, bos):
    """llama.cpp's perplexity(): chunks side by side, BOS in place of each one's first token, the
    second half is scored; what is left at the end is dropped."""
    total, count, first = 0.0, 0, window // 2
    for chunk in range(len(ids) // window):
        part = ids[chunk * window:(chunk + 1) * window]
        total += nll_of(model, [bos] + part[1:], first + 1)
        count += window - 1 - first
    return total, count


def llama_stride(model, ids, window, stride, bos):
    """llama.cpp's perplexity_v2() (--ppl-stride): the last `stride` tokens of whole windows."""
    total, count = 0.0, 0
    for begin in range(0, len(ids) - window, stride):
        part = [bos] + ids[begin + 1:begin + window]
        total += nll_of(model, part, window - stride)
        count += stride
    return total, count


def settings(window, stride, score_from, bos, max_tokens=0):
    return {"window": window, "stride": stride, "score_from": score_from, "bos": bos,
            "max_tokens": max_tokens}


def ends(total, count, docs=None):
    out = {"predicted": count, "nll_sum": total, "ce": total / count}
    if docs:
        size = sum(len(d.encode()) for d in docs)
        words = sum(len(re.split(r"\s+", d)) for d in docs)
        out |= {"bytes": size, "words": words, "byte_ppl": math.exp(total / size),
                "word_ppl": math.exp(total / words), "bits_per_byte": total / size / math.log(2)}
    return out


def cases(folder, docs, bos, windows, n_llama):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64,
                                                 attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [bos]
    for doc in docs:
        ids += tokenizer.encode(doc, add_special_tokens=False).ids
    out = {}
    for window, stride in windows:
        total, count = sliding(model, ids, window, stride)
        whole = stride < window  # every token of the text is scored
        assert not whole or count == len(ids) - 1
        out[f"sliding {window} {stride}"] = settings(window, stride, 0, "stream_start") | ends(
            total, count, docs if whole else None)
    w, s = n_llama, n_llama // 4
    out[f"llama {w}"] = settings(w, 0, w // 2, "chunk_replace") | ends(*llama(model, ids, w, bos))
    chunks = (len(ids) - w + s - 1) // s
    out[f"llama {w} {s}"] = settings(
        w, s, w - s - 1, "chunk_replace", (chunks - 1) * s + w) | ends(
            *llama_stride(model, ids, w, s, bos))
    return {"tokens": len(ids), "cases": out}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("stories", type=pathlib.Path)
    stories = parser.parse_args().stories
    torch.set_num_threads(1)
    lines = (EXAMPLES / "eval.jsonl").read_text().split("\n")[:12]
    texts = (stories / "tinystories-valid.txt").read_text().split("<|endoftext|>")
    out = {
        "tiny-gemma3": {"documents": 12} | cases(
            EXAMPLES / "tiny-gemma3", [json.loads(line)["text"] for line in lines], 2,
            [(256, 96), (128, 128), (200, 150)], 128),
        "stories260k": cases(stories, [t.strip() for t in texts if t.strip()], 1, [(512, 256)],
                             512),
    }
    (DATA / "windows.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
