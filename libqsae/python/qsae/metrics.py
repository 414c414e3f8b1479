# SPDX-License-Identifier: BSD-2-Clause
"""Streaming accumulators.

Every update may say where its rows come from: first (index of the first token; rows follow one
another), document [n], position [n] in the chunk, mask [n] (EXCLUDED | SPECIAL | FIRST). Without
first, rows follow the previous update. With first, updates may come in any order and shards merge
to the same bytes.
"""

from ctypes import byref, c_double, c_int32, c_int64, c_void_p
from typing import NamedTuple

import numpy as np

from ._arrays import address, matrix, sparse, vector
from ._handle import Handle
from ._lib import count, fail, lib, path_bytes, string_bytes, text
from ._structs import (CONSTANTS, DivergenceRows, LogitsInfo, MetricSettings, MetricValue,
                       Positions)

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

    def __init__(self, n, first=None, document=None, position=None, mask=None):
        self.struct = None
        if first is None:
            if not (document is None and position is None and mask is None):
                fail("QSAE_EINVAL", "first: document, position and mask need the index of the "
                                    "first token")
            return
        self.arrays = (vector(document, "document", n, np.int64),
                       vector(position, "position", n, np.int32),
                       vector(mask, "mask", n, np.uint8))
        document, position, mask = map(address, self.arrays)
        self.struct = Positions(first_token=count("first", first), document=document,
                                position=position, mask=mask, n_rows=n)

    @property
    def ref(self):
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

    def __init__(self, ctx, *shape, batch_rows=0, memory=0, fingerprint=None, active_rate=0.0,
                 top=0, prompt_tokens=0, overlap_k=0, documents_per_block=0, seed=0):
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
    def kind(self):
        return text(lib.qsae_metric_kind(self.pointer))

    def values(self):
        """All results, as Value."""
        out = []
        with self._use() as handle:
            for i in range(lib.qsae_metric_count(handle)):
                v = MetricValue()
                lib.qsae_metric_value(handle, i, byref(v))
                out.append(Value(text(v.name), v.value, v.low, v.high, text(v.unit),
                                 text(v.description), v.jackknife_se))
        return out

    def result(self):
        """dict of all results by name; NaN where not defined."""
        return {v.name: v.value for v in self.values()}

    def __getitem__(self, name):
        value = c_double()
        with self._use() as handle:
            lib.qsae_metric_get(handle, string_bytes(name, "name"), byref(value))
        return value.value

    def merge(self, other):
        """Adds the tokens of another metric of the same kind."""
        if not isinstance(other, Metric):
            fail("QSAE_EINVAL", f"merge: expected a metric, found {type(other).__name__}")
        # Locks are taken in one order, so that a.merge(b) and b.merge(a) never wait for each other.
        first, second = sorted((self, other), key=id)
        with first._lock, second._lock:
            lib.qsae_metric_merge(self.pointer, other.pointer)

    def reset(self):
        """Forgets all tokens."""
        with self._use() as handle:
            lib.qsae_metric_reset(handle)

    def save(self, path):
        """Writes the state to a file."""
        with self._use() as handle:
            lib.qsae_metric_save(handle, path_bytes(path))

    def load(self, path):
        """Replaces the state by a saved one of the same kind and shape."""
        with self._use() as handle:
            lib.qsae_metric_load(handle, path_bytes(path))

    def _features(self, name, n):
        out = np.empty(n, np.float64)
        with self._use() as handle:
            lib.qsae_metric_features(handle, string_bytes(name, "name"), address(out), n)
        return out


