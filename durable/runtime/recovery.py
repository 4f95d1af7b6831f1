"""Rows that nobody runs: what is behind each, read from the history without the orchestrator's code."""

from __future__ import annotations

from collections.abc import Iterable

from ..engine.effects import invocation_of
from ..engine.instance import Invocation, events_of, row_behind
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
    outcomes: dict[str, set[str]] = {}
    tasks: list[tuple[Row, Invocation | None]] = []
    for row in rows:
        record = found[row.instance_id]
        if record is None:
            tasks.append((row, None))
            continue
        try:
            if row.instance_id not in ledgers:
                ledgers[row.instance_id] = Ledger(events_of(record))
                outcomes[row.instance_id] = _outcomes(record)
        except UnreadableHistory:
            continue
        known = ledgers[row.instance_id], outcomes[row.instance_id]
        tasks.append((row, _open_task(row.key, record, *known)))
    return tasks


def open_task(row_key: str, record: Record | None) -> Invocation | None:
    """The invocation behind one row; None where nobody waits for it any more, or nobody can tell."""
    try:
        if record is None:
            return None
        return _open_task(row_key, record, Ledger(events_of(record)), _outcomes(record))
    except UnreadableHistory:
        return None


def _outcomes(record: Record) -> set[str]:
    """The rows whose outcome is in the inbox."""
    return {row_behind(arrival) for arrival in inbox_arrivals(record.inbox)[0]}


def _open_task(row_key: str, record: Record, ledger: Ledger, outcomes: set[str]) -> Invocation | None:
    """None too where the outcome is there, and only has to be taken."""
    execution_id, task_id, attempt = row_key.rsplit("/", 2)
    if row_key in outcomes:
        return None
    if record.summary.execution_id != execution_id or record.summary.status is RuntimeStatus.TERMINATED:
        return None
    scheduled = ledger.tasks.get(int(task_id))
    if scheduled is None or scheduled.attempt != int(attempt):
        return None
    return invocation_of(record.summary, scheduled, ledger.numbers[scheduled.task_id])
