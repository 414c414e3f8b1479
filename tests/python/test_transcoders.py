# SPDX-License-Identifier: BSD-2-Clause
"""Layers that belong together, and audits of SAEs that write another place than they read."""

import json
import os
import shutil

import numpy as np

from support import MODEL, Case, data, read_json, read_safetensors, write_safetensors

import qsae

FILES = data("transcoders")
SETTINGS = {"text": os.path.join(FILES, "text.txt"), "context": 32, "tokens": 128, "bos": "none",
            "compute": "f32", "threads": 2}


class Layers(Case):
    def test_whole(self):
        """A CLT by the formulas of its files."""
        folder = os.path.join(FILES, "clt")
        layers = qsae.SAELayers(self.ctx, folder)
        self.assertEqual((layers.kind, layers.format, layers.layers, layers.width, layers.features),
                         ("clt", "circuit-tracer-clt", list(range(6)), 128, 48))
        rng = np.random.default_rng(1)
        xs = [rng.standard_normal((2, 5, 128)).astype(np.float32) for _ in layers]
        acts, ys = layers.encode(xs), layers.reconstruct(xs)
        want = [0.0] * 6
        for layer, x in enumerate(xs):
            t = {}
            for kind in "enc", "dec":
                t.update(read_safetensors(f"{folder}/W_{kind}_{layer}.safetensors"))
            t = {name.rsplit("_", 1)[0]: v.astype(np.float64) for name, v in t.items()}
            h = x @ t["W_enc"].T + t["b_enc"]
            a = np.where(h > t["threshold"], h, 0)
            np.testing.assert_allclose(acts[layer], a, atol=1e-5)
            want[layer] = want[layer] + t["b_dec"]
            for to in range(layer, 6):
                want[to] = want[to] + a @ t["W_dec"][:, to - layer]
        for y, w in zip(ys, want):
            np.testing.assert_allclose(y, w, atol=1e-5)
        for to in range(6):
            given = [a if i <= to else None for i, a in enumerate(acts)]
            y = layers.decode([None if a is None else a.reshape(10, -1) for a in given], to)
            self.same(y.reshape(2, 5, 128), ys[to])
        self.assertEqual(layers[3].hook, "blocks.3.hook_resid_mid")
        self.fails("QSAE_EUNSUPPORTED", "cross-layer", layers[3].decode, acts[3])
        self.fails("QSAE_EINVAL", "6 layers", layers.reconstruct, xs[:5])
        self.fails("QSAE_EINVAL", "layer 2: indptr", layers.decode,
                   [acts[0].reshape(10, -1), acts[1].reshape(10, -1)] + [None] * 4, 2)
        lent = layers[0]
        layers.close()
        self.fails("QSAE_EINVAL", "closed", lent.encode, xs[0])

    def test_missing_layer(self):
        folder = self.folder()
        shutil.copytree(os.path.join(FILES, "clt"), folder, dirs_exist_ok=True)
        for kind in "enc", "dec":
            os.remove(f"{folder}/W_{kind}_0.safetensors")
        self.fails("QSAE_EMISMATCH", "all layers from 0 on", qsae.SAELayers, self.ctx, folder)


