# SPDX-License-Identifier: BSD-2-Clause
"""Zstandard streams, by whichever of Python's modules or the program zstd is there."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import IO, Any, Callable, NoReturn, Optional

from . import _lib

_fail: Callable[[str, str], NoReturn] = _lib.fail

# Python 3.14's own, its backport, the older binding.
_MODULES = ("compression.zstd", "backports.zstd", "zstandard")


def _module() -> Optional[Any]:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _program(path: str) -> str:
    found = shutil.which("zstd")
    if found is None:
        _fail("QSAE_EUNSUPPORTED", f"{path}: expected a way to read and write Zstandard: Python "
              "3.14, the package backports.zstd or zstandard, or the program zstd; found none "
              "(python3 -m pip install zstandard)")
    return found


@contextlib.contextmanager
def _command(path: str, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The program zstd, whose failure is the caller's."""
    process = subprocess.Popen(pipes.pop("command"), stderr=subprocess.PIPE, **pipes)
    try:
        yield process
    except BaseException as error:
        process.kill()
        process.communicate()
        if not isinstance(error, BrokenPipeError):
            raise
        _fail("QSAE_EIO", f"{path}: zstd ended early")
    complaint = process.communicate()[1].decode("utf-8", "replace").strip()
    if process.returncode != 0:
        _fail("QSAE_EFORMAT", f"{path}: expected Zstandard data, found: {complaint}")


class _Frames(io.RawIOBase):
    """Frames in a row, by the package zstandard, whose own reader takes a cut one for a whole."""

    def __init__(self, module: Any, file: IO[bytes]) -> None:
        self._new = module.ZstdDecompressor().decompressobj
        self._file = file
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(1 << 16)
            if not data:
                if self._frame is not None:
                    raise EOFError("the last frame ends early")
                return 0
            self._frame = self._frame or self._new()
            self._ready = self._frame.decompress(data)
            if self._frame.eof:
                self._file.seek(-len(self._frame.unused_data), os.SEEK_CUR)
                self._frame = None
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n


@contextlib.contextmanager
def reader(path: str) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a file; several frames in a row are one stream."""
    module = _module()
    if module is None:
        command = [_program(path), "-d", "-q", "-c", "--", path]
        with _command(path, command=command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            yield process.stdout
            if process.stdout.read(1):  # a caller who had enough is no error
                process.stdout.read()
        return
    try:
        with open(path, "rb") as file:
            if hasattr(module, "ZstdFile"):
                with module.ZstdFile(file, "rb") as stream:
                    yield stream
            else:
                yield io.BufferedReader(_Frames(module, file), 1 << 20)
    except (getattr(module, "ZstdError", EOFError), EOFError) as error:
        _fail("QSAE_EFORMAT", f"{path}: expected Zstandard data, found: {error}")


@contextlib.contextmanager
def writer(file: IO[bytes], path: str, level: int) -> Iterator[IO[bytes]]:
    """Compresses what is written into an open file, which stays open; path is for messages."""
    module = _module()
    if module is None:
        command = [_program(path), "-q", "-c", f"-{level}"]
        with _command(path, command=command, stdin=subprocess.PIPE, stdout=file) as process:
            assert process.stdin is not None
            yield process.stdin
            process.stdin.flush()
        return
    if hasattr(module, "ZstdFile"):
        with module.ZstdFile(file, "wb", level=level) as stream:
            yield stream
    else:
        with module.ZstdCompressor(level=level).stream_writer(file, closefd=False) as stream:
            yield stream
