# SPDX-License-Identifier: BSD-2-Clause
"""Quantizer and QMatrix: weight codecs on arrays."""

from __future__ import annotations

from ctypes import byref
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import (
    Array,
    Floats,
    address,
    copy_out,
    dtype_number,
    empty,
    from_bf16,
    matrix,
    output,
    vector,
)
from ._handle import Handle
from ._lib import count, fail, lib, string_bytes, text
from ._structs import Field, WeightError
from .context import Context


class Quantizer(Handle):
    """One weight codec, e.g. Quantizer(ctx, "nf4:block=64,double=1").

    spec    canonical form, every option listed
    """

    _close = lib.qsae_quantizer_close

    def __init__(self, ctx: Context, spec: str) -> None:
        super().__init__()
        self._ctx = ctx
        lib.qsae_quantizer_open(ctx.pointer, string_bytes(spec, "spec"), byref(self._handle))
        self.spec = text(lib.qsae_quantizer_spec(self.pointer))

    def encode(self, weight: Any, heads: int = 0, strict: bool = False) -> QMatrix:
        """QMatrix of a weight [out, in].

        heads   for rtn:axis=tl: number of heads of a Q, K or V projection, 0 for every other matrix
        strict  NaN or infinity raises instead of being encoded
        """
        rows = matrix(weight, "weight")
        if len(rows.lead) != 1:
            fail("QSAE_EINVAL", f"weight: expected [out, in], found {len(rows.lead) + 1} axes")
        out = QMatrix(self._ctx, self.spec)
        lib.qsae_quantizer_encode(self.pointer, rows.ref, count("heads", heads), bool(strict),
                                  byref(out._handle))
        return out


class QMatrix(Handle):
    """An encoded weight [out, in]; made by Quantizer.encode(), Weights.matrix() or
    Tensors.matrix()."""

    _close = lib.qsae_qmatrix_close

    def __init__(self, ctx: Context, spec: str) -> None:
        super().__init__()
        self._ctx = ctx
        self.spec = spec

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return lib.qsae_qmatrix_rows(self.pointer), lib.qsae_qmatrix_cols(self.pointer)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return int(lib.qsae_qmatrix_bytes(self.pointer))

    def decode(self, dtype: str = "f32") -> Array:
        """The matrix as "f32", "f16" or "bf16" (uint16 bit patterns)."""
        out = output(*self.shape, dtype)
        lib.qsae_qmatrix_decode(self.pointer, out.ref)
        return out.array

    def fields(self) -> dict[str, Array]:
        """The raw arrays by the names their format gives them; BF16 ones as uint16 bit patterns."""
        out = {}
        for i in range(lib.qsae_qmatrix_field_count(self.pointer)):
            field = Field()
            lib.qsae_qmatrix_field(self.pointer, i, byref(field))
            out[text(field.name)] = copy_out(field.data, tuple(field.shape[:field.rank]),
                                             field.dtype)
        return out

    def error(self, weight: Any) -> dict[str, Any]:
        """How far the decoded matrix is from the weight [out, in]: dict of frobenius_relative,
        sqnr_db, max_abs, mean_abs, weight_norm, zeros, bits_per_weight, bytes, nonfinite, ..."""
        rows, out = matrix(weight, "weight"), WeightError()
        lib.qsae_qmatrix_error(self.pointer, rows.ref, byref(out))
        return out.as_dict("module", "layer")

    def linear(self, x: Any, bias: Any = None, dtype: str = "f32") -> Floats:
        """Y = x W^T + bias as the codec defines it, float32 [..., out].

        x      [..., in]; all rows are one call of the layer (LLM.int8 takes its outlier columns
               from them)
        dtype  of the activations: x must hold values of it, results are rounded to it
        """
        rows = matrix(x, "x", ("F32", "BF16"))
        if rows.array.dtype != np.float32:
            rows = matrix(from_bf16(rows.shaped()), "x")
        n_out, _ = self.shape
        y = empty(rows.lead, n_out)
        bias = vector(bias, "bias", n_out)
        lib.qsae_qmatrix_linear(self.pointer, rows.ref, address(bias), dtype_number(dtype), y.ref)
        return y.shaped()


def int8_quantize(ctx: Context, x: Any, threshold: float = 0.0
                  ) -> tuple[npt.NDArray[np.int8], Floats, npt.NDArray[np.bool_]]:
    """First phase of LLM.int8 on activations [n, cols] (cast to float16 first): codes int8
    [n, cols], row maxima [n], outlier columns as a bool array [cols]."""
    rows = matrix(x, "x")
    codes = np.empty(rows.array.shape, np.int8)
    scales = np.empty(len(codes), np.float32)
    outlier = np.zeros(rows.struct.n_cols, np.uint8)
    lib.qsae_int8_quantize(ctx.pointer, rows.ref, threshold, address(codes), address(scales),
                           address(outlier))
    return codes.reshape(rows.lead + codes.shape[1:]), scales.reshape(rows.lead), outlier != 0
