# SPDX-License-Identifier: BSD-2-Clause
import os
import signal
import threading

import numpy as np

from support import MODEL, Case, data, nll_of, read_safetensors

import qsae

PLACE = (1, "resid_post")


class Reference(Case):
    """Against transformers' results for random checkpoints."""

    def check(self, name, compute, run, rtol, **arguments):
        folder = data("models", name)
        reference = read_safetensors(os.path.join(folder, "reference.safetensors"))
        ids = reference["ids"]
        with qsae.Model(self.ctx, folder, compute=compute, **arguments) as model:
            last = model.layers - 1
            out = model.forward(ids, taps=[(0, "resid_post"), (last, "resid_post")], logits=True)
        for found, key in ((out.logits, "logits"), (out.nll, "nll"),
                           (out.taps[0, "resid_post"], "resid.0"),
                           (out.taps[last, "resid_post"], f"resid.{last}")):
            expected = reference[f"{run}.{key}"].astype(np.float64)
            self.assertEqual(found.shape, expected.shape)
            error = np.sqrt(np.mean((found - expected)**2) / np.mean(expected**2))
            self.assertLess(error, rtol, f"{name} {key}")

    def test_llama(self):
        self.check("llama_gqa", "f32", "oracle", 1e-5)

    def test_gemma(self):
        self.check("gemma3_types", "f32", "oracle", 1e-5)

    def test_bf16(self):
        for attn in ("sdpa", "eager"):
            self.check("llama_gqa", "bf16", "bf16." + attn, 5e-3, attn=attn)


