"""From what is stored to what users see: statuses, history events, CloudEvents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from ..model import history as h
from ..model.history import Event, HistoryEvent, Raw, UnreadableHistory, decode_events
from ..model.names import sequence, traceparent
from ..model.status import OrchestrationStatus, Summary
from ..payload.codec import shown
from .handle import plain

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent


def status_view(
    summary: Summary, payload: Raw, history: list[HistoryEvent] | None, payloads: bool
) -> OrchestrationStatus:
    """The public status. `payload` is the input; without `payloads`, input and output stay None."""
    return OrchestrationStatus(
        instance_id=summary.instance_id,
        name=summary.name,
        version=summary.version or None,
        runtime_status=summary.status,
        created_at=summary.created_at,
        last_updated_at=summary.updated_at,
        completed_at=summary.completed_at,
        input=plain(payload) if payloads else None,
        output=plain(summary.output) if payloads else None,
        custom_status=plain(summary.custom_status),
        failure=summary.failure,
        blocked_reason=shown(summary.blocked_reason) or None,
        tags=summary.tags or {},
        parent_instance_id=summary.parent_instance_id or None,
        execution_id=summary.execution_id,
        history=history,
    )


def input_of(row: bytes | None) -> Raw:
    """The input in the first stored row of an execution; words where that can't be read, for the rest can be shown."""
    if row is None:
        return h.NO_PAYLOAD
    try:
        return decode_events(row)[0].input
    except UnreadableHistory as error:
        return Raw(msgspec.json.encode(f"(not to be had: {error})"))


def event_view(event: Event, number: int | None) -> HistoryEvent:
    """The public form of one event; `number` None: no turn has taken it yet."""
    parent = event.parent
    return HistoryEvent(
        event_id=number,
        type=event.type,
        timestamp=event.timestamp,
        task_id=event.task_id or None,
        name=event.name or None,
        attempt=event.attempt or None,
        input=plain(event.input),
        result=plain(event.result),
        failure=event.failure,
        fire_at=event.fire_at,
        instance_id=event.instance_id or None,
        execution_id=event.execution_id or None,
        version=event.version or None,
        tags=event.tags,
        parent_instance_id=parent.instance_id if parent else None,
        seed=event.seed or None,
        status=event.status or None,
        timeout=event.timeout,
        heartbeat_timeout=event.heartbeat_timeout,
        queue=event.queue or None,
        group=event.group or None,
        suggest_continue_as_new=event.suggest_continue_as_new or None,
        rewinds_to=event.rewinds_to or None,
        voids=event.voids or None,
    )


def cloud_events(
    events: Iterable[HistoryEvent], summary: Summary, execution_id: str, workspace: str = "default"
) -> list[CloudEvent]:
    """Each event as a CloudEvent 1.0 (`durable.task-completed`, ...), with the SDK's class."""
    from cloudevents.core.v1.event import CloudEvent  # loaded when used: the SDK costs more than the rest of the import

    source = f"/workspaces/{quote(workspace, safe='')}/orchestrations/{quote(summary.name, safe='')}"
    made: list[CloudEvent] = []
    for event in events:
        attributes: dict[str, Any] = {
            "id": _cloud_event_id(event, summary.instance_id, execution_id),
            "type": f"durable.{_kebab(event.type)}",
            "source": source,
            "subject": summary.instance_id,
            "time": event.timestamp,
            "datacontenttype": "application/json",
            "partitionkey": quote(summary.instance_id, safe=""),
            "traceparent": traceparent(execution_id, event.task_id or 0, event.attempt or 0),
        }
        if event.event_id is not None:
            attributes["sequence"] = sequence(event.event_id)
        made.append(CloudEvent(attributes, _data(event, summary.instance_id, execution_id)))
    return made


def _cloud_event_id(event: HistoryEvent, instance_id: str, execution_id: str) -> str:
    """An outcome's id is instance/execution/task/attempt, as on the wire; any other event's ends in its number, or in a
    digest of it while it has none."""
    if event.type in (h.TASK_COMPLETED, h.TASK_FAILED):
        parts = [instance_id, execution_id, str(event.task_id), str(event.attempt)]
    elif event.event_id is None:
        digest = hashlib.sha256(msgspec.json.encode(event)).hexdigest()[:16]
        parts = [instance_id, execution_id, "pending", digest]
    else:
        parts = [instance_id, execution_id, str(event.event_id)]
    return "/".join(quote(part, safe="") for part in parts)


def _data(event: HistoryEvent, instance_id: str, execution_id: str) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(event)
    for name in ("type", "timestamp", "event_id"):
        data.pop(name, None)
    if event.instance_id is not None and event.type != h.EXECUTION_STARTED:
        data["child_instance_id"] = event.instance_id
    data["instance_id"], data["execution_id"] = instance_id, execution_id
    return data


def _kebab(name: str) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
