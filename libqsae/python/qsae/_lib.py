# SPDX-License-Identifier: BSD-2-Clause
"""Finds and loads the shared library, and turns its statuses into exceptions."""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from . import _structs


class Error(Exception):
    """A call of the library failed.

    status   negative number
    name     e.g. "QSAE_EINVAL"
    message  what, where, expected and found
    """

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(status, name, message)
        self.status = status
        self.name = name
        self.message = message

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def _candidates() -> Iterator[str]:
    """Paths and names to try, best first."""
    here = os.path.dirname(os.path.abspath(__file__))
    named = os.environ.get("QSAE_LIBRARY")
    if named:
        yield named
        return  # what the user names is used or fails, never replaced
    for name in ("libqsae.so.0", "libqsae.so", "libqsae.dylib"):
        yield os.path.join(here, name)
    try:
        from ._installed import LIBRARY  # written by meson install
        yield LIBRARY
    except ImportError:
        pass
    # A checkout: the newest build folder beside libqsae/.
    root = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    if os.path.exists(os.path.join(root, "include", "qsae", "qsae.h")):
        built = glob.glob(os.path.join(glob.escape(root), "build*", "libqsae", "libqsae.so"))
        yield from sorted(built, key=os.path.getmtime, reverse=True)
    found = ctypes.util.find_library("qsae")
    if found:
        yield found
    yield "libqsae.so.0"


def _load() -> tuple[str, ctypes.CDLL]:
    tried = []
    for path in _candidates():
        if os.path.isabs(path) and not os.path.exists(path) and "QSAE_LIBRARY" not in os.environ:
            tried.append(path)
            continue
        try:
            return path, ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
    raise ImportError("qsae: the shared library was not found; set QSAE_LIBRARY to its path. "
                      "Tried: " + "; ".join(tried))


def _check(status: int, function: Any, _arguments: Any) -> int:
    """Errcheck of calls that return a status; runs in the thread of the call."""
    if status != 0:
        raise Error(status, text(lib.qsae_status_name(status)), text(lib.qsae_error_message()))
    return status


def _compare_layout(path: str, library: ctypes.CDLL) -> None:
    """Refuses a library whose structs or constants are not those of _structs.

    A later one may have more members at the end of a struct, and more of everything else.
    """
    found = {}
    entry = _structs.LayoutEntry()
    for i in range(library.qsae_layout_count()):
        library.qsae_layout_get(i, ctypes.byref(entry))
        found[entry.name.decode()] = (entry.kind, entry.value, entry.size)
    for name, here in _structs.layout().items():
        there = found.get(name)
        if there is None:
            raise ImportError(f"qsae: {path} lacks {name}: it is older than this package")
        # A struct may have grown.
        if there != here and not (here[0] == _structs.LAYOUT_STRUCT and there[2] > here[2]):
            raise ImportError(
                f"qsae: {path} does not fit this package: {name}: expected (kind, value, size) "
                f"{here}, found {there}")


def _bind(path: str, library: ctypes.CDLL) -> None:
    try:
        library.qsae_version_api.restype = ctypes.c_uint32
        packed = library.qsae_version_api()
    except AttributeError:
        raise ImportError(f"qsae: {path} is not libqsae") from None
    major, minor = packed >> 16, packed >> 8 & 255
    if major != _structs.API_MAJOR or minor < _structs.API_MINOR:
        raise ImportError(f"qsae: {path} has API {major}.{minor}, this package needs "
                          f"{_structs.API_MAJOR}.{_structs.API_MINOR} or a later minor version")
    for name, (result, *parameters) in _structs.PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f"qsae: {path} lacks {name}: it is older than this package") from None
        function.argtypes = parameters
        function.restype = ctypes.c_int32 if result is _structs.Status else result
        if result is _structs.Status:
            function.errcheck = _check
    _compare_layout(path, library)


def text(value: bytes | None) -> str:
    """Str of a C string."""
    return value.decode("utf-8", "replace") if value is not None else ""


def version() -> str:
    """Release of the library, with its revision if built from a checkout."""
    return text(lib.qsae_version())


def path_bytes(path: str | bytes | os.PathLike[Any]) -> bytes:
    """A file name as the C library takes it."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        fail("QSAE_EINVAL", f"{path!r}: a path with a NUL byte")
    return encoded


def string_bytes(value: Any, what: str) -> bytes:
    """A NUL-terminated UTF-8 argument."""
    if not isinstance(value, str):
        fail("QSAE_EINVAL", f"{what}: expected a string, found {type(value).__name__}")
    encoded = value.encode("utf-8", "surrogatepass")
    if b"\0" in encoded:
        fail("QSAE_EINVAL", f"{what}: {value!r} has a NUL character")
    return encoded


LIBRARY_PATH, lib = _load()
_bind(LIBRARY_PATH, lib)
STATUS: dict[str, int] = {text(lib.qsae_status_name(-i)): -i
                          for i in range(lib.qsae_status_count())}


def fail(name: str, message: str) -> NoReturn:
    """Raises Error as the library would."""
    raise Error(STATUS[name], name, message)


def choose(what: str, value: Any, names: Mapping[str, int]) -> int:
    """Number of a name; None is the default, 0."""
    if value is None:
        return 0
    if value not in names:
        fail("QSAE_EINVAL", f"{what}: {value!r} is unknown; expected {', '.join(map(str, names))}")
    return names[value]


def count(what: str, value: Any, low: int = 0, high: int = 2**63 - 1) -> int:
    """An integer in range (ctypes would cut it)."""
    try:
        number = int(value.__index__())
    except AttributeError:
        fail("QSAE_EINVAL", f"{what}: expected an integer, found {type(value).__name__}")
    if not low <= number <= high:
        fail("QSAE_EINVAL", f"{what}: expected {low}..{high}, found {number}")
    return number


def choose_documents(settings: Any, where: Iterable[str],
                     documents: tuple[int | None, int | None] | None, pack: str | None) -> None:
    """Fills where, documents_from, documents_to and pack of corpus or audit settings."""
    if isinstance(where, (str, bytes)):
        fail("QSAE_EINVAL", "where: expected a list, found one string")
    strings = [string_bytes(clause, "where") for clause in where]
    settings.where = (ctypes.c_char_p * max(len(strings), 1))(*strings)
    settings.n_where = len(strings)
    first, last = (None, None) if documents is None else documents
    settings.documents_from = count("documents", 0 if first is None else first)
    settings.documents_to = 0 if last is None else count("documents", last, 1)
    if pack is not None:
        settings.pack = lib.qsae_pack_from_name(string_bytes(pack, "pack"))
        if settings.pack < 0:
            fail("QSAE_EINVAL", f"pack: {pack!r} is unknown; expected stream, tl, saelens or tl2")


def bos_policy(name: str | None) -> int:
    """Number of a BOS policy; None is the default, 0."""
    if name is None:
        return 0
    number = int(lib.qsae_bos_from_name(string_bytes(name, "bos")))
    if number < 0:
        fail("QSAE_EINVAL", f"bos: {name!r} is unknown; expected none, stream_start, doc_start, "
                            "chunk_start or chunk_replace")
    return number
