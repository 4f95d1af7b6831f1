"""Waiting asks no more than it must: who is told here does not listen to others, nor read what it was told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from durable.app.waiting import REMEMBERED, SMALL, Waits
from durable.model.status import RuntimeStatus, Summary
from durable.ports import Backend, Topic
from durable.testing.store_samples import turn

SOON = 20
RUNNING = turn("a", 0).summary
DONE = msgspec.structs.replace(RUNNING, status=RuntimeStatus.COMPLETED)


class Place:
    """A backend of which the test is the store; it notes who listens, and what is read."""

    def __init__(self) -> None:
        self.summary: Summary | None = RUNNING
        self.read: list[str] = []
        self.listened: list[bool] = []  # each time, whether to this process only
        self.heard = threading.Condition()
        self.backend = cast(Backend, SimpleNamespace(store=self, signals=self, membership=self))

    def summaries(self, instance_ids: list[str]) -> list[Summary | None]:
        self.read += instance_ids
        return [self.summary for _ in instance_ids]

    def listen(
        self,
        topic: Topic,
        wake: Callable[[Collection[str] | None], None],
        instance_id: str | None = None,
        *,
        here_only: bool = False,
    ) -> Callable[[], None]:
        with self.heard:
            self.listened.append(here_only)
            self.heard.notify_all()
        return lambda: None

    def listens(self, *here_only: bool) -> None:
        with self.heard:
            assert self.heard.wait_for(lambda: self.listened == list(here_only), SOON), self.listened

    def members(self) -> list[Any]:
        return []


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def waits(place: Place) -> Waits:
    return Waits(place.backend)


@pytest.fixture
def waiting(waits: Waits, place: Place) -> Iterator[Callable[[], Future[Summary]]]:
    with ThreadPoolExecutor(1) as pool:
        yield lambda: pool.submit(waits.wait, "a", None, "finished", False, own=True)
        place.summary = DONE
        waits.wake(["a"])


Start = Callable[[], "Future[Summary]"]


def test_what_nobody_here_serves_is_listened_to_everywhere(place: Place, waiting: Start) -> None:
    waiting()
    place.listens(True, False)
    assert place.read == ["a", "a"], "whoever begins to listen reads again"


def test_what_is_served_here_is_listened_to_here_as_long_as_it_mostly_takes(
    waits: Waits, place: Place, waiting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.app.waiting.HERE_FIRST", float(SOON))
    waits.served_by(lambda _: True)
    waits.remember(["a"], RUNNING.created_at)
    waited = waiting()
    place.listens(True)
    waits.ended([DONE])
    waits.wake(["a"])
    assert waited.result(SOON) is DONE
    assert (place.listened, place.read) == ([True], ["a"])


def test_what_takes_longer_is_listened_to_everywhere(waits: Waits, place: Place, waiting: Start) -> None:
    waits.served_by(lambda _: True)
    waiting()
    place.listens(True, False)


def test_what_a_worker_here_leaves_is_listened_to_everywhere(
    waits: Waits, place: Place, waiting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in ("HERE_FIRST", "REREAD"):
        monkeypatch.setattr(f"durable.app.waiting.{patience}", 2.0 * SOON)
    asked = threading.Event()

    def serves(_: Summary) -> bool:
        asked.set()
        return True

    waits.served_by(serves)
    waiting()
    assert asked.wait(SOON)
    waits.served_by(lambda _: False)
    place.listens(True, False)


def test_the_newest_starts_are_remembered_and_each_end_is_told_once(waits: Waits, place: Place) -> None:
    ids = [f"i{number}" for number in range(REMEMBERED + 1)]
    waits.remember(ids[:REMEMBERED], RUNNING.created_at)
    waits.remember(ids[REMEMBERED:], RUNNING.created_at)
    place.summary = DONE
    waits.ended([msgspec.structs.replace(DONE, instance_id=i) for i in ids])
    for instance_id in ids:
        waits.wait(instance_id, SOON, "finished", False, own=True)
    assert place.read == ids[:1]
    waits.wait(ids[-1], SOON, "finished", False, own=True)
    assert place.read == [ids[0], ids[-1]]


def test_a_start_forgets_how_another_life_of_its_id_has_ended(waits: Waits, place: Place) -> None:
    waits.remember(["a"], RUNNING.created_at)
    waits.ended([DONE])
    waits.remember(["a"], RUNNING.created_at)  # another process has purged it meanwhile
    place.summary = msgspec.structs.replace(DONE, execution_id="another")
    assert waits.wait("a", SOON, "finished", False, own=True).execution_id == "another"


def test_a_large_output_is_read_by_who_asks_and_not_kept_for_who_may_not(waits: Waits, place: Place) -> None:
    waits.remember(["small", "large"], RUNNING.created_at)
    for instance_id, size in (("small", SMALL - 2), ("large", SMALL)):
        output = msgspec.Raw(b'"%s"' % (b"x" * size))
        waits.ended([msgspec.structs.replace(DONE, instance_id=instance_id, output=output)])
    place.summary = DONE
    for instance_id in ("small", "large"):
        waits.wait(instance_id, SOON, "finished", False, own=True)
    assert place.read == ["large"]


def test_what_completed_before_its_start_here_is_another_life(waits: Waits, place: Place) -> None:
    later = RUNNING.created_at.replace(year=RUNNING.created_at.year + 1)
    waits.remember(["a"], later)
    waits.ended([DONE])
    place.summary = msgspec.structs.replace(DONE, created_at=later)
    assert waits.wait("a", SOON, "finished", False, own=True) is place.summary
