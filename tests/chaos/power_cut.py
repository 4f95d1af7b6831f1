"""Cut the power of a SQLite store at each place of its life, and see that what was confirmed is there and goes on.

    python tests/chaos/power_cut.py --images 500 --seed 1

A worker in a process of its own runs eight kinds of programs; its file and log are copied. From the copies come images
of what a disk may hold after a power cut (wal.py): half of them cut behind each frame of a stretch of the log, the
others within a frame, with a frame missing, or within a checkpoint. Of each image must hold:

1. SQLite opens it, and `integrity_check` finds nothing.
2. Each history is the beginning of what it became in the life that went on, byte by byte.
3. What the store confirmed when its log had n frames is in each image of n frames: starts, events, and the activities
   that had begun to run.
4. Its rows are those of its histories: a task or timer has one exactly while it is open.
5. A worker brings everything to the end that plain Python says, in as many attempts, and runs nothing again that has
   an outcome.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import durable
from tests.chaos import account, kill, programs, wal
from tests.chaos.outcome import Outcome

OPEN: Final = 8  # instances at once, about
PATIENCE: Final = 60.0
STRETCH: Final = 8  # frames, at least
OF_ONE_LIFE: Final = 500  # images: the log is restarted after some thousand frames

Rows = dict[str, list[tuple[int, bytes]]]  # stored histories, by execution


class Recorded(NamedTuple):
    """What is known of a life: what must come of each instance, what each event is, and the histories in the end.

    confirmed: how many frames the log had at most when the start of an instance, an event or the call of an activity
    was known to be durable; what was so before the stretch has 0, what became so after it is not there.
    """

    expected: dict[str, programs.Expected]
    events: dict[str, tuple[str, int]]
    confirmed: dict[str, int]
    histories: Rows


class Life:
    """A worker process, and a client that starts something whenever too little is going on."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.folder = folder
        self.store = folder / "store.db"
        self.random = random
        self.client = kill.connect(folder, blobs=False)
        self.expected: dict[str, programs.Expected] = {}
        self.events: dict[str, tuple[str, int]] = {}
        self.confirmed: dict[str, float] = {}  # when, in POSIX seconds
        self.seen: list[tuple[float, wal.Position]] = []

    def live(self, frames: int) -> tuple[wal.Images, Recorded]:
        """Until the log has grown by so many frames, after it was restarted at least once; then to the end."""
        worker = kill.spawn(self.folder, 10_000, 8)
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(over,), daemon=True)
        try:
            self._start()
            watching.start()
            self._go_on(0)
            while True:
                began, before = time.time(), self._copy(worker)
                self._go_on(before.at.frames + frames)
                after = self._copy(worker)
                if after.at.salt == before.at.salt and after.file == before.file:
                    break
            for instance in self.expected:
                self.client.wait(instance, PATIENCE)
        finally:
            over.set()
            watching.join()
            worker.kill()
            worker.communicate()
            self.client.close()
        confirmed = self._by_frames(began, before.at.salt)
        recorded = Recorded(self.expected, self.events, confirmed, stored_histories(self.store))
        return wal.Images(before, after, self.random), recorded

    def _watch(self, over: threading.Event) -> None:
        """What frames there were when: as often as can be."""
        while not over.wait(0.0005):
            self.seen.append((time.time(), wal.position(self.store)))

    def _copy(self, worker: subprocess.Popen[str]) -> wal.Copy:
        worker.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
        copy = wal.copied(self.store)
        worker.send_signal(signal.SIGCONT)
        return copy

    def _go_on(self, frames: int) -> None:
        """Until the log has so many, or is restarted; with 0: until it is restarted."""
        salt = wal.position(self.store).salt
        going: list[str] = []
        while (at := wal.position(self.store)).salt == salt and not 0 < frames <= at.frames:
            going = [instance for instance in going if not self._finished(instance)]
            if len(going) < OPEN:
                going.append(self._start())
            else:
                time.sleep(0.001)

    def _finished(self, instance: str) -> bool:
        status = self.client.get_status(instance, payloads=False)
        return status is not None and status.runtime_status.finished

    def _start(self) -> str:
        program, value = self.random.choice(list(kill.SIZES)), self.random.randrange(1_000)
        size = kill.SIZES[program]
        instance = f"{program.name}-{len(self.expected)}"
        self.expected[instance] = programs.ORACLE[program](value, size)
        self.client.start_orchestration(program, value, size, instance_id=instance)
        self.confirmed[instance] = time.time()
        for n in range(size if program is programs.events else 0):
            event = f"{instance}.{n}"
            self.events[event] = (instance, n)
            self.client.raise_event(instance, "add", n, event_id=event)
            self.confirmed[event] = time.time()
        return instance

    def _by_frames(self, began: float, salt: bytes) -> dict[str, int]:
        known = {**self.confirmed, **{entry.attempt: entry.at for entry in programs.entries(self.folder)}}
        found: dict[str, int] = {}
        for what, at in known.items():
            if at < began:
                found[what] = 0
            elif (place := bisect_left(self.seen, (at,))) < len(self.seen) and self.seen[place][1].salt == salt:
                found[what] = self.seen[place][1].frames
        return found


