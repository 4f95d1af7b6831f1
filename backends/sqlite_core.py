"""One SQLite file as this process uses it: one writer that many threads share, and connections that read.

Laws.
1. Flat combining: a caller queues a ticket; whoever gets the lock writes all that is queued, up to 500 items, in one
   transaction with one fsync, and answers every ticket; the others find theirs answered. No thread of its own.
2. Every ticket gets its answers or an exception. What is wrong with one ticket's items fails that ticket alone.
3. When COMMIT itself fails nobody can know what the disk has: commits answer UNKNOWN. A failure before that rolls
   back and raises.
4. A file opened twice in one process is one core, by its real path, so that client threads share fsyncs with the
   worker. The last to close it closes it.
5. A file that was deleted or replaced is refused: SQLite would go on writing into the unlinked one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any, Final

from durable.model.errors import StoreError
from durable.ports import Outcome

from . import sqlite_statements as statements
from .sqlite_file import Target, connect, open_writer, store_error
from .sqlite_signals import FileSignals

GROUP: Final = 500
IDLE_READERS: Final = 8
CHECK_EVERY: Final = 0.1  # seconds; asking the file system costs more than a small read, so only each write asks

Verb = Callable[[sqlite3.Connection, Sequence[Any]], list[Any]]

log = logging.getLogger("durable.sqlite")


class _Ticket:
    __slots__ = ("answers", "error", "items", "verb")

    def __init__(self, verb: Verb, items: Sequence[Any]) -> None:
        self.verb = verb
        self.items = items
        self.answers: list[Any] | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.answers is not None or self.error is not None


class Core:
    """The writer and the readers of one file."""

    def __init__(self, target: Target) -> None:
        self.path = target.path
        self.synchronous = target.synchronous
        self.signals = FileSignals(self.foreign_version)
        self.users = 1
        self._writer = open_writer(target)
        self._file = _identity(self.path)
        self._checked = 0.0
        self._lock = threading.Lock()
        self._queue: deque[_Ticket] = deque()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    def write(self, verb: Verb, items: Sequence[Any]) -> list[Any]:
        """Queue the items, see to it that they are written, return the verb's answers. Raises StoreError."""
        if not items:
            return []
        ticket = _Ticket(verb, items)
        self._queue.append(ticket)
        with self._lock:
            # Tickets are taken in order, so this one's turn comes; mostly another thread has written it meanwhile.
            while not ticket.done:
                self._write_group()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.answers is not None
        return ticket.answers

    def _write_group(self) -> None:
        group: list[_Ticket] = []
        weight = 0
        try:
            while self._queue and (not group or weight + len(self._queue[0].items) <= GROUP):
                # In this order, since Ctrl-C between the two may leave a ticket twice, but must not leave it nowhere.
                if not self._queue[0].done:
                    group.append(self._queue[0])
                    weight += len(group[-1].items)
                self._queue.popleft()
            self._transaction(group)
        except BaseException:
            # Ctrl-C in the thread that happens to write for others: they must not wait for ever.
            _fail(
                group, StoreError(f"SQLite store {self.path}: the thread that was writing was interrupted; try again")
            )
            raise

    def _transaction(self, group: list[_Ticket]) -> None:
        connection = self._writer
        try:
            self.check()
            connection.execute("BEGIN IMMEDIATE")
        except (StoreError, sqlite3.Error) as error:
            _fail(group, error if isinstance(error, StoreError) else store_error(self.path, error))
            return
        try:
            answers: list[tuple[_Ticket, list[Any]]] = []
            for verb, run in groupby(group, key=lambda ticket: ticket.verb):
                tickets = list(run)
                found = verb(connection, [item for ticket in tickets for item in ticket.items])
                first = 0
                for ticket in tickets:
                    answers.append((ticket, found[first : first + len(ticket.items)]))
                    first += len(ticket.items)
        except BaseException as error:
            self._roll_back()
            if not isinstance(error, Exception):
                raise
            self._refuse(group, error)
            return
        try:
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            _unknown(group, self.path, error)
            if not isinstance(error, sqlite3.Error):
                raise
            log.error("SQLite store %s: COMMIT failed: %s", self.path, error)
            return
        for ticket, some in answers:
            ticket.answers = some

    def _refuse(self, group: list[_Ticket], error: Exception) -> None:
        """A statement failed and nothing was written: the store's trouble is everybody's, a bad item its sender's."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, _OF_ITEMS):
            _fail(group, store_error(self.path, error))
        elif len(group) == 1:
            _fail(group, store_error(self.path, error) if isinstance(error, sqlite3.Error) else error)
        else:
            for ticket in group:
                self._transaction([ticket])

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # after some errors SQLite has rolled back by itself; what counts was raised
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    @contextmanager
    def reading(self, statements: int = 2) -> Iterator[sqlite3.Connection]:
        """A connection for reads, which see one moment and never block the writer. Raises StoreError.

        One statement sees one moment by itself; more need a transaction.
        """
        now = time.monotonic()
        if now >= self._checked + CHECK_EVERY:
            self.check()
            self._checked = now
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open_reader()
        try:
            if statements == 1:
                yield connection
            else:
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("COMMIT")
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise store_error(self.path, error) from error
            raise
        if self._closed or len(self._idle) >= IDLE_READERS:
            connection.close()
        else:
            self._idle.append(connection)

    def _open_reader(self) -> sqlite3.Connection:
        try:
            connection = connect(self.path)
            connection.execute("PRAGMA query_only = ON")
            return connection
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    def check(self) -> None:
        """Raises StoreError when this core is closed or its file is not the one it opened."""
        if self._closed:
            raise StoreError(f"SQLite store {self.path}: it was closed; connect again")
        if _identity(self.path) != self._file:
            raise StoreError(
                f"SQLite store {self.path}: the file was deleted or replaced while it was open; "
                "stop every process that uses it, restore the file, start again"
            )

    def foreign_version(self) -> int:
        """A number that changes when another process has changed the file; raises StoreError.

        It is the writer's own `data_version`, which counts every change but the writer's: exactly those of others.
        """
        with self._lock:
            self.check()
            try:
                version: int = self._writer.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error as error:
                raise store_error(self.path, error) from error
            return version

    def be_full(self) -> None:
        """Somebody opened the file again with `synchronous=full`: the stricter wish holds for all."""
        with self._lock:
            if self.synchronous != "FULL":
                self._writer.execute("PRAGMA synchronous = FULL")
                self.synchronous = "FULL"

    def close(self) -> None:
        """Close every connection; the log is folded into the file, so that it can be copied as one."""
        self.signals.close()
        with self._lock:
            self._closed = True
            with suppress(sqlite3.Error):  # another process reads or writes: it will fold the log in
                self._writer.execute("PRAGMA busy_timeout = 0")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()
        while self._idle:
            self._idle.pop().close()


# What SQLite says about values that no repetition would make right.
_OF_ITEMS: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


def _fail(group: Sequence[_Ticket], error: BaseException) -> None:
    for ticket in group:
        if not ticket.done:
            ticket.error = error


def _unknown(group: Sequence[_Ticket], path: str, error: BaseException) -> None:
    for ticket in group:
        if ticket.verb is statements.commit:
            ticket.answers = [Outcome.UNKNOWN] * len(ticket.items)
        else:
            # Both can be repeated: a fact is taken once, and a lease that did happen is not held as expected.
            ticket.error = StoreError(
                f"SQLite store {path}: {error}; it is not known whether it was written; try again"
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_cores: dict[str, Core] = {}
_opening = threading.Lock()


def acquire(target: Target) -> Core:
    """The core of this file, shared with whoever has it open in this process. Raises StoreError."""
    with _opening:
        core = _cores.get(target.path)
        if core is None:
            core = _cores[target.path] = Core(target)
            return core
        core.check()
        if target.synchronous == "FULL":
            core.be_full()
        core.users += 1
        return core


def release(core: Core) -> None:
    """One user less; the last one closes it."""
    with _opening:
        core.users -= 1
        if core.users == 0:
            del _cores[core.path]
            core.close()
