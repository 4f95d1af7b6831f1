"""The command that a call stands in the history with, one for each attempt."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..model import history as h
from ..model.history import Event
from ..model.names import child_id
from .callee import ActivityRef, OrchestratorRef
from .tasks import CallTask


def command_of(task: CallTask[Any], caller: str, started: Event, at: datetime) -> Event:
    """The open attempt of this call. caller: the instance; started: the first event of its execution."""
    ref = task.ref
    if isinstance(ref, ActivityRef):
        return _scheduled(task, ref, at)
    return _created(task, ref, caller, started, at)


def _scheduled(task: CallTask[Any], ref: ActivityRef[Any, Any], at: datetime) -> Event:
    return Event(
        h.TASK_SCHEDULED,
        at,
        task.id,
        ref.name,
        task.attempt,
        task.input,
        timeout=ref.timeout or None,
        heartbeat_timeout=ref.heartbeat_timeout or None,
        queue=ref.queue,
    )


def _created(task: CallTask[Any], ref: OrchestratorRef[Any, Any], caller: str, started: Event, at: datetime) -> Event:
    return Event(
        h.CHILD_CREATED,
        at,
        task.id,
        ref.name,
        task.attempt,
        task.input,
        instance_id=task.explicit_id or child_id(caller, started.execution_id, task.id, task.attempt),
        version=ref.version,
        tags=ref.tags or None,
        depth=started.depth + 1,
        group=ref.group or started.group,  # of a name alone nobody knows more than where it was called
    )
