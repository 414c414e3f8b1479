#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Writes corpus.bin: files that must be refused, each with the status it must be refused with.

usage: make.py [OUT]      Python's standard library alone; the same bytes always.
corpus.bin, little-endian: "QSAEBAD1", u32 cases; a case: kind, name, status (each u8 size and bytes), the file to
open ("": the folder), u8 files; a file: name, u8 type (0 bytes, 1 a symbolic link to them), u32 size and bytes.
"""
import io
import json
import os
import struct
import sys
import zipfile
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "fuzz"))
sys.dont_write_bytecode = True
import seeds                                                    # noqa: E402
from seeds import compact, gguf, gstr, gval, npy, npz, safetensors    # noqa: E402

cases = []
names = set()
F, U, P, M = "QSAE_EFORMAT", "QSAE_EUNSUPPORTED", "QSAE_EPICKLE", "QSAE_EMISMATCH"
N, I, V = "QSAE_ENOENT", "QSAE_EIO", "QSAE_EINVAL"
HUGE = [2 ** 64 - 1, 2 ** 63, 2 ** 63 - 1, 2 ** 62, 2 ** 61 + 1, 2 ** 60, 2 ** 40, 2 ** 32 + 1, 2 ** 31]


def case(kind, name, status, files, main=None):
    """files: the bytes of one file called `main`, or {name: bytes, or a link's target as str}"""
    if not isinstance(files, dict):
        files = {main: files}
    elif main is None:
        main = ""
    name = "%s/%s" % (kind, name)
    assert name not in names, name
    names.add(name)
    cases.append((kind, name, status, main, files))


def u64(v):
    return struct.pack("<Q", v & (2 ** 64 - 1))


# ---- GGUF ----

def head(tensors=0, pairs=0, version=3):
    return b"GGUF" + struct.pack("<I", version & 0xffffffff) + u64(tensors) + u64(pairs)


def info(name, dims, kind=0, offset=0):
    return gstr(name) + struct.pack("<I", len(dims)) + b"".join(u64(d) for d in dims) + struct.pack("<I", kind & 0xffffffff) + u64(offset)


def pad(b, n=32):
    return b + b"\0" * (-len(b) % n)


def gguf_files():
    def bad(name, data, status=F):
        case("gguf", name, status, data, "x.gguf")
    for v in HUGE:
        bad("n_tensors %d" % v, head(v, 0) + bytes(64))                       # CVE-2024-21836
        bad("n_kv %d" % v, head(0, v) + bytes(64))                            # CVE-2024-23605
        bad("key size %d" % v, head(0, 1) + u64(v) + b"k" + bytes(16))        # CVE-2024-23496
        bad("string size %d" % v, head(0, 1) + gstr("k") + struct.pack("<I", 8) + u64(v) + bytes(16))
        bad("tensor name size %d" % v, head(1, 0) + u64(v) + b"t" + bytes(64))
        bad("string in array %d" % v, head(0, 1) + gstr("k") + struct.pack("<IIQ", 9, 8, 1) + u64(v) + bytes(8))
        for kind in (0, 3, 6, 7, 8, 10, 12):                                  # CVE-2024-21825
            bad("array of type %d, %d" % (kind, v), head(0, 1) + gstr("k") + struct.pack("<IIQ", 9, kind, v) + bytes(16))
    for kind in (13, 14, 255, 2 ** 31, 2 ** 32 - 1):
        bad("value type %d" % kind, head(0, 1) + gstr("k") + struct.pack("<I", kind) + bytes(16))
        bad("element type %d" % kind, head(0, 1) + gstr("k") + struct.pack("<IIQ", 9, kind, 1) + bytes(16))
    bad("array of arrays", head(0, 1) + gstr("k") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 0, 1) + bytes(8), U)
    for v in (0, 1, 4, 2 ** 31, 3 << 24):
        bad("version %d" % v, head(version=v), U)
    for dims in ([2 ** 32, 2 ** 32], [2 ** 62, 4], [2 ** 61, 2, 2, 2], [2 ** 63], [2 ** 64 - 1], [2 ** 64 - 32, 1], [3, 2 ** 63],
                 [2 ** 31, 2 ** 31, 4], [2 ** 40], [1, 1, 1, 2 ** 40], [2 ** 62 + 1, 4], [2 ** 48, 2 ** 16]):
        for kind in (0, 8, 12):                                               # CVE-2024-21802, -2026-33298
            bad("dims %s of type %d" % (dims, kind), pad(head(1, 0) + info("t", dims, kind)) + bytes(64))
    bad("block rows not whole", pad(head(1, 0) + info("t", [33], 8)) + bytes(96))
    for rank in (5, 6, 2 ** 31, 2 ** 32 - 1):
        bad("rank %d" % rank, head(1, 0) + gstr("t") + struct.pack("<I", rank) + bytes(64))
    for kind in (4, 5, 36, 99, 1000, 2 ** 31, 2 ** 32 - 1):
        bad("tensor type %d" % kind, pad(head(1, 0) + info("t", [32], kind)) + bytes(256), U)
    for offset in (1, 31, 64, 2 ** 32, 2 ** 63, 2 ** 64 - 32, 2 ** 64 - 31):
        bad("offset %d" % offset, pad(head(1, 0) + info("t", [8], 0, offset)) + bytes(32))
    bad("two tensors overlap", pad(head(2, 0) + info("a", [16], 0, 0) + info("b", [8], 0, 32)) + bytes(64))
    bad("one tensor name twice", pad(head(2, 0) + info("a", [8], 0, 0) + info("a", [8], 0, 32)) + bytes(64))
    bad("one key twice", gguf([("k", 4, 1), ("k", 4, 2)]))
    for v in (0, 3, 7, 33, 2 ** 31, 2 ** 32 - 1):                             # GGML_PAD wraps
        bad("alignment %d" % v, gguf([("general.alignment", 4, v)], [("t", [8], 0, bytes(32))]))
    bad("alignment negative", gguf([("general.alignment", 5, -32)], [("t", [8], 0, bytes(32))]))
    bad("alignment a string", gguf([("general.alignment", 8, "32")], [("t", [8], 0, bytes(32))]))
    bad("bool 2", gguf([("k", 7, 2)]))
    bad("bool 7 in an array", gguf([("k", (7,), [0, 7])]))
    bad("key empty", gguf([("", 4, 1)]))
    bad("key not UTF-8", gguf([(b"\xff", 4, 1)]))
    bad("key with NUL", gguf([(b"a\0b", 4, 1)]))
    bad("name too long", pad(head(1, 0) + info("t" * 65, [8])) + bytes(32))
    bad("name with NUL", pad(head(1, 0) + info(b"a\0b", [8])) + bytes(32))
    bad("name not UTF-8", pad(head(1, 0) + info(b"\xc3\x28", [8])) + bytes(32))
    bad("split in no name of a part", gguf([("split.count", 2, 2), ("split.no", 2, 0)]))
    bad("part 1 of 2", gguf([("split.count", 2, 2), ("split.no", 2, 1)]))
    bad("part 7 of 2", gguf([("split.count", 2, 2), ("split.no", 2, 7)]))
    bad("split count negative", gguf([("split.count", 5, -1)]))
    case("gguf", "part missing", N, {"x-00001-of-00002.gguf": gguf([("split.count", 2, 2), ("split.no", 2, 0)])},
         "x-00001-of-00002.gguf")
    case("gguf", "part is a link", F, {"x-00001-of-00002.gguf": gguf([("split.count", 2, 2), ("split.no", 2, 0)]),
                                       "x-00002-of-00002.gguf": "/etc/passwd"}, "x-00001-of-00002.gguf")
    whole = gguf([("general.architecture", 8, "llama"), ("w", (8,), ["a", "bc"]), ("n", (5,), [1, 2])],
                 [("t", [8], 0, bytes(range(32)))])
    for n in list(range(0, len(whole) - 32, 5)) + [len(whole) - 31, len(whole) - 1]:
        bad("cut at %d" % n, whole[:n], F if n > 0 else F)
    for i, (what, kinds) in enumerate([("big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)), ("v1", head(version=1))]):
        bad("other " + what, kinds, U)


def gguf_vocabularies():
    base = [("tokenizer.ggml.model", 8, "llama"), ("tokenizer.ggml.tokens", (8,), ["<unk>", "<s>", "</s>", "<0x41>", "a"]),
            ("tokenizer.ggml.scores", (6,), [0, 0, 0, 0, -1]), ("tokenizer.ggml.token_type", (5,), [2, 3, 3, 6, 1]),
            ("tokenizer.ggml.bos_token_id", 4, 1)]

    def bad(name, status=F, **change):
        pairs = [p for p in base]
        for key, (kind, v) in change.items():
            key = "tokenizer.ggml." + key
            pairs = [p for p in pairs if p[0] != key] + ([(key, kind, v)] if kind is not None else [])
        case("tokenizer", "gguf " + name, status, gguf(pairs), "x.gguf")
    for i, text in enumerate(["<0x-1>", "<0xGG>", "<0x100>", "<0x>", "<0x1>", "<0x 1>", "<0x41"]):   # llama.cpp #25969
        bad("byte token %s" % text, tokens=((8,), ["<unk>", "<s>", "</s>", text, "a"]))
    bad("scores int8", scores=((1,), [0] * 5))
    bad("scores int64", scores=((11,), [0] * 5))
    bad("scores strings", scores=((8,), ["0"] * 5))
    bad("scores short", scores=((6,), [0] * 4))
    bad("scores long", scores=((6,), [0] * 6))
    bad("scores NaN", scores=((6,), [0, 0, 0, 0, float("nan")]))
    bad("types short", token_type=((5,), [1] * 4))
    bad("types strings", token_type=((8,), ["1"] * 5))
    bad("types floats", token_type=((6,), [1.0] * 5))
    bad("tokens missing", tokens=(None, None))
    bad("tokens numbers", tokens=((4,), [1, 2, 3, 4, 5]))
    bad("tokens none", tokens=((8,), []))
    bad("tokens a string", tokens=(8, "a"))
    bad("token not UTF-8", tokens=((8,), ["<unk>", "<s>", "</s>", "<0x41>", b"\xff"]))
    bad("bos beyond", bos_token_id=(4, 5))
    bad("bos huge", bos_token_id=(4, 2 ** 32 - 1))
    bad("bos negative", bos_token_id=(5, -7))
    bad("bos a string", bos_token_id=(8, "1"))
    bad("model unknown", U, model=(8, "wordpiece9"))
    bad("model a number", model=(4, 1))
    bad("pre unknown", U, model=(8, "gpt2"), pre=(8, "no-such"), merges=((8,), ["a a"]))
    bad("merge without a space", model=(8, "gpt2"), pre=(8, "gpt-2"), merges=((8,), ["aa"]))
    bad("merges numbers", model=(8, "gpt2"), pre=(8, "gpt-2"), merges=((4,), [1]))


# ---- safetensors ----

def st(text, data=b""):
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text)) + text + data


def t(dtype="U8", shape="[4]", a="0", b="4"):
    return '{"dtype":"%s","shape":%s,"data_offsets":[%s,%s]}' % (dtype, shape, a, b)


def safetensors_files():
    def bad(name, data, status=F):
        case("safetensors", name, status, data, "x.safetensors")
    good = safetensors({"a": ("F32", [2], bytes(8)), "b": ("BF16", [2, 2], bytes(8))}, {"format": "pt"})
    for n in range(0, 8):
        bad("%d bytes" % n, good[:n])
    for n in range(8, len(good), 6):
        bad("cut at %d" % n, good[:n])
    bad("short by one", good[:-1])
    bad("one byte more", good + b"\0")
    for v in HUGE + [10 ** 8 + 1, len(good), len(good) - 7]:
        bad("header of %d" % v, u64(v) + good[8:])
    bad("another tensor of the name", st('{"a":%s,"a":%s}' % (t(), t("F32", "[1]")), bytes(4)))      # xz.aliyun.com 92700
    bad("the name spelled otherwise", st('{"a":%s,"\\u0061":%s}' % (t(b="2", shape="[2]"), t(shape="[2]", a="2")), bytes(4)))
    bad("dtype twice", st('{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', bytes(4)))
    bad("metadata twice", st('{"__metadata__":{},"__metadata__":{}}'))
    bad("a metadata key twice", st('{"__metadata__":{"a":"b","a":"c"}}'))
    bad("polyglot: a zip behind it", safetensors({"a": ("U8", [4], bytes(4))}) + npz({"x.npy": npy((1,))}))
    bad("polyglot: a hole with a script", st('{"a":%s,"b":%s}' % (t(), t(a="20", b="24")), b"0000#!/bin/sh\n:;true\n111"))
    bad("polyglot: a hole in front", st('{"a":%s}' % t(a="4", b="8"), b"PK\3\4" + bytes(4)))
    bad("overlap", st('{"a":%s,"b":%s}' % (t(), t(a="2", b="6")), bytes(6)))
    bad("same place", st('{"a":%s,"b":%s}' % (t(), t("I8")), bytes(4)))
    for i, (a, b) in enumerate([("4", "0"), ("-4", "0"), ("0.0", "4.0"), ('"0"', '"4"'), ("null", "4"), ("0", "9223372036854775807"),
                                ("9223372036854775807", "9223372036854775807"), ("0", "18446744073709551616"), ("0", "3"), ("0", "5"),
                                ("0", "1e1"), ("[0]", "4"), ("true", "4")]):
        bad("offsets %s %s" % (a, b), st('{"a":%s}' % t(a=a, b=b), bytes(5 if b == "5" else 4)))
    for shape in ("4", "[-4]", "[4.0]", '["4"]', "[null]", "[[4]]", "{}", "[true]", "[4e0]", "[9223372036854775808]", "[1,4,-1]",
                  "[4294967296,4294967296]", "[4294967296,4294967297]", "[2305843009213693952,8]", "[9223372036854775807,2]",
                  "[9223372036854775807]", "[0,9223372036854775807,9223372036854775807]", "[1e400]", "[NaN]", "[Infinity]"):
        bad("shape %s" % shape, st('{"a":%s}' % t(shape=shape), bytes(4)))
    bad("rank 9", st('{"a":%s}' % t(shape="[1,1,1,1,1,1,1,1,4]"), bytes(4)), U)
    for dtype in ("f32", "F33", "", "O", "object", "F32 ", "Q4_K", "\\u0000", "U8\\u0000"):
        bad("dtype %s" % dtype, st('{"a":%s}' % t(dtype), bytes(4)))
    for i, entry in enumerate(["7", "{}", "[]", '"x"', "null", "true", '{"dtype":"U8","shape":[4]}', '{"shape":[4],"data_offsets":[0,4]}',
                               '{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}', '{"dtype":4,"shape":[4],"data_offsets":[0,4]}',
                               '{"dtype":"U8","shape":[4],"data_offsets":{}}', '{"dtype":"U8","shape":[4],"data_offsets":[0,4,8]}',
                               '{"dtype":"U8","shape":[4],"data_offsets":[4]}']):
        bad("entry %d" % i, st('{"a":%s}' % entry, bytes(4)))
    for i, m in enumerate(["[]", "null", "1", '"x"', '{"a":1}', '{"a":null}', '{"a":{"b":"c"}}', '{"a":["b"]}', '{"a":true}']):
        bad("metadata %d" % i, st('{"__metadata__":%s}' % m))
    bad("a description of a megabyte of spaces", st('{"a":{"dtype":"U8","shape":[4],' + " " * 5000 + '"data_offsets":[0,4]}}', bytes(4)))
    for i, text in enumerate(BAD_JSON):
        if text.strip():
            bad("json %d" % i, st(text))
    bad("tensor in a deep place", st('{"a":' * 70 + "1" + "}" * 70))


BAD_JSON = ['{"a":}', '{"a"::::"b"}', '{"a"}', '{"a":1,}', '{,}', '{"a" 1}', "{a:1}", "{'a':1}", '{"a":1 "b":2}', '{"a":[1,]}', '{"a":[1 2]}',
            '{"a":tru}', '{"a":nul}', '{"a":NaN}', '{"a":Infinity}', '{"a":-}', '{"a":01}', '{"a":1.}', '{"a":.5}', '{"a":+1}', '{"a":0x10}',
            '{"a":1e}', '{"a":"\\x"}', '{"a":"\\u12"}', '{"a":"\\ud800"}', '{"a":"b', '{"a":1', "{", '{"a":[}', '{"a":{]}', '{"a":1}}', '{"a":1}{}',
            '{"a":1}x', '{"a":"\t"}', '{"a":"\n"}', '/* */{"a":1}', '{"a":1}//', '\ufeff{"a":1}', b'{"a":"\xff"}', b'{"\xc3\x28":1}', b'{"a":"\xed\xa0\x80"}',
            b'{"a":"\xc0\x80"}', b'{"a":"\xf4\x90\x80\x80"}', b'{"a":1}\0', b'{"a\0":1}', '{"a\\u0000":1}', '{"a":1,"a":2}', '{"a":1,"\\u0061":2}',
            "[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, "[" * 2000, '{"a":' * 3000, "[1]", '"a"', "1", "null", "", " "]


def json_files():
    for i, text in enumerate(BAD_JSON):
        data = text if isinstance(text, bytes) else text.encode()
        case("model", "config json %d" % i, F, {"config.json": data, "model.safetensors": safetensors({})})
        case("tokenizer", "json %d" % i, F, data, "tokenizer.json")
        case("index", "json %d" % i, F, {"model.safetensors.index.json": data})
        case("sae", "cfg json %d" % i, F, {"cfg.json": data, "sae_weights.safetensors": safetensors({})})


# ---- npy, npz, pickles ----

def npy_head(text, version=b"\1\0", size=None):
    text = text.encode() if isinstance(text, str) else text
    size = len(text) if size is None else size
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", size & (0xffff if version[0] == 1 else 0xffffffff)) + text


def npy_dict(descr="'<f4'", fortran="False", shape="(2,)"):
    return "{'descr': %s, 'fortran_order': %s, 'shape': %s, }\n" % (descr, fortran, shape)


def npy_files():
    def bad(name, data, status=F):
        case("npy", name, status, data, "x.npy")
    good = npy((2, 3))
    for n in list(range(6, 128, 7)) + [len(good) - 1]:
        bad("cut at %d" % n, good[:n])
    bad("one byte more", good + b"\0")
    for descr in ("'O'", "'|O'", "'|O8'", "'<O8'"):                               # CVE-2019-6446
        bad("descr %s" % descr, npy_head(npy_dict(descr)) + bytes(8), P)
    for descr in ("'>f4'", "'|V8'", "'<U5'", "'|S4'", "'<c8'", "'<M8[ns]'", "'<f16'", "'<i16'", "[('a', '<f4')]"):
        bad("descr %s" % descr, npy_head(npy_dict(descr)) + bytes(8), U)
    for descr in ("''", "'<f'", "'<f4"):
        bad("descr %s" % descr, npy_head(npy_dict(descr)) + bytes(8), U)
    for descr in ("4", "None", "f4", "'\\x3cf4'"):
        bad("descr %s" % descr, npy_head(npy_dict(descr)) + bytes(8))
    for shape in ("(8589934592,)", "(9223372036854775807, 9223372036854775807)", "(-2,)", "(2", "2", "(2.0,)", "('2',)", "(2,,)", "[2]",
                  "(18446744073709551616,)", "(" * 100 + "2" + ")" * 100, "(1" + "0" * 4000 + ",)", "(2, 3)", "(1,)", "(None,)", "(True,)",
                  "(0x2,)", "(2_0,)", "(__import__('os').abort(),)", "(4294967296, 4294967296)", "(3,)"):
        bad("shape %s" % shape[:60], npy_head(npy_dict(shape=shape)) + bytes(8))
    bad("80 bytes ask for 32 GiB", npy_head(npy_dict(shape="(8589934592,)"))[:80])          # PoC Kanisia
    bad("rank 9", npy_head(npy_dict(shape="(1, 1, 1, 1, 1, 1, 1, 1, 2)")) + bytes(8), U)
    for f in ("0", "'False'", "Maybe", "None", "false"):
        bad("fortran %s" % f, npy_head(npy_dict(fortran=f)) + bytes(8))
    for i, text in enumerate(["{}", "{'descr': '<f4'}", npy_dict()[:-4], npy_dict() + "x", "__import__('os')", "{'descr': '<f4', 'fortran_order': False, "
                              "'shape': (2,), 'x': 1, }", "{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (2,), }",
                              "[" * 500, "{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}", "\0" * 64, "9" * 9000]):
        bad("header %d" % i, npy_head(text) + bytes(8))
    for v in (b"\0\0", b"\4\0", b"\xff\xff"):
        bad("version %s" % v.hex(), npy_head(npy_dict(), v) + bytes(8), U)
    for size in (0, 1, 65535, 300):
        bad("header size %d" % size, npy_head(npy_dict(), size=size) + bytes(8))
    for size in (2 ** 32 - 1, 2 ** 31, 70000):
        bad("version 2 header size %d" % size, npy_head(npy_dict(), b"\2\0", size) + bytes(8))
    bad("header of 70,000 bytes", npy_head(npy_dict()[:-1] + " " * 70000 + "\n", b"\2\0") + bytes(8))


def patch(data, what, old, new):
    at = data.rindex(what)
    assert data[at + old[0]:at + old[0] + len(new)] is not None
    return data[:at + old[0]] + new + data[at + old[0] + len(new):]


def npz_files():
    def bad(name, data, status=F):
        case("npz", name, status, data, "x.npz")
    good = npz({"a.npy": npy((4,))})
    directory, local, end = b"PK\1\2", b"PK\3\4", b"PK\5\6"
    for n in range(4, len(good), 23):
        bad("cut at %d" % n, good[:n])
    bad("no npy", npz({"a.txt": b"x"}))
    bad("no npy inside", npz({"a.npy": b"hello, world"}))
    bad("a member twice", npz({"a.npy": npy((1,)), "b.npy": npy((1,))}).replace(b"b.npy", b"a.npy"))
    for size in (2 ** 32 - 2, 2 ** 31, 2 ** 20):
        bomb = npz({"a.npy": npy((2 ** 16,), "|u1")}, zipfile.ZIP_DEFLATED)
        bad("a bomb of %d" % size, patch(patch(bomb, directory, (24, 0), struct.pack("<I", size)), local, (22, 0), struct.pack("<I", size)))
    bad("asks for 32 GiB", npz({"a.npy": npy_head(npy_dict(shape="(8589934592,)"))}, zipfile.ZIP_DEFLATED))
    bad("stored sizes differ", patch(good, directory, (24, 0), struct.pack("<I", 5)))
    bad("checksum", patch(patch(good, directory, (16, 0), b"\1\2\3\4"), local, (14, 0), b"\1\2\3\4"))
    bad("encrypted", patch(patch(good, directory, (8, 0), b"\1\0"), local, (6, 0), b"\1\0"), U)
    for method in (12, 14, 93):
        bad("method %d" % method, patch(patch(good, directory, (10, 0), struct.pack("<H", method)), local, (8, 0), struct.pack("<H", method)), U)
    bad("directory elsewhere", patch(good, end, (16, 0), struct.pack("<I", 2 ** 31)))
    bad("directory count", patch(good, end, (8, 0), struct.pack("<HH", 999, 999)))
    bad("local header elsewhere", patch(good, directory, (42, 0), struct.pack("<I", 10 ** 6)))
    bad("objects", npz({"a.npy": npy_head(npy_dict("'|O'")) + b"\x80\4."}), P)
    bad("torch", npz({"archive/data.pkl": b"\x80\2}q\0.", "archive/version": b"3\n"}), P)
    bad("torch at the top", npz({"data.pkl": b"\x80\2}."}), P)
    bad("deflate damaged", (lambda z: z[:60] + bytes(8) + z[68:])(npz({"a.npy": bytes(range(256)) * 4}, zipfile.ZIP_DEFLATED)))
    bad("a member of a member", npz({"a.npy": good}))


def pickles():
    for p in range(0, 6):
        data = (b"\x80" + bytes([p]) if p > 1 else b"\x80\2") + bytes([p]) + b"}q\0."
        for ending in ("bin", "pt", "safetensors", "npy"):
            case("pickle", "protocol %d in %s" % (p, ending), P, data, "x." + ending)


# ---- folders ----

def folders():
    a, b = safetensors({"x": ("F32", [3], bytes(12))}), safetensors({"y": ("F32", [3], bytes(12))})

    def index(value, **files):
        return {"model.safetensors.index.json": compact(value).encode(), "a.safetensors": a, "b.safetensors": b, **files}

    def bad(name, status, value, **files):
        case("index", name, status, index(value, **{k.replace("__", "."): v for k, v in files.items()}))
    for i, shard in enumerate(["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "./a.safetensors", "a\\b", "", ".", "..", "a\nb", "a\x7f",
                               "..\\a", "~/a", "//", "a/", "\u0001"]):     # CVE-2022-25882, -2024-27318, -2025-51480
        bad("shard name %d" % i, F, {"weight_map": {"x": shard}})
    bad("a link out", F, {"weight_map": {"x": "l.safetensors"}}, l__safetensors="/etc/passwd")
    bad("a link to a neighbour", F, {"weight_map": {"x": "l.safetensors"}}, l__safetensors="a.safetensors")
    bad("a link to itself", F, {"weight_map": {"x": "l.safetensors"}}, l__safetensors="l.safetensors")
    bad("a link as of the cache, to nothing", F, {"weight_map": {"x": "l.safetensors"}},
        l__safetensors="../../blobs/" + "0" * 64)
    bad("a link as of the cache, longer", F, {"weight_map": {"x": "l.safetensors"}}, l__safetensors="../../blobs/../../etc/passwd")
    bad("missing", N, {"weight_map": {"x": "c.safetensors"}})
    bad("in the other shard", F, {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}})
    bad("not in its shard", F, {"weight_map": {"x": "a.safetensors", "z": "a.safetensors"}})
    bad("a tensor too many", F, {"weight_map": {"x": "a.safetensors", "q": "c.safetensors"}},
        c__safetensors=safetensors({"q": ("U8", [1], b"1"), "r": ("U8", [1], b"1")}))
    bad("one tensor in two", F, {"weight_map": {"x": "a.safetensors", "q": "c.safetensors"}},
        c__safetensors=safetensors({"q": ("U8", [1], b"1"), "x": ("U8", [1], b"1")}))
    bad("a shard that is a pickle", F, {"weight_map": {"x": "c.safetensors"}}, c__safetensors=b"\x80\2}.")
    bad("a shard that is cut", F, {"weight_map": {"x": "c.safetensors"}}, c__safetensors=a[:-1])
    for i, v in enumerate([[], 1, "a", {"x": 1}, {"x": None}, {"x": ["a"]}, {"x": {}}]):
        bad("weight_map %d" % i, F, {"weight_map": v})
    bad("no weight_map", F, {"metadata": {}})
    case("index", "empty folder", N, {"readme.txt": b"x"})


# ---- models, SAEs ----

def models():
    config, tensors = seeds.llama(16)
    weights = safetensors(tensors)

    def bad(name, status=F, weights=weights, **change):
        c = {k: v for k, v in {**config, **change}.items() if v != "gone"}
        case("model", name, status, {"config.json": compact(c).encode(), "model.safetensors": weights})
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
                "head_dim"):
        for v in (0, -1, 2 ** 40, 2 ** 62, 0.5, "8", [8], {}, True):
            bad("%s %s" % (key, v), F, **{key: v})
    for key, values in {"rms_norm_eps": [-1.0, "x", []], "rope_theta": [0, -1.0, "x"], "hidden_act": [1, []], "max_position_embeddings": [0, -1, 0.5, "8", [8]],
                        "tie_word_embeddings": [1, "yes"], "rope_scaling": [1, "x", {"rope_type": "linear", "factor": -1.0},
                                                                            {"rope_type": "linear"}, {"rope_type": "llama3", "factor": 8.0}],
                        "model_type": [1, None, "gone"]}.items():
        for v in values:
            bad("%s %s" % (key, v), F, **{key: v})
    bad("hidden_act tan", U, hidden_act="tan")
    for v in ("mamba", "", "LLAMA"):
        bad("model_type %s" % v, U, model_type=v)
    for v in ({"rope_type": "yarn", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}):
        bad("rope %s" % v["rope_type"], U, rope_scaling=v)
    for name in ("model.norm.weight", "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"):
        bad("without " + name, N, safetensors({k: v for k, v in tensors.items() if k != name}))
        dtype, shape, raw = tensors[name]
        bad("other shape of " + name, M, safetensors({**tensors, name: (dtype, [shape[0] // 2] + shape[1:], raw[:len(raw) // 2])}))
        bad("other rank of " + name, M, safetensors({**tensors, name: (dtype, [1] + shape, raw)}))
        bad("integers in " + name, U, safetensors({**tensors, name: ("I32", shape, raw * 2)}))


def saes():
    d, n = 3, 4
    weights = {"W_enc": ("F32", [d, n], bytes(48)), "W_dec": ("F32", [n, d], bytes(48)), "b_enc": ("F32", [n], bytes(16)),
               "b_dec": ("F32", [d], bytes(12))}
    base = {"d_in": d, "d_sae": n, "dtype": "float32", "hook_name": "blocks.0.hook_resid_post", "architecture": "standard",
            "apply_b_dec_to_input": False, "normalize_activations": "none"}

    def bad(name, status=F, tensors=weights, **change):
        c = {k: v for k, v in {**base, **change}.items() if v != "gone"}
        case("sae", name, status, {"cfg.json": compact(c).encode(), "sae_weights.safetensors": safetensors(tensors)})
    for key in ("d_in", "d_sae"):
        for v in (0, -1, 2 ** 62, 0.5, "3", [3]):
            bad("%s %s" % (key, v), F, **{key: v})
        for v in (5, 2 ** 40):
            bad("%s %s" % (key, v), M, **{key: v})
    bad("architecture unknown", U, architecture="magic")
    bad("architecture a number", F, architecture=1)
    bad("normalisation unknown", U, normalize_activations="softmax")
    for v in (0, -1, "3", 1.5, 5, 2 ** 40):
        bad("topk k %s" % v, M if v in (5, 2 ** 40) else F, architecture="topk", k=v)
    bad("jumprelu without threshold", N, architecture="jumprelu")
    for name in weights:
        if name != "b_enc":
            bad("without " + name, N, {k: v for k, v in weights.items() if k != name})
        dtype, shape, raw = weights[name]
        bad("other shape of " + name, M, {**weights, name: (dtype, [s + 1 for s in shape], bytes(4 * (20 if len(shape) == 2 else shape[0] + 1)))})
        bad("integers in " + name, U, {**weights, name: ("I32", shape, raw)})
        if len(shape) == 2:    # a matrix is not looked through at open
            continue
        bad("NaN in " + name, "QSAE_ENONFINITE", {**weights, name: (dtype, shape, b"\0\0\xc0\x7f" + raw[4:])})
        bad("infinity in " + name, "QSAE_ENONFINITE", {**weights, name: (dtype, shape, b"\0\0\x80\x7f" + raw[4:])})
    case("sae", "a pickle", P, {"cfg.json": compact(base).encode(), "sae_weights.safetensors": b"\x80\2}."})


# ---- text ----

def texts():
    def corpus(name, file, data, status=F):
        case("corpus", name, status, data if isinstance(data, bytes) else data.encode(), file)
    for i, b in enumerate([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"ab\x80cd", b"\xf8\x88\x80\x80\x80"]):
        corpus("not UTF-8 %d" % i, "x.txt", b"ab te " * 9 + b)
        corpus("JSON lines not UTF-8 %d" % i, "x.jsonl", b'{"text":"ab ' + b + b'"}\n')
    for i, line in enumerate(['{"text":1}', '{"text":null}', '{"txt":"a"}', '["text"]', '"a"', '{"text":"a"', '{"text":["a"]}', '{"text":"a"}{}', "{}",
                              '{"text":"a","text":"b"}', "[" * 70 + "]" * 70]):
        corpus("JSON line %d" % i, "x.jsonl", '{"text":"ab te ab te"}\n' + line + "\n")
    ids = lambda descr, raw, shape=(8,): npy(shape, descr, raw=raw)                                  # noqa: E731
    corpus("ids negative", "x.npy", ids("<i4", struct.pack("<8i", *[1] * 7, -1)))
    corpus("ids beyond", "x.npy", ids("<i4", struct.pack("<8i", *[1] * 7, 2 ** 30)))
    corpus("ids of 64 bits beyond", "x.npy", ids("<i8", struct.pack("<8q", *[1] * 7, 2 ** 40 + 1)))
    corpus("ids floats", "x.npy", ids("<f4", bytes(32)))
    corpus("ids of rank 3", "x.npy", ids("<i4", bytes(32), (2, 2, 2)))
    corpus("ids pickled", "x.npy", npy_head(npy_dict("'|O'")) + bytes(8), P)
    corpus("zstd of nothing", "x.txt.zst", b"hello")
    corpus("zstd cut", "x.txt.zst", b"(\xb5/\xfd\0\0\x41\0\0ab te")
    corpus("zstd damaged", "x.txt.zst", b"(\xb5/\xfd\0\0\x47\0\0" + bytes(20))
    def frame(*blocks, said=None, window=0x38, flags=0):
        """Blocks (type, size, bytes); type 1 repeats a byte. said: what the header says that they hold."""
        out = b"(\xb5/\xfd" + bytes([flags | (0 if said is None else 0xc0), window]) + (b"" if said is None else u64(said))
        for i, (kind, size, data) in enumerate(blocks):
            out += struct.pack("<I", (i == len(blocks) - 1) | kind << 1 | size << 3)[:3] + data
        return out
    block, text = (1, 128 << 10, b" "), (0, 5, b"ab te")
    for n in (7, 17, 99):    # larger ones take 256 times their size: packed.c
        corpus("zstd that grows %d" % n, "x.txt.zst", frame(*[block] * n))
        corpus("zstd that grows %d, lines" % n, "x.jsonl.zst", frame(*[block] * n))
    corpus("zstd that grows, frames", "x.txt.zst", frame(*[block] * 4) * 2)
    corpus("zstd that grows, small frames", "x.txt.zst", frame((1, 100000, b" ")) * 9)
    corpus("zstd that grows to the limit", "x.txt.zst", frame(*[block] * 6), V)    # white space
    for v in HUGE[1:] + [807000, 2 ** 30, 2 ** 64 - 2]:    # 2^64 - 1: not known
        corpus("zstd says %d" % v, "x.txt.zst", frame(text, said=v))
        corpus("zstd says %d in the second frame" % v, "x.txt.zst", frame(text) + frame(text, said=v))
    for v in (2 ** 63, 500000):
        corpus("zstd says %d twice" % v, "x.txt.zst", frame(text, said=v) * 2)
    for v in (0, 4, 6, 786432):
        corpus("zstd says %d, not 5" % v, "x.txt.zst", frame(text, said=v))
    corpus("zstd says 5 and grows", "x.txt.zst", frame(*[block] * 6, said=5))
    for v in (0xb0, 0xf8, 0xff):                                                  # 2^32 bytes and more
        corpus("zstd window %02x" % v, "x.txt.zst", frame(text, window=v))
    corpus("zstd block beyond its window", "x.txt.zst", frame((1, 2 ** 20, b" "), window=0x60))
    corpus("zstd dictionary", "x.txt.zst", frame(text, flags=1)[:6] + b"\7" + frame(text)[6:])
    corpus("zstd checksum wrong", "x.txt.zst", frame(text, flags=4) + bytes(4))
    corpus("zstd checksum missing", "x.txt.zst", frame(text, flags=4))
    corpus("zstd block of no type", "x.txt.zst", frame((3, 5, b"ab te")))
    corpus("zstd of version 0.5", "x.txt.zst", b"\x25" + frame(text)[1:])
    corpus("zstd of version 0.5 behind", "x.txt.zst", frame(text) + b"\x25" + frame(text)[1:])
    for i, more in enumerate((b"\0", b"\n", b"garbage", b"(\xb5/", b"(\xb5/\xfd", b"\x50\x2a\x4d\x18", b"\x50\x2a\x4d\x18\1\0\0\0",
                              b"\x5f\x2a\x4d\x18" + b"\xff" * 8)):
        corpus("zstd and more %d" % i, "x.txt.zst", frame(text) + more)
    corpus("zstd of skipped frames", "x.txt.zst", b"\x50\x2a\x4d\x18\2\0\0\0ab" * 3, V)
    for n in (40000,):
        corpus("JSON line of %d lists" % n, "x.jsonl", '{"text":"ab te","x":[' + "[]," * n + "[]]}\n")
        corpus("JSON line of %d objects" % n, "x.jsonl", '{"text":"ab te","x":[' + "{}," * n + "{}]}\n")
        corpus("JSON line of %d keys" % n, "x.jsonl", '{"text":"ab te"' + "".join(',"%x":0' % i for i in range(n)) + "}\n")
        corpus("JSON line of %d numbers" % n, "x.jsonl", '{"text":"ab te","x":[' + "0," * n + "0]}\n")
    corpus("JSON line of lists behind others", "x.jsonl", '{"text":"ab te"}\n' * 99 + '{"text":"ab te","x":[' + "[]," * 40000 + "[]]}\n")
    corpus("empty", "x.txt", b"", V)
    corpus("white space alone", "x.txt", b" \n\n ", V)

    def probe(name, line):
        case("probes", name, F, line.encode() + b"\n", "x.jsonl")
    for i, line in enumerate(['{"context":"a","good":"b"}', '{"context":"a","good":"b","bad":"b"}', '{"context":"a","good":"","bad":"b"}', "[]",
                              '{"context":1,"good":"b","bad":"a"}', '{"context":"a","good":"b","bad":"a","tags":1}', "{", '{"context":"a","good":["b"],"bad":"a"}',
                              '{"context":"a","good":"b","bad":"a","tags":[1]}']):
        probe("line %d" % i, line)
    for i, doc in enumerate(["{}", "[]", '{"format":"other"}', '{"format":"qsae-result","version":1}', '{"format":"qsae-result","version":1,"conditions":[]}',
                             '{"format":"qsae-result","version":99,"conditions":[]}']):
        case("predictor", "document %d" % i, V if i > 2 else F, doc.encode(), "x.json")
    vocab = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}

    def tok(name, change, status=F):
        value = json.loads(json.dumps(vocab))
        for key, v in change.items():
            where = value
            *path, last = key.split(".")
            for p in path:
                where = where.setdefault(p, {})
            where[last] = v
        case("tokenizer", name, status, compact(value).encode(), "tokenizer.json")
    for i, v in enumerate([[], 1, "x", {"a": -1}, {"a": "0"}, {"a": 2 ** 31}, {"a": 2 ** 62}, {"a": 0.5}, {"a": 0, "b": 0}, {"a": None}]):
        tok("vocab %d" % i, {"model.vocab": v})
    for i, v in enumerate([{}, 1, ["ab"], ["a b c"], [["a"]], [["a", "b", "c"]], [[1, 2]], [1], ["a x"], ["x b"], ["b a"]]):
        tok("merges %d" % i, {"model.merges": v})
    tok("model type", {"model.type": "Magic"}, U)
    tok("model type a number", {"model.type": 1})
    for i, v in enumerate([1, [1], [{"id": -1, "content": "x"}], [{"id": 2 ** 40, "content": "x"}], [{"content": "x"}], [{"id": 5}], [{"id": "5", "content": "x"}],
                           [{"id": 5, "content": 7}]]):
        tok("added tokens %d" % i, {"added_tokens": v})
    for i, v in enumerate([{"type": "Magic"}, {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"},
                           {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Sideways"}, {"type": "Split"}]):
        tok("pre-tokenizer %d" % i, {"pre_tokenizer": v}, U if i in (0, 1) else F)
    for i, v in enumerate([{"type": "Magic"}, {"type": "Precompiled", "precompiled_charsmap": "!!!"}, {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
                           {"type": "Precompiled", "precompiled_charsmap": "/////w=="}, {"type": "Replace", "pattern": {"Regex": "["}, "content": ""},
                           {"type": "Sequence", "normalizers": {}}]):
        tok("normalizer %d" % i, {"normalizer": v}, U if i in (0, 4) else F)
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    long = {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 9000}
    added = [{"id": 5, "content": "a" * 64, "normalized": True}]
    for i, steps in enumerate([[double] * 40, [long], [double] * 5 + [long]]):
        tok("normalizer that grows %d" % i, {"normalizer": {"type": "Sequence", "normalizers": steps}, "added_tokens": added}, U)
    ids = {"x": {"ids": [0] * 1000}}
    single = [{"SpecialToken": {"id": "x"}}] * 1000 + [{"Sequence": {"id": "A"}}]
    tok("template of many ids", {"post_processor": {"type": "TemplateProcessing", "single": single, "special_tokens": ids}}, U)
    tok("template nested", {"post_processor": {"type": "Sequence", "processors": [{"type": "BertProcessing", "cls": ["a", 0], "sep": ["b", 1]}] * 5000}})
    tok("ids beyond the file", {"model.vocab": {"a": 0, "b": 1, "ab": 2, "c": 30000}})
    tok("values of little text", {"x": [[]] * 40000})
    for i, text in enumerate(['"a":0,"b":1,"ab":2,"a":3', '"a":0,"b":1,"ab":2,"\\u0061":3', '"a":0,"b":1,"ab":2,"c":3.0', '"a":0,"b":1,"ab":2,"c":01',
                              '"a":0,"b":1,"ab":2,"\\ud800":3', '"a":0,"b":1,"ab":2,"\\u0000":3', '"a":0,"b":1,"ab":2,', '"a":0 "b":1']):
        case("tokenizer", "vocab text %d" % i, F, b'{"model":{"type":"BPE","vocab":{' + text.encode() + b'},"merges":["a b"]}}', "tokenizer.json")


# ---- logits, states, conditions ----

def logits():
    def make(n_ctx=6, vocab=4, chunks=1, tokens=None, extra=b"", scale=0.001, low=-3.0):
        rows = n_ctx - 1 - n_ctx // 2
        out = b"_logits_" + struct.pack("<iii", n_ctx, vocab, chunks)
        out += struct.pack("<%di" % (n_ctx * chunks), *(tokens or [i % vocab for i in range(n_ctx * chunks)]))
        return out + (struct.pack("<ff", scale, low) + bytes(2 * vocab)) * (rows * chunks) + extra

    def bad(name, data, status=F):
        case("logits", name, status, data, "x.kld")
    good = make()
    for n in range(0, len(good), 4):
        bad("cut at %d" % n, good[:n])
    bad("one byte more", good + b"\0")
    bad("magic", b"_logitz_" + good[8:])
    for a in (0, -1, 2 ** 31 - 1, -2 ** 31, 2, 65536):
        for k in range(3):
            v = [6, 4, 1]
            if v[k] == a:
                continue
            v[k] = a
            bad("shape %d %d %d" % tuple(v), good[:8] + struct.pack("<iii", *v) + good[20:])
    bad("shape at its most", good[:8] + struct.pack("<iii", *[2 ** 31 - 1] * 3) + good[20:])
    for token in (-1, 4, 2 ** 31 - 1, -2 ** 31):
        bad("token %d" % token, make(tokens=[0, 1, 2, token, 0, 1]))
    for s in (float("nan"), float("inf"), -1.0):
        bad("scale %s" % s, make(scale=s))
    bad("smallest NaN", make(low=float("nan")))


def states():
    def frame(identity=b"{}", chunks=1, tokens=8, ranges=(), n_ranges=None, base=0, follow=(), n_follow=None, parts=(), n_parts=None, extra=b"",
              magic=b"QSAEAU02"):
        out = magic + b"0" * 32 + u64(len(identity)) + identity + u64(chunks) + u64(tokens)
        out += u64(len(ranges) if n_ranges is None else n_ranges) + b"".join(u64(a) + u64(b) for a, b in ranges)
        out += u64(base) + u64(len(follow) if n_follow is None else n_follow) + b"".join(map(u64, follow))
        out += u64(len(parts) if n_parts is None else n_parts)
        for name, kind, description, data in parts:
            out += u64(len(name)) + name + u64(kind) + u64(len(description)) + description + u64(len(data)) + data
        return out + extra + b"0" * 32

    def bad(name, data, status=F):
        case("state", name, status, data, "x.state")
    for v in HUGE:                                                            # CVE-2026-43629
        bad("ranges %d" % v, frame(n_ranges=v))
        bad("participants %d" % v, frame(n_follow=v))
        bad("parts %d" % v, frame(n_parts=v))
        bad("identity size %d" % v, b"QSAEAU02" + b"0" * 32 + u64(v) + bytes(64))
        bad("part name size %d" % v, frame(n_parts=1, extra=u64(v) + bytes(32)))
        bad("part data size %d" % v, frame(n_parts=1, extra=u64(1) + b"a" + u64(1) + u64(0) + u64(v)))
    for v in (2 ** 64 - 1, 2 ** 63):
        bad("chunks %d" % v, frame(chunks=v))
        bad("tokens %d" % v, frame(tokens=v))
        bad("base %d" % v, frame(base=v))
    bad("range backwards", frame(chunks=9, ranges=[(5, 3)]))
    bad("range empty", frame(chunks=9, ranges=[(3, 3)]))
    bad("range beyond", frame(chunks=9, ranges=[(3, 10)]))
    bad("ranges overlap", frame(chunks=9, ranges=[(0, 4), (3, 6)]))
    bad("ranges unsorted", frame(chunks=9, ranges=[(5, 6), (0, 2)]))
    for i, identity in enumerate([b"", b"[]", b"1", b"{", b'{"a":1,"a":2}', b"\xff", b"[" * 3000]):
        bad("identity %d" % i, frame(identity))
    bad("kind 6", frame(parts=[(b"a", 6, b"", b"")]))
    bad("kind huge", frame(parts=[(b"a", 2 ** 63, b"", b"")]))
    bad("name not UTF-8", frame(parts=[(b"\xff", 1, b"", b"")]))
    bad("name with NUL", frame(parts=[(b"a\0", 1, b"", b"")]))
    bad("name of 1,000", frame(parts=[(b"a" * 1000, 1, b"", b"")]))
    bad("bytes behind", frame(extra=b"x"))
    bad("magic", frame(magic=b"QSAEXX02"))
    bad("version", frame(magic=b"QSAEAU77"), U)
    bad("empty", b"")
    for n in range(8, 120, 16):
        bad("cut at %d" % n, frame()[:n])


def conditions():
    for i, text in enumerate(["", " ", "nf5", "nf4:", "nf4:block", "nf4:block=", "nf4:block=0", "nf4:block=-64", "nf4:block=63", "nf4:block=99999999999999999999",
                              "nf4:block=64,block=64", "nf4:color=red", "nf4:double=2", "nf4:compute=f8", "llm.int8:threshold=nan", "llm.int8:threshold=inf",
                              "llm.int8:threshold=-1", "llm.int8:threshold=1e999", "rtn:bits=1", "rtn:bits=9", "rtn:bits=3.5", "rtn:bits=0x4", "rtn:axis=diagonal",
                              "rtn:bits=4,group=-1", "rtn:bits=4,group=99999999999999999999999", "ggml:", "ggml:q9_z", "ggml:f32", "none+prune:sparsity=1.5", "none+prune:sparsity=-0.1",
                              "none+prune:sparsity=nan", "none+prune:pattern=5:4", "none+prune:pattern=0:0", "none+prune:pattern=2:9999999999", "nf4@", "nf4@layers=", "nf4@layers=5-2",
                              "nf4@layers=-1", "nf4@layers=99999999999999999999-1", "nf4@only=", "nf4@only=/(/", "nf4@only=/a", "nf4@with=everything", "nf4@compute=f64",
                              "nf4+", "nf4+nf4", "nf4+prune", "nf4+kv", "nf4+kv:k=q9_9", "control:gauss", "control:gauss()", "control:gauss(", "control:gauss(nf4",
                              "control:magic(nf4)", "control:gauss(" * 200 + "nf4" + ")" * 200, "mix:", "mix:nf4", "nf4\n", "nf4\x01", "nf4;rm -rf", "nf4 nf4",
                              "nf4@only=" + "a|" * 4000, "x" * 20000, "none+prune:match=", "none+prune:match=-1", "none+prune:match=nan", "none:x=1"]):
        case("condition", "%d %s" % (i, text[:30].encode("ascii", "replace").decode().replace("\n", " ")), V, text.encode(), "condition")


for make in (gguf_files, gguf_vocabularies, safetensors_files, json_files, npy_files, npz_files, pickles, folders, models, saes, texts, logits, states,
             conditions):
    make()

out = io.BytesIO()
out.write(b"QSAEBAD1" + struct.pack("<I", len(cases)))


def short(s):
    s = s.encode() if isinstance(s, str) else s
    out.write(bytes([len(s[:255])]) + s[:255])


for kind, name, status, main, files in cases:
    for s in (kind, name, status, main):
        short(s)
    out.write(bytes([len(files)]))
    for file, data in files.items():
        short(file)
        link = isinstance(data, str)
        data = data.encode() if link else data
        out.write(bytes([int(link)]) + struct.pack("<I", len(data)) + data)
target = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "corpus.bin")
with open(target, "wb") as f:
    f.write(out.getvalue())
print("%d cases, %d bytes, %d deflated" % (len(cases), len(out.getvalue()), len(zlib.compress(out.getvalue(), 9))))
