"""Which holders of rows live, as far as this worker knows: it is told of the living, and meets the others in rows."""

from __future__ import annotations

from collections.abc import Collection


class Roster:
    """alive: as the loop is told. A holder that was alive and is no more is dead at once. One never heard of may have
    just come: it is given `patience` seconds from the first sight of it; 0 where nobody can come beside this worker.
    """

    def __init__(self, me: str) -> None:
        self.alive: frozenset[str] = frozenset({me})
        self._patience = 0.0
        self._known: set[str] = {me}
        self._strangers: dict[str, float] = {}  # when they were first seen

    def update(self, alive: Collection[str], patience: float) -> None:
        self.alive = frozenset(alive)
        self._patience = patience
        self._known |= self.alive
        for holder in self.alive:
            self._strangers.pop(holder, None)

    def lives(self, holder: str, now: float) -> bool:
        """Whether its rows are to be left alone; '' is nobody."""
        if holder in self.alive:
            return True
        if not holder or holder in self._known:
            return False
        return now < self._strangers.setdefault(holder, now) + self._patience

    def next_doubt(self, now: float) -> float:
        """When somebody who is given the benefit of the doubt now will be given it no more; infinity for nobody."""
        ends = [seen + self._patience for seen in self._strangers.values() if now < seen + self._patience]
        return min(ends, default=float("inf"))
