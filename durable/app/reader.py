"""Looking at orchestrations: status, listing, history, the end, diagnosis. What is read is what is committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, overload

import msgspec

from ..engine.instance import Instance
from ..engine.triggering import asked, hub_of
from ..model import history as h
from ..model.errors import InstanceNotFoundError, not_found
from ..model.history import Event, HistoryEvent, decode_event, decode_events
from ..model.moments import to_utc
from ..model.names import TRIGGERS, check_name
from ..model.status import OrchestrationStatus, Page, RuntimeStatus, Summary
from ..ports import Backend, ExecutionKey, Query, Record, Store, Transport, Want
from ..replay.callee import checked_tags
from ..replay.guard import refuse_inside
from ..triggers.hub import Hub
from .diagnosis import WAITING, Diagnosis, Service, diagnose, living, unserved
from .listing import listed
from .plugins import NO_BROKER
from .sealing import outline_of
from .tries import tries
from .views import cloud_events, event_view, input_of, status_view
from .waiting import Waits, check_until

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

_LARGEST_PAGE: Final = 1_000


class Reader:
    """The half of a client that changes nothing."""

    _events_at = NO_BROKER

    def __init__(self, backend: Backend, transport: Transport | None, workspace: str) -> None:
        self._backend = backend
        self._store = backend.store
        self._outline = outline_of(backend)  # for what is not shown with its payloads
        self._transport = transport
        self._workspace = workspace
        self._waits = Waits(backend)

    def get_status(
        self, instance_id: str, *, history: bool = False, payloads: bool = True
    ) -> OrchestrationStatus | None:
        """How an orchestration stands; None when there is none. history: with its events. payloads: input, output."""
        refuse_inside("get_status", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        summary = (self._store if payloads else self._outline).summaries([instance_id])[0]
        if summary is None:
            return None
        if summary.status in WAITING:
            service = Service(living(self._backend.membership.members()), self._transport, self._workspace)
            waits = unserved(self._outline, summary, service)
            summary = msgspec.structs.replace(summary, blocked_reason=waits)
        events = self._events(_execution(summary)) if history else None
        payload = input_of(self._store.input_of([_execution(summary)])[0]) if payloads else h.NO_PAYLOAD
        return status_view(summary, payload, events, payloads)

    def list_orchestrations(
        self,
        *,
        status: RuntimeStatus | str | Iterable[RuntimeStatus | str] | None = None,
        name: str | None = None,
        prefix: str | None = None,
        tags: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[OrchestrationStatus]:
        """One page of orchestrations, newest first; all filters must hold. `cursor` is that of the page before.

        status: one or several, as enum or text. prefix: of the instance id. created_after is inclusive,
        created_before exclusive; both are aware datetimes. limit: 1 to 1,000. Of payloads that `connect(blobs=)` keeps
        outside the store it gives the size, in words; `get_status` has them.
        """
        refuse_inside("list_orchestrations", "an activity that calls the client")
        _check_limit(limit)
        query = Query(
            status=statuses(status),
            name=check_text(name, "name="),
            prefix=check_text(prefix, "prefix="),
            tags=checked_tags(tags) or None,
            created_after=timestamp(created_after, "created_after="),
            created_before=timestamp(created_before, "created_before="),
            limit=limit,
            cursor=cursor,
        )
        found = listed(self._outline, query)
        rows = self._outline.input_of([_execution(summary) for summary in found.items])
        items = [status_view(s, input_of(row), None, True) for s, row in zip(found.items, rows, strict=True)]
        return Page(items, found.next)

    @overload
    def history(
        self,
        instance_id: str,
        *,
        execution_id: str | None = None,
        as_cloudevents: Literal[False] = False,
        pending: bool = False,
    ) -> list[HistoryEvent]: ...
    @overload
    def history(
        self,
        instance_id: str,
        *,
        execution_id: str | None = None,
        as_cloudevents: Literal[True],
        pending: bool = False,
    ) -> list[CloudEvent]: ...
    def history(
        self,
        instance_id: str,
        *,
        execution_id: str | None = None,
        as_cloudevents: bool = False,
        pending: bool = False,
    ) -> list[HistoryEvent] | list[CloudEvent]:
        """The events of the current (or the given) execution, in order.

        pending: also facts that no turn has taken yet (event_id None). Raises InstanceNotFoundError.
        """
        refuse_inside("history", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        record = self._record(instance_id)
        if record is None:
            raise not_found("history", instance_id)
        execution = execution_id or record.summary.execution_id
        events = self._events(ExecutionKey(instance_id, execution))
        if execution_id is not None and (not events or events[0].instance_id != instance_id):
            raise InstanceNotFoundError(f"history: {instance_id!r} has no execution {execution_id!r}")
        if pending and execution == record.summary.execution_id:
            events += _pending(record, events)
        if as_cloudevents:
            return cloud_events(events, record.summary, execution, self._workspace)
        return events

    def _events(self, execution: ExecutionKey) -> list[HistoryEvent]:
        return [event_view(event, number) for number, event in self._numbered(self._store, execution)]

    def _numbered(self, store: Store, execution: ExecutionKey) -> Iterator[tuple[int, Event]]:
        start: str | None = "0"
        while start is not None:
            rows = store.history(execution, int(start))
            for first, row in rows.items:
                yield from enumerate(decode_events(row), first)
            start = rows.next

    def _record(self, instance_id: str) -> Record | None:
        return self._store.load([Want(instance_id)])[0]

    def _summary(self, instance_id: str) -> Summary | None:
        return self._outline.summaries([instance_id])[0]

    def wait(
        self,
        instance_id: str,
        timeout: timedelta | float | None = None,
        *,
        until: Literal["finished", "started"] = "finished",
    ) -> OrchestrationStatus:
        """Wait until an orchestration has ended, or ("started") its first turn is committed; return its status.

        timeout: timedelta or seconds, None waits for ever. Raises durable.TimeoutError, InstanceNotFoundError, and
        DurableError when the worker on this client has died of an error of its own.
        """
        check_name(instance_id, "instance_id")
        check_until(until)
        self.wait_summary(instance_id, timeout, until, False)
        status = self.get_status(instance_id)
        if status is None:  # purged meanwhile
            raise not_found("wait", instance_id)
        return status

    def wait_summary(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool, own: bool = False
    ) -> Summary:
        """The wait behind `wait` and `handle.result`. own: see `OrchestrationHandle`."""
        refuse_inside("wait", "yield")
        return self._waits.wait(instance_id, timeout, until, blocked_ends, own)

    def triggers(self) -> Hub:
        """All triggers of the workspace as they stand, with what is asked for and waits in line; a copy."""
        record = self._settled_record()
        if record is None:
            return Hub()
        hub = hub_of(Instance.of_record(record))
        asked(record.inbox, hub)
        return hub

    def _settled_record(self) -> Record | None:
        """As it was at one moment: not every store reads history and inbox at once, and what a step took between the
        two would be in neither."""
        record = self._record(TRIGGERS)
        again = tries("the triggers")
        while record is not None:
            later = self._store.load([Want(TRIGGERS, record.version)])[0]
            if later is not None and later.history is None:
                break
            next(again)
            record = later
        return record

    def diagnose(self) -> Diagnosis:
        """Look at store, broker and workers once: what `durable doctor` prints. Raises StoreError, TransportError."""
        refuse_inside("diagnose", "an activity that calls the client")
        members = self._backend.membership.members()
        return diagnose(self._outline, members, self._transport, self._workspace, self._events_at, self.triggers())


def _pending(record: Record, history: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    """What no turn has taken. The rows of a rewind and a resume that are in the history only make a worker look."""
    resumed = [msgspec.structs.replace(event, event_id=None) for event in history if event.type == h.EXECUTION_RESUMED]
    facts = (decode_event(row.body) for row in record.inbox if row.body)
    pending = (event_view(fact, None) for fact in facts if fact.type != h.EXECUTION_REWOUND)
    return [event for event in pending if event not in resumed]


def _execution(summary: Summary) -> ExecutionKey:
    return ExecutionKey(summary.instance_id, summary.execution_id)


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LARGEST_PAGE:
        raise ValueError(f"limit={limit!r}: give a whole number from 1 to {_LARGEST_PAGE}")


def check_text(text: str | None, what: str) -> str | None:
    """Raises TypeError for a filter that is no text."""
    if text is not None and not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users may give anything
        raise TypeError(f"{what} takes text, not {type(text).__name__}")
    return text


def timestamp(moment: datetime | None, where: str) -> float | None:
    """POSIX seconds of an aware datetime. Raises TypeError, or ValueError as `to_utc`."""
    return None if moment is None else to_utc(moment, where).timestamp()


def statuses(status: RuntimeStatus | str | Iterable[RuntimeStatus | str] | None) -> frozenset[RuntimeStatus] | None:
    """One or several states, as enum or text. Raises TypeError, or ValueError for one that there is not."""
    if status is None:
        return None
    if not isinstance(status, Iterable):
        raise TypeError(f"status= takes one or several of {', '.join(RuntimeStatus)}, not {status!r}")
    several = [status] if isinstance(status, str) else list(status)
    try:
        return frozenset(RuntimeStatus(str(one).upper()) for one in several)
    except ValueError as error:
        raise ValueError(f"status=: {error}; one of {', '.join(RuntimeStatus)}") from None
