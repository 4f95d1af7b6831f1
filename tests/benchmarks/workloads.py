"""What run.py measures: programs that use the product as its users do, and beside each a bare program of that shape.

Each measurement gets a fresh place, opens client and worker in this process, runs the warm-up, then one timed run.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import durable

if TYPE_CHECKING:
    from tests.benchmarks import limits
    from tests.benchmarks import raw_sqlite as raw
    from tests.benchmarks.places import WORKSPACE, Place, emulator_seconds
    from tests.benchmarks.raw_redis import Shape
else:
    import limits
    import raw_sqlite as raw
    from places import WORKSPACE, Place, emulator_seconds

EDGE: Final = 500  # steps at either end that are compared
PATIENCE: Final = 60.0  # seconds until a wait is given up, e.g. because the engine stopped
STEP: Final = 0.01  # seconds a sequential step that are waited besides

Orchestration = Generator[durable.Task[Any], Any, Any]


class Measured(NamedTuple):
    """Figures by name, in seconds (or without a unit), and the bytes of histories and summaries stored."""

    figures: dict[str, float]
    stored: int = 0


Measure = Callable[[Place], Measured]


class Case(NamedTuple):
    """One way of measuring, in the product and raw; None where a bare program has nothing to do."""

    product: Measure
    raw: Measure | None


# ---- the orchestrations


@durable.activity
def hello(city: str) -> str:
    return f"Hello {city}!"


@durable.activity
def echo(number: int) -> int:
    return number


@durable.orchestrator
def hello_sequence(ctx: durable.OrchestrationContext) -> Orchestration:
    first = yield ctx.call_activity(hello, "Tokyo")
    second = yield ctx.call_activity(hello, "Seattle")
    third = yield ctx.call_activity(hello, "London")
    return [first, second, third]


@durable.orchestrator
def fan_out(ctx: durable.OrchestrationContext, count: int) -> Orchestration:
    numbers = yield ctx.task_all([ctx.call_activity(echo, i) for i in range(count)])
    return len(numbers)


@durable.orchestrator
def steps(ctx: durable.OrchestrationContext, count: int) -> Orchestration:
    number = 0
    for i in range(count):
        number += yield ctx.call_activity(echo, i)
    return number


@durable.orchestrator
def waiting(ctx: durable.OrchestrationContext) -> Orchestration:
    return (yield ctx.wait_for_external_event("go"))


GREETINGS: Final = ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]


# ---- the product


def worker(client: durable.Client, eager: bool) -> durable.Worker:
    """A worker with its defaults, but for whether activities travel."""
    return durable.Worker(client, eager_activities=eager)


@contextmanager
def _serving(place: Place, warm_up: int) -> Iterator[durable.Client]:
    with (
        durable.connect(place.store, events=place.events, workspace=WORKSPACE) as client,
        worker(client, place.eager),
    ):
        warmed_up(client, warm_up)
        yield client


def warmed_up(client: durable.Client, count: int) -> None:
    """So many sequences, which are not timed."""
    for handle in client.start_many(hello_sequence, [None] * count):
        handle.result(PATIENCE)


def stored(place: Place) -> int:
    """Bytes of histories and summaries that the product has stored there."""
    if place.emulator is not None:
        if TYPE_CHECKING:
            from tests.benchmarks import raw_dynamodb
        else:
            import raw_dynamodb
        return raw_dynamodb.stored_bytes(place.store, WORKSPACE)
    if not place.path:
        if TYPE_CHECKING:
            from tests.benchmarks import raw_redis
        else:
            import raw_redis
        return raw_redis.stored_bytes(place.nodes, b"durable:")
    with closing(sqlite3.connect(place.path)) as connection:
        return raw.stored_bytes(connection)


def expect(found: object, wanted: object) -> None:
    """Raises RuntimeError: a figure for a wrong result is none."""
    if found != wanted:
        raise RuntimeError(f"the benchmark got {found!r} instead of {wanted!r}")


def sequences(count: int, warm_up: int, shape: Shape) -> Case:
    """Sequences a second, from before the first start until the last result is here; `inside`: the emulator's processor
    seconds meanwhile, in each second."""

    def product(place: Place) -> Measured:
        with _serving(place, warm_up) as client:
            before, begun = emulator_seconds(place), time.perf_counter()
            if shape == "many":
                handles = client.start_many(hello_sequence, [None] * count)
            else:
                handles = [client.start_orchestration(hello_sequence) for _ in range(count)]
            results = [handle.result(PATIENCE) for handle in handles]
            seconds = time.perf_counter() - begun
            inside = (emulator_seconds(place) - before) / seconds
        expect([r for r in results if r != GREETINGS], [])
        return Measured({"rate": count / seconds, "inside": inside}, stored(place))

    def limit(place: Place) -> Measured:
        written = limits.sequences(place, shape, count, warm_up)
        inside = written.emulator / written.seconds
        return Measured({"rate": count / written.seconds, "inside": inside}, written.stored)

    return Case(product, limit)


def alone(count: int, warm_up: int) -> Case:
    """Seconds from start to result, nothing else running: median and 99th percentile; `inside` as above."""

    def product(place: Place) -> Measured:
        seconds = []
        with _serving(place, warm_up) as client:
            before = emulator_seconds(place)
            for _ in range(count):
                begun = time.perf_counter()
                result = client.start_orchestration(hello_sequence).result(PATIENCE)
                seconds.append(time.perf_counter() - begun)
                expect(result, GREETINGS)
            inside = (emulator_seconds(place) - before) / sum(seconds)
        return Measured({**_percentiles(seconds), "inside": inside}, stored(place))

    def limit(place: Place) -> Measured:
        written = limits.sequences(place, "alone", count, warm_up)
        inside = written.emulator / written.seconds
        return Measured({**_percentiles(written.each), "inside": inside}, written.stored)

    return Case(product, limit)


def parallel(count: int, warm_up: int) -> Case:
    """Seconds from the start of one orchestration with `count` parallel activities until its result is here."""

    def product(place: Place) -> Measured:
        with _serving(place, warm_up) as client:
            begun = time.perf_counter()
            joined = client.start_orchestration(fan_out, count).result(PATIENCE)
            seconds = time.perf_counter() - begun
        expect(joined, count)
        return Measured({"seconds": seconds}, stored(place))

    def limit(place: Place) -> Measured:
        written = raw.write(place.path, raw.sequences_in_bulk(warm_up), raw.parallel(count))
        return Measured({"seconds": written.seconds}, written.stored)

    return Case(product, limit)


def in_sequence(count: int, warm_up: int) -> Case:
    """Seconds a step, and what the last steps cost compared with the first, by the times in the history."""

    def product(place: Place) -> Measured:
        with _serving(place, warm_up) as client:
            begun = time.perf_counter()
            handle = client.start_orchestration(steps, count)
            total = handle.result(PATIENCE + count * STEP)
            seconds = time.perf_counter() - begun
            history = client.history(handle.instance_id)
        expect(total, count * (count - 1) // 2)
        done: list[datetime] = [event.timestamp for event in history if event.type == "TaskCompleted"]
        expect(len(done), count)
        took = [(after - before).total_seconds() for before, after in pairwise(done)]
        return Measured({"step": seconds / count, "drift": _drift(took)}, stored(place))

    def limit(place: Place) -> Measured:
        written = raw.write(place.path, raw.sequences_in_bulk(warm_up), raw.steps(count))
        return Measured({"step": written.seconds / count, "drift": _drift(written.each[1:-1])}, written.stored)

    return Case(product, limit)


def importing(statement: str) -> Case:
    """Seconds of a whole fresh interpreter that runs `statement`, beside one that runs `pass`.

    It may write bytecode, as an installation has done: compiling the source is no part of an import.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(code: str) -> Measured:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        return Measured({"seconds": time.perf_counter() - begun})

    return Case(lambda _: run(statement), lambda _: run("pass"))


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"p50": median(ordered), "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]}


def _drift(took: Sequence[float]) -> float:
    """Mean of the last steps over mean of the first."""
    edge = min(EDGE, len(took) // 2)
    return sum(took[-edge:]) / sum(took[:edge])
