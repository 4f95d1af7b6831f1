"""What is told between orchestrations and triggers arrives, once, whichever request to the store fails on the way."""

from __future__ import annotations

from typing import Any

import pytest

import durable
from durable.engine.instance import Instance
from durable.engine.step import create
from durable.engine.triggering import hub_of
from durable.model import history as h
from durable.model.history import Event, Raw, decode_events
from durable.model.names import TRIGGERS
from durable.ports import Want
from durable.runtime import requests as ask
from tests.laws.driven import NOW, Driven, Registered, refuse

app = durable.Registry()


@app.orchestrator
def watch(ctx: durable.OrchestrationContext) -> Any:
    """Wait for the end of "it", with another wait that ends without an event."""
    late = ctx.wait_for_cloudevent(type="never")
    told = yield ctx.wait_for_cloudevent(type="durable.execution-completed", subject="it")
    late.cancel()
    yield ctx.create_timer(1)
    return told.get_data()["status"]


@app.orchestrator
def it(ctx: durable.OrchestrationContext) -> Any:
    yield ctx.create_timer(1)


def start(driven: Driven, name: str) -> None:
    started = Event(h.EXECUTION_STARTED, NOW, name=name, input=Raw(b"null"), execution_id=f"e-{name}", seed="s")
    driven.store.commit([create(name, started, 1, f"c-{name}")])
    driven.go_on(20, [ask.Hint([name])])


@pytest.mark.parametrize("lost", ["the request", "the answer"])
@pytest.mark.parametrize("kind", [ask.Deliver, ask.Claim, ask.Load, ask.Stands])
@pytest.mark.parametrize("number", range(8))
def test_an_end_is_told_once_and_a_wait_leaves_nothing(kind: type, number: int, lost: str) -> None:
    driven = Driven(codebase=Registered(app))
    call, asked = driven.answers[kind], iter(range(1_000))

    def fail_once(request: Any) -> Any:
        if next(asked) != number:
            return call(request)
        if lost == "the answer":
            call(request)
        return refuse()

    driven.answers[kind] = fail_once
    driven.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
    start(driven, "watch")
    start(driven, "it")
    driven.go_on(20)
    record, triggers = driven.store.load([Want("watch"), Want(TRIGGERS)])
    assert record is not None
    assert record.history is not None
    assert triggers is not None
    events = [event.type for row in record.history for event in decode_events(row)]
    assert (record.summary.status.value, record.summary.output) == ("COMPLETED", Raw(b'"COMPLETED"'))
    assert events.count(h.EVENT_RAISED) == 1
    hub = hub_of(Instance.of_record(triggers))
    assert (hub.ids, hub.counts.taken, hub.hearing) == ([], 1, [])
    assert driven.store.due(0, "default", driven.now.timestamp() + 1_000, 100).items == []
