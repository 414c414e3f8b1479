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

    def test_streamed(self):
        ids = np.arange(24).reshape(2, 12)
        with qsae.Model(self.ctx, MODEL, quantizer="nf4") as model:
            resident = model.forward(ids, logits=True)
        with qsae.Model(self.ctx, MODEL, quantizer="nf4", memory="streamed") as model:
            streamed = model.forward(ids, logits=True)
        self.assertTrue(np.array_equal(resident.logits, streamed.logits))
        with self.assertRaisesRegex(qsae.Error, "memory"):
            qsae.Model(self.ctx, MODEL, memory="mapped")

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
        self.fails("QSAE_EINVAL", "q9_0", qsae.Model, self.ctx, MODEL, kv="q9_0")
        self.fails("QSAE_EINVAL", "nf9", qsae.Model, self.ctx, MODEL, quantizer="nf9")
        self.fails("QSAE_EINVAL", "f32, bf16", qsae.Model, self.ctx, MODEL, compute="f16")
        self.fails("QSAE_EINVAL", "sdpa", qsae.Model, self.ctx, MODEL, attn="flash")
        self.fails("QSAE_ENOENT", "nothing", qsae.Model, self.ctx, "/nothing")


class Compressed(Case):
    """Key/value codes, stored matrices, errors and folders written under a condition."""

    def test_kv(self):
        ids = np.arange(40).reshape(2, 20)
        plain = qsae.Model(self.ctx, MODEL).forward(ids).nll
        with qsae.Model(self.ctx, MODEL, kv="q8_0") as model:
            self.assertEqual(model.cost["condition"], "none+kv:k=q8_0,v=q8_0,sink=0")
            self.assertEqual(model.cost["kv_bits_per_value"], 8.5)
            both = model.forward(ids).nll
        with qsae.Model(self.ctx, MODEL, quantizer="nf4", kv="k=q4_0,sink=2") as model:
            self.assertRegex(model.cost["condition"], r"^nf4:.*\+kv:k=q4_0,v=none,sink=2$")
        self.assertGreater(np.abs(both - plain).max(), 0)
        self.assertLess(np.abs(both - plain).mean(), 0.05)

    def test_matrix(self):
        with qsae.Weights(self.ctx, MODEL) as weights, \
                qsae.Tensors(self.ctx, MODEL) as tensors:
            name = "model.layers.1.mlp.up_proj"
            one = weights.matrix(name).decode()
            self.same(one, tensors.matrix(name + ".weight").decode())
            self.assertEqual(weights.matrix("model.embed_tokens").shape, (2048, 128))
            self.fails("QSAE_ENOENT", "up_proj", weights.matrix, "model.layers.99.mlp.up_proj")
            self.fails("QSAE_ENOENT", "nothing", tensors.matrix, "nothing")

    def test_errors(self):
        with qsae.Weights(self.ctx, MODEL) as weights:
            errors = weights.errors("rtn:bits=4@only=mlp")
            self.assertEqual(len(errors), 6 * 7 + 1)
            for e in errors:
                exact = not (e["module"] or "").startswith("mlp.")
                self.assertEqual(e["frobenius_relative"] == 0, exact, e)
            found = next(e for e in errors if (e["layer"], e["module"]) == (2, "mlp.up_proj"))
            weight = weights.matrix("model.layers.2.mlp.up_proj").decode()
            matrix = qsae.Quantizer(self.ctx, "rtn:bits=4").encode(weight)
            self.assertEqual(matrix.error(weight)["sqnr_db"], found["sqnr_db"])
            difference = (matrix.decode() - weight).astype(np.float64)
            self.assertAlmostEqual(found["frobenius_relative"], np.linalg.norm(difference)
                                   / np.linalg.norm(weight.astype(np.float64)), 12)
            self.assertEqual(found["max_abs"], np.abs(difference).max())

    def test_save(self):
        folder = os.path.join(self.folder(), "saved")
        ids = np.arange(30)[None]
        with qsae.Weights(self.ctx, MODEL) as weights:
            weights.save(folder, "nf4:rules=torch")
            self.fails("QSAE_EINVAL", "empty", weights.save, folder, "nf4")
            expected = qsae.Model(self.ctx, weights, compute="bf16",
                                  quantizer="nf4:rules=torch").forward(ids, logits=True).logits
        with qsae.Weights(self.ctx, folder) as saved:
            self.assertEqual(saved.config["storage"], "bitsandbytes")
            found = qsae.Model(self.ctx, saved, compute="bf16").forward(ids, logits=True).logits
        self.same(found, expected)
