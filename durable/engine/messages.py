"""What one instance sends to another: a start, or a fact for its inbox. Each is a work row until its target has it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from ..model import history as h
from ..model.errors import (
    DurableError,
    InstanceExistsError,
    OrchestrationCancelledError,
    OrchestrationTerminatedError,
)
from ..model.failure import describe
from ..model.history import NO_PAYLOAD, UNDECODABLE, Event, Parent, UnreadableHistory
from ..model.status import RuntimeStatus

_FORMAT: Final = 1


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """`start`: create the target with this ExecutionStarted. `fact`: put this event into the target's inbox.

    `event`: the same, and if there is no such target, keep it until there is. `publish`: the target is a sink.
    `rewind`: the parent of the target was rewound; rewind the target too if it has failed (`rewind.answer`).
    """

    kind: Literal["start", "fact", "event", "rewind", "publish"]
    target: str
    event: Event
    format: int = _FORMAT


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def encode_message(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_message(body: bytes) -> Message:
    """Raises UnreadableHistory for what this version can't read."""
    try:
        return _decoder.decode(body)
    except UNDECODABLE as error:
        raise UnreadableHistory(f"a stored message can't be decoded ({error})") from error


def child_start(created: Event, parent: Parent | None, execution_id: str, seed: str) -> Message:
    """The start of the child that a SubOrchestrationInstanceCreated event asks for. parent: None if it is detached."""
    started = Event(
        h.EXECUTION_STARTED,
        created.timestamp,
        name=created.name,
        input=created.input,
        instance_id=created.instance_id,
        execution_id=execution_id,
        version=created.version,
        tags=created.tags,
        parent=parent,
        depth=created.depth,
        seed=seed,
        group=created.group,
    )
    return Message("start", created.instance_id, started)


# How a child ended that neither returned nor raised: the error and the word for its parent.
_STOPPED: Final[dict[str, tuple[type[DurableError], str]]] = {
    RuntimeStatus.TERMINATED.value: (OrchestrationTerminatedError, "terminated"),
    RuntimeStatus.CANCELED.value: (OrchestrationCancelledError, "cancelled"),
}


def child_outcome(parent: Parent, ended: Event, instance_id: str) -> Message:
    """What the last event of the child `instance_id` means to its parent."""
    failure = ended.failure
    if ended.status in _STOPPED:
        error, how = _STOPPED[ended.status]
        failure = describe(error(f"sub-orchestration {instance_id!r} was {how}"))
    failed = failure is not None
    event = Event(
        h.CHILD_FAILED if failed else h.CHILD_COMPLETED,
        ended.timestamp,
        task_id=parent.task_id,
        attempt=parent.attempt,
        result=NO_PAYLOAD if failed else ended.result,
        failure=failure,
        execution_id=parent.execution_id,
    )
    return Message("fact", parent.instance_id, event)


def refused_start(message: Message) -> Message:
    """What the parent gets when somebody else's instance has the id of its child."""
    parent = message.event.parent
    assert parent is not None
    error = InstanceExistsError(
        f"sub-orchestration id {message.target!r} is taken by another instance; give each child an id of its own"
    )
    event = Event(
        h.CHILD_FAILED,
        message.event.timestamp,
        task_id=parent.task_id,
        attempt=parent.attempt,
        failure=describe(error),
        execution_id=parent.execution_id,
    )
    return Message("fact", parent.instance_id, event)
