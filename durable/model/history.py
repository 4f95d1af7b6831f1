"""The history: what happened to one execution, as an append-only list of frozen events.

Laws.
1. An execution's events are numbered from 0 without gaps, in the commit of the turn that takes them.
2. An event is either a *fact* (something happened: a completion, a timer, an event from outside) or a *command*
   (the orchestrator asked for something). The commands that a fact caused follow it directly, before the next
   fact, so replay can compare them one by one, and how facts were batched into turns never shows.
3. Names are those of Durable Functions. A type this version does not know is kept and blocks the instance.
4. Payloads stay encoded (`Raw`) until somebody who knows the types decodes them.
5. Nothing is ever taken out of a history. A rewind is an event that says which ones count no more (`rewinding.py`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from .errors import StoreError
from .failure import FailureDetails
from .moments import Moment

Raw = msgspec.Raw
NO_PAYLOAD: Final = Raw()

EXECUTION_STARTED: Final = "ExecutionStarted"
ORCHESTRATOR_STARTED: Final = "OrchestratorStarted"
TASK_SCHEDULED: Final = "TaskScheduled"
TASK_COMPLETED: Final = "TaskCompleted"
TASK_FAILED: Final = "TaskFailed"
TASK_CANCELED: Final = "TaskCanceled"
TIMER_CREATED: Final = "TimerCreated"
TIMER_FIRED: Final = "TimerFired"
TIMER_CANCELED: Final = "TimerCanceled"
CHILD_CREATED: Final = "SubOrchestrationInstanceCreated"
CHILD_COMPLETED: Final = "SubOrchestrationInstanceCompleted"
CHILD_FAILED: Final = "SubOrchestrationInstanceFailed"
EVENT_AWAITED: Final = "EventAwaited"
EVENT_RAISED: Final = "EventRaised"
PATCH_RECORDED: Final = "PatchRecorded"
EVENT_SENT: Final = "EventSent"
EXECUTION_SUSPENDED: Final = "ExecutionSuspended"
EXECUTION_RESUMED: Final = "ExecutionResumed"
EXECUTION_CANCELED: Final = "ExecutionCanceled"
EXECUTION_TERMINATED: Final = "ExecutionTerminated"
EXECUTION_REWOUND: Final = "ExecutionRewound"
CONTINUE_AS_NEW: Final = "ContinueAsNew"
EXECUTION_COMPLETED: Final = "ExecutionCompleted"

FACTS: Final = frozenset(
    {
        EXECUTION_STARTED,
        ORCHESTRATOR_STARTED,
        TASK_COMPLETED,
        TASK_FAILED,
        TIMER_FIRED,
        CHILD_COMPLETED,
        CHILD_FAILED,
        EVENT_RAISED,
        EXECUTION_SUSPENDED,
        EXECUTION_RESUMED,
        EXECUTION_CANCELED,
        EXECUTION_TERMINATED,
        EXECUTION_REWOUND,
    }
)
OUTCOMES: Final = frozenset({TASK_COMPLETED, TASK_FAILED, CHILD_COMPLETED, CHILD_FAILED})  # of calls

COMMANDS: Final = frozenset(
    {
        TASK_SCHEDULED,
        TASK_CANCELED,
        TIMER_CREATED,
        TIMER_CANCELED,
        CHILD_CREATED,
        EVENT_AWAITED,
        PATCH_RECORDED,
        EVENT_SENT,
        CONTINUE_AS_NEW,
        EXECUTION_COMPLETED,
    }
)

# The `name` of an EventAwaited whose input is a pattern of CloudEvents, and of the EventRaised with its `task_id`.
CLOUD_EVENT: Final = "CloudEvent"

# The `status` of a SubOrchestrationInstanceCreated whose parent does not wait for it.
DETACHED: Final = "DETACHED"


class Parent(msgspec.Struct, frozen=True):
    """Who waits for a sub-orchestration: an instance, one of its executions, and the task (and attempt) in it."""

    instance_id: str
    execution_id: str
    task_id: int
    attempt: int


class Former(msgspec.Struct, frozen=True, omit_defaults=True):
    """As whom a fork, or what was imported under another id, has recorded its events before number `until`."""

    until: int
    instance_id: str
    execution_id: str
    parent_instance_id: str = ""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One event as it is stored. Which fields are set depends on `type`; `HistoryEvent` documents them."""

    type: str
    timestamp: Moment
    task_id: int = 0
    name: str = ""
    attempt: int = 0
    input: Raw = NO_PAYLOAD
    result: Raw = NO_PAYLOAD
    failure: FailureDetails | None = None
    fire_at: Moment | None = None
    instance_id: str = ""
    execution_id: str = ""
    version: str = ""
    tags: dict[str, str] | None = None
    parent: Parent | None = None
    depth: int = 0
    seed: str = ""
    status: str = ""
    timeout: float | None = None
    heartbeat_timeout: float | None = None
    queue: str = ""
    group: str = ""
    reply_to: str = ""
    suggest_continue_as_new: bool = False
    previous: str = ""  # of a start by continue-as-new: the execution before it
    rewinds_to: int = 0
    voids: int = 0
    formerly: tuple[Former, ...] = ()  # of a start, in the order of the events


