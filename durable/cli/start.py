"""`durable start`: one orchestration by the name of its orchestrator. The code is elsewhere, with the workers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

from ..model.errors import InstanceExistsError
from ..model.names import check_name
from ..replay.callee import OrchestratorRef, orchestrator_ref
from .exits import CommandError, Exit
from .run import json_argument
from .session import Session
from .terminal import moment, safe


class Asked(NamedTuple):
    """How it is to start; what is None was not given. if_exists is checked by the client."""

    instance_id: str | None
    version: str | None
    group: str | None
    start_at: datetime | None
    tags: Mapping[str, str] | None
    if_exists: Any


def start(session: Session, name: str, given: str | None, asked: Asked, wait: bool, timeout: float | None) -> None:
    """Start it and say so; wait: until it has ended, for its output."""
    value = json_argument(given, "--input")
    instance_id = check_name(uuid4().hex if asked.instance_id is None else asked.instance_id, "--id")
    session.refuse_own_memory()
    ref = orchestrator_ref(name, version=asked.version, group=asked.group, tags=asked.tags)
    started = _is_started(session, ref, value, instance_id, asked)
    say = session.screen.note_value if wait else session.screen.answer
    say({"started": started, "instance_id": instance_id}, _said(session, instance_id, name, started, asked.start_at))
    if wait:
        output = session.client.handle(instance_id).result(timeout, on_blocked="raise")
        session.screen.document(output, indent=2 if session.screen.reads_on_terminal else None)


def _is_started(session: Session, ref: OrchestratorRef[..., Any], value: Any, instance_id: str, asked: Asked) -> bool:
    """False where it is there already, and that was to be no error: a handle would not say who made it."""
    if_exists: Any = "raise" if asked.if_exists == "return" else asked.if_exists
    try:
        # start_many takes an input, as --input is one; start_orchestration takes arguments.
        session.client.start_many(
            ref, [value], instance_ids=[instance_id], start_at=asked.start_at, if_exists=if_exists
        )
    except InstanceExistsError as error:
        if asked.if_exists == "return":
            return False
        if asked.if_exists == "replace":
            hint = "terminate it first, or give another --id"
            raise CommandError(Exit.USAGE, f"{instance_id!r} has not ended, and so is not replaced: {hint}") from error
        hint = (
            "give another --id, or --if-exists return for the one that is there, or replace in place of what has ended"
        )
        raise CommandError(Exit.USAGE, f"{instance_id!r} is taken already: {hint}") from error
    return True


def _said(session: Session, instance_id: str, name: str, started: bool, start_at: datetime | None) -> str:
    if started:
        when = "" if start_at is None else f" from {moment(start_at)} on"
        return f"{safe(instance_id)} is started; it runs{when} where a worker serves {safe(name)}"
    found = session.client.get_status(instance_id, payloads=False)
    return f"{safe(instance_id)} is there already" + (f": {safe(found.name)}, {found.runtime_status}" if found else "")
