"""Ends an orchestrator that runs too long without yielding, so that one mistake can't stop all the others.

The orchestrator runs on the engine's thread. A second thread looks whether the same piece of user code has been
running for `seconds`, and then throws `TurnTooLong` into the engine's thread (CPython's asynchronous exceptions:
they arrive between two bytecodes, so a call that hangs inside C is ended only when it returns). The lock makes sure
that the exception never arrives outside of user code.
"""

from __future__ import annotations

import ctypes
import sys
import threading

from ..replay.guard import TurnTooLong, Watch


class Watchdog(Watch):
    """Watches one engine thread, every so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._target = 0
        self._fired = False

    def watch_this_thread(self) -> None:
        """Called on the engine's thread; starts watching it."""
        self._target = threading.get_ident()
        threading.Thread(target=self._watch, name="durable-watchdog", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def leave(self) -> None:
        with self._lock:
            self.inside = False
            fired, self._fired = self._fired, False
        if fired:
            _throw(self._target, None)  # it may not have arrived yet
            if sys.exc_info()[0] is not TurnTooLong:
                raise TurnTooLong

    def _watch(self) -> None:
        seen = -1
        while not self._closed.wait(min(self._seconds, threading.TIMEOUT_MAX)):
            with self._lock:
                if self.inside and self.ticks == seen:
                    self._fired = True
                    _throw(self._target, TurnTooLong)
            seen = self.ticks


def _throw(thread_id: int, error: type[BaseException] | None) -> None:
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), what)
