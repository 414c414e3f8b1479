# SPDX-License-Identifier: BSD-2-Clause
"""Collector and Pair: activations of hooks into qsae.metrics."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import numpy as np

from . import metrics
from ._arrays import Sparse, from_bf16
from ._lib import fail
from .compat_rows import (
    Array,
    Rules,
    Tensor,
    Tokens,
    is_tensor,
    rows,
    select,
    sparse_of,
    tokens,
    tokens_of,
    whole,
    wide,
)
from .sae import SAE

_LOGIT_ROWS = 256  # rows of logits made float32 at a time


class _Coder:
    """What measuring needs of an SAE: a qsae.SAE, a compat.SAELensSAE, or a torch module with
    encode and decode, as SAELens' SAE."""

    def __init__(self, sae: Any):
        self.native: SAE | None = sae if isinstance(sae, SAE) else getattr(sae, "qsae", None)
        self.module = sae
        self.head = -1
        if self.native is not None:
            if self.native.info["transcoder"]:
                self._refuse()
            self.width, self.features = int(self.native.width), int(self.native.features)
            self.head = int(self.native.info["head"])
            return
        try:
            self.width, self.features = int(sae.cfg.d_in), int(sae.cfg.d_sae)
        except AttributeError:
            fail("QSAE_EINVAL", f"sae: expected a qsae.SAE or an SAE of SAELens, found "
                                f"{type(sae).__name__}")
        meta = getattr(sae.cfg, "metadata", None)
        out = getattr(meta, "hook_name_out", None)
        if (out is not None and out != getattr(meta, "hook_name", None)) or \
                getattr(sae.cfg, "d_out", self.width) != self.width:
            self._refuse()
        head = getattr(meta, "hook_head_index", None)
        self.head = -1 if head is None else int(head)

    def _refuse(self) -> None:
        fail("QSAE_EUNSUPPORTED", "sae: a transcoder reconstructs the rows of another place than "
                                  "it reads; expected an SAE (qsae.evaluate measures transcoders)")

    def run(self, x: Tensor) -> tuple[Array, Sparse]:
        """Reconstruction [n, width] and activations of rows x [n, width]."""
        if self.native is not None:
            acts = self.native.encode_sparse(rows(x))
            return np.asarray(self.native.decode(acts)), acts
        torch = sys.modules["torch"]
        if not is_tensor(x):
            bits = x.dtype == np.uint16
            x = torch.from_numpy(np.ascontiguousarray(x.view(np.int16) if bits else x))
            x = x.view(torch.bfloat16) if bits else x
        with torch.no_grad():
            weights = self.module.W_dec
            dense = self.module.encode(x.detach().to(weights.device, weights.dtype))
            y = self.module.decode(dense)
        return rows(y), sparse_of(dense)


class Removal:
    """A hook that remove(), or the end of a with block, takes away."""

    def __init__(self, remove: Callable[[], None]):
        self._remove: Callable[[], None] | None = remove

    def remove(self) -> None:
        """May be called again."""
        if self._remove is not None:
            self._remove()
            self._remove = None

    def __enter__(self) -> Removal:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.remove()


class _Side(NamedTuple):
    """Rows of one model until the other's are there; of the SAE y and acts, or None."""

    x: Array
    y: Array | None
    acts: Sparse | None


class Batch:
    """One batch of tokens, see Collector.batch(); each side's rows come once."""

    def __init__(self, owner: Collector, arguments: dict[str, Any]):
        self._owner = owner
        self._arguments = arguments
        self.first = owner.tokens
        self.tokens: Tokens | None = None
        self.sides: dict[str, _Side] = {}
        self.has_logits = False
        ids = arguments.pop("input_ids")
        self._ids = None if ids is None else whole(ids, "input_ids")
        if self._ids is not None:
            self._ids = self._ids[None] if self._ids.ndim == 1 else self._ids
            self._know(self._ids.shape)
        elif arguments["attention_mask"] is not None:
            shape = np.shape(rows(arguments["attention_mask"]))
            self._know((1,) * (2 - len(shape)) + shape)

    def _know(self, shape: Sequence[int]) -> Tokens:
        """Tokens of the batch; its shape is that of the ids, of the mask, or of the first rows."""
        if self.tokens is None:
            if len(shape) != 2:
                fail("QSAE_EINVAL", f"batch: expected [sequences, tokens], found {list(shape)}")
            owner = self._owner
            self.tokens = tokens((int(shape[0]), int(shape[1])), owner.rules, owner.documents,
                                 self._ids, **self._arguments)
        return self.tokens

    def select(self, x: Tensor, width: int, what: str, head: int = -1) -> Tensor:
        """The rows of x that are tokens, [n, width]."""
        first = self._owner.batch_first
        if self.tokens is None:
            if x.ndim < 3:
                fail("QSAE_EINVAL", f"{what}: expected rows of shape [sequences, tokens, columns], "
                                    f"or batch(input_ids), found {list(x.shape)}")
            self._know(tuple(x.shape[:2]) if first else (x.shape[1], x.shape[0]))
        assert self.tokens is not None
        return select(x, self.tokens, width, what, head, first)

    def at(self, a: int = 0, n: int | None = None, predictions: bool = False) -> dict[str, Any]:
        """The `**at` of an update of n rows from row a of the batch. What is predicted at excluded
        tokens counts, as in evaluate."""
        t = self.tokens
        assert t is not None
        b = t.n if n is None else a + n
        mask = t.mask[a:b] & np.uint8(0xff & ~metrics.EXCLUDED) if predictions else t.mask[a:b]
        return {"first": self.first + a, "document": t.document[a:b],
                "position": t.position[a:b], "mask": mask}

    def logits(self, *logits: Any) -> None:
        """Logits [sequences, tokens, vocab] of the model, or of the reference and the compressed
        one, of any dtype; objects with .logits too."""
        self._owner._logits(self, [tokens_of(x) for x in logits])


