"""The laws of a turn where something begins or ends: a start, an execution, a life."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from durable.backends.memory import MemoryStore
from durable.engine.codeless import terminate_request
from durable.engine.effects import timer_arrival
from durable.engine.instance import Arrival, task_key, timer_key, wake_key
from durable.engine.step import create, created, in_place_of, uncreated
from durable.model import history as h
from durable.model.history import Event, Parent, Raw, encode_event
from durable.model.limits import Limits
from durable.model.names import partition_of
from durable.model.status import RuntimeStatus, Summary
from durable.ports import PARKED, Fact, Outcome, Row, Want
from durable.replay.context import OrchestrationContext

from .stored import PARENT, PARTITIONS, Stored, all_open, begun
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
    )
    [wakes] = creation.put
    assert (wakes.key, wakes.kind, wakes.due_at, wakes.holder) == (wake_key("x"), "inbox", NOW.timestamp(), "")
    store = MemoryStore(PARTITIONS)
    assert store.commit([creation]) == [Outcome.COMMITTED]
    assert store.load([Want("i")]) == [created(creation)]
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
    here = Stored(begun(code_of(told_on_the_way)))
    rows = {row.key for row in here.rows()}
    turn = here.take([go("in/1"), go("in/2"), go("in/3"), Arrival(Event(h.EXECUTION_CANCELED, NOW), "", "in/4")])
    assert turn.commit is not None
    assert {"in/1", "in/2"} <= {*turn.commit.drop}
    assert not {"in/3", "in/4"} & {*turn.commit.drop}
    assert turn.again
    summary, started = here.instance.summary, here.instance.started
    assert (summary.status, summary.execution_id) == (RuntimeStatus.RUNNING, started.execution_id)
    assert (started.previous, bytes(started.input), started.timestamp) == ("x", b"[1]", here.now)
    assert (started.fire_at, started.formerly) == (None, ())
    assert started.seed not in ("", here.life.started.seed)
    assert {row.key for row in here.rows()} - rows == {wake_key(started.execution_id)}


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


@pytest.mark.parametrize("waits", [True, False])
def test_what_has_not_begun_can_be_suspended_and_cancelled_without_its_code(waits: bool) -> None:
    life = all_open()
    at = NOW + timedelta(hours=1) if waits else None
    here = Stored(life._replace(started=msgspec.structs.replace(life.started, fire_at=at)), begun=False)
    code = life.code if waits else None
    here.turn([Arrival(Event(h.EXECUTION_SUSPENDED, NOW), "", "in/1")], life.code)
    assert here.instance.summary.status is RuntimeStatus.SUSPENDED
    assert not here.instance.begun
    here.turn([Arrival(Event(h.EXECUTION_RESUMED, NOW), "", "in/2")], life.code)
    assert here.instance.summary.status is RuntimeStatus.PENDING
    here.turn([Arrival(Event(h.EXECUTION_CANCELED, NOW, input=Raw(b"1")), "", "in/3")], code)
    assert (here.instance.summary.status, here.instance.summary.output) == (RuntimeStatus.CANCELED, Raw(b"1"))
    assert not here.instance.begun
    assert here.rows() == []
