# SPDX-License-Identifier: BSD-2-Clause
"""Reference data of ggml's block types.

Blocks are made by ggml itself (libggml-base of llama-cpp-python, through ctypes) without importance
matrix, and decoded by the gguf package. ggml's build must not fuse multiplications and additions.
"""

import ctypes
import importlib.util
import pathlib

import gguf
import numpy as np

from common import crc32, folder_size, output_folder, save, versions

f32 = np.float32
ROWS, COLS = 2, 768
BLOCKS = 4
MANY = 2**19
ENCODED = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()
ENCODED += "TQ1_0 TQ2_0 MXFP4 NVFP4".split()
DECODED = ENCODED + "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S".split()
# Bytes at which f16 scales lie; others have their own.
SCALES = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,), "MXFP4": (), "NVFP4": (),
    "IQ1_M": (),
}  # fmt: skip


def library():
    folder = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
    lib = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + 3 * [
        ctypes.c_int64
    ] + [ctypes.c_void_p]
    lib.quantize_row_iq4_nl_ref.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return lib


def quantize(lib, x, name):
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((x.shape[0], x.shape[1] // elements * size), np.uint8)
    done = lib.ggml_quantize_chunk(
        int(kind), x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], None
    )
    assert done == out.nbytes
    return out


def quantize_row(lib, x):
    """IQ4_NL as caches are written; None where a block is zero (its codes are then not defined)."""
    out = np.zeros((x.shape[0], x.shape[1] // 32 * 18), np.uint8)
    lib.quantize_row_iq4_nl_ref(x.ctypes.data, out.ctypes.data, x.size)
    zero = (np.abs(x.reshape(-1, 32)).max(axis=1) < 1e-15).any()
    return None if zero else out


def sources(rng):
    shape = (ROWS, COLS)
    normal = rng.standard_normal
    yield "normal", normal(shape)
    yield "small", normal(shape) * 0.02
    yield "tails", rng.standard_t(2, shape) * 0.05
    yield "sparse", np.where(rng.random(shape) < 0.7, 0, normal(shape))
    yield "ties", np.round(normal(shape) * 3) / 4
    yield "positive", np.abs(normal(shape)) + 5
    yield "negative", -np.abs(normal(shape))
    yield "least", normal(shape) * 10.0 ** np.repeat(rng.uniform(-18, -12, (ROWS, 48)), 16, axis=1)
    yield "subnormal", normal(shape) * 2.0**-140
    yield "large", normal(shape) * 1e15
    yield "spread", normal(shape) * 10.0 ** rng.uniform(-40, 15, shape)
    constant = np.repeat(normal((ROWS, COLS // 32)), 32, axis=1)
    constant[:, ::96] = -0.0
    yield "constant", constant
    zero = normal(shape) * np.repeat(rng.random((ROWS, COLS // 32)) < 0.5, 32, axis=1)
    zero[1, 256:512] = 0
    yield "zero", zero
    signed = np.where(rng.random(shape) < 0.5, 0, np.abs(normal(shape)))
    signed[1, :384] = 0
    yield "zeros", np.where((signed == 0) & (rng.random(shape) < 0.5), -0.0, signed)
    below = np.where(rng.random(shape) < 0.5, 1, 1 - 2.0**-24)
    yield "powers", 2.0 ** rng.integers(-12, 12, shape) * below * rng.choice([-1, 1], shape)


def many_values(count):
    """Heavy-tailed values that the test makes as well (tests/codecs/ggml.c)."""
    state, mask = 5, 2**64 - 1
    top = np.empty(2 * count, f32)
    for i in range(2 * count):
        state = (state * 6364136223846793005 + 1442695040888963407) & mask
        top[i] = state >> 40
    top *= f32(2.0**-24)
    return (top[0::2] - f32(0.5)) / (top[1::2] + f32(0.03125))


def random_blocks(rng, name):
    """Random bytes: half of the blocks with moderate scales, the others anything."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    out = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in SCALES.get(name, (0,)):
        scale = (rng.standard_normal(BLOCKS // 2) * 0.1).astype(np.float16)
        out[: BLOCKS // 2, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return out


def main():
    folder = output_folder("codecs")
    rng = np.random.default_rng(5)
    lib = library()
    tensors = {}
    for kind, x in sources(rng):
        x = np.ascontiguousarray(x.astype(f32))
        tensors[f"x.{kind}"] = x
        for name in ENCODED:
            tensors[f"q.{kind}.{name}"] = quantize(lib, x, name)
        row = quantize_row(lib, x)
        if row is not None:
            tensors[f"r.{kind}"] = row
    many = many_values(MANY).reshape(64, -1)
    for name in ENCODED:
        tensors[f"crc.{name}"] = np.array([crc32(quantize(lib, many, name).tobytes())], np.uint32)
        tensors[f"crc.{name}"] = tensors[f"crc.{name}"].view(np.int32)
    for name in DECODED:
        blocks = random_blocks(rng, name)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name])
        tensors[f"b.{name}"] = blocks
        tensors[f"d.{name}"] = values.astype(f32)
    save(
        folder / "ggml.safetensors",
        tensors,
        {"content": "ggml blocks, see README.md", **versions("gguf", "llama-cpp-python", "numpy")},
    )
    print(f"{len(tensors)} tensors; {folder_size(folder) / 1e6:.2f} MB in the folder")


if __name__ == "__main__":
    main()
