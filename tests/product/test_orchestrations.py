"""What an orchestrator can do: wait, fan out, race, call children, sleep, start over; warm and replayed every turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.waiting import SOON, until

if TYPE_CHECKING:
    from tests.product.conftest import Bench

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]
NOW = timezone.utc


@pytest.fixture
def app() -> durable.Registry:
    """A registry with a few activities: `double`, `fail`, and `hold`, which waits for `app.gate`."""
    app = durable.Registry()

    @app.activity
    def double(number: int) -> int:
        return 2 * number

    @app.activity
    def fail(text: str) -> None:
        raise ValueError(text)

    return app


# ---- the three kinds of functions


@pytest.mark.everywhere
def test_a_generator_an_async_function_and_a_plain_one_leave_the_same_kind_of_history(
    bench: Bench, app: durable.Registry
) -> None:
    @app.orchestrator
    def generator(ctx: Ctx, n: int) -> Steps:
        return (yield ctx.call_activity("double", n)) + (yield from ctx.call_activity("double", 1))

    @app.orchestrator
    async def awaiting(ctx: Ctx, n: int) -> int:
        first: int = await ctx.call_activity("double", n)
        second: int = await ctx.call_activity("double", 1)
        return first + second

    @app.orchestrator
    def plain(ctx: Ctx, n: int) -> int:
        return n + 1

    bench.serve(app)
    handles = [bench.start(flow, 4) for flow in (generator, awaiting)]
    assert [handle.result(SOON) for handle in handles] == [10, 10]
    assert bench.types(handles[0]) == bench.types(handles[1])
    assert bench.types(handles[0]) == [
        "ExecutionStarted",
        *["TaskScheduled", "TaskCompleted"] * 2,
        "ExecutionCompleted",
    ]
    handle = bench.start(plain, 4)
    assert handle.result(SOON) == 5
    assert bench.types(handle) == ["ExecutionStarted", "ExecutionCompleted"]


def test_an_async_generator_is_refused_when_it_is_decorated() -> None:
    async def flow(ctx: Ctx) -> Any:
        yield ctx.create_timer(1)

    with pytest.raises(TypeError, match="async generator"):
        durable.Registry().orchestrator(flow)


def test_yield_from_runs_a_helper_and_gives_its_value(bench: Bench, app: durable.Registry) -> None:
    def helper(ctx: Ctx, n: int) -> Steps:
        return (yield ctx.call_activity("double", n))

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        first = yield from helper(ctx, 1)
        return (yield from helper(ctx, first))

    bench.serve(app)
    assert bench.run(flow) == 4


@pytest.mark.everywhere
def test_yielding_what_is_no_task_raises_at_that_line(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        for nothing in (5, None, "text", object(), [1, 2]):
            with pytest.raises(TypeError):
                yield nothing
        return (yield ctx.call_activity("double", 2))

    bench.serve(app)
    assert bench.run(flow) == 4


def test_yielding_a_helper_without_from_says_what_to_write(bench: Bench, app: durable.Registry) -> None:
    def helper(ctx: Ctx) -> Steps:
        yield ctx.create_timer(0)

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield helper(ctx)

    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.type == "TypeError"
    assert "yield from" in failure.message


def test_awaiting_asyncio_raises_instead_of_hanging(bench: Bench, app: durable.Registry) -> None:
    import asyncio

    @app.orchestrator
    async def sleeping(ctx: Ctx) -> None:
        await asyncio.sleep(0.001)

    @app.orchestrator
    async def passing(ctx: Ctx) -> None:
        await asyncio.sleep(0)

    bench.serve(app)
    assert bench.fails(sleeping).type == "RuntimeError"
    assert bench.fails(passing).type == "TypeError"


@pytest.mark.everywhere
def test_a_task_has_no_truth_value(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        if ctx.call_activity("double", 1):
            yield ctx.create_timer(0)

    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.type == "TypeError"
    assert "did you forget yield?" in failure.message


def unpacks(task: Any) -> object:
    first, second = task
    return first, second


def extends(task: Any) -> object:
    items = [0]
    items += task
    return items


# What a forgotten yield leads to, a line later.
USED_AS_A_RESULT: dict[str, Callable[[Any], object]] = {
    "task + 1": lambda task: task + 1,
    "1 + task": lambda task: 1 + task,
    "'a' + task": lambda task: "a" + task,
    "[] + task": lambda task: [] + task,  # noqa: RUF005 - what is asked is who raises
    "2 * task": lambda task: 2 * task,
    "task / 2": lambda task: task / 2,
    "-task": lambda task: -task,
    "task | {}": lambda task: task | {},
    "task < 3": lambda task: task < 3,
    "task > 3": lambda task: task > 3,
    "task[0]": lambda task: task[0],
    "task['total']": lambda task: task["total"],
    "'a' in task": lambda task: "a" in task,
    "len": len,
    "int": int,
    "float": float,
    "round": round,
    "range": range,
    "sum": sum,
    "list": list,
    "for": lambda task: [None for _ in task],
    "unpack": unpacks,
    "+=": extends,
    "task.total": lambda task: task.total,
}


def test_a_task_used_as_its_result_says_that_a_yield_is_missing(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        task = ctx.call_activity("double", 1)
        said = {}
        for name, use in USED_AS_A_RESULT.items():
            try:
                said[name] = repr(use(task))
            except (TypeError, AttributeError) as error:
                said[name] = str(error)
        ctx.set_custom_status(said)
        return (yield task)

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == 2
    said = handle.status().custom_status
    assert said.keys() == USED_AS_A_RESULT.keys()
    for name, text in said.items():
        assert "<Task 1: activity 'double'>" in text, (name, text)
        assert "did you forget yield? Write `x = yield ctx.call_activity(...)`" in text, (name, text)


def test_a_finished_task_used_as_its_result_names_result(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        winner = yield ctx.task_any([ctx.call_activity("double", 1)])
        return winner + 1

    bench.serve(app)
    assert "use its .result()" in bench.fails(flow).message


def test_tasks_stay_what_they_are_for_yield_from_await_and_comparison(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def generator(ctx: Ctx) -> Steps:
        one, two = ctx.call_activity("double", 1), ctx.call_activity("double", 2)
        assert one != two
        assert len({one, two, one}) == 2
        assert [two, one].index(one) == 1
        assert not hasattr(one, "total")
        yield from ctx.create_timer(0)
        all_of = yield from ctx.task_all([one, two])
        return [all_of, (yield from one)]

    @app.orchestrator
    async def coroutine(ctx: Ctx) -> Any:
        await ctx.create_timer(0)
        return await ctx.call_activity("double", 3)

    bench.serve(app)
    assert bench.run(generator) == [[2, 4], 2]
    assert bench.run(coroutine) == 6


@pytest.mark.parametrize(
    ("gives", "path", "method"),
    [
        (lambda ctx: ctx.call_activity("double", 1), "$,", "call_activity"),
        (lambda ctx: {"sums": [0, ctx.call_activity("double", 1)]}, "$.sums[1],", "call_activity"),
        (lambda ctx: ctx.create_timer(60), "$,", "create_timer"),
        (lambda ctx: ctx.wait_for_external_event("go"), "$,", "wait_for_external_event"),
        (lambda ctx: [ctx.task_all([ctx.create_timer(60)])], "$[0],", "task_all"),
    ],
)
def test_a_returned_task_says_that_a_yield_is_missing(
    bench: Bench, app: durable.Registry, gives: Callable[[Ctx], Any], path: str, method: str
) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Any:
        return gives(ctx)

    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.type == "durable.PayloadError"
    assert f"the output of orchestrator 'flow': {path} <" in failure.message
    assert f"did you forget yield? Write `x = yield ctx.{method}(...)`" in failure.message


def test_a_task_as_an_argument_says_that_a_yield_is_missing(bench: Bench, app: durable.Registry) -> None:
    @app.activity
    def add(a: int, b: int) -> int:
        return a + b

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        doubled: Any = ctx.call_activity("double", 1)
        return (yield ctx.call_activity(add, 1, doubled))

    bench.serve(app)
    message = bench.fails(flow).message
    assert "argument 'b' of " in message
    assert "<Task 1: activity 'double'>, is a task, not its result: did you forget yield?" in message


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda client: client.start_orchestration("other"), "ctx.call_sub_orchestrator or ctx.start_orchestration"),
        (lambda client: client.start_many("other", [1]), "call_sub_orchestrator"),
        (lambda client: client.raise_event("other", "go"), "ctx.send_event"),
        (lambda client: client.handle("other").raise_event("go"), "ctx.send_event"),
        (lambda client: client.terminate("other"), ""),
        (lambda client: client.wait("other"), ""),
        (lambda client: client.handle("other").result(), ""),
        (lambda client: client.get_status("other"), ""),
        (lambda client: client.list_orchestrations(), ""),
        (lambda client: client.history("other"), ""),
    ],
)
def test_a_client_call_inside_an_orchestrator_raises(
    bench: Bench, app: durable.Registry, call: Callable[[durable.Client], object], instead: str
) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> None:
        call(bench.client)

    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.type == "RuntimeError", failure
    assert instead in failure.message


def test_the_default_client_is_not_even_made_inside_an_orchestrator(
    bench: Bench, app: durable.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DURABLE_URL", "nosuch://x")

    @app.orchestrator
    def flow(ctx: Ctx) -> None:
        durable.start_orchestration("other")

    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.type == "RuntimeError"
    assert "ctx.call_sub_orchestrator" in failure.message


# ---- fan-out and races


@pytest.mark.everywhere
def test_task_all_gives_results_in_order_whatever_the_order_of_completion(bench: Bench) -> None:
    app = durable.Registry()
    second_done = threading.Event()

    @app.activity
    def first() -> str:
        assert second_done.wait(SOON)
        return "first"

    @app.activity
    def second() -> str:
        second_done.set()
        return "second"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return (yield ctx.task_all([ctx.call_activity(first), ctx.call_activity(second)]))

    bench.serve(app)
    assert bench.run(flow) == ["first", "second"]


@pytest.mark.everywhere
def test_a_yielded_list_means_task_all_and_empty_ones_are_done(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        tasks = [ctx.call_activity("double", n) for n in range(4)]
        return [(yield tasks), (yield []), (yield ctx.task_all([])), (yield ctx.task_all(iter(tasks)))]

    bench.serve(app)
    assert bench.run(flow) == [[0, 2, 4, 6], [], [], [0, 2, 4, 6]]


@pytest.mark.on_dynamodb
@pytest.mark.everywhere
def test_task_all_fails_with_the_first_failure_while_others_still_run(bench: Bench, app: durable.Registry) -> None:
    gate = threading.Event()

    @app.activity
    def slow() -> str:
        assert gate.wait(SOON)
        return "slow"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        others = ctx.call_activity(slow)
        try:
            yield ctx.task_all([others, ctx.call_activity("fail", "broken")])
        except durable.TaskFailedError as error:
            ctx.set_custom_status(error.failure.message)
        return (yield others)

    bench.serve(app)
    handle = bench.start(flow)
    until(lambda: handle.status().custom_status == "broken")
    gate.set()
    assert handle.result(SOON) == "slow"


@pytest.mark.everywhere
def test_task_all_can_gather_the_exceptions_that_would_have_been_raised(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        cancelled = ctx.create_timer(60)
        cancelled.cancel()
        tasks: list[durable.Task[Any]] = [
            ctx.call_activity("double", 1),
            ctx.call_activity("fail", "broken"),
            ctx.wait_for_external_event("never", timeout=0),
            cancelled,
        ]
        results = yield ctx.task_all(tasks, return_exceptions=True)
        return [r if isinstance(r, int) else type(r).__name__ for r in results]

    bench.serve(app)
    assert bench.run(flow) == [2, "TaskFailedError", "TimeoutError", "TaskCancelledError"]


@pytest.mark.everywhere
def test_task_any_gives_the_first_in_history_then_in_the_list_and_losers_go_on(bench: Bench) -> None:
    app = durable.Registry()
    gate = threading.Event()

    @app.activity
    def slow() -> str:
        assert gate.wait(SOON)
        return "slow"

    @app.activity
    def quick(text: str) -> str:
        return text

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        loser, winner = ctx.call_activity(slow), ctx.call_activity(quick, "quick")
        first = yield ctx.task_any([loser, winner])
        assert first is winner
        assert (first.is_completed, first.is_failed, loser.is_completed) == (True, False, False)
        ctx.set_custom_status(first.result())
        second = yield ctx.task_any([loser])
        # Both have an outcome now: the one that is earlier in the history wins, wherever it stands in the list.
        again = yield ctx.task_any([loser, winner])
        assert again is winner
        return second.result()

    bench.serve(app)
    handle = bench.start(flow)
    until(lambda: handle.status().custom_status == "quick")
    gate.set()
    assert handle.result(SOON) == "slow"


@pytest.mark.everywhere
def test_task_any_gives_a_failed_task_without_raising_and_refuses_nothing(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        with pytest.raises(ValueError, match="task_any"):
            ctx.task_any([])
        task = yield ctx.task_any([ctx.call_activity("fail", "broken"), ctx.create_timer(60)])
        assert task.is_completed
        assert task.is_failed
        with pytest.raises(durable.TaskFailedError, match="broken"):
            task.result()
        return "seen"

    bench.serve(app)
    assert bench.run(flow) == "seen"


@pytest.mark.everywhere
def test_composites_nest_to_any_depth(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        never = ctx.create_timer(3600)
        pairs = [ctx.task_all([ctx.call_activity("double", n), ctx.call_activity("double", 10 * n)]) for n in (1, 2)]
        first = yield ctx.task_any([never, ctx.task_any([never, ctx.task_all(pairs)])])
        return first.result().result()

    bench.serve(app)
    assert bench.run(flow) == [[2, 20], [4, 40]]


def test_one_task_may_stand_in_several_places(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        task = ctx.call_activity("double", 1)
        both = yield ctx.task_all([task, task, ctx.task_any([task])])
        again = yield task
        return [both[0], both[1], both[2].result(), again]

    bench.serve(app)
    assert bench.run(flow) == [2, 2, 2, 2]


def test_tasks_say_how_they_stand(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        task = ctx.call_activity("double", 1)
        before = (task.is_completed, task.is_failed)
        with pytest.raises(RuntimeError):
            task.result()
        yield task
        return [before, (task.is_completed, task.is_failed), task.result(), task.cancel()]

    bench.serve(app)
    assert bench.run(flow) == [[False, False], [True, False], 2, False]


@pytest.mark.everywhere
def test_cancel_ends_any_task_once(bench: Bench, app: durable.Registry) -> None:
    gate = threading.Event()

    @app.activity
    def hold() -> None:
        gate.wait(SOON)

    @app.orchestrator
    def child(ctx: Ctx) -> Steps:
        yield ctx.wait_for_external_event("go")

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        tasks: list[durable.Task[Any]] = [
            ctx.call_activity(hold),
            ctx.call_sub_orchestrator(child, instance_id="left-alone"),
            ctx.create_timer(60),
            ctx.wait_for_external_event("never"),
            ctx.wait_for_external_event("never", timeout=60),
            ctx.task_all([ctx.create_timer(60)]),
            ctx.task_any([ctx.create_timer(60)]),
        ]
        yield ctx.create_timer(0)
        for task in tasks:
            assert task.cancel() is True
            assert task.cancel() is False
            assert (task.is_completed, task.is_failed) == (True, True)
            try:
                yield task
            except durable.TaskCancelledError:
                continue
            return "no error"
        return len(tasks)

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == 7
    gate.set()
    types = bench.types(handle)
    assert types.count("TimerCanceled") == 3
    assert types.count("TaskCanceled") == 4
    left = bench.client.handle("left-alone")
    left.raise_event("go")
    assert left.result(SOON) is None


@pytest.mark.everywhere
def test_what_was_scheduled_but_never_yielded_still_runs_and_is_ignored(bench: Bench, app: durable.Registry) -> None:
    ran = threading.Event()
    gate = threading.Event()

    @app.activity
    def leftover() -> None:
        assert gate.wait(SOON)
        ran.set()
        raise ValueError("nobody sees this")

    @app.orchestrator
    def child(ctx: Ctx) -> str:
        return "child"

    @app.orchestrator
    def flow(ctx: Ctx) -> str:
        ctx.call_activity(leftover)
        ctx.call_sub_orchestrator(child, instance_id="leftover-child")
        ctx.create_timer(0.001)
        ctx.wait_for_external_event("never")
        return "done"

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == "done"
    gate.set()
    assert ran.wait(SOON)
    until(lambda: bench.client.get_status("leftover-child"))
    assert bench.client.handle("leftover-child").result(SOON) == "child"
    assert handle.status().output == "done"
    assert bench.types(handle)[-1] == "ExecutionCompleted"


@pytest.mark.everywhere
def test_facts_are_applied_one_at_a_time_so_batching_never_shows(bench: Bench) -> None:
    """Everything has arrived before the worker starts; the orchestrator still sees one event after the other."""
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        a, b = ctx.wait_for_external_event("a"), ctx.wait_for_external_event("b")
        first = yield ctx.task_any([b, a])
        seen = [first.result(), a.is_completed, b.is_completed]
        yield [a, b]
        return seen

    handle = bench.start(flow)
    handle.raise_event("a", "A")
    handle.raise_event("b", "B")
    bench.serve(app)
    assert handle.result(SOON) == ["A", True, False]


# ---- timers


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "when",
    [
        0,
        0.005,
        timedelta(milliseconds=5),
        datetime(2001, 1, 1, tzinfo=timezone.utc),
        datetime(2001, 1, 1, tzinfo=timezone(timedelta(hours=9))),
    ],
)
def test_timers_take_moments_and_durations(bench: Bench, when: datetime | timedelta | float) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        before = ctx.current_utc_datetime
        value = yield ctx.create_timer(when)
        return [value, ctx.current_utc_datetime >= before]

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == [None, True]
    created = next(e for e in bench.history(handle) if e.type == "TimerCreated")
    assert created.fire_at is not None
    assert created.fire_at.utcoffset() == timedelta(0)
    if isinstance(when, datetime):
        assert created.fire_at == when


@pytest.mark.on_dynamodb
@pytest.mark.everywhere
def test_a_timer_never_fires_early(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        due = ctx.current_utc_datetime + timedelta(milliseconds=40)
        yield ctx.create_timer(due)
        return ctx.current_utc_datetime >= due

    bench.serve(app)
    assert bench.run(flow) is True


@pytest.mark.everywhere
def test_a_timer_may_be_due_in_centuries(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        timers = [ctx.create_timer(timedelta(days=365 * 500)), ctx.create_timer(datetime(9999, 1, 1, tzinfo=NOW))]
        go = ctx.wait_for_external_event("go")
        first = yield ctx.task_any([*timers, go])
        return first is go

    bench.serve(app)
    handle = bench.start(flow)
    bench.until_recorded(handle, "TimerCreated", 2)
    handle.raise_event("go")
    assert handle.result(SOON) is True


@pytest.mark.parametrize(
    ("when", "error"),
    [
        (datetime(2030, 1, 1), ValueError),
        (-1, ValueError),
        (timedelta(seconds=-1), ValueError),
        (float("nan"), ValueError),
        (1e300, ValueError),
        ("tomorrow", TypeError),
        (True, TypeError),
    ],
)
def test_what_is_no_moment_is_refused_at_that_line(bench: Bench, when: Any, error: type[Exception]) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> str:
        with pytest.raises(error):
            ctx.create_timer(when)
        return "refused"

    bench.serve(app)
    assert bench.run(flow) == "refused"


# ---- children


@pytest.mark.on_dynamodb
@pytest.mark.everywhere
def test_a_child_has_a_derived_id_and_knows_its_parent(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator(tags={"kind": "child"})
    def child(ctx: Ctx, text: str) -> list[Any]:
        return [ctx.instance_id, ctx.parent_instance_id, ctx.name, text]

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        return (yield ctx.call_sub_orchestrator(child, "hello", tags={"more": "yes"}))

    bench.serve(app)
    instance_id, parent_id, name, text = bench.run(parent, instance_id="p-1")
    assert (parent_id, name, text) == ("p-1", "child", "hello")
    assert instance_id.startswith("p-1:")
    assert len(instance_id) == len("p-1:") + 12
    status = bench.client.get_status(instance_id)
    assert status is not None
    assert status.parent_instance_id == "p-1"
    assert status.tags == {"kind": "child", "more": "yes"}
    created = next(e for e in bench.client.history("p-1") if e.type == "SubOrchestrationInstanceCreated")
    assert (created.instance_id, created.name, created.input, created.attempt) == (instance_id, "child", "hello", 1)


def test_a_child_runs_in_the_group_that_its_reference_names_else_in_its_parents(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx) -> str:
        return "done"

    @app.orchestrator(group="shop")
    def parent(ctx: Ctx) -> Steps:
        ctx.call_sub_orchestrator(durable.orchestrator_ref("child", group="nobody's"))
        return (yield [ctx.call_sub_orchestrator("child"), ctx.call_sub_orchestrator(child)])

    bench.serve(app, groups=["shop"])
    handle = bench.start(parent)
    assert handle.result(SOON) == ["done", "done"]
    created = [e.group for e in bench.history(handle) if e.type == "SubOrchestrationInstanceCreated"]
    assert created == ["nobody's", "shop", "shop"]


def test_the_derived_id_of_a_child_is_cut_to_fit(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx, depth: int) -> Steps:
        if not depth:
            return [ctx.instance_id]
        return [ctx.instance_id, *(yield ctx.call_sub_orchestrator(flow, depth - 1))]

    bench.serve(app)
    for parent, head in (("x" * 200, "x" * 150), ("\U0001f600" * 128, "\U0001f600" * 100)):
        ids = bench.run(flow, 3, instance_id=parent)
        assert len(set(ids)) == 4
        assert all(len(i) <= 200 and len(i.encode()) <= 512 for i in ids)
        kept, _, digits = ids[1].rpartition(":")
        assert kept == head
        assert len(bytes.fromhex(digits)) == 6


def test_a_child_may_have_an_id_of_its_own_and_be_called_by_name(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx, a: int, b: int = 5) -> int:
        return a + b

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        typed = durable.orchestrator_ref("child", returns=int)
        return [
            (yield ctx.call_sub_orchestrator(child, 1, instance_id="by-function")),
            (yield ctx.call_sub_orchestrator("child", 1, 2, instance_id="by-name")),
            (yield ctx.call_sub_orchestrator(typed, 1, 3, instance_id="by-ref")),
        ]

    bench.serve(app)
    assert bench.run(parent) == [6, 3, 4]
    for instance_id, given in (("by-function", [1]), ("by-name", [1, 2]), ("by-ref", [1, 3])):
        status = bench.client.get_status(instance_id)
        assert status is not None
        assert status.input == given


@pytest.mark.everywhere
def test_a_taken_child_id_fails_the_task_and_leaves_the_other_alone(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx, text: str) -> str:
        return text

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_sub_orchestrator(child, "mine", instance_id="taken")
        except durable.TaskFailedError as error:
            return [error.failure.type, error.failure.is_caused_by(durable.InstanceExistsError)]

    bench.serve(app)
    assert bench.run(child, "theirs", instance_id="taken") == "theirs"
    assert bench.run(parent) == ["durable.InstanceExistsError", True]
    status = bench.client.get_status("taken")
    assert status is not None
    assert (status.input, status.parent_instance_id) == ("theirs", None)


@pytest.mark.everywhere
def test_terminating_a_child_fails_the_task_of_its_parent(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx) -> Steps:
        yield ctx.wait_for_external_event("never")

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_sub_orchestrator(child, instance_id="doomed")
        except durable.TaskFailedError as error:
            return [error.failure.type, error.failure.is_caused_by(durable.OrchestrationTerminatedError)]

    bench.serve(app)
    handle = bench.start(parent)
    until(lambda: bench.client.get_status("doomed"))
    bench.client.terminate("doomed", "enough")
    assert handle.result(SOON) == ["durable.OrchestrationTerminatedError", True]


def test_children_nest_as_deep_as_the_limit_and_no_deeper(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def down(ctx: Ctx, levels: int) -> Steps:
        if not levels:
            return 0
        try:
            return 1 + (yield ctx.call_sub_orchestrator(down, levels - 1))
        except durable.LimitError as error:
            return f"refused at {levels}: {'children_depth' in str(error)}"

    bench.serve(app)
    assert bench.run(down, 32) == 32

    @app.orchestrator
    def endless(ctx: Ctx, level: int) -> Steps:
        return (yield ctx.call_sub_orchestrator(endless, level + 1))

    failure = bench.fails(endless, 0)
    assert failure.is_caused_by(durable.LimitError)


@pytest.mark.everywhere
def test_children_run_side_by_side(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def double(n: int) -> int:
        return 2 * n

    @app.orchestrator
    def child(ctx: Ctx, n: int) -> Steps:
        return (yield ctx.call_activity(double, n))

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        return sum((yield [ctx.call_sub_orchestrator(child, n) for n in range(20)]))

    bench.serve(app)
    assert bench.run(parent) == 380


# ---- continue-as-new


@pytest.mark.everywhere
def test_continue_as_new_starts_over_under_the_same_id(bench: Bench) -> None:
    app = durable.Registry()
    executions: list[str] = []

    @app.orchestrator
    def countdown(ctx: Ctx, n: int) -> Steps:
        if ctx.execution_id not in executions:
            executions.append(ctx.execution_id)
        yield ctx.create_timer(0)
        if n:
            ctx.continue_as_new(n - 1)
            return "its return value is ignored"
        return ["done", ctx.execution_id]

    bench.serve(app)
    handle = bench.start(countdown, 3, instance_id="countdown", tags={"a": "b"})
    result = handle.result(SOON)
    assert len(executions) == 4
    assert result == ["done", executions[-1]]
    status = handle.status()
    assert (status.input, status.execution_id, status.tags) == (0, executions[-1], {"a": "b"})
    assert status.runtime_status is durable.RuntimeStatus.COMPLETED
    for number, execution_id in enumerate(executions[:-1]):
        old = bench.history(handle, execution_id=execution_id)
        assert [e.type for e in old] == [
            "ExecutionStarted",
            "TimerCreated",
            "TimerFired",
            "ContinueAsNew",
        ]
        assert (old[0].input, old[-1].input) == (3 - number, 2 - number)
        assert [e.event_id for e in bench.client.history("countdown", execution_id=execution_id)] == list(
            range(len(bench.client.history("countdown", execution_id=execution_id)))
        )
    assert bench.history(handle)[0].input == 0


@pytest.mark.everywhere
@pytest.mark.parametrize("save", [True, False])
def test_events_that_nobody_took_carry_over_unless_told_otherwise(bench: Bench, save: bool) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx, first: bool) -> Steps:
        if first:
            yield ctx.wait_for_external_event("go")
            ctx.continue_as_new(False, save_events=save)
            return None
        try:
            values = []
            for _ in range(2):
                values.append((yield ctx.wait_for_external_event("kept", timeout=0.05)))
            return values
        except durable.TimeoutError:
            return "dropped"

    handle = bench.start(flow, True)
    for number in (1, 2):
        handle.raise_event("kept", number)
    handle.raise_event("go")
    bench.serve(app)
    assert handle.result(SOON) == ([1, 2] if save else "dropped")


@pytest.mark.everywhere
def test_commands_after_continue_as_new_raise_and_an_exception_is_a_failure(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def step() -> None: ...

    @app.orchestrator
    def child(ctx: Ctx) -> None: ...

    waits: list[Any] = []
    commands: list[Callable[[Ctx], object]] = [
        lambda ctx: ctx.patched("change"),
        lambda ctx: waits[-1].cancel(),
        lambda ctx: ctx.call_activity(step),
        lambda ctx: ctx.call_sub_orchestrator(child),
        lambda ctx: ctx.create_timer(0),
        lambda ctx: ctx.wait_for_external_event("x"),
        lambda ctx: ctx.map(step, [None]),
        lambda ctx: ctx.start_orchestration(child),
        lambda ctx: ctx.send_event("x", "go"),
        lambda ctx: ctx.continue_as_new(0),
    ]

    @app.orchestrator
    def flow(ctx: Ctx, n: int) -> str | None:
        if not n:
            return "started over"
        waits.append(ctx.wait_for_external_event("x"))
        ctx.continue_as_new(0)
        for command in commands:
            with pytest.raises(RuntimeError, match="continue_as_new"):
                command(ctx)
        return None

    @app.orchestrator
    def broken(ctx: Ctx) -> None:
        ctx.continue_as_new()
        raise ValueError("no")

    bench.serve(app)
    assert bench.run(flow, 1) == "started over"
    assert bench.fails(broken).type == "ValueError"


@pytest.mark.everywhere
def test_continue_as_new_takes_effect_when_the_function_returns(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx, first: bool) -> Steps:
        go = ctx.wait_for_external_event("go")
        if not first:
            return (yield go)
        ctx.continue_as_new(False)
        ctx.set_custom_status((yield go))

    bench.serve(app)
    handle = bench.start(flow, True)
    bench.until_recorded(handle, "EventAwaited")
    assert "ContinueAsNew" not in bench.types(handle)
    handle.raise_event("go", "taken by the first")
    handle.raise_event("go", "carried over")
    assert handle.result(SOON, on_blocked="raise") == "carried over"
    assert handle.status().custom_status == "taken by the first"


@pytest.mark.everywhere
def test_a_parent_waits_for_the_last_execution_of_its_child(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx, n: int) -> Steps:
        yield ctx.create_timer(0)
        if n:
            ctx.continue_as_new(n - 1)
        return "the end"

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        return (yield ctx.call_sub_orchestrator(child, 3))

    bench.serve(app)
    assert bench.run(parent) == "the end"


@pytest.mark.everywhere
def test_what_an_old_execution_scheduled_does_not_reach_the_new_one(bench: Bench) -> None:
    app = durable.Registry()
    gate = threading.Event()

    @app.activity
    def old() -> str:
        assert gate.wait(SOON)
        return "old"

    @app.activity
    def new() -> str:
        gate.set()
        return "new"

    @app.orchestrator
    def flow(ctx: Ctx, first: bool) -> Steps:
        if first:
            ctx.call_activity(old)
            ctx.create_timer(0.001)
            ctx.wait_for_external_event("x", timeout=0.001)
            ctx.continue_as_new(False)
            return None
        return [(yield ctx.call_activity(new)), (yield ctx.create_timer(0.02))]

    bench.serve(app)
    assert bench.run(flow, True) == ["new", None]


# ---- custom status, identity, input


@pytest.mark.everywhere
def test_the_custom_status_shows_with_its_turn_and_survives_the_end(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        assert ctx.custom_status is None
        ctx.set_custom_status("dropped at once")
        ctx.set_custom_status({"step": 1})
        assert ctx.custom_status == {"step": 1}
        yield ctx.wait_for_external_event("go")
        assert ctx.custom_status == {"step": 1}
        ctx.set_custom_status(["last"])
        return "done"

    bench.serve(app)
    handle = bench.start(flow)
    bench.client.wait(handle.instance_id, SOON, until="started")
    assert handle.status().custom_status == {"step": 1}
    handle.raise_event("go")
    assert handle.result(SOON) == "done"
    assert handle.status().custom_status == ["last"]


def test_a_custom_status_that_is_too_large_or_no_json_raises_at_that_line(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> str:
        with pytest.raises(durable.LimitError, match="custom_status"):
            ctx.set_custom_status("x" * 20_000)
        with pytest.raises(durable.PayloadError):
            ctx.set_custom_status(object())
        return "still here"

    bench.serve(app)
    assert bench.run(flow) == "still here"


@pytest.mark.everywhere
def test_an_orchestration_knows_who_it_is(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator(name="who", version="1.2", tags={"team": "a"})
    def flow(ctx: Ctx, n: int) -> list[Any]:
        return [
            ctx.instance_id,
            ctx.parent_instance_id,
            ctx.execution_id,
            ctx.name,
            ctx.version,
            ctx.tags,
            ctx.get_input(),
            ctx.get_input(float) / 2,
        ]

    bench.serve(app)
    handle = bench.start(flow, 7, instance_id="me", tags={"run": "1"})
    status = bench.client.wait("me", SOON)
    assert handle.result(SOON) == ["me", None, status.execution_id, "who", "1.2", {"team": "a", "run": "1"}, 7, 3.5]
    assert (status.name, status.version, status.tags) == ("who", "1.2", {"team": "a", "run": "1"})


@pytest.mark.not_on_dynamodb("its test server takes 200 requests a second")
def test_ten_thousand_commands_in_one_turn_are_the_limit(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx, count: int) -> int:
        for _ in range(count):
            ctx.create_timer(0)
        return count

    bench.serve(app)
    assert bench.run(flow, 10_000) == 10_000
    failure = bench.fails(flow, 10_001)
    assert failure.type == "durable.LimitError"
    assert "commands_per_turn" in failure.message
