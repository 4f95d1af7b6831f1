"""Where the engine's thread spends its time while hello sequences run; the profiler makes it 2 to 3 times slower.

    python tests/benchmarks/profile_turns.py [--sequences 4000] [--one-by-one] [--sort tottime] [--dir FOLDER]

A folder in memory (/dev/shm) leaves the disk out and shows Python's part alone.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from typing import TYPE_CHECKING

import durable
from durable.runtime.engine_thread import EngineThread

if TYPE_CHECKING:
    from tests.benchmarks.workloads import hello_sequence
else:
    from workloads import hello_sequence


def main() -> None:
    parser = argparse.ArgumentParser(description="where the engine's thread spends its time")
    parser.add_argument("--sequences", type=int, default=4_000)
    parser.add_argument("--one-by-one", action="store_true", help="start them one by one")
    parser.add_argument("--sort", default="tottime", choices=("tottime", "cumtime"))
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--dir", default=".", metavar="FOLDER")
    arguments = parser.parse_args()
    profile = cProfile.Profile()
    drive = EngineThread._drive

    def profiled(self: EngineThread) -> None:
        profile.runcall(drive, self)

    EngineThread._drive = profiled  # type: ignore[method-assign]
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder,
        durable.connect(f"sqlite:///{folder}/profile.db") as client,
        durable.Worker(client),
    ):
        begun = time.perf_counter()
        if arguments.one_by_one:
            handles = [client.start_orchestration(hello_sequence) for _ in range(arguments.sequences)]
        else:
            handles = client.start_many(hello_sequence, [None] * arguments.sequences)
        for handle in handles:
            handle.result(600)
        seconds = time.perf_counter() - begun
    print(
        f"{arguments.sequences:,} sequences in {seconds:.2f} s, profiled: {arguments.sequences / seconds:,.0f} a second"
    )
    pstats.Stats(profile).strip_dirs().sort_stats(arguments.sort).print_stats(arguments.lines)


if __name__ == "__main__":
    main()