class CrossEntropy(Metric):
    """Mean negative log-likelihood, perplexity."""

    _open = lib.qsae_metric_open_cross_entropy

    def update(self, nll=None, *, logits=None, labels=None, **at):
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

    def update(self, nll_r=None, nll_q=None, kl=None, top_r=None, top_q=None, labels=None, *,
               logits_r=None, logits_q=None, entropy_r=None, entropy_q=None, topk_overlap=None,
               **at):
        """Per-token arrays of one size, each optional (NaN in nll_r = no label); or logits_r,
        logits_q [..., vocab] and labels (-100 = none)."""
        if (logits_r is None) != (logits_q is None):
            fail("QSAE_EINVAL", "update: expected both logits_r and logits_q")
        if logits_r is not None:
            if labels is None or any(a is not None for a in (
                    nll_r, nll_q, kl, top_r, top_q, entropy_r, entropy_q, topk_overlap)):
                fail("QSAE_EINVAL", "update: logits_r and logits_q go with labels alone")
            return self._update_logits(logits_r, logits_q, labels, at)
        given = {"nll_r": nll_r, "nll_q": nll_q, "kl": kl, "top_r": top_r, "top_q": top_q,
                 "label": labels, "entropy_r": entropy_r, "entropy_q": entropy_q,
                 "topk_overlap": topk_overlap}
        sizes = [np.size(a) for a in given.values() if a is not None]
        if not sizes:
            fail("QSAE_EINVAL", "update: no array is given")
        whole = ("top_r", "top_q", "label")
        arrays = {name: vector(a, name, sizes[0], np.int32 if name in whole else np.float32)
                  for name, a in given.items()}
        rows = DivergenceRows(n=sizes[0], **{name: address(a) for name, a in arrays.items()})
        where = _At(sizes[0], **at)
        with self._use() as handle:
            lib.qsae_metric_update_divergence(handle, where.ref, byref(rows))

    def _update_logits(self, logits_r, logits_q, labels, at):
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

    def update(self, logits_r, logits_q, labels, **at):
        """logits_r, logits_q [..., vocab], labels (-100 = none)."""
        r, q = matrix(logits_r, "logits_r", ("F32",)), matrix(logits_q, "logits_q", ("F32",))
        labels = vector(labels, "labels", len(r.array), np.int32)
        where = _At(len(r.array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_llama_cpp_logits(handle, where.ref, r.ref, q.ref,
                                                    address(labels))

    def update_base(self, base, chunk, logits_q):
        """logits_q [rows, vocab] of the scored positions of a chunk of base, a LogitsReader."""
        q = matrix(logits_q, "logits_q", ("F32",))
        with self._use() as handle, base._use() as reader:
            lib.qsae_metric_update_llama_cpp_base(handle, reader, count("chunk", chunk), q.ref)

    def lines(self):
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

    def __init__(self, ctx, path):
        super().__init__()
        self._ctx = ctx
        info = LogitsInfo()
        lib.qsae_logits_reader_open(ctx.pointer, path_bytes(path), byref(self._handle))
        lib.qsae_logits_reader_get_info(self._handle, byref(info))
        self.context, self.vocab, self.chunks = info.context, info.vocab, info.chunks
        self.first, self.rows = info.first, info.rows

    def tokens(self, chunk):
        """Ids of a chunk, int32 [context]."""
        ids = c_void_p()
        with self._use() as handle:
            lib.qsae_logits_reader_tokens(handle, count("chunk", chunk), byref(ids))
            return np.array((c_int32 * self.context).from_address(ids.value), np.int32)

    def log_p(self, chunk):
        """Log-probabilities of a chunk's rows, float32 [rows, vocab]."""
        out = np.empty((self.rows, self.vocab), np.float32)
        with self._use() as handle:
            lib.qsae_logits_reader_rows(handle, count("chunk", chunk), address(out), out.size)
        return out


class LogitsWriter(Handle):
    """A base-logit file that is written; tokens [chunks, context]. It takes its place at finish()
    and is gone if it is closed before."""

    _close = lib.qsae_logits_writer_close

    def __init__(self, ctx, path, tokens, vocab):
        super().__init__()
        self._ctx = ctx
        tokens = np.ascontiguousarray(tokens, np.int32)
        if tokens.ndim != 2:
            fail("QSAE_EINVAL", f"tokens: expected 2 axes, found {tokens.ndim}")
        info = LogitsInfo(context=tokens.shape[1], vocab=count("vocab", vocab),
                          chunks=tokens.shape[0])
        lib.qsae_logits_writer_open(ctx.pointer, path_bytes(path), byref(info), address(tokens),
                                    byref(self._handle))

    def add(self, logits):
        """Rows [..., vocab] of the scored positions in order."""
        rows = matrix(logits, "logits", ("F32",))
        with self._use() as handle:
            lib.qsae_logits_writer_add(handle, rows.ref)

    def finish(self):
        with self._use() as handle:
            lib.qsae_logits_writer_finish(handle)


class Reconstruction(Metric):
    """Reconstruction error of rows of width d: every FVU variant, MSE, L0. features: of the SAE,
    for dead-feature counts, 0 if unknown."""

    _open = lib.qsae_metric_open_reconstruction

    def __init__(self, ctx, d, features=0, **settings):
        self._n = count("features", features)
        super().__init__(ctx, count("d", d), self._n, **settings)

    def update(self, x, y, acts=None, **at):
        """x, y [..., d]; acts: the activations, Sparse, (indptr, indices, values) or dense."""
        x, y = matrix(x, "x", _WIDE), matrix(y, "y", _WIDE)
        acts = sparse(acts, "acts", self._n)
        where = _At(len(x.array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_reconstruction(handle, where.ref, x.ref, y.ref,
                                                  None if acts is None else byref(acts.struct))

    def features(self, name="fire"):
        """Per-feature results, float64 [features]."""
        return self._features(name, self._n)


class Features(Metric):
    """Feature survival: paired sparse activations of n features."""

    _open = lib.qsae_metric_open_features

    def __init__(self, ctx, n, **settings):
        self._n = count("n", n)
        super().__init__(ctx, self._n, **settings)

    def update(self, r, q, **at):
        """Activations of the same tokens, reference and compressed: Sparse, (indptr, indices,
        values) or dense [..., n]."""
        if r is None or q is None:
            fail("QSAE_EINVAL", "update: expected r and q")
        r, q = sparse(r, "r", self._n), sparse(q, "q", self._n)
        where = _At(len(r), **at)
        with self._use() as handle:
            lib.qsae_metric_update_features(handle, where.ref, byref(r.struct), byref(q.struct))

    def features(self, name):
        """Per-feature results, float64 [n]: "r", "rate_r", "rate_q", "mean_r", "max_r", "max_q",
        "fire_r", "fire_q", "cofire", "mean_q", "gain", "cosine", "cofire_jaccard", "precision",
        "recall", "rate_ratio", "r_on", "relative_error", "mean_ratio", "sum_r2", "sum_delta2";
        with top=20 or more "top_overlap", with documents_per_block= "r_low", "r_high"."""
        return self._features(name, self._n)

    def top(self, feature, side=0):
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

    def __init__(self, ctx, d, **settings):
        super().__init__(ctx, count("d", d), **settings)

    def update(self, x_r, x_q, y_r=None, y_q=None, **at):
        """Residual rows of both models [..., d], and both reconstructions or neither."""
        rows = [None if a is None else matrix(a, name, _WIDE)
                for name, a in (("x_r", x_r), ("x_q", x_q), ("y_r", y_r), ("y_q", y_q))]
        where = _At(len(rows[0].array), **at)
        with self._use() as handle:
            lib.qsae_metric_update_drift(handle, where.ref, *[r and r.ref for r in rows])
