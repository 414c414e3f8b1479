# SPDX-License-Identifier: BSD-2-Clause
"""Tensors of other packages as NumPy arrays, in place: by DLPack, bfloat16 included.

The structs are those of dlpack.h (https://github.com/dmlc/dlpack), version 0.x, which every
producer still speaks when it is not asked for a later one.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from ._lib import fail

# Devices whose memory this process can read: CPU, pinned by CUDA, pinned by ROCm.
_READABLE = (1, 3, 11)
_DEVICES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda (managed)",
            14: "oneapi", 15: "webgpu", 16: "hexagon", 17: "maia"}
# (code, bits): what NumPy calls it; bfloat16 as bit patterns.
_TYPES = {(0, 8): "i1", (0, 16): "i2", (0, 32): "i4", (0, 64): "i8",
          (1, 8): "u1", (1, 32): "u4", (1, 64): "u8",
          (2, 16): "f2", (2, 32): "f4", (2, 64): "f8", (4, 16): "u2", (6, 8): "?"}


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32),
                ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
                ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


class _Lent:
    """Memory of a capsule, which lives as long as this does: the capsule's own destructor gives
    the tensor back."""

    def __init__(self, capsule: Any, interface: dict[str, Any]) -> None:
        self._capsule = capsule
        self.__array_interface__ = interface


def _device(x: Any, what: str) -> None:
    """Refuses a tensor that is not in the CPU's memory."""
    try:
        kind, number = x.__dlpack_device__()
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError) as error:
        fail("QSAE_EUNSUPPORTED", f"{what}: expected a tensor with data, found "
                                  f"{type(x).__name__}: {error}")
    if int(kind) not in _READABLE:
        name = _DEVICES.get(int(kind), f"device type {int(kind)}")
        fail("QSAE_EUNSUPPORTED", f"{what}: expected a tensor in the CPU's memory, found one on "
                                  f"{name}:{number}; copy it first (torch: x.cpu())")


def _plain(x: Any) -> Any:
    """A torch tensor without what DLPack does not carry: gradient, conjugate and negative bits."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return x
    return x.detach().resolve_conj().resolve_neg()


def from_dlpack(x: Any, what: str) -> npt.NDArray[Any]:
    """The array of an object with __dlpack__, read in place: same memory, shape and strides;
    bfloat16 as uint16 bit patterns. It must not be written to."""
    _device(x, what)
    try:
        capsule = _plain(x).__dlpack__()
        address = _capsule_pointer(capsule, b"dltensor")
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError) as error:
        fail("QSAE_EUNSUPPORTED", f"{what}: {type(x).__name__} gives no DLPack tensor: {error}")
    t = _Managed.from_address(address).tensor
    kind = _TYPES.get((t.code, t.bits)) if t.lanes == 1 else None
    if kind is None:
        fail("QSAE_EUNSUPPORTED", f"{what}: expected float16, bfloat16, float32, float64, an "
                                  f"integer or bool, found DLPack type code {t.code} of {t.bits} "
                                  f"bits x {t.lanes}")
    shape = tuple(t.shape[:t.ndim])
    size = t.bits // 8
    if 0 in shape:
        return np.empty(shape, kind)
    interface = {"version": 3, "shape": shape, "typestr": np.dtype(kind).str,
                 "data": (t.data + t.byte_offset, True)}
    if t.strides:
        interface["strides"] = tuple(size * stride for stride in t.strides[:t.ndim])
    return np.asarray(_Lent(capsule, interface))


def as_array(x: Any, what: str) -> npt.NDArray[Any]:
    """Any array: NumPy's, what NumPy reads, or a tensor that speaks DLPack (in place)."""
    if isinstance(x, np.ndarray):
        return np.asarray(x)  # of subclasses the plain array
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        return from_dlpack(x, what)
    try:
        array = np.asarray(x)
        if array.dtype.kind != "O":
            return array
        fail("QSAE_EINVAL", f"{what}: expected an array of numbers, found {type(x).__name__}")
    except (TypeError, ValueError, RuntimeError) as error:
        fail("QSAE_EINVAL", f"{what}: expected an array, found {type(x).__name__}: {error}")
