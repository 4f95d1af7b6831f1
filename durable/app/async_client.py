"""The client for asyncio: the methods of `Client` as coroutines. What blocks runs in threads; waiting takes none."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, TypeVar, overload

from ..model.errors import not_found
from ..model.history import HistoryEvent
from ..model.limits import Limits
from ..model.names import check_name
from ..model.status import OrchestrationStatus, Summary
from ..payload.codec import Codec
from ..payload.signed_callables import KeyRing
from ..replay.callee import OrchestratorRef
from ..replay.guard import running
from ..triggers.changes import Trigger
from .async_handle import AsyncOrchestrationHandle
from .async_starting import starts_orchestration_async
from .async_threads import threaded
from .async_waiting import AsyncWaits
from .client import Client, connect
from .handle import OrchestrationHandle
from .plugins import (
    blobs_url_or_default,
    events_url_or_default,
    key_ring_or_default,
    url_or_default,
    workspace_or_default,
)
from .starting import ManyOptions
from .triggering import TriggerWait
from .waiting import check_until

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent
    from typing_extensions import Unpack

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_THREADS: Final = 8  # calls at a time; each takes milliseconds, and those that meet share a commit


def connect_async(
    url: str | None = None,
    *,
    events: str | None = None,
    workspace: str | None = None,
    codec: Codec | None = None,
    limits: Limits | None = None,
    blobs: str | None = None,
    signing_keys: KeyRing | Sequence[str] | None = None,
) -> AsyncClient:
    """An asyncio client of the store behind `url`; the arguments are those of `durable.connect`.

    An ordinary function, and it opens nothing: `async with` or the first call does, in a thread, and raises what
    `connect` raises (ValueError, StoreError, TransportError). So it may be called before there is an event loop, and
    before a fork.
    """
    url, events, name = url_or_default(url), events_url_or_default(events), workspace_or_default(workspace)
    opens = functools.partial(
        connect,
        url,
        events=events,
        workspace=name,
        codec=codec,
        limits=limits,
        blobs=blobs_url_or_default(blobs),
        signing_keys=key_ring_or_default(signing_keys),
    )
    return AsyncClient(opens, name, limits or Limits())


class AsyncClient:
    """Made by `durable.connect_async`; the methods of `Client`, as coroutines. An async context manager that closes it.

    It never blocks the event loop, and serves several. Cancelling the task that awaits a call leaves nothing behind;
    what the call had begun (a start, an event) may still take place. Not to be used by both sides of a fork.
    """

    def __init__(self, opens: Callable[[], Client], workspace: str, limits: Limits) -> None:
        self._opens = opens
        self._workspace = workspace
        self._limits = limits
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._client: Client | None = None
        self._waits: AsyncWaits | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._process = 0  # the one that uses it
        self._closed = False

    @property
    def workspace(self) -> str:
        """See `Client.workspace`."""
        return self._workspace

    @property
    def limits(self) -> Limits:
        """See `Client.limits`."""
        return self._limits

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    async def __aenter__(self) -> AsyncClient:
        await self._in_a_thread(lambda client: None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the store back; whoever still waits gets a RuntimeError. Calling it again does nothing."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.get_running_loop().run_in_executor(threads, self._close)
            threads.shutdown(wait=False)

    # ---- the methods of Client

    get_status = threaded(Client.get_status)
    list_orchestrations = threaded(Client.list_orchestrations)
    diagnose = threaded(Client.diagnose)
    raise_event = threaded(Client.raise_event)
    terminate = threaded(Client.terminate)
    suspend = threaded(Client.suspend)
    resume = threaded(Client.resume)
    cancel = threaded(Client.cancel)
    rewind = threaded(Client.rewind)
    purge = threaded(Client.purge)
    purge_where = threaded(Client.purge_where)

    publish = threaded(Client.publish)
    add_trigger = threaded(Client.add_trigger)
    add_triggers = threaded(Client.add_triggers)
    get_trigger = threaded(Client.get_trigger)
    list_triggers = threaded(Client.list_triggers)
    delete_trigger = threaded(Client.delete_trigger)
    flush_triggers = threaded(Client.flush_triggers)
    enable_trigger = threaded(Client.enable_trigger)
    disable_trigger = threaded(Client.disable_trigger)
    intercept_trigger = threaded(Client.intercept_trigger)
    add_event_source = threaded(Client.add_event_source)
    get_event_source = threaded(Client.get_event_source)
    list_event_sources = threaded(Client.list_event_sources)
    delete_event_source = threaded(Client.delete_event_source)
    get_workspace_context = threaded(Client.get_workspace_context)
    set_workspace_context = threaded(Client.set_workspace_context)
    create_workspace = threaded(Client.create_workspace)
    list_workspaces = threaded(Client.list_workspaces)
    delete_workspace = threaded(Client.delete_workspace)
    event_counts = threaded(Client.event_counts)
    keep_unmatched_events = threaded(Client.keep_unmatched_events)
    unmatched_events = threaded(Client.unmatched_events)
    dead_letters = threaded(Client.dead_letters)
    replay_dead_letter = threaded(Client.replay_dead_letter)
    delete_dead_letter = threaded(Client.delete_dead_letter)

    async def restart(self, instance_id: str, *, new_instance_id: str | None = None) -> AsyncOrchestrationHandle[Any]:
        """See `Client.restart`."""
        return self._handle(await self._in_a_thread(Client.restart, instance_id, new_instance_id=new_instance_id))

    async def fork(
        self, instance_id: str, *, after: int, new_instance_id: str | None = None
    ) -> AsyncOrchestrationHandle[Any]:
        """See `Client.fork`."""
        forked = await self._in_a_thread(Client.fork, instance_id, after=after, new_instance_id=new_instance_id)
        return self._handle(forked)

    @starts_orchestration_async
    @functools.wraps(Client.start_orchestration)
    async def start_orchestration(self, *args: Any, **options: Any) -> AsyncOrchestrationHandle[Any]:
        return self._handle(await self._in_a_thread(lambda client: client.start_orchestration(*args, **options)))

    @overload
    async def start_many(
        self,
        orchestrator: OrchestratorRef[..., R],
        inputs: Iterable[Any],
        *,
        instance_ids: Sequence[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> list[AsyncOrchestrationHandle[R]]: ...
    @overload
    async def start_many(
        self,
        orchestrator: str,
        inputs: Iterable[Any],
        *,
        instance_ids: Sequence[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> list[AsyncOrchestrationHandle[Any]]: ...
    @functools.wraps(Client.start_many)
    async def start_many(
        self, orchestrator: Any, inputs: Iterable[Any], **options: Any
    ) -> list[AsyncOrchestrationHandle[Any]]:
        handles = await self._in_a_thread(lambda client: client.start_many(orchestrator, inputs, **options))
        return [self._handle(handle) for handle in handles]

    def handle(self, instance_id: str) -> AsyncOrchestrationHandle[Any]:
        """A handle on an instance, whether or not it exists; results come as plain JSON. Needs no await."""
        return AsyncOrchestrationHandle(self, check_name(instance_id, "instance_id"))

    @overload
    async def history(
        self,
        instance_id: str,
        *,
        execution_id: str | None = None,
        as_cloudevents: Literal[False] = False,
        pending: bool = False,
    ) -> list[HistoryEvent]: ...
    @overload
    async def history(
        self,
        instance_id: str,
        *,
        execution_id: str | None = None,
        as_cloudevents: Literal[True],
        pending: bool = False,
    ) -> list[CloudEvent]: ...
    @functools.wraps(Client.history)
    async def history(self, instance_id: str, **options: Any) -> Any:
        return await self._in_a_thread(lambda client: client.history(instance_id, **options))

    async def wait(
        self,
        instance_id: str,
        timeout: timedelta | float | None = None,
        *,
        until: Literal["finished", "started"] = "finished",
    ) -> OrchestrationStatus:
        """See `Client.wait`. However many wait, no thread waits for each."""
        check_name(instance_id, "instance_id")
        check_until(until)
        await self.wait_summary(instance_id, timeout, until, False)
        status = await self.get_status(instance_id)
        if status is None:  # purged meanwhile
            raise not_found("wait", instance_id)
        return status

    async def wait_summary(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool, own: bool = False
    ) -> Summary:
        """The wait behind `wait` and `handle.result`. own: no difference here, where it always reads."""
        if running.get() is not None:
            return self._opened().wait_summary(instance_id, timeout, until, blocked_ends, own)  # refuses
        self._check_process()
        if self._waits is None:
            await self._in_a_thread(lambda client: None)
        assert self._waits is not None
        return await self._waits.wait(instance_id, timeout, until, blocked_ends)

    async def wait_for_trigger(
        self, trigger_id: str, timeout: timedelta | float | None = None, *, firings: int = 1
    ) -> Trigger | None:
        """See `Client.wait_for_trigger`. However many wait, no thread waits for each."""
        if running.get() is not None:
            return self._opened().wait_for_trigger(trigger_id, timeout, firings=firings)  # refuses
        wait = TriggerWait(trigger_id, timeout, firings)
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(changed.set)

        stop = await self._in_a_thread(Client.listen_to_triggers, wake)
        try:
            while True:
                changed.clear()
                view = await self.get_trigger(trigger_id)
                if wait.over(view):
                    return view
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), wait.seconds)
        finally:
            stop()

    # ---- how

    def _handle(self, handle: OrchestrationHandle[R]) -> AsyncOrchestrationHandle[R]:
        return AsyncOrchestrationHandle(self, handle.instance_id, handle.returns)

    async def _in_a_thread(self, method: Callable[Concatenate[Client, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if running.get() is not None:
            # In an orchestrator, which has no event loop: the sync method refuses, naming what to use instead.
            return method(self._opened(), *args, **kwargs)

        def call() -> T:
            return method(self._opened(), *args, **kwargs)

        self._check_process()
        threads = self._some_threads()
        return await asyncio.get_running_loop().run_in_executor(threads, copy_context().run, call)

    def _some_threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise RuntimeError("this client has been closed")
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, "durable-async-client")
                self._process = os.getpid()
            return self._threads

    def _check_process(self) -> None:
        """Threads and connections don't survive a fork."""
        if self._process not in (0, os.getpid()):
            raise RuntimeError(
                "this AsyncClient was in use before a fork, and belongs to the parent process: call connect_async "
                "again in the child"
            )

    def _opened(self) -> Client:
        with self._opening:
            if self._client is None:
                self._client = self._opens()
                self._waits = AsyncWaits(self._client.backend, self._client.waits)
            return self._client

    def _close(self) -> None:
        with self._opening:
            if self._waits is not None:
                self._waits.close()
            if self._client is not None:
                self._client.close()
