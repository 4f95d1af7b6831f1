"""Signals where there is no channel: plain calls inside this process, and between processes only looking again.

Whoever waits for one instance of another process is told to look after 50 ms, then after pauses that grow to two
seconds: DynamoDB has nothing that tells. Facts from elsewhere are found by the owner's sweep, within a second. With a
broker its messages come first and this is seldom needed.
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


class PollingSignals(LocalSignals):
    """`LocalSignals`, and a thread that tells listeners for one instance to look for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._numbers = count()
        self._plan: list[tuple[float, int, float]] = []  # when, which listener, the pause before
        self._wakes: dict[int, Wake] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def listen(
        self, topic: Topic, wake: Wake, instance_id: str | None = None, *, here_only: bool = False
    ) -> Callable[[], None]:
        stop_listening = super().listen(topic, wake, instance_id)
        if here_only or instance_id is None:
            return stop_listening
        number = next(self._numbers)
        with self._changed:
            self._wakes[number] = wake
            heapq.heappush(self._plan, (time.monotonic() + FIRST_PAUSE, number, FIRST_PAUSE))
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
        while True:
            with self._changed:
                while not self._closed and (not self._plan or self._plan[0][0] > time.monotonic()):
                    self._changed.wait(self._plan[0][0] - time.monotonic() if self._plan else None)
                if self._closed:
                    return
                _, number, pause = heapq.heappop(self._plan)
                wake = self._wakes.get(number)
                if wake is not None:
                    pause = min(LONGEST_PAUSE, pause * GROWTH)
                    heapq.heappush(self._plan, (time.monotonic() + pause, number, pause))
            if wake is not None:
                call(wake, None)

    def close(self) -> None:
        """Tell nobody any more; listeners hear of this process only. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
