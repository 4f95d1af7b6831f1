"""Triggers whose worker is killed with kill -9: what has counted has counted, and nothing counts twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from durable import CloudEvent, EventPattern, conditions
from tests.waiting import until

if TYPE_CHECKING:
    from tests.product.conftest import Place

PROGRAM = Path(__file__).with_name("trigger_work.py")


@pytest.fixture
def start() -> Iterator[Callable[[Place], subprocess.Popen[bytes]]]:
    """Starts a worker, which is killed at the end at the latest."""
    started: list[subprocess.Popen[bytes]] = []

    def start(place: Place) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROGRAM), place.url, place.events or "", place.workspace]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["sqlite", "redis", "redis+rabbitmq"])
def test_a_join_of_100_whose_worker_is_killed_after_60_fires_once_at_100(
    kind: str, place_of: Callable[[str], Place], start: Callable[[Place], subprocess.Popen[bytes]]
) -> None:
    place = place_of(kind)

    def events(first: int, last: int) -> Iterator[CloudEvent]:
        for n in range(first, last + 1):
            yield CloudEvent({"type": "part", "source": "/test", "id": f"{n}"}, {"n": n})

    with closing(place.connect()) as client:
        client.add_trigger("join", on=EventPattern(), condition=conditions.join(100), action="count", transient=False)
        client.add_trigger("each", on=EventPattern(), action="count", transient=False)
        worker = start(place)
        for event in events(1, 60):
            client.publish(event)
        until(lambda: client.event_counts().taken == 60)
        for event in events(61, 80):  # some of them are under way
            client.publish(event)
        worker.kill()
        worker.wait()
        for event in events(50, 99):  # the publisher is not sure, and begins with what it has sent before
            client.publish(event)
        start(place)
        until(lambda: client.event_counts().taken == 99)
        assert client.get_workspace_context() == {"each": [99, "99"]}
        for event in events(90, 100):
            client.publish(event)
        until(lambda: client.event_counts().taken == 100)
        assert client.get_workspace_context() == {"each": [100, "100"], "join": [1, "100"]}
        assert client.dead_letters().items == []