class Bundled(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = qsae.Model(cls.ctx, MODEL)
        cls.ids = np.random.default_rng(5).integers(4, cls.model.vocab, (2, 20))

    def test_description(self):
        config = self.model.config
        self.assertEqual(config["type"], "gemma3_text")
        self.assertEqual((self.model.layers, self.model.width, self.model.vocab), (6, 128, 2048))
        self.assertEqual((config["heads"], config["kv_heads"], config["head_dim"]), (4, 2, 32))
        self.assertEqual((config["tied"], config["dtype"]), (True, "BF16"))
        self.assertNotIn("hash", config)
        self.assertRegex(self.model.hash, "^[0-9a-f]{32}$")
        cost = self.model.cost
        self.assertEqual((cost["condition"], cost["compute"], cost["bits_per_weight"]),
                         ("none", "f32", 16))
        self.assertEqual(cost["weight_bytes"], 2 * config["parameters"])

    def test_nll_and_logits(self):
        out = self.model.forward(self.ids, logits=True)
        self.assertEqual(out.nll.shape, (2, 19))
        self.assertEqual(out.logits.shape, (2, 20, 2048))
        self.near(out.nll.reshape(-1), nll_of(out.logits[:, :-1], self.ids[:, 1:]), 1e-5, 1e-5)
        self.assertEqual(out.taps, {})
        self.same(self.model.forward(self.ids).nll, out.nll)

    def test_labels(self):
        labels = np.full((2, 20), -100)
        labels[0, 3], labels[1, 19] = 7, 8
        out = self.model.forward(self.ids, labels=labels, logits=True)
        self.assertEqual(out.nll.shape, (2, 20))
        self.assertEqual(np.argwhere(~np.isnan(out.nll)).tolist(), [[0, 3], [1, 19]])
        self.near(out.nll.reshape(-1), nll_of(out.logits, labels), 1e-5, 1e-5)

    def test_one_sequence(self):
        one = self.model.forward(self.ids[0], taps=[PLACE])
        self.assertEqual(one.nll.shape, (1, 19))
        self.assertEqual(one.taps[PLACE].shape, (1, 20, 128))
        self.same(one.nll[0], self.model.forward(self.ids).nll[0])

    def test_taps(self):
        places = [(0, "resid_post"), "blocks.3.hook_resid_post", (5, "resid_post")]
        out = self.model.forward(self.ids, taps=places)
        self.assertEqual(list(out.taps), places)
        alone = self.model.forward(self.ids, taps=places[1:2], nll=False)
        self.assertIsNone(alone.nll)
        self.assertIsNone(alone.logits)
        self.same(alone.taps[places[1]], out.taps[places[1]])
        prefix = self.model.forward(self.ids[:, :7], taps=places)
        for place in places:
            self.near(prefix.taps[place], out.taps[place][:, :7], 1e-4, 1e-4)

    def test_edit_that_changes_nothing(self):
        seen = []
        out = self.model.forward(self.ids, edits={PLACE: lambda rows, info: seen.append(info)})
        self.same(out.nll, self.model.forward(self.ids).nll)
        self.assertEqual(seen, [qsae.EditInfo(1, "resid_post", (2, 20, 128))])
        same = self.model.forward(self.ids, edits={PLACE: lambda rows, info: rows})
        self.same(same.nll, out.nll)

    def test_edits(self):
        before = self.model.forward(self.ids, taps=[PLACE]).taps[PLACE]
        kept = []

        def in_place(rows, info):
            kept.append(rows)
            rows *= 0.5

        def replaced(rows, info):
            return rows.reshape(info.shape).astype(np.float64) * 0.5

        a = self.model.forward(self.ids, taps=[PLACE], edits={PLACE: in_place})
        b = self.model.forward(self.ids, taps=[PLACE], edits={PLACE: replaced})
        self.same(a.taps[PLACE], before * np.float32(0.5))
        self.same(b.nll, a.nll)
        self.assertFalse((a.nll == self.model.forward(self.ids).nll).all())
        self.same(kept[0].reshape(before.shape), before * np.float32(0.5))  # still readable

    def test_splice_by_layer(self):
        # Putting a layer's own rows in place of another input's makes the rest of the pass its own.
        other = np.random.default_rng(6).integers(4, 2048, (2, 20))
        rows = self.model.forward(self.ids, taps=[(4, "resid_post")], logits=True)
        out = self.model.forward(other, logits=True, labels=np.zeros((2, 20), np.int32),
                                 edits={(4, "resid_post"): lambda r, i: rows.taps[4, "resid_post"]})
        self.same(out.logits, rows.logits)

    def test_edits_may_use_an_sae(self):
        sae = qsae.SAE(self.ctx, os.path.join(MODEL, "..", "tiny-gemma3-sae"))
        place = sae.hook
        out = self.model.forward(self.ids, edits={place: lambda rows, info: sae.reconstruct(rows)},
                                 taps=[place])
        plain = self.model.forward(self.ids, taps=[place])
        self.same(out.taps[place], sae.reconstruct(plain.taps[place]))

    def test_exceptions_of_edits(self):
        def divide(rows, info):
            return 1 // 0

        self.assertRaises(ZeroDivisionError, self.model.forward, self.ids, edits={PLACE: divide})
        self.fails("QSAE_EINVAL", "expected rows of shape", self.model.forward, self.ids,
                   edits={PLACE: lambda rows, info: rows[1:]})
        self.fails("QSAE_EBUSY", "still running", self.model.forward, self.ids,
                   edits={PLACE: lambda rows, info: self.model.forward(self.ids) and None})
        self.fails("QSAE_EBUSY", "still running", self.model.forward, self.ids,
                   edits={PLACE: lambda rows, info: self.model.close()})
        self.assertFalse(np.isnan(self.model.forward(self.ids).nll).any())

    def test_interrupt_in_an_edit(self):
        old = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, old)
        self.assertRaises(KeyboardInterrupt, self.model.forward, self.ids,
                          edits={PLACE: lambda rows, info: signal.raise_signal(signal.SIGINT)})
        self.assertFalse(np.isnan(self.model.forward(self.ids).nll).any())

    def test_edits_run_in_the_calling_thread(self):
        seen = []
        self.model.forward(self.ids, edits={
            PLACE: lambda rows, info: seen.append(threading.current_thread())})
        self.assertEqual(seen, [threading.current_thread()])

    def test_refusals(self):
        forward = self.model.forward
        self.fails("QSAE_EINVAL", "2048", forward, [[5, 2048]])
        self.fails("QSAE_EINVAL", "-1", forward, [[5, -1]])
        self.fails("QSAE_EINVAL", "fit", forward, [[5, 2**40]])
        self.fails("QSAE_EINVAL", "integers", forward, [[5.0, 6.0]])
        self.fails("QSAE_EINVAL", "n_seq", forward, [[[5]]])
        self.fails("QSAE_EINVAL", "labels", forward, [[5, 6]], labels=[[1]])
        self.fails("QSAE_EUNSUPPORTED", "resid_pre", forward, [[5]], taps=[(0, "resid_pre")])
        self.fails("QSAE_EUNSUPPORTED", "nonsense", forward, [[5]], taps=["nonsense"])
        self.fails("QSAE_EINVAL", "(layer, site)", forward, [[5]], taps=[3])
        self.fails("QSAE_EINVAL", "6", forward, [[5]], taps=[(6, "resid_post")])


