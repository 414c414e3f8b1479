# SPDX-License-Identifier: BSD-2-Clause
"""Reference data of the weight codecs: NF4 and FP4, LLM.int8 and round to nearest.

rules=torch comes from the bitsandbytes package on a CPU, rules=cuda from blockwise.py, which is
first checked against hand-derived examples and, in its torch mode, against the package.
"""

from common import (
    BF16,
    bits,
    crc32,
    crc32_as,
    folder_size,
    one_thread,
    output_folder,
    round_bf16,
    round_f16,
    round_to,
    same_bits,
    save,
    save_json,
    versions,
)

torch = one_thread()

import logging
import warnings

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

import bitsandbytes as bnb
import numpy as np

import blockwise as bw

f32 = np.float32
TORCH = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def hexa(data):
    return " ".join("%02X" % b for b in np.asarray(data, np.uint8).reshape(-1))


def from_bits(text):
    return np.array([int(v, 16) for v in text.split()], np.uint32).view(f32)


def half_bits(x):
    return [
        "%04X" % v for v in np.asarray(x, np.float32).astype(np.float16).view(np.uint16).reshape(-1)
    ]


def from_half(text):
    raw = np.array([int(v, 16) for v in text.split()], np.uint16)
    return raw.view(np.float16).astype(f32)


