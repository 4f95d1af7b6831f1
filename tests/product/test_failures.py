"""What happens when code raises: what is recorded, who sees it, and when it is tried again."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.waiting import SOON, until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench, Heard

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]
MS = timedelta(milliseconds=1)


class ShopError(Exception):
    """A hierarchy of errors as an application has it."""


class PaymentError(ShopError):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Declined(PaymentError, ValueError):
    pass


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def failing(times: int, error: Exception, result: object = "done") -> durable.Registry:
    """A registry whose activity `flaky` raises so often before it succeeds."""
    app = durable.Registry()
    calls: dict[str, int] = {}

    @app.activity
    def flaky(ctx: durable.ActivityContext) -> Any:
        calls[ctx.instance_id] = calls.get(ctx.instance_id, 0) + 1
        assert ctx.attempt == calls[ctx.instance_id]
        if ctx.attempt <= times:
            raise error
        return result

    return app


def flaky(policy: durable.RetryPolicy | None = None) -> Any:
    return durable.activity_ref("flaky", retry=policy)


def calls(app: durable.Registry, policy: durable.RetryPolicy | None = None) -> Any:
    """An orchestrator that calls `flaky` once."""

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity(flaky(policy)))

    return flow


# ---- what is recorded


def test_a_failure_arrives_with_all_that_is_known_about_it(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def charge(amount: int) -> None:
        try:
            raise KeyError("card")
        except KeyError as error:
            raise Declined("no funds", 42) from error

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_activity(charge, 3)
        except durable.TaskFailedError as error:
            text, f = str(error), error.failure
            assert isinstance(f, durable.FailureDetails)
            assert "charge" in text
            assert "no funds" in text
            assert f.stack_trace is not None
            assert f.cause is not None
            assert [f.is_caused_by(e) for e in (Declined, PaymentError, ShopError, ValueError, Exception)] == [True] * 5
            assert [f.is_caused_by(e) for e in (KeyError, LookupError)] == [True] * 2
            assert [f.is_caused_by(e) for e in (TypeError, OSError, durable.TaskFailedError)] == [False] * 3
            return [f.type, f.message, "Declined" in f.stack_trace, f.properties, f.cause.type, f.cause.message]

    bench.serve(app)
    assert bench.run(flow) == [
        f"{Declined.__module__}.Declined",
        "no funds",
        True,
        {"code": 42},
        "KeyError",
        "'card'",
    ]


def test_an_uncaught_activity_failure_names_activity_task_and_cause(bench: Bench) -> None:
    app = failing(9, Declined("no funds", 42))

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield ctx.create_timer(0)
        yield ctx.call_activity("flaky")

    bench.serve(app)
    handle = bench.start(flow)
    with pytest.raises(durable.OrchestrationFailedError) as caught:
        handle.result(SOON)
    failure = caught.value.failure
    assert failure.type == "durable.TaskFailedError"
    assert all(part in failure.message for part in ("flaky", "2", "no funds", "Declined"))
    assert failure.cause is not None
    assert (failure.cause.type, failure.cause.properties) == (f"{Declined.__module__}.Declined", {"code": 42})
    assert failure.is_caused_by(ShopError)
    assert "no funds" in str(caught.value)
    status = handle.status()
    assert status.runtime_status is durable.RuntimeStatus.FAILED
    assert status.failure == failure
    assert status.output is None
    assert status.completed_at is not None
    failed = next(e for e in bench.history(handle) if e.type == "TaskFailed")
    assert failed.failure == failure.cause


def test_the_error_of_a_failed_orchestration_names_the_users_line(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def price(item: str) -> int:
        return {"book": 12}[item]  # the line

    @app.orchestrator
    def sell(ctx: Ctx, item: str) -> Steps:
        return (yield ctx.call_activity(price, item))

    bench.serve(app)
    handle = bench.start(sell, "pen", instance_id="order 42")
    with pytest.raises(durable.OrchestrationFailedError) as caught:
        handle.result(SOON)
    line = price.fn.__code__.co_firstlineno + 2
    text = str(caught.value)
    assert text.startswith("orchestration 'order 42' (sell) failed: durable.TaskFailedError: activity 'price' (task 1)")
    assert text.endswith(f"KeyError: 'pen' ({__file__}:{line} in price); details: durable show 'order 42'")

    @app.orchestrator
    def gives_up(ctx: Ctx) -> Steps:
        yield ctx.create_timer(0)
        raise ValueError("no more")  # the line

    with pytest.raises(
        durable.OrchestrationFailedError, match=r"no more \(.*:\d+ in gives_up\); details: durable show g$"
    ):
        bench.run(gives_up, instance_id="g")

    @app.orchestrator
    def mishandles(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_activity(price, "pen")
        except durable.TaskFailedError:
            raise ValueError("handled badly")  # noqa: B904 - the line, not that of what it was about

    with pytest.raises(durable.OrchestrationFailedError, match=r"handled badly \(.*:\d+ in mishandles\)"):
        bench.run(mishandles)


def test_an_orchestrator_that_raises_fails_with_its_own_error(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def plain(ctx: Ctx) -> None:
        raise Declined("at once", 1)

    @app.orchestrator
    def later(ctx: Ctx) -> Steps:
        yield ctx.create_timer(0)
        raise Declined("later", 2)

    @app.orchestrator
    async def awaiting(ctx: Ctx) -> None:
        await ctx.create_timer(0)
        raise Declined("awaited", 3)

    bench.serve(app)
    for flow, text in ((plain, "at once"), (later, "later"), (awaiting, "awaited")):
        failure = bench.fails(flow)
        assert (failure.type, failure.message) == (f"{Declined.__module__}.Declined", text)
        assert failure.is_caused_by(PaymentError)


def test_failures_of_children_nest(bench: Bench) -> None:
    app = failing(99, Declined("no funds", 42))

    @app.orchestrator
    def grandchild(ctx: Ctx) -> Steps:
        yield ctx.call_activity("flaky")

    @app.orchestrator
    def child(ctx: Ctx) -> Steps:
        yield ctx.call_sub_orchestrator(grandchild)

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_sub_orchestrator(child)
        except durable.TaskFailedError as error:
            chain = []
            failure: durable.FailureDetails | None = error.failure
            while failure is not None:
                chain.append(failure.type)
                failure = failure.cause
            return [chain, error.failure.is_caused_by(ShopError), "no funds" in str(error)]

    bench.serve(app)
    task_failed = "durable.TaskFailedError"
    assert bench.run(parent) == [[task_failed, task_failed, f"{Declined.__module__}.Declined"], True, True]


def test_a_child_that_raises_gives_its_own_error_to_its_parent(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx) -> None:
        raise Declined("by the child", 7)

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_sub_orchestrator(child)
        except durable.TaskFailedError as error:
            return [error.failure.type, error.failure.message, error.failure.properties]

    bench.serve(app)
    assert bench.run(parent) == [f"{Declined.__module__}.Declined", "by the child", {"code": 7}]


@pytest.mark.parametrize("error", [Hostile(), SystemExit(3), KeyboardInterrupt(), MemoryError("x" * 100_000)])
def test_whatever_is_raised_becomes_a_failure(bench: Bench, error: BaseException) -> None:
    app = durable.Registry()

    @app.activity
    def raises() -> None:
        raise error

    @app.orchestrator
    def calling(ctx: Ctx) -> Steps:
        yield ctx.call_activity(raises)

    @app.orchestrator
    def raising(ctx: Ctx) -> None:
        raise error

    @app.orchestrator
    def well(ctx: Ctx) -> str:
        return "well"

    bench.serve(app)
    assert bench.fails(calling).is_caused_by(type(error))
    assert bench.fails(raising).type.endswith(type(error).__name__)
    assert bench.run(well) == "well"


class Residual(float):
    """Of a class of its own, as a number of NumPy's is."""


