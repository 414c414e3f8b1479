# SPDX-License-Identifier: BSD-2-Clause
"""What all handles share, and long calls that can be interrupted."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Iterator
from ctypes import byref, c_void_p
from typing import Any, Callable, TypeVar

from ._lib import STATUS, fail, lib
from ._structs import PROGRESS

Progress = Callable[[int, int, str, str], Any]
_Self = TypeVar("_Self", bound="Handle")


class Handle:
    """A C handle: closed by close(), at the end of a with block, or when it is collected.

    Calls on one handle from several threads wait for each other.
    """

    _close: Any = None  # C function
    _handle: Any = None
    _busy = False

    def __init__(self) -> None:
        self._handle = c_void_p()
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._stream: Stream | None = None

    @property
    def pointer(self) -> Any:
        """The C handle; raises Error if it is closed."""
        if not self._handle:
            fail("QSAE_EINVAL", f"{type(self).__name__} is closed")
        return self._handle

    def _not_streaming(self) -> None:
        # A pass that waits for the reader of its rows holds the lock: who waited for that lock in
        # the reader's thread would wait forever.
        if self._stream is not None and self._stream.running:
            fail("QSAE_EBUSY", f"{type(self).__name__}: a stream of its rows is being read; read "
                               "it to its end or close it first")

    @contextlib.contextmanager
    def _use(self) -> Iterator[Any]:
        """Around a call on a handle that allows one at a time."""
        self._not_streaming()
        with self._hold() as pointer:
            yield pointer

    @contextlib.contextmanager
    def _hold(self) -> Iterator[Any]:
        with self._lock:
            if self._busy:  # this thread, in a callback of that call
                fail("QSAE_EBUSY", f"{type(self).__name__}: a call on it is still running")
            self._busy = True
            try:
                yield self.pointer
            finally:
                self._busy = False

    @property
    def closed(self) -> bool:
        """Whether close() has been called."""
        return not self._handle

    def close(self) -> None:
        """Closes the handle; further use raises Error. May be called again."""
        if self._handle:
            if self._stream is not None:
                self._stream.close()
            with self._lock:
                if self._busy:
                    fail("QSAE_EBUSY", f"{type(self).__name__}: a call on it is still running")
                self._close(byref(self._handle))

    def __enter__(self: _Self) -> _Self:
        self.pointer  # noqa: B018 - raises if closed
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # In a child after fork() the parent's handles are not ours to close.
        if self._handle and self._pid == os.getpid():
            # At interpreter exit parts of ctypes may be gone.
            with contextlib.suppress(Exception):
                self._close(byref(self._handle))


class CancelToken(Handle):
    """A switch that ends long calls from another thread, or from a signal handler.

    Given to any number of calls as `cancel`; they raise Error (QSAE_ECANCELED) soon after cancel()
    and leave their handles usable.
    """

    _close = lib.qsae_cancel_token_close

    def __init__(self) -> None:
        super().__init__()
        self._canceled = False
        # Tokens of the calls that were given this one. A dict, because list(dict.values()) is one
        # step of the interpreter: cancel() takes no lock, which a signal handler must not.
        self._calls: dict[int, weakref.ref[CancelToken]] = {}
        lib.qsae_cancel_token_open(byref(self._handle))

    @property
    def canceled(self) -> bool:
        """Whether cancel() has been called since the last reset()."""
        return self._canceled

    def cancel(self) -> None:
        """Ends the calls that were given this token, and those that will be."""
        self._canceled = True
        lib.qsae_cancel_token_cancel(self.pointer)
        for reference in list(self._calls.values()):
            call = reference()
            if call is not None:
                lib.qsae_cancel_token_cancel(call.pointer)

    def reset(self) -> None:
        """Makes the token ready for further calls."""
        self._canceled = False
        lib.qsae_cancel_token_reset(self.pointer)

    def _ends(self, call: CancelToken) -> None:
        """Lets cancel() set the token of a call too."""
        key, calls = id(call), self._calls
        calls[key] = weakref.ref(call, lambda _gone: calls.pop(key, None))
        if self._canceled:
            lib.qsae_cancel_token_cancel(call.pointer)

    def _spares(self, call: CancelToken) -> None:
        """Undoes _ends."""
        self._calls.pop(id(call), None)


class _Stopped(Exception):
    """The waiting thread has given up; the C call is to end."""


class Desk:
    """Runs one long C call in a thread of its own, while the calling thread waits for it, runs its
    callbacks, and stays open to KeyboardInterrupt, which C code cannot see. Whatever a callback
    raises cancels the call and is raised to the caller.

    cancel  the caller's token, or None
    token   the call's own: a new one, or that of a handle which keeps it
    """

    def __init__(self, cancel: CancelToken | None = None, token: CancelToken | None = None) -> None:
        self.token = CancelToken() if token is None else token
        self._cancel = cancel
        if cancel is not None:
            if not isinstance(cancel, CancelToken):
                fail("QSAE_EINVAL", f"cancel: expected a CancelToken, found "
                                    f"{type(cancel).__name__}")
            cancel._ends(self.token)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: BaseException | None = None  # raised in the waiting thread
        self._raised: BaseException | None = None   # raised by the call

    def progress(self, function: Progress | None) -> Any:
        """A C progress callback for function(done, total, unit, phase); NULL for None."""
        if function is None:
            return PROGRESS()

        def report(_cookie: Any, done: int, total: int, unit: bytes, phase: bytes) -> int:
            return self.guard(lambda: self.ask(function, done, total, unit.decode(),
                                               phase.decode("utf-8", "replace")))
        return PROGRESS(report)

    def guard(self, function: Callable[[], Any]) -> int:
        """Body of a C callback: 0, or a status that ends the call."""
        try:
            function()
            return 0
        except _Stopped:
            pass
        except BaseException as error:
            self.stop(error)
        return STATUS["QSAE_ECANCELED"]

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """In a callback: function(*arguments), run by the waiting thread."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._inbox.put((function, arguments, answer))
        # The main thread ends first when a program exits; nobody answers then.
        while self._failure is None and threading.main_thread().is_alive():
            try:
                return answer.get(timeout=0.1)
            except queue.Empty:
                pass
        raise _Stopped

    def run(self, call: Callable[..., Any], *arguments: Any) -> None:
        """call(*arguments); raises what it raises, or what a callback raised."""
        thread = self._start(call, arguments)
        while True:
            try:
                self._serve(thread)
                break
            except BaseException as error:
                self.stop(error)
        self._end()

    def again(self) -> None:
        """Makes ready for another run()."""
        self._failure = self._raised = None
        self._inbox = queue.SimpleQueue()
        lib.qsae_cancel_token_reset(self.token.pointer)
        if self._cancel is not None:
            self._cancel._ends(self.token)

    def release(self) -> None:
        """Parts the call's token, which a handle keeps, from the caller's, and clears it."""
        if self._cancel is not None:
            self._cancel._spares(self.token)
        lib.qsae_cancel_token_reset(self.token.pointer)

    def stop(self, error: BaseException) -> None:
        """Ends the call, which raises error."""
        if self._failure is None:
            self._failure = error
        self.token.cancel()

    def _start(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> threading.Thread:
        thread = threading.Thread(target=self._work, args=(call, arguments))
        thread.start()
        return thread

    def _end(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._raised is not None:
            raise self._raised

    def _work(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            call(*arguments)
        except BaseException as error:
            self._raised = error
        self._inbox.put(None)

    def _serve(self, thread: threading.Thread) -> None:
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


def _given(_value: Any) -> None:
    """What a Stream's callback asks for: that the value is taken."""


class Stream(Desk):
    """A call whose callbacks hand over values one by one; the call waits in the callback until its
    value has been read, so that no more than one exists.

    Iterate over it, then or before that close() it: that ends the call and waits for it.
    """

    def __init__(self, cancel: CancelToken | None = None) -> None:
        super().__init__(cancel)
        self._thread: threading.Thread | None = None
        self._waiting: queue.SimpleQueue[Any] | None = None  # whom the next value lets go on

    @property
    def running(self) -> bool:
        """Whether the call has not ended yet."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Starts call(*arguments) in a thread of its own."""
        self._thread = self._start(call, arguments)

    def give(self, value: Any) -> None:
        """In a callback: value is the next one that the reader gets."""
        self.ask(_given, value)

    def __iter__(self) -> Iterator[Any]:
        try:
            while (item := self._next()) is not None:
                yield item[1][0]
        finally:
            self.close()
        self._end()

    def _next(self) -> Any:
        if self._waiting is not None:
            self._waiting.put(None)
            self._waiting = None
        try:
            while True:
                try:
                    item = self._inbox.get(timeout=0.5)
                except queue.Empty:
                    continue
                if item is None:
                    return None
                function, arguments, answer = item
                if function is _given:
                    self._waiting = answer
                    return item
                answer.put(function(*arguments))
        except BaseException as error:
            self.stop(error)
            raise

    def close(self) -> None:
        """Ends the call, if it still runs, and waits for that. May be called again."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            if self._thread.is_alive():
                self.stop(_Stopped())
            self._thread.join()
            if isinstance(self._failure, _Stopped):  # nothing went wrong
                self._failure = self._raised = None
