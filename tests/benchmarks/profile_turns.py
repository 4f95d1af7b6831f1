"""Where a worker's threads spend their time while hello sequences run; the profiler makes it 2 to 3 times slower.

    python tests/benchmarks/profile_turns.py [--where broker] [--thread rabbitmq] [--sequences 4000] [--one-by-one]

Processor time only: what a thread waits for (the disk, a server, another thread) does not show. A folder in memory
(`--dir /dev/shm`) leaves the disk out and shows Python's part alone.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from typing import TYPE_CHECKING, Any

import durable
from durable.runtime.engine_thread import EngineThread

if TYPE_CHECKING:
    from tests.benchmarks.places import WORKSPACE, Kind, Places
    from tests.benchmarks.rows import HEADINGS
    from tests.benchmarks.workloads import hello_sequence, warmed_up, worker
else:
    from places import WORKSPACE, Kind, Places
    from rows import HEADINGS
    from workloads import hello_sequence, warmed_up, worker


def main() -> None:
    parser = argparse.ArgumentParser(description="where a worker's threads spend their time")
    parser.add_argument("--where", choices=HEADINGS, default="sqlite")
    parser.add_argument("--thread", choices=("engine", "rabbitmq", "redis"), default="engine")
    parser.add_argument("--sequences", type=int, default=4_000)
    parser.add_argument("--one-by-one", action="store_true", help="start them one by one")
    parser.add_argument("--sort", default="tottime", choices=("tottime", "cumtime"))
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--dir", default=".", metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.thread == "engine":
        profiles = _profiled(EngineThread, "_drive")
    elif arguments.thread == "redis":
        from durable.backends.redis_consuming import Consumer

        profiles = _profiled(Consumer, "_run")
    else:
        from durable.backends.rabbitmq_connection import Session

        profiles = _profiled(Session, "_run")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder, Places(folder) as places:
        seconds = _run(places, arguments.where, arguments.sequences, arguments.one_by_one)
    rate = arguments.sequences / seconds
    print(f"{arguments.sequences:,} sequences in {seconds:.2f} s, profiled: {rate:,.0f} a second")
    for profile in profiles:
        pstats.Stats(profile).strip_dirs().sort_stats(arguments.sort).print_stats(arguments.lines)


def _profiled(owner: type, name: str) -> list[cProfile.Profile]:
    """Each thread whose work is this method gets a profile; they are in the list once it has ended."""
    run: Any = getattr(owner, name)
    profiles: list[cProfile.Profile] = []

    def profiled(self: Any) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].runcall(run, self)

    setattr(owner, name, profiled)
    return profiles


def _run(places: Places, where: Kind, sequences: int, one_by_one: bool) -> float:
    with (
        places.place(where) as place,
        durable.connect(place.store, events=place.events, workspace=WORKSPACE) as client,
        worker(client, place.eager),
    ):
        warmed_up(client, 200)
        begun = time.perf_counter()
        if one_by_one:
            handles = [client.start_orchestration(hello_sequence) for _ in range(sequences)]
        else:
            handles = client.start_many(hello_sequence, [None] * sequences)
        for handle in handles:
            handle.result(600)
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()
