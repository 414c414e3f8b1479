# SPDX-License-Identifier: BSD-2-Clause
"""Writes tests/data/metrics/predictor.txt: what scikit-learn and SciPy say of small arrays.

Run with scikit-learn 1.9 and SciPy installed: python3 tests/reference/predictor.py OUT
Per case: n, k, seed; then n lines of label, fold, k inputs; then AUC of each input, the weights and
intercept of LogisticRegression(C=1), Pearson and Spearman of the first two inputs.
"""

import sys

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold


def case(rng, n, k, seed, ties, positive=None):
    x = rng.standard_normal((n, k))
    if ties:
        x = np.round(x * 2) / 2
    y = (x @ rng.standard_normal(k) + rng.standard_normal(n) > 0.3).astype(int)
    y[:5], y[5:10] = 1, 0  # every class has a member for each fold
    if positive is not None:  # or has not
        y[:] = np.arange(n) < positive
    rng.shuffle(y)
    fold = np.empty(n, int)
    for f, (_, held) in enumerate(StratifiedKFold(5, shuffle=True, random_state=seed).split(x, y)):
        fold[held] = f
    model = LogisticRegression(C=1.0, tol=1e-12, max_iter=100000, solver="newton-cholesky").fit(x, y)
    lines = [f"{n} {k} {seed}"]
    lines += [" ".join([str(y[i]), str(fold[i]), *(float(v).hex() for v in x[i])])
              for i in range(n)]
    lines.append(" ".join(float(roc_auc_score(y, x[:, j])).hex() for j in range(k)))
    lines.append(" ".join(float(v).hex() for v in [*model.coef_[0], model.intercept_[0]]))
    lines.append(f"{float(stats.pearsonr(x[:, 0], x[:, 1])[0]).hex()} "
                 f"{float(stats.spearmanr(x[:, 0], x[:, 1])[0]).hex()}")
    return lines


def main():
    rng = np.random.default_rng(0)
    lines = []
    for n, k, seed, ties in ((23, 2, 0, False), (40, 3, 0, True), (101, 4, 7, False),
                             (150, 4, 4294967295, True)):
        lines += case(rng, n, k, seed, ties)
    for positive in (1, 2, 4, 6):  # of one class fewer than folds, or hardly more
        lines += case(rng, 16 + positive, 2, positive, True, positive)
        lines += case(rng, 16 + positive, 2, 0, False, 16)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
