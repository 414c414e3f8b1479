# SPDX-License-Identifier: BSD-2-Clause
import unittest

import numpy as np

from support import Case, data, read_json, read_safetensors

import qsae


def weight(rows=24, cols=96, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


class Rtn(Case):
    def reference(self, w, bits, group):
        """Symmetric codes and values; group inputs share a scale along a row."""
        out, high = np.empty_like(w), 2**(bits - 1) - 1
        for start in range(0, w.shape[1], group):
            part = w[:, start:start + group]
            scale = (np.abs(part).max(1, keepdims=True) / np.float32(high)).astype(np.float32)
            scale[scale == 0] = 1
            codes = np.clip(np.rint(part / scale), -high - 1, high)
            out[:, start:start + group] = codes.astype(np.float32) * scale
        return out + 0.0

    def equal(self, decoded, expected):
        self.same(decoded + 0.0, expected)  # the sign of a decoded zero is not part of the format

    def test_rows(self):
        w = weight()
        for bits in (8, 6, 4, 3, 2):
            matrix = qsae.Quantizer(self.ctx, f"rtn:bits={bits}").encode(w)
            self.equal(matrix.decode(), self.reference(w, bits, w.shape[1]))

    def test_groups(self):
        w = weight()
        matrix = qsae.Quantizer(self.ctx, "rtn:bits=4,group=32").encode(w)
        self.equal(matrix.decode(), self.reference(w, 4, 32))

    def test_any_memory_layout(self):
        w, rtn = weight(), qsae.Quantizer(self.ctx, "rtn:bits=5")
        expected = rtn.encode(w).decode()
        wide = np.zeros((24, 200), np.float32)
        wide[:, 7:103] = w
        every_second = np.zeros((48, 96), np.float32)
        every_second[::2] = w
        shifted = np.frombuffer(b"x" + w.tobytes(), np.uint8)[1:].view(np.float32)
        for name, same in {"slice": wide[:, 7:103], "rows": every_second[::2],
                           "unaligned": shifted.reshape(w.shape),
                           "transposed": np.asfortranarray(w), "reversed": w[::-1][::-1],
                           "big-endian": w.astype(">f4"), "float64": w.astype(np.float64),
                           "list": w.tolist()}.items():
            with self.subTest(name):
                self.same(rtn.encode(same).decode(), expected)

    def test_half_types(self):
        w, rtn = weight(), qsae.Quantizer(self.ctx, "rtn:bits=8")
        half, brain = w.astype(np.float16), qsae.to_bf16(w)
        self.same(rtn.encode(half).decode(), rtn.encode(half.astype(np.float32)).decode())
        self.same(rtn.encode(brain).decode(), rtn.encode(qsae.from_bf16(brain)).decode())
        matrix = rtn.encode(w)
        self.same(matrix.decode("f16"), matrix.decode().astype(np.float16))
        self.same(matrix.decode("bf16"), qsae.to_bf16(matrix.decode()))

    def test_column_scales(self):
        w = weight()
        matrix = qsae.Quantizer(self.ctx, "rtn:bits=8,axis=column").encode(w)
        self.equal(matrix.decode(), self.reference(w.T.copy(), 8, 24).T)


class Blockwise(Case):
    def test_bytes_of_bitsandbytes(self):
        tensors = read_safetensors(data("codecs", "blockwise.safetensors"))
        cases = read_json(data("codecs", "blockwise.json"))["cases"]
        count = 0
        for case in cases:
            x = tensors[case["name"] + ".x"]
            for kind in ("nf4", "fp4"):
                spec = f"{kind}:block={case['block']},double=0,rules=cuda"
                matrix = qsae.Quantizer(self.ctx, spec).encode(x)
                fields = matrix.fields()
                with self.subTest(case["name"] + " " + kind):
                    codes = tensors[f"{case['name']}.{kind}.cuda.codes"]
                    self.same(fields["weight"].reshape(-1), codes)
                    self.same(fields["absmax"], tensors[case["name"] + ".cuda.absmax"])
                    count += 1
        self.assertGreaterEqual(count, 20)

    def test_decoding(self):
        w = weight(16, 128)
        matrix = qsae.Quantizer(self.ctx, "nf4:block=64,double=0").encode(w)
        fields = matrix.fields()
        packed = fields["weight"].reshape(-1)
        codes = np.stack([packed >> 4, packed & 15], 1).reshape(-1, 64)
        values = fields["quant_map"][codes] * fields["absmax"][:, np.newaxis]
        self.same(matrix.decode(), values.reshape(w.shape))
        self.assertEqual(matrix.shape, w.shape)
        self.assertEqual(matrix.nbytes, w.size // 2 + 4 * w.size // 64)
        self.assertEqual(matrix.spec, "nf4:block=64,double=0,compute=model,rules=cuda")

    def test_fields_are_copies(self):
        matrix = qsae.Quantizer(self.ctx, "nf4").encode(weight())
        fields = matrix.fields()
        fields["absmax"][:] = 0
        self.assertTrue(matrix.fields()["absmax"].any())
        matrix.close()
        self.assertTrue(fields["weight"].any())


class Linear(Case):
    def test_product(self):
        w, x = weight(), weight(10, 96, 2)
        bias = weight(1, 24, 3)[0]
        matrix = qsae.Quantizer(self.ctx, "nf4").encode(w)
        expected = x.astype(np.float64) @ matrix.decode().astype(np.float64).T
        self.near(matrix.linear(x), expected, 1e-5, 1e-5)
        self.near(matrix.linear(x, bias), expected + bias, 1e-5, 1e-5)
        self.same(matrix.linear(x.reshape(2, 5, 96)), matrix.linear(x).reshape(2, 5, 24))
        rounded = qsae.to_bf16(x)
        y = matrix.linear(rounded, dtype="bf16")
        self.same(y, qsae.from_bf16(qsae.to_bf16(y)))
        self.same(y, matrix.linear(qsae.from_bf16(rounded), dtype="bf16"))

    def test_int8_outliers(self):
        x = weight(6, 40, 4)
        x[2, 7] = 9
        x[4, 30] = -6.5
        codes, scales, outlier = qsae.int8_quantize(self.ctx, x, 6.0)
        self.assertEqual(np.flatnonzero(outlier).tolist(), [7, 30])
        half = x.astype(np.float16).astype(np.float32)  # as bitsandbytes casts activations first
        kept = np.where(np.abs(half) >= 6, 0, half)
        self.same(scales, np.abs(kept).max(1))
        plain = np.rint(half * (np.float32(127) / scales[:, np.newaxis])).astype(np.int64)
        inside = np.abs(codes.astype(np.int64) - plain)[:, ~outlier]
        self.assertLessEqual(inside.max(), 1)  # the reciprocal may be rounded
        self.assertLess((inside != 0).mean(), 0.01)

    def test_int8_codes_of_bitsandbytes(self):
        tensors = read_safetensors(data("codecs", "llm_int8.safetensors"))
        case = read_json(data("codecs", "llm_int8.json"))["cases"][0]["name"]
        codes, scales, outlier = qsae.int8_quantize(self.ctx, tensors[case + ".x"], 6.0)
        self.same(codes, tensors[case + ".t6.ca"])
        self.same(scales, tensors[case + ".t6.sca"])
        self.assertEqual(np.flatnonzero(outlier).tolist(), tensors[case + ".t6.columns"].tolist())
        fields = qsae.Quantizer(self.ctx, "llm.int8").encode(tensors[case + ".w"]).fields()
        self.same(fields["SCB"], tensors[case + ".scb"])


class Refusals(Case):
    def test_specifications(self):
        self.fails("QSAE_EINVAL", "nf5", qsae.Quantizer, self.ctx, "nf5")
        self.fails("QSAE_EINVAL", "", qsae.Quantizer, self.ctx, "nf4:block=63")
        self.fails("QSAE_EINVAL", "string", qsae.Quantizer, self.ctx, 4)

    def test_weights(self):
        nf4 = qsae.Quantizer(self.ctx, "nf4")
        w = weight()
        w[3, 4] = np.nan
        self.fails("QSAE_ENONFINITE", "", nf4.encode, w, strict=True)
        self.assertEqual(nf4.encode(w).shape, w.shape)
        self.fails("QSAE_EINVAL", "[out, in]", nf4.encode, w[0])
        self.fails("QSAE_EINVAL", "array of numbers", nf4.encode, np.array([["a"]]))
        self.fails("QSAE_EINVAL", "array of numbers", nf4.encode, w.astype(np.complex64))
        self.fails("QSAE_EINVAL", "heads", nf4.encode, w, heads=-1)

    def test_arguments(self):
        matrix = qsae.Quantizer(self.ctx, "nf4").encode(weight())
        self.fails("QSAE_EINVAL", "f32, f16, bf16", matrix.decode, "f64")
        self.fails("QSAE_EINVAL", "bias", matrix.linear, weight(2, 96), [1.0])
        self.fails("QSAE_EMISMATCH", "[2, 96]", matrix.linear, weight(2, 95))
        matrix.close()
        self.fails("QSAE_EINVAL", "QMatrix is closed", matrix.decode)


class Brain(unittest.TestCase):
    def test_rounding(self):
        x = np.array([1, 1.00390625, 1.01171875, -0.0, 3e38, 3.4e38, np.inf, np.nan], np.float32)
        bits = qsae.to_bf16(x)
        self.assertEqual(bits[:7].tolist(),
                         [0x3f80, 0x3f80, 0x3f82, 0x8000, 0x7f62, 0x7f80, 0x7f80])
        self.assertTrue(np.isnan(qsae.from_bf16(bits)[7]))
        values = np.arange(65536, dtype=np.uint16)
        finite = values[~np.isnan(qsae.from_bf16(values))]
        self.assertTrue((qsae.to_bf16(qsae.from_bf16(finite)) == finite).all())
