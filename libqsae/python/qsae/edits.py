# SPDX-License-Identifier: BSD-2-Clause
"""Ready-made editors for Model.forward(edits=...): zero, mean, add, replace, splice.

Each returns a callable(rows, info) that works at every site. `where` limits the edit to some
tokens: a boolean array [n_seq, n_tokens]; the others keep their rows. None = all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Union

import numpy as np
import numpy.typing as npt

from ._arrays import Floats, widened
from ._dlpack import as_array
from ._lib import fail

if TYPE_CHECKING:
    from .model import EditInfo
    from .sae import SAE

Edit = Callable[[Floats, "EditInfo"], None]
_Index = Union[slice, npt.NDArray[np.bool_]]

__all__ = ["add", "mean", "replace", "splice", "zero"]


def _chosen(where: Any, info: EditInfo) -> _Index:
    """`where` as an index of rows."""
    if where is None:
        return slice(None)
    where = as_array(where, "where")
    if where.dtype != np.bool_ or where.size != info.shape[0] * info.shape[1]:
        fail("QSAE_EINVAL", f"where: expected booleans of shape {info.shape[:2]}, found "
                            f"{where.dtype} of shape {where.shape}")
    flat: npt.NDArray[np.bool_] = where.reshape(-1)
    return flat


def _row(value: Any, name: str, info: EditInfo) -> Floats:
    """A vector of the site's columns."""
    row = np.asarray(widened(as_array(value, name)), np.float32)
    if row.shape != info.shape[2:]:
        fail("QSAE_EINVAL", f"{name}: expected shape {info.shape[2:]} at {info.site}, found "
                            f"{row.shape}")
    return row


def zero(where: Any = None) -> Edit:
    """Zero ablation: rows become 0."""
    def edit(rows: Floats, info: EditInfo) -> None:
        rows[_chosen(where, info)] = 0
    return edit


def mean(vector: Any, where: Any = None) -> Edit:
    """Mean ablation: every row becomes `vector` [columns], usually the mean over a corpus."""
    def edit(rows: Floats, info: EditInfo) -> None:
        rows[_chosen(where, info)] = _row(vector, "vector", info)
    return edit


def add(vector: Any, scale: float = 1.0, where: Any = None) -> Edit:
    """Steering: adds scale * vector [columns] to every row, e.g. a decoder row of an SAE."""
    def edit(rows: Floats, info: EditInfo) -> None:
        rows[_chosen(where, info)] += np.float32(scale) * _row(vector, "vector", info)
    return edit


def replace(new: Any, where: Any = None) -> Edit:
    """Puts `new` [n_seq, n_tokens, columns] in place of the rows, e.g. out.taps[...] of a pass."""
    def edit(rows: Floats, info: EditInfo) -> None:
        array = np.asarray(widened(as_array(new, "new")), np.float32)
        if array.size != rows.size or array.shape[-1:] != rows.shape[-1:]:
            fail("QSAE_EINVAL", f"new: expected shape {info.shape} at {info.site}, found "
                                f"{array.shape}")
        chosen = _chosen(where, info)
        rows[chosen] = array.reshape(rows.shape)[chosen]
    return edit


def splice(sae: SAE, where: Any = None) -> Edit:
    """Puts an SAE's reconstruction in place of the rows; rows that are not finite stay."""
    def edit(rows: Floats, info: EditInfo) -> None:
        chosen = np.isfinite(rows).all(axis=1)
        if where is not None:
            chosen = chosen & np.asarray(_chosen(where, info))
        rows[chosen] = sae.reconstruct(rows[chosen])
    return edit
