"""What the tests of many workers run, in this process or as a program of its own:

python tests/product/shared_work.py work URL EVENTS WORKSPACE QUEUE...     a worker until SIGTERM
python tests/product/shared_work.py wait URL EVENTS WORKSPACE INSTANCE     print the result of an instance
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from typing import Any

import durable

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]
LEDGER = "ledger"  # in the current folder: a line for each time that `note` begins


def app(me: str) -> durable.Registry:
    """The code that every worker has; `me` is how this one signs what it did."""
    registry = durable.Registry()

    @registry.activity(name="who")
    def who() -> str:
        return me

    @registry.activity(name="train", queue="gpu")
    def train(number: int) -> str:
        return f"{number} by {me}"

    @registry.activity(name="note")
    def note(ctx: durable.ActivityContext, number: int) -> int:
        ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(ledger, f"{ctx.idempotency_key}\n".encode())  # one piece: the file is opened with O_APPEND
        os.close(ledger)
        threading.Event().wait(0.01)
        return number + 1

    @registry.activity(name="hold", queue="gpu")
    def hold(number: int) -> str:
        """Until there is a file `go`; a line in the ledger says who has begun."""
        with open(LEDGER, "a") as ledger:
            ledger.write(f"{me}\n")
        while not os.path.exists("go"):
            threading.Event().wait(0.01)
        return f"{number} by {me}"

    @registry.activity(name="same", queue="gpu")
    def same(value: Any) -> Any:
        return value

    @registry.orchestrator(name="step")
    def step(ctx: Ctx, activity: str, queue: str = "default", *args: Any) -> Steps:
        return (yield ctx.call_activity(durable.activity_ref(activity, queue=queue), *args))

    @registry.orchestrator(name="steps")
    def steps(ctx: Ctx, number: int) -> Steps:
        for _ in range(4):
            number = yield ctx.call_activity("note", number)
        return number

    @registry.orchestrator(name="both")
    def both(ctx: Ctx, number: int) -> Steps:
        plain, special = ctx.call_activity("who"), ctx.call_activity(train, number)
        first = yield ctx.task_any([plain, special])
        ctx.set_custom_status(first.result())
        return (yield [plain, special])

    @registry.orchestrator(name="gate")
    def gate(ctx: Ctx) -> Steps:
        ctx.set_custom_status(me)
        yield ctx.wait_for_external_event("go")
        return me

    @registry.orchestrator(name="night", group="night")
    def night(ctx: Ctx) -> Steps:
        return [me, (yield ctx.call_activity("who"))]

    @registry.orchestrator(name="once")
    def once(ctx: Ctx) -> Steps:
        result = yield ctx.call_activity(durable.activity_ref("elsewhere", queue="elsewhere"), "é")
        yield ctx.wait_for_external_event("go")
        return result

    return registry


def main(what: str, url: str, events: str, workspace: str, *rest: str) -> None:
    with durable.connect(url, events=events or None, workspace=workspace) as client:
        if what == "work":
            durable.Worker(client, registry=app(str(os.getpid())), queues=rest or ("default",), shutdown_grace=10).run()
        else:
            print("waiting", flush=True)
            print(client.handle(rest[0]).result(20))


if __name__ == "__main__":
    main(*sys.argv[1:])
