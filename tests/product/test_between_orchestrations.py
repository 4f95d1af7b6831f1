"""What one orchestration does to another: detached starts, events, and the end of a family."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import durable
from tests.servers.redis_server import RedisServer
from tests.waiting import SOON, until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench, Heard

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]


@pytest.fixture
def app() -> durable.Registry:
    app = durable.Registry()

    @app.activity
    def do(what: str) -> str:
        return f"did {what}"

    @app.orchestrator
    def waits(ctx: Ctx) -> Steps:
        return (yield ctx.wait_for_external_event("go"))

    @app.orchestrator
    def echo(ctx: Ctx, a: int, b: int) -> list[Any]:
        return [a, b, ctx.parent_instance_id]

    @app.orchestrator
    def starts(ctx: Ctx, instance_id: str | None) -> Steps:
        started = ctx.start_orchestration(echo, 1, 2, instance_id=instance_id)
        yield ctx.call_activity(do, "something")
        return started

    @app.orchestrator
    def starts_waits(ctx: Ctx) -> Steps:
        ctx.start_orchestration(waits, instance_id=f"{ctx.instance_id}-free")
        return (yield ctx.wait_for_external_event("never"))

    @app.orchestrator
    def tells(ctx: Ctx, to: str, times: int) -> Steps:
        for number in range(times):
            ctx.send_event(to, "GO", {"number": number})
            yield ctx.call_activity(do, "something")
        return times

    @app.orchestrator
    def counts(ctx: Ctx, times: int) -> Steps:
        seen = []
        for _ in range(times):
            seen.append((yield ctx.wait_for_external_event("go"))["number"])
        return seen

    @app.orchestrator
    def family(ctx: Ctx, levels: int) -> Steps:
        if levels:
            return (yield [ctx.call_sub_orchestrator(family, levels - 1) for _ in range(2)])
        return (yield ctx.wait_for_external_event("go"))

    return app


# ---- detached starts


@pytest.mark.parametrize("given", [None, "mine"])
def test_a_detached_start_has_a_life_of_its_own(bench: Bench, app: durable.Registry, given: str | None) -> None:
    bench.serve(app)
    handle = bench.start("starts", given, instance_id="starter")
    started = handle.result(SOON)
    assert started == given if given else started.startswith("starter:")
    assert bench.client.handle(started).result(SOON) == [1, 2, None]
    [created] = [e for e in bench.history(handle) if e.type == "SubOrchestrationInstanceCreated"]
    assert (created.instance_id, created.name, created.input, created.status) == (started, "echo", [1, 2], "DETACHED")
    assert "SubOrchestrationInstanceCompleted" not in bench.types(handle)
    status = bench.client.get_status(started)
    assert status is not None
    assert status.parent_instance_id is None


def test_a_taken_id_is_left_alone_and_the_log_says_so(bench: Bench, app: durable.Registry, log: Heard) -> None:
    before = bench.start("waits", instance_id="taken")
    bench.serve(app)
    assert bench.run("starts", "taken", instance_id="starter") == "taken"
    log.wait_for("starter", "taken", "something else has that id")
    before.raise_event("go", "untouched")
    assert before.result(SOON) == "untouched"


def test_a_detached_one_does_not_end_with_whoever_started_it(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("starts_waits", instance_id="starter")
    until(lambda: bench.client.get_status("starter-free") is not None)
    handle.terminate("enough", recursive=True)
    with pytest.raises(durable.OrchestrationTerminatedError):
        handle.result(SOON)
    free = bench.client.handle("starter-free")
    free.raise_event("go", "free")
    assert free.result(SOON) == "free"


def test_a_detached_start_is_no_level_of_nesting(bench: Bench, app: durable.Registry) -> None:
    """It may call children as deep as any, and start the next one, and so on."""

    @app.orchestrator
    def relay(ctx: Ctx, left: int) -> Steps:
        yield ctx.call_sub_orchestrator("echo", 1, 2)
        return ctx.start_orchestration(relay, left - 1, instance_id=f"leg-{left - 1}") if left else "the end"

    client = bench.connect(limits=durable.Limits(children_depth=1))
    with durable.Worker(client, registry=app, shutdown_grace=0):
        client.start_orchestration(relay, 2, instance_id="leg-2")
        until(lambda: client.get_status("leg-0") is not None)
        assert client.handle("leg-0").result(SOON) == "the end"
    assert [e.status for e in client.history("leg-1") if e.name in ("echo", "relay")] == [None, None, "DETACHED"]


# ---- events


def test_an_event_reaches_another_orchestration_once_for_each_call(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    counter = bench.start("counts", 5, instance_id="counter")
    teller = bench.start("tells", "counter", 5)
    assert teller.result(SOON) == 5
    assert counter.result(SOON) == [0, 1, 2, 3, 4]
    sent = [event for event in bench.history(teller) if event.type == "EventSent"]
    assert [(e.name, e.instance_id, e.input) for e in sent] == [("GO", "counter", {"number": n}) for n in range(5)]
    assert bench.types(counter).count("EventRaised") == 5


@pytest.mark.on_dynamodb
def test_an_event_for_nobody_is_kept_shown_and_taken_by_who_comes(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    assert bench.run("tells", "unborn", 2) == 2
    assert bench.client.get_status("unborn") is None

    def shown() -> list[str]:
        return [finding.what for finding in bench.client.diagnose().findings if "unborn" in finding.what]

    until(lambda: shown() and shown()[0].startswith("2 events wait"))
    assert bench.run("counts", 2, instance_id="unborn") == [0, 1]
    assert shown() == []


def test_an_event_for_one_that_has_ended_is_kept_and_shown(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    assert bench.run("echo", 1, 2, instance_id="ended") == [1, 2, None]
    before = bench.client.handle("ended").status(history=True)
    assert bench.run("tells", "ended", 1) == 1
    until(lambda: any("'ended'" in finding.what for finding in bench.client.diagnose().findings))
    events = bench.client.history("ended", pending=True)
    assert [(e.type, e.name) for e in events if e.event_id is None] == [("EventRaised", "GO")]
    assert bench.client.handle("ended").status(history=True) == before


def test_wrong_targets_raise_at_that_line(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def wrong(ctx: Ctx) -> list[str]:
        calls: list[Any] = [
            lambda: ctx.send_event("no/slash", "go"),
            lambda: ctx.send_event("ok", ""),
            lambda: ctx.send_event("ok", "go", object()),
            lambda: ctx.start_orchestration("echo", instance_id="no/slash"),
            lambda: ctx.start_orchestration(len),  # type: ignore[call-overload]  # what a careless user writes
        ]
        errors = []
        for call in calls:
            try:
                call()
            except (TypeError, ValueError) as error:
                errors.append(type(error).__name__)
        return errors

    bench.serve(app)
    handle = bench.start(wrong)
    assert handle.result(SOON) == ["ValueError", "ValueError", "PayloadError", "ValueError", "TypeError"]
    assert bench.types(handle) == ["ExecutionStarted", "ExecutionCompleted"]


# ---- families


def test_terminate_overtakes_the_start_of_the_children(bench: Bench, app: durable.Registry) -> None:
    """Whenever it comes, in the end nobody of the family goes on."""
    bench.serve(app)
    roots = [bench.start("family", 3, instance_id=f"root{n}") for n in range(8)]
    for number, root in enumerate(roots):
        if number % 2:
            until(lambda root=root: root.status().runtime_status == "RUNNING")  # type: ignore[misc]
        root.terminate("all of you")
    for root in roots:
        with pytest.raises(durable.OrchestrationTerminatedError):
            root.result(SOON)

    def unfinished() -> list[str]:
        found = bench.client.list_orchestrations(prefix="root", limit=1_000)
        return [item.instance_id for item in found if not item.runtime_status.finished]

    until(lambda: not unfinished())
    ended = bench.client.list_orchestrations(prefix="root", limit=1_000)
    assert {(item.runtime_status, item.output) for item in ended} == {("TERMINATED", "all of you")}


def test_terminate_reaches_a_family_across_partitions_and_workers(
    redis_server: RedisServer, app: durable.Registry
) -> None:
    url, workspace = f"{redis_server.url}?partitions=8", uuid4().hex[:8]
    with ExitStack() as stack:
        clients = [stack.enter_context(durable.connect(url, workspace=workspace)) for _ in range(2)]
        for client in clients:
            stack.enter_context(durable.Worker(client, registry=app, shutdown_grace=0))
        roots = [clients[0].start_orchestration("family", 3, instance_id=f"root{n}") for n in range(6)]
        for number, root in enumerate(roots):
            if number % 2:
                clients[1].wait(root.instance_id, SOON, until="started")
            root.terminate({"why": number})
        for root in roots:
            with pytest.raises(durable.OrchestrationTerminatedError):
                root.result(SOON)
        found = clients[0].list_orchestrations
        until(lambda: all(item.runtime_status.finished for item in found(prefix="root", limit=1_000)))
        for item in found(prefix="root", limit=1_000):
            number = int(item.instance_id[len("root")])
            assert (item.runtime_status, item.output) == ("TERMINATED", {"why": number})
