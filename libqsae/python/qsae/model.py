# SPDX-License-Identifier: BSD-2-Clause
"""Weights and Model: language models under a condition."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from ctypes import POINTER, byref, c_float, c_int32, c_void_p, cast
from typing import Any, Callable, NamedTuple, Union

import numpy as np

from ._arrays import Array, Floats, address, dtype_number, vector, widened
from ._dlpack import as_array
from ._handle import CancelToken, Desk, Handle, Progress
from ._lib import choose, count, fail, lib, path_bytes, string_bytes, text
from ._structs import (
    CONSTANTS,
    OBSERVER,
    ModelCost,
    ModelInfo,
    ModelSettings,
    Pass,
    SaveSettings,
    Tap,
    WeightError,
)
from .context import Context
from .quantizer import QMatrix, Quantizer
from .taps import TapRows, stream_taps

Path = Union[str, bytes, "os.PathLike[Any]"]
# A place of a model: (layer, site) or a hook name.
Key = Union[str, "tuple[int, str]"]
Editor = Callable[[Floats, "EditInfo"], Any]

COMPUTE = {"f32": CONSTANTS["QSAE_COMPUTE_F32"], "bf16": CONSTANTS["QSAE_COMPUTE_BF16"]}
ATTENTION = {"eager": CONSTANTS["QSAE_ATTN_EAGER"], "sdpa": CONSTANTS["QSAE_ATTN_SDPA"],
             "fp32": CONSTANTS["QSAE_ATTN_FP32"]}
MEMORY = {name: CONSTANTS["QSAE_MEMORY_" + name.upper()] for name in ("resident", "streamed")}


def _name_of(names: Mapping[str, int], number: int) -> str:
    return next(name for name, n in names.items() if n == number)


class EditInfo(NamedTuple):
    """Where an editor's rows come from; shape is (n_seq, n_tokens, columns)."""

    layer: int
    site: str
    shape: tuple[int, ...]


class Output:
    """What a pass left behind; None where it was not asked for.

    nll     float32 [n_seq, n_tokens - 1], natural log, of the next token; with labels
            [n_seq, n_tokens], NaN where there is none
    logits  float32 [n_seq, n_tokens, vocab]
    taps    dict of float32 [n_seq, n_tokens, columns of the site], by the keys that were asked for
    """

    def __init__(self, nll: Floats | None, logits: Floats | None, taps: dict[Any, Floats]) -> None:
        self.nll = nll
        self.logits = logits
        self.taps = taps


