"""What type checkers must refuse: each line marked `# E:` gives an error in mypy and in pyright, no other does.

Read by mypy and pyright, both strict (tests/product/test_typing.py); never run.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import durable


@durable.activity
def length(text: str) -> int:
    return len(text)


@durable.activity
async def fetch(url: str, tries: int = 3) -> str:
    return url * tries


@durable.activity
def charge(ctx: durable.ActivityContext, amount: float) -> bool:
    return amount > ctx.attempt


@durable.activity
async def ship(ctx: durable.ActivityContext, item: str, express: bool) -> list[str]:
    return [ctx.instance_id, item, str(express)]


@durable.activity(name="shop.refund")
def refund(amount: float) -> bool:
    return amount > 0


@durable.orchestrator
def order(ctx: durable.OrchestrationContext, item: str) -> Generator[Any, Any, str]:
    yield ctx.call_activity(length, item)
    return item


@durable.orchestrator
async def poll(ctx: durable.OrchestrationContext, url: str, times: int = 1) -> list[int]:
    return [await ctx.call_activity(length, url)] * times


@durable.orchestrator
def no_input(ctx: durable.OrchestrationContext) -> bool:
    return ctx.is_replaying


@durable.orchestrator
def six(ctx: durable.OrchestrationContext, a: int, b: str, c: int, d: str, e: int, f: str = "") -> float:
    return a + c + e


@durable.orchestrator
def calls(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
    yield ctx.call_activity(length, 3)  # E: int for str
    yield ctx.call_activity(length)  # E: too few
    yield ctx.call_activity(length, "x", "y")  # E: too many
    yield ctx.call_activity(fetch, b"x")  # E: bytes for str, async
    yield ctx.call_activity(fetch, "x", "3")  # E: str for the int that has a default
    yield ctx.call_activity(charge, "1.5")  # E: str for float, after the context
    yield ctx.call_activity(charge, ctx, 1.5)  # E: the context is filled in, not given
    yield ctx.call_activity(ship, "book")  # E: too few, async, after the context
    yield ctx.call_activity(ship, "book", None)  # E: None for bool
    yield ctx.call_activity(refund, "all")  # E: str for float, decorator with options
    yield ctx.call_activity(length.options(timeout=60), 3)  # E: options keep the types
    yield ctx.call_activity(3)  # E: neither an activity nor a name
    yield ctx.call_activity(order, "book")  # E: an orchestrator is no activity
    yield ctx.call_sub_orchestrator(length, "book")  # E: an activity is no orchestrator
    yield ctx.call_sub_orchestrator(order, 3)  # E: int for str
    yield ctx.call_sub_orchestrator(order)  # E: too few
    yield ctx.call_sub_orchestrator(poll, "x", "y")  # E: str for the int that has a default
    yield ctx.call_sub_orchestrator(no_input, 1)  # E: it takes no input
    yield ctx.call_sub_orchestrator(order, "book", instance_id=7)  # E: an id is text
    yield ctx.call_sub_orchestrator(six, 1, "2", 3, "4", "5")  # E: str for the fifth, an int
    yield ctx.call_sub_orchestrator(order, "book", if_exists="return")  # E: that is for starting
    ctx.start_orchestration(order, 3)  # E: int for str
    ctx.start_orchestration(order, "book", start_at=3)  # E: that is for clients
    yield ctx.task_all([1, 2])  # E: not tasks
    yield ctx.task_all(ctx.call_activity(length, "x"))  # E: one task is not several
    yield ctx.task_any(ctx.call_activity(length, "x"))  # E: one task is not several
    yield ctx.map(length, 3)  # E: items come in an iterable
    yield ctx.map(len, ["x"])  # E: no activity
    yield ctx.map(length, ["x"], max_concurrency="2")  # E: a number
    ctx.continue_as_new(version=2)  # E: a version is text
    ctx.patched(2)  # E: the id of a change is text


@durable.orchestrator
def results(ctx: durable.OrchestrationContext) -> Generator[Any, Any, int]:
    a: str = yield from ctx.call_activity(length, "x")  # E: the result is an int
    b: list[str] = yield from ctx.task_all([ctx.call_activity(length, "x")])  # E: the results are ints
    c: durable.Task[str] = ctx.call_activity(length, "x")  # E: a Task[int]
    d: str = yield from ctx.call_activity(durable.activity_ref("x", returns=int))  # E: the ref returns an int
    e: int = yield from ctx.task_any([ctx.call_activity(length, "x")])  # E: the result is a task
    f: list[str] = yield from ctx.map(length, ["x"])  # E: the results are ints
    yield [a, b, c, d, e, f]
    return (yield from ctx.call_sub_orchestrator(order, "book"))  # E: the child returns a str


@durable.orchestrator
async def awaited(ctx: durable.OrchestrationContext) -> str:
    return await ctx.call_activity(length, "x")  # E: the result is an int


def starts(client: durable.Client) -> None:
    durable.start_orchestration(order, 3)  # E: int for str
    durable.start_orchestration(order)  # E: too few
    durable.start_orchestration(order, "book", "pen")  # E: too many
    durable.start_orchestration(order, "book", instance_ids="order-42")  # E: no such option
    durable.start_orchestration(no_input, "book")  # E: it takes no input
    durable.start_orchestration(length, "book")  # E: an activity can't be started
    client.start_orchestration(poll, "x", "y")  # E: str for the int that has a default
    client.start_orchestration(order, "book", if_exists="perhaps")  # E: raise or return
    client.start_orchestration(six, 1, 2, 3, "4", 5)  # E: int for the second, a str
    client.start_many(order, ["book"], instance_id="order-42")  # E: there are several
    client.start_many(length, ["book"])  # E: an activity can't be started
    durable.start_orchestation(order, "book")  # E: misspelt
    number: int = durable.start_orchestration(order, "book").result()  # E: the result is a str
    print(number)


length(3)  # E: an activity is called like the function that it is
charge(3, 4)  # E: too many, after the context


@durable.activity(retry=3)  # E: a policy is wanted
def retried() -> None: ...


@durable.orchestrator  # E: the first parameter is the context
def without_context(item: str) -> str:
    return item


async def awaiting(client: durable.AsyncClient) -> None:
    await client.start_orchestration(order, 1)  # E: str
    await client.start_orchestration(order, "book", if_exists="perhaps")  # E: raise or return
    await client.start_many(order, ["book"], instance_id="order-42")  # E: there are several
    await client.get_status("x", payload=False)  # E: payloads=
    await client.raise_event("x", 1)  # E: str
    await client.handle("x").raise_event()  # E: a name
    await client.wait("x", until="ended")  # E: finished or started


@durable.activity(executor="processes")  # E: thread or process
def busy(number: int) -> int:
    return number
