# SPDX-License-Identifier: BSD-2-Clause
"""Tokenizer and Corpus."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Iterator
from ctypes import byref, c_int64, c_size_t, c_void_p
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import Array, Ints, Longs, address, vector
from ._dlpack import as_array
from ._handle import CancelToken, Desk, Handle, Progress
from ._lib import (
    Error,
    bos_policy,
    choose,
    choose_documents,
    count,
    fail,
    lib,
    path_bytes,
    string_bytes,
    text,
)
from ._structs import CONSTANTS, CorpusInfo, CorpusSettings, DocumentInfo, TokenizerInfo
from .context import Context
from .sources import source_label, text_source

if TYPE_CHECKING:
    from .model import Path

_FORMATS = {"plain": CONSTANTS["QSAE_TEXT_PLAIN"], "jsonl": CONSTANTS["QSAE_TEXT_JSONL"],
            "ids": CONSTANTS["QSAE_TEXT_IDS"], "whole": CONSTANTS["QSAE_TEXT_WHOLE"]}


# Bytes of text above which encode() waits in a way that Ctrl-C can interrupt.
_LONG_TEXT = 1 << 18


def _id(value: Any) -> int:
    return count("id", value, -2**31, 2**31 - 1)


class Tokenizer(Handle):
    """A tokenizer: tokenizer.json, a GGUF file, or a folder that holds one or GPT-2's files.

    info    dict: vocab, bos, eos, pad, unk (-1 = none), adds_bos, adds_eos, hash
    """

    _close = lib.qsae_tokenizer_close

    def __init__(self, ctx: Context, path: Path) -> None:
        super().__init__()
        self._ctx = ctx
        lib.qsae_tokenizer_open(ctx.pointer, path_bytes(path), byref(self._handle))
        info = TokenizerInfo()
        lib.qsae_tokenizer_get_info(self.pointer, byref(info))
        self.info = info.as_dict()
        self.vocab: int = info.vocab
        self.bos: int = info.bos
        self.eos: int = info.eos
        self.pad: int = info.pad
        self.unk: int = info.unk

    def encode(self, string: str | bytes | bytearray, special: bool = True,
               cancel: CancelToken | None = None) -> Ints:
        """Ids (int32) of a str or UTF-8 bytes.

        special  with the BOS and EOS the template adds
        cancel   ends the call when it is set; Ctrl-C does too
        """
        if isinstance(string, str):
            string = string.encode("utf-8", "surrogatepass")
        elif not isinstance(string, (bytes, bytearray)):
            fail("QSAE_EINVAL", f"encode: expected str or bytes, found {type(string).__name__}")
        string = bytes(string)
        desk = Desk(cancel) if len(string) > _LONG_TEXT or cancel is not None else None
        n = c_int64()
        capacity = len(string) + 16  # a token is a byte or more, but for the template's
        while True:
            ids = np.empty(capacity, np.int32)
            arguments = (self.pointer, string, len(string), bool(special),
                         None if desk is None else desk.token.pointer, address(ids), capacity,
                         byref(n))
            try:
                if desk is None:
                    lib.qsae_tokenizer_encode_cancelable(*arguments)
                else:
                    desk.run(lib.qsae_tokenizer_encode_cancelable, *arguments)
                return ids[:n.value].copy()
            except Error as error:
                if error.name != "QSAE_ESPACE" or n.value <= capacity:
                    raise
                capacity = n.value
                if desk is not None:
                    desk.again()

    def token(self, id: int) -> bytes:
        """Bytes an id stands for in running text."""
        data, size = c_void_p(), c_size_t()
        lib.qsae_tokenizer_token(self.pointer, _id(id), byref(data), byref(size))
        return ctypes.string_at(data, size.value) if size.value else b""

    def is_special(self, id: int) -> bool:
        """Whether an id is a special token (BOS, EOS, ...)."""
        return bool(lib.qsae_tokenizer_is_special(self.pointer, _id(id)))


class Chunk(NamedTuple):
    """Arrays [n_tokens]; labels are -100 where a position predicts nothing."""

    ids: Ints
    labels: Ints
    document: Longs


class Corpus(Handle):
    """Text, tokenized and cut into chunks; a sequence of Chunk.

    path          a file or a folder; or a text source (a datasets.Dataset, an iterable of str or of
                  dicts: qsae.TextSource), whose keys are the metadata of its documents
    context       tokens per chunk (512)
    max_tokens    stop after the first chunk that reaches this many; 0 = all
    bos           "none", "stream_start", "doc_start", "chunk_start" or "chunk_replace"; None =
                  chunk_start, or none if the tokenizer has no BOS
    format        "plain", "jsonl", "ids" (.npy) or "whole"; None = by name
    text_field    key of the text in JSON lines ("text")
    separator     between documents of plain text ("<|endoftext|>")
    keep_tail     keep a last, shorter chunk
    cross_labels  the last position of a chunk predicts the first token of the next one
    progress      callable(done, total, unit, phase)
    stride        windows of context tokens that begin stride tokens apart; 0 = side by side
    score_from    positions of a chunk before it predict nothing
    order         file of document indices to read, in that order
    shuffle       seed: documents in the order of numpy's default_rng(seed).shuffle
    where         list of "KEY=VALUE" and "KEY!=VALUE" about the metadata (doc/text.md)
    documents     (first, end) of that order; None in place of either: no limit
    pack          "stream", "tl", "saelens" or "tl2"; None = stream
    cancel        ends the call when it is set

    info          dict: tokens, stream_tokens, documents, chunks, context, predicted_tokens,
                  bos_policy, cross_labels, token_hash, stride, score_from, scored_bytes,
                  scored_words, pack
    """

    _close = lib.qsae_corpus_close
    _label: str | None = None  # of a text that is no file

    def __init__(self, ctx: Context, tokenizer: Tokenizer, path: Any, context: int = 0,
                 max_tokens: int = 0, bos: str | None = None, format: str | None = None,
                 text_field: str | None = None, separator: str | None = None,
                 keep_tail: bool = False, cross_labels: bool = False,
                 progress: Progress | None = None, stride: int = 0, score_from: int = 0,
                 order: Path | None = None, shuffle: int | None = None, where: Iterable[str] = (),
                 documents: tuple[int | None, int | None] | None = None, pack: str | None = None,
                 cancel: CancelToken | None = None) -> None:
        super().__init__()
        self._ctx = ctx
        desk = Desk(cancel)
        settings = CorpusSettings(progress=desk.progress(progress), cancel=desk.token._handle)
        settings.context = count("context", context)
        settings.max_tokens = count("max_tokens", max_tokens)
        settings.stride = count("stride", stride)
        settings.score_from = count("score_from", score_from)
        settings.order = None if order is None else path_bytes(order)
        settings.shuffle = None if shuffle is None else str(
            count("shuffle", shuffle, 0, 2**64 - 1)).encode()
        choose_documents(settings, where, documents, pack)
        settings.bos_policy = bos_policy(bos)
        settings.format = choose("format", format, _FORMATS)
        settings.text_field = text_field and string_bytes(text_field, "text_field")
        settings.separator = separator and string_bytes(separator, "separator")
        settings.keep_tail, settings.cross_labels = bool(keep_tail), bool(cross_labels)
        with text_source(path, text_field) as (file, field):
            if file is not path:
                self._label = source_label(path)
            if field is not None:
                settings.text_field = string_bytes(field, "text_field")
            desk.run(lib.qsae_corpus_open, ctx.pointer, tokenizer.pointer, path_bytes(file),
                     byref(settings), byref(self._handle))
        self._describe()

    @classmethod
    def from_ids(cls, ctx: Context, ids: Any) -> Corpus:
        """A corpus of ids the caller has: [n_chunks, context]."""
        ids = as_array(ids, "ids")
        if ids.ndim != 2:
            fail("QSAE_EINVAL", f"ids: expected [n_chunks, context], found {ids.ndim} axes")
        self = cls.__new__(cls)
        Handle.__init__(self)
        self._ctx = ctx
        flat = vector(ids, "ids", dtype=np.int32)
        lib.qsae_corpus_open_ids(ctx.pointer, address(flat), *ids.shape, byref(self._handle))
        self._describe()
        return self

    def _describe(self) -> None:
        info = CorpusInfo()
        lib.qsae_corpus_get_info(self.pointer, byref(info))
        self.info = info.as_dict()
        self.info["bos_policy"] = text(lib.qsae_bos_name(info.bos_policy))
        self.info["pack"] = text(lib.qsae_pack_name(info.pack))

    def __len__(self) -> int:
        return int(self.info["chunks"])

    def __iter__(self) -> Iterator[Chunk]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Chunk:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        ids, labels, document, n = c_void_p(), c_void_p(), c_void_p(), c_int64()
        lib.qsae_corpus_chunk(self.pointer, i % len(self), byref(ids), byref(labels),
                              byref(document), byref(n))

        def copy(pointer: c_void_p, dtype: Any) -> Array:
            size = n.value * np.dtype(dtype).itemsize
            return np.frombuffer(ctypes.string_at(pointer, size), dtype).copy()
        return Chunk(copy(ids, np.int32), copy(labels, np.int32), copy(document, np.int64))

    def document(self, i: int) -> dict[str, Any]:
        """dict: first_token, n_tokens, source, line, metadata (parsed JSON)."""
        info = DocumentInfo()
        lib.qsae_corpus_document(self.pointer, count("document", i, -2**63), byref(info))
        out = info.as_dict()
        out["metadata"] = json.loads(out["metadata"] or "{}")
        if self._label is not None:
            out["source"] = self._label
        return out
