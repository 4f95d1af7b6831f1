"""What still counts in a history that was rewound.

Laws.
1. A rewind voids what came after the moment at which the code met its end (`rewinds_to`), and the one earlier outcome
   that ended it (`voids`). Everything else stands: what was caught, what was done, what is still open.
2. What is void is as if it had never happened, for the code, for the ledger and for a reader; it stays in the history.
3. Void work keeps its numbers: a task id, or an attempt of one, is never used again, so that nothing late fits anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from .history import EXECUTION_REWOUND, Event


class Rewinds(Protocol):
    """As much of an event, stored or shown, as tells what it makes void."""

    @property
    def type(self) -> str: ...
    @property
    def rewinds_to(self) -> int | None: ...
    @property
    def voids(self) -> int | None: ...


E = TypeVar("E", bound=Rewinds)


def standing(events: Iterable[E]) -> list[tuple[int, E]]:
    """The events that count, each with its number, of a history from its beginning on."""
    kept: list[tuple[int, E]] = []
    for number, event in enumerate(events):
        if event.type == EXECUTION_REWOUND:
            back, void = event.rewinds_to or 0, event.voids or None  # event 0 is never void
            kept = [(n, e) for n, e in kept if n < back and n != void]
        kept.append((number, event))
    return kept


def last_task_id(events: Sequence[Event], number: int) -> int:
    """The highest task id that was ever used before the event of this number."""
    return max((event.task_id for event in events[:number]), default=0)
