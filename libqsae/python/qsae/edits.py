# SPDX-License-Identifier: BSD-2-Clause
"""Ready-made editors for Model.forward(edits=...): zero, mean, add, replace, splice.

Each returns a callable(rows, info) that works at every site. `where` limits the edit to some
tokens: a boolean array [n_seq, n_tokens]; the others keep their rows. None = all.
"""

import numpy as np

from ._lib import fail

__all__ = ["add", "mean", "replace", "splice", "zero"]


def _chosen(where, info):
    """`where` as an index of rows."""
    if where is None:
        return slice(None)
    where = np.asarray(where)
    if where.dtype != np.bool_ or where.size != info.shape[0] * info.shape[1]:
        fail("QSAE_EINVAL", f"where: expected booleans of shape {info.shape[:2]}, found "
                            f"{where.dtype} of shape {where.shape}")
    return where.reshape(-1)


def _row(value, name, info):
    """A vector of the site's columns."""
    row = np.asarray(value, np.float32)
    if row.shape != info.shape[2:]:
        fail("QSAE_EINVAL", f"{name}: expected shape {info.shape[2:]} at {info.site}, found "
                            f"{row.shape}")
    return row


def zero(where=None):
    """Zero ablation: rows become 0."""
    def edit(rows, info):
        rows[_chosen(where, info)] = 0
    return edit


def mean(vector, where=None):
    """Mean ablation: every row becomes `vector` [columns], usually the mean over a corpus."""
    def edit(rows, info):
        rows[_chosen(where, info)] = _row(vector, "vector", info)
    return edit


def add(vector, scale=1.0, where=None):
    """Steering: adds scale * vector [columns] to every row, e.g. a decoder row of an SAE."""
    def edit(rows, info):
        rows[_chosen(where, info)] += np.float32(scale) * _row(vector, "vector", info)
    return edit


def replace(new, where=None):
    """Puts `new` [n_seq, n_tokens, columns] in place of the rows, e.g. out.taps[...] of a pass."""
    def edit(rows, info):
        array = np.asarray(new, np.float32)
        if array.size != rows.size or array.shape[-1:] != rows.shape[-1:]:
            fail("QSAE_EINVAL", f"new: expected shape {info.shape} at {info.site}, found "
                                f"{array.shape}")
        chosen = _chosen(where, info)
        rows[chosen] = array.reshape(rows.shape)[chosen]
    return edit


def splice(sae, where=None):
    """Puts an SAE's reconstruction in place of the rows; rows that are not finite stay."""
    def edit(rows, info):
        chosen = np.isfinite(rows).all(axis=1)
        if where is not None:
            chosen &= _chosen(where, info)
        rows[chosen] = sae.reconstruct(rows[chosen])
    return edit
