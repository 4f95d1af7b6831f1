"""Sub-orchestrations: a parent ships many orders, each a child with a history of its own, three at a time.

    python samples/sub_orchestrations.py

`durable list` then shows the parent and its children.
"""

from collections.abc import Generator
from typing import Any

import durable


@durable.activity
def pack(order: str) -> str:
    if order == "order-4":
        raise LookupError("the shelf is empty")
    return f"parcel of {order}"


@durable.activity
def hand_over(parcel: str) -> str:
    return f"{parcel} is on its way"


@durable.orchestrator
def ship(ctx: durable.OrchestrationContext, order: str) -> Generator[Any, Any, str]:
    parcel = yield from ctx.call_activity(pack, order)
    return (yield from ctx.call_activity(hand_over, parcel))


@durable.orchestrator
def ship_all(ctx: durable.OrchestrationContext, orders: list[str]) -> Generator[Any, Any, list[str]]:
    outcomes = yield from ctx.map(ship, orders, max_concurrency=3, return_exceptions=True)
    return [
        f"{order} failed: {outcome}" if isinstance(outcome, Exception) else outcome
        for order, outcome in zip(orders, outcomes, strict=True)
    ]


if __name__ == "__main__":
    with durable.Worker():
        orders = [f"order-{number}" for number in range(1, 9)]
        for line in durable.start_orchestration(ship_all, orders).result():
            print(line)
