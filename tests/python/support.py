# SPDX-License-Identifier: BSD-2-Clause
"""What the tests share: paths, a safetensors reader, a base class."""

import json
import os
import shutil
import tempfile
import unittest

import numpy as np

import qsae

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "tests", "data")
BUNDLED = os.path.join(ROOT, "examples", "data")
MODEL = os.path.join(BUNDLED, "tiny-gemma3")
SAE = os.path.join(BUNDLED, "tiny-gemma3-sae")
TEXT = os.path.join(BUNDLED, "eval.jsonl")

_TYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": np.uint16,
          "U8": np.uint8, "I8": np.int8, "I32": np.int32, "I64": np.int64}


def data(*parts):
    return os.path.join(DATA, *parts)


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_safetensors(path):
    """dict of arrays; BF16 as float32 values."""
    with open(path, "rb") as file:
        raw = file.read()
    size = int.from_bytes(raw[:8], "little")
    out = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(raw[8 + size + begin:8 + size + end], _TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            array = qsae.from_bf16(array)
        out[name] = array.reshape(entry["shape"])
    return out


def write_safetensors(path, tensors):
    """float32 arrays by name."""
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": array.shape,
                        "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array, "<f4").tobytes())


def nll_of(logits, labels):
    """-log softmax(logits)[label] in float64, NaN where label < 0."""
    logits = np.asarray(logits, np.float64).reshape(-1, np.shape(logits)[-1])
    labels = np.asarray(labels).reshape(-1)
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return np.where(labels < 0, np.nan, -log_p[np.arange(len(labels)), np.maximum(labels, 0)])


class Case(unittest.TestCase):
    """Tests with a context, a folder for temporary files and an assertion on qsae.Error."""

    @classmethod
    def setUpClass(cls):
        cls.ctx = qsae.Context(threads=2)

    @classmethod
    def tearDownClass(cls):
        cls.ctx.close()

    def folder(self):
        path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, path)
        return path

    def fails(self, name, part, function, *args, **kwargs):
        """The call raises qsae.Error of this name, with a message that contains part."""
        with self.assertRaises(qsae.Error) as caught:
            function(*args, **kwargs)
        self.assertEqual(caught.exception.name, name, str(caught.exception))
        self.assertIn(part, caught.exception.message)
        self.assertLess(caught.exception.status, 0)

    def same(self, a, b):
        """Equal shape, type and bits (NaN included)."""
        a, b = np.asarray(a), np.asarray(b)
        self.assertEqual((a.shape, a.dtype), (b.shape, b.dtype))
        self.assertEqual(a.tobytes(), b.tobytes())

    def near(self, a, b, rtol=1e-5, atol=1e-6):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
