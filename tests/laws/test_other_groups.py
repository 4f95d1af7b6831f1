"""A partition's number says nothing about the group: what is for another group's worker is told to it, once."""

from __future__ import annotations

import pytest

import durable
from durable.engine.messages import Message, encode_message
from durable.engine.step import create, in_place_of
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.ports import FACTS, Commit, Outcome, Row, Want
from durable.runtime import requests as ask
from tests.laws.driven import NOW, Driven, Registered


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def driven(told: list[str]) -> Driven:
    """A loop that serves one group, with an instance of another one in a partition whose number it has too."""
    driven = Driven()
    driven.answers[ask.Notify] = lambda request: told.extend(request.instance_ids if request.topic == FACTS else ())
    driven.store.commit([instance("here", ""), instance("far", "night")])
    driven.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
    return driven


def instance(instance_id: str, group: str, name: str = "unserved", life: str = "e") -> Commit:
    started = Event(
        h.EXECUTION_STARTED,
        NOW,
        name=name,
        input=Raw(b"null"),
        execution_id=f"{life} {instance_id}",
        seed="s",
        group=group,
    )
    return create(instance_id, started, 1, f"c {life} {instance_id}")


def test_who_sends_to_another_group_tells_its_worker_at_once(driven: Driven, told: list[str]) -> None:
    body = encode_message(Message("fact", "far", Event(h.EVENT_RAISED, NOW, name="x", input=Raw(b"null"))))
    driven.loop.outbox.add(Row("e/1/0/event", "message", "here", 0, NOW.timestamp(), body=body))
    driven.go_on(1)
    assert told == ["far"]


def test_what_is_warm_is_let_go_when_its_next_life_is_another_groups() -> None:
    app = durable.Registry()

    @app.orchestrator
    def leaves_work(ctx: durable.OrchestrationContext) -> None:
        ctx.call_activity("unserved")

    driven = Driven(codebase=Registered(app))
    driven.store.commit([instance("x", "", "leaves_work")])
    driven.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
    assert list(driven.loop.turns.warm) == ["x"], "an outcome may still come"
    [ended] = driven.store.load([Want("x")])
    assert ended is not None
    assert ended.summary.status.finished
    again = instance("x", "night", "leaves_work", "another life")
    assert driven.store.commit([in_place_of(ended, again)]) == [Outcome.COMMITTED]
    rows = driven.store.due(0, "night", NOW.timestamp() + 60, 10).items
    driven.go_on(2, [ask.Hint(["x"])])
    assert list(driven.loop.turns.warm) == []
    assert driven.store.due(0, "night", NOW.timestamp() + 60, 10).items == rows, "they are another worker's"


def test_what_was_heard_is_not_told_again(driven: Driven, told: list[str]) -> None:
    driven.go_on(3, [ask.Hint(["far"])])
    assert told == []