class Collector:
    """Rows of one model at one place, from hooks: what an SAE makes of them.

    sae             a qsae.SAE, compat.SAELensSAE or an SAE of SAELens; None = logits only
    special         token ids counted as special (figures no_specials/...)
    exclude         token ids whose rows are not counted (what is predicted at them is)
    exclude_first   the row of the first token of each sequence is not counted
    document_start  token id that begins a document, where sequences are cut from one stream; None =
                    every sequence is a document. Documents are the unit of intervals
    batch_first     False: hooks give [tokens, sequences, columns]
    settings        of the metrics (batch_rows=, memory=, top=, ...)

    reconstruction  qsae.metrics.Reconstruction, None without sae
    cross_entropy   qsae.metrics.CrossEntropy
    tokens          tokens so far, padding left out; documents, first document index that is free

    Padding is dropped before anything is computed. Rows are read where torch has them.
    """

    _sides: tuple[str, ...] = ("r",)

    def __init__(self, ctx: Any, sae: Any = None, *, special: Sequence[int] = (),
                 exclude: Sequence[int] = (), exclude_first: bool = False,
                 document_start: int | None = None, batch_first: bool = True, **settings: Any):
        self.ctx = ctx
        self.rules = Rules(tuple(special), tuple(exclude), exclude_first, document_start)
        self.batch_first = batch_first
        self.tokens = self.documents = 0
        self._coder = None if sae is None else _Coder(sae)
        self._settings = settings
        self._batch: Batch | None = None
        self._open()

    def _open(self) -> None:
        self.cross_entropy: Any = metrics.CrossEntropy(self.ctx, **self._settings)
        self.reconstruction: Any = self._reconstruction()

    def _reconstruction(self) -> Any:
        c = self._coder
        return c and metrics.Reconstruction(self.ctx, c.width, c.features, **self._settings)

    def batch(self, input_ids: Any = None, *, attention_mask: Any = None, documents: Any = None,
              labels: Any = None) -> _Open:
        """Around the forward passes of one batch: `with collector.batch(ids) as batch: ...`

        input_ids       [sequences, tokens]: labels for logits, special tokens; may be left out
        attention_mask  the same shape, 0 = padding (either side)
        documents       document index of each sequence or of each token; counted on if None
        labels          as transformers takes them: input_ids with -100 where nothing is predicted

        The rows of a batch whose block ends by an exception are forgotten, unless all sides' had
        come.
        """
        if self._batch is not None:
            fail("QSAE_EBUSY", "batch: the last one is still open")
        return _Open(self, Batch(self, {"input_ids": input_ids, "attention_mask": attention_mask,
                                        "documents": documents, "labels": labels}))

    def attach(self, module: Any, side: str = "r", *, at: str = "output") -> Removal:
        """Hooks a torch module, at its "output" or "input" (the first argument, or
        hidden_states). The hook changes nothing; with remove() or at the end of a with block it is
        gone. Of modules that return tuples the first is taken."""
        self._side(side)
        if at == "output":
            handle = module.register_forward_hook(
                lambda _module, _inputs, output: self.add(tokens_of(output), side))
        elif at == "input":
            def before(_module: Any, inputs: Any, named: Any) -> None:
                self.add(inputs[0] if inputs else named.get("hidden_states"), side)
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            fail("QSAE_EINVAL", f"at: {at!r} is unknown; expected output, input")
        return Removal(handle.remove)

    def lens_hook(self, side: str = "r") -> Callable[..., None]:
        """A hook function for TransformerLens: fwd_hooks=[(name, pair.lens_hook("q"))]."""
        self._side(side)

        def hook_function(tensor: Tensor, hook: Any = None) -> None:
            self.add(tensor, side)
        return hook_function

    def _side(self, side: str) -> None:
        if side not in self._sides:
            fail("QSAE_EINVAL", f"side: {side!r} is unknown; expected {', '.join(self._sides)}")

    def add(self, x: Tensor, side: str = "r") -> None:
        """Rows of a side of the open batch: what hooks call, and how rows come in from nnsight and
        others. [sequences, tokens, columns], float32, float16, bfloat16 or float64; arrays too."""
        self._side(side)
        if x is None or not (is_tensor(x) or isinstance(x, np.ndarray)):
            fail("QSAE_EINVAL", f"rows: expected a tensor, found {type(x).__name__}")
        batch = self._batch
        if batch is None:
            fail("QSAE_EINVAL", "rows came outside a batch: run the model inside `with "
                                "collector.batch(input_ids):`, or remove the hook")
        if side in batch.sides:
            fail("QSAE_EINVAL", f"side {side}: rows came twice in one batch (a module that is "
                                "called again, or generation: expected one forward pass)")
        if self._coder is None:
            fail("QSAE_EINVAL", "rows: the collector was made without sae")
        self._take(batch, x, side, self._coder.width, self._coder.head)

    def _take(self, batch: Batch, x: Tensor, side: str, width: int, head: int) -> None:
        flat = batch.select(x, width, f"side {side}", head)
        y, acts = self._coder.run(flat) if self._coder is not None else (None, None)
        array = rows(flat)
        batch.sides[side] = _Side(array, y, acts)
        if len(batch.sides) == len(self._sides):
            self._update(batch)
        elif batch.tokens is not None and batch.tokens.keep is None:
            # The model may go on in this memory; rows that were selected are a copy already.
            batch.sides[side] = _Side(array.copy(), y, acts)

    def _update(self, batch: Batch) -> None:
        one = batch.sides["r"]
        self.reconstruction.update(one.x, one.y, one.acts, **batch.at())

    def _logits(self, batch: Batch, logits: list[Tensor]) -> None:
        if len(logits) != len(self._sides):
            fail("QSAE_EINVAL", f"logits: expected those of {len(self._sides)} model(s), found "
                                f"{len(logits)}")
        if batch.has_logits or self._batch is not batch:
            fail("QSAE_EINVAL", "logits: they come once, inside their batch")
        flat = [batch.select(x, int(x.shape[-1]), "logits") for x in logits]
        t = batch.tokens
        if t is None or t.labels is None:
            fail("QSAE_EINVAL", "logits: expected batch(input_ids) or batch(labels=...)")
        if len({int(x.shape[-1]) for x in flat}) != 1:
            fail("QSAE_EMISMATCH", "logits: expected one vocabulary, found "
                                   f"{' and '.join(str(x.shape[-1]) for x in flat)}")
        batch.has_logits = True
        for a in range(0, t.n, _LOGIT_ROWS):
            parts = [_logit_rows(x[a:a + _LOGIT_ROWS]) for x in flat]
            n = len(parts[0])
            self._update_logits(parts, t.labels[a:a + n], batch.at(a, n, True))

    def _update_logits(self, logits: list[Array], labels: Array, at: dict[str, Any]) -> None:
        self.cross_entropy.update(logits=logits[0], labels=labels, **at)

    def result(self) -> dict[str, dict[str, float]]:
        """All values of all metrics that have seen tokens, by metric."""
        out = {}
        for name, metric in self._metrics().items():
            if metric is not None and (values := metric.result())["tokens"] > 0:
                out[name] = values
        return out

    def _metrics(self) -> dict[str, Any]:
        return {"reconstruction_r": self.reconstruction, "cross_entropy": self.cross_entropy}

    def summary(self) -> dict[str, float]:
        """The figures people look at first; without those that were not measured."""
        return _pick(self.result(), _SUMMARY)


