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
from typing import Any, Final

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


def rate(client: durable.Client, count: int) -> float:
    """Sequences a second, from before the first start until the last result is here."""
    begun = time.perf_counter()
    for handle in client.start_many(hello_sequence, [None] * count):
        handle.result(PATIENCE)
    return count / (time.perf_counter() - begun)


def measure(count: int, switch: float | None) -> tuple[float, float]:
    """Without, and with a busy thread."""
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as folder,
        durable.connect(f"sqlite:///{Path(folder).resolve()}/store.db") as client,
        durable.Worker(client, registry=app),
    ):
        if switch is not None:
            sys.setswitchinterval(switch)
        rate(client, 100)
        alone = rate(client, count)
        enough.clear()
        spinning.clear()
        handle = client.start_orchestration(busy)
        spinning.wait(PATIENCE)
        beside = rate(client, count)
        enough.set()
        handle.result(PATIENCE)
        return alone, beside


def main() -> None:
    parser = argparse.ArgumentParser(description="what a busy thread costs the engine")
    parser.add_argument("--sequences", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--switch", type=float, nargs="*", default=[None], metavar="SECONDS")
    arguments = parser.parse_args()
    for switch in arguments.switch:
        both = [measure(arguments.sequences, switch) for _ in range(arguments.repeats)]
        alone, beside = (median(rates) for rates in zip(*both, strict=True))
        shown = "the worker's own" if switch is None else f"{switch * 1e3:g} ms"
        print(
            f"hello sequences on SQLite, switch interval {shown}: {alone:,.0f}/s, "
            f"beside a busy thread {beside:,.0f}/s ({beside / alone:.0%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
