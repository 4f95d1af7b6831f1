"""The reads on the engine's path: many stored rows in one fetched row.

Python's sqlite3 lets go of the GIL for each row it fetches. Beside one thread that computes, each costs a switch
interval (5 ms): loading 100 instances took 0.26 s. So rows come back as one JSON text, which costs nothing otherwise;
only what is large is fetched row by row, where the copying would cost more than the switches.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from durable.model.errors import StoreError
from durable.model.history import UNDECODABLE
from durable.model.status import Summary
from durable.ports import Record, Row

from .sqlite_statements import marks

LARGE_BYTES: Final = 64 * 1024

_rows: Final = msgspec.json.Decoder(list[list[Any]])
_summary: Final = msgspec.json.Decoder(Summary)

# JSON in SQLite keeps 15 digits of a number, a due time has 16: whole seconds and 2**-52ths travel as integers.
_PARTS: Final = 4503599627370496.0
_ROW: Final = (
    "key, kind, instance_id, partition, CAST(due_at AS INTEGER), "
    f"CAST((due_at - CAST(due_at AS INTEGER)) * {_PARTS} AS INTEGER), holder, attempt, group_name"
)


def gather(
    connection: sqlite3.Connection, columns: str, blob: str, source: str, values: Sequence[Any]
) -> list[list[Any]]:
    """`SELECT columns, blob source`, as lists, in any order. `columns` are texts and integers."""
    if (rows := _gathered(connection, columns, blob, source, values)) is None:
        rows = [list(row) for row in connection.execute(f"SELECT {columns}, {blob} {source}", values).fetchall()]
    return rows


def _gathered(
    connection: sqlite3.Connection, columns: str, blob: str, source: str, values: Sequence[Any]
) -> list[list[Any]] | None:
    """All rows by one fetch; None when something in them is large or is not UTF-8."""
    # The inner query keeps its ORDER BY and LIMIT to itself; an aggregate beside them would ignore both. Its items are
    # JSON already: group_concat joins them, where json_group_array would parse each again.
    sql = (
        "SELECT group_concat(item) FROM (SELECT json_array("
        f"{columns}, CASE WHEN length({blob}) <= {LARGE_BYTES} THEN CAST({blob} AS TEXT) END) AS item {source})"
    )
    try:
        text = connection.execute(sql, values).fetchone()[0]
    except (sqlite3.OperationalError, sqlite3.DataError):
        # Not UTF-8, or more than 1 GB in all. Any other trouble comes again, and is raised, row by row.
        return None
    rows = _rows.decode("[" + text + "]") if text else []
    for row in rows:
        if row[-1] is None:
            return None
        row[-1] = row[-1].encode()
    return rows


def load(connection: sqlite3.Connection, ids: Sequence[str], known: dict[str, int]) -> dict[str, Record]:
    """The records of these instances that exist; without history where the version is the known one."""
    among = f"IN ({marks(len(ids))})"
    instances = [
        (key, version, commit_id, decode_summary(blob))
        for key, version, commit_id, blob in gather(
            connection, "instance_id, version, commit_id", "summary", f"FROM instances WHERE instance_id {among}", ids
        )
    ]
    wanted = [summary.execution_id for key, version, _, summary in instances if version != known[key]]
    histories: dict[str, list[bytes]] = {execution_id: [] for execution_id in wanted}
    if wanted:
        source = f"FROM history WHERE execution_id IN ({marks(len(wanted))})"
        stored = gather(connection, "execution_id, start", "events", source, wanted)
        stored.sort(key=lambda row: row[1])
        for execution_id, _, events in stored:
            histories[execution_id].append(events)
    inboxes: dict[str, list[Row]] = {}
    inbox = rows_of(connection, f"FROM rows WHERE kind = 'inbox' AND instance_id {among}", ids)
    # What the engine put there itself comes first: it is older than anything delivered to this execution.
    inbox.sort(key=lambda row: (row.key.startswith("in/"), row.key))
    for row in inbox:
        inboxes.setdefault(row.instance_id, []).append(row)
    records: dict[str, Record] = {}
    for key, version, commit_id, summary in instances:
        history = tuple(histories[summary.execution_id]) if version != known[key] else None
        records[key] = Record(version, commit_id, summary, history, tuple(inboxes.get(key, ())))
    return records


def summaries(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Summary]:
    """The summaries of these instances that exist."""
    if len(ids) == 1:
        row = connection.execute("SELECT summary FROM instances WHERE instance_id = ?", ids).fetchone()
        return {} if row is None else {ids[0]: decode_summary(row[0])}
    source = f"FROM instances WHERE instance_id IN ({marks(len(ids))})"
    return {key: decode_summary(blob) for key, blob in gather(connection, "instance_id", "summary", source, ids)}


def rows_of(connection: sqlite3.Connection, source: str, values: Sequence[Any]) -> list[Row]:
    """The work rows of `source`, in any order."""
    return [
        Row(key, kind, instance_id, partition, seconds + parts / _PARTS, holder, attempt, body, group)
        for key, kind, instance_id, partition, seconds, parts, holder, attempt, group, body in gather(
            connection, _ROW, "body", source, values
        )
    ]


def decode_summary(stored: bytes) -> Summary:
    """A stored summary. Raises StoreError for one that can't be read."""
    try:
        return _summary.decode(stored)
    except UNDECODABLE as error:
        raise StoreError(f"a stored summary can't be read ({error}); the file is damaged or newer") from error
