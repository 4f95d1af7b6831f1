"""What run.py measures in a process of its own: `python child.py serve|idle|park ...`, told where by DURABLE_URL and
DURABLE_EVENTS_URL. Each answer is a line of JSON; the process ends when its stdin does."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import durable

if TYPE_CHECKING:
    from tests.benchmarks.workloads import waiting, warmed_up, worker
else:
    from workloads import waiting, warmed_up, worker

PATIENCE: Final = 600.0  # seconds


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def serve(eager: bool) -> None:
    """A worker. Each line on stdin is a number of seconds to do nothing: answers the processor seconds it took."""
    with durable.connect() as client, worker(client, eager):
        say(serving=True)
        for line in sys.stdin:
            before, begun = time.process_time(), time.perf_counter()
            threading.Event().wait(float(line))
            say(cpu=time.process_time() - before, seconds=time.perf_counter() - begun)


def park(count: int, woken: int, warm_up: int) -> None:
    """Start so many instances that wait for an event; then what the process holds, and what waking one takes."""
    with durable.connect() as client, worker(client, True):
        warmed_up(client, warm_up)
        threads, memory = threading.active_count(), _resident()
        begun = time.perf_counter()
        ids = [handle.instance_id for handle in client.start_many(waiting, [None] * count)]
        client.wait(ids[-1], PATIENCE, until="started")
        while pending := client.list_orchestrations(status="PENDING", limit=1_000).items:
            for status in pending:
                client.wait(status.instance_id, PATIENCE, until="started")
        seconds = time.perf_counter() - begun
        held = {"memory": _resident(), "threads": threading.active_count(), "memory_before": memory}
        took = []
        for instance in ids[:: max(1, count // woken)][:woken]:
            begun = time.perf_counter()
            client.raise_event(instance, "go", 1)
            result = client.handle(instance).result(PATIENCE)
            took.append(time.perf_counter() - begun)
            if result != 1:
                raise RuntimeError(f"the benchmark got {result!r} instead of 1")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        say(seconds=seconds, wake=median(took), peak=peak, threads_before=threads, **held)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2] == "eager")
    else:
        park(*map(int, sys.argv[2:]))
