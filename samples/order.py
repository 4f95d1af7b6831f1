"""A sequence: an order in three steps that survives being killed.

    python samples/order.py

Kill it after `charge` and run it again: it goes on where it was. It keeps its state in .durable/ in this folder.
"""

import time
from collections.abc import Generator

import durable


@durable.activity
def do(step: str) -> None:
    time.sleep(2)
    print(step)


@durable.orchestrator
def order(ctx: durable.OrchestrationContext, item: str) -> Generator[durable.Task[None], None, str]:
    for step in ("charge", "pack", "ship"):
        yield ctx.call_activity(do, f"{step} {item}")
    return f"{item} is on its way"


if __name__ == "__main__":
    with durable.Worker():  # embedded: a SQLite file, this process
        handle = durable.start_orchestration(order, "book", instance_id="order-42", if_exists="return")
        print(handle.result())