def check_examples():
    """Worked examples with known results, so that a slip in the model cannot hide."""
    assert "%08X" % crc32(bw.NF4.tobytes()) == "C471F81A"
    assert "%08X" % crc32(bw.FP4_STORED.tobytes()) == "0967DBC3"
    assert "%08X" % crc32(bw.MAP.tobytes()) == "1B137AEB"
    assert bw.MAP[127] == 0 and bw.MAP[255] == 1 and not (bw.MAP == -1).any()
    assert (bw.MAP[:127] == -bw.MAP[254:127:-1]).all()
    assert (
        bits(bw.NF4_THRESHOLDS)
        == (
            "BF591CD8 BF1C5270 BEEB8480 BEADEA76 BE703CEC BE0D38BC BD3A7871 3D22FAFF 3DF64862 "
            "3E5067E0 "
            "3E9582D4 3EC753F9 3F006D04 3F248DAF 3F5C89DA"
        ).split()
    )
    assert (
        bits(bw.FP4_THRESHOLDS)
        == ("3B2AAAB9 3DB00000 3E555555 3E955555 3ED55556 3F155550 3F555555").split()
    )

    def both(x, kind, block=64):
        x = np.array(x, f32)
        return {r: bw.quantize_4bit(x, kind, block, r) for r in ("cuda", "torch")}

    x = [0, 0.5, -0.5, 1, -2, 0.04, 1.72, -0.21]
    for kind, want in (("nf4", "7A 4C 07 E6"), ("fp4", "07 F5 B1 3E")):
        for rules, (packed, absmax) in both(x, kind).items():
            assert hexa(packed) == want and absmax.tolist() == [2.0], (kind, rules)
    packed, absmax = both(x, "nf4")["cuda"]
    assert bw.dequantize_4bit(packed, absmax, "nf4", 64, 8).tolist() == [
        0,
        0.4922246038913727,
        -0.5688827633857727,
        0.8814196586608887,
        -2,
        0,
        1.4459136724472046,
        -0.1821000725030899,
    ]
    packed, absmax = both(x, "fp4")["cuda"]
    assert bw.dequantize_4bit(packed, absmax, "fp4", 64, 8).tolist() == [
        0,
        0.5,
        -0.5,
        1,
        -2,
        0.010416666977107525,
        2,
        -0.3333333432674408,
    ]

    x = [((7 * i) % 33 - 16) / 16 for i in range(34)]
    for kind, want in (
        ("nf4", "02 6B E0 37 CF 14 9D F1 5A E0 26 BE 13 8C F1 49 D0"),
        ("fp4", "BD E4 2B D0 53 AC 65 3A E7 2B D9 42 AC 15 3A F6 2B"),
    ):
        for rules, (packed, absmax) in both(x, kind, 32).items():
            assert hexa(packed) == want and absmax.tolist() == [1, 1], (kind, rules)

    ties = np.concatenate([[f32(1)], bw.NF4_THRESHOLDS])
    above = np.concatenate([[f32(1)], np.nextafter(bw.NF4_THRESHOLDS, f32(2))])
    for rules in ("cuda", "torch"):
        assert hexa(both(ties, "nf4")[rules][0]) == "F0 12 34 56 78 9A BC DE"
        assert hexa(both(above, "nf4")[rules][0]) == "F1 23 45 67 89 AB CD EF"
    ties = np.concatenate([[f32(1)], bw.FP4_THRESHOLDS])
    got = both(ties, "fp4")
    assert hexa(got["cuda"][0]) == "30 16 74 52" and hexa(got["torch"][0]) == "31 16 74 52"
    ties[1:] *= -1
    got = both(ties, "fp4")
    assert hexa(got["cuda"][0]) == "38 9E FC DA" and hexa(got["torch"][0]) == "39 EE FD DA"

    x = [1.5]
    for v in (0.625, 0.3125, 0.4375, 0.875, 1.25, 0.12890625):
        x += [v, -v]
    x = round_bf16(np.array(x + [0.001, -0.001, 0], f32))
    got = both(x, "fp4")
    assert hexa(got["cuda"][0]) == "34 C7 F4 C2 A3 B1 90 80", hexa(got["cuda"][0])
    assert hexa(got["torch"][0]) == "34 C6 E7 F5 D2 A1 E8 00", hexa(got["torch"][0])

    for x, cuda, fallback in (
        ([0, 0, 0, 0], ("00 00", "00 00", "00000000"), ("77 77", "00 00", "006CE3EE")),
        ([np.nan, 1, -0.5], ("0F 27", "03 D0", "3F800000"), ("FF F7", "33 30", None)),
        ([np.inf, 1, -1, -np.inf], ("07 70", "00 00", "7F800000"), ("F7 7F", "30 03", "7F800000")),
        ([0.25, -1, 0.75], ("A0 E7", "7B 20", "3F800000"), ("A0 E7", "7B 20", "3F800000")),
    ):
        for rules, want in (("cuda", cuda), ("torch", fallback)):
            for kind, codes in zip(("nf4", "fp4"), want):
                packed, absmax = both(x, kind)[rules]
                assert hexa(packed) == codes, (x, rules, kind, hexa(packed))
                assert want[2] is None and np.isnan(absmax[0]) or bits(absmax)[0] == want[2]

    v = bw.NF4[5] * f32(0.1234)
    assert bits(v) == ["BCBAC940"] and half_bits(v) == ["A5D6"]
    assert bits(round_bf16(v)) == ["BCBB0000"]
    v = bw.NF4[3] * f32(0.0416107177734375)
    assert bits(v) == ["BC869E14"] and bits(round_bf16(v)) == ["BC870000"]
    assert bits(round_bf16(f32([1.00390625, 1.01171875]))) == ["3F800000", "3F820000"]
    assert half_bits(f32([1 + 2**-11, 1 + 3 * 2**-11])) == ["3C00", "3C02"]

    for u, cuda, fallback in (
        (-2.7500001920088835e-07, 126, 126),
        (2.7500001920088835e-07, 128, 127),
        (0.25468748807907104, 202, 201),
        (0, 127, 127),
    ):
        assert bw.search_8bit(u, "cuda")[0] == cuda and bw.search_8bit(u, "fallback")[0] == fallback
    assert bw.search_8bit(np.nan, "cuda")[0] == 0 and bw.search_8bit(np.nan, "fallback")[0] == 255
    assert bw.search_8bit([0, 1e-6, -1e-6, 0.5, 1, -1], "native").tolist() == [
        131,
        131,
        123,
        219,
        255,
        0,
    ]

    code, inner, offset = bw.nested_quantize(f32([1, 2, 3, 4, 10]), "cuda")
    assert code.tolist() == [35, 47, 59, 127, 255] and inner.tolist() == [6] and offset == 4
    assert bw.nested_dequantize(code, inner, offset).tolist() == [
        0.9953126907348633,
        2.0078125,
        3.020312547683716,
        4,
        10,
    ]
    assert bw.nested_quantize(f32([1, 2, 3, 4, 10]), "native")[0].tolist() == [35, 47, 59, 131, 255]
    code, inner, offset = bw.nested_quantize(f32([0.0312, 0.0275, 0.0298, 0.0331]), "cuda")
    assert code.tolist() == [203, 0, 56, 250]
    assert bits(inner) == ["3B3E0DF0"] and bits(offset) == ["3CF9096C"]
    assert (
        bits(bw.nested_dequantize(code, inner, offset))
        == ("3CFF96A7 3CE17271 3CF427D0 3D07A527").split()
    )
    assert bits(
        bw.nested_dequantize(np.array([33]), f32([0.0121612548828125]), f32(0.033538818359375))
    ) == ["3CDE0EC6"]
    assert bits(bw.fma(bw.MAP[33], f32(0.0121612548828125), f32(0.033538818359375))) == ["3CDE0EC7"]

    code, row_max, _ = bw.int8_rows(f32([[1.01171875, 0.505859375], [1, 0.5]]), 0)
    assert code.tolist() == [[127, 63], [127, 64]]
    assert bits((f32(127) * (f32(1) / row_max[0])).astype(f32)) == ["42FB0ED3"]

    w = f32([[0.5, -1, 0.25, 0.125], [2, 0.75, -0.3, -1.5], [0.1, 0.2, -0.05, 0]])
    cb, scb, _ = bw.int8_rows(w, 0)
    assert cb.tolist() == [[64, -127, 32, 16], [127, 48, -19, -95], [64, 127, -32, 0]]
    assert scb.tolist() == [1, 2, 0.199951171875]
    x = round_f16(f32([[1, -2, 8, 0.5], [0.3, 3, -1, 6], [-0.25, 0.5, 5.5, 2]]))
    bias = round_f16(f32([0.1, -0.2, 0.3]))
    for rules, corner in (("cuda", "16F9"), ("torch", "16F4")):
        got = bw.int8_linear(x, "f16", cb, scb, bias, 6.0, rules)
        assert got["columns"].tolist() == [2, 3] and got["sca"].tolist() == [2, 3, 5.5]
        assert got["ca"].tolist() == [[64, -127, 0, 0], [13, 127, 0, 0], [-6, 12, 0, 0]]
        assert got["acc"].tolist() == [
            [20225, 2032, -12033],
            [-15297, 7747, 16961],
            [-1908, -186, 1140],
        ]
        assert half_bits(got["y"]) == [
            "4137",
            "34DD",
            corner,
            "C17E",
            "415D",
            "3B72",
            "B868",
            "B53B",
            "360B",
        ]
        assert half_bits(got["w_outlier"]) == ["3408", "3008", "B4CA", "BDFC", "AA73", "0000"]
        assert half_bits(got["out"]) == "44B0 C1AD B66C C07C C5FF 3BD9 3C59 C4F7 2E70".split()
    got = bw.int8_linear(x[2:], "f16", cb, scb, bias, 6.0, "cuda")
    assert got["columns"].size == 0 and got["ca"].tolist() == [[-6, 12, 127, 46]]
    got = bw.int8_linear(x, "f16", cb, scb, None, 0.0, "cuda")
    assert got["ca"].tolist() == [[16, -32, 127, 8], [6, 64, -21, 127], [-6, 12, 127, 46]]
    assert half_bits(got["out"]) == "449A C150 B9A3 C0C0 C5D4 3977 3BE4 C4C1 B261".split()

    # Mean error on normal data against published figures for both formats.
    x = np.random.default_rng(0).standard_normal(1 << 20).astype(f32)
    for kind, table in (
        (
            "nf4",
            {
                32: (0.0677, 0.1897),
                64: (0.0728, 0.2033),
                128: (0.0768, 0.2152),
                4096: (0.0925, 0.2625),
            },
        ),
        (
            "fp4",
            {
                32: (0.0889, 0.2424),
                64: (0.0965, 0.2601),
                128: (0.1030, 0.2758),
                4096: (0.1295, 0.3372),
            },
        ),
    ):
        for block, (mean, relative) in table.items():
            packed, absmax = bw.quantize_4bit(x, kind, block, "cuda")
            error = np.abs(bw.dequantize_4bit(packed, absmax, kind, block, x.size) - x)
            assert abs(error.mean() - mean) < 5e-4, (kind, block, error.mean())
            assert abs((error / (np.abs(x) + 1e-8)).mean() - relative) < 1e-3, (kind, block)


