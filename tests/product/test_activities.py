"""Activities: how they are declared, called and fed; what they know; how long they may take; what they give back."""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import msgspec
import pytest

import durable
from tests.waiting import SOON, until

if TYPE_CHECKING:
    from tests.product.conftest import Bench

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]


def calling(app: durable.Registry, activity: Any, *args: Any) -> Any:
    """An orchestrator that calls this activity once, and gives its result."""

    @app.orchestrator(name="calling")
    def flow(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity(activity, *args))

    return flow


# ---- declaring and calling


@pytest.mark.everywhere
def test_sync_and_async_activities_are_called_alike(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def sync(a: int, b: int = 10) -> int:
        return a + b

    @app.activity
    async def coroutine(a: int, b: int = 20) -> int:
        await asyncio.sleep(0)
        return a + b

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return (yield [ctx.call_activity(f, *args) for f in (sync, coroutine) for args in ((1,), (1, 2))])

    bench.serve(app)
    assert bench.run(flow) == [11, 3, 21, 3]


@pytest.mark.everywhere
def test_async_activities_run_side_by_side_up_to_the_limit(bench: Bench) -> None:
    app = durable.Registry()
    running, most = 0, 0

    @app.activity
    async def step() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield [ctx.call_activity(step) for _ in range(12)]

    bench.serve(app, max_concurrent_activities=4)
    bench.run(flow)
    assert most == 4


def test_sync_activities_run_side_by_side_up_to_the_limit(bench: Bench) -> None:
    app = durable.Registry()
    four = threading.Barrier(4)
    lock = threading.Lock()
    running, most = 0, 0

    @app.activity
    def step() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        four.wait(SOON)
        with lock:
            running -= 1

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield [ctx.call_activity(step) for _ in range(12)]

    bench.serve(app, max_concurrent_activities=4)
    bench.run(flow)
    assert most == 4


@pytest.mark.everywhere
def test_an_activity_that_waits_does_not_hold_up_the_next_one(bench: Bench) -> None:
    """Many short bursts, each with one that waits for another: whoever is queued must always find a thread."""
    app = durable.Registry()

    @app.activity
    def wait(number: int) -> int:
        assert gates[number].wait(SOON)
        return number

    @app.activity
    def release(number: int) -> int:
        gates[number].set()
        return number

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        total = 0
        for number in range(40):
            waiting = ctx.call_activity(wait, number)
            yield ctx.create_timer(0)
            total += sum((yield [waiting, ctx.call_activity(release, number)]))
        return total

    gates = [threading.Event() for _ in range(40)]
    bench.serve(app)
    assert bench.run(flow) == 1560


def test_activities_stay_ordinary_functions() -> None:
    app = durable.Registry()

    @app.activity
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    @app.activity
    async def later(number: int) -> int:
        return number + 1

    @app.activity
    def knows(ctx: durable.ActivityContext, text: str) -> str:
        ctx.heartbeat("alive")
        ctx.logger.info("called directly")
        return f"{text} {ctx.attempt} {ctx.cancelled} {ctx.idempotency_key}"

    assert double(4) == 8
    assert double.fn(4) == 8
    assert double.options(timeout=3)(4) == 8
    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
    assert asyncio.run(later(1)) == 2
    assert knows("attempt") == "attempt 1 False local/1"
    assert isinstance(knows.fn, type(double.fn))


def test_names_refs_and_functions_name_the_same_activity(bench: Bench) -> None:
    app = durable.Registry()

    @dataclass
    class Box:
        size: int

    @app.activity(name="boxes.make")
    def make(size: int, times: int = 1) -> Any:
        return Box(size * times)

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        typed = yield ctx.call_activity(durable.activity_ref("boxes.make", returns=Box), 3)
        assert isinstance(typed, Box)
        return [
            typed.size,
            (yield ctx.call_activity("boxes.make", 3, 2)),
            (yield ctx.call_activity(make, 3, 3)),
        ]

    bench.serve(app)
    assert bench.run(flow) == [3, {"size": 6}, {"size": 9}]


def test_an_argument_given_by_name_is_told_where_it_goes(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def pay(who: str) -> None: ...

    @app.orchestrator
    def flow(ctx: durable.OrchestrationContext, who: str) -> Generator[Any, Any, None]:
        yield ctx.call_activity(pay, who=who)

    @app.orchestrator
    def parent(ctx: Any) -> Generator[Any, Any, None]:
        yield ctx.call_sub_orchestrator("anything", who="ada")

    @app.orchestrator
    def detaches(ctx: Any) -> None:
        ctx.start_orchestration("anything", who="ada")

    said = "arguments are positional; give the value of 'who' in its place, without the name: "
    bench.serve(app)
    assert f"call_activity(pay, who=...): {said}call_activity(pay, ...)" in bench.fails(flow, "ada").message
    assert f"{said}call_sub_orchestrator(anything, ...)" in bench.fails(parent).message
    assert f"{said}start_orchestration(anything, ...)" in bench.fails(detaches).message
    with pytest.raises(TypeError, match=r"without the name: start_orchestration\(flow, \.\.\.\)"):
        bench.start(flow, who="ada")
    with pytest.raises(TypeError, match="unexpected keyword argument 'instance'"):
        bench.start(flow, "ada", instance="x")


@pytest.mark.parametrize("call", [(), (1, 2, 3), ("by keyword",)])
def test_wrong_arguments_raise_at_the_call(bench: Bench, call: tuple[Any, ...]) -> None:
    app = durable.Registry()

    @app.activity
    def add(a: int, b: int) -> int:
        return a + b

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield ctx.create_timer(0)
        try:
            ctx.call_activity(add, *call)
        except TypeError:
            return "refused"

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == "refused"
    assert "TaskScheduled" not in bench.types(handle)


def test_what_is_no_activity_is_refused() -> None:
    app = durable.Registry()

    def keyword_only(*, a: int) -> None: ...

    def any_keywords(**more: int) -> None: ...

    def generator() -> Steps:
        yield 1

    wrong: list[Any] = [keyword_only, any_keywords, int, 5]
    for what in [*wrong, generator]:
        with pytest.raises(TypeError):
            app.activity(what)
    for what in [*wrong, lambda: None]:
        with pytest.raises(TypeError):
            app.orchestrator(what)


@pytest.mark.everywhere
def test_options_make_a_copy_and_hold_for_calls_through_it(bench: Bench) -> None:
    app = durable.Registry()
    twice = durable.RetryPolicy(2, first_interval=0)

    @app.activity(timeout=1)
    def step(ctx: durable.ActivityContext) -> int:
        return ctx.attempt

    @app.orchestrator(tags={"kind": "child", "by": "decorator"})
    def child(ctx: Ctx, fails: bool) -> dict[str, str]:
        if fails:
            raise ValueError("broken")
        return ctx.tags

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        here, elsewhere = child.options(tags={"by": "options"}), durable.orchestrator_ref("child", tags={"by": "ref"})
        yield [
            ctx.call_activity(step.options(timeout=timedelta(seconds=2), heartbeat_timeout=3)),
            ctx.call_activity(durable.activity_ref("step", timeout=4, heartbeat_timeout=timedelta(seconds=5))),
            ctx.call_activity(durable.activity_ref("step").options(timeout=6)),
            ctx.call_activity(step),
            ctx.call_activity(step.options(timeout=None)),
        ]
        for ref in (child.options(retry=twice), durable.orchestrator_ref("child", retry=twice)):
            with pytest.raises(durable.TaskFailedError):
                yield ctx.call_sub_orchestrator(ref, True)
        return (
            yield [ctx.call_sub_orchestrator(ref, False) for ref in (here, elsewhere, child, child.options(tags=None))]
        )

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON, on_blocked="raise") == [
        {"by": "options"},
        {"by": "ref"},
        {"kind": "child", "by": "decorator"},
        {},
    ]
    scheduled = [e for e in bench.history(handle) if e.type == "TaskScheduled"]
    assert [(e.timeout, e.heartbeat_timeout) for e in scheduled] == [(2, 3), (4, 5), (6, None), (1, None), (None, None)]
    created = [e.attempt for e in bench.history(handle) if e.type == "SubOrchestrationInstanceCreated"]
    assert created == [1, 2, 1, 2, 1, 1, 1, 1]


def test_an_activity_runs_from_the_queue_that_its_reference_names(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity(queue="gpu")
    def step() -> str:
        return "done"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        calls: list[Any] = [step, step.options(queue="tpu"), durable.activity_ref("step", queue="npu")]
        ctx.call_activity(step.options(queue=None))  # nobody serves the default queue
        ctx.call_activity("step")
        return (yield [ctx.call_activity(ref) for ref in calls])

    bench.serve(app, queues=["gpu", "tpu", "npu"])
    handle = bench.start(flow)
    assert handle.result(SOON) == ["done"] * 3
    queues = [e.queue for e in bench.history(handle) if e.type == "TaskScheduled"]
    assert queues == [None, None, "gpu", "tpu", "npu"]


# ---- the registry


@pytest.mark.everywhere
def test_another_function_under_a_taken_name_is_refused_and_the_same_one_replaces_itself(bench: Bench) -> None:
    app = durable.Registry()

    def define(result: str) -> Any:
        @app.activity
        def step() -> str:
            return result

        return step

    define("first")
    define("second")
    with pytest.raises(durable.DuplicateNameError, match="step"):

        @app.activity(name="step")
        def other() -> None: ...

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity("step"))

    with pytest.raises(durable.DuplicateNameError, match="flow"):

        @app.orchestrator(name="flow")
        def another(ctx: Ctx) -> None: ...

    @app.orchestrator(name="flow", version="2")
    def second_version(ctx: Ctx) -> str:
        return "version 2"

    bench.serve(app)
    assert bench.run(flow) == "second"
    define("third")
    assert bench.run(flow) == "third"
    assert bench.run("flow", version="2") == "version 2"


def test_a_cell_of_a_notebook_that_is_run_again_replaces_what_it_defined() -> None:
    """Each run is compiled as a file of its own, and `__main__` is what they have in common."""

    def run(number: int, cell: str) -> None:
        exec(compile(cell, f"<cell {number}>", "exec"), {"__name__": "__main__", "app": app})

    app = durable.Registry()
    cell = "@app.activity\ndef step():\n    return {}\n\n@app.orchestrator\ndef flow(ctx):\n    return {}\n"
    run(1, cell.format(1, 1))
    run(2, cell.format(2, 2))
    assert (app.names("activity"), app.names("orchestrator")) == (["step"], ["flow"])
    with pytest.raises(durable.DuplicateNameError, match="step"):
        run(3, "@app.activity(name='step')\ndef other(): pass")


def test_registries_do_not_see_each_other(bench: Bench) -> None:
    before = durable.default_registry.names("activity")
    one, two = durable.Registry(), durable.Registry()

    @one.activity(name="step")
    def first() -> str:
        return "one"

    @two.activity(name="step")
    def second() -> str:
        return "two"

    calling(one, "step")
    calling(two, "step")
    worker = bench.serve(one)
    assert bench.run("calling") == "one"
    worker.stop()
    bench.serve(two)
    assert bench.run("calling") == "two"
    assert durable.default_registry.names("activity") == before


# ---- what an activity knows


@pytest.mark.everywhere
def test_the_context_says_which_call_this_is(bench: Bench) -> None:
    app = durable.Registry()
    contexts: list[tuple[str, int, int, str]] = []

    @app.activity(retry=durable.RetryPolicy(2, first_interval=0))
    def step(ctx: durable.ActivityContext, text: str) -> str:
        contexts.append((ctx.instance_id, ctx.task_id, ctx.attempt, ctx.idempotency_key))
        if ctx.attempt == 1:
            raise ValueError("once")
        return text

    @app.orchestrator
    def flow(ctx: Ctx, again: bool) -> Steps:
        yield ctx.create_timer(0)
        yield ctx.call_activity(step, "a")
        yield ctx.call_activity(step, "b")
        if again:
            ctx.continue_as_new(False)

    bench.serve(app)
    bench.run(flow, True, instance_id="it")
    assert [c[:3] for c in contexts] == [("it", 2, 1), ("it", 2, 2), ("it", 3, 1), ("it", 3, 2)] * 2
    keys = [c[3] for c in contexts]
    assert keys[0::2] == keys[1::2]
    assert len(set(keys)) == 4


@pytest.mark.everywhere
def test_the_client_of_an_activity_is_one_on_the_same_store(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def start(ctx: durable.ActivityContext) -> str:
        client: durable.Client = ctx.client
        client.raise_event(ctx.instance_id, "from-inside", 5)
        handle = client.start_orchestration("other", 3, instance_id="started-inside")
        return str(handle.result(SOON))

    @app.orchestrator
    def other(ctx: Ctx, n: int) -> int:
        return n * 7

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return [(yield ctx.call_activity(start)), (yield ctx.wait_for_external_event("from-inside"))]

    bench.serve(app)
    assert bench.run(flow) == ["21", 5]
    assert bench.client.handle("started-inside").result(SOON) == 21


def test_the_logger_of_an_activity_says_where_a_line_comes_from(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    app = durable.Registry()

    @app.activity
    def step(ctx: durable.ActivityContext) -> None:
        ctx.logger.warning("hello from %s", "inside")

    flow = calling(app, step)
    bench.serve(app)
    with caplog.at_level(logging.WARNING):
        handle = bench.start(flow)
        handle.result(SOON)
    record: Any = next(r for r in caplog.records if r.getMessage() == "hello from inside")
    assert (record.instance_id, record.task_id, record.attempt) == (handle.instance_id, 1, 1)


# ---- time limits


@pytest.mark.everywhere
def test_an_attempt_that_takes_too_long_fails_and_may_be_tried_again(bench: Bench) -> None:
    app = durable.Registry()
    saw_it = threading.Event()

    @app.activity(timeout=0.03, retry=durable.RetryPolicy(2, first_interval=0))
    def step(ctx: durable.ActivityContext) -> str:
        if ctx.attempt == 2:
            return "second"
        while not ctx.cancelled:
            threading.Event().wait(0.002)
        saw_it.set()
        return "ignored"

    flow = calling(app, step)
    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == "second"
    assert saw_it.wait(SOON)
    failed = next(e for e in bench.history(handle) if e.type == "TaskFailed")
    assert failed.failure is not None
    assert failed.failure.type == "TimeoutError"
    assert failed.failure.is_caused_by(TimeoutError)
    scheduled = next(e for e in bench.history(handle) if e.type == "TaskScheduled")
    assert scheduled.timeout == 0.03


def test_an_async_attempt_that_takes_too_long_is_cancelled(bench: Bench) -> None:
    app = durable.Registry()
    cancelled = threading.Event()

    @app.activity
    async def step() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    flow = calling(app, step.options(timeout=timedelta(milliseconds=20)))
    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.cause is not None
    assert failure.cause.type == "TimeoutError"
    assert cancelled.wait(SOON)


@pytest.mark.everywhere
def test_a_timeout_counts_from_the_start_and_not_from_the_queue(bench: Bench) -> None:
    app = durable.Registry()
    gate = threading.Event()

    @app.activity
    def first() -> None:
        assert gate.wait(SOON)

    @app.activity(timeout=0.05)
    def second() -> str:
        return "in time"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        waiting, queued = ctx.call_activity(first), ctx.call_activity(second)
        yield ctx.create_timer(0.1)
        ctx.set_custom_status("the queue took longer than the timeout")
        return (yield [waiting, queued])

    bench.serve(app, max_concurrent_activities=1)
    handle = bench.start(flow)
    until(lambda: handle.status().custom_status)
    gate.set()
    assert handle.result(SOON) == [None, "in time"]


@pytest.mark.everywhere
def test_a_thread_that_does_not_end_in_time_keeps_its_slot(bench: Bench) -> None:
    app = durable.Registry()
    gate = threading.Event()
    ended: list[str] = []

    @app.activity(timeout=0.03)
    def stuck() -> str:
        assert gate.wait(SOON)
        ended.append("stuck")
        return "ignored"

    @app.activity
    def step() -> str:
        ended.append("step")
        return "done"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        late, queued = ctx.call_activity(stuck), ctx.call_activity(step)
        first = yield ctx.task_any([late, queued])
        yield ctx.task_any([queued, ctx.create_timer(0.05)])
        ctx.set_custom_status([first.is_failed, queued.is_completed])
        return (yield queued)

    bench.serve(app, max_concurrent_activities=1)
    handle = bench.start(flow)
    until(lambda: handle.status().custom_status)
    assert handle.status().custom_status == [True, False]
    gate.set()
    assert handle.result(SOON) == "done"
    assert ended == ["stuck", "step"]
    assert bench.types(handle).count("TaskFailed") == bench.types(handle).count("TaskCompleted") == 1


@pytest.mark.everywhere
def test_heartbeats_are_counted_from_the_first_one(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity(heartbeat_timeout=0.03)
    def silent(ctx: durable.ActivityContext) -> str:
        threading.Event().wait(0.1)
        return "no heartbeat, no timeout"

    @app.activity(heartbeat_timeout=0.1)
    def lively(ctx: durable.ActivityContext) -> str:
        for number in range(20):
            ctx.heartbeat(number)
            threading.Event().wait(0.01)
        return "lively"

    @app.activity(heartbeat_timeout=0.03)
    def stuck(ctx: durable.ActivityContext) -> None:
        ctx.heartbeat()
        while not ctx.cancelled:
            threading.Event().wait(0.002)

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        tasks: list[durable.Task[Any]] = [ctx.call_activity(f) for f in (silent, lively)]
        tasks.append(ctx.call_activity(stuck))
        results = yield ctx.task_all(tasks, return_exceptions=True)
        return [*results[:2], results[2].failure.type]

    bench.serve(app)
    assert bench.run(flow) == ["no heartbeat, no timeout", "lively", "TimeoutError"]


@pytest.mark.everywhere
def test_a_cancelled_task_tells_its_activity(bench: Bench) -> None:
    app = durable.Registry()
    started, told = threading.Event(), threading.Event()

    @app.activity
    def step(ctx: durable.ActivityContext) -> None:
        started.set()
        while not ctx.cancelled:
            threading.Event().wait(0.002)
        told.set()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        task = ctx.call_activity(step)
        yield ctx.wait_for_external_event("go")
        task.cancel()
        yield ctx.create_timer(0)
        return task.is_failed

    bench.serve(app)
    handle = bench.start(flow)
    assert started.wait(SOON)
    handle.raise_event("go")
    assert handle.result(SOON) is True
    assert told.wait(SOON)


@pytest.mark.parametrize("given", [{"timeout": 0}, {"timeout": -1}, {"heartbeat_timeout": float("nan")}])
def test_options_outside_the_rules_are_refused(given: dict[str, Any]) -> None:
    def step() -> None: ...

    with pytest.raises(ValueError, match="timeout"):
        durable.Registry().activity(**given)(step)
    with pytest.raises(ValueError, match="timeout"):
        durable.Registry().activity(step).options(**given)


def test_what_belongs_to_the_function_is_no_option_of_a_call() -> None:
    app = durable.Registry()

    @app.activity
    def step() -> None: ...

    @app.orchestrator
    def flow(ctx: Ctx) -> None: ...

    of_activity: Any = step.options
    with pytest.raises(
        TypeError, match=r"executor=.*'step' a call can change retry=, timeout=, heartbeat_timeout=, queue="
    ):
        of_activity(executor="process")
    of_orchestrator: Any = flow.options
    with pytest.raises(TypeError, match=r"name=.*'flow' a call can change version=, group=, retry=, tags="):
        of_orchestrator(name="other")


# ---- payloads, end to end


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: float


class Line(msgspec.Struct):
    points: list[Point]
    colour: Colour = Colour.RED


@dataclass
class Order:
    id: UUID
    at: datetime
    total: Decimal
    lines: list[Line]
    took: timedelta
    blob: bytes = b""
    day: date | None = None
    tags: set[str] = field(default_factory=set)


ORDER = Order(
    UUID("12345678-1234-5678-1234-567812345678"),
    datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc),
    Decimal("12.340"),
    [Line([Point(1, 2.5)], Colour.BLUE), Line([])],
    timedelta(days=1, microseconds=5),
    b"\x00\xff",
    date(2030, 1, 2),
    {"b", "a"},
)

VALUES: list[tuple[Any, Any]] = [
    (Line, Line([Point(1, 2.5)])),
    (Point, Point(1, 2.5)),
    (Colour, Colour.BLUE),
    (datetime, ORDER.at),
    (date, ORDER.day),
    (timedelta, ORDER.took),
    (UUID, ORDER.id),
    (Decimal, ORDER.total),
    (bytes, b"\x00\xff"),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"x"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (dict[str, Line], {"a": Line([])}),
    (dict[int, str], {1: "a"}),
    (int | str, "text"),
    (Order | None, None),
    (list[Order | None], [None, ORDER]),
    (Any, {"a": [1, 2.5, None, True, "ü"]}),
    (int, 2**60),
    (float, 0.1),
    (str, "\u0000 \U0001f600"),
]


@pytest.mark.everywhere
def test_a_typed_order_passes_through_every_entrance(bench: Bench) -> None:
    passes_every_entrance(bench, Order, ORDER)


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=[str(i) for i in range(len(VALUES))])
def test_typed_values_pass_through_every_entrance(bench: Bench, hint: Any, value: Any) -> None:
    passes_every_entrance(bench, hint, value)


def passes_every_entrance(bench: Bench, hint: Any, value: Any) -> None:
    """Start, orchestrator, activity, child, event, result: everywhere the same value of the same type."""
    app = durable.Registry()

    def echo(given: Any) -> Any:
        assert given == value
        assert type(given) is type(value)
        return given

    def child(ctx: Ctx, given: Any) -> Any:
        return echo(given)

    def flow(ctx: Ctx, given: Any) -> Steps:
        echo(given)
        echo(ctx.get_input(hint))
        echo((yield ctx.call_activity(activity, given)))
        echo((yield ctx.call_sub_orchestrator(orchestrator, given)))
        echo((yield ctx.wait_for_external_event("value", type=hint)))
        return given

    for fn in (echo, child, flow):
        fn.__annotations__ |= {"given": hint, "return": hint}
    flow.__annotations__["return"] = Generator[Any, Any, hint]
    activity = app.activity(echo)
    orchestrator: Any = app.orchestrator(child)
    root: Any = app.orchestrator(flow)
    bench.serve(app)
    handle = bench.start(root, value)
    handle.raise_event("value", value)
    echo(handle.result(SOON))


def test_sets_travel_sorted_and_untyped_values_as_plain_json(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def untyped(value):  # type: ignore[no-untyped-def]
        return [type(value).__name__, value]

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        values: list[Any] = [{"c", "a", "b"}, (1, 2), Colour.RED]
        return (yield [ctx.call_activity(untyped, value) for value in values])

    bench.serve(app)
    assert bench.run(flow) == [["list", ["a", "b", "c"]], ["list", [1, 2]], ["str", "red"]]


@pytest.mark.everywhere
@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, "a"}.__class__, lambda: None])
def test_a_result_that_cannot_travel_fails_its_call_once_and_nothing_hangs(bench: Bench, value: object) -> None:
    app = durable.Registry()

    @app.activity
    def step() -> Any:
        return {"deep": [1, value]}

    @app.orchestrator
    def returning(ctx: Ctx) -> Any:
        return {"deep": [1, value]}

    @app.orchestrator
    def passing(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_activity("step", {"deep": [1, value]})
        except durable.PayloadError as error:
            return str(error)

    flow = calling(app, step.options(retry=durable.RetryPolicy(5, first_interval=0)))
    bench.serve(app)
    handle = bench.start(flow)
    with pytest.raises(durable.OrchestrationFailedError) as caught:
        handle.result(SOON)
    assert caught.value.failure.is_caused_by(durable.PayloadError)
    assert "deep" in caught.value.failure.message
    assert bench.types(handle).count("TaskScheduled") == 1
    assert bench.fails(returning).type == "durable.PayloadError"
    assert "deep" in bench.run(passing)


def test_a_coroutine_that_nobody_awaits_is_no_result(bench: Bench) -> None:
    """That of an `async def` behind a plain function."""
    app = durable.Registry()

    async def coroutine() -> None: ...

    @app.activity
    def step() -> Any:
        return coroutine()

    flow = calling(app, step)
    bench.serve(app)
    failure = bench.fails(flow).cause
    assert failure is not None
    assert (failure.type, failure.message) == (
        "TypeError",
        "activity 'step' returned a coroutine: make it, and what wraps it, `async def`",
    )


def test_an_input_that_does_not_fit_the_hint_fails_the_call(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def step(order: Order) -> None: ...

    @app.orchestrator
    def typed(ctx: Ctx, n: int) -> int:
        return n

    flow = calling(app, "step", {"id": "no uuid"})
    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.is_caused_by(durable.PayloadError)
    assert failure.is_caused_by(ValueError)
    failure = bench.fails("typed", "text")
    assert failure.type == "durable.PayloadError"


# ---- one input


def _none(ctx: Ctx) -> list[Any]:
    return [ctx.get_input()]


def _one(ctx: Ctx, a: Any) -> list[Any]:
    return [ctx.get_input(), a]


def _default(ctx: Ctx, a: Any = "default") -> list[Any]:
    return [ctx.get_input(), a]


def _two(ctx: Ctx, a: Any, b: Any = "default") -> list[Any]:
    return [ctx.get_input(), a, b]


def _rest(ctx: Ctx, *args: Any) -> list[Any]:
    return [ctx.get_input(), *args]


# callee, arguments; then the input and what the callee gets: when called by name, and by function.
ONE_INPUT: list[tuple[Any, tuple[Any, ...], list[Any], list[Any]]] = [
    (_none, (), [None], [None]),
    (_none, (5,), [5], [5]),
    (_none, (1, 2), [[1, 2]], [[1, 2]]),
    (_one, (5,), [5, 5], [5, 5]),
    (_one, ([1, 2],), [[1, 2], [1, 2]], [[1, 2], [1, 2]]),
    (_one, (None,), [None, None], [None, None]),
    (_default, (), [None, "default"], [None, "default"]),
    (_default, (5,), [5, 5], [5, 5]),
    (_two, (5,), [5, 5, "default"], [[5], 5, "default"]),
    (_two, (1, 2), [[1, 2], 1, 2], [[1, 2], 1, 2]),
    (_two, ([1, 2],), [[1, 2], 1, 2], [[[1, 2]], [1, 2], "default"]),
    (_two, ({"a": 1},), [{"a": 1}, {"a": 1}, "default"], [[{"a": 1}], {"a": 1}, "default"]),
    (_rest, (1, 2, 3), [[1, 2, 3], 1, 2, 3], [[1, 2, 3], 1, 2, 3]),
    (_rest, (5,), [5, 5], [[5], 5]),
]


@pytest.mark.everywhere
def test_an_orchestrator_of_nothing_but_the_context_has_an_input_too(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def callee(ctx: Ctx) -> Any:
        return ctx.get_input()

    @app.orchestrator
    def countdown(ctx: Ctx) -> Any:
        left = ctx.get_input(int)
        if left:
            ctx.continue_as_new(left - 1)
        return "done"

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        whom: Any = callee
        children = [ctx.call_sub_orchestrator(who, *args) for who in ("callee", whom) for args in ((5,), (1, 2), ())]
        return (yield [*children, ctx.map(whom, [3, None])])

    bench.serve(app)
    for who in ("callee", callee):
        started: Any = who  # type checkers refuse an argument that the function does not name
        assert bench.run(started, {"a": 5}) == {"a": 5}
        assert bench.client.start_many(started, [[1, 2], None])[0].result(SOON) == [1, 2]
    assert bench.run("countdown", 2) == "done"
    assert bench.run(parent) == [5, [1, 2], None, 5, [1, 2], None, [3, None]]


@pytest.mark.parametrize("case", ONE_INPUT, ids=[f"{c[0].__name__}{c[1]}" for c in ONE_INPUT])
def test_one_input_means_the_same_at_every_entrance(
    bench: Bench, case: tuple[Any, tuple[Any, ...], list[Any], list[Any]]
) -> None:
    fn, args, by_name, by_function = case
    app = durable.Registry()
    callee: Any = app.orchestrator(name="callee")(fn)

    @app.orchestrator
    def parent(ctx: Ctx, name: bool) -> Steps:
        return (yield ctx.call_sub_orchestrator("callee" if name else callee, *args))

    bench.serve(app)
    for target, expected in (("callee", by_name), (callee, by_function)):
        handle = bench.start(target, *args)
        assert handle.result(SOON) == expected
        assert handle.status().input == expected[0]
        assert bench.run(parent, target == "callee") == expected
    if len(args) == 1 and fn is not _rest:
        (many,) = bench.client.start_many("callee", [args[0]])
        assert many.result(SOON) == by_name
