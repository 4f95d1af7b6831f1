"""The client for asyncio: the same methods, awaited; nothing blocks the loop, and however many wait, few threads do."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import re
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durable
from durable.app import async_starting, starting
from tests.waiting import SOON

if TYPE_CHECKING:
    from tests.product.conftest import Bench, Heard, Place

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]

app = durable.Registry()


@app.activity
def double(number: int) -> int:
    return 2 * number


@app.orchestrator
def doubled(ctx: Ctx, number: int) -> Generator[Any, Any, int]:
    return (yield from ctx.call_activity(double, number))


@app.orchestrator
def asks(ctx: Ctx) -> Steps:
    return (yield ctx.wait_for_external_event("answer"))


@app.orchestrator
def breaks(ctx: Ctx) -> Steps:
    yield ctx.create_timer(0.001)
    raise ValueError("broken")


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """In a fresh loop that complains of what it does not like, and may take its time."""
    return asyncio.run(asyncio.wait_for(main, SOON))


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[durable.AsyncClient]:
    async with durable.connect_async(place.url, events=place.events, workspace=place.workspace) as client:
        yield client


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + SOON
    while not await condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)


async def is_now(handle: durable.AsyncOrchestrationHandle[Any], status: str) -> bool:
    return (await handle.status()).runtime_status == status


# ---- the same methods

# What a worker in the same process asks of a client, and what has another form here.
INNER = {
    "ask",
    "backend",
    "declare_triggers",
    "ended",
    "has_broker",
    "keys",
    "listen_to_triggers",
    "open_transport",
    "events_at",
    "reply_to",
    "triggers",
    "waits",
    "worker_died",
    "worker_started",
    "worker_stopped",
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


PAIRS = [(durable.Client, durable.AsyncClient), (durable.OrchestrationHandle, durable.AsyncOrchestrationHandle)]


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_each_method_is_there_with_the_same_parameters(sync: type, asynchronous: type) -> None:
    assert public(asynchronous) == public(sync) - INNER
    for name in public(asynchronous):
        ours, theirs = getattr(asynchronous, name), getattr(sync, name)
        if callable(theirs):
            assert shape(ours) == shape(theirs), name
            assert ours.__doc__, name
            assert name == "handle" or inspect.iscoroutinefunction(ours), name


def test_connect_async_takes_what_connect_takes() -> None:
    assert shape(durable.connect_async) == shape(durable.connect)
    assert not inspect.iscoroutinefunction(durable.connect_async)


def test_start_orchestration_has_the_same_overloads() -> None:
    def overloads(module: Any, name: str) -> str:
        source = inspect.getsource(getattr(module, name))
        return re.sub(r"\s|async|Async", "", source[source.index("@overload") :])

    assert overloads(async_starting, "StartOrchestrationAsync") == overloads(starting, "StartOrchestration")


# ---- calling


@pytest.mark.everywhere
def test_starting_steering_and_reading(bench: Bench) -> None:
    bench.serve(app)

    async def main() -> None:
        async with connected(bench.place) as client:
            handle = await client.start_orchestration(doubled, 21, tags={"a": "b"})
            assert await handle.result(SOON) == 42
            assert (await handle.wait(SOON)).runtime_status == "COMPLETED"
            assert (await handle.status()).runtime_status == "COMPLETED"
            status = await client.get_status(handle.instance_id)
            assert status is not None
            assert status.output == 42
            many = await client.start_many(doubled, [1, 2, 3], instance_ids=["x", "y", "z"])
            assert await asyncio.gather(*(h.result(SOON) for h in many)) == [2, 4, 6]
            asking = await client.start_orchestration(asks, instance_id="asking")
            assert (await client.wait("asking", SOON, until="started")).runtime_status == "RUNNING"
            await asking.raise_event("answer", "yes")
            assert await client.handle("asking").result(SOON) == "yes"
            assert await (await client.handle("asking")).result() == "yes"
            types = [event.type for event in await client.history("asking")]
            assert types[-1] == "ExecutionCompleted"
            assert (await client.history("asking", as_cloudevents=True))[0].get_type() == "durable.execution-started"
            assert {s.instance_id for s in await client.list_orchestrations(name="doubled", limit=2)} < {
                *"xyz",
                handle.instance_id,
            }
            resting = await client.start_orchestration(asks, instance_id="resting")
            await client.suspend("resting", "lunch")
            await resting.raise_event("answer", "later")
            await until(lambda: is_now(resting, "SUSPENDED"))
            await resting.resume()
            assert await resting.result(SOON) == "later"
            late = await client.start_orchestration(asks, instance_id="late", start_at=3_600)
            assert (await late.status()).runtime_status == "PENDING"
            await late.cancel("not today")
            with pytest.raises(durable.OrchestrationCancelledError, match="not today"):
                await late.result(SOON)
            ending = await client.start_orchestration(asks)
            await ending.terminate("enough")
            with pytest.raises(durable.OrchestrationTerminatedError, match="enough"):
                await ending.result(SOON)

    run(main())


@pytest.mark.everywhere
def test_triggers_and_what_becomes_of_events(bench: Bench) -> None:
    registry = durable.Registry()

    @registry.action
    def answers(context: durable.TriggerContext, event: durable.CloudEvent) -> None:
        context.do(durable.actions.raise_event("answer", event.get_data(), instance_id="asking"))

    registry.orchestrator(name="asks")(asks.fn)
    bench.serve(registry)

    def event(number: int) -> durable.CloudEvent:
        return durable.CloudEvent(
            {"id": str(number), "source": "/shop", "type": "paid", "subject": "order-42"}, str(number)
        )

    async def main() -> None:
        async with connected(bench.place) as client:
            paid = durable.EventPattern(type="paid")
            await client.start_orchestration("asks", instance_id="asking")
            await client.keep_unmatched_events()
            await client.publish(event(0))
            await until(client.unmatched_events)
            join = durable.conditions.join(2)
            await client.add_trigger(
                "second", on=paid, condition=join, action=answers, context={"a": 1}, transient=False
            )
            answer = await client.add_triggers([{"trigger_id": id, "on": paid} for id in ("second", "third")])
            assert (answer.accepted, list(answer.refused)) == (["third"], ["second"])
            await client.disable_trigger("third")
            fired = asyncio.create_task(client.wait_for_trigger("second", SOON))
            await asyncio.gather(*(client.publish(event(number)) for number in (1, 2)))
            assert await client.handle("asking").result(SOON) in ("1", "2")
            assert await fired is not None
            many = [asyncio.create_task(client.wait_for_trigger("second", firings=9)) for _ in range(20)]
            second, third = await client.list_triggers()
            assert (second.firings, second.context, third.enabled, third.firings) == (1, {"a": 1}, False, 0)
            with pytest.raises(durable.TimeoutError, match="1 times so far, not 2"):
                await client.wait_for_trigger("second", 0.01, firings=2)
            for task in many:  # none of them has taken a thread
                task.cancel()
            await client.enable_trigger("third")
            await client.intercept_trigger("third", durable.actions.delete_trigger("second"), when="instead")
            await client.publish(event(3), delay=0.01)
            assert await client.wait_for_trigger("third", SOON) is None  # it was transient
            assert await client.get_trigger("second") is None
            with pytest.raises(durable.TriggerNotFoundError):
                await client.delete_trigger("third")
            await client.add_event_source("later", "env:QUEUE", receive=False)
            assert (await client.get_event_source("later")) == (await client.list_event_sources())["later"]
            await client.delete_event_source("later")
            await client.set_workspace_context({"b": 2})
            assert await client.get_workspace_context() == {"b": 2}
            assert (await client.event_counts()).unmatched == 1
            assert (await client.dead_letters()).items == []
            for method in (client.replay_dead_letter, client.delete_dead_letter):
                with pytest.raises(durable.TriggerNotFoundError):
                    await method("1")
            await client.add_trigger("last", on=paid)
            await client.flush_triggers()
            assert await client.list_triggers() == []
            await client.create_workspace("another", context={"c": 3})
            assert await client.list_workspaces() == ["another"]
            await client.delete_workspace("another")

    run(main())


@pytest.mark.everywhere
def test_other_lives_and_the_end(bench: Bench) -> None:
    registry, broken = durable.Registry(), [True]

    @registry.orchestrator(name="mended")
    def mended(ctx: Ctx, number: int) -> Steps:
        yield ctx.create_timer(0)
        if broken:
            raise ValueError("broken")
        return number

    bench.serve(registry)

    async def main() -> None:
        async with connected(bench.place) as client:
            ref = durable.orchestrator_ref("mended", returns=float)
            handle = await client.start_orchestration(ref, 1, instance_id="first")
            with pytest.raises(durable.OrchestrationFailedError, match="broken"):
                await handle.result(SOON)
            broken.clear()
            await handle.rewind("mended")
            assert await handle.result(SOON) == 1
            again, forked = await handle.restart(), await handle.fork(after=0, new_instance_id="forked")
            results = [await other.result(SOON) for other in (again, forked, handle)]
            assert [type(result) for result in results] == [float] * 3  # as the first one was declared
            assert await (await client.restart("first", new_instance_id="first")).result(SOON) == 1
            assert await (await client.fork("first", after=0)).result(SOON) == 1
            with pytest.raises(durable.InvalidStateError):
                await handle.rewind()
            assert await handle.purge() == 1
            assert await client.purge("first") == 0
            assert await client.purge_where(status="COMPLETED", prefix="forked", recursive=False) == 1
            assert await client.purge_where(name="mended") == 2
            assert (await client.list_orchestrations()).items == []

    run(main())


class Reversed:
    """A codec: what is stored is written backwards."""

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    decode = encode


def test_what_is_started_through_a_codec_is_sealed(bench: Bench) -> None:
    async def main() -> None:
        place = bench.place
        async with durable.connect_async(place.url, workspace=place.workspace, codec=Reversed()) as client:
            await client.start_orchestration(doubled, 21, instance_id="sealed")
            status = await client.get_status("sealed")
            assert status is not None
            assert status.input == 21
        async with connected(place) as client:
            status = await client.get_status("sealed")
            assert status is not None
            assert "codec" in status.input

    run(main())


@pytest.mark.everywhere
def test_errors_arrive_as_from_the_sync_client(bench: Bench) -> None:
    bench.serve(app)

    async def main() -> None:
        async with connected(bench.place) as client:
            with pytest.raises(durable.OrchestrationFailedError, match="broken"):
                await (await client.start_orchestration(breaks)).result(SOON)
            for call in (
                client.raise_event("nobody", "x"),
                client.wait("nobody"),
                client.handle("nobody").result(),
                client.handle("nobody").status(),
            ):
                with pytest.raises(durable.InstanceNotFoundError):
                    await call
            waiting = await client.start_orchestration(asks, instance_id="waiting")
            for timeout in (0, 0.05):
                with pytest.raises(durable.TimeoutError, match=r"waiting.*not lost"):
                    await waiting.result(timeout)
            with pytest.raises(durable.InstanceExistsError):
                await client.start_orchestration(asks, instance_id="waiting")
            wrong: Any = "ended"
            with pytest.raises(ValueError, match="until="):
                await client.wait("waiting", until=wrong)
            with pytest.raises(ValueError, match="on_blocked="):
                await waiting.result(on_blocked=wrong)

    run(main())


def test_what_can_not_be_opened_is_told_at_the_first_use() -> None:
    client = durable.connect_async("nonsense://")
    with pytest.raises(ValueError, match="nonsense"):
        run(client.get_status("x"))
    wrong: Any = 7
    with pytest.raises(TypeError):
        durable.connect_async(wrong)


@pytest.mark.everywhere
def test_closing_ends_waits_and_later_calls(bench: Bench) -> None:
    place = bench.place

    async def main() -> None:
        client = durable.connect_async(place.url, events=place.events, workspace=place.workspace)
        handle = await client.start_orchestration(asks)
        waiting = asyncio.ensure_future(handle.result())
        await until(lambda: client.get_status(handle.instance_id))
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        assert client.closed
        for call in (waiting, handle.result(), client.get_status("x")):
            with pytest.raises(RuntimeError, match="closed"):
                await call

    run(main())


def test_an_orchestrator_is_told_what_to_use_instead(bench: Bench) -> None:
    registry = durable.Registry()
    client = durable.connect_async(bench.place.url, workspace=bench.place.workspace)

    @registry.orchestrator
    async def starts(ctx: Ctx) -> None:
        await client.start_orchestration("other")

    @registry.orchestrator
    async def waits(ctx: Ctx) -> None:
        await client.handle("other").result()

    bench.serve(registry)
    assert "ctx.call_sub_orchestrator" in bench.fails(starts).message
    assert "would run again on every replay" in bench.fails(waits).message
    run(client.close())


def test_an_async_activity_may_use_one(bench: Bench) -> None:
    registry = durable.Registry()

    @registry.activity
    async def delegates(number: int) -> int:
        async with connected(bench.place) as client:
            handle = await client.start_orchestration(doubled, number)
            return await handle.result(SOON)

    @registry.orchestrator
    def outer(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity(delegates, 4))

    registry.activity(double.fn)
    registry.orchestrator(doubled.fn)
    bench.serve(registry)
    assert bench.run(outer) == 8


# ---- waiting


@pytest.mark.everywhere
def test_who_waits_is_told_and_need_not_ask(bench: Bench) -> None:
    """Whoever is not told looks again after 5 seconds, and when his time is up."""
    bench.serve(app)

    async def main() -> None:
        async with connected(bench.place) as client:
            begun = time.monotonic()
            mine = await client.start_orchestration(asks)
            others = client.handle(bench.start(asks).instance_id)
            waiting = [asyncio.ensure_future(handle.result(SOON)) for handle in (mine, others)]
            for handle in (mine, others):
                await client.wait(handle.instance_id, SOON, until="started")
                await handle.raise_event("answer", 1)
            assert await asyncio.gather(*waiting) == [1, 1]
            assert time.monotonic() < begun + 4.5

    run(main())


@pytest.mark.not_on_dynamodb("its test server takes 200 requests a second")
@pytest.mark.everywhere
def test_a_thousand_wait_and_hardly_a_thread(bench: Bench) -> None:
    bench.serve(app)

    async def main() -> None:
        async with connected(bench.place) as client:
            before = threading.active_count()
            handles = await client.start_many(asks, [None] * 1_000)
            waits = [asyncio.ensure_future(handle.result()) for handle in handles]
            await client.wait(handles[-1].instance_id, SOON, until="started")
            assert threading.active_count() <= before + 20
            assert not any(wait.done() for wait in waits)
            await asyncio.gather(*(h.raise_event("answer", n) for n, h in enumerate(handles)))
            assert await asyncio.gather(*waits) == list(range(1_000))

    run(main())


def test_the_loop_goes_on_while_the_client_works(bench: Bench) -> None:
    """Every call gives the loop back at once: what is scheduled meanwhile runs before the call has its answer."""
    bench.serve(app)

    async def main() -> None:
        async with connected(bench.place) as client:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.ensure_future(tick())
            handle = await client.start_orchestration(doubled, 1)
            for call in (handle.result, handle.status, lambda: client.get_status("x"), client.list_orchestrations):
                before = ticks
                await call()
                assert ticks > before
            ticking.cancel()

    run(main())


async def nobody_waits() -> bool:
    """No trace of anybody who waited is left in this process."""
    gc.collect()
    return not any(type(thing).__name__ == "_Waiter" for thing in gc.get_objects())


def test_cancelling_a_wait_leaves_nothing_behind(bench: Bench, log: Heard) -> None:
    bench.serve(app)

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with connected(bench.place) as client:
            handle = await client.start_orchestration(asks)
            others = [asyncio.ensure_future(handle.result()) for _ in range(50)]
            last = asyncio.ensure_future(handle.result())
            await client.wait(handle.instance_id, SOON, until="started")
            hasty = [asyncio.ensure_future(handle.result()) for _ in range(200)]  # gone before they are looked at
            await asyncio.sleep(0)
            others += hasty
            for other in others:
                other.cancel()
            assert all(
                isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*others, return_exceptions=True)
            )
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(handle.result(), 0.01)
            await handle.raise_event("answer", 1)
            assert await last == 1
            others.clear()  # their tracebacks know who waited
            del other, last
            await until(nobody_waits)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            assert [task for task in tasks if task.get_coro().__qualname__ != "main"] == []  # type: ignore[union-attr]
        assert complaints == []

    asyncio.run(main())


def test_several_loops_share_one_client(bench: Bench) -> None:
    bench.serve(app)
    client = durable.connect_async(bench.place.url, workspace=bench.place.workspace)
    found: list[Any] = []

    async def double_it(number: int) -> None:
        found.append(await (await client.start_orchestration(doubled, number)).result(SOON))

    threads = [threading.Thread(target=lambda n=n: run(double_it(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert sorted(found) == [0, 2, 4, 6]
    run(client.close())


def test_a_loop_that_ends_while_it_waits_disturbs_nobody(bench: Bench) -> None:
    bench.serve(app)
    client = durable.connect_async(bench.place.url, workspace=bench.place.workspace)

    async def leave(wait: bool) -> str:
        handle = await client.start_orchestration(asks, instance_id="left", if_exists="return")
        if wait:
            return str(await handle.result(SOON))
        asyncio.ensure_future(handle.result())  # noqa: RUF006 - cancelled with its loop
        await asyncio.sleep(0)
        return ""

    run(leave(False))
    bench.client.raise_event("left", "answer", "late")
    assert run(leave(True)) == "late"
    run(client.close())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of what is tested here
def test_after_a_fork_the_child_is_told_to_connect_again(tmp_path: Path) -> None:
    async def use(client: durable.AsyncClient) -> None:
        await client.get_status("x")

    client = durable.connect_async(f"sqlite:///{tmp_path}/store.db")
    run(use(client))
    said, tell = os.pipe()
    if not (child := os.fork()):
        try:
            asyncio.run(use(client))
        except RuntimeError as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(said, "rb", buffering=0) as pipe:
        ready, _, _ = select.select([pipe], [], [], SOON)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert ready
        assert b"before a fork" in pipe.read()
    run(use(client))
    run(client.close())