# --- NF4 and FP4 --------------------------------------------------------------------------------


def matrices():
    """(name, fp32 matrix, dtype, block, note). Magnitudes keep reciprocals and products normal."""
    rng = np.random.default_rng(20240611)
    out = []

    def add(x, dtype, block, note):
        x = round_to(np.atleast_2d(np.asarray(x, f32)), dtype)
        out.append((f"m{len(out):02d}", x, dtype, block, note))

    def normal(rows, cols, std=0.02):
        return rng.standard_normal((rows, cols)) * std

    shapes = [
        (1, 1),
        (1, 2),
        (1, 31),
        (3, 7),
        (5, 13),
        (2, 64),
        (8, 96),
        (33, 33),
        (17, 50),
        (64, 64),
        (7, 172),
        (12, 128),
        (1, 257),
        (40, 65),
        (3, 300),
        (300, 3),
        (24, 112),
        (11, 48),
    ]
    blocks = [32, 64, 128, 256, 512, 1024, 2048, 4096]
    for i, (rows, cols) in enumerate(shapes):
        add(normal(rows, cols), ("f32", "bf16", "f16")[i % 3], blocks[i % 4], "normal")
    for i, block in enumerate(blocks):
        rows, cols = ((9, 80), (37, 59), (48, 48), (50, 82))[i % 4] if block < 2048 else (67, 66)
        add(normal(rows, cols), ("bf16", "f32", "f16")[i % 3], block, "normal, every block size")
    # More than one and more than two groups of 256 block scales.
    add(normal(96, 128) * rng.uniform(0.5, 2, (96, 1)), "bf16", 32, "384 blocks: two scale groups")
    add(
        normal(129, 65) * np.exp(rng.standard_normal((129, 1))),
        "f32",
        32,
        "263 blocks, partial last",
    )
    add(rng.standard_t(3, (160, 112)) * 0.01, "bf16", 32, "560 blocks: three scale groups")
    add(normal(130, 127), "f16", 64, "258 blocks, partial last")

    # Exact ties: block maxima that are powers of two make x/m land on a threshold.
    ties = np.concatenate(
        [
            [1],
            bw.NF4_THRESHOLDS,
            np.nextafter(bw.NF4_THRESHOLDS, f32(2)),
            np.nextafter(bw.NF4_THRESHOLDS, f32(-2)),
        ]
    )
    ties = np.pad(ties, (0, 64 - ties.size))
    add(np.stack([ties, ties * 4, -ties * 0.125]), "f32", 64, "NF4 ties and neighbours")
    midpoints = from_bits("3B2AAAAB 3DB00000 3E555556 3E955556 3ED55556 3F155556 3F555556")
    t = np.concatenate([bw.FP4_THRESHOLDS, midpoints])
    t = np.concatenate([[1], t, np.nextafter(t, f32(2)), np.nextafter(t, f32(0))])
    t = np.pad(t, (0, 64 - t.size))
    add(np.stack([t, -t, t * 2, -t * 0.5]), "f32", 64, "FP4 ties and neighbours")
    grid = np.arange(-256, 257) / 256
    add(np.stack([grid * s for s in (1, 3, 0.7)]), "f32", 512, "uniform grid")
    add((np.arange(-128, 129) / 128 * 1.5)[None, :], "bf16", 64, "bf16 grid, maximum 1.5")
    # Every bf16 mantissa of x against several mantissas of m: all near ties of the bf16 formats.
    mantissas = (np.arange(128) + 128) / 128
    rows = []
    for m in (1.0, 1.0078125, 1.1640625, 1.3359375, 1.5, 1.6640625, 1.8359375, 1.9921875):
        rows.append(np.concatenate([[m * 2], mantissas[:63], [-m * 2], -mantissas[64:127]]))
    add(np.stack(rows), "bf16", 64, "bf16 mantissas under several maxima")
    rows = [
        np.concatenate([[m], mantissas[:63] / 4, [-m], -mantissas[64:127] / 8])
        for m in (1.0, 1.0078125, 1.1640625, 1.3359375, 1.5, 1.6640625, 1.8359375, 1.9921875)
    ]
    add(np.stack(rows), "bf16", 64, "bf16 mantissas, smaller")

    # Zero blocks: whole, last partial, everything.
    x = normal(8, 64)
    x[3] = 0
    x[5, :32] = 0
    add(x, "bf16", 64, "an all-zero block")
    x = normal(5, 50)
    x[-1, -30:] = 0
    add(x, "f32", 32, "zeros at the end, partial last block zero")
    add(np.zeros((4, 33)), "f32", 64, "all zero, odd length")
    x = np.where(rng.random((9, 70)) < 0.9, 0, normal(9, 70))
    add(x, "f16", 64, "sparse")
    add(-np.abs(normal(4, 64)), "bf16", 64, "negative only")
    add(np.full((3, 40), 0.37), "f32", 32, "constant")
    add(np.where(rng.random((6, 65)) < 0.5, -1, 1) * 0.01, "bf16", 64, "one magnitude, both signs")
    add(np.where(rng.random((2, 64)) < 0.5, -0.0, 0.5), "f32", 64, "negative zeros")

    # Magnitudes far from 1.
    add(normal(6, 64) * 1e30, "f32", 64, "huge")
    add(normal(6, 64) * 1e-25, "f32", 64, "tiny")
    add(normal(6, 64) * 10.0 ** rng.integers(-12, 12, (6, 1)), "bf16", 64, "one magnitude per row")
    add(normal(7, 60) * 10.0 ** rng.uniform(-5, 0, (7, 60)), "f32", 32, "wide range inside a block")
    add(rng.uniform(-60000, 60000, (4, 64)), "f16", 64, "large fp16")
    add(rng.uniform(-1, 1, (4, 80)) * 1e-4, "f16", 32, "small fp16")
    x = normal(16, 96)
    x[:, [3, 40, 77]] *= 60
    add(x, "bf16", 64, "outlier columns, K mod B = 32")
    x = normal(16, 64)
    x[4] *= 100
    add(x, "f32", 64, "an outlier row")
    add(rng.standard_cauchy((9, 77)) * 0.01, "f32", 64, "heavy tails, odd length")
    add(rng.integers(-7, 8, (8, 64)), "bf16", 64, "small integers")
    add(rng.uniform(-1, 1, (31, 37)), "f32", 64, "uniform, odd length")
    add(normal(4, 176), "bf16", 128, "K mod 16 = 0, K mod B != 0")
    add(normal(6, 80), "f16", 64, "K mod 16 = 0, K mod B != 0")
    add(normal(2, 215), "f32", 4096, "one partial block of 4096")
    return out


