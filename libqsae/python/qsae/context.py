# SPDX-License-Identifier: BSD-2-Clause
"""Context: what every other object is opened on."""

from __future__ import annotations

import logging
import os
import sys
from ctypes import byref
from typing import Any, Callable

from ._handle import Handle
from ._lib import choose, count, lib, path_bytes, string_bytes, text
from ._structs import CONSTANTS, LOG, ContextSettings

_LEVELS = {CONSTANTS["QSAE_LOG_ERROR"]: logging.ERROR,
           CONSTANTS["QSAE_LOG_WARNING"]: logging.WARNING,
           CONSTANTS["QSAE_LOG_INFO"]: logging.INFO, CONSTANTS["QSAE_LOG_DEBUG"]: logging.DEBUG}
_LOG = {name: CONSTANTS["QSAE_LOG_" + name.upper()]
        for name in ("none", "error", "warning", "info", "debug")}
_FILES = {"map": CONSTANTS["QSAE_FILES_MAP"], "read": CONSTANTS["QSAE_FILES_READ"]}


def _to_logging(level: int, message: str) -> None:
    logging.getLogger("qsae").log(level, message)


class Context(Handle):
    """Worker threads, kernel level, log.

    threads    as many as the process may run on if None
    cpu        highest kernel level: "c", "avx2", "avx512", "avx512bf16", "amx"; None = CPU's best
    log        callable(level, message), level as in the logging module, called from any thread; by
               default lines go to the logger "qsae"
    log_level  "none", "error", "warning" (default), "info" or "debug"
    files      "map" (default), or "read" for files that others may change while they are in use
    pin        True: each thread of the library stays on one CPU; the caller's own is never moved
    share_folder  an existing folder that only this user can write, best in /dev/shm: packed weights
               lie there, once for all processes that name it (qsae_context_settings.share_folder)
    """

    _close = lib.qsae_context_close

    def __init__(self, threads: int | None = None, cpu: str | None = None,
                 log: Callable[[int, str], Any] | None = None, log_level: str | None = None,
                 files: str | None = None, pin: bool = False,
                 share_folder: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        send = log or _to_logging

        def line(_cookie: Any, level: int, message: bytes) -> None:
            try:
                send(_LEVELS.get(level, logging.ERROR), text(message))
            except BaseException:  # nobody to raise to: the caller may be any thread
                sys.excepthook(*sys.exc_info())

        # Objects that outlive close() still log: they keep this one, hence the callback, alive.
        self._log = LOG(line)
        settings = ContextSettings(log=self._log)
        settings.threads = 0 if threads is None else count("threads", threads, 0, 2**31 - 1)
        settings.cpu = None if cpu is None else string_bytes(cpu, "cpu")
        settings.log_level = choose("log_level", log_level, _LOG)
        settings.files = choose("files", files, _FILES)
        settings.pin = 1 if pin else 0
        if share_folder is not None:
            settings.share_folder = path_bytes(share_folder)
        lib.qsae_context_open(byref(settings), byref(self._handle))

    @property
    def threads(self) -> int:
        """Number of threads, the caller's among them."""
        return int(lib.qsae_context_threads(self.pointer))

    @property
    def cpu(self) -> str:
        """Kernel level in use."""
        return text(lib.qsae_context_cpu(self.pointer))

    @property
    def gemm(self) -> str:
        """What computes f32 products."""
        return text(lib.qsae_context_gemm(self.pointer))

    @property
    def blis(self) -> str:
        """The kernel that BLIS took (cpu="avx2+blis"), or "not asked"."""
        return text(lib.qsae_context_blis(self.pointer))


def cpu_best() -> str:
    """Highest kernel level of this machine."""
    return text(lib.qsae_cpu_best())
