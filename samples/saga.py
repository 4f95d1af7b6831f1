"""A saga: book a flight, a hotel and a car, or nothing. What was booked is released when a step fails or on a cancel.

    python samples/saga.py

It runs two trips: one whose last step fails, and one that is cancelled while it waits to be paid.
"""

import time
from collections.abc import Generator
from typing import Any

import durable


@durable.activity
def book(what: str, where: str) -> str:
    if (what, where) == ("car", "Venice"):
        raise LookupError("there are no cars in Venice")
    print(f"book a {what} in {where}", flush=True)
    return what  # the number of the booking, in real life


@durable.activity(retry=durable.RetryPolicy(max_attempts=10))  # what undoes things must not give up soon
def release(what: str, where: str) -> None:
    print(f"release the {what} in {where}", flush=True)


@durable.orchestrator
def trip(ctx: durable.OrchestrationContext, where: str) -> Generator[Any, Any, str]:
    steps: list[durable.Task[str]] = []
    try:
        for what in ("flight", "hotel", "car"):
            steps.append(ctx.call_activity(book, what, where))
            yield steps[-1]
        ctx.set_custom_status("to be paid")
        yield ctx.wait_for_external_event("paid")
    except (durable.TaskFailedError, durable.OrchestrationCancelledError):
        booked = yield from ctx.task_all(steps, return_exceptions=True)  # after a cancel one may still be running
        for done in reversed([outcome for outcome in booked if isinstance(outcome, str)]):
            yield ctx.call_activity(release, done, where)
        raise  # all is undone: it ends FAILED or CANCELED
    return f"have a good time in {where}"


def tell(status: durable.OrchestrationStatus) -> None:
    print(status.runtime_status, status.failure.message if status.failure else status.output)


if __name__ == "__main__":
    with durable.connect() as client, durable.Worker(client):
        venice = client.start_orchestration(trip, "Venice")
        tell(client.wait(venice.instance_id))
        rome = client.start_orchestration(trip, "Rome")
        while rome.status().custom_status != "to be paid":
            time.sleep(0.05)
        client.cancel(rome.instance_id, "changed my mind")  # or: durable cancel ID --reason '"changed my mind"'
        tell(client.wait(rome.instance_id))
