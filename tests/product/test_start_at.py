"""Starts at a time: durable at once, PENDING until then."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import durable
import durable.testing
from tests.waiting import SOON, until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench

Ctx = durable.OrchestrationContext
LATER = timedelta(days=30)


@pytest.fixture
def app() -> durable.Registry:
    app = durable.Registry()

    @app.orchestrator
    def begins(ctx: Ctx) -> Generator[Any, Any, list[Any]]:
        began = ctx.current_utc_datetime
        return [began.isoformat(), (yield ctx.wait_for_external_event("go"))]

    @app.orchestrator
    def echo(ctx: Ctx, value: Any) -> Any:
        return value

    return app


def test_the_first_turn_comes_at_that_time(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    now = datetime.now(timezone.utc)
    moments: list[Any] = [now + timedelta(seconds=0.6), timedelta(seconds=0.6), 0.6]
    for start_at in moments:
        asked = datetime.now(timezone.utc)
        handle = bench.start("begins", start_at=start_at)
        assert handle.status().runtime_status is durable.RuntimeStatus.PENDING
        handle.raise_event("go", "early")
        began, event = handle.result(SOON)
        due = start_at if isinstance(start_at, datetime) else asked + timedelta(seconds=0.6)
        assert event == "early"
        assert due <= datetime.fromisoformat(began) < due + timedelta(seconds=3)
        [started, *_] = bench.history(handle)
        assert started.fire_at is not None
        assert abs(started.fire_at - due) < timedelta(seconds=1)


def test_a_time_that_has_passed_is_now(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    for start_at in (datetime(2020, 1, 1, tzinfo=timezone.utc), timedelta(0), 0):
        assert bench.run("echo", 1, start_at=start_at) == 1


def test_many_start_at_one_time(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handles = bench.client.start_many("echo", [1, 2, 3], start_at=0.3)
    assert [handle.result(SOON) for handle in handles] == [1, 2, 3]
    for handle in handles:
        started, first_turn, *_ = bench.history(handle)
        assert started.fire_at is not None
        assert started.timestamp + timedelta(seconds=0.3) == started.fire_at <= first_turn.timestamp


def test_it_starts_although_no_worker_ran_when_it_was_due(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("echo", "late", start_at=0.05)
    waits = bench.start("echo", "much later", start_at=LATER)
    with bench.worker(app):
        assert bench.run("echo", 1, start_at=0.1) == 1
        assert handle.result(SOON) == "late"
    bench.serve(app)
    assert bench.run("echo", 2) == 2
    assert waits.status().runtime_status is durable.RuntimeStatus.PENDING
    assert bench.types(waits) == ["ExecutionStarted"]


def test_before_its_time_it_can_be_terminated_cancelled_and_suspended(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    ended, cancelled, suspended = (bench.start("begins", start_at=LATER) for _ in range(3))
    ended.terminate("no")
    with pytest.raises(durable.OrchestrationTerminatedError):
        ended.result(SOON)
    cancelled.cancel("no")
    with pytest.raises(durable.OrchestrationCancelledError):
        cancelled.result(SOON)
    assert bench.types(cancelled) == ["ExecutionStarted", "ExecutionCanceled", "ExecutionCompleted"]
    suspended.suspend()
    until(lambda: suspended.status().runtime_status == "SUSPENDED")
    suspended.resume()
    until(lambda: suspended.status().runtime_status == "PENDING")


def test_suspended_over_its_time_it_starts_when_it_is_resumed(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("begins", start_at=0.4)
    handle.suspend()
    until(lambda: handle.status().runtime_status == "SUSPENDED")
    assert bench.run("echo", 1, start_at=0.6) == 1
    assert bench.types(handle) == ["ExecutionStarted", "ExecutionSuspended"]
    handle.raise_event("go", 1)
    handle.resume()
    assert handle.result(SOON)[1] == 1


def test_a_resume_that_is_in_the_history_is_not_pending_too(app: durable.Registry) -> None:
    with durable.testing.Environment(registry=app) as env:
        handle = env.client.start_orchestration("begins", start_at=3600)
        for steer in (handle.suspend, handle.resume):
            steer()
            env.advance(1)
        events = env.client.history(handle.instance_id, pending=True)
        assert [(e.event_id, e.type) for e in events] == [
            (0, "ExecutionStarted"),
            (1, "ExecutionSuspended"),
            (2, "ExecutionResumed"),
        ]


def test_a_moment_without_a_time_zone_is_refused(bench: Bench) -> None:
    wrong: list[tuple[Any, type[Exception]]] = [
        (datetime(2030, 1, 1), ValueError),
        (-1, ValueError),
        (timedelta(seconds=-1), ValueError),
        (timedelta.max, ValueError),
        ("tomorrow", TypeError),
    ]
    for start_at, error in wrong:
        with pytest.raises(error, match="start_at"):
            bench.start("echo", 1, start_at=start_at)
        with pytest.raises(error, match="start_at"):
            bench.client.start_many("echo", [1], start_at=start_at)
    assert bench.client.list_orchestrations().items == []
