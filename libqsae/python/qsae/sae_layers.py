# SPDX-License-Identifier: BSD-2-Clause
"""SAELayers: cross-layer transcoders, crosscoders and sets of transcoders, whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import POINTER, byref, c_int64, c_void_p, pointer
from typing import TYPE_CHECKING, Any

from ._arrays import Array, Floats, Sparse, address, empty, matrix, sparse
from ._handle import Desk, Handle
from ._lib import count, fail, lib, path_bytes
from ._structs import Rows, SaeActs, SaeLayersInfo, SaeSettings
from .context import Context
from .sae import SAE

if TYPE_CHECKING:
    from .model import Path


def _forget(handle: Any) -> None:
    """Closes a layer, which is its owner's to close."""
    handle._obj.value = None


class _Lent(SAE):
    """One layer, which belongs to the SAELayers it came from."""

    _close: Any = staticmethod(_forget)

    def __init__(self, owner: SAELayers, handle: Any) -> None:
        Handle.__init__(self)
        self._ctx, self._owner, self._lock = owner._ctx, owner, owner._lock
        self._token = owner._token
        self._handle = handle
        self._describe()

    @property
    def pointer(self) -> Any:
        """The C handle; raises Error if its owner is closed."""
        self._owner.pointer  # noqa: B018 - raises if closed
        return super().pointer


class SAELayers(Handle):
    """All layers of a folder: a cross-layer transcoder, a crosscoder or a set of transcoders.

    The output at a layer adds up what the features of several layers write there: those of it and
    all below it (kind "clt"), of all ("crosscoder"), its own ("transcoders").

    layers   their numbers in the files, ascending; len() of them
    kind, format, width, width_out, features (of all layers), info
    [i]      layer i as an SAE: to encode with, and for its hooks; decoding is refused where other
             layers write too
    """

    _close = lib.qsae_sae_layers_close

    kind: str
    format: str
    width: int
    width_out: int
    features: int

    def __init__(self, ctx: Context, path: Path, *, scale: float = 0,
                 activation: str | None = None, center_input: int = 0) -> None:
        super().__init__()
        self._ctx = ctx
        desk = Desk()
        settings = SaeSettings(cancel=desk.token._handle, scale=scale, center_input=center_input)
        settings.activation = None if activation is None else activation.encode()
        desk.run(lib.qsae_sae_layers_open, ctx.pointer, path_bytes(path), byref(settings),
                 byref(self._handle))
        self._token = desk.token
        info = SaeLayersInfo()
        lib.qsae_sae_layers_get_info(self.pointer, byref(info))
        self.info = info.as_dict()
        for name in ("kind", "format", "width", "width_out", "features"):
            setattr(self, name, self.info[name])
        self._saes: list[SAE] = []
        self.layers: list[int] = []
        for i in range(info.layers):
            layer, handle = c_int64(), c_void_p()
            lib.qsae_sae_layers_get(self.pointer, i, byref(layer), byref(handle))
            self.layers.append(layer.value)
            self._saes.append(_Lent(self, handle))

    def __len__(self) -> int:
        return len(self._saes)

    def __getitem__(self, i: int) -> SAE:
        return self._saes[i]

    def __iter__(self) -> Iterator[SAE]:
        return iter(self._saes)

    def _each(self, values: Sequence[Any], what: str) -> list[Any]:
        listed = list(values)
        if len(listed) != len(self):
            fail("QSAE_EINVAL", f"{what}: expected one of each of the {len(self)} layers, found "
                                f"{len(listed)}")
        return listed

    def encode(self, xs: Sequence[Any]) -> list[Floats]:
        """Activations of every layer: a list of float32 [..., features of the layer]."""
        return [sae.encode(x) for sae, x in zip(self, self._each(xs, "xs"))]

    def decode(self, acts: Sequence[Any], to: int) -> Floats:
        """The output at layer index `to`, without its skip connection: float32 [n, width_out].

        acts  of every layer, dense or Sparse; None for those that do not write there
        """
        to = count("to", to)
        array = (SaeActs * len(self))()
        n: int | None = None
        keep: list[Sparse] = []
        for i, given in enumerate(self._each(acts, "acts")):
            a = sparse(given, "acts", self[i].features)
            if a is None:
                array[i] = SaeActs()
                continue
            if n is not None and len(a) != n:
                fail("QSAE_EINVAL", f"acts: layer {i}: expected {n} rows, found {len(a)}")
            n = len(a)
            keep.append(a)
            array[i] = SaeActs(indptr=address(a.indptr), indices=address(a.indices),
                               values=address(a.values))
        y = empty((n or 0,), self.width_out)
        with self._use() as handle:
            lib.qsae_sae_layers_decode_sparse(handle, array, to, n or 0, y.ref)
        return y.array

    def reconstruct(self, xs: Sequence[Any]) -> list[Array]:
        """The whole module: outputs of all layers, a list of float32 [..., width_out], of their
        inputs xs."""
        rows = [matrix(x, "xs") for x in self._each(xs, "xs")]
        ys = [empty(r.lead, self.width_out) for r in rows]
        x = (POINTER(Rows) * len(self))(*(pointer(r.struct) for r in rows))
        y = (POINTER(Rows) * len(self))(*(pointer(r.struct) for r in ys))
        with self._use() as handle:
            lib.qsae_sae_layers_reconstruct(handle, x, y)
        return [r.shaped() for r in ys]
