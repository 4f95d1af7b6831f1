"""What type checkers must understand: no line here may give an error, and every `assert_type` must hold.

Read by mypy and pyright, both strict (tests/product/test_typing.py); never run.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from typing_extensions import assert_type

import durable


@dataclass
class Order:
    item: str
    pieces: int


# Activities: sync and async, with and without a context, bare and with options.


@durable.activity
def length(text: str) -> int:
    return len(text)


@durable.activity
async def fetch(url: str, tries: int = 3) -> str:
    return url * tries


@durable.activity
def charge(ctx: durable.ActivityContext, order: Order) -> float:
    return order.pieces * float(ctx.attempt)


@durable.activity
async def ship(ctx: durable.ActivityContext, order: Order, express: bool) -> list[str]:
    return [ctx.instance_id, order.item, str(express)]


@durable.activity(name="shop.refund", retry=durable.RetryPolicy(max_attempts=3))
def refund(amount: float) -> bool:
    return amount > 0


@durable.activity(name="shop.notify", timeout=timedelta(minutes=1), heartbeat_timeout=5)
async def notify(ctx: durable.ActivityContext, to: str) -> None:
    ctx.heartbeat({"to": to})


@durable.activity
def nothing() -> None: ...


# JSON is often `Any`: such a first parameter is no context, and the decorator must not spoil the function.


@durable.activity
def anything(value: Any, name: str) -> dict[str, Any]:
    return {name: value}


@durable.activity
def mapping(value: dict[str, Any]) -> Any:
    return value


@durable.activity
def anything_or_nothing(value: Any = None, *more: object) -> Any:
    return [value, *more]


@durable.activity
async def described(value: object) -> str:
    return str(value)


# Orchestrators: generator, async, plain function; with and without an input.


@durable.orchestrator
def order(ctx: durable.OrchestrationContext, item: str) -> Generator[Any, Any, str]:
    yield ctx.call_activity(length, item)
    return item


@durable.orchestrator(name="shop.parcel", version="2")
def parcel(ctx: durable.OrchestrationContext, what: Order, pieces: int = 1) -> Generator[Any, Any, int]:
    yield ctx.create_timer(timedelta(days=1))
    return what.pieces * pieces


@durable.orchestrator
async def poll(ctx: durable.OrchestrationContext, url: str) -> list[int]:
    return [await ctx.call_activity(length, url)]


@durable.orchestrator
def no_input(ctx: durable.OrchestrationContext) -> bool:
    return ctx.is_replaying


@durable.orchestrator
def six(ctx: durable.OrchestrationContext, a: int, b: str, c: int, d: str, e: int, f: str = "") -> float:
    return a + c + e


@durable.orchestrator
def seven(ctx: durable.OrchestrationContext, a: int, b: int, c: int, d: int, e: int, f: int, *more: int) -> int:
    return a + b + c + d + e + f + sum(more)


# Results by `yield from`.


@durable.orchestrator
def yields(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
    assert_type((yield from ctx.call_activity(length, "x")), int)
    assert_type((yield from ctx.call_activity(fetch, "x")), str)
    assert_type((yield from ctx.call_activity(fetch, "x", 5)), str)
    assert_type((yield from ctx.call_activity(charge, Order("book", 1))), float)
    assert_type((yield from ctx.call_activity(ship, Order("book", 1), True)), list[str])
    assert_type((yield from ctx.call_activity(refund, 1.5)), bool)
    yield from ctx.call_activity(notify, "me@example.org")
    yield from ctx.call_activity(nothing)
    yield from ctx.call_activity(anything, 3, "three")
    yield from ctx.call_activity(mapping, {"three": 3})
    yield from ctx.call_activity(anything_or_nothing)
    yield from ctx.call_activity(anything_or_nothing, 1, "two")
    assert_type((yield from ctx.call_activity(described, 3)), str)
    assert_type((yield from ctx.call_sub_orchestrator(six, 1, "2", 3, "4", 5, version="1")), float)
    assert_type(ctx.start_orchestration(six, 1, "2", 3, "4", 5, instance_id="apart"), str)
    assert_type(ctx.start_orchestration("by name", 1), str)
    ctx.send_event("apart", "go", {"a": 1})
    assert_type((yield from ctx.call_sub_orchestrator(six, 1, "2", 3, "4", 5, "6", tags={"a": "b"})), float)
    assert_type((yield from ctx.call_sub_orchestrator(seven, 1, 2, 3, 4, 5, 6, 7, 8, instance_id="p-0")), int)
    assert_type((yield from ctx.call_sub_orchestrator(order, "book")), str)
    assert_type((yield from ctx.call_sub_orchestrator(parcel, Order("book", 1))), int)
    assert_type((yield from ctx.call_sub_orchestrator(parcel, Order("book", 1), 2, instance_id="p-1")), int)
    assert_type((yield from ctx.call_sub_orchestrator(poll, "https://example.org")), list[int])
    assert_type((yield from ctx.call_sub_orchestrator(no_input)), bool)
    assert_type((yield ctx.call_activity(length, "x")), Any)  # as generators are


# Results by `await`.


@durable.orchestrator
async def awaits(ctx: durable.OrchestrationContext, item: str) -> int:
    assert_type(await ctx.call_activity(fetch, item), str)
    assert_type(await ctx.call_activity(charge, Order(item, 1)), float)
    assert_type(await ctx.call_sub_orchestrator(order, item), str)
    assert_type(await ctx.call_sub_orchestrator(poll, item, instance_id="p-2"), list[int])
    assert_type(await ctx.task_all([ctx.call_activity(length, t) for t in ("a", "b")]), list[int])
    return await ctx.call_activity(length, item)


# Tasks, and tasks of tasks.


@durable.orchestrator
def tasks(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
    one = ctx.call_activity(length, "x")
    assert_type(one, durable.Task[int])
    assert_type(one.is_completed, bool)
    assert_type(one.result(), int)
    assert_type(one.cancel(), bool)
    two = ctx.call_activity(length, "y")
    assert_type(ctx.task_all([one, two]), durable.Task[list[int]])
    assert_type((yield from ctx.task_all([one, two])), list[int])
    first = yield from ctx.task_any([one, two])
    assert_type(first, durable.Task[int])
    assert_type(first.result(), int)
    text = ctx.call_activity(fetch, "z")
    yield ctx.task_all([one, text])
    yield ctx.task_any([one, text, ctx.create_timer(5)])
    yield ctx.wait_for_external_event("approval", timeout=timedelta(hours=1))
    assert_type(ctx.wait_for_external_event("approval"), durable.Task[Any])
    assert_type(ctx.wait_for_external_event("approval", type=Order), durable.Task[Order])
    assert_type(ctx.wait_for_external_event("approval", type=list[int]), durable.Task[list[int]])
    assert_type(ctx.wait_for_external_event("approval", type=int | None), durable.Task[Any])
    assert_type(ctx.get_input(Order), Order)
    assert_type(ctx.task_all(ctx.call_activity(length, t) for t in "ab"), durable.Task[list[int]])
    assert_type(ctx.map(length, ["a", "b"]), durable.Task[list[int]])
    assert_type((yield from ctx.map(fetch, iter([["a", 2]]), max_concurrency=2)), list[str])
    assert_type(ctx.map(charge, (Order("pen", n) for n in range(3)), return_exceptions=True), durable.Task[list[float]])
    assert_type((yield from ctx.map(ship.options(timeout=5), [[Order("pen", 1), True]])), list[list[str]])
    assert_type(ctx.map(order, ["book", "pen"], max_concurrency=1), durable.Task[list[str]])
    assert_type(ctx.map(poll, {"url"}), durable.Task[list[list[int]]])
    assert_type(ctx.map(durable.orchestrator_ref("x", returns=str), [1]), durable.Task[list[str]])
    assert_type(ctx.map(durable.activity_ref("x", returns=int), [1]), durable.Task[list[int]])
    assert_type(ctx.map("x", [1]), durable.Task[list[Any]])
    assert_type(ctx.patched("change"), bool)
    assert_type(ctx.suggest_continue_as_new, bool)
    ctx.continue_as_new("book", save_events=False, version="2")
    wider: durable.Task[object] = one
    yield wider
    yield [one, two]


# The same function with other options, names for code that lives elsewhere, plain strings.


@durable.orchestrator
def by_name(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
    careful = length.options(retry=durable.RetryPolicy(max_attempts=5))
    assert_type((yield from ctx.call_activity(careful, "x")), int)
    assert_type((yield from ctx.call_activity(ship.options(timeout=60), Order("book", 1), False)), list[str])
    assert_type((yield from ctx.call_activity(durable.activity_ref("x", returns=int), 1, "any")), int)
    assert_type((yield from ctx.call_activity(durable.activity_ref("x", returns=Order))), Order)
    assert_type((yield from ctx.call_activity(durable.activity_ref("x", returns=Order).options(timeout=5))), Order)
    assert_type(ctx.call_activity(durable.activity_ref("x")), durable.Task[Any])
    assert_type(ctx.call_activity(durable.activity_ref("x", returns=int | str)), durable.Task[Any])
    assert_type((yield from ctx.call_sub_orchestrator(parcel.options(version="3"), Order("pen", 2))), int)
    assert_type((yield from ctx.call_sub_orchestrator(durable.orchestrator_ref("x", returns=str), 1)), str)
    assert_type(ctx.call_activity("x", 1, "any"), durable.Task[Any])
    assert_type(ctx.call_sub_orchestrator("x", 1, instance_id="p-3"), durable.Task[Any])


# An activity stays an ordinary function.


async def called_directly() -> None:
    assert_type(length("x"), int)
    assert_type(refund(2.0), bool)
    assert_type(await fetch("x"), str)
    assert_type(await fetch(url="x", tries=1), str)
    assert_type(charge(Order("book", 1)), float)
    print(anything(value=3, name="three"))  # mypy: Any, pyright: dict[str, Any]
    assert_type(mapping({}), Any)
    assert_type(await described(value=3), str)
    assert_type(anything_or_nothing(), Any)


# Starting from outside.


def starts(client: durable.Client) -> None:
    handle = durable.start_orchestration(order, "book", instance_id="order-42", if_exists="return")
    assert_type(handle, durable.OrchestrationHandle[str])
    assert_type(handle.result(), str)
    assert_type(handle.result(timeout=5), str)
    assert_type(handle.instance_id, str)
    assert_type(handle.status().runtime_status, durable.RuntimeStatus)
    assert_type(durable.start_orchestration(no_input).result(), bool)
    assert_type(client.start_orchestration(parcel, Order("book", 1)), durable.OrchestrationHandle[int])
    assert_type(client.start_orchestration(parcel, Order("book", 1), 2), durable.OrchestrationHandle[int])
    assert_type(client.start_orchestration(poll, "x", tags={"shop": "1"}).result(), list[int])
    assert_type(client.start_orchestration("shop.parcel", {"item": "book"}), durable.OrchestrationHandle[Any])
    assert_type(client.start_orchestration(durable.orchestrator_ref("x", returns=int), 1).result(), int)
    assert_type(
        client.start_orchestration(six, 1, "2", 3, "4", 5, "6", version="1"), durable.OrchestrationHandle[float]
    )
    assert_type(client.start_orchestration(seven, 1, 2, 3, 4, 5, 6, 7, version="1"), durable.OrchestrationHandle[int])
    assert_type(client.start_many(order, ["book", "pen"], if_exists="return")[0].result(), str)
    assert_type(client.start_many("x", [1, 2], instance_ids=["a", "b"]), list[durable.OrchestrationHandle[Any]])
    wider: durable.OrchestrationHandle[object] = handle
    print(wider)


def works() -> None:
    with durable.connect("memory://typed") as client, durable.Worker(client):
        starts(client)


# The same with an AsyncClient.


async def awaited() -> None:
    async with durable.connect_async("memory://x", workspace="w") as client:
        handle = await client.start_orchestration(parcel, Order("book", 1), 2)
        assert_type(handle, durable.AsyncOrchestrationHandle[int])
        assert_type(await handle.result(timeout=1), int)
        assert_type(await (await client.start_orchestration(poll, "x", tags={"shop": "1"})).result(), list[int])
        assert_type(await client.start_orchestration("shop.parcel"), durable.AsyncOrchestrationHandle[Any])
        handles = await client.start_many(order, ["book", "pen"], if_exists="return")
        assert_type(handles, list[durable.AsyncOrchestrationHandle[str]])
        assert_type(await client.get_status("x", history=True), durable.OrchestrationStatus | None)
        assert_type(await client.list_orchestrations(name="x"), durable.Page[durable.OrchestrationStatus])
        assert_type(await client.history("x"), list[durable.HistoryEvent])
        assert_type(await client.wait("x", 1.0, until="started"), durable.OrchestrationStatus)
        assert_type(await handle.status(), durable.OrchestrationStatus)
        assert_type(client.handle("x"), durable.AsyncOrchestrationHandle[Any])
        assert_type(await client.restart("x"), durable.AsyncOrchestrationHandle[Any])
        assert_type(await client.fork("x", after=0), durable.AsyncOrchestrationHandle[Any])
        await client.raise_event("x", "paid", {"by": "card"}, event_id="1")
        await handle.terminate("enough", recursive=False)
        later = await client.start_orchestration(parcel, Order("book", 1), 2, start_at=timedelta(hours=1))
        assert_type(later, durable.AsyncOrchestrationHandle[int])
        await client.suspend("x", {"by": "me"})
        await client.resume("x")
        await later.cancel("not today")


# An activity in a process is called as any other.


@durable.activity(executor="process", timeout=60)
def factors(number: int) -> list[int]:
    return [number]


def checks(ctx: durable.OrchestrationContext) -> None:
    assert_type(ctx.call_activity(factors, 6), durable.Task[list[int]])
