# SPDX-License-Identifier: BSD-2-Clause
"""Tensors of hooks as rows, and which token each row is."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from ._arrays import Sparse
from ._lib import fail
from .metrics import EXCLUDED, FIRST, SPECIAL

Array = np.ndarray[Any, Any]
Tensor = Any  # torch.Tensor or Array


def is_tensor(x: Any) -> bool:
    """Whether x is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def rows(x: Tensor) -> Array:
    """A torch tensor as an array, in place where it lies in main memory: bfloat16 as its bits
    (uint16), types that NumPy lacks as float32. Other objects go through numpy.asarray."""
    if not is_tensor(x):
        return np.asarray(x)
    torch = sys.modules["torch"]
    x = x.detach().to("cpu")
    if x.dtype == torch.bfloat16:
        bits: Array = x.contiguous().view(torch.int16).numpy()
        return bits.view(np.uint16)
    if x.is_floating_point() and x.dtype not in (torch.float32, torch.float16, torch.float64):
        x = x.float()
    out: Array = x.resolve_conj().resolve_neg().numpy()
    return out


def wide(x: Tensor) -> Array:
    """X in float32."""
    if is_tensor(x):
        x = x.detach().to("cpu").float()
    return np.asarray(rows(x), np.float32)


def whole(x: Any, what: str) -> Array:
    """Integers as int64."""
    out = rows(x)
    if out.dtype.kind not in "iub":
        fail("QSAE_EINVAL", f"{what}: expected integers, found {out.dtype}")
    return out.astype(np.int64)


