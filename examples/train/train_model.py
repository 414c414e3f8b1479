#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Train the bundled model: a Gemma-style tokenizer and a Gemma 3 causal language model.

Reads documents written by generate.py and writes a transformers model folder with BF16 weights.
Checkpoints go beside the work file, so that a stopped run goes on where it was.
"""
import argparse
import hashlib
import json
import math
import os
import time

import numpy as np
import torch
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>"]
NEWLINES = ["\n\n", "\n\n\n"]
VOCAB = 2048
CONTEXT = 256
ALPHABET = 94                      # rarer characters are left to the byte tokens


def texts(path, limit=None):
    with open(path, encoding="utf-8") as f:
        for i, line in enumerate(f):
            if limit is not None and i >= limit:
                return
            yield json.loads(line)["text"]


def train_tokenizer(corpus, documents=6000):
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    fixed = SPECIALS + NEWLINES + bytes_
    # Merges are learned inside words, with every digit alone, as Gemma's were. The saved pipeline
    # does not cut words again: without a merge across a border the result respects it anyway.
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    words = r"▁?\p{L}+|\p{N}|▁+(?=▁\p{L})|▁+(?![^\s\p{N}▁])|\n|▁?[^\s\p{L}\p{N}▁]+"
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(words), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(fixed), limit_alphabet=ALPHABET,
                                  show_progress=False)
    learner.train_from_iterator(texts(corpus, documents), trainer)
    learned = json.loads(learner.to_str())["model"]

    vocab = {token: i for i, token in enumerate(fixed)}
    for token in sorted(learned["vocab"], key=learned["vocab"].get):
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) for m in learned["merges"]]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True,
                               byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                     decoders.Fuse()])
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIALS])
    tok.add_tokens([AddedToken(t, normalized=False, special=False) for t in NEWLINES])
    return tok


def save_tokenizer(tok, folder):
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True,
              "add_eos_token": False, "bos_token": "<bos>", "eos_token": "<eos>",
              "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": CONTEXT * 2,
              "clean_up_tokenization_spaces": False}
    write_json(os.path.join(folder, "tokenizer_config.json"), config)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def encode(tok, corpus):
    """One <bos> before each document (from the template), no <eos>, in file order."""
    ids = []
    batch = list(texts(corpus))
    for i in range(0, len(batch), 1000):
        for e in tok.encode_batch(batch[i:i + 1000]):
            ids += e.ids
    return np.array(ids, np.uint16)


def configuration(vocab):
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    return Gemma3TextConfig(
        vocab_size=vocab, hidden_size=128, intermediate_size=384, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, query_pre_attn_scalar=32,
        max_position_embeddings=512, sliding_window=64, sliding_window_pattern=3,
        layer_types=kinds, hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6,
        rope_theta=1e6, rope_local_base_freq=1e4, attention_bias=False, attention_dropout=0.0,
        tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2)


def save_model(model, folder):
    model.to(torch.bfloat16).save_pretrained(folder)
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    # Readers older than the nested rope_parameters look for the flat keys.
    config.update(torch_dtype="bfloat16", dtype="bfloat16", rope_theta=1e6, rope_scaling=None,
                  rope_local_base_freq=1e4, sliding_window_pattern=3, _sliding_window_pattern=3)
    write_json(path, dict(sorted(config.items())))
    extra = os.path.join(folder, "generation_config.json")
    if os.path.exists(extra):
        os.remove(extra)               # sampling defaults are of no use to a measurement


def train(ids, model, a):
    chunks = len(ids) // CONTEXT
    data = torch.from_numpy(ids[:chunks * CONTEXT].astype(np.int64)).view(chunks, CONTEXT)
    steps = min(a.steps, chunks // a.batch)
    order = torch.randperm(chunks, generator=torch.Generator().manual_seed(a.seed))
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                             {"params": plain, "weight_decay": 0.0}],
                            lr=a.rate, betas=(0.9, 0.98), fused=True)
    start, mark = 0, os.path.join(a.work, "model.pt")
    tag = hashlib.sha256(ids.tobytes() + repr((steps, a.batch, a.rate, a.seed)).encode())
    if os.path.exists(mark):
        c = torch.load(mark, weights_only=True)
        if c["tag"] == tag.hexdigest():
            start = c["step"]
            model.load_state_dict(c["model"])
            opt.load_state_dict(c["opt"])
    began, total, n = time.time(), 0.0, 0
    for step in range(start, steps):
        # Warm-up, then a cosine down to nothing.
        rate = a.rate * min((step + 1) / 150, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in opt.param_groups:
            group["lr"] = rate
        x = data[order[step * a.batch:(step + 1) * a.batch]]
        with torch.autocast("cpu", torch.bfloat16, enabled=a.autocast):
            logits = model(input_ids=x, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(),
                                                 x[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        total, n = total + loss.item(), n + 1
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"step {step + 1}/{steps} loss {total / n:.4f} "
                  f"{(time.time() - began) / (step + 1 - start):.2f} s/step", flush=True)
            total, n = 0.0, 0
        if (step + 1) % 200 == 0 or step + 1 == steps:
            torch.save({"tag": tag.hexdigest(), "step": step + 1, "model": model.state_dict(),
                        "opt": opt.state_dict()}, mark + ".new")
            os.replace(mark + ".new", mark)


@torch.no_grad()
def cross_entropy(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    n = len(ids) // CONTEXT
    data = torch.from_numpy(ids[:n * CONTEXT].astype(np.int64)).view(n, CONTEXT)
    total = 0.0
    for x in data.split(16):
        lp = model(input_ids=x, use_cache=False).logits[:, :-1].double().log_softmax(-1)
        total -= float(lp.gather(-1, x[:, 1:, None]).sum())
    return total / (n * (CONTEXT - 1))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--train", default="build/train/train.jsonl", help="documents to learn from")
    p.add_argument("--eval", default="examples/data/eval.jsonl", help="held-back documents")
    p.add_argument("--output", default="examples/data/tiny-gemma3")
    p.add_argument("--work", default="build/train",
                   help="folder for the checkpoint and the token ids")
    p.add_argument("--steps", type=int, default=2200)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--rate", type=float, default=6e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--autocast", action=argparse.BooleanOptionalAction, default=True,
                   help="multiply in bfloat16 while training (faster where the CPU has it)")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    os.makedirs(a.work, exist_ok=True)

    tok = train_tokenizer(a.train)
    save_tokenizer(tok, a.output)
    ids = encode(tok, a.train)
    held = encode(tok, a.eval)
    np.save(os.path.join(a.work, "train-ids.npy"), ids)
    print(f"vocabulary {tok.get_vocab_size()} train {len(ids)} eval {len(held)} tokens", flush=True)

    model = Gemma3ForCausalLM(configuration(tok.get_vocab_size()))
    model.set_attn_implementation("sdpa")
    print(f"parameters {sum(p.numel() for p in model.parameters())}", flush=True)
    train(ids, model, a)
    save_model(model, a.output)
    print(f"held-back cross-entropy of the saved model {cross_entropy(a.output, held):.4f}")


if __name__ == "__main__":
    main()
