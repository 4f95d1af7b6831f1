"""The laws of a turn, whatever it is: taken, suspended, parked, terminated, or nothing new.

Random programs live in a store. Now and then they are suspended, lose their code, hear old news, or are terminated.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.backends.memory import MemoryStore
from durable.engine.codeless import outcome_of, terminate_request
from durable.engine.effects import timer_arrival
from durable.engine.instance import Arrival, Env, Instance, Turn, row_behind, task_key, timer_key, wake_key
from durable.engine.ledger import Ledger
from durable.engine.messages import child_outcome, decode_message
from durable.engine.step import create, created, in_place_of, step, uncreated
from durable.model import history as h
from durable.model.history import Event, Parent, Raw, decode_event, decode_events, encode_event
from durable.model.limits import Limits
from durable.model.names import partition_of
from durable.model.status import RuntimeStatus, Summary
from durable.ports import PARKED, Commit, Fact, Outcome, Row, Want
from durable.replay.context import OrchestrationContext
from durable.replay.guard import Watch
from durable.replay.live_code import Code

from .test_replay_laws import NOW, Life, Op, begin, code_of, lives, orchestrator

OPS = [Op("activity", "a", 1), Op("child", "b", 2), Op("timer", "c", 3), Op("event", "d", 4), Op("child", "e", 5)]
PARTITIONS = 8
HOLD = 60.0
PARENT = Parent("p", "px", 7, 2)
OUTCOMES = (h.TASK_COMPLETED, h.TASK_FAILED)
some = settings(max_examples=60, deadline=None)


def all_open() -> Life:
    """The start of a life with one of each open."""
    return begun(orchestrator(OPS, True))


def begun(code: Code) -> Life:
    """A life after its first turn."""
    execution = begin(code)
    return Life(execution.code, execution.started, [], [execution.take([], NOW)], execution)


class Stored:
    """A life in a store, turn by turn; each is compared with what the store then has."""

    def __init__(self, life: Life, begun: bool = True) -> None:
        self.life = life
        self.store = MemoryStore(PARTITIONS)
        ids = count()
        self.env = Env("w", HOLD, lambda: f"id{next(ids)}", PARTITIONS, Limits(), Watch())
        self.now = NOW
        self.store.commit([create("i", life.started, PARTITIONS, "c")])
        self.instance = self.loaded()
        if begun:
            self.take([])
            assert not {wake_key("x"), timer_key("x", 0, 0)} & {row.key for row in self.rows()}

    @property
    def over(self) -> bool:
        summary = self.instance.summary
        return summary.status.finished or summary.execution_id != self.life.started.execution_id

    def loaded(self) -> Instance:
        [record] = self.store.load([Want("i")])
        assert record is not None
        return Instance.of_record(record)

    def rows(self) -> list[Row]:
        group = self.instance.summary.group
        return self.store.due(partition_of("i", PARTITIONS), group, float("inf"), 10_000).items

    def take(self, arrivals: Sequence[Arrival], code: Code | None = None, clock: datetime | None = None) -> Turn:
        """One turn of today's code."""
        return self.turn(arrivals, code or self.life.code, clock)

    def turn(self, arrivals: Sequence[Arrival], code: Code | None, clock: datetime | None = None) -> Turn:
        self.now += timedelta(seconds=1)
        before = self.instance
        turn = step(before, arrivals, code, "no code here", clock or self.now, self.env)
        commit = turn.commit
        if commit is not None:
            assert commit.expect == before.version
            assert [a.start for a in commit.appends if a.execution_id == "x"] == [before.length] * len(
                commit.appends[:1]
            )
            assert {commit.partition, *(row.partition for row in commit.put)} == {partition_of("i", PARTITIONS)}
            assert commit.summary.updated_at >= before.summary.updated_at
            assert self.store.commit([commit]) == [Outcome.COMMITTED]
            self.left_behind(turn, commit)
        after, stored = turn.instance, self.loaded()
        assert (after.summary, after.version) == (stored.summary, stored.version)
        assert (after.started, after.length) == (stored.started, stored.length)
        if after.execution is not None:
            assert after.size == stored.size
        self.instance = stored if after.execution is None else after
        return turn

    def left_behind(self, turn: Turn, commit: Commit) -> None:
        """Work is held by whoever has decided it; what it is to run next is in the history, and has a row."""
        until = commit.summary.updated_at.timestamp() + HOLD
        for row in commit.put:
            assert (row.instance_id, row.group, row.attempt) == ("i", commit.summary.group, 0)
            if row.kind in ("task", "message"):
                assert (row.due_at, row.holder) == (until, "w")
        assert [run.row_key for run in turn.invocations] == [row.key for row in commit.put if row.kind == "task"]
        events = [event for append in commit.appends[:1] for event in decode_events(append.events)]
        for run in turn.invocations:
            asked = events[run.number - commit.appends[0].start]
            assert (asked.type, asked.task_id, asked.attempt) == (h.TASK_SCHEDULED, run.task_id, run.attempt)
            assert (asked.name, asked.input) == (run.name, run.input)
            assert run.row_key == task_key("x", run.task_id, run.attempt)
            assert (run.timeout, run.heartbeat_timeout, run.queue) == (0, 0, "default")
            assert (run.instance_id, run.execution_id, run.group) == ("i", "x", commit.summary.group)
            assert run.orchestrator == commit.summary.name

    def arrival(self, fact: Event, row_key: str = "") -> Arrival:
        mine = fact.type not in (h.EVENT_RAISED, h.EXECUTION_CANCELED)
        return Arrival(fact, "x" if mine else "", row_key)

    def until(self, number: int) -> None:
        """Live through the first facts."""
        for fact in self.life.facts[:number]:
            if not self.over:
                self.take([self.arrival(fact)])


