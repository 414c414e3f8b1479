# SPDX-License-Identifier: BSD-2-Clause
"""Intervals over documents, in NumPy and SciPy as doc/metrics.md defines them.

python3 tests/reference/intervals.py             writes tests/data/metrics/intervals.txt
python3 tests/reference/intervals.py --live N    N random streams through libqsae, every interval
                                                 compared; prints the counts and the largest error
python3 tests/reference/intervals.py --coverage N  how often intervals of libqsae cover the truth in
                                                 N simulated corpora per size
The last two need the package qsae (QSAE_LIBRARY, PYTHONPATH=libqsae/python).
"""

import argparse
import os

import numpy as np
from scipy import stats

REPLICATES = 2000


def thresholds():
    """floor(2^64 P(Poisson(1) <= j)), j = 0..19, from integers alone."""
    digits = 400
    one = 1 << digits
    e, term = 0, one
    for i in range(1, 200):
        e += term
        term //= i
    out, cdf, factorial = [], 0, 1
    for j in range(20):
        factorial *= max(j, 1)
        cdf += one * one // e // factorial
        out.append((cdf << 64) >> digits)
    return np.array(out, np.uint64)


def weights(documents, replicates=REPLICATES, seed=0):
    """[documents, replicates]: how often each is drawn."""
    at = thresholds()
    key = np.array([seed, 0], np.uint64)
    return np.array([np.searchsorted(
        at, np.random.Philox(key=key, counter=np.array([0, int(d) % 2**64, 0, 0], np.uint64))
        .random_raw(replicates), side="right") for d in documents], np.float64)


def interval(w, sums, figure, weight, log=False):
    """low, high, jackknife se of figure(sums [..., k]); w [documents, replicates]."""
    total = sums.sum(0)
    with np.errstate(all="ignore"):
        value, n = figure(total), len(sums)
        theta = figure(w.T @ sums)
        theta = theta[np.isfinite(theta)]
        left = figure(total - sums)

    def se(x):
        return np.sqrt((n - 1) / n * ((x - x.mean()) ** 2).sum())

    low, high = np.quantile(theta, [0.025, 0.975])
    count = weight.sum() ** 2 / (weight**2).sum()
    half = (high - low) / 2
    t = stats.t.ppf(0.975, max(1, count - 1))
    widen = max(1, t * se(left) / half) if half > 0 else 1
    low, high = value - widen * (value - low), value + widen * (high - value)
    if log:
        return np.exp(low), np.exp(high), se(np.exp(left))
    return low, high, se(left)


def by_document(document, *columns):
    """ids ascending, sums [documents, columns]."""
    ids, inverse = np.unique(document, return_inverse=True)
    return ids, np.stack([np.bincount(inverse, np.asarray(c, np.float64), len(ids))
                          for c in columns], 1)


def ratio(a, b):
    return lambda s: s[..., a] / s[..., b]


def divergence(rows):
    """Every interval of kind divergence."""
    r, q = rows["nll_r"].astype(np.float64), rows["nll_q"].astype(np.float64)
    dp = np.exp(-q) - np.exp(-r)
    was, now = rows["top_r"] == rows["label"], rows["top_q"] == rows["label"]
    ids, s = by_document(rows["document"], np.ones_like(r), r, q, rows["kl"],
                         rows["top_r"] == rows["top_q"], was & ~now, ~was & now, dp, dp * dp)
    w, n = weights(ids), s[:, 0]

    def dce(s):
        return (s[..., 2] - s[..., 1]) / s[..., 0]

    out = {"dce": interval(w, s, dce, n), "ppl_ratio": interval(w, s, dce, n, True),
           "dce_percent": interval(w, s, lambda s: 100 * (s[..., 2] - s[..., 1]) / s[..., 1], n),
           "dp_rms": interval(w, s, lambda s: np.sqrt(s[..., 8] / s[..., 0]), n)}
    for name, c in (("ce_r", 1), ("ce_q", 2), ("kl_mean", 3), ("same_top", 4),
                    ("top1_agreement", 4), ("dp_mean", 7)):
        out[name] = interval(w, s, ratio(c, 0), n)
    for name, c in (("ppl_r", 1), ("ppl_q", 2)):
        out[name] = interval(w, s, ratio(c, 0), n, True)
    for name, c in (("right_to_wrong", 5), ("wrong_to_right", 6)):
        out[name] = tuple(n.sum() * x for x in interval(w, s, ratio(c, 0), n))
    return out