def package_4bit(x, dtype, kind, block, double):
    value = torch.from_numpy(x).to(TORCH[dtype])
    packed, state = bnb.functional.quantize_4bit(
        value, blocksize=block, quant_type=kind, compress_statistics=double
    )
    return packed.reshape(-1).numpy(), state


def package_decode(packed, absmax, kind, block, n, dtype):
    """Decode as one row: the library's vector path picks wrong scales when rows split blocks."""
    out = torch.ops.bitsandbytes.dequantize_4bit.default(
        torch.from_numpy(packed.copy()).reshape(-1, 1),
        torch.from_numpy(absmax.copy()),
        block,
        kind,
        (1, n),
        TORCH[dtype],
    )
    return out.reshape(-1).float().numpy()


def blockwise_group(folder):
    tensors = {"tables.nf4": bw.NF4, "tables.fp4": bw.FP4_STORED, "tables.dynamic_map": bw.MAP}
    index, notes = [], {"wrong_row_decode": 0, "inexact_offsets": 0, "offsets": 0}
    for name, x, dtype, block, note in matrices():
        n = x.size
        entry = {
            "name": name,
            "rows": x.shape[0],
            "cols": x.shape[1],
            "dtype": dtype,
            "block": block,
            "note": note,
            "full": int(n <= 700),
            "crc32": {},
        }
        tensors[f"{name}.x"] = x
        for rules in ("cuda", "torch"):
            flat = x.reshape(-1)
            for kind in ("nf4", "fp4"):
                packed, absmax = bw.quantize_4bit(flat, kind, block, rules)
                if rules == "torch":
                    wheel, state = package_4bit(x, dtype, kind, block, False)
                    assert same_bits(wheel, packed), (name, kind)
                    assert same_bits(state.absmax.numpy(), absmax), (name, kind)
                tensors[f"{name}.{kind}.{rules}.codes"] = packed
            tensors[f"{name}.{rules}.absmax"] = absmax
            if rules == "cuda":
                code, inner, offset = bw.nested_quantize(absmax, "cuda")
            else:
                _, state = package_4bit(x, dtype, "nf4", block, True)
                code, inner = state.absmax.numpy(), state.state2.absmax.numpy()
                offset = f32(state.offset.item())
                assert same_bits(state.state2.code.numpy(), bw.MAP)
                model = bw.nested_quantize(absmax, "native", offset)
                assert same_bits(model[0], code) and same_bits(model[1], inner), name
                exact = bw.nested_quantize(absmax, "native")[2] == offset
                entry["torch_offset_exact"] = int(exact)
                notes["offsets"] += 1
                notes["inexact_offsets"] += not exact
            tensors[f"{name}.{rules}.q_absmax"] = code
            tensors[f"{name}.{rules}.nested_absmax"] = inner
            tensors[f"{name}.{rules}.offset"] = f32([offset])
            nested = bw.nested_dequantize(code, inner, offset)
            tensors[f"{name}.{rules}.absmax_decoded"] = nested
            if rules == "torch":
                wheel = (
                    bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
                )
                assert same_bits(wheel.numpy(), nested), name
            for kind in ("nf4", "fp4"):
                packed = tensors[f"{name}.{kind}.{rules}.codes"]
                for double, scales in ((0, absmax), (1, nested)):
                    value = bw.dequantize_4bit(packed, scales, kind, block, n)
                    entry["crc32"][f"{kind}.{rules}.double={double}"] = {
                        t: crc32_as(value, t) for t in ("f32", "bf16", "f16")
                    }
                    for t in ("f32", "bf16", "f16"):
                        with np.errstate(over="ignore"):
                            wheel = package_decode(packed, scales, kind, block, n, t)
                            mine = round_to(value, t)
                        tiny = (np.abs(value) < 1.2e-38) & (value != 0)
                        assert ((wheel == mine) | tiny).all(), (name, kind, t)
                    if rules == "torch" and not double:
                        rowwise = torch.ops.bitsandbytes.dequantize_4bit.default(
                            torch.from_numpy(packed.copy()).reshape(-1, 1),
                            torch.from_numpy(scales.copy()),
                            block,
                            kind,
                            x.shape,
                            torch.float32,
                        )
                        wrong = int((rowwise.reshape(-1).numpy() != value).sum())
                        notes["wrong_row_decode"] += wrong > 0
                        # Rows the vector path takes, cut by blocks, are the only wrong ones.
                        cut = x.shape[1] % block and x.shape[1] % 16 == 0 and x.shape[0] > 1
                        assert not wrong or cut, (name, kind, wrong)
                    if entry["full"]:
                        tensors[f"{name}.{kind}.{rules}.decoded{double}"] = value.reshape(x.shape)
        index.append(entry)
    save(folder / "blockwise.safetensors", tensors, {"content": "NF4 and FP4, see README.md"})
    save_json(
        folder / "blockwise.json",
        {"versions": versions("bitsandbytes", "torch", "numpy"), "cases": index},
    )
    return len(index), notes


