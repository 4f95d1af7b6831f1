"""A SQLite file from outside: which path a URL names, whether the file is ours, and what an error means to its owner.

Laws.
1. A file that is not ours is never changed: it is looked at before anything is set, and marked by `application_id`.
2. Folders are made 0700 and the file 0600 (SQLite gives its -wal and -shm the mode of the file).
3. Nothing of a URL reaches SQLite but an absolute path, so `file:` URIs, `vfs=`, `mode=` and `immutable=` can't.
4. Every failure is a StoreError that names the path and says what to do.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from durable.model.errors import StoreError

from .url_parts import parsed

APPLICATION_ID: Final = 0x44555242  # "DURB"
SCHEMA_VERSION: Final = 3
BUSY_SECONDS: Final = 30.0
CACHE_KIB: Final = 8_192  # a connection, of which there are a few: more would be most of a process that parks many

# Where a commit's pages lie decides how fast it is, not how many rows it has: history and rows are appended in order
# of arrival (rowid tables) and only small index entries go to random places. Rows of large random keys, e.g. history
# WITHOUT ROWID by execution, are half as fast. An instance is updated in place; its indexes hold what never changes.
_LIVES: Final = (
    # Executions before the current one, of instances that continued as new; and those that were purged or forgotten,
    # whose histories go in pages; from then on (`at`) their ids are remembered for a day.
    "CREATE TABLE former (instance_id TEXT NOT NULL, execution_id TEXT NOT NULL)",
    "CREATE INDEX former_of ON former (instance_id)",
    """CREATE TABLE purged (
        execution_id TEXT NOT NULL PRIMARY KEY, at REAL NOT NULL, cleared INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX purged_left ON purged (at) WHERE cleared = 0",
    "CREATE INDEX purged_at ON purged (at) WHERE cleared = 1",
)
SCHEMA: Final = (
    """CREATE TABLE instances (
        instance_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, commit_id TEXT NOT NULL,
        execution_id TEXT NOT NULL, status TEXT NOT NULL, name TEXT NOT NULL, created_at REAL NOT NULL,
        tags TEXT, summary BLOB NOT NULL, group_name TEXT NOT NULL DEFAULT 'default')""",
    "CREATE INDEX instances_listed ON instances (created_at, instance_id)",
    """CREATE TABLE history (
        execution_id TEXT NOT NULL, start INTEGER NOT NULL, events BLOB NOT NULL, UNIQUE (execution_id, start))""",
    """CREATE TABLE rows (
        key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, instance_id TEXT NOT NULL, partition INTEGER NOT NULL,
        due_at REAL NOT NULL, holder TEXT NOT NULL, attempt INTEGER NOT NULL, body BLOB NOT NULL,
        group_name TEXT NOT NULL DEFAULT 'default')""",
    "CREATE INDEX rows_due ON rows (partition, group_name, due_at, key)",
    "CREATE INDEX rows_inbox ON rows (instance_id, key) WHERE kind = 'inbox'",
    """CREATE TABLE seen (
        number INTEGER PRIMARY KEY, instance_id TEXT NOT NULL, fact_id TEXT NOT NULL, at REAL NOT NULL,
        UNIQUE (instance_id, fact_id))""",
    "CREATE TABLE deliveries (number INTEGER NOT NULL)",
    "INSERT INTO deliveries VALUES (0)",
    *_LIVES,
)
# What turns a file of the version before into one of this version.
MIGRATIONS: Final = {
    1: (
        "ALTER TABLE instances ADD COLUMN group_name TEXT NOT NULL DEFAULT 'default'",
        "ALTER TABLE rows ADD COLUMN group_name TEXT NOT NULL DEFAULT 'default'",
        "DROP INDEX rows_due",
        "CREATE INDEX rows_due ON rows (partition, group_name, due_at, key)",
    ),
    2: (
        *_LIVES,
        # A continued execution was known by nothing but the first event of its history.
        """INSERT INTO former SELECT owner, execution_id FROM (
            SELECT execution_id, CASE WHEN json_valid(CAST(events AS TEXT))
                THEN json_extract(CAST(events AS TEXT), '$[1][0].instance_id') END AS owner
            FROM history WHERE start = 0 AND execution_id NOT IN (SELECT execution_id FROM instances) ORDER BY rowid)
        WHERE owner IN (SELECT instance_id FROM instances)""",
    ),
}
TABLES: Final = frozenset({"instances", "history", "rows", "seen", "deliveries"})
TABLES_SINCE_3: Final = frozenset({"former", "purged"})

_REMEDIES: Final = (
    ("not a database", "it is not a SQLite file; give another path"),
    ("malformed", "the file is damaged; restore it from a backup, or try `sqlite3 FILE .recover`"),
    ("unsupported file format", "it was written by a newer SQLite; upgrade SQLite, or give another path"),
    ("readonly", "file and folder must be writable for this user; check their owner and mode"),
    ("ermission", "file and folder must be readable and writable for this user; check their owner and mode"),
    ("unable to open", "file and folder must be readable and writable for this user; check their owner and mode"),
    ("is full", "free space on the disk, then try again"),
    ("locked", "another process keeps the file's write lock; find and stop it, then try again"),
    ("disk I/O", "the disk or file system fails; check it and the free space"),
    ("too big", "a single value is larger than SQLite can hold (1 GB)"),
)


