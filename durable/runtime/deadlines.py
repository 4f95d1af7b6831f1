"""Calls that are due at a moment: timeouts of attempts, and what follows them."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable


class Deadlines:
    """Calls functions at moments of the monotonic clock, on one thread that exists only once it is needed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, moment: float, call: Callable[[], None]) -> None:
        with self._changed:
            self._count += 1
            heapq.heappush(self._heap, (moment, self._count, call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="durable-deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._closed:
                    return
                call = heapq.heappop(self._heap)[2]
            try:
                call()
            except Exception:  # one broken callback must not end all deadlines
                logging.getLogger("durable.worker").exception("a deadline's callback failed")
