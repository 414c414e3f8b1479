# SPDX-License-Identifier: BSD-2-Clause
"""Every figure of every metric against NumPy in f64, on streams that have everything at once: ties,
NaN and infinity, rows of zeros, attention sinks, constant and silent features, documents of one
token, tokens without a label, excluded rows; fed in parts, some of them merged.

QSAE_LONG_TESTS=1 in the environment: 200 streams.
"""

import os

import numpy as np

from support import Case

from qsae import metrics

D, F, BATCH = 6, 40, 64
COMMON = {"tokens", "nonfinite_rows", "excluded_tokens", "gap_tokens", "documents"}


def make(rng):
    """Values are multiples of 1/8, so that many are equal."""
    lengths = np.concatenate([np.ones(rng.integers(1, 30), int), rng.integers(1, 90, 25)])
    document = np.repeat(np.arange(len(lengths)) * 2, rng.permutation(lengths))
    document = document[:len(document) // BATCH * BATCH - 20]  # the last batch has several rows
    n = len(document)

    def grid(*shape, scale=1.0):
        return (np.round(rng.normal(0, scale, (n, *shape)) * 8) / 8).astype(np.float32)

    s = {"document": document, "mask": np.zeros(n, np.uint8)}
    s["mask"][rng.random(n) < 0.05] |= metrics.EXCLUDED
    s["mask"][rng.random(n) < 0.1] |= metrics.SPECIAL
    s["mask"][::32] |= metrics.FIRST
    s["x_r"] = grid(D) + np.float32(3)
    s["x_r"][rng.random(n) < 0.01] *= 64
    s["x_r"][rng.random(n) < 0.01] = 0
    s["x_q"] = s["x_r"] + grid(D, scale=0.3)
    s["y_r"], s["y_q"] = s["x_r"] + grid(D, scale=0.4), s["x_q"] + grid(D, scale=0.4)
    s["y_q"][rng.random(n) < 0.01] = 0
    same = rng.random(n) < 0.02
    s["y_q"][same] = s["x_q"][same]
    s["f_r"] = np.maximum(grid(F) - np.linspace(0, 3, F, dtype=np.float32), 0)
    s["f_q"] = np.maximum(s["f_r"] + grid(F, scale=0.2) * (s["f_r"] > 0), 0)
    s["f_q"][:, 1] = s["f_r"][:, 1]
    s["f_r"][:, 2], s["f_q"][:, 3], s["f_r"][:, 4] = 0, 0, 1
    s["f_r"][:, 5], s["f_q"][:, 5] = 0, 0
    for name in ("x_r", "x_q", "y_q", "f_r", "f_q"):
        s[name][rng.integers(0, n, 2), 0] = rng.choice([np.nan, np.inf])
    s["nll_r"] = np.abs(grid(scale=3))
    s["nll_q"] = np.abs(s["nll_r"] + grid(scale=0.3))
    s["nll_q"][rng.integers(0, n, 2)] = np.inf
    s["nll_r"][31::32] = s["nll_q"][31::32] = np.nan
    s["kl"], s["entropy_r"], s["entropy_q"] = (np.abs(grid()) for _ in range(3))
    s["topk_overlap"] = rng.integers(0, 11, n).astype(np.float32) / np.float32(10)
    for name in ("top_r", "top_q", "labels"):
        s[name] = rng.integers(0, 3, n).astype(np.int32)
    return s


def fed(metric, rng, s, *names):
    """The metric with the stream: parts in random order, the last half of them merged."""
    n = len(s["document"])
    cuts = np.unique(np.concatenate([[0, n], rng.integers(0, n, 4)]))
    parts = rng.permutation(len(cuts) - 1)
    other = metric()
    out = metric()
    for i, k in enumerate(parts):
        part = slice(cuts[k], cuts[k + 1])
        given = {name: s[name][part] for name in names}
        (other if i % 2 else out).update(**given, first=int(cuts[k]), mask=s["mask"][part],
                                         document=s["document"][part])
    out.merge(other)
    return out


def finite(*rows):
    return np.all([np.isfinite(r.reshape(len(r), -1)).all(1) for r in rows], 0)


def tail(values, permille):
    k = -(-len(values) * permille // 1000)
    return np.sort(values)[len(values) - k:]


def error_of_mean(v):
    return np.sqrt(v.var() / (len(v) - 1))


def common(s, counted, bad):
    excluded = s["mask"] & metrics.EXCLUDED > 0
    return {"tokens": counted.sum(), "nonfinite_rows": (bad & ~excluded).sum(),
            "excluded_tokens": excluded.sum(), "gap_tokens": 0,
            "documents": len(np.unique(s["document"][counted]))}


def predictions(s):
    """Of cross-entropy (of r) and divergence."""
    open_ = s["mask"] & metrics.EXCLUDED == 0
    r, q = s["nll_r"].astype(np.float64), s["nll_q"].astype(np.float64)
    alone = open_ & ~np.isnan(r)
    batch = np.arange(len(r))[alone] // BATCH
    ce = common(s, alone, np.zeros(len(r), bool)) | {
        "predicted": alone.sum(), "ce": r[alone].mean(), "ppl": np.exp(r[alone].mean()),
        "nll_sum": r[alone].sum(), "ce_se": error_of_mean(r[alone]),
        "ppl_se": np.exp(r[alone].mean()) * error_of_mean(r[alone]),
        "ce_mean_of_batch_means": np.mean([r[alone][batch == b].mean() for b in np.unique(batch)])}
    bad = ~np.isnan(r) & ~np.isfinite(q)
    both = alone & ~bad
    r, q, kl = r[both], q[both], s["kl"][both].astype(np.float64)
    top_r, top_q, label = (s[name][both] for name in ("top_r", "top_q", "labels"))
    dnll, dp = q - r, np.exp(-q) - np.exp(-r)
    n, rms = len(r), np.sqrt((dp * dp).mean())
    out = common(s, both, bad) | {
        "ce_r": r.mean(), "ce_q": q.mean(), "ppl_r": np.exp(r.mean()), "ppl_q": np.exp(q.mean()),
        "dce": dnll.mean(), "dce_se": error_of_mean(dnll),
        "dce_percent": 100 * dnll.mean() / r.mean(), "ppl_ratio": np.exp(dnll.mean()),
        "kl_mean": kl.mean(), "kl_se": error_of_mean(kl), "kl_max": kl.max(),
        "kl_share_worst_1pct": tail(kl, 10).sum() / kl.sum(), "dnll_max": dnll.max(),
        "same_top": (top_r == top_q).mean(), "top1_agreement": (top_r == top_q).mean(),
        "right_to_wrong": ((top_r == label) & (top_q != label)).sum(),
        "wrong_to_right": ((top_r != label) & (top_q == label)).sum(),
        "dp_mean": dp.mean(), "dp_rms": rms, "dp_rms_se": 0.5 / rms * error_of_mean(dp * dp),
        "quantile_sample": n, "quantile_error": 0,
        "entropy_r": s["entropy_r"][both].mean(dtype=np.float64),
        "entropy_q": s["entropy_q"][both].mean(dtype=np.float64),
        "topk_overlap": s["topk_overlap"][both].mean(dtype=np.float64)}
    for name, v in (("kl", kl), ("dnll", dnll)):
        for end, f in (("median", 0.5), ("q90", 0.9), ("q95", 0.95), ("q99", 0.99),
                       ("q999", 0.999)):
            out[f"{name}_{end}"] = np.quantile(v, f)
        out[f"{name}_cvar_1pct"] = tail(v, 10).mean()
        out[f"{name}_cvar_0p1pct"] = tail(v, 1).mean()
    return ce, out


def masked(x, y, l0):
    rr, xx, n = ((x - y)**2).sum(1), (x * x).sum(1), len(x)
    energy, r = ((x - x.mean(0))**2).sum(1), x - y
    with np.errstate(all="ignore"):
        share = rr / energy
    return {"tokens": n, "fvu_dim": rr.sum() / energy.sum(),
            "fvu_scalar": rr.sum() / ((x - x.mean())**2).sum(), "fvu_raw": rr.sum() / xx.sum(),
            "mse": rr.sum() / x.size, "mse_token": rr.sum() / n, "l0": l0.mean(),
            "fvu_centered_residual": ((r - r.mean(0))**2).sum() / energy.sum(),
            "fvu_tokmedian": np.median(share)}


def reconstruction(s):
    open_, ok = s["mask"] & metrics.EXCLUDED == 0, finite(s["x_r"], s["y_r"], s["f_r"])
    at = open_ & ok
    x, y, f = (s[name][at].astype(np.float64) for name in ("x_r", "y_r", "f_r"))
    mask, token, n = s["mask"][at], np.arange(len(at))[at], at.sum()
    l0, rr, xx, yy = (f != 0).sum(1), ((x - y)**2).sum(1), (x * x).sum(1), (y * y).sum(1)
    nx, ny, xy = np.sqrt(xx), np.sqrt(yy), (x * y).sum(1)
    norms, cuts = (nx > 0) & (ny > 0), [token // BATCH == b for b in np.unique(token // BATCH)]
    about = [(x[c] - x[c].mean(0))**2 for c in cuts]
    mean_r, mean_x = (np.mean([v[c].mean() for c in cuts]) for v in (rr, xx))
    kept = nx <= 10 * np.median(nx)
    later = mask & metrics.FIRST == 0
    rate = (f > 0).mean(0)
    want = common(s, at, ~ok) | masked(x, y, l0) | {
        "sse": rr.sum(), "sum_x2": xx.sum(), "sum_x": x.sum(), "m2": ((x - x.mean(0))**2).sum(),
        "mean_norm_in": nx.mean(), "mean_norm_out": ny.mean(), "mean_residual_norm":
        np.sqrt(rr).mean(), "cossim": (xy[norms] / (nx * ny)[norms]).mean(),
        "l2_ratio": (ny / np.where(nx < 1e-4, 1, nx)).mean(),
        "relative_reconstruction_bias": yy.sum() / xy.sum(), "l1": f.sum() / n,
        "normalized_mse_openai": (rr[nx > 0] / xx[nx > 0]).mean(),
        "fvu_dim_uniform": np.mean(((x - y)**2).sum(0) / ((x - x.mean(0))**2).sum(0)),
        "fvu_v9": ((x - y)[later]**2).mean() / x[later].var(ddof=1),
        "fvu_tokmean": sum((rr[c] / v.sum(1)).sum() for c, v in zip(cuts, about)) / n,
        "mse_saelens": sum(rr[c].mean() for c in cuts) / n,
        "fvu_v3_sparsify": np.mean([rr[c].sum() / v.sum() for c, v in zip(cuts, about)]),
        "fvu_v4_dictionary_learning": np.mean([(x - y)[c].var(0).sum() / x[c].var(0).sum()
                                               for c in cuts]),
        "fvu_v6_saebench": mean_r / (mean_x - (mean_x / D)**2),
        "fvu_v7_saelens": mean_r / (mean_x - (np.mean([x[c].mean(0) for c in cuts],
                                                      0)**2).sum()),
        "dead_features": (rate == 0).sum(), "features_rate_above_0p001": (rate > 0.001).sum(),
        "features_rate_above_0p01": (rate > 0.01).sum(),
        "features_rate_above_0p1": (rate > 0.1).sum(), "max_activation": f.max(),
        "zero_norm_rows": (nx == 0).sum(), "tokmedian_sample": n, "median_norm_in": np.median(nx),
        "sink_tokens": (~kept).sum(),
        "share_x2_top_0p1pct": np.sort(xx)[-max(1, (n + 500) // 1000):].sum() / xx.sum(),
        "share_x2_specials": xx[mask & metrics.SPECIAL > 0].sum() / xx.sum()}
    for prefix, part in (("no_specials", mask & metrics.SPECIAL == 0),
                         ("no_first_position", later), ("no_sinks", kept)):
        of = masked(x[part], y[part], l0[part])
        for name in ("l0", "fvu_centered_residual", "fvu_tokmedian"):
            if prefix == "no_sinks":
                del of[name]
        want |= {f"{prefix}/{name}": v for name, v in of.items()}
    return want


def correlation(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt(np.maximum((a * a).sum(0) * (b * b).sum(0), 1e-12))


def ten_largest(row):
    order = np.lexsort((np.arange(len(row)), -row))[:10]
    return {int(i) for i in order if row[i] > 0}


def features(s):
    """Figures of all, and per feature."""
    open_, ok = s["mask"] & metrics.EXCLUDED == 0, finite(s["f_r"], s["f_q"])
    at = open_ & ok
    f, g = s["f_r"][at].astype(np.float64), s["f_q"][at].astype(np.float64)
    n_r, n_q, n_both = (f > 0).sum(0), (g > 0).sum(0), ((f > 0) & (g > 0)).sum(0)
    either, r = n_r + n_q - n_both, correlation(f, g)
    active = n_r / len(f) > 0.001
    a = np.sort(r[active])
    rows = [(ten_largest(x), ten_largest(y)) for x, y in zip(f, g)]
    any_ = ((f > 0) | (g > 0)).sum(1)
    both = (np.abs(f).sum(1) > 0) & (np.abs(g).sum(1) > 0)
    with np.errstate(all="ignore"):
        cosine = (f * g).sum(1) / np.sqrt((f * f).sum(1)) / np.sqrt((g * g).sum(1))
        each = {"r": r, "fire_r": n_r, "fire_q": n_q, "cofire": n_both, "rate_r": n_r / len(f),
                "rate_q": n_q / len(f), "mean_r": f.mean(0), "mean_q": g.mean(0), "max_r": f.max(0),
                "max_q": g.max(0), "gain": (f * g).sum(0) / (f * f).sum(0),
                "cosine": (f * g).sum(0) / np.sqrt((f * f).sum(0)) / np.sqrt((g * g).sum(0)),
                "cofire_jaccard": n_both / either, "precision": n_both / n_q,
                "recall": n_both / n_r, "rate_ratio": n_q / n_r, "sum_r2": (f * f).sum(0),
                "sum_delta2": ((f - g)**2).sum(0),
                "relative_error": ((f - g)**2).sum(0) / (f * f).sum(0),
                "mean_ratio": g.sum(0) / f.sum(0)}
    survived, damaged = (a > 0.9).sum(), (a < 0.5).sum()
    bands = {"survived": survived, "damaged": damaged, "degraded": len(a) - survived - damaged}
    return common(s, at, ~ok) | {"documents": np.nan} | bands | {f"{k}_percent": 100 * v / len(a)
                                         for k, v in bands.items()} | {
        "active": len(a), "mean_r": a.mean(), "median_r": a[(len(a) - 1) // 2], "min_r": a[0],
        "above_0p95": (a > 0.95).sum(), "above_0p8": (a > 0.8).sum(),
        "cofire_jaccard_all": n_both.sum() / either.sum(),
        "newly_dead": ((n_r > 0) & (n_q == 0)).sum(), "newly_alive": ((n_r == 0) & (n_q > 0)).sum(),
        "l0_r": n_r.sum() / len(f), "l0_q": n_q.sum() / len(f),
        "suppressed": (2 * n_q < n_r)[active].sum(), "amplified": (n_q > 2 * n_r)[active].sum(),
        "token_jaccard": np.mean((((f > 0) & (g > 0)).sum(1) / np.maximum(any_, 1))[any_ > 0]),
        "token_top10": np.mean([len(p & q) / max(len(p), len(q)) for p, q in rows if p or q]),
        "token_cosine": cosine[both].mean()}, each


def drift(s):
    open_ = s["mask"] & metrics.EXCLUDED == 0
    ok = finite(s["x_r"], s["x_q"], s["y_r"], s["y_q"])
    at = open_ & ok
    x_r, x_q, y_r, y_q = (s[k][at].astype(np.float64) for k in ("x_r", "x_q", "y_r", "y_q"))
    d, e = x_q - x_r, y_q - y_r
    n, d2, error = at.sum(), (d**2).sum(), ((x_q - y_q)**2).sum(1)

    def about(v):
        return ((v - v.mean(0))**2).sum()

    p, r_q = np.sqrt(d2 / (x_r**2).sum()), np.sqrt(error.sum() / (x_q**2).sum())
    r_r = np.sqrt(((x_r - y_r)**2).sum() / (x_r**2).sum())
    p_c, r_c = np.sqrt(about(d) / about(x_r)), np.sqrt(about(x_q - y_q) / about(x_q))
    ratios = np.sqrt((d**2).sum(1))[error > 0] / np.sqrt(error[error > 0])
    return common(s, at, ~ok) | {
        "P": p, "P_centered": p_c, "mean_delta_norm": np.sqrt((d**2).sum(1)).mean(),
        "mse_delta": d2 / d.size, "sum_delta2": d2, "R_q": r_q, "R_r": r_r, "R_q_centered": r_c,
        "ratio": p / r_q, "ratio_residual_r": p / r_r, "ratio_centered": p_c / r_c,
        "ratio_squared": (p / r_q)**2, "ratio_token_median": np.median(ratios),
        "mse_q": error.sum() / d.size, "fixed_basis_sse": ((x_r - y_q)**2).sum(),
        "share_E": (e**2).sum() / d2, "share_e": ((d - e)**2).sum() / d2,
        "share_cross": 2 * (e * (d - e)).sum() / d2, "token_median_sample": len(ratios)}


class Stream(Case):
    def agree(self, metric, want, but=()):
        got = metric.result()
        self.assertEqual(set(got) - set(but), set(want))
        for name, value in want.items():
            with self.subTest(name):
                self.near(got[name], value, 1e-9, 1e-12)

    def one(self, rng):
        s = make(rng)
        ce, divergence = predictions(s)
        of = {"batch_rows": BATCH}
        self.agree(fed(lambda: metrics.CrossEntropy(self.ctx, **of), rng,
                       s | {"nll": s["nll_r"]}, "nll"), ce)
        self.agree(fed(lambda: metrics.Divergence(self.ctx, **of), rng, s, "nll_r", "nll_q", "kl",
                       "top_r", "top_q", "labels", "entropy_r", "entropy_q", "topk_overlap"),
                   divergence)
        self.agree(fed(lambda: metrics.Reconstruction(self.ctx, D, features=F, **of), rng,
                       s | {"x": s["x_r"], "y": s["y_r"], "acts": s["f_r"]}, "x", "y", "acts"),
                   reconstruction(s))
        self.agree(fed(lambda: metrics.Drift(self.ctx, D, **of), rng, s, "x_r", "x_q", "y_r",
                       "y_q"), drift(s))
        m = fed(lambda: metrics.Features(self.ctx, F, **of), rng,
                s | {"r": s["f_r"], "q": s["f_q"]}, "r", "q")
        want, each = features(s)
        intervals = {f"undetermined{end}" for end in ("", "_percent", "_0p5", "_0p8", "_0p95")}
        self.agree(m, want, intervals)
        for name, value in each.items():
            with self.subTest(name): # what is divided by 0 is not defined
                self.near(m.features(name), np.where(np.isinf(value), np.nan, value), 1e-9, 1e-12)

    def test_everything_at_once(self):
        rng = np.random.default_rng(12)
        for _ in range(200 if os.environ.get("QSAE_LONG_TESTS") == "1" else 3):
            self.one(rng)
