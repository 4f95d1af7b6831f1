"""Which fault has met a row of work in which state: so that the simulator can say what it has never tried.

A row has no states (`durable.ports`, law 3), only a time and a holder; these make the states told apart here. A fault
meets a row if it is about it: a request that names it or its instance, a message that speaks of it, a worker that
holds it or looks after its partition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from ..ports import UNSERVED, Row

Met = set[tuple[str, str]]
About = Callable[[Row], bool]

HELD: Final = "held"  # by whoever put it, who lives
LEASED: Final = "leased"  # by somebody who lives
OVERDUE: Final = "overdue"  # held or leased still, and its time is over
ORPHANED: Final = "orphaned"  # whoever has it is gone
WAITING: Final = "waiting"  # nobody's, until its time comes: with the broker, or a timer
DUE: Final = "due"  # anybody's
KEPT: Final = "kept"  # for nobody who is there


def state_of(row: Row, now: float, living: Collection[str]) -> str:
    """Its kind and how it stands."""
    if row.group in UNSERVED:
        stands = KEPT
    elif not row.holder:
        stands = DUE if row.due_at <= now else WAITING
    elif row.holder not in living:
        stands = ORPHANED
    elif row.due_at <= now:
        stands = OVERDUE
    else:
        stands = LEASED if row.attempt else HELD
    return f"{row.kind} {stands}"


def met_by(kind: str, about: About, rows: Iterable[Row], now: float, living: Collection[str]) -> Met:
    """What this fault meets."""
    return {(kind, state_of(row, now, living)) for row in rows if about(row)}


_STATES: Final = (
    *(f"task {stands}" for stands in (HELD, LEASED, OVERDUE, ORPHANED, WAITING, DUE)),
    *(f"message {stands}" for stands in (HELD, LEASED, OVERDUE, ORPHANED, WAITING, DUE)),
    *(f"timer {stands}" for stands in (WAITING, DUE)),  # it has no holder
    *(f"inbox {stands}" for stands in (HELD, LEASED, OVERDUE, ORPHANED, WAITING, DUE, KEPT)),
)
_OF_TASKS: Final = ("done late", "done twice", "message late", "message lost", "message twice", "publish unknown")


def can_meet(faults: Iterable[str]) -> Met:
    """Pairs that are possible: a message is about a task, all else about any row."""
    return {
        (fault, state) for fault in faults for state in _STATES if state.startswith("task") or fault not in _OF_TASKS
    }
