"""CloudEvents 1.0 as they travel between workers, in structured mode, and the names of the queues they travel on.

Laws.
1. With these events alone a program in any language can be an activity worker: an invocation says everything, and
   names the queue that its outcome goes to.
2. What is read was written by anybody: it is decoded into exact types, and what does not fit raises `NotOurs`. So does
   what no store could keep or no history be read with again: text that is not UTF-8, an id that is no name, a time that
   has no place on the calendar of UTC, nesting far beyond the limit of a payload.
3. An outcome's id is instance/execution/task/attempt: the same outcome twice is one event.

The format is that of the CloudEvents JSON event format; `durable.CloudEvent`, the SDK's class, reads and writes it too.
"""

from __future__ import annotations

import hashlib
from datetime import MAXYEAR, MINYEAR, datetime, timezone
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from ..engine.instance import Invocation, task_key
from ..model import history as h
from ..model.failure import FailureDetails
from ..model.history import NO_PAYLOAD, UNDECODABLE, Event, Raw
from ..model.limits import Limits, is_deeper
from ..model.names import MAX_CHARS, check_foreign_id, partition_of, sequence, traceparent
from ..model.status import DEFAULT_QUEUE, Summary
from ..payload.codec import RESERVED, is_coded
from ..ports import Message
from .serving import Serving

SCHEDULED: Final = "durable.task-scheduled"
COMPLETED: Final = "durable.task-completed"
FAILED: Final = "durable.task-failed"
STARTED: Final = "durable.execution-started"
ENDED: Final = "durable.execution-completed"

_T = TypeVar("_T")

_AROUND: Final = 64  # levels around a payload: the event, its data, a failure with its causes
_LONGEST_PART: Final = 60  # characters; a queue's name and a routing key may have 255 in all


_DEFAULT: Final = Limits()


class NotOurs(ValueError):
    """Not a CloudEvent that this version understands."""


# ---- names


def work_queue(workspace: str, queue: str) -> str:
    """Where the activities of one `queue=` wait for a worker."""
    return _queue("work", workspace, queue)


def partition_queue(workspace: str, group: str, partition: int) -> str:
    """Where the outcomes for the instances of one partition go."""
    return _queue("outcomes", workspace, group, str(partition))


def is_outcome_queue(name: str) -> bool:
    """Whether a queue's name is one of `partition_queue`."""
    return name.split(".", 3)[2:3] == ["outcomes"]


@lru_cache(maxsize=4096)
def _queue(kind: str, workspace: str, *parts: str) -> str:
    return ".".join(["durable", _part(workspace), kind, *map(_part, parts)])


def _part(name: str) -> str:
    """A name as a part of a queue's: percent-encoded, the dots that separate parts too, and never too long."""
    part = quote(name, safe="").replace(".", "%2E")
    return part if len(part) <= _LONGEST_PART else f"{part[:20]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@lru_cache(maxsize=1_024)
def source(workspace: str, orchestrator: str) -> str:
    """The `source` of an orchestration's events."""
    return f"/workspaces/{quote(workspace, safe='')}/orchestrations/{quote(orchestrator, safe='')}"


def outcome_id(instance_id: str, execution_id: str, task_id: int, attempt: int) -> str:
    """The `id` of an outcome."""
    return f"{_quoted(instance_id)}/{_quoted(execution_id)}/{task_id}/{attempt}"


@lru_cache(maxsize=16_384)  # an instance is named in eight events or so while it lives
def _quoted(part: str) -> str:
    return quote(part, safe="")


# ---- what travels


