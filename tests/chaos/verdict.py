"""What is wrong once everything has finished, or will not, and the figures; read through the public client."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Final

import durable
from durable.model.names import partition_of
from tests.chaos import account, programs
from tests.chaos.fleet import TAKEOVER, Blow, takeovers
from tests.chaos.load import Load
from tests.chaos.places import Place

_OVERLOADED: Final = 1.0  # seconds that half of all instances take, where 0.1 would do
_EMPTY_WITHIN: Final = 15.0


class Verdict:
    """folder: where the ledger is. prompt: whether partitions must have been taken over in time; with servers that are
    hurt nobody can promise that."""

    def __init__(self, client: durable.Client, load: Load, folder: Path, prompt: bool) -> None:
        self.client = client
        self.load = load
        self.folder = folder
        self.prompt = prompt
        self.wrong: list[str] = []
        self.figures: list[str] = []

    def judge(self, blows: Sequence[Blow], over_at: float) -> None:
        """over_at: when the load ended, in POSIX seconds."""
        statuses = self._results()
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda instance: account.read(self.client, instance), statuses))
        for instance, one in zip(statuses, read, strict=True):
            self.wrong += one.odd
            attempts = self.load.expected[instance].attempts
            if len(one.outcomes) != attempts:
                self.wrong.append(f"{instance}: {len(one.outcomes)} attempts, but plain Python says {attempts}")
        self._attempts(read)
        self._listed(read)
        ends = {i: status.completed_at.timestamp() for i, status in statuses.items() if status.completed_at}
        took = [ends[i] - status.created_at.timestamp() for i, status in statuses.items() if i in ends]
        self.figures.append(f"{len(statuses)} instances, {spread(took)} from start to end")
        if self.prompt and took and median(took) > _OVERLOADED:
            self.prompt = False
            self.figures.append("the machine is overloaded: how soon partitions were taken over is not judged")
        self._takeovers(blows, [turn for one in read for turn in one.turns], over_at)
        late = [at - ends[i] for i, at in self.load.returned.items() if i in ends]
        self.figures.append(f"result() of {len(late)}: {spread(late)} after the end")

    def _results(self) -> dict[str, durable.OrchestrationStatus]:
        found: dict[str, durable.OrchestrationStatus] = {}
        for instance, (output, _) in self.load.expected.items():
            status = self.client.get_status(instance)
            if status is None:
                self.wrong.append(f"{instance}: lost")
                continue
            found[instance] = status
            if not status.runtime_status.finished:
                self.wrong.append(f"{instance}: stuck, {status.runtime_status.name}")
            elif status.output != output:
                self.wrong.append(f"{instance}: {status.output} {status.failure}, but plain Python says {output}")
        return found

    def _attempts(self, read: Sequence[account.Account]) -> None:
        outcomes: Counter[str] = Counter()
        recorded: dict[str, float] = {}
        for one in read:
            outcomes.update(one.outcomes)  # `+=` looks at all of them each time
            recorded |= one.recorded
        entries = programs.entries(self.folder)
        ran = programs.runs(entries)
        self.wrong += account.disagreements(outcomes, ran)
        again = Counter({key: n - 1 for key, n in ran.items() if n > 1})
        late = [entry for entry in entries if entry.at > recorded.get(entry.attempt, math.inf) + 0.5]
        self.figures.append(
            f"{len(ran)} attempts of activities, {again.total()} runs more than one each (one at most "
            f"{max(again.values(), default=0)} times), {len(late)} after the outcome was recorded"
        )

    def _listed(self, read: Sequence[account.Account]) -> None:
        """Every instance, children too, stands in the listing once, and as completed."""
        there = {instance for one in read for instance in one.instances}
        listed: Counter[str] = Counter()
        cursor: str | None = None
        while True:
            page = self.client.list_orchestrations(limit=500, cursor=cursor)
            for status in page.items:
                listed[status.instance_id] += 1
                if status.runtime_status is not durable.RuntimeStatus.COMPLETED:
                    self.wrong.append(f"{status.instance_id} is listed as {status.runtime_status.name}")
            cursor = page.cursor
            if cursor is None:
                break
        self.wrong += [f"{instance} is listed {n} times" for instance, n in listed.items() if n > 1]
        self.wrong += [f"{instance} is not listed" for instance in there - listed.keys()]
        self.wrong += [f"{instance} is listed, and nobody has started it" for instance in listed.keys() - there]

    def _takeovers(self, blows: Sequence[Blow], turns: Sequence[account.Turn], over_at: float) -> None:
        """For each partition of a worker that was hit: how long until one of its instances had a turn."""
        by_partition: dict[int, list[float]] = defaultdict(list)
        partitions = self.client.backend.store.partitions
        for turn in turns:
            by_partition[partition_of(turn.instance_id, partitions)].append(turn.at)
        gaps: dict[str, list[float]] = defaultdict(list)
        for number, times in by_partition.items():
            hits = [blow for blow in blows if number in blow.partitions]
            for blow, gap in takeovers(hits, sorted(times), over_at):
                gaps[blow.kind].append(gap)
                if gap > TAKEOVER[blow.kind] and self.prompt:
                    self.wrong.append(
                        f"partition {number} stood still for {gap:.1f} s after worker {blow.pid} was {blow.kind} at "
                        f"{time.strftime('%H:%M:%S', time.localtime(blow.at))}"
                    )
        for kind, some in gaps.items():
            self.figures.append(f"{len(some)} partitions of {kind} workers: {spread(some)} until the next turn")


def left(client: durable.Client, place: Place, folder: Path) -> Iterator[str]:
    """Rows and messages that are left although everything has finished."""
    store = client.backend.store
    deadline = time.monotonic() + _EMPTY_WITHIN
    while True:
        rows = [row for n in range(store.partitions) for row in store.due(n, "default", math.inf, 1000).items]
        messages = {queue: n for queue, n in place.messages().items() if n}
        if not (rows or messages) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    now = time.time()
    for row in rows:
        yield f"a row is left: {row.kind} {row.key}, due in {row.due_at - now:.0f} s, holder {row.holder!r}"
    for queue, n in messages.items():
        yield f"{n} messages are left in queue {queue}"
    if messages:
        (folder / "broker").write_text(place.detail())


def spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "nothing"
    ordered = sorted(seconds)
    return f"p50 {median(ordered):.3f} s, p99 {ordered[int(0.99 * len(ordered))]:.3f} s, max {ordered[-1]:.3f} s"
