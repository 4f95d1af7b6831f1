"""Hurt workers and servers of every kind under a load, and say in a table whether anything was lost or done twice.

    python tests/chaos/plan.py --minutes 10
    python tests/chaos/plan.py                  # the whole plan, some 40 minutes

One round after the other, each with servers of its own. With --minutes every fault happens less often, in proportion,
yet once at least, so that less than 7 are 7. A round in which less than 90% of the planned faults happened, or less
than 95% of the load was there, does not pass. Exit status 1 when any round does not. `make chaos` runs this.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.chaos import cluster, kill, power_cut
from tests.chaos.outcome import Outcome

_ASIDE: Final = 20.0  # seconds of a round in which nothing happens: servers start, histories are read


class Round(NamedTuple):
    """seconds: about how long it takes to do all of it."""

    place: str
    faults: Mapping[str, int]
    seconds: float


class Did(NamedTuple):
    """A round, and what came of it."""

    round: Round
    outcome: Outcome


# Workers alone first: only then can it be asked that others take over in time.
ROUNDS: Final = (
    Round("rabbitmq", {"worker-kill": 120}, 130),
    Round("streams", {"worker-kill": 100}, 110),
    Round("cluster", {"worker-kill": 60, "redis-kill": 15}, 75),
    Round("rabbitmq", {"rabbit-kill": 30, "redis-kill": 20, "worker-kill": 20}, 330),
    Round("streams", {"redis-kill": 25, "queues-deleted": 10}, 120),
    Round("rabbitmq", {"worker-freeze": 8, "rabbit-freeze": 8, "redis-freeze": 8}, 100),
    Round("rabbitmq", {"rabbit-cut": 20, "redis-cut": 20}, 90),
    Round("streams", {"redis-cut": 20, "worker-freeze": 5}, 90),
    Round("rabbitmq", {"rabbit-memory": 10, "rabbit-disk": 4, "redis-memory": 8, "queues-deleted": 5}, 130),
    Round("everysec", {"redis-disk": 10, "redis-memory": 5}, 100),
    Round("streams", {"redis-disk": 6}, 45),
    Round("sqlite", {"disk-full": 20, "worker-freeze": 3}, 130),
    Round("sqlite", {"sqlite-kill": 200}, 120),
    Round("sqlite", {"power-cut": 500}, 100),
)

# Those that need no servers and no fleet have programs of their own.
ALONE: Final[Mapping[str, Callable[[int, int], Outcome]]] = {
    "sqlite-kill": kill.run,
    "power-cut": power_cut.run,
}


def share(minutes: float | None) -> float:
    """Which part of the plan can be done in so many minutes."""
    if minutes is None:
        return 1.0
    return max(0.0, min(1.0, (60 * minutes - _ASIDE * len(ROUNDS)) / sum(each.seconds for each in ROUNDS)))


def scaled(each: Round, part: float) -> Round:
    faults = {fault: max(1, round(part * times)) for fault, times in each.faults.items()}
    return each._replace(faults=faults, seconds=part * each.seconds)


def carry_out(each: Round, seed: int) -> Outcome:
    """It may take three times as long as it should; what has not happened by then does not count."""
    try:
        for fault, times in each.faults.items():
            if fault in ALONE:
                return ALONE[fault](times, seed)
        return cluster.run(cluster.Plan(each.place, each.faults, 3 * each.seconds + 60, seed=seed))
    except Exception as error:
        traceback.print_exc()
        return Outcome(each.faults, {}, 0, 0, [f"{type(error).__name__}: {error}"], [])


def table(done: Sequence[Did]) -> Table:
    shown = Table("where", "what", "planned", "happened", "instances", "verdict")
    for each, outcome in done:
        for n, (fault, planned) in enumerate(each.faults.items()):
            happened = str(outcome.reached.get(fault, 0))
            of_round = ("", "") if n else (f"{outcome.started:,}", outcome.verdict)
            shown.add_row("" if n else each.place, fault, str(planned), happened, *of_round)
    return shown


def totals(done: Sequence[Did]) -> str:
    happened: Counter[str] = Counter()
    for _, outcome in done:
        happened.update(outcome.reached)
    instances = sum(outcome.started for _, outcome in done)
    wrong = sum(len(outcome.wrong) for _, outcome in done)
    faults = ", ".join(f"{fault} {times}" for fault, times in happened.items())
    return f"{happened.total()} faults ({faults}), {instances:,} instances, {wrong} wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="about how long it may take; without, the whole plan")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", type=int, metavar="N", help="the Nth round; several for several")
    given = parser.parse_args()
    part = share(given.minutes)
    began = time.monotonic()
    done: list[Did] = []
    for n, each in enumerate(ROUNDS, 1):
        if given.only is None or n in given.only:
            one = scaled(each, part)
            print(f"\nround {n} of {len(ROUNDS)}, {time.strftime('%H:%M:%S')}", flush=True)
            done.append(Did(one, carry_out(one, given.seed)))
    Console(width=100).print(table(done))
    passed = all(outcome.verdict == "all right" for _, outcome in done)
    print(f"{totals(done)}, {(time.monotonic() - began) / 60:.0f} minutes: {'all right' if passed else 'NO PASS'}")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
