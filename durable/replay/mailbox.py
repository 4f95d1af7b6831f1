"""Events of one execution that nobody has taken, and the waits that its code listens with.

Laws.
1. An event goes to a wait only while the code waits for it: oldest event first, to such waits in order of creation.
   Names are compared without regard to case.
2. A timeout draws a line. Nobody listened with the wait then: if there was an event for it, it may still take one of
   those from before the line, once it is listened with again; else it has timed out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..model.history import Event
from .tasks import Leaf, WaitTask


class Mailbox:
    """Pairs events with waits; settling them is for the caller, who also fills `tasks`, the open ones by number."""

    def __init__(self, tasks: Mapping[int, Leaf[Any]]) -> None:
        self.kept: list[Event] = []
        self.listening: Sequence[WaitTask[Any]] = ()
        self._tasks = tasks

    def taker(self, event: Event) -> WaitTask[Any] | None:
        """The wait that takes this event now; None when it is kept for a later one."""
        wait = self._listener(event)
        if wait is None:
            self.kept.append(event)
        return wait

    def pairs(self) -> Iterator[tuple[WaitTask[Any], Event]]:
        """Kept events with those who listen for them now, each pair to be settled before the next is asked for."""
        number = 0
        while number < len(self.kept):
            wait = self._listener(self.kept[number])
            if wait is None or (wait.expired_at is not None and number >= wait.expired_at):
                number += 1
                continue
            event = self.kept.pop(number)
            for other in self._tasks.values():
                if isinstance(other, WaitTask) and other.expired_at is not None and other.expired_at > number:
                    other.expired_at -= 1
            yield wait, event

    def expires(self, wait: WaitTask[Any]) -> bool:
        """Its timer has fired: whether it has timed out. Else the line of law 2 is drawn."""
        key = wait.name.casefold()
        if wait not in self.listening and any(event.name.casefold() == key for event in self.kept):
            wait.expired_at = len(self.kept)
            return False
        return True

    def _listener(self, event: Event) -> WaitTask[Any] | None:
        key = event.name.casefold()
        for wait in self.listening:
            if not wait.order and wait.name.casefold() == key:
                return wait
        return None
