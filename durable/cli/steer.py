"""Telling an orchestration something: it is recorded when the command ends, and in force with the next turn."""

from __future__ import annotations

from typing import Protocol

from ..model.errors import InstanceFinishedError, InstanceNotFoundError
from ..model.status import OrchestrationStatus, RuntimeStatus
from .run import json_argument
from .session import Session
from .tasks import open_waits_of
from .terminal import safe


class Tell(Protocol):
    """`client.suspend` and its like."""

    def __call__(self, instance_id: str, reason: object = None) -> None: ...


def steer(session: Session, instance_id: str, reason: str | None, tell: Tell, done: str, then: str) -> None:
    """Tell it, unless it has ended.

    reason: JSON. done: what has been done to it, the key under --json; then: what follows, for people.
    """
    value = json_argument(reason, "--reason")
    before = session.client.get_status(instance_id, payloads=False)
    if before is None:
        raise InstanceNotFoundError(not_found(session, instance_id))
    ended = before.runtime_status.finished
    if not ended:
        tell(instance_id, value)
    session.screen.answer(
        {done: not ended, "instance_id": instance_id},
        f"{safe(instance_id)} had ended already: {before.runtime_status}" if ended else f"{safe(instance_id)} {then}",
    )


def raise_event(session: Session, instance_id: str, event: str, data: str | None, event_id: str | None) -> None:
    """Send an event, unless it has ended. data: JSON."""
    value = json_argument(data, "--data")
    before = session.client.get_status(instance_id, history=True, payloads=False)
    if before is None:
        raise InstanceNotFoundError(not_found(session, instance_id))
    if before.runtime_status.finished:
        raise InstanceFinishedError(f"{instance_id!r} has ended ({before.runtime_status}) and takes no more events")
    session.client.raise_event(instance_id, event, value, event_id=event_id)
    session.screen.answer(
        {"raised": event, "instance_id": instance_id}, f"event {safe(event)} is recorded for {safe(instance_id)}"
    )
    _note_other_waits(session, before, event)


def _note_other_waits(session: Session, before: OrchestrationStatus, event: str) -> None:
    """A misspelt name is no error: the orchestration may come to wait for it. But somebody should look."""
    waits = open_waits_of(before.history or [])
    if before.runtime_status is RuntimeStatus.PENDING or event.casefold() in map(str.casefold, waits):
        return
    shown = ", ".join(f"'{safe(name)}'" for name in waits[:5]) or "no event"
    session.screen.note_value(
        {"waits_for": waits},
        f"it waits for {shown} at the moment; the event is kept until it waits for '{safe(event)}'",
    )


def not_found(session: Session, instance_id: str) -> str:
    return f"no orchestration {instance_id!r} in {session.store}; `durable list` shows what is there"
