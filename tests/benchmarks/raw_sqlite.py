"""The raw limit beside each row of run.py: what SQLite alone needs to make the same rows durable in the same commits.

It knows nothing of the product: `sqlite3`, a table layout, rows made before the clock starts, and no reads, no
checks, no Python objects, no threads, no waiting. A product that stores one instance row, one history row a turn and
one row for each piece of open work can't be faster on the same disk, unless it puts more into one commit than is done
here; then its share of raw passes 100%.

    python tests/benchmarks/raw_sqlite.py [--repeats 3] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

TURNS: Final = 400  # instances whose turns are committed together
STARTS: Final = 500  # starts committed together
DONE: Final = 500  # completions of one fan-out committed together
AHEAD: Final = 100  # starts, each its own commit, before their turns follow in batches

SCHEMA: Final = (
    """CREATE TABLE instances (
        instance_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, commit_id TEXT NOT NULL,
        execution_id TEXT NOT NULL, status TEXT NOT NULL, name TEXT NOT NULL, created_at REAL NOT NULL,
        tags TEXT, summary BLOB NOT NULL)""",
    "CREATE INDEX instances_listed ON instances (created_at, instance_id)",
    """CREATE TABLE history (
        execution_id TEXT NOT NULL, start INTEGER NOT NULL, events BLOB NOT NULL, UNIQUE (execution_id, start))""",
    """CREATE TABLE rows (
        key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, instance_id TEXT NOT NULL, partition INTEGER NOT NULL,
        due_at REAL NOT NULL, holder TEXT NOT NULL, attempt INTEGER NOT NULL, body BLOB NOT NULL)""",
    "CREATE INDEX rows_due ON rows (partition, due_at, key)",
    "CREATE INDEX rows_inbox ON rows (instance_id, key) WHERE kind = 'inbox'",
)
_UPSERT: Final = (
    "INSERT INTO instances VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (instance_id) DO UPDATE SET "
    "version = excluded.version, commit_id = excluded.commit_id, execution_id = excluded.execution_id, "
    "status = excluded.status, name = excluded.name, tags = excluded.tags, summary = excluded.summary"
)
_TIME: Final = "2026-01-01T00:00:00.000000Z"
_AT: Final = 1767225600.123456
_TURN: Final = f'{{"type":"OrchestratorStarted","timestamp":"{_TIME}"}}'
_HOLDER: Final = "0123456789abcdef0123456789abcdef"


class Transaction(NamedTuple):
    """One commit: the rows of each table, and the keys of the work rows that end."""

    instances: list[tuple[Any, ...]]
    history: list[tuple[str, int, bytes]]
    put: list[tuple[Any, ...]]
    drop: list[tuple[str]]


# ---- what is written


def _summary(instance: str, execution: str, name: str, status: str, output: str, replies: str, length: int) -> bytes:
    ended = f',"completed_at":"{_TIME}","output":{output}' if output else ""
    return (
        f'{{"instance_id":"{instance}","execution_id":"{execution}","name":"{name}","status":"{status}",'
        f'"created_at":"{_TIME}","updated_at":"{_TIME}"{ended}{replies},"length":{length}}}'
    ).encode()


def _scheduled(task: int, value: str) -> str:
    return (
        f'{{"type":"TaskScheduled","timestamp":"{_TIME}","task_id":{task},"name":"hello","attempt":1,"input":{value}}}'
    )


def _completed(task: int, value: str) -> str:
    return f'{{"type":"TaskCompleted","timestamp":"{_TIME}","task_id":{task},"attempt":1,"result":{value}}}'


def _ended(output: str) -> str:
    return f'{{"type":"ExecutionCompleted","timestamp":"{_TIME}","result":{output},"status":"COMPLETED"}}'


class _Life:
    """One orchestration: each call makes the transaction of its next commit."""

    _numbers: Final = itertools.count(1)

    def __init__(self, name: str, value: str = "null", reply_to: str = "") -> None:
        self.instance = os.urandom(16).hex()
        self.execution = f"{_HOLDER[:20]}{next(self._numbers):012x}"
        self.name = name
        self.version = 0
        self.length = 0
        self.value = value
        self.replies = f',"reply_to":"{reply_to}"' if reply_to else ""

    def start(self) -> Transaction:
        """Its start alone; what is next wakes it."""
        wake = (f"wake/{self.execution}", "inbox", self.instance, 0, _AT, "", 0, b"")
        return self._commit("PENDING", [self._started()], [wake], [])

    def create(self, scheduled: Sequence[tuple[int, str]]) -> Transaction:
        """Its start and its first turn at once, as whoever starts and works makes them."""
        events = [self._started(), _TURN, *(_scheduled(task, value) for task, value in scheduled)]
        return self._commit("RUNNING", events, self._open(scheduled), [])

    def park(self) -> Transaction:
        """The same; it waits for an external event."""
        awaited = f'{{"type":"EventAwaited","timestamp":"{_TIME}","task_id":1,"name":"go"}}'
        return self._commit("RUNNING", [self._started(), _TURN, awaited], [], [])

    def turn(
        self, completed: Sequence[tuple[int, str]], scheduled: Sequence[tuple[int, str]], end: str = ""
    ) -> Transaction:
        """A turn that takes some completions, schedules some tasks, or ends with an output."""
        drop = [(self._key(task),) for task, _ in completed] or [(f"wake/{self.execution}",)]
        events = [_TURN]
        events += [_completed(task, value) for task, value in completed]
        events += [_scheduled(task, value) for task, value in scheduled]
        if end:
            events.append(_ended(end))
        return self._commit("COMPLETED" if end else "RUNNING", events, self._open(scheduled), drop, end)

    def wake(self) -> list[Transaction]:
        """The event put into the inbox, and the turn that takes it and ends."""
        event = f'{{"type":"EventRaised","timestamp":"{_TIME}","name":"go","input":1}}'
        key = f"in/{self.execution}"
        row = (key, "inbox", self.instance, 0, _AT, "", 0, event.encode())
        events = [_TURN, event, _ended("1")]
        return [Transaction([], [], [row], []), self._commit("COMPLETED", events, [], [(key,)], "1")]

    def _started(self) -> str:
        return (
            f'{{"type":"ExecutionStarted","timestamp":"{_TIME}","name":"{self.name}","input":{self.value},'
            f'"instance_id":"{self.instance}","execution_id":"{self.execution}","seed":"{self.execution}"'
            f"{self.replies}}}"
        )

    def _open(self, scheduled: Sequence[tuple[int, str]]) -> list[tuple[Any, ...]]:
        return [(self._key(task), "task", self.instance, 0, _AT + 60, _HOLDER, 0, b"") for task, _ in scheduled]

    def _key(self, task: int) -> str:
        return f"{self.execution}/{task}/1"

    def _commit(
        self, status: str, events: list[str], put: list[tuple[Any, ...]], drop: list[tuple[str]], output: str = ""
    ) -> Transaction:
        self.version += 1
        row = f"[1,[{','.join(events)}]]".encode()
        history = [(self.execution, self.length, row)]
        self.length += len(events)
        summary = _summary(self.instance, self.execution, self.name, status, output, self.replies, self.length)
        instance = (
            self.instance, self.version, self.execution, self.execution, status, self.name, _AT, None, summary,
        )  # fmt: skip
        return Transaction([instance], history, put, drop)


def _together(transactions: Sequence[Transaction]) -> Transaction:
    """Several turns of different instances in one commit."""
    together = Transaction([], [], [], [])
    for transaction in transactions:
        together.instances.extend(transaction.instances)
        together.history.extend(transaction.history)
        together.put.extend(transaction.put)
        together.drop.extend(transaction.drop)
    return together


def batches(transactions: Sequence[Transaction], size: int) -> Iterator[Transaction]:
    for first in range(0, len(transactions), size):
        yield _together(transactions[first : first + size])


def hello(reply_to: str = "", *, apart: bool = False) -> list[Transaction]:
    """A sequence of three activities: four turns, of which the first creates it. apart: its start, then four turns."""
    life = _Life("hello_sequence", reply_to=reply_to)
    greetings = ['"Hello Tokyo!"', '"Hello Seattle!"', '"Hello London!"']
    first = [(1, '"Tokyo"')]
    return [
        *([life.start(), life.turn([], first)] if apart else [life.create(first)]),
        life.turn([(1, greetings[0])], [(2, '"Seattle"')]),
        life.turn([(2, greetings[1])], [(3, '"London"')]),
        life.turn([(3, greetings[2])], [], f"[{','.join(greetings)}]"),
    ]


def sequences_in_bulk(count: int) -> list[Transaction]:
    """Each of the four turns of all in commits of `TURNS`; the first creates them."""
    turns = zip(*(hello() for _ in range(count)), strict=True)
    return [transaction for turn in turns for transaction in batches(turn, TURNS)]


def sequences_one_by_one(count: int) -> list[Transaction]:
    """Each start its own commit; after each `AHEAD` starts, their four turns in one commit each."""
    written: list[Transaction] = []
    for first in range(0, count, AHEAD):
        turns = list(zip(*(hello(apart=True) for _ in range(first, min(count, first + AHEAD))), strict=True))
        written += turns[0]
        for turn in turns[1:]:
            written += batches(turn, TURNS)
    return written


def sequences_alone(count: int) -> list[Transaction]:
    """Four commits a sequence, one after the other."""
    return [transaction for _ in range(count) for transaction in hello()]


def parallel(count: int) -> list[Transaction]:
    """One turn that creates it and schedules all, then completions in commits of `DONE`; the last one ends it."""
    life = _Life("fan_out", str(count))
    written = [life.create([(i + 1, str(i)) for i in range(count)])]
    for first in range(0, count, DONE):
        done = [(i + 1, str(i)) for i in range(first, min(count, first + DONE))]
        written.append(life.turn(done, [], str(count) if first + DONE >= count else ""))
    return written


def steps(count: int) -> list[Transaction]:
    """One activity after the other: one commit a step."""
    life = _Life("steps", str(count))
    written = [life.create([(1, "0")])]
    for i in range(1, count):
        written.append(life.turn([(i, str(i - 1))], [(i + 1, str(i))]))
    written.append(life.turn([(count, str(count - 1))], [], str(count)))
    return written


def parked(count: int, woken: int) -> tuple[list[Transaction], list[Transaction]]:
    """Instances that wait for an event, in commits as large as those of `sequences_in_bulk`; then some of them woken,
    two commits each."""
    lives = [_Life("waiting") for _ in range(count)]
    written = list(batches([life.park() for life in lives], TURNS))
    return written, [transaction for life in lives[:woken] for transaction in life.wake()]


# ---- writing it


class Written(NamedTuple):
    """Seconds of all and of each transaction; bytes of history and summaries that are in the file afterwards."""

    seconds: float
    each: list[float]
    stored: int


def write(path: str, warm_up: Sequence[Transaction], transactions: Sequence[Transaction]) -> Written:
    """Commit the transactions in a fresh file, WAL and synchronous=FULL; the warm-up is not timed."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in SCHEMA:
            connection.execute(statement)
        for transaction in warm_up:
            _write_one(connection, transaction)
        each = []
        begun = last = time.perf_counter()
        for transaction in transactions:
            _write_one(connection, transaction)
            now = time.perf_counter()
            each.append(now - last)
            last = now
        return Written(last - begun, each, stored_bytes(connection))
    finally:
        connection.close()


