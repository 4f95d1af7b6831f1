"""`python -m durable.testing.simulator`: many lives of a system whose parts fail, each from one number.

A seed decides the programs, the workers, the faults and who acts when. The loops, steps, replays and rows are the
real ones; the disk, the threads, the clock and the network are not. A seed that ends wrong prints the command that
runs it again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random
from typing import Final, NamedTuple
from unittest.mock import patch

from ..engine import triggering
from .planted import PLANTED, planted
from .random_programs import REWOUND, make_script
from .simulated_broker import BROKER_FAULTS
from .simulated_coverage import Met, can_meet
from .simulated_end import check_the_end
from .simulated_judge import Wrong
from .simulated_store import STORE_FAULTS
from .simulated_world import MAIL_FAULTS, MESSAGE_FAULTS, PROCESS_FAULTS, World, make_plan

FAULTS: Final = (*STORE_FAULTS, *PROCESS_FAULTS, *MAIL_FAULTS, *MESSAGE_FAULTS, *BROKER_FAULTS)

LONGER: Final = 5


class Report(NamedTuple):
    """How one seed ended; `wrong` is empty when nothing was. events: published for triggers. met: which faults have met
    rows in which states."""

    seed: int
    wrong: str
    trace_hash: int
    instances: int
    events: int
    steps: int
    faults: Counter[str]
    met: Met


def run_seed(seed: int, *, bug: str = "", trace: bool = False) -> Report:
    """One run. bug: a planted one, by name. trace: print each step."""
    random = Random(seed)
    # Not by chance, which would make other runs of all seeds.
    inline = 30 if seed % 3 == 0 else None
    triggers = seed % 4 == 2
    scripts = [
        make_script(random, random.choice((1, 2, 4, 7)), ticks=triggers) for _ in range(random.choice((1, 1, 2, 3)))
    ]
    patient = seed % 8 == 6
    if patient:
        scripts.append(REWOUND)
    plan = make_plan(random, scripts, faults=random.random() > 0.1, triggers=triggers)
    if patient:  # until what has ended is rewound, and that too meets faults
        plan = plan._replace(heal=plan.heal * LONGER, strikes=[(at * LONGER, kind) for at, kind in plan.strikes])
    # A history of triggers that is soon too long begins anew.
    long = 5_000 if seed % 8 == 2 else triggering._LONG
    with planted(bug) as store_type, patch.object(triggering, "_LONG", long):
        world = World(random, plan, print if trace else None, store_type(plan.partitions), inline)
        if trace:
            print(f"{plan.workers} workers, {plan.partitions} partitions, {plan.settings}")
            for number, script in enumerate(scripts):
                print(f"i{number}: {script}")
        try:
            world.run()
            check_the_end(world)
            wrong = ""
        except Wrong as error:
            wrong = str(error)
    judge = world.store.judge
    instances = len(judge.finished) + len(judge.unfinished)
    events = 0 if world.triggers is None else sum(map(len, world.triggers.published.values()))
    return Report(seed, wrong, world.trace_hash, instances, events, world.steps, world.faults, world.met)


# ---- many of them


class Total(NamedTuple):
    """The sum of many reports."""

    seeds: int
    instances: int
    events: int
    steps: int
    faults: Counter[str]
    met: Met
    wrong: list[Report]


def run_seeds(seeds: Iterable[int], *, bug: str = "", stop_at_first: bool = False) -> Total:
    """Run these seeds in this process."""
    instances = events = steps = count = 0
    faults: Counter[str] = Counter()
    met: Met = set()
    wrong: list[Report] = []
    for seed in seeds:
        report = run_seed(seed, bug=bug)
        count += 1
        instances += report.instances
        events += report.events
        steps += report.steps
        faults += report.faults
        met |= report.met
        if report.wrong:
            wrong.append(report)
            if stop_at_first:
                break
    return Total(count, instances, events, steps, faults, met, wrong)


def add(totals: Sequence[Total]) -> Total:
    """One total of several."""
    faults: Counter[str] = Counter()
    for total in totals:
        faults += total.faults
    return Total(
        sum(total.seeds for total in totals),
        sum(total.instances for total in totals),
        sum(total.events for total in totals),
        sum(total.steps for total in totals),
        faults,
        set().union(*(total.met for total in totals)),
        [report for total in totals for report in total.wrong],
    )


def command(seed: int, bug: str = "") -> str:
    """What to type to see a seed again."""
    return f"python -m durable.testing.simulator --seed {seed}" + (f" --bug {bug}" if bug else "") + " --trace"


def summary_line(total: Total, seconds: float) -> str:
    faults = ", ".join(f"{count:,} {kind}" for kind, count in sorted(total.faults.items()))
    return (
        f"{total.seeds:,} seeds, {total.instances:,} instances, {total.events:,} events, {total.steps:,} steps "
        f"in {seconds:.0f} s ({total.seeds / max(seconds, 0.001):.0f} seeds/s); "
        f"faults: {faults or 'none'}; {len(total.wrong)} wrong"
    )


def coverage_line(total: Total) -> str:
    """Which faults have met rows of work in which states."""
    possible = can_meet(FAULTS)
    never = sorted(f"{fault}: {state}" for fault, state in possible - total.met)
    return f"faults x states of a row: {len(possible) - len(never)} of {len(possible)} pairs have met" + (
        f"; not {', '.join(never[:10])}{', ...' if never[10:] else ''}" if never else ""
    )


def be_quiet() -> None:
    """Log nothing of what is simulated."""
    # What the engine has to say about simulated faults is no news, and writing it costs more than the run.
    logging.getLogger("durable").setLevel(logging.CRITICAL)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m durable.testing.simulator", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, help="run this one seed")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds (default 1000)")
    parser.add_argument("--start", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--bug", choices=sorted(PLANTED), default="", help="plant this bug; the simulator must find it")
    given = parser.parse_args(arguments)
    be_quiet()
    if given.seed is not None:
        report = run_seed(given.seed, bug=given.bug, trace=given.trace)
        print(f"seed {report.seed}: {report.wrong or 'right'} (trace {report.trace_hash:08x})")
        return 1 if report.wrong else 0
    began = time.monotonic()
    total = _in_processes(given.start, given.seeds, given.jobs, given.bug)
    for report in total.wrong[:10]:
        print(f"seed {report.seed} is wrong: {report.wrong}\n    {command(report.seed, given.bug)}")
    print(coverage_line(total))
    print(summary_line(total, time.monotonic() - began))
    return 1 if total.wrong else 0


def _in_processes(start: int, count: int, jobs: int, bug: str) -> Total:
    if jobs <= 1:
        return run_seeds(range(start, start + count), bug=bug)
    size = max(1, min(250, count // jobs))
    chunks = [range(first, min(first + size, start + count)) for first in range(start, start + count, size)]
    with ProcessPoolExecutor(jobs, initializer=be_quiet) as pool:
        return add([*pool.map(partial(run_seeds, bug=bug), chunks)])


if __name__ == "__main__":
    sys.exit(main())
