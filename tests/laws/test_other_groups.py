"""A partition's number says nothing about the group: what is for another group's worker is told to it, once."""

from __future__ import annotations

import pytest

from durable.engine.messages import Message, encode_message
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.ports import FACTS, Commit, Row
from durable.runtime import requests as ask
from tests.laws.driven import NOW, Driven


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


def instance(instance_id: str, group: str) -> Commit:
    started = Event(
        h.EXECUTION_STARTED,
        NOW,
        name="unserved",
        input=Raw(b"null"),
        execution_id=f"e {instance_id}",
        seed="s",
        group=group,
    )
    return create(instance_id, started, 1, f"c {instance_id}")


def test_who_sends_to_another_group_tells_its_worker_at_once(driven: Driven, told: list[str]) -> None:
    body = encode_message(Message("fact", "far", Event(h.EVENT_RAISED, NOW, name="x", input=Raw(b"null"))))
    driven.loop.outbox.add(Row("e/1/0/event", "message", "here", 0, NOW.timestamp(), body=body))
    driven.go_on(1)
    assert told == ["far"]


def test_what_was_heard_is_not_told_again(driven: Driven, told: list[str]) -> None:
    driven.go_on(3, [ask.Hint(["far"])])
    assert told == []
