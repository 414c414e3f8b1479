# SPDX-License-Identifier: BSD-2-Clause
"""NumPy arrays as qsae_rows and back.

bfloat16: NumPy has none, so arrays of dtype uint16 are taken as bfloat16 bit patterns, as are
arrays of ml_dtypes.bfloat16 and tensors of that type. Results asked for as "bf16" are uint16;
from_bf16() gives values.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ._dlpack import as_array
from ._lib import fail, lib, text
from ._structs import Rows, SparseRows

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "bfloat16": "BF16",
          "uint16": "BF16"}
_NUMPY: dict[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64, "I8": np.int8,
    "U8": np.uint8, "I16": np.int16, "U16": np.uint16, "I32": np.int32, "U32": np.uint32,
    "I64": np.int64, "U64": np.uint64, "BOOL": np.bool_}


def dtype_number(name: str, allowed: Sequence[str] = ("f32", "f16", "bf16")) -> int:
    """Number of a dtype given as "f32", "bf16", ..."""
    if name not in allowed:
        fail("QSAE_EINVAL", f"dtype: {name!r} is unknown; expected {', '.join(allowed)}")
    return int(lib.qsae_dtype_from_name(name.upper().encode()))


def to_bf16(x: Any) -> npt.NDArray[np.uint16]:
    """float32 array rounded to bfloat16 bit patterns (uint16), ties to even; NaN stays NaN."""
    x = np.ascontiguousarray(as_array(x, "x"), np.float32)
    bits = x.view(np.uint32)
    rounded = (bits + (0x7fff + (bits >> 16 & 1))) >> 16
    out: npt.NDArray[np.uint16] = np.where(np.isnan(x), bits >> 16 | 0x40,
                                           rounded).astype(np.uint16)
    return out


def from_bf16(bits: Any) -> Floats:
    """float32 values of bfloat16 bit patterns (uint16, or a bfloat16 array or tensor)."""
    return (as_array(bits, "bits").view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def widened(x: Array) -> Array:
    """Values of bfloat16 bit patterns as float32; other arrays as they are."""
    return from_bf16(x) if x.dtype.name in ("uint16", "bfloat16") else x


class Matrix:
    """Rows for one call: `struct` for C, `array` [n, cols] that it points into, `lead`, the shape
    of the original but for its last axis."""

    def __init__(self, array: Array, lead: tuple[int, ...]) -> None:
        self.array = array
        self.lead = lead
        n, cols = array.shape
        stride = array.strides[0] // array.itemsize if n > 1 else cols
        self.struct = Rows(data=array.ctypes.data, n_rows=n, n_cols=cols, row_stride=stride,
                           dtype=lib.qsae_dtype_from_name(_NAMES[array.dtype.name].encode()))

    @property
    def ref(self) -> Any:
        """The struct as an argument."""
        return ctypes.byref(self.struct)

    def shaped(self) -> Array:
        """The array with the leading axes of the original."""
        return self.array.reshape(self.lead + self.array.shape[1:])


def matrix(x: Any, what: str, allowed: Sequence[str] = ("F32", "F16", "BF16")) -> Matrix:
    """Input rows: any array with at least one axis, the last one the columns. Read in place where
    rows are whole and aligned, else copied; numbers of other types become float32."""
    x = as_array(x, what)
    if x.ndim == 0 or (x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16"):
        fail("QSAE_EINVAL", f"{what}: expected an array of numbers with at least one axis, found "
                            f"{x.ndim} axes of {x.dtype}")
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    if _NAMES.get(x.dtype.name) not in allowed:
        x = widened(x).astype(np.float32)
    lead, cols = x.shape[:-1], x.shape[-1]
    x = x.reshape(int(np.prod(lead)), cols)
    whole = cols <= 1 or x.strides[1] == x.itemsize
    spaced = len(x) <= 1 or (x.strides[0] >= cols * x.itemsize and x.strides[0] % x.itemsize == 0)
    if not (whole and spaced and x.flags.aligned):
        x = x.copy(order="C")
    return Matrix(x, lead)


def empty(lead: tuple[int, ...], cols: int, dtype: Any = np.float32) -> Matrix:
    """Room for output rows."""
    return Matrix(np.empty((int(np.prod(lead)), cols), dtype), lead)


def output(n: int, cols: int, name: str) -> Matrix:
    """Room for output rows of a dtype given by name."""
    number = dtype_number(name)
    out = empty((n,), cols, _NUMPY[name.upper()])
    out.struct.dtype = number
    return out


@overload
def vector(x: None, what: str, n: int | None = None, dtype: Any = np.float32) -> None: ...
@overload
def vector(x: Any, what: str, n: int | None = None, dtype: Any = np.float32) -> Array: ...
def vector(x: Any, what: str, n: int | None = None, dtype: Any = np.float32) -> Array | None:
    """A contiguous flat array, or None."""
    if x is None:
        return None
    x = as_array(x, what)
    if dtype is np.float32:
        x = widened(x)
    if dtype is not np.float32 and x.dtype.kind not in "iub":
        fail("QSAE_EINVAL", f"{what}: expected integers, found {x.dtype}")
    if x.dtype.kind not in "fiub":
        fail("QSAE_EINVAL", f"{what}: expected numbers, found {x.dtype}")
    if dtype is not np.float32 and x.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if x.min() < low or x.max() > high:
            fail("QSAE_EINVAL", f"{what}: {int(x.min())}..{int(x.max())} does not fit "
                                f"{low}..{high}")
    flat: Array = np.ascontiguousarray(x.reshape(-1), dtype)
    if n is not None and flat.size != n:
        fail("QSAE_EINVAL", f"{what}: expected {n} elements, found {flat.size}")
    return flat


def address(x: Array | None) -> int | None:
    """Address of an array's data; None stays None."""
    return None if x is None else x.ctypes.data


