"""`@durable.orchestrator(on=...)`: each event that fits starts one, and workers see to the trigger for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

import durable
import durable.testing
from tests.waiting import until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench, Place

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]

PAID = durable.EventPattern(type="shop.paid")
LOST = durable.EventPattern(type="shop.lost")


def event(number: int = 1, kind: str = "shop.paid", data: Any = None) -> durable.CloudEvent:
    given = {"order": number} if data is None else data
    attributes = {"type": kind, "source": "/shop", "subject": f"order-{number}", "id": f"{kind}-{number}"}
    return durable.CloudEvent(attributes, given)


def shipping(*on: durable.EventPattern, version: str | None = None, says: str = "shipped") -> durable.Registry:
    """A registry with one orchestrator, `ship`."""
    app = durable.Registry()

    @app.orchestrator(on=on, version=version)
    def ship(ctx: Ctx, paid: Any) -> Steps:
        yield ctx.create_timer(0)
        return [says, paid]

    return app


def outputs(bench: Bench) -> list[Any]:
    """Of all `ship` that have ended."""
    page = bench.client.list_orchestrations(name="ship", status="COMPLETED")
    return sorted((status.output for status in page.items), key=str)


def test_each_event_starts_one_with_its_data(bench: Bench) -> None:
    bench.serve(shipping(PAID))
    for number in (1, 2, 1):  # a repetition is the same start
        bench.client.publish(event(number))
    bench.client.publish(event(3, "shop.asked"))
    until(lambda: len(outputs(bench)) == 2)
    assert outputs(bench) == [["shipped", {"order": 1}], ["shipped", {"order": 2}]]


def test_its_id_tells_the_trigger_and_the_event(place_of: Callable[[str], Place]) -> None:
    """So a repetition that nobody remembers starts nothing."""
    found = []
    for workspace, before in (("one", 1), ("two", 2)):
        client = place_of("memory")._replace(workspace=workspace).connect()
        with client, durable.Worker(client, registry=shipping(PAID)):
            for number in range(before, -1, -1):
                client.publish(event(number))
            while len(started := list(client.list_orchestrations(prefix="on:ship:").items)) <= before:
                client.event_counts()
            found.append({status.input["order"]: status.instance_id for status in started})
    assert found[0] == {number: found[1][number] for number in (0, 1)}


def test_events_published_while_no_worker_ran_start_orchestrations(bench: Bench) -> None:
    bench.serve(shipping(PAID)).stop()
    bench.client.publish(event())
    bench.serve(shipping(PAID))
    until(lambda: outputs(bench) == [["shipped", {"order": 1}]])


def test_a_function_registered_later_is_started_too(bench: Bench) -> None:
    app = durable.Registry()
    bench.serve(app)

    @app.orchestrator(on=PAID)
    def ship(ctx: Ctx, paid: Any) -> Steps:
        yield ctx.create_timer(0)
        return paid

    bench.client.publish(event())
    until(lambda: outputs(bench) == [{"order": 1}])


def test_many_workers_and_restarts_make_one_trigger(bench: Bench) -> None:
    bench.serve(shipping(PAID)).stop()
    bench.client.disable_trigger("on:ship")
    bench.serve(shipping(PAID)).stop()
    (view,) = bench.client.list_triggers()
    assert (view.id, view.on, view.enabled) == ("on:ship", (PAID,), False)


def test_a_trigger_with_other_patterns_is_the_same_trigger(bench: Bench) -> None:
    bench.serve(shipping(PAID)).stop()
    bench.client.disable_trigger("on:ship")
    bench.serve(shipping(LOST)).stop()
    (view,) = bench.client.list_triggers()
    assert (view.on, view.enabled) == ((LOST,), False)


def test_other_patterns_are_those_of_the_worker_that_started_last(bench: Bench) -> None:
    bench.serve(shipping(PAID)).stop()
    bench.client.publish(event(1))
    bench.serve(shipping(LOST, durable.EventPattern(type="shop.broken*"), says="again"))
    for kind in ("shop.paid", "shop.lost", "shop.broken.twice"):
        bench.client.publish(event(2, kind, data=kind))
    # The first event came before the change, though it had to wait for a worker: its trigger was still the other one.
    found = [["again", "shop.broken.twice"], ["again", "shop.lost"], ["again", {"order": 1}]]
    until(lambda: outputs(bench) == found)
    assert bench.client.event_counts().unmatched == 1
    assert len(bench.client.list_triggers()) == 1


def test_the_highest_version_that_has_patterns_is_started(bench: Bench) -> None:
    app = shipping(PAID, version="2", says="two")

    for version in (None, "1.9", "10"):

        @app.orchestrator(name="ship", version=version, on=None if version == "10" else LOST)
        def ship(ctx: Ctx, paid: dict[str, Any]) -> str:
            return "another"

    bench.serve(app)
    bench.client.publish(event())
    until(lambda: outputs(bench) == [["two", {"order": 1}]])


def test_a_trigger_stays_when_its_patterns_are_gone_and_can_be_deleted(bench: Bench) -> None:
    bench.serve(shipping(PAID)).stop()
    app = durable.Registry()

    @app.orchestrator
    def ship(ctx: Ctx, paid: dict[str, Any]) -> dict[str, Any]:
        return paid

    bench.serve(app)
    bench.client.publish(event(1))
    until(lambda: outputs(bench) == [{"order": 1}])
    bench.client.delete_trigger("on:ship")
    bench.client.publish(event(2))
    until(lambda: bench.client.event_counts().unmatched == 1)
    assert len(outputs(bench)) == 1


def test_in_the_testing_environment() -> None:
    app = shipping(PAID)
    with durable.testing.Environment(registry=app) as env:
        env.client.publish(event())

        @app.orchestrator(on=LOST)
        def search(ctx: Ctx, lost: dict[str, Any]) -> dict[str, Any]:
            return lost

        env.client.publish(event(2, "shop.lost"))
        started = env.client.list_orchestrations(prefix="on:").items
        assert {status.name: env.client.handle(status.instance_id).result() for status in started} == {
            "ship": ["shipped", {"order": 1}],
            "search": {"order": 2},
        }


@pytest.mark.parametrize(
    ("on", "error", "said"),
    [
        ([], ValueError, "is empty"),
        ("shop.paid", TypeError, "durable.EventPattern"),
        ([PAID, "shop.lost"], TypeError, "'shop.lost'"),
    ],
)
def test_what_is_no_pattern_is_refused(on: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        durable.Registry().orchestrator(on=on)(lambda ctx: None)


def test_a_name_too_long_for_its_trigger_is_refused() -> None:
    with pytest.raises(ValueError, match="on="):
        durable.Registry().orchestrator(name="n" * 199, on=PAID)(lambda ctx: None)


def test_a_worker_that_starts_while_the_store_has_no_triggers_writes_none(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def plain(ctx: Ctx) -> int:
        return 1

    bench.serve(app)
    assert bench.run("plain") == 1
    assert bench.client.list_triggers() == []


def test_older_code_that_goes_on_does_not_take_the_trigger_back(place_of: Callable[[str], Place]) -> None:
    place = place_of("memory")
    old_client, new_client = place.connect(), place.connect()
    older, newer = shipping(LOST, says="old"), shipping(PAID, says="new")
    old_worker, new_worker = durable.Worker(old_client, registry=older), durable.Worker(new_client, registry=newer)
    with old_client, new_client, old_worker, new_worker:

        @older.activity
        def something(number: int) -> int:
            return number

        (view,) = new_client.list_triggers()
        assert view.on == (PAID,)
