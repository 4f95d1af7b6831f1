"""Starts made in a worker's own process, on their way through its loop, which creates each with its first turn.

Laws.
1. A start waits for the loop a moment only: after that its outcome is UNKNOWN, and reading the store settles it.
2. Whatever becomes of the loop, everybody who waits is answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..engine.step import uncreated
from ..ports import Commit, Outcome
from .requests import News, Started

_PATIENCE: Final = 1.0  # seconds; the loop may be busy with an orchestrator that does not yield


class _Ticket:
    """Starts that are waited for together. The lock is let go of with the last answer: a raw one is the fastest."""

    __slots__ = ("answered", "answers", "left")

    def __init__(self, starts: int) -> None:
        self.left = starts
        self.answers: dict[str, Outcome | None] = {}
        self.answered = threading.Lock()
        self.answered.acquire()

    def answer(self, instance_id: str, outcome: Outcome | None) -> None:
        self.answers[instance_id] = outcome
        self.left -= 1
        if not self.left:
            self.answered.release()


class Creations:
    """Who waits for which start. Safe to use from several threads."""

    def __init__(self, tell: Callable[[News], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._tickets: dict[str, _Ticket] = {}
        self._closed = False

    def create(self, commits: Sequence[Commit]) -> dict[str, Outcome]:
        """What became of these. Those that are left out were not begun here and will not be."""
        ticket = _Ticket(len(commits))
        with self._lock:
            if self._closed:
                return {}
            self._tickets.update((commit.instance_id, ticket) for commit in commits)
        self._tell(Started([uncreated(commit) for commit in commits]))
        if not ticket.answered.acquire(timeout=_PATIENCE):
            self.created([(commit.instance_id, Outcome.UNKNOWN) for commit in commits])
        return {instance_id: outcome for instance_id, outcome in ticket.answers.items() if outcome is not None}

    def created(self, outcomes: Sequence[tuple[str, Outcome | None]]) -> None:
        """Answer whoever waits for these."""
        with self._lock:
            for instance_id, outcome in outcomes:
                ticket = self._tickets.pop(instance_id, None)
                if ticket is not None:
                    ticket.answer(instance_id, outcome)

    def close(self) -> None:
        """The loop has ended: what it did not answer for may have been committed."""
        with self._lock:
            self._closed = True
            left = list(self._tickets)
        self.created([(instance_id, Outcome.UNKNOWN) for instance_id in left])
