"""Other lives of an orchestration: rewound, restarted, replaced, forked; and its end, purged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest

import durable
import durable.testing
from tests.waiting import SOON, until

from .conftest import Bench

pytestmark = pytest.mark.everywhere

Context = durable.OrchestrationContext
Flow = Generator[Any, Any, Any]
Status = durable.RuntimeStatus


class Shop:
    """Steps that fail while they are told to, and orchestrations made of them."""

    def __init__(self) -> None:
        self.registry = app = durable.Registry()
        self.broken: set[str] = set()
        self.ran: list[str] = []
        self.keys: list[str] = []
        self.attempts: list[int] = []
        self.lines = 0

        @app.activity(name="step")
        def step(ctx: durable.ActivityContext, name: str) -> str:
            self.ran.append(name)
            self.keys.append(ctx.idempotency_key)
            self.attempts.append(ctx.attempt)
            if name in self.broken:
                raise ValueError(f"{name} is broken")
            return name

        @app.orchestrator(name="steps")
        def steps(ctx: Context, names: list[str]) -> Flow:
            done = []
            for name in names:
                done.append((yield ctx.call_activity(step, name)))
            return done

        @app.orchestrator(name="parent")
        def parent(ctx: Context, names: list[str]) -> Flow:
            first = yield ctx.call_activity(step, "first")
            return [first, (yield ctx.call_sub_orchestrator("steps", names))]

        @app.orchestrator(name="rounds")
        def rounds(ctx: Context, n: int) -> Flow:
            yield ctx.call_sub_orchestrator("steps", [f"round {n}"])
            if n < 3:
                ctx.continue_as_new(n + 1)
            return n

        @app.orchestrator(name="waits")
        def waits(ctx: Context) -> Flow:
            return (yield ctx.wait_for_external_event("go"))

        self.step = step


@pytest.fixture
def shop() -> Shop:
    return Shop()


def failed(bench: Bench, name: str, *args: Any, **options: Any) -> durable.OrchestrationHandle[Any]:
    handle = bench.start(name, *args, **options)
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    return handle


def done(bench: Bench, name: str, *args: Any, **options: Any) -> durable.OrchestrationHandle[Any]:
    handle = bench.start(name, *args, **options)
    handle.result(SOON)
    return handle


# ---- rewinding


def test_a_failed_step_is_run_again_and_finished_ones_are_not(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    shop.broken = {"pack"}
    handle = failed(bench, "steps", ["charge", "pack", "ship"])
    before = bench.client.history(handle.instance_id)
    shop.broken.clear()
    handle.rewind({"by": "ops"})
    assert handle.status().runtime_status is not Status.FAILED
    assert handle.result(SOON) == ["charge", "pack", "ship"]
    assert shop.ran == ["charge", "pack", "pack", "ship"]
    assert shop.keys[1] == shop.keys[2]
    assert len(set(shop.keys)) == 3
    status = handle.status(history=True)
    assert (status.runtime_status, status.failure) == (Status.COMPLETED, None)
    assert status.history is not None
    assert status.history[: len(before)] == before  # nothing is ever taken out
    [rewound] = [event for event in status.history if event.type == "ExecutionRewound"]
    assert (rewound.event_id, rewound.input) == (len(before), {"by": "ops"})


def test_status_is_running_when_rewind_returns_without_any_worker(bench: Bench, shop: Shop) -> None:
    shop.broken = {"a"}
    with bench.worker(shop.registry):
        handle = failed(bench, "parent", ["a"])
    bench.client.rewind(handle.instance_id)
    status = handle.status()
    assert (status.runtime_status, status.failure, status.completed_at) == (Status.RUNNING, None, None)
    with pytest.raises(durable.TimeoutError):
        handle.result(0.05)
    shop.broken.clear()
    bench.serve(shop.registry)
    assert handle.result(SOON) == ["first", ["a"]]


def test_rewinding_again_and_again(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    shop.broken = {"b", "d"}
    handle = failed(bench, "steps", ["a", "b", "c", "d"])
    for mended in ({"b", "d"}, {"d"}, {"d"}):
        shop.broken = set(mended)
        handle.rewind()
        with pytest.raises(durable.OrchestrationFailedError, match="is broken"):
            handle.result(SOON)
    shop.broken = set()
    handle.rewind()
    assert handle.result(SOON) == ["a", "b", "c", "d"]
    assert shop.ran == ["a", "b", "b", "b", "c", "d", "d", "d"]
    assert bench.types(handle).count("ExecutionRewound") == 4


def test_a_rewound_retry_policy_begins_with_its_first_attempt(bench: Bench, shop: Shop) -> None:
    policy = durable.RetryPolicy(max_attempts=2, first_interval=0.01)

    @shop.registry.orchestrator(name="retried")
    def retried(ctx: Context) -> Flow:
        return (yield ctx.call_activity(shop.step.options(retry=policy), "a"))

    bench.serve(shop.registry)
    shop.broken = {"a"}
    handle = failed(bench, "retried")
    assert shop.attempts == [1, 2]
    handle.rewind()
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    assert shop.attempts == [1, 2, 3, 4]
    assert len(set(shop.keys)) == 1


def test_caught_failures_stand(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="careful")
    def careful(ctx: Context) -> Flow:
        try:
            yield ctx.call_activity(shop.step, "optional")
        except durable.TaskFailedError:
            yield ctx.call_activity(shop.step, "instead")
        return (yield ctx.call_activity(shop.step, "needed"))

    bench.serve(shop.registry)
    shop.broken = {"optional", "needed"}
    handle = failed(bench, "careful")
    shop.broken.clear()
    handle.rewind()
    assert handle.result(SOON) == "needed"
    assert shop.ran == ["optional", "instead", "needed", "needed"]


def test_what_was_done_on_the_way_out_is_void(bench: Bench, shop: Shop) -> None:
    """A failure that is raised again after a compensation was not caught."""

    @shop.registry.orchestrator(name="compensates")
    def compensates(ctx: Context) -> Flow:
        try:
            yield ctx.call_activity(shop.step, "charge")
        except durable.TaskFailedError:
            yield ctx.call_activity(shop.step, "refund")
            raise
        return (yield ctx.call_activity(shop.step, "ship"))

    bench.serve(shop.registry)
    shop.broken = {"charge"}
    handle = failed(bench, "compensates")
    handle.rewind()
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    shop.broken.clear()
    handle.rewind()
    assert handle.result(SOON) == "ship"
    assert shop.ran == ["charge", "refund", "charge", "refund", "charge", "ship"]
    assert shop.keys[1] != shop.keys[3] != shop.keys[5]  # void numbers are not used again


def test_what_ran_beside_the_failure_is_not_run_again(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="beside")
    def beside(ctx: Context) -> Flow:
        bad = ctx.call_activity(shop.step, "bad")
        others = []
        for name in ("one", "two"):
            others.append((yield ctx.call_activity(shop.step, name)))
        return [*others, (yield bad)]

    bench.serve(shop.registry)
    shop.broken = {"bad"}
    handle = failed(bench, "beside")
    shop.broken.clear()
    handle.rewind()
    assert handle.result(SOON) == ["one", "two", "bad"]
    assert sorted(shop.ran) == ["bad", "bad", "one", "two"]


def test_a_fan_out_keeps_what_it_has(bench: Bench, shop: Shop) -> None:
    names = [f"n{n}" for n in range(6)]

    @shop.registry.orchestrator(name="fan")
    def fan(ctx: Context) -> Flow:
        return (yield ctx.task_all([ctx.call_activity(shop.step, name) for name in names]))

    bench.serve(shop.registry)
    shop.broken = {"n3", "n4"}
    handle = failed(bench, "fan")
    until(lambda: len(shop.ran) == 6)
    shop.broken.clear()
    handle.rewind()
    assert handle.result(SOON) == names
    recorded = [e for e in bench.history(handle) if e.type == "TaskCompleted"]
    assert len(recorded) == 6
    assert len({event.task_id for event in recorded}) == 6


def test_an_error_of_its_own_runs_the_last_turn_again_with_todays_code(bench: Bench, shop: Shop) -> None:
    def divides(ctx: Context) -> Flow:
        yield ctx.call_activity(shop.step, "a")
        got = yield ctx.wait_for_external_event("number")
        return 12 / got

    shop.registry.orchestrator(name="divides")(divides)
    with bench.worker(shop.registry):
        handle = bench.start("divides")
        handle.raise_event("number", 0)
        with pytest.raises(durable.OrchestrationFailedError, match="ZeroDivisionError"):
            handle.result(SOON)
    handle.rewind()
    mended = Shop()

    @mended.registry.orchestrator(name="divides")
    def divides_with_care(ctx: Context) -> Flow:
        yield ctx.call_activity(mended.step, "a")
        got = yield ctx.wait_for_external_event("number")
        rest = yield ctx.call_activity(mended.step, "b")
        return [got, rest]

    bench.serve(mended.registry)
    assert handle.result(SOON) == [0, "b"]
    assert (shop.ran, mended.ran) == (["a"], ["b"])


def test_a_failure_in_the_first_turn_begins_again(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="hasty")
    def hasty(ctx: Context) -> Flow:
        shop.lines += 1
        if shop.lines == 1:
            raise ValueError("too early")
        return (yield ctx.call_activity(shop.step, "a"))

    bench.serve(shop.registry)
    handle = failed(bench, "hasty")
    handle.rewind()
    assert handle.result(SOON) == "a"


def test_children_that_failed_are_rewound_too(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="grandparent")
    def grandparent(ctx: Context) -> Flow:
        return (yield ctx.call_sub_orchestrator("parent", ["a", "b"]))

    bench.serve(shop.registry)
    shop.broken = {"b"}
    handle = failed(bench, "grandparent")
    children = [i.instance_id for i in bench.client.list_orchestrations(prefix=handle.instance_id + ":")]
    assert len(children) == 2
    shop.broken.clear()
    handle.rewind("again")
    assert handle.result(SOON) == ["first", ["a", "b"]]
    assert shop.ran == ["first", "a", "b", "b"]
    for child in children:
        events = bench.client.history(child)
        assert [event.input for event in events if event.type == "ExecutionRewound"] == ["again"]
        assert bench.client.handle(child).status().runtime_status is Status.COMPLETED


def test_a_child_that_was_terminated_is_begun_anew(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="waits for child")
    def waits_for_child(ctx: Context) -> Flow:
        return (yield ctx.call_sub_orchestrator("waits"))

    bench.serve(shop.registry)
    handle = bench.start("waits for child")
    bench.until_recorded(handle, "SubOrchestrationInstanceCreated")
    child = bench.history(handle)[-1].instance_id
    assert child is not None
    until(lambda: bench.client.get_status(child))
    bench.client.terminate(child)
    with pytest.raises(durable.OrchestrationFailedError, match="OrchestrationTerminatedError"):
        handle.result(SOON)
    handle.rewind()
    again = [e.instance_id for e in bench.history(handle) if e.type == "SubOrchestrationInstanceCreated"]
    assert len(set(again)) == 2
    until(lambda: bench.client.get_status(str(again[1])))
    bench.client.raise_event(str(again[1]), "go", "now")
    assert handle.result(SOON) == "now"


def test_timers_and_waits_go_on_after_a_rewind(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="timed")
    def timed(ctx: Context) -> Flow:
        wait = ctx.wait_for_external_event("go", timeout=0.3)
        timer = ctx.create_timer(timedelta(seconds=0.2))
        kept = ctx.wait_for_external_event("kept")
        yield ctx.call_activity(shop.step, "a")
        yield timer
        try:
            late = yield wait
        except durable.TimeoutError:
            late = "late"
        return [late, (yield kept)]

    bench.serve(shop.registry)
    shop.broken = {"a"}
    handle = bench.start("timed")
    handle.raise_event("kept", 1)
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    shop.broken.clear()
    handle.rewind()
    bench.until_recorded(handle, "TaskCompleted")
    if handle.status().runtime_status is Status.RUNNING and "EventRaised" not in bench.types(handle):
        handle.raise_event("kept", 2)
    assert handle.result(SOON) in (["late", 1], ["late", 2])


def test_only_what_has_failed_is_rewound(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    with pytest.raises(durable.InstanceNotFoundError, match="'nobody'"):
        bench.client.rewind("nobody")
    ended = done(bench, "steps", ["a"])
    with pytest.raises(durable.InvalidStateError, match="COMPLETED"):
        ended.rewind()
    running = bench.start("waits")
    with pytest.raises(durable.InvalidStateError, match="FAILED"):
        running.rewind()


def test_a_rewound_orchestration_is_one_like_any_other(bench: Bench, shop: Shop) -> None:
    """It can be terminated, with its children, and fails again as before."""
    bench.serve(shop.registry)
    shop.broken = {"a"}
    handle = failed(bench, "parent", ["a"])
    handle.rewind()
    with pytest.raises(durable.OrchestrationFailedError, match="a is broken"):
        handle.result(SOON)

    @shop.registry.orchestrator(name="then waits")
    def then_waits(ctx: Context) -> Flow:
        yield ctx.call_activity(shop.step, "a")
        yield ctx.wait_for_external_event("never")

    other = failed(bench, "then waits")
    shop.broken.clear()
    other.rewind()
    bench.until_recorded(other, "EventAwaited")
    other.terminate("enough")
    with pytest.raises(durable.OrchestrationTerminatedError):
        other.result(SOON)


# ---- restarting and replacing


def test_restart_starts_the_same_again_under_a_fresh_id(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    handle = done(bench, "steps", ["a", "b"], tags={"k": "v"})
    again = handle.restart()
    assert again.instance_id != handle.instance_id
    assert again.result(SOON) == ["a", "b"]
    assert (again.status().input, again.status().tags) == (["a", "b"], {"k": "v"})
    named = bench.client.restart(handle.instance_id, new_instance_id=f"{handle.instance_id}-2")
    assert named.result(SOON) == ["a", "b"]
    with pytest.raises(durable.InstanceExistsError):
        handle.restart(new_instance_id=named.instance_id)
    assert shop.ran == ["a", "b"] * 3


@pytest.mark.on_dynamodb
def test_restart_in_place(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    shop.broken = {"a"}
    handle = failed(bench, "parent", ["a"])
    first = handle.status()
    shop.broken.clear()
    again = handle.restart(new_instance_id=handle.instance_id)
    assert again.result(SOON) == ["first", ["a"]]
    second = handle.status()
    assert second.execution_id != first.execution_id
    assert second.created_at > first.created_at
    assert bench.client.history(handle.instance_id, execution_id=first.execution_id)[-1].status == "FAILED"
    with pytest.raises(durable.InstanceNotFoundError):
        bench.client.restart("nobody")


def test_what_has_not_finished_is_not_restarted_purged_or_replaced(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    handle = bench.start("waits")
    for call in (handle.restart, handle.purge, lambda: handle.restart(new_instance_id=handle.instance_id)):
        with pytest.raises(durable.InstanceNotFinishedError, match=handle.instance_id):
            call()
    with pytest.raises(durable.InstanceExistsError, match="not finished"):
        bench.start("waits", instance_id=handle.instance_id, if_exists="replace")
    handle.raise_event("go", 1)
    assert handle.result(SOON) == 1


def test_replace_takes_the_place_of_what_has_finished(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    one = f"one-{uuid4().hex}"
    assert bench.start("steps", ["a"], instance_id=one, if_exists="replace").result(SOON) == ["a"]
    before = bench.client.handle(one).status().execution_id
    assert bench.start("steps", ["b"], instance_id=one, if_exists="replace").result(SOON) == ["b"]
    assert bench.client.handle(one).status().execution_id != before
    waiting = bench.start("waits")
    with pytest.raises(durable.InstanceExistsError) as caught:
        bench.client.start_many(
            "steps",
            [["c"], ["d"], ["e"]],
            instance_ids=[one, waiting.instance_id, f"{one}-new"],
            if_exists="replace",
        )
    assert caught.value.existing == [waiting.instance_id]
    assert caught.value.started == [one, f"{one}-new"]
    assert bench.client.handle(one).result(SOON) == ["c"]


def test_many_take_the_places_of_what_has_finished(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    ids = ["many-1", "many-2", "many-3"]
    before = bench.client.start_many("steps", [["a"], ["a"]], instance_ids=ids[:2])
    assert [handle.result(SOON) for handle in before] == [["a"], ["a"]]
    lives = [handle.status().execution_id for handle in before]
    after = bench.client.start_many("steps", [["b"], ["c"], ["d"]], instance_ids=ids, if_exists="replace")
    assert [handle.result(SOON) for handle in after] == [["b"], ["c"], ["d"]]
    assert not {handle.status().execution_id for handle in after} & set(lives)
    assert sorted(shop.ran) == ["a", "a", "b", "c", "d"]


def test_an_event_of_the_life_before_is_no_duplicate(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    for value in (1, 2):
        handle = bench.start("waits", instance_id="same", if_exists="replace")
        handle.raise_event("go", value, event_id="e")
        assert handle.result(SOON) == value


def test_replacing_is_atomic(bench: Bench, shop: Shop) -> None:
    """Of many who replace at once, each life that began has its end; nobody sees the id without an orchestration."""
    bench.serve(shop.registry)
    done(bench, "steps", ["a"], instance_id="hot")
    refused: list[Exception] = []
    barrier = threading.Barrier(6)

    def replace() -> None:
        barrier.wait()
        for _ in range(5):
            try:
                bench.start("steps", ["a"], instance_id="hot", if_exists="replace")
            except durable.InstanceExistsError as error:
                refused.append(error)
            assert bench.client.get_status("hot") is not None

    threads = [threading.Thread(target=replace) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert bench.client.handle("hot").result(SOON) == ["a"]
    until(lambda: len(shop.ran) == 1 + 30 - len(refused))


# ---- forking


def test_a_fork_shares_the_beginning_and_goes_its_own_way(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    shop.broken = {"pack"}
    handle = failed(bench, "steps", ["charge", "pack", "ship"])
    events = bench.client.history(handle.instance_id)
    after = next(e.event_id for e in events if e.type == "TaskFailed")
    assert after is not None
    shop.broken.clear()
    forked = handle.fork(after=after - 1)
    assert forked.result(SOON) == ["charge", "pack", "ship"]
    assert shop.ran == ["charge", "pack", "pack", "ship"]
    assert handle.status().runtime_status is Status.FAILED
    shared = bench.client.history(forked.instance_id)[:after]
    assert [(e.type, e.task_id, e.timestamp) for e in shared] == [
        (e.type, e.task_id, e.timestamp) for e in events[:after]
    ]
    assert (shared[0].seed, shared[0].instance_id) == (events[0].seed, forked.instance_id)


def test_a_fork_at_any_event_comes_to_its_end(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="varied")
    def varied(ctx: Context) -> Flow:
        ids = [str(ctx.new_uuid())]
        first = ctx.call_activity(shop.step, "a")
        timer = ctx.create_timer(timedelta(seconds=0.01))
        wait = ctx.wait_for_external_event("go", timeout=0.05)
        child = ctx.call_sub_orchestrator("steps", ["in child"])
        done = yield ctx.task_all([first, timer, child])
        try:
            yield wait
        except durable.TimeoutError:
            done.append("late")
        ids.append(str(ctx.new_uuid()))
        return [done, ids, (yield ctx.call_activity(shop.step, "z"))]

    bench.serve(shop.registry)
    handle = done(bench, "varied")
    expected = handle.result()
    last = len(bench.client.history(handle.instance_id)) - 2
    forks = [handle.fork(after=after) for after in range(last + 1)]
    assert [fork.result(SOON, on_blocked="raise") for fork in forks] == [expected] * len(forks)
    for fork in forks:  # and replays: a terminate reads the whole history, a fork of a fork runs it
        end = len(bench.client.history(fork.instance_id)) - 2
        assert fork.fork(after=end).result(SOON, on_blocked="raise") == expected


def test_code_that_asks_who_it_is_hears_in_a_fork_what_it_has_heard(bench: Bench, shop: Shop) -> None:
    @shop.registry.activity(name="note")
    def note(who: list[str]) -> list[str]:
        return who

    @shop.registry.orchestrator(name="asks who")
    def asks_who(ctx: Context) -> Flow:
        known = []
        for name in ("one", "two", "three"):
            known.append(
                (yield ctx.call_activity(note, [ctx.instance_id, ctx.execution_id, str(ctx.parent_instance_id)]))
            )
            yield ctx.wait_for_external_event(name)
        yield ctx.call_sub_orchestrator("steps", ["a"], instance_id=f"{ctx.instance_id}-child")
        return known

    @shop.registry.orchestrator(name="asks through a child")
    def asks_through_a_child(ctx: Context) -> Flow:
        return (yield ctx.call_sub_orchestrator(asks_who, instance_id=f"{ctx.instance_id}-child"))

    def shared(handle: durable.OrchestrationHandle[Any], name: str) -> int:
        """The wait for this event, once it is recorded."""
        found: list[int] = []

        def waits() -> bool:
            found[:] = [
                e.event_id or 0
                for e in bench.client.history(handle.instance_id)
                if e.type == "EventAwaited" and e.name == name
            ]
            return bool(found)

        until(waits)
        return found[0]

    def me(handle: durable.OrchestrationHandle[Any], parent: str = "None") -> list[str]:
        status = handle.status()
        assert status is not None
        return [handle.instance_id, status.execution_id, parent]

    bench.serve(shop.registry)
    parent = bench.start("asks through a child")
    first = bench.client.handle(f"{parent.instance_id}-child")
    until(lambda: bench.client.get_status(first.instance_id))
    second = first.fork(after=shared(first, "one"))
    second.raise_event("one")
    third = second.fork(after=shared(second, "two"))
    early = second.fork(after=shared(second, "one"))
    for handle, names in ((third, ("two", "three")), (early, ("one", "two", "three"))):
        for name in names:
            handle.raise_event(name)
    known = me(first, parent.instance_id)
    assert third.result(SOON, on_blocked="raise") == [known, me(second), me(third)]
    assert early.result(SOON, on_blocked="raise") == [known, me(early), me(early)]
    assert bench.client.handle(f"{third.instance_id}-child").result(SOON) == ["a"]


def test_a_fork_of_what_runs(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    handle = bench.start("waits")
    bench.until_recorded(handle, "EventAwaited")
    forked = handle.fork(after=2, new_instance_id=f"{handle.instance_id}-fork")
    forked.raise_event("go", "fork")
    assert forked.result(SOON) == "fork"
    handle.raise_event("go", "first")
    assert handle.result(SOON) == "first"
    with pytest.raises(durable.InstanceExistsError):
        handle.fork(after=0, new_instance_id=forked.instance_id)


@pytest.mark.parametrize("after", [-1, 5, 100, True, 1.0, None])
def test_a_fork_out_of_range_names_the_range(bench: Bench, shop: Shop, after: Any) -> None:
    bench.serve(shop.registry)
    handle = done(bench, "steps", ["a"])
    last = len(bench.client.history(handle.instance_id)) - 2
    assert last == 4
    with pytest.raises(ValueError, match=f"from 0 to {last}"):
        handle.fork(after=after)
    with pytest.raises(durable.InstanceNotFoundError):
        bench.client.fork("nobody", after=0)


# ---- purging


def test_a_purged_orchestration_is_gone(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    handle = done(bench, "steps", ["a"])
    assert handle.purge() == 1
    assert bench.client.get_status(handle.instance_id) is None
    assert handle.instance_id not in [i.instance_id for i in bench.client.list_orchestrations()]
    assert handle.purge() == 0
    assert bench.client.purge("nobody") == 0
    calls: list[Callable[[], Any]] = [
        handle.result,
        handle.terminate,
        lambda: handle.raise_event("go"),
        lambda: bench.client.history(handle.instance_id),
        handle.rewind,
        handle.restart,
    ]
    for call in calls:
        with pytest.raises(durable.InstanceNotFoundError):
            call()
    assert bench.start("steps", ["b"], instance_id=handle.instance_id).result(SOON) == ["b"]


def test_a_purge_takes_the_children_of_every_execution(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    handle = done(bench, "rounds", 1)
    other = done(bench, "parent", ["a"])
    assert handle.purge() == 4
    left = [item.instance_id for item in bench.client.list_orchestrations()]
    assert len(left) == 2
    assert bench.client.purge(other.instance_id, recursive=False) == 1
    [child] = bench.client.list_orchestrations()
    assert child.parent_instance_id == other.instance_id
    assert bench.client.purge(child.instance_id) == 1


def test_a_purge_takes_children_that_are_still_ending(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="family")
    def family(ctx: Context, depth: int) -> Flow:
        if depth:
            yield [ctx.call_sub_orchestrator("family", depth - 1) for _ in range(2)]
        yield ctx.wait_for_external_event("never")

    bench.serve(shop.registry)
    handle = bench.start("family", 2)
    until(lambda: len(bench.client.list_orchestrations().items) == 7)
    handle.terminate()
    with pytest.raises(durable.OrchestrationTerminatedError):
        handle.result(SOON)
    assert handle.purge() == 7
    assert bench.client.list_orchestrations().items == []


def test_a_child_that_was_left_alone_is_left_alone(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="leaves")
    def leaves(ctx: Context) -> Flow:
        ctx.call_sub_orchestrator("waits", instance_id=f"{ctx.instance_id}-child")
        yield ctx.call_activity(shop.step, "a")
        return "left"

    bench.serve(shop.registry)
    handle = done(bench, "leaves")
    child = bench.client.handle(f"{handle.instance_id}-child")
    until(lambda: bench.client.get_status(child.instance_id))
    assert handle.purge() == 1
    child.raise_event("go", "still there")
    assert child.result(SOON) == "still there"
    # Its outcome goes to nobody; nothing hangs and nothing comes back.
    assert bench.run("parent", ["b"]) == ["first", ["b"]]
    assert bench.client.get_status(handle.instance_id) is None


def test_an_activity_that_outlives_its_purged_orchestration(bench: Bench, shop: Shop) -> None:
    begun, go = threading.Event(), threading.Event()

    @shop.registry.activity(name="slow")
    def slow() -> int:
        begun.set()
        assert go.wait(SOON)
        return 1

    @shop.registry.orchestrator(name="does not wait")
    def does_not_wait(ctx: Context) -> Flow:
        ctx.call_activity(slow)
        return (yield ctx.call_activity(shop.step, "a"))

    bench.serve(shop.registry)
    handle = done(bench, "does not wait")
    assert begun.wait(SOON)
    assert handle.purge() == 1
    go.set()
    assert bench.run("steps", ["well"]) == ["well"]
    assert bench.client.get_status(handle.instance_id) is None


def test_of_what_ends_after_its_orchestration_was_purged_nothing_is_left(shop: Shop) -> None:
    """In the kit's past whatever is left to do is overdue, and `diagnose` finds it."""
    shop.registry.activity(name="slow")(lambda: 1)

    @shop.registry.orchestrator(name="does not wait")
    def does_not_wait(ctx: Context) -> Flow:
        ctx.call_activity("slow")
        ctx.call_sub_orchestrator("waits", instance_id="child")
        return (yield ctx.call_activity(shop.step, "a"))

    past = datetime(2001, 1, 1, tzinfo=timezone.utc)
    with durable.testing.Environment(registry=shop.registry, now=past) as env:
        env.replace("slow", takes=60)
        handle = env.client.start_orchestration("does not wait")
        assert handle.result() == "a"
        assert handle.purge() == 1
        env.client.raise_event("child", "go")
        env.advance(60)
        assert [item.instance_id for item in env.client.list_orchestrations(status="COMPLETED")] == ["child"]
        assert env.client.diagnose().findings == []


