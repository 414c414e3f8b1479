# SPDX-License-Identifier: BSD-2-Clause
"""qsae.compat with NumPy arrays; test_compat_torch.py has what needs torch and the others."""

import math

import numpy as np

from support import Case, data, nll_of, read_safetensors

import qsae
from qsae import compat, metrics

D = 24  # width of the fixtures of tests/data/saes


def grid(b, s, d, seed, scale=1.0):
    return (np.random.default_rng(seed).standard_normal((b, s, d)) * scale).astype(np.float32)


class Rows(Case):
    """Which rows of a batch count, where, and in whatever form they come."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.sae = qsae.SAE(cls.ctx, data("saes", "jumprelu"))
        cls.x = grid(3, 7, D, 1, 3)

    def direct(self, x, **at):
        metric = metrics.Reconstruction(self.ctx, D, self.sae.features)
        metric.update(x, self.sae.reconstruct(x), self.sae.encode_sparse(x), first=0, **at)
        return metric

    def same_values(self, a, b):
        a, b = (dict(m.result()) for m in (a, b))
        self.assertEqual(a.keys(), b.keys())
        for name in a:
            self.same(np.float64(a[name]), np.float64(b[name]))

    def collect(self, x, *batch, collector=None, **named):
        collector = collector or compat.Collector(self.ctx, self.sae)
        with collector.batch(*batch, **named):
            collector.add(x)
        return collector

    def test_whole_batch(self):
        got = self.collect(self.x)
        self.assertEqual((got.tokens, got.documents), (21, 3))
        want = self.direct(self.x.reshape(21, D), document=np.repeat([0, 1, 2], 7),
                           position=np.tile(np.arange(7), 3),
                           mask=np.tile([metrics.FIRST] + 6 * [0], 3))
        self.same_values(got.reconstruction, want)
        self.assertNotEqual(want["no_first_position/fvu_dim"], want["fvu_dim"])

    def test_padding_is_dropped(self):
        lengths, x = (7, 2, 5), self.x
        for left in (False, True):
            mask, padded = np.zeros((3, 7), np.int64), np.full_like(x, np.nan)
            for i, n in enumerate(lengths):
                where = slice(7 - n, 7) if left else slice(0, n)
                mask[i, where], padded[i, where] = 1, x[i, :n]
            rows = np.concatenate([x[i, :n] for i, n in enumerate(lengths)])
            want = self.direct(
                rows, document=np.repeat([0, 1, 2], lengths),
                position=np.concatenate([np.arange(n) for n in lengths]),
                mask=np.concatenate([[metrics.FIRST] + (n - 1) * [0] for n in lengths]))
            self.same_values(self.collect(padded, attention_mask=mask).reconstruction, want)
            self.same_values(self.collect(rows, attention_mask=mask).reconstruction, want)

    def test_forms(self):
        want = self.collect(self.x).reconstruction
        ids = np.zeros((3, 7), np.int64)
        self.same_values(self.collect(self.x.reshape(21, D), ids).reconstruction, want)
        self.same_values(self.collect(self.x.reshape(3, 7, 4, D // 4)).reconstruction, want)
        turned = compat.Collector(self.ctx, self.sae, batch_first=False)
        self.same_values(self.collect(np.ascontiguousarray(self.x.swapaxes(0, 1)),
                                      collector=turned).reconstruction, want)
        bits = qsae.to_bf16(self.x)
        self.same_values(self.collect(bits).reconstruction,
                         self.collect(qsae.from_bf16(bits)).reconstruction)

    def test_one_sequence_without_its_axis(self):
        got = self.collect(self.x[:1], np.arange(7))
        self.assertEqual((got.tokens, got.documents), (7, 1))

    def test_batches_go_on(self):
        """Two batches are the rows of both; the second one's documents follow."""
        got = self.collect(self.x[:1])
        self.collect(self.x[1:], collector=got)
        self.same_values(got.reconstruction, self.collect(self.x).reconstruction)

    def test_documents(self):
        given = self.collect(self.x, documents=[4, 4, 9])
        self.assertEqual(given.documents, 10)
        self.assertEqual(given.reconstruction["documents"], 2)
        each = np.arange(21).reshape(3, 7) // 2
        self.assertEqual(self.collect(self.x, documents=each).reconstruction["documents"], 11)
        # Cut from one stream: id 2 begins a document, which goes on in the next sequence and batch.
        stream = compat.Collector(self.ctx, self.sae, document_start=2)
        ids = np.array([[5, 5, 2, 5, 5, 2, 5], [5, 5, 5, 5, 2, 2, 5], [2, 5, 5, 5, 5, 5, 5]])
        self.collect(self.x, ids, collector=stream)
        self.assertEqual((stream.documents, stream.reconstruction["documents"]), (6, 6))
        self.collect(self.x[:1], np.array([[5, 5, 5, 2, 5, 5, 5]]), collector=stream)
        self.assertEqual((stream.documents, stream.reconstruction["documents"]), (7, 7))
        begun = compat.Collector(self.ctx, self.sae, document_start=2)
        self.collect(self.x[:1], ids[2:], collector=begun)
        self.assertEqual(begun.documents, 1)

    def test_masks(self):
        ids = np.array([[2, 5, 6, 7, 1, 5, 6]] * 3)
        got = compat.Collector(self.ctx, self.sae, special=(2, 1), exclude=(7,),
                               exclude_first=True)
        self.collect(self.x, ids, collector=got)
        value = got.reconstruction
        self.assertEqual((value["tokens"], value["excluded_tokens"]), (15, 6))
        kept = self.x[:, [1, 2, 5, 6]].reshape(12, D)  # not excluded, not special
        self.near(value["no_specials/fvu_dim"], self.direct(kept)["fvu_dim"], 1e-12)

    def test_refusals(self):
        got = compat.Collector(self.ctx, self.sae)
        self.fails("QSAE_EINVAL", "outside a batch", got.add, self.x)
        for x, part in ((self.x[:, :6], "expected rows of shape [3, 7, 24]"),
                        (self.x[..., :20], "[3, 7, 20]"), (self.x[None], "found [1, 3, 7, 24]"),
                        (self.x.reshape(21, D)[:20], "[20, 24]"), (self.x[0, 0], "[24]")):
            self.fails("QSAE_EMISMATCH", part, self.collect, x, np.zeros((3, 7), int))
        self.fails("QSAE_EINVAL", "expected a tensor, found list", self.collect, [1.0])
        self.fails("QSAE_EINVAL", "side", got.attach, None, "q")
        self.fails("QSAE_EINVAL", "attention_mask", self.collect, self.x,
                   np.zeros((3, 7), int), attention_mask=np.ones((3, 6)).astype(int))
        self.fails("QSAE_EINVAL", "expected integers", self.collect, self.x, self.x[..., 0])
        self.fails("QSAE_EINVAL", "input_ids", self.collect, self.x,
                   collector=compat.Collector(self.ctx, self.sae, special=(1,)))
        self.fails("QSAE_EINVAL", "no rows came", got.batch(np.zeros((1, 3), int)).__exit__,
                   None, None, None)
        with got.batch():
            self.fails("QSAE_EBUSY", "still open", got.batch)
            got.add(self.x)
            self.fails("QSAE_EINVAL", "twice", got.add, self.x)
        self.assertEqual(got.tokens, 21)
        self.fails("QSAE_EUNSUPPORTED", "transcoder", compat.Collector, self.ctx,
                   qsae.SAE(self.ctx, data("saes", "jumprelu_transcoder")))
        self.fails("QSAE_EINVAL", "found int", compat.Collector, self.ctx, 7)


