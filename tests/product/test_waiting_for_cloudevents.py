"""`ctx.wait_for_cloudevent`: an orchestration meets what is published in its workspace."""

from __future__ import annotations

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
Steps = Generator[Any, Any, Any]

DAY = 86_400  # seconds


def event(kind: str = "shop.paid", subject: str = "order-1", data: Any = None, number: int = 1) -> durable.CloudEvent:
    attributes = {"type": kind, "source": "/shop", "subject": subject, "id": f"{kind}-{subject}-{number}"}
    return durable.CloudEvent(attributes, data)


@pytest.fixture
def app() -> durable.Registry:
    """`take(pattern)` waits for one CloudEvent and gives its subject and data."""
    app = durable.Registry()

    @app.orchestrator
    def take(ctx: Ctx, pattern: dict[str, Any]) -> Steps:
        try:
            came = yield ctx.wait_for_cloudevent(**pattern)
        except durable.TimeoutError:
            return "late"
        return [came.get_subject(), came.get_data()]

    return app


def until_waiting(bench: Bench, count: int = 1) -> None:
    """Until the triggers of the workspace have heard of so many waits."""
    until(lambda: len(bench.client.list_triggers()) == count)


def test_the_first_event_that_fits_ends_the_wait(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", {"type": "shop.*", "subject": "order-2"})
    until_waiting(bench)
    for number, subject in enumerate(("order-1", "order-2", "order-2")):
        bench.client.publish(event(subject=subject, data=number, number=number))
    assert handle.result(SOON) == ["order-2", 1]
    assert bench.types(handle) == ["ExecutionStarted", "EventAwaited", "EventRaised", "ExecutionCompleted"]
    until(lambda: not bench.client.list_triggers())


def test_the_triggers_and_the_wait_survive_restarts(bench: Bench, app: durable.Registry) -> None:
    worker = bench.serve(app)
    handle = bench.start("take", {"source": "/shop"})
    until_waiting(bench)
    worker.stop()
    bench.client.publish(event(data={"amount": 3}))
    bench.serve(app)
    assert handle.result(SOON) == ["order-1", {"amount": 3}]


def test_all_who_wait_for_an_event_get_it(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handles = [bench.start("take", {"type": "shop.paid"}) for _ in range(5)]
    until_waiting(bench, 5)
    bench.client.publish(event(data=1))
    assert [handle.result(SOON) for handle in handles] == [["order-1", 1]] * 5
    assert bench.client.list_triggers() == []


def test_what_was_asked_for_before_it_was_caused_is_not_missed(bench: Bench, app: durable.Registry) -> None:
    @app.activity
    def ask(context: durable.ActivityContext, number: int) -> None:
        bench.client.publish(event(subject=f"{context.instance_id}-{number}", data=number))

    @app.orchestrator
    def asks(ctx: Ctx, times: int) -> Steps:
        got = []
        for number in range(times):
            answer = ctx.wait_for_cloudevent(subject=f"{ctx.instance_id}-{number}")
            ctx.call_activity(ask, number)
            got.append((yield answer).get_data())
        return got

    bench.serve(app)
    assert bench.run("asks", 10) == list(range(10))


def test_a_wait_that_times_out_is_over(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    assert bench.run("take", {"type": "shop.paid", "timeout": 0.01}) == "late"
    until(lambda: not bench.client.list_triggers())
    bench.client.publish(event())
    until(lambda: bench.client.event_counts().unmatched == 1)


def test_an_event_in_time_beats_the_timeout(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", {"type": "shop.paid", "timeout": 1_000})
    until_waiting(bench)
    bench.client.publish(event(data=5))
    assert handle.result(SOON) == ["order-1", 5]


@pytest.mark.parametrize("how", ["cancels", "ends", "fails", "continues", "is_terminated"])
def test_what_nobody_waits_for_any_more_leaves_no_trigger(bench: Bench, app: durable.Registry, how: str) -> None:
    @app.orchestrator
    def leaves(ctx: Ctx, how: str) -> Steps:
        wait = ctx.wait_for_cloudevent(type="shop.paid")
        yield ctx.wait_for_external_event("go")
        if how == "cancels":
            wait.cancel()
            yield ctx.wait_for_external_event("end")
        elif how == "fails":
            raise ValueError("no")
        elif how == "continues":
            ctx.continue_as_new("now waits for nothing")
            return
        return "ended"

    bench.serve(app)
    handle = bench.start("leaves", how)
    until_waiting(bench)
    (view,) = bench.client.list_triggers()
    assert view.on == (durable.EventPattern(type="shop.paid"),)
    if how == "is_terminated":
        handle.terminate()
    else:
        handle.raise_event("go")
    # The next execution of the one that continues has a wait of its own.
    until(lambda: [v.id for v in bench.client.list_triggers()] != [view.id])
    until_waiting(bench, 1 if how == "continues" else 0)


def test_a_wait_is_not_flushed_with_the_triggers(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    bench.client.add_trigger("mine", on=durable.EventPattern())
    handle = bench.start("take", {"type": "shop.paid"})
    until_waiting(bench, 2)
    bench.client.flush_triggers()
    assert len(bench.client.list_triggers()) == 1
    bench.client.publish(event(data=1))
    assert handle.result(SOON) == ["order-1", 1]


def test_the_loser_of_a_race_still_takes_its_event(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def races(ctx: Ctx) -> Steps:
        paid, lost = ctx.wait_for_cloudevent(type="shop.paid"), ctx.wait_for_cloudevent(type="shop.lost")
        first = yield ctx.task_any([paid, lost])
        yield ctx.wait_for_external_event("go")
        return [first is lost, (yield lost).get_data(), (yield paid).get_data()]

    bench.serve(app)
    handle = bench.start("races")
    until_waiting(bench, 2)
    bench.client.publish(event("shop.lost", data=1))
    bench.client.publish(event("shop.paid", data=2))
    bench.until_recorded(handle, "EventRaised", 2)
    handle.raise_event("go")
    assert handle.result(SOON) == [True, 1, 2]


def test_a_rewound_wait_waits_again(bench: Bench, app: durable.Registry) -> None:
    broken = [True]

    @app.activity
    def step() -> str:
        if broken[0]:
            raise ValueError("not yet")
        return "done"

    @app.orchestrator
    def goes_on(ctx: Ctx) -> Steps:
        came, later = ctx.wait_for_cloudevent(type="shop.paid"), ctx.wait_for_cloudevent(type="shop.sent")
        first = (yield came).get_data()
        done = yield ctx.call_activity(step)
        return [first, done, (yield later).get_data()]

    bench.serve(app)
    handle = bench.start("goes_on")
    until_waiting(bench, 2)
    bench.client.publish(event(data=1))
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    until_waiting(bench, 0)
    broken.clear()
    broken.append(False)
    handle.rewind()
    until_waiting(bench, 1)
    bench.client.publish(event("shop.sent", data=2))
    assert handle.result(SOON) == [1, "done", 2]


def test_a_fork_waits_by_itself(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", {"type": "shop.paid"})
    until_waiting(bench)
    copy = bench.client.fork(handle.instance_id, after=bench.client.history(handle.instance_id)[-1].event_id or 0)
    until_waiting(bench, 2)
    bench.client.publish(event(data=1))
    assert [handle.result(SOON), copy.result(SOON)] == [["order-1", 1]] * 2


@pytest.mark.parametrize(
    ("pattern", "error"),
    [({"type": "shop.*.paid"}, ValueError), ({"subject": 3}, TypeError), ({"type": ""}, ValueError)],
)
def test_what_is_no_pattern_is_refused(pattern: dict[str, Any], error: type[Exception]) -> None:
    app = durable.Registry()

    @app.orchestrator
    def wrong(ctx: Ctx) -> Steps:
        with pytest.raises(error):
            ctx.wait_for_cloudevent(**pattern)
        return "refused"
        yield

    assert durable.testing.step(wrong).output == "refused"


def test_in_the_testing_environment(app: durable.Registry) -> None:
    with durable.testing.Environment(registry=app) as env:
        handle = env.client.start_orchestration("take", {"type": "shop.paid", "timeout": 30 * DAY})
        env.advance(29 * DAY)
        env.client.publish(event(data=1))
        assert handle.result() == ["order-1", 1]
        late = env.client.start_orchestration("take", {"type": "shop.paid", "timeout": 30 * DAY})
        assert late.result() == "late"
        for_ever = env.client.start_orchestration("take", {"type": "shop.paid"})
        with pytest.raises(durable.testing.StuckError, match=r"shop.paid.*client.publish"):
            for_ever.result()


def test_step_by_step(app: durable.Registry) -> None:
    @app.orchestrator
    def pair(ctx: Ctx) -> Steps:
        paid, sent = ctx.wait_for_cloudevent(type="shop.paid"), ctx.wait_for_cloudevent(type="shop.*", timeout=60)
        came = yield ctx.task_all([paid, sent])
        return [one.get_data() for one in came]

    run = durable.testing.step(pair)
    assert [(wait.name, wait.pattern) for wait in run.waits] == [
        ("CloudEvent", durable.EventPattern(type="shop.paid")),
        ("CloudEvent", durable.EventPattern(type="shop.*")),
    ]
    assert [timer.name for timer in run.timers] == ["CloudEvent"]
    run.publish(event("shop.asked", data=1))
    assert [wait.task_id for wait in run.waits] == [1]
    run.publish(event("shop.paid", data=2))
    assert run.output == [2, 1]