def cross_entropy(rows):
    d = divergence(rows)
    return {"ce": d["ce_r"], "ppl": d["ppl_r"]}


SPECIAL, FIRST = 2, 4  # of QSAE_MASK_*


def masks(n):
    """Of the rows: every seventh is a special token, every sixteenth the first of its chunk."""
    at = np.arange(n)
    return ((at % 7 == 0) * SPECIAL + (at % 16 == 0) * FIRST).astype(np.uint8)


def masked(document, x, y, keep):
    """fvu_dim, fvu_scalar and fvu_raw of a part of the rows."""
    x, y, d = x[keep], y[keep], x.shape[1]
    ids, s = by_document(document[keep], np.ones(len(x)), ((x - y) ** 2).sum(1), (x * x).sum(1),
                         x.sum(1), ((x - x.mean(0)) ** 2).sum(1))
    if len(ids) < 20:
        return {name: (np.nan,) * 3 for name in ("fvu_dim", "fvu_scalar", "fvu_raw")}
    w = weights(ids)
    return {"fvu_dim": interval(w, s, ratio(1, 4), s[:, 4]),
            "fvu_scalar": interval(w, s, lambda s: s[..., 1] / (s[..., 2] - s[..., 3] ** 2 /
                                                                (s[..., 0] * d)), s[:, 2]),
            "fvu_raw": interval(w, s, ratio(1, 2), s[:, 2])}


def reconstruction(rows):
    x, y = rows["x_r"].astype(np.float64), rows["y_r"].astype(np.float64)
    d = x.shape[1]
    norm, mask = np.sqrt((x * x).sum(1)), masks(len(x))
    parts = {"no_specials": mask & SPECIAL == 0, "no_first_position": mask & FIRST == 0,
             "no_sinks": norm <= 10 * np.median(norm)}
    more = {f"{part}/{name}": values for part, keep in parts.items()
            for name, values in masked(rows["document"], x, y, keep).items()}
    ids, s = by_document(rows["document"], np.ones(len(x)), ((x - y) ** 2).sum(1), (x * x).sum(1),
                         x.sum(1), rows["l0"], ((x - x.mean(0)) ** 2).sum(1))
    w = weights(ids)
    return {"fvu_dim": interval(w, s, ratio(1, 5), s[:, 5]),
            "fvu_raw": interval(w, s, ratio(1, 2), s[:, 2]),
            "fvu_scalar": interval(w, s, lambda s: s[..., 1] / (s[..., 2] - s[..., 3] ** 2 /
                                                                (s[..., 0] * d)), s[:, 2]),
            "mse": interval(w, s, lambda s: s[..., 1] / (s[..., 0] * d), s[:, 0]),
            "mse_token": interval(w, s, ratio(1, 0), s[:, 0]),
            "l0": interval(w, s, ratio(4, 0), s[:, 0])} | more


def median_interval(w, document, value):
    """Woodruff (1952)."""
    median = np.median(value)
    below = (value < median) + 0.5 * (value == median)
    _, s = by_document(document, np.ones_like(value), below)
    share = below.mean()
    low, high, _ = interval(w, s, ratio(1, 0), s[:, 0])
    at = np.clip([0.5 - (high - share), 0.5 + (share - low)], 0, 1)
    return (*np.quantile(value, at), np.nan)


