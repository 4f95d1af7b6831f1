"""The worker: one engine thread on one store, and the activities it runs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any
from uuid import uuid4

from ..engine.instance import Env
from ..model.errors import DurableError
from ..model.moments import to_timedelta
from ..model.names import check_name
from ..model.status import DEFAULT_GROUP, DEFAULT_QUEUE
from ..ports import FACTS, Beat, Trouble
from ..replay.live_code import Code
from ..runtime.activities import Activities
from ..runtime.engine_thread import EngineThread
from ..runtime.event_sources import EventSources
from ..runtime.interpreter import tuned
from ..runtime.loop import DEFAULTS, Loop, Settings
from ..runtime.membership import Seat
from ..runtime.requests import CodeChanged, Hint, Lost, Stop
from ..runtime.serving import Serving
from ..runtime.watchdog import Watchdog
from .client import Client, connect
from .clock import utc_now
from .default import default_client
from .identity import Ids
from .plugins import open_event_source
from .registry import Registry, default_registry
from .starting import Neighbour, Nobody
from .starting_on import declare
from .trigger_functions import TriggerFunctions

log = logging.getLogger("durable.worker")

_PART = 100  # instances stepped while the store commits as many
_HOLD = 60.0  # seconds that a row is left to its holder; a dead holder's rows are taken at once by the next worker


class Worker:
    """Serves orchestrations and activities of a registry from a store.

        with durable.Worker():          # background threads, until the block ends
            ...
        durable.Worker().run()          # foreground, until SIGINT or SIGTERM

    client_or_url: a client, a URL, or None for the default client. registry: default is that of the module-level
    decorators. groups: whose orchestrations it runs; queues: whose activities. max_concurrent_activities: at one
    time, sync and `async def` ones each. Those with `executor="process"` count among the sync ones, and each has a
    process while it runs, so that a worker for them wants about as many as there are processors.
    max_cached_orchestrations: warm instances kept; 0 replays every turn. eager_activities: run the activities of its
    own turns itself, where it serves their queue and has a free slot, instead of sending them to whoever is free;
    default True without a broker, False with one. shutdown_grace: seconds (or timedelta) that running activities get
    when it stops; the rest is handed back.

    One worker serves a SQLite file; a second one stands by until the first is gone. On servers any number share the
    work. Raises StoreError and TransportError on start.
    """

    def __init__(
        self,
        client_or_url: Client | str | None = None,
        *,
        registry: Registry | None = None,
        groups: Collection[str] = (DEFAULT_GROUP,),
        queues: Collection[str] = (DEFAULT_QUEUE,),
        max_concurrent_activities: int = 32,
        max_cached_orchestrations: int = 10_000,
        eager_activities: bool | None = None,
        shutdown_grace: timedelta | float = 30.0,
    ) -> None:
        if isinstance(max_concurrent_activities, bool) or not max_concurrent_activities >= 1:
            raise ValueError(f"max_concurrent_activities={max_concurrent_activities!r}: give at least 1")
        if isinstance(max_cached_orchestrations, bool) or not max_cached_orchestrations >= 0:
            raise ValueError(f"max_cached_orchestrations={max_cached_orchestrations!r}: give 0 or more")
        self._grace = to_timedelta(shutdown_grace, "shutdown_grace=").total_seconds()
        self._registry = registry if registry is not None else default_registry
        self._groups = _checked_names(groups, "groups=")
        self._queues = _checked_names(queues, "queues=")
        self._size = max_concurrent_activities
        self._cached = max_cached_orchestrations
        self._eager = eager_activities
        self._given = client_or_url
        self._engine: EngineThread | None = None
        self._seat: Seat | None = None
        self._undo: list[Callable[[], None]] = []

    # ---- life

    def start(self) -> None:
        """Start serving in background threads. A worker starts once."""
        if self._engine is not None:
            raise RuntimeError("this worker has been started already; make another one")
        try:
            self._start()
        except BaseException:
            self._engine = None
            self.stop()
            raise

    def _start(self) -> None:
        client = self._client()
        backend, limits, transport = client.backend, client.limits, client.open_transport()
        if transport is not None:
            self._undo.append(transport.close)
        by_mail = transport is not None
        if not by_mail and self._eager is False:
            raise ValueError(
                "eager_activities=False needs a broker to carry activities: give events= or DURABLE_EVENTS_URL, "
                "or keep the store in Redis, which is one"
            )
        eager = not client.has_broker if self._eager is None else self._eager
        serving = Serving(
            client.workspace,
            self._groups,
            self._queues,
            self._size,
            by_mail,
            eager,
            announces=client.has_broker,
            reply_to=client.reply_to,
        )
        watchdog = Watchdog(limits.turn_seconds)
        holder = uuid4().hex
        env = Env(holder, _HOLD, Ids(), backend.store.partitions, limits, watchdog)
        part = _PART if backend.store.overlaps else DEFAULTS.batch
        settings = Settings(part=part, cached=self._cached)
        functions = TriggerFunctions(self._registry, client.keys, client.workspace, limits)
        loop = Loop(env, _Codebase(self._registry), utc_now, settings, serving, functions)
        engine: EngineThread
        activities = Activities(
            self._registry.find_activity,
            lambda done: engine.tell(done),
            size=self._size,
            limits=limits,
            clock=utc_now,
            client=client,
        )

        def died(error: BaseException) -> None:
            with ExitStack() as rest:  # whatever becomes of what comes before
                rest.callback(sources.close)  # as with the transport, but it may take seconds: so it comes last
                rest.callback(client.worker_stopped, neighbour, error)
                if transport is not None:
                    rest.callback(transport.close)  # or it would go on to take what nobody here looks at
                seat.leave()  # the others take over what this one will not do any more

        sources = EventSources(lambda url: open_event_source(url, client.workspace), lambda news: engine.tell(news))
        self._undo.append(sources.close)
        engine = EngineThread(
            loop, backend.store, backend.signals, activities, transport, sources, watchdog, client.ended, died
        )
        # Without a cache every turn reads what is stored, the first one too.
        neighbour: Neighbour = engine if self._cached else Nobody()
        me = Beat(
            holder,
            groups=self._groups,
            queues=self._queues,
            pid=os.getpid(),
            host=socket.gethostname(),
            events=client.events_at,
        )
        seat = Seat(backend.membership, me, backend.store.partitions, engine.tell, self._registry.names)
        self._undo.append(seat.leave)
        self._undo.append(tuned())
        self._undo.append(activities.close)
        if transport is not None:
            self._undo.append(transport.watch(lambda trouble: _on_trouble(trouble, seat, engine)))
        self._undo.append(backend.signals.listen(FACTS, lambda ids: engine.tell(Hint(ids))))
        self._undo.append(self._registry.on_change(lambda: engine.tell(CodeChanged())))
        self._undo.append(declare(client, self._registry))
        seat.take()
        self._engine, self._seat = engine, seat
        client.worker_started(neighbour)
        self._undo.append(lambda: client.worker_stopped(neighbour))
        engine.start()

    def stop(self) -> None:
        """Drain: take nothing new, give running activities `shutdown_grace`, hand back the rest. Idempotent."""
        if self._engine is not None and self._engine.alive:
            if self._seat is not None:
                self._seat.retire()
            self._engine.tell(Stop(self._grace))
            self._engine.join()
        while self._undo:
            self._undo.pop()()

    def run(self) -> None:
        """Serve in the foreground until SIGINT or SIGTERM, then drain. A second signal ends at once."""
        stop = threading.Event()

        def on_signal(number: int, frame: FrameType | None) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            stop.set()

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.start()
            while not stop.wait(1.0):
                self._check()
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _check(self) -> None:
        engine = self._engine
        if engine is not None and not engine.alive:
            raise DurableError("the engine stopped; the log says why. Nothing is lost: start a worker again")

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _client(self) -> Client:
        given: Any = self._given
        if given is None:
            return default_client()
        if isinstance(given, Client):
            return given
        client = connect(given)
        self._undo.append(client.close)
        return client


def _on_trouble(trouble: Trouble, seat: Seat, engine: EngineThread) -> None:
    if trouble.queue:
        seat.repaired()  # its messages are gone, and perhaps others sent them: all workers hear of it
    else:
        engine.tell(Lost(connection=True))


def _checked_names(names: object, where: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Collection):
        raise TypeError(f"{where} takes several names, e.g. [{names!r}]")
    if not names:
        raise ValueError(f"{where} is empty; leave it out for 'default'")
    return tuple(dict.fromkeys(check_name(name, where) for name in names))


class _Codebase:
    """The registry, as the loop asks it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def orchestrator(self, name: str, version: str, first_turn: bool) -> Code | None:
        return self._registry.find_orchestrator(name, version, first_turn)

    def serves_activity(self, name: str) -> bool:
        return self._registry.find_activity(name) is not None

    def known(self, kind: str) -> list[str]:
        return self._registry.names(kind)
