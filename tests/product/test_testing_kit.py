"""The testing kit, used as a newcomer would: `durable.testing.Environment`, `.step`, `.replay`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest.mock import Mock

import pytest

import durable
import durable.testing
from durable.testing import Environment, StuckError

Flow = Generator[Any, Any, Any]
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
registry = durable.Registry()


@dataclass
class Order:
    item: str
    amount: int


@registry.activity
def charge(order: Order) -> str:
    return f"receipt for {order.amount}"


@registry.activity
async def pack(item: str) -> str:
    await asyncio.sleep(0)
    return f"{item} packed"


@registry.activity
def poll(site: str) -> bool:
    return False


@registry.orchestrator
def shop(ctx: durable.OrchestrationContext, order: Order) -> Flow:
    receipt = yield ctx.call_activity(charge, order)
    packed = yield ctx.call_activity(pack, order.item)
    return [receipt, packed]


@registry.orchestrator
def monitor(ctx: durable.OrchestrationContext, site: str, hours: int) -> Flow:
    for hour in range(hours):
        if (yield ctx.call_activity(poll, site)):
            return hour
        yield ctx.create_timer(timedelta(hours=1))
    return "never"


@registry.orchestrator
def approval(ctx: durable.OrchestrationContext) -> Flow:
    try:
        return (yield ctx.wait_for_external_event("decision", timeout=timedelta(days=3)))
    except durable.TimeoutError:
        return "escalated"


@registry.orchestrator
def patient(ctx: durable.OrchestrationContext, what: str) -> Flow:
    return (yield ctx.wait_for_external_event(what))


@registry.orchestrator
def retried(ctx: durable.OrchestrationContext) -> Flow:
    policy = durable.RetryPolicy(max_attempts=3, first_interval=timedelta(minutes=1))
    return (yield ctx.call_activity(charge.options(retry=policy), Order("book", 3)))


@registry.orchestrator
def parent(ctx: durable.OrchestrationContext) -> Flow:
    return (yield ctx.call_sub_orchestrator(shop, Order("book", 3), instance_id="child"))


# ---- the environment


def test_thirty_days_end_at_once_on_the_clock_of_the_environment() -> None:
    with Environment(registry=registry) as env:
        handle = env.client.start_orchestration(monitor, "example.org", 30 * 24)
        assert handle.result() == "never"
        assert env.now == START + timedelta(days=30)
        assert len(env.calls(poll)) == 30 * 24
        status = handle.status()
        assert (status.created_at, status.completed_at) == (START, env.now)


def test_activities_really_run_sync_and_async_with_their_types() -> None:
    with Environment(registry=registry) as env:
        handle = env.client.start_orchestration(shop, Order("book", 3))
        assert handle.status().runtime_status == "COMPLETED"  # nobody had to wait for it
        assert handle.result() == ["receipt for 3", "book packed"]
        assert [(call.name, call.args) for call in env.calls()] == [
            ("charge", (Order("book", 3),)),
            ("pack", ("book",)),
        ]


def test_it_runs_inside_an_event_loop_too() -> None:
    async def a_test() -> Any:
        with Environment(registry=registry) as env:
            return env.client.start_orchestration(shop, Order("book", 3)).result()

    assert asyncio.run(a_test()) == ["receipt for 3", "book packed"]


def test_the_same_test_does_the_same_every_time() -> None:
    def once() -> list[Any]:
        with Environment(registry=registry) as env:
            env.client.start_orchestration(retried, instance_id="a")
            env.client.start_orchestration(parent, instance_id="b")
            env.replace(charge, Mock(side_effect=[ConnectionError("down"), "ok", "ok"]))
            env.client.wait("a")
            env.client.wait("b")
            return [env.client.history("a"), env.client.history("b"), env.client.history("child")]

    assert once() == once()


def test_time_is_stepped_by_hand() -> None:
    with Environment(registry=registry, now=START + timedelta(days=1)) as env:
        handle = env.client.start_orchestration(approval)
        env.advance(timedelta(days=2, hours=23))
        assert handle.status().runtime_status == "RUNNING"
        env.advance(3600)
        assert handle.status().output == "escalated"
        assert env.now == START + timedelta(days=4)


def test_an_event_is_taken_and_then_nothing_is_waited_for() -> None:
    with Environment(registry=registry) as env:
        handle = env.client.start_orchestration(approval)
        handle.raise_event("Decision", True)
        assert handle.result() is True
        assert env.now == START


def test_a_timeout_of_a_result_is_of_the_same_clock() -> None:
    with Environment(registry=registry) as env:
        handle = env.client.start_orchestration(patient, "never")
        with pytest.raises(durable.TimeoutError, match="after 0:01:00 of the environment"):
            handle.result(60)
        assert env.now == START + timedelta(seconds=60)


def test_values_exceptions_functions_and_mocks_stand_in() -> None:
    with Environment(registry=registry) as env:
        env.replace(charge, "a value")
        env.replace("pack", lambda item: item.upper())
        assert env.client.start_orchestration(shop, Order("book", 3)).result() == ["a value", "BOOK"]

        env.replace(pack, ConnectionError("no boxes"))
        with pytest.raises(durable.OrchestrationFailedError, match=r"no boxes \(.*test_testing_kit\.py:\d+ in shop\)"):
            env.client.start_orchestration(shop, Order("book", 3)).result()

        async def packs(ctx: durable.ActivityContext, item: str) -> str:
            return f"{item} by {ctx.instance_id}, attempt {ctx.attempt}"

        env.replace(pack, packs)
        handle = env.client.start_orchestration(shop, Order("book", 3), instance_id="o-1")
        assert handle.result() == ["a value", "book by o-1, attempt 1"]


def test_retries_back_off_on_the_fake_clock() -> None:
    with Environment(registry=registry) as env:
        env.replace(charge, Mock(side_effect=[ConnectionError("1"), ConnectionError("2"), "ok"]))
        assert env.client.start_orchestration(retried).result() == "ok"
        minutes = [(call.at - START) / timedelta(minutes=1) for call in env.calls(charge)]
        assert minutes == [0, 1, 3]
        assert [call.attempt for call in env.calls("charge")] == [1, 2, 3]


def test_what_takes_long_loses_a_race_and_meets_its_timeout() -> None:
    own = durable.Registry()

    @own.activity(timeout=timedelta(minutes=5))
    def slow() -> str:
        return "done"

    @own.orchestrator
    def race(ctx: durable.OrchestrationContext) -> Flow:
        work, timer = ctx.call_activity(slow), ctx.create_timer(60)
        first = yield ctx.task_any([work, timer])
        return "timer" if first is timer else (yield work)

    @own.orchestrator
    def waits(ctx: durable.OrchestrationContext) -> Flow:
        return (yield ctx.call_activity(slow))

    with Environment(registry=own) as env:
        env.replace(slow, "late", takes=timedelta(minutes=2))
        assert env.client.start_orchestration(race).result() == "timer"
        assert env.client.start_orchestration(waits).result() == "late"
        env.replace(slow, "too late", takes=timedelta(minutes=6))
        with pytest.raises(durable.OrchestrationFailedError, match="longer than its timeout of 300 s"):
            env.client.start_orchestration(waits).result()


def test_something_stands_in_for_a_sub_orchestration() -> None:
    with Environment(registry=registry) as env:
        env.replace(shop, ["all", "well"])
        assert env.client.start_orchestration(parent).result() == ["all", "well"]
        assert [(call.name, call.args) for call in env.calls()] == [("shop", (Order("book", 3),))]


def test_what_lives_elsewhere_is_replaced_by_name() -> None:
    own = durable.Registry()
    ship = durable.activity_ref("ship", returns=str)
    bill = durable.orchestrator_ref("bill")

    @own.orchestrator(group="shipping")
    def order(ctx: durable.OrchestrationContext) -> Flow:
        bought = yield ctx.call_activity(ship.options(queue="far"), "book", 2)
        return [bought, (yield ctx.call_sub_orchestrator(bill, 7))]

    with Environment(registry=own) as env:
        handle = env.client.start_orchestration(order)
        with pytest.raises(StuckError, match=r"activity 'ship', which nobody serves \(env\.replace\)"):
            handle.result()
        env.replace("ship", lambda item, count: f"{count} {item}s")
        with pytest.raises(StuckError, match=r"sub-orchestration .* \(bill\)"):
            handle.result()
        env.replace(bill, lambda amount: amount * 2)
        assert handle.result() == ["2 books", 14]


def test_who_waits_for_what_cannot_come_is_told_at_once() -> None:
    with Environment(registry=registry) as env:
        with pytest.raises(StuckError, match=r"event 'go' \(client\.raise_event\)"):
            env.client.start_orchestration(patient, "go").result()
        with pytest.raises(StuckError, match="the registry has no such orchestrator"):
            env.client.start_orchestration("unknown").result()
        with pytest.raises(durable.InstanceNotFoundError):
            env.client.handle("nobody").result()


def test_an_endless_loop_is_no_endless_test() -> None:
    own = durable.Registry()

    @own.orchestrator
    def endless(ctx: durable.OrchestrationContext) -> None:
        ctx.continue_as_new()

    with Environment(registry=own) as env, pytest.raises(StuckError, match="endless loop without a timer"):
        env.client.start_orchestration(endless)


def test_an_activity_may_use_the_client_and_wait() -> None:
    own = durable.Registry()

    @own.orchestrator
    def inner(ctx: durable.OrchestrationContext, number: int) -> Flow:
        yield ctx.create_timer(60)
        return number * 2

    @own.activity
    def starts(ctx: durable.ActivityContext, number: int) -> Any:
        return ctx.client.start_orchestration(inner, number).result()

    @own.orchestrator
    def outer(ctx: durable.OrchestrationContext) -> Flow:
        return (yield [ctx.call_activity(starts, 1), ctx.call_activity(starts, 2)])

    with Environment(registry=own) as env:
        assert env.client.start_orchestration(outer).result() == [2, 4]


def test_replaying_every_turn_finds_code_that_is_not_deterministic() -> None:
    own, seen = durable.Registry(), []

    @own.orchestrator
    def careless(ctx: durable.OrchestrationContext) -> Flow:
        seen.append(1)
        yield ctx.call_activity("step", len(seen))
        yield ctx.call_activity("step", len(seen))

    with Environment(registry=own, max_cached_orchestrations=0) as env:
        env.replace("step")
        with pytest.raises(durable.OrchestrationBlockedError, match="with input 1; the code now asks for"):
            env.client.start_orchestration(careless).result()


def test_other_threads_may_use_the_client() -> None:
    with Environment(registry=registry) as env:
        results: list[Any] = []
        threads = [
            threading.Thread(target=lambda: results.append(env.client.start_orchestration(monitor, "x", 5).result()))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert results == ["never"] * 5


def test_whoever_waits_finds_what_another_thread_began_done() -> None:
    with Environment(registry=registry) as env:
        env.client.start_orchestration(monitor, "x", 5)
        while env._driver.jump(None):  # as threads do that wait at the same time
            pass
        assert [item.output for item in env.client.list_orchestrations()] == ["never"]


def test_the_default_client_and_registry_are_the_environments_within_the_block(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DURABLE_URL", f"memory://{tmp_path.name}")
    before = durable.start_orchestration("kit.default", instance_id="outside")

    @durable.orchestrator(name="kit.default")
    def quick(ctx: durable.OrchestrationContext) -> str:
        return "quick"

    with durable.testing.Environment() as env:
        assert durable.start_orchestration(quick, instance_id="inside").result() == "quick"
        assert env.client.get_status("outside") is None
    assert before.status().runtime_status == "PENDING"
    assert durable.start_orchestration(quick, instance_id="inside").status().runtime_status == "PENDING"


def test_what_ends_a_test_is_no_failure_of_an_activity() -> None:
    with Environment(registry=registry) as env:
        env.replace(charge, lambda order: pytest.fail("must not be charged"))
        with pytest.raises(pytest.fail.Exception, match="must not be charged"):
            env.client.start_orchestration(shop, Order("book", 3))


# ---- one orchestrator, step by step


def test_an_orchestrator_is_stepped_without_worker_and_store() -> None:
    run = durable.testing.step(shop, Order("book", 3))
    [call] = run.scheduled
    assert (call.name, call.input, call.task_id) == ("charge", {"item": "book", "amount": 3}, 1)
    assert run.status == "RUNNING"
    run.complete(call, "receipt")
    run.complete("pack", "packed")
    assert (run.status, run.output, run.scheduled) == ("COMPLETED", ["receipt", "packed"], [])
    with pytest.raises(ValueError, match="it has ended"):
        run.raise_event("late")
    durable.testing.replay(run.history, shop)


def test_a_failed_attempt_is_tried_again_after_its_timer() -> None:
    run = durable.testing.step(retried)
    run.fail("charge", ConnectionError("down"))
    assert run.scheduled == []
    assert [(timer.name, timer.fire_at - START) for timer in run.timers] == [("charge", timedelta(minutes=1))]
    run.fire_timer()
    assert [call.attempt for call in run.scheduled] == [2]
    run.fail(1, durable.NonRetryableError)
    assert run.status == "FAILED"
    assert run.failure is not None
    assert run.failure.is_caused_by(durable.NonRetryableError)


def test_events_timeouts_children_and_custom_status() -> None:
    @durable.Registry().orchestrator
    def flow(ctx: durable.OrchestrationContext, rounds: int) -> Flow:
        ctx.set_custom_status({"rounds": rounds})
        name = yield ctx.wait_for_external_event("name", timeout=60)
        try:
            yield ctx.wait_for_external_event("again", timeout=60)
        except durable.TimeoutError:
            return [name, (yield ctx.call_sub_orchestrator("child", name)), rounds]
        ctx.continue_as_new(rounds + 1)
        return None

    run = durable.testing.step(flow, 1, instance_id="flow-1")
    assert [wait.name for wait in run.waits] == ["name"]
    run.raise_event("NAME", "Ann")
    run.raise_event("again")
    assert (run.input, run.custom_status) == (2, {"rounds": 2})
    run.raise_event("name", "Bob")
    run.advance(59)
    assert [wait.name for wait in run.waits] == ["again"]
    run.advance(1)
    [child] = run.scheduled
    assert (child.kind, child.name, child.input) == ("orchestrator", "child", "Bob")
    assert child.instance_id is not None
    run.complete("child", 7)
    assert run.output == ["Bob", 7, 2]
    assert run.now == START + timedelta(seconds=60)


def test_steps_that_cannot_be_taken_say_what_can() -> None:
    @durable.Registry().orchestrator
    def twice(ctx: durable.OrchestrationContext) -> Flow:
        yield [ctx.call_activity("step", 1), ctx.call_activity("step", 2)]

    run = durable.testing.step(twice)
    with pytest.raises(ValueError, match=r"'ship': it is not open; open: 'step' \(task_id 1\), 'step' \(task_id 2\)"):
        run.complete("ship")
    with pytest.raises(ValueError, match="2 calls of that name are open"):
        run.complete("step")
    with pytest.raises(ValueError, match="no timer is set"):
        run.fire_timer()
    with pytest.raises(TypeError, match=r"@durable\.orchestrator"):
        durable.testing.step(charge)  # type: ignore[arg-type]
    for call in run.scheduled:
        run.complete(call)
    assert run.status == "COMPLETED"


def test_stepping_finds_code_that_does_not_repeat_itself() -> None:
    seen: list[int] = []

    @durable.Registry().orchestrator
    def careless(ctx: durable.OrchestrationContext) -> Flow:
        seen.append(1)
        yield ctx.call_activity("step", len(seen))

    run = durable.testing.step(careless)
    with pytest.raises(durable.OrchestrationBlockedError, match="the code does not fit its history"):
        run.complete("step")


# ---- replaying


def test_replay_tells_the_first_difference_as_the_status_would() -> None:
    newer = durable.Registry()

    @newer.orchestrator(name="shop")
    def changed(ctx: durable.OrchestrationContext, order: Order) -> Flow:
        packed = yield ctx.call_activity("pack", order.item)
        receipt = yield ctx.call_activity("charge", order)
        return [receipt, packed]

    with Environment(registry=registry) as env:
        history = env.client.start_orchestration(shop, Order("book", 3)).status(history=True).history
    assert history is not None
    durable.testing.replay(history, registry=registry)
    choices: list[dict[str, Any]] = [{"registry": newer}, {"orchestrator": changed}]
    for code in choices:
        with pytest.raises(durable.OrchestrationBlockedError) as caught:
            durable.testing.replay(history, **code)
        assert "event 2 is call_activity 'charge'" in caught.value.reason
        assert "the code now asks for call_activity 'pack'" in caught.value.reason
        assert __file__ in caught.value.reason
        assert caught.value.reason in str(caught.value)
    with pytest.raises(durable.OrchestrationBlockedError, match="no orchestrator 'shop'"):
        durable.testing.replay(history, registry=durable.Registry())


def test_replay_takes_children_terminated_and_failed_ones() -> None:
    with Environment(registry=registry) as env:
        env.client.start_orchestration(parent, instance_id="parent")
        env.client.start_orchestration(patient, "go", instance_id="stopped").terminate("enough")
        env.replace(charge, ValueError("no"))
        env.client.start_orchestration(shop, Order("book", 3), instance_id="failed")
        for instance_id in ("parent", "child", "stopped", "failed"):
            durable.testing.replay(env.client.history(instance_id), registry=registry)


# ---- the names


def test_the_names_are_documented_in_one_place_and_load_when_used() -> None:
    assert dir(durable.testing) == durable.testing.__all__ == sorted(durable.testing.__all__)
    for name in durable.testing.__all__:
        assert name in (durable.testing.__doc__ or "")
        assert getattr(durable.testing, name).__doc__, name
    code = (
        "import sys, durable; durable.testing.Environment; durable.testing.step; durable.testing.replay; "
        "print({'pytest', 'hypothesis', 'typer'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
    with pytest.raises(AttributeError, match="no_such_name"):
        durable.testing.no_such_name  # type: ignore[attr-defined]  # noqa: B018  # what is asked is who raises