class Pairs(Case):
    """A reference and a compressed model."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.sae = qsae.SAE(cls.ctx, data("saes", "topk"))
        cls.r = grid(4, 64, D, 2, 3)
        cls.q = cls.r + grid(4, 64, D, 3, 0.3)

    def run_batches(self, pair, order=("r", "q"), step=2):
        for a in range(0, 4, step):
            with pair.batch():
                for side in order:
                    x = (self.r if side == "r" else self.q)[a:a + step].copy()
                    pair.add(x, side)
                    x[:] = np.nan  # what the model does with its memory afterwards is its own
        return pair

    def test_against_the_metrics(self):
        pair = self.run_batches(compat.Pair(self.ctx, self.sae))
        r, q, encode = self.r.reshape(-1, D), self.q.reshape(-1, D), self.sae.encode_sparse
        y_r, y_q = self.sae.reconstruct(r), self.sae.reconstruct(q)
        document, position = np.divmod(np.arange(256), 64)
        at = {"first": 0, "document": document, "position": position,
              "mask": np.where(position == 0, metrics.FIRST, 0)}
        want = {"reconstruction_r": metrics.Reconstruction(self.ctx, D, self.sae.features),
                "reconstruction_q": metrics.Reconstruction(self.ctx, D, self.sae.features),
                "drift": metrics.Drift(self.ctx, D),
                "features": metrics.Features(self.ctx, self.sae.features)}
        want["reconstruction_r"].update(r, y_r, encode(r), **at)
        want["reconstruction_q"].update(q, y_q, encode(q), **at)
        want["drift"].update(r, q, y_r, y_q, **at)
        want["features"].update(encode(r), encode(q), **at)
        result = pair.result()
        self.assertEqual(result.keys(), want.keys())
        for name, metric in want.items():
            for key, value in metric.result().items():
                self.same(np.float64(result[name][key]), np.float64(value))
        self.near(pair.drift["P"], np.linalg.norm(q - r) / np.linalg.norm(r.astype(float)), 1e-6)
        short = pair.summary()
        self.assertEqual(short["noise_ratio"], pair.drift["ratio"])
        self.assertNotIn("kl_mean", short)

    def test_sides_in_any_order(self):
        a = self.run_batches(compat.Pair(self.ctx, self.sae)).result()
        b = self.run_batches(compat.Pair(self.ctx, self.sae), order=("q", "r"), step=1).result()
        np.testing.assert_equal(b, a)

    def test_drift_alone(self):
        pair = self.run_batches(compat.Pair(self.ctx, width=D))
        self.assertEqual(pair.result().keys(), {"drift"})
        self.assertEqual(pair.drift["P"],
                         self.run_batches(compat.Pair(self.ctx, self.sae)).drift["P"])

    def test_a_broken_batch_counts_nothing(self):
        pair = self.run_batches(compat.Pair(self.ctx, self.sae))
        before = pair.result(), pair.tokens, pair.documents
        with self.assertRaises(ZeroDivisionError):
            with pair.batch():
                pair.add(self.r, "r")
                raise ZeroDivisionError
        self.fails("QSAE_EINVAL", "no rows came from side q", self.only_one, pair)
        np.testing.assert_equal((pair.result(), pair.tokens, pair.documents), before)
        self.run_batches(pair)
        self.assertEqual((pair.tokens, pair.drift["tokens"], pair.drift["gap_tokens"]),
                         (512, 512, 0))

    def only_one(self, pair):
        with pair.batch():
            pair.add(self.r, "r")

    def test_settings(self):
        pair = self.run_batches(compat.Pair(self.ctx, self.sae, top=3, batch_rows=64))
        feature = int(pair.features.features("fire_r").argmax())
        self.assertEqual(len(pair.features.top(feature)[0]), 3)
        self.fails("QSAE_EMISMATCH", "width", compat.Pair, self.ctx, self.sae, width=D + 1)


class Logits(Case):
    def test_against_numpy(self):
        rng = np.random.default_rng(4)
        ids = rng.integers(0, 40, (5, 90))
        mask = np.arange(90) < np.array([[90], [1], [13], [77], [90]])
        r, q = grid(5, 90, 40, 5, 3), grid(5, 90, 40, 6, 3)
        labels = np.where(mask[:, 1:], ids[:, 1:], -100)
        labels = np.pad(labels, ((0, 0), (0, 1)), constant_values=-100)
        pair = compat.Pair(self.ctx)
        with pair.batch(ids, attention_mask=mask.astype(int)) as batch:
            batch.logits(r, q)
        nll_r, nll_q = nll_of(r, labels), nll_of(q, labels)
        wide = r.astype(float).reshape(-1, 40), q.astype(float).reshape(-1, 40)
        log_r, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in wide)
        kl = (np.exp(log_r) * (log_r - log_q)).sum(1)[(labels >= 0).reshape(-1)]
        value = pair.divergence.result()
        self.assertEqual(value["predicted"] if "predicted" in value else value["tokens"],
                         (labels >= 0).sum())
        self.near(value["ce_r"], np.nanmean(nll_r), 1e-6)
        self.near(value["dce"], np.nanmean(nll_q - nll_r), 1e-5)
        self.near(value["kl_mean"], kl.mean(), 1e-6)
        one = compat.Collector(self.ctx)
        with one.batch(ids, attention_mask=mask.astype(int)) as batch:
            batch.logits(r)
        self.near(one.cross_entropy["ce"], np.nanmean(nll_r), 1e-6)
        self.assertEqual(one.tokens, mask.sum())

    def test_labels_and_types(self):
        ids, r = np.arange(12).reshape(2, 6), grid(2, 6, 16, 7, 3)
        given = ids.copy()
        given[0, :3] = -100
        bits = qsae.to_bf16(r)
        one = compat.Collector(self.ctx)
        with one.batch(ids, labels=given) as batch:
            batch.logits(bits)
        apart = compat.Collector(self.ctx, exclude=(1, 2), exclude_first=True)
        with apart.batch(ids, labels=given) as batch:
            batch.logits(bits)
        np.testing.assert_equal(apart.cross_entropy.result(), one.cross_entropy.result())
        shifted = np.pad(given[:, 1:], ((0, 0), (0, 1)), constant_values=-100)
        nll = nll_of(qsae.from_bf16(bits), shifted)
        self.assertEqual(one.cross_entropy["predicted"], 8)
        self.near(one.cross_entropy["ce"], np.nanmean(nll), 1e-6)

    def test_refusals(self):
        pair = compat.Pair(self.ctx)
        ids, r = np.zeros((2, 6), int), grid(2, 6, 16, 8)
        with pair.batch(ids) as batch:
            self.fails("QSAE_EINVAL", "2 model(s), found 1", batch.logits, r)
            self.fails("QSAE_EMISMATCH", "one vocabulary", batch.logits, r, r[..., :8])
            self.fails("QSAE_EMISMATCH", "logits", batch.logits, r[:, :5], r[:, :5])
            batch.logits(r, r)
            self.fails("QSAE_EINVAL", "once", batch.logits, r, r)
        with pair.batch(attention_mask=np.ones((2, 6), int)) as batch:
            self.fails("QSAE_EINVAL", "input_ids", batch.logits, r, r)
            pair._batch.has_logits = True  # nothing came, on purpose
        self.assertEqual(pair.divergence["kl_mean"], 0)


class Names(Case):
    """The figures of other packages, by their formulas in float64."""

    def test_formulas(self):
        n, step = 80, 32  # the last batch is shorter
        x = grid(1, n, 10, 9, 2)[0].astype(np.float64) + 1.5
        y = x + grid(1, n, 10, 10, 0.4)[0]
        metric = metrics.Reconstruction(self.ctx, 10, 4, batch_rows=step)
        acts = np.maximum(grid(1, n, 4, 11)[0], 0)
        metric.update(x, y, acts)
        e, batches = x - y, [slice(a, a + step) for a in range(0, n, step)]
        square = (e * e).sum(1)
        norm, norm_y = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
        about = np.concatenate([((x[b] - x[b].mean(0)) ** 2).sum(1) for b in batches])
        legacy = (1 - square / about).mean()
        v4 = np.mean([1 - e[b].var(0).sum() / x[b].var(0).sum() for b in batches])
        v3 = np.mean([square[b].sum() / about[b].sum() for b in batches])
        residual = np.mean([square[b].mean() for b in batches])
        total = np.mean([(x[b] ** 2).sum(1).mean() for b in batches])
        mean = np.mean([x[b].mean(0) for b in batches], 0)
        want = {
            "sae_lens.explained_variance": 1 - square.sum() / ((x - x.mean(0)) ** 2).sum(),
            "sae_lens.explained_variance_legacy": legacy,
            "sae_lens.mse": square.mean(),
            "sae_lens.cossim": ((x * y).sum(1) / norm / norm_y).mean(),
            "sae_lens.l2_norm_in": norm.mean(), "sae_lens.l2_norm_out": norm_y.mean(),
            "sae_lens.l2_ratio": (norm_y / norm).mean(),
            "sae_lens.l0": (acts > 0).sum(1).mean(), "sae_lens.l1": acts.sum(1).mean(),
            "sae_lens.explained_variance@665": 1 - residual / (total - (mean ** 2).sum()),
            "sae_lens.explained_variance@443": 1 - residual / (total - (total / 10) ** 2),
            "sae_lens.mse@443": residual * len(batches) / n,
            "saebench.explained_variance": 1 - residual / (total - (total / 10) ** 2),
            "dictionary_learning.frac_variance_explained": v4,
            "dictionary_learning.l2_loss": np.sqrt(square).mean(),
            "dictionary_learning.l1_loss": acts.sum(1).mean(),
            "dictionary_learning.l0": (acts > 0).sum(1).mean(),
            "dictionary_learning.cossim": ((x * y).sum(1) / norm / norm_y).mean(),
            "dictionary_learning.l2_ratio": (norm_y / norm).mean(),
            "sparsify.fvu": v3,
            "openai.normalized_mean_squared_error": (square / norm ** 2).mean(),
            "scikit-learn.r2_score": (1 - (e * e).sum(0) / ((x - x.mean(0)) ** 2).sum(0)).mean(),
        }
        self.assertEqual(want.keys(), compat.NAMES.keys())
        for name, number in want.items():
            with self.subTest(name):
                self.near(compat.value(metric, name), number, 1e-9)
                self.near(compat.value(metric.result(), name), number, 1e-9)
        self.assertEqual(compat.explained_variance(metric),
                         compat.value(metric, "sae_lens.explained_variance"))
        self.near(compat.explained_variance_legacy(metric), legacy, 1e-9)
        self.near(compat.frac_variance_explained(metric), v4, 1e-9)
        self.near(compat.fvu(metric), v3, 1e-9)
        self.near(compat.normalized_mse(metric), (square / norm ** 2).mean(), 1e-9)
        self.assertEqual(len(set(want.values())), len(want) - 5)  # the figures do differ

    def test_packages(self):
        metric = metrics.Reconstruction(self.ctx, 3)
        metric.update(grid(1, 9, 3, 12), grid(1, 9, 3, 13))
        got = compat.named(metric, "sae_lens")
        self.assertEqual(sorted(got), ["cossim", "explained_variance", "explained_variance_legacy",
                                       "l0", "l1", "l2_norm_in", "l2_norm_out", "l2_ratio", "mse"])
        self.assertEqual(compat.value({"fvu_dim": 0.25}, "sae_lens.explained_variance"), 0.75)
        self.assertTrue(math.isnan(compat.value({"fvu_dim": None}, "sae_lens.explained_variance")))
        self.fails("QSAE_ENOENT", "lacks", compat.value, {}, "sparsify.fvu")
        self.fails("QSAE_ENOENT", "unknown", compat.value, metric, "fvu")
        self.fails("QSAE_ENOENT", "dictionary_learning", compat.named, metric, "none")


class Face(Case):
    def test_all(self):
        self.assertEqual(dir(compat), sorted(compat.__all__))
        with self.assertRaises(AttributeError):
            compat.Nothing
        x = read_safetensors(data("saes", "topk.expected.safetensors"))["x"]
        self.assertIs(compat.rows(x), x)
        self.assertIs(compat.tokens_of((x, None)), x)
        self.fails("QSAE_EINVAL", "found str", compat.tokens_of, "x")
