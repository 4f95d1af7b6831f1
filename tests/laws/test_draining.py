"""A worker that drains leaves with nothing in its hands that somebody else would have to do again."""

from __future__ import annotations

from typing import Any

import pytest

from durable.engine.instance import Invocation
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.ports import Delivery, Published
from durable.runtime import requests as ask
from durable.runtime.serving import Serving
from durable.runtime.wire import Work, work_queue
from tests.laws.driven import NOW, Driven

MANY = 1_200  # more than one `Publish` takes


@pytest.fixture
def driven() -> Driven:
    return Driven(Serving(by_mail=True))


def end_many(driven: Driven) -> None:
    """Activities of others have ended here, and nobody knows."""
    courier = driven.loop.courier
    for number in range(MANY):
        invocation = Invocation(f"i{number}", "e", 1, 1, "quick", Raw(b"null"), f"e/{number}/1")
        courier.take(Work(invocation, "back", "them", False, 0.0), number)
        event = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=Raw(b"1"))
        assert courier.ended(ask.Done(invocation, event))


@pytest.mark.parametrize("answer", [Published.CONFIRMED, Published.UNKNOWN])
@pytest.mark.parametrize("pause", [0.0, 60.0])
def test_every_outcome_leaves_with_a_worker_that_drains(driven: Driven, answer: Published, pause: float) -> None:
    acknowledged: list[Any] = []
    driven.answers |= {
        ask.Publish: lambda request: [answer] * len(request.messages),
        ask.Settle: lambda request: acknowledged.extend(request.done),
        ask.Receive: lambda request: [False] * len(request.prefetch),
    }
    end_many(driven)
    driven.loop.courier.not_before = NOW.timestamp() + pause
    driven.go_on(5, [ask.Stop(30.0)])
    assert driven.over
    assert sorted(acknowledged) == [*range(MANY)]


class Queued:
    """A worker with three activities of others: one runs, one waits for a slot, one will be delivered."""

    def __init__(self, driven: Driven) -> None:
        self.driven = driven
        self.runs, self.waits, self.comes = (
            Invocation("i", "e", number, 1, "quick", Raw(b"null"), f"e/{number}/1") for number in range(3)
        )
        self.back: list[Any] = []
        self.done: list[Any] = []
        self.prefetch: dict[str, int] = {}
        driven.answers |= {
            ask.Halt: lambda request: [self.waits.row_key],
            ask.Publish: lambda request: [Published.CONFIRMED] * len(request.messages),
            ask.Receive: self.receive,
            ask.Run: lambda request: pytest.fail("it begins"),
            ask.Settle: self.settle,
        }
        driven.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
        for invocation in (self.runs, self.waits):
            driven.loop.courier.take(self.work(invocation), invocation.task_id)
            driven.loop.work.running.add(invocation.row_key)

    def work(self, invocation: Invocation) -> Work:
        return Work(invocation, "back", "them", False, self.driven.now.timestamp())

    def receive(self, request: ask.Receive) -> list[bool]:
        self.prefetch |= request.prefetch
        return [False] * len(request.prefetch)

    def settle(self, request: ask.Settle) -> None:
        self.back += request.back
        self.done += request.done

    def deliver(self) -> None:
        delivery = Delivery("work", b"", self.comes.task_id, redelivered=False)
        self.driven.loop.intake.offered.append((self.work(self.comes), delivery))

    def end(self) -> ask.Done:
        return ask.Done(self.runs, Event(h.TASK_COMPLETED, NOW, task_id=0, attempt=1, result=Raw(b"1")))


@pytest.fixture
def queued(driven: Driven) -> Queued:
    return Queued(driven)


def test_a_worker_that_drains_gives_back_what_has_not_begun_and_begins_nothing(queued: Queued) -> None:
    queue = work_queue("default", "default")
    assert queued.prefetch[queue]
    queued.driven.go_on(2, [ask.Stop(20.0)])
    assert (queued.back, queued.done) == ([queued.waits.task_id], [])
    queued.deliver()
    queued.driven.go_on(2)
    assert (queued.back, queued.done) == ([queued.waits.task_id, queued.comes.task_id], [])
    assert not queued.prefetch[queue]


def test_a_worker_that_drains_waits_for_what_runs(queued: Queued) -> None:
    begun = queued.driven.now
    queued.driven.go_on(3, [ask.Stop(20.0)])
    assert not queued.driven.over
    queued.driven.go_on(3, [queued.end()])
    assert queued.driven.over
    assert queued.done == [queued.runs.task_id]
    assert (queued.driven.now - begun).total_seconds() < 20.0


def test_a_worker_that_drains_waits_no_longer_than_its_grace(queued: Queued) -> None:
    queued.driven.go_on(1, [ask.Stop(20.0)])
    begun = queued.driven.now
    queued.driven.go_on(100)
    assert queued.driven.over
    assert queued.done == []
    assert (queued.driven.now - begun).total_seconds() == 20.0
