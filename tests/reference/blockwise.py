# SPDX-License-Identifier: BSD-2-Clause
"""NumPy model of the 4-bit and int8 weight formats of bitsandbytes.

Every arithmetic step is one IEEE binary32 operation unless the comment says otherwise. The rules
named `cuda` are those of the GPU kernels with correctly rounded reciprocals, `torch` those of the
CPU build.
"""

import numpy as np

from common import round_f16

f32 = np.float32

NF4 = np.array(
    "BF800000 BF3239B1 BF066B30 BECA32A0 BE91A24D BE3D353F BDBA7871 00000000 "
    "3DA2FAFF 3E24CAE3 3E7C04DD 3EAD033A 3EE1A4B8 3F1007AB 3F3913B3 3F800000".split()
)
NF4 = np.array([int(v, 16) for v in NF4], np.uint32).view(f32)
_FP4 = "00000000 3BAAAAAB 3F2AAAAB 3F800000 3EAAAAAB 3F000000 3E2AAAAB 3E800000".split()
_FP4 = np.array([int(v, 16) for v in _FP4], np.uint32).view(f32)
FP4 = np.concatenate([_FP4, -_FP4]).astype(f32)  # code 8 is -0.0, as the GPU has it
FP4_STORED = FP4 + f32(0)  # code 8 is +0.0, as files have it

NF4_THRESHOLDS = ((NF4[:-1] + NF4[1:]) / f32(2)).astype(f32)
# Typed with few digits in the kernel, hence not the midpoints.
FP4_THRESHOLDS = np.array(
    [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333], f32
)
FP4_MAGNITUDES = np.array([0, 1, 6, 7, 4, 5, 2, 3], np.uint8)
FP4_ORDER = np.array([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3], np.uint8)
TABLES = {"nf4": NF4, "fp4": FP4}


