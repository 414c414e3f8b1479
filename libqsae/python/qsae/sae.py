# SPDX-License-Identifier: BSD-2-Clause
"""SAE: sparse autoencoders on arrays."""

from ctypes import byref, c_int64

import numpy as np

from ._arrays import Sparse, address, dtype_number, empty, matrix, vector
from ._handle import Desk, Handle
from ._lib import Error, choose, count, fail, lib, path_bytes, string_bytes
from ._structs import CONSTANTS, FeatureEdit, SaeInfo, SaeSettings

_OPERATIONS = {name: CONSTANTS["QSAE_FEATURE_" + name.upper()] for name in ("set", "add", "scale")}


DTYPES = ("f32", "f16", "bf16", "i8")


class SAE(Handle):
    """A sparse autoencoder: the folder or file of any format of doc/saes.md.

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

    _close = lib.qsae_sae_close

    def __init__(self, ctx, path, dtype=None, prefix=0, *, scale=0, layer=None, activation=None,
                 center_input=0):
        super().__init__()
        self._ctx = ctx
        desk = Desk()
        settings = SaeSettings(cancel=desk.token._handle)
        settings.dtype = 0 if dtype is None else dtype_number(dtype, DTYPES)
        settings.prefix = prefix
        settings.scale, settings.center_input = scale, center_input
        settings.layer = None if layer is None else str(layer).encode()
        settings.activation = None if activation is None else activation.encode()
        desk.run(lib.qsae_sae_open, ctx.pointer, path_bytes(path), byref(settings),
                 byref(self._handle))
        self._token = desk.token  # the handle may look at it as long as it lives
        self._describe()

    def _describe(self):
        info = SaeInfo()
        lib.qsae_sae_get_info(self.pointer, byref(info))
        self.info = info.as_dict("widths", "n_widths")
        self.info["widths"] = self.widths = tuple(info.widths[:info.n_widths])
        for name in ("width", "width_out", "features", "architecture", "hook", "state_size"):
            setattr(self, name, self.info[name])
        self._per_row = 64  # entries expected per row

    @property
    def prefix(self):
        return self._info().prefix

    @prefix.setter
    def prefix(self, value):
        with self._use() as handle:
            lib.qsae_sae_set_prefix(handle, value)

    @property
    def zero_rows(self):
        """Rows of norm 0 that constant_norm_rescale has left alone so far."""
        return self._info().zero_rows

    def _info(self):
        info = SaeInfo()
        with self._use() as handle:
            lib.qsae_sae_get_info(handle, byref(info))
        return info

    def _state(self, n, state=None):
        if not self.state_size:
            return None
        return np.empty((n, self.state_size), np.float32) if state is None else \
            vector(state, "state", n * self.state_size)

    def encode(self, x, return_state=False):
        """Activations, float32 [..., features]. return_state: also the state that decode() needs
        for SAEs with state_size > 0 (None for others)."""
        rows = matrix(x, "x")
        acts, state = empty(rows.lead, self.features), self._state(len(rows.array))
        with self._use() as handle:
            lib.qsae_sae_encode(handle, rows.ref, acts.ref, address(state))
        return (acts.shaped(), state) if return_state else acts.shaped()

    def encode_sparse(self, x):
        """Activations as Sparse (indptr, indices, values); rows of x in order. Its state member is
        what decode() needs."""
        rows = matrix(x, "x")
        n = len(rows.array)
        indptr, nnz, state = np.empty(n + 1, np.int64), c_int64(), self._state(n)
        capacity = n * self._per_row
        with self._use() as handle:
            while True:
                indices = np.empty(capacity, np.int32)
                values = np.empty(capacity, np.float32)
                try:
                    lib.qsae_sae_encode_sparse(handle, rows.ref, address(indptr), address(indices),
                                               address(values), capacity, address(state),
                                               byref(nnz))
                    break
                except Error as error:
                    if error.name != "QSAE_ESPACE" or nnz.value <= capacity:
                        raise
                    capacity = nnz.value
        self._per_row = max(self._per_row, -(-5 * nnz.value // (4 * max(n, 1))))
        return Sparse(indptr, indices[:nnz.value].copy(), values[:nnz.value].copy(), self.features,
                      state)

    def decode(self, acts, state=None):
        """Rows of activations: dense [..., features] or Sparse; float32 [..., width_out], without
        the skip connection. state: from encode(x, return_state=True); a Sparse brings its own."""
        if isinstance(acts, tuple):
            acts = Sparse(*acts, self.features)
        if isinstance(acts, Sparse):
            return self._decode_sparse(acts, acts.state if state is None else state)
        rows = matrix(acts, "acts", ("F32",))
        y = empty(rows.lead, self.width_out)
        state = self._given_state(len(rows.array), state)
        with self._use() as handle:
            lib.qsae_sae_decode(handle, rows.ref, address(state), y.ref)
        return y.shaped()

    def _given_state(self, n, state):
        if not self.state_size:
            return None
        if state is None:
            fail("QSAE_EINVAL", "decode: this SAE normalises its input "
                                f"({self.info['normalize']}); pass the state of "
                                "encode(x, return_state=True), or use reconstruct(x)")
        return self._state(n, state)

    def _decode_sparse(self, acts, state):
        y = empty((len(acts),), self.width_out)
        state = self._given_state(len(acts), state)
        with self._use() as handle:
            lib.qsae_sae_decode_sparse(handle, len(acts), address(acts.indptr),
                                       address(acts.indices), address(acts.values), address(state),
                                       y.ref)
        return y.array

    def reconstruct(self, x):
        """The whole module: decode(encode(x)), normalisation and skip connection included."""
        rows = matrix(x, "x")
        y = empty(rows.lead, self.width_out)
        with self._use() as handle:
            lib.qsae_sae_reconstruct(handle, rows.ref, y.ref)
        return y.shaped()

    def geometry(self, name):
        """A figure of the weights of each feature, float64 [features]: "encoder_norm",
        "decoder_norm", "encoder_bias", "encoder_decoder_cosine", or the largest cosine to another
        feature, "encoder_max_cosine" and "decoder_max_cosine"; NaN where a vector is zero."""
        out = np.empty(self.features, np.float64)
        with self._use() as handle:
            lib.qsae_sae_features(handle, string_bytes(name, "name"), address(out), len(out))
        return out

    def intervene(self, x, edits, keep_error=True, target=None):
        """Rows of x with features edited, to be put back into the model by an editor; float32.

        edits       {feature: value} sets activations (0 ablates); or a list of (feature, operation,
                    value) with "set", "add" (steers) or "scale", those of a feature in their order
        keep_error  what the SAE does not explain stays: rows no edit changes are x bit for bit;
                    False: what reconstruct() would return for the edited activations
        target      of a transcoder whose error is kept: the rows at its output, which are returned
                    with what the edits change
        """
        if isinstance(edits, dict):
            edits = [(feature, "set", value) for feature, value in edits.items()]
        edits = list(edits)
        array = (FeatureEdit * max(len(edits), 1))()
        for i, (feature, operation, value) in enumerate(edits):
            array[i] = FeatureEdit(feature=count("feature", feature),
                                   operation=choose("operation", operation, _OPERATIONS),
                                   value=float(value))
        rows = matrix(x, "x")
        y = empty(rows.lead, self.width_out)
        keep = int(bool(keep_error))
        if keep and target is not None:
            target = np.asarray(target)
            if target.shape != rows.lead + (self.width_out,):
                fail("QSAE_EINVAL", f"target: expected shape {rows.lead + (self.width_out,)}, found "
                                    f"{target.shape}")
            y.array[:] = target.reshape(y.array.shape)
            keep = 2 if self.info["transcoder"] else 1
        with self._use() as handle:
            lib.qsae_sae_intervene(handle, rows.ref, array, len(edits), keep, y.ref)
        return y.shaped()
