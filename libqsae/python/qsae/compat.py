# SPDX-License-Identifier: BSD-2-Clause
"""Into notebooks that exist: hooks of PyTorch, TransformerLens and nnsight, SAELens-shaped SAEs,
the names other packages give to the same figures. See doc/compat.md.

    from qsae import compat

    pair = compat.Pair(ctx, sae)
    with pair.attach(model.model.layers[3], "r"), pair.attach(quantized.model.layers[3], "q"):
        for ids in batches:
            with pair.batch(ids) as batch:
                batch.logits(model(ids).logits, quantized(ids).logits)
    pair.summary()

torch and the others are imported only where they are needed; Pair, Collector and value() also take
NumPy arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .compat_hooks import Collector, Pair
from .compat_names import (
    NAMES,
    Name,
    explained_variance,
    explained_variance_legacy,
    frac_variance_explained,
    fvu,
    named,
    normalized_mse,
    value,
)
from .compat_rows import rows, tokens_of

if TYPE_CHECKING:
    from .compat_sae import SAELensSAE

__all__ = [
    "NAMES",
    "Collector",
    "Name",
    "Pair",
    "SAELensSAE",
    "explained_variance",
    "explained_variance_legacy",
    "frac_variance_explained",
    "fvu",
    "named",
    "normalized_mse",
    "rows",
    "tokens_of",
    "value",
]


def __getattr__(name: str) -> Any:
    """SAELensSAE is a torch module: torch is imported where it is first asked for."""
    if name == "SAELensSAE":
        from .compat_sae import SAELensSAE
        return SAELensSAE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
