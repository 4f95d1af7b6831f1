"""The writes of a SQLite store, each on a transaction that somebody else begins and ends.

Laws.
1. However many items, a constant number of statements: one read that decides, then at most one write a table (in
   chunks below SQLite's limit of variables). Never `executemany`: it lets go of the GIL for each row, as does each
   row fetched; threads that compute would starve the engine. So what decides comes back as one row of JSON.
2. Deciding in Python is safe because the transaction holds the write lock from its first statement on.
3. Items take effect one after the other, as if each had come alone, also when they name the same instance or row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

import msgspec

from durable.model.status import RuntimeStatus
from durable.ports import PARKED, Commit, Delivered, Fact, Lease, Outcome, Row

CHUNK: Final = 400
REMEMBER_SECONDS: Final = 24 * 3600.0
REMEMBER_FACTS: Final = 1_000

_FORGET_EVERY: Final = 512
_FINISHED: Final = frozenset(status.value for status in RuntimeStatus if status.finished)
_encoder = msgspec.json.Encoder()
_versions = msgspec.json.Decoder(dict[str, tuple[int, str]])
_standing = msgspec.json.Decoder(dict[str, tuple[str, str]])
_names = msgspec.json.Decoder(list[str])
_pairs = msgspec.json.Decoder(list[tuple[str, str]])
_held = msgspec.json.Decoder(list[tuple[str, str, int]])


def chunks(items: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """The items, so many at a time that their variables stay below SQLite's limit."""
    if not items:
        return ()
    if len(items) <= CHUNK:
        return (items,)
    return [items[first : first + CHUNK] for first in range(0, len(items), CHUNK)]


@lru_cache(maxsize=4 * CHUNK)
def marks(rows: int, width: int = 0) -> str:
    """`?,?,?` for `rows` values, or `(?,?),(?,?)` for rows of `width`."""
    return ",".join(["(" + ",".join("?" * width) + ")" if width else "?"] * rows)


def commit(connection: sqlite3.Connection, commits: Sequence[Commit]) -> list[Outcome]:
    """Apply the commits whose version fits."""
    versions: dict[str, tuple[int, str]] = {}
    for some in chunks([item.instance_id for item in commits]):
        sql = (
            "SELECT json_group_object(instance_id, json_array(version, execution_id)) FROM instances "
            f"WHERE instance_id IN ({marks(len(some))})"
        )
        versions.update(_versions.decode(connection.execute(sql, some).fetchone()[0]))
    begun = [item.summary.execution_id for item in commits if not item.expect]
    late = purged(connection, begun) if begun else ()
    outcomes: list[Outcome] = []
    instances: dict[str, tuple[Any, ...]] = {}
    history: list[tuple[Any, ...]] = []
    put: dict[str, Row] = {}
    drop: dict[str, None] = {}
    former: list[tuple[str, str]] = []
    forgotten: list[tuple[str, float, int]] = []
    replaced: list[str] = []
    for item in commits:
        instance_id, summary = item.instance_id, item.summary
        version, current = versions.get(instance_id, (0, ""))
        if version != item.expect or (current != item.continues if version else summary.execution_id in late):
            outcomes.append(Outcome.CONFLICT)
            continue
        version += 1
        versions[instance_id] = (version, summary.execution_id)
        outcomes.append(Outcome.COMMITTED)
        if item.forgotten:
            forgotten.append((current, 0.0, 0))
        elif current and current != summary.execution_id:
            former.append((instance_id, current))
        if item.replaces:
            replaced.append(instance_id)
        instances[instance_id] = (
            instance_id,
            version,
            item.id,
            summary.execution_id,
            summary.status.value,
            summary.name,
            summary.created_at.timestamp(),
            _encoder.encode(summary.tags).decode() if summary.tags else None,
            _encoder.encode(summary),
            summary.group,
        )
        history += item.appends
        for key in item.drop:
            put.pop(key, None)
            drop[key] = None
        for row in item.put:
            put[row.key] = row
    _insert(connection, "INSERT INTO former VALUES", former)
    _insert(connection, "INSERT OR IGNORE INTO purged VALUES", forgotten)
    for some in chunks(replaced):
        for table in ("instances", "seen"):  # a new life has its own place in listings
            connection.execute(f"DELETE FROM {table} WHERE instance_id IN ({marks(len(some))})", some)
    _insert(
        connection,
        "INSERT INTO instances VALUES",
        list(instances.values()),
        # created_at stays what it was at first: an instance never changes its place in listings.
        "ON CONFLICT (instance_id) DO UPDATE SET version = excluded.version, commit_id = excluded.commit_id, "
        "execution_id = excluded.execution_id, status = excluded.status, name = excluded.name, tags = excluded.tags, "
        "summary = excluded.summary, group_name = excluded.group_name",
    )
    _insert(connection, "INSERT INTO history VALUES", history)
    _drop_rows(connection, list(drop))
    _put_rows(connection, list(put.values()))
    return outcomes


def purged(connection: sqlite3.Connection, execution_ids: Sequence[str]) -> set[str]:
    """Those of these executions that were purged or forgotten: what comes late must not bring them back."""
    found: set[str] = set()
    for some in chunks(execution_ids):
        sql = f"SELECT json_group_array(execution_id) FROM purged WHERE execution_id IN ({marks(len(some))})"
        found.update(_names.decode(connection.execute(sql, some).fetchone()[0]))
    return found