def copy_out(pointer: int, shape: tuple[int, ...], dtype: int) -> Array:
    """A copy of C memory as an array; dtype is a qsae number."""
    name = text(lib.qsae_dtype_name(dtype))
    bits = lib.qsae_dtype_bits(dtype)
    kind = np.dtype(_NUMPY.get(name, np.uint8))
    if name not in _NUMPY:  # 8-bit floats and the like: their bytes
        shape = (int(np.prod(shape)) * bits // 8,)
    size = int(np.prod(shape)) * kind.itemsize
    raw = ctypes.string_at(pointer, size) if size else b""
    return np.frombuffer(raw, kind).reshape(shape).copy()


class Sparse:
    """Sparse rows in CSR form: indptr [n + 1] int64, indices [nnz] int32 ascending in a row, values
    [nnz] float32; shape (n, features). Unpacks as indptr, indices, values."""

    def __init__(self, indptr: Any, indices: Any, values: Any, features: int,
                 state: Array | None = None) -> None:
        self.indptr = vector(indptr, "indptr", dtype=np.int64)
        self.indices = vector(indices, "indices", dtype=np.int32)
        self.values = vector(values, "values", n=self.indices.size)
        if self.indptr.size == 0:
            fail("QSAE_EINVAL", "indptr: expected n + 1 elements, found 0")
        if self.indptr[0] != 0 or (np.diff(self.indptr) < 0).any() or \
                self.indptr[-1] != self.indices.size:
            fail("QSAE_EINVAL", "indptr: expected 0, ascending, "
                                f"up to the {self.indices.size} entries")
        self.shape = (self.indptr.size - 1, features)
        self.state = state

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return int(self.indices.size)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.indptr, self.indices, self.values))

    def __len__(self) -> int:
        return int(self.shape[0])

    def toarray(self) -> Floats:
        """Dense float32 [n, features]."""
        out = np.zeros(self.shape, np.float32)
        out[np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.indices] = self.values
        return out

    @property
    def struct(self) -> SparseRows:
        """The qsae_sparse_rows of these arrays."""
        return SparseRows(n=len(self), indptr=address(self.indptr), indices=address(self.indices),
                          values=address(self.values))


@overload
def sparse(acts: None, what: str, features: int = 0) -> None: ...
@overload
def sparse(acts: Any, what: str, features: int = 0) -> Sparse: ...
def sparse(acts: Any, what: str, features: int = 0) -> Sparse | None:
    """Sparse of a Sparse, of (indptr, indices, values), or of a dense array [..., features]; None
    stays None."""
    if acts is None or isinstance(acts, Sparse):
        return acts
    if isinstance(acts, tuple):
        if len(acts) != 3:
            fail("QSAE_EINVAL", f"{what}: expected (indptr, indices, values)")
        return Sparse(*acts, features)
    dense = matrix(acts, what, ("F32",)).array
    row, column = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(dense)))])
    return Sparse(indptr, column, dense[row, column], dense.shape[1])