def special_group(folder):
    """Values outside the normal range: what both sets of rules do with NaN, infinity and zero."""
    nan, inf = np.nan, np.inf
    rng = np.random.default_rng(5)
    body = round_bf16((rng.standard_normal(64) * 0.1).astype(f32))
    a, b, c = body.copy(), body.copy(), body.copy()
    a[[3, 60]] = nan
    b[[0, 17]] = inf, -inf
    c[5], c[6] = nan, inf
    cases = {
        "zeros": np.zeros(4),
        "zeros_odd": np.zeros(3),
        "zeros_full": np.zeros(64),
        "nan_first": [nan, 1, -0.5],
        "inf": [inf, 1, -1, -inf],
        "odd": [0.25, -1, 0.75],
        "nan_in_full": a,
        "inf_in_full": b,
        "nan_and_inf": c,
        "all_nan": np.full(64, nan),
        "all_nan_partial": np.full(6, nan),
        "negative_zero": [-0.0, -0.0, 1.0, -0.0],
        "zero_then_data": np.concatenate([np.zeros(64), body, np.zeros(10)]),
    }
    tensors, index = {}, []
    for name, x in cases.items():
        x = np.asarray(x, f32)
        tensors[f"{name}.x"] = x
        for rules in ("cuda", "torch"):
            for kind in ("nf4", "fp4"):
                packed, absmax = bw.quantize_4bit(x, kind, 64, rules)
                if rules == "torch":
                    wheel, state = package_4bit(x[None, :], "f32", kind, 64, False)
                    assert same_bits(wheel, packed), (name, kind)
                    assert np.array_equal(state.absmax.numpy(), absmax, equal_nan=True), name
                tensors[f"{name}.{kind}.{rules}.codes"] = packed
                tensors[f"{name}.{kind}.{rules}.decoded0"] = bw.dequantize_4bit(
                    packed, absmax, kind, 64, x.size
                )
            tensors[f"{name}.{rules}.absmax"] = absmax
        index.append({"name": name, "n": int(x.size), "block": 64})
    save(
        folder / "special.safetensors",
        tensors,
        {"content": "NaN, infinity and zero, see README.md"},
    )
    save_json(folder / "special.json", {"cases": index})
    return len(index)


def search_group(folder):
    """The 8-bit search on its own: every midpoint, its neighbours, and random values."""
    mid = bw.MIDPOINTS
    rng = np.random.default_rng(8)
    u = np.concatenate(
        [
            mid,
            np.nextafter(mid, f32(2)),
            np.nextafter(mid, f32(-2)),
            bw.MAP,
            rng.uniform(-1, 1, 600).astype(f32),
            f32([-1, 1, 0, -0.0, 1e-6, -1e-6]),
        ]
    )
    u = u.astype(f32)
    u = u[: u.size // 256 * 256].copy()
    u[0::256] = 1  # every group of 256 has maximum 1, so that u reaches the search unscaled
    out, absmax = torch.ops.bitsandbytes.quantize_blockwise.default(
        torch.from_numpy(u), torch.from_numpy(bw.MAP), 256
    )
    assert (absmax == 1).all() and same_bits(out.numpy(), bw.search_8bit(u, "native"))
    save(
        folder / "search8.safetensors",
        {
            "u": u,
            "map": bw.MAP,
            "cuda": bw.search_8bit(u, "cuda"),
            "torch": bw.search_8bit(u, "native"),
        },
        {"content": "8-bit search, see README.md"},
    )
    return u.size


def checkpoint_group(folder):
    """Layers as the package writes them to a file, and what they decode to."""
    rng = np.random.default_rng(12)
    state, decoded = {}, {}

    def linear(prefix, rows, cols, bias, dtype, run=False, **options):
        layer = bnb.nn.Linear4bit(cols, rows, bias=bias, **options)
        value = torch.from_numpy(
            round_to((rng.standard_normal((rows, cols)) * 0.05).astype(f32), dtype)
        )
        layer.weight = bnb.nn.Params4bit(
            value.to(TORCH[dtype]),
            requires_grad=False,
            blocksize=64,
            compress_statistics=options["compress_statistics"],
            quant_type=options["quant_type"],
            quant_storage=options.get("quant_storage", torch.uint8),
            module=layer,
        )
        if bias:
            layer.bias = torch.nn.Parameter(
                torch.from_numpy(round_to(rng.standard_normal(rows).astype(f32), dtype)).to(
                    TORCH[dtype]
                )
            )
        layer.weight._quantize("cpu")
        if run:
            # Inference repacks the weight for the vector unit; saving then leaves a trace of it.
            with torch.no_grad():
                layer.eval()(torch.zeros(1, cols, dtype=torch.bfloat16))
            assert layer.weight.quant_state.packing_format_for_cpu
        state.update({prefix + k: v.clone() for k, v in layer.state_dict().items()})
        decoded[prefix + "source"] = value
        kind, absmax = options["quant_type"], state[prefix + "weight.absmax"]
        packed = state[prefix + "weight"].view(torch.uint8).reshape(-1).numpy()
        if options["compress_statistics"]:
            inner = layer.weight.quant_state
            scales = bw.nested_dequantize(
                absmax.numpy(), inner.state2.absmax.numpy(), f32(inner.offset.item())
            )
        else:
            scales = absmax.float().numpy()
            scales = scales.T.reshape(-1) if scales.ndim == 2 else scales
        value = bw.dequantize_4bit(packed, scales, kind, 64, rows * cols)
        decoded[prefix + "weight"] = round_to(value, dtype).reshape(rows, cols)

    linear("nf4_double.", 24, 96, True, "bf16", compress_statistics=True, quant_type="nf4")
    linear("nf4.", 24, 96, False, "f16", compress_statistics=False, quant_type="nf4")
    linear("fp4.", 7, 9, False, "f32", compress_statistics=False, quant_type="fp4")
    linear("fp4_double.", 300, 64, False, "bf16", compress_statistics=True, quant_type="fp4")
    linear(
        "nf4_storage.",
        16,
        64,
        False,
        "bf16",
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=torch.bfloat16,
    )
    linear(
        "nf4_repacked.",
        32,
        128,
        False,
        "bf16",
        run=True,
        compress_statistics=False,
        quant_type="nf4",
    )
    layer = bnb.nn.Linear8bitLt(48, 20, bias=True, has_fp16_weights=False, threshold=6.0)
    value = torch.from_numpy(round_bf16((rng.standard_normal((20, 48)) * 0.05).astype(f32)))
    layer.weight = bnb.nn.Int8Params(value.to(torch.bfloat16), requires_grad=False)
    layer.bias = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(20).astype(f32)))
    layer = layer.to("cpu")
    state.update({"int8." + k: v for k, v in layer.state_dict().items()})
    decoded["int8.source"] = value
    decoded["int8.weight"] = bnb.functional.int8_vectorwise_dequant(
        state["int8.weight"], state["int8.SCB"]
    ).float()
    # A packed weight stored as bf16 may hold NaN patterns: keep its bytes untouched.
    tensors = dict(state)
    raw = state["nf4_storage.weight"]
    tensors["nf4_storage.weight"] = RawBF16(
        raw.reshape(-1).view(torch.int16).numpy().view(np.uint16).reshape(raw.shape)
    )
    save(folder / "checkpoint.safetensors", tensors, {"format": "pt"})
    save(folder / "checkpoint_decoded.safetensors", decoded)
    return sorted(state)


