# SPDX-License-Identifier: BSD-2-Clause
"""Figures by the names other packages give them.

"Explained variance" and "FVU" are several figures. NAMES says, for each name, which value of
qsae.metrics.Reconstruction it is. Where `batched` is true the other package averages over its
batches: open the metric with batch_rows = tokens of such a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Union

from ._lib import fail
from .metrics import Metric

Source = Union[Metric, Mapping[str, Any]]


class Name(NamedTuple):
    """key: of qsae.metrics.Reconstruction; complement: their figure is 1 - value; batched: it
    depends on the batch; what: the formula, r = x - y."""

    key: str
    complement: bool
    batched: bool
    what: str


NAMES: dict[str, Name] = {
    # sae_lens.evals, 6.54
    "sae_lens.explained_variance": Name(
        "fvu_dim", True, False, "1 - sum |r|^2 / sum |x - mean x|^2, over all tokens"),
    "sae_lens.explained_variance_legacy": Name(
        "fvu_tokmean", True, True, "mean over tokens of 1 - |r|^2 / |x - batch mean|^2"),
    "sae_lens.mse": Name("mse_token", False, False, "mean |r|^2, summed over dimensions"),
    "sae_lens.cossim": Name("cossim", False, False, "mean <x, y> / (|x| |y|)"),
    "sae_lens.l2_norm_in": Name("mean_norm_in", False, False, "mean |x|"),
    "sae_lens.l2_norm_out": Name("mean_norm_out", False, False, "mean |y|"),
    "sae_lens.l2_ratio": Name("l2_ratio", False, False, "mean |y| / |x|"),
    "sae_lens.l0": Name("l0", False, False, "activations that are not 0, per token"),
    "sae_lens.l1": Name("l1", False, False, "sum of activations per token"),
    # What SAELens called explained_variance and mse before.
    "sae_lens.explained_variance@665": Name(
        "fvu_v7_saelens", True, True, "1 - R / (S - |mean of batch means|^2), R and S means of "
                                      "batch means of |r|^2 and |x|^2"),
    "sae_lens.explained_variance@443": Name(
        "fvu_v6_saebench", True, True, "1 - R / (S - (S / d)^2): E[x^2] where E[x] was meant"),
    "sae_lens.mse@443": Name("mse_saelens", False, True, "sum of batch means of |r|^2, over T"),
    "saebench.explained_variance": Name("fvu_v6_saebench", True, True, "as SAELens after #443"),
    # dictionary_learning.evaluation.evaluate
    "dictionary_learning.frac_variance_explained": Name(
        "fvu_v4_dictionary_learning", True, True,
        "mean over batches of 1 - sum var r / sum var x"),
    "dictionary_learning.l2_loss": Name("mean_residual_norm", False, False, "mean |r|"),
    "dictionary_learning.l1_loss": Name("l1", False, False, "sum of activations per token"),
    "dictionary_learning.l0": Name("l0", False, False, "activations that are not 0, per token"),
    "dictionary_learning.cossim": Name("cossim", False, False, "mean <x, y> / (|x| |y|)"),
    "dictionary_learning.l2_ratio": Name("l2_ratio", False, False, "mean |y| / |x|"),
    # sparsify's SparseCoder.forward
    "sparsify.fvu": Name("fvu_v3_sparsify", False, True,
                         "mean over batches of sum |r|^2 / sum |x - batch mean|^2"),
    # sparse_autoencoder.loss.normalized_mean_squared_error
    "openai.normalized_mean_squared_error": Name(
        "normalized_mse_openai", False, False, "mean over tokens of |r|^2 / |x|^2"),
    "scikit-learn.r2_score": Name(
        "fvu_dim_uniform", True, False, "mean over dimensions of their own R^2"),
}


def value(source: Source, name: str) -> float:
    """The figure `name` of NAMES ("sae_lens.explained_variance"), of a Reconstruction metric, its
    result(), or an entry of "saes" of a result document. NaN where it is not defined."""
    if name not in NAMES:
        fail("QSAE_ENOENT", f"{name!r} is unknown; expected one of {', '.join(NAMES)}")
    entry = NAMES[name]
    if isinstance(source, Mapping) and entry.key not in source:
        fail("QSAE_ENOENT", f"{name}: the result lacks {entry.key!r}")
    found = source[entry.key]
    number = math.nan if found is None else float(found)
    return 1 - number if entry.complement else number


def named(source: Source, package: str) -> dict[str, float]:
    """All figures of a package ("sae_lens", "dictionary_learning", ...) under its own names."""
    names = [name for name in NAMES if name.split(".", 1)[0] == package and "@" not in name]
    if not names:
        fail("QSAE_ENOENT", f"{package!r} is unknown; expected "
                            f"{', '.join(sorted({n.split('.', 1)[0] for n in NAMES}))}")
    return {name.split(".", 1)[1]: value(source, name) for name in names}


def explained_variance(source: Source) -> float:
    """SAELens' explained_variance: 1 - fvu_dim."""
    return value(source, "sae_lens.explained_variance")


def explained_variance_legacy(source: Source) -> float:
    """SAELens' explained_variance_legacy, also the SAEBench paper's; batched."""
    return value(source, "sae_lens.explained_variance_legacy")


def frac_variance_explained(source: Source) -> float:
    """dictionary_learning's frac_variance_explained; batched."""
    return value(source, "dictionary_learning.frac_variance_explained")


def fvu(source: Source) -> float:
    """Sparsify's fvu; batched."""
    return value(source, "sparsify.fvu")


def normalized_mse(source: Source) -> float:
    """OpenAI's normalized_mean_squared_error."""
    return value(source, "openai.normalized_mean_squared_error")