def drift(rows):
    a, b = rows["x_r"].astype(np.float64), rows["x_q"].astype(np.float64)
    e, f = a - rows["y_r"], b - rows["y_q"]
    shown = rows["y_q"].astype(np.float64) - rows["y_r"]
    rest = b - a - shown
    ids, s = by_document(rows["document"], (a * a).sum(1), (b * b).sum(1), ((b - a) ** 2).sum(1),
                         (e * e).sum(1), (f * f).sum(1), (shown**2).sum(1), (rest**2).sum(1),
                         2 * (shown * rest).sum(1))
    w = weights(ids)

    def root(i, k):
        return lambda s: np.sqrt(s[..., i] / s[..., k])

    def quotient(i, k):
        return lambda s: root(2, 0)(s) / root(i, k)(s)

    ratios = np.sqrt(((b - a) ** 2).sum(1)) / np.sqrt((f * f).sum(1))
    return {"P": interval(w, s, root(2, 0), s[:, 0]), "R_q": interval(w, s, root(4, 1), s[:, 1]),
            "R_r": interval(w, s, root(3, 0), s[:, 0]),
            "ratio": interval(w, s, quotient(4, 1), s[:, 4]),
            "ratio_residual_r": interval(w, s, quotient(3, 0), s[:, 3]),
            "ratio_squared": interval(w, s, lambda s: quotient(4, 1)(s) ** 2, s[:, 4]),
            "share_E": interval(w, s, ratio(5, 2), s[:, 2]),
            "share_e": interval(w, s, ratio(6, 2), s[:, 2]),
            "share_cross": interval(w, s, ratio(7, 2), s[:, 2]),
            "ratio_token_median": median_interval(w, rows["document"], ratios)}


KINDS = {"cross_entropy": cross_entropy, "divergence": divergence,
         "reconstruction": reconstruction, "drift": drift}


def make(rng, documents, d=5, sigma=1.2, scale=3.0):
    """A stream of documents of lognormal lengths, some of one token, ids with gaps; every 97th row
    is an attention sink."""
    length = np.maximum(1, np.round(np.exp(rng.normal(scale, sigma, documents)))).astype(int)
    ids = np.cumsum(rng.integers(1, 4, documents))
    document = np.repeat(ids, length)
    n, effect = len(document), np.repeat(rng.standard_t(5, documents), length)
    f = np.float32
    nll_r = (3 + 0.5 * effect + rng.exponential(1, n)).clip(0.001).astype(f)
    x = (rng.normal(1, 2, (n, d)) * np.exp(0.3 * effect)[:, None]).astype(f)
    x[::97] *= f(64)
    x_q = (x + rng.normal(0, 0.4, (n, d)) * np.exp(0.1 * effect)[:, None]).astype(f)
    top_r = rng.integers(0, 4, n)
    return {"document": document, "nll_r": nll_r,
            "nll_q": (nll_r + 0.05 * effect + rng.normal(0, 0.3, n)).clip(0).astype(f),
            "kl": np.round(rng.exponential(0.1, n), 2).astype(f), "label": rng.integers(0, 4, n),
            "top_r": top_r, "top_q": np.where(rng.random(n) < 0.8, top_r, rng.integers(0, 4, n)),
            "x_r": x, "x_q": x_q, "y_r": (x + rng.normal(0, 0.5, (n, d))).astype(f),
            "y_q": (x_q + rng.normal(0, 0.5, (n, d))).astype(f),
            "l0": rng.integers(0, 5, n)}


def changes(rows):
    """Of the reconstruction of q against that of r."""
    parts, n = [], np.ones(len(rows["document"]))
    for x, y, l0 in ((rows["x_r"], rows["y_r"], rows["l0"]),
                     (rows["x_q"], rows["y_q"], rows["l0"][::-1])):
        x, y = x.astype(np.float64), y.astype(np.float64)
        parts += [n, ((x - y) ** 2).sum(1), (x * x).sum(1), x.sum(1), l0,
                  ((x - x.mean(0)) ** 2).sum(1)]
    d = rows["x_r"].shape[1]
    ids, s = by_document(rows["document"], *parts)
    w = weights(ids)

    def scalar(s):
        return s[..., 1] / (s[..., 2] - s[..., 3] ** 2 / (s[..., 0] * d))

    def change(of, weight):
        return interval(w, s, lambda s: of(s[..., 6:]) - of(s[..., :6]), s[:, weight])

    return {"dfvu_dim": change(ratio(1, 5), 11), "dfvu_scalar": change(scalar, 8),
            "dmse": change(lambda s: s[..., 1] / (s[..., 0] * d), 6), "dl0": change(ratio(4, 0), 6)}


