"""The store of a simulation: the real MemoryStore, some faults in front of it, and a judge behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from ..backends.memory import MemoryStore
from ..model.errors import StoreError
from ..model.status import Summary
from ..ports import (
    Commit,
    Delivered,
    ExecutionKey,
    Fact,
    Lease,
    Outcome,
    Purged,
    Record,
    Row,
    RowKey,
    Slice,
    Want,
)
from .simulated_coverage import About
from .simulated_judge import Judge

Later = Callable[[float, Callable[[], object]], None]
Count = Callable[[str, About], None]


STORE_FAULTS: Final = ("error before", "error after", "unknown done", "unknown not done", "unknown late", "conflict")


class FaultyStore:
    """`durable.ports.Store`, as far as a loop and a client need it. `rates`: chance of each fault, per request."""

    def __init__(self, store: MemoryStore, random: Random, later: Later, count: Count) -> None:
        self.inner = store
        self.partitions = store.partitions
        self.overlaps = store.overlaps
        self.tells = store.tells
        self.rates: dict[str, float] = {}
        self.away = False
        self.judge = Judge()
        self._random = random
        self._later = later
        self._count = count

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        self._fail("error before", _of([want.instance_id for want in wants]))
        return self.inner.load(wants)

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        self._fail("error before", _of(instance_ids))
        return self.inner.summaries(instance_ids)

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        return self.inner.former(instance_ids)

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        self._fail("error before", _named([key.key for key in keys]))
        return self.inner.rows(keys)

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        self._fail("error before", lambda row: row.partition == partition and row.due_at <= until)
        return self.inner.due(partition, group, until, limit, after)

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        about = _named([lease.key for lease in leases])
        self._fail("error before", about)
        answer = self.inner.lease(leases)
        self._fail("error after", about)
        return answer

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        about = _of([fact.instance_id for fact in facts])
        self._fail("error before", about)
        answer = self.inner.deliver(facts)
        self._fail("error after", about)
        return answer

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        about = _of([execution.instance_id for execution in executions])
        self._fail("error before", about)
        answers = self.inner.purge(executions)
        self.judge.purged(key for key, answer in zip(executions, answers, strict=True) if answer is Purged.GONE)
        self._fail("error after", about)
        return answers

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        about = _of([commit.instance_id for commit in commits])
        self._fail("error before", about)
        outcomes = [self._commit(commit) for commit in commits]
        self._fail("error after", about)
        return outcomes

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        """It happens at once or when it is finished: a crash between the two leaves either."""
        if self.rates and self._random.random() < 0.5:
            return lambda: self.commit(commits)
        outcomes = self.commit(commits)
        return lambda: outcomes

    def _commit(self, commit: Commit) -> Outcome:
        if not self.rates:
            return self.apply(commit)
        about = _of([commit.instance_id])
        if self._strikes("unknown not done", about):
            return Outcome.UNKNOWN
        if self._strikes("unknown late", about):
            self._later(self._random.random() * 0.5, lambda: self.apply(commit))
            return Outcome.UNKNOWN
        if self._strikes("conflict", about):
            self._another_owner(commit.instance_id)
        outcome = self.apply(commit)
        return Outcome.UNKNOWN if self._strikes("unknown done", about) else outcome

    def apply(self, commit: Commit) -> Outcome:
        """The commit itself, and the judge's look at it."""
        outcome = self.inner.commit([commit])[0]
        if outcome is Outcome.COMMITTED:
            self.judge.committed(commit)
        return outcome

    def _another_owner(self, instance_id: str) -> None:
        """Somebody else commits a turn that only drops something: the version moves, the history does not."""
        record = self.inner.load([Want(instance_id)])[0]
        if record is not None:
            self.inner.commit([Commit("another", instance_id, 0, record.version, record.summary)])

    def back(self) -> None:
        """It answers again."""
        self.away = False

    def _strikes(self, kind: str, about: About) -> bool:
        rate = self.rates.get(kind)
        if rate is None or self._random.random() >= rate:
            return False
        self._count(kind, about)
        return True

    def _fail(self, kind: str, about: About) -> None:
        if self.away and kind == "error before":
            raise StoreError("simulated: it is away")
        if self.rates and self._strikes(kind, about):
            raise StoreError(f"simulated: {kind}")


def _of(instance_ids: Sequence[str]) -> About:
    return lambda row: row.instance_id in instance_ids


def _named(keys: Sequence[str]) -> About:
    return lambda row: row.key in keys
