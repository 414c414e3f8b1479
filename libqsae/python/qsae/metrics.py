# SPDX-License-Identifier: BSD-2-Clause
"""Streaming accumulators.

Every update may say where its rows come from: first (index of the first token; rows follow one
another), document [n], position [n] in the chunk, mask [n] (EXCLUDED | SPECIAL | FIRST). Without
first, rows follow the previous update. With first, updates may come in any order and shards merge
to the same bytes.
"""

from __future__ import annotations

from ctypes import byref, c_double, c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ._arrays import Array, Doubles, Floats, Ints, Longs, address, matrix, sparse, vector
from ._dlpack import as_array
from ._handle import Handle
from ._lib import count, fail, lib, path_bytes, string_bytes, text
from ._structs import CONSTANTS, DivergenceRows, LogitsInfo, MetricSettings, MetricValue, Positions
from .context import Context

if TYPE_CHECKING:
    from .model import Path

EXCLUDED = CONSTANTS["QSAE_MASK_EXCLUDED"]
SPECIAL = CONSTANTS["QSAE_MASK_SPECIAL"]
FIRST = CONSTANTS["QSAE_MASK_FIRST"]

_WIDE = ("F32", "F16", "BF16", "F64")


class Value(NamedTuple):
    """One result; value, low, high and jackknife_se are NaN where not defined."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    description: str
    jackknife_se: float


class _At:
    """qsae_positions of one update and the arrays it points to."""

    def __init__(self, n: int, first: int | None = None, document: Any = None,
                 position: Any = None, mask: Any = None) -> None:
        self.struct: Positions | None = None
        if first is None:
            if not (document is None and position is None and mask is None):
                fail("QSAE_EINVAL", "first: document, position and mask need the index of the "
                                    "first token")
            return
        self.arrays = (vector(document, "document", n, np.int64),
                       vector(position, "position", n, np.int32),
                       vector(mask, "mask", n, np.uint8))
        addresses = map(address, self.arrays)
        self.struct = Positions(first_token=count("first", first), document=next(addresses),
                                position=next(addresses), mask=next(addresses), n_rows=n)

    @property
    def ref(self) -> Any:
        """The struct as an argument."""
        return None if self.struct is None else byref(self.struct)


class Metric(Handle):
    """What all accumulators share.

    batch_rows   rows of a batch for the batch-dependent variants (2048)
    memory       bytes for values kept per token; beyond it a systematic sample is kept (256 MiB)
    fingerprint  of the measurement: metrics merge only if it is equal
    active_rate  Features: active if the firing rate is above this (0.001)
    top          Features: largest activations kept of each, with their tokens (0)
    prompt_tokens  Features: tokens of a prompt; features("prompts_r") counts the prompts each fires
                 in. Updates then begin with a prompt (0 = not counted)
    overlap_k    Divergence: k of topk_overlap (10)
    documents_per_block  Features: intervals of r and of survival by leaving out blocks of this many
                 documents (0 = none)
    seed         of the draws of intervals
    """

    _close = lib.qsae_metric_close

    _open: ClassVar[Any]

    def __init__(self, ctx: Context, *shape: int, batch_rows: int = 0, memory: int = 0,
                 fingerprint: str | None = None, active_rate: float = 0.0, top: int = 0,
                 prompt_tokens: int = 0, overlap_k: int = 0, documents_per_block: int = 0,
                 seed: int = 0) -> None:
        super().__init__()
        self._ctx = ctx
        settings = MetricSettings(batch_rows=count("batch_rows", batch_rows),
                                  memory=count("memory", memory, 0, 2**64 - 1),
                                  active_rate=active_rate, top=count("top", top),
                                  prompt_tokens=count("prompt_tokens", prompt_tokens),
                                  overlap_k=count("overlap_k", overlap_k),
                                  documents_per_block=count("documents_per_block",
                                                            documents_per_block),
                                  seed=count("seed", seed))
        settings.fingerprint = None if fingerprint is None else string_bytes(fingerprint,
                                                                             "fingerprint")
        self._open(ctx.pointer, *shape, byref(settings), byref(self._handle))
        self._keep = settings

    @property
    def kind(self) -> str:
        """What it measures: "cross_entropy", "divergence", ..."""
        return text(lib.qsae_metric_kind(self.pointer))

    def values(self) -> list[Value]:
        """All results, as Value."""
        out = []
        with self._use() as handle:
            for i in range(lib.qsae_metric_count(handle)):
                v = MetricValue()
                lib.qsae_metric_value(handle, i, byref(v))
                out.append(Value(text(v.name), v.value, v.low, v.high, text(v.unit),
                                 text(v.description), v.jackknife_se))
        return out

    def result(self) -> dict[str, float]:
        """Dict of all results by name; NaN where not defined."""
        return {v.name: v.value for v in self.values()}

    def __getitem__(self, name: str) -> float:
        value = c_double()
        with self._use() as handle:
            lib.qsae_metric_get(handle, string_bytes(name, "name"), byref(value))
        return value.value

    def merge(self, other: Metric) -> None:
        """Adds the tokens of another metric of the same kind."""
        if not isinstance(other, Metric):
            fail("QSAE_EINVAL", f"merge: expected a metric, found {type(other).__name__}")
        # Locks are taken in one order, so that a.merge(b) and b.merge(a) never wait for each other.
        first, second = sorted((self, other), key=id)
        with first._lock, second._lock:
            lib.qsae_metric_merge(self.pointer, other.pointer)

    def reset(self) -> None:
        """Forgets all tokens."""
        with self._use() as handle:
            lib.qsae_metric_reset(handle)

    def save(self, path: Path) -> None:
        """Writes the state to a file."""
        with self._use() as handle:
            lib.qsae_metric_save(handle, path_bytes(path))

    def load(self, path: Path) -> None:
        """Replaces the state by a saved one of the same kind and shape."""
        with self._use() as handle:
            lib.qsae_metric_load(handle, path_bytes(path))

    def _features(self, name: str, n: int) -> Doubles:
        out: Doubles = np.empty(n, np.float64)
        with self._use() as handle:
            lib.qsae_metric_features(handle, string_bytes(name, "name"), address(out), n)
        return out


class CrossEntropy(Metric):
    """Mean negative log-likelihood, perplexity."""

    _open = lib.qsae_metric_open_cross_entropy

    def update(self, nll: Any = None, *, logits: Any = None, labels: Any = None,
               **at: Any) -> None:
        """nll, any shape (NaN = no label), or logits [..., vocab] with labels (-100 = none)."""
        if (nll is None) == (logits is None) or (logits is None) != (labels is None):
            fail("QSAE_EINVAL", "update: expected nll, or logits and labels")
        if nll is not None:
            nll = vector(nll, "nll")
            where = _At(nll.size, **at)
            with self._use() as handle:
                lib.qsae_metric_update_cross_entropy(handle, where.ref, nll.size, address(nll))
            return
        rows = matrix(logits, "logits", ("F32",))
        labels = vector(labels, "labels", len(rows.array), np.int32)
        where = _At(len(rows.array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_cross_entropy_logits(handle, where.ref, rows.ref,
                                                        address(labels))


class Divergence(Metric):
    """Reference against compressed output distributions."""

    _open = lib.qsae_metric_open_divergence

    def update(self, nll_r: Any = None, nll_q: Any = None, kl: Any = None, top_r: Any = None,
               top_q: Any = None, labels: Any = None, *, logits_r: Any = None,
               logits_q: Any = None, entropy_r: Any = None, entropy_q: Any = None,
               topk_overlap: Any = None, **at: Any) -> None:
        """Per-token arrays of one size, each optional (NaN in nll_r = no label); or logits_r,
        logits_q [..., vocab] and labels (-100 = none)."""
        if (logits_r is None) != (logits_q is None):
            fail("QSAE_EINVAL", "update: expected both logits_r and logits_q")
        if logits_r is not None:
            if labels is None or any(a is not None for a in (
                    nll_r, nll_q, kl, top_r, top_q, entropy_r, entropy_q, topk_overlap)):
                fail("QSAE_EINVAL", "update: logits_r and logits_q go with labels alone")
            self._update_logits(logits_r, logits_q, labels, at)
            return
        given = {"nll_r": nll_r, "nll_q": nll_q, "kl": kl, "top_r": top_r, "top_q": top_q,
                 "label": labels, "entropy_r": entropy_r, "entropy_q": entropy_q,
                 "topk_overlap": topk_overlap}
        whole = ("top_r", "top_q", "label")
        n: int | None = None
        arrays: dict[str, Array | None] = {}
        for name, a in given.items():
            flat = vector(a, name, n, np.int32 if name in whole else np.float32)
            arrays[name] = flat
            n = n if flat is None else flat.size
        if n is None:
            fail("QSAE_EINVAL", "update: no array is given")
        rows = DivergenceRows(n=n, **{name: address(a) for name, a in arrays.items()})
        where = _At(n, **at)
        with self._use() as handle:
            lib.qsae_metric_update_divergence(handle, where.ref, byref(rows))

    def _update_logits(self, logits_r: Any, logits_q: Any, labels: Any, at: dict[str, Any]) -> None:
        r, q = matrix(logits_r, "logits_r", ("F32",)), matrix(logits_q, "logits_q", ("F32",))
        labels = vector(labels, "labels", len(r.array), np.int32)
        where = _At(len(r.array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_divergence_logits(handle, where.ref, r.ref, q.ref,
                                                     address(labels))


class LlamaCpp(Metric):
    """The report of llama.cpp's llama-perplexity --kl-divergence (doc/result.md, llama_cpp).
    batch_rows: tokens of a chunk."""

    _open = lib.qsae_metric_open_llama_cpp

    def update(self, logits_r: Any, logits_q: Any, labels: Any, **at: Any) -> None:
        """logits_r, logits_q [..., vocab], labels (-100 = none)."""
        r, q = matrix(logits_r, "logits_r", ("F32",)), matrix(logits_q, "logits_q", ("F32",))
        labels = vector(labels, "labels", len(r.array), np.int32)
        where = _At(len(r.array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_llama_cpp_logits(handle, where.ref, r.ref, q.ref,
                                                    address(labels))

    def update_base(self, base: LogitsReader, chunk: int, logits_q: Any) -> None:
        """logits_q [rows, vocab] of the scored positions of a chunk of base, a LogitsReader."""
        q = matrix(logits_q, "logits_q", ("F32",))
        with self._use() as handle, base._use() as reader:
            lib.qsae_metric_update_llama_cpp_base(handle, reader, count("chunk", chunk), q.ref)

    def lines(self) -> tuple[Longs, Doubles]:
        """The running lines: index of each chunk, float64 [chunks, 10] of values and errors."""
        n = c_int64()
        with self._use() as handle:
            lib.qsae_metric_llama_lines(handle, None, None, 0, byref(n))
            chunks = np.empty(n.value, np.int64)
            lines = np.empty((n.value, CONSTANTS["QSAE_METRIC_LLAMA_LINE"]), np.float64)
            if n.value:
                lib.qsae_metric_llama_lines(handle, address(chunks), address(lines), n.value,
                                            byref(n))
        return chunks, lines


class LogitsReader(Handle):
    """A base-logit file of llama.cpp: context, vocab, chunks, first (position with a row), rows
    (of a chunk)."""

    _close = lib.qsae_logits_reader_close

    def __init__(self, ctx: Context, path: Path) -> None:
        super().__init__()
        self._ctx = ctx
        info = LogitsInfo()
        lib.qsae_logits_reader_open(ctx.pointer, path_bytes(path), byref(self._handle))
        lib.qsae_logits_reader_get_info(self._handle, byref(info))
        self.context: int = info.context
        self.vocab: int = info.vocab
        self.chunks: int = info.chunks
        self.first: int = info.first
        self.rows: int = info.rows

    def tokens(self, chunk: int) -> Ints:
        """Ids of a chunk, int32 [context]."""
        ids = c_void_p()
        with self._use() as handle:
            lib.qsae_logits_reader_tokens(handle, count("chunk", chunk), byref(ids))
            return np.array((c_int32 * self.context).from_address(ids.value or 0), np.int32)

    def log_p(self, chunk: int) -> Floats:
        """Log-probabilities of a chunk's rows, float32 [rows, vocab]."""
        out = np.empty((self.rows, self.vocab), np.float32)
        with self._use() as handle:
            lib.qsae_logits_reader_rows(handle, count("chunk", chunk), address(out), out.size)
        return out


