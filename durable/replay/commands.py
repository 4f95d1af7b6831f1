"""What the calls of an orchestrator are in the history, and its end by an exception: one command event each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..model import history as h
from ..model.errors import OrchestrationCancelledError, PayloadError
from ..model.failure import describe, is_really
from ..model.history import DETACHED, Event, Raw, UnreadableHistory
from ..model.names import child_id
from ..model.status import RuntimeStatus
from ..payload.values import decode
from .callee import ActivityRef, OrchestratorRef
from .tasks import CallTask


def called(task: CallTask[Any], parent: Event, parent_id: str, at: datetime) -> Event:
    """The open attempt of a call. parent: the start of the execution that asks, `parent_id` its instance."""
    ref = task.ref
    if isinstance(ref, ActivityRef):
        return _task_scheduled(task, ref, at)
    return child_created(task.id, task.attempt, ref, task.input, at, task.explicit_id, parent, parent_id)


def _task_scheduled(task: CallTask[Any], ref: ActivityRef[Any, Any], at: datetime) -> Event:
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


def child_created(
    task_id: int,
    attempt: int,
    ref: OrchestratorRef[Any, Any],
    payload: Raw,
    at: datetime,
    instance_id: str,
    parent: Event,
    parent_id: str,
    *,
    detached: bool = False,
) -> Event:
    """One attempt of a child, or (detached) the start of an orchestration that nobody waits for: its depth is 0.

    instance_id: '' for the default one. parent: the start of the execution that asks, `parent_id` its instance.
    """
    return Event(
        h.CHILD_CREATED,
        at,
        task_id,
        ref.name,
        attempt,
        payload,
        instance_id=instance_id or child_id(parent_id, parent.execution_id, task_id, attempt),
        version=ref.version,
        tags=ref.tags or None,
        depth=0 if detached else parent.depth + 1,
        group=ref.group or parent.group,  # of a name alone nobody knows more than where it was called
        status=DETACHED if detached else "",
    )


def cancellation(request: Event, instance_id: str) -> OrchestrationCancelledError:
    """What an ExecutionCanceled event throws into the code. Raises UnreadableHistory."""
    try:
        reason = decode(request.input, Any, "the reason for cancelling")
    except PayloadError as error:
        raise UnreadableHistory(str(error)) from None
    because = "" if reason is None else f": {reason}"
    return OrchestrationCancelledError(f"orchestration {instance_id!r} was cancelled{because}", reason)


def ended_by(error: BaseException, cancelled: Raw | None, at: datetime) -> Event:
    """The end by an exception that the code let go. cancelled: the reason of the last cancel, None without one."""
    if cancelled is not None and is_really(error, OrchestrationCancelledError):
        return Event(h.EXECUTION_COMPLETED, at, result=cancelled, status=RuntimeStatus.CANCELED.value)
    return Event(h.EXECUTION_COMPLETED, at, failure=describe(error), status=RuntimeStatus.FAILED.value)
