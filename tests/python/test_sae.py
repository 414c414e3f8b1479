# SPDX-License-Identifier: BSD-2-Clause
import os

import numpy as np

from support import SAE, Case, data, read_json, read_safetensors

import qsae


def fixture(name):
    return data("saes", name), read_safetensors(data("saes", name + ".expected.safetensors"))


class Architectures(Case):
    def test_standard(self):
        path, expected = fixture("standard")
        p, x = read_safetensors(os.path.join(path, "sae_weights.safetensors")), expected["x"]
        sae = qsae.SAE(self.ctx, path)
        acts = np.maximum((x - p["b_dec"]).astype(np.float64) @ p["W_enc"] + p["b_enc"], 0)
        self.near(sae.encode(x), acts, 1e-5, 1e-5 * np.abs(x).max())
        self.near(sae.reconstruct(x), acts @ p["W_dec"] + p["b_dec"], 1e-5, 1e-4 * np.abs(x).max())

    def test_topk(self):
        path, expected = fixture("topk")
        acts = qsae.SAE(self.ctx, path).encode(expected["x"])
        self.assertTrue(((acts != 0) == (expected["oracle.acts"] != 0)).all())
        self.assertLessEqual((acts != 0).sum(1).max(), 8)

    def test_all_of_the_reference(self):
        """Every fixture that opens as its folder names it: active sets exactly, values closely."""
        entries = [e for e in read_json(data("saes", "saes.json"))["saes"]
                   if e["format"] == "saelens" and e["path"] == e["name"]]
        self.assertGreater(len(entries), 15)
        for entry in entries:
            with self.subTest(entry["name"]):
                path, expected = fixture(entry["name"])
                x = expected["x"]
                with qsae.SAE(self.ctx, path) as sae:
                    self.assertEqual((sae.width, sae.features), (entry["d_in"], entry["d_sae"]))
                    acts, recon = sae.encode(x), sae.reconstruct(x)
                scale = np.maximum(1, np.linalg.norm(x, axis=1, keepdims=True))
                self.assertTrue(((acts != 0) == (expected["oracle.acts"] != 0)).all())
                self.assertLess((np.abs(acts - expected["oracle.acts"]) / scale).max(), 1e-4)
                self.assertLess((np.abs(recon - expected["oracle.recon"]) / scale).max(), 1e-4)


    def test_geometry(self):
        path, _ = fixture("gated")
        p = {k: v.astype(np.float64) for k, v in
             read_safetensors(os.path.join(path, "sae_weights.safetensors")).items()}
        enc, dec = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in
                    (p["W_enc"].T, p["W_dec"]))
        with qsae.SAE(self.ctx, path) as sae:
            self.near(sae.geometry("encoder_norm"), np.linalg.norm(p["W_enc"], axis=0), 1e-12)
            self.near(sae.geometry("decoder_norm"), np.linalg.norm(p["W_dec"], axis=1), 1e-12)
            self.near(sae.geometry("encoder_bias"), p["b_mag"], 0)
            self.near(sae.geometry("encoder_decoder_cosine"), (enc * dec).sum(1), 1e-12, 1e-12)
            for name, unit in (("encoder_max_cosine", enc), ("decoder_max_cosine", dec)):
                cosine = unit @ unit.T - 2 * np.eye(len(unit))
                self.near(sae.geometry(name), cosine.max(1), 0, 2e-6)
            with self.assertRaises(qsae.Error):
                sae.geometry("norm")

    def test_prefix(self):
        """A matryoshka SAE at its widths: b_dec and the features below, of the whole encoder."""
        path, expected = data("sae_kinds", "matryoshka"), read_safetensors(
            data("sae_kinds", "matryoshka.expected.safetensors"))
        x = expected["x"]
        with qsae.SAE(self.ctx, path) as sae:
            self.assertEqual(sae.widths, (10, 20, 40))
            acts, whole = sae.encode(x), sae.reconstruct(x)
            for width in sae.widths:
                below = acts.copy()
                below[:, width:] = 0
                sae.prefix = 0
                want = sae.decode(below)
                sae.prefix = width
                self.assertEqual(sae.prefix, width)
                np.testing.assert_array_equal(sae.reconstruct(x), want)
            np.testing.assert_array_equal(sae.reconstruct(x), whole)
            with self.assertRaises(qsae.Error):
                sae.prefix = 41
        with qsae.SAE(self.ctx, path, prefix=10) as sae:
            self.assertGreater(np.abs(sae.reconstruct(x) - whole).max(), 0.1)

    def test_int8(self):
        path, expected = fixture("standard")
        x = expected["x"]
        with qsae.SAE(self.ctx, path) as whole, qsae.SAE(self.ctx, path, dtype="i8") as small:
            error = np.abs(whole.reconstruct(x) - small.reconstruct(x)).max()
            self.assertGreater(error, 0)
            self.assertLess(error, 0.05 * np.abs(x).max())


