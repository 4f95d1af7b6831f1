"""Instances that wait for what is not in sight: what is said of them, and for how long they are remembered."""

from __future__ import annotations

import pytest

from durable.engine.instance import Env
from durable.engine.suspension import WAITS as SUSPENDED
from durable.model.limits import Limits
from durable.replay.guard import Watch
from durable.runtime.parking import Parking
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
