"""Rows that nobody runs: what is behind each, read from the history without the orchestrator's code."""

from __future__ import annotations

from collections.abc import Iterable

from ..engine.effects import invocation_of
from ..engine.instance import Invocation, row_behind
from ..engine.ledger import Ledger
from ..engine.step import inbox_arrivals
from ..model.history import UnreadableHistory
from ..model.status import RuntimeStatus
from ..ports import Record, Row


def open_tasks(rows: Iterable[Row], found: dict[str, Record | None]) -> list[tuple[Row, Invocation | None]]:
    """Each row with the invocation behind it, None where nobody waits for this attempt any more.

    Rows of an instance whose history can't be read are left out, and so left alone.
    """
    ledgers: dict[str, Ledger] = {}
    tasks: list[tuple[Row, Invocation | None]] = []
    for row in rows:
        record = found[row.instance_id]
        if record is None:
            tasks.append((row, None))
            continue
        try:
            if row.instance_id not in ledgers:
                ledgers[row.instance_id] = Ledger.of_rows(record.history or ())
        except UnreadableHistory:
            continue
        tasks.append((row, _open_task(row.key, record, ledgers[row.instance_id])))
    return tasks


def open_task(row_key: str, record: Record | None) -> Invocation | None:
    """The invocation behind one row; None where nobody waits for it any more, or nobody can tell."""
    try:
        return None if record is None else _open_task(row_key, record, Ledger.of_rows(record.history or ()))
    except UnreadableHistory:
        return None


def _open_task(row_key: str, record: Record, ledger: Ledger) -> Invocation | None:
    """None too where the outcome is in the inbox, and only has to be taken."""
    execution_id, task_id, attempt = row_key.rsplit("/", 2)
    if any(row_behind(arrival) == row_key for arrival in inbox_arrivals(record.inbox)[0]):
        return None
    if record.summary.execution_id != execution_id or record.summary.status is RuntimeStatus.TERMINATED:
        return None
    scheduled = ledger.tasks.get(int(task_id))
    if scheduled is None or scheduled.attempt != int(attempt):
        return None
    return invocation_of(record.summary, scheduled, ledger.numbers[scheduled.task_id])
