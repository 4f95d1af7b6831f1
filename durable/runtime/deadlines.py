"""Calls that are due at a moment: timeouts of attempts, and what follows them."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

_FEW: Final = 1_000


class Deadline:
    """A call that is due at a moment; None once it need not be made."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call


class Deadlines:
    """Calls functions at moments of the monotonic clock, on one thread that exists only once it is needed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Deadline]] = []
        self._count = 0
        self._dropped = 0  # of those in the heap
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, moment: float, call: Callable[[], None]) -> Deadline:
        """RuntimeError where there can be no thread now; the next call tries again."""
        deadline = Deadline(call)
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="durable-deadlines", daemon=True)
                thread.start()
                self._thread = thread
            self._count += 1
            heapq.heappush(self._heap, (moment, self._count, deadline))
            self._changed.notify()
        return deadline

    def drop(self, deadline: Deadline) -> None:
        """It need not be met any more. Those that lie far ahead must not pile up: most of what runs ends in time."""
        with self._changed:
            if deadline.call is None:
                return
            deadline.call = None
            self._dropped += 1
            if self._dropped > _FEW and self._dropped * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].call is not None]
                heapq.heapify(self._heap)
                self._dropped = 0

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    pause = self._heap[0][0] - time.monotonic() if self._heap else threading.TIMEOUT_MAX
                    self._changed.wait(min(pause, threading.TIMEOUT_MAX))
                if self._closed:
                    return
                deadline = heapq.heappop(self._heap)[2]
                call, deadline.call = deadline.call, None
                if call is None:
                    self._dropped -= 1
                    continue
            try:
                call()
            except Exception:  # one broken callback must not end all deadlines
                logging.getLogger("durable.worker").exception("a deadline's callback failed")
