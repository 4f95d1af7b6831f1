"""What may be a second copy of an invocation is leased, and its delivery kept until the row is somebody's."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timezone
from itertools import islice
from typing import Any

import pytest

from durable.backends.memory import MemoryStore
from durable.engine.instance import Env, Invocation, task_key
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.ports import Commit, Delivery, Lease, Row
from durable.replay.guard import Watch
from durable.runtime.courier import Courier
from durable.runtime.intake import Intake
from durable.runtime.requests import Claim, Read, Request, Run
from durable.runtime.roster import Roster
from durable.runtime.serving import Serving
from durable.runtime.wire import Work
from durable.runtime.workload import Workload

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AT = NOW.timestamp()
KEY = task_key("e", 1, 1)
INVOCATION = Invocation("i", "e", 1, 1, "quick", Raw(b"null"), KEY)
LET_GO = Lease(0, KEY, "sender", 0, AT + 300.0)  # as a worker does that drains
DROPPED = Lease(0, KEY, "sender", 0, None)


class Names:
    def serves_activity(self, name: str) -> bool:
        return True

    def known(self, kind: str) -> list[str]:
        return []


class Here:
    """The intake of a worker, beside a living one that has sent an invocation, on a store that has its row."""

    def __init__(self) -> None:
        self.store = MemoryStore(1)
        started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="e", seed="s")
        made = create("i", started, 1, "c")
        row = Row(KEY, "task", "i", 0, AT + 60.0, "sender")
        self.store.commit([Commit(made.id, "i", 0, 0, made.summary, made.appends, (row,))])
        env = Env("me", 60.0, iter(f"id{n}" for n in range(10)).__next__, 1, Limits(), Watch())
        serving = Serving(by_mail=True, slots=4)
        roster = Roster("me")
        roster.update(["me", "sender", "other"], 0.0)
        self.courier = Courier(env, serving, lambda: NOW)
        self.workload = Workload(env, serving, Names(), self.courier, lambda: NOW)
        self.intake = Intake(env, serving, self.workload, self.courier, roster, lambda: NOW)
        self.ran: list[Invocation] = []

    def offer(self) -> None:
        work = Work(INVOCATION, "back", "sender", False, AT)
        self.intake.offered.append((work, Delivery("work", b"", "tag", redelivered=True)))

    def drive(self, requests: Generator[Request, Any, None], *meanwhile: Lease) -> None:
        """`meanwhile`: what somebody else does between our reading and our leasing, each time one."""
        others = iter(meanwhile)
        answer: Any = None
        while True:
            try:
                request = requests.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(request, Read):
                answer = self.store.rows(request.keys)
                for lease in islice(others, 1):
                    assert self.store.lease([lease]) == [True]
            elif isinstance(request, Claim):
                answer = self.store.lease(request.leases)
            elif isinstance(request, Run):
                self.ran += request.invocations

    @property
    def holder(self) -> str:
        [row] = [row for row in self.store.due(0, "default", AT + 1_000.0, 10).items if row.kind == "task"]
        return row.holder


@pytest.fixture
def here() -> Here:
    return Here()


def test_what_its_sender_lets_go_of_meanwhile_runs_here(here: Here) -> None:
    here.offer()
    here.drive(here.intake.accept(), LET_GO)
    assert here.ran == [INVOCATION]
    assert here.holder == "me"
    assert here.courier.done == ["tag"]


def test_what_is_recorded_meanwhile_does_not_run(here: Here) -> None:
    here.offer()
    here.drive(here.intake.accept(), DROPPED)
    assert here.ran == []
    assert here.courier.done == ["tag"]


def test_what_another_leases_meanwhile_does_not_run(here: Here) -> None:
    here.offer()
    here.drive(here.intake.accept(), LET_GO._replace(holder="other"))
    assert here.ran == []
    assert here.holder == "other"
    assert here.courier.done == ["tag"]


def test_two_copies_at_once_are_one(here: Here) -> None:
    here.offer()
    here.offer()
    here.drive(here.intake.accept())
    assert here.ran == [INVOCATION]
    assert here.courier.done == ["tag", "tag"]


def test_what_runs_here_is_held_before_its_delivery_is_acknowledged(here: Here) -> None:
    """Its connection is lost at the moment its sender lets go of it."""
    here.courier.take(Work(INVOCATION, "back", "sender", False, AT), "tag")
    here.drive(here.intake.connection_lost(), LET_GO)
    assert here.holder == "me"
    assert KEY in here.workload.held
    assert here.courier.done == ["tag"]
