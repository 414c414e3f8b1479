#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Feature metrics of random sparse streams by the library and by NumPy and SciPy in f64.

usage: feature_metrics.py [RUNS]     (the Python package and its library must be importable)
"""
import sys

import numpy as np
from scipy import stats
from scipy.spatial.distance import cosine

import qsae

NAMES = ["cofire_jaccard", "precision", "recall", "rate_ratio", "r_on", "relative_error",
         "mean_ratio", "sum_r2", "sum_delta2"]


def stream(g):
    """Activations of both models [tokens, features]: ties, silent, constant, dense features."""
    tokens, features = int(g.integers(2, 3000)), int(g.integers(1, 60))
    rate = g.beta(0.4, 2.0, features)
    on = g.random((tokens, features)) < rate
    r = np.where(on, g.lognormal(0, 1, on.shape), 0)
    q = r * np.where(g.random(on.shape) < 0.1, 0, 1 + 0.3 * g.standard_normal(on.shape))
    if g.random() < 0.5:
        r, q = np.round(4 * r) / 4, np.round(4 * q) / 4
    q[:, g.integers(features)] = 0
    k = g.integers(features)
    r[:, k] = np.where(on[:, k], 0.7, 0)
    r, q = r.astype(np.float32), np.maximum(q, 0).astype(np.float32)
    bad = np.zeros(tokens, bool)
    for t in g.integers(0, tokens, 3):
        if g.random() < 0.5:
            (r if g.random() < 0.5 else q)[t, g.integers(features)] = np.nan
            bad[t] = True
    return r, q, ~bad


def ratio(a, b):
    return a / b if b != 0 else np.nan


def expected(x, y):
    on, fr, fq = (x != 0) | (y != 0), x > 0, y > 0
    both = np.sum(fr & fq)
    varies = on.sum() > 1 and np.ptp(x[on]) > 0 and np.ptp(y[on]) > 0
    return [ratio(both, np.sum(fr | fq)), ratio(both, fq.sum()), ratio(both, fr.sum()),
            ratio(fq.sum(), fr.sum()),
            stats.pearsonr(x[on], y[on]).statistic if varies else np.nan,
            ratio(np.sum((y - x) ** 2), np.sum(x * x)), ratio(y.sum(), x.sum()),
            np.sum(x * x), np.sum((y - x) ** 2)]


def tokens(x, y):
    jaccard, top, angles = [], [], []
    for a, b in zip(x, y):
        fa, fb = set(np.flatnonzero(a > 0)), set(np.flatnonzero(b > 0))
        if fa | fb:
            jaccard.append(len(fa & fb) / len(fa | fb))
            la = sorted(fa, key=lambda f: (-a[f], f))[:10]
            lb = sorted(fb, key=lambda f: (-b[f], f))[:10]
            top.append(len(set(la) & set(lb)) / max(len(la), len(lb)))
        if a.any() and b.any():
            angles.append(1 - cosine(a, b))
    return [np.mean(v) if v else np.nan for v in (jaccard, top, angles)]


def close(what, got, want):
    if not (np.isnan(got) and np.isnan(want)) and not abs(got - want) <= 1e-9 * abs(want) + 1e-300:
        raise SystemExit(f"{what}: expected {want!r}, found {got!r}")
    return 1


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    ctx, n = qsae.Context(threads=2), 0
    for seed in range(runs):
        g = np.random.default_rng(seed)
        r, q, counted = stream(g)
        m = qsae.metrics.Features(ctx, r.shape[1])
        m.update(r, q)
        x, y = r[counted].astype(np.float64), q[counted].astype(np.float64)
        got = [m.features(name) for name in NAMES]
        for f in range(r.shape[1]):
            for name, a, b in zip(NAMES, got, expected(x[:, f], y[:, f])):
                n += close(f"seed {seed}, feature {f}: {name}", a[f], b)
        names = ["token_jaccard", "token_top10", "token_cosine"]
        for name, b in zip(names, tokens(x, y)):
            n += close(f"seed {seed}: {name}", m.result()[name], b)
    print(f"{runs} streams, {n} values equal to 1e-9")


if __name__ == "__main__":
    main()
