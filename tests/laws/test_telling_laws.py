"""What is told between orchestrations and triggers arrives, once, whichever request to the store fails on the way."""

from __future__ import annotations

import math
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
from durable.runtime.serving import Serving
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


@app.orchestrator
def watch_both(ctx: durable.OrchestrationContext) -> Any:
    """Wait for the beginning and the end of "at_once"."""
    kinds = "started", "completed"
    told = yield [ctx.wait_for_cloudevent(type=f"durable.execution-{kind}", subject="at_once") for kind in kinds]
    return [event.get_data()["status"] for event in told]


@app.orchestrator(group="night")
def at_once(ctx: durable.OrchestrationContext) -> None:
    """Begins and ends in one turn."""


def start(driven: Driven, name: str, group: str = "") -> None:
    started = Event(
        h.EXECUTION_STARTED, NOW, name=name, input=Raw(b"null"), execution_id=f"e-{name}", seed="s", group=group
    )
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


def test_what_is_told_is_a_row_of_its_group_held_by_whoever_has_to_send_it() -> None:
    """Or, where that one has died, nobody of the group would find it."""
    driven = Driven(Serving(groups=("default", "night")), Registered(app))
    driven.go_on(2, [ask.Assigned([("default", 0), ("night", 0)], ["me"])])
    start(driven, "watch_both")
    deliver, driven.answers[ask.Deliver] = driven.answers[ask.Deliver], lambda _: refuse()
    start(driven, "at_once", "night")
    [record] = driven.store.load([Want("at_once")])
    assert record is not None
    rows = driven.store.due(0, "night", math.inf, 10).items
    assert len({row.key for row in rows}) == 2
    until = record.summary.updated_at.timestamp() + driven.loop.env.hold
    assert {(row.kind, row.instance_id, row.due_at, row.holder) for row in rows} == {
        ("message", "at_once", until, "me")
    }
    driven.answers[ask.Deliver] = deliver
    driven.go_on(20)
    [watching] = driven.store.summaries(["watch_both"])
    assert watching is not None
    assert watching.output == Raw(b'["RUNNING","COMPLETED"]')
