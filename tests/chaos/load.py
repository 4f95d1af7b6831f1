"""A steady load: instances started at a rate whatever happens, by a careful program that has never heard of faults."""

from __future__ import annotations

import threading
import time
from random import Random
from typing import Any, Final

import durable
from tests.chaos import programs

# A program's size and how many of all are of it: two activities each on average.
SHAPES: Final[dict[Any, tuple[int, int]]] = {
    programs.sequence: (2, 6),
    programs.fan_out: (3, 1),
    programs.children: (2, 1),
    programs.timers: (1, 2),
    programs.events: (1, 2),
    programs.late: (1, 1),
    programs.retries: (1, 1),
    programs.rounds: (2, 1),
}
_CATCH_UP: Final = 20.0  # seconds for what could not be started in time


class Load:
    """It goes on until it is told that each has been started. Some are waited for, to see how late `result()` is."""

    def __init__(self, client: durable.Client, rate: float, random: Random) -> None:
        self.client = client
        self.rate = rate
        self.random = random
        self.expected: dict[str, programs.Expected] = {}
        self.newest: str | None = None
        self.repeated = 0  # calls that were tried again after an error
        self.returned: dict[str, float] = {}  # when `result()` of one had returned, in POSIX seconds
        self.asked = 0  # how many there should be by now
        self._given_up = False

    def run(self, over: threading.Event) -> None:
        """Until `over`, and until what should have been started by then has been."""
        began = time.monotonic()
        while not over.wait(0.01):
            self.asked = int((time.monotonic() - began) * self.rate)
            while len(self.expected) < self.asked and not over.is_set():
                self._start_one()
        ended = time.monotonic()
        self.asked = int((ended - began) * self.rate)
        while len(self.expected) < self.asked and time.monotonic() < ended + _CATCH_UP:
            self._start_one()

    def give_up(self) -> None:
        """Nothing is tried again any more: the servers are about to go."""
        self._given_up = True

    def _start_one(self) -> None:
        program = self.random.choices(list(SHAPES), [weight for _, weight in SHAPES.values()])[0]
        size, value = SHAPES[program][0], self.random.randrange(1_000)
        instance = f"{program.name}-{len(self.expected)}"
        self.expected[instance] = programs.ORACLE[program](value, size)
        self.newest = instance
        self._surely(
            lambda: self.client.start_orchestration(program, value, size, instance_id=instance, if_exists="return")
        )
        if program is programs.events:
            for n in range(size):
                self._surely(lambda: self._raise(instance, n))  # noqa: B023  # called at once

    def _raise(self, instance: str, n: int) -> None:
        for _ in range(self.random.randint(1, 2)):  # sent twice is sent once
            try:
                self.client.raise_event(instance, "add", n, event_id=f"{instance}.{n}")
            except durable.InstanceFinishedError:
                return  # it has it from the first time

    def _surely(self, call: Any) -> None:
        while not self._given_up:
            try:
                call()
            except durable.StoreError:
                self.repeated += 1
                time.sleep(0.05)
            else:
                return

    def wait_for_some(self, over: threading.Event) -> None:
        """Wait for one of those that were started last, again and again."""
        while not over.is_set():
            instance = self.newest
            if instance is None or instance in self.returned:
                time.sleep(0.01)
                continue
            try:
                self.client.handle(instance).result(1.0)
            except durable.TimeoutError:
                continue
            except (durable.StoreError, durable.InstanceNotFoundError):  # it is being started
                time.sleep(0.05)
            else:
                self.returned[instance] = time.time()
