"""`durable list`: orchestrations as a table, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from ..model.status import OrchestrationStatus
from .exits import CommandError, Exit
from .terminal import Screen, duration, preview, safe, shortly

_ROOM_FOR_CUSTOM = 110


def print_list(screen: Screen, items: Sequence[OrchestrationStatus], now: datetime) -> None:
    """One row an orchestration; ids are folded where they are too long, never cut."""
    headers = ["ID", "NAME", "STATUS", "CREATED", "DURATION"]
    rows = [[*_row(item, now)] for item in items]
    if screen.table_width >= _ROOM_FOR_CUSTOM and any(item.custom_status is not None for item in items):
        headers.append("CUSTOM STATUS")
        for row, item in zip(rows, items, strict=True):
            row.append("" if item.custom_status is None else preview(item.custom_status, 40))
    styles = ["bold", "", "status", "dim", "dim", ""][: len(headers)]
    screen.table(headers, rows, styles, fold=0)


def _row(item: OrchestrationStatus, now: datetime) -> tuple[str, ...]:
    name = safe(item.name) + (f" {safe(item.version)}" if item.version else "")
    took = duration((item.completed_at or now) - item.created_at)
    return safe(item.instance_id), name, item.runtime_status.value, shortly(item.created_at, now), took


def time_argument(text: str | None, option: str) -> datetime | None:
    """The moment an option names; None where it was not given. Raises CommandError."""
    if text is None:
        return None
    try:
        # Python 3.10 does not read the Z that everybody else writes.
        at = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
    except ValueError:
        raise CommandError(Exit.USAGE, f"{option} {text!a}: write it like 2026-11-24 or 2026-11-24T08:30:00Z") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)
