"""What a history says is open, read without the orchestrator's code.

Terminating, re-running an interrupted activity and telling what an instance waits for must work when the code is
missing or broken, so they read this, not an Execution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..model import history as h
from ..model.history import Event, decode_events
from ..model.rewinding import standing


class Ledger:
    """The open ends of one execution: scheduled tasks, children, timers and waits without an outcome, by task id.

    numbers: of the TaskScheduled events.
    """

    def __init__(self, history: Iterable[Event]) -> None:
        self._of(standing(history))

    def _of(self, stands: Iterable[tuple[int, Event]]) -> None:
        self.started: Event | None = None
        self.ended: Event | None = None
        self.tasks: dict[int, Event] = {}
        self.children: dict[int, Event] = {}
        self.timers: dict[int, Event] = {}
        self.waits: dict[int, Event] = {}
        self.numbers: dict[int, int] = {}
        self.turn_at = 0.0
        for number, event in stands:
            self._read(event)
            if event.type == h.TASK_SCHEDULED:
                self.numbers[event.task_id] = number

    @classmethod
    def of_standing(cls, stands: Iterable[tuple[int, Event]]) -> Ledger:
        """Of numbered events that all stand: what a rewind among them made void is not looked for."""
        ledger = cls.__new__(cls)
        ledger._of(stands)
        return ledger

    @classmethod
    def of_rows(cls, rows: Sequence[bytes]) -> Ledger:
        return cls(event for row in rows for event in decode_events(row))

    def _read(self, event: Event) -> None:
        kind, task_id = event.type, event.task_id
        if kind == h.TASK_SCHEDULED:
            self.tasks[task_id] = event
        elif kind in (h.TASK_COMPLETED, h.TASK_FAILED):
            self.tasks.pop(task_id, None)
        elif kind == h.TIMER_CREATED:
            self.timers[task_id] = event
        elif kind in (h.TIMER_FIRED, h.TIMER_CANCELED):
            self.timers.pop(task_id, None)
            self.waits.pop(task_id, None)
        elif kind == h.CHILD_CREATED and event.status != h.DETACHED:
            self.children[task_id] = event
        elif kind in (h.CHILD_COMPLETED, h.CHILD_FAILED):
            self.children.pop(task_id, None)
        elif kind == h.EVENT_AWAITED:
            self.waits[task_id] = event
        elif kind == h.TASK_CANCELED:
            # A cancelled child goes on by itself, so it stays listed: terminating its parent must still reach it.
            self.tasks.pop(task_id, None)
            self.timers.pop(task_id, None)
            self.waits.pop(task_id, None)
        elif kind == h.EVENT_RAISED and event.task_id:
            self.waits.pop(task_id, None)
        elif kind == h.EVENT_RAISED:
            self._event_taken(event)
        elif kind == h.EXECUTION_STARTED:
            self.started = event
        elif kind == h.ORCHESTRATOR_STARTED:
            self.turn_at = event.timestamp.timestamp()
        elif kind in (h.EXECUTION_COMPLETED, h.CONTINUE_AS_NEW):
            self.ended = event

    def _event_taken(self, event: Event) -> None:
        """Without the code, which wait took an event can only be guessed: the first of that name."""
        key = event.name.casefold()
        for task_id, wait in self.waits.items():
            if wait.name.casefold() == key and not wait.input:
                del self.waits[task_id]
                return
