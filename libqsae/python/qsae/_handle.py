# SPDX-License-Identifier: BSD-2-Clause
"""What all handles share, and long calls that can be interrupted."""

import contextlib
import os
import queue
import threading
from ctypes import byref, c_void_p

from ._lib import STATUS, fail, lib
from ._structs import PROGRESS


class Handle:
    """A C handle: closed by close(), at the end of a with block, or when it is collected.

    Calls on one handle from several threads wait for each other.
    """

    _close = None  # C function
    _handle = None
    _busy = False

    def __init__(self):
        self._handle = c_void_p()
        self._lock = threading.RLock()
        self._pid = os.getpid()

    @property
    def pointer(self):
        """The C handle; raises Error if it is closed."""
        if not self._handle:
            fail("QSAE_EINVAL", f"{type(self).__name__} is closed")
        return self._handle

    @contextlib.contextmanager
    def _use(self):
        """Around a call on a handle that allows one at a time."""
        with self._lock:
            if self._busy:  # this thread, in a callback of that call
                fail("QSAE_EBUSY", f"{type(self).__name__}: a call on it is still running")
            self._busy = True
            try:
                yield self.pointer
            finally:
                self._busy = False

    @property
    def closed(self):
        return not self._handle

    def close(self):
        """Closes the handle; further use raises Error. May be called again."""
        if self._handle:
            with self._lock:
                if self._busy:
                    fail("QSAE_EBUSY", f"{type(self).__name__}: a call on it is still running")
                self._close(byref(self._handle))

    def __enter__(self):
        self.pointer  # raises if closed
        return self

    def __exit__(self, *_error):
        self.close()

    def __del__(self):
        # In a child after fork() the parent's handles are not ours to close.
        if self._handle and self._pid == os.getpid():
            try:
                self._close(byref(self._handle))
            except Exception:  # at interpreter exit parts of ctypes may be gone
                pass


class CancelToken(Handle):
    """A switch that ends long calls."""

    _close = lib.qsae_cancel_token_close

    def __init__(self):
        super().__init__()
        lib.qsae_cancel_token_open(byref(self._handle))

    def cancel(self):
        lib.qsae_cancel_token_cancel(self.pointer)


class _Stopped(Exception):
    """The waiting thread has given up; the C call is to end."""


class Desk:
    """Runs one long C call in a thread of its own, while the calling thread waits for it, runs its
    callbacks, and stays open to KeyboardInterrupt, which C code cannot see. Whatever a callback
    raises cancels the call and is raised to the caller."""

    def __init__(self):
        self.token = CancelToken()
        self._inbox = queue.SimpleQueue()
        self._failure = None  # raised in the waiting thread
        self._raised = None   # raised by the call

    def progress(self, function):
        """A C progress callback for function(done, total, unit, phase); NULL for None."""
        if function is None:
            return PROGRESS()

        def report(_cookie, done, total, unit, phase):
            return self.guard(lambda: self.ask(function, done, total, unit.decode(),
                                               phase.decode("utf-8", "replace")))
        return PROGRESS(report)

    def guard(self, function):
        """Body of a C callback: 0, or a status that ends the call."""
        try:
            function()
            return 0
        except _Stopped:
            pass
        except BaseException as error:
            self._stop(error)
        return STATUS["QSAE_ECANCELED"]

    def ask(self, function, *arguments):
        """In a callback: function(*arguments), run by the waiting thread."""
        answer = queue.SimpleQueue()
        self._inbox.put((function, arguments, answer))
        while self._failure is None:
            try:
                return answer.get(timeout=0.1)
            except queue.Empty:
                pass
        raise _Stopped

    def run(self, call, *arguments):
        """call(*arguments); raises what it raises, or what a callback raised."""
        thread = threading.Thread(target=self._work, args=(call, arguments))
        thread.start()
        while True:
            try:
                self._serve(thread)
                break
            except BaseException as error:
                self._stop(error)
        if self._failure is not None:
            raise self._failure
        if self._raised is not None:
            raise self._raised

    def again(self):
        """Makes ready for another run()."""
        self._failure = self._raised = None
        self._inbox = queue.SimpleQueue()
        lib.qsae_cancel_token_reset(self.token.pointer)

    def _stop(self, error):
        if self._failure is None:
            self._failure = error
        self.token.cancel()

    def _work(self, call, arguments):
        try:
            call(*arguments)
        except BaseException as error:
            self._raised = error
        self._inbox.put(None)

    def _serve(self, thread):
        while thread.is_alive():
            try:
                item = self._inbox.get(timeout=0.5)
            except queue.Empty:
                continue
            if item is None:
                thread.join()
                return
            function, arguments, answer = item
            if self._failure is None:
                answer.put(function(*arguments))
