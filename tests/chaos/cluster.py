"""Workers on real servers under a steady load, while workers or servers are hurt; then see that all is right.

    python tests/chaos/cluster.py --place rabbitmq --fault worker-kill --seconds 60
    python tests/chaos/cluster.py --place rabbitmq --fault worker-kill=300 --fault rabbit-kill=30

A fault with a number happens so often, and the load lasts until then; without one it happens for --seconds. Places:
places.py. Faults: of workers, worker-kill (kill -9 of a random one every second, another one is started at once) and
worker-freeze (SIGSTOP for 8 s); of servers, harms.py: -kill, -freeze, -cut (off from the workers, an answer in its
middle too), redis-memory and redis-disk (full), rabbit-memory and rabbit-disk (alarms), queues-deleted.

In the end every instance must have finished with the result and the number of attempts that plain Python says, every
history must hold each outcome once, `durable doctor` must have had nothing to say within 30 s of the last fault,
nothing may be left in the store or on the broker, and partitions must have been taken over in time. Exit status 1 when
anything is wrong, or when faults or load were less than was asked; the folder with what the workers said is kept then.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import durable
from tests.chaos import fleet, places
from tests.chaos.faults import Faults, of_workers
from tests.chaos.load import Load
from tests.chaos.outcome import WELL_WITHIN, Outcome, complaint
from tests.chaos.places import WORKSPACE
from tests.chaos.verdict import Verdict, left
from tests.waiting import until

OF_WORKERS: Final = ("worker-kill", "worker-freeze")
STALLED: Final = 45.0  # seconds without any instance finishing, after the load: what is open then is stuck
LOGGED: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


def work(url: str, events: str, eager: str) -> int:
    """A worker until SIGTERM, or until the process that watches it ends."""
    fleet.end_with_parent()
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.WARNING, format=LOGGED)
    try:
        with durable.connect(url, events=events, workspace=WORKSPACE) as client:
            durable.Worker(client, eager_activities={"True": True, "False": False}.get(eager), shutdown_grace=5).run()
    except (durable.StoreError, durable.TransportError) as error:
        logging.warning("this worker can't work: %s", error)
        return fleet.UNREACHABLE
    return 0


class Plan(NamedTuple):
    """faults: how often each; 0 is for as long as the load lasts. seconds: of the load; with numbers, at most."""

    place: str
    faults: Mapping[str, int]
    seconds: float
    rate: float = 40
    workers: int = 4
    partitions: int = 16
    seed: int = 1
    quiet: bool = False


class Run:
    """Servers, workers, a load, faults; then the verdict."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.wrong: list[str] = []
        self.figures: list[str] = []
        self.doctor_after = 0.0

    def run(self) -> Outcome:
        plan, random = self.plan, Random(self.plan.seed)
        wanted = places.Wanted(plan.partitions, places.needs_wires(plan.faults), Random(random.random()))
        with ExitStack() as closing:
            place = closing.enter_context(places.PLACES[plan.place](wanted))
            client, theirs = (
                closing.enter_context(durable.connect(url, events=events, workspace=WORKSPACE))
                for url, events in (place.way, place.theirs)
            )
            command = [sys.executable, os.path.abspath(__file__), "--work", *place.theirs, str(place.eager)]
            workers = fleet.Fleet(command, plan.workers, self.folder, client, Random(random.random()))
            closing.callback(workers.close)
            seats = 1 if client.backend.membership.exclusive else plan.workers
            until(lambda: workers.serving() == seats, "all workers serve")
            load = Load(theirs, plan.rate, Random(random.random()))
            closing.callback(load.give_up)
            faults = Faults({**of_workers(workers), **place.harms}, plan.faults, random)
            over_at = self._live(load, faults, workers)
            self.wrong += faults.broken
            self._get_well(place, faults.last if faults.reached else time.monotonic(), workers)
            self._finish(load, client, workers)
            prompt = place.quick and set(OF_WORKERS).issuperset(plan.faults)
            verdict = Verdict(client, load, self.folder, prompt)
            verdict.judge(workers.blows, over_at)
            self.wrong += [*verdict.wrong, *left(client, place, self.folder)]
            if said := complaint(*place.theirs, WORKSPACE):
                self.wrong.append(f"in the end durable doctor says: {said}")
            self.wrong += workers.stop(15)
            self.figures += [*verdict.figures, f"{load.repeated} calls of the client tried again", *self._said()]
        planned = {fault: times for fault, times in plan.faults.items() if times}
        return Outcome(
            planned, faults.reached, load.asked, len(load.expected), self.wrong, self.figures, self.doctor_after
        )

    def _live(self, load: Load, faults: Faults, workers: fleet.Fleet) -> float:
        """Returns when the load ended, in POSIX seconds."""
        enough, over = threading.Event(), threading.Event()
        loading = threading.Thread(target=load.run, args=(enough,), daemon=True)
        waiting = [threading.Thread(target=load.wait_for_some, args=(over,), daemon=True) for _ in range(4)]
        hurting = threading.Thread(target=faults.run, daemon=True)
        for thread in (loading, *waiting, hurting):
            thread.start()
        began = time.monotonic()
        counted = all(self.plan.faults.values()) and bool(self.plan.faults)
        while time.monotonic() < began + self.plan.seconds and not (counted and faults.done()):
            time.sleep(0.2)
            workers.look_after()
            self._say(load, faults)
        over_at = time.time()
        faults.over.set()
        hurting.join(60)
        enough.set()
        loading.join(30)
        over.set()
        for thread in waiting:
            thread.join(20)
        return over_at

    def _say(self, load: Load, faults: Faults) -> None:
        if not self.plan.quiet and sys.stderr.isatty():
            done = ", ".join(f"{fault} {n}" for fault, n in faults.reached.items())
            print(f"\r{len(load.expected)} started; {done}   ", end="", file=sys.stderr, flush=True)

    def _get_well(self, place: places.Place, last: float, workers: fleet.Fleet) -> None:
        """Until `durable doctor` has nothing to say. last: when the last fault was over, on the monotonic clock."""
        self.doctor_after = time.monotonic() - last  # late where a busy machine needs long to end the load
        while said := complaint(*place.theirs, WORKSPACE):
            if time.monotonic() > last + WELL_WITHIN:
                self.wrong.append(f"{WELL_WITHIN:g} s after the last fault durable doctor says: {said}")
                return
            workers.look_after()
            time.sleep(0.5)
        self.figures.append(
            f"durable doctor, asked from {self.doctor_after:.1f} s after the last fault on, had nothing to say after "
            f"{time.monotonic() - last:.1f} s"
        )

    def _finish(self, load: Load, client: durable.Client, workers: fleet.Fleet) -> None:
        """Until all have finished, or none does any more."""
        began = moved = time.monotonic()
        still = list(load.expected)
        while still and time.monotonic() - moved < STALLED:
            remaining = list(unfinished(client, still))
            if len(remaining) < len(still):
                still, moved = remaining, time.monotonic()
            workers.look_after()
            time.sleep(0.1)
        if still:
            workers.dump()
            self.figures.append(f"{len(still)} STUCK")
        else:
            self.figures.append(f"all finished {moved - began:.1f} s after that")

    def _said(self) -> Iterator[str]:
        """What the workers logged, without what differs from line to line."""
        lines: Counter[str] = Counter()
        for log in self.folder.glob("worker-*.log"):
            for line in log.read_text(errors="replace").splitlines():
                words = line.split(" ", 2)
                if len(words) == 3 and words[0][:2] == "20":
                    lines[words[2][:150]] += 1
                elif line.startswith("Traceback"):
                    self.wrong.append(f"a traceback in {log.name}")
        for line, n in lines.most_common(12):
            yield f"workers said {n} times: {line}"


