"""Kill -9 a real worker on a real SQLite file, again and again, and see that nothing is lost and nothing happens twice.

    python tests/chaos/kill.py --kills 50 --seed 1 [--blobs]

A worker in a process of its own runs eight kinds of programs. Each activity first writes a line to a ledger that knows
nothing of the store. Once the ledger has grown by a random number of lines the process is killed, and another one goes
on. In the end every output must be what plain Python says, every history must hold each outcome once, every attempt
must have run at least once and at most once more than there were kills, none after its outcome had been recorded. With
--blobs nearly every payload lies outside the store, and when all is purged there must be none left.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import durable
from tests.chaos import account, programs
from tests.chaos.outcome import WELL_WITHIN, Outcome, complaint
from tests.waiting import SOON, until

SIZES: dict[Any, int] = {
    programs.sequence: 8,
    programs.fan_out: 10,
    programs.children: 3,
    programs.timers: 3,
    programs.events: 3,
    programs.late: 1,
    programs.retries: 2,
    programs.rounds: 6,
}


def work(cached: int, slots: int, blobs: bool) -> None:
    """A worker until it is killed, or until the process that watches it ends."""
    client = connect(Path.cwd(), blobs)
    with durable.Worker(client, max_cached_orchestrations=cached, max_concurrent_activities=slots, shutdown_grace=0):
        print("serving", flush=True)
        sys.stdin.read()


def connect(folder: Path, blobs: bool) -> durable.Client:
    if blobs:
        limits = durable.Limits(inline_bytes=4)
        return durable.connect(f"sqlite:///{folder}/store.db", blobs=f"file://{folder}/blobs", limits=limits)
    return durable.connect(f"sqlite:///{folder}/store.db")


def spawn(folder: Path, cached: int, slots: int, blobs: bool = False) -> subprocess.Popen[str]:
    """A worker that serves. Raises AssertionError when it does not."""
    command = [sys.executable, os.path.abspath(__file__), "--work", str(cached), str(slots)]
    command += ["--blobs"] if blobs else []
    worker = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    if worker.stdout.readline() != "serving\n":
        raise AssertionError("the worker did not start; what it said is above")
    return worker


# ---- the killing


class Chaos:
    """The watching process: starts instances, kills workers, and keeps account of what must hold."""

    def __init__(self, folder: Path, seed: int, blobs: bool) -> None:
        self.random = Random(seed)
        self.folder = folder
        self.blobs = blobs
        self.client = connect(folder, blobs)
        self.expected: dict[str, programs.Expected] = {}
        self.open: set[str] = set()
        self.recorded: dict[str, int] = {}  # attempts with an outcome in the store: how often they had run by then
        self.kills = 0

    def lives(self, kills: int) -> None:
        """Start work, let a worker get somewhere, kill it; `kills` times. The last one may finish."""
        while self.kills < kills:
            self.start(self.random.randint(3, 7))
            worker = self.spawn()
            # From a life that ends while it is still finding out what the one before left behind, to one that gets far.
            goal = self.ledger().total() + self.random.choice([0, 1, 5, 20, 40, 60, 80, 100, 150])
            until(lambda: self.ledger().total() >= goal or not self.unfinished())  # noqa: B023  # called at once
            time.sleep(self.random.random() * 0.01)
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
            self.kills += 1
            self.take_stock()
        worker = self.spawn()
        killed = time.monotonic()
        try:
            while said := complaint(f"sqlite:///{self.folder}/store.db", "", "default"):
                assert time.monotonic() < killed + WELL_WITHIN, f"durable doctor says: {said}"
            for instance in self.expected:
                self.client.wait(instance, SOON)
            until(lambda: not self.client.backend.store.due(0, "default", math.inf, 1).items)
        finally:
            worker.kill()
            worker.communicate()

    def start(self, count: int) -> None:
        for _ in range(count):
            program, value = self.random.choice(list(SIZES)), self.random.randrange(1_000)
            size = SIZES[program]
            instance = f"{program.name}-{len(self.expected)}"
            self.expected[instance] = programs.ORACLE[program](value, size)
            self.open.add(instance)
            self.client.start_orchestration(program, value, size, instance_id=instance)
            if program is programs.events:
                for n in range(size):
                    for _ in range(self.random.randint(1, 2)):  # sent twice is sent once
                        self.client.raise_event(instance, "add", n, event_id=f"{instance}.{n}")

    def spawn(self) -> subprocess.Popen[str]:
        cached, slots = self.random.choice([10_000, 10_000, 2, 0]), self.random.choice([2, 8, 32])
        return spawn(self.folder, cached, slots, self.blobs)

    def unfinished(self) -> bool:
        return len(self.client.list_orchestrations(status=["PENDING", "RUNNING"], limit=1)) > 0

    def ledger(self) -> Counter[str]:
        return programs.runs(programs.entries(self.folder))

    def take_stock(self) -> None:
        """After a kill: what has an outcome now must never run again."""
        ran = self.ledger()
        for instance in sorted(self.open):
            for attempt in account.read(self.client, instance).outcomes:
                self.recorded.setdefault(attempt, ran[attempt])
            status = self.client.get_status(instance)
            assert status is not None, f"{instance} is lost"
            if status.runtime_status.finished:
                self.open.discard(instance)

    # ---- the verdict

    def wrong(self) -> list[str]:
        """Everything that is not as it must be."""
        found: list[str] = []
        ran = self.ledger()
        outcomes: Counter[str] = Counter()
        for instance, (expected, attempts) in self.expected.items():
            output = self.client.handle(instance).result(SOON)
            if output != expected:
                found.append(f"{instance}: {output}, but plain Python says {expected}")
            read = account.read(self.client, instance)
            outcomes += read.outcomes
            found += read.odd
            if len(read.outcomes) != attempts:
                found.append(f"{instance}: {len(read.outcomes)} attempts, but plain Python says {attempts}")
        found += account.disagreements(outcomes, ran)
        found += [f"attempt {key} ran {n} times" for key, n in ran.items() if n > 1 + self.kills]
        found += [
            f"attempt {key} ran again after its outcome was recorded"
            for key, n in self.recorded.items()
            if ran[key] != n
        ]
        if self.blobs:
            found += self.left_behind()
        return found

    def left_behind(self) -> list[str]:
        """Blobs that are still there when everything is purged."""

        def blobs() -> list[Path]:
            return [path for path in (self.folder / "blobs").rglob("*") if path.is_file()]

        if not blobs():
            return ["there are no blobs at all"]
        self.client.purge_where()
        return [f"{path} is left" for path in blobs()]

    def summary(self, seconds: float) -> str:
        ran = self.ledger()
        again = {key: n - 1 for key, n in ran.items() if n > 1}
        return (
            f"{self.kills} kills, {len(self.expected)} instances of {len(SIZES)} programs, {len(ran)} attempts of "
            f"activities, {sum(again.values())} of them run again after a kill (one at most "
            f"{max(again.values(), default=0)} times), {len(self.recorded)} recorded outcomes outlived a kill, "
            f"{seconds:.0f} s"
        )


def run(kills: int, seed: int, blobs: bool = False) -> Outcome:
    """One run, in a folder of its own, which is kept when anything is wrong; prints what there is to tell."""
    folder = Path(tempfile.mkdtemp(prefix="durable-kill-"))
    began = time.monotonic()
    chaos = Chaos(folder, seed, blobs)
    try:
        chaos.lives(kills)
        wrong = chaos.wrong()
    except (AssertionError, TimeoutError, durable.DurableError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    chaos.client.close()
    started = len(chaos.expected)
    figures = [chaos.summary(time.monotonic() - began)]
    outcome = Outcome({"sqlite-kill": kills}, {"sqlite-kill": chaos.kills}, started, started, wrong, figures)
    print(f"seed {seed}: {figures[0]}: {outcome.verdict}")
    if wrong:
        print(*wrong[:20], f"what is left of it: {folder}", sep="\n")
    else:
        shutil.rmtree(folder)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 a worker on SQLite, again and again")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blobs", action="store_true", help="keep payloads outside the store")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        cached, slots = options.work
        work(cached, slots, options.blobs)
        return 0
    return int(run(options.kills, options.seed, options.blobs).verdict != "all right")


if __name__ == "__main__":
    sys.exit(main())
