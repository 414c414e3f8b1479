# SPDX-License-Identifier: BSD-2-Clause
"""SAE: sparse autoencoders on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ctypes import byref, c_int64
from typing import Any, Callable

import numpy as np

from ._arrays import (
    Array,
    Doubles,
    Floats,
    Sparse,
    address,
    dtype_number,
    empty,
    matrix,
    sparse,
    vector,
    widened,
)
from ._dlpack import as_array
from ._handle import CancelToken, Desk, Handle
from ._lib import Error, choose, count, fail, lib, path_bytes, string_bytes
from ._structs import CONSTANTS, FeatureEdit, SaeInfo, SaeSettings
from .context import Context
from .sources import is_saelens, sae_source

_OPERATIONS = {name: CONSTANTS["QSAE_FEATURE_" + name.upper()] for name in ("set", "add", "scale")}


DTYPES = ("f32", "f16", "bf16", "i8")
# Multiplications above which a call waits in a way that Ctrl-C can interrupt; some 10 ms.
_LONG = 1 << 28


class SAE(Handle):
    """A sparse autoencoder: the folder or file of any format of doc/saes.md, or a SAELens module.

    A SAELens module (SAE, Transcoder, a TrainingSAE as it infers) is written to a temporary folder
    of this user's that is gone when it is open; later changes of the module do not reach this.

    scale, layer, activation, center_input: what the files do not say, see qsae_sae_settings; layer
    is "5" (or "5:7"), which may also stand behind the path as "#5".

    dtype         None = as stored, in f32; "bf16", "f16": weights rounded to it first; "i8": int8
                  codes with a scale for each feature
    width         of its input; width_out of its output
    features      number of features
    architecture  "standard", "jumprelu", "topk", ...
    hook          hook name as the files give it, "" if they do not
    state_size    floats per row that decode needs from encode (input normalisation), often 0
    widths        of a matryoshka SAE, ascending; else ()
    prefix        0, or decoding adds features below it only (may be set at any time)
    info          dict of all that is known, with k, normalize, hash, ...

    x is any array [..., width] of float32, float16 or bfloat16 (see _arrays); other types become
    float32.
    """

    _close: Any = lib.qsae_sae_close

    width: int
    width_out: int
    features: int
    architecture: str
    hook: str
    state_size: int

    def __init__(self, ctx: Context, path: Any, dtype: str | None = None, prefix: int = 0, *,
                 scale: float = 0, layer: str | int | None = None, activation: str | None = None,
                 center_input: int = 0, cancel: CancelToken | None = None) -> None:
        super().__init__()
        self._ctx = ctx
        desk = Desk(cancel)
        settings = SaeSettings(cancel=desk.token._handle)
        settings.dtype = 0 if dtype is None else dtype_number(dtype, DTYPES)
        settings.prefix = prefix
        settings.scale, settings.center_input = scale, center_input
        settings.layer = None if layer is None else str(layer).encode()
        settings.activation = None if activation is None else activation.encode()
        with sae_source(path) as folder:
            desk.run(lib.qsae_sae_open, ctx.pointer, path_bytes(folder), byref(settings),
                     byref(self._handle))
            self._token = desk.token  # the handle looks at it as long as it lives
            desk.release()
            self._describe()
        if is_saelens(path):
            self.info["path"] = f"<{type(path).__name__}>"

    def _describe(self) -> None:
        info = SaeInfo()
        lib.qsae_sae_get_info(self.pointer, byref(info))
        self.info = info.as_dict("widths", "n_widths")
        self.info["widths"] = self.widths = tuple(info.widths[:info.n_widths])
        for name in ("width", "width_out", "features", "architecture", "hook", "state_size"):
            setattr(self, name, self.info[name])
        self._per_row = 64  # entries expected per row

    def _run(self, cancel: CancelToken | None, n_rows: int, call: Callable[..., Any],
             *arguments: Any) -> None:
        """call(*arguments), which may be long; the handle is in use."""
        work = n_rows * self.features * max(self.width, self.width_out)
        lib.qsae_cancel_token_reset(self._token.pointer)  # the handle's own
        if cancel is None and work < _LONG:
            call(*arguments)
            return
        desk = Desk(cancel, self._token)
        try:
            desk.run(call, *arguments)
        finally:
            desk.release()

    @property
    def prefix(self) -> int:
        """Decoding adds features below it only; 0 = all."""
        return int(self._info().prefix)

    @prefix.setter
    def prefix(self, value: int) -> None:
        with self._use() as handle:
            lib.qsae_sae_set_prefix(handle, value)

    @property
    def zero_rows(self) -> int:
        """Rows of norm 0 that constant_norm_rescale has left alone so far."""
        return int(self._info().zero_rows)

    def _info(self) -> SaeInfo:
        info = SaeInfo()
        with self._use() as handle:
            lib.qsae_sae_get_info(handle, byref(info))
        return info

    def _state(self, n: int, state: Any = None) -> Array | None:
        if not self.state_size:
            return None
        return np.empty((n, self.state_size), np.float32) if state is None else \
            vector(state, "state", n * self.state_size)

    def encode(self, x: Any, return_state: bool = False, cancel: CancelToken | None = None) -> Any:
        """Activations, float32 [..., features].

        return_state  True: a tuple of them and the state that decode() needs for SAEs with
                      state_size > 0 (None for others)
        cancel        ends the call when it is set; Ctrl-C does too
        """
        rows = matrix(x, "x")
        acts, state = empty(rows.lead, self.features), self._state(len(rows.array))
        with self._use() as handle:
            self._run(cancel, len(rows.array), lib.qsae_sae_encode, handle, rows.ref, acts.ref,
                      address(state))
        return (acts.shaped(), state) if return_state else acts.shaped()

    def encode_sparse(self, x: Any, cancel: CancelToken | None = None) -> Sparse:
        """Activations as Sparse (indptr, indices, values); rows of x in order. Its state member is
        what decode() needs. cancel: ends the call when it is set; Ctrl-C does too."""
        rows = matrix(x, "x")
        n = len(rows.array)
        indptr, nnz, state = np.empty(n + 1, np.int64), c_int64(), self._state(n)
        capacity = n * self._per_row
        with self._use() as handle:
            while True:
                indices = np.empty(capacity, np.int32)
                values = np.empty(capacity, np.float32)
                try:
                    self._run(cancel, n, lib.qsae_sae_encode_sparse, handle, rows.ref,
                              address(indptr), address(indices), address(values), capacity,
                              address(state), byref(nnz))
                    break
                except Error as error:
                    if error.name != "QSAE_ESPACE" or nnz.value <= capacity:
                        raise
                    capacity = nnz.value
        self._per_row = max(self._per_row, -(-5 * nnz.value // (4 * max(n, 1))))
        return Sparse(indptr, indices[:nnz.value].copy(), values[:nnz.value].copy(), self.features,
                      state)

    def decode(self, acts: Any, state: Any = None) -> Floats:
        """Rows of activations: dense [..., features] or Sparse; float32 [..., width_out], without
        the skip connection. state: from encode(x, return_state=True); a Sparse brings its own."""
        if isinstance(acts, tuple):
            acts = sparse(acts, "acts", self.features)
        if isinstance(acts, Sparse):
            return self._decode_sparse(acts, acts.state if state is None else state)
        rows = matrix(acts, "acts", ("F32",))
        y = empty(rows.lead, self.width_out)
        state = self._given_state(len(rows.array), state)
        with self._use() as handle:
            self._run(None, len(rows.array), lib.qsae_sae_decode, handle, rows.ref,
                      address(state), y.ref)
        return y.shaped()

    def _given_state(self, n: int, state: Any) -> Array | None:
        if not self.state_size:
            return None
        if state is None:
            fail("QSAE_EINVAL", "decode: this SAE normalises its input "
                                f"({self.info['normalize']}); pass the state of "
                                "encode(x, return_state=True), or use reconstruct(x)")
        return self._state(n, state)

    def _decode_sparse(self, acts: Sparse, state: Any) -> Floats:
        y = empty((len(acts),), self.width_out)
        state = self._given_state(len(acts), state)
        with self._use() as handle:
            self._run(None, len(acts), lib.qsae_sae_decode_sparse, handle, len(acts),
                      address(acts.indptr), address(acts.indices), address(acts.values),
                      address(state), y.ref)
        return y.array

    def reconstruct(self, x: Any, cancel: CancelToken | None = None) -> Floats:
        """The whole module: decode(encode(x)), normalisation and skip connection included.

        x       [..., width]; the result is float32 [..., width_out]
        cancel  ends the call when it is set; Ctrl-C does too
        """
        rows = matrix(x, "x")
        y = empty(rows.lead, self.width_out)
        with self._use() as handle:
            self._run(cancel, len(rows.array), lib.qsae_sae_reconstruct, handle, rows.ref, y.ref)
        return y.shaped()

    def geometry(self, name: str) -> Doubles:
        """A figure of the weights of each feature, float64 [features]: "encoder_norm",
        "decoder_norm", "encoder_bias", "encoder_decoder_cosine", or the largest cosine to another
        feature, "encoder_max_cosine" and "decoder_max_cosine"; NaN where a vector is zero."""
        out = np.empty(self.features, np.float64)
        with self._use() as handle:
            lib.qsae_sae_features(handle, string_bytes(name, "name"), address(out), len(out))
        return out

    def intervene(self, x: Any, edits: Mapping[int, float] | Iterable[tuple[int, str, float]],
                  keep_error: bool = True, target: Any = None) -> Floats:
        """Rows of x with features edited, to be put back into the model by an editor; float32.

        edits       {feature: value} sets activations (0 ablates); or a list of (feature, operation,
                    value) with "set", "add" (steers) or "scale", those of a feature in their order
        keep_error  what the SAE does not explain stays: rows no edit changes are x bit for bit;
                    False: what reconstruct() would return for the edited activations
        target      of a transcoder whose error is kept: the rows at its output, which are returned
                    with what the edits change
        """
        if isinstance(edits, Mapping):
            edits = [(feature, "set", value) for feature, value in edits.items()]
        listed = list(edits)
        array = (FeatureEdit * max(len(listed), 1))()
        for i, (feature, operation, value) in enumerate(listed):
            array[i] = FeatureEdit(feature=count("feature", feature),
                                   operation=choose("operation", operation, _OPERATIONS),
                                   value=float(value))
        rows = matrix(x, "x")
        y = empty(rows.lead, self.width_out)
        keep = int(bool(keep_error))
        if keep and target is not None:
            target = widened(as_array(target, "target"))
            if target.shape != (*rows.lead, self.width_out):
                fail("QSAE_EINVAL", f"target: expected shape {(*rows.lead, self.width_out)}, found "
                                    f"{target.shape}")
            y.array[:] = target.reshape(y.array.shape)
            keep = 2 if self.info["transcoder"] else 1
        with self._use() as handle:
            self._run(None, len(rows.array), lib.qsae_sae_intervene, handle, rows.ref, array,
                      len(listed), keep, y.ref)
        return y.shaped()