class _Call(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The data of an invocation. Without `input` it is too large to travel: TaskScheduled in the history has it."""

    instance_id: str
    execution_id: str
    task_id: int
    attempt: int
    name: str
    input: Raw = NO_PAYLOAD
    timeout: float = 0.0
    heartbeat_timeout: float = 0.0
    orchestrator: str = ""
    group: str = "default"


class _Outcome(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The data of an outcome: `result` or `failure`."""

    instance_id: str
    execution_id: str
    task_id: int
    attempt: int
    result: Raw = NO_PAYLOAD
    failure: FailureDetails | None = None


class _CloudEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """`data` stays encoded until the type is known. `sentby`, `resent`: who holds the work row, and whether this may
    be a second copy; only our own workers look at them."""

    id: str
    source: str
    type: str
    specversion: str
    subject: str = ""
    time: datetime | None = None
    datacontenttype: str = ""
    partitionkey: str = ""
    traceparent: str = ""
    sequence: str = ""
    replyqueue: str = ""
    queue: str = ""
    sentby: str = ""
    resent: str = ""
    data: Raw = NO_PAYLOAD


class Work(NamedTuple):
    """An invocation as it was received, its input empty where it has to be read from the history.

    sent_by: the worker whose row it is. resent: it may be a second copy.
    """

    invocation: Invocation
    reply_queue: str
    sent_by: str
    resent: bool
    sent_at: float


class Returned(NamedTuple):
    """An outcome as it was received."""

    instance_id: str
    execution_id: str
    event: Event


_encoder: Final = msgspec.json.Encoder()
_events: Final = msgspec.json.Decoder(_CloudEvent)
_calls: Final = msgspec.json.Decoder(_Call)
_outcomes: Final = msgspec.json.Decoder(_Outcome)


def _encoded(type: str, id: str, source: str, subject: str, at: datetime, data: Any, **extensions: str) -> bytes:
    event = _CloudEvent(
        id,
        source,
        type,
        "1.0",
        subject,
        at,
        "application/json",
        _quoted(subject),
        data=Raw(_encoder.encode(data)),
        **extensions,
    )
    return _encoder.encode(event)


def invocation_message(
    invocation: Invocation, serving: Serving, partitions: int, holder: str, now: datetime, *, resent: bool
) -> Message:
    """The CloudEvent that asks some worker of its queue to run this attempt."""
    i, workspace = invocation, serving.workspace
    call = _Call(
        i.instance_id,
        i.execution_id,
        i.task_id,
        i.attempt,
        i.name,
        i.input if len(bytes(i.input)) <= serving.carried else NO_PAYLOAD,
        i.timeout,
        i.heartbeat_timeout,
        i.orchestrator,
        i.group,
    )
    event_id = outcome_id(i.instance_id, i.execution_id, i.task_id, i.attempt) + "/scheduled"
    body = _encoded(
        SCHEDULED,
        event_id,
        source(workspace, i.orchestrator),
        i.instance_id,
        now,
        call,
        traceparent=traceparent(i.execution_id, i.task_id, i.attempt),
        sequence=sequence(i.number),
        replyqueue=partition_queue(workspace, i.group, partition_of(i.instance_id, partitions)),
        queue="" if i.queue == DEFAULT_QUEUE else i.queue,
        sentby=holder,
        resent="true" if resent else "",
    )
    return Message(work_queue(workspace, i.queue), event_id, SCHEDULED, body)


def read_work(body: bytes, limits: Limits = _DEFAULT) -> Work:
    """The inverse of `invocation_message`. Raises NotOurs."""
    event = _read(body, (SCHEDULED,), limits)
    call = _decoded(_calls, event.data, f"the data of a {event.type} event")
    _check_id(call.instance_id, "its instance_id")
    _check_id(call.execution_id, "its execution_id")
    invocation = Invocation(
        call.instance_id,
        call.execution_id,
        call.task_id,
        call.attempt,
        call.name,
        call.input,
        task_key(call.execution_id, call.task_id, call.attempt),
        call.timeout,
        call.heartbeat_timeout,
        event.queue or DEFAULT_QUEUE,
        call.orchestrator,
        call.group,
    )
    sent_at = event.time.timestamp() if event.time is not None else 0.0
    return Work(invocation, event.replyqueue, event.sentby, bool(event.resent), sent_at)


def outcome_message(invocation: Invocation, event: Event, workspace: str, to: str) -> Message:
    """The CloudEvent that tells how an attempt ended. Before a turn takes it, it has no number and no `sequence`."""
    i = invocation
    outcome = _Outcome(i.instance_id, i.execution_id, i.task_id, i.attempt, event.result, event.failure)
    kind = COMPLETED if event.failure is None else FAILED
    event_id = outcome_id(i.instance_id, i.execution_id, i.task_id, i.attempt)
    trace = traceparent(i.execution_id, i.task_id, i.attempt)
    body = _encoded(
        kind, event_id, source(workspace, i.orchestrator), i.instance_id, event.timestamp, outcome, traceparent=trace
    )
    return Message(to, event_id, kind, body)


def read_outcome(body: bytes, now: datetime, limits: Limits = _DEFAULT) -> Returned:
    """The inverse of `outcome_message`; `now` stands in for a time that the sender left out. Raises NotOurs."""
    event = _read(body, (COMPLETED, FAILED), limits)
    outcome = _decoded(_outcomes, event.data, f"the data of a {event.type} event")
    _check_id(outcome.instance_id, "its instance_id")
    _check_id(outcome.execution_id, "its execution_id")
    failed = event.type == FAILED
    if failed and outcome.failure is None:
        raise NotOurs(f"a {FAILED} event without a failure")
    if RESERVED in bytes(outcome.result) and not is_coded(outcome.result):
        raise NotOurs("its result holds an object whose first key begins with $durable., as the engine's do")
    made = Event(
        h.TASK_FAILED if failed else h.TASK_COMPLETED,
        event.time if event.time is not None else now,
        outcome.task_id,
        attempt=outcome.attempt,
        result=NO_PAYLOAD if failed else (outcome.result or _NULL),
        failure=outcome.failure if failed else None,
    )
    return Returned(outcome.instance_id, outcome.execution_id, made)


_NULL: Final = Raw(b"null")


def _read(body: bytes, types: tuple[str, ...], limits: Limits) -> _CloudEvent:
    event = _decoded(_events, body, "no CloudEvent")
    if event.specversion != "1.0" or event.type not in types:
        raise NotOurs(f"type {event.type[:60]!a} (specversion {event.specversion[:10]!a}) is not one of {types}")
    if is_deeper(body, limits.payload_depth + _AROUND):
        raise NotOurs(f"it nests deeper than Limits.payload_depth ({limits.payload_depth}) allows")
    if not body.isascii():
        try:
            body.decode()  # the decoder passes over what it leaves encoded
        except UnicodeDecodeError as error:
            raise NotOurs(f"no CloudEvent: {error}") from None
    if event.time is not None:
        _check_time(event.time)
    return event


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes | Raw, what: str) -> _T:
    try:
        return decoder.decode(data)
    except UNDECODABLE as error:
        raise NotOurs(f"{what}: {error}") from None


