"""The one table of limits: complete, and each limit holds on each call, by name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.waiting import SOON

if TYPE_CHECKING:
    from tests.product.conftest import Bench

ROOT = Path(__file__).resolve().parents[2]

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]

LARGE = "x" * 99  # 101 bytes of JSON
DEEP = [[[["x"]]]]
LIMITS = durable.Limits(payload_bytes=100, payload_depth=3, custom_status_bytes=10, children_depth=1)
TOO_MUCH = pytest.mark.parametrize(
    ("value", "limit"), [(LARGE, "payload_bytes"), (DEEP, "payload_depth")], ids=["large", "deep"]
)


def test_the_table_has_every_limit_with_its_default() -> None:
    rows = re.findall(r"^\s*(\w+) +([\d,.]+) +(bytes|levels|calls|seconds|events) ", durable.Limits.__doc__ or "", re.M)
    told = {name: float(default.replace(",", "")) for name, default, _ in rows}
    assert told == {field.name: field.default for field in dataclasses.fields(durable.Limits)}


def test_the_readme_has_them_too() -> None:
    limits = (ROOT / "README.md").read_text().partition("## Limits")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", limits, re.M) == [field.name for field in dataclasses.fields(durable.Limits)]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(durable.Limits)])
def test_a_limit_is_a_number_above_0(name: str) -> None:
    for wrong in (0, -1, math.nan, True, "1", None):
        with pytest.raises(ValueError, match=rf"Limits\({name}="):
            durable.Limits(**{name: wrong})  # type: ignore[arg-type]  # that is what is tried
    assert getattr(durable.Limits(**{name: 7}), name) == 7


def refused(call: Callable[[], object], limit: str) -> None:
    with pytest.raises(durable.PayloadError, match=rf"Limits\({limit}="):
        call()


@TOO_MUCH
def test_payloads_from_outside(bench: Bench, value: Any, limit: str) -> None:
    client = bench.connect(limits=LIMITS)
    handle = client.start_orchestration("flow", 1)
    refused(lambda: client.start_orchestration("flow", value, instance_id="never"), limit)
    refused(lambda: client.start_many("flow", [1, value], instance_ids=["never", "never-2"]), limit)
    refused(lambda: client.raise_event(handle.instance_id, "go", value), limit)
    refused(lambda: handle.raise_event("go", value), limit)
    refused(lambda: client.terminate(handle.instance_id, value), limit)
    assert client.get_status("never") is None
    assert handle.status().runtime_status is durable.RuntimeStatus.PENDING


@TOO_MUCH
def test_payloads_inside(bench: Bench, value: Any, limit: str) -> None:
    app = durable.Registry()

    @app.activity
    def returns(large: bool) -> Any:
        return value if large else 1

    @app.orchestrator
    def child(ctx: Ctx, large: bool) -> Any:
        return value if large else 1

    @app.orchestrator
    def flow(ctx: Ctx, given: Any = None) -> Steps:
        refused(lambda: ctx.call_activity("returns", value), limit)
        refused(lambda: ctx.call_sub_orchestrator("child", value), limit)
        refused(lambda: ctx.map("returns", [False, value]), limit)
        refused(lambda: ctx.continue_as_new(value), limit)
        refused(lambda: ctx.set_custom_status(value), limit)
        failures = []
        for call in (ctx.call_activity(returns, True), ctx.call_sub_orchestrator(child, True)):
            try:
                yield call
            except durable.TaskFailedError as error:
                failures.append(error.failure)
        assert [failure.type for failure in failures] == ["durable.PayloadError"] * 2
        assert all(limit in failure.message for failure in failures)
        return (yield ctx.map(returns, [False]))

    client = bench.connect(limits=LIMITS)
    with durable.Worker(client, registry=app, max_cached_orchestrations=0 if bench.cold else 10):
        assert client.start_orchestration(flow).result(SOON, on_blocked="raise") == [1]


def test_the_others(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def child(ctx: Ctx) -> Any:
        for deeper in (lambda: ctx.call_sub_orchestrator(child), lambda: ctx.map(child, [None])):
            with pytest.raises(durable.LimitError, match=r"1 deep \(Limits.children_depth\)"):
                deeper()
        ctx.map(child, [])  # nothing is called
        ctx.set_custom_status("x" * 8)
        with pytest.raises(durable.LimitError, match=r"11 bytes; at most 10 \(Limits.custom_status_bytes\)"):
            ctx.set_custom_status("x" * 9)
        return ctx.custom_status

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return (yield ctx.call_sub_orchestrator(child))

    client = bench.connect(limits=LIMITS)
    with durable.Worker(client, registry=app, max_cached_orchestrations=0 if bench.cold else 10):
        assert client.start_orchestration(flow).result(SOON, on_blocked="raise") == "x" * 8


def test_commands_of_a_turn_are_counted_one_by_one_and_patches_are_none(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        for number in range(9):
            assert ctx.patched(f"change-{number}")
        yield [ctx.create_timer(0) for _ in range(3)]
        timers = [ctx.create_timer(0) for _ in range(3)]
        with pytest.raises(durable.LimitError, match=r"3 commands \(Limits.commands_per_turn\)"):
            ctx.create_timer(0)
        yield timers
        return len(timers)

    client = bench.connect(limits=durable.Limits(commands_per_turn=3))
    with durable.Worker(client, registry=app, max_cached_orchestrations=0 if bench.cold else 10):
        assert client.start_orchestration(flow).result(SOON, on_blocked="raise") == 3


@pytest.mark.parametrize("seconds", [1e10, math.inf])
def test_a_turn_may_be_given_all_the_time_there_is(seconds: float) -> None:
    """More than a thread can wait at once, which would end the watchdog's thread: pytest fails then."""
    app = durable.Registry()
    app.orchestrator(name="flow")(lambda ctx: "done")
    client = durable.connect("memory://patient", limits=durable.Limits(turn_seconds=seconds))
    with client, durable.Worker(client, registry=app):
        assert client.start_orchestration("flow").result(SOON) == "done"


def test_a_turn_that_takes_too_long_is_blocked_with_its_line(bench: Bench) -> None:
    app = durable.Registry()
    release: list[int] = []

    @app.orchestrator
    def flow(ctx: Ctx) -> str:
        while not release:
            pass
        return "released"

    client = bench.connect(limits=durable.Limits(turn_seconds=0.1))
    with durable.Worker(client, registry=app):
        handle = client.start_orchestration(flow)
        with pytest.raises(durable.OrchestrationBlockedError, match=r"0\.1 s .*test_limits\.py.*Limits\.turn_seconds"):
            handle.result(SOON, on_blocked="raise")
        release.append(1)
        app.activity(name="new")(lambda: None)  # code has changed: it is tried again
        assert handle.result(SOON) == "released"
