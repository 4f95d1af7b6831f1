"""`ctx.map`: one call for each item, in order, only so many at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.waiting import until

if TYPE_CHECKING:
    from tests.product.conftest import Bench

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]

pytestmark = pytest.mark.everywhere


def test_results_come_in_the_order_of_the_items_whatever_ends_first(bench: Bench) -> None:
    app = durable.Registry()
    last = threading.Event()

    @app.activity
    def double(n: int) -> int:
        if n == 0:
            last.wait(20)
        if n == 9:
            last.set()
        return 2 * n

    @app.orchestrator
    def flow(ctx: Ctx, at_once: int | None) -> Steps:
        return (yield ctx.map(double, range(10), max_concurrency=at_once))

    bench.serve(app)
    for at_once in (None, 2, 50):
        last.clear()
        assert bench.run(flow, at_once) == [2 * n for n in range(10)]


def test_no_more_run_at_a_time_than_allowed(bench: Bench) -> None:
    app = durable.Registry()
    lock = threading.Lock()
    running, most = 0, 0
    three = threading.Barrier(3)

    @app.activity
    def work(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if n < 3:
            three.wait(20)  # so many do run at a time
        with lock:
            running -= 1
        return n

    @app.orchestrator
    async def flow(ctx: Ctx) -> list[int]:
        return await ctx.map(work, list(range(30)), max_concurrency=3)

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(20) == list(range(30))
    assert most == 3
    open_ones = 0
    for event in bench.history(handle):
        open_ones += {"TaskScheduled": 1, "TaskCompleted": -1}.get(event.type, 0)
        assert open_ones <= 3


def test_items_are_read_once_and_are_inputs(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def add(a: int, b: int = 100) -> int:
        return a + b

    @app.activity
    def length(items: list[int]) -> int:
        return len(items)

    @app.activity
    def nothing() -> str:
        return "nothing"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        def read() -> Iterator[Any]:
            yield [1, 2]
            yield (3, 4)
            yield 5

        return [
            (yield ctx.map(add, read(), max_concurrency=1)),
            (yield ctx.map(length, [[1, 2, 3], []])),
            (yield ctx.map(nothing, [None, None])),
            (yield ctx.map("add", [[1, 2]])),
            (yield ctx.map(durable.activity_ref("add", returns=int), iter([[1, 2]]))),
            (yield ctx.map(add, [])),
        ]

    bench.serve(app)
    assert bench.run(flow) == [[3, 7, 105], [3, 0], ["nothing"] * 2, [3], [3], []]


def test_orchestrators_are_mapped_too(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx, a: int, b: int) -> int:
        return a * b

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        by_name = durable.orchestrator_ref("child", returns=int)
        return [
            (yield ctx.map(child, [[n, 10] for n in range(4)], max_concurrency=2)),
            (yield ctx.map(by_name, [[2, 3]])),
        ]

    bench.serve(app)
    assert bench.run(flow) == [[0, 10, 20, 30], [6]]


def test_after_a_failure_no_further_item_starts(bench: Bench) -> None:
    app = durable.Registry()
    seen: list[int] = []

    @app.activity
    def work(n: int) -> int:
        seen.append(n)
        if n == 2:
            raise ValueError("no 2")
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        mapped = ctx.map(work, range(1_000), max_concurrency=1)
        try:
            yield mapped
        except durable.TaskFailedError as error:
            assert mapped.is_failed
            yield ctx.create_timer(0.01)
            return error.failure.message
        return "not failed"

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(20) == "no 2"
    assert seen == [0, 1, 2]
    assert bench.types(handle).count("TaskScheduled") == 3


def test_exceptions_are_gathered_when_asked_for(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def work(n: int) -> int:
        if n % 2:
            raise ValueError(f"odd: {n}")
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        found: list[Any] = yield ctx.map(work, range(5), max_concurrency=2, return_exceptions=True)
        return [one.failure.message if isinstance(one, durable.TaskFailedError) else one for one in found]

    bench.serve(app)
    assert bench.run(flow) == [0, "odd: 1", 2, "odd: 3", 4]


def test_retries_and_races_and_cancelling(bench: Bench) -> None:
    app = durable.Registry()
    started: list[int] = []

    @app.activity(retry=durable.RetryPolicy(2, first_interval=0))
    def flaky(ctx: durable.ActivityContext, n: int) -> int:
        if ctx.attempt == 1:
            raise ValueError("try again")
        return n

    @app.activity
    def held(n: int) -> int:
        started.append(n)
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        tried = yield ctx.map(flaky, range(4), max_concurrency=2)
        mapped = ctx.map("child", ["x"] * 5, max_concurrency=2)
        never = ctx.map(durable.orchestrator_ref("waits"), [1, 2, 3, 4], max_concurrency=2)
        winner = yield ctx.task_any([never, mapped])
        assert winner is mapped
        assert never.cancel()
        try:
            yield never
        except durable.TaskCancelledError:
            return [tried, winner.result()]
        return "not cancelled"

    app.activity(name="child")(lambda text: f"{text}!")

    @app.orchestrator
    def waits(ctx: Ctx, n: int) -> Steps:
        yield ctx.wait_for_external_event("never")

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(20, on_blocked="raise") == [[0, 1, 2, 3], ["x!"] * 5]
    assert bench.types(handle).count("SubOrchestrationInstanceCreated") == 2
    assert bench.types(handle).count("TaskCanceled") == 2


def test_what_can_not_be_mapped_is_refused_at_that_line(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def work(n: int) -> int:
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        map_: Any = ctx.map
        for wrong in (0, -1, True, 1.5, "3"):
            with pytest.raises(ValueError, match="max_concurrency"):
                map_(work, [1], max_concurrency=wrong)
        with pytest.raises(TypeError, match="iterable"):
            map_(work, 3)
        with pytest.raises(TypeError, match="yield it first"):
            map_(work, ctx.map(work, []))
        with pytest.raises(TypeError, match="is no activity"):
            map_(len, [1])
        with pytest.raises(durable.PayloadError, match="argument 'n' of work"):
            map_(work, [1, object()])
        return (yield ctx.map(work, [1]))

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(20, on_blocked="raise") == [1]
    assert bench.types(handle).count("TaskScheduled") == 1


def test_too_many_at_once_name_the_remedy_and_schedule_nothing(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def work(n: int) -> int:
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        with pytest.raises(durable.LimitError, match=r"commands_per_turn.*max_concurrency="):
            ctx.map(work, range(21))
        first = yield ctx.map(work, range(20))
        return len(first) + len((yield ctx.map(work, range(300), max_concurrency=20)))

    client = bench.connect(limits=durable.Limits(commands_per_turn=20))
    with durable.Worker(client, registry=app, max_cached_orchestrations=0 if bench.cold else 10):
        assert client.start_orchestration(flow).result(20, on_blocked="raise") == 320


def test_a_map_goes_on_in_another_worker(bench: Bench) -> None:
    app = durable.Registry()
    gate = threading.Event()
    reached = threading.Event()

    @app.activity
    def work(n: int) -> int:
        if n == 7 and not gate.is_set():
            reached.set()
            gate.wait(20)
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return sum((yield ctx.map(work, range(20), max_concurrency=2)))

    worker = bench.serve(app)
    handle = bench.start(flow)
    assert reached.wait(20)
    gate.set()
    worker.stop()
    bench.serve(app)
    assert handle.result(20, on_blocked="raise") == sum(range(20))


def test_other_items_or_an_other_width_are_a_difference(bench: Bench) -> None:
    def make(items: range, at_once: int) -> durable.Registry:
        app = durable.Registry()

        @app.activity
        def work(n: int) -> int:
            return n

        @app.orchestrator
        def flow(ctx: Ctx) -> Steps:
            done = yield ctx.map(work, items, max_concurrency=at_once)
            yield ctx.wait_for_external_event("go")
            return done

        return app

    worker = bench.serve(make(range(6), 2))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    worker = bench.serve(make(range(1, 7), 2))
    handle.raise_event("go")
    assert "with input 0; the code now asks for call_activity 'work' (task 1) with input 1" in bench.blocked(handle)
    worker.stop()
    worker = bench.serve(make(range(6), 3))
    until(lambda: "(task 3)" in (handle.status().blocked_reason or ""))
    worker.stop()
    bench.serve(make(range(6), 2))
    assert handle.result(20) == list(range(6))


@pytest.mark.embedded("one store shows it; the law tests count the steps")
def test_many_items(bench: Bench) -> None:
    if bench.cold:
        pytest.skip("every turn would replay all of it: that much is quadratic by nature")
    app = durable.Registry()

    @app.activity
    async def work(n: int) -> int:
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return sum((yield ctx.map(work, range(5_000), max_concurrency=50)))

    bench.serve(app)
    assert bench.run(flow) == sum(range(5_000))
