"""Instances that wait for what is not in sight: what is said of them, and for how long they are remembered."""

from __future__ import annotations

import pytest

from durable.backends.memory import MemoryStore
from durable.engine.instance import Env
from durable.engine.step import create
from durable.engine.suspension import WAITS as SUSPENDED
from durable.model import history as h
from durable.model.history import Event, Raw, encode_event
from durable.model.limits import Limits
from durable.ports import PARKED, Fact, Row
from durable.replay.guard import Watch
from durable.runtime.parking import RESTING, Parking
from tests.laws.driven import NOW


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


@pytest.mark.parametrize(("reason", "seconds"), [(SUSPENDED, RESTING), ("no code", 60.0)])
def test_the_inbox_of_one_that_waits_is_left_alone_for_a_while_unless_this_worker_dies(
    parking: Parking, reason: str, seconds: float
) -> None:
    now = NOW.timestamp()
    store = MemoryStore(1)
    started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="e", seed="s")
    store.commit([create("a", started, 1, "c")])
    store.deliver([Fact("a", 0, "f", encode_event(Event(h.EVENT_RAISED, NOW, name="x")), now)])
    rows = store.due(0, "default", now, 10).items
    assert rows
    kept = Row("in/kept", "inbox", "a", 0, now, group=PARKED)
    assert all(store.lease(parking.park("a", reason, [*rows, kept], now)))
    assert store.due(0, "default", now + seconds - 1, 10).items == []
    after = store.due(0, "default", now + seconds, 10).items
    assert {row.key for row in after} == {row.key for row in rows}
    assert {row.holder for row in after} == {"me"}
