"""What a history says about each task: when it began and ended, its attempts, how it came out. Pure.

Laws.
1. It reads the public events only, so it tells the same about any orchestration, without its code.
2. Which wait took an event is not recorded. The first open wait of that name is a guess, and nearly always right.
3. What is open when the execution ends is left: nobody waits for its outcome any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from ..model import history as h
from ..model.failure import FailureDetails
from ..model.history import HistoryEvent


class Kind(Enum):
    """What an orchestrator can wait for."""

    ACTIVITY = "activity"
    CHILD = "child"
    TIMER = "timer"
    EVENT = "event"


class State(Enum):
    """How a task stands; the value is what a reader sees."""

    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    LEFT = "left"


OPEN = frozenset({State.RUNNING, State.RETRYING, State.WAITING})


@dataclass
class Attempt:
    """One try of an activity or a child."""

    started: datetime
    ended: datetime | None = None


@dataclass
class Task:
    """One task of an execution. `due`: when its timer, its timeout or its next attempt is due."""

    id: int
    kind: Kind
    name: str
    started: datetime
    state: State
    input: Any = None
    ended: datetime | None = None
    due: datetime | None = None
    child: str | None = None
    failure: FailureDetails | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether its outcome is still awaited."""
        return self.state in OPEN


def tasks_of(events: Iterable[HistoryEvent]) -> list[Task]:
    """The tasks of one execution, in the order in which they were asked for."""
    reading = _Reading()
    for event in events:
        read = _READ.get(event.type)
        if read is not None:
            read(reading, event)
    return list(reading.tasks.values())


class _Reading:
    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.unclaimed: dict[str, int] = {}  # events that came before anybody waited for them

    def called(self, event: HistoryEvent) -> None:
        kind = Kind.ACTIVITY if event.type == h.TASK_SCHEDULED else Kind.CHILD
        task = self._task(event, kind, State.RUNNING)
        task.state, task.due, task.child = State.RUNNING, None, event.instance_id
        task.attempts.append(Attempt(event.timestamp))

    def timer_set(self, event: HistoryEvent) -> None:
        if event.task_id in self.tasks:
            task = self.tasks[event.task_id]
            task.state, task.ended = State.RETRYING, None
        else:
            task = self._task(event, Kind.TIMER, State.WAITING)
        task.due = event.fire_at

    def waits(self, event: HistoryEvent) -> None:
        task = self._task(event, Kind.EVENT, State.WAITING)
        task.due = event.fire_at
        key = task.name.casefold()
        if self.unclaimed.get(key):
            self.unclaimed[key] -= 1
            self._end(task, State.DONE, event)

    def event_came(self, event: HistoryEvent) -> None:
        key = (event.name or "").casefold()
        for task in self.tasks.values():
            if task.kind is Kind.EVENT and task.open and task.name.casefold() == key:
                self._end(task, State.DONE, event)
                return
        self.unclaimed[key] = self.unclaimed.get(key, 0) + 1

    def came_out(self, event: HistoryEvent) -> None:
        task = self._known(event)
        if task is not None and task.attempts:
            task.attempts[-1].ended = event.timestamp
            task.failure = event.failure
            self._end(task, State.DONE if event.failure is None else State.FAILED, event)

    def fired(self, event: HistoryEvent) -> None:
        task = self._known(event)
        if task is not None and task.kind is Kind.TIMER:
            self._end(task, State.DONE, event)
        elif task is not None and task.kind is Kind.EVENT and task.open:
            self._end(task, State.TIMED_OUT, event)

    def cancelled(self, event: HistoryEvent) -> None:
        task = self._known(event)
        if task is not None:
            self._end(task, State.CANCELLED, event)

    def finished(self, event: HistoryEvent) -> None:
        for task in self.tasks.values():
            if task.open:
                self._end(task, State.LEFT, event)

    def _task(self, event: HistoryEvent, kind: Kind, state: State) -> Task:
        number = event.task_id or 0
        if number not in self.tasks:
            self.tasks[number] = Task(number, kind, event.name or "", event.timestamp, state, event.input)
        return self.tasks[number]

    def _known(self, event: HistoryEvent) -> Task | None:
        return self.tasks.get(event.task_id or 0)

    def _end(self, task: Task, state: State, event: HistoryEvent) -> None:
        task.state, task.ended = state, event.timestamp


_READ: dict[str, Callable[[_Reading, HistoryEvent], None]] = {
    h.TASK_SCHEDULED: _Reading.called,
    h.CHILD_CREATED: _Reading.called,
    h.TASK_COMPLETED: _Reading.came_out,
    h.TASK_FAILED: _Reading.came_out,
    h.CHILD_COMPLETED: _Reading.came_out,
    h.CHILD_FAILED: _Reading.came_out,
    h.TIMER_CREATED: _Reading.timer_set,
    h.TIMER_FIRED: _Reading.fired,
    h.EVENT_AWAITED: _Reading.waits,
    h.EVENT_RAISED: _Reading.event_came,
    h.TASK_CANCELED: _Reading.cancelled,
    h.TIMER_CANCELED: _Reading.cancelled,
    h.EXECUTION_COMPLETED: _Reading.finished,
    h.CONTINUE_AS_NEW: _Reading.finished,
}
