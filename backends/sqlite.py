"""`sqlite:///relative.db`, `sqlite:////absolute.db`: a workspace in one SQLite file, for one machine.

The file is WAL with `synchronous=FULL`: what a verb returned survives a power cut. `?synchronous=normal` is faster
alone (batched it is not) and may lose the last commits in a power cut. Not for network file systems, whose locks lie.

sqlite_file.py opens and checks the file, sqlite_core.py shares it between threads, sqlite_statements.py writes,
sqlite_reads.py reads for the engine, sqlite_signals.py tells who waits, sqlite_handover.py takes writes of other
processes to the worker; here the ports are put together.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from durable.model.errors import StoreError
from durable.model.history import UNDECODABLE
from durable.model.status import Summary
from durable.ports import (
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

from . import sqlite_purge as purging
from . import sqlite_reads as reads
from . import sqlite_statements as statements
from .listing import due_place, encode_due, encode_place, place_of
from .sqlite_core import Core, acquire, release
from .sqlite_file import parse_url
from .sqlite_handover import Sender
from .sqlite_reception import Reception
from .sqlite_statements import chunks, marks

_LOOKS: Final = 100  # of others at the worker's lock, before whoever wants it stands by for this time
_LOOK_SECONDS: Final = 0.002

log = logging.getLogger("durable.sqlite")


class SqliteStore:
    """`durable.ports.Store` on one file. `now` is the clock by which old fact ids are forgotten.

    sender: tried first for what another process's worker can write; without one everything is written here.
    """

    partitions = 1
    overlaps = False
    tells = False

    def __init__(self, core: Core, now: Callable[[], float] = time.time, sender: Sender | None = None) -> None:
        self._core = core
        self._now = now
        self._sender = sender

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        outcomes = None if self._sender is None else self._sender.commit(commits)
        return self._core.write(statements.commit, commits) if outcomes is None else outcomes

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        outcomes = self.commit(commits)
        return lambda: outcomes

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        answers = None if self._sender is None else self._sender.deliver(facts)
        return self._core.write(self._deliver, facts) if answers is None else answers

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

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        sql = "SELECT start, events FROM history WHERE execution_id = ? AND start >= ? ORDER BY start LIMIT ?"
        with self._core.reading(statements=1) as connection:
            rows = connection.execute(sql, (execution.execution_id, start, limit + 1)).fetchall()
        return Slice(rows[:limit], str(rows[limit][0]) if len(rows) > limit else None)

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        execution_ids = [execution.execution_id for execution in executions]
        found: dict[str, bytes] = {}
        with self._core.reading() as connection:
            for some in chunks(execution_ids):
                sql = (
                    f"SELECT execution_id, events FROM history WHERE start = 0 AND execution_id IN ({marks(len(some))})"
                )
                found.update(connection.execute(sql, some).fetchall())
        return [found.get(execution_id) for execution_id in execution_ids]

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        source = "FROM rows WHERE partition = ? AND group_name = ? AND due_at <= ?"
        values: list[Any] = [partition, group, until]
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

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        found: dict[str, Row] = {}
        with self._core.reading() as connection:
            for some in chunks([key.key for key in keys]):
                stored = reads.rows_of(connection, f"FROM rows WHERE key IN ({marks(len(some))})", some)
                found.update({row.key: row for row in stored})
        return [found.get(key.key) for key in keys]

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

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        found: dict[str, list[str]] = {}
        with self._core.reading() as connection:
            for some in chunks(instance_ids):
                sql = (
                    f"SELECT instance_id, execution_id FROM former WHERE instance_id IN ({marks(len(some))}) "
                    "ORDER BY rowid"
                )
                for instance_id, execution_id in connection.execute(sql, some).fetchall():
                    found.setdefault(instance_id, []).append(execution_id)
        return [list(found.get(instance_id, ())) for instance_id in instance_ids]

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        return self._core.write(purging.purge, executions)

    def clear(self, partition: int, limit: int) -> int:
        [removed] = self._core.write(self._clear, [limit])
        return int(removed)

    def _clear(self, connection: sqlite3.Connection, limits: Sequence[int]) -> list[int]:
        return [purging.clear(connection, limit, self._now()) for limit in limits]

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


class WorkerLock:
    """`durable.ports.Membership` by a lock on `<file>-worker`: who holds it is the worker, the others stand by.

    The system lets go of the lock when its process dies, so whoever stands by has it with its next beat. The file
    holds the worker's beat, for those who only look. `reception` is open while this process is the worker.
    """

    exclusive = True

    def __init__(self, path: str, reception: Reception) -> None:
        self._path = path + "-worker"
        self._reception = reception
        self._mutex = threading.Lock()
        self._held: tuple[int, str] | None = None  # file descriptor, incarnation

    def beat(self, me: Beat) -> list[Beat]:
        with self._mutex:
            if self._held is not None and self._held[1] == me.incarnation:
                return [me]
            descriptor = self._open()
            try:
                if not _seated(descriptor):
                    return _beats(descriptor)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _beat_encoder.encode(me), 0)
                self._held = descriptor, me.incarnation
            except OSError as error:
                raise StoreError(f"worker lock {self._path}: {error}; is the disk full?") from error
            finally:
                if self._held is None or self._held[0] != descriptor:
                    os.close(descriptor)  # and nobody has the lock by it
            self._reception.open()
            return [me]

    def members(self) -> list[Beat]:
        descriptor = self._open()
        try:
            return [] if _locked(descriptor, fcntl.LOCK_SH) else _beats(descriptor)
        finally:
            os.close(descriptor)

    def leave(self, incarnation: str) -> None:
        with self._mutex:
            if self._held is not None and self._held[1] == incarnation:
                descriptor, self._held = self._held[0], None
                try:
                    self._reception.close()  # first: its path belongs to whoever has the lock
                    # The file stays: removing it would let two workers lock two files of the same name.
                    os.ftruncate(descriptor, 0)
                finally:
                    os.close(descriptor)

    def close(self) -> None:
        if self._held is not None:
            self.leave(self._held[1])

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"worker lock {self._path}: {error}; check the owner and mode of the file and folder"
            ) from error


_beat_encoder = msgspec.json.Encoder()
_beat_decoder = msgspec.json.Decoder(Beat)


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _seated(descriptor: int) -> bool:
    """Whether the lock is ours now. Those who only look have it for microseconds, and share it: they are waited for."""
    for _ in range(_LOOKS):
        if _locked(descriptor, fcntl.LOCK_EX):
            return True
        if not _locked(descriptor, fcntl.LOCK_SH):
            return False  # a worker has it
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(_LOOK_SECONDS)
    return False


def _beats(descriptor: int) -> list[Beat]:
    try:
        # Whoever holds the lock is alive now, whenever it wrote this.
        return [msgspec.structs.replace(_beat_decoder.decode(os.pread(descriptor, 1_000_000, 0)), at=time.time())]
    except UNDECODABLE:
        return []  # its holder is about to write it


class SqliteBackend:
    """A `SqliteStore`, signals between the processes that share its file, and the seat of its one worker."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sender = Sender(core)
        self._lock = WorkerLock(core.path, Reception(core, SqliteStore(core)))
        self._closed = threading.Lock()
        self.store: Store = SqliteStore(core, sender=self._sender)
        self.signals: Signals = core.signals
        self.membership: Membership = self._lock

    def close(self) -> None:
        if self._closed.acquire(blocking=False):
            self._sender.close()
            self._lock.close()
            release(self._core)


def open_sqlite(url: str, workspace: str = "default") -> Backend:
    """Open or create the store of a `sqlite:///` URL; any workspace but the default has a file of its own beside it.

    Raises StoreError with the path and the remedy.
    """
    target = parse_url(url)
    if workspace != "default":
        target = target._replace(path=f"{target.path}@{_part_of_path(workspace)}")
    if target.synchronous == "NORMAL":
        log.warning("SQLite store %s: synchronous=normal may lose the last commits in a power cut", target.path)
    return SqliteBackend(acquire(target))


_BESIDE: Final = re.compile(r"-(?=(wal|shm|journal|worker|worker\.sock)\Z)")  # ends of files beside a store


def _part_of_path(workspace: str) -> str:
    """Its name in that of its file, which is none of the names beside the file of another workspace."""
    return _BESIDE.sub("%2D", quote(workspace, safe=""))
