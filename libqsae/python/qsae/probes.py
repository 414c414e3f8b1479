# SPDX-License-Identifier: BSD-2-Clause
"""Probes: contexts with a good and a bad continuation."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import byref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import Doubles, Ints
from ._handle import CancelToken, Desk, Handle
from ._lib import bos_policy, count, lib, path_bytes, text
from ._structs import PROBE_SCORE, Probe, ProbeSettings, ProbesInfo
from .context import Context
from .text import Tokenizer

if TYPE_CHECKING:
    from .model import Model, Path


def _copy(ids: Any, n: int) -> Ints:
    return np.ctypeslib.as_array(ids, (n,)).copy() if n else np.empty(0, np.int32)


class Item(NamedTuple):
    """One probe: ids (int32) of its three parts, names of its tags, its line in the file (from 1),
    bytes of the two continuations as they stand there."""

    context: Ints
    good: Ints
    bad: Ints
    tags: tuple[str, ...]
    line: int
    good_bytes: int
    bad_bytes: int


class Probes(Handle):
    """A probe set, tokenized (doc/probes.md); a sequence of Item.

    bos    None: BOS where the tokenizer's template puts it; "none": never; another policy: always
    info   dict: items, tags, longest, scored_tokens, bos, bos_policy, hash
    tags   names, in the order of their first mention
    """

    _close = lib.qsae_probes_close

    def __init__(self, ctx: Context, tokenizer: Tokenizer, path: Path,
                 bos: str | None = None) -> None:
        super().__init__()
        self._ctx = ctx
        settings = ProbeSettings(bos_policy=bos_policy(bos))
        lib.qsae_probes_open(ctx.pointer, tokenizer.pointer, path_bytes(path), byref(settings),
                             byref(self._handle))
        info = ProbesInfo()
        lib.qsae_probes_get_info(self.pointer, byref(info))
        self.info = info.as_dict()
        self.tags = tuple(text(lib.qsae_probes_tag(self.pointer, i)) for i in range(info.tags))

    def __len__(self) -> int:
        return int(self.info["items"])

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(index)
        probe = Probe()
        lib.qsae_probes_item(self.pointer, count("item", index % n), byref(probe))
        return Item(_copy(probe.context, probe.n_context), _copy(probe.good, probe.n_good),
                    _copy(probe.bad, probe.n_bad),
                    tuple(self.tags[t] for t in _copy(probe.tags, probe.n_tags)), probe.line,
                    probe.good_bytes, probe.bad_bytes)

    def run(self, model: Model, cancel: CancelToken | None = None) -> Doubles:
        """Ln p of both continuations of every item under a Model: f64 [items, 2], good first.

        cancel  ends the call when it is set
        """
        out: Doubles = np.full((len(self), 2), np.nan)
        desk = Desk(cancel)

        def score(_cookie: Any, value: Any) -> int:
            def keep() -> None:
                out[value[0].item] = value[0].good, value[0].bad
            return desk.guard(keep)

        with model._use() as handle:
            desk.run(lib.qsae_probes_run, self.pointer, handle, desk.token._handle,
                     PROBE_SCORE(score), None)
        return out