class Diverged(Exception):
    def __init__(self) -> None:
        super().__init__("diverged")
        self.residual = Residual(0.5)
        self.unit = Unit("mm")
        self.huge = 2**70
        self.nothing = float("nan")
        vars(self)[1] = "the key is no name"  # type: ignore[index]  # which nothing keeps users from


class Unit(str):
    pass


def test_what_an_exception_carries_is_recorded_as_plain_values(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def solve() -> None:
        raise Diverged

    @app.orchestrator
    def calling(ctx: Ctx) -> Steps:
        yield ctx.call_activity(solve)

    @app.orchestrator
    def raising(ctx: Ctx) -> None:
        raise Diverged

    bench.serve(app)
    cause = bench.fails(calling).cause
    assert cause is not None
    assert cause.properties == bench.fails(raising).properties == {"residual": 0.5, "unit": "mm"}


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit


def test_an_exception_that_leaves_while_it_is_described_is_a_failure(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def raises() -> None:
        raise Leaving

    @app.orchestrator
    def calling(ctx: Ctx) -> Steps:
        yield ctx.call_activity(raises)

    bench.serve(app)
    assert bench.fails(calling).is_caused_by(Leaving)


def test_a_caught_failure_is_no_failure_and_the_orchestrator_can_compensate(bench: Bench) -> None:
    app = failing(9, ValueError("broken"))
    undone: list[str] = []

    @app.activity
    def undo(text: str) -> str:
        undone.append(text)
        return f"undid {text}"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_activity("flaky")
        except durable.TaskFailedError:
            return (yield ctx.call_activity(undo, "charge"))
        finally:
            yield ctx.call_activity(undo, "everything")

    bench.serve(app)
    assert bench.run(flow) == "undid charge"
    assert undone == ["charge", "everything"]


# ---- retries


@pytest.mark.on_dynamodb
def test_attempts_count_the_first_try_and_show_in_the_history(bench: Bench) -> None:
    app = failing(2, ValueError("not yet"))
    flow = calls(app, durable.RetryPolicy(3, first_interval=MS))
    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == "done"
    events = [e for e in bench.history(handle) if e.type.startswith(("Task", "Timer"))]
    assert [(e.type, e.task_id, e.attempt) for e in events] == [
        ("TaskScheduled", 1, 1),
        ("TaskFailed", 1, 1),
        ("TimerCreated", 1, 2),
        ("TimerFired", 1, 2),
        ("TaskScheduled", 1, 2),
        ("TaskFailed", 1, 2),
        ("TimerCreated", 1, 3),
        ("TimerFired", 1, 3),
        ("TaskScheduled", 1, 3),
        ("TaskCompleted", 1, 3),
    ]


def test_there_is_no_timer_after_the_last_attempt(bench: Bench) -> None:
    app = failing(99, ValueError("never"))
    flow = calls(app, durable.RetryPolicy(2, first_interval=MS))
    bench.serve(app)
    handle = bench.start(flow)
    with pytest.raises(durable.OrchestrationFailedError, match="never"):
        handle.result(SOON)
    assert bench.types(handle) == [
        "ExecutionStarted",
        "TaskScheduled",
        "TaskFailed",
        "TimerCreated",
        "TimerFired",
        "TaskScheduled",
        "TaskFailed",
        "ExecutionCompleted",
    ]


def delays(bench: Bench, handle: durable.OrchestrationHandle[Any]) -> list[timedelta]:
    """What the history says about the pause before each further attempt."""
    found = []
    for event in bench.client.history(handle.instance_id):
        if event.type == "TimerCreated" and event.fire_at is not None:
            found.append(event.fire_at - event.timestamp)
    return found


def test_the_delays_grow_up_to_their_maximum(bench: Bench) -> None:
    app = failing(4, ValueError())
    policy = durable.RetryPolicy(5, first_interval=2 * MS, backoff_coefficient=3, max_interval=0.02)
    flow = calls(app, policy)
    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == "done"
    assert delays(bench, handle) == [2 * MS, 6 * MS, 18 * MS, 20 * MS]


def test_jitter_moves_a_delay_by_a_fraction_of_itself(bench: Bench) -> None:
    app = failing(12, ValueError())
    policy = durable.RetryPolicy(13, first_interval=2 * MS, backoff_coefficient=1, jitter=0.5)
    flow = calls(app, policy)
    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == "done"
    found = delays(bench, handle)
    assert len(set(found)) > 6
    assert all(1 * MS <= delay <= 3 * MS for delay in found)


def test_no_attempt_starts_later_than_retry_timeout(bench: Bench) -> None:
    app = failing(99, ValueError())
    policy = durable.RetryPolicy(99, first_interval=10 * MS, backoff_coefficient=2, retry_timeout=100 * MS)
    flow = calls(app, policy)
    bench.serve(app)
    handle = bench.start(flow)
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    scheduled = [e for e in bench.history(handle) if e.type == "TaskScheduled"]
    assert 2 <= len(scheduled) <= 4
    due = [e.fire_at for e in bench.history(handle) if e.type == "TimerCreated" and e.fire_at]
    assert all(at - scheduled[0].timestamp <= 100 * MS for at in due)


@pytest.mark.parametrize(
    ("given", "attempts"),
    [
        ({"retry_on": (ShopError,)}, 3),
        ({"retry_on": (ValueError,)}, 3),
        ({"retry_on": (Declined, OSError)}, 3),
        ({"retry_on": (OSError,)}, 1),
        ({"retry_on": ()}, 1),
        ({"give_up_on": (PaymentError,)}, 1),
        ({"give_up_on": (OSError,)}, 3),
        ({"retry_on": (ShopError,), "give_up_on": (ValueError,)}, 1),
    ],
)
def test_policies_choose_by_the_class_hierarchy(bench: Bench, given: dict[str, Any], attempts: int) -> None:
    app = failing(99, Declined("no funds", 1))
    flow = calls(app, durable.RetryPolicy(3, first_interval=0, **given))
    bench.serve(app)
    handle = bench.start(flow)
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    assert bench.types(handle).count("TaskScheduled") == attempts


def test_a_non_retryable_error_ends_it_at_once(bench: Bench) -> None:
    class Final(durable.NonRetryableError):
        pass

    for error in (durable.NonRetryableError("stop"), Final("stop")):
        app = failing(99, error)
        flow = calls(app, durable.RetryPolicy(5, first_interval=0))
        worker = bench.serve(app)
        handle = bench.start(flow)
        with pytest.raises(durable.OrchestrationFailedError) as caught:
            handle.result(SOON)
        assert caught.value.failure.is_caused_by(durable.NonRetryableError)
        assert bench.types(handle).count("TaskScheduled") == 1
        worker.stop()


def test_each_attempt_of_a_child_takes_a_new_id(bench: Bench) -> None:
    app = durable.Registry()
    ids: list[str] = []

    @app.orchestrator(retry=durable.RetryPolicy(3, first_interval=MS))
    def child(ctx: Ctx, n: int) -> str:
        ids.append(ctx.instance_id)
        if len(set(ids)) < 3:
            raise ValueError("not yet")
        return ctx.instance_id

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        return (yield ctx.call_sub_orchestrator(child, 1))

    bench.serve(app)
    handle = bench.start(parent)
    last = handle.result(SOON)
    created = [e for e in bench.history(handle) if e.type == "SubOrchestrationInstanceCreated"]
    assert [(e.task_id, e.attempt) for e in created] == [(1, 1), (1, 2), (1, 3)]
    assert len({e.instance_id for e in created}) == 3
    assert created[-1].instance_id == last
    for event, status in zip(created, ("FAILED", "FAILED", "COMPLETED"), strict=True):
        assert event.instance_id is not None
        found = bench.client.get_status(event.instance_id)
        assert found is not None
        assert found.runtime_status == status


def test_an_explicit_child_id_stays_over_attempts_and_is_then_taken(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator(retry=durable.RetryPolicy(2, first_interval=0))
    def child(ctx: Ctx) -> None:
        raise ValueError("broken")

    @app.orchestrator
    def parent(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_sub_orchestrator(child, instance_id="the-child")
        except durable.TaskFailedError as error:
            return error.failure.type

    bench.serve(app)
    assert bench.run(parent) == "durable.InstanceExistsError"


def test_options_change_the_policy_of_one_call(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity(retry=durable.RetryPolicy(5, first_interval=0))
    def step(ctx: durable.ActivityContext) -> int:
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return ctx.attempt

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        first = yield ctx.call_activity(step)
        try:
            yield ctx.call_activity(step.options(retry=durable.RetryPolicy(2, first_interval=0)))
        except durable.TaskFailedError:
            return [first, "gave up"]

    bench.serve(app)
    assert bench.run(flow) == [3, "gave up"]


def test_a_recorded_delay_wins_over_an_edited_policy(bench: Bench) -> None:
    """The policy says an hour when the first attempt fails, and is then edited down to one attempt."""

    def make(policy: durable.RetryPolicy) -> tuple[durable.Registry, Any]:
        app = failing(1, ValueError("once"))

        @app.orchestrator
        def flow(ctx: Ctx) -> Steps:
            retried = ctx.call_activity(flaky(policy))
            yield ctx.wait_for_external_event("go")
            retried.cancel()
            return "went on"

        return app, flow

    app, flow = make(durable.RetryPolicy(2, first_interval=3600))
    worker = bench.serve(app)
    handle = bench.start(flow)
    bench.until_recorded(handle, "TimerCreated")
    worker.stop()
    bench.serve(make(durable.RetryPolicy(1))[0])
    handle.raise_event("go")
    assert handle.result(SOON, on_blocked="raise") == "went on"
    assert delays(bench, handle) == [timedelta(hours=1)]
    assert bench.types(handle).count("TaskScheduled") == 1


def test_a_recorded_retry_that_is_due_happens_under_an_edited_policy(bench: Bench) -> None:
    app = failing(1, ValueError("once"))
    flow = calls(app, durable.RetryPolicy(2, first_interval=0.2))
    worker = bench.serve(app)
    handle = bench.start(flow)
    bench.until_recorded(handle, "TimerCreated")
    worker.stop()
    edited = failing(0, ValueError())

    @edited.activity(name="flaky.now")
    def now() -> None: ...

    @edited.orchestrator(name="flow")
    def later(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity(flaky(None)))

    bench.serve(_with_attempts(later))
    assert handle.result(SOON, on_blocked="raise") == "attempt 2"


def _with_attempts(flow: Any) -> durable.Registry:
    app = durable.Registry()

    @app.activity(name="flaky")
    def attempts(ctx: durable.ActivityContext) -> str:
        return f"attempt {ctx.attempt}"

    app.orchestrator(name="flow")(flow.fn)
    return app


@pytest.mark.parametrize(
    "given",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_attempts": 3, "first_interval": -1},
        {"max_attempts": 3, "backoff_coefficient": 0.5},
        {"max_attempts": 3, "jitter": 1.5},
        {"max_attempts": 3, "retry_timeout": -1},
        {"max_attempts": 3, "max_interval": float("nan")},
    ],
)
def test_a_policy_outside_the_rules_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        durable.RetryPolicy(**given)


def test_a_policy_is_a_plain_value() -> None:
    policy = durable.RetryPolicy(3)
    assert policy == durable.RetryPolicy(max_attempts=3, first_interval=1)
    assert (policy.first_interval, policy.backoff_coefficient, policy.max_interval) == (timedelta(seconds=1), 2.0, None)
    assert (policy.retry_timeout, policy.jitter, policy.retry_on, policy.give_up_on) == (None, 0.0, (Exception,), ())


def test_retries_of_different_tasks_do_not_wait_for_each_other(bench: Bench) -> None:
    app = failing(1, ValueError("once"))

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        slow = ctx.call_activity(flaky(durable.RetryPolicy(2, first_interval=3600)))
        yield ctx.task_any([slow, ctx.create_timer(0.01)])
        slow.cancel()
        return [(yield ctx.create_timer(0)), slow.is_failed]

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == [None, True]
    assert all(a.event_id < b.event_id for a, b in pairwise(bench.history(handle)) if a.event_id and b.event_id)


def test_retries_that_are_due_together_may_be_more_than_one_turn_may_schedule(bench: Bench) -> None:
    """The limit bounds what the code asks for; retries are the engine's, and must not end the worker."""
    app = failing(0, ValueError())

    @app.activity
    def later(ctx: durable.ActivityContext, n: int) -> int:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        tasks: list[durable.Task[int]] = []
        for start in (0, 5, 10):
            once = later.options(retry=durable.RetryPolicy(2, first_interval=0.2))
            tasks += [ctx.call_activity(once, n) for n in range(start, start + 5)]
            yield ctx.create_timer(0)
        return (yield tasks)

    with bench.place.connect(limits=durable.Limits(commands_per_turn=7)) as client:
        options: dict[str, Any] = {"registry": app, "max_cached_orchestrations": 0 if bench.cold else 10}
        with durable.Worker(client, **options):
            handle = client.start_orchestration(flow)
            bench.until_recorded(handle, "TaskFailed", 15)
        due = max(e.fire_at for e in bench.history(handle) if e.type == "TimerCreated" and e.fire_at)
        until(lambda: datetime.now(timezone.utc) > due)
        with durable.Worker(client, **options):
            assert handle.result(SOON, on_blocked="raise") == list(range(15))


# ---- who hears of it


def test_a_failed_orchestration_leaves_one_line_in_the_log(bench: Bench, log: Heard) -> None:
    app = durable.Registry()

    @app.activity
    def charge(card: str) -> None:
        try:
            raise ConnectionError("the bank\ndoes not answer")
        except ConnectionError as error:
            raise RuntimeError(f"{card} can't be charged") from error

    @app.orchestrator
    def pay(ctx: Ctx, card: str) -> Steps:
        yield ctx.call_activity(charge, card)

    @app.orchestrator
    def order(ctx: Ctx, card: str) -> Steps:
        yield ctx.call_sub_orchestrator(pay, card, instance_id="order 1-pay")

    bench.serve(app)
    bench.fails(order, "visa", instance_id="order 1")
    why = "failed: ConnectionError: the bank does not answer; durable show"
    log.wait_for(f"WARNING orchestration 'order 1' (order) {why} 'order 1'")
    log.wait_for(f"INFO orchestration 'order 1-pay' (pay) {why} 'order 1-pay'")
