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


class Processing(Case):
    """Values are compared with TransformerLens' in tests/model/process.c."""

    def test_steps(self):
        folder = data("models", "gpt2_small")
        ids = np.arange(20)
        plain = qsae.Model(self.ctx, folder)
        want = plain.forward(ids, taps=[(1, "resid_post")], logits=True)
        with qsae.Model(self.ctx, folder, process="tl") as model:
            out = model.forward(ids, taps=[(1, "resid_post")], logits=True)
            self.assertFalse(model.config["tied"])
            self.assertNotEqual(model.hash, plain.hash)
        self.near(out.nll, want.nll, 1e-4, 1e-4)
        self.near(out.logits, want.logits - want.logits.mean(-1, keepdims=True), 1e-4, 1e-4)
        self.assertLess(np.abs(out.taps[1, "resid_post"].mean(-1)).max(), 1e-5)

    def test_weights(self):
        folder = data("models", "gpt2_small")
        stored = qsae.Weights(self.ctx, folder)
        folded = stored.processed("fold_value_biases,fold_ln")
        self.assertEqual((stored.processing, folded.processing), ("", "fold_ln,fold_value_biases"))
        self.assertEqual(stored.processed("none").hash, stored.hash)
        stored.close()
        head = folded.matrix("lm_head").decode()
        self.assertLess(np.abs(head.mean(-1)).max(), 1e-6)
        with self.assertRaises(qsae.Error):
            qsae.Weights(self.ctx, folder, process="fold")
        with self.assertRaises(qsae.Error):
            qsae.Model(self.ctx, folded, process="tl")
        with qsae.Model(self.ctx, folded, quantizer="rtn:bits=8,axis=tl") as model:
            self.assertTrue(np.isfinite(model.forward(np.arange(9)).nll).all())


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

    def test_nothing_edited_is_nothing_changed(self):
        sae = qsae.SAE(self.ctx, os.path.join(MODEL, "..", "tiny-gemma3-sae"))
        plain = self.model.forward(self.ids, logits=True)
        spliced = self.model.forward(
            self.ids, edits={sae.hook: lambda rows, info: sae.intervene(rows, {})}, logits=True)
        self.same(spliced.logits, plain.logits)
        steered = self.model.forward(
            self.ids, edits={sae.hook: lambda r, info: sae.intervene(r, [(3, "add", 4.0)])},
            logits=True)
        self.assertFalse((steered.logits == plain.logits).all())

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
        self.fails("QSAE_EUNSUPPORTED", "attn_in", forward, [[5]], taps=[(0, "attn_in")])
        self.fails("QSAE_EUNSUPPORTED", "pos_embed", forward, [[5]], taps=["hook_pos_embed"])
        self.fails("QSAE_EINVAL", "(layer, 'z')", forward, [[5]], taps=["z"])
        self.fails("QSAE_EINVAL", "layer -1", forward, [[5]], taps=[(-1, "z")])
        self.fails("QSAE_EINVAL", "-1 or 0 for embed", forward, [[5]], taps=[(1, "embed")])
        self.fails("QSAE_EUNSUPPORTED", "nonsense", forward, [[5]], taps=["nonsense"])
        self.fails("QSAE_EINVAL", "(layer, site)", forward, [[5]], taps=[3])
        self.fails("QSAE_EINVAL", "6", forward, [[5]], taps=[(6, "resid_post")])