class Weights(Handle):
    """A checkpoint, mapped: a Hugging Face folder or a GGUF file. Any number of models share it.

    process  what is done to the weights, as TransformerLens does it: "tl", or some of "fold_ln",
             "center_writing_weights", "center_unembed", "fold_value_biases" with commas between
    """

    _close = lib.qsae_weights_close

    def __init__(self, ctx: Context, path: Path, process: str | None = None) -> None:
        super().__init__()
        self._ctx = ctx
        lib.qsae_weights_open(ctx.pointer, path_bytes(path), byref(self._handle))
        if process is not None:
            stored, self._handle = self._handle, c_void_p()
            try:
                lib.qsae_weights_process(stored, string_bytes(process, "process"),
                                         byref(self._handle))
            finally:
                lib.qsae_weights_close(byref(stored))

    def processed(self, what: str) -> Weights:
        """Processed weights of the same checkpoint."""
        out = Weights.__new__(Weights)
        Handle.__init__(out)
        out._ctx = self._ctx
        lib.qsae_weights_process(self.pointer, string_bytes(what, "what"), byref(out._handle))
        return out

    @property
    def processing(self) -> str:
        """The steps that were done: "fold_ln,center_unembed", or ""."""
        return text(lib.qsae_weights_processing(self.pointer))

    @property
    def config(self) -> dict[str, Any]:
        """What the checkpoint says of itself, as Model.config."""
        return _config(lib.qsae_weights_get_info, self.pointer)

    @property
    def hash(self) -> str:
        """XXH3-128 over configuration and tensors; the first call reads the files once."""
        info = ModelInfo()
        lib.qsae_weights_get_info(self.pointer, byref(info))
        return text(info.hash)

    def matrix(self, module: str) -> QMatrix:
        """QMatrix of a module as the checkpoint stores it, e.g. "model.layers.0.mlp.up_proj"."""
        out = QMatrix(self._ctx, "stored")
        lib.qsae_weights_matrix(self.pointer, string_bytes(module, "module"), byref(out._handle))
        return out

    def errors(self, condition: str | Quantizer | None = None,
               other: Weights | None = None) -> list[dict[str, Any]]:
        """What a condition, or another checkpoint of the same shape, does to each matrix: list of
        dicts as QMatrix.error() gives, with module and layer (-1: embedding, head)."""
        condition = getattr(condition, "spec", condition)
        spec = None if condition is None else string_bytes(condition, "condition")
        second = None if other is None else other.pointer
        out = []
        for i in range(lib.qsae_weights_matrix_count(self.pointer, second)):
            error = WeightError()
            lib.qsae_weights_error(self.pointer, second, spec, i, byref(error))
            out.append(error.as_dict())
        return out

    def save(self, folder: Path, condition: str | Quantizer | None = None, dtype: str | None = None,
             max_shard_bytes: int = 0, progress: Progress | None = None,
             cancel: CancelToken | None = None) -> None:
        """Writes the checkpoint under a condition as a Hugging Face folder: llm.int8, nf4 and fp4
        as bitsandbytes stores them, every other condition as plain weights with its values.

        folder           absent or empty
        dtype            "f32", "bf16", "f16": cast first; None = as stored
        max_shard_bytes  of one file, 0 = 5e9
        cancel           ends the call when it is set
        """
        desk = Desk(cancel)
        settings = SaveSettings(progress=desk.progress(progress), cancel=desk.token._handle)
        settings.dtype = 0 if dtype is None else dtype_number(dtype)
        settings.max_shard_bytes = max_shard_bytes
        condition = getattr(condition, "spec", condition)
        spec = None if condition is None else string_bytes(condition, "condition")
        desk.run(lib.qsae_weights_save, self.pointer, spec, path_bytes(folder), byref(settings))


def _config(get_info: Any, handle: Any) -> dict[str, Any]:
    info = ModelInfo()
    info.struct_size = ModelInfo.hash.offset  # without the hash, which reads the whole file
    get_info(handle, byref(info))
    out = info.as_dict("hash")
    out["tied"] = bool(info.tied)
    out["dtype"] = text(lib.qsae_dtype_name(info.dtype))
    return out


