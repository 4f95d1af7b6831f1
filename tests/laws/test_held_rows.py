"""The rows of activities that are a worker's: kept while it has them, and let go of so that somebody else has them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest
from msgspec.structs import replace

from durable.backends.memory import MemoryStore
from durable.engine.instance import Env, Invocation, task_key
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.payload.claims import Claim
from durable.ports import Append, Commit, Lease, Row, RowKey
from durable.replay.guard import Watch
from durable.runtime.courier import Courier
from durable.runtime.serving import ALONE, Patience, Serving
from durable.runtime.workload import Workload
from tests.laws.driven import Nothing, drive

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AT = NOW.timestamp()
HOLD, SENT = 60.0, 300.0
KEYS = [task_key("e", number, 1) for number in (1, 2, 3)]
SEALED = Claim("/".join(["0" * 32, "1" * 32, "2" * 64]), 70_000, "is missing").written
INVOCATIONS = [Invocation("i", "e", n, 1, "act", Raw(b"null"), key) for n, key in enumerate(KEYS, 1)]


class Names:
    def serves_activity(self, name: str) -> bool:
        return True

    def known(self, kind: str) -> list[str]:
        return []


class Here:
    """The rows of a worker that has just committed the turn that calls three activities, all of which go by mail."""

    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryStore(1)
        started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="e", seed="s")
        made = create("i", started, 1, "c")
        events = [Event(h.TASK_SCHEDULED, NOW, n, name="act", attempt=1, input=Raw(b"null")) for n in (1, 2, 3)]
        rows = tuple(Row(key, "task", "i", 0, AT + HOLD, "me") for key in KEYS)
        appends = (*made.appends, Append("e", 1, h.encode_events(events)))
        self.store.commit([Commit(made.id, "i", 0, 0, replace(made.summary, length=4), appends, rows)])
        env = Env("me", HOLD, iter(()).__next__, 1, Limits(), Watch())
        serving = Serving(by_mail=True, eager=False, patience=Patience(sent=SENT))
        self.courier = Courier(env, serving, lambda: self.now)
        self.work = Workload(env, serving, Names(), self.courier, lambda: self.now)

    def begin(self, sent: Sequence[str] = ()) -> None:
        """sent: those that the broker has by now."""
        drive(self.store, self.work.begin(INVOCATIONS))
        self.work.sent.update(sent)

    def recover(self, limit: int = 10) -> None:
        self.work.orphans = {row.key: row for row in self.rows()}
        drive(self.store, self.work.recover(limit))

    def rows(self) -> list[Row]:
        rows = self.store.rows([RowKey(0, key) for key in KEYS])
        return [row for row in rows if row is not None]

    def stands(self) -> list[tuple[float, str]]:
        """For each row the seconds until anybody may have it, and its holder."""
        return [(row.due_at - self.now.timestamp(), row.holder) for row in self.rows()]


@pytest.fixture
def here() -> Here:
    return Here()


def test_what_begins_while_a_worker_drains_is_all_handed_back(here: Here) -> None:
    here.work.closed = True
    here.begin()
    drive(here.store, here.work.hand_back())
    assert here.stands() == [(0.0, "me")] * 3
    assert here.work.held == {}


def test_what_is_with_the_broker_is_handed_back_to_whoever_gets_it_and_is_not_due(here: Here) -> None:
    here.begin(sent=KEYS[1:])
    drive(here.store, here.work.hand_back())
    assert here.stands() == [(0.0, "me"), (SENT, ""), (SENT, "")]


def test_what_a_queue_has_lost_is_due_at_once_and_nothing_else(here: Here) -> None:
    here.begin(sent=KEYS[1:])
    drive(here.store, here.work.send_again())
    assert here.stands() == [(HOLD, "me"), (0.0, ""), (0.0, "")]
    assert [*here.work.held] == KEYS[:1]
    assert not here.work.sent


def test_what_is_given_up_is_due_at_once_if_it_was_held(here: Here) -> None:
    here.begin()
    here.work.running.update([*KEYS, "delivered"])
    drive(here.store, here.work.give_up([KEYS[0], "delivered"]))
    assert here.stands() == [(0.0, "me"), (HOLD, "me"), (HOLD, "me")]
    assert here.work.running == {*KEYS[1:]}


def test_what_was_delivered_and_leased_is_kept_as_long_as_it_runs_and_then_handed_back(here: Here) -> None:
    lease = Lease(0, KEYS[0], "me", 0, AT + HOLD, "me")
    assert here.store.lease([lease]) == [True]
    here.work.hold(lease)
    for _ in range(3):
        here.now += timedelta(seconds=HOLD - 1)
        drive(here.store, here.work.renew(here.now.timestamp()))
        assert here.stands()[0] == (HOLD, "me")
    drive(here.store, here.work.hand_back())
    assert here.stands()[0] == (0.0, "me")


def test_what_is_found_is_held_and_sent_as_what_may_be_a_second_copy(here: Here) -> None:
    here.now += timedelta(seconds=HOLD)
    here.recover(limit=2)
    assert here.stands() == [(HOLD, "me"), (HOLD, "me"), (0.0, "me")]
    assert here.courier.outgoing.keys() == here.work.held.keys() == {*KEYS[:2]}
    assert all(outgoing.resent for outgoing in here.courier.outgoing.values())
    assert [*here.work.orphans] == KEYS[2:]


@pytest.mark.parametrize("unanswered", KEYS)
def test_one_row_that_was_sent_and_comes_due_is_a_reason_to_doubt_the_broker(here: Here, unanswered: str) -> None:
    here.recover()
    assert not here.work.overdue
    here.work.sent.add(unanswered)
    drive(here.store, here.work.send_again())
    here.recover()
    assert here.work.overdue


@pytest.mark.parametrize(
    ("queue", "given", "reason"),
    [
        ("default", b"null", "no worker here serves it"),
        ("gpu", b"null", "no worker here serves queue 'gpu', only default"),
        ("default", SEALED, "its input"),
    ],
)
def test_what_nobody_here_can_run_is_said_once_with_the_reason(
    queue: str, given: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    env = Env("me", HOLD, iter(()).__next__, 1, Limits(), Watch())
    work = Workload(env, ALONE, Nothing(), Courier(env, ALONE, lambda: NOW), lambda: NOW)
    waiting = [replace(invocation, queue=queue, input=Raw(given)) for invocation in INVOCATIONS]
    assert list(work.begin(waiting)) == []
    [said] = caplog.messages
    assert f"'act' (instance 'i') waits: {reason}" in said
    work.code_changed()
    assert list(work.begin(waiting)) == []
    assert len(caplog.messages) == 2
