"""What may be a second copy of an invocation is leased, and its delivery kept until the row is somebody's."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timezone
from itertools import islice
from typing import Any

import pytest
from msgspec.structs import replace

from durable.backends.memory import MemoryStore
from durable.engine.instance import Env, Invocation, task_key
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.ports import Append, Commit, Delivery, Lease, Row, RowKey, Want
from durable.replay.guard import Watch
from durable.runtime.courier import Courier
from durable.runtime.intake import Intake
from durable.runtime.requests import Claim, Load, Read, Request, Run
from durable.runtime.roster import Roster
from durable.runtime.serving import Serving
from durable.runtime.wire import Work
from durable.runtime.workload import Workload

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AT = NOW.timestamp()
KEY = task_key("e", 1, 1)
INVOCATION = Invocation("i", "e", 1, 1, "quick", Raw(b"null"), KEY)
OTHER = Invocation("i", "e", 2, 1, "quick", Raw(b"null"), task_key("e", 2, 1))
LET_GO = Lease(0, KEY, "sender", 0, AT + 300.0)  # as a worker does that drains
DROPPED = Lease(0, KEY, "sender", 0, None)


class Names:
    served = True

    def serves_activity(self, name: str) -> bool:
        return self.served

    def known(self, kind: str) -> list[str]:
        return []


class Here:
    """The intake of a worker, beside a living one that has sent an invocation, on a store that has its row."""

    def __init__(self) -> None:
        self.store = MemoryStore(1)
        started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="e", seed="s")
        scheduled = Event(h.TASK_SCHEDULED, NOW, 1, name="quick", attempt=1, input=Raw(b"null"))
        made = create("i", started, 1, "c")
        appends = (*made.appends, Append("e", 1, h.encode_events([scheduled])))
        row = Row(KEY, "task", "i", 0, AT + 60.0, "sender")
        self.store.commit([Commit(made.id, "i", 0, 0, replace(made.summary, length=2), appends, (row,))])
        env = Env("me", 60.0, iter(f"id{n}" for n in range(10)).__next__, 1, Limits(), Watch())
        serving = Serving(by_mail=True, slots=4)
        roster = Roster("me")
        roster.update(["me", "sender", "other"], 0.0)
        self.courier = Courier(env, serving, lambda: NOW)
        self.names = Names()
        self.workload = Workload(env, serving, self.names, self.courier, lambda: NOW)
        self.intake = Intake(env, serving, self.workload, self.courier, roster, lambda: NOW)
        self.ran: list[Invocation] = []
        self.asked: list[type[Request]] = []

    def offer(
        self,
        invocation: Invocation = INVOCATION,
        tag: str = "tag",
        *,
        redelivered: bool = True,
        resent: bool = False,
        sent_at: float = AT,
    ) -> None:
        work = Work(invocation, "back", "sender", resent, sent_at)
        self.intake.offered.append((work, Delivery("work", b"", tag, redelivered)))

    def drive(self, requests: Generator[Request, Any, None], *meanwhile: Lease) -> None:
        """`meanwhile`: what somebody else does between our reading and our leasing, each time one."""
        others = iter(meanwhile)
        answer: Any = None
        while True:
            try:
                request = requests.send(answer)
            except StopIteration:
                return
            self.asked.append(type(request))
            answer = None
            if isinstance(request, Load):
                answer = self.store.load(request.wants)
            elif isinstance(request, Read):
                answer = self.store.rows(request.keys)
                for lease in islice(others, 1):
                    assert self.store.lease([lease]) == [True]
            elif isinstance(request, Claim):
                answer = self.store.lease(request.leases)
            elif isinstance(request, Run):
                self.ran += request.invocations

    @property
    def row(self) -> Row:
        [row] = self.store.rows([RowKey(0, KEY)])
        assert row is not None
        return row


@pytest.fixture
def here() -> Here:
    return Here()


def test_what_its_sender_lets_go_of_meanwhile_runs_here(here: Here) -> None:
    here.offer()
    here.drive(here.intake.accept(), LET_GO)
    assert here.ran == [INVOCATION]
    assert (here.row.holder, here.row.due_at) == ("me", AT + 60.0)
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
    assert here.row.holder == "other"
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
    assert here.row.holder == "me"
    assert KEY in here.workload.held
    assert here.courier.done == ["tag"]


def test_a_fresh_one_runs_without_a_question_and_keeps_its_delivery(here: Here) -> None:
    here.offer(redelivered=False)
    here.drive(here.intake.accept())
    assert here.ran == [INVOCATION]
    assert here.asked == [Run]
    assert here.courier.taken[KEY].tag == "tag"
    assert here.courier.done == []


@pytest.mark.parametrize("doubt", [{"redelivered": True}, {"resent": True}, {"sent_at": AT - 31.0}])
def test_whatever_may_have_run_already_is_looked_up(here: Here, doubt: dict[str, Any]) -> None:
    here.offer(**{"redelivered": False, **doubt})
    here.drive(here.intake.accept(), DROPPED)
    assert here.ran == []
    assert here.courier.done == ["tag"]


@pytest.mark.parametrize("redelivered", [True, False])
def test_what_nobody_here_can_run_is_put_off_for_others(here: Here, redelivered: bool) -> None:
    """Its sender sends it again, and not at once: it may come back here."""
    here.names.served = False
    here.offer(redelivered=redelivered)
    here.drive(here.intake.accept())
    assert here.ran == []
    assert (here.row.holder, here.row.due_at) == ("", AT + 10.0)
    assert (here.courier.taken, here.workload.held) == ({}, {})
    assert here.courier.done == ["tag"]


@pytest.mark.parametrize("over", [b"null", b""])
@pytest.mark.parametrize("open", [b"null", b""])
def test_one_that_is_over_holds_up_no_other(here: Here, over: bytes, open: bytes) -> None:
    """Whether its input has travelled or was too large for that."""
    here.offer(replace(OTHER, input=Raw(over)), "gone")
    here.offer(replace(INVOCATION, input=Raw(open)), "tag")
    here.drive(here.intake.accept())
    assert [(ran.row_key, bytes(ran.input)) for ran in here.ran] == [(KEY, b"null")]
    assert sorted(map(str, here.courier.done)) == ["gone", "tag"]


def test_one_that_was_leased_meanwhile_holds_up_no_other(here: Here) -> None:
    here.store.lease([LET_GO])
    second = Row(OTHER.row_key, "task", "i", 0, AT + 60.0, "sender")
    [record] = here.store.load([Want("i")])
    assert record is not None
    here.store.commit([Commit("c2", "i", 0, record.version, record.summary, (), (second,))])
    here.offer(tag="leased")
    here.offer(OTHER, "tag")
    here.drive(here.intake.accept(), Lease(0, KEY, "", 1, AT + 60.0, "other"))
    assert here.ran == [OTHER]
    assert here.row.holder == "other"
    assert sorted(map(str, here.courier.done)) == ["leased", "tag"]


def test_what_comes_to_one_that_stops_goes_back(here: Here) -> None:
    here.workload.closed = True
    here.offer()
    here.drive(here.intake.accept())
    assert (here.ran, here.courier.done) == ([], [])
    assert here.courier.back == ["tag"]


def test_what_runs_here_under_its_own_row_is_not_run_again(here: Here) -> None:
    here.workload.running.add(KEY)
    here.offer()
    here.drive(here.intake.accept())
    assert here.ran == []
    assert here.courier.done == ["tag"]


def test_of_what_runs_here_the_last_delivery_is_kept(here: Here) -> None:
    """The connection of the first one may be gone."""
    here.offer(tag="first", redelivered=False)
    here.drive(here.intake.accept())
    here.offer(tag="second")
    here.drive(here.intake.accept())
    assert here.ran == [INVOCATION]
    assert here.courier.done == ["first"]
    assert here.courier.taken[KEY].tag == "second"


def test_of_what_is_leased_no_delivery_is_kept(here: Here) -> None:
    here.offer(tag="first")
    here.drive(here.intake.accept())
    here.offer(tag="second")
    here.drive(here.intake.accept())
    assert here.ran == [INVOCATION]
    assert here.courier.done == ["first", "second"]
    assert here.courier.taken[KEY].tag is None