class LogitsWriter(Handle):
    """A base-logit file that is written; tokens [chunks, context]. It takes its place at finish()
    and is gone if it is closed before."""

    _close = lib.qsae_logits_writer_close

    def __init__(self, ctx: Context, path: Path, tokens: Any, vocab: int) -> None:
        super().__init__()
        self._ctx = ctx
        tokens = np.ascontiguousarray(as_array(tokens, "tokens"), np.int32)
        if tokens.ndim != 2:
            fail("QSAE_EINVAL", f"tokens: expected 2 axes, found {tokens.ndim}")
        info = LogitsInfo(context=tokens.shape[1], vocab=count("vocab", vocab),
                          chunks=tokens.shape[0])
        lib.qsae_logits_writer_open(ctx.pointer, path_bytes(path), byref(info), address(tokens),
                                    byref(self._handle))

    def add(self, logits: Any) -> None:
        """Rows [..., vocab] of the scored positions in order."""
        rows = matrix(logits, "logits", ("F32",))
        with self._use() as handle:
            lib.qsae_logits_writer_add(handle, rows.ref)

    def finish(self) -> None:
        """Puts the file in its place."""
        with self._use() as handle:
            lib.qsae_logits_writer_finish(handle)


class Reconstruction(Metric):
    """Reconstruction error of rows of width d: every FVU variant, MSE, L0. features: of the SAE,
    for dead-feature counts, 0 if unknown."""

    _open = lib.qsae_metric_open_reconstruction

    def __init__(self, ctx: Context, d: int, features: int = 0, **settings: Any) -> None:
        self._n = count("features", features)
        super().__init__(ctx, count("d", d), self._n, **settings)

    def update(self, x: Any, y: Any, acts: Any = None, **at: Any) -> None:
        """x, y [..., d]; acts: the activations, Sparse, (indptr, indices, values) or dense."""
        x, y = matrix(x, "x", _WIDE), matrix(y, "y", _WIDE)
        acts = sparse(acts, "acts", self._n)
        where = _At(len(x.array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_reconstruction(handle, where.ref, x.ref, y.ref,
                                                  None if acts is None else byref(acts.struct))

    def features(self, name: str = "fire") -> Doubles:
        """Per-feature results, float64 [features]."""
        return self._features(name, self._n)


class Features(Metric):
    """Feature survival: paired sparse activations of n features."""

    _open = lib.qsae_metric_open_features

    def __init__(self, ctx: Context, n: int, **settings: Any) -> None:
        self._n = count("n", n)
        super().__init__(ctx, self._n, **settings)

    def update(self, r: Any, q: Any, **at: Any) -> None:
        """Activations of the same tokens, reference and compressed: Sparse, (indptr, indices,
        values) or dense [..., n]."""
        if r is None or q is None:
            fail("QSAE_EINVAL", "update: expected r and q")
        r, q = sparse(r, "r", self._n), sparse(q, "q", self._n)
        where = _At(len(r), **at)
        with self._use() as handle:
            lib.qsae_metric_update_features(handle, where.ref, byref(r.struct), byref(q.struct))

    def features(self, name: str) -> Doubles:
        """Per-feature results, float64 [n]: "r", "rate_r", "rate_q", "mean_r", "max_r", "max_q",
        "fire_r", "fire_q", "cofire", "mean_q", "gain", "cosine", "cofire_jaccard", "precision",
        "recall", "rate_ratio", "r_on", "relative_error", "mean_ratio", "sum_r2", "sum_delta2";
        with top=20 or more "top_overlap", with documents_per_block= "r_low", "r_high"."""
        return self._features(name, self._n)

    def top(self, feature: int, side: int = 0) -> tuple[Longs, Doubles]:
        """The largest activations of a feature in the reference (side 0) or the compressed model
        (1): token indices and values, larger ones first. Needs top=."""
        n = c_int64()
        room = self._keep.top
        tokens, values = np.empty(room, np.int64), np.empty(room, np.float64)
        with self._use() as handle:
            lib.qsae_metric_top(handle, count("feature", feature), count("side", side, 0, 1),
                                address(tokens), address(values), room, byref(n))
        return tokens[:n.value], values[:n.value]


class Drift(Metric):
    """Noise floor: residual drift against reconstruction error, rows of width d."""

    _open = lib.qsae_metric_open_drift

    def __init__(self, ctx: Context, d: int, **settings: Any) -> None:
        super().__init__(ctx, count("d", d), **settings)

    def update(self, x_r: Any, x_q: Any, y_r: Any = None, y_q: Any = None, **at: Any) -> None:
        """Residual rows of both models [..., d], and both reconstructions or neither."""
        rows = [None if a is None else matrix(a, name, _WIDE)
                for name, a in (("x_r", x_r), ("x_q", x_q), ("y_r", y_r), ("y_q", y_q))]
        if rows[0] is None:
            fail("QSAE_EINVAL", "update: expected x_r and x_q")
        where = _At(len(rows[0].array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_drift(handle, where.ref, *[r and r.ref for r in rows])
