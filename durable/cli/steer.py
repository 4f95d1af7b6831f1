"""Telling an orchestration something: it is recorded when the command ends, and in force with the next turn."""

from __future__ import annotations

from typing import Protocol

from ..model.errors import InstanceNotFoundError
from .run import json_argument
from .session import Session
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
        f"{safe(instance_id)} had ended already: {before.runtime_status}"
        if ended
        else f"{safe(instance_id)} {then}, which takes a running worker",
    )


def not_found(session: Session, instance_id: str) -> str:
    return f"no orchestration {instance_id!r} in {session.store}; `durable list` shows what is there"
