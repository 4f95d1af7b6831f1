"""A worker that drains leaves with nothing in its hands that somebody else would have to do again."""

from __future__ import annotations

from typing import Any

import pytest

from durable.engine.instance import Invocation
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.ports import Published
from durable.runtime import requests as ask
from durable.runtime.serving import Serving
from durable.runtime.wire import Work
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
