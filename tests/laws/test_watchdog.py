"""The watchdog's exception reaches an orchestrator's code, and never the engine's own."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from durable.replay.guard import TurnTooLong
from durable.runtime.watchdog import Watchdog
from tests.waiting import SOON, until


class Looks(threading.Event):
    """Counts how often the watchdog has looked, which it does without a pause."""

    count = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        return super().wait(0.001)


def test_between_two_turns_nothing_is_thrown() -> None:
    ended: list[bool] = []

    def engine() -> None:
        watchdog.watch_this_thread()
        watchdog.enter()
        watchdog.leave()
        until(lambda: looks.count > 5, "some looks of the watchdog")
        ended.append(True)

    with closing(Watchdog(3_600)) as watchdog:
        watchdog._closed = looks = Looks()
        thread = threading.Thread(target=engine)
        thread.start()
        thread.join(SOON)
    assert ended


def test_what_is_decided_at_the_last_moment_counts_although_it_has_not_arrived() -> None:
    watchdog = Watchdog(3_600)
    watchdog.enter()
    watchdog._fired = True
    with pytest.raises(TurnTooLong):
        watchdog.leave()
    watchdog.enter()
    watchdog.leave()
