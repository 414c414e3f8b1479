# SPDX-License-Identifier: BSD-2-Clause
"""Against the formulas in NumPy, float64."""

import math
import os
import tempfile

import numpy as np

from support import Case, nll_of

import qsae
from qsae import metrics


def rows(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


class CrossEntropy(Case):
    def test_mean(self):
        nll = np.abs(rows(50, 20, 1)) * 3
        nll[3, 4] = np.nan
        metric = metrics.CrossEntropy(self.ctx)
        metric.update(nll)
        mean = np.nanmean(nll.astype(np.float64))
        result = metric.result()
        self.near(result["ce"], mean, 1e-12)
        self.near(result["ppl"], math.exp(mean), 1e-12)
        self.assertEqual(result["predicted"], 999)
        self.assertEqual(metric["ce"], result["ce"])
        self.assertEqual(metric.kind, "cross_entropy")

    def test_logits(self):
        logits, labels = rows(60, 100, 2) * 4, np.random.default_rng(3).integers(0, 100, 60)
        labels[7] = -100
        metric = metrics.CrossEntropy(self.ctx)
        metric.update(logits=logits, labels=labels)
        self.near(metric["ce"], np.nanmean(nll_of(logits, labels)), 1e-5)
        same = metrics.CrossEntropy(self.ctx)
        same.update(logits=logits.reshape(3, 20, 100), labels=labels.reshape(3, 20))
        self.assertEqual(same["ce"], metric["ce"])

    def test_refusals(self):
        metric = metrics.CrossEntropy(self.ctx)
        self.fails("QSAE_EINVAL", "expected nll, or logits", metric.update)
        self.fails("QSAE_EINVAL", "expected nll, or logits", metric.update, [1.0], logits=[[1.0]])
        self.fails("QSAE_EINVAL", "expected nll, or logits", metric.update, logits=[[1.0]])
        self.fails("QSAE_EINVAL", "labels", metric.update, logits=[[1.0, 2.0]], labels=[0, 1])
        self.fails("QSAE_ENOENT", "nonsense", lambda: metric["nonsense"])
        self.assertTrue(math.isnan(metric["ce"]))


class Divergence(Case):
    def setUp(self):
        self.r, self.q = rows(80, 64, 4) * 3, rows(80, 64, 4) * 3 + rows(80, 64, 5) * 0.4
        self.labels = np.random.default_rng(6).integers(0, 64, 80)

    def expected(self):
        def log_p(x):
            x = x.astype(np.float64)
            x = x - x.max(1, keepdims=True)
            return x - np.log(np.exp(x).sum(1, keepdims=True))
        r, q = log_p(self.r), log_p(self.q)
        kl = (np.exp(r) * (r - q)).sum(1)
        nll_r, nll_q = nll_of(self.r, self.labels), nll_of(self.q, self.labels)
        return kl, nll_r, nll_q

    def check(self, metric):
        kl, nll_r, nll_q = self.expected()
        top_r, top_q = self.r.argmax(1), self.q.argmax(1)
        result = metric.result()
        self.near(result["kl_mean"], kl.mean(), 1e-5)
        self.near(result["kl_max"], kl.max(), 1e-5)
        self.near(result["dce"], nll_q.mean() - nll_r.mean(), 1e-4)
        self.near(result["dce_percent"], 100 * (nll_q.mean() - nll_r.mean()) / nll_r.mean(), 1e-4)
        self.near(result["same_top"], (top_r == top_q).mean(), 1e-12)
        self.assertEqual(result["right_to_wrong"],
                         ((top_r == self.labels) & (top_q != self.labels)).sum())
        self.near(result["dp_mean"], (np.exp(-nll_q) - np.exp(-nll_r)).mean(), 1e-4)

    def test_logits(self):
        metric = metrics.Divergence(self.ctx)
        metric.update(logits_r=self.r, logits_q=self.q, labels=self.labels)
        self.check(metric)

    def test_per_token_values(self):
        kl, nll_r, nll_q = self.expected()
        metric = metrics.Divergence(self.ctx)
        metric.update(nll_r, nll_q, kl, self.r.argmax(1), self.q.argmax(1), self.labels)
        self.check(metric)

    def test_null(self):
        metric = metrics.Divergence(self.ctx)
        metric.update(logits_r=self.r, logits_q=self.r, labels=self.labels)
        result = metric.result()
        self.assertEqual((result["kl_mean"], result["dce"], result["same_top"]), (0, 0, 1))

    def test_interval(self):
        metric = metrics.Divergence(self.ctx)
        kl, nll_r, nll_q = self.expected()
        metric.update(nll_r, nll_q, kl, document=np.arange(80) // 2, first=0)
        value = next(v for v in metric.values() if v.name == "dce")
        self.assertLess(value.low, value.value)
        self.assertGreater(value.high, value.value)
        self.assertEqual(value.unit, "nats")
        self.assertTrue(value.description)

    def test_refusals(self):
        metric = metrics.Divergence(self.ctx)
        self.fails("QSAE_EINVAL", "no array", metric.update)
        self.fails("QSAE_EINVAL", "both", metric.update, logits_r=self.r)
        self.fails("QSAE_EINVAL", "labels alone", metric.update, logits_r=self.r, logits_q=self.q)
        self.fails("QSAE_EINVAL", "nll_q", metric.update, [1.0, 2.0], [1.0])
        self.fails("QSAE_EINVAL", "integers", metric.update, [1.0], [1.0], top_r=[0.5])


class Reconstruction(Case):
    def setUp(self):
        self.x = rows(700, 16, 7) + 3
        self.y = self.x + rows(700, 16, 8) * 0.3

    def test_variants(self):
        metric = metrics.Reconstruction(self.ctx, 16)
        metric.update(self.x, self.y)
        x, y = self.x.astype(np.float64), self.y.astype(np.float64)
        sse = ((x - y)**2).sum()
        result = metric.result()
        self.near(result["fvu_dim"], sse / ((x - x.mean(0))**2).sum(), 1e-9)
        self.near(result["fvu_scalar"], sse / ((x - x.mean())**2).sum(), 1e-9)
        self.near(result["fvu_raw"], sse / (x**2).sum(), 1e-9)
        self.near(result["mse"], sse / x.size, 1e-9)
        self.assertEqual(result["tokens"], 700)
        self.assertTrue(math.isnan(result["l0"]))

    def test_types_and_forms(self):
        expected = metrics.Reconstruction(self.ctx, 16)
        expected.update(self.x, self.y)
        for name, (x, y) in {"float64": (self.x.astype(np.float64), self.y.astype(np.float64)),
                             "axes": (self.x.reshape(7, 100, 16), self.y.reshape(7, 100, 16)),
                             "strided": (np.repeat(self.x, 2, 0)[::2], np.asfortranarray(self.y)),
                             }.items():
            with self.subTest(name):
                metric = metrics.Reconstruction(self.ctx, 16)
                metric.update(x, y)
                self.assertEqual(metric["fvu_dim"], expected["fvu_dim"])

    def test_activations(self):
        acts = np.maximum(rows(700, 40, 9) - 1, 0)
        acts[:, 11] = 0
        results = []
        indptr = np.concatenate([[0], np.cumsum((acts != 0).sum(1))])
        for given in (acts, (indptr, np.nonzero(acts)[1], acts[acts != 0])):
            metric = metrics.Reconstruction(self.ctx, 16, features=40)
            metric.update(self.x, self.y, given)
            results.append((metric["l0"], metric["dead_features"]))
            self.near(metric.features("fire"), (acts != 0).sum(0), 1e-12)
        self.near(results[0][0], (acts != 0).sum() / 700, 1e-12)
        self.assertEqual(results[0][1], ((acts != 0).sum(0) == 0).sum())
        self.assertEqual(results[0], results[1])

    def test_masks(self):
        mask = np.zeros(700, np.uint8)
        mask[::10] = metrics.EXCLUDED
        mask[5::10] = metrics.FIRST
        metric = metrics.Reconstruction(self.ctx, 16)
        metric.update(self.x, self.y, first=0, mask=mask)
        self.assertEqual((metric["tokens"], metric["no_first_position/tokens"]), (630, 560))
        kept = mask == 0
        x, y = self.x[kept].astype(np.float64), self.y[kept].astype(np.float64)
        self.near(metric["no_first_position/fvu_dim"],
                  ((x - y)**2).sum() / ((x - x.mean(0))**2).sum(), 1e-9)

    def test_outliers_and_sinks(self):
        # Every variant of FVU against NumPy, where means are 1000 standard deviations and a few rows
        # have 100 times the usual norm.
        n, d, batch = 100_000, 16, 2048
        rng = np.random.default_rng(7)
        x = rng.standard_normal((n, d))
        x[:, 3] += 1000
        x[:, 7] = x[:, 7] * 0.1 - 50
        sinks = rng.random(n) < 2e-4
        x[sinks] *= 100
        x = x.astype(np.float32)
        y = (x + 0.2 * rng.standard_normal((n, d))).astype(np.float32)
        mask = np.where(rng.random(n) < 0.01, metrics.SPECIAL, 0).astype(np.uint8)
        mask[::512] |= metrics.FIRST
        metric = metrics.Reconstruction(self.ctx, d, batch_rows=batch)
        for at in range(0, n, 30_011):
            part = slice(at, min(at + 30_011, n))
            metric.update(x[part], y[part], first=at, mask=mask[part])
        got = metric.result()
        x, y = x.astype(np.float64), y.astype(np.float64)
        rr, xx = ((x - y)**2).sum(1), (x**2).sum(1)
        centred = x - x.mean(0)
        m2, energy = (centred**2).sum(0), (centred**2).sum(1)
        scalar = ((x - x.mean())**2).sum()
        r = x - y
        cuts = [slice(a, min(a + batch, n)) for a in range(0, n, batch)]
        about = [((x[c] - x[c].mean(0))**2) for c in cuts]
        mean_r, mean_x = (np.mean([v[c].mean() for c in cuts]) for v in (rr, xx))
        later = mask & metrics.FIRST == 0
        norm = np.sqrt(xx)
        kept = norm <= 10 * np.median(norm)
        want = {
            "fvu_dim": rr.sum() / m2.sum(), "fvu_scalar": rr.sum() / scalar,
            "fvu_raw": rr.sum() / xx.sum(), "mse": rr.sum() / n / d, "mse_token": rr.sum() / n,
            "fvu_centered_residual": ((r - r.mean(0))**2).sum() / m2.sum(),
            "fvu_tokmedian": np.median(rr / energy),
            "fvu_dim_uniform": np.mean((r**2).sum(0) / m2),
            "normalized_mse_openai": np.mean(rr / xx),
            "fvu_tokmean": np.sum([np.sum(rr[c] / v.sum(1)) for c, v in zip(cuts, about)]) / n,
            "mse_saelens": np.sum([rr[c].mean() for c in cuts]) / n,
            "fvu_v3_sparsify": np.mean([rr[c].sum() / v.sum() for c, v in zip(cuts, about)]),
            "fvu_v4_dictionary_learning": np.mean([r[c].var(0, ddof=1).sum() /
                                                   x[c].var(0, ddof=1).sum() for c in cuts]),
            "fvu_v6_saebench": mean_r / (mean_x - (mean_x / d)**2),
            "fvu_v7_saelens": mean_r / (mean_x - (np.mean([x[c].mean(0) for c in cuts],
                                                          0)**2).sum()),
            "fvu_v9": (r[later]**2).mean() / x[later].var(ddof=1),
            "median_norm_in": np.median(norm), "sink_tokens": (~kept).sum(),
            "share_x2_top_0p1pct": np.sort(xx)[-100:].sum() / xx.sum(),
            "share_x2_specials": xx[mask & metrics.SPECIAL > 0].sum() / xx.sum(),
            "no_sinks/tokens": kept.sum(),
            "no_sinks/fvu_dim": rr[kept].sum() / ((x[kept] - x[kept].mean(0))**2).sum(),
            "no_sinks/fvu_scalar": rr[kept].sum() / ((x[kept] - x[kept].mean())**2).sum(),
            "no_sinks/fvu_raw": rr[kept].sum() / xx[kept].sum(),
            "no_sinks/mse": rr[kept].sum() / kept.sum() / d,
            "no_sinks/mse_token": rr[kept].sum() / kept.sum(),
        }
        self.assertGreater(want["sink_tokens"], 5)
        for name, value in want.items():
            with self.subTest(name):
                self.near(got[name], value, 1e-9, 0)

    def test_refusals(self):
        metric = metrics.Reconstruction(self.ctx, 16)
        for bad in (self.x[:, :15], self.x[:600]):
            with self.assertRaises(qsae.Error):
                metric.update(self.x, bad)
        self.fails("QSAE_EINVAL", "first", metric.update, self.x, self.y, document=[0] * 700)
        self.fails("QSAE_EINVAL", "document", metric.update, self.x, self.y, first=0, document=[1])
        self.assertEqual(metric["tokens"], 0)
        self.fails("QSAE_EINVAL", "", metrics.Reconstruction, self.ctx, 0)


class State(Case):
    """Splitting, merging, saving."""

    def setUp(self):
        self.x = rows(2000, 8, 10)
        self.y = self.x + rows(2000, 8, 11) * 0.2

    def metric(self, *parts, **settings):
        metric = metrics.Reconstruction(self.ctx, 8, **settings)
        for a, b in parts:
            metric.update(self.x[a:b], self.y[a:b], first=a)
        return metric

    def same_result(self, a, b):
        self.same(np.array(list(a.result().values())), np.array(list(b.result().values())))

    def test_any_split(self):
        whole = self.metric((0, 2000))
        self.same_result(self.metric((0, 3), (3, 700), (700, 2000)), whole)
        plain = metrics.Reconstruction(self.ctx, 8)
        for a, b in ((0, 1), (1, 999), (999, 2000)):
            plain.update(self.x[a:b], self.y[a:b])
        self.same_result(plain, whole)

    def test_merge_in_any_order(self):
        whole = self.metric((0, 2000))
        shards = [(0, 512), (512, 1280), (1280, 2000)]
        for order in ((0, 1, 2), (2, 0, 1)):
            first, *others = [self.metric(shards[i]) for i in order]
            for other in others:
                first.merge(other)
            self.same_result(first, whole)

    def test_save_and_load(self):
        path, whole = os.path.join(self.folder(), "state"), self.metric((0, 2000))
        self.metric((0, 900)).save(path)
        resumed = metrics.Reconstruction(self.ctx, 8)
        resumed.load(path)
        resumed.update(self.x[900:], self.y[900:], first=900)
        self.same_result(resumed, whole)
        resumed.reset()
        self.assertEqual(resumed["tokens"], 0)

    def test_refusals(self):
        metric = self.metric((0, 600))
        self.fails("QSAE_EMISMATCH", "", metric.merge, self.metric((0, 600)))  # the same tokens
        self.fails("QSAE_EMISMATCH", "fingerprint", metric.merge,
                   self.metric((600, 700), fingerprint="other"))
        self.fails("QSAE_EMISMATCH", "", metric.merge, metrics.CrossEntropy(self.ctx))
        self.fails("QSAE_EMISMATCH", "", metric.merge, metrics.Reconstruction(self.ctx, 9))
        self.fails("QSAE_EINVAL", "metric", metric.merge, None)
        path = os.path.join(self.folder(), "state")
        self.fails("QSAE_ENOENT", "state", metric.load, path)
        metric.save(path)
        with open(path, "r+b") as file:
            file.seek(100)
            byte = file.read(1)[0]
            file.seek(100)
            file.write(bytes([byte ^ 1]))
        self.fails("QSAE_EFORMAT", "state", metric.load, path)
        self.assertEqual(metric["tokens"], 600)

    def test_merge_with_itself(self):
        metric = self.metric((0, 600))
        with self.assertRaises(qsae.Error):
            metric.merge(metric)
        self.assertEqual(metric["tokens"], 600)


class Features(Case):
    def test_pearson(self):
        base = np.maximum(rows(3000, 12, 12) - 1, 0)
        other = np.maximum(base + (base > 0) * rows(3000, 12, 13) * 0.3, 0).astype(np.float32)
        other[:, 5] = 0
        base[:, 6] = 0
        metric = metrics.Features(self.ctx, 12)
        metric.update(base, other)
        r = np.zeros(12)
        for j in range(12):
            a, b = base[:, j].astype(np.float64), other[:, j].astype(np.float64)
            if a.any() and b.any():
                r[j] = np.corrcoef(a, b)[0, 1]
        active = (base > 0).mean(0) > 0.001
        found = metric.features("r")
        self.near(found[active], r[active], 1e-9, 1e-9)
        self.near(metric.features("rate_r"), (base > 0).mean(0), 1e-12)
        self.near(metric.features("max_q"), other.max(0), 1e-7)
        result = metric.result()
        self.assertEqual(result["active"], active.sum())
        self.assertEqual(result["survived"], (r[active] > 0.9).sum())
        self.assertEqual(result["damaged"], (r[active] < 0.5).sum())
        self.assertEqual(result["degraded"] + result["survived"] + result["damaged"],
                         result["active"])
        self.near(result["mean_r"], r[active].mean(), 1e-9)

    def test_prompts(self):
        """Against sets of prompts; updates in any order, shards and states give the same."""
        sides = [np.maximum(rows(330, 12, seed) - 1.5, 0).astype(np.float32) for seed in (15, 16)]
        sides[0][:, 3] = 0
        mask = (np.arange(330) % 16 == 2).astype(np.uint8) * metrics.EXCLUDED
        def add(metric, cuts):
            for a, b in cuts:
                metric.update(sides[0][a:b], sides[1][a:b], first=a, mask=mask[a:b])
        made = [metrics.Features(self.ctx, 12, prompt_tokens=16) for _ in range(3)]
        add(made[0], [(0, 330)])
        add(made[1], [(160, 320), (0, 16), (320, 330)])
        add(made[2], [(16, 160)])
        made[1].merge(made[2])
        path = os.path.join(self.folder(), "state")
        made[1].save(path)
        made[2].load(path)
        for metric in made:
            for name, acts in zip(("prompts_r", "prompts_q"), sides):
                fires = (acts > 0) & (mask == 0)[:, None]
                want = [len({t // 16 for t in np.flatnonzero(column)}) for column in fires.T]
                self.assertEqual(metric.features(name).tolist(), want)
        self.fails("QSAE_EINVAL", "multiple", made[0].update, sides[0][:1], sides[1][:1], first=1000)
        self.fails("QSAE_EMISMATCH", "prompt_tokens",
                   metrics.Features(self.ctx, 12, prompt_tokens=8).load, path)
        plain = metrics.Features(self.ctx, 12)
        self.fails("QSAE_ENOENT", "prompt_tokens", plain.features, "prompts_r")
        self.fails("QSAE_EMISMATCH", "prompt_tokens", plain.load, path)
        self.fails("QSAE_EMISMATCH", "prompt_tokens", plain.merge, made[0])

    def test_null(self):
        acts = np.maximum(rows(1000, 9, 14) - 0.5, 0)
        metric = metrics.Features(self.ctx, 9)
        metric.update(acts, acts)
        self.assertTrue((metric.features("r") == 1).all())
        self.assertEqual(metric["survived"], 9)

    def test_refusals(self):
        metric = metrics.Features(self.ctx, 4)
        acts = np.ones((3, 4), np.float32)
        self.fails("QSAE_EINVAL", "r and q", metric.update, acts, None)
        with self.assertRaises(qsae.Error):
            metric.update(acts, acts[:2])
        with self.assertRaises(qsae.Error):
            metric.update(np.ones((3, 5), np.float32), np.ones((3, 5), np.float32))
        self.fails("QSAE_ENOENT", "nonsense", metric.features, "nonsense")


class Drift(Case):
    def test_ratio(self):
        x_r = rows(900, 10, 15) + 1
        x_q, y_q = x_r + rows(900, 10, 16) * 0.1, x_r + rows(900, 10, 17) * 0.3
        y_r = x_r + rows(900, 10, 18) * 0.3
        metric = metrics.Drift(self.ctx, 10)
        metric.update(x_r, x_q, y_r, y_q)
        r, q, y = (a.astype(np.float64) for a in (x_r, x_q, y_q))
        p = math.sqrt(((q - r)**2).sum() / (r**2).sum())
        residual = math.sqrt(((q - y)**2).sum() / (q**2).sum())
        result = metric.result()
        self.near(result["P"], p, 1e-9)
        self.near(result["R_q"], residual, 1e-9)
        self.near(result["ratio"], p / residual, 1e-9)

    def test_without_an_sae(self):
        x_r = rows(300, 10, 19)
        metric = metrics.Drift(self.ctx, 10)
        metric.update(x_r, x_r * np.float32(1.5))
        self.near(metric["P"], 0.5, 1e-6)
        self.assertTrue(math.isnan(metric["ratio"]))

    def test_refusals(self):
        x = rows(30, 10, 20)
        metric = metrics.Drift(self.ctx, 10)
        self.fails("QSAE_EINVAL", "", metric.update, x, x, x)
        with self.assertRaises(qsae.Error):
            metric.update(x, x[:20])