class _Open:
    """The with block of a batch."""

    def __init__(self, owner: Collector, batch: Batch):
        self._owner, self._batch = owner, batch

    def __enter__(self) -> Batch:
        if self._owner._batch is not None:
            fail("QSAE_EBUSY", "batch: the last one is still open")
        if self._batch.first != self._owner.tokens:
            fail("QSAE_EINVAL", "batch: it was used already, or others came before it")
        self._owner._batch = self._batch
        return self._batch

    def __exit__(self, kind: Any, _error: Any, _trace: Any) -> None:
        owner, batch = self._owner, self._batch
        owner._batch = None
        missing = [s for s in owner._sides if s not in batch.sides]
        complete = not missing
        if batch.tokens is not None and (complete or batch.has_logits):
            owner.tokens += batch.tokens.n
            owner.documents = batch.tokens.documents
        sides, batch.sides = batch.sides, {}
        if kind is None and missing and (sides or not batch.has_logits):
            fail("QSAE_EINVAL", f"batch: no rows came from side {', '.join(missing)}: was the "
                                "model run, and its module the one that is hooked?")


class Pair(Collector):
    """The same tokens in a reference model "r" and a compressed one "q" at one place: FVU of both,
    drift and noise floor, feature survival, divergence of the predictions.

    sae     as of Collector; without it give width: drift alone
    width   columns of the rows, where there is no sae
    others  as of Collector; settings go to all metrics, those that only features know (top=,
            active_rate=, documents_per_block=, prompt_tokens=) to features

    reconstruction, reconstruction_q, drift, features, divergence: the metrics; None without sae
    (drift without sae and width)

    Of the side that comes first the rows are copied; nothing is counted before both are there.
    """

    _sides = ("r", "q")

    def __init__(self, ctx: Any, sae: Any = None, *, width: int | None = None, **settings: Any):
        self._width = width
        super().__init__(ctx, sae, **settings)

    def _open(self) -> None:
        c = self._coder
        if c is not None and self._width not in (None, c.width):
            fail("QSAE_EMISMATCH", f"width: expected {c.width} as the SAE has, found {self._width}")
        self._width = c.width if c is not None else self._width
        own = {k: self._settings.pop(k) for k in ("top", "active_rate", "documents_per_block",
                                                  "prompt_tokens") if k in self._settings}
        self.reconstruction = self._reconstruction()
        self.reconstruction_q: Any = self._reconstruction()
        self.drift: Any = self._width and metrics.Drift(self.ctx, self._width, **self._settings)
        self.features: Any = c and metrics.Features(self.ctx, c.features, **self._settings, **own)
        self.divergence: Any = metrics.Divergence(self.ctx, **self._settings)

    def _metrics(self) -> dict[str, Any]:
        return {"reconstruction_r": self.reconstruction, "reconstruction_q": self.reconstruction_q,
                "drift": self.drift, "features": self.features, "divergence": self.divergence}

    def add(self, x: Tensor, side: str = "r") -> None:
        """As of Collector; without an SAE the rows have `width` columns."""
        if self._coder is None and self._batch is not None and self._width and \
                side not in self._batch.sides and side in self._sides and hasattr(x, "ndim"):
            self._take(self._batch, x, side, self._width, -1)
        else:
            super().add(x, side)

    def _update(self, batch: Batch) -> None:
        r, q, at = batch.sides["r"], batch.sides["q"], batch.at()
        if self._coder is not None:
            self.reconstruction.update(r.x, r.y, r.acts, **at)
            self.reconstruction_q.update(q.x, q.y, q.acts, **at)
            self.features.update(r.acts, q.acts, **at)
        self.drift.update(r.x, q.x, r.y, q.y, **at)

    def _update_logits(self, logits: list[Array], labels: Array, at: dict[str, Any]) -> None:
        self.divergence.update(logits_r=logits[0], logits_q=logits[1], labels=labels, **at)


