"""Tasks of several, and what becomes of those that nobody waits for any more."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from durable.model.errors import TaskFailedError
from durable.replay import mailbox
from durable.replay.callee import ActivityRef
from durable.replay.context import OrchestrationContext
from durable.replay.task_trees import is_open_below, leaves_of, open_leaves
from durable.replay.tasks import AllTask, Task

from .test_replay_laws import (
    NOW,
    begin,
    code_of,
    done,
    drive,
    fired,
    output,
    raised,
    task_failed,
)

Steps = Generator[Any, Any, Any]


def test_all_of_what_has_failed_already_fails_at_once_with_the_earliest() -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        first, second, never = (ctx.call_activity("a", number) for number in range(3))
        yield ctx.wait_for_external_event("go")
        together = ctx.task_all([never, second, first])
        try:
            yield together
        except TaskFailedError as error:
            return [error.task_id, together.is_failed, never.is_completed]

    assert output(drive(orchestration, task_failed(1, 1), task_failed(2, 1), raised("go", ""))) == [1, True, False]


def test_a_race_that_is_over_lets_go_of_its_losers_and_of_nobody_else() -> None:
    kept: list[Task[Any]] = []

    def orchestration(ctx: OrchestrationContext) -> Steps:
        loser, last = ctx.call_activity("loser"), ctx.call_activity("last")
        kept.append(loser)
        both = ctx.task_all([loser, last])
        for _ in range(3):
            yield ctx.task_any([loser, ctx.wait_for_external_event("go")])
        assert kept[-1]._parents == [both]  # no dead one for each round
        return (yield both)

    facts = [raised("go", str(number)) for number in range(3)]
    assert output(drive(orchestration, *facts, done(1, "loser"), done(2, "last"))) == ["loser", "last"]


@pytest.mark.parametrize("deep", [False, True])
def test_a_wait_whose_race_is_over_takes_nothing_while_the_code_waits_for_more(deep: bool) -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        wait = ctx.wait_for_external_event("go")
        either = ctx.task_any([ctx.task_all([wait, wait]) if deep else wait, ctx.create_timer(5)])
        yield ctx.task_all([either, ctx.create_timer(20)])
        return [(yield ctx.wait_for_external_event("go")), wait.is_completed]

    assert output(drive(orchestration, fired(2), raised("go", "now"), fired(3))) == ["now", False]


def test_a_wait_whose_race_is_over_goes_on_where_it_stands_elsewhere_too() -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        wait = ctx.wait_for_external_event("go")
        either = ctx.task_any([wait, ctx.create_timer(5)])
        _, got = yield ctx.task_all([either, wait])
        return got

    assert output(drive(orchestration, fired(2), raised("go", "now"))) == "now"


def test_a_race_that_is_over_hides_no_wait_that_is_wanted_elsewhere() -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        wait = ctx.wait_for_external_event("go")
        wanted = ctx.task_all([wait, ctx.create_timer(20)])
        raced = ctx.task_any([ctx.task_all([wait, wait]), ctx.create_timer(5)])
        got, *_ = yield ctx.task_all([wanted, raced])
        return got[0]

    assert output(drive(orchestration, fired(3), raised("go", "now"), fired(2))) == "now"


def test_a_timeout_after_its_race_is_over_leaves_an_earlier_event_to_the_wait() -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        wait = ctx.wait_for_external_event("go", timeout=9)
        either = ctx.task_any([wait, ctx.create_timer(5)])
        yield ctx.task_all([either, ctx.create_timer(20)])
        return (yield wait)

    assert output(drive(orchestration, fired(2), raised("go", "early"), fired(1), fired(3))) == "early"


def test_a_thousand_waits_and_their_events_cost_a_step_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def counted(*given: Any) -> bool:
        nonlocal asked
        asked += 1
        return is_open_below(*given)

    def orchestration(ctx: OrchestrationContext) -> Steps:
        return len((yield [ctx.wait_for_external_event("go") for _ in range(1_000)]))

    monkeypatch.setattr(mailbox, "is_open_below", counted)
    execution = begin(code_of(orchestration))
    execution.take([], NOW)
    assert output(execution.take([raised("go", "")] * 1_000, NOW)) == 1_000
    assert asked < 3_000


class Looked(list[Task[Any]]):
    """Children, and how often they were looked at."""

    times = 0

    def __iter__(self) -> Any:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize("look", [open_leaves, leaves_of])
def test_a_task_that_stands_in_many_places_is_looked_at_once(look: Callable[[Task[Any]], object]) -> None:
    """Else a tree of pairs of one and the same would cost 2 to the power of its depth."""
    trees: list[AllTask[Any]] = []

    def orchestration(ctx: OrchestrationContext) -> Steps:
        tree: Task[Any] = ctx.task_all([ctx.call_activity("a")])
        for _ in range(9):
            tree = ctx.task_all([tree, tree])
            assert isinstance(tree, AllTask)
            trees.append(tree)
        yield ctx.wait_for_external_event("go")

    begin(code_of(orchestration)).take([], NOW)
    children = [Looked(tree.children) for tree in trees]
    for tree, seen in zip(trees, children, strict=True):
        tree.children = seen
    found = look(trees[-1])
    assert [getattr(leaf, "id", leaf) for leaf in found] == [1]  # type: ignore[attr-defined]  # of either, a collection
    assert [seen.times for seen in children] == [1] * 9


def test_a_result_of_a_wrong_type_fails_with_the_number_of_its_task() -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        yield ctx.create_timer(9)
        return (yield ctx.call_activity(ActivityRef[..., Any]("a", result_hint=int)))

    [*_, end] = drive(orchestration, fired(1), done(2, "no number"))
    assert end.failure is not None
    assert (end.failure.type, end.failure.properties["task_id"]) == ("durable.PayloadError", 2)


@pytest.mark.parametrize("mapped", [False, True])
def test_where_exceptions_are_gathered_a_result_of_a_wrong_type_is_one_of_them(mapped: bool) -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        typed = ActivityRef[..., Any]("a", result_hint=int)
        if mapped:
            task = ctx.map(typed, [1, 2], return_exceptions=True)
        else:
            task = ctx.task_all([ctx.call_activity(typed, number) for number in (1, 2)], return_exceptions=True)
        for _ in range(2):
            first, second = yield task
        return [first.task_id, str(first), second.task_id]

    first, said, second = output(drive(orchestration, done(1, "no number"), done(2, "nor this")))
    assert (first, second) == (1, 2)
    assert said.startswith("the result of activity 'a' (task 1): Expected `int`")


@pytest.mark.parametrize("combine", ["task_all", "task_any"])
def test_what_is_no_list_of_own_tasks_is_refused_and_named(combine: str) -> None:
    lent: list[Task[Any]] = []

    def lends(ctx: OrchestrationContext) -> Steps:
        lent.append(ctx.call_activity("a"))
        yield lent[0]

    def orchestration(ctx: OrchestrationContext) -> list[str]:
        task, said = ctx.call_activity("b"), []
        for wrong in (task, [task, 7], [task, task, *lent]):
            with pytest.raises(TypeError) as refused:
                getattr(ctx, combine)(wrong)
            said.append(str(refused.value))
        return said

    begin(code_of(lends)).take([], NOW)
    assert output(drive(orchestration)) == [
        f"{combine}: <Task 1: activity 'b'> is one task; give a list of tasks",
        f"{combine}: item 1 is 7, which is no task",
        f"{combine}: item 2 belongs to another orchestration",
    ]


def test_only_a_wait_with_a_timeout_leaves_a_timer_unused() -> None:
    def orchestration(ctx: OrchestrationContext) -> Steps:
        for timeout in (None, 5, 5):
            wait = ctx.wait_for_external_event("go", timeout=timeout)
            yield ctx.call_activity("a")
            yield wait

    execution = begin(code_of(orchestration))
    execution.take([], NOW)
    unused = []
    for facts in ([done(2), raised("go", "")], [done(4), raised("go", "")], [raised("go", ""), fired(5), done(6)]):
        execution.take(facts, NOW)
        unused.append(execution.unused_timers)
    assert unused == [[], [3], []]  # that of the last one had fired when the event was taken
