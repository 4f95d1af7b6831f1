"""The event sources of a worker never hold up its engine for long, nor do they outlive it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from unittest.mock import Mock

import pytest

import durable
from durable.model.errors import TransportError
from durable.ports import Published
from durable.runtime.event_sources import EventSources
from durable.runtime.requests import Occurred
from durable.triggers.changes import Source
from tests.waiting import until

CONFIRMED, UNKNOWN = Published.CONFIRMED, Published.UNKNOWN
Sink = Callable[[Sequence[bytes], object], None]


class Clocked:
    """A source that takes its time over each answer; `answer` None: it raises."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes = 0.0
        self.answer: Published | None = CONFIRMED
        self.asked = 0
        self.sink: Sink | None = None
        self.acknowledged: list[object] = []
        self.closed = False

    def receive(self, prefetch: int, sink: Sink) -> None:
        self.sink = sink

    def ack(self, tags: Sequence[object]) -> None:
        self.acknowledged += tags

    def publish(self, bodies: Sequence[bytes]) -> list[Published]:
        self.asked += 1
        self.now += self.takes
        if self.answer is None:
            raise TransportError("away")
        return [self.answer, *[CONFIRMED] * (len(bodies) - 1)]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def source() -> Clocked:
    return Clocked()


@pytest.fixture
def sources(source: Clocked) -> Iterator[EventSources]:
    made = EventSources(lambda url: source, lambda news: None, lambda: source.now)
    with closing(made):
        made.serve({"out": Source("there", receives=False)})
        until(lambda: made.publish("out", [b"{}"]) == [CONFIRMED], "a connection")
        source.asked = 0
        yield made


@pytest.mark.parametrize("answer", [UNKNOWN, None])
def test_a_source_that_does_not_answer_has_a_small_part_of_the_engines_time(
    source: Clocked, sources: EventSources, answer: Published | None
) -> None:
    source.answer, source.takes = answer, 5.0
    begin = source.now
    while source.now < begin + 3_600:
        assert sources.publish("out", [b"{}"]) == [UNKNOWN]
        source.now += 1.0  # when the outbox tries again
    assert 3_600 / 40 < source.asked < 3_600 / 30
    source.answer, source.takes = CONFIRMED, 0.0
    source.now += 30.0
    assert [sources.publish("out", [b"{}"]) for _ in range(3)] == [[CONFIRMED]] * 3


def test_one_that_refuses_at_once_is_asked_again_soon(source: Clocked, sources: EventSources) -> None:
    """One event that it can't take, perhaps: the others need not wait for long."""
    source.answer, source.takes = UNKNOWN, 0.01
    assert sources.publish("out", [b"{}"]) == [UNKNOWN]
    source.now += 1.0
    source.answer = CONFIRMED
    assert sources.publish("out", [b"{}"]) == [CONFIRMED]


def test_one_that_takes_some_is_not_left_alone(source: Clocked, sources: EventSources) -> None:
    source.answer, source.takes = UNKNOWN, 5.0
    assert sources.publish("out", [b"{}", b"{}"]) == [UNKNOWN, CONFIRMED]
    assert sources.publish("out", [b"{}", b"{}"]) == [UNKNOWN, CONFIRMED]


class Receiving:
    """Event sources that bring what a test puts into them. told: what the engine hears."""

    def __init__(self) -> None:
        self.told: list[Occurred] = []
        self.opened: dict[str, Clocked] = {}
        self.sources = EventSources(self._open, self.told.append)

    def _open(self, url: str) -> Clocked:
        return self.opened.setdefault(url, Clocked())

    def subscribe(self, url: str) -> tuple[Clocked, Sink]:
        """Serve this one as `in`, and no other."""
        self.sources.serve({"in": Source(url, receives=True)})
        until(lambda: url in self.opened and self.sources.publish("in", [b"{}"]) == [CONFIRMED], "a connection")
        sink = self.opened[url].sink
        assert sink is not None
        return self.opened[url], sink


@pytest.fixture
def receiving() -> Iterator[Receiving]:
    made = Receiving()
    with closing(made.sources):
        yield made


def test_what_has_come_is_told_and_acknowledged_where_it_came_from(receiving: Receiving) -> None:
    source, bring = receiving.subscribe("here")
    bring([b"1", b"2"], 7)
    bring([b"3"], 8)
    assert [list(told.bodies) for told in receiving.told] == [[b"1", b"2"], [b"3"]]
    assert source.acknowledged == []
    receiving.sources.ack([told.tag for told in receiving.told])
    assert source.acknowledged == [7, 8]


def test_what_came_over_an_earlier_connection_is_not_acknowledged_over_the_next(receiving: Receiving) -> None:
    """Both count their events from 1: another one would be taken for handled, and be lost."""
    first, bring = receiving.subscribe("here")
    bring([b"old"], 1)
    second, bring_again = receiving.subscribe("there")
    bring_again([b"new"], 1)
    old, new = (told.tag for told in receiving.told)
    receiving.sources.ack([old])
    assert first.acknowledged == second.acknowledged == []
    receiving.sources.ack([new])
    assert (first.acknowledged, second.acknowledged) == ([], [1])


def test_what_a_source_brings_that_is_wanted_no_more_is_not_told(receiving: Receiving) -> None:
    _, bring = receiving.subscribe("here")
    receiving.sources.serve({})
    bring([b"late"], 1)
    assert receiving.told == []


def test_a_worker_whose_engine_died_takes_no_more_events(source: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.app.worker.open_event_source", lambda url, workspace: source)
    with durable.connect("memory://died-with-sources") as client:
        client.add_event_source("in", "env:QUEUE")
        with durable.Worker(client, registry=durable.Registry()):
            until(lambda: source.sink, "a subscription")
            monkeypatch.setattr("durable.runtime.loop.Loop._sort", Mock(side_effect=RuntimeError("a bug")))
            client.start_orchestration("whatever")
            until(lambda: source.closed, "its end")
