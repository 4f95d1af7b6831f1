"""What a thread that keeps a processor busy costs the engine: hello sequences a second on SQLite, with and without one.

    python tests/benchmarks/busy_thread.py [--sequences N] [--repeats N] [--switch SECONDS]

The busy one is an activity of the same worker, in pure Python, which never lets go of the interpreter by itself. The
target is half speed or better. `--switch` tries another `sys.setswitchinterval` than the worker's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import durable

PATIENCE: Final = 60.0
app = durable.Registry()
enough = threading.Event()
spinning = threading.Event()


@app.activity
def hello(city: str) -> str:
    return f"Hello {city}!"


@app.activity
def spin() -> int:
    """Rounds until `enough`."""
    spinning.set()
    rounds = 0
    while not enough.is_set():
        for _ in range(10_000):
            rounds += 1
    return rounds


@app.orchestrator
def hello_sequence(ctx: durable.OrchestrationContext) -> Any:
    found = []
    for city in ("Tokyo", "Seattle", "London"):
        found.append((yield ctx.call_activity(hello, city)))
    return found


@app.orchestrator
def busy(ctx: durable.OrchestrationContext) -> Any:
    return (yield ctx.call_activity(spin))


def rates(client: durable.Client, count: int) -> Rates:
    """From before the first start until the last one has ended, and until the last result is here."""
    begun = time.time()
    handles = client.start_many(hello_sequence, [None] * count)
    for handle in handles:
        handle.result(PATIENCE)
    here = time.time()
    ended = max(s.completed_at.timestamp() for s in client.list_orchestrations(limit=count) if s.completed_at)
    return Rates(count / (ended - begun), count / (here - begun))


class Rates(NamedTuple):
    """Sequences a second."""

    ended: float
    fetched: float


def measure(count: int, switch: float | None) -> tuple[Rates, Rates]:
    """Without, and with a busy thread."""
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as folder,
        durable.connect(f"sqlite:///{Path(folder).resolve()}/store.db") as client,
        durable.Worker(client, registry=app),
    ):
        if switch is not None:
            sys.setswitchinterval(switch)
        rates(client, 100)
        alone = rates(client, count)
        enough.clear()
        spinning.clear()
        handle = client.start_orchestration(busy)
        spinning.wait(PATIENCE)
        beside = rates(client, count)
        enough.set()
        handle.result(PATIENCE)
        return alone, beside


def main() -> None:
    parser = argparse.ArgumentParser(description="what a busy thread costs the engine")
    parser.add_argument("--sequences", type=int, default=1_000, help="at most 1,000, which is one page")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--switch", type=float, nargs="*", default=[None], metavar="SECONDS")
    arguments = parser.parse_args()
    for switch in arguments.switch:
        both = [measure(arguments.sequences, switch) for _ in range(arguments.repeats)]
        shown = "the worker's own" if switch is None else f"{switch * 1e3:g} ms"
        print(f"hello sequences on SQLite, {arguments.sequences:,} by start_many; switch interval: {shown}")
        for figure, said in (("ended", "until the last has ended"), ("fetched", "until all results are fetched")):
            alone, beside = (median(getattr(rates, figure) for rates in some) for some in zip(*both, strict=True))
            print(f"  {said}: {alone:,.0f}/s, beside a busy thread {beside:,.0f}/s ({beside / alone:.0%})", flush=True)


if __name__ == "__main__":
    main()
