"""A handle on one orchestration for asyncio: what `OrchestrationHandle` has, as coroutines."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from datetime import timedelta
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar

from ..model.status import OrchestrationStatus, Summary
from .async_threads import threaded
from .client import Client
from .handle import OrchestrationHandle, blocked_ends, output_of

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", covariant=True)


class AsyncSteering(Protocol):
    """What a handle needs of its client."""

    async def wait(
        self,
        instance_id: str,
        timeout: timedelta | float | None = None,
        *,
        until: Literal["finished", "started"] = "finished",
    ) -> OrchestrationStatus: ...

    async def wait_summary(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool
    ) -> Summary: ...

    def _in_a_thread(
        self, method: Callable[Concatenate[Client, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...


class AsyncOrchestrationHandle(Generic[R]):
    """One orchestration. It follows continue-as-new: the id stays, executions change."""

    def __init__(self, client: AsyncSteering, instance_id: str, returns: Any = Any) -> None:
        self._client = client
        self.instance_id = instance_id
        self.returns = returns

    async def result(
        self, timeout: timedelta | float | None = None, *, on_blocked: Literal["wait", "raise"] = "wait"
    ) -> R:
        """Wait for the end and return the output; see `OrchestrationHandle.result`.

        However many wait, no thread waits for each. Cancelling the task that waits leaves the orchestration alone.
        """
        ends = blocked_ends(on_blocked)
        summary = await self._client.wait_summary(self.instance_id, timeout, "finished", ends)
        output: R = output_of(summary, self.returns)
        return output

    async def wait(
        self, timeout: timedelta | float | None = None, *, until: Literal["finished", "started"] = "finished"
    ) -> OrchestrationStatus:
        """See `Client.wait`."""
        return await self._client.wait(self.instance_id, timeout, until=until)

    status = threaded(OrchestrationHandle[Any].status)
    raise_event = threaded(OrchestrationHandle[Any].raise_event)
    terminate = threaded(OrchestrationHandle[Any].terminate)
    suspend = threaded(OrchestrationHandle[Any].suspend)
    resume = threaded(OrchestrationHandle[Any].resume)
    cancel = threaded(OrchestrationHandle[Any].cancel)
    rewind = threaded(OrchestrationHandle[Any].rewind)
    purge = threaded(OrchestrationHandle[Any].purge)

    async def restart(self, *, new_instance_id: str | None = None) -> AsyncOrchestrationHandle[R]:
        """See `Client.restart`."""
        started = await self._in_a_thread(OrchestrationHandle[Any].restart, new_instance_id=new_instance_id)
        return AsyncOrchestrationHandle(self._client, started.instance_id, self.returns)

    async def fork(self, *, after: int, new_instance_id: str | None = None) -> AsyncOrchestrationHandle[R]:
        """See `Client.fork`."""
        forked = await self._in_a_thread(OrchestrationHandle[Any].fork, after=after, new_instance_id=new_instance_id)
        return AsyncOrchestrationHandle(self._client, forked.instance_id, self.returns)

    async def _in_a_thread(
        self, method: Callable[Concatenate[OrchestrationHandle[Any], P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def call(client: Client) -> T:
            return method(OrchestrationHandle(client, self.instance_id, self.returns), *args, **kwargs)

        return await self._client._in_a_thread(call)

    def __await__(self) -> Generator[Any, None, AsyncOrchestrationHandle[R]]:
        """Itself, at once: so `client.handle(id)` may be awaited as the client's other methods are."""
        return self
        yield

    def __repr__(self) -> str:
        return f"<AsyncOrchestrationHandle {self.instance_id!r}>"
