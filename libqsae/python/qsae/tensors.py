# SPDX-License-Identifier: BSD-2-Clause
"""Tensors: what lies in a safetensors, npz, npy or GGUF file or folder."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import byref
from typing import TYPE_CHECKING, Any

from ._handle import Handle
from ._lib import lib, path_bytes, string_bytes, text
from ._structs import TensorInfo
from .context import Context
from .quantizer import QMatrix

if TYPE_CHECKING:
    from .model import Path


class Tensors(Handle):
    """A sequence of dicts with name, shape, dtype ("F32", ...), bytes and file, ordered by name."""

    _close = lib.qsae_tensors_close

    def __init__(self, ctx: Context, path: Path) -> None:
        super().__init__()
        self._ctx = ctx
        lib.qsae_tensors_open(ctx.pointer, path_bytes(path), byref(self._handle))

    def __len__(self) -> int:
        return int(lib.qsae_tensors_count(self.pointer))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        info = TensorInfo()
        lib.qsae_tensors_get(self.pointer, i % len(self), byref(info))
        out = info.as_dict("rank")
        out["shape"] = tuple(info.shape[:info.rank])
        out["dtype"] = text(lib.qsae_dtype_name(info.dtype))
        return out

    def matrix(self, name: str) -> QMatrix:
        """QMatrix of a tensor of two axes: a ggml block type, F32, F16 or BF16."""
        out = QMatrix(self._ctx, "stored")
        lib.qsae_tensors_matrix(self.pointer, string_bytes(name, "name"), byref(out._handle))
        return out
