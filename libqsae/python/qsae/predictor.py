# SPDX-License-Identifier: BSD-2-Clause
"""Predictor: which features does a compression put at risk?"""

from __future__ import annotations

import json
from ctypes import byref, c_char_p, c_size_t
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Doubles, Longs
from ._dlpack import as_array
from ._handle import Handle
from ._lib import fail, lib, path_bytes, string_bytes
from .context import Context

if TYPE_CHECKING:
    from .model import Path


def _column(values: Any, name: str, n: int | None = None) -> Doubles:
    column = np.ascontiguousarray(as_array(values, name), np.float64)
    if column.ndim != 1 or n not in (None, len(column)):
        fail("QSAE_EINVAL", f"{name}: expected one number per feature, found shape {column.shape}")
    return column


class Predictor(Handle):
    """The fit of a result document (doc/result.md, predictor) as a function of statistics of the
    uncompressed model.

    path       file of the result
    condition  label, or its beginning, of the condition it was fitted on; None: rtn with 6 bits if
               that has a fit, else the first that has
    sae_hash   of the SAE it was fitted on; None, or one that has no fit: the first
    """

    _close = lib.qsae_predictor_close

    def __init__(self, path: Path, condition: str | None = None, sae_hash: str | None = None,
                 ctx: Context | None = None) -> None:
        super().__init__()
        own = Context(1) if ctx is None else None
        try:
            lib.qsae_predictor_open(
                (ctx or own).pointer,  # type: ignore[union-attr]
                path_bytes(path),
                None if condition is None else string_bytes(condition, "condition"),
                None if sae_hash is None else string_bytes(sae_hash, "sae_hash"),
                byref(self._handle))
        finally:
            if own is not None:
                own.close()

    @property
    def info(self) -> dict[str, Any]:
        """The fit with its AUC and the SAE's name, layer, site and hash, as a dict."""
        data, size = c_char_p(), c_size_t()
        lib.qsae_predictor_json(self.pointer, byref(data), byref(size))
        out: dict[str, Any] = json.loads(data.value or b"{}")
        return out

    def __call__(self, rate: Any, mean: Any, max: Any) -> tuple[Doubles, Longs]:
        """(probability, rank): that each feature survives (NaN for one that fires on at most 0.1%
        of the tokens), and its place among those at risk, 1 the least likely to survive (0: none).

        rate  share of the tokens on which each feature fires
        mean  its mean activation over all tokens
        max   its largest
        """
        rate = _column(rate, "rate")
        mean, top = _column(mean, "mean", len(rate)), _column(max, "max", len(rate))
        probability, rank = np.empty(len(rate)), np.empty(len(rate), np.int64)
        lib.qsae_predictor_run(self.pointer, rate.ctypes.data, mean.ctypes.data, top.ctypes.data,
                               len(rate), probability.ctypes.data, rank.ctypes.data)
        return probability, rank
