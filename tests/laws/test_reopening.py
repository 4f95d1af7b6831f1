"""What a rewind does about what is open: it happens again, or is asked for, or is run or created once more."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec
import pytest

from durable.engine.fork import fork
from durable.engine.instance import Arrival, await_key, task_key, timer_key, wake_key, withdraw_key
from durable.engine.messages import decode_message
from durable.engine.reopening import CLOCKS, PATIENCE
from durable.engine.rewind import look_back, rewind
from durable.engine.step import create, created
from durable.model import history as h
from durable.model.errors import OrchestrationCancelledError, TaskFailedError
from durable.model.failure import FailureDetails
from durable.model.history import Event, Parent, Raw, decode_events
from durable.model.names import TRIGGERS, child_id
from durable.model.status import RuntimeStatus
from durable.ports import Commit, Outcome, Record, Want
from durable.replay.context import OrchestrationContext

from .stored import PARTITIONS, Stored, begun
from .test_replay_laws import NOW, Life, cancelled, code_of, done, fired, raised
from .test_rewind_laws import LATER, after, mint, record_of

FAILURE = FailureDetails("ValueError", "boom", hierarchy=("ValueError", "Exception"))
REASON = Raw(b'"why"')


def family(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    given_up = ctx.call_sub_orchestrator("c")
    given_up.cancel()
    yield [ctx.call_activity("a"), ctx.call_sub_orchestrator("c"), ctx.call_sub_orchestrator("c", instance_id="named")]


def failure_of(task_id: int) -> Event:
    return Event(h.TASK_FAILED, NOW, task_id=task_id, attempt=1, failure=FAILURE)


def failed(kind: str, task_id: int) -> tuple[Life, list[Event]]:
    life = begun(code_of(family))
    fact = Event(kind, NOW, task_id=task_id, attempt=1, failure=FAILURE)
    return life, [life.started, *life.history, *life.execution.take([fact], NOW)]


def rewound(life: Life, history: list[Event], child: Record | None) -> tuple[Commit, list[Event]]:
    found = look_back(record_of(life, history))
    assert found is not None
    commit = rewind(found, child, REASON, LATER, mint(), 1)
    return commit, decode_events(commit.appends[0].events)


def test_open_children_are_asked_and_what_failed_is_run_again_at_once() -> None:
    life, history = failed(h.TASK_FAILED, 2)
    commit, [first, again] = rewound(life, history, None)
    rows = {row.key: row for row in commit.put if row.kind != "inbox"}
    asked = {3: child_id("i", "x", 3, 1), 4: "named"}
    keys = {number: f"{task_key('x', number, 1)}/rewind/{len(history)}" for number in asked}
    assert {*rows} == {*keys.values(), task_key("x", 2, 2)}
    at = {"instance_id": "i", "execution_id": "x", "depth": len(history), "attempt": 1}
    for number, name in asked.items():
        message, row = decode_message(rows[keys[number]].body), rows[keys[number]]
        assert (message.kind, message.target) == ("rewind", name)
        assert message.event == msgspec.structs.replace(first, task_id=number, **at)
        assert (row.due_at, row.holder) == (LATER.timestamp() + PATIENCE, "")
    assert (again.type, again.task_id, again.attempt, again.timestamp) == (h.TASK_SCHEDULED, 2, 2, LATER)
    work = rows[task_key("x", 2, 2)]
    assert (work.due_at, work.holder) == (LATER.timestamp() - CLOCKS, "")
    assert commit.appends[0].start == len(history)


def child_of(parent: Parent | None, status: RuntimeStatus) -> Record:
    started = Event(h.EXECUTION_STARTED, NOW, name="c", instance_id="c", execution_id="cx", parent=parent)
    creation = create("c", started, 1, "c")
    return created(msgspec.structs.replace(creation, summary=msgspec.structs.replace(creation.summary, status=status)))


@pytest.mark.parametrize("task_id", [3, 4])
@pytest.mark.parametrize(
    ("mine", "status", "goes_on"),
    [
        (True, RuntimeStatus.FAILED, True),
        (True, RuntimeStatus.RUNNING, True),
        (True, RuntimeStatus.COMPLETED, True),
        (True, RuntimeStatus.TERMINATED, False),
        (True, RuntimeStatus.CANCELED, False),
        (False, RuntimeStatus.FAILED, False),
        (None, RuntimeStatus.FAILED, False),
    ],
)
def test_a_child_that_failed_goes_on_if_it_can_and_is_created_anew_otherwise(
    mine: bool | None, status: RuntimeStatus, goes_on: bool, task_id: int
) -> None:
    life, history = failed(h.CHILD_FAILED, task_id)
    parent = Parent("i", "x", task_id, 1) if mine else Parent("i", "another", task_id, 1)
    commit, events = rewound(life, history, None if mine is None else child_of(parent, status))
    messages = {row.key: decode_message(row.body) for row in commit.put if row.kind == "message"}
    asked = messages.get(f"{task_key('x', task_id, 1)}/rewind/{len(history)}")
    started = messages.get(f"{task_key('x', task_id, 2)}/start")
    assert (asked is not None, started is not None) == (goes_on, not goes_on)
    anew = [event for event in events if event.type == h.CHILD_CREATED]
    if started is None:
        assert anew == []
        return
    [event] = anew
    name = child_id("i", "x", 3, 2) if task_id == 3 else "named"
    assert (event.task_id, event.attempt, event.instance_id, event.timestamp) == (task_id, 2, name, LATER)
    assert (started.target, started.event.parent) == (name, Parent("i", "x", task_id, 2))


def test_what_came_after_the_failure_comes_again_in_its_order() -> None:
    def stubborn(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        risky, other, late = ctx.call_activity("a"), ctx.call_activity("b"), ctx.create_timer(5)
        try:
            yield risky
        except TaskFailedError as error:
            failed = error
        try:
            yield ctx.wait_for_external_event("never")
        except OrchestrationCancelledError:
            yield ctx.wait_for_external_event("more")
        yield [other, late]
        raise failed

    life = begun(code_of(stubborn))
    facts = [
        failure_of(1),
        raised("early", "1"),
        cancelled(),
        fired(3),
        done(2),
        raised("more", "2"),
    ]
    history = [life.started, *life.history]
    for fact in facts:
        history += life.execution.take([fact], NOW)
    past = after(life, history, rewound(life, history, None)[0])
    *again, last = past.facts
    answers = [msgspec.structs.replace(fact, execution_id="x") for fact in (fired(3), done(2))]
    assert again == [raised("early", "1"), cancelled(), *answers, raised("more", "2")]
    assert (last.type, last.execution_id) == (h.EXECUTION_REWOUND, "x")
    assert [event.task_id for event in past.history[len(history) :]] == [1, 1]
    assert {row.key for row in past.commit.put if row.kind == "task"} == {task_key("x", 1, 2)}


def test_what_was_begun_or_given_up_after_the_failure_is_void() -> None:
    def desperate(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        risky, other = ctx.call_activity("a"), ctx.call_activity("b")
        try:
            yield risky
        except TaskFailedError:
            other.cancel()
            yield [ctx.call_activity("c"), ctx.create_timer(5)]
            raise

    life = begun(code_of(desperate))
    history = [life.started, *life.history]
    for fact in (failure_of(1), done(3), fired(4)):
        history += life.execution.take([fact], NOW)
    past = after(life, history, rewound(life, history, None)[0])
    assert [fact.type for fact in past.facts] == [h.EXECUTION_REWOUND]
    assert [(event.task_id, event.attempt) for event in past.history[len(history) + 1 :]] == [(1, 2), (2, 2)]
    assert {row.key for row in past.commit.put if row.kind == "task"} == {task_key("x", 1, 2), task_key("x", 2, 2)}
    assert {*past.commit.drop} == {*(task_key("x", number, 1) for number in (1, 2, 3)), timer_key("x", 4, 0)}
    assert past.commit.summary.updated_at == LATER


@pytest.mark.parametrize("begins", [True, False])
def test_what_is_due_again_is_anybody_s_and_what_is_over_stays_over(begins: bool) -> None:
    """An error of the first turn goes back to before it: the execution is woken as for the first time."""

    def naps(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        if not begins:
            raise ValueError("not today")
        yield ctx.create_timer(5)
        ctx.create_timer(60)
        yield ctx.call_activity("a")

    life = begun(code_of(naps))
    history = [life.started, *life.history]
    for fact in (fired(1), failure_of(3)) if begins else ():
        history += life.execution.take([fact], NOW)
    commit, _ = rewound(life, history, None)
    rewinding = f"{wake_key('x')}/{len(history):010}"
    work = {timer_key("x", 2, 0), task_key("x", 3, 2)} if begins else {wake_key("x")}
    assert {row.key for row in commit.put} == {rewinding, *work}
    assert {(row.holder, row.attempt) for row in commit.put} == {("", 0)}


def test_an_attempt_is_not_used_again_by_a_rewind_to_before_another() -> None:
    def remembers(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        first, second = ctx.call_activity("a"), ctx.call_activity("b")
        try:
            yield first
        except TaskFailedError as error:
            yield second
            raise error

    life = begun(code_of(remembers))
    history = [life.started, *life.history]
    for fact in (failure_of(1), failure_of(2)):
        history += life.execution.take([fact], NOW)
    past = after(life, history, rewound(life, history, None)[0])
    assert [(event.task_id, event.attempt) for event in past.history[len(history) + 1 :]] == [(2, 2)]
    execution, history = past.execution(), past.history
    for facts in (past.facts, [msgspec.structs.replace(done(2), attempt=2)]):
        history += execution.take(facts, LATER)
    past = after(life, history, rewound(life, history, None)[0])
    assert [(event.task_id, event.attempt) for event in past.history[len(history) + 1 :]] == [(1, 2), (2, 3)]


def test_a_fork_of_a_rewind_runs_anew_what_had_failed() -> None:
    life, history = failed(h.TASK_FAILED, 2)
    past = after(life, history, rewound(life, history, None)[0])
    commit = fork(record_of(life, past.history), len(history), "other", LATER, mint(), 1)
    again = [event for event in decode_events(commit.appends[0].events) if event.type == h.TASK_SCHEDULED]
    assert [(event.task_id, event.attempt) for event in again] == [(2, 1), (2, 2)]


def test_a_wait_for_a_cloudevent_that_the_end_took_back_is_told_again() -> None:
    def hears(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        ctx.wait_for_cloudevent(type="t")
        yield ctx.call_activity("a")

    here = Stored(begun(code_of(hears)))
    here.take([Arrival(failure_of(2), "x")])
    ended = here.loaded()
    assert ended.summary.status is RuntimeStatus.FAILED
    taken_back = withdraw_key("x", 1, ended.length - 1)  # named after the event that ended it
    assert taken_back in {row.key for row in here.rows()}
    [record] = here.store.load([Want("i")])
    assert record is not None
    found = look_back(record)
    assert found is not None
    assert here.store.commit([rewind(found, None, REASON, LATER, mint(), PARTITIONS)]) == [Outcome.COMMITTED]
    rows = {row.key: row for row in here.rows()}
    assert taken_back not in rows
    told = decode_message(rows[f"{await_key('x', 1)}/{ended.length}"].body)
    [waits] = [event for event in ended.history if event.type == h.EVENT_AWAITED]
    assert (told.kind, told.target, told.event.input) == ("fact", TRIGGERS, waits.input)
    assert (told.event.instance_id, told.event.execution_id, told.event.task_id) == ("i", "x", 1)


def test_a_fork_has_children_of_its_own_and_runs_what_is_open() -> None:
    life = begun(code_of(family))
    history = [life.started, *life.history]
    commit = fork(record_of(life, history), len(history) - 1, "other", LATER, mint(), 1)
    mine = commit.summary.execution_id
    first, *anew = decode_events(commit.appends[0].events)[len(history) :]
    assert (first.type, first.timestamp) == (h.EXECUTION_REWOUND, LATER)
    names = {number: child_id("other", mine, number, 2) for number in (3, 4)}
    assert [(event.type, event.attempt) for event in anew] == [(h.CHILD_CREATED, 2)] * 2
    assert {event.task_id: event.instance_id for event in anew} == names
    messages = [decode_message(row.body) for row in commit.put if row.kind == "message"]
    assert [(message.kind, message.target) for message in messages] == [("start", name) for name in names.values()]
    assert [row.key for row in commit.put if row.kind == "task"] == [task_key(mine, 2, 1)]


def test_a_fork_that_need_not_schedule_anything_adds_nothing() -> None:
    life = begun(code_of(lambda ctx: (yield ctx.call_activity("a"))))
    history = [life.started, *life.history]
    commit = fork(record_of(life, history), len(history) - 1, "other", LATER, mint(), 1)
    assert len(decode_events(commit.appends[0].events)) == len(history)
    assert [row.key for row in commit.put if row.kind == "task"] == [task_key(commit.summary.execution_id, 1, 1)]
