"""Purging in a SQLite store: out of sight in one transaction, out of the file in pages.

The id of an execution that was purged, or forgotten by a commit, is remembered for a day from when its history is gone.

The laws of `sqlite_statements.py` hold here too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from durable.model.status import RuntimeStatus
from durable.ports import ExecutionKey, Purged

from .sqlite_statements import chunks, marks

REMEMBER_SECONDS: Final = 24 * 3600.0

_FINISHED: Final = frozenset(status.value for status in RuntimeStatus if status.finished)
_standing = msgspec.json.Decoder(dict[str, tuple[str, str]])
_names = msgspec.json.Decoder(list[str])


def purge(connection: sqlite3.Connection, executions: Sequence[ExecutionKey]) -> list[Purged]:
    """Take the finished ones among them out of sight."""
    standing: dict[str, tuple[str, str]] = {}
    for some in chunks([execution.instance_id for execution in executions]):
        sql = (
            "SELECT json_group_object(instance_id, json_array(execution_id, status)) FROM instances "
            f"WHERE instance_id IN ({marks(len(some))})"
        )
        standing.update(_standing.decode(connection.execute(sql, some).fetchone()[0]))
    answers: list[Purged] = []
    gone: list[ExecutionKey] = []
    for execution in executions:
        current, status = standing.get(execution.instance_id, ("", ""))
        if not current:
            answers.append(Purged.ABSENT)
        elif current != execution.execution_id or status not in _FINISHED:
            answers.append(Purged.KEPT)
        else:
            answers.append(Purged.GONE)
            del standing[execution.instance_id]
            gone.append(execution)
    for keys in chunks(gone):
        ids = [key.instance_id for key in keys]
        among = f"instance_id IN ({marks(len(ids))})"
        for table in ("former", "instances"):
            connection.execute(
                f"INSERT OR IGNORE INTO purged SELECT execution_id, 0, 0 FROM {table} WHERE {among}", ids
            )
        for table in ("former", "instances", "seen"):
            connection.execute(f"DELETE FROM {table} WHERE {among}", ids)
        connection.execute(f"DELETE FROM rows WHERE kind = 'inbox' AND {among}", ids)
    return answers


def clear(connection: sqlite3.Connection, limit: int, now: float) -> int:
    """Delete stored rows of purged and forgotten executions, `limit` at most; how many pieces there were, 0 for none.

    `now` is the time from which their ids are remembered.
    """
    connection.execute("DELETE FROM purged WHERE cleared = 1 AND at < ?", (now - REMEMBER_SECONDS,))
    sql = "SELECT json_group_array(execution_id) FROM (SELECT execution_id FROM purged WHERE cleared = 0 LIMIT ?)"
    left = _names.decode(connection.execute(sql, (limit,)).fetchone()[0])
    removed = 0
    for some in chunks(left):
        among = f"execution_id IN ({marks(len(some))})"
        room = limit - removed
        deleted = connection.execute(
            f"DELETE FROM history WHERE rowid IN (SELECT rowid FROM history WHERE {among} LIMIT ?)", (*some, room)
        ).rowcount
        removed += deleted
        if deleted >= room:
            break
        connection.execute(f"UPDATE purged SET cleared = 1, at = ? WHERE {among}", (now, *some))
        removed += len(some)
    return removed
