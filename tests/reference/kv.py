# SPDX-License-Identifier: BSD-2-Clause
"""Codes of the key/value cache: codecs/kv.* and models/kv_llama, models/kv_gemma.

ggml blocks come from the gguf package and, where it does not encode (iq4_nl), from llama.cpp's own
library; int8 from torch; rotation codes from a binary64 definition written after arXiv 2504.19874.
The models are run by transformers in binary64 with keys and values coded before attention.
"""

from common import one_thread, output_folder, save, save_json, versions

torch = one_thread()

import ctypes
import functools
import math
import pathlib

import gguf
import llama_cpp
import numpy as np
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.special
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.llama import modeling_llama

GGML = {"q8_0": 8, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "iq4_nl": 20}
LIBRARY = ctypes.CDLL(
    str(next(pathlib.Path(llama_cpp.__file__).parent.rglob("libggml-base.so"))), ctypes.RTLD_GLOBAL
)


# --- ggml, int8 ---------------------------------------------------------------------------------


def ggml_library(x, name):
    """Rows through llama.cpp's quantize_row_*_ref and dequantize_row_*."""
    x = np.ascontiguousarray(x, np.float32)
    blocks, out = np.zeros(x.size * 8, np.uint8), np.empty_like(x)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, blocks, out)]
    size = ctypes.c_int64(x.size)
    getattr(LIBRARY, f"quantize_row_{name}_ref")(pointers[0], pointers[1], size)
    getattr(LIBRARY, f"dequantize_row_{name}")(pointers[1], pointers[2], size)
    return out


def ggml_package(x, name):
    kind = gguf.GGMLQuantizationType(GGML[name])
    x = np.ascontiguousarray(x, np.float32)
    return gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind).astype(np.float32)


def ggml(x, name):
    out = ggml_library(x, name)
    if name != "iq4_nl" and ggml_package(x, name).tobytes() != out.tobytes():
        raise ValueError(f"{name}: the package and the library differ")
    return out


def int8(x, _=None):
    """As vLLM's test of int8_per_token_head states it."""
    x = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    scale = (x.abs().amax(dim=-1, keepdim=True) / 127.0).clamp(min=1e-6)
    return ((x * (1.0 / scale)).round().clamp(-128, 127) * scale).numpy()


# --- rotation codes -----------------------------------------------------------------------------


@functools.cache
def codebook(d, bits):
    """Lloyd-Max for the density (1 - x^2)^((d-3)/2): the half above 0, and the error times d."""
    n = 2 ** (bits - 1)
    scale = math.exp(scipy.special.gammaln(d / 2) - scipy.special.gammaln((d - 1) / 2))
    scale /= math.sqrt(math.pi)

    def edges(c):
        return np.concatenate([[0.0], (c[1:] + c[:-1]) / 2, [1.0]])

    def cells(c):
        """Means and masses; masses from the nearer end, which keeps their digits."""
        edge = edges(c)
        lower = np.diff(scipy.special.betainc(0.5, (d - 1) / 2, edge**2)) / 2
        upper = -np.diff(scipy.special.betaincc(0.5, (d - 1) / 2, edge**2)) / 2
        mass = np.where(edge[1:] > 1.5 / math.sqrt(d), upper, lower)
        return -np.diff((1 - edge**2) ** ((d - 1) / 2)) * scale / (d - 1) / mass, mass

    spread = (d - 3) / 3 + 3  # of the best density of many values
    c = np.sqrt(scipy.special.betaincinv(0.5, (spread - 1) / 2, (np.arange(n) + 0.5) / n))
    c = scipy.optimize.root(lambda c: (cells(c)[0] - c) / c, c, method="hybr", tol=1e-13).x
    check_centroids(d, edges(c), c)
    return np.concatenate([-c[::-1], c]), 1 - 2 * d * np.sum(cells(c)[1] * c**2)


