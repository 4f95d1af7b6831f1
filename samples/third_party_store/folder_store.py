"""A store of your own, complete: one JSON file in a folder, `folder://path/to/it`. Copy it and change what it sits on.

The laws are in `durable.ports`; test_folder_store.py holds this store to them. What is worth copying:

- every verb takes a batch, answers for each item in order, and is durable when it returns;
- `_commit` checks everything before it writes anything, so all of a commit happens or none of it;
- `due` and `find` page by the place of the last item, so that a page skips and repeats nothing.

It writes the whole file for every batch and reads it only once: for one process at a time, and not for large data.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from durable import StoreError
from durable.backends.local_signals import LocalSignals  # news within one process
from durable.backends.memory import OneWorker  # one worker in one process
from durable.model.status import Summary
from durable.ports import (
    PARKED,
    Append,
    Backend,
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


class Instance(msgspec.Struct, frozen=True):
    """`created_at` is that of its first commit: its place in listings never changes."""

    version: int
    commit_id: str
    summary: Summary
    created_at: float


class Contents(msgspec.Struct):
    """What is in the file. seen: the ids of the facts that each instance was given.

    former: executions before the current one. purged: executions that were purged or forgotten; none comes back.
    """

    instances: dict[str, Instance] = {}
    histories: dict[str, list[Append]] = {}
    rows: dict[str, Row] = {}
    seen: dict[str, list[str]] = {}
    former: dict[str, list[str]] = {}
    purged: list[str] = []
    delivered: int = 0


class FolderStore:
    """`durable.ports.Store` over one file."""

    partitions = 1
    overlaps = False
    tells = False

    def __init__(self, folder: Path) -> None:
        self._file = folder / "durable.json"
        self._lock = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._contents = msgspec.json.decode(self._file.read_bytes(), type=Contents)
        except FileNotFoundError:
            self._contents = Contents()
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(f"{self._file} can't be used: {error}") from error

    @contextmanager
    def _changing(self) -> Iterator[Contents]:
        """Change the contents; they are on disk when the block ends, or else as they were."""
        with self._lock:
            before = msgspec.json.encode(self._contents)
            beside = self._file.with_suffix(".new")
            try:
                yield self._contents
                with beside.open("wb") as file:
                    file.write(msgspec.json.encode(self._contents))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(beside, self._file)
            except BaseException as error:
                self._contents = msgspec.json.decode(before, type=Contents)
                if isinstance(error, OSError):
                    raise StoreError(f"{self._file} can't be written: {error}") from error
                raise

    # ---- instances and their histories

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        with self._lock:
            return [self._load(want) for want in wants]

    def _load(self, want: Want) -> Record | None:
        found = self._contents.instances.get(want.instance_id)
        if found is None:
            return None
        history = None
        if found.version != want.known_version:
            history = tuple(a.events for a in self._contents.histories.get(found.summary.execution_id, ()))
        inbox = [r for r in self._contents.rows.values() if r.kind == "inbox" and r.instance_id == want.instance_id]
        # What the engine put there itself is older than anything that was delivered to this execution.
        inbox.sort(key=lambda row: (row.key.startswith("in/"), row.key))
        return Record(found.version, found.commit_id, found.summary, history, tuple(inbox))

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        with self._lock:
            rows = [a for a in self._contents.histories.get(execution.execution_id, ()) if a.start >= start]
        return Slice([(a.start, a.events) for a in rows[:limit]], str(rows[limit].start) if len(rows) > limit else None)

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        pages = [self.history(execution, limit=1).items for execution in executions]
        return [page[0][1] if page and page[0][0] == 0 else None for page in pages]

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        with self._lock:
            found = [self._contents.instances.get(instance_id) for instance_id in instance_ids]
        return [None if instance is None else instance.summary for instance in found]

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        with self._changing() as contents:
            return [_commit(contents, commit) for commit in commits]

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        outcomes = self.commit(commits)
        return lambda: outcomes

    def find(self, query: Query) -> Slice[Summary]:
        after = _place(query.cursor, "cursor")
        if query.limit < 1:
            raise ValueError(f"limit={query.limit}: give a number from 1 up")
        with self._lock:
            found = sorted(((i.created_at, id, i.summary) for id, i in self._contents.instances.items()), reverse=True)
        fits = [i for i in found if (after is None or [i[0], i[1]] < after) and _matches(query, i[0], i[2])]
        page = fits[: query.limit]
        return Slice([summary for _, _, summary in page], json.dumps(page[-1][:2]) if len(fits) > len(page) else None)

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        with self._lock:
            return [list(self._contents.former.get(instance_id, ())) for instance_id in instance_ids]

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        with self._changing() as contents:
            return [_purge(contents, *execution) for execution in executions]

    def clear(self, partition: int, limit: int) -> int:
        """Nothing: what is purged or forgotten leaves nothing behind here."""
        return 0

    # ---- facts and work

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        with self._changing() as contents:
            return [_deliver(contents, fact) for fact in facts]

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        place = _place(after or None, "after=")
        with self._lock:
            rows = [r for r in self._contents.rows.values() if r.group == group and r.due_at <= until]
        rows = sorted((r for r in rows if place is None or [r.due_at, r.key] > place), key=lambda r: (r.due_at, r.key))
        page = rows[:limit]
        return Slice(page, json.dumps([page[-1].due_at, page[-1].key]) if len(rows) > len(page) else None)

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        with self._lock:
            return [self._contents.rows.get(key) for _, key in keys]

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        with self._changing() as contents:
            return [_lease(contents, lease) for lease in leases]

    def close(self) -> None:
        """Nothing to give back: every verb has written what it changed."""


def _commit(contents: Contents, commit: Commit) -> Outcome:
    found = contents.instances.get(commit.instance_id)
    if (found.version if found else 0) != commit.expect:
        return Outcome.CONFLICT
    current = found.summary.execution_id if found else ""
    if current != commit.continues if found else commit.summary.execution_id in contents.purged:
        return Outcome.CONFLICT
    for append in commit.appends:
        history = contents.histories.setdefault(append.execution_id, [])
        if history and history[-1].start >= append.start:
            raise StoreError(f"the history of {append.execution_id} already goes beyond event {append.start}")
        history.append(append)
    if commit.forgotten:
        _forget(contents, commit.forgotten)
    elif found and current != commit.summary.execution_id:
        contents.former.setdefault(commit.instance_id, []).append(current)
    if commit.replaces:
        contents.seen.pop(commit.instance_id, None)
    created_at = found.created_at if found and not commit.replaces else commit.summary.created_at.timestamp()
    contents.instances[commit.instance_id] = Instance(commit.expect + 1, commit.id, commit.summary, created_at)
    for key in commit.drop:
        contents.rows.pop(key, None)
    contents.rows.update({row.key: row for row in commit.put})
    return Outcome.COMMITTED


def _purge(contents: Contents, instance_id: str, execution_id: str) -> Purged:
    found = contents.instances.get(instance_id)
    if found is None:
        return Purged.ABSENT
    if found.summary.execution_id != execution_id or not found.summary.status.finished:
        return Purged.KEPT
    del contents.instances[instance_id]
    contents.seen.pop(instance_id, None)
    for key in [row.key for row in contents.rows.values() if row.kind == "inbox" and row.instance_id == instance_id]:
        del contents.rows[key]
    for execution in (*contents.former.pop(instance_id, ()), execution_id):
        _forget(contents, execution)
    return Purged.GONE


def _forget(contents: Contents, execution_id: str) -> None:
    contents.histories.pop(execution_id, None)
    contents.purged.append(execution_id)


def _deliver(contents: Contents, fact: Fact) -> Delivered:
    if fact.id in contents.seen.get(fact.instance_id, ()):
        return Delivered.DUPLICATE
    found = contents.instances.get(fact.instance_id)
    alive = found is not None and not found.summary.status.finished
    if not alive and not fact.park:
        return Delivered.ABSENT if found is None else Delivered.FINISHED
    contents.seen.setdefault(fact.instance_id, []).append(fact.id)
    contents.delivered += 1
    key, group = f"in/{contents.delivered:016}", found.summary.group if found is not None and alive else PARKED
    row = Row(key, "inbox", fact.instance_id, fact.partition, fact.due_at, body=fact.body, group=group)
    contents.rows[key] = row
    return Delivered.NEW if alive else Delivered.PARKED


def _lease(contents: Contents, lease: Lease) -> bool:
    row = contents.rows.get(lease.key)
    if row is None or (row.holder, row.attempt) != (lease.expect_holder, lease.expect_attempt):
        return False
    if lease.due_at is None:
        del contents.rows[lease.key]
    else:
        changed = {"due_at": lease.due_at, "holder": lease.holder, "attempt": row.attempt + 1}
        contents.rows[lease.key] = msgspec.structs.replace(row, **changed)
    return True


def _matches(query: Query, created_at: float, summary: Summary) -> bool:
    return (
        (query.status is None or summary.status in query.status)
        and (query.name is None or summary.name == query.name)
        and (query.prefix is None or summary.instance_id.startswith(query.prefix))
        and (query.tags is None or query.tags.items() <= (summary.tags or {}).items())
        and (query.created_after is None or created_at >= query.created_after)
        and (query.created_before is None or created_at < query.created_before)
    )


def _place(text: str | None, what: str) -> list[Any] | None:
    """Where a paging goes on: a number and a text, as JSON. Whoever pages gives back what the last page gave."""
    if text is None:
        return None
    try:
        number, name = json.loads(text)
        return [float(number), str(name)]
    except (ValueError, TypeError):
        raise ValueError(f"{what} {text[:40]!a} is not what the last page gave; leave it out to begin anew") from None


class FolderBackend:
    """What the URL opens: the store, and the two small ports beside it."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = FolderStore(folder)
        self.signals: Signals = LocalSignals()
        self.membership: Membership = OneWorker()

    def close(self) -> None:
        self.store.close()


def open_folder(url: str, workspace: str = "default") -> Backend:
    """The entry point: `folder://relative/path` or `folder:///absolute/path`; each workspace is a folder in it."""
    path = url.removeprefix("folder://")
    if not path:
        raise StoreError("write folder://path/to/a/folder")
    return FolderBackend(Path(path) / workspace)