class Target(NamedTuple):
    """What a URL names: an absolute path without symbolic links, and how commits reach the disk."""

    path: str
    synchronous: str  # FULL or NORMAL


def parse_url(url: str) -> Target:
    """`sqlite:///relative.db` or `sqlite:////absolute.db`, optionally `?synchronous=normal`. Raises StoreError."""
    # A URL of another kind may hold a password, and what Python's parser says may quote it.
    shown = ascii(url) if url.startswith("sqlite:///") else "this"
    parts = parsed(url)
    if parts is None:
        raise StoreError("this is not a URL; write sqlite:///relative.db or sqlite:////abs.db")
    if parts.scheme != "sqlite" or parts.netloc or parts.fragment or not parts.path.startswith("/"):
        raise StoreError(f"{shown} is not the URL of a SQLite store; write sqlite:///relative.db or sqlite:////abs.db")
    path = unquote(parts.path[1:])
    if not path or path.endswith("/"):
        raise StoreError(f"{shown} names no file; write sqlite:///relative.db or sqlite:////absolute.db")
    if path == ":memory:":
        raise StoreError(f"{shown}: for a store in memory write memory://name")
    if "\0" in path or not path.isprintable():
        raise StoreError(f"{shown} has characters in its path that no file name should have")
    synchronous = "FULL"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "synchronous" or value.upper() not in ("FULL", "NORMAL"):
            raise StoreError(f"{shown}: unknown parameter {name}={value}; only synchronous=full or =normal is known")
        synchronous = value.upper()
    return Target(os.path.realpath(path), synchronous)


def store_error(path: str, error: sqlite3.Error | OSError) -> StoreError:
    """What SQLite or the system said, with the path and the remedy."""
    said = str(error)
    remedy = next((text for part, text in _REMEDIES if part in said), "check the file and its folder")
    return StoreError(f"SQLite store {path}: {said}; {remedy}")


def connect(path: str) -> sqlite3.Connection:
    """A connection that begins nothing by itself and may move between threads. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_writer(target: Target) -> sqlite3.Connection:
    """The connection that writes; makes folders, file and schema where they are missing. Raises StoreError."""
    path = target.path
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _make_file(path)
        with _only_opener(path):
            connection = connect(path)
            try:
                _prepare(connection, target)
            except BaseException:
                connection.close()
                raise
            return connection
    except (sqlite3.Error, OSError) as error:
        raise store_error(path, error) from error
    except UnicodeDecodeError as error:  # SQLite quotes the damaged schema in what it says, byte by byte
        raise store_error(path, sqlite3.DatabaseError("malformed schema")) from error


def _make_file(path: str) -> None:
    """SQLite would create the file by the umask; it may hold secrets, so it is made before."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise StoreError(f"SQLite store {path}: this is a folder; give the path of a file in it") from None
        if not stat.S_ISREG(mode):
            raise StoreError(f"SQLite store {path}: this is no regular file; give another path") from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError("no permission to read and write the file") from None
    if not os.access(os.path.dirname(path), os.W_OK):
        raise PermissionError("no permission to write in its folder")


@contextmanager
def _only_opener(path: str) -> Iterator[None]:
    """Two processes that open a new file at once: switching to WAL fails at once when somebody else has it open.

    The lock is on the folder: a lock file would stay behind, and closing a second descriptor of the database itself
    would drop SQLite's own locks in this process.
    """
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _prepare(connection: sqlite3.Connection, target: Target) -> None:
    path = target.path
    marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    names = set(connection.execute("SELECT type, name FROM sqlite_master WHERE type <> 'index'"))
    empty = marks == [0, 0] and not names
    if not empty:
        _check_ours(path, marks[0], marks[1], names)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreError(f"SQLite store {path}: its file system does not support WAL; put it on a local disk")
    connection.execute(f"PRAGMA synchronous = {target.synchronous}")
    if empty or marks[1] < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        older = [MIGRATIONS[version] for version in range(marks[1], SCHEMA_VERSION)] if not empty else [SCHEMA]
        for statement in (statement for some in older for statement in some):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    # A read-only file (or file system) shows only when somebody begins to write.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")


def _check_ours(path: str, application_id: int, version: int, names: set[tuple[str, str]]) -> None:
    if application_id != APPLICATION_ID:
        raise StoreError(f"SQLite store {path}: this SQLite file belongs to something else; give another path")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"SQLite store {path}: written by a newer version of durable (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); upgrade durable-orchestrations"
        )
    # Nobody but us makes tables here; a trigger or a view would run somebody else's SQL within our commits.
    expected = {("table", name) for name in (TABLES if version < 3 else TABLES | TABLES_SINCE_3)}
    if version < min(MIGRATIONS) or not expected <= names or any(kind != "table" for kind, _ in names):
        raise StoreError(f"SQLite store {path}: its tables are not those of a store; restore it from a backup")