def kept(turn: Turn, arrivals: Sequence[Arrival]) -> None:
    """No turn took these: outcomes that were only in memory go to the inbox, where they are safe."""
    outcomes = [arrival for arrival in arrivals if arrival.event.type in OUTCOMES]
    homeless = [arrival for arrival in outcomes if not arrival.row_key]
    assert [fact.id for fact in turn.undelivered] == [f"task/{row_behind(arrival)}" for arrival in homeless]
    for fact, arrival in zip(turn.undelivered, homeless, strict=True):
        assert decode_event(fact.body) == msgspec.structs.replace(arrival.event, execution_id="x")
        assert (fact.instance_id, fact.partition) == ("i", partition_of("i", PARTITIONS))
    dropped = turn.commit.drop if turn.commit else ()
    assert {row_behind(arrival) for arrival in outcomes} <= {*dropped}
    assert not {arrival.row_key for arrival in arrivals} & {*dropped}


@some
@given(life=lives, data=st.data(), fire_at=st.none() | st.just(NOW), group=st.sampled_from(("", "g")))
def test_the_instance_after_a_turn_is_the_one_that_is_stored(
    life: Life, data: st.DataObject, fire_at: datetime | None, group: str
) -> None:
    here = Stored(life._replace(started=msgspec.structs.replace(life.started, fire_at=fire_at, group=group)))
    assert here.instance.summary.group == (group or "default")
    for number, fact in enumerate(life.facts):
        if here.over:
            break
        news = [here.arrival(fact, data.draw(st.sampled_from(("", f"in/{number}"))))]
        happens = data.draw(st.sampled_from(("nothing", "suspended", "no code", "again", "clock back")))
        if happens == "suspended":
            here.take([Arrival(Event(h.EXECUTION_SUSPENDED, here.now), "", f"in/{number}s")])
            turn = here.take(news)
            assert turn.parked
            assert not turn.again
            kept(turn, news)
            assert here.take([Arrival(Event(h.EXECUTION_RESUMED, here.now), "", f"in/{number}r")]).again
            assert here.instance.summary.status is RuntimeStatus.RUNNING
        elif happens == "no code":
            turn = here.turn(news, None)
            assert turn.parked == here.instance.summary.blocked_reason == "no code here"
            assert here.instance.summary.status is RuntimeStatus.BLOCKED
            kept(turn, news)
            [wakes] = turn.commit.put if turn.commit else ()
            assert (wakes.kind, wakes.due_at, wakes.holder) == ("inbox", here.now.timestamp() + HOLD, "w")
        here.take(news, clock=NOW if happens == "clock back" else None)
        if happens == "again" and not here.over:
            turn = here.take([here.arrival(fact, "in/late")] if fact.type in OUTCOMES else [])
            assert turn.ignored == (fact.type in OUTCOMES)
            assert here.instance.summary.status is RuntimeStatus.RUNNING
    summary = here.instance.summary
    if summary.status.finished:  # what a parent hears that asks later is what it was told
        told = (child_outcome(PARENT, ended, "i") for ended in (here.loaded().history[-1], outcome_of(summary)))
        assert next(told) == next(told)
    elif not here.over:
        assert summary.status is not RuntimeStatus.BLOCKED
        assert summary.blocked_reason == ""


