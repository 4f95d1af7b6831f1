"""A store that takes no writes (a full disk, a full Redis), answers nothing, or has what nobody here can read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import replace

import durable
from durable.backends.memory import MemoryStore
from durable.engine.instance import Arrival, Invocation
from durable.engine.messages import Message, encode_message
from durable.engine.step import create, inbox_arrivals
from durable.model import history as h
from durable.model.history import Event, Raw, encode_event
from durable.ports import Append, Commit, Fact, Outcome, Row, RowKey, Want
from durable.runtime import recovery
from durable.runtime import requests as ask
from durable.runtime.serving import Serving
from tests.laws.driven import NOW, Driven, Registered, refuse

MANY = 50


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


def test_what_waits_for_a_store_that_takes_no_writes_is_kept_once(
    driven: Driven, caplog: pytest.LogCaptureFixture
) -> None:
    driven.writes = False
    driven.go_on(40, [ask.Assigned([("default", 0)], ["me"])])
    assert driven.kept <= 3 * MANY
    assert "the store answers again" not in caplog.text
    driven.writes = True
    driven.go_on(40)
    assert caplog.text.count("the store answers again, after") == 1
    assert driven.kept == 0
    assert driven.store.due(0, "default", driven.now.timestamp(), 100).items == []


def test_what_was_committed_before_a_fault_is_sent_at_once_after_it() -> None:
    """While one part is committed the next one is loaded, and that fails: the consequences of the first are left."""
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: durable.OrchestrationContext) -> None: ...

    @app.orchestrator
    def parent(ctx: durable.OrchestrationContext) -> Any:
        yield ctx.call_sub_orchestrator(child)

    driven = Driven(codebase=Registered(app), part=1)
    for name in ("first", "second"):
        started = Event(h.EXECUTION_STARTED, NOW, name="parent", input=Raw(b"null"), execution_id=name, seed="s")
        driven.store.commit([create(name, started, 1, f"c {name}")])
    begin, load = driven.answers[ask.Begin], driven.answers[ask.Load]
    begun: list[ask.Begin] = []

    def load_but_once(request: ask.Load) -> Any:
        if len(begun) == 1:
            begun.append(begun[0])
            refuse()
        return load(request)

    def note(request: ask.Begin) -> Any:
        begun.append(request)
        return begin(request)

    driven.answers[ask.Begin] = note
    driven.answers[ask.Load] = load_but_once
    driven.go_on(8, [ask.Assigned([("default", 0)], ["me"])])
    assert driven.now - NOW < timedelta(seconds=30), "sooner than for a dead worker"
    assert [s.status.value for s in driven.store.summaries(["first", "second"]) if s] == ["COMPLETED"] * 2


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


@pytest.mark.parametrize("lasts", [3.0, 100.0])
def test_a_stop_does_not_wait_for_ever_for_commits_of_unknown_outcome(lasts: float) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: durable.OrchestrationContext) -> Any:
        return (yield ctx.call_activity("work"))

    driven = Driven(codebase=Registered(app))
    started = Event(h.EXECUTION_STARTED, NOW, name="flow", input=Raw(b"null"), execution_id="e", seed="s")
    driven.store.commit([create("i", started, 1, "c")])
    driven.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
    done = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=Raw(b"1"))
    ended = ask.Done(Invocation("i", "e", 1, 1, "work", Raw(b"[]"), "e/1/1"), done)
    driven.go_on(1, [ended, ask.Stop(0.0)])
    begin, since = driven.answers[ask.Begin], driven.now
    unclear = 0

    def begin_in_vain(request: ask.Begin) -> None:
        nonlocal unclear
        if driven.now - since >= timedelta(seconds=lasts):
            return begin(request)  # type: ignore[no-any-return]
        unclear += 1
        assert unclear < MANY, "it tries without a pause"
        driven.outcomes.append([Outcome.UNKNOWN] * len(request.commits))

    driven.answers[ask.Begin] = begin_in_vain
    driven.go_on(100)
    assert driven.over
    assert unclear > 1
    assert driven.now - since < timedelta(seconds=7)
    [summary] = driven.store.summaries(["i"])
    assert summary is not None
    assert summary.status.finished == (lasts < 5.0)


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


def test_what_can_not_be_read_leaves_the_rows_of_others_to_be_seen_to(driven: Driven) -> None:
    [known] = driven.store.load([Want("there")])
    assert known is not None
    newer = replace(known, history=(b"[99,[]]",))
    rows = [Row("e/1/1", "task", name, 0, 0.0) for name in ("newer", "there", "gone")]
    found = {"newer": newer, "there": known, "gone": None}
    assert recovery.open_tasks(rows, found) == [(rows[1], None), (rows[2], None)]


def test_outcomes_for_others_are_in_their_inboxes_before_anything_is_acknowledged() -> None:
    """Rows behind outcomes that nobody will take end; the others are for the turn that takes the outcome."""
    driven = Driven(Serving(by_mail=True))
    for name in ("first", "second"):
        started = Event(h.EXECUTION_STARTED, NOW, name="far", input=Raw(b"null"), execution_id=name, seed="s")
        made = create(name, started, 1, f"c {name}")
        rows = [Row(f"{life}/1/1", "task", name, 0, NOW.timestamp() + 60.0, "them") for life in (name, f"no {name}")]
        driven.store.commit([Commit(made.id, name, 0, 0, made.summary, made.appends, (*made.put, *rows))])
    names = ["first", "no first", "second", "no second"]
    settled: list[object] = []
    driven.answers[ask.Settle] = lambda request: settled.extend(request.done)
    driven.loop.courier.done.append("one before")
    for name in names:
        done = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=Raw(b"1"))
        driven.loop.turns.tell(name, Arrival(done, name, "", name))
    driven.go_on(2)
    for name in ("first", "second"):
        [record] = driven.store.load([Want(name)])
        assert record is not None
        assert h.TASK_COMPLETED in [a.event.type for a in inbox_arrivals(record.inbox)[0]]
    assert settled == ["one before", *names]
    assert [row is not None for row in driven.store.rows([RowKey(0, f"{name}/1/1") for name in names])] == [
        name in ("first", "second") for name in names
    ]


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
