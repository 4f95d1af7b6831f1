"""`sqlite:///relative.db`, `sqlite:////absolute.db`: a workspace in one SQLite file, for one machine.

The file is WAL with `synchronous=FULL`: what a verb returned survives a power cut. `?synchronous=normal` is faster
alone (batched it is not) and may lose the last commits in a power cut. Not for network file systems, whose locks lie.

sqlite_file.py opens and checks the file, sqlite_core.py shares it between threads, sqlite_statements.py writes,
sqlite_reads.py reads for the engine, sqlite_signals.py tells who waits; here the ports are put together.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from durable.model.errors import StoreError, StoreInUseError
from durable.model.status import Summary
from durable.ports import (
    Backend,
    Commit,
    Delivered,
    Fact,
    Lease,
    Outcome,
    Query,
    Record,
    Row,
    Signals,
    Slice,
    Store,
    Want,
)

from . import sqlite_reads as reads
from . import sqlite_statements as statements
from .listing import due_place, encode_due, encode_place, place_of
from .sqlite_core import Core, acquire, release
from .sqlite_file import parse_url
from .sqlite_statements import chunks, marks

log = logging.getLogger("durable.sqlite")


class SqliteStore:
    """`durable.ports.Store` on one file. `now` is the clock by which old fact ids are forgotten."""

    partitions = 1

    def __init__(self, core: Core, now: Callable[[], float] = time.time) -> None:
        self._core = core
        self._now = now

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return self._core.write(statements.commit, commits)

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        return self._core.write(self._deliver, facts)

    def _deliver(self, connection: sqlite3.Connection, facts: Sequence[Fact]) -> list[Delivered]:
        return statements.deliver(connection, facts, self._now())

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        return self._core.write(statements.lease, leases)

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        known = {want.instance_id: want.known_version for want in wants}
        found: dict[str, Record] = {}
        if known:
            with self._core.reading() as connection:
                for some in chunks(list(known)):
                    found.update(reads.load(connection, some, known))
        return [found.get(want.instance_id) for want in wants]

    def history(self, execution_id: str, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        sql = "SELECT start, events FROM history WHERE execution_id = ? AND start >= ? ORDER BY start LIMIT ?"
        with self._core.reading(statements=1) as connection:
            rows = connection.execute(sql, (execution_id, start, limit + 1)).fetchall()
        return Slice(rows[:limit], str(rows[limit][0]) if len(rows) > limit else None)

    def input_of(self, execution_ids: Sequence[str]) -> list[bytes | None]:
        found: dict[str, bytes] = {}
        with self._core.reading() as connection:
            for some in chunks(execution_ids):
                sql = (
                    f"SELECT execution_id, events FROM history WHERE start = 0 AND execution_id IN ({marks(len(some))})"
                )
                found.update(connection.execute(sql, some).fetchall())
        return [found.get(execution_id) for execution_id in execution_ids]

    def due(self, partition: int, until: float, limit: int, after: str = "") -> Slice[Row]:
        source = "FROM rows WHERE partition = ? AND due_at <= ?"
        values: list[Any] = [partition, until]
        place = due_place(after)
        if place is not None:
            source += " AND (due_at, key) > (?, ?)"
            values += place
        source += " ORDER BY due_at, key LIMIT ?"
        with self._core.reading() as connection:
            rows = reads.rows_of(connection, source, (*values, limit + 1))
            rows.sort(key=lambda row: (row.due_at, row.key))
            if len(rows) <= limit:
                return Slice(rows, None)
            last = rows[limit - 1].key
            # Read once more, as the number it is: a place that is off by one bit would repeat or skip a row.
            (due_at,) = connection.execute("SELECT due_at FROM rows WHERE key = ?", (last,)).fetchone()
        return Slice(rows[:limit], encode_due(due_at, last))

    def find(self, query: Query) -> Slice[Summary]:
        sql, values = _listing(query)
        with self._core.reading(statements=1) as connection:
            rows = connection.execute(sql, values).fetchall()
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        return Slice([reads.decode_summary(row[2]) for row in rows], encode_place(*rows[-1][:2]) if more else None)

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        found: dict[str, Summary] = {}
        if instance_ids:
            with self._core.reading(statements=len(instance_ids)) as connection:
                for some in chunks(instance_ids):
                    found.update(reads.summaries(connection, some))
        return [found.get(instance_id) for instance_id in instance_ids]

    def close(self) -> None:
        """The backend that opened the store closes it."""


def _listing(query: Query) -> tuple[str, list[Any]]:
    """The statement of a listing; one row more than asked for tells whether there is another page."""
    place = place_of(query)
    conditions: list[str] = []
    values: list[Any] = []

    def where(condition: str, *some: Any) -> None:
        conditions.append(condition)
        values.extend(some)

    if place is not None:
        where("(created_at, instance_id) < (?, ?)", *place)
    if query.status is not None:
        where(f"status IN ({marks(len(query.status))})", *(status.value for status in query.status))
    if query.name is not None:
        where("name = ?", query.name)
    if query.prefix:
        # No LIKE and no GLOB: nothing to escape. The first half lets SQLite use the index of ids.
        where("instance_id >= ? AND substr(instance_id, 1, ?) = ?", query.prefix, len(query.prefix), query.prefix)
    for key, value in (query.tags or {}).items():
        where("EXISTS (SELECT 1 FROM json_each(tags) AS tag WHERE tag.key = ? AND tag.value = ?)", key, value)
    if query.created_after is not None:
        where("created_at >= ?", query.created_after)
    if query.created_before is not None:
        where("created_at < ?", query.created_before)
    sql = "SELECT created_at, instance_id, summary FROM instances"
    if conditions:
        sql += " WHERE " + " AND ".join(conditions)
    return sql + " ORDER BY created_at DESC, instance_id DESC LIMIT ?", [*values, query.limit + 1]


class SqliteBackend:
    """A `SqliteStore`, signals between the processes that share its file, and the right to be its worker."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._claims: list[Callable[[], None]] = []
        self._closed = threading.Lock()
        self.store: Store = SqliteStore(core)
        self.signals: Signals = core.signals

    def claim_worker(self) -> Callable[[], None]:
        """Lock `<file>-worker` until released, closed or dead. Raises StoreInUseError with the pid of who has it."""
        path = self._core.path + "-worker"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"worker lock {path}: {error}; check the owner and mode of the file and folder") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreInUseError(
                f"SQLite store {self._core.path} already has a worker (pid {pid}); "
                "stop that one, or connect as a client only"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        released = threading.Lock()

        def release_claim() -> None:
            if released.acquire(blocking=False):
                # The file stays: removing it would let two workers lock two files of the same name.
                os.ftruncate(descriptor, 0)
                os.close(descriptor)

        self._claims.append(release_claim)
        return release_claim

    def close(self) -> None:
        if self._closed.acquire(blocking=False):
            for release_claim in self._claims:
                release_claim()
            release(self._core)


def open_sqlite(url: str) -> Backend:
    """Open or create the store of a `sqlite:///` URL. Raises StoreError with the path and the remedy."""
    target = parse_url(url)
    if target.synchronous == "NORMAL":
        log.warning("SQLite store %s: synchronous=normal may lose the last commits in a power cut", target.path)
    return SqliteBackend(acquire(target))
