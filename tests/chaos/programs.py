"""What the chaos tests run, each program with what plain Python says of its result.

Every activity first writes a line to a ledger that knows nothing of the store: which attempt, when, in which process.
A program takes a value and a size: how much it has to do.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import durable

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]
LEDGER = "ledger"  # in the folder that the worker runs in
RETRY = durable.RetryPolicy(max_attempts=5, first_interval=0.02, backoff_coefficient=1.0)


def enter(ctx: durable.ActivityContext) -> None:
    """One line in the ledger, whatever happens next: a write to a file opened with O_APPEND is one piece."""
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, f"{ctx.idempotency_key}/{ctx.attempt} {time.time():.6f} {os.getpid()}\n".encode())
    os.close(ledger)
    time.sleep(0.003)


def mix(value: int) -> int:
    return (value * 31 + 7) % 1_000_003


@durable.activity
def step(ctx: durable.ActivityContext, value: int) -> int:
    enter(ctx)
    return mix(value)


@durable.activity
async def stroll(ctx: durable.ActivityContext, value: int) -> int:
    enter(ctx)
    return mix(value)


@durable.activity(retry=RETRY)
def stumble(ctx: durable.ActivityContext, value: int) -> int:
    enter(ctx)
    if ctx.attempt < 3:
        raise ConnectionError(f"attempt {ctx.attempt}")
    return mix(value)


@durable.orchestrator
def sequence(ctx: Ctx, value: int, size: int) -> Steps:
    for _ in range(size):
        value = yield ctx.call_activity(step, value)
    return value


@durable.orchestrator
def fan_out(ctx: Ctx, value: int, size: int) -> Steps:
    values = yield ctx.task_all([ctx.call_activity(step, value + n) for n in range(size)])
    return (yield ctx.call_activity(step, sum(values)))


@durable.orchestrator
def children(ctx: Ctx, value: int, size: int) -> Steps:
    values = yield [ctx.call_sub_orchestrator(child, value + n) for n in range(size)]
    return sum(values)


@durable.orchestrator
def child(ctx: Ctx, value: int) -> Steps:
    for _ in range(2):
        value = yield ctx.call_activity(step, value)
    return value


@durable.orchestrator
async def timers(ctx: Ctx, value: int, size: int) -> int:
    for _ in range(size):
        await ctx.create_timer(0.02)
        value = await ctx.call_activity(stroll, value)
    return value


@durable.orchestrator
def events(ctx: Ctx, value: int, size: int) -> Steps:
    """Whoever starts it raises the events `add` 0 to size - 1."""
    for _ in range(size):
        value += yield ctx.wait_for_external_event("add")
        value = yield ctx.call_activity(step, value)
    return value


@durable.orchestrator
def late(ctx: Ctx, value: int, size: int) -> Steps:
    for _ in range(size):
        try:
            yield ctx.wait_for_external_event("never", timeout=0.1)
        except durable.TimeoutError:
            value = yield ctx.call_activity(step, value)
    return value


@durable.orchestrator
def retries(ctx: Ctx, value: int, size: int) -> Steps:
    for _ in range(size):
        value = yield ctx.call_activity(stumble, value)
    return value


@durable.orchestrator
def rounds(ctx: Ctx, value: int, size: int, before: list[str] | None = None) -> Steps:
    before = before or []
    ctx.set_custom_status(before)  # so that whoever checks finds the histories of its earlier executions
    value = yield ctx.call_activity(step, value)
    if len(before) < size - 1:
        ctx.continue_as_new(value, size, [*before, ctx.execution_id])
    return value


# ---- what plain Python says


class Expected(NamedTuple):
    """What must come of an instance: its output, and how many attempts of activities it takes, children included."""

    output: int
    attempts: int


def mixed(value: int, times: int) -> int:
    for _ in range(times):
        value = mix(value)
    return value


def added(value: int, times: int) -> int:
    for n in range(times):
        value = mix(value + n)
    return value


ORACLE: dict[Any, Callable[[int, int], Expected]] = {
    sequence: lambda v, size: Expected(mixed(v, size), size),
    fan_out: lambda v, size: Expected(mix(sum(mix(v + n) for n in range(size))), size + 1),
    children: lambda v, size: Expected(sum(mixed(v + n, 2) for n in range(size)), 2 * size),
    timers: lambda v, size: Expected(mixed(v, size), size),
    events: lambda v, size: Expected(added(v, size), size),
    late: lambda v, size: Expected(mixed(v, size), size),
    retries: lambda v, size: Expected(mixed(v, size), 3 * size),
    rounds: lambda v, size: Expected(mixed(v, size), size),
}


# ---- what the ledger says


class Entry(NamedTuple):
    """One run of one attempt: when it began, in POSIX seconds, and in which process."""

    attempt: str
    at: float
    pid: int


def entries(folder: Path) -> list[Entry]:
    """Every run there was, in order."""
    try:
        lines = (folder / LEDGER).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [Entry(attempt, float(at), int(pid)) for attempt, at, pid in map(str.split, lines)]


def runs(found: Iterable[Entry]) -> Counter[str]:
    """How often each attempt ran."""
    return Counter(entry.attempt for entry in found)
