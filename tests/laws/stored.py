"""A life in a store, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count

import msgspec

from durable.backends.memory import MemoryStore
from durable.engine.instance import Arrival, Env, Instance, Turn, row_behind, task_key, timer_key, wake_key
from durable.engine.step import create, step
from durable.model import history as h
from durable.model.history import Event, Parent, decode_event, decode_events
from durable.model.limits import Limits
from durable.model.names import partition_of
from durable.model.status import RuntimeStatus, Summary
from durable.ports import Commit, Outcome, Row, Want
from durable.replay.guard import Watch
from durable.replay.live_code import Code

from .test_replay_laws import NOW, Life, Op, begin, orchestrator

OPS = [Op("activity", "a", 1), Op("child", "b", 2), Op("timer", "c", 3), Op("event", "d", 4), Op("child", "e", 5)]
PARTITIONS = 8
HOLD = 60.0
PARENT = Parent("p", "px", 7, 2)
OUTCOMES = (h.TASK_COMPLETED, h.TASK_FAILED)


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
            assert "" not in commit.drop
            assert self.store.commit([commit]) == [Outcome.COMMITTED]
            self.left_behind(turn, commit)
        after, stored = turn.instance, self.loaded()
        assert fixed(after.summary) == fixed(before.summary)
        assert (after.summary, after.version) == (stored.summary, stored.version)
        assert (after.started, after.length) == (stored.started, stored.length)
        if after.execution is not None:
            assert after.size == stored.size
            assert turn.began == (before.summary.status is RuntimeStatus.PENDING)
            said = after.execution.custom_status
            assert after.summary.custom_status == (before.summary.custom_status if said is None else said)
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
        given_up = [event for event in events if event.type == h.TASK_CANCELED and event.attempt]
        if given_up:
            assert [*turn.cancelled] == [task_key("x", event.task_id, event.attempt) for event in given_up]
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


def fixed(summary: Summary) -> object:
    """What stays as it is as long as an instance lives."""
    family = summary.parent_instance_id, summary.reply_to
    return summary.instance_id, summary.name, summary.created_at, summary.tags, summary.group, family


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
