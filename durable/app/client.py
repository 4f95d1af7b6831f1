"""Starting, steering and reading orchestrations. Every call is durable when it returns; a signal only makes it fast."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast, overload
from uuid import uuid4

import msgspec

from ..engine.codeless import terminate_request
from ..engine.step import create
from ..model import history as h
from ..model.errors import InstanceExistsError, InstanceFinishedError, InstanceNotFoundError
from ..model.history import Event, HistoryEvent, Raw, decode_event, decode_events, encode_event
from ..model.limits import Limits
from ..model.moments import to_utc
from ..model.names import check_name, partition_of
from ..model.status import OrchestrationStatus, Page, RuntimeStatus, Summary
from ..payload.values import encode
from ..ports import (
    FACTS,
    Backend,
    Commit,
    Delivered,
    ExecutionKey,
    Fact,
    Outcome,
    Query,
    Record,
    Transport,
    Want,
)
from ..replay.callee import OrchestratorRef, as_orchestrator, checked_tags
from ..replay.guard import running
from .diagnosis import Diagnosis, diagnose, living, unserved
from .handle import OrchestrationHandle
from .identity import Ids, random_ids
from .plugins import (
    DEFAULT_WORKSPACE,
    events_url_or_default,
    open_backend,
    open_transport,
    url_or_default,
    workspace_or_default,
)
from .starting import IfExists, ManyOptions, starts_orchestration
from .views import cloud_events, event_view, input_of, status_view
from .waiting import Waits

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent
    from typing_extensions import Unpack

R = TypeVar("R")

_COMMITTED_TOGETHER: Final = 500
_LARGEST_PAGE: Final = 1_000


def connect(
    url: str | None = None,
    *,
    events: str | None = None,
    workspace: str | None = None,
    limits: Limits | None = None,
) -> Client:
    """A client of the store behind `url` (default: DURABLE_URL, else `sqlite:///.durable/durable.db`).

    url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host:port/db`, `rediss://`, `memory://name`.
    events: the broker between many workers, `amqp://user:password@host:port/vhost` or `amqps://` (default:
    DURABLE_EVENTS_URL, else none). workspace: what has another name is never seen (default: DURABLE_WORKSPACE, else
    "default"). Raises ValueError for a URL that nobody serves, StoreError or TransportError for one that can't be used.
    """
    name = workspace_or_default(workspace)
    events_url = events_url_or_default(events)
    backend = open_backend(url_or_default(url), name)
    try:
        return Client(backend, limits or Limits(), name, events_url)
    except BaseException:
        backend.close()
        raise


class Client:
    """Made by `durable.connect`. Safe to use from several threads; a context manager that closes it."""

    def __init__(
        self, backend: Backend, limits: Limits, workspace: str = DEFAULT_WORKSPACE, events_url: str | None = None
    ) -> None:
        self._backend = backend
        self._workspace = workspace
        self._events_url = events_url
        self._transport = self.open_transport()
        self._waits = Waits(backend)
        self._reply_to = ""
        if self._transport is not None:
            self._reply_to = self._transport.replies(self._waits.wake)
            self._waits.told_at(self._reply_to)
        self._store = backend.store
        self._signals = backend.signals
        self._limits = limits
        self._ids = Ids()
        self._closed = False

    @property
    def backend(self) -> Backend:
        """The opened store, for a worker in the same process."""
        return self._backend

    @property
    def workspace(self) -> str:
        """The name of the workspace; other workspaces on the same servers are never seen."""
        return self._workspace

    @property
    def reply_to(self) -> str:
        """Where this client hears by the broker that what it started has ended; '' without a broker."""
        return self._reply_to

    def open_transport(self) -> Transport | None:
        """A connection of its own to the broker, for a worker; None where there is no broker. Raises TransportError."""
        return None if self._events_url is None else open_transport(self._events_url, self._workspace)

    @property
    def limits(self) -> Limits:
        """The limits this client keeps to."""
        return self._limits

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the store back; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            if self._transport is not None:
                self._transport.close()
            self._backend.close()

    def worker_died(self, error: BaseException | None) -> None:
        """Told by the worker on this client: its engine ended by `error`, or (None) one has just started."""
        self._waits.worker_died(error)

    # ---- starting

    @starts_orchestration
    def start_orchestration(
        self,
        orchestrator: Any,
        /,
        *args: Any,
        instance_id: str | None = None,
        if_exists: IfExists = "raise",
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> OrchestrationHandle[Any]:
        """Start an orchestration; durable once this returns.

        instance_id: default is a fresh `uuid4().hex`. if_exists: "raise" refuses a taken id in any state with
        InstanceExistsError, "return" gives a handle on the one that is there. Raises TypeError for wrong arguments,
        ValueError for an id outside the rules, PayloadError for arguments that can't travel.
        """
        self._refuse_inside("start_orchestration", "ctx.call_sub_orchestrator")
        ref = _reference(orchestrator, version, tags)
        _check_if_exists(if_exists)
        payload = ref.encode_input(args, self._limits)
        instance = uuid4().hex if instance_id is None else check_name(instance_id, "instance_id=")
        existing = self._start([self._creation(ref, payload, instance, _now())])
        if existing and if_exists == "raise":
            raise InstanceExistsError(_exists(instance), existing)
        return OrchestrationHandle(self, instance, ref.returns)

    @overload
    def start_many(
        self,
        orchestrator: OrchestratorRef[..., R],
        inputs: Iterable[Any],
        *,
        instance_ids: Sequence[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> list[OrchestrationHandle[R]]: ...
    @overload
    def start_many(
        self,
        orchestrator: str,
        inputs: Iterable[Any],
        *,
        instance_ids: Sequence[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> list[OrchestrationHandle[Any]]: ...
    def start_many(
        self,
        orchestrator: Any,
        inputs: Iterable[Any],
        *,
        instance_ids: Sequence[str] | None = None,
        if_exists: IfExists = "raise",
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> list[OrchestrationHandle[Any]]:
        """Start one orchestration for each input; all durable when this returns, but not atomic together.

        An input that is a list is spread over an orchestrator of several parameters. With if_exists="raise", ids that
        were taken come in one InstanceExistsError (.existing, .started) after the others have started.
        """
        self._refuse_inside("start_many", "ctx.call_sub_orchestrator")
        ref = _reference(orchestrator, version, tags)
        _check_if_exists(if_exists)
        payloads = [_encode_item(ref, item, self._limits) for item in inputs]
        ids = random_ids(len(payloads)) if instance_ids is None else _checked_ids(instance_ids)
        if len(ids) != len(payloads):
            raise ValueError(f"start_many: {len(payloads)} inputs, but {len(ids)} instance_ids")
        now = _now()
        existing: list[str] = []
        for first in range(0, len(ids), _COMMITTED_TOGETHER):
            # Made when they are committed: 100,000 at once would be some 80 megabytes.
            some = slice(first, first + _COMMITTED_TOGETHER)
            pairs = zip(payloads[some], ids[some], strict=True)
            existing += self._start([self._creation(ref, payload, i, now) for payload, i in pairs])
        if existing and if_exists == "raise":
            taken = set(existing)
            started = [i for i in ids if i not in taken]
            raise InstanceExistsError(_exists(*existing), existing, started)
        return [OrchestrationHandle(self, i, ref.returns) for i in ids]

    def handle(self, instance_id: str) -> OrchestrationHandle[Any]:
        """A handle on an instance, whether or not it exists; results come as plain JSON."""
        return OrchestrationHandle(self, check_name(instance_id, "instance_id"))

    def _creation(self, ref: OrchestratorRef[Any, Any], payload: Raw, instance_id: str, now: datetime) -> Commit:
        started = Event(
            h.EXECUTION_STARTED,
            now,
            name=ref.name,
            input=payload,
            instance_id=instance_id,
            execution_id=self._ids(),
            version=ref.version,
            tags=ref.tags or None,
            seed=self._ids(),
            group=ref.group,
            reply_to=self._reply_to,
        )
        return create(instance_id, started, self._store.partitions, self._ids())

    def _start(self, commits: list[Commit]) -> list[str]:
        """Commit the starts; the ids that were taken before."""
        outcomes = self._store.commit(commits)
        unclear = [c for c, outcome in zip(commits, outcomes, strict=True) if outcome is Outcome.UNKNOWN]
        existing = [c.instance_id for c, outcome in zip(commits, outcomes, strict=True) if outcome is Outcome.CONFLICT]
        while unclear:
            # Reading tells: an execution id is minted here and never repeats. What is absent did not happen.
            records = self._store.load([Want(c.instance_id) for c in unclear])
            missing: list[Commit] = [c for c, record in zip(unclear, records, strict=True) if record is None]
            for commit, record in zip(unclear, records, strict=True):
                if record is not None and record.summary.execution_id != commit.summary.execution_id:
                    existing.append(commit.instance_id)
            outcomes = self._store.commit(missing) if missing else []
            unclear = [c for c, outcome in zip(missing, outcomes, strict=True) if outcome is not Outcome.COMMITTED]
        self._signals.notify(FACTS, [c.instance_id for c in commits])
        return existing

    # ---- steering

    def raise_event(self, instance_id: str, name: str, data: Any = None, *, event_id: str | None = None) -> None:
        """Send an external event to an orchestration, waiting for it or not.

        event_id: the same one twice is one event (remembered at least 24 hours and 1,000 ids). Raises
        InstanceNotFoundError, InstanceFinishedError, PayloadError.
        """
        self._refuse_inside("raise_event", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        check_name(name, "the event's name")
        if event_id is not None:
            check_name(event_id, "event_id=")
        event = Event(
            h.EVENT_RAISED, _now(), name=name, input=encode(data, f"the data of event {name!r}", self._limits)
        )
        fact_id = f"event/{event_id}" if event_id is not None else f"event//{self._ids()}"
        answer = self._deliver(instance_id, fact_id, event)
        if answer is Delivered.ABSENT:
            raise InstanceNotFoundError(f"raise_event({name!r}): no orchestration has the id {instance_id!r}")
        if answer is Delivered.FINISHED:
            raise InstanceFinishedError(f"raise_event({name!r}): orchestration {instance_id!r} has ended")

    def terminate(self, instance_id: str, reason: Any = None, *, recursive: bool = True) -> None:
        """End an orchestration, whatever it does; `reason` (any JSON) becomes its output.

        recursive: its unfinished sub-orchestrations too. Does nothing when it has ended; takes effect with its next
        turn. Raises InstanceNotFoundError, PayloadError.
        """
        self._refuse_inside("terminate", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        payload = encode(reason, "the reason for terminating", self._limits)
        event = terminate_request(payload, _now(), recursive=recursive)
        if self._deliver(instance_id, f"terminate/{self._ids()}", event) is Delivered.ABSENT:
            raise InstanceNotFoundError(f"terminate: no orchestration has the id {instance_id!r}")

    def _deliver(self, instance_id: str, fact_id: str, event: Event) -> Delivered:
        partition = partition_of(instance_id, self._store.partitions)
        fact = Fact(instance_id, partition, fact_id, encode_event(event), event.timestamp.timestamp())
        answer = self._store.deliver([fact])[0]
        self._signals.notify(FACTS, [instance_id])
        return answer

    # ---- reading

    def get_status(
        self, instance_id: str, *, history: bool = False, payloads: bool = True
    ) -> OrchestrationStatus | None:
        """How an orchestration stands; None when there is none. history: with its events. payloads: input, output."""
        self._refuse_inside("get_status", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        summary = self._summary(instance_id)
        if summary is None:
            return None
        if summary.status is RuntimeStatus.RUNNING:
            waits = unserved(self._store, summary, living(self._backend.membership.members()))
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
        created_before exclusive; both are aware datetimes. limit: 1 to 1,000.
        """
        self._refuse_inside("list_orchestrations", "an activity that calls the client")
        _check_limit(limit)
        query = Query(
            status=_statuses(status),
            name=name,
            prefix=prefix,
            tags=checked_tags(tags) or None,
            created_after=None if created_after is None else to_utc(created_after, "created_after=").timestamp(),
            created_before=None if created_before is None else to_utc(created_before, "created_before=").timestamp(),
            limit=limit,
            cursor=cursor,
        )
        found = self._store.find(query)
        rows = self._store.input_of([_execution(summary) for summary in found.items])
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
        self._refuse_inside("history", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        record = self._record(instance_id)
        if record is None:
            raise InstanceNotFoundError(f"history: no orchestration has the id {instance_id!r}")
        execution = execution_id or record.summary.execution_id
        events = self._events(ExecutionKey(instance_id, execution))
        if execution_id is not None and (not events or events[0].instance_id != instance_id):
            raise InstanceNotFoundError(f"history: {instance_id!r} has no execution {execution_id!r}")
        if pending and execution == record.summary.execution_id:
            events += [event_view(decode_event(row.body), None) for row in record.inbox if row.body]
        if as_cloudevents:
            return cloud_events(events, record.summary, execution, self._workspace)
        return events

    def _events(self, execution: ExecutionKey) -> list[HistoryEvent]:
        events: list[HistoryEvent] = []
        start: str | None = "0"
        while start is not None:
            rows = self._store.history(execution, int(start))
            for first, row in rows.items:
                events += (event_view(event, first + i) for i, event in enumerate(decode_events(row)))
            start = rows.next
        return events

    def _record(self, instance_id: str) -> Record | None:
        return self._store.load([Want(instance_id)])[0]

    def _summary(self, instance_id: str) -> Summary | None:
        return self._store.summaries([instance_id])[0]

    def diagnose(self) -> Diagnosis:
        """Look at store, broker and workers once: what `durable doctor` prints. Raises StoreError, TransportError."""
        self._refuse_inside("diagnose", "an activity that calls the client")
        return diagnose(self._store, self._backend.membership.members(), self._transport, self._workspace)

    # ---- waiting

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
        if until not in ("finished", "started"):
            raise ValueError(f"until={until!r}: give 'finished' or 'started'")
        self.wait_summary(instance_id, timeout, until, False)
        status = self.get_status(instance_id)
        assert status is not None
        return status

    def wait_summary(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool
    ) -> Summary:
        """The wait behind `wait` and `handle.result`."""
        self._refuse_inside("wait", "yield")
        return self._waits.wait(instance_id, timeout, until, blocked_ends)

    def _refuse_inside(self, method: str, instead: str) -> None:
        inside = running.get()
        if inside is not None:
            raise RuntimeError(
                f"client.{method} inside orchestrator {inside!r} would run again on every replay: use {instead}"
            )


def _execution(summary: Summary) -> ExecutionKey:
    return ExecutionKey(summary.instance_id, summary.execution_id)


def _reference(orchestrator: Any, version: str | None, tags: Mapping[str, str] | None) -> OrchestratorRef[Any, Any]:
    ref = as_orchestrator(orchestrator)
    if version is not None:
        ref = ref.options(version=version)
    if tags is not None:
        ref = ref.options(tags={**ref.tags, **checked_tags(tags)})
    return ref


def _encode_item(ref: OrchestratorRef[Any, Any], item: Any, limits: Limits) -> Raw:
    """An item of `start_many` is an input, not an argument: a list is spread where there is something to spread."""
    signature = ref.signature
    if signature is not None and signature.spreads and isinstance(item, list | tuple):
        return ref.encode_input(tuple(cast("Iterable[Any]", item)), limits)
    if signature is not None and item is None and not signature.parameters:
        return ref.encode_input((), limits)
    return ref.encode_input((item,), limits)


def _checked_ids(instance_ids: Sequence[str]) -> list[str]:
    ids = [check_name(instance, f"instance_ids[{number}]") for number, instance in enumerate(instance_ids)]
    if len(set(ids)) != len(ids):
        raise ValueError("start_many: instance_ids must differ from each other")
    return ids


def _check_if_exists(if_exists: object) -> None:
    if if_exists not in ("raise", "return"):
        raise ValueError(f"if_exists={if_exists!r}: give 'raise' or 'return'")


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LARGEST_PAGE:
        raise ValueError(f"limit={limit!r}: give a whole number from 1 to {_LARGEST_PAGE}")


def _exists(*ids: str) -> str:
    shown = ", ".join(repr(i) for i in ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return f"taken already: {shown}; choose another instance_id, or if_exists='return' for a handle on what is there"


def _statuses(status: RuntimeStatus | str | Iterable[RuntimeStatus | str] | None) -> frozenset[RuntimeStatus] | None:
    if status is None:
        return None
    several = [status] if isinstance(status, str) else list(status)
    try:
        return frozenset(RuntimeStatus(str(one).upper()) for one in several)
    except ValueError as error:
        raise ValueError(f"status=: {error}; one of {', '.join(RuntimeStatus)}") from None


def _now() -> datetime:
    return datetime.now(timezone.utc)


# ---- the default client

_default: Client | None = None
_default_lock = threading.Lock()


def default_client() -> Client:
    """The client behind `durable.start_orchestration` and `durable.Worker()`: made at first use from DURABLE_URL."""
    global _default
    with _default_lock:
        if _default is None or _default.closed:
            _default = connect()
        return _default


@starts_orchestration
def start_orchestration(
    orchestrator: Any,
    /,
    *args: Any,
    instance_id: str | None = None,
    if_exists: IfExists = "raise",
    version: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> OrchestrationHandle[Any]:
    """`Client.start_orchestration` on the default client (DURABLE_URL and DURABLE_EVENTS_URL, else `sqlite:///.durable/durable.db`)."""
    return default_client().start_orchestration(
        orchestrator, *args, instance_id=instance_id, if_exists=if_exists, version=version, tags=tags
    )