class RawBF16(BF16):
    def __init__(self, raw):
        self.values = (raw.astype(np.uint32) << 16).view(f32)


# --- LLM.int8 -----------------------------------------------------------------------------------


def int8_cases():
    rng = np.random.default_rng(77)
    out = []

    def add(rows, k, out_rows, dtype, wdtype, note, change=None, std=1.0, wstd=0.05):
        x = (rng.standard_normal((rows, k)) * std).astype(f32)
        w = (rng.standard_normal((out_rows, k)) * wstd).astype(f32)
        if change:
            change(x, w)
        bias = rng.standard_normal(out_rows).astype(f32)
        out.append(
            (
                f"l{len(out):02d}",
                round_to(x, dtype),
                round_to(w, wdtype),
                round_to(bias, dtype),
                dtype,
                wdtype,
                note,
            )
        )

    def outliers(columns, value=20.0):
        def change(x, w):
            for i, j in enumerate(columns):
                x[(3 * i + 1) % x.shape[0], j] = value * (-1) ** i

        return change

    for dtype in ("f32", "bf16", "f16"):
        add(1, 16, 5, dtype, dtype, "one row")
        add(9, 64, 17, dtype, dtype, "no outlier")
        add(12, 96, 24, dtype, "bf16", "three outlier columns", outliers([5, 40, 77]))
        add(1, 48, 8, dtype, "bf16", "one row with outliers", outliers([3, 30]))
        add(33, 65, 31, dtype, "f16", "odd sizes", outliers([0, 64], 7.5))

    def at_threshold(x, w):
        x[0, 3], x[1, 7], x[2, 11] = 6.0, -6.0, 5.9921875
        x[3, 12], x[4, 13] = 6.001, 5.9995  # fp16 neighbours are 0.004 apart: both round to 6

    add(8, 32, 8, "f32", "f32", "elements at the threshold", at_threshold)
    add(8, 32, 8, "bf16", "bf16", "elements at the threshold", at_threshold)

    def all_outliers(x, w):
        x[2] = 50.0

    add(4, 24, 6, "bf16", "bf16", "a row of outliers only: every column is one", all_outliers)

    def zero_rows(x, w):
        x[1], w[2] = 0, 0

    add(5, 40, 7, "f32", "bf16", "zero rows in both", zero_rows)

    def half_ties(x, w):
        x[:] = np.round(x * 8) / 8
        x[0, 0], x[0, 1], x[1, 0], x[1, 1] = 1.01171875, 0.505859375, 1, 0.5
        x[:2, 2:] *= 0.1
        w[:] = np.round(w * 64) / 64

    add(6, 32, 9, "f16", "f16", "products near half integers", half_ties)

    def big_scale(x, w):
        w *= 400
        x *= 0.9

    add(6, 64, 8, "bf16", "bf16", "large outputs", big_scale)

    def overflow(x, w):
        w[:] = np.abs(w) * 8e4
        x[:] = np.abs(x) + 1

    add(3, 64, 4, "bf16", "f32", "outputs beyond 65504: infinite under rules=cuda", overflow)
    add(3, 64, 4, "f32", "f32", "outputs beyond 65504: infinite under rules=cuda", overflow)

    def wide(x, w):
        w *= np.exp(rng.standard_normal((w.shape[0], 1)) * 2)
        x *= np.exp(rng.standard_normal((x.shape[0], 1)))

    add(16, 300, 20, "bf16", "bf16", "rows of very different size", wide)
    add(64, 256, 12, "f32", "f32", "longer", outliers([9, 10, 200, 255]))

    def bf16_beyond(x, w):
        w[0, 0], w[1, 1] = 70000.0, 1e-9

    add(3, 32, 4, "bf16", "bf16", "a weight beyond fp16 and one below it", bf16_beyond)
    return out


