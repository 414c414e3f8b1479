# SPDX-License-Identifier: BSD-2-Clause
"""Rows at places of a model, streamed: what Model.iter_taps() gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ctypes import byref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import Floats, Ints, Longs, address, vector
from ._dlpack import as_array
from ._handle import CancelToken, Stream
from ._lib import count, fail, lib, text
from ._structs import OBSERVER, Pass, Tap

if TYPE_CHECKING:
    from .model import Model


class TapRows(NamedTuple):
    """Rows of one batch at one place; n = sequences x tokens of the batch.

    key       as it was asked for
    layer     -1 for places of no layer
    site      name
    rows      float32 [n, columns of the site]; a copy that is the reader's own
    ids       int32 [n]
    document  int64 [n]: index of the document in the corpus; of the sequence, where ids were given
    position  int32 [n]: in the sequence
    first     index of the first row's token in the stream: what metrics take as first
    """

    key: Any
    layer: int
    site: str
    rows: Floats
    ids: Ints
    document: Longs
    position: Ints
    first: int


class _Batch(NamedTuple):
    """Sequences of one length: ids [n_seq, n_tokens], documents of that shape."""

    ids: Ints
    document: Longs
    first: int


def _chunks(source: Any) -> Iterator[tuple[Ints, Longs]]:
    """Ids and documents of each sequence."""
    if hasattr(source, "ids") and hasattr(source, "document"):
        source = [source]
    if hasattr(source, "__dlpack__") or (isinstance(source, (np.ndarray, list, tuple)) and not any(
            hasattr(item, "ids") for item in itertools.islice(source, 1))):
        ids = as_array(source, "source")
        if ids.size == 0:
            return
        ids = ids[np.newaxis] if ids.ndim == 1 else ids
        if ids.ndim != 2:
            fail("QSAE_EINVAL", f"source: expected [n_seq, n_tokens], found {ids.ndim} axes")
        for i, row in enumerate(ids):
            yield vector(row, "source", dtype=np.int32), np.full(row.size, i, np.int64)
        return
    for chunk in source:
        if not (hasattr(chunk, "ids") and hasattr(chunk, "document")):
            fail("QSAE_EINVAL", "source: expected a Corpus, an iterable of Chunk or ids [n_seq, "
                                f"n_tokens], found {type(chunk).__name__} in it")
        ids = vector(chunk.ids, "ids", dtype=np.int32)
        yield ids, vector(chunk.document, "document", ids.size, np.int64)


def _batches(source: Any, size: int) -> Iterator[_Batch]:
    """Batches of up to `size` sequences in a row that are of one length."""
    first = 0
    for _, same in itertools.groupby(_chunks(source), key=lambda chunk: chunk[0].size):
        while chunks := list(itertools.islice(same, size)):
            ids = np.stack([chunk[0] for chunk in chunks])
            yield _Batch(ids, np.stack([chunk[1] for chunk in chunks]), first)
            first += ids.size


def _observer(stream: Stream, batch: _Batch, key: Any, layer: int, site: int) -> Any:
    """The C callback that hands over the rows of one place."""
    from .model import view
    n_seq, n_tokens = batch.ids.shape
    name = text(lib.qsae_site_name(site))
    position = np.tile(np.arange(n_tokens, dtype=np.int32), n_seq)

    def observe(_cookie: Any, _layer: int, _site: int, rows: Any) -> int:
        def hand_over() -> None:
            stream.give(TapRows(key, layer, name, view(rows).copy(), batch.ids.reshape(-1),
                                batch.document.reshape(-1), position, batch.first))
        return stream.guard(hand_over)
    return OBSERVER(observe)


def stream_taps(model: Model, source: Any, keys: list[Any], batch: int, edits: dict[Any, Any],
                cancel: CancelToken | None) -> Iterator[TapRows]:
    """The rows of Model.iter_taps; places and batch are checked at once."""
    if not keys:
        fail("QSAE_EINVAL", "taps: expected at least one place")
    size = count("batch", batch, 1)
    places = [(key, *model._place(key)[:2]) for key in keys]
    for key in edits:
        model._place(key)
    stream = Stream(cancel)

    def one(part: _Batch, handle: Any) -> None:
        taps = [model._edit(stream, key, edit, part.ids.shape) for key, edit in edits.items()]
        taps += [Tap(layer=layer, site=site, observe=_observer(stream, part, key, layer, site))
                 for key, layer, site in places]
        array = (Tap * len(taps))(*taps)
        setup = Pass(ids=address(part.ids), n_seq=part.ids.shape[0], n_tokens=part.ids.shape[1],
                     taps=array, n_taps=len(taps), cancel=stream.token.pointer)
        lib.qsae_model_forward(handle, byref(setup))

    def whole() -> None:
        with model._hold() as handle:
            for part in _batches(source, size):
                one(part, handle)

    return _read(model, stream, whole)


def _read(model: Model, stream: Stream, call: Any) -> Iterator[TapRows]:
    with model._use():
        pass  # raises where a call or another stream is running
    model._stream = stream
    stream.start(call)
    try:
        yield from stream
    finally:
        stream.close()
        model._stream = None