def stored_histories(store: Path) -> Rows:
    """By execution, as they are stored."""
    found: Rows = {}
    with closing(sqlite3.connect(store)) as connection:
        for execution, start, events in connection.execute(
            "SELECT execution_id, start, events FROM history ORDER BY execution_id, start"
        ):
            found.setdefault(execution, []).append((start, events))
    return found


# ---- after the power cut


class Survivor:
    """A store on the disk that the power cut left, in a folder that is the working directory."""

    def __init__(self, image: wal.Image, recorded: Recorded, folder: Path) -> None:
        self.image = image
        self.recorded = recorded
        self.folder = folder
        self.store = folder / "store.db"
        image.write(self.store)

    def wrong(self) -> Iterator[str]:
        with closing(kill.connect(self.folder, blobs=False)) as client:
            yield from self._not_whole()
            yield from self._not_a_beginning()
            there = [i for i in self.recorded.expected if client.get_status(i) is not None]
            read = {instance: account.read(client, instance) for instance in there}
            lost = list(self._lost(client, read))
            yield from lost
            yield from self._rows_at_odds(client, read)
            if lost:
                return  # somebody would wait for it
            had = {attempt for one in read.values() for attempt in one.outcomes}
            yield from self._brought_to_the_end(client, there, had)

    def _not_whole(self) -> Iterator[str]:
        with closing(sqlite3.connect(self.store)) as connection:
            for (said,) in connection.execute("PRAGMA integrity_check"):
                if said != "ok":
                    yield f"integrity_check: {said}"

    def _not_a_beginning(self) -> Iterator[str]:
        for execution, rows in stored_histories(self.store).items():
            if self.recorded.histories.get(execution, [])[: len(rows)] != rows:
                yield f"the history of execution {execution} is no beginning of what it became"

    def _confirmed(self) -> Iterator[str]:
        """What must be there."""
        return (what for what, frames in self.recorded.confirmed.items() if frames <= self.image.frames)

    def _lost(self, client: durable.Client, read: Mapping[str, account.Account]) -> Iterator[str]:
        scheduled = {attempt for one in read.values() for attempt in one.scheduled}
        raised = {*self._in_inboxes()}
        for instance in read:
            raised |= {(instance, event.input) for event in client.history(instance) if event.type == "EventRaised"}
        for what in self._confirmed():
            if what in self.recorded.expected:
                there = what in read
            elif what in self.recorded.events:
                there = self.recorded.events[what] in raised
            else:
                there = what in scheduled
            if not there:
                yield f"{what} was confirmed, and is lost"

    def _in_inboxes(self) -> Iterator[tuple[str, int]]:
        """Events that no turn has taken yet: the instance, and what they bring."""
        with closing(sqlite3.connect(self.store)) as connection:
            for instance, body in connection.execute("SELECT instance_id, body FROM rows WHERE kind = 'inbox'"):
                if b"EventRaised" in body:
                    yield instance, json.loads(body)["input"]

    def _rows_at_odds(self, client: durable.Client, read: Mapping[str, account.Account]) -> Iterator[str]:
        """Tasks and timers that are open without a row, or have a row and are not open."""
        with closing(sqlite3.connect(self.store)) as connection:
            rows = {key for (key,) in connection.execute("SELECT key FROM rows WHERE kind IN ('task', 'timer')")}
        work = {key for one in read.values() for key in one.open}
        yield from (f"{key} is open and has no row" for key in work - rows)
        yield from (f"{key} has a row and is not open" for key in rows - work)

    def _brought_to_the_end(self, client: durable.Client, there: Sequence[str], had: Collection[str]) -> Iterator[str]:
        confirmed = set(self._confirmed())
        with durable.Worker(client, shutdown_grace=0):
            for event, (instance, n) in self.recorded.events.items():
                if instance in there and event not in confirmed:  # whoever sent it does not know, and does it again
                    with suppress(durable.InstanceFinishedError):
                        client.raise_event(instance, "add", n, event_id=event)
            for instance in there:
                output, attempts = self.recorded.expected[instance]
                try:
                    found = client.handle(instance).result(PATIENCE)
                except (durable.TimeoutError, durable.OrchestrationFailedError) as error:
                    yield f"{instance} did not finish: {error!r}"
                    continue
                if found != output:
                    yield f"{instance}: {found}, but plain Python says {output}"
                read = account.read(client, instance)
                yield from read.odd
                if len(read.outcomes) != attempts or read.outcomes.total() != attempts:
                    yield f"{instance}: {read.outcomes}, but plain Python says {attempts} attempts"
        for entry in programs.entries(self.folder):
            if entry.attempt in had:
                yield f"{entry.attempt} ran again although it had an outcome"