def recovered(rows):
    """q as the model with the SAE, 2 nll + 3 and 4 kl + 1 as zero, nll + 1 and kl as the mean."""
    f = np.float32
    nll = (rows["nll_q"], f(2) * rows["nll_q"] + f(3), rows["nll_q"] + f(1))
    ids, s = by_document(rows["document"], np.ones(len(rows["kl"])), rows["nll_r"], *nll,
                         rows["kl"], f(4) * rows["kl"] + f(1))
    w, n = weights(ids), s[:, 0]
    return {"ce_recovered": interval(w, s, lambda s: (s[..., 3] - s[..., 2]) /
                                     (s[..., 3] - s[..., 1]), n),
            "ce_recovered_mean": interval(w, s, lambda s: (s[..., 4] - s[..., 2]) /
                                          (s[..., 4] - s[..., 1]), n),
            "kl_recovered": interval(w, s, lambda s: 1 - s[..., 5] / s[..., 6], n)}


# ---- features: blocks of documents ----

FEATURES = 12
BLOCK_REPLICATES = 500
FIGURES = ("survived_percent", "degraded_percent", "damaged_percent", "mean_r", "median_r")


def make_features(rng, rows):
    """Dense activations [tokens, FEATURES] of r and q: one silent, one silent in q, one equal, one
    that fires once, one that fires in two documents."""
    document = rows["document"]
    n = len(document)
    effect = rng.exponential(1, (document.max() + 1, FEATURES))[document]
    rate = 0.6 * np.exp(-0.3 * np.arange(FEATURES))
    r = np.where(rng.random((n, FEATURES)) < rate, effect * rng.exponential(2, (n, FEATURES)), 0)
    q = np.where(rng.random((n, FEATURES)) < 0.95, r, 0) + np.where(
        r > 0, np.arange(FEATURES) * 0.1 * rng.exponential(1, (n, FEATURES)), 0)
    r[:, 3], q[:, 3], q[:, 5], q[:, 7] = 0, 0, 0, r[:, 7]
    r[:, 9], q[:, 9] = 0, 0
    r[n // 2, 9] = q[n // 2, 9] = 3
    r[:, 10] *= np.isin(document, document[[0, -1]])
    return r.astype(np.float32), q.astype(np.float32)


def correlation(s, n):
    """s [..., 5]: sums of x, y, xx, yy, xy over n rows."""
    x, y, xx, yy, xy = np.moveaxis(s, -1, 0)
    cov, vx, vy = xy - x * y / n, xx - x * x / n, yy - y * y / n
    return np.clip(cov / np.sqrt(np.maximum(vx * vy, 1e-12)), -1, 1)


def shares(r):
    """FIGURES of r [features]."""
    n = r.shape[-1]
    survived, damaged = (r > 0.9).sum(-1), (r < 0.5).sum(-1)
    return np.stack([100 * survived / n, 100 * (n - survived - damaged) / n, 100 * damaged / n,
                     r.mean(-1), np.sort(r, -1)[..., (n - 1) // 2]], -1)


def features(document, r, q, per):
    """r_low, r_high [features]; name -> (low, high) of FIGURES; threshold -> undetermined."""
    r, q = r.astype(np.float64), q.astype(np.float64)
    blocks, inverse = np.unique(document // per, return_inverse=True)
    rows = np.bincount(inverse)
    part = np.zeros((len(blocks), r.shape[1], 5))
    for i, v in enumerate((r, q, r * r, q * q, r * q)):
        np.add.at(part[..., i], inverse, v)
    n, total = len(document), part.sum(0)
    value = correlation(total, n)
    left = np.stack([correlation(total - part[g], n - rows[g]) for g in range(len(blocks))])
    t = stats.t.ppf(0.975, max(1, n**2 / (rows**2).sum() - 1))
    g = len(blocks)

    def scale(r):
        return np.arctanh(np.clip(r, -(1 - 2**-53), 1 - 2**-53))

    def error(x):
        return np.sqrt((g - 1) / g * ((x - x.mean(0)) ** 2).sum(0))

    # Degrees of freedom: of the blocks, or as many as the deviations come from, if fewer.
    se, squares = error(scale(left)), (scale(left) - scale(left).mean(0))**2
    with np.errstate(all="ignore"):
        count = squares.sum(0)**2 / (squares**2).sum(0)
    freedom = np.clip(np.nan_to_num(count, nan=1), 1, max(1, n**2 / (rows**2).sum() - 1))
    t_r = np.interp(freedom, np.arange(1, 34), stats.t.ppf(0.975, np.arange(1, 34)))
    low = np.where(se > 0, np.tanh(scale(value) - t_r * se), value)
    high = np.where(se > 0, np.tanh(scale(value) + t_r * se), value)
    fired = (total[:, :2] != 0).any(1)
    low[~fired] = high[~fired] = np.nan
    active = (r > 0).sum(0) / n > 0.001
    out = shares(value[active])
    draws = weights(blocks, BLOCK_REPLICATES)
    of = []
    for w in draws.T:
        sums = np.einsum("g,gfk->fk", w, part)
        of.append(shares(correlation(sums, w @ rows)[active & (sums[:, 2:4] > 0).any(1)]))
    se = np.std(of, 0, ddof=1)
    least, most = np.array([0, 0, 0, -1, -1]), np.array([100, 100, 100, 1, 1])
    bounds = {name: (max(a - t * b, lo), min(a + t * b, hi))
              for name, a, b, lo, hi in zip(FIGURES, out, se, least, most)}
    crossing = {x: int(((low <= x) & (high > x))[active].sum()) for x in (0.5, 0.8, 0.9, 0.95)}
    return low, high, bounds, crossing


# ---- the library ----

def acts(rows):
    """Sparse rows with l0 entries each."""
    l0 = rows["l0"]
    indptr = np.concatenate([[0], np.cumsum(l0)])
    return indptr, np.concatenate([np.arange(n) for n in l0]), np.ones(indptr[-1], np.float32)


def library(qsae, ctx, rows, cuts=()):
    """Intervals of all kinds through libqsae, fed in parts; "kind/name" -> low, high, se."""
    m = {"cross_entropy": qsae.metrics.CrossEntropy(ctx), "drift": qsae.metrics.Drift(ctx, 5),
         "divergence": qsae.metrics.Divergence(ctx),
         "reconstruction": qsae.metrics.Reconstruction(ctx, 5, 5)}
    edges = [0, *sorted({int(c) for c in cuts}), len(rows["document"])]
    for a, b in zip(edges[:-1], edges[1:]):
        p = {k: v[a:b] for k, v in rows.items()}
        at = {"document": p["document"], "first": a, "mask": masks(len(rows["document"]))[a:b]}
        m["cross_entropy"].update(p["nll_r"], **at)
        m["divergence"].update(p["nll_r"], p["nll_q"], p["kl"], p["top_r"].astype(np.int32),
                               p["top_q"].astype(np.int32), p["label"].astype(np.int32), **at)
        m["reconstruction"].update(p["x_r"], p["y_r"], acts(p), **at)
        m["drift"].update(p["x_r"], p["x_q"], p["y_r"], p["y_q"], **at)
    return {f"{kind}/{v.name}": (v.low, v.high, v.jackknife_se)
            for kind, metric in m.items() for v in metric.values()}


def live_features(qsae, ctx, rng, rows):
    """Compares one stream; returns the number of figures and the largest error."""
    _, document = np.unique(rows["document"], return_inverse=True)
    rows = {"document": document}
    r, q = make_features(rng, rows)
    n, documents = len(document), document.max() + 1
    per = -(-documents // 32)
    parts = []
    for a, b in ((0, n // 3), (n // 2, n), (n // 3, n // 2)):
        m = qsae.metrics.Features(ctx, FEATURES, documents_per_block=per)
        m.update(r[a:b], q[a:b], document=document[a:b], first=a)
        parts.append(m)
    for m in parts[1:]:
        parts[0].merge(m)
    m = parts[0]
    low, high, bounds, crossing = features(document, r, q, per)
    values = {v.name: v for v in m.values()}
    compared, worst = 0, 0.0
    for have, want in ((m.features("r_low"), low), (m.features("r_high"), high)):
        assert (np.isnan(have) == np.isnan(want)).all(), (have, want)
        ok = ~np.isnan(want)
        compared, worst = compared + ok.sum(), max(worst, np.abs(have - want)[ok].max())
    for name, want in bounds.items():
        v = values[name]
        have = np.array((v.low, v.high))
        compared, worst = compared + 2, max(worst, (np.abs(have - want) /
                                                    np.maximum(1, np.abs(want))).max())
    names = {0.5: "undetermined_0p5", 0.8: "undetermined_0p8", 0.9: "undetermined",
             0.95: "undetermined_0p95"}
    for x, count in crossing.items():
        assert values[names[x]].value == count, (x, values[names[x]].value, count)
    return compared + 4, worst


def live(n):
    import qsae
    import qsae.metrics

    rng, ctx = np.random.default_rng(5), qsae.Context()
    compared, worst, worst_r = 0, 0.0, 0.0
    for _ in range(n):
        rows = make(rng, int(rng.integers(20, 150)), sigma=rng.uniform(0.2, 1.5))
        total = len(rows["document"])
        got = library(qsae, ctx, rows, rng.integers(1, total, 3) if total > 1 else ())
        for kind, reference in KINDS.items():
            for name, want in reference(rows).items():
                have = got[f"{kind}/{name}"]
                for a, b in zip(have, want):
                    if np.isnan(b):
                        assert np.isnan(a), (kind, name)
                        continue
                    error = abs(a - b) / max(abs(b), abs(want[1] - want[0]))
                    worst, compared = max(worst, error), compared + 1
                    assert error < 1e-9, (kind, name, have, want)
        more, error = live_features(qsae, ctx, rng, rows)
        compared, worst_r = compared + more, max(worst_r, error)
        assert error < 1e-8, error
    print(f"{n} streams, {compared} numbers, largest relative error {worst:.1e}, of r "
          f"{worst_r:.1e}")


def coverage(n):
    import qsae
    import qsae.metrics

    ctx = qsae.Context()
    for documents in (30, 100, 400):
        rng = np.random.default_rng(documents)
        hits = {}
        for _ in range(n):
            length = np.maximum(1, np.round(np.exp(rng.normal(3, 1.2, documents)))).astype(int)
            at = np.repeat(np.arange(documents), length)
            t = len(at)
            effect = rng.standard_t(5, (2, documents))[:, np.repeat(np.arange(documents), length)]
            nll_r = 8 + effect[0] + rng.normal(0, 0.5, t)
            nll_q = nll_r + 0.02 + 0.1 * effect[1] + rng.normal(0, 0.3, t)
            kl = (2 + 0.1 * effect[1]).clip(0)
            m = qsae.metrics.Divergence(ctx)
            m.update(nll_r.astype(np.float32), nll_q.astype(np.float32), kl.astype(np.float32),
                     document=at, first=0)
            energy = np.exp(0.4 * effect[0].clip(-6, 6))
            x = rng.normal(0, 1, (t, 4)) * np.sqrt(energy)[:, None]
            y = x + rng.normal(0, 0.5, (t, 4)) * np.sqrt(energy)[:, None]
            c = qsae.metrics.Reconstruction(ctx, 4)
            c.update(x.astype(np.float32), y.astype(np.float32), document=at, first=0)
            for metric, truth in ((m, {"ce_r": 8, "ce_q": 8.02, "dce": 0.02, "kl_mean": 2,
                                       "ppl_ratio": np.exp(0.02)}),
                                  (c, {"fvu_raw": 0.25, "fvu_dim": 0.25})):
                for v in metric.values():
                    if v.name in truth:
                        hits.setdefault(v.name, []).append(v.low <= truth[v.name] <= v.high)
        print(documents, "documents:", ", ".join(f"{k} {100 * np.mean(v):.1f}"
                                                 for k, v in hits.items()), flush=True)


def paired_features(rng, documents, spread):
    """Documents' effects exp(spread t5) on activations that noise of 0.1 to 1.2 changes."""
    width = 60
    length = np.maximum(1, np.round(np.exp(rng.normal(3, 1.2, documents)))).astype(int)
    at = np.repeat(np.arange(documents), length)
    effect = np.exp(spread * rng.standard_t(5, (documents, width)).clip(-6, 6))[at]
    fires = rng.random((len(at), width)) < 0.3
    r = np.where(fires, effect * rng.exponential(1, fires.shape), 0)
    noise = np.linspace(0.1, 1.2, width) * rng.normal(0, 1, fires.shape)
    return at, r, np.where(fires, (r + noise).clip(0.001), 0)


def coverage_features(n):
    import qsae
    import qsae.metrics

    ctx = qsae.Context()
    for spread in (0.1, 0.3):
        for documents in (30, 100, 400):
            rng = np.random.default_rng(documents)
            total, tokens, hits = 0, 0, []
            for _ in range(60):
                at, r, q = paired_features(rng, 400, spread)
                total = total + np.stack([v.sum(0) for v in (r, q, r * r, q * q, r * q)], 1)
                tokens += len(at)
            truth = correlation(total, tokens)
            share = 100 * (truth > 0.9).mean()
            for _ in range(n):
                at, r, q = paired_features(rng, documents, spread)
                m = qsae.metrics.Features(ctx, r.shape[1], documents_per_block=-(-documents // 32))
                m.update(r.astype(np.float32), q.astype(np.float32), document=at, first=0)
                low, high = m.features("r_low"), m.features("r_high")
                v = next(v for v in m.values() if v.name == "survived_percent")
                hits.append([((low <= truth) & (truth <= high)).mean(), v.low <= share <= v.high])
            of_r, of_share = 100 * np.mean(hits, 0)
            print(f"effects exp({spread} t5), {documents} documents: r {of_r:.1f}, "
                  f"survived_percent {of_share:.1f}", flush=True)


# ---- the fixture ----

def number(v):
    return "nan" if np.isnan(v) else float(v).hex()


def fixture(path):
    rng = np.random.default_rng(8)
    rows = make(rng, 24, d=2, scale=2.0)
    n = len(rows["document"])
    lines = [f"{n} {rows['x_r'].shape[1]}"]
    for i in range(n):
        lines.append(" ".join([str(rows[k][i]) for k in ("document", "label", "top_r", "top_q",
                                                         "l0")] +
                              [number(rows[k][i]) for k in ("nll_r", "nll_q", "kl")] +
                              [number(v) for k in ("x_r", "x_q", "y_r", "y_q")
                               for v in rows[k][i]]))
    for kind, reference in KINDS.items():
        for name, values in reference(rows).items():
            lines.append(f"{kind} {name} " + " ".join(number(v) for v in values))
    for reference in (changes, recovered):
        for name, values in reference(rows).items():
            lines.append(f"{name} " + " ".join(number(v) for v in values))
    ids = [0, 1, 5, 2**40, 2**53]
    lines.append("weights " + " ".join(map(str, ids)))
    for seed in (0, 12345678901):
        for row in weights(ids, 40, seed):
            lines.append(" ".join(str(int(v)) for v in row))
    lines.append("t " + " ".join(f"{number(v)} {number(stats.t.ppf(0.975, v))}" for v in
                                 (1, 1.5, 2.25, 7, 29.3, 99, 199.9, 200.1, 1234.5, 1e7)))
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--live", type=int, default=0)
    parser.add_argument("--coverage", type=int, default=0)
    parser.add_argument("out", nargs="?",
                        default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..",
                                             "data", "metrics", "intervals.txt"))
    args = parser.parse_args()
    if args.live:
        live(args.live)
    elif args.coverage:
        coverage(args.coverage)
        coverage_features(args.coverage)
    else:
        fixture(args.out)


if __name__ == "__main__":
    main()
