# SPDX-License-Identifier: BSD-2-Clause
"""NumPy arrays as qsae_rows and back.

bfloat16: NumPy has none, so arrays of dtype uint16 are taken as bfloat16 bit patterns, as are
arrays of ml_dtypes.bfloat16. Results asked for as "bf16" are uint16; from_bf16() gives values.
"""

import ctypes

import numpy as np

from ._lib import fail, lib, text
from ._structs import Rows, SparseRows

_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "bfloat16": "BF16",
          "uint16": "BF16"}
_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64, "I8": np.int8,
          "U8": np.uint8, "I16": np.int16, "U16": np.uint16, "I32": np.int32, "U32": np.uint32,
          "I64": np.int64, "U64": np.uint64, "BOOL": np.bool_}


def dtype_number(name, allowed=("f32", "f16", "bf16")):
    """Number of a dtype given as "f32", "bf16", ..."""
    if name not in allowed:
        fail("QSAE_EINVAL", f"dtype: {name!r} is unknown; expected {', '.join(allowed)}")
    return lib.qsae_dtype_from_name(name.upper().encode())


def to_bf16(x):
    """float32 array rounded to bfloat16 bit patterns (uint16), ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + (0x7fff + (bits >> 16 & 1))) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bf16(bits):
    """float32 values of bfloat16 bit patterns (uint16)."""
    return (np.asarray(bits).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


class Matrix:
    """Rows for one call: `struct` for C, `array` [n, cols] that it points into, `lead`, the shape
    of the original but for its last axis."""

    def __init__(self, array, lead):
        self.array = array
        self.lead = lead
        n, cols = array.shape
        stride = array.strides[0] // array.itemsize if n > 1 else cols
        self.struct = Rows(data=array.ctypes.data, n_rows=n, n_cols=cols, row_stride=stride,
                           dtype=lib.qsae_dtype_from_name(_NAMES[array.dtype.name].encode()))

    @property
    def ref(self):
        return ctypes.byref(self.struct)

    def shaped(self):
        """The array with the leading axes of the original."""
        return self.array.reshape(self.lead + self.array.shape[1:])


def matrix(x, what, allowed=("F32", "F16", "BF16")):
    """Input rows: any array with at least one axis, the last one the columns. Read in place where
    rows are whole and aligned, else copied; numbers of other types become float32."""
    x = np.asarray(x)
    if x.ndim == 0 or x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        fail("QSAE_EINVAL", f"{what}: expected an array of numbers with at least one axis, found "
                            f"{x.ndim} axes of {x.dtype}")
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    if _NAMES.get(x.dtype.name) not in allowed:
        x = x.astype(np.float32)
    lead, cols = x.shape[:-1], x.shape[-1]
    x = x.reshape(int(np.prod(lead)), cols)
    whole = cols <= 1 or x.strides[1] == x.itemsize
    spaced = len(x) <= 1 or x.strides[0] >= cols * x.itemsize and x.strides[0] % x.itemsize == 0
    if not (whole and spaced and x.flags.aligned):
        x = np.ascontiguousarray(x)
    return Matrix(x, lead)


def empty(lead, cols, dtype=np.float32):
    """Room for output rows."""
    return Matrix(np.empty((int(np.prod(lead)), cols), dtype), lead)


def output(n, cols, name):
    """Room for output rows of a dtype given by name."""
    number = dtype_number(name)
    out = empty((n,), cols, _NUMPY[name.upper()])
    out.struct.dtype = number
    return out


def vector(x, what, n=None, dtype=np.float32):
    """A contiguous flat array, or None."""
    if x is None:
        return None
    x = np.asarray(x)
    if dtype is not np.float32 and x.dtype.kind not in "iub":
        fail("QSAE_EINVAL", f"{what}: expected integers, found {x.dtype}")
    if x.dtype.kind not in "fiub":
        fail("QSAE_EINVAL", f"{what}: expected numbers, found {x.dtype}")
    if dtype is not np.float32 and x.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if x.min() < low or x.max() > high:
            fail("QSAE_EINVAL", f"{what}: {int(x.min())}..{int(x.max())} does not fit "
                                f"{low}..{high}")
    x = np.ascontiguousarray(x.reshape(-1), dtype)
    if n is not None and x.size != n:
        fail("QSAE_EINVAL", f"{what}: expected {n} elements, found {x.size}")
    return x


def address(x):
    """Address of an array's data; None stays None."""
    return None if x is None else x.ctypes.data


def copy_out(pointer, shape, dtype):
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

    def __init__(self, indptr, indices, values, features, state=None):
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
    def nnz(self):
        return self.indices.size

    def __iter__(self):
        return iter((self.indptr, self.indices, self.values))

    def __len__(self):
        return self.shape[0]

    def toarray(self):
        """Dense float32 [n, features]."""
        out = np.zeros(self.shape, np.float32)
        out[np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.indices] = self.values
        return out

    @property
    def struct(self):
        return SparseRows(n=len(self), indptr=address(self.indptr), indices=address(self.indices),
                          values=address(self.values))


def sparse(acts, what, features=0):
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
