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
        self.closed = False

    def receive(self, prefetch: int, sink: Sink) -> None:
        self.sink = sink

    def ack(self, tags: Sequence[object]) -> None: ...

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


def test_a_worker_whose_engine_died_takes_no_more_events(source: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.app.worker.open_event_source", lambda url, workspace: source)
    with durable.connect("memory://died-with-sources") as client:
        client.add_event_source("in", "env:QUEUE")
        with durable.Worker(client, registry=durable.Registry()):
            until(lambda: source.sink, "a subscription")
            monkeypatch.setattr("durable.runtime.loop.Loop._sort", Mock(side_effect=RuntimeError("a bug")))
            client.start_orchestration("whatever")
            until(lambda: source.closed, "its end")
