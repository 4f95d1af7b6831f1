"""What a worker hands back is due at once, and no reason to doubt the broker; what was sent and comes due is one."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from msgspec.structs import replace

from durable.backends.memory import MemoryStore
from durable.engine.instance import Env, Invocation, task_key
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.ports import Append, Commit, Lease, Row, RowKey
from durable.replay.guard import Watch
from durable.runtime.courier import Courier
from durable.runtime.serving import Patience, Serving
from durable.runtime.workload import Workload
from tests.laws.driven import drive

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AT = NOW.timestamp()
KEY = task_key("e", 1, 1)
INVOCATION = Invocation("i", "e", 1, 1, "act", Raw(b"null"), KEY)


class Names:
    def serves_activity(self, name: str) -> bool:
        return True

    def known(self, kind: str) -> list[str]:
        return []


@pytest.fixture
def store() -> MemoryStore:
    """Where the first worker has just committed the turn that calls an activity."""
    store = MemoryStore(1)
    started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="e", seed="s")
    scheduled = Event(h.TASK_SCHEDULED, NOW, 1, name="act", attempt=1, input=Raw(b"null"))
    made = create("i", started, 1, "c")
    appends = (*made.appends, Append("e", 1, h.encode_events([scheduled])))
    row = Row(KEY, "task", "i", 0, AT + 60.0, "first")
    store.commit([Commit(made.id, "i", 0, 0, replace(made.summary, length=2), appends, (row,))])
    return store


def workload(me: str, sent: float = 300.0) -> Workload:
    env = Env(me, 60.0, iter(f"id{n}" for n in range(10)).__next__, 1, Limits(), Watch())
    serving = Serving(by_mail=True, eager=False, patience=Patience(sent=sent))
    return Workload(env, serving, Names(), Courier(env, serving, lambda: NOW), lambda: NOW)


def recovered(store: MemoryStore) -> Workload:
    """The worker that comes next, once it has found what is due."""
    second = workload("second")
    second.orphans = {row.key: row for row in store.due(0, "default", AT, 10).items if row.kind == "task"}
    drive(store, second.recover(10))
    assert second.held.keys() == second.courier.outgoing.keys() == {KEY}
    return second


def test_what_is_handed_back_is_no_reason_to_doubt_the_broker(store: MemoryStore) -> None:
    first = workload("first")
    drive(store, first.begin([INVOCATION]))
    drive(store, first.hand_back())
    assert not recovered(store).overdue


def test_what_was_sent_and_comes_due_is_one(store: MemoryStore) -> None:
    first = workload("first", sent=0.0)
    drive(store, first.begin([INVOCATION]))
    first.sent.add(KEY)
    drive(store, first.hand_back())
    assert recovered(store).overdue


def test_what_was_sent_and_came_back_is_not_with_the_broker(store: MemoryStore) -> None:
    """Another worker leased it, stopped and handed it back to the first one, which stops too."""
    first = workload("first")
    drive(store, first.begin([INVOCATION]))
    first.sent.add(KEY)
    assert store.lease([Lease(0, KEY, "first", 0, AT, "second")]) == [True]
    first.closed = True
    first.orphans = {row.key: row for row in store.rows([RowKey(0, KEY)]) if row is not None}
    drive(store, first.recover(10))
    drive(store, first.hand_back())
    [row] = store.rows([RowKey(0, KEY)])
    assert row is not None
    assert row.due_at <= AT
