"""What is done to workers and servers again and again, each fault on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Final, NamedTuple

from tests.chaos.fleet import Fleet

FROZEN: Final = 8.0  # seconds: twice as long as it takes others to notice


class Harm(NamedTuple):
    """`act` does it, and undoes it where it has to be undone; it tells whether it could be done.

    first: seconds before the first one; pause: from and to how many between two.
    """

    act: Callable[[], bool]
    first: float
    pause: tuple[float, float]


class Faults:
    """wanted: how often each is to happen; 0 is for as long as the load lasts."""

    def __init__(self, harms: Mapping[str, Harm], wanted: Mapping[str, int], random: Random) -> None:
        self.harms = harms
        self.wanted = wanted
        self.over = threading.Event()
        self.reached: Counter[str] = Counter()
        self.broken: list[str] = []  # those that could not go on
        self.last = time.monotonic()  # when the last one was over
        self._random = Random(random.random())

    def done(self) -> bool:
        """Whether all have happened as often as they should, or can't."""
        return bool(self.broken) or all(self.reached[fault] >= times > 0 for fault, times in self.wanted.items())

    def run(self) -> None:
        threads = [threading.Thread(target=self._run, args=(fault,), daemon=True) for fault in self.wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, fault: str) -> None:
        harm = self.harms[fault]
        pause = harm.first
        try:
            while not self.over.wait(pause):
                if harm.act():
                    self.reached[fault] += 1
                    self.last = time.monotonic()
                if self.reached[fault] == self.wanted[fault] > 0:
                    return
                pause = self._random.uniform(*harm.pause)
        except Exception as error:
            self.broken.append(f"fault {fault} could not go on: {type(error).__name__}: {error}")
            raise


def of_workers(fleet: Fleet) -> dict[str, Harm]:
    """What can be done to workers everywhere."""

    def freeze() -> bool:
        frozen = fleet.freeze()
        time.sleep(FROZEN)
        fleet.thaw(frozen)
        return True

    return {"worker-kill": Harm(fleet.kill, 1.0, (1.0, 1.0)), "worker-freeze": Harm(freeze, 2.0, (1.0, 3.0))}
