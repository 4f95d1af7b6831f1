"""Instances that wait for what is not in sight: what is said of them, and for how long they are remembered."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from durable.engine.instance import Env
from durable.engine.suspension import WAITS as SUSPENDED
from durable.engine.triggering import CHANGED, begin
from durable.model.history import Event, Raw, encode_events
from durable.model.limits import Limits
from durable.ports import Append
from durable.replay.guard import Watch
from durable.runtime import requests as ask
from durable.runtime.parking import Parking
from tests.laws.driven import NOW, Driven


@pytest.fixture
def parking() -> Parking:
    return Parking(Env("me", 60.0, str, 1, Limits(), Watch()), lambda: NOW)


def test_why_one_waits_is_said_once_and_a_rest_is_not(parking: Parking, caplog: pytest.LogCaptureFixture) -> None:
    for reason in (SUSPENDED, "no code", "no code", "other code", SUSPENDED, "no code"):
        parking.park("a", reason, (), NOW.timestamp())
    assert [record.getMessage() for record in caplog.records] == ["orchestration 'a' waits: no code"]


@pytest.mark.parametrize("end", ["leave", "keep_only", "empty"])
def test_one_that_has_gone_is_not_remembered_and_waits_anew_when_it_comes_back(
    parking: Parking, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    gone = {"leave": lambda: parking.leave("a"), "keep_only": lambda: parking.keep_only("b".__eq__)}
    for _ in range(2):
        parking.park("a", "no code", (), NOW.timestamp())
        assert "a" in parking
        gone.get(end, parking.empty)()
        assert "a" not in parking
    assert caplog.text.count("waits: no code") == 2


def test_events_of_sources_are_left_to_whoever_can_read_the_triggers() -> None:
    """They are neither acknowledged nor taken for outcomes of activities, which go into an inbox."""
    driven = Driven()
    created = begin(NOW, lambda: "e", 1)
    newer = Append("e", 1, encode_events([Event(CHANGED, NOW, input=Raw(b'{"added": 7}'))]))
    driven.store.commit([created, replace(created, id="newer", expect=1, appends=(newer,))])
    asked: list[ask.Request] = []
    for kind in (ask.Settle, ask.Taken, ask.Deliver):
        driven.answers[kind] = asked.append
    driven.go_on(1, [ask.Assigned([("default", 0)], {"me"})])
    driven.go_on(3, [ask.Occurred([b"{}"], ask.SourceTag("orders", 1, 1))])
    assert asked == []
