"""The orchestrators whose histories are kept in golden/. They must go on fitting them, so nothing here ever changes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import durable

app = durable.Registry()


@app.activity(name="golden.double", retry=durable.RetryPolicy(2, first_interval=0.01))
def double(ctx: durable.ActivityContext, n: int) -> int:
    if n == 3 and ctx.attempt == 1:
        raise ValueError("not the first time")
    return 2 * n


@app.orchestrator(name="golden.child")
def child(ctx: durable.OrchestrationContext, text: str) -> Generator[Any, Any, str]:
    if text == "bad":
        raise ValueError("bad")
    if text == "slow":
        yield ctx.wait_for_external_event("never")
    yield ctx.create_timer(0)
    return f"{text}!"


@app.orchestrator(name="golden.flow", version="1.2", tags={"made": "by format 1"})
def flow(ctx: durable.OrchestrationContext, rounds: int) -> Generator[Any, Any, Any]:
    found: list[Any] = [ctx.version, ctx.patched("fee"), (yield ctx.map(double, [1, 2, 3], max_concurrency=2))]
    found.append((yield ctx.call_sub_orchestrator(child, "good")))
    try:
        yield ctx.call_sub_orchestrator(child, "bad")
    except durable.TaskFailedError as error:
        found.append(error.failure.type)
    timer, slow = ctx.create_timer(3600), ctx.call_sub_orchestrator(child, "slow", version="7")
    found += [timer.cancel(), slow.cancel(), ctx.suggest_continue_as_new]
    if rounds:
        ctx.continue_as_new(rounds - 1, version="1.2")
        return None
    found.append((yield ctx.wait_for_external_event("go", timeout=10**9)))
    return found


# What it returns when it is raised "go" with {"at": "last"}, having lived with Limits(history_events=9) so far.
RESULT = ["1.2", True, [2, 4, 6], "good!", "ValueError", True, True, True, {"at": "last"}]
