"""Orchestrations tell that they begin and end: triggers, waits and `on=` that ask for it hear it, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

import durable
import durable.testing
from tests.waiting import SOON, until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench, Place

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]
ENDED = "durable.execution-completed"


@pytest.fixture
def app() -> durable.Registry:
    """`work(number)` fails below 0; `watch(pattern)` gives what an orchestration tells; `say` its input."""
    app = durable.Registry()

    @app.orchestrator
    def work(ctx: Ctx, number: int) -> Steps:
        yield ctx.create_timer(0)
        if number < 0:
            raise ValueError("below 0")
        return number

    @app.orchestrator
    def watch(ctx: Ctx, pattern: dict[str, Any]) -> Steps:
        told = yield ctx.wait_for_cloudevent(**pattern)
        return [told.get_type(), told.get_subject(), told.get_data()]

    @app.orchestrator
    def say(ctx: Ctx, told: dict[str, Any]) -> dict[str, Any]:
        return told

    return app


def said(bench: Bench) -> list[Any]:
    page = bench.client.list_orchestrations(name="say", status="COMPLETED")
    return [status.output for status in page.items]


def add(bench: Bench, **on: str) -> None:
    """A trigger that starts `say` each time."""
    action = durable.actions.start_orchestration("say")
    bench.client.add_trigger("ends", on=durable.EventPattern(**on), action=action, transient=False)


def test_an_end_fires_a_trigger_with_how_it_ended(bench: Bench, app: durable.Registry) -> None:
    add(bench, type=ENDED, source="/workspaces/*", subject="w-*")
    worker = bench.serve(app)
    bench.start("work", 7, instance_id="w-1")
    bench.start("work", -1, instance_id="w-2")
    bench.start("work", 1, instance_id="other")
    until(lambda: len(said(bench)) == 2)
    found = sorted(said(bench), key=lambda told: told["instance_id"])
    assert [(told["name"], told["status"], told.get("output")) for told in found] == [
        ("work", "COMPLETED", 7),
        ("work", "FAILED", None),
    ]
    assert found[1]["failure"]["message"] == "below 0"
    worker.stop()
    bench.serve(app)  # what a trigger asks for is known after a restart too
    bench.start("work", 8, instance_id="w-3")
    until(lambda: len(said(bench)) == 3)


def test_an_orchestration_can_wait_for_the_end_of_another(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    watch = bench.start("watch", {"type": ENDED, "subject": "it"})
    until(lambda: bench.client.list_triggers())
    bench.start("work", 5, instance_id="it")
    kind, subject, data = watch.result(SOON)
    assert (kind, subject, data["output"]) == (ENDED, "it", 5)


def test_a_beginning_is_told_too_and_before_the_end(bench: Bench, app: durable.Registry) -> None:
    begun = durable.EventPattern(type="durable.execution-started", subject="it")
    bench.serve(app)
    for name, pattern in (("both", durable.EventPattern(type="durable.execution-*", subject="it")), ("begun", begun)):
        bench.client.add_trigger(name, on=pattern, transient=False)
    bench.start("work", 5, instance_id="it").result(SOON)
    until(lambda: [view.firings for view in bench.client.list_triggers()] == [2, 1])


def test_ended_again_after_a_rewind_is_told_again(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    bench.client.add_trigger("ends", on=durable.EventPattern(type=ENDED, subject="it"), transient=False)
    handle = bench.start("work", -1, instance_id="it")
    for times in (1, 2):
        until(lambda times=times: bench.client.list_triggers()[0].firings == times)  # type: ignore[misc]
        if times == 1:
            handle.rewind()


def test_terminated_it_is_told(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    watch = bench.start("watch", {"type": ENDED, "subject": "it"})
    until(lambda: bench.client.list_triggers())
    bench.start("watch", {"type": "never"}, instance_id="it").terminate("enough")
    assert watch.result(SOON)[2]["status"] == "TERMINATED"


def test_who_asks_for_all_events_does_not_ask_for_these(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    for number, kind in enumerate(["*", "d*", "durable.task-completed"]):
        bench.client.add_trigger(str(number), on=durable.EventPattern(type=kind), transient=False)
    assert bench.run("work", 1) == 1
    bench.client.add_trigger("ends", on=durable.EventPattern(type=ENDED), transient=False)
    until(lambda: bench.client.get_trigger("ends"))
    assert bench.run("work", 2) == 2
    until(lambda: bench.client.list_triggers()[-1].firings >= 1)
    assert [view.firings for view in bench.client.list_triggers()[:-1]] == [0, 0, 0]
    assert bench.client.event_counts().taken == 1  # the first one told nobody


def test_when_nobody_asks_any_more_nothing_is_told(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    add(bench, type=ENDED, subject="it*")
    bench.start("work", 1, instance_id="it")
    until(lambda: len(said(bench)) == 1)
    bench.client.delete_trigger("ends")
    bench.client.keep_unmatched_events()
    bench.client.add_trigger("mark", on=durable.EventPattern(type="mark"))
    bench.client.publish(durable.CloudEvent({"type": "mark", "source": "/test", "id": "1"}))
    until(lambda: bench.client.get_trigger("mark") is None)
    assert bench.run("work", 1, instance_id="it-2") == 1
    bench.client.publish(durable.CloudEvent({"type": "last", "source": "/test", "id": "2"}))
    until(bench.client.unmatched_events)
    assert [event.get_type() for event in bench.client.unmatched_events()] == ["last"]


def test_a_worker_that_does_not_serve_the_triggers_learns_what_is_asked(
    place_of: Callable[[str], Place], app: durable.Registry
) -> None:
    place, shop = place_of("redis"), durable.Registry()

    @shop.orchestrator(group="shop")
    def sell(ctx: Ctx) -> int:
        return 1

    client, other = place.connect(), place.connect()
    apart = durable.Worker(other, registry=shop, groups=["shop"])
    with client, other, durable.Worker(client, registry=app), apart:
        assert client.start_orchestration(sell).result(SOON) == 1
        client.add_trigger("ends", on=durable.EventPattern(type=ENDED), transient=False)
        end = time.monotonic() + SOON
        while not client.list_triggers()[0].firings:
            assert time.monotonic() < end
            client.start_orchestration(sell).result(SOON)


def test_in_the_testing_environment(app: durable.Registry) -> None:
    with durable.testing.Environment(registry=app) as env:
        watch = env.client.start_orchestration("watch", {"type": ENDED, "subject": "it"})
        env.client.start_orchestration("work", 5, instance_id="it").result()
        assert watch.result()[2]["output"] == 5
