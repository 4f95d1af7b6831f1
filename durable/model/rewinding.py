"""What still counts in a history that was rewound.

Laws.
1. A rewind voids what came after the moment at which the code met its end (`rewinds_to`), and the one earlier outcome
   that ended it (`voids`). Everything else stands: what was caught, what was done, what is still open.
2. What is void is as if it had never happened, for the code, for the ledger and for a reader; it stays in the history.
3. Without that outcome something else may be what the code is told: another loser of a `task_any`. It is told after the
   rewind, not before, for what stands has nothing that would follow from it (`Span`).
4. Void work keeps its numbers: a task id, or an attempt of one, is never used again, so that nothing late fits anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

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


class Span(NamedTuple):
    """Between these events, both exclusive, the code was waiting for this task: its outcome there is void."""

    first: int
    end: int
    task_id: int


def void_outcomes(events: Sequence[Event], stands: Sequence[tuple[int, Event]]) -> list[Span]:
    """Where outcomes are void, of a history from its beginning on and what stands of it."""
    rewinds = [number for number, event in stands if event.type == EXECUTION_REWOUND]
    return [
        Span(event.voids, next(end for end in rewinds if end >= number), event.task_id)
        for number, event in enumerate(events)
        if event.type == EXECUTION_REWOUND and event.voids
    ]


def passed_over(events: Iterable[Event]) -> frozenset[int]:
    """The numbers of void outcomes that what stands has to do with: the next item of a map may have followed one."""
    numbers: list[int] = []
    for event in events:
        if event.type == EXECUTION_REWOUND:
            numbers = [number for number in numbers if number < event.rewinds_to]
            if event.voids:
                numbers.append(event.voids)
    return frozenset(numbers)


def last_task_id(events: Sequence[Event], number: int) -> int:
    """The highest task id that was ever used before the event of this number."""
    return max((event.task_id for event in events[:number]), default=0)