def _check_time(time: datetime) -> None:
    if time.tzinfo is None:
        raise NotOurs("its time has no offset from UTC")
    if time.year in (MINYEAR, MAXYEAR):
        try:
            time.astimezone(timezone.utc)
        except OverflowError:
            raise NotOurs("its time is outside the years 1 to 9999 of UTC") from None


def _check_id(text: str, what: str) -> None:
    """Anything else is nobody's, and more than some stores can ask for."""
    if 0 < len(text) <= MAX_CHARS and text.isascii() and text.isprintable():
        return  # all but a few, without a walk over each character
    try:
        check_foreign_id(text, what)
    except ValueError as error:
        raise NotOurs(str(error)) from None


def lifecycle_messages(summary: Summary, length: int, serving: Serving) -> list[Message]:
    """What is announced when an instance has begun or ended: to the topic, and to whoever started it elsewhere.

    length: of the history; what began it is event 0, what ended it the last one. What was rewound ends several times,
    and each of them is an event of its own.
    The routing key is `<kind>.<status>.<orchestrator>`, e.g. `ended.COMPLETED.order`.
    """
    ended = summary.status.finished
    kind = ENDED if ended else STARTED
    event_id, body = _lifecycle(kind, summary, length, serving)
    key = f"{'ended' if ended else 'started'}.{summary.status.value}.{_part(summary.name)}"
    messages = [Message(key, event_id, kind, body)]
    if ended and summary.reply_to not in ("", serving.reply_to):
        messages.append(Message(summary.reply_to, event_id, kind, body))
    return messages


def lifecycle_event(summary: Summary, length: int, serving: Serving) -> bytes:
    """The same for the triggers. A large output is left out."""
    if len(bytes(summary.output)) > serving.carried:
        summary = msgspec.structs.replace(summary, output=NO_PAYLOAD)
    return _lifecycle(ENDED if summary.status.finished else STARTED, summary, length, serving)[1]


def _lifecycle(kind: str, summary: Summary, length: int, serving: Serving) -> tuple[str, bytes]:
    """Its id and the whole of it."""
    ended = kind == ENDED
    number = length - 1 if ended else 0
    event_id = f"{_quoted(summary.instance_id)}/{summary.execution_id}/{number}"
    data = {
        "instance_id": summary.instance_id,
        "execution_id": summary.execution_id,
        "name": summary.name,
        "status": summary.status.value,
        **({"output": summary.output} if ended and summary.output else {}),
        **({"failure": summary.failure} if summary.failure is not None else {}),
    }
    body = _encoded(
        kind,
        event_id,
        source(serving.workspace, summary.name),
        summary.instance_id,
        summary.updated_at,
        data,
        traceparent=traceparent(summary.execution_id),
        sequence=sequence(number),
    )
    return event_id, body