def package_int8(x, w, bias, dtype, wdtype, threshold):
    layer = bnb.nn.Linear8bitLt(
        w.shape[1], w.shape[0], bias=bias is not None, has_fp16_weights=False, threshold=threshold
    )
    layer.weight = bnb.nn.Int8Params(
        torch.from_numpy(w.copy()).to(TORCH[wdtype]), requires_grad=False
    )
    if bias is not None:
        layer.bias = torch.nn.Parameter(torch.from_numpy(bias.copy()).to(TORCH[dtype]))
    layer = layer.to("cpu").eval()
    with torch.no_grad():
        out = layer(torch.from_numpy(x.copy()).to(TORCH[dtype]))
    assert out.dtype == TORCH[dtype]
    return out.float().numpy(), layer.state.CB.numpy(), layer.state.SCB.numpy()


def int8_group(folder):
    tensors, index, worst = {}, [], {"f32": 0.0, "bf16": 0.0, "f16": 0.0}
    for name, x, w, bias, dtype, wdtype, note in int8_cases():
        entry = {
            "name": name,
            "rows": x.shape[0],
            "in": x.shape[1],
            "out": w.shape[0],
            "dtype": dtype,
            "weight_dtype": wdtype,
            "note": note,
            "runs": [],
        }
        with np.errstate(over="ignore"):
            cb, scb, _ = bw.int8_rows(w, 0)
        tensors[f"{name}.x"], tensors[f"{name}.w"], tensors[f"{name}.bias"] = x, w, bias
        tensors[f"{name}.cb"], tensors[f"{name}.scb"] = cb, scb
        for threshold in (6.0, 0.0):
            t = f"t{threshold:g}"
            ca, sca, columns = bw.int8_rows(x, threshold)
            got = bnb.functional.int8_vectorwise_quant(
                torch.from_numpy(x.copy()).to(torch.float16), threshold
            )
            assert same_bits(got[0].numpy(), ca) and same_bits(got[1].numpy(), sca), name
            assert (got[2] is None and not columns.size) or (got[2].numpy() == columns).all()
            tensors[f"{name}.{t}.ca"], tensors[f"{name}.{t}.sca"] = ca, sca
            tensors[f"{name}.{t}.columns"] = columns
            for with_bias in (0, 1):
                b = bias if with_bias else None
                wheel, wcb, wscb = package_int8(x, w, b, dtype, wdtype, threshold)
                assert same_bits(wcb, cb) and same_bits(wscb, scb), name
                for rules in ("cuda", "torch"):
                    key = f"{name}.{t}.bias{with_bias}.{rules}"
                    got = bw.int8_linear(x, dtype, cb, scb, b, threshold, rules)
                    if not with_bias and rules == "cuda":
                        tensors[f"{name}.{t}.acc"] = got["acc"]
                        if columns.size:
                            tensors[f"{name}.{t}.w_outlier"] = got["w_outlier"]
                    tensors[f"{key}.y"] = got["y"]
                    if columns.size:
                        tensors[f"{key}.out"] = got["out"]
                    if rules == "cuda":
                        continue
                    if columns.size:
                        tensors[f"{key}.package"] = wheel
                        gap = np.abs(wheel - got["out"])
                        size = np.abs(x[:, columns]) @ np.abs(got["w_outlier"]).T + np.abs(got["y"])
                        worst[dtype] = max(worst[dtype], float((gap / size).max()))
                    else:
                        assert np.array_equal(wheel, got["y"], equal_nan=True), (name, threshold)
            entry["runs"].append({"threshold": threshold, "key": t, "outliers": int(columns.size)})
        index.append(entry)
    save(folder / "llm_int8.safetensors", tensors, {"content": "LLM.int8, see README.md"})
    save_json(
        folder / "llm_int8.json",
        {
            "versions": versions("bitsandbytes", "torch", "numpy"),
            "package_distance": {k: round(v, 10) for k, v in worst.items()},
            "cases": index,
        },
    )
    return len(index), worst


def int8_special_group(folder):
    """Row quantiser on NaN, infinity and rows without any ordinary element."""
    nan, inf = np.nan, np.inf
    x = f32(
        [
            [1, -2, 0.5, 3],
            [nan, 1, -0.5, 2],
            [inf, 1, 0.25, -1],
            [0, 0, 0, 0],
            [7, -7, 8, 9],
            [nan, nan, nan, nan],
            [6, 5.99, -1, 0],
            [-inf, nan, 3, -3],
        ]
    )
    w = f32([[1, 0.5, -0.25, 0.125], [-1, 1, 1, -1]])
    cb, scb, _ = bw.int8_rows(w, 0)
    tensors = {"x": x, "w": w, "cb": cb, "scb": scb}
    for threshold in (6.0, 0.0):
        t = f"t{threshold:g}"
        for rules in ("cuda", "torch"):
            ca, sca, columns = bw.int8_rows(x, threshold, rules)
            if rules == "torch":
                got = bnb.functional.int8_vectorwise_quant(torch.from_numpy(x).half(), threshold)
                assert same_bits(got[0].numpy(), ca)
                assert np.array_equal(got[1].numpy(), sca, equal_nan=True)
                assert (got[2] is None and not columns.size) or (got[2].numpy() == columns).all()
            tensors[f"{t}.{rules}.ca"], tensors[f"{t}.{rules}.sca"] = ca, sca
            tensors[f"{t}.columns"] = columns
    # One row at a time: the outlier columns are those of the call.
    for i in range(x.shape[0]):
        ca, sca, columns = bw.int8_rows(x[i : i + 1], 6.0)
        tensors[f"row{i}.ca"], tensors[f"row{i}.sca"], tensors[f"row{i}.columns"] = ca, sca, columns
    save(folder / "llm_int8_special.safetensors", tensors, {"content": "LLM.int8, see README.md"})
    return x.shape[0]


