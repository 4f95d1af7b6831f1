"""Where the code goes on after a rewind: calls, maps, and what it had done beside the failure."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import msgspec
import pytest

from durable.engine.rewind import look_back, rewind
from durable.model import history as h
from durable.model.errors import TaskFailedError
from durable.model.history import Event, Parent, Raw, encode_events
from durable.model.retry import RetryPolicy
from durable.model.status import RuntimeStatus, Summary
from durable.ports import Record
from durable.replay.callee import ActivityRef, OrchestratorRef
from durable.replay.context import OrchestrationContext
from durable.replay.live_code import Code

from .test_replay_laws import (
    NOW,
    Life,
    begin,
    code_of,
    done,
    done_attempt,
    fired,
    output,
    raised,
    replayed,
    stored,
    task_failed,
)
from .test_rewind_laws import LATER, Rewound, after, mint, record_of

Steps = Generator[Any, Any, Any]


def lived(code: Code, facts: Sequence[Event]) -> list[Event]:
    """Its history after these facts, one a turn, from its start on."""
    execution = begin(code)
    history = [execution.started, *execution.take([], NOW)]
    for fact in facts:
        history += execution.take([fact], NOW)
    return history


def failed_and_rewound(code: Code, *facts: Event) -> Rewound:
    return again(code, lived(code, facts))


def again(code: Code, history: list[Event], child: Record | None = None) -> Rewound:
    """Rewound. child: the one that ended it, if it can go on."""
    life = Life(code, history[0], [], [], begin(code))
    found = look_back(record_of(life, history))
    assert found is not None
    return after(life, history, rewind(found, child, Raw(b"null"), LATER, mint(), 1))


def fails_with(what: str) -> Code:
    """Two calls; the first one fails while nobody listens for it."""

    def run(ctx: OrchestrationContext) -> Steps:
        if what == "at once":
            raise ValueError("at once")
        bad, other = ctx.call_activity("bad"), ctx.call_activity("other")
        yield other
        if what == "own":
            raise ValueError("own")
        third = ctx.call_activity("third")
        yield ctx.task_all([other, third])  # hears nothing of the first one
        yield {"directly": bad, "in a list": [third, bad]}.get(what, third)
        raise TaskFailedError("made up", task_failed(1, 1).failure)  # type: ignore[arg-type]  # it has one

    return code_of(run)


@pytest.mark.parametrize(
    ("what", "task_id", "rewinds_to"),
    [
        ("at once", 0, "OrchestratorStarted"),
        ("own", 0, "TaskCompleted"),
        ("made up", 0, "TaskCompleted"),
        ("directly", 1, "ExecutionCompleted"),
        ("in a list", 1, "ExecutionCompleted"),
    ],
)
def test_an_end_says_what_it_is_about_and_where_a_rewind_goes_back_to(what: str, task_id: int, rewinds_to: str) -> None:
    """To the fact that resumed the code for an error of its own; to when the code was told for one of a task."""
    turns: tuple[list[Event], ...] = ([], [task_failed(1, 1), done(2)], [raised("nobody's", ""), done(3)])
    execution = begin(fails_with(what))
    history = [execution.started]
    for facts in turns:
        if not execution.finished:
            history += execution.take(facts, NOW)
    end = history[-1]
    last = max(number for number, event in enumerate(history) if event.type == rewinds_to)
    assert (end.status, end.task_id, end.rewinds_to) == ("FAILED", task_id, last)


def test_an_error_after_a_cancel_goes_back_to_the_cancel() -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity("a")
        finally:
            raise ValueError("can't undo")

    execution = begin(code_of(orchestration))
    history = [execution.started, *execution.take([], NOW)]
    history += execution.take([raised("nobody's", ""), Event(h.EXECUTION_CANCELED, NOW)], NOW)
    assert history[history[-1].rewinds_to].type == h.EXECUTION_CANCELED


def test_what_the_code_did_before_it_was_told_of_a_failure_stands() -> None:
    """It had gone on with something else, which the failure, void now, must not hold up."""

    def beside(ctx: OrchestrationContext) -> Steps:
        bad = ctx.call_activity("bad")
        yield ctx.call_activity("one")
        yield ctx.call_activity("two")
        return (yield bad)

    past = failed_and_rewound(code_of(beside), task_failed(1, 1), done(2), done(3))
    execution = past.execution()
    turn = execution.take([done_attempt(2)], LATER)
    assert output(turn) == "done"


@pytest.mark.parametrize("child", [False, True], ids=["activity", "child"])
def test_a_rewound_call_has_all_its_attempts_again(child: bool) -> None:
    """A child goes on itself, in the attempt that failed: nothing is scheduled, and yet it counts as the first one."""
    policy = RetryPolicy(3, first_interval=1, retry_timeout=8)

    def retries(ctx: OrchestrationContext) -> Steps:
        if child:
            return (yield ctx.call_sub_orchestrator(OrchestratorRef[..., Any]("flaky", retry=policy)))
        return (yield ctx.call_activity(ActivityRef[..., Any]("flaky", retry=policy)))

    def failed(attempt: int) -> Event:
        return msgspec.structs.replace(task_failed(1, attempt), type=h.CHILD_FAILED if child else h.TASK_FAILED)

    code = code_of(retries)
    history = lived(code, [failed(1), fired(1, 2), failed(2), fired(1, 3), failed(3)])
    last = 3
    for _ in range(2):
        assert history[-1].status == "FAILED"
        past = again(code, history, its_child(last) if child else None)
        execution, history = past.execution(), past.history
        first = last if child else last + 1
        last = first + 2
        for attempt in (first, first + 1, last):
            history += execution.take([failed(attempt)], LATER)
            if attempt != last:
                history += execution.take([fired(1, attempt + 1)], LATER)
    assert [event.attempt for event in history if event.type in (h.TASK_SCHEDULED, h.CHILD_CREATED)][-1] == last


def its_child(attempt: int) -> Record:
    """The child of this attempt as it is stored: it has failed."""
    started = Event(h.EXECUTION_STARTED, NOW, name="flaky", execution_id="cx", parent=Parent("i", "x", 1, attempt))
    summary = Summary("child", "cx", "flaky", RuntimeStatus.FAILED, NOW, NOW, length=1)
    return Record(1, "c", summary, (encode_events([started]),), ())


def test_the_last_outcome_of_a_rewound_map_that_gathers_resumes_the_code_at_once() -> None:
    """Also where it is that of an item which followed a failure that was passed over."""

    def gathers(ctx: OrchestrationContext) -> Steps:
        results = yield ctx.map("work", [1, 2], max_concurrency=1, return_exceptions=True)
        errors = [result for result in results if isinstance(result, TaskFailedError)]
        if errors:
            raise errors[0]
        return results

    code = code_of(gathers)
    past = failed_and_rewound(code, task_failed(1, 1), task_failed(2, 1))
    execution, history = past.execution(), past.history
    assert execution.take([], LATER) == []  # nothing starts of itself: no turn
    history += execution.take([done_attempt(2)], LATER)
    past = again(code, history)
    execution = past.execution()
    assert execution.take([], LATER) == []
    assert output(execution.take([msgspec.structs.replace(done_attempt(2), task_id=2)], LATER)) == ["done", "done"]


def test_a_failure_that_is_passed_over_in_a_map_that_gathers_opens_no_turn() -> None:
    def gathers(ctx: OrchestrationContext) -> Steps:
        [error] = yield ctx.map("work", [1], return_exceptions=True)
        raise error

    assert failed_and_rewound(code_of(gathers), task_failed(1, 1)).execution().take([], LATER) == []


@pytest.mark.parametrize("items", [4, 5])
@pytest.mark.parametrize("late", [False, True], ids=["listened to", "yielded later"])
def test_a_rewound_map_starts_at_once_what_there_is_room_for_and_ends_with_the_last(items: int, late: bool) -> None:
    """Room was made by items that ended after the failure: before the code waited for the map, or while it did."""

    def maps(ctx: OrchestrationContext) -> Steps:
        mapped = ctx.map("work", range(items), max_concurrency=3)
        go = ctx.wait_for_external_event("go")
        yield go if late else ctx.task_all([go, ctx.task_any([mapped, ctx.create_timer(9)])])
        return (yield mapped)

    code = code_of(maps)
    past = failed_and_rewound(code, task_failed(1, 1), done(2), done(3), raised("go", ""))
    assert past.history[-2].type == h.EXECUTION_REWOUND
    execution, history = past.execution(), past.history
    turn = execution.take([], LATER)
    assert stored(replayed(code, history[0], history[1:]).take([], LATER)) == stored(turn)
    opening, *started = turn
    assert (opening.type, {event.type for event in started}) == (h.ORCHESTRATOR_STARTED, {h.TASK_SCHEDULED})
    assert len(started) == items - 3
    history += turn
    for fact in [done_attempt(2), *(done(event.task_id) for event in started)]:
        assert not execution.finished
        history += execution.take([fact], LATER)
    assert output(history) == ["done"] * items


def test_a_map_that_is_rewound_again_and_again_runs_no_more_at_once_than_allowed() -> None:
    def maps(ctx: OrchestrationContext) -> Steps:
        mapped = ctx.map("work", range(9), max_concurrency=3)
        yield ctx.wait_for_external_event("go")
        return (yield mapped)

    code = code_of(maps)
    past = failed_and_rewound(code, task_failed(1, 1), done(2), done(3), raised("go", ""))
    execution, history = past.execution(), past.history
    opening, *started = execution.take([], LATER)
    assert [event.type for event in started] == [h.TASK_SCHEDULED] * 2
    history += [opening, *started, *execution.take([task_failed(started[0].task_id, 1)], LATER)]
    turn = again(code, history).execution().take([], LATER)
    assert [event.type for event in turn] == [h.ORCHESTRATOR_STARTED]


def test_a_rewound_map_that_another_failure_has_ended_starts_nothing() -> None:
    def maps(ctx: OrchestrationContext) -> Steps:
        mapped = ctx.map("work", range(5), max_concurrency=3)
        yield ctx.wait_for_external_event("go")
        return (yield mapped)

    past = failed_and_rewound(code_of(maps), task_failed(1, 1), done(2), task_failed(3, 1), raised("go", ""))
    opening, end = past.execution().take([], LATER)
    assert (opening.type, end.type, end.task_id) == (h.ORCHESTRATOR_STARTED, h.EXECUTION_COMPLETED, 3)


def test_the_number_of_a_call_that_a_rewind_made_void_is_not_used_again() -> None:
    """Its outcome may still come, and would be taken for that of another call."""

    def cleans_up(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity("a")
        except TaskFailedError:
            yield ctx.call_activity("clean up")
            raise
        yield ctx.call_activity("b")

    past = failed_and_rewound(code_of(cleans_up), task_failed(1, 1), done(2))
    _, _, scheduled = past.execution().take([done_attempt(2)], LATER)
    assert (scheduled.type, scheduled.name, scheduled.task_id) == (h.TASK_SCHEDULED, "b", 3)
