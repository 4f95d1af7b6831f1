"""How type checkers see `AsyncClient.start_orchestration`: the overloads of starting.py, with awaitable handles.

A test compares the two: types have no way to say "the same, but for what it returns".
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, cast, overload

from ..replay.arity import A, B, C, D, E, F, R, Takes0, Takes1, Takes2, Takes3, Takes4, Takes5, Takes6
from ..replay.callee import OrchestratorRef
from .async_handle import AsyncOrchestrationHandle
from .starting import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..replay.arity import SevenOrMore


class StartOrchestrationAsync(Protocol):
    """The type of `AsyncClient.start_orchestration`."""

    @overload
    async def __call__(self, callee: Takes0[R], /, **options: Unpack[Options]) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: Takes1[A, R], a: A, /, **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: Takes2[A, B, R], a: A, b: B, /, **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: Takes3[A, B, C, R], a: A, b: B, c: C, /, **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: Takes4[A, B, C, D, R], a: A, b: B, c: C, d: D, /, **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: Takes5[A, B, C, D, E, R], a: A, b: B, c: C, d: D, e: E, /, **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: Takes6[A, B, C, D, E, F, R], a: A, b: B, c: C, d: D, e: E, f: F, /, **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: OrchestratorRef[..., R], /, *args: Unpack[SevenOrMore], **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[R]: ...
    @overload
    async def __call__(
        self, callee: str, /, *args: Any, **options: Unpack[Options]
    ) -> AsyncOrchestrationHandle[Any]: ...


def starts_orchestration_async(
    function: Callable[..., Coroutine[Any, Any, AsyncOrchestrationHandle[Any]]],
) -> StartOrchestrationAsync:
    """The same function, with the type above."""
    return cast("StartOrchestrationAsync", function)