def tokens_of(output: Any) -> Tensor:
    """The tensor in what a module returns: itself, the first of a tuple or list, or the logits or
    last_hidden_state of a transformers output."""
    for name in ("logits", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    if isinstance(output, (tuple, list)):
        if not output:
            fail("QSAE_EINVAL", "hook: expected a tensor, found an empty tuple")
        return tokens_of(output[0])
    if not is_tensor(output) and not isinstance(output, np.ndarray):
        fail("QSAE_EINVAL", f"hook: expected a tensor, a tuple that begins with one, or an object "
                            f"with logits, found {type(output).__name__}")
    return output


class Tokens(NamedTuple):
    """Which tokens a batch holds.

    shape     (sequences, tokens), padding included
    keep      bool [sequences * tokens]: not padding; None = all
    document  int64 [n] of the tokens kept
    position  int32 [n] in the sequence, from its first token that is no padding
    mask      uint8 [n]
    labels    int32 [n]: the next token, -100 where there is none; None = unknown
    documents first document index that is free after the batch
    """

    shape: tuple[int, int]
    keep: Array | None
    document: Array
    position: Array
    mask: Array
    labels: Array | None
    documents: int

    @property
    def n(self) -> int:
        """Tokens kept."""
        return len(self.document)


class Rules(NamedTuple):
    """special, exclude: token ids; exclude_first: the first token of a sequence is not counted;
    document_start: id that begins a document, None = every sequence is one."""

    special: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()
    exclude_first: bool = False
    document_start: int | None = None


def _grid(x: Any, what: str, shape: tuple[int, ...] | None) -> Array:
    """[sequences, tokens] of integers; one sequence may come without its first axis."""
    out = whole(x, what)
    if out.ndim == 1:
        out = out[None]
    if out.ndim != 2 or (shape is not None and out.shape != shape):
        fail("QSAE_EINVAL", f"{what}: expected shape {list(shape or ('sequences', 'tokens'))}, "
                            f"found {list(out.shape)}")
    return out


def _next(ids: Array, valid: Array) -> Array:
    """The label of each position: the next token of its sequence."""
    labels = np.full(ids.shape, -100, np.int32)
    both = valid[:, :-1] & valid[:, 1:]
    labels[:, :-1][both] = ids[:, 1:][both]
    return labels


def _documents(given: Any, ids: Array | None, shape: tuple[int, int], rules: Rules,
               free: int) -> tuple[Array, int]:
    """Document of every position, and the next free index."""
    if given is not None:
        documents = whole(given, "documents")
        if documents.shape == shape[:1]:
            documents = np.repeat(documents[:, None], shape[1], 1)
        documents = _grid(documents, "documents", shape)
        return documents, max(free, int(documents.max(initial=-1)) + 1)
    if rules.document_start is None:
        documents = np.repeat(free + np.arange(shape[0])[:, None], shape[1], 1)
        return documents, free + shape[0]
    if ids is None:
        fail("QSAE_EINVAL", "document_start: expected the batch's input_ids")
    # Sequences are cut from one stream: a document goes on in the next of them. The first one may
    # lack its start.
    starts = np.cumsum(ids.reshape(-1) == rules.document_start)
    begun = free > 0 or (len(starts) > 0 and starts[0] == 1)
    documents = (free - int(begun) + starts).reshape(shape)
    return documents, max(free, int(documents.max(initial=-1)) + 1)


def tokens(shape: tuple[int, int], rules: Rules, free: int, ids: Array | None,
           attention_mask: Any, documents: Any, labels: Any) -> Tokens:
    """Tokens of a batch, of arguments as Collector.batch() has them."""
    valid = np.ones(shape, bool) if attention_mask is None else \
        _grid(attention_mask, "attention_mask", shape) != 0
    if ids is None and (rules.special or rules.exclude):
        fail("QSAE_EINVAL", "special, exclude: expected the batch's input_ids")
    position = np.maximum(np.cumsum(valid, 1) - 1, 0).astype(np.int32)
    mask = np.where(position == 0, FIRST | (EXCLUDED if rules.exclude_first else 0), 0)
    if ids is not None:
        mask |= np.where(np.isin(ids, rules.special), SPECIAL, 0)
        mask |= np.where(np.isin(ids, rules.exclude), EXCLUDED, 0)
    document, free = _documents(documents, ids, shape, rules, free)
    target = None if ids is None else _next(ids, valid)
    if labels is not None:
        given = _grid(labels, "labels", shape)
        target = _next(given, valid)
        target[target < 0] = -100
    keep = None if valid.all() else valid.reshape(-1)

    def kept(x: Array) -> Array:
        x = x.reshape(-1)
        return x if keep is None else x[keep]
    return Tokens(shape, keep, kept(document), kept(position), kept(mask.astype(np.uint8)),
                  None if target is None else kept(target), free)


def select(x: Tensor, batch: Tokens, width: int, what: str, head: int = -1,
           batch_first: bool = True) -> Tensor:
    """The rows [n, width] of the tokens of a batch, a view of x where no padding is dropped.

    x is [sequences, tokens, width] (or [tokens, sequences, width]), with the heads on an axis of
    their own, or [rows, width] of all tokens or of those that are no padding.
    """
    if not batch_first and x.ndim > 2:
        x = x.swapaxes(0, 1)
    total = batch.shape[0] * batch.shape[1]
    if head >= 0 and x.ndim == 4:
        x = x[:, :, head]
    if x.ndim == 2 and tuple(x.shape) == (batch.n, width):
        return x
    flat = x.ndim == 2 and x.shape[0] == total
    if (not flat and tuple(x.shape[:2]) != batch.shape) or \
            int(np.prod(x.shape[1 if flat else 2:])) != width or x.ndim not in (2, 3, 4):
        fail("QSAE_EMISMATCH", f"{what}: expected rows of shape "
                               f"{[*batch.shape, width]}, found {list(x.shape)}")
    x = x.reshape(total, width)
    if batch.keep is None:
        return x
    if is_tensor(x):
        return x[sys.modules["torch"].from_numpy(batch.keep).to(x.device)]
    return x[batch.keep]


def sparse_of(acts: Tensor) -> Sparse:
    """Sparse of dense activations [n, features] of torch or NumPy."""
    if is_tensor(acts):
        acts = acts.detach()
        acts = acts.to_dense() if acts.layout is not sys.modules["torch"].strided else acts
        where = acts.nonzero()  # row by row, features ascending
        row, column = rows(where[:, 0]), rows(where[:, 1])
        values = wide(acts[where[:, 0], where[:, 1]])
    else:
        acts = np.asarray(acts)
        row, column = np.nonzero(acts)
        values = acts[row, column]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(acts)))])
    return Sparse(indptr, column, values, acts.shape[1])
