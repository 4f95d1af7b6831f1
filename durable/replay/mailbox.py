"""Events of one execution that nobody has taken, and the waits that its code listens with.

Laws.
1. An event goes to a wait only while the code waits for it: oldest event first, to such waits in order of creation.
   Names are compared without regard to case. The code waits for what it yielded as long as that is unfinished, and for
   a wait in it as long as unfinished tasks lead there.
2. A timeout draws a line. Nobody listened with the wait then: if there was an event for it, it may still take one of
   those from before the line, once it is listened with again; else it has timed out. Events from behind the line are
   for the next wait of that name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..model.history import Event
from .task_trees import is_open_below
from .tasks import Leaf, Task, WaitTask


class Mailbox:
    """Pairs events with waits; settling them is for the caller, who also fills `tasks`, the open ones by number."""

    def __init__(self, tasks: Mapping[int, Leaf[Any]]) -> None:
        self.kept: list[Event] = []
        self._tasks = tasks
        self._awaited: Task[Any] | None = None
        self._listening: dict[str, deque[WaitTask[Any]]] = {}

    def open(self, awaited: Task[Any], waits: Iterable[WaitTask[Any]]) -> None:
        """The code waits for this, and with these."""
        self._awaited, self._listening = awaited, {}
        for wait in waits:
            self._listening.setdefault(wait.name.casefold(), deque()).append(wait)

    def close(self) -> None:
        """The code runs, or has ended."""
        self._awaited, self._listening = None, {}

    def listens(self, wait: WaitTask[Any]) -> bool:
        """Whether the code waits with it now: law 1."""
        return self._awaited is not None and is_open_below(self._awaited, wait)

    def taker(self, event: Event) -> WaitTask[Any] | None:
        """The wait that takes this event now; None when it is kept for a later one."""
        wait = self._listener(event, len(self.kept))
        if wait is None:
            self.kept.append(event)
        return wait

    def pairs(self) -> Iterator[tuple[WaitTask[Any], Event]]:
        """Kept events with those who listen for them now, each pair to be settled before the next is asked for."""
        number = 0
        while number < len(self.kept):
            wait = self._listener(self.kept[number], number)
            if wait is None:
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
        if not self.listens(wait) and any(event.name.casefold() == key for event in self.kept):
            wait.expired_at = len(self.kept)
            return False
        return True

    def _listener(self, event: Event, number: int) -> WaitTask[Any] | None:
        """Who takes this event, whose number among those that are kept is this. Asked for in order of the events."""
        waits = self._listening.get(event.name.casefold())
        while waits:
            wait = waits[0]
            in_time = wait.expired_at is None or number < wait.expired_at
            if in_time and self.listens(wait):
                return wait
            waits.popleft()  # no later event is for it either, before the code runs again
        return None
