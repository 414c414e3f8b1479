# SPDX-License-Identifier: BSD-2-Clause
"""Helpers shared by the scripts that write the reference data under tests/data."""

import argparse
import json
import os
import pathlib
import struct
import zlib

import numpy as np

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"

DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "float64": "F64",
    "uint8": "U8",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
}


class BF16:
    """A float32 array whose values are bf16 numbers, to be stored as BF16."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)
        if not same_bits(self.values, round_bf16(self.values)):
            raise ValueError("not bf16 numbers")


def round_bf16(x):
    """Round float32 to the nearest bf16, ties to even; returns float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    out = ((bits + 0x7FFF + odd) & 0xFFFF0000).astype(np.uint32)
    nan = np.isnan(x)
    out = np.where(nan, (bits | 0x00400000) & 0xFFFF0000, out).astype(np.uint32)
    return out.view(np.float32).reshape(np.shape(x))


def round_f16(x):
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def round_to(x, dtype):
    """Round float32 values to a storage type named f32, bf16 or f16."""
    return {"f32": lambda v: np.asarray(v, np.float32), "bf16": round_bf16, "f16": round_f16}[
        dtype
    ](x)


def same_bits(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def bits(x):
    """Hexadecimal bit patterns of float32 values."""
    return [
        "%08X" % v for v in np.atleast_1d(np.asarray(x, np.float32)).view(np.uint32).reshape(-1)
    ]


def crc32(data):
    return zlib.crc32(data) & 0xFFFFFFFF


def crc32_values(x):
    """CRC32 of the little-endian bytes after turning -0.0 into +0.0.

    The sign of a decoded zero is not part of any format, so it must not decide a test.
    """
    x = np.ascontiguousarray(x)
    return "%08X" % crc32(np.where(x == 0, np.zeros_like(x), x).tobytes())


def crc32_as(x, dtype):
    """crc32_values of float32 numbers stored as f32, bf16 or f16."""
    x = np.where(x == 0, np.float32(0), x).astype(np.float32)
    if dtype == "f32":
        data = x.tobytes()
    elif dtype == "f16":
        data = x.astype(np.float16).tobytes()
    else:
        data = (round_bf16(x).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return "%08X" % crc32(data)


def _encode(value):
    if isinstance(value, BF16):
        data = (value.values.view(np.uint32) >> 16).astype("<u2")
        return "BF16", value.values.shape, data.tobytes()
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return _encode(BF16(value.float().numpy()))
        value = value.numpy()
    value = np.asarray(value)
    return DTYPES[value.dtype.name], value.shape, np.ascontiguousarray(value).tobytes()


def save(path, tensors, metadata=None):
    """Write a safetensors file.

    The usual writer orders metadata by a randomised hash, which would make every
    regeneration differ; here the bytes depend on the contents only.
    """
    header, blobs, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = {key: str(metadata[key]) for key in sorted(metadata)}
    for name in sorted(tensors):
        dtype, shape, data = _encode(tensors[name])
        end = offset + len(data)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        blobs.append(data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    os.replace(temporary, path)


def load(path):
    """Read a safetensors file written by save() or by any other writer, BF16 widened."""
    raw = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + size])
    names = {
        "BF16": "<u2",
        "F32": "<f4",
        "F16": "<f2",
        "F64": "<f8",
        "U8": "u1",
        "I8": "i1",
        "I32": "<i4",
        "I64": "<i8",
    }
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(raw[8 + size + begin : 8 + size + end], names[entry["dtype"]])
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        out[name] = array.reshape(entry["shape"])
    return out


def save_json(path, value):
    """Write JSON with one list element per line where that keeps the file readable."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(dump_json(value) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def dump_json(value, indent=0):
    pad = " " * indent
    flat = json.dumps(value, ensure_ascii=True, allow_nan=False)
    if len(flat) + indent <= 100 or not isinstance(value, (dict, list)):
        return flat
    if isinstance(value, dict):
        lines = [f"{pad} {json.dumps(k)}: {dump_json(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + pad + "}"
    if not any(isinstance(item, (dict, list)) for item in value):
        return flat
    lines = [f"{pad} {dump_json(item, indent + 1)}" for item in value]
    return "[\n" + ",\n".join(lines) + "\n" + pad + "]"


def versions(*modules):
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in modules}


def output_folder(default):
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=str(DATA / default), help="where to write")
    return pathlib.Path(parser.parse_args().folder)


def one_thread():
    """Pin the thread count before torch starts, so that sums have one fixed order."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import torch

    torch.set_num_threads(1)
    return torch


def folder_size(folder):
    return sum(p.stat().st_size for p in pathlib.Path(folder).rglob("*") if p.is_file())