def _logit_rows(x: Tensor) -> Any:
    """Logits in float32; arrays of uint16 are bfloat16 bits."""
    if not is_tensor(x) and x.dtype == np.uint16:
        return from_bf16(x)
    return wide(x)


_SUMMARY = (
    ("ce", "cross_entropy", "ce"), ("ppl", "cross_entropy", "ppl"),
    ("ce_r", "divergence", "ce_r"), ("ce_q", "divergence", "ce_q"), ("dce", "divergence", "dce"),
    ("kl_mean", "divergence", "kl_mean"), ("same_top", "divergence", "same_top"),
    ("fvu_dim_r", "reconstruction_r", "fvu_dim"), ("l0_r", "reconstruction_r", "l0"),
    ("fvu_dim_q", "reconstruction_q", "fvu_dim"), ("l0_q", "reconstruction_q", "l0"),
    ("noise_p", "drift", "P"), ("noise_r", "drift", "R_q"), ("noise_ratio", "drift", "ratio"),
    ("active", "features", "active"), ("survived_percent", "features", "survived_percent"),
    ("damaged_percent", "features", "damaged_percent"), ("mean_r", "features", "mean_r"))


def _pick(result: dict[str, dict[str, float]],
          names: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    return {name: result[metric][key] for name, metric, key in names if metric in result}