class Forms(Case):
    """Dense, sparse, strided and other forms of the same rows."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        path, expected = fixture("jumprelu")
        cls.sae, cls.x = qsae.SAE(cls.ctx, path), expected["x"]

    def test_sparse_equals_dense(self):
        dense = self.sae.encode(self.x)
        rows = self.sae.encode_sparse(self.x)
        indptr, indices, values = rows
        self.assertEqual((indptr.dtype, indices.dtype, values.dtype),
                         (np.int64, np.int32, np.float32))
        self.same(rows.toarray(), dense)
        self.assertEqual(rows.nnz, np.count_nonzero(dense))
        self.assertEqual(rows.shape, dense.shape)
        for a, b in zip(indptr[:-1], indptr[1:]):
            self.assertTrue((np.diff(indices[a:b]) > 0).all())

    def test_too_little_room_at_first(self):
        expected = self.sae.encode_sparse(self.x)
        fresh = qsae.SAE(self.ctx, data("saes", "jumprelu"))
        fresh._per_row = 0
        for a, b in zip(fresh.encode_sparse(self.x), expected):
            self.same(a, b)
        self.assertGreater(fresh._per_row, 0)

    def test_decode(self):
        dense, rows = self.sae.encode(self.x), self.sae.encode_sparse(self.x)
        y = self.sae.decode(rows)
        self.same(self.sae.decode(dense), y)
        self.same(self.sae.decode(tuple(rows)), y)
        self.same(self.sae.reconstruct(self.x), y)

    def test_intervene(self):
        self.same(self.sae.intervene(self.x, {}), self.x)
        self.same(self.sae.intervene(self.x, {}, keep_error=False), self.sae.reconstruct(self.x))
        acts, state = self.sae.encode(self.x), None
        firing = int((acts > 0).sum(0).argmax())
        edited = acts.copy()
        edited[:, firing] = 0
        fires = acts[:, firing] > 0
        y = self.sae.intervene(self.x, {firing: 0})
        self.same(y[~fires], self.x[~fires])
        want = self.x + (self.sae.decode(edited, state) - self.sae.decode(acts, state))
        self.same(y[fires], want[fires])
        edited[:, firing] = acts[:, firing] * 2 + 1
        self.same(self.sae.intervene(self.x, [(firing, "scale", 2), (firing, "add", 1)], False),
                  self.sae.decode(edited, state))
        for bad in ({10**6: 0}, [(0, "drop", 1)], {0: float("nan")}):
            with self.assertRaises(qsae.Error):
                self.sae.intervene(self.x, bad)

    def test_leading_axes(self):
        x = self.x.reshape(3, 12, 24)
        dense = self.sae.encode(self.x)
        self.same(self.sae.encode(x), dense.reshape(3, 12, 48))
        self.same(self.sae.encode(self.x[5]), dense[5])
        self.same(self.sae.reconstruct(x), self.sae.reconstruct(self.x).reshape(3, 12, 24))
        self.same(self.sae.decode(self.sae.encode(x)), self.sae.reconstruct(x))
        self.assertEqual(self.sae.encode(self.x[:0]).shape, (0, 48))
        self.assertEqual(len(self.sae.encode_sparse(self.x[:0])), 0)

    def test_strides_and_types(self):
        wide = np.full((72, 40), np.nan, np.float32)
        wide[::2, 3:27] = self.x
        self.same(self.sae.encode(wide[::2, 3:27]), self.sae.encode(self.x))
        self.same(self.sae.encode(np.asfortranarray(self.x)), self.sae.encode(self.x))
        self.same(self.sae.encode(self.x.astype(np.float64)), self.sae.encode(self.x))
        brain = qsae.to_bf16(self.x)
        self.same(self.sae.encode(brain), self.sae.encode(qsae.from_bf16(brain)))
        half = (self.x / 100).astype(np.float16)
        self.same(self.sae.encode(half), self.sae.encode(half.astype(np.float32)))

    def test_input_is_not_written(self):
        x = self.x.copy()
        x.flags.writeable = False
        self.sae.encode(x), self.sae.encode_sparse(x), self.sae.reconstruct(x)
        self.same(x, self.x)


class State(Case):
    def test_normalised_input(self):
        path, expected = fixture("standard_layer_norm")
        sae, x = qsae.SAE(self.ctx, path), expected["x"]
        self.assertGreater(sae.state_size, 0)
        acts, state = sae.encode(x, return_state=True)
        self.assertEqual(state.shape, (len(x), sae.state_size))
        whole = sae.reconstruct(x)
        self.same(sae.decode(acts, state=state), whole)
        self.same(sae.decode(sae.encode_sparse(x)), whole)
        self.fails("QSAE_EINVAL", "return_state", sae.decode, acts)
        self.fails("QSAE_EINVAL", "state", sae.decode, acts, state=state[1:])

    def test_none_needed(self):
        path, expected = fixture("standard")
        sae = qsae.SAE(self.ctx, path)
        self.assertEqual(sae.state_size, 0)
        self.assertIsNone(sae.encode(expected["x"], return_state=True)[1])


class Opening(Case):
    def test_bundled(self):
        with qsae.SAE(self.ctx, SAE) as sae:
            self.assertEqual((sae.width, sae.info["format"]), (128, "saelens"))
            self.assertIn("resid_post", sae.hook)
            self.assertRegex(sae.info["hash"], "^[0-9a-f]{32}$")
            self.assertEqual(sae.info["width_out"], 128)

    def test_rounded_weights(self):
        path, expected = fixture("standard")
        full, brain = qsae.SAE(self.ctx, path), qsae.SAE(self.ctx, path, dtype="bf16")
        a, b = full.reconstruct(expected["x"]), brain.reconstruct(expected["x"])
        self.assertFalse((a == b).all())
        self.near(b, a, 0.05, 0.02 * np.abs(a).max())

    def test_refusals(self):
        self.fails("QSAE_ENOENT", "nothing", qsae.SAE, self.ctx, "/nothing")
        self.fails("QSAE_EINVAL", "dtype", qsae.SAE, self.ctx, SAE, dtype="int8")
        sae = qsae.SAE(self.ctx, SAE)
        self.fails("QSAE_EMISMATCH", "128", sae.encode, np.zeros((2, 64), np.float32))
        self.fails("QSAE_EINVAL", "axis", sae.encode, 1.0)
        folder = self.folder()
        with open(os.path.join(folder, "cfg.json"), "w", encoding="utf-8") as file:
            file.write("{")
        with self.assertRaises(qsae.Error) as caught:
            qsae.SAE(self.ctx, folder)
        self.assertIn("cfg.json", caught.exception.message)

    def test_sparse_rows_are_checked(self):
        sae = qsae.SAE(self.ctx, SAE)
        one = np.ones(1, np.float32)
        self.fails("QSAE_EINVAL", "indptr", qsae.Sparse, [0, 2], [3], one, sae.features)
        self.fails("QSAE_EINVAL", "indptr", qsae.Sparse, [0, 2, 1], [3, 4], [1, 1], sae.features)
        self.fails("QSAE_EINVAL", "", sae.decode, ([0, 1], [sae.features], one))
        self.fails("QSAE_EINVAL", "", sae.decode, ([0, 1], [-1], one))
        self.fails("QSAE_EINVAL", "fit", qsae.Sparse, [0, 1], [2**40], one, sae.features)