class Sites(Case):
    """Every place of the bundled model, and the ready-made edits."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = qsae.Model(cls.ctx, MODEL)
        cls.ids = np.random.default_rng(3).integers(4, 2048, (2, 11))

    def test_names_and_widths(self):
        sites = self.model.sites
        self.assertEqual(set(sites), {
            "resid_post", "resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "mlp_in", "embed",
            "final_norm", "ln2_normalized", "final_normalized", "ln1_normalized", "mlp_post"})
        config = self.model.config
        self.assertEqual(sites["z"], config["heads"] * config["head_dim"])
        self.assertEqual(sites["mlp_post"], config["mlp_width"])
        self.assertEqual(sites["attn_out"], config["width"])
        places = [(3, site) for site in sites if not site.startswith(("embed", "final"))]
        places += ["embed", (-1, "final_norm"), "ln_final.hook_normalized"]
        out = self.model.forward(self.ids, taps=places)
        self.assertEqual(list(out.taps), places)
        for place, rows in out.taps.items():
            name = {"ln_final.hook_normalized": "final_normalized"}.get(place, place)
            self.assertEqual(rows.shape, (2, 11, sites[name if isinstance(name, str) else name[1]]))
            self.same(rows, self.model.forward(self.ids, taps=[place], nll=False).taps[place])

    def test_the_stream_is_the_sum(self):
        taps = self.model.forward(self.ids, taps=[
            (2, s) for s in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")]).taps
        self.same(taps[2, "resid_mid"], taps[2, "resid_pre"] + taps[2, "attn_out"])
        self.same(taps[2, "resid_post"], taps[2, "resid_mid"] + taps[2, "mlp_out"])

    def test_names_of_other_libraries(self):
        same = {(1, "z"): ("blocks.1.attn.hook_z", "model.layers.1.self_attn.o_proj.input"),
                (1, "attn_out"): ("blocks.1.hook_attn_out",
                                  "model.layers.1.post_attention_layernorm.output"),
                (1, "mlp_out"): ("blocks.1.hook_mlp_out",
                                 "model.layers.1.post_feedforward_layernorm.output"),
                (0, "embed"): ("hook_embed", "model.embed_tokens.output")}
        for place, names in same.items():
            taps = self.model.forward(self.ids, taps=[place, *names], nll=False).taps
            for name in names:
                self.same(taps[name], taps[place])
        # Gemma's MLP module ends before the norm behind it.
        self.fails("QSAE_EUNSUPPORTED", "no such place", self.model.forward, self.ids,
                   taps=["model.layers.1.mlp.output"])

    def test_edits_at_two_sites_and_layers(self):
        out = self.model.forward(self.ids, taps=[(1, "attn_out"), (4, "z"), (1, "resid_mid"),
                                                 (1, "resid_pre")],
                                 edits={(4, "z"): qsae.edits.zero(), (1, "attn_out"):
                                        lambda rows, info: rows * np.float32(0.5)})
        plain = self.model.forward(self.ids, taps=[(1, "attn_out")])
        self.same(out.taps[1, "attn_out"], plain.taps[1, "attn_out"] * np.float32(0.5))
        self.same(out.taps[1, "resid_mid"], out.taps[1, "resid_pre"] + out.taps[1, "attn_out"])
        self.assertFalse(out.taps[4, "z"].any())
        self.assertFalse((out.nll == plain.nll).all())

    def test_zero_and_mean(self):
        where = np.arange(11)[np.newaxis] % 2 + np.zeros((2, 1)) == 0
        for place in ((2, "mlp_out"), (2, "z"), (5, "mlp_post"), "embed"):
            plain = self.model.forward(self.ids, taps=[place]).taps[place]
            vector = plain.mean((0, 1))
            for edit, value in ((qsae.edits.zero, 0), (qsae.edits.mean, vector)):
                arguments = () if edit is qsae.edits.zero else (vector,)
                out = self.model.forward(self.ids, taps=[place], edits={place: edit(*arguments)})
                self.same(out.taps[place], np.broadcast_to(np.float32(value), plain.shape))
                some = self.model.forward(self.ids, taps=[place],
                                          edits={place: edit(*arguments, where=where)}).taps[place]
                self.same(some, np.where(where[..., None], np.float32(value), plain))

    def test_add_and_replace(self):
        place = (3, "resid_mid")
        plain = self.model.forward(self.ids, taps=[place, (3, "resid_post")])
        vector = np.linspace(-1, 1, 128)
        out = self.model.forward(self.ids, taps=[place],
                                 edits={place: qsae.edits.add(vector, scale=0.5)})
        self.same(out.taps[place], plain.taps[place] + np.float32(0.5) * vector.astype(np.float32))
        other = np.random.default_rng(6).integers(4, 2048, (2, 11))
        moved = self.model.forward(other, taps=[(3, "resid_post")], edits={
            place: qsae.edits.replace(plain.taps[place])}).taps[3, "resid_post"]
        self.same(moved, plain.taps[3, "resid_post"])

    def test_splice(self):
        sae = qsae.SAE(self.ctx, os.path.join(MODEL, "..", "tiny-gemma3-sae"))
        by_hand = self.model.forward(self.ids, edits={
            sae.hook: lambda rows, info: sae.reconstruct(rows)})
        out = self.model.forward(self.ids, edits={sae.hook: qsae.edits.splice(sae)})
        self.same(out.nll, by_hand.nll)
        none = self.model.forward(self.ids, edits={
            sae.hook: qsae.edits.splice(sae, where=np.zeros((2, 11), bool))})
        self.same(none.nll, self.model.forward(self.ids).nll)

    def test_refused_edits(self):
        for edit, part in ((qsae.edits.mean(np.zeros(5)), "expected shape (128,) at z"),
                           (qsae.edits.add(np.zeros((128, 1))), "vector"),
                           (qsae.edits.replace(np.zeros((2, 11, 64))), "(2, 11, 128)"),
                           (qsae.edits.zero(np.ones((2, 11))), "booleans"),
                           (qsae.edits.zero(np.ones((2, 10), bool)), "(2, 11)")):
            self.fails("QSAE_EINVAL", part, self.model.forward, self.ids, edits={(0, "z"): edit})


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
