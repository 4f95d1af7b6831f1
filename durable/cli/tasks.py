"""What a history says about each task: when it began and ended, its attempts, how it came out. Pure.

Laws.
1. It reads the public events only, so it tells the same about any orchestration, without its code.
2. Which wait took an event is not recorded. The first open wait of that name is a guess, and nearly always right.
3. What is open when the execution ends is left: nobody waits for its outcome any more.
4. Whether somebody works on an activity is not recorded either: without an outcome it is open, not running.
5. A rewind opens again what it makes void and was asked for before; what was asked for after that moment is void.
6. A detached child is started, and that is all that is heard of it here.
6. A fact that no turn has taken yet counts as taken, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from ..model import history as h
from ..model.errors import PayloadError, TaskFailedError
from ..model.failure import FailureDetails
from ..model.history import HistoryEvent
from ..triggers.pattern import EventPattern


class Kind(Enum):
    """What an orchestrator can wait for."""

    ACTIVITY = "activity"
    CHILD = "child"
    TIMER = "timer"
    EVENT = "event"


class State(Enum):
    """How a task stands; the value is what a reader sees."""

    OPEN = "open"
    RETRYING = "retrying"
    WAITING = "waiting"
    DONE = "done"
    STARTED = "started"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    LEFT = "left"
    VOID = "void"


UNFINISHED = frozenset({State.OPEN, State.RETRYING, State.WAITING})


@dataclass
class Attempt:
    """One try of an activity or a child."""

    number: int
    started: datetime
    ended: datetime | None = None


@dataclass
class Task:
    """One task of an execution.

    input: of an event, what came. pattern: of the CloudEvents that are waited for. due: when its timer, its timeout or
    its next attempt is due. taken: whether a turn has taken its outcome. queue: of an activity, where it is not the
    default one. begun_by, ended_by: the numbers of those events.
    """

    id: int
    kind: Kind
    name: str
    started: datetime
    state: State
    input: Any = None
    pattern: EventPattern | None = None
    ended: datetime | None = None
    due: datetime | None = None
    child: str | None = None
    queue: str | None = None
    failure: FailureDetails | None = None
    attempts: list[Attempt] = field(default_factory=list)
    taken: bool = True
    begun_by: int = 0
    ended_by: int = 0

    @property
    def open(self) -> bool:
        """Whether its outcome is still awaited."""
        return self.state in UNFINISHED

    @property
    def came_early(self) -> bool:
        """Of an event: whether it had come before anybody waited for it."""
        return self.begun_by == self.ended_by


def tasks_of(events: Iterable[HistoryEvent]) -> list[Task]:
    """The tasks of one execution, in the order in which they were asked for."""
    return list(_read(events).tasks.values())


def untaken_of(events: Iterable[HistoryEvent]) -> list[HistoryEvent]:
    """The events raised for one execution that nobody has taken, oldest first."""
    kept = [event for events in _read(events).unclaimed.values() for event in events]
    return sorted(kept, key=lambda event: event.event_id or 0)


def open_waits_of(events: Iterable[HistoryEvent]) -> list[str]:
    """The names of the events that one execution waits for, but for CloudEvents; each once."""
    waits = [task for task in tasks_of(events) if task.kind is Kind.EVENT and task.open and task.pattern is None]
    return list(dict.fromkeys(task.name for task in waits))


def culprit_of(tasks: Iterable[Task], failure: FailureDetails) -> Task | None:
    """The task whose failure an execution that ended with `failure` did not catch: the last one that is a cause."""
    causes: list[FailureDetails] = []
    link: FailureDetails | None = failure
    while link is not None:
        causes.append(link)
        link = link.cause
    failed = [task for task in tasks if task.failure is not None and task.failure in causes]
    return failed[-1] if failed else None


def void_by_rewind(events: Sequence[HistoryEvent]) -> list[Task]:
    """What a failed execution has done since it was told of its failure, its compensation say: a rewind voids that."""
    back = events[-1].rewinds_to if events else None
    if not back:
        return []
    steps = (Kind.ACTIVITY, Kind.CHILD)
    return [t for t in tasks_of(events) if t.begun_by >= back and t.state is State.DONE and t.kind in steps]


def _read(events: Iterable[HistoryEvent]) -> _Reading:
    reading = _Reading()
    for event in events:
        read = _READ.get(event.type)
        if read is not None:
            read(reading, event)
    return reading


class _Reading:
    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.unclaimed: dict[str, list[HistoryEvent]] = {}  # by name, those that came before anybody waited for them

    def called(self, event: HistoryEvent) -> None:
        kind = Kind.ACTIVITY if event.type == h.TASK_SCHEDULED else Kind.CHILD
        task = self._task(event, kind, State.OPEN)
        task.state, task.due, task.child, task.queue = State.OPEN, None, event.instance_id, event.queue
        task.attempts.append(Attempt(event.attempt or 1, event.timestamp))
        if event.status == h.DETACHED:
            self._end(task, State.STARTED, event)

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
        if event.input is not None:  # for a CloudEvent: of those none is kept for later
            task.input, task.pattern = None, EventPattern(**event.input)
            return
        kept = self.unclaimed.get(task.name.casefold())
        if kept:
            task.input = kept.pop(0).input
            self._end(task, State.DONE, event)

    def event_came(self, event: HistoryEvent) -> None:
        answered = self._known(event)
        if answered is not None:
            answered.input = event.input
            self._end(answered, State.DONE, event)
            return
        key = (event.name or "").casefold()
        for task in self.tasks.values():
            by_name = task.kind is Kind.EVENT and task.pattern is None
            if by_name and task.open and task.name.casefold() == key:
                task.input = event.input
                self._end(task, State.DONE, event)
                return
        self.unclaimed.setdefault(key, []).append(event)

    def came_out(self, event: HistoryEvent) -> None:
        task = self._known(event)
        if task is not None and task.state is State.OPEN and event.attempt in (None, task.attempts[-1].number):
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
        misfit = _misfit(event.failure)
        if misfit is not None:
            number, failure = misfit
            wait = self.tasks.get(number)
            if wait is not None and wait.kind is Kind.EVENT:  # it came, and was not what the code declares
                wait.state, wait.failure = State.FAILED, failure
        for task in self.tasks.values():
            if task.open:
                self._end(task, State.LEFT, event)

    def rewound(self, event: HistoryEvent) -> None:
        back = event.rewinds_to or 0
        for task in self.tasks.values():
            if task.begun_by >= back:
                task.state = State.VOID
            elif not task.open and (task.ended_by >= back or task.ended_by == event.voids):
                waits = State.WAITING if task.kind in (Kind.TIMER, Kind.EVENT) else State.OPEN
                task.state = State.RETRYING if waits is State.OPEN and task.due is not None else waits
                task.ended, task.failure, task.taken = None, None, True
        for name, kept in self.unclaimed.items():  # they come again
            self.unclaimed[name] = [raised for raised in kept if (raised.event_id or 0) < back]

    def _task(self, event: HistoryEvent, kind: Kind, state: State) -> Task:
        number = event.task_id or 0
        if number not in self.tasks:
            task = Task(number, kind, event.name or "", event.timestamp, state, event.input)
            task.begun_by = event.event_id or 0
            self.tasks[number] = task
        return self.tasks[number]

    def _known(self, event: HistoryEvent) -> Task | None:
        return self.tasks.get(event.task_id or 0)

    def _end(self, task: Task, state: State, event: HistoryEvent) -> None:
        task.state, task.ended, task.taken = state, event.timestamp, event.event_id is not None
        task.ended_by = event.event_id or 0


def _misfit(failure: FailureDetails | None) -> tuple[int, FailureDetails] | None:
    """The task whose data did not fit, if that ended this execution: what failed elsewhere names tasks of there."""
    while failure is not None and not failure.is_a(TaskFailedError):
        number = failure.properties.get("task_id")
        if failure.is_a(PayloadError) and isinstance(number, int):
            return number, failure
        failure = failure.cause
    return None


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
    h.EXECUTION_REWOUND: _Reading.rewound,
    h.CONTINUE_AS_NEW: _Reading.finished,
}
