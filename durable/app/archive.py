"""One instance as a file can carry it: how it stands, every execution that is there, the facts no turn has taken.

Laws.
1. What a history does not hold and a store makes again is left out: rows, versions, the address of a waiting client.
2. Payloads travel as they are stored. An archive is as secret as the store it came from.
3. `check` lets through what an engine could have written, and says of anything else which event is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from ..model import history as h
from ..model.errors import not_found
from ..model.history import Event, decode_event, decode_events
from ..model.names import check_name
from ..model.status import RuntimeStatus, Summary
from ..payload.claims import refuse_claims
from ..ports import PARKED, ExecutionKey, Store, Want


class ArchiveError(ValueError):
    """The archive is not one, is cut short, or says what no engine would have written."""


class Recorded(NamedTuple):
    """One execution: its id and its events, from number 0."""

    id: str
    events: Sequence[Event]


class Archive(NamedTuple):
    """executions: oldest first, the last one is the current one. pending: facts in the inbox, in order of delivery."""

    summary: Summary
    executions: Sequence[Recorded]
    pending: Sequence[Event] = ()


def archive_of(store: Store, instance_id: str) -> Archive:
    """Read an instance. Raises InstanceNotFoundError, StoreError (also for events this version can't read), and
    PayloadError where a payload is not to be had.

    Executions before continue-as-new are found by the link from each to the one before it; histories that were
    written without it begin with the first execution that can be reached.
    """
    record = store.load([Want(instance_id)])[0]
    if record is None:
        raise not_found("export", instance_id)
    current = record.summary.execution_id
    events = [event for row in record.history or () for event in decode_events(row)]
    executions = [_recorded(current, events)]
    while (previous := executions[-1].events[0].previous) and (events := _events(store, instance_id, previous)):
        executions.append(_recorded(previous, events))
    executions.reverse()
    inbox = record.inbox
    if record.summary.status.finished:
        inbox = tuple(row for row in inbox if row.group != PARKED)  # for another one of this id
    pending = [fact for row in inbox if row.body and _waits(fact := decode_event(row.body), record.summary.status)]
    for some in (*(execution.events for execution in executions), pending):
        refuse_claims(some, f"export: orchestration {instance_id!r}")
    return Archive(msgspec.structs.replace(record.summary, reply_to="", length=0), executions, pending)


def _recorded(execution_id: str, events: Sequence[Event]) -> Recorded:
    return Recorded(execution_id, [msgspec.structs.replace(events[0], reply_to=""), *events[1:]])


def _events(store: Store, instance_id: str, execution_id: str) -> list[Event]:
    events: list[Event] = []
    start: str | None = "0"
    while start is not None:
        rows = store.history(ExecutionKey(instance_id, execution_id), int(start))
        events += [event for _, row in rows.items for event in decode_events(row)]
        start = rows.next
    return events


# ---- checking

_OPENS: Final = frozenset({h.TASK_SCHEDULED, h.CHILD_CREATED, h.TIMER_CREATED, h.EVENT_AWAITED})
_ENDS: Final = frozenset({h.EXECUTION_COMPLETED, h.CONTINUE_AS_NEW})

# Which command must stand before an outcome of its task.
_ANSWERS: Final[dict[str, frozenset[str]]] = {
    h.TASK_COMPLETED: frozenset({h.TASK_SCHEDULED}),
    h.TASK_FAILED: frozenset({h.TASK_SCHEDULED}),
    h.TASK_CANCELED: _OPENS,
    h.CHILD_COMPLETED: frozenset({h.CHILD_CREATED}),
    h.CHILD_FAILED: frozenset({h.CHILD_CREATED}),
    h.TIMER_FIRED: frozenset({h.TIMER_CREATED, h.EVENT_AWAITED}),
    h.TIMER_CANCELED: frozenset({h.TIMER_CREATED}),
}


def check(archive: Archive) -> None:
    """Raises ArchiveError for the first thing in it that no engine would have written."""
    summary = archive.summary
    _named(summary.instance_id, "the instance id")
    _named(summary.name, "the orchestrator's name")
    _named(summary.group, "the group")
    if not archive.executions:
        raise ArchiveError("it has no events")
    if archive.executions[-1].id != summary.execution_id:
        raise ArchiveError(f"the events of the current execution, {summary.execution_id!r}, do not come last")
    if len({execution.id for execution in archive.executions}) != len(archive.executions):
        raise ArchiveError("an execution comes twice")
    previous = ""
    for execution in archive.executions:
        _check_execution(summary, execution, previous)
        previous = execution.id
    for execution in archive.executions[:-1]:
        if execution.events[-1].type != h.CONTINUE_AS_NEW:
            raise ArchiveError(f"execution {execution.id!r} does not end in {h.CONTINUE_AS_NEW}, but another follows")
    _check_end(summary, archive.executions[-1].events[-1], archive.pending)


def _check_execution(summary: Summary, execution: Recorded, previous: str) -> None:
    def wrong(number: int, what: str) -> ArchiveError:
        return ArchiveError(f"event {number} of execution {execution.id!r} {what}")

    _named(execution.id, "an execution id")
    started = execution.events[0]
    if started.type != h.EXECUTION_STARTED:
        raise wrong(0, f"is {_shown(started.type)}; a history begins with {h.EXECUTION_STARTED}")
    if started.name != summary.name or started.execution_id != execution.id:
        raise wrong(0, "starts another orchestration or execution than the archive says")
    if started.instance_id not in ("", summary.instance_id):
        raise wrong(0, f"starts instance {started.instance_id!r}, not {summary.instance_id!r}")
    if previous and started.previous != previous:
        raise wrong(0, f"does not follow execution {previous!r}, which stands before it")
    walk = _Walk(wrong)
    for number, event in enumerate(execution.events[1:], 1):
        walk.step(number, event)


class _Walk:
    """Through the events of one execution."""

    def __init__(self, wrong: Callable[[int, str], ArchiveError]) -> None:
        self._wrong = wrong
        self._opened: set[tuple[str, int, int]] = set()
        self._turn_at: datetime | None = None
        self._ended = ""

    def step(self, number: int, event: Event) -> None:
        kind = event.type
        if kind not in h.FACTS and kind not in h.COMMANDS:
            raise self._wrong(number, f"has the type {_shown(kind)}, which this version does not know")
        if kind == h.EXECUTION_STARTED:
            raise self._wrong(number, "starts the execution once more")
        if self._ended and kind not in (h.ORCHESTRATOR_STARTED, h.EXECUTION_REWOUND):
            raise self._wrong(number, f"is {kind}, after {self._ended}")
        if kind == h.EXECUTION_REWOUND:
            self._ended = ""
        never_ran = kind == h.EXECUTION_COMPLETED and event.status == RuntimeStatus.CANCELED.value
        if kind in h.COMMANDS and self._turn_at is None and not never_ran:
            raise self._wrong(number, f"is {kind}, before the first {h.ORCHESTRATOR_STARTED}")
        if kind in _OPENS:
            self._opened.add((kind, event.task_id, event.attempt))
        elif kind in _ANSWERS and not self._was_asked(event):
            raise self._wrong(number, f"is {kind} of task {event.task_id}, which no event before it began")
        elif kind == h.ORCHESTRATOR_STARTED:
            if self._turn_at is not None and event.timestamp < self._turn_at:
                raise self._wrong(number, "is a turn that begins before the one before it")
            self._turn_at = event.timestamp
        elif kind in _ENDS:
            self._ended = kind
        self._check_names(number, event)

    def _was_asked(self, event: Event) -> bool:
        # A cancelled wait or timer has no attempt, and the timeout of a wait has none either.
        return any((kind, event.task_id, event.attempt) in self._opened for kind in _ANSWERS[event.type]) or (
            event.type == h.TASK_CANCELED and any(task_id == event.task_id for _, task_id, _ in self._opened)
        )

    def _check_names(self, number: int, event: Event) -> None:
        try:
            if event.name or event.type in _NAMED:
                check_name(event.name, "its name")
            if event.instance_id or event.type == h.CHILD_CREATED:
                check_name(event.instance_id, "its instance id")
            if event.queue:
                check_name(event.queue, "its queue")
        except ValueError as error:
            raise self._wrong(number, f"breaks a rule: {error}") from None


_NAMED: Final = frozenset({h.TASK_SCHEDULED, h.CHILD_CREATED, h.EVENT_AWAITED, h.EVENT_RAISED})


def _check_end(summary: Summary, last: Event, pending: Sequence[Event]) -> None:
    status = summary.status
    if last.type == h.CONTINUE_AS_NEW:
        raise ArchiveError("the execution that follows the last ContinueAsNew is missing")
    if status.finished != (last.type == h.EXECUTION_COMPLETED) or (status.finished and last.status != status.value):
        raise ArchiveError(f"the status is {status}, but the last event is {last.type} {last.status}".rstrip())
    if status.finished and (last.result != summary.output or last.failure != summary.failure):
        raise ArchiveError("the output or the failure in the status differs from that of the last event")
    if status is RuntimeStatus.CONTINUED_AS_NEW:
        raise ArchiveError(f"{status} is the state of an execution; no instance ends in it")
    for number, fact in enumerate(pending):
        if not _waits(fact, status):
            raise ArchiveError(f"pending fact {number} is {_shown(fact.type)}, which waits in no inbox of a {status}")


def _waits(fact: Event, status: RuntimeStatus) -> bool:
    """Whether this waits in the inbox of an instance that stands so; in that of a failed one, for a rewind."""
    if status.finished:
        return status is RuntimeStatus.FAILED and fact.type == h.EVENT_RAISED
    return fact.type in h.FACTS and fact.type not in (h.EXECUTION_STARTED, h.ORCHESTRATOR_STARTED)


def _named(name: str, what: str) -> None:
    try:
        check_name(name, what)
    except ValueError as error:
        raise ArchiveError(str(error)) from None


def _shown(kind: str) -> str:
    return ascii(kind if len(kind) <= 60 else kind[:60] + "...")
