"""Starting, steering and reading orchestrations. Every call is durable when it returns; a signal only makes it fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from ..engine.step import create
from ..model import history as h
from ..model.errors import InstanceExistsError, StoreError
from ..model.history import Event, Raw
from ..model.limits import Limits
from ..model.names import check_name
from ..model.status import Summary
from ..payload.codec import Codec, StoredLimits
from ..payload.signed_callables import KeyRing
from ..ports import Backend, Commit, Transport
from ..replay.callee import OrchestratorRef, as_orchestrator, checked_tags
from ..replay.guard import refuse_inside
from .claiming import ClaimedBackend
from .handle import OrchestrationHandle
from .identity import random_ids
from .plugins import (
    DEFAULT_WORKSPACE,
    blobs_url_or_default,
    codec_or_default,
    events_address,
    events_url_or_default,
    key_ring_or_default,
    open_backend,
    open_blobs,
    open_transport,
    own_events_url,
    url_or_default,
    workspace_or_default,
)
from .renewing import Renewer
from .sealing import SealedBackend, SealedTransport
from .starting import INSIDE, IfExists, ManyOptions, Neighbour, Nobody, start_time, starts_orchestration
from .waiting import Waits
from .workspaces import Workspaces

if TYPE_CHECKING:
    from typing_extensions import Unpack

R = TypeVar("R")

_COMMITTED_TOGETHER: Final = 500


def connect(
    url: str | None = None,
    *,
    events: str | None = None,
    workspace: str | None = None,
    codec: Codec | None = None,
    limits: Limits | None = None,
    blobs: str | None = None,
    signing_keys: KeyRing | Sequence[str] | None = None,
) -> Client:
    """A client of the store behind `url` (default: DURABLE_URL, else `sqlite:///.durable/durable.db`).

    url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host:port/db`, `rediss://`,
    `redis+cluster://host:port,host:port`, `rediss+cluster://`, `dynamodb://region/table`, `memory://name`.
    events: the broker between many workers, `amqp://user:password@host:port/vhost`, `amqps://`, or a Redis as above
    (default: DURABLE_EVENTS_URL, else "": the store itself where it is Redis, else none). workspace: what has
    another name is never seen (default: DURABLE_WORKSPACE, else "default"). Raises ValueError for a URL that
    nobody serves, StoreError or TransportError for one that can't be used.

    codec: an object with `encode(bytes) -> bytes` and `decode(bytes) -> bytes` over the JSON of every payload, such as
    encryption or compression (default: DURABLE_CODEC as `module:object`, else none); thread-safe. Everything that uses
    the same orchestrations needs it. It covers inputs, results, event data, custom statuses, outputs, reasons, and
    of failures all but their type, in the store and in what travels through the broker. Not covered: names, ids, tags,
    versions, times, types of failures, and what is logged. What was stored without it stays readable. Without it, or
    with another key, a worker leaves an instance BLOCKED, `result()` raises PayloadError, and a status says
    "(encoded by a codec ...)".

    blobs: where payloads of more than `Limits.inline_bytes` go instead of the store: `file:///srv/blobs`, a folder that
    all processes see, or `s3://bucket/prefix` (default: DURABLE_BLOBS_URL, else the store). Everything that uses the
    same orchestrations needs it. Each is written before the commit that names it, encoded if there is a codec, checked
    when it is read, and deleted with its orchestration's purge. While one is missing or changed, its instance is
    BLOCKED or `result()` raises PayloadError. A listing shows the sizes of such payloads, and reads none.

    signing_keys: secrets by which functions that triggers carry by value are signed (`durable.conditions.python`), the
    first signs, all verify (default: DURABLE_PICKLE_KEYS, separated by commas, else none: such functions are refused).
    Each is hex of 64 digits or more; whoever has one can run code on every worker.
    """
    name = workspace_or_default(workspace)
    url, broker_url, blobs_url = url_or_default(url), events_url_or_default(events), blobs_url_or_default(blobs)
    keys = key_ring_or_default(signing_keys)
    return _connected(url, broker_url, name, codec, limits or Limits(), blobs_url, keys)


def _connected(
    url: str,
    broker_url: str,
    name: str,
    codec: Codec | None,
    limits: Limits,
    blobs_url: str | None,
    keys: KeyRing | None,
) -> Client:
    backend = open_backend(url, name)
    try:
        if blobs_url is not None:
            backend = ClaimedBackend(backend, open_blobs(blobs_url, name), limits.inline_bytes)
        return Client(
            backend,
            limits,
            name,
            broker_url or own_events_url(url),
            codec_or_default(codec),
            has_broker=bool(broker_url),
            elsewhere=_elsewhere(url, broker_url, name, blobs_url) if codec is None else None,
            sibling=lambda other: _connected(url, broker_url, other, codec, limits, blobs_url, keys),
            keys=keys,
        )
    except BaseException:
        backend.close()
        raise


def _elsewhere(url: str, events: str | None, workspace: str, blobs: str | None) -> dict[str, str | None] | None:
    """The arguments of `connect` by which a process with the same environment opens the same; None where none can."""
    if url.startswith("memory:"):
        return None
    return {"url": url, "events": events, "workspace": workspace, "blobs": blobs}


def _alone(workspace: str) -> Client:
    raise StoreError(f"workspace {workspace!r} can't be opened from here: the store was not opened by a URL")


class Client(Renewer, Workspaces):
    """Made by `durable.connect`. Safe to use from several threads; a context manager that closes it."""

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        workspace: str = DEFAULT_WORKSPACE,
        events_url: str | None = None,
        codec: Codec | None = None,
        *,
        has_broker: bool = False,
        elsewhere: Mapping[str, str | None] | None = None,
        sibling: Callable[[str], Client] | None = None,
        keys: KeyRing | None = None,
    ) -> None:
        self._keys = keys
        self._sibling = sibling or _alone
        self.elsewhere = elsewhere  # how a process of this worker's connects to the same; may hold a password
        self._events_url = events_url
        self._has_broker = has_broker
        self._codec = codec
        if codec is not None:
            backend, limits = SealedBackend(backend, codec), StoredLimits(limits, codec)
        transport = self._opened_transport(workspace)
        super().__init__(backend, transport, workspace, limits)
        self._events_at = events_address(events_url, is_broker=has_broker)
        if has_broker and self._transport is not None:  # a store that carries events itself tells by its signals
            try:
                self._reply_to = self._transport.replies(self._waits.wake)
            except BaseException:
                self._transport.close()
                raise
            self._waits.told_at(self._reply_to)
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
    def keys(self) -> KeyRing | None:
        """By which functions that triggers carry by value are signed and checked; None where they are refused."""
        return self._keys

    @property
    def reply_to(self) -> str:
        """Where this client hears by the broker that what it started has ended; '' without a broker."""
        return self._reply_to

    @property
    def has_broker(self) -> bool:
        """Whether events travel through a broker beside the store."""
        return self._has_broker

    @property
    def events_at(self) -> str:
        """Over what events travel, without a secret: the same for all clients and workers of a store."""
        return self._events_at

    def open_transport(self) -> Transport | None:
        """A connection of its own to what carries events, for a worker; None where nothing does. Raises
        TransportError."""
        return self._opened_transport(self._workspace)

    def _opened_transport(self, workspace: str) -> Transport | None:
        if self._events_url is None:
            return None
        transport = open_transport(self._events_url, workspace)
        return transport if self._codec is None else SealedTransport(transport, self._codec)

    @property
    def waits(self) -> Waits:
        """Who waits here, for those who wait in another way (async_waiting.py)."""
        return self._waits

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

    def worker_started(self, worker: Neighbour) -> None:
        """Told by a worker on this client, which takes what is started here."""
        self._neighbour = worker
        self._waits.served_by(worker.serves)

    def ended(self, summaries: Sequence[Summary]) -> None:
        """Told by a worker on this client: these are committed."""
        self._waits.ended(summaries)

    def worker_stopped(self, worker: Neighbour, error: BaseException | None = None) -> None:
        """Told by that worker: it takes no more; its engine ended by `error`."""
        if self._neighbour is worker:
            self._neighbour = Nobody()
            self._waits.served_by(self._neighbour.serves)
        if error is not None:
            self._waits.worker_died(error)

    # ---- starting

    @starts_orchestration
    def start_orchestration(
        self,
        orchestrator: Any,
        /,
        *args: Any,
        instance_id: str | None = None,
        start_at: datetime | timedelta | float | None = None,
        if_exists: IfExists = "raise",
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        **named: Any,
    ) -> OrchestrationHandle[Any]:
        """Start an orchestration; durable once this returns.

        instance_id: default is a fresh one, 32 random hex digits. start_at: when its first turn comes, an aware
        datetime, or a timedelta or seconds from now; until then it is PENDING. if_exists: "raise" refuses a taken id in
        any state with InstanceExistsError, "return" gives a handle on the one that is there, "replace" starts in place
        of a finished one and refuses any other. Raises TypeError for wrong arguments, ValueError for an id outside the
        rules or a naive datetime, PayloadError for arguments that can't travel.
        """
        refuse_inside("start_orchestration", INSIDE)
        ref = _reference(orchestrator, version, tags)
        if named:
            ref.refuse_named("start_orchestration", named)
        _check_if_exists(if_exists)
        payload = ref.encode_input(args, self._limits)
        instance = random_ids(1)[0] if instance_id is None else check_name(instance_id, "instance_id=")
        now = self._now()
        creation = self._creation(ref, payload, instance, now, start_time(start_at, now))
        self._waits.remember([instance], now)
        existing = self._start_or_replace([creation], if_exists, unheard_of=instance_id is None and start_at is None)
        if existing and if_exists != "return":
            raise InstanceExistsError(_exists(existing, if_exists), existing)
        return OrchestrationHandle(self, instance, ref.returns, own=True)

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
        start_at: datetime | timedelta | float | None = None,
        if_exists: IfExists = "raise",
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> list[OrchestrationHandle[Any]]:
        """Start one orchestration for each input; all durable when this returns, but not atomic together.

        An input that is a list is spread over an orchestrator of several parameters. start_at: when their first turns
        come, see `start_orchestration`. With if_exists="raise", ids that were taken (with "replace": by what has not
        finished) come in one InstanceExistsError (.existing, .started) after the others have started.
        """
        refuse_inside("start_many", INSIDE)
        ref = _reference(orchestrator, version, tags)
        _check_if_exists(if_exists)
        payloads = [ref.encode_item(item, self._limits) for item in inputs]
        ids = random_ids(len(payloads)) if instance_ids is None else _checked_ids(instance_ids)
        if len(ids) != len(payloads):
            raise ValueError(f"start_many: {len(payloads)} inputs, but {len(ids)} instance_ids")
        now = self._now()
        at = start_time(start_at, now)
        self._waits.remember(ids, now)
        existing: list[str] = []
        for first in range(0, len(ids), _COMMITTED_TOGETHER):
            # Made when they are committed: 100,000 at once would be some 80 megabytes.
            some = slice(first, first + _COMMITTED_TOGETHER)
            pairs = zip(payloads[some], ids[some], strict=True)
            creations = [self._creation(ref, payload, i, now, at) for payload, i in pairs]
            existing += self._start_or_replace(creations, if_exists, unheard_of=instance_ids is None and at is None)
        if existing and if_exists != "return":
            taken = set(existing)
            started = [i for i in ids if i not in taken]
            raise InstanceExistsError(_exists(existing, if_exists), existing, started)
        return [OrchestrationHandle(self, i, ref.returns, own=True) for i in ids]

    def _start_or_replace(self, creations: list[Commit], if_exists: IfExists, *, unheard_of: bool) -> list[str]:
        """The ids that are taken, and were not replaced. unheard_of: see `_start`."""
        existing = self._start(creations, unheard_of=unheard_of)
        if if_exists != "replace" or not existing:
            return existing
        by_id = {creation.instance_id: creation for creation in creations}
        return [instance_id for instance_id in existing if not self._replace(by_id[instance_id])]

    def _creation(
        self, ref: OrchestratorRef[Any, Any], payload: Raw, instance_id: str, now: datetime, start_at: datetime | None
    ) -> Commit:
        started = Event(
            h.EXECUTION_STARTED,
            now,
            name=ref.name,
            input=payload,
            fire_at=start_at,
            instance_id=instance_id,
            execution_id=self._ids(),
            version=ref.version,
            tags=ref.tags or None,
            seed=self._ids(),
            group=ref.group,
            reply_to=self._reply_to,
        )
        return create(instance_id, started, self._store.partitions, self._ids())


def _reference(orchestrator: Any, version: str | None, tags: Mapping[str, str] | None) -> OrchestratorRef[Any, Any]:
    ref = as_orchestrator(orchestrator)
    if version is not None:
        ref = ref.options(version=version)
    if tags is not None:
        ref = ref.options(tags={**ref.tags, **checked_tags(tags)})
    return ref


def _checked_ids(instance_ids: Sequence[str]) -> list[str]:
    ids = [check_name(instance, f"instance_ids[{number}]") for number, instance in enumerate(instance_ids)]
    if len(set(ids)) != len(ids):
        raise ValueError("start_many: instance_ids must differ from each other")
    return ids


def _check_if_exists(if_exists: object) -> None:
    if if_exists not in ("raise", "return", "replace"):
        raise ValueError(f"if_exists={if_exists!r}: give 'raise', 'return' or 'replace'")


def _exists(ids: Sequence[str], if_exists: IfExists) -> str:
    shown = ", ".join(repr(i) for i in ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    if if_exists == "replace":
        return f"not finished, and so not replaced: {shown}; wait for the end, terminate it, or choose another id"
    return (
        f"taken already: {shown}; choose another instance_id, if_exists='return' for a handle on what is there, or "
        "'replace' to start anew in place of what has finished"
    )
