"""A store that takes no writes (a full disk, a full Redis), answers nothing, or has what nobody here can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest

from durable.backends.memory import MemoryStore
from durable.engine.instance import Env, Invocation
from durable.engine.messages import Message, encode_message
from durable.engine.step import create, inbox_arrivals
from durable.model import history as h
from durable.model.errors import StoreError
from durable.model.history import Event, Raw, encode_event
from durable.model.limits import Limits
from durable.ports import Append, Commit, Fact, Row, Want
from durable.replay.guard import Watch
from durable.replay.live_code import Code
from durable.runtime import recovery
from durable.runtime import requests as ask
from durable.runtime.loop import Loop, Settings

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
MANY = 50


class Nothing:
    """A codebase."""

    def orchestrator(self, name: str, version: str, first_turn: bool) -> Code | None:
        return None

    def serves_activity(self, name: str) -> bool:
        return False

    def known(self, kind: str) -> list[str]:
        return []


class Driven:
    """A loop on a store that can fail. Every wait takes as long as it may."""

    def __init__(self) -> None:
        self.store = store = MemoryStore()
        self.now = NOW
        self.reads = self.writes = True
        self.ids = count()
        env = Env("me", 60.0, lambda: f"id{next(self.ids)}", 1, Limits(), Watch())
        self.loop = Loop(env, Nothing(), lambda: self.now, Settings(batch=10, part=10))
        self.requests = self.loop.run()
        self.pending: Any = next(self.requests)
        self.over = False
        self.outcomes: list[Any] = []
        self.answers: dict[type, Callable[[Any], Any]] = {
            ask.Load: self.reading(lambda r: store.load(r.wants)),
            ask.Due: self.reading(lambda r: store.due(r.partition, r.group, r.until, r.limit, r.after)),
            ask.Read: self.reading(lambda r: store.rows(r.keys)),
            ask.Begin: self.writing(lambda r: self.outcomes.append(store.commit(r.commits))),
            ask.Finish: lambda r: self.outcomes.pop(),
            ask.Deliver: self.writing(lambda r: store.deliver(r.facts)),
            ask.Claim: self.writing(lambda r: store.lease(r.leases)),
            ask.Halt: lambda r: [],
        }

    def reading(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda request: call(request) if self.reads else refuse()

    def writing(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda request: call(request) if self.writes else refuse()

    def go_on(self, waits: int, news: Sequence[ask.News] = ()) -> None:
        """Until it has waited so often, or has ended."""
        while waits and not self.over:
            answer: Any = None
            error: StoreError | None = None
            if isinstance(self.pending, ask.Wait):
                waits -= 1
                self.now += timedelta(seconds=self.pending.seconds)
                answer, news = list(news), ()
            else:
                try:
                    call = self.answers.get(type(self.pending))
                    answer = call(self.pending) if call else None
                except StoreError as failed:
                    error = failed
            try:
                self.pending = self.requests.throw(error) if error else self.requests.send(answer)
            except StopIteration:
                self.over = True

    @property
    def kept(self) -> int:
        """How much is in memory, to be done when the store is well."""
        loop = self.loop
        return len(loop.work.orphans) + len(loop.outbox.rows) + sum(map(len, loop.turns.arrived.values()))


def refuse() -> Any:
    raise StoreError("not now")


def work_left_behind() -> Commit:
    """An instance, and work rows that are due and of instances which are not there any more."""
    started = Event(h.EXECUTION_STARTED, NOW, name="unserved", input=Raw(b"null"), execution_id="e", seed="s")
    message = encode_message(Message("fact", "gone", Event(h.EVENT_RAISED, NOW, name="x", input=Raw(b"null"))))
    at = NOW.timestamp()
    rows = [Row(f"e/{n}/1", "task", f"gone{n}", 0, at) for n in range(MANY)]
    rows += [Row(f"e/{n}/0/event", "message", "gone", 0, at, body=message) for n in range(MANY)]
    rows += [Row(f"e/{n}/0/timer", "timer", f"gone{n}", 0, at, body=b'["e",%d,0]' % n) for n in range(MANY)]
    made = create("there", started, 1, "c")
    return Commit(made.id, "there", 0, 0, made.summary, made.appends, tuple(rows))


@pytest.fixture
def driven() -> Driven:
    driven = Driven()
    driven.store.commit([work_left_behind()])
    return driven


def test_what_waits_for_a_store_that_takes_no_writes_is_kept_once(driven: Driven) -> None:
    driven.writes = False
    driven.go_on(40, [ask.Assigned([("default", 0)], ["me"])])
    assert driven.kept <= 3 * MANY
    driven.writes = True
    driven.go_on(40)
    assert driven.kept == 0
    assert driven.store.due(0, "default", driven.now.timestamp(), 100).items == []


def hold_a_row(driven: Driven) -> None:
    """Something to hand back at the end."""
    list(driven.loop.work.begin([Invocation("there", "e", 1, 1, "unserved", Raw(b"[]"), "e/1/1")]))


def test_a_stop_does_not_wait_for_ever_for_a_store_that_is_away(driven: Driven) -> None:
    hold_a_row(driven)
    driven.reads = driven.writes = False
    driven.go_on(100, [ask.Stop(3.0)])
    assert driven.over
    assert timedelta(seconds=8) <= driven.now - NOW < timedelta(seconds=10)


def test_a_stop_waits_for_a_store_that_is_back_in_time(driven: Driven) -> None:
    hold_a_row(driven)
    driven.reads = driven.writes = False
    driven.go_on(4, [ask.Stop(0.0)])
    assert not driven.over
    driven.reads = driven.writes = True
    driven.go_on(4)
    assert driven.over


def test_an_outcome_for_what_this_version_can_not_read_waits_in_the_inbox(driven: Driven) -> None:
    [known] = driven.store.load([Want("there")])
    assert known is not None
    newer = Append("e", 1, b"[99,[]]")
    driven.store.commit([Commit("c2", "there", 0, known.version, known.summary, (newer,))])
    done = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=Raw(b"1"))
    ended = ask.Done(Invocation("there", "e", 1, 1, "done", Raw(b"[]"), "e/1/1"), done)
    driven.go_on(3, [ask.Assigned([("default", 0)], ["me"]), ended])
    [record] = driven.store.load([Want("there")])
    assert record is not None
    assert [a.event.type for a in inbox_arrivals(record.inbox)[0]] == [h.TASK_COMPLETED]


def test_looking_for_what_is_open_reads_an_inbox_once() -> None:
    store = MemoryStore()
    store.commit([work_left_behind()])
    store.deliver(
        [Fact("there", 0, f"f{n}", encode_event(Event(h.EVENT_RAISED, NOW, name="x")), 0.0) for n in range(9)]
    )
    rows = [Row(f"e/{n}/1", "task", "there", 0, 0.0) for n in range(MANY)]
    with patch.object(recovery, "inbox_arrivals", wraps=inbox_arrivals) as reading:
        assert len(recovery.open_tasks(rows, {"there": store.load([Want("there")])[0]})) == MANY
    assert reading.call_count == 1
