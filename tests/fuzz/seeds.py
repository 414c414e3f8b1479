#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Writes seeds/ and fixture/ (seeds called found_* are what a fuzzer has found): small valid files, and some that almost are, for the targets of this folder.

usage: seeds.py [FOLDER]      FOLDER: this one by default. Python's standard library alone; the same bytes always.
"""
import io
import json
import os
import random
import struct
import sys
import zipfile

ROOT = sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
rng = random.Random(20260101)


def put(target, name, data):
    path = os.path.join(ROOT, "seeds", target, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def part(data):
    data = data if isinstance(data, bytes) else data.encode()
    return struct.pack("<I", len(data)) + data


def compact(value):
    return json.dumps(value, separators=(",", ":"))


BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I32": 4, "I64": 8, "F64": 8, "BOOL": 1}


def safetensors(tensors, metadata=None, pad=0):
    """tensors: {name: (dtype, shape, bytes)}"""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = compact(header).encode() + b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def bf16(n, scale=0.5, base=0.0):
    out = b""
    for _ in range(n):
        out += struct.pack("<f", base + scale * (2 * rng.random() - 1))[2:]
    return out


def f32(n, scale=0.5, base=0.0):
    return b"".join(struct.pack("<f", base + scale * (2 * rng.random() - 1)) for _ in range(n))


def npy(shape, descr="<f4", fortran=False, version=1, raw=None):
    size = {"<f4": 4, "<f8": 8, "<i4": 4, "<i8": 8, "|u1": 1, "<u2": 2, "<f2": 2, "|b1": 1}[descr]
    count = 1
    for d in shape:
        count *= d
    dims = "(%s)" % ("".join("%d, " % d for d in shape).rstrip() if len(shape) == 1
                     else ", ".join(map(str, shape)))
    head = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }" % (descr, fortran, dims)
    room = 10 if version == 1 else 12
    head += " " * (-(room + len(head) + 1) % 64) + "\n"
    length = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head.encode() + (raw or bytes(i % 3 for i in range(count * size)))


def npz(members, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            z.writestr(info, data)
    return out.getvalue()


def gstr(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def gval(kind, v):
    codes = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
    return gstr(v) if kind == 8 else struct.pack(codes[kind], v)


def gguf(pairs, tensors=(), version=3, alignment=32):
    """pairs: (key, type, value), of an array (key, (type,), values); tensors: (name, dims, type, bytes)"""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, kind, v in pairs:
        out += gstr(key)
        if isinstance(kind, tuple):
            out += struct.pack("<IIQ", 9, kind[0], len(v)) + b"".join(gval(kind[0], x) for x in v)
        else:
            out += struct.pack("<I", kind) + gval(kind, v)
    offset = 0
    for name, dims, kind, raw in tensors:
        out += gstr(name) + struct.pack("<I", len(dims)) + struct.pack("<%dQ" % len(dims), *dims)
        out += struct.pack("<IQ", kind, offset)
        offset += len(raw) + -len(raw) % alignment
    if tensors:
        out += b"\0" * (-len(out) % alignment)
    for _, _, _, raw in tensors:
        out += raw + b"\0" * (-len(raw) % alignment)
    return out


# ---- tensor files ----

def tensor_files():
    put("safetensors", "two", safetensors({"a": ("F32", [2, 3], f32(6)), "b.weight": ("BF16", [4], bf16(4))},
                                          {"format": "pt", "k": "v"}, 5))
    put("safetensors", "empty", safetensors({}))
    put("safetensors", "scalar", safetensors({"x": ("I64", [], b"\1" * 8), "n": ("F16", [0, 5], b"")}))
    put("safetensors", "nf4", safetensors({
        "l.weight": ("U8", [32, 1], bytes(32)), "l.weight.absmax": ("F32", [1], f32(1)),
        "l.weight.quant_map": ("F32", [16], f32(16)),
        "l.weight.quant_state.bitsandbytes__nf4": ("U8", [97], (compact({
            "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 8]}) + " " * 97).encode()[:97])}))
    for i, a in enumerate([npy((2, 3)), npy((5,), "<i8"), npy((), "<f8"), npy((2, 3), "<f2", True, 2), npy((0, 4), "|u1")]):
        put("npy", "a%d" % i, a)
    put("npz", "stored", npz({"a.npy": npy((2, 2)), "b.npy": npy((3,), "<i4", True)}))
    put("npz", "deflated", npz({"a.npy": npy((40, 40), "<f4", raw=bytes(6400))}, zipfile.ZIP_DEFLATED))
    put("npz", "torch", npz({"archive/data.pkl": b"\x80\2}q\0."}))
    pairs = [("general.architecture", 8, "llama"), ("general.alignment", 4, 32), ("u8", 0, 200), ("i16", 3, -9),
             ("f32", 6, 0.5), ("bool", 7, 1), ("u64", 10, 2 ** 64 - 1), ("f64", 12, 1e300),
             ("words", (8,), ["a", "", "\u2581b"]), ("numbers", (3,), [1, -1, 7]), ("floats", (6,), [0.5, 1.5])]
    tensors = [("b.weight", [3, 2], 0, f32(6)), ("q.weight", [32, 2], 8, bytes(range(68))), ("h", [5], 1, bytes(10))]
    put("gguf", "three", gguf(pairs, tensors))
    put("gguf", "version2", gguf(pairs[:3], tensors[:1], 2))
    put("gguf", "empty", gguf([]))
    put("gguf", "split", gguf([("split.count", 2, 2), ("split.no", 2, 0), ("split.tensors.count", 5, 2)], tensors[:1]))


# ---- text ----

def bpe(extra=None, **model):
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5, "\u2581": 6, "t": 7, "e": 8, "te": 9, "\u2581a": 10}
    for i in range(0, 256, 5):
        vocab["<0x%02X>" % i] = len(vocab)
    value = {"version": "1.0", "truncation": None, "padding": None,
             "added_tokens": [{"id": i, "content": c, "special": True, "lstrip": False, "rstrip": False,
                               "normalized": False, "single_word": False}
                              for i, c in enumerate(["<unk>", "<s>", "</s>"])],
             "normalizer": {"type": "Sequence", "normalizers": [
                 {"type": "Prepend", "prepend": "\u2581"},
                 {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
             "pre_tokenizer": None,
             "post_processor": {"type": "TemplateProcessing", "single": [
                 {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                 "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
             "decoder": None,
             "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                       "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                       "vocab": vocab, "merges": ["a b", "t e", "\u2581 a"], **model}}
    value.update(extra or {})
    return value


def byte_level():
    letters = "".join(chr(c) for c in list(range(33, 127)))
    vocab = {c: i for i, c in enumerate(letters + "\u0120\u010a")}
    vocab["\u0120a"] = len(vocab)
    vocab["th"] = len(vocab)
    pattern = "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
    return {"version": "1.0", "added_tokens": [{"id": len(vocab), "content": "<|end|>", "special": True}],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocab, "merges": [["\u0120", "a"], ["t", "h"]], "unk_token": None}}


def unigram():
    vocab = [["<unk>", 0.0], ["<s>", 0.0], ["\u2581", -2.0], ["a", -3.0], ["b", -3.5], ["ab", -2.5], ["\u2581ab", -1.5],
             ["te", -2.75]]
    return {"version": "1.0", "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"},
                                                               {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True, "prepend_scheme": "always"},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}}


def texts():
    text = "ab te a\u00e9 <s> \u6f22 te\n\tb"
    config = compact({"bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"},
                      "add_bos_token": True, "model_max_length": 10 ** 30})
    put("tokenizer", "bpe", part(compact(bpe())) + part(config) + text.encode())
    put("tokenizer", "bytes", part(compact(byte_level())) + part("") + text.encode())
    put("tokenizer", "unigram", part(compact(unigram())) + part("") + text.encode())
    put("tokenizer", "no_vocab", part('{"model":{"type":"BPE","vocab":{},"merges":[]}}') + part("") + b"a")
    spm = [("general.architecture", 8, "llama"), ("tokenizer.ggml.model", 8, "llama"),
           ("tokenizer.ggml.tokens", (8,), ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "ab", "\u2581ab"]),
           ("tokenizer.ggml.scores", (6,), [0, 0, 0, 0, -1, -2, -3, -1.5, -1.25]),
           ("tokenizer.ggml.token_type", (5,), [2, 3, 3, 6, 1, 1, 1, 1, 1]),
           ("tokenizer.ggml.bos_token_id", 4, 1), ("tokenizer.ggml.eos_token_id", 4, 2),
           ("tokenizer.ggml.add_bos_token", 7, 1)]
    put("gguf_tokenizer", "spm", part(gguf(spm)) + b"ab a b")
    put("gguf_tokenizer", "negative_byte", part(gguf([(k, t, [x if x != "<0x41>" else "<0x-1>" for x in v] if t == (8,) else v)
                                                     for k, t, v in spm])) + b"A")
    put("gguf_tokenizer", "scores_int8", part(gguf([(k, (1,), [0] * 9) if k.endswith("scores") else (k, t, v)
                                                   for k, t, v in spm])) + b"A")
    gpt = [("tokenizer.ggml.model", 8, "gpt2"), ("tokenizer.ggml.pre", 8, "llama-bpe"),
           ("tokenizer.ggml.tokens", (8,), ["a", "b", "\u0120", "ab", "<|end|>"]),
           ("tokenizer.ggml.token_type", (5,), [1, 1, 1, 1, 3]), ("tokenizer.ggml.merges", (8,), ["a b"]),
           ("tokenizer.ggml.eos_token_id", 4, 4)]
    put("gguf_tokenizer", "bpe", part(gguf(gpt)) + b"ab a b")
    put("corpus", "plain", b"\0\3" + "ab te<|endoftext|> b\n\n<|endoftext|>\u00e9a te".encode())
    put("corpus", "jsonl", b"\1\x12" + b'{"text":"ab te","meta":{"k":[1,2]}}\n\n{"id":3,"text":"b"}\n{"text":""}\n')
    put("corpus", "bad_utf8", b"\0\3ab \xff\xc0 te")
    put("corpus", "ids", b"\2\4" + npy((2, 6), "<i4", raw=struct.pack("<12i", *range(12))))
    put("corpus", "ids16", b"\2\x2c" + npy((20,), "<u2", raw=struct.pack("<20H", *range(20))))
    raw = b"(\xb5/\xfd\x00X\x41\x00\x00ab te ab"       # one raw block
    put("corpus", "zstd", b"\3\3" + raw)
    put("corpus", "zstd_jsonl", b"\4\3" + b"(\xb5/\xfd\x00X\x89\x00\x00" + b'{"text":"ab te"}\n')
    put("corpus", "zstd_frames", b"\3\3" + b"\x50\x2a\x4d\x18\2\0\0\0ab" + b"(\xb5/\xfd\x00X\x15\x00\x00 " + raw)
    put("corpus", "zstd_grows", b"\3\3" + b"(\xb5/\xfd\x008" + b"\x02\x00\x10 " * 16 + b"\x03\x00\x10 ")
    put("corpus", "zstd_says", b"\3\3" + b"(\xb5/\xfd\xc08" + struct.pack("<Q", 1 << 40) + b"\x29\x00\x00ab te")
    put("corpus", "lists", b"\1\3" + b'{"text":"ab te","x":[' + b"[]," * 300 + b"[]]}\n")
    put("probes", "two", b'\0{"context":"ab ","good":"te","bad":"b","tags":["x","y"]}\n\n'
                         b'{"context":"a","good":" ab","bad":" te"}\n')
    put("probes", "no_context", b'\0{"context":"","good":"a","bad":"b","tags":"x"}\n')
    put("probes", "equal", b'\1{"context":"ab","good":"te","bad":"te"}\n')
    put("predictor", "fit", compact({"format": "qsae-result", "version": 1, "conditions": [
        {"label": "rtn:bits=6", "saes": [{"name": "s", "layer": 1, "site": "resid_post", "hash": "0" * 32,
                                          "survival": {"predictor": {
            "auc": 0.7, "auc_sd": 0.1, "auc_single": [0.5, 0.6], "fit": {
                "inputs": ["rarity", "log_mean"], "means": [0.1, 1.0], "sds": [1.0, 2.0], "coefficients": [0.5, -0.25],
                "intercept": -1.0}}}}]}]}))


def small_text():
    for i, t in enumerate(['{"a":[1,2.5,-3e9,true,null,"\\u00e9\\ud83d\\ude00"]}', "[]", '"x"', "1e400", '{"a":1,"a":2}',
                           "[" * 65 + "]" * 65, "[" * 64 + "]" * 64, '{"a":}', '{"a"::1}', "[1,]", "\ufeff{}", '"\\u0000"',
                           "9223372036854775808", "-0", "0.1e-5", '{"\\u0000":1}']):
        put("json", "t%02d" % i, t)
    for i, t in enumerate(["a: 1\nb:\n  c: 'x'\n  d: \"y\\n\"\n  e: null # no\nf: [1, 2]\n", "a:\n - b\n - c\nd: 1.5e3\n",
                           "a: |\n  x\n", "a: &x 1\n", "a: 1\na: 2\n", "".join(" " * i + "k:\n" for i in range(20)), "{}\n",
                           "a: {b: 1}\n", "\ta: 1\n", "--- \na: true\n"]):
        put("yaml", "t%02d" % i, t)
    for i, t in enumerate(["none", "llm.int8:threshold=6,rules=cuda", "nf4:block=64,double=1,compute=bf16", "fp4",
                           "rtn:bits=6,axis=row,group=0,sym=1", "rtn:bits=3,axis=tl@layers=0-11@skip=down_proj|lm_head",
                           "ggml:q4_k@only=mlp", "none+prune:sparsity=0.175", "nf4+prune:pattern=2:4+kv:k=q8_0,v=q4_0",
                           "control:gauss(nf4@only=/self_attn.*/)", "control:null", "none+prune:match=12.5",
                           "mix:nf4@layers=0-3;llm.int8", "none@compute=bf16", "none+kv:turbo=4", "none+prune:match=(rtn:bits=4)",
                           "nf4@with=embed|head", "rtn:bits=99999999999999999999", "nf4:block=-1", "ggml:q9_z",
                           "control:gauss(" * 40 + "nf4" + ")" * 40, "nf4@only=/(a+)+$/", "rtn:bits=nan", "nf4:block=64,block=64"]):
        put("condition", "t%02d" % i, t)


# ---- models and SAEs ----

def llama(vocab, width=8, layers=1, heads=2, kv=1, mlp=8):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": width // heads, "intermediate_size": mlp,
              "vocab_size": vocab, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2}
    t = {"model.embed_tokens.weight": ("BF16", [vocab, width], bf16(vocab * width)),
         "model.norm.weight": ("BF16", [width], bf16(width, 0.1, 1))}
    for i in range(layers):
        p = "model.layers.%d." % i
        k = width // heads * kv
        for name, rows, cols in [("self_attn.q_proj", width, width), ("self_attn.k_proj", k, width),
                                 ("self_attn.v_proj", k, width), ("self_attn.o_proj", width, width),
                                 ("mlp.gate_proj", mlp, width), ("mlp.up_proj", mlp, width), ("mlp.down_proj", width, mlp)]:
            t[p + name + ".weight"] = ("BF16", [rows, cols], bf16(rows * cols))
        for name in ["input_layernorm", "post_attention_layernorm"]:
            t[p + name + ".weight"] = ("BF16", [width], bf16(width, 0.1, 1))
    return config, t


def gpt2(vocab, width=8, layers=1, heads=2):
    config = {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 16, "vocab_size": vocab,
              "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
    t = {"wte.weight": ("F32", [vocab, width], f32(vocab * width)), "wpe.weight": ("F32", [16, width], f32(16 * width))}
    for i in range(layers):
        p = "h.%d." % i
        for name, rows, cols in [("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width), ("mlp.c_fc", width, 4 * width),
                                 ("mlp.c_proj", 4 * width, width)]:
            t[p + name + ".weight"] = ("F32", [rows, cols], f32(rows * cols))
            t[p + name + ".bias"] = ("F32", [cols], f32(cols, 0.1))
    for name in ["h.%d.ln_%d" % (i, k) for i in range(layers) for k in (1, 2)] + ["ln_f"]:
        t[name + ".weight"] = ("F32", [width], f32(width, 0.1, 1))
        t[name + ".bias"] = ("F32", [width], f32(width, 0.1))
    return config, t


CONFIGS = {
    "gemma2": {"model_type": "gemma2", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
               "head_dim": 4, "intermediate_size": 8, "vocab_size": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
               "query_pre_attn_scalar": 4, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 8,
               "hidden_activation": "gelu_pytorch_tanh"},
    "gemma3": {"model_type": "gemma3", "text_config": {
        "model_type": "gemma3_text", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "intermediate_size": 8, "vocab_size": 16, "sliding_window": 8, "rope_theta": 1e6,
        "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 4}},
    "qwen3": {"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "head_dim": 4, "intermediate_size": 8, "vocab_size": 16, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu"},
    "neox": {"model_type": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
             "vocab_size": 16, "rotary_pct": 0.25, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
             "use_parallel_residual": True},
    "llama3": {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
               "intermediate_size": 8, "vocab_size": 16, "rms_norm_eps": 1e-5, "hidden_act": "silu",
               "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 32}},
    "gemma4": {"model_type": "gemma4_text", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
               "num_key_value_heads": 1, "head_dim": 4, "global_head_dim": 8, "intermediate_size": 8, "vocab_size": 16,
               "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "hidden_size_per_layer_input": 4,
               "num_kv_shared_layers": 0},
    "mistral": {"model_type": "mistral", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                "num_key_value_heads": 2, "intermediate_size": 8, "vocab_size": 16, "sliding_window": None,
                "rms_norm_eps": 1e-5, "hidden_act": "silu"},
    "many_layers": {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2 ** 40, "num_attention_heads": 2,
                    "intermediate_size": 8, "vocab_size": 16},
}


def models():
    config, tensors = llama(16)
    small = safetensors(tensors)
    put("config", "llama", compact(config))
    for name, c in CONFIGS.items():
        put("config", name, compact(c))
    for how in range(7):
        put("model", "llama%d" % how, bytes([how]) + part(compact(config)) + small)
    put("model", "streamed", bytes([128]) + part(compact(config)) + small)
    c, t = gpt2(16)
    put("config", "gpt2", compact(c))
    put("model", "gpt2", bytes([0]) + part(compact(c)) + safetensors(t))
    wrong = dict(tensors)
    wrong["model.norm.weight"] = ("BF16", [4], bf16(4))
    put("model", "wrong_shape", bytes([0]) + part(compact(config)) + safetensors(wrong))
    index = {"metadata": {"total_size": 24}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    a, b = safetensors({"x": ("F32", [3], f32(3))}), safetensors({"y": ("F32", [3], f32(3))})
    put("index", "two", part(compact(index)) + part(a) + b)
    put("index", "missing", part(compact({"weight_map": {"x": "a.safetensors", "y": "../b.safetensors"}})) + part(a) + b)
    put("index", "twice", part(compact(index)) + part(a) + a)
    d, n = 6, 12
    weights = {"W_enc": ("F32", [d, n], f32(d * n)), "W_dec": ("F32", [n, d], f32(n * d)), "b_enc": ("F32", [n], f32(n)),
               "b_dec": ("F32", [d], f32(d))}
    base = {"d_in": d, "d_sae": n, "dtype": "float32", "hook_name": "blocks.0.hook_resid_post", "architecture": "standard",
            "apply_b_dec_to_input": True, "normalize_activations": "none"}
    put("sae", "standard", part(compact(base)) + safetensors(weights))
    put("sae", "jumprelu", part(compact({**base, "architecture": "jumprelu"})) +
        safetensors({**weights, "threshold": ("F32", [n], f32(n, 0.1, 0.2))}))
    put("sae", "topk", part(compact({**base, "architecture": "topk", "k": 3, "activation_fn_kwargs": {"k": 3}})) + safetensors(weights))
    put("sae", "gated", part(compact({**base, "architecture": "gated"})) +
        safetensors({"W_enc": weights["W_enc"], "W_dec": weights["W_dec"], "b_dec": weights["b_dec"],
                     "b_gate": ("F32", [n], f32(n)), "b_mag": ("F32", [n], f32(n)), "r_mag": ("F32", [n], f32(n))}))
    put("sae", "norm", part(compact({**base, "normalize_activations": "layer_norm"})) + safetensors(weights))
    put("sae", "skip", part(compact({**base, "architecture": "skip_transcoder", "d_out": d, "hook_name_out": "blocks.0.hook_mlp_out"})) +
        safetensors({**weights, "W_skip": ("F32", [d, d], f32(d * d))}))


def logits_and_rows():
    n_ctx, vocab, chunks = 6, 5, 2
    rows = n_ctx - 1 - n_ctx // 2
    words = (vocab + 1) // 2 * 2
    data = b"_logits_" + struct.pack("<iii", n_ctx, vocab, chunks)
    data += struct.pack("<%di" % (chunks * n_ctx), *[i % vocab for i in range(chunks * n_ctx)])
    for _ in range(chunks * rows):
        data += struct.pack("<ff", 0.001, -3.0) + struct.pack("<%dH" % words, *[rng.randrange(65536) for _ in range(words)])
    put("logits", "two", data)
    put("logits", "huge", data[:8] + struct.pack("<iii", 2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1) + data[20:])
    put("logits", "negative", data[:8] + struct.pack("<iii", -6, 5, 2) + data[20:])
    put("rows", "f32", bytes([0, 3, 4, 5, 0, 0]) + bytes(rng.randrange(256) for _ in range(56)) + bytes([3, 4, 4, 0, 0]) + bytes(48))
    for how in range(8):
        put("rows", "codec%d" % how, bytes([how, 4, 8, 8, how % 4, 0]) + bytes(rng.randrange(256) for _ in range(256)))
    put("rows", "wrong", bytes([0, 253, 252, 255, 0, 0, 251, 4, 4, 5, 0]))


def fixture():
    folder = os.path.join(ROOT, "fixture")
    os.makedirs(folder, exist_ok=True)
    tokenizer = bpe()
    config, tensors = llama(len(tokenizer["model"]["vocab"]))
    os.makedirs(os.path.join(folder, "sae"), exist_ok=True)
    sae = {"d_in": 8, "d_sae": 12, "dtype": "float32", "hook_name": "blocks.0.hook_resid_post", "architecture": "standard",
           "apply_b_dec_to_input": False, "normalize_activations": "none"}
    weights = {"W_enc": ("F32", [8, 12], f32(96, 2)), "W_dec": ("F32", [12, 8], f32(96)), "b_enc": ("F32", [12], f32(12, 0.1)),
               "b_dec": ("F32", [8], f32(8, 0.1))}
    lines = ["ab te ab a b te", "te te te ab", "b a b a b a b ab", "a", "ab ab ab te a", "te b te b a a ab"]
    for name, data in {"config.json": compact(config).encode(), "model.safetensors": safetensors(tensors),
                       "tokenizer.json": compact(tokenizer).encode(),
                       "sae/cfg.json": compact(sae).encode(), "sae/sae_weights.safetensors": safetensors(weights),
                       "text.jsonl": "".join(compact({"text": s}) + "\n" for s in lines).encode()}.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)


if __name__ == "__main__":
    tensor_files()
    texts()
    small_text()
    models()
    logits_and_rows()
    fixture()