@some
@given(
    life=lives | st.builds(all_open),
    data=st.data(),
    recursive=st.booleans(),
    parent=st.none() | st.just(PARENT),
    blocked=st.booleans(),
)
def test_what_is_terminated_leaves_nothing_but_messages(
    life: Life, data: st.DataObject, recursive: bool, parent: Parent | None, blocked: bool
) -> None:
    life = life._replace(started=msgspec.structs.replace(life.started, parent=parent))
    here = Stored(life)
    here.until(data.draw(st.integers(0, len(life.facts))))
    if here.over:
        return
    if blocked:
        here.turn([], None)
    before = {row.key for row in here.rows()}
    cold = here.loaded()
    here.instance = cold
    ledger = Ledger(cold.history)
    late = [here.arrival(Event(h.EVENT_RAISED, NOW, name="late"), "in/late")] * data.draw(st.integers(0, 2))
    asked = Arrival(terminate_request(Raw(b'"enough"'), here.now, recursive=recursive), "", "in/end")
    turn = here.turn([*late, asked], None)

    assert here.instance.summary == msgspec.structs.replace(
        cold.summary,
        status=RuntimeStatus.TERMINATED,
        output=Raw(b'"enough"'),
        updated_at=here.now,
        completed_at=here.now,
        blocked_reason="",
    )
    assert turn.ignored == len(late)
    assert {*turn.cancelled} == {task_key("x", task.task_id, task.attempt) for task in ledger.tasks.values()}
    assert {row.kind for row in here.rows()} <= {"message"}
    new = {row.key: decode_message(row.body) for row in here.rows() if row.key not in before}
    told = {m.target: m.event for m in new.values() if m.event.type == h.EXECUTION_TERMINATED}
    assert {*told} == ({child.instance_id for child in ledger.children.values()} if recursive else set())
    for child in ledger.children.values() if recursive else ():
        event = told[child.instance_id]
        assert event == terminate_request(
            Raw(b'"enough"'), here.now, recursive=True, parent=Parent("i", "x", child.task_id, child.attempt)
        )
    outcomes = [m for m in new.values() if m.event.type == h.CHILD_FAILED]
    if parent is None:
        assert not outcomes
    else:
        [outcome] = outcomes
        event = outcome.event
        assert (outcome.target, event.execution_id, event.task_id, event.attempt) == ("p", "px", 7, 2)
        assert event.failure is not None
        assert "'i' was terminated" in event.failure.message

    again = here.turn([asked], None)
    assert (again.ignored, again.late) == (1, True)
    assert again.commit is not None
    assert again.commit.drop == ("in/end",)
    assert (here.turn([], None).commit, here.turn([Arrival(asked.event)], None).ignored) == (None, 1)


@some
@given(life=lives, data=st.data())
def test_what_is_parked_says_why_and_is_looked_at_again(life: Life, data: st.DataObject) -> None:
    """The status is written once a reason, and never for what has not begun: it is PENDING still."""
    here = Stored(life, begun=data.draw(st.booleans()))
    if here.instance.begun:
        here.until(data.draw(st.integers(0, len(life.facts))))
    if here.over:
        return
    before = here.instance
    first = here.turn([], None)
    assert first.parked == "no code here"
    assert first.instance.execution is None
    if not before.begun:
        assert (first.commit, here.instance.summary) == (None, before.summary)
        return
    assert here.instance.summary.updated_at == here.now
    assert {row.key for row in here.rows() if row.kind == "inbox"} == {wake_key("x")}
    second = here.turn([Arrival(Event(h.EVENT_RAISED, NOW, name="go"), "", "in/1")], None)
    assert (second.commit, second.parked) == (None, "no code here")
    assert second.instance.execution is None
    here.take([])  # the code is back, and has nothing to do
    assert here.instance.execution is not None
    third = here.turn([], None)
    assert (third.commit, third.parked, third.instance.execution) == (None, "no code here", None)


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
