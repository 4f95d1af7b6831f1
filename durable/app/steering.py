"""Steering orchestrations that exist: durable when a call returns, in force with the next turn."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..engine.codeless import terminate_request
from ..model import history as h
from ..model.errors import InstanceFinishedError, not_found
from ..model.history import Event, encode_event
from ..model.limits import Limits
from ..model.names import check_foreign_id, check_name, partition_of
from ..payload.values import encode
from ..ports import FACTS, Backend, Delivered, Fact, Transport
from ..replay.guard import refuse_inside
from .clock import utc_now
from .identity import Ids
from .reader import Reader


class Steerer(Reader):
    """The part of a client that tells an orchestration something."""

    def __init__(self, backend: Backend, transport: Transport | None, workspace: str, limits: Limits) -> None:
        super().__init__(backend, transport, workspace)
        self._signals = backend.signals
        self._limits = limits
        self._ids: Callable[[], str] = Ids()

    def raise_event(self, instance_id: str, name: str, data: Any = None, *, event_id: str | None = None) -> None:
        """Send an external event to an orchestration, waiting for it or not.

        event_id: any text of 1 to 200 characters, such as the id of a CloudEvent; the same one twice is one event
        (remembered at least 24 hours and 1,000 ids). Raises InstanceNotFoundError, InstanceFinishedError, PayloadError.
        """
        refuse_inside("raise_event", "ctx.send_event")
        check_name(instance_id, "instance_id")
        check_name(name, "the event's name")
        if event_id is not None:
            check_foreign_id(event_id, "event_id=")
        event = Event(
            h.EVENT_RAISED, self._now(), name=name, input=encode(data, f"the data of event {name!r}", self._limits)
        )
        fact_id = f"event/{event_id}" if event_id is not None else f"event//{self._ids()}"
        answer = self._deliver(instance_id, fact_id, event)
        if answer is Delivered.ABSENT:
            raise not_found(f"raise_event({name!r})", instance_id)
        if answer is Delivered.FINISHED:
            raise InstanceFinishedError(
                f"raise_event({name!r}): orchestration {instance_id!r} has ended and takes no more events; "
                "start another one, or restart it"
            )

    def terminate(self, instance_id: str, reason: Any = None, *, recursive: bool = True) -> None:
        """End an orchestration, whatever it does; `reason` (any JSON) becomes its output.

        recursive: its unfinished sub-orchestrations too. Does nothing when it has ended; takes effect with its next
        turn. Raises InstanceNotFoundError, PayloadError.
        """
        refuse_inside("terminate", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        payload = encode(reason, "the reason for terminating", self._limits)
        event = terminate_request(payload, self._now(), recursive=recursive)
        if self._deliver(instance_id, f"terminate/{self._ids()}", event) is Delivered.ABSENT:
            raise not_found("terminate", instance_id)

    def suspend(self, instance_id: str, reason: Any = None) -> None:
        """Let an orchestration rest until it is resumed: what runs finishes, and nothing that comes is taken.

        reason: any JSON, kept in the history. Does nothing when it rests already or has ended; takes effect with its
        next turn. Raises InstanceNotFoundError, PayloadError.
        """
        self._steer("suspend", h.EXECUTION_SUSPENDED, instance_id, reason)

    def resume(self, instance_id: str, reason: Any = None) -> None:
        """Go on with a suspended orchestration: what has come meanwhile is taken in order of arrival.

        reason: any JSON, kept in the history. Does nothing when it is not suspended or has ended. Raises
        InstanceNotFoundError, PayloadError.
        """
        self._steer("resume", h.EXECUTION_RESUMED, instance_id, reason)

    def cancel(self, instance_id: str, reason: Any = None) -> None:
        """Throw OrchestrationCancelledError (`.reason`: any JSON) at the current yield, so that it can compensate.

        Unhandled, the orchestration ends CANCELED; its children go on. While it is suspended or blocked, the request
        waits. Does nothing when it has ended; takes effect with its next turn. Raises InstanceNotFoundError,
        PayloadError.
        """
        self._steer("cancel", h.EXECUTION_CANCELED, instance_id, reason)

    def _steer(self, verb: str, kind: str, instance_id: str, reason: Any) -> None:
        refuse_inside(verb, "an activity that calls the client")
        check_name(instance_id, "instance_id")
        payload = h.NO_PAYLOAD if reason is None else encode(reason, f"the reason for {verb}", self._limits)
        event = Event(kind, self._now(), input=payload)
        if self._deliver(instance_id, f"{verb}/{self._ids()}", event) is Delivered.ABSENT:
            raise not_found(verb, instance_id)

    def _now(self) -> datetime:
        """The time that is recorded with what a client asks for; a test may have another one."""
        return utc_now()

    def _deliver(self, instance_id: str, fact_id: str, event: Event) -> Delivered:
        partition = partition_of(instance_id, self._store.partitions)
        fact = Fact(instance_id, partition, fact_id, encode_event(event), event.timestamp.timestamp())
        answer = self._store.deliver([fact])[0]
        self._signals.notify(FACTS, [instance_id])
        return answer