def _write_one(connection: sqlite3.Connection, transaction: Transaction) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_UPSERT, transaction.instances)
    connection.executemany("INSERT INTO history VALUES (?,?,?)", transaction.history)
    if transaction.drop:
        connection.executemany("DELETE FROM rows WHERE key = ?", transaction.drop)
    if transaction.put:
        connection.executemany("INSERT OR REPLACE INTO rows VALUES (?,?,?,?,?,?,?,?)", transaction.put)
    connection.execute("COMMIT")


def stored_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of histories and summaries in a file of this layout."""
    sql = "SELECT (SELECT sum(length(events)) FROM history) + (SELECT sum(length(summary)) FROM instances)"
    stored: int = connection.execute(sql).fetchone()[0]
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description="what SQLite alone needs for the rows of run.py")
    parser.add_argument("--repeats", type=int, default=3, help="each in a fresh file; the median is shown")
    parser.add_argument("--dir", default=".", help="where the files are made (default: here)")
    arguments = parser.parse_args()
    print(f"SQLite {sqlite3.sqlite_version}, WAL, synchronous=FULL, warm-up 200 sequences")
    cases = (
        ("2,000 sequences in bulk", sequences_in_bulk(2_000), 2_000),
        ("2,000 sequences one by one", sequences_one_by_one(2_000), 2_000),
        ("300 sequences alone", sequences_alone(300), 300),
        ("1,000 in parallel", parallel(1_000), 1),
        ("10,000 in parallel", parallel(10_000), 1),
        ("1,000 steps", steps(1_000), 1_000),
        ("5,000 steps", steps(5_000), 5_000),
    )
    for name, transactions, units in cases:
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder:
            seconds = median(
                write(f"{folder}/{i}.db", sequences_in_bulk(200), transactions).seconds
                for i in range(arguments.repeats)
            )
        per_unit = f"{seconds / units * 1e3:8.3f} ms each, {units / seconds:9,.0f} a second" if units > 1 else ""
        print(f"{name:28} {len(transactions):5,} commits {seconds:8.3f} s  {per_unit}")


if __name__ == "__main__":
    main()