class Model(Handle):
    """A runnable model.

    path       a Hugging Face folder, a GGUF file, or Weights
    compute    "f32": nothing is rounded below f32; "bf16": results rounded as PyTorch does
    quantizer  condition, e.g. "nf4:block=64@skip=down_proj", or a Quantizer; None = as stored
    kv         code of the key/value cache: "q8_0" for both, or "k=q8_0,v=q4_0,sink=4"
    attn       rounding of attention in bf16: "sdpa" (default but for Gemma 2), "eager", "fp32"
    progress   callable(done, total, unit, phase) while weights are quantized
    process    weights processed first, as in Weights; path is then no Weights
    memory     "resident" (default), or "streamed": layer by layer from the files in every pass, for
               a model larger than memory; the same results

    config     dict: type, path, layers, width, vocab, heads, kv_heads, head_dim, mlp_width, window,
               max_positions, parameters, tied, bos, eos, dtype, storage
    cancel     ends the loading when it is set

    cost       dict: condition, weight_bytes, bits_per_weight, quantized_bytes, compute, ...
    """

    _close = lib.qsae_model_close

    def __init__(self, ctx: Context, path: Path | Weights, compute: str | None = None,
                 quantizer: str | Quantizer | None = None, kv: str | None = None,
                 attn: str | None = None, progress: Progress | None = None,
                 process: str | None = None, memory: str | None = None,
                 cancel: CancelToken | None = None) -> None:
        super().__init__()
        self._ctx = ctx
        if isinstance(quantizer, Quantizer):
            quantizer = quantizer.spec
        if kv is not None:
            part = kv if "=" in kv else f"k={kv},v={kv}"
            quantizer = f"{'none' if quantizer is None else quantizer}+kv:{part}"
        desk = Desk(cancel)
        settings = ModelSettings(progress=desk.progress(progress), cancel=desk.token._handle)
        settings.condition = None if quantizer is None else string_bytes(quantizer, "quantizer")
        settings.compute = choose("compute", compute, COMPUTE)
        settings.attention = choose("attn", attn, ATTENTION)
        settings.memory = choose("memory", memory, MEMORY)
        given = path if isinstance(path, Weights) else None
        if given is not None and process is not None:
            fail("QSAE_EINVAL", "process: path is Weights, which have a processing of their own")
        weights = Weights(ctx, path, process) if not isinstance(path, Weights) else path
        try:
            desk.run(lib.qsae_model_open, weights.pointer, byref(settings), byref(self._handle))
        finally:
            if given is None:
                weights.close()  # the model keeps what it needs
        self._token = desk.token
        desk.release()
        self.config = _config(lib.qsae_model_get_info, self.pointer)
        self.layers: int = self.config["layers"]
        self.width: int = self.config["width"]
        self.vocab: int = self.config["vocab"]
        cost = ModelCost()
        lib.qsae_model_get_cost(self.pointer, byref(cost))
        self.cost = cost.as_dict()
        self.cost["compute"] = _name_of(COMPUTE, cost.compute)
        self.cost["attention"] = _name_of(ATTENTION, cost.attention or ATTENTION["sdpa"])
        self.cost["batch_dependent"] = bool(cost.batch_dependent)

    @property
    def hash(self) -> str:
        """XXH3-128 of the checkpoint; the first call reads its files once."""
        info = ModelInfo()
        lib.qsae_model_get_info(self.pointer, byref(info))
        return text(info.hash)

    def forward(self, ids: Any, taps: Iterable[Key] = (), logits: bool = False,
                edits: Mapping[Any, Editor] | None = None, labels: Any = None, nll: bool = True,
                progress: Progress | None = None, cancel: CancelToken | None = None) -> Output:
        """Runs the model over one logical batch; returns Output.

        ids     [n_seq, n_tokens], or [n_tokens] for one sequence
        taps    places to record: (layer, site) with a site of self.sites, or a hook name
                ("blocks.2.hook_resid_post", "model.layers.2.self_attn.o_proj.input"); sites of no
                layer also as (-1, "embed") or "embed"
        logits  True: keep all of them
        edits   dict of place: callable(rows, info). rows is a float32 array
                [n_seq * n_tokens, columns of the site] that may be changed in place; what is
                returned instead, if not None, replaces it. Taps record edited rows. An exception
                ends the pass and is raised here.
        labels  [n_seq, n_tokens], -100 = none; None = the next token
        nll     False: leave the head out; with logits False the pass ends at the last tap
        cancel  ends the pass when it is set
        """
        ids = sequences(ids)
        shape = ids.shape
        ids = vector(ids, "ids", dtype=np.int32)
        labels = vector(labels, "labels", ids.size, np.int32)
        out = Output(np.empty(shape, np.float32) if nll else None,
                     np.empty((*shape, self.vocab), np.float32) if logits else None, {})
        desk = Desk(cancel)
        places = [self._edit(desk, key, function, shape) for key, function in (edits or {}).items()]
        places += [self._tap(desk, key, out.taps, shape) for key in taps]
        array = (Tap * max(len(places), 1))(*places)
        setup = Pass(ids=address(ids), labels=address(labels), n_seq=shape[0], n_tokens=shape[1],
                     nll=address(out.nll), logits=address(out.logits), taps=array,
                     n_taps=len(places), progress=desk.progress(progress),
                     cancel=desk.token._handle)
        with self._use() as handle:
            desk.run(lib.qsae_model_forward, handle, byref(setup))
        if out.nll is not None and labels is None:
            out.nll = out.nll[:, :-1]
        return out

    def iter_taps(self, source: Any, taps: Iterable[Key], batch: int = 4,
                  edits: Mapping[Any, Editor] | None = None,
                  cancel: CancelToken | None = None) -> Iterator[TapRows]:
        """Rows at places of the model over a whole text, one by one: an iterator of TapRows.

        source  a Corpus, an iterable of Chunk, or ids [n_seq, n_tokens]
        taps    as in forward()
        batch   sequences of a logical batch
        edits   as in forward()
        cancel  ends the pass when it is set

        The pass goes on while the next rows are asked for; it and one array of rows are all that is
        in memory. Leaving the loop ends the pass (where nothing else holds the iterator, at once;
        or close() it). Until then the model itself raises Error (QSAE_EBUSY), while SAEs and
        metrics of the same context may be used. Rows come batch by batch, then in the order of the
        pass.
        """
        return stream_taps(self, source, list(taps), batch, dict(edits or {}), cancel)

    def _place(self, key: Key) -> tuple[int, int, int]:
        """(layer, site, columns) of a key."""
        layer = c_int32(-1)
        if isinstance(key, str):
            site = lib.qsae_model_site(self.pointer, string_bytes(key, "taps"), byref(layer))
        elif isinstance(key, tuple) and len(key) == 2 and isinstance(key[1], str):
            site = lib.qsae_model_site(self.pointer, string_bytes(key[1], "site"), None)
            layer.value = count("layer", key[0], -1, 2**31 - 1)
        else:
            fail("QSAE_EINVAL", f"{key!r}: expected (layer, site) or a hook name")
        if not site:
            fail("QSAE_EUNSUPPORTED", f"{key!r}: no such place in this model; expected (layer, "
                                      f"site), site one of {', '.join(self.sites)}, or a hook name")
        if isinstance(key, str) and layer.value < 0:
            fail("QSAE_EINVAL", f"{key!r}: expected (layer, {key!r}), or a name with a layer")
        columns = lib.qsae_model_site_width_at(self.pointer, site, layer.value)
        return layer.value, site, columns

    @property
    def sites(self) -> dict[str, int]:
        """Names of the places of this model and their columns (of layer 0): {"resid_post": width,
        ...}."""
        numbers = [n for name, n in CONSTANTS.items() if name.startswith("QSAE_SITE_")]
        widths = {text(lib.qsae_site_name(n)): lib.qsae_model_site_width(self.pointer, n)
                  for n in numbers}
        return {name: width for name, width in widths.items() if width}

    def _tap(self, desk: Desk, key: Key, taps: dict[Any, Floats], shape: tuple[int, ...]) -> Tap:
        layer, site, columns = self._place(key)
        room = taps[key] = np.empty((*shape, columns), np.float32)

        def observe(_cookie: Any, _layer: int, _site: int, rows: Any) -> int:
            return desk.guard(lambda: np.copyto(room, view(rows).reshape(room.shape)))
        return Tap(layer=layer, site=site, observe=OBSERVER(observe))

    def _edit(self, desk: Desk, key: Key, function: Editor, shape: tuple[int, ...]) -> Tap:
        layer, site, columns = self._place(key)
        info = EditInfo(layer, text(lib.qsae_site_name(site)), (*shape, columns))

        def apply(rows: Any) -> None:
            # A copy, so that rows an editor keeps never become a view of freed memory.
            mine = view(rows).copy()
            result = function(mine, info)
            result = mine if result is None else widened(as_array(result, f"edit of {key!r}"))
            if result.size != mine.size or result.shape[-1:] != mine.shape[-1:]:
                fail("QSAE_EINVAL", f"edit of {key!r}: expected rows of shape {mine.shape}, found "
                                    f"{result.shape}")
            np.copyto(view(rows), result.reshape(mine.shape), casting="same_kind")

        def edit(_cookie: Any, _layer: int, _site: int, rows: Any) -> int:
            return desk.guard(lambda: desk.ask(apply, rows))
        return Tap(layer=layer, site=site, edit=OBSERVER(edit))


def sequences(ids: Any) -> Array:
    """Ids as [n_seq, n_tokens]."""
    array = as_array(ids, "ids")
    if array.ndim == 1:
        array = array[np.newaxis]
    if array.ndim != 2:
        fail("QSAE_EINVAL", f"ids: expected [n_seq, n_tokens], found {array.ndim} axes")
    return array


def view(rows: Any) -> Floats:
    """C memory of a callback's rows as an array [n_rows, n_cols]."""
    r = rows.contents
    n, cols, stride = r.n_rows, r.n_cols, r.row_stride
    if n == 0 or cols == 0:
        return np.empty((n, cols), np.float32)
    flat = np.ctypeslib.as_array(cast(r.data, POINTER(c_float)), ((n - 1) * stride + cols,))
    return np.lib.stride_tricks.as_strided(flat, (n, cols), (4 * stride, 4))