def formerly(started: Event, shared: int) -> tuple[Former, ...]:
    """For the start of a copy that shares the events before number `shared` with the execution that starts here."""
    older = [former for former in started.formerly if former.until < shared]
    parent = "" if started.parent is None else started.parent.instance_id
    last = next((former for former in started.formerly if former.until >= shared), None) or Former(
        shared, started.instance_id, started.execution_id, parent
    )
    return (*older, msgspec.structs.replace(last, until=shared))


class HistoryEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One event of a history, as `client.history()` shows it.

    event_id: its number in the execution, from 0; None while no turn has taken it. type: Durable Functions' name.
    timestamp: aware UTC. task_id: the number of the command it belongs to, from 1; outcomes carry their command's.
    name: of the activity, orchestrator or event. attempt: from 1. input, result: plain JSON values.
    failure: what was raised. fire_at: when a timer, the timeout of a wait, or a start is due.
    instance_id: of the child that is created, of the instance that starts, or of the one an event is sent to.
    execution_id: of the execution that started or follows. tags, parent_instance_id, seed: of a start.
    version: of a start, of the first turn where that fixed it, of a ContinueAsNew that changes it.
    status: how the execution ended; DETACHED for a child that nobody waits for.
    timeout, heartbeat_timeout: seconds given to one attempt of an activity.
    queue: where workers take it from, group: which workers run it, where they are not the default ones.
    suggest_continue_as_new: what `ctx.suggest_continue_as_new` says in the turn that starts here, where it is True.
    rewinds_to: of a rewind, the number of the first event that counts no more up to it; of an orchestrator's failure,
    the one to which a rewind would go back. voids: the number of one more event that a rewind makes void.
    """

    event_id: int | None = None
    type: str
    timestamp: datetime
    task_id: int | None = None
    name: str | None = None
    attempt: int | None = None
    input: Any = None
    result: Any = None
    failure: FailureDetails | None = None
    fire_at: datetime | None = None
    instance_id: str | None = None
    execution_id: str | None = None
    version: str | None = None
    tags: dict[str, str] | None = None
    parent_instance_id: str | None = None
    seed: str | None = None
    status: str | None = None
    timeout: float | None = None
    heartbeat_timeout: float | None = None
    queue: str | None = None
    group: str | None = None
    suggest_continue_as_new: bool | None = None
    rewinds_to: int | None = None
    voids: int | None = None


# What msgspec raises for bytes that anybody may have written; text that is not UTF-8 is not among its own errors.
UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# One stored row holds the events of one turn: {"v": 1, "events": [...]}, written as a two-item array to stay small.
FORMAT: Final = 1

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[int, list[Event]])
_event_decoder = msgspec.json.Decoder(Event)


def encode_events(events: list[Event]) -> bytes:
    """The events of one turn as one stored row."""
    return _encoder.encode((FORMAT, events))


def decode_events(row: bytes) -> list[Event]:
    """The events of one stored row. Raises `UnreadableHistory` for what this version can't read."""
    try:
        version, events = _decoder.decode(row)
    except UNDECODABLE as error:
        raise UnreadableHistory(f"a stored history row can't be decoded ({error})") from error
    if version != FORMAT:
        raise UnreadableHistory(f"a stored history row has format {version}; this version reads {FORMAT}")
    if not events:
        raise UnreadableHistory("a stored history row has no events")
    return events


def encode_event(event: Event) -> bytes:
    """One event alone, as it travels in an inbox."""
    return _encoder.encode(event)


def decode_event(data: bytes) -> Event:
    """The inverse of `encode_event`. Raises `UnreadableHistory`."""
    try:
        return _event_decoder.decode(data)
    except UNDECODABLE as error:
        raise UnreadableHistory(f"a stored event can't be decoded ({error})") from error


class UnreadableHistory(StoreError):
    """Stored events that this version can't read; the instance is blocked with this text, never guessed at."""