def fma(a, b, c):
    """a*b+c with one rounding.

    The product of two binary32 numbers is exact in binary64. The sum is rounded there to odd, which
    keeps the following rounding to binary32 from being a double rounding.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.broadcast_to(np.asarray(c, np.float64), product.shape)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    raw = np.ascontiguousarray(total).view(np.int64)
    inexact = (error != 0) & np.isfinite(total) & ((raw & 1) == 0)
    # An even last bit moves one step towards the discarded part.
    away = (error > 0) == (total > 0)
    raw = np.where(inexact, np.where(away, raw + 1, raw - 1), raw)
    return raw.view(np.float64).astype(f32)


def dynamic_map():
    values = []
    low = f32(0.1)
    for e in range(7):
        steps = 2**e
        step = f32((f32(1) - low) / f32(steps))
        edges = []
        for i in range(steps + 1):
            if i < (steps + 1) // 2:
                edges.append(fma(step, f32(i), low).reshape(()))
            else:
                edges.append(fma(-step, f32(steps - i), f32(1)).reshape(()))
        edges = np.array(edges, f32)
        means = ((edges[:-1] + edges[1:]).astype(f32) / f32(2)).astype(f32)
        scale = f32(10.0 ** (e - 6))
        values += list((scale * means).astype(f32)) + list((-scale * means).astype(f32))
    values += [f32(0), f32(1)]
    return np.sort(np.array(values, f32))


MAP = dynamic_map()
MIDPOINTS = ((MAP[:-1] + MAP[1:]).astype(f32) * f32(0.5)).astype(f32)


def absmax_cuda(x, block):
    """One fp32 maximum per block of the flat array; NaN elements are ignored."""
    out = []
    for begin in range(0, x.size, block):
        part = np.abs(x[begin : begin + block])
        part = part[~np.isnan(part)]
        out.append(part.max() if part.size else -np.finfo(f32).max)
    return np.array(out, f32)


def scaled_cuda(x, absmax, block):
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = (f32(1) / absmax).astype(f32)
        return (x * np.repeat(inverse, block)[: x.size]).astype(f32)


def absmax_torch(x, block):
    """The stored maxima of the CPU build: only a partial last block is clamped."""
    full = x.size // block * block
    out = np.abs(x[:full]).reshape(-1, block).max(axis=1) if full else np.zeros(0, f32)
    if full < x.size:
        last = np.abs(x[full:]).max()
        out = np.append(out, last if np.isnan(last) else np.maximum(last, f32(1e-38)))
    return out.astype(f32)


def scaled_torch(x, absmax, block):
    full = x.size // block * block
    with np.errstate(invalid="ignore"):
        inverse = (f32(1) / np.where(absmax < f32(1e-38), f32(1e-38), absmax)).astype(f32)
        u = (x[:full] * np.repeat(inverse, block)[:full]).astype(f32)
        if full < x.size:
            u = np.concatenate([u, (x[full:] / absmax[-1]).astype(f32)])
        return np.where(np.isnan(u), u, np.clip(u, f32(-1), f32(1))).astype(f32)


def count_below(u, thresholds):
    """Number of thresholds strictly below u."""
    return np.searchsorted(thresholds, u, side="left").astype(np.uint8)


def codes_4bit(u, kind, rules):
    nan = np.isnan(u)
    v = np.where(nan, f32(0), u)
    if kind == "nf4":
        code = count_below(v, NF4_THRESHOLDS)
        special = 0 if rules == "cuda" else 15
    elif rules == "cuda":
        code = FP4_MAGNITUDES[count_below(np.abs(v), FP4_THRESHOLDS)] + np.where(v < 0, 8, 0)
        special = 0
    else:
        ordered = FP4_STORED[FP4_ORDER]
        bounds = ((ordered[:-1] + ordered[1:]) / f32(2)).astype(f32)
        code = FP4_ORDER[count_below(v, bounds)]
        special = 3
    return np.where(nan, special, code).astype(np.uint8)


def quantize_4bit(x, kind, block, rules):
    """Flat fp32 input to (packed codes, fp32 absmax)."""
    x = np.ascontiguousarray(x, f32).reshape(-1)
    absmax = (absmax_cuda if rules == "cuda" else absmax_torch)(x, block)
    u = (scaled_cuda if rules == "cuda" else scaled_torch)(x, absmax, block)
    if x.size % 2:
        # The spare nibble holds the code of a zero in the last block.
        spare = f32(np.nan) if rules == "cuda" and absmax[-1] == 0 else f32(0)
        u = np.append(u, spare)
    code = codes_4bit(u, kind, rules)
    return (code[0::2] << 4 | code[1::2]).astype(np.uint8), absmax


def unpack(packed, n):
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:n]


def dequantize_4bit(packed, absmax, kind, block, n):
    code = TABLES[kind][unpack(packed, n)]
    with np.errstate(invalid="ignore", over="ignore"):
        return (code * np.repeat(absmax, block)[:n]).astype(f32)


def quantize_8bit(x, rules, block=256):
    """Blockwise 8-bit with the dynamic map.

    rules: cuda, fallback (tensor code) or native (CPU library).
    """
    x = np.ascontiguousarray(x, f32).reshape(-1)
    absmax = absmax_cuda(x, block)
    u = scaled_cuda(x, absmax, block)
    zero = np.repeat(absmax == 0, block)[: x.size]
    return search_8bit(u, rules, zero), absmax


def search_8bit(u, rules, zero=None):
    u = np.atleast_1d(np.asarray(u, f32))
    nan = np.isnan(u)
    v = np.where(nan, f32(0), u)
    below = np.searchsorted(MIDPOINTS, v, side="left")
    if rules == "cuda":
        tie = (below < 255) & (MIDPOINTS[np.minimum(below, 254)] == v)
        code = np.where(tie & (below % 2 == 1), below + 1, below)
        code = np.where(nan, 0, code)
    elif rules == "fallback":
        code = np.where(nan, 255, below)
    else:
        half = ((v + f32(1)).astype(f32) * f32(0.5)).astype(f32)
        k = np.trunc(fma(half, f32(65535), f32(0.5))).astype(f32)
        grid = (f32(-1) + (f32(2) * k / f32(65535)).astype(f32)).astype(f32)
        code = np.searchsorted(MIDPOINTS, grid, side="left")
    if zero is not None:
        code = np.where(zero, 127 if rules == "fallback" else 0, code)
    return code.astype(np.uint8)


def nested_quantize(absmax, rules, offset=None):
    """(codes, nested absmax, offset) of the block maxima; the mean is taken in binary64."""
    if offset is None:
        offset = f32(np.sum(absmax.astype(np.float64)) / absmax.size)
    code, inner = quantize_8bit((absmax - offset).astype(f32), rules)
    return code, inner, f32(offset)


def nested_dequantize(code, inner, offset, table=MAP):
    scaled = (table[code] * np.repeat(inner, 256)[: code.size]).astype(f32)
    return (scaled + f32(offset)).astype(f32)


def int8_rows(a, threshold, rules="cuda"):
    """LLM.int8 row quantiser: (codes, row maxima, outlier columns) of values cast to fp16."""
    a = round_f16(a)
    outlier = np.abs(a) >= round_f16(threshold) if threshold > 0 else np.zeros(a.shape, bool)
    columns = np.flatnonzero(outlier.any(axis=0)).astype(np.int32)
    kept = np.where(outlier, f32(0), a)
    magnitude = np.where(np.isnan(kept), f32(0), np.abs(kept))
    row_max = magnitude.max(axis=1).astype(f32)
    if rules == "torch":
        row_max[np.isnan(kept).any(axis=1)] = np.nan
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = (f32(127) * (f32(1) / row_max).astype(f32)).astype(f32)
        product = (kept * scale[:, None]).astype(f32)
    code = np.where(np.isnan(product), 0, np.rint(product)).astype(np.int8)
    code[:, columns] = 0
    return code, row_max, columns


def int8_linear(x, dtype, weight_codes, weight_max, bias, threshold, rules):
    """LLM.int8 forward: x and bias hold numbers of `dtype`. Returns a dict of all steps.

    The outlier product is summed in binary64 and rounded once, because its order is unspecified.
    """
    from common import round_to

    with np.errstate(over="ignore", invalid="ignore"):
        code, row_max, columns = int8_rows(x, threshold)
        acc = code.astype(np.int64) @ weight_codes.astype(np.int64).T
        assert np.abs(acc).max(initial=0) < 2**31
        value = acc.astype(f32)
        if rules == "cuda":
            scaled = ((value * row_max[:, None]).astype(f32) * weight_max[None, :]).astype(f32)
            inside = bias if bias is not None and dtype == "f16" else np.zeros(len(weight_max), f32)
            y = round_f16(fma(scaled, f32(6.200012e-05), inside[None, :]))
            if bias is not None and dtype != "f16":
                y = round_f16((y + bias[None, :]).astype(f32))
        else:
            both = (row_max[:, None] * weight_max[None, :]).astype(f32)
            y = ((value * both).astype(f32) * f32(6.200124e-05)).astype(f32)
            if bias is not None:
                y = (y + bias[None, :]).astype(f32)
        y = round_to(y, dtype)
        result = {
            "ca": code,
            "sca": row_max,
            "columns": columns,
            "acc": acc.astype(np.int32),
            "y": y,
            "out": y,
        }
        if columns.size:
            w = (weight_codes[:, columns].astype(f32) * weight_max[:, None]).astype(f32)
            w = round_to((w * f32(0.007874015718698502)).astype(f32), dtype)
            exact = y.astype(np.float64) + x[:, columns].astype(np.float64) @ w.astype(np.float64).T
            result["w_outlier"] = w
            result["out"] = round_to(exact.astype(f32), dtype)
    return result