# --- round to nearest ---------------------------------------------------------------------------


def rtn(w, width, axis, group, symmetric, heads):
    """Codes, scales and zeros of round-to-nearest in binary32. w is [out, in].

    Scales have one entry per unit: row [out, groups], column [1, in], tensor [1, 1],
    tl [out / heads, groups] (rows o with equal o mod (out / heads) share one: the heads of q, k,
    v).
    """
    rows, cols = w.shape
    w = torch.from_numpy(w)
    step = group or cols
    groups = -(-cols // step)
    if axis == "column":
        unit = torch.arange(cols).expand(rows, cols)
        shape = (1, cols)
    elif axis == "tensor":
        unit, shape = torch.zeros(rows, cols, dtype=torch.long), (1, 1)
    else:
        per = rows // heads if axis == "tl" else rows
        unit = (torch.arange(rows) % per)[:, None] * groups + (torch.arange(cols) // step)[None, :]
        shape = (per, groups)
    count = shape[0] * shape[1]
    flat, where = w.reshape(-1), unit.reshape(-1)

    def reduce(values, mode):
        start = torch.zeros(count)
        return start.scatter_reduce(0, where, values, mode, include_self=True)

    if symmetric:
        low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
        # One scale serves both signs, so the most negative code is reached only through rounding.
        scale = reduce(flat.abs(), "amax") / high
        scale[scale == 0] = 1
        zero = torch.zeros(count)
        code = torch.round(flat / scale[where]).clamp(low, high)
        value = code * scale[where]
        stored = code.to(torch.int8)
    else:
        # The range always holds 0, so that 0 stays exactly 0.
        low, high = 0, 2**width - 1
        bottom, top = reduce(flat, "amin"), reduce(flat, "amax")
        scale = (top - bottom) / high
        scale[scale == 0] = 1
        zero = torch.round(-bottom / scale).clamp(low, high)
        code = (torch.round(flat / scale[where]) + zero[where]).clamp(low, high)
        value = (code - zero[where]) * scale[where]
        stored = code.to(torch.uint8)
    return (
        stored.reshape(rows, cols).numpy(),
        scale.reshape(shape).numpy(),
        zero.to(torch.int32).reshape(shape).numpy(),
        value.reshape(rows, cols).numpy(),
    )


def rtn_group(folder):
    rng = np.random.default_rng(31)
    inputs = {
        "a": ((rng.standard_normal((24, 40)) * 0.05).astype(f32), 3, "normal"),
        "b": (
            round_bf16((rng.standard_t(3, (16, 33)) * 0.1).astype(f32)),
            4,
            "heavy tails, odd, bf16",
        ),
        "c": ((np.arange(-60, 60).reshape(8, 15) / 8).astype(f32), 2, "grid with ties"),
        "d": (np.abs(rng.standard_normal((6, 20))).astype(f32), 2, "positive only"),
    }
    zero = (rng.standard_normal((12, 18)) * 3).astype(f32)
    zero[2], zero[:, 5], zero[6:] = 0, 0, -np.abs(zero[6:])
    zero[2] = 0
    inputs["e"] = (zero, 2, "zero row and column, negative rows")
    tensors, index = {}, []
    for name, (w, heads, note) in inputs.items():
        tensors[f"{name}.w"] = w
        entry = {
            "name": name,
            "rows": w.shape[0],
            "cols": w.shape[1],
            "heads": heads,
            "note": note,
            "runs": [],
        }
        for width in range(8, 1, -1):
            plans = [
                ("row", 0),
                ("column", 0),
                ("tensor", 0),
                ("tl", 0),
                ("row", 8),
                ("row", 32),
                ("tl", 16),
            ]
            if width not in (8, 6, 4, 2):
                plans = [("row", 0), ("tl", 0), ("row", 16)]
            for axis, group in plans:
                for symmetric in (1, 0):
                    code, scale, offset, value = rtn(w, width, axis, group, symmetric, heads)
                    key = f"{name}.b{width}.{axis}.g{group}.s{symmetric}"
                    if name in "ce" or width in (6, 3):
                        tensors[f"{key}.codes"] = code
                    tensors[f"{key}.scale"] = scale
                    if not symmetric:
                        tensors[f"{key}.zero"] = offset
                    entry["runs"].append(
                        {
                            "key": key,
                            "bits": width,
                            "axis": axis,
                            "group": group,
                            "sym": symmetric,
                            "codes_crc32": "%08X" % crc32(code.tobytes()),
                            "decoded_crc32": crc32_as(value, "f32"),
                            "decoded_bf16_crc32": crc32_as(value, "bf16"),
                        }
                    )
        index.append(entry)
    save(folder / "rtn.safetensors", tensors, {"content": "round to nearest, see README.md"})
    save_json(folder / "rtn.json", {"versions": versions("torch"), "cases": index})
    return sum(len(e["runs"]) for e in index)


def main():
    folder = output_folder("codecs")
    check_examples()
    print("worked examples: all agree")
    count, notes = blockwise_group(folder)
    print(
        f"blockwise: {count} matrices; {notes['inexact_offsets']} of {notes['offsets']} CPU means "
        f"are not the rounded binary64 mean; {notes['wrong_row_decode']} decode wrongly by rows"
    )
    print(f"special values: {special_group(folder)} cases")
    print(f"8-bit search: {search_group(folder)} values")
    print(f"checkpoint: {len(checkpoint_group(folder))} tensors")
    count, worst = int8_group(folder)
    print(f"LLM.int8: {count} layers; package distance of outlier products {worst}")
    print(f"LLM.int8 special values: {int8_special_group(folder)} rows")
    print(f"round to nearest: {rtn_group(folder)} runs")
    print(f"{folder_size(folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