class Conditions(Case):
    def test_quantizer(self):
        ids = np.arange(4, 40)[np.newaxis]
        plain = qsae.Model(self.ctx, MODEL)
        rtn = qsae.Model(self.ctx, MODEL, quantizer="rtn:bits=4@only=mlp")
        self.assertGreater(rtn.cost["quantized_tensors"], 0)
        self.assertEqual(rtn.cost["quantized_tensors"], 3 * rtn.layers)
        self.assertLess(rtn.cost["weight_bytes"], plain.cost["weight_bytes"])
        self.assertFalse((rtn.forward(ids).nll == plain.forward(ids).nll).all())
        as_object = qsae.Model(self.ctx, MODEL, quantizer=qsae.Quantizer(self.ctx, "rtn:bits=4"))
        as_text = qsae.Model(self.ctx, MODEL, quantizer="rtn:bits=4")
        self.same(as_object.forward(ids).nll, as_text.forward(ids).nll)
        self.assertTrue(qsae.Model(self.ctx, MODEL, quantizer="llm.int8").cost["batch_dependent"])

    def test_shared_weights(self):
        weights = qsae.Weights(self.ctx, MODEL)
        models = [qsae.Model(self.ctx, weights, quantizer=q) for q in (None, "nf4")]
        self.assertEqual(weights.config["layers"], 6)
        self.assertEqual(weights.hash, models[0].hash)
        weights.close()
        ids = np.arange(4, 24)[np.newaxis]
        self.same(models[0].forward(ids).nll, qsae.Model(self.ctx, MODEL).forward(ids).nll)

    def test_progress(self):
        lines = []
        qsae.Model(self.ctx, MODEL, quantizer="nf4", progress=lambda *line: lines.append(line))
        self.assertTrue(lines)
        done, total, unit, phase = lines[-1]
        self.assertEqual((done, unit), (total, "tensors"))
        self.assertIsInstance(phase, str)
        with self.assertRaises(LookupError):
            qsae.Model(self.ctx, MODEL, quantizer="nf4", progress=lambda *line: {}["stop"])

    def test_refusals(self):
        self.fails("QSAE_EUNSUPPORTED", "kv", qsae.Model, self.ctx, MODEL, kv="q8_0")
        self.fails("QSAE_EINVAL", "nf9", qsae.Model, self.ctx, MODEL, quantizer="nf9")
        self.fails("QSAE_EINVAL", "f32, bf16", qsae.Model, self.ctx, MODEL, compute="f16")
        self.fails("QSAE_EINVAL", "sdpa", qsae.Model, self.ctx, MODEL, attn="flash")
        self.fails("QSAE_ENOENT", "nothing", qsae.Model, self.ctx, "/nothing")