class Audits(Case):
    def test_conditions(self):
        """Of a condition that shares layers with the reference the figures are those of its rows."""
        spec = "rtn:bits=4@layers=3-5"
        saes = [os.path.join(FILES, name) for name in ("skip", "clt", "head")]
        result = qsae.evaluate(MODEL, saes=saes, conditions=[spec], splice=True, **SETTINGS)
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)
        corpus = qsae.Corpus(self.ctx, tokenizer, SETTINGS["text"], context=32, max_tokens=128,
                             bos="none")
        ids = np.stack([corpus[k].ids for k in range(4)])
        layers = qsae.SAELayers(self.ctx, saes[1])
        skip = qsae.SAE(self.ctx, saes[0])
        taps = [(layer, site) for layer in range(6) for site in ("resid_mid", "mlp_out", "mlp_in")]
        where = np.ones((4, 32), bool)
        where[:, 0] = False
        for who, model in ((result["reference"], qsae.Model(self.ctx, MODEL)),
                           (result["conditions"][0], qsae.Model(self.ctx, MODEL, quantizer=spec))):
            rows = model.forward(ids, taps=taps).taps

            def fvu(target, y):
                target, y = (v[where].astype(np.float64) for v in (target, y))
                return ((target - y)**2).sum() / ((target - target.mean(0))**2).sum()

            got = who["saes"][0]
            self.assertEqual((got["input_layer"], got["input_site"], got["layer"], got["site"]),
                             (2, "mlp_in", 3, "mlp_out"))
            self.near(got["fvu_dim"], fvu(rows[3, "mlp_out"], skip.reconstruct(rows[2, "mlp_in"])),
                      1e-9)
            ys = layers.reconstruct([rows[layer, "resid_mid"] for layer in range(6)])
            for layer, y in enumerate(ys):
                self.near(who["saes"][1 + layer]["fvu_dim"], fvu(rows[layer, "mlp_out"], y), 1e-9)
            nll = self.live(model, ids, layers, where)
            self.near(who["sae_layers"][0]["splice"]["ce_sae"], nll, 1e-6)
            y = skip.reconstruct(rows[2, "mlp_in"])
            nll = model.forward(ids, edits={(3, "mlp_out"): qsae.edits.replace(y, where=where)}).nll
            self.near(got["splice"]["ce_sae"], nll[:, 1:].astype(np.float64).mean(), 1e-6)

    def near(self, got, want, tolerance):
        self.assertLessEqual(abs(got - want), tolerance * max(1, abs(want)), (got, want))

    @staticmethod
    def live(model, ids, layers, where):
        """Mean nll with every MLP replaced by the CLT on the rows that the edited pass has."""
        n = ids.size
        acts = [None] * 6

        def read(layer):
            def act(rows, info):
                acts[layer] = layers[layer].encode(rows)
            return act

        def write(layer):
            def act(rows, info):
                y = layers.decode(acts, layer)
                return np.where(where.reshape(n, 1), y, rows)
            return act

        edits = {(layer, "resid_mid"): read(layer) for layer in range(6)}
        edits |= {(layer, "mlp_out"): write(layer) for layer in range(6)}
        return model.forward(ids, edits=edits).nll[:, 1:].astype(np.float64).mean()

    def test_a_set_of_transcoders(self):
        """Files of one layer each are spliced in together."""
        folder = self.folder()
        rng = np.random.default_rng(5)
        for layer in (1, 4):
            sizes = {"W_enc": (8, 128), "W_dec": (8, 128), "b_enc": 8, "b_dec": 128,
                     "W_skip": (128, 128)}
            write_safetensors(f"{folder}/layer_{layer}.safetensors", {
                name: (rng.standard_normal(size) / 9).astype(np.float32)
                for name, size in sizes.items()})
        self.fails("QSAE_EINVAL", "SITE_OUT", qsae.evaluate, MODEL, saes=[folder + "@0:mlp_in"],
                   **SETTINGS)
        result = qsae.evaluate(MODEL, saes=[folder + "@0:mlp_in:mlp_out"], splice=True, **SETTINGS)
        part = result["reference"]["sae_layers"][0]
        self.assertEqual((part["kind"], part["layers"], part["first"]), ("transcoders", [1, 4], 0))
        self.assertEqual([s["architecture"] for s in result["reference"]["saes"]],
                         ["skip_transcoder"] * 2)
        self.assertNotEqual(part["splice"]["ce_sae"], part["splice"]["ce"])

    def test_hugging_face_names(self):
        """SAELens' hook_mlp_in of Gemma Scope 2 transcoders is the input of the MLP."""
        folder = self.folder()
        source = os.path.join(FILES, "skip")
        shutil.copy(os.path.join(source, "sae_weights.safetensors"), folder)
        config = read_json(os.path.join(source, "cfg.json"))
        config["metadata"].update(
            hook_name="blocks.2.hook_mlp_in", hook_name_out="blocks.3.hook_mlp_out",
            hf_hook_name="model.layers.2.pre_feedforward_layernorm.output")
        with open(os.path.join(folder, "cfg.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        got, want = qsae.evaluate(MODEL, saes=[folder, source], **SETTINGS)["reference"]["saes"]
        self.assertEqual((got["input_site"], got["fvu_dim"]), ("mlp_in", want["fvu_dim"]))

    def test_features_of_layers(self):
        audit = qsae.Audit(self.ctx, MODEL, saes=[os.path.join(FILES, "clt")], top_contexts=2,
                           **{k: v for k, v in SETTINGS.items() if k != "threads"})
        audit.run()
        lines = list(audit.features(5))
        self.assertEqual([line["feature"] for line in lines], list(range(8)))
        self.assertEqual({line["layer"] for line in lines}, {5})
        self.assertGreater(lines[0]["encoder_norm"], 0)
        self.assertIsNone(lines[0]["decoder_norm"])