def survived(image: wal.Image, recorded: Recorded) -> list[str]:
    """What is wrong with what came out of one power cut; its folder is kept then."""
    folder = Path(tempfile.mkdtemp(prefix="durable-power-cut-"))
    os.chdir(folder)
    try:
        wrong = list(Survivor(image, recorded, folder).wrong())
    except (durable.DurableError, sqlite3.Error) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    os.chdir("/")
    if wrong:
        kept = folder / "as-it-was"
        kept.mkdir()
        image.write(kept / "store.db")
        return [f"{image.what}: {what} ({folder})" for what in wrong]
    shutil.rmtree(folder)
    return []


def of_one_life(images: int, random: Random) -> tuple[Counter[str], int, list[str]]:
    """How many images of each kind, instances, and what was wrong with the images."""
    folder = Path(tempfile.mkdtemp(prefix="durable-life-"))
    made, recorded = Life(folder, random).live(max(STRETCH, images // 2))
    shutil.rmtree(folder)
    others = (made.torn, made.with_a_hole, made.in_a_checkpoint)
    every = [*islice(made.at_boundaries(), images // 2)]
    every += [others[n % len(others)]() for n in range(images - len(every))]
    wrong = [what for image in every for what in survived(image, recorded)]
    return Counter(image.kind for image in every), len(recorded.expected), wrong


def run(images: int, seed: int) -> Outcome:
    """Of as many lives as it takes; prints what there is to tell. Folders in which something is wrong are kept."""
    random, began = Random(seed), time.monotonic()
    kinds: Counter[str] = Counter()
    instances = 0
    wrong: list[str] = []
    while kinds.total() < images:
        of_these, lived, odd = of_one_life(min(OF_ONE_LIFE, images - kinds.total()), random)
        kinds += of_these
        instances += lived
        wrong += odd
    outcome = Outcome({"power-cut": images}, {"power-cut": kinds.total()}, instances, instances, wrong, [])
    print(
        f"seed {seed}: {images} images ({', '.join(f'{n} {kind}' for kind, n in kinds.items())}) of the lives of "
        f"{instances} instances, {time.monotonic() - began:.0f} s: {outcome.verdict}",
        *wrong[:20],
        sep="\n",
    )
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return int(run(given.images, given.seed).verdict != "all right")


if __name__ == "__main__":
    sys.exit(main())
