"""The laws of a turn where something begins or ends: a start, an execution, a life."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from durable.backends.memory import MemoryStore
from durable.engine.codeless import outcome_of, terminate_request
from durable.engine.effects import timer_arrival
from durable.engine.instance import Arrival, Instance, task_key, timer_key, wake_key
from durable.engine.messages import child_outcome
from durable.engine.step import create, created, in_place_of, step, uncreated
from durable.model import history as h
from durable.model.failure import FailureDetails
from durable.model.history import Event, Former, Parent, Raw, encode_event
from durable.model.limits import Limits
from durable.model.names import partition_of
from durable.model.retry import RetryPolicy
from durable.model.status import RuntimeStatus, Summary
from durable.ports import PARKED, Fact, Outcome, Row, Want
from durable.replay.callee import ActivityRef
from durable.replay.context import OrchestrationContext

from .stored import PARENT, PARTITIONS, Stored, all_open, begun, kept
from .test_replay_laws import NOW, code_of


def test_what_begins_and_ends_in_one_turn_leaves_nothing() -> None:
    def hasty(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        wanted, given_up, late = ctx.call_activity("a", 1), ctx.call_activity("b", 2), ctx.create_timer(5)
        given_up.cancel()
        late.cancel()
        return (yield wanted)

    here = Stored(begun(code_of(hasty)))
    assert [row.key for row in here.rows()] == [task_key("x", 1, 1)]


def test_a_start_that_waits_for_its_time_is_begun_by_its_row() -> None:
    at = NOW + timedelta(hours=1)
    life = all_open()
    here = Stored(life._replace(started=msgspec.structs.replace(life.started, fire_at=at, group="g")), begun=False)
    [row] = here.rows()
    assert (row.kind, row.key, row.due_at, row.group) == ("timer", timer_key("x", 0, 0), at.timestamp(), "g")
    event = Arrival(Event(h.EVENT_RAISED, NOW, name="go"), "", "in/1")
    stale = Arrival(Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1), "of the life before", "in/2")
    early = here.take([event, stale])
    assert early.alarm == row
    assert early.ignored == 1
    assert early.commit is not None
    assert early.commit.drop == ("in/2", task_key("of the life before", 1, 1))
    assert here.take([event]).commit is None

    due = timer_arrival(row, NOW)  # by a clock that has gone back since
    assert (due.event, due.execution_id, due.row_key) == (Event(h.TIMER_FIRED, at), "x", row.key)
    assert here.take([event, due]).began
    assert here.instance.summary.status is RuntimeStatus.RUNNING
    assert here.instance.summary.updated_at == at
    assert row.key not in {left.key for left in here.rows()}


@pytest.mark.parametrize("parent", [None, PARENT])
def test_a_creation_and_what_is_stored_are_the_same(parent: Parent | None) -> None:
    started = all_open().started
    started = msgspec.structs.replace(started, parent=parent, tags={"a": "b"}, version="2", reply_to="me", group="g")
    creation = create("i", started, PARTITIONS, "c")
    assert creation.summary == Summary(
        "i",
        "x",
        "o",
        RuntimeStatus.PENDING,
        NOW,
        NOW,
        version="2",
        tags={"a": "b"},
        parent_instance_id="p" if parent else "",
        group="g",
        reply_to="me",
        length=1,
    )
    [wakes] = creation.put
    assert (wakes.key, wakes.kind, wakes.due_at, wakes.holder) == (wake_key("x"), "inbox", NOW.timestamp(), "")
    store = MemoryStore(PARTITIONS)
    assert store.commit([creation]) == [Outcome.COMMITTED]
    assert store.load([Want("i")]) == [created(creation)]
    running = msgspec.structs.replace(creation.summary, status=RuntimeStatus.RUNNING)  # as a fork is created
    instance = Instance.of_record(created(msgspec.structs.replace(creation, summary=running)))
    here = Stored(all_open())
    assert step(instance, [], here.life.code, "", NOW, here.env).began
    before = uncreated(creation)
    assert (before.version, before.summary, before.history) == (0, creation.summary, created(creation).history)
    assert (before.commit_id, before.inbox) == ("", ())


def test_another_life_takes_the_place_of_a_finished_one_and_what_waits_for_it() -> None:
    here = Stored(all_open())
    here.turn([Arrival(terminate_request(Raw(b"1"), NOW, recursive=False))], None)
    partition = partition_of("i", PARTITIONS)
    here.store.deliver([Fact("i", partition, "early", encode_event(Event(h.EVENT_RAISED, NOW, name="go")), 0.0, True)])
    [record] = here.store.load([Want("i")])
    assert record is not None
    assert [row.group for row in record.inbox] == [PARKED]
    old = Row("in/old", "inbox", "i", partition, 0.0)
    record = msgspec.structs.replace(record, inbox=(*record.inbox, old))
    started = msgspec.structs.replace(here.life.started, execution_id="y")
    again = in_place_of(record, create("i", started, PARTITIONS, "e"))
    assert (again.expect, again.replaces, again.drop) == (record.version, "x", ("in/old",))
    assert here.store.commit([again]) == [Outcome.COMMITTED]
    assert here.loaded().started == started


def told_on_the_way(ctx: OrchestrationContext, *given: Any) -> Generator[Any, Any, Any]:
    """Says where it is; begins anew after the second event, with the third one if that has come."""
    for number in range(2):
        ctx.set_custom_status([number, ctx.suggest_continue_as_new])
        yield ctx.wait_for_external_event("go")
    ctx.continue_as_new(1)


def go(row_key: str, execution_id: str = "") -> Arrival:
    return Arrival(Event(h.EVENT_RAISED, NOW, name="go", input=Raw(b"1")), execution_id, row_key)


def test_news_of_another_execution_does_not_hide_what_comes_behind_it() -> None:
    here = Stored(begun(code_of(told_on_the_way)))
    turn = here.take([go("in/1", "another"), go("in/2")])
    assert turn.ignored == 1
    assert here.instance.summary.custom_status == Raw(b"[1,false]")
    assert not {"in/1", "in/2"} - {*(turn.commit.drop if turn.commit else ())}


def test_what_comes_behind_the_last_event_of_an_execution_is_for_the_next_one() -> None:
    life = begun(code_of(told_on_the_way))
    more = {"fire_at": NOW, "formerly": (Former(1, "a", "b"),), "version": "2", "tags": {"a": "b"}, "parent": PARENT}
    here = Stored(life._replace(started=msgspec.structs.replace(life.started, **more)))
    rows = {row.key for row in here.rows()}
    here.turn([], None)
    before = here.instance
    cancel = Arrival(Event(h.EXECUTION_CANCELED, NOW), "", "in/4")
    turn = here.take([go("in/1"), go("in/2"), go("in/3"), cancel])
    assert turn.commit is not None
    assert {"in/1", "in/2"} <= {*turn.commit.drop}
    assert not {"in/3", "in/4"} & {*turn.commit.drop}
    assert turn.again
    started = here.instance.started
    at = {"timestamp": here.now, "execution_id": started.execution_id, "seed": started.seed, "input": started.input}
    assert started == msgspec.structs.replace(before.started, **at, fire_at=None, formerly=(), previous="x")
    assert len({"", "x", before.started.seed, started.seed, started.execution_id}) == 5
    assert bytes(started.input) == b"[1]"
    running = {"status": RuntimeStatus.RUNNING, "blocked_reason": "", "custom_status": Raw(b"[1,false]")}
    assert here.instance.summary == msgspec.structs.replace(
        before.summary, execution_id=started.execution_id, updated_at=here.now, length=here.instance.length, **running
    )
    assert {row.key for row in here.rows()} - rows == {wake_key(started.execution_id)}


def test_what_has_ended_leaves_no_timer_and_hears_of_what_is_late() -> None:
    def raced(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        retried = ActivityRef[Any, Any]("flaky", retry=RetryPolicy(3, first_interval=60))
        ctx.create_timer(60)
        yield ctx.task_any([ctx.call_activity(retried), ctx.wait_for_external_event("go")])

    failure = FailureDetails("ValueError", "boom", hierarchy=("ValueError", "Exception"))
    failed = Event(h.TASK_FAILED, NOW, task_id=2, attempt=1, failure=failure)
    for facts in ([], [Arrival(failed, "x")]):
        here = Stored(begun(code_of(raced)))
        assert not here.take(facts).late
        assert here.take([go("in/1")]).late
        assert here.instance.summary.status is RuntimeStatus.COMPLETED
        assert "timer" not in {row.kind for row in here.rows()}
    here = Stored(begun(code_of(lambda ctx: None)))
    assert here.instance.summary.status is RuntimeStatus.COMPLETED
    assert not here.take([]).late


@pytest.mark.parametrize("short", [{"history_events": 3}, {"history_bytes": 0}])
def test_it_is_told_that_its_history_is_long_when_it_is_longer_than_allowed(short: dict[str, int]) -> None:
    for more in (0, -1):
        here = Stored(begun(code_of(told_on_the_way)))
        assert here.instance.length == 3
        limits = Limits(
            **{name: (here.instance.size if name == "history_bytes" else most) + more for name, most in short.items()}
        )
        here.env = here.env._replace(limits=limits)
        here.take([go("in/1")])
        assert here.instance.summary.custom_status == Raw(b"[1,true]" if more else b"[1,false]")


def test_the_version_that_its_first_turn_took_stands() -> None:
    code = code_of(told_on_the_way)._replace(version="2")
    here = Stored(begun(code))
    assert here.instance.summary.version == "2"
    here.take([go("in/1")], code._replace(version="3"))
    assert here.instance.summary.version == "2"


def test_the_next_execution_has_the_version_that_was_asked_for() -> None:
    here = Stored(begun(code_of(lambda ctx: ctx.continue_as_new(1, version="3"))._replace(version="2")))
    assert (here.instance.summary.version, here.instance.started.version) == ("3", "3")


@pytest.mark.parametrize("waits", [True, False])
def test_what_has_not_begun_can_be_suspended_and_cancelled_without_its_code(waits: bool) -> None:
    life = all_open()
    at = NOW + timedelta(hours=1) if waits else None
    here = Stored(life._replace(started=msgspec.structs.replace(life.started, fire_at=at)), begun=False)
    code = life.code if waits else None
    suspended = here.take([Arrival(Event(h.EXECUTION_SUSPENDED, NOW), "", "in/1")])
    assert suspended.instance.summary.status is RuntimeStatus.SUSPENDED
    assert not here.instance.begun
    resumed = here.take([Arrival(Event(h.EXECUTION_RESUMED, NOW), "", "in/2")])
    assert resumed.instance.summary.status is RuntimeStatus.PENDING
    here.turn([Arrival(Event(h.EXECUTION_CANCELED, NOW, input=Raw(b"1")), "", "in/3")], code)
    assert (here.instance.summary.status, here.instance.summary.output) == (RuntimeStatus.CANCELED, Raw(b"1"))
    assert not here.instance.begun
    assert here.rows() == []


SUSPEND = Arrival(Event(h.EXECUTION_SUSPENDED, NOW), "", "in/suspend")
DONE = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=Raw(b"1"))
NO_NEWS = Arrival(Event(h.TIMER_FIRED, NOW, task_id=99), "x")


@pytest.mark.parametrize(("first", "drops"), [(go("in/1"), ["in/1"]), (NO_NEWS, [])])
def test_what_comes_before_a_suspend_is_taken_and_what_comes_behind_it_is_kept(
    first: Arrival, drops: list[str]
) -> None:
    here = Stored(all_open())
    outcome = Arrival(DONE, "x")
    turn = here.take([first, SUSPEND, outcome])
    kept(turn, [outcome])
    assert turn.commit is not None
    assert [*turn.commit.drop] == [*drops, task_key("x", 1, 1)]
    assert turn.again
    assert turn.instance.summary.status is RuntimeStatus.RUNNING
    assert here.take([SUSPEND]).instance.summary.status is RuntimeStatus.SUSPENDED


def test_what_is_blocked_keeps_all_and_is_suspended_once_its_code_is_back() -> None:
    here = Stored(all_open())
    early, outcome = Arrival(DONE, "x"), Arrival(msgspec.structs.replace(DONE, type=h.TASK_FAILED), "x")
    turn = here.turn([early, SUSPEND, outcome], None)
    kept(turn, [early, outcome])
    assert not turn.again
    before = here.instance.summary
    assert (before.status, before.blocked_reason) == (RuntimeStatus.BLOCKED, "no code here")
    here.take([SUSPEND])
    at = {"status": RuntimeStatus.SUSPENDED, "updated_at": here.now, "blocked_reason": ""}
    assert here.instance.summary == msgspec.structs.replace(before, length=before.length + 1, **at)
    assert wake_key("x") not in {row.key for row in here.rows()}
    again = here.turn([SUSPEND], None)
    assert again.commit is not None
    assert again.commit.drop == ("in/suspend",)
    assert here.turn([], None).commit is None


def fails(ctx: OrchestrationContext) -> None:
    ctx.set_custom_status("said")
    raise ValueError("boom")


def returns(ctx: OrchestrationContext) -> None:
    ctx.set_custom_status("said")


@pytest.mark.parametrize("fn", [fails, returns])
def test_a_parent_that_asks_later_hears_what_it_was_told(fn: Any) -> None:
    here = Stored(begun(code_of(fn)))
    summary = here.instance.summary
    assert summary.status is (RuntimeStatus.FAILED if fn is fails else RuntimeStatus.COMPLETED)
    assert bytes(summary.custom_status) == b'"said"'
    told = child_outcome(PARENT, here.loaded().history[-1], "i")
    assert child_outcome(PARENT, outcome_of(summary), "i") == told
    assert (told.event.failure is not None) == (fn is fails)
