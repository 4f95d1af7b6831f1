"""What a step takes and gives: an instance between two turns, arrivals, its worker's part; and the turn. Frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from ..model import history as h
from ..model.history import Event, Raw, UnreadableHistory
from ..model.limits import Limits
from ..model.status import DEFAULT_GROUP, DEFAULT_QUEUE, Summary
from ..ports import Commit, Fact, Record, Row
from ..replay.execution import Execution
from ..replay.guard import Watch
from ..triggers.hub import Hub


class Env(NamedTuple):
    """What a step needs of its worker: who it is, how long it holds rows (seconds), fresh ids, limits, the watchdog."""

    holder: str
    hold: float
    mint: Callable[[], str]
    partitions: int
    limits: Limits
    watch: Watch


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One fact for one instance. `row_key`: the row that the turn which takes it deletes; `execution_id` may be ''.

    tag: of the delivery that brought it, to be acknowledged once a turn has taken it. bodies: CloudEvents that came
    together, for the triggers of the workspace.
    """

    event: Event
    execution_id: str = ""
    row_key: str = ""
    tag: object = None
    bodies: Sequence[bytes] = ()


class Instance(msgspec.Struct, frozen=True):
    """One instance at one version; `execution` is its live code, None when it has to be replayed first.

    length, size: events of the current execution, and their stored bytes. hub: the triggers of a workspace, which are
    an instance too (triggering.py).
    """

    summary: Summary
    version: int
    started: Event
    length: int
    execution: Execution | None = None
    history: Sequence[Event] = ()
    size: int = 0
    hub: Hub | None = None

    @property
    def begun(self) -> bool:
        """Whether its code has been called."""
        if self.execution is not None:
            return self.execution.begun
        if self.started.previous:
            return True  # as good as: the execution before it has run
        return any(event.type == h.ORCHESTRATOR_STARTED for event in self.history)

    @classmethod
    def of_record(cls, record: Record) -> Instance:
        """A cold instance. Raises UnreadableHistory."""
        events = events_of(record)
        size = sum(map(len, record.history or ()))
        return cls(record.summary, record.version, events[0], len(events), None, events, size)

    @classmethod
    def unread(cls, record: Record) -> Instance:
        """One whose history can't be used here. It can be ended, if anybody counted the events."""
        started = Event(h.EXECUTION_STARTED, record.summary.created_at)
        with suppress(UnreadableHistory):
            for row in (record.history or ())[:1]:
                first = h.decode_events(row)[0]
                started = first if first.type == h.EXECUTION_STARTED else started
        return cls(record.summary, record.version, started, record.summary.length)


def events_of(record: Record) -> list[Event]:
    """The history of its current execution. Raises UnreadableHistory also where some of it, or of what is stored beside
    it, is missing or misplaced."""
    if record.damage:
        raise UnreadableHistory(f"what is stored of it is damaged: {record.damage}; restore the store from a backup")
    events = [event for row in record.history or () for event in h.decode_events(row)]
    problem = _damage(events, record.summary)
    if problem:
        raise UnreadableHistory(f"its history is damaged: {problem}; restore the store from a backup")
    return events


def _damage(events: Sequence[Event], summary: Summary) -> str:
    if not events or events[0].type != h.EXECUTION_STARTED or events[0].execution_id != summary.execution_id:
        return f"event 0, which starts execution {summary.execution_id}, is missing"
    if events[0].instance_id not in ("", summary.instance_id):
        return "event 0 starts another instance than its summary names"
    turn_at = None
    for number, event in enumerate(events):
        if event.type == h.EXECUTION_STARTED and number:
            return f"event {number} starts it once more"
        if event.type == h.ORCHESTRATOR_STARTED:
            if turn_at is not None and event.timestamp < turn_at:
                return f"the turn at event {number} is older than the one before it"
            turn_at = event.timestamp
    if summary.length not in (0, len(events)):
        return f"it has {len(events)} events, and had {summary.length}"
    return ""


class Invocation(msgspec.Struct, frozen=True, gc=False):
    """One attempt of one activity, ready to run. `row_key` is its work row; timeouts are seconds, 0 for none.

    queue: where workers take it from. orchestrator, group: of the instance that waits for it. number: of the
    TaskScheduled event behind it.
    """

    instance_id: str
    execution_id: str
    task_id: int
    attempt: int
    name: str
    input: Raw
    row_key: str
    timeout: float = 0.0
    heartbeat_timeout: float = 0.0
    queue: str = DEFAULT_QUEUE
    orchestrator: str = ""
    group: str = DEFAULT_GROUP
    number: int = 0


class Turn(msgspec.Struct, frozen=True):
    """What a step decided. Nothing of it may be done before `commit` is committed, except `undelivered`.

    commit: None when there is nothing to write. instance: how it stands once that is committed.
    invocations: activities to run. cancelled: keys of task rows whose running activity is not waited for any more.
    parked: why the instance can't go on here (no code, or code that does not fit); '' when it went on.
    undelivered: facts that were only in memory and must reach the inbox, since no turn could take them.
    again: there is more to do for this instance at once (it continued as new).
    ignored: facts that changed nothing (duplicates, late outcomes).
    alarm: the timer row of a start whose time has not come.
    began: it is no longer PENDING.
    late: it has ended, and outcomes may still come: remembering that spares reading its history for each of them.
    """

    commit: Commit | None
    instance: Instance
    invocations: Sequence[Invocation] = ()
    cancelled: Sequence[str] = ()
    parked: str = ""
    undelivered: Sequence[Fact] = ()
    again: bool = False
    ignored: int = 0
    late: bool = False
    alarm: Row | None = None
    began: bool = False


def task_key(execution_id: str, task_id: int, attempt: int) -> str:
    """The key of an activity's work row: unique over instances, executions and attempts."""
    return f"{execution_id}/{task_id}/{attempt}"


def timer_key(execution_id: str, task_id: int, attempt: int) -> str:
    """The key of a timer's row. With the attempt, so that a late repeat of one retry timer can't end the next one."""
    return f"{execution_id}/{task_id}/{attempt}/timer"


AWAITS: Final = "/await"  # how the key ends of a message that tells the triggers of a wait


def await_key(execution_id: str, task_id: int) -> str:
    return f"{execution_id}/{task_id}{AWAITS}"


def withdraw_key(execution_id: str, task_id: int, number: int) -> str:
    """The key of the message that takes a wait back. number: of the event that ended it, for a rewind may reopen it."""
    return f"{execution_id}/{task_id}/withdraw/{number}"


def wake_key(execution_id: str) -> str:
    """The key of the row that wakes an execution for its first turn, and while it is parked."""
    return f"wake/{execution_id}"


def kept_key(execution_id: str, version: int, number: int) -> str:
    """The key of an event that is kept when its instance has failed, at this version: behind all from its history."""
    return f"{wake_key(execution_id)}/kept/{version:010}/{number:06}"


def outcome_key(execution_id: str, length: int) -> str:
    """The key of the message to a parent. It has the length of the history: rewound, a child has several outcomes."""
    return f"{execution_id}/outcome/{length}"


def row_behind(arrival: Arrival) -> str:
    """The work row of an outcome that came straight from an activity; '' for any other arrival."""
    event = arrival.event
    if event.type in (h.TASK_COMPLETED, h.TASK_FAILED) and arrival.execution_id:
        return task_key(arrival.execution_id, event.task_id, event.attempt)
    return ""
