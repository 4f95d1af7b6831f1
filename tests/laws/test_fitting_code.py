"""Code that fits its history, and code that does not: what is compared, and what is said of a difference."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from durable.model import history as h
from durable.model.errors import LimitError, OrchestrationCancelledError, TaskFailedError
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.model.retry import RetryPolicy
from durable.replay.callee import ActivityRef, OrchestratorRef
from durable.replay.context import OrchestrationContext
from durable.replay.execution import Execution
from durable.replay.guard import Watch
from durable.replay.journal import PATIENCE
from durable.replay.live_code import Code
from durable.replay.mismatch import Mismatch
from durable.replay.tasks import Task

from .test_codec_laws import SEAL
from .test_replay_laws import (
    NOW,
    begin,
    begin_as,
    cancelled,
    code_of,
    done,
    done_attempt,
    drive,
    fired,
    output,
    place,
    raised,
    replayed,
    task_failed,
)

Steps = Generator[Any, Any, Any]
CHILD = OrchestratorRef[..., Any]("c")


def waits_at_once(*names: str) -> Code:
    def run(ctx: OrchestrationContext) -> Steps:
        yield [ctx.call_activity(name) for name in names]

    return code_of(run)


def test_a_command_that_is_not_asked_for_any_more_is_named_with_the_line_that_waits() -> None:
    execution = begin(waits_at_once("a", "b"))
    history = execution.take([], NOW)
    fewer = waits_at_once("a")
    line = f"test_.*py:{fewer.fn.__code__.co_firstlineno + 1}\\)"
    with pytest.raises(Mismatch, match=rf"event 3 is call_activity 'b' .*; the code did not ask for it .*{line}"):
        replayed(fewer, execution.started, history)


class Computed:
    """What it is asked for it looks up, and does not say AttributeError."""

    def __init__(self, task: Any) -> None:
        self.tasks = [task]

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)

    def close(self) -> None: ...

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.tasks.pop()


def test_the_line_that_waits_is_found_outside_of_what_looks_its_attributes_up() -> None:
    def fewer(ctx: OrchestrationContext) -> Steps:
        yield from Computed(ctx.call_activity("a"))

    execution = begin(waits_at_once("a", "b"))
    history = execution.take([], NOW)
    with pytest.raises(Mismatch, match=f"did not ask for it .*py:{fewer.__code__.co_firstlineno + 1}"):
        replayed(code_of(fewer), execution.started, history)


def _helps(ctx: OrchestrationContext) -> Steps:
    yield ctx.call_activity("a")


async def _helps_async(ctx: OrchestrationContext) -> None:
    await ctx.call_activity("a")


def from_a_helper(ctx: OrchestrationContext) -> Steps:
    yield from _helps(ctx)


async def awaits_a_helper(ctx: OrchestrationContext) -> None:
    await _helps_async(ctx)


def from_a_task(ctx: OrchestrationContext) -> Steps:
    yield from ctx.call_activity("a")


async def awaits_a_task(ctx: OrchestrationContext) -> None:
    await ctx.call_activity("a")


@pytest.mark.parametrize(
    ("fewer", "waits"),
    [
        (from_a_helper, _helps),
        (awaits_a_helper, _helps_async),
        (from_a_task, from_a_task),
        (awaits_a_task, awaits_a_task),
    ],
)
def test_the_line_that_waits_is_the_users_innermost(fewer: Any, waits: Any) -> None:
    execution = begin(waits_at_once("a", "b"))
    history = execution.take([], NOW)
    with pytest.raises(Mismatch) as found:
        replayed(code_of(fewer), execution.started, history)
    assert f"went on waiting ({__file__}:{waits.__code__.co_firstlineno + 1})" in found.value.reason


@pytest.mark.parametrize("now", [1.0, True])
def test_numbers_that_are_only_equal_are_a_difference_also_where_no_types_are_known(now: object) -> None:
    def sends(value: object) -> Code:
        def run(ctx: OrchestrationContext) -> Steps:
            ctx.send_event("other", "go", {"n": value})
            yield ctx.call_activity("a", value)

        return code_of(run)

    execution = begin(sends(1))
    history = execution.take([], NOW)
    with pytest.raises(Mismatch, match="event 2 is send_event"):
        replayed(sends(now), execution.started, history)


def test_a_command_too_many_is_told_apart_from_a_changed_one() -> None:
    """A fact stands where it would have been recorded, and is not what the code was to ask for."""
    execution = begin(waits_at_once("a"))
    history = execution.take([], NOW)
    history += execution.take([Event(h.TIMER_FIRED, NOW), raised("kept", "")], NOW)
    with pytest.raises(Mismatch, match=r"the history has no further command at event 3; .* call_activity 'b'"):
        replayed(waits_at_once("a", "b"), execution.started, history)


def test_a_plain_function_that_does_not_fit_is_named_with_its_line() -> None:
    def plain(*names: str) -> Code:
        def run(ctx: OrchestrationContext) -> None:
            for name in names:
                ctx.call_activity(name)

        return code_of(run)

    execution = begin(plain("a", "b"))
    history = execution.take([], NOW)
    other, fewer = plain("a", "c"), plain("a")
    first = other.fn.__code__.co_firstlineno
    with pytest.raises(Mismatch, match=rf"now asks for call_activity 'c' .*test_.*py:{first + 2}\)"):
        replayed(other, execution.started, history)
    with pytest.raises(Mismatch, match=rf"; the code: return .*test_.*py:{first}\)"):  # it has ended: where it begins
        replayed(fewer, execution.started, history)


def test_an_item_that_differs_is_named_with_the_line_that_waits_for_the_map() -> None:
    def maps(*items: int) -> Code:
        def run(ctx: OrchestrationContext) -> Steps:
            mapped = ctx.map("work", items, max_concurrency=1)
            yield mapped

        return code_of(run)

    execution = begin(maps(1, 2))
    history = [*execution.take([], NOW), *execution.take([done(1)], NOW)]
    other = maps(1, 3)
    line = f"test_.*py:{other.fn.__code__.co_firstlineno + 2}\\)"
    with pytest.raises(Mismatch, match=rf"with input 2; the code now asks for .* with input 3 \(.*{line}"):
        replayed(other, execution.started, history)


@pytest.mark.parametrize("kind", ["call", "timer"])
def test_cancelling_another_task_is_a_difference(kind: str) -> None:
    def cancels(number: int) -> Code:
        def run(ctx: OrchestrationContext) -> Steps:
            tasks = [ctx.call_activity("a") if kind == "call" else ctx.create_timer(9) for _ in range(2)]
            tasks[number].cancel()
            yield tasks[1 - number]

        return code_of(run)

    execution = begin(cancels(0))
    history = execution.take([], NOW)
    with pytest.raises(Mismatch, match=r"cancel of a \w+ \(task 1\); the code now asks for cancel of a \w+ \(task 2\)"):
        replayed(cancels(1), execution.started, history)


def ends(how: str) -> Code:
    def run(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity("a")
        except TaskFailedError:
            if how == "lets it go":
                raise
            if how == "own error":
                raise ValueError("another") from None
        if how == "continues":
            ctx.continue_as_new()
        elif how == "calls":
            yield ctx.call_activity("b")
        return how

    return code_of(run)


def test_of_an_end_its_kind_is_compared_and_nothing_else() -> None:
    """As the output of code may change, so may the error it ends with."""
    kinds = [("lets it go", "own error"), ("returns", "returns another"), ("continues",), ("calls",)]
    for same in kinds:
        execution = begin(ends(same[0]))
        history = [*execution.take([], NOW), *execution.take([task_failed(1, 1)], NOW)]
        for other in [how for each in kinds for how in each]:
            if other in same:
                replayed(ends(other), execution.started, history)
                continue
            with pytest.raises(Mismatch):
                replayed(ends(other), execution.started, history)


def undoes(ctx: OrchestrationContext) -> Steps:
    try:
        yield ctx.call_activity("a")
    except OrchestrationCancelledError:
        yield ctx.call_activity("undo")


@pytest.mark.parametrize(
    ("before", "fact", "now", "said"),
    [
        (ends("returns"), task_failed(1, 1), ends("own error"), "return .*; the code: raise ValueError: another"),
        (ends("own error"), task_failed(1, 1), ends("returns"), "raise ValueError: another; the code: return"),
        (code_of(undoes), cancelled(), ends("returns"), "raise durable.OrchestrationCancelledError"),
    ],
)
def test_an_end_by_an_error_is_told_apart_from_a_return(before: Code, fact: Event, now: Code, said: str) -> None:
    execution = begin(before)
    history = [*execution.take([], NOW), *execution.take([fact], NOW)]
    with pytest.raises(Mismatch, match=said):
        replayed(now, execution.started, history)


def test_an_attempt_is_named_with_its_number() -> None:
    def gives_up(cancels: bool) -> Code:
        def run(ctx: OrchestrationContext) -> Steps:
            task: Task[Any] = ctx.call_activity(ActivityRef("flaky", retry=RetryPolicy(9, first_interval=1)))
            yield ctx.wait_for_external_event("go")
            if cancels:
                task.cancel()
            yield ctx.wait_for_external_event("on")

        return code_of(run)

    execution = begin(gives_up(True))
    history = execution.take([], NOW)
    history += execution.take([task_failed(1, 1), raised("go", "")], NOW)
    with pytest.raises(Mismatch, match=r"cancel of a task \(task 1, attempt 2\); the code now asks for .* 'on'"):
        replayed(gives_up(False), execution.started, history)


def test_an_input_that_can_not_be_read_is_named_where_nothing_else_is_known_to_differ() -> None:
    execution = begin(waits_at_once("a"))
    opened, asked = execution.take([], NOW)
    history = [opened, msgspec.structs.replace(asked, input=Raw(b'{"$durable.codec":"c2VhbGVk"}'))]
    with pytest.raises(Mismatch, match=r"^the input that event 2 of the history has was encoded by a codec"):
        replayed(waits_at_once("a"), execution.started, history)
    with pytest.raises(Mismatch, match=r"event 2 is call_activity 'a' .*; the code now asks for call_activity 'b'"):
        replayed(waits_at_once("b"), execution.started, history)


@pytest.mark.parametrize("data", [b'"%s"' % (b"x" * 100_000), b'"\xff"'], ids=["long", "no text"])
def test_whatever_an_input_holds_the_difference_is_said_in_a_few_words(data: bytes) -> None:
    execution = begin(waits_at_once("a"))
    opened, asked = execution.take([], NOW)
    history = [opened, msgspec.structs.replace(asked, input=Raw(data))]
    with pytest.raises(Mismatch, match="event 2 is call_activity 'a' ") as found:
        replayed(waits_at_once("a"), execution.started, history)
    assert len(found.value.reason) < 600


def test_who_swallows_a_difference_is_told_so_often_and_no_more() -> None:
    told: list[Mismatch] = []

    def greedy(ctx: OrchestrationContext) -> Steps:
        for _ in range(10 * PATIENCE):
            try:
                yield ctx.call_activity("renamed")
            except Mismatch as difference:
                told.append(difference)

    execution = begin(waits_at_once("a"))
    history = execution.take([], NOW)
    with pytest.raises(Mismatch, match="'renamed'"):
        replayed(code_of(greedy), execution.started, history)
    assert len(told) == 1 + PATIENCE
    assert len(set(map(id, told))) == 1  # the first one


def test_chance_is_the_same_in_every_version_of_this_package() -> None:
    """What an earlier one began has asked for things by these numbers, and goes on under this one."""

    def chance(ctx: OrchestrationContext) -> list[Any]:
        return [str(ctx.new_uuid()), str(ctx.new_uuid()), ctx.random.random()]

    assert output(drive(chance)) == [
        "14c73976-eb9a-52c6-9ab6-5fcd1461c184",
        "7f3c4967-1533-5f87-8764-6b5fe1c3b398",
        0.1382359792209653,
    ]


def test_code_whose_context_is_used_while_it_sleeps_is_stopped() -> None:
    """By another thread, or another orchestration: what that asks for fits no place in the history."""
    contexts: list[OrchestrationContext] = []

    def lends(ctx: OrchestrationContext) -> Steps:
        contexts.append(ctx)
        yield ctx.call_activity("a")

    execution = begin(code_of(lends))
    execution.take([], NOW)
    for _ in range(PATIENCE):
        with pytest.raises(GeneratorExit):
            contexts[0].call_activity("b")
    contexts[0].call_activity("b")
    with pytest.raises(Mismatch):
        execution.take([done(1)], NOW)


def test_retries_in_one_turn_are_no_commands_of_the_code_and_replay() -> None:
    """Timers and attempts of more calls than the code may make in a turn, and each next to those of the others."""

    def retries(ctx: OrchestrationContext) -> Steps:
        ref = ActivityRef[..., Any]("flaky", retry=RetryPolicy(2, first_interval=1))
        tasks = [ctx.call_activity(ref)]
        yield ctx.wait_for_external_event("go")
        tasks += [ctx.call_activity(ref), ctx.call_activity(ref)]
        return (yield tasks)

    code = code_of(retries)
    execution = Execution(code, begin(code).started, "i", Limits(commands_per_turn=2), Watch())
    context = OrchestrationContext(execution)
    execution.begin_with(lambda: code.fn(context))
    history = execution.take([], NOW)
    history += execution.take([raised("go", "")], NOW)
    for facts in (
        [task_failed(number, 1) for number in (1, 3, 4)],
        [fired(number, 2) for number in (1, 3, 4)],
        [msgspec.structs.replace(done_attempt(2), task_id=number) for number in (1, 3, 4)],
    ):
        history += execution.take(facts, NOW)
        assert execution.taken == 3
        assert place(replayed(code, execution.started, history)) == place(execution)
    assert output(history) == ["done"] * 3


def test_a_pattern_means_the_same_however_it_is_written() -> None:
    def waits(ctx: OrchestrationContext) -> Steps:
        yield ctx.wait_for_cloudevent(type="shop.paid", subject="order-1")

    execution = begin(code_of(waits))
    history = execution.take([], NOW)
    history[-1] = msgspec.structs.replace(history[-1], input=Raw(b'{ "subject": "order-1", "type": "shop.paid" }'))
    assert replayed(execution.code, execution.started, history).trigger is not None


@pytest.mark.parametrize("outcome", [done(1), task_failed(1, 1)], ids=["result", "failure"])
def test_an_outcome_that_can_t_be_read_here_is_told_to_no_code(outcome: Event) -> None:
    """Code that catches whatever fails would take another road than where it can be read."""

    def catches(ctx: OrchestrationContext) -> Steps:
        with suppress(TaskFailedError):
            yield ctx.call_activity("a")

    execution = begin(code_of(catches))
    execution.take([], NOW)
    failure = outcome.failure and SEAL.failure(outcome.failure)
    sealed = msgspec.structs.replace(outcome, result=SEAL.payload(outcome.result), failure=failure)
    with pytest.raises(Mismatch, match=r"the outcome of <activity 'a'> \(task 1\) .*codec"):
        execution.take([sealed], NOW)
    assert not execution.finished


def test_a_recorded_id_of_a_child_wins_over_the_one_it_would_have_today() -> None:
    def calls(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_sub_orchestrator("c")

    execution = begin(code_of(calls))
    opening, created = execution.take([], NOW)
    recorded = msgspec.structs.replace(created, instance_id="as it was named then")
    assert replayed(code_of(calls), execution.started, [opening, recorded]).trigger is not None


def test_where_children_may_nest_no_deeper_there_are_activities_and_empty_maps_of_children() -> None:
    deepest: list[str] = []

    def maps(ctx: OrchestrationContext) -> Steps:
        deepest.extend((yield ctx.map(CHILD, [])))
        deepest.extend((yield ctx.map("work", [1])))
        with pytest.raises(LimitError, match="children_depth"):
            ctx.map(CHILD, [1])

    start = msgspec.structs.replace(begin(code_of(maps)).started, depth=Limits().children_depth)
    execution = begin_as(code_of(maps), start)
    for facts in ([], [done(1)]):
        turn = execution.take(facts, NOW)
    assert (turn[-1].status, deepest) == ("COMPLETED", ["done"])