def deliver(connection: sqlite3.Connection, facts: Sequence[Fact], now: float) -> list[Delivered]:
    """Put the facts that are new into inboxes; `now` is the time at which they are remembered."""
    standing: dict[str, tuple[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    for some in chunks(facts):
        ids = [fact.instance_id for fact in some]
        sql = (
            "SELECT json_group_object(instance_id, json_array(status, group_name)) FROM instances "
            f"WHERE instance_id IN ({marks(len(some))})"
        )
        standing.update(_standing.decode(connection.execute(sql, ids).fetchone()[0]))
        sql = (
            "SELECT json_group_array(json_array(instance_id, fact_id)) FROM seen "
            f"WHERE (instance_id, fact_id) IN (VALUES {marks(len(some), 2)})"
        )
        values = [value for fact in some for value in (fact.instance_id, fact.id)]
        seen.update(_pairs.decode(connection.execute(sql, values).fetchone()[0]))
    answers: list[Delivered] = []
    new: list[Fact] = []
    for fact in facts:
        status, _ = standing.get(fact.instance_id, ("", ""))
        if (fact.instance_id, fact.id) in seen:
            answers.append(Delivered.DUPLICATE)
        elif not fact.park and (not status or status in _FINISHED):
            answers.append(Delivered.FINISHED if status else Delivered.ABSENT)
        else:
            if not status or status in _FINISHED:
                standing[fact.instance_id] = (status, PARKED)
            answers.append(Delivered.PARKED if standing[fact.instance_id][1] == PARKED else Delivered.NEW)
            seen.add((fact.instance_id, fact.id))
            new.append(fact)
    if new:
        connection.execute("UPDATE deliveries SET number = number + ?", (len(new),))
        last: int = connection.execute("SELECT max(number) FROM deliveries").fetchone()[0]
        numbered = list(enumerate(new, last - len(new) + 1))
        _insert(connection, "INSERT INTO seen VALUES", [(n, fact.instance_id, fact.id, now) for n, fact in numbered])
        _put_rows(
            connection,
            [
                Row(
                    f"in/{n:016}",
                    "inbox",
                    fact.instance_id,
                    fact.partition,
                    fact.due_at,
                    body=fact.body,
                    group=standing[fact.instance_id][1],
                )
                for n, fact in numbered
            ],
        )
        # One fact in some hundred, picked by its own id, tidies up after its instance: no state, no pattern to miss.
        for instance_id in {fact.instance_id for fact in new if crc32(fact.id.encode()) % _FORGET_EVERY == 0}:
            forget(connection, instance_id, now)
    return answers


def forget(connection: sqlite3.Connection, instance_id: str, now: float) -> None:
    """Forget the ids of facts that are both older than a day and not among the newest thousand of their instance."""
    connection.execute(
        "DELETE FROM seen WHERE instance_id = ? AND at < ? AND number < "
        "(SELECT min(number) FROM (SELECT number FROM seen WHERE instance_id = ? ORDER BY number DESC LIMIT ?))",
        (instance_id, now - REMEMBER_SECONDS, instance_id, REMEMBER_FACTS),
    )


def lease(connection: sqlite3.Connection, leases: Sequence[Lease]) -> list[bool]:
    """Apply the leases whose row is held as expected."""
    held: dict[str, tuple[str, int]] = {}
    for some in chunks(leases):
        sql = f"SELECT json_group_array(json_array(key, holder, attempt)) FROM rows WHERE key IN ({marks(len(some))})"
        found = connection.execute(sql, [item.key for item in some]).fetchone()[0]
        held.update({key: (holder, attempt) for key, holder, attempt in _held.decode(found)})
    answers: list[bool] = []
    changed: dict[str, tuple[Any, ...]] = {}
    ended: dict[str, None] = {}
    for item in leases:
        fits = held.get(item.key) == (item.expect_holder, item.expect_attempt)
        answers.append(fits)
        if not fits:
            continue
        if item.due_at is None:
            del held[item.key]
            changed.pop(item.key, None)
            ended[item.key] = None
        else:
            held[item.key] = (item.holder, item.expect_attempt + 1)
            changed[item.key] = (item.key, item.due_at, item.holder, item.expect_attempt + 1)
    for rows in chunks(list(changed.values())):
        connection.execute(
            "UPDATE rows SET due_at = new.column2, holder = new.column3, attempt = new.column4 "
            f"FROM (VALUES {marks(len(rows), 4)}) AS new WHERE key = new.column1",
            [value for row in rows for value in row],
        )
    _drop_rows(connection, list(ended))
    return answers


def _put_rows(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    values = [
        (row.key, row.kind, row.instance_id, row.partition, row.due_at, row.holder, row.attempt, row.body, row.group)
        for row in rows
    ]
    _insert(connection, "INSERT OR REPLACE INTO rows VALUES", values)


def _drop_rows(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    for some in chunks(keys):
        connection.execute(f"DELETE FROM rows WHERE key IN ({marks(len(some))})", some)


def _insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]], then: str = "") -> None:
    for some in chunks(rows):
        values = [value for row in some for value in row]
        connection.execute(f"{into} {marks(len(some), len(some[0]))} {then}", values)
