"""Human approval with a timeout: ask, wait for an external event, escalate when nobody answers in time.

    python samples/approval.py [SECONDS]

Answer from a second terminal, in the same folder, with either of these:

    durable raise expense-7 decision --data true
    python -c 'import durable; durable.connect().raise_event("expense-7", "decision", True)'
"""

import sys
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import durable


@durable.activity
def tell(whom: str, text: str) -> None:
    print(f"to the {whom}: {text}", flush=True)  # an email, in real life


@durable.orchestrator
def approval(ctx: durable.OrchestrationContext, what: str, patience: timedelta) -> Generator[Any, Any, str]:
    yield ctx.call_activity(tell, "manager", f"{what}? durable raise {ctx.instance_id} decision --data true")
    try:
        approved = yield from ctx.wait_for_external_event("decision", timeout=patience, type=bool)
    except durable.TimeoutError:
        yield ctx.call_activity(tell, "director", f"nobody decided on {what} in {patience}")
        return f"{what}: escalated"
    return f"{what}: {'approved' if approved else 'rejected'}"


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with durable.Worker():
        handle = durable.start_orchestration(
            approval, "a desk for 300 EUR", timedelta(seconds=seconds), instance_id="expense-7", if_exists="return"
        )
        print(handle.result())