def test_purge_where_takes_what_fits_and_has_finished(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    shop.broken = {"bad"}
    good = [done(bench, "steps", ["a"], instance_id=f"good-{n}") for n in range(3)]
    bad = [failed(bench, "steps", ["bad"], instance_id=f"bad-{n}") for n in range(2)]
    waiting = bench.start("waits", instance_id="good-waiting")
    assert bench.client.purge_where(status="FAILED", prefix="good") == 0
    assert bench.client.purge_where(status=["RUNNING", "PENDING"]) == 0
    assert bench.client.purge_where(created_before=good[0].status().created_at) == 0
    assert bench.client.purge_where(status=Status.FAILED) == len(bad)
    assert bench.client.purge_where(name="steps", prefix="good-1") == 1
    assert bench.client.purge_where(created_after=good[2].status().created_at, name="steps") == 1
    assert bench.client.purge_where() == 1
    done(bench, "parent", ["a"], instance_id="good-parent")
    assert bench.client.purge_where(prefix="good-parent", recursive=False, name="parent") == 1
    [child, alone] = bench.client.list_orchestrations()
    assert (child.parent_instance_id, alone.instance_id) == ("good-parent", waiting.instance_id)
    with pytest.raises(ValueError, match="GONE"):
        bench.client.purge_where(status="GONE")
    with pytest.raises(ValueError, match="created_after="):
        bench.client.purge_where(created_after=datetime(2026, 1, 1))  # naive on purpose


@pytest.mark.not_on_dynamodb("its test server takes 200 requests a second")
def test_many_are_purged_at_once(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    for handle in bench.client.start_many("parent", [["a"]] * 250):
        handle.result(SOON)
    assert bench.client.purge_where(name="parent") == 500
    assert bench.client.list_orchestrations().items == []


# ---- inside an orchestrator


@pytest.mark.parametrize("method", ["rewind", "restart", "fork", "purge", "purge_where"])
def test_steering_is_refused_inside_an_orchestrator(bench: Bench, shop: Shop, method: str) -> None:
    options: dict[str, Any] = {"fork": {"after": 0}}.get(method, {})
    args = [] if method == "purge_where" else ["x"]

    @shop.registry.orchestrator(name="meddles")
    def meddles(ctx: Context) -> str:
        getattr(bench.client, method)(*args, **options)
        return "never"

    bench.serve(shop.registry)
    failure = bench.fails("meddles")
    assert f"client.{method}" in failure.message


# ---- beside what else there is


def test_a_handle_forgets_the_end_of_a_life_that_was_replaced(bench: Bench, shop: Shop) -> None:
    """What this process ran to its end is kept on the handle, and must not be told when that life is gone."""
    bench.serve(shop.registry)

    @shop.registry.activity(name="count")
    def count() -> int:
        shop.lines += 1
        return shop.lines

    @shop.registry.orchestrator(name="counts")
    def counts(ctx: Context) -> Flow:
        return (yield ctx.call_activity(count))

    first = done(bench, "counts")
    again = first.restart(new_instance_id=first.instance_id)
    assert first.result(SOON) == again.result(SOON) == 2
    third = bench.start("counts", instance_id=first.instance_id, if_exists="replace")
    assert third.result(SOON) == first.result(SOON) == 3
    assert first.purge() == 1
    for handle in (first, again, third):
        with pytest.raises(durable.InstanceNotFoundError):
            handle.result(SOON)
    assert bench.client.purge_where(name="counts") == 0
    other = done(bench, "counts")
    assert bench.client.purge_where(name="counts") == 1
    with pytest.raises(durable.InstanceNotFoundError):
        other.result(SOON)


def test_a_handle_that_has_told_an_end_looks_again(bench: Bench, shop: Shop) -> None:
    """Another client may have begun another life meanwhile, or ended them all: only the store can tell."""
    bench.serve(shop.registry)
    elsewhere = bench.connect()
    handle = bench.start("waits")
    handle.raise_event("go", "first")
    assert handle.result(SOON) == "first"
    elsewhere.restart(handle.instance_id, new_instance_id=handle.instance_id)
    with pytest.raises(durable.TimeoutError):
        handle.result(0)
    handle.raise_event("go", "second")
    assert handle.result(SOON) == "second"
    assert elsewhere.purge(handle.instance_id) == 1
    with pytest.raises(durable.InstanceNotFoundError):
        handle.result(SOON)


def test_a_cancellation_whose_handling_failed_is_told_again(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="compensates")
    def compensates(ctx: Context) -> Flow:
        try:
            yield ctx.wait_for_external_event("never")
        except durable.OrchestrationCancelledError:
            if "compensation" in shop.broken:
                raise ValueError("broken") from None
            yield ctx.call_activity(shop.step, "undo")
            raise

    bench.serve(shop.registry)
    shop.broken = {"compensation"}
    handle = bench.start("compensates")
    bench.until_recorded(handle, "EventAwaited")
    handle.cancel("enough")
    with pytest.raises(durable.OrchestrationFailedError, match="broken"):
        handle.result(SOON)
    shop.broken.clear()
    handle.rewind()
    with pytest.raises(durable.OrchestrationCancelledError, match="enough"):
        handle.result(SOON)
    assert shop.ran == ["undo"]


def test_an_event_behind_the_failure_is_there_after_a_rewind(bench: Bench, shop: Shop) -> None:
    """It was accepted, and came too late for the life that failed in the turn that would have taken it."""

    @shop.registry.orchestrator(name="listens")
    def listens(ctx: Context) -> Flow:
        first = yield ctx.wait_for_external_event("first")
        if shop.broken:
            raise ValueError("not yet")
        return [first, (yield ctx.wait_for_external_event("second"))]

    bench.serve(shop.registry)
    shop.broken = {"code"}
    handle = bench.start("listens")
    bench.until_recorded(handle, "EventAwaited")
    handle.suspend()
    bench.until_recorded(handle, "ExecutionSuspended")
    handle.raise_event("first", 1)
    handle.raise_event("second", 2)
    handle.resume()
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)

    def waiting() -> list[Any]:
        events = bench.client.history(handle.instance_id, pending=True)
        return [(event.type, event.name, event.input) for event in events if event.event_id is None]

    assert waiting() == [("EventRaised", "second", 2)]
    assert "second" not in str(bench.client.diagnose().findings)
    shop.broken.clear()
    handle.rewind()
    assert handle.result(SOON) == [1, 2]
    assert waiting() == []


def test_another_life_finds_the_events_that_wait_for_it(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="tells")
    def tells(ctx: Context, to: str, data: str) -> Flow:
        ctx.send_event(to, "go", data)
        return (yield ctx.call_activity(shop.step, "told"))

    bench.serve(shop.registry)
    handle = bench.start("waits")
    handle.raise_event("go", "first")
    assert handle.result(SOON) == "first"
    done(bench, "tells", handle.instance_id, "second")
    handle.restart(new_instance_id=handle.instance_id)
    assert handle.result(SOON) == "second"
    done(bench, "tells", handle.instance_id, "third")
    bench.start("waits", instance_id=handle.instance_id, if_exists="replace")
    assert handle.result(SOON) == "third"


def test_a_fork_of_what_was_suspended_there_is_suspended(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    handle = bench.start("waits")
    bench.until_recorded(handle, "EventAwaited")
    handle.suspend()
    bench.until_recorded(handle, "ExecutionSuspended")
    suspended = [e.event_id for e in bench.client.history(handle.instance_id) if e.type == "ExecutionSuspended"]
    forked = handle.fork(after=suspended[0] or 0)
    assert forked.status().runtime_status is Status.SUSPENDED
    forked.raise_event("go", "fork")
    forked.resume()
    assert forked.result(SOON) == "fork"
    handle.resume()
    handle.raise_event("go", "first")
    assert handle.result(SOON) == "first"


def test_a_fork_or_restart_of_what_started_late_starts_at_once(bench: Bench, shop: Shop) -> None:
    bench.serve(shop.registry)
    handle = bench.start("waits", start_at=3600)
    assert handle.status().runtime_status is Status.PENDING
    forked = handle.fork(after=0)
    forked.raise_event("go", 1)
    assert forked.result(SOON) == 1
    handle.cancel()
    with pytest.raises(durable.OrchestrationCancelledError):
        handle.result(SOON)
    again = handle.restart()
    again.raise_event("go", 2)
    assert again.result(SOON) == 2


def test_a_fork_of_what_has_not_begun_begins_with_the_highest_version() -> None:
    """As what it was forked from will."""
    app = durable.Registry()
    app.orchestrator(name="flow", version="1")(lambda ctx: ctx.version)
    with durable.testing.Environment(registry=app) as env:
        handle = env.client.start_orchestration("flow", start_at=3600)
        env.advance(1)
        assert handle.fork(after=0).result() == handle.result() == "1"


def test_a_rewound_map_keeps_what_it_has(bench: Bench, shop: Shop) -> None:
    @shop.registry.orchestrator(name="maps")
    def maps(ctx: Context, names: list[str]) -> Flow:
        results = yield ctx.map(shop.step, names, max_concurrency=2, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    bench.serve(shop.registry)
    shop.broken = {"b", "e"}
    names = list("abcdef")
    handle = failed(bench, "maps", names)
    shop.broken = {"e"}
    handle.rewind()
    with pytest.raises(durable.OrchestrationFailedError, match="e is broken"):
        handle.result(SOON)
    shop.broken.clear()
    handle.rewind()
    assert handle.result(SOON) == names
    assert sorted(shop.ran) == sorted([*names, "b", "e"])
