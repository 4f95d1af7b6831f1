"""Rows whose worker is a process of its own: several workers beside one, very many parked instances, an idle worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import durable
from durable.ports import Beat

if TYPE_CHECKING:
    from tests.benchmarks import limits
    from tests.benchmarks import raw_sqlite as raw
    from tests.benchmarks.places import WORKSPACE, Place, processor_seconds
    from tests.benchmarks.workloads import (
        GREETINGS,
        PATIENCE,
        Case,
        Measured,
        expect,
        hello_sequence,
        stored,
        warmed_up,
    )
else:
    import limits
    import raw_sqlite as raw
    from places import WORKSPACE, processor_seconds
    from workloads import GREETINGS, PATIENCE, Case, Measured, expect, hello_sequence, stored, warmed_up

from tests.waiting import until  # where it is found, `places` has seen to

CHILD: Final = Path(__file__).with_name("child.py")
WOKEN: Final = 100


class Child:
    """`child.py`, running. `ask` sends a line and waits for the answer."""

    def __init__(self, place: Place, arguments: Sequence[str]) -> None:
        where = {"DURABLE_URL": place.store, "DURABLE_WORKSPACE": WORKSPACE}
        if place.events is not None:
            where["DURABLE_EVENTS_URL"] = place.events
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), *arguments],
            env={**os.environ, **where},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str = "") -> dict[str, Any]:
        """Its next answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"child.py ended with code {self._process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """Its stdin ends, so it drains and ends; no longer than PATIENCE."""
        try:
            self._process.communicate(timeout=PATIENCE)
        finally:
            self._process.kill()


@contextmanager
def _workers(place: Place, count: int) -> Iterator[list[Child]]:
    """So many worker processes that serve, and know of each other."""
    with ExitStack() as stack:
        children: list[Child] = []
        for _ in range(count):
            children.append(Child(place, ["serve", "eager" if place.eager else "broker"]))
            stack.callback(children[-1].close)
        for child in children:
            child.ask()
        yield children


def _wait_until_shared(client: durable.Client, workers: int) -> None:
    """Until each worker has beaten twice since all were there: then each has seen the others, and has its share."""
    first: dict[str, int] = {}

    def are_shared() -> bool:
        beats: list[Beat] = client.backend.membership.members()
        if len(beats) != workers:
            return False
        first.update({} if first else {beat.incarnation: beat.counter for beat in beats})
        return all(beat.counter >= first.get(beat.incarnation, beat.counter) + 2 for beat in beats)

    until(are_shared, f"{workers} workers know of each other", PATIENCE)


# ---- the rows


def processes(count: int, warm_up: int, workers: int) -> Case:
    """Sequences a second, started in bulk by this process and run by so many others."""

    def product(place: Place) -> Measured:
        with (
            _workers(place, workers),
            durable.connect(place.store, events=place.events, workspace=WORKSPACE) as client,
        ):
            if workers > 1:
                _wait_until_shared(client, workers)
            warmed_up(client, warm_up)
            begun = time.perf_counter()
            handles = client.start_many(hello_sequence, [None] * count)
            results = [handle.result(PATIENCE) for handle in handles]
            seconds = time.perf_counter() - begun
        expect([r for r in results if r != GREETINGS], [])
        return Measured({"rate": count / seconds}, stored(place))

    def limit(place: Place) -> Measured:
        written = limits.sequences(place, "many", count, warm_up, apart=True)
        return Measured({"rate": count / written.seconds}, written.stored)

    return Case(product, limit)


def parked(count: int, warm_up: int) -> Case:
    """Seconds until so many instances wait for an event; memory and threads then; seconds to wake one."""

    def product(place: Place) -> Measured:
        child = Child(place, ["park", str(count), str(min(count, WOKEN)), str(warm_up)])
        try:
            figures = child.ask()
        finally:
            child.close()
        return Measured({name: float(value) for name, value in figures.items()}, stored(place))

    def limit(place: Place) -> Measured:
        parking, waking = raw.parked(count, min(count, WOKEN))
        written = raw.write(place.path, raw.sequences_in_bulk(warm_up), [*parking, *waking])
        woken = written.each[len(parking) :]
        wake = median(put + taken for put, taken in zip(woken[::2], woken[1::2], strict=True))
        return Measured({"seconds": sum(written.each[: len(parking)]), "wake": wake}, written.stored)

    return Case(product, limit)


def idle(seconds: float, warm_up: int) -> Case:
    """Of a worker with nothing to do, a minute: processor seconds, its own and the servers', and what it asks them."""

    def product(place: Place) -> Measured:
        with _workers(place, 1) as [worker]:
            with durable.connect(place.store, events=place.events, workspace=WORKSPACE) as client:
                warmed_up(client, warm_up)
            before = _asked(place)
            used = worker.ask(str(seconds))
            after = _asked(place)
        a_minute = 60 / used["seconds"]
        figures = {name: (value - before[name]) * a_minute for name, value in after.items()}
        return Measured({"cpu": used["cpu"] * a_minute, **figures})

    return Case(product, None)


def _asked(place: Place) -> dict[str, float]:
    """Commands that Redis has run, messages that RabbitMQ has got, and the processor seconds of both."""
    found: dict[str, float] = {}
    if place.redis is not None:
        from redis import Redis

        with Redis.from_url(place.store) as redis:
            stats: dict[str, dict[str, int]] = redis.info("commandstats")
        ours = ("cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello")
        found["commands"] = sum(stat["calls"] for name, stat in stats.items() if name not in ours)
        found["redis_cpu"] = processor_seconds(place.redis)
    if place.rabbitmq is not None:
        counters = place.rabbitmq.control("eval", "rabbit_global_counters:overview().")
        found["publishes"] = sum(map(int, re.findall(r"messages_received_total => (\d+)", counters)))
        found["rabbitmq_cpu"] = processor_seconds(place.rabbitmq)
    return found
