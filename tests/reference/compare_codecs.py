# SPDX-License-Identifier: BSD-2-Clause
"""Random matrices through libqsae and through the packages that define its codecs.

    QSAE_LIBRARY=.../libqsae.so PYTHONPATH=libqsae/python python3 tests/reference/compare_codecs.py
        [--matrices 200] [--seed 1] [nf4] [int8] [rtn] [ggml]

nf4   NF4 and FP4, every block size, nested or not: codes, scales, metadata and decoded values;
      rules=torch against bitsandbytes, rules=cuda against blockwise.py
int8  LLM.int8: codes and row maxima of weights and activations, outlier columns, the layer
rtn   round to nearest against its definition in NumPy
ggml  decoding and, where the package has it, encoding against the gguf package

Prints how many matrices were compared and ends with status 1 at the first difference.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

import blockwise
import qsae
from common import round_to

f32 = np.float32
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = ("f32", "bf16", "f16")


def random_matrix(rng, rows, cols):
    """Normal, heavy-tailed, sparse, tiny, huge, or with whole rows and runs of zero."""
    kind = rng.integers(8)
    x = rng.standard_normal((rows, cols))
    if kind == 1:
        x = rng.standard_t(1.5, (rows, cols))
    elif kind == 2:
        x *= 1e-38
    elif kind == 3:
        x *= 10.0 ** rng.uniform(-6, 4, (rows, 1))
    elif kind == 4:
        x[rng.random(rows) < 0.4] = 0
    elif kind == 5:
        flat = x.reshape(-1)
        start = rng.integers(flat.size)
        flat[start:start + 700] = 0
    elif kind == 6:
        x = np.round(x * 4) / 4  # ties
    elif kind == 7:
        x = np.where(rng.random(x.shape) < 0.01, x * 50, x * 0.02)
    return x.astype(f32)


def same(what, a, b):
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "f":
        bits = np.uint32 if a.dtype == f32 else np.uint16
        nan = np.isnan(a) & np.isnan(b)
        ok = nan | (a.view(bits) == b.view(bits)) | ((a == 0) & (b == 0))
    else:
        ok = a == b
    if a.shape != b.shape or not np.all(ok):
        where = np.argwhere(~np.asarray(ok))[:3] if a.shape == b.shape else (a.shape, b.shape)
        sys.exit(f"{what}: differs at {where.tolist() if hasattr(where, 'tolist') else where}")


def typed(x, dtype):
    """x rounded to dtype, and as the array libqsae takes."""
    x = round_to(x, dtype)
    if dtype == "f16":
        return x, x.astype(np.float16)
    if dtype == "bf16":
        return x, (x.view(np.uint32) >> 16).astype(np.uint16)
    return x, x


def widened(array, dtype):
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(f32)
    return array.astype(f32)


def reference_codecs():
    """codecs.py beside this file; Python has a module of that name, too."""
    path = Path(__file__).with_name("codecs.py")
    spec = importlib.util.spec_from_file_location("reference_codecs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare_nf4(ctx, rng, n):
    reference = reference_codecs()
    for i in range(n):
        rows, cols = rng.integers(1, 80), rng.integers(1, 300)
        block, double = int(rng.choice(BLOCKS)), int(rng.integers(2))
        kind, dtype = ("nf4", "fp4")[rng.integers(2)], DTYPES[rng.integers(3)]
        x, array = typed(random_matrix(rng, rows, cols), dtype)
        what = f"matrix {i}: {kind} {dtype} [{rows}, {cols}] block {block} double {double}"
        for rules in ("torch", "cuda"):
            spec = f"{kind}:block={block},double={double},rules={rules}"
            q = qsae.Quantizer(ctx, spec).encode(array)
            f = q.fields()
            if rules == "torch":
                packed, state = reference.package_4bit(x, dtype, kind, block,
                                                       bool(double))
                absmax = state.absmax.numpy()
                if double:
                    same(what + " nested", f["nested_absmax"], state.state2.absmax.numpy())
                    same(what + " offset", f["nested_offset"], [state.offset.numpy()])
            else:
                packed, absmax = blockwise.quantize_4bit(x, kind, block, "cuda")
                if double:
                    absmax, inner, offset = blockwise.nested_quantize(absmax, "cuda")
                    same(what + " nested", f["nested_absmax"], inner)
                    same(what + " offset", f["nested_offset"], [offset])
            same(what + f" {rules} codes", f["weight"].reshape(-1), packed)
            same(what + f" {rules} scales", f["absmax"], absmax)
            scales = absmax
            if double:
                scales = blockwise.nested_dequantize(absmax, f["nested_absmax"],
                                                     f["nested_offset"][0])
            want = reference.package_decode(packed, scales, kind, block, rows * cols, dtype)
            got = widened(q.decode(dtype), dtype).reshape(-1)
            if dtype == "bf16":  # the package's conversion flushes f32 subnormals
                got = np.where((want == 0) & (np.abs(got) <= 2.0**-126), want, got)
            same(what + f" {rules} decoded", got, want)


def compare_int8(ctx, rng, n):
    import torch
    from bitsandbytes import functional

    for i in range(n):
        rows, cols, out = rng.integers(1, 40), rng.integers(1, 400), rng.integers(1, 60)
        threshold = float(rng.choice((0.0, 6.0, 2.5)))
        x, _ = typed(random_matrix(rng, rows, cols), "f16")
        w, _ = typed(random_matrix(rng, out, cols), "f16")
        what = f"matrix {i}: int8 [{rows}, {cols}] threshold {threshold}"
        code, scale, columns = functional.int8_vectorwise_quant(
            torch.from_numpy(x).half(), threshold=threshold)
        columns = [] if columns is None else columns.numpy()
        got, maxima, outlier = qsae.int8_quantize(ctx, x, threshold)
        same(what + " codes", got, code.numpy())
        same(what + " maxima", maxima, scale.numpy())
        same(what + " columns", np.flatnonzero(outlier), columns)
        q = qsae.Quantizer(ctx, f"llm.int8:threshold={threshold}").encode(w)
        code, scale, _ = functional.int8_vectorwise_quant(torch.from_numpy(w).half())
        same(what + " weight", q.fields()["weight"], code.numpy())
        same(what + " SCB", q.fields()["SCB"], scale.numpy())
        for rules in ("cuda", "torch"):
            q = qsae.Quantizer(ctx, f"llm.int8:threshold={threshold},rules={rules}").encode(w)
            y = q.linear(x, dtype="f16")
            want = blockwise.int8_linear(x, "f16", code.numpy(), scale.numpy(), None, threshold,
                                         rules)["out"]
            # Sums over outlier columns have no stated order: two roundings of f16 may differ, and
            # what cancels in them.
            size = np.nan_to_num(np.abs(x)) @ np.nan_to_num(np.abs(w)).T
            close = np.isclose(y, want, rtol=2**-9, atol=1e-6 * (1 + size), equal_nan=True)
            if not close.all():
                sys.exit(f"{what} {rules}: layer differs at {np.argwhere(~close)[:3].tolist()}")


def rtn_numpy(w, bits, axis, group, sym):
    """Round to nearest, half to even, in ten lines: (codes, decoded)."""
    step = group or w.shape[1]
    parts = [w] if axis != "row" else [w[:, j:j + step] for j in range(0, w.shape[1], step)]
    over = {"row": 1, "column": 0, "tensor": None}[axis]
    low, high = (-2**(bits - 1), 2**(bits - 1) - 1) if sym else (0, 2**bits - 1)
    codes, values = [], []
    for p in parts:
        top, bottom = np.maximum(p, 0).max(over, keepdims=True), np.minimum(p, 0).min(
            over, keepdims=True)
        scale = (np.maximum(top, -bottom) / f32(high) if sym else (top - bottom) / f32(high - low))
        scale = np.where(scale == 0, f32(1), scale).astype(f32)
        zero = f32(0) if sym else np.clip(np.rint(-bottom / scale), low, high).astype(f32)
        codes.append(np.clip(np.rint(p / scale) + zero, low, high))
        values.append(((codes[-1] - zero) * scale).astype(f32))
    return np.concatenate(codes, 1), np.concatenate(values, 1)


def compare_rtn(ctx, rng, n):
    for i in range(n):
        rows, cols = rng.integers(1, 60), rng.integers(1, 200)
        bits, sym = int(rng.integers(2, 9)), int(rng.integers(2))
        axis = ("row", "column", "tensor")[rng.integers(3)]
        group = int(rng.integers(1, 70)) if axis == "row" and rng.integers(2) else 0
        w, array = typed(random_matrix(rng, rows, cols), DTYPES[rng.integers(3)])
        spec = f"rtn:bits={bits},axis={axis},group={group},sym={sym}"
        q = qsae.Quantizer(ctx, spec).encode(array)
        with np.errstate(over="ignore", under="ignore"):
            codes, values = rtn_numpy(w, bits, axis, group, sym)
        same(f"matrix {i}: {spec} [{rows}, {cols}] codes", q.fields()["codes"].astype(f32),
             codes.astype(f32))
        same(f"matrix {i}: {spec} [{rows}, {cols}] decoded", q.decode(), values)


def compare_ggml(ctx, rng, n):
    import tempfile

    import gguf
    from gguf import quants

    types = sorted(quants._type_traits, key=int)
    for i in range(n):
        kind = types[i % len(types)]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, cols = int(rng.integers(1, 12)), block * int(rng.integers(1, 9))
        data = rng.integers(0, 256, (rows, cols // block * size), dtype=np.uint8)
        if i % 2 == 0 or kind.name.startswith("IQ"):
            x = random_matrix(rng, rows, cols)
            with np.errstate(all="ignore"):
                try:
                    data = quants.quantize(x, kind)
                except NotImplementedError:
                    x = None
            if x is not None and kind.name not in ("BF16", "NVFP4"):
                got = qsae.Quantizer(ctx, f"ggml:{kind.name.lower()}").encode(x)
                same(f"matrix {i}: {kind.name} encoded", got.fields()["weight"], data)
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            writer = gguf.GGUFWriter(file.name, "llama")
            writer.add_tensor("w", data, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            with np.errstate(all="ignore"):
                want = quants.dequantize(data, kind).astype(f32)
            got = qsae.Tensors(ctx, file.name).matrix("w").decode()
            same(f"matrix {i}: {kind.name} decoded", got, want)


def main():
    parts = {"nf4": compare_nf4, "int8": compare_int8, "rtn": compare_rtn, "ggml": compare_ggml}
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("part", nargs="*", help="all of them if none is given")
    args = parser.parse_args()
    unknown = set(args.part) - set(parts)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    ctx = qsae.Context()
    for name in args.part or parts:
        parts[name](ctx, np.random.default_rng(args.seed), args.matrices)
        print(f"{name}: {args.matrices} matrices equal")


if __name__ == "__main__":
    main()
