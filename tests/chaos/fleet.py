"""Worker processes that are killed, frozen and started again, and who of them had which partition when it happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import durable
from durable.runtime.membership import owned

UNREACHABLE: Final = 4  # the exit status of a worker that could not start because a server was away
TAKEOVER: Final = {"killed": 5.0, "frozen": 20.0}  # seconds, by what happened to the owner
_REAP_SECONDS: Final = 20.0


class Blow(NamedTuple):
    """A worker was hit: when, in POSIX seconds, how, and the partitions that were its own among those that lived."""

    at: float
    kind: str
    pid: int
    partitions: frozenset[int]


def takeovers(blows: Sequence[Blow], turns: Sequence[float], over_at: float) -> list[tuple[Blow, float]]:
    """The blows to the owners of a partition, each with the seconds until its next turn. Where a successor was hit too
    before any turn they count from there; not at all where the load may have ended before the turn was due."""
    last: dict[float, Blow] = {}
    for blow in blows:
        place = bisect_right(turns, blow.at)
        if place < len(turns):
            last[turns[place]] = blow
    return [(blow, at - blow.at) for at, blow in last.items() if blow.at < over_at - TAKEOVER[blow.kind]]


class Fleet:
    """`command` starts a worker. `client` is for looking at the membership only."""

    def __init__(
        self, command: Sequence[str], count: int, folder: Path, client: durable.Client, random: Random
    ) -> None:
        self.command = command
        self.folder = folder
        self.client = client
        self.random = random
        self.blows: list[Blow] = []
        self.odd: list[str] = []  # workers that ended by themselves
        self.started = 0
        self._frozen: set[int] = set()
        self._lock = threading.Lock()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        for _ in range(count):
            self._spawn()

    def _spawn(self) -> None:
        self.started += 1
        with (self.folder / f"worker-{self.started}.log").open("wb") as log:
            worker = subprocess.Popen(
                self.command, cwd=self.folder, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        self._workers[worker.pid] = worker

    # ---- hitting

    def kill(self) -> bool:
        """kill -9 of a random worker; another one is started at once."""
        with self._lock:
            pid = self._hit("killed", signal.SIGKILL)
            self._workers.pop(pid).wait(_REAP_SECONDS)
            self._spawn()
            return True

    def freeze(self) -> int:
        """SIGSTOP of a random worker, whose pid it returns: it holds all its connections and says nothing."""
        with self._lock:
            pid = self._hit("frozen", signal.SIGSTOP)
            self._frozen.add(pid)
            return pid

    def thaw(self, pid: int) -> None:
        with self._lock:
            self._frozen.discard(pid)
            if pid in self._workers:
                self._workers[pid].send_signal(signal.SIGCONT)

    def _hit(self, kind: str, number: signal.Signals) -> int:
        up = sorted(self._workers.keys() - self._frozen)
        pid = self.random.choice(up)
        partitions = self._partitions_of(pid, up)
        self._workers[pid].send_signal(number)
        self.blows.append(Blow(time.time(), kind, pid, partitions))
        return pid

    def _partitions_of(self, pid: int, up: Sequence[int]) -> frozenset[int]:
        """As the workers themselves will see it once all have noticed who lives."""
        try:
            beats = [beat for beat in self.client.backend.membership.members() if beat.pid in up]
        except durable.StoreError:
            return frozenset()
        mine = next((beat for beat in beats if beat.pid == pid), None)
        if mine is None:
            return frozenset()  # killed before it had begun
        return frozenset(number for _, number in owned(mine, beats, self.client.backend.store.partitions))

    # ---- looking after

    def serving(self) -> int:
        """How many of them have shown a sign of life."""
        try:
            pids = {beat.pid for beat in self.client.backend.membership.members()}
        except durable.StoreError:
            return 0
        return len(self._workers.keys() & pids)

    def look_after(self) -> None:
        """Whoever ended by itself is started again; why it ended may be wrong."""
        with self._lock:
            for pid, worker in list(self._workers.items()):
                if worker.poll() is not None:
                    del self._workers[pid]
                    if worker.returncode != UNREACHABLE:
                        self.odd.append(f"worker {pid} ended with status {worker.returncode}")
                    self._spawn()

    def dump(self) -> None:
        """Each says in its log what its threads are doing."""
        for worker in self._workers.values():
            worker.send_signal(signal.SIGUSR1)

    def stop(self, seconds: float) -> list[str]:
        """SIGTERM to all; what was not as it must be."""
        for worker in self._workers.values():
            worker.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for pid, worker in self._workers.items():
            try:
                status = worker.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.odd.append(f"worker {pid} did not end within {seconds:g} s of SIGTERM")
            else:
                if status:
                    self.odd.append(f"worker {pid} ended with status {status} after SIGTERM")
        self.close()
        return self.odd

    def close(self) -> None:
        """Nothing of it is left."""
        for worker in self._workers.values():
            worker.kill()
            worker.wait(_REAP_SECONDS)
            assert worker.stdin is not None
            worker.stdin.close()


def end_with_parent() -> None:
    """In a worker: end at once when the process that watches it is gone."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
