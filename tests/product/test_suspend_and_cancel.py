"""Suspend, resume and cancel: in force with the next turn, on every backend, warm and cold."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

import durable
import durable.testing
from tests.waiting import SOON, until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench

Ctx = durable.OrchestrationContext
Handle = durable.OrchestrationHandle[Any]
Steps = Generator[Any, Any, Any]


@pytest.fixture
def gate() -> threading.Event:
    """What the activity `slow` waits for."""
    return threading.Event()


@pytest.fixture
def app(gate: threading.Event) -> durable.Registry:
    app = durable.Registry()

    @app.activity
    def do(what: str) -> str:
        return f"did {what}"

    @app.activity
    def slow() -> str:
        gate.wait(SOON)
        return "slow"

    @app.orchestrator
    def two(ctx: Ctx) -> Steps:
        first = yield ctx.wait_for_external_event("go")
        second = yield ctx.wait_for_external_event("go")
        return [first, second, (yield ctx.call_activity(do, "it"))]

    @app.orchestrator
    def works(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity(slow))

    @app.orchestrator
    def naps(ctx: Ctx, seconds: float) -> Steps:
        yield ctx.create_timer(seconds)
        return "awake"

    @app.orchestrator
    def saga(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_activity(do, "charge")
            return (yield ctx.wait_for_external_event("go"))
        except durable.OrchestrationCancelledError as stop:
            return [stop.reason, (yield ctx.call_activity(do, "refund"))]

    @app.orchestrator
    async def async_saga(ctx: Ctx) -> Any:
        try:
            return await ctx.wait_for_external_event("go")
        except durable.OrchestrationCancelledError as stop:
            return [stop.reason, await ctx.call_activity(do, "refund")]

    @app.orchestrator
    def stubborn(ctx: Ctx) -> Steps:
        reasons: list[Any] = []
        while len(reasons) < 2:
            try:
                return (yield ctx.wait_for_external_event("go"))
            except durable.OrchestrationCancelledError as stop:
                reasons.append(stop.reason)
        return reasons

    @app.orchestrator
    def parent(ctx: Ctx, child: str) -> Steps:
        return (yield ctx.call_sub_orchestrator(child, instance_id=f"{ctx.instance_id}-child"))

    @app.orchestrator
    def rounds(ctx: Ctx, number: int = 0) -> Steps:
        event = yield ctx.wait_for_external_event("go")
        if number:
            return event
        ctx.continue_as_new(number + 1)
        return None

    @app.orchestrator
    def loops(ctx: Ctx, rounds: int) -> Steps:
        if rounds:
            yield ctx.create_timer(0)
            ctx.continue_as_new(rounds - 1)
            return None
        return (yield ctx.wait_for_external_event("go"))

    return app


def becomes(bench: Bench, handle: Handle, status: str) -> None:
    until(lambda: handle.status().runtime_status == status)


def waiting(bench: Bench, orchestrator: str, *args: Any, **options: Any) -> Handle:
    handle = bench.start(orchestrator, *args, **options)
    bench.client.wait(handle.instance_id, SOON, until="started")
    return handle


def pending(bench: Bench, handle: Handle) -> list[str]:
    return [e.type for e in bench.client.history(handle.instance_id, pending=True) if e.event_id is None]


# ---- suspend and resume


def test_a_suspended_orchestration_takes_nothing_until_it_is_resumed(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = waiting(bench, "two")
    handle.suspend({"by": "me"})
    becomes(bench, handle, "SUSPENDED")
    handle.raise_event("go", 1)
    handle.raise_event("go", 2)
    healthy = waiting(bench, "two")  # another one goes on meanwhile
    for number in (1, 2):
        healthy.raise_event("go", number)
    assert healthy.result(SOON) == [1, 2, "did it"]
    assert handle.status().runtime_status is durable.RuntimeStatus.SUSPENDED
    assert pending(bench, handle) == ["EventRaised", "EventRaised"]
    handle.resume("go on")
    assert handle.result(SOON) == [1, 2, "did it"]
    events = bench.history(handle)
    kinds = [event.type for event in events]
    place = kinds.index("ExecutionSuspended")
    assert kinds[place : place + 3] == ["ExecutionSuspended", "ExecutionResumed", "EventRaised"]
    assert [events[place].input, events[place + 1].input] == [{"by": "me"}, "go on"]


def test_twice_is_once_and_what_is_not_suspended_is_not_resumed(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = waiting(bench, "two")
    handle.resume()
    handle.raise_event("go", 1)
    bench.until_recorded(handle, "EventRaised")
    for _ in range(3):
        handle.suspend()
    becomes(bench, handle, "SUSPENDED")
    handle.suspend()
    handle.resume()
    handle.resume()
    handle.raise_event("go", 2)
    assert handle.result(SOON) == [1, 2, "did it"]
    kinds = bench.types(handle)
    assert (kinds.count("ExecutionSuspended"), kinds.count("ExecutionResumed")) == (1, 1)


def test_steering_is_taken_in_the_order_in_which_it_came(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("two")
    handle.raise_event("go", 1)
    handle.suspend()
    handle.raise_event("go", 2)
    handle.resume()
    handle.suspend("again")
    bench.serve(app)
    bench.until_recorded(handle, "ExecutionSuspended", 2)
    becomes(bench, handle, "SUSPENDED")
    handle.resume()
    assert handle.result(SOON) == [1, 2, "did it"]


def test_an_activity_that_runs_finishes_and_its_outcome_is_kept(
    bench: Bench, app: durable.Registry, gate: threading.Event
) -> None:
    bench.serve(app)
    handle = waiting(bench, "works")
    handle.suspend()
    becomes(bench, handle, "SUSPENDED")
    gate.set()
    until(lambda: pending(bench, handle) == ["TaskCompleted"])
    assert handle.status().runtime_status is durable.RuntimeStatus.SUSPENDED
    handle.resume()
    assert handle.result(SOON) == "slow"
    assert bench.types(handle).count("TaskCompleted") == 1


def test_a_timer_that_is_due_waits(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = waiting(bench, "naps", 1)
    handle.suspend()
    becomes(bench, handle, "SUSPENDED")
    assert bench.run("naps", 1) == "awake"
    assert handle.status().runtime_status is durable.RuntimeStatus.SUSPENDED
    handle.resume()
    assert handle.result(SOON) == "awake"


def test_what_is_suspended_before_its_first_turn_does_not_begin(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("saga")
    handle.raise_event("go", "at last")
    handle.suspend()
    bench.serve(app)
    becomes(bench, handle, "SUSPENDED")
    assert bench.types(handle) == ["ExecutionStarted", "ExecutionSuspended"]
    handle.resume()
    assert handle.result(SOON) == "at last"


def test_what_is_suspended_has_started_once_its_first_turn_is_done(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    begun, not_begun = bench.start("saga"), bench.start("saga", start_at=3600)
    begun.wait(SOON, until="started")
    for handle in (begun, not_begun):
        handle.suspend()
        becomes(bench, handle, "SUSPENDED")
    assert begun.wait(SOON, until="started").runtime_status == "SUSPENDED"
    with pytest.raises(durable.TimeoutError):
        not_begun.wait(0.02, until="started")


def test_in_a_test_environment_what_is_suspended_has_not_started(app: durable.Registry) -> None:
    with durable.testing.Environment(registry=app) as env:
        begun, not_begun = (env.client.start_orchestration("saga", start_at=at) for at in (None, 3600))
        begun.wait(until="started")
        for handle in (begun, not_begun):
            handle.suspend()
        assert begun.wait(until="started").runtime_status == "SUSPENDED"
        with pytest.raises(durable.TimeoutError):
            not_begun.wait(7200, until="started")


def test_a_suspended_orchestration_can_be_terminated(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = waiting(bench, "two")
    handle.suspend()
    becomes(bench, handle, "SUSPENDED")
    handle.terminate("enough")
    with pytest.raises(durable.OrchestrationTerminatedError):
        handle.result(SOON)


def test_suspending_survives_workers_and_continue_as_new(bench: Bench, app: durable.Registry) -> None:
    worker = bench.serve(app)
    handle = waiting(bench, "loops", 30)
    handle.suspend()
    becomes(bench, handle, "SUSPENDED")
    worker.stop()
    bench.serve(app)
    handle.raise_event("go", "kept")
    assert handle.status().runtime_status is durable.RuntimeStatus.SUSPENDED
    handle.resume()
    assert handle.result(SOON) == "kept"


def test_a_blocked_orchestration_is_suspended_once_its_code_fits(bench: Bench, app: durable.Registry) -> None:
    worker = bench.serve(app)
    handle = waiting(bench, "two")
    worker.stop()
    handle.suspend()
    handle.raise_event("go", 1)
    with bench.worker(durable.Registry()):
        bench.blocked(handle)
        assert "ExecutionSuspended" not in bench.types(handle)
    bench.serve(app)
    becomes(bench, handle, "SUSPENDED")
    handle.resume()
    handle.raise_event("go", 2)
    assert handle.result(SOON) == [1, 2, "did it"]


# ---- cancel


@pytest.mark.on_dynamodb
@pytest.mark.parametrize("orchestrator", ["saga", "async_saga"])
def test_a_cancelled_orchestration_compensates(bench: Bench, app: durable.Registry, orchestrator: str) -> None:
    bench.serve(app)
    handle = bench.start(orchestrator)
    bench.until_recorded(handle, "EventAwaited")
    handle.cancel({"why": "changed my mind"})
    assert handle.result(SOON) == [{"why": "changed my mind"}, "did refund"]
    assert handle.status().runtime_status is durable.RuntimeStatus.COMPLETED
    [cancel] = [event for event in bench.history(handle) if event.type == "ExecutionCanceled"]
    assert cancel.input == {"why": "changed my mind"}


def test_a_cancel_at_once_after_the_start_lets_it_begin(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("saga")
    handle.cancel("early")
    bench.serve(app)
    assert handle.result(SOON) == ["early", "did refund"]


@pytest.mark.parametrize("reason", [None, "enough", {"by": ["me"]}])
def test_unhandled_it_ends_canceled(bench: Bench, app: durable.Registry, reason: Any) -> None:
    bench.serve(app)
    handle = waiting(bench, "two")
    handle.cancel(reason)
    with pytest.raises(durable.OrchestrationCancelledError, match=handle.instance_id) as caught:
        handle.result(SOON)
    assert caught.value.reason == reason
    status = handle.status()
    assert (status.runtime_status, status.output) == (durable.RuntimeStatus.CANCELED, reason)
    assert status.completed_at is not None
    listed = bench.client.list_orchestrations(status="CANCELED")
    assert [item.instance_id for item in listed] == [handle.instance_id]
    with pytest.raises(durable.InstanceFinishedError):
        handle.raise_event("go")


def test_a_second_cancel_throws_again(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = waiting(bench, "stubborn")
    handle.cancel("one")
    bench.until_recorded(handle, "ExecutionCanceled")
    handle.cancel("two")
    assert handle.result(SOON) == ["one", "two"]


def test_a_cancel_waits_while_it_is_suspended_or_blocked(bench: Bench, app: durable.Registry) -> None:
    worker = bench.serve(app)
    suspended, blocked = waiting(bench, "saga"), waiting(bench, "saga")
    bench.until_recorded(suspended, "EventAwaited")  # then nothing else comes
    suspended.suspend()
    becomes(bench, suspended, "SUSPENDED")
    suspended.cancel("later")
    until(lambda: pending(bench, suspended)[-1:] == ["ExecutionCanceled"])
    bench.until_recorded(blocked, "EventAwaited")
    worker.stop()
    blocked.cancel("later")
    with bench.worker(durable.Registry()):
        bench.blocked(blocked)
    assert suspended.status().runtime_status is durable.RuntimeStatus.SUSPENDED
    suspended.resume()
    bench.serve(app)
    for handle in (suspended, blocked):
        assert handle.result(SOON) == ["later", "did refund"]


def test_children_are_left_alone_and_a_cancelled_child_fails_its_task(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    for who in ("alone", "asked"):
        bench.start("parent", "two", instance_id=who)
        until(lambda who=who: bench.client.get_status(f"{who}-child") is not None)  # type: ignore[misc]
    bench.client.cancel("alone", "stop")
    with pytest.raises(durable.OrchestrationCancelledError):
        bench.client.handle("alone").result(SOON)
    child = bench.client.handle("alone-child")
    for number in (1, 2):
        child.raise_event("go", number)
    assert child.result(SOON) == [1, 2, "did it"]

    bench.client.cancel("asked-child", "stop")
    with pytest.raises(durable.OrchestrationFailedError) as caught:
        bench.client.handle("asked").result(SOON)
    cause = caught.value.failure.cause
    assert cause is not None
    assert cause.type == "durable.OrchestrationCancelledError"
    assert caught.value.failure.is_caused_by(durable.OrchestrationCancelledError)


@pytest.mark.parametrize("steer", ["cancel", "suspend"])
def test_steering_follows_continue_as_new(bench: Bench, app: durable.Registry, steer: str) -> None:
    worker = bench.serve(app)
    handle = waiting(bench, "rounds")
    worker.stop()
    handle.raise_event("go", "the next round")
    getattr(handle, steer)("what came behind it")
    bench.serve(app)
    if steer == "cancel":
        with pytest.raises(durable.OrchestrationCancelledError):
            handle.result(SOON)
        return
    becomes(bench, handle, "SUSPENDED")
    assert handle.status().input == 1
    handle.raise_event("go", "the end")
    handle.resume()
    assert handle.result(SOON) == "the end"


# ---- outcomes by state


def test_of_the_unknown_it_is_an_error_and_of_the_finished_nothing(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    done = waiting(bench, "naps", 0)
    done.result(SOON)
    before = done.status(history=True)
    for steer in (bench.client.suspend, bench.client.resume, bench.client.cancel):
        with pytest.raises(durable.InstanceNotFoundError, match="nobody"):
            steer("nobody", "reason")
        steer(done.instance_id, "reason")
    assert done.status(history=True) == before


def test_a_reason_that_can_t_travel_is_refused(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("two")
    for steer in (handle.suspend, handle.resume, handle.cancel):
        with pytest.raises(durable.PayloadError):
            steer(object())
    assert pending(bench, handle) == []