def check_centroids(d, edge, c):
    """A few cells by adaptive quadrature."""
    for i in {0, len(c) // 2, len(c) - 1}:
        moment = [
            scipy.integrate.quad(
                lambda x: x**p * (1 - x * x) ** ((d - 3) / 2), edge[i], edge[i + 1],
                epsabs=0, epsrel=1e-12, limit=500,
            )[0]
            for p in (0, 1)
        ]
        if abs(moment[1] / moment[0] - c[i]) > 1e-9 * c[i]:
            raise ValueError(f"d {d}: cell {i}")


SEED_ROTATION, SEED_SKETCH = 0x7475726271756E74, 0x716A6C736B657463


def normals(seed, count):
    """splitmix64 and Marsaglia's polar method."""
    state, mask, out = seed, 2**64 - 1, []

    def draw():
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return ((z ^ (z >> 31)) >> 11) * 2.0**-52 - 1

    while len(out) < count:
        a, b = draw(), draw()
        r = a * a + b * b
        if 2.0**-100 <= r < 1:
            f = math.sqrt(-2 * math.log(r) / r)
            out += [a * f, b * f]
    return np.array(out[:count])


def rotation(d):
    q, r = np.linalg.qr(normals(SEED_ROTATION + d, d * d).reshape(d, d).T)
    return (q * np.sign(np.diag(r))).T


def sketch_matrix(d):
    return normals(SEED_SKETCH + d, d * d).reshape(d, d)


class Turbo:
    def __init__(self, d, bits, sketch):
        self.d, self.sketch = d, sketch
        self.pi, self.s = rotation(d), sketch_matrix(d) if sketch else None
        self.value = codebook(d, bits)[0]

    def __call__(self, x):
        """Values returned, and how near each row came to another code (1: half a cell)."""
        x = np.asarray(x, np.float64)
        flat = x.reshape(-1, self.d)
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        u = flat / np.where(norm > 0, norm, 1) @ self.pi.T
        edge = (self.value[1:] + self.value[:-1]) / 2
        index = np.sum(u[..., None] > edge, axis=-1)
        y = self.value[index]
        margin = np.min(np.abs(u[..., None] - edge), axis=(1, 2)) / (self.value[-1] / len(edge))
        if self.sketch:
            left = u - y
            projected = left @ self.s.T
            size = np.linalg.norm(left, axis=1, keepdims=True)
            margin = np.minimum(margin, np.min(np.abs(projected) / size, axis=1))
            size = size.astype(np.float16).astype(np.float64)
            signs = np.where(projected < 0, -1.0, 1.0)
            y = y + math.sqrt(math.pi / 2) / self.d * size * (signs @ self.s)
        out = y @ self.pi * norm.astype(np.float16).astype(np.float64)
        return out.reshape(x.shape), margin


def clear_of_ties(rng, code, shape, scale=1.0):
    """Random rows that no rounding to f32 moves into another cell."""
    rows = []
    while len(rows) < shape[0]:
        x = (rng.standard_normal((shape[0], shape[1])) * scale).astype(np.float32)
        rows += [r for r, m in zip(x, code(x)[1]) if m > 1e-4]
    return np.array(rows[: shape[0]], np.float32)


# --- files --------------------------------------------------------------------------------------


def hard_rows(rng, d):
    """Ordinary, heavy-tailed, flat, sparse, tied, tiny and large rows."""
    x = rng.standard_normal((14, d)).astype(np.float32)
    x[1] = rng.standard_t(2, d)
    x[2] *= 1e-3
    x[3] = np.where(rng.random(d) < 0.9, 0, x[3])
    x[4] = 0
    x[5] = rng.integers(-8, 8, d) / 2
    x[6] = np.sign(x[6]) * 3
    x[7] = x[7] * 1e-7
    x[8] = x[8] * 2000
    x[9] = np.abs(x[9])
    x[10] = np.round(x[10] * 4) / 4
    x[11, 0] = 100
    x[12] = x[12] * 1e-39
    x[13] = torch.from_numpy(x[13]).bfloat16().float().numpy()
    return x


def write_codes(folder):
    rng = np.random.default_rng(20260101)
    tensors, books = {}, []
    for d in (32, 64, 96, 256):
        x = tensors[f"x.{d}"] = hard_rows(rng, d)
        for name in GGML:
            tensors[f"{name}.{d}"] = ggml(x, name)
    for d in (6, 64):
        x = tensors[f"int8.x.{d}"] = hard_rows(rng, d)
        tensors[f"int8.{d}"] = int8(x)
    for d in (64, 256):  # whole numbers, whose transform is exact
        x = rng.integers(-30, 31, (3, d)).astype(np.float32)
        tensors[f"rotate.x.{d}"] = x
        for wide in (False, True):
            n = d if wide else 64
            h = scipy.linalg.hadamard(n) / math.sqrt(n)
            y = (x.reshape(-1, n).astype(np.float64) @ h).astype(np.float32)
            y = ggml(y.reshape(x.shape), "q4_0").reshape(-1, n).astype(np.float64) @ h
            tensors[f"rotate.{'wide' if wide else '64'}.{d}"] = y.reshape(x.shape)
    turbo = (8, 2, 1), (48, 3, 0), (64, 1, 1), (64, 4, 0), (256, 2, 0), (256, 8, 1)
    for d, bits, sketch in turbo:
        code, key = Turbo(d, bits, sketch), f"turbo{bits}{'s' if sketch else ''}.{d}"
        x = clear_of_ties(rng, code, (4, d)) * np.array([[1], [1e-3], [30], [2]], np.float32)
        tensors[key + ".x"], tensors[key] = x, code(x)[0]
    tensors["rotation.8"], tensors["sketch.8"] = rotation(8), sketch_matrix(8)
    for d in (3, 4, 16, 80, 128, 256, 1024):
        for bits in (1, 2, 3, 4, 8) if d in (4, 128) else (1, 2, 4):
            value, distortion = codebook(d, bits)
            tensors[f"book.{d}.{bits}"] = value
            books.append(dict(dim=d, bits=bits, distortion=distortion))
    save(folder / "codecs/kv.safetensors", tensors)
    save_json(
        folder / "codecs/kv.json",
        dict(versions=versions("gguf", "llama-cpp-python", "scipy", "torch"), books=books),
    )


CODES = {
    "none": lambda x: x,
    "f16": lambda x: x.astype(np.float16).astype(np.float32),
    "bf16": lambda x: torch.from_numpy(x).bfloat16().float().numpy(),
    "int8": int8,
    **{name: (lambda x, name=name: ggml(x, name)) for name in GGML},
}
KEEP = {}


def code(x, name, sink):
    """x [sequences, heads, positions, head_dim], binary64."""
    if name.startswith("turbo"):
        key = (x.shape[-1], name)
        if key not in KEEP:
            KEEP[key] = Turbo(x.shape[-1], int(name[5]), name.endswith("s"))
        out = KEEP[key](x.numpy())[0]
    elif name.endswith("r"):  # of the Hadamard transform, 64 values at a time
        h = scipy.linalg.hadamard(64) / 8
        y = ggml((x.numpy().reshape(-1, 64) @ h).astype(np.float32), name[:-1])
        out = (y.astype(np.float64) @ h).reshape(x.shape)
    else:
        out = CODES[name](np.ascontiguousarray(x.numpy().astype(np.float32))).astype(np.float64)
    out = torch.from_numpy(np.ascontiguousarray(out))
    if name != "none":
        out[:, :, :sink] = x[:, :, :sink].half().double()
    return out


NOW = {}


def hook(modeling):
    """Attention of a family reads coded keys and values where NOW names codes."""
    plain = modeling.eager_attention_forward

    def coded(module, query, key, value, *rest, **keys):
        if "k" in NOW:
            key, value = code(key, NOW["k"], NOW["sink"]), code(value, NOW["v"], NOW["sink"])
        return plain(module, query, key, value, *rest, **keys)

    modeling.eager_attention_forward = coded


RUNS = (
    ("none", "none", 0),
    ("q8_0", "q4_0", 0),
    ("q8_0", "q4_0", 4),
    ("q5_1", "none", 0),
    ("none", "iq4_nl", 1),
    ("int8", "int8", 0),
    ("f16", "bf16", 3),
    ("turbo4", "turbo3", 0),
    ("turbo3s", "turbo2", 2),
    ("q4_0r", "q5_0r", 0),
)


def write_model(folder, config, kind):
    torch.manual_seed(7)
    model = kind(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_((torch.randn_like(p) * (0.3 if p.ndim == 1 else 0.35)).bfloat16().float())
    model.tie_weights()
    tensors = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save(folder / "model.safetensors", {k: v.bfloat16() for k, v in tensors.items()})
    text = config.to_dict()
    text["architectures"] = [kind.__name__]
    text = {k: v for k, v in text.items() if v is not None and k != "_name_or_path"}
    save_json(folder / "config.json", text)
    model = model.double()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, config.vocab_size, (2, 24))
    out = {"ids": ids.int()}
    for k, v, sink in RUNS[: None if config.head_dim % 64 == 0 else -1]:
        NOW.clear()
        NOW.update(k=k, v=v, sink=sink)
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits
        out[f"{k},{v},{sink}"] = logits.float()
    save(folder / "kv.safetensors", out)


def main():
    root = output_folder("")
    write_codes(root)
    hook(modeling_llama)
    hook(modeling_gemma3)
    common = dict(vocab_size=40, num_hidden_layers=2, tie_word_embeddings=True, hidden_size=32)
    write_model(
        root / "models/kv_llama",
        LlamaConfig(
            **common, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2,
            head_dim=32, max_position_embeddings=64,
        ),
        LlamaForCausalLM,
    )
    write_model(
        root / "models/kv_gemma",
        Gemma3TextConfig(
            **common, intermediate_size=40, num_attention_heads=2, num_key_value_heads=1,
            head_dim=64, query_pre_attn_scalar=64, sliding_window=8, max_position_embeddings=64,
            layer_types=["sliding_attention", "full_attention"],
        ),
        Gemma3ForCausalLM,
    )


if __name__ == "__main__":
    main()