def unfinished(client: durable.Client, instances: Sequence[str]) -> Iterator[str]:
    """Those of them that have not finished, as far as can be told now."""
    for n in range(0, len(instances), 1000):
        some = instances[n : n + 1000]
        try:
            found = client.backend.store.summaries(some)
        except durable.StoreError:
            found = [None] * len(some)
        yield from (i for i, s in zip(some, found, strict=True) if s is None or not s.status.finished)


def run(plan: Plan) -> Outcome:
    """One run, in a folder of its own, which is kept when anything is wrong; prints what there is to tell."""
    folder = Path(tempfile.mkdtemp(prefix="durable-cluster-"))
    logging.basicConfig(filename=folder / "client.log", format=LOGGED, force=True)
    began = time.monotonic()
    outcome = Run(plan, folder).run()
    wanted = ", ".join(f"{fault} {times or ''}".strip() for fault, times in plan.faults.items()) or "no fault"
    print(f"\n{plan.place}: {wanted}; {plan.rate:g}/s, {plan.workers} workers, seed {plan.seed}")
    for fault, n in outcome.reached.items():
        print(f"  {fault}: {n}")
    for figure in (f"{outcome.started} of {outcome.asked} instances started", *outcome.figures):
        print(f"  {figure}")
    print(f"{outcome.verdict} after {time.monotonic() - began:.0f} s", *outcome.missing(), sep="\n  ")
    if outcome.wrong:
        (folder / "wrong").write_text("\n".join(outcome.wrong))
        print(*(f"  {example}" for example in some_of_each_kind(outcome.wrong)), sep="\n")
        print(f"what is left of it: {folder}")
    else:
        shutil.rmtree(folder)
    return outcome


def some_of_each_kind(wrong: Sequence[str]) -> Iterator[str]:
    """Three examples of what differs in names and numbers only."""
    shown: Counter[str] = Counter()
    for text in wrong:
        kind = " ".join(word for word in text.split() if word.isalpha())
        shown[kind] += 1
        if shown[kind] <= 3:
            yield text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", choices=places.PLACES, default="rabbitmq")
    parser.add_argument("--fault", action="append", metavar="NAME[=TIMES]", help="or all, or none; several for several")
    parser.add_argument("--seconds", type=float, help="how long the load lasts: 60, or at most 600 with TIMES")
    parser.add_argument("--rate", type=float, default=200, help="orchestrations started a second")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        return work(*given.work)
    there = [*OF_WORKERS, *places.FAULTS[given.place]]
    asked = dict(fault.partition("=")[::2] for fault in given.fault or ["all"])
    if "all" in asked:
        asked = {**dict.fromkeys(there, asked.pop("all")), **asked}
    asked.pop("none", None)
    if missing := set(asked).difference(there):
        parser.error(f"--place {given.place} has no {', '.join(sorted(missing))}; it has {', '.join(there)}")
    faults = {fault: int(times or 0) for fault, times in asked.items()}
    seconds = given.seconds or (600 if any(faults.values()) else 60)
    fixed = given.rate, given.workers, given.partitions, given.seed, given.quiet
    return int(run(Plan(given.place, faults, seconds, *fixed)).verdict != "all right")


if __name__ == "__main__":
    sys.exit(main())
