"""Signals where there is no channel: plain calls inside this process, and between processes only looking again.

DynamoDB has nothing that tells. So whoever waits for one instance of another process is told to look after 50 ms, then
after pauses that grow to two seconds, and who listens to all of them (a worker, for facts) every second.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Final

from durable.ports import Topic

from .local_signals import LocalSignals, Wake, call

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
GROWTH: Final = 1.5
STEADY_PAUSE: Final = 1.0


class PollingSignals(LocalSignals):
    """`LocalSignals`, and a thread that tells listeners to look for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._numbers = count()
        self._plan: list[tuple[float, int, float, float]] = []  # when, which listener, the pause before, the longest
        self._wakes: dict[int, Wake] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def listen(
        self, topic: Topic, wake: Wake, instance_id: str | None = None, *, here_only: bool = False
    ) -> Callable[[], None]:
        stop_listening = super().listen(topic, wake, instance_id)
        if here_only:
            return stop_listening
        number = next(self._numbers)
        pause, longest = (FIRST_PAUSE, LONGEST_PAUSE) if instance_id is not None else (STEADY_PAUSE, STEADY_PAUSE)
        with self._changed:
            self._wakes[number] = wake
            heapq.heappush(self._plan, (time.monotonic() + pause, number, pause, longest))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._tell, name="dynamodb-signals", daemon=True)
                self._thread.start()
            self._changed.notify()

        def stop() -> None:
            stop_listening()
            with self._changed:
                self._wakes.pop(number, None)

        return stop

    def _tell(self) -> None:
        while self._tell_next():
            pass

    def _tell_next(self) -> bool:
        """Wait for the next look and tell of it; False at the end. Nothing of a listener outlives it in this thread."""
        with self._changed:
            while not self._closed and (not self._plan or self._plan[0][0] > time.monotonic()):
                self._changed.wait(self._plan[0][0] - time.monotonic() if self._plan else None)
            if self._closed:
                return False
            _, number, pause, longest = heapq.heappop(self._plan)
            wake = self._wakes.get(number)
            if wake is not None:
                pause = min(longest, pause * GROWTH)
                heapq.heappush(self._plan, (time.monotonic() + pause, number, pause, longest))
        if wake is not None:
            call(wake, None)
        return True

    def close(self) -> None:
        """Tell nobody any more; listeners hear of this process only. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
