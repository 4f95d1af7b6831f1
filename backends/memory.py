"""`memory://name`: everything in this process's memory. The reference implementation of the ports, and a test double.

It is written to be read: where another store is clever, this one says what is meant. The contract suite compares
every store with it. Data live as long as the process; whoever opens the same name sees the same data.

`MemoryStore` alone has no thread, no clock and no chance in it, so a simulator can replay any run from a seed. Having
no clock, it never forgets the id of a fact, which the ports allow: a fact is remembered *at least* for a while.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from durable.model.errors import StoreError
from durable.model.status import Summary
from durable.ports import (
    PARKED,
    Append,
    Backend,
    Beat,
    Commit,
    Delivered,
    ExecutionKey,
    Fact,
    Lease,
    Membership,
    Outcome,
    Purged,
    Query,
    Record,
    Row,
    RowKey,
    Signals,
    Slice,
    Store,
    Want,
)

from .listing import due_place, encode_due, encode_place, place_of
from .local_signals import LocalSignals


class _Instance(NamedTuple):
    version: int
    commit_id: str
    summary: Summary
    created_at: float  # of the first commit: the instance's place in listings, which never changes


class MemoryStore:
    """`durable.ports.Store` in dicts, safe to call from several threads by one lock."""

    overlaps = False
    tells = False

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self._lock = threading.Lock()
        self._instances: dict[str, _Instance] = {}
        self._history: dict[str, list[tuple[int, bytes]]] = {}
        self._rows: dict[str, Row] = {}
        self._due: dict[tuple[int, str], list[tuple[float, str]]] = {}
        self._inbox: dict[str, set[str]] = {}
        self._seen: dict[str, set[str]] = {}
        self._former: dict[str, list[str]] = {}
        self._purged: set[str] = set()
        self._delivered = 0

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        with self._lock:
            return [self._load(want) for want in wants]

    def _load(self, want: Want) -> Record | None:
        found = self._instances.get(want.instance_id)
        if found is None:
            return None
        history = None
        if found.version != want.known_version:
            history = tuple(events for _, events in self._history.get(found.summary.execution_id, ()))
        # What the engine put there itself comes first: it is older than anything delivered to this execution.
        keys = sorted(self._inbox.get(want.instance_id, ()), key=lambda key: (key.startswith("in/"), key))
        return Record(found.version, found.commit_id, found.summary, history, tuple(self._rows[key] for key in keys))

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        with self._lock:
            rows = self._history.get(execution.execution_id, [])
            first = bisect_left(rows, start, key=lambda row: row[0])
            items = rows[first : first + limit]
            following = rows[first + limit : first + limit + 1]
        return Slice(items, str(following[0][0]) if following else None)

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        with self._lock:
            rows = [self._history.get(execution_id) for _, execution_id in executions]
            return [found[0][1] if found and found[0][0] == 0 else None for found in rows]

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        with self._lock:
            return [self._commit(commit) for commit in commits]

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        outcomes = self.commit(commits)
        return lambda: outcomes

    def _commit(self, commit: Commit) -> Outcome:
        found = self._instances.get(commit.instance_id)
        if (found.version if found else 0) != commit.expect:
            return Outcome.CONFLICT
        if found is None and commit.summary.execution_id in self._purged:
            return Outcome.CONFLICT
        if found is not None and found.summary.execution_id != commit.continues:
            return Outcome.CONFLICT
        if commit.replaces:
            self._seen.pop(commit.instance_id, None)
        for append in commit.appends:
            self._append(append)
        if commit.forgotten:
            self._forget(commit.forgotten)
        elif found is not None and found.summary.execution_id != commit.summary.execution_id:
            self._former.setdefault(commit.instance_id, []).append(found.summary.execution_id)
        created_at = found.created_at if found and not commit.replaces else commit.summary.created_at.timestamp()
        self._instances[commit.instance_id] = _Instance(commit.expect + 1, commit.id, commit.summary, created_at)
        for key in commit.drop:
            self._drop(key)
        for row in commit.put:
            self._put(row)
        return Outcome.COMMITTED

    def _append(self, append: Append) -> None:
        rows = self._history.setdefault(append.execution_id, [])
        if rows and rows[-1][0] >= append.start:
            raise StoreError(f"the history of execution {append.execution_id} already goes beyond event {append.start}")
        rows.append((append.start, append.events))

    def _put(self, row: Row) -> None:
        self._drop(row.key)
        self._rows[row.key] = row
        insort(self._due.setdefault((row.partition, row.group), []), (row.due_at, row.key))
        if row.kind == "inbox":
            self._inbox.setdefault(row.instance_id, set()).add(row.key)

    def _drop(self, key: str) -> None:
        row = self._rows.pop(key, None)
        if row is None:
            return
        due = self._due[row.partition, row.group]
        del due[bisect_left(due, (row.due_at, key))]
        if row.kind == "inbox":
            keys = self._inbox[row.instance_id]
            keys.discard(key)
            if not keys:
                del self._inbox[row.instance_id]

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        with self._lock:
            return [self._deliver(fact) for fact in facts]

    def _deliver(self, fact: Fact) -> Delivered:
        seen = self._seen.get(fact.instance_id, set())
        if fact.id in seen:
            return Delivered.DUPLICATE
        found = self._instances.get(fact.instance_id)
        alive = found is not None and not found.summary.status.finished
        if not alive and not fact.park:
            return Delivered.ABSENT if found is None else Delivered.FINISHED
        self._seen.setdefault(fact.instance_id, seen).add(fact.id)
        self._delivered += 1
        key = f"in/{self._delivered:016}"
        group = found.summary.group if found is not None and alive else PARKED
        self._put(Row(key, "inbox", fact.instance_id, fact.partition, fact.due_at, body=fact.body, group=group))
        return Delivered.NEW if alive else Delivered.PARKED

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        place = due_place(after)
        with self._lock:
            due = self._due.get((partition, group), [])
            first = bisect_right(due, place) if place else 0
            items = [item for item in due[first : first + limit + 1] if item[0] <= until]
            rows = [self._rows[key] for _, key in items[:limit]]
        return Slice(rows, encode_due(*items[limit - 1]) if len(items) > limit else None)

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        with self._lock:
            return [self._rows.get(key) for _, key in keys]

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        with self._lock:
            return [self._lease(lease) for lease in leases]

    def _lease(self, lease: Lease) -> bool:
        row = self._rows.get(lease.key)
        if row is None or (row.holder, row.attempt) != (lease.expect_holder, lease.expect_attempt):
            return False
        if lease.due_at is None:
            self._drop(lease.key)
        else:
            changes = {"due_at": lease.due_at, "holder": lease.holder, "attempt": row.attempt + 1}
            self._put(msgspec.structs.replace(row, **changes))
        return True

    def find(self, query: Query) -> Slice[Summary]:
        place = place_of(query)
        with self._lock:
            found = [(item.created_at, instance_id) for instance_id, item in self._instances.items()]
            items = [
                (at, self._instances[instance_id].summary)
                for at, instance_id in sorted(found, reverse=True)
                if (place is None or (at, instance_id) < place)
                and _matches(query, at, self._instances[instance_id].summary)
            ]
        page = items[: query.limit]
        following = encode_place(page[-1][0], page[-1][1].instance_id) if len(items) > query.limit else None
        return Slice([summary for _, summary in page], following)

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        with self._lock:
            found = [self._instances.get(instance_id) for instance_id in instance_ids]
        return [item.summary if item else None for item in found]

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        with self._lock:
            return [list(self._former.get(instance_id, ())) for instance_id in instance_ids]

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        with self._lock:
            return [self._purge(*execution) for execution in executions]

    def _purge(self, instance_id: str, execution_id: str) -> Purged:
        found = self._instances.get(instance_id)
        if found is None:
            return Purged.ABSENT
        if found.summary.execution_id != execution_id or not found.summary.status.finished:
            return Purged.KEPT
        del self._instances[instance_id]
        for key in list(self._inbox.get(instance_id, ())):
            self._drop(key)
        self._seen.pop(instance_id, None)
        for execution in (*self._former.pop(instance_id, ()), execution_id):
            self._forget(execution)
        return Purged.GONE

    def _forget(self, execution_id: str) -> None:
        self._history.pop(execution_id, None)
        self._purged.add(execution_id)

    def clear(self, partition: int, limit: int) -> int:
        """Nothing: what is purged or forgotten leaves nothing behind here."""
        return 0

    def close(self) -> None:
        """Nothing to give back: the data stay, so that the same name can be opened again."""


def _matches(query: Query, created_at: float, summary: Summary) -> bool:
    return (
        (query.status is None or summary.status in query.status)
        and (query.name is None or summary.name == query.name)
        and (query.prefix is None or summary.instance_id.startswith(query.prefix))
        and (query.tags is None or query.tags.items() <= (summary.tags or {}).items())
        and (query.created_after is None or created_at >= query.created_after)
        and (query.created_before is None or created_at < query.created_before)
    )


class OneWorker:
    """`durable.ports.Membership` where one worker serves the store at a time; the others stand by."""

    exclusive = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Beat | None = None

    def beat(self, me: Beat) -> list[Beat]:
        with self._lock:
            if self._worker is None or self._worker.incarnation == me.incarnation:
                self._worker = me
            return [self._worker]

    def members(self) -> list[Beat]:
        with self._lock:
            return [] if self._worker is None else [self._worker]

    def leave(self, incarnation: str) -> None:
        with self._lock:
            if self._worker is not None and self._worker.incarnation == incarnation:
                self._worker = None


class MemoryBackend:
    """A `MemoryStore`, in-process signals and the seat of its one worker."""

    def __init__(self, partitions: int = 1) -> None:
        self.store: Store = MemoryStore(partitions)
        self.signals: Signals = LocalSignals()
        self.membership: Membership = OneWorker()

    def close(self) -> None:
        self.store.close()


_opened: dict[tuple[str, str], MemoryBackend] = {}
_opening = threading.Lock()


def open_memory(url: str, workspace: str = "default") -> Backend:
    """The memory store of this name, new or as it was left. Raises StoreError for anything but `memory://name`."""
    parts = urlsplit(url)
    if parts.scheme != "memory" or parts.path.strip("/") or parts.query or parts.fragment:
        raise StoreError(f"{url!a} is not the URL of a memory store; write memory://name, without parameters")
    with _opening:
        return _opened.setdefault((parts.netloc, workspace), MemoryBackend())
