# SPDX-License-Identifier: BSD-2-Clause
"""What users hold: tensors, data sets, SAELens modules, pandas frames."""

import ctypes
import importlib
import json
import os
import sys
import tempfile
import unittest
from unittest import mock

import numpy as np
from support import MODEL, SAE, TEXT, Case

import qsae
from qsae import _dlpack


def package(name):
    """A package, or a skip that names it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise unittest.SkipTest(f"no {name}: {error}") from None


def eval_rows():
    with open(TEXT, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Producer:
    """A tensor of another package: memory of its own, handed out by DLPack."""

    CODES = {"f": 2, "i": 0, "u": 1, "b": 6}
    _new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi))

    def __init__(self, array, code=None, device=(1, 0), strides=True):
        self.array, self.device = array, device
        managed = self.managed = _dlpack._Managed()
        t = managed.tensor
        t.data = array.ctypes.data
        t.device_type, t.device_id, t.ndim = *device, array.ndim
        t.code = self.CODES[array.dtype.kind] if code is None else code
        t.bits, t.lanes = array.itemsize * 8, 1
        self.shape = (ctypes.c_int64 * 9)(*array.shape)
        self.strides = (ctypes.c_int64 * 9)(*(s // array.itemsize for s in array.strides))
        t.shape = self.shape
        if strides:
            t.strides = self.strides

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self):
        return self._new(ctypes.addressof(self.managed), b"dltensor", None)


class Broken:
    """An object that promises a tensor and has none."""

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self):
        raise BufferError("none today")


class DLPack(Case):
    def test_in_place(self):
        base = np.arange(60, dtype=np.float32).reshape(5, 12)
        for array in (base, base[::2, 1:7], base.T, base[:, :1], base[:0], base[3],
                      base.astype(np.float16), base.astype(np.float64), base.astype(np.int64),
                      base > 9, np.array(2.5, np.float32)):
            found = _dlpack.as_array(Producer(array), "x")
            self.same(found, array)
            self.assertFalse(array.size and found.flags.writeable)
            if array.size:
                self.assertEqual(found.ctypes.data, array.ctypes.data)
        self.same(_dlpack.as_array(Producer(base, strides=False), "x"), base)

    def test_bfloat16(self):
        values = np.array([[1.5, -2.25], [3e38, 1e-40]], np.float32)
        bits = qsae.to_bf16(values)
        found = _dlpack.as_array(Producer(bits, code=4), "x")
        self.same(found, bits)
        self.same(qsae.from_bf16(Producer(bits, code=4)), qsae.from_bf16(bits))

    def test_refused(self):
        x = np.zeros((2, 3), np.float32)
        for device, name in (((2, 1), "cuda:1"), ((10, 0), "rocm:0"), ((99, 0), "type 99")):
            self.fails("QSAE_EUNSUPPORTED", name, _dlpack.as_array, Producer(x, device=device), "x")
        self.fails("QSAE_EUNSUPPORTED", "code 5", _dlpack.as_array,
                   Producer(x.astype(np.complex64), code=5), "x")
        self.fails("QSAE_EUNSUPPORTED", "x: ", _dlpack.as_array, Broken(), "x")
        with qsae.SAE(self.ctx, SAE) as sae:
            wide = np.zeros((2, sae.width), np.float32)
            self.fails("QSAE_EUNSUPPORTED", "copy it first (torch: x.cpu())", sae.encode,
                       Producer(wide, device=(2, 0)))
        self.fails("QSAE_EINVAL", "x", qsae.to_bf16, object())

    def test_everywhere(self):
        rng = np.random.default_rng(1)
        with qsae.SAE(self.ctx, SAE) as sae, qsae.Model(self.ctx, MODEL) as model:
            x = rng.normal(size=(6, sae.width)).astype(np.float32)
            self.same(sae.encode(Producer(x[::2])), sae.encode(x[::2]))
            bits = qsae.to_bf16(x)
            self.same(sae.encode(Producer(bits, code=4)), sae.encode(bits))
            self.same(sae.decode(Producer(sae.encode(x))), sae.reconstruct(x))
            self.same(sae.encode(np.asmatrix(x)), sae.encode(x))
            ids = rng.integers(3, 200, (2, 8))
            self.same(model.forward(Producer(ids)).nll, model.forward(ids).nll)
            self.same(model.forward(ids, labels=Producer(ids)).nll,
                      model.forward(ids, labels=ids).nll)
            self.same(model.forward(ids, edits={
                (0, "mlp_out"): lambda rows, info: Producer(qsae.to_bf16(rows), code=4)}).nll,
                model.forward(ids, edits={
                    (0, "mlp_out"): lambda rows, info: qsae.from_bf16(qsae.to_bf16(rows))}).nll)
            (tap,) = model.iter_taps(Producer(ids), [(0, "embed")])
            self.same(tap.ids, ids.reshape(-1).astype(np.int32))
        with qsae.metrics.Reconstruction(self.ctx, 4) as a, \
                qsae.metrics.Reconstruction(self.ctx, 4) as b:
            x = rng.normal(size=(9, 4))
            a.update(Producer(x), Producer(x * 2), first=0, document=Producer(np.zeros(9, int)))
            b.update(x, x * 2, first=0, document=np.zeros(9, int))
            self.assertEqual(a["mse"], b["mse"])
        codec = qsae.Quantizer(self.ctx, "rtn:bits=8")
        weight = rng.normal(size=(4, 64)).astype(np.float32)
        self.same(codec.encode(Producer(weight)).decode(), codec.encode(weight).decode())


class Torch(Case):
    def test_tensors(self):
        torch = package("torch")
        torch.manual_seed(0)
        with qsae.SAE(self.ctx, SAE) as sae:
            x = torch.randn(7, sae.width, requires_grad=True)
            self.same(sae.encode(x), sae.encode(x.detach().numpy()))
            half = x.detach().to(torch.bfloat16)
            self.same(sae.encode(half), sae.encode(half.float().numpy()))
            self.same(sae.encode(half), sae.encode(half.view(torch.int16).numpy().view(np.uint16)))
            self.same(sae.encode(half[::3]), sae.encode(half[::3].float().numpy()))
            self.same(sae.encode(half.T.contiguous().T), sae.encode(half))
            small = x.detach().to(torch.float16)
            self.same(sae.encode(small), sae.encode(small.numpy()))
            self.assertEqual(_dlpack.as_array(half, "x").ctypes.data, half.data_ptr())
            self.same(_dlpack.as_array(half[2:, 5:], "x"),
                      half.view(torch.int16).numpy().view(np.uint16)[2:, 5:])
            self.fails("QSAE_EUNSUPPORTED", "", sae.encode, x.to("meta"))
            self.fails("QSAE_EUNSUPPORTED", "", sae.encode, x.to_sparse())
        flags = torch.tensor([True, False])
        self.same(_dlpack.as_array(flags, "x"), flags.numpy())
        self.same(_dlpack.as_array(torch._neg_view(x.detach()), "x"), -x.detach().numpy())
        out = torch.from_dlpack(qsae.from_bf16(half))
        self.assertTrue(torch.equal(out, half.float()))


class Texts(Case):
    def options(self):
        return dict(conditions=["rtn:bits=4"], tokens=1024, context=128, threads=1,
                    slices=["kind", "position"])

    def figures(self, result):
        for entry in (result["reference"], *result["conditions"]):
            entry.pop("tokens_per_second")
            entry.pop("peak_rss_bytes")
        return {key: result[key] for key in ("fingerprint", "corpus", "reference", "conditions",
                                             "slices")}

    def compare(self, text, **options):
        with mock.patch.object(tempfile, "tempdir", self.folder()):
            self.compare_in(text, options)
            self.assertEqual(os.listdir(tempfile.gettempdir()), [])

    def compare_in(self, text, options):
        expected = self.figures(qsae.evaluate(MODEL, text=TEXT, **self.options()))
        found = qsae.evaluate(MODEL, text=text, **self.options(), **options)
        shown = json.dumps(found)
        self.assertNotIn("text.jsonl", shown)
        label = f"<{type(text).__name__}>"
        worst = found["conditions"][0]["worst_documents"]["by_total"][0]
        if not isinstance(text, qsae.TextSource):
            self.assertEqual(worst["source"], label)
        found = self.figures(found)
        text = json.dumps(found).replace(json.dumps(worst["source"]), json.dumps(TEXT))
        self.assertEqual(json.loads(text), json.loads(json.dumps(expected)))

    def test_rows(self):
        self.compare(eval_rows())
        self.compare(iter(eval_rows()))

    def test_other_field(self):
        rows = [{"content": {"body": row.pop("text")}, **row} for row in eval_rows()]
        source = qsae.TextSource(rows, text_field="content.body", metadata=["kind", "id"])
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)
        a = qsae.Corpus(self.ctx, tokenizer, source, max_tokens=2000)
        b = qsae.Corpus(self.ctx, tokenizer, TEXT, max_tokens=2000)
        self.assertEqual(a.info["token_hash"], b.info["token_hash"])
        self.assertEqual(a.document(3)["metadata"], {"content": {}, **b.document(3)["metadata"]})
        self.assertEqual(a.document(3)["source"], "<list>")
        with_field = qsae.Corpus(self.ctx, tokenizer, rows, text_field="content.body",
                                 max_tokens=2000)
        self.assertEqual(with_field.info["token_hash"], b.info["token_hash"])
        only = qsae.Corpus(self.ctx, tokenizer, source, where=["kind=lang2"], max_tokens=500)
        self.assertEqual(only.document(0)["metadata"]["kind"], "lang2")

    def test_strings(self):
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)
        texts = [row["text"] for row in eval_rows()]
        a = qsae.Corpus(self.ctx, tokenizer, (text for text in texts))
        b = qsae.Corpus(self.ctx, tokenizer, TEXT)
        self.assertEqual(a.info["token_hash"], b.info["token_hash"])

    def test_refused(self):
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)

        def corpus(rows, **options):
            return qsae.Corpus(self.ctx, tokenizer, qsae.TextSource(rows, **options))

        self.fails("QSAE_EINVAL", "choose one of them", corpus, {"train": [], "test": []})
        self.fails("QSAE_EINVAL", "expected rows", corpus, 5)
        self.fails("QSAE_EINVAL", "expected rows", corpus, "one text")
        self.fails("QSAE_EINVAL", "metadata: expected a list", corpus, [], metadata="kind")
        self.fails("QSAE_EFORMAT", "<list>: row 1: expected str or a mapping", corpus, ["a", 5])
        self.fails("QSAE_EFORMAT", "<list>: row 0: expected the text under 'text'", corpus,
                   [{"body": "x"}])
        self.fails("QSAE_EFORMAT", "expected string, found int", corpus, [{"text": 5}])
        self.fails("QSAE_EFORMAT", "surrogate", corpus, ["a", "\ud800"])
        self.fails("QSAE_EINVAL", "the name of a file", corpus, [TEXT])
        self.fails("QSAE_EUNSUPPORTED", "leave it out", corpus, [{"text": "a", "b": b"c"}])
        self.fails("QSAE_EFORMAT", "'nothing'", corpus, [{"text": "a"}], metadata=["nothing"])
        with self.assertRaises(qsae.Error) as caught:
            corpus([])
        self.assertNotIn("text.jsonl", caught.exception.message)
        self.fails("QSAE_EINVAL", "text_field", qsae.Corpus, self.ctx, tokenizer,
                   qsae.TextSource(["a"], text_field="x"), text_field="y")

    def test_datasets(self):
        datasets = package("datasets")
        data = datasets.Dataset.from_list(eval_rows())
        self.compare(data)
        self.compare(data.to_iterable_dataset())
        self.fails("QSAE_EINVAL", "choose one", qsae.evaluate, MODEL,
                   text=datasets.DatasetDict({"train": data}))

    def test_data_frame(self):
        pandas = package("pandas")
        self.compare(pandas.DataFrame(eval_rows()))


class SAELens(Case):
    """Modules that SAELens makes, against themselves."""

    def module(self, architecture, seed, **extra):
        sae_lens, torch = package("sae_lens"), package("torch")
        del sae_lens
        from sae_lens.registry import get_sae_class
        cls, config = get_sae_class(architecture)
        torch.manual_seed(seed)
        fields = dict(d_in=24, d_sae=60, device="cpu", dtype="float32")
        if "transcoder" in architecture:
            fields.update(d_out=20, apply_b_dec_to_input=False)
        sae = cls(config(**{**fields, **extra}))
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.3)
                if name == "threshold":
                    parameter.abs_()
        sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
        return sae.eval()

    def check(self, architecture, **extra):
        for seed in range(3):
            module = self.module(architecture, seed, **extra)
            torch = package("torch")
            x = torch.randn(33, 24)
            with torch.no_grad():
                acts, y = module.encode(x), module(x)
            with qsae.SAE(self.ctx, module) as sae:
                self.assertEqual((sae.width, sae.features), (24, 60))
                self.assertEqual(sae.hook, "blocks.3.hook_resid_post")
                self.near(sae.encode(x), acts.numpy(), rtol=1e-4, atol=1e-5)
                self.near(sae.reconstruct(x), y.numpy(), rtol=1e-4, atol=1e-5)
                self.assertRegex(sae.info["hash"], "^[0-9a-f]{32}$")

    def test_standard(self):
        self.check("standard")
        self.check("standard", apply_b_dec_to_input=False)
        self.check("standard", normalize_activations="layer_norm")

    def test_gated(self):
        self.check("gated")

    def test_jumprelu(self):
        self.check("jumprelu")

    def test_topk(self):
        self.check("topk", k=7)
        self.check("topk", k=7, rescale_acts_by_decoder_norm=True)

    def test_matching_pursuit(self):
        self.check("matching_pursuit")

    def test_transcoders(self):
        package("sae_lens")
        for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder",
                     "jumprelu_skip_transcoder"):
            with self.subTest(name):
                self.check(name)

    def test_refused(self):
        module = self.module("standard", 0)
        with qsae.SAE(self.ctx, module) as sae:
            self.assertEqual(sae.info["path"], f"<{type(module).__name__}>")
            self.fails("QSAE_EINVAL", "expected the module itself", qsae.evaluate, MODEL,
                       saes=[sae], text=TEXT)

    def test_names(self):
        for hook in ("..", "/", "a/../../b", "x" * 300, ".", "blocks.3.hook_resid_post"):
            module = self.module("standard", 0)
            module.cfg.metadata.hook_name = hook
            with qsae.SAE(self.ctx, module) as sae:
                self.assertEqual(sae.hook, hook)

    def test_evaluate(self):
        package("sae_lens")
        from sae_lens import SAE as Module
        module = Module.load_from_disk(SAE)
        options = dict(text=TEXT, conditions=["rtn:bits=4"], tokens=512, threads=1)
        expected = qsae.evaluate(MODEL, saes=[SAE], **options)
        with qsae.SAE(self.ctx, SAE) as mine:
            for given in (module, mine, (module, "3"), (mine, "3:resid_post"), (SAE, 3)):
                found = qsae.evaluate(MODEL, saes=[given], **options)
                for a, b in ((expected["reference"], found["reference"]),
                             (expected["conditions"][0], found["conditions"][0])):
                    for key in ("layer", "site", "hash", "fvu_dim", "l0"):
                        self.assertEqual(a["saes"][0][key], b["saes"][0][key], key)


class Frames(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.result = qsae.evaluate(MODEL, saes=[SAE], text=TEXT, tokens=2048, context=128,
                                   profile="article", conditions=["rtn:bits=4", "rtn:bits=8"],
                                   slices=["kind"], threads=1)

    def setUp(self):
        package("pandas")

    def test_conditions(self):
        f = self.result.to_pandas()
        self.assertEqual(list(f["label"]), ["none"] + [c["label"]
                                                       for c in self.result["conditions"]])
        self.assertEqual(list(f["dce"][1:]), [c["dce"] for c in self.result["conditions"]])
        self.assertTrue(np.isnan(f["dce"][0]))
        self.assertEqual(f.attrs["units"]["dce"], "nats")
        self.assertEqual(f.attrs["units"]["dce_low"], "nats")
        self.assertEqual(f.attrs["units"]["dce_percent"], "%")
        self.assertEqual(f.attrs["units"]["weight_bytes"], "bytes")
        self.assertEqual(f.attrs["units"]["kl_share_worst_1pct"], "1")
        for column in ("dce", "dce_low", "kl_mean", "ce"):
            self.assertEqual(f[column].dtype, np.float64, column)
        interval = self.result["conditions"][0]["intervals"]["dce"]
        if interval:
            self.assertEqual([f["dce_low"][1], f["dce_high"][1]], interval)

    def test_saes(self):
        f = qsae.frame(self.result, "saes")
        self.assertEqual(len(f), 3)
        sae = self.result["conditions"][1]["saes"][0]
        row = f.iloc[2]
        self.assertEqual(row["noise.ratio"], sae["noise"]["ratio"])
        self.assertEqual(row["survival.mean_r"], sae["survival"]["mean_r"])
        self.assertEqual(row["name"], sae["name"])
        self.assertEqual(f.attrs["units"]["survival.survived"], "features")
        self.assertEqual(f.attrs["units"]["l0"], "features/token")

    def test_slices(self):
        f = qsae.frame(self.result, "slices")
        parts = self.result["slices"]["list"]
        self.assertEqual(len(f), 2 * len(parts))
        self.assertEqual(list(f["value"][:2]), [parts[0]["value"]] * 2)
        self.assertEqual(sorted(set(f["dimension"])), ["kind"])
        self.assertEqual(f["tokens"][0], parts[0]["tokens"])

    def test_snapshots(self):
        f = qsae.frame(self.result, "snapshots")
        self.assertEqual(len(f), len(self.result["snapshots"]))
        # Budgets of the profiles are far beyond this text.
        sae = {"name": "s", "layer": 3, "site": "resid_post", "fvu_dim": 0.25}
        reference = {"label": "none", "ce": 2.0, "saes": [sae]}
        condition = {"label": "q", "ce": 2.5, "dce": 0.5,
                     "saes": [{**sae, "fvu_dim": 0.5, "noise": {"ratio": 0.75}}]}
        f = qsae.frame({"format": "qsae-result", "snapshots": [
            {"budget": 10, "tokens": tokens, "chunks": 1, "reference": reference,
             "conditions": [condition]} for tokens in (12, 24)]}, "snapshots")
        self.assertEqual(list(f["tokens"]), [12, 12, 24, 24])
        self.assertEqual(list(f["label"]), ["none", "q"] * 2)
        self.assertEqual(list(f["fvu_dim"]), [0.25, 0.5] * 2)
        self.assertEqual((f["dce"][1], f["noise.ratio"][3]), (0.5, 0.75))
        self.assertTrue(np.isnan(f["dce"][0]))

    def test_features(self):
        with qsae.Audit(self.ctx, MODEL, TEXT, [SAE], ["rtn:bits=4"], tokens=512,
                        top_contexts=1) as audit:
            audit.run()
            features = audit.features()
        f = qsae.frame(features, "features")
        self.assertEqual(len(f), len(features))
        self.assertEqual(list(f["feature"]), [x["feature"] for x in features])
        r = [x["conditions"][0]["r"] for x in features]
        self.same(f["q_r"].to_numpy(), np.array([np.nan if v is None else v for v in r]))
        self.assertEqual(set(f["q_band"]), {x["conditions"][0]["band"] for x in features})
        self.assertEqual(len(set(f.columns)), len(f.columns))
        self.fails("QSAE_EINVAL", "Audit.features()", qsae.frame, self.result, "features")

    def test_refused(self):
        self.fails("QSAE_EINVAL", "'models' is unknown", qsae.frame, self.result, "models")
        self.fails("QSAE_EINVAL", "expected a result document", qsae.frame, {"format": "x"})
        with mock.patch.dict(sys.modules, {"pandas": None}):
            self.fails("QSAE_EUNSUPPORTED", "pandas", qsae.frame, self.result)


if __name__ == "__main__":
    unittest.main()
