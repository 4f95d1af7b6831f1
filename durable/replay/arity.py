"""How type checkers learn that a call takes the orchestrator's arguments and keyword options beside them.

ParamSpec can't say it: `*args: P.args` must be followed by `**kwargs: P.kwargs` and nothing else, so an option such as
`instance_id=` has no place. A TypeVarTuple has, but forgets which parameters have defaults. So there is one overload
for each number of arguments up to six; a call with seven or more goes unchecked. They type whole functions, which stay
plain where they are defined, for readers and for `help()`: `calls_sub_orchestrator` and `starts_detached` below, and
app/starting.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, cast, overload

from .callee import OrchestratorRef
from .tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Unpack

    SevenOrMore = tuple[Any, Any, Any, Any, Any, Any, Any, Unpack[tuple[Any, ...]]]

A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
C = TypeVar("C", contravariant=True)
D = TypeVar("D", contravariant=True)
E = TypeVar("E", contravariant=True)
F = TypeVar("F", contravariant=True)
R = TypeVar("R", covariant=True)


class Takes0(Protocol[R]):
    """An orchestrator that can be called without arguments; `Takes1` with one, and so on. R is its output."""

    def _takes(self, /) -> R: ...


class Takes1(Protocol[A, R]):
    def _takes(self, a: A, /) -> R: ...


class Takes2(Protocol[A, B, R]):
    def _takes(self, a: A, b: B, /) -> R: ...


class Takes3(Protocol[A, B, C, R]):
    def _takes(self, a: A, b: B, c: C, /) -> R: ...


class Takes4(Protocol[A, B, C, D, R]):
    def _takes(self, a: A, b: B, c: C, d: D, /) -> R: ...


class Takes5(Protocol[A, B, C, D, E, R]):
    def _takes(self, a: A, b: B, c: C, d: D, e: E, /) -> R: ...


class Takes6(Protocol[A, B, C, D, E, F, R]):
    def _takes(self, a: A, b: B, c: C, d: D, e: E, f: F, /) -> R: ...


class Options(TypedDict, total=False):
    """The options of `ctx.call_sub_orchestrator`."""

    instance_id: str | None
    version: str | None
    tags: Mapping[str, str] | None


class Detached(TypedDict, total=False):
    """The options of `ctx.start_orchestration`."""

    instance_id: str | None


class CallSubOrchestrator(Protocol):
    """The type of `ctx.call_sub_orchestrator`."""

    @overload
    def __call__(self, callee: Takes0[R], /, **options: Unpack[Options]) -> Task[R]: ...
    @overload
    def __call__(self, callee: Takes1[A, R], a: A, /, **options: Unpack[Options]) -> Task[R]: ...
    @overload
    def __call__(self, callee: Takes2[A, B, R], a: A, b: B, /, **options: Unpack[Options]) -> Task[R]: ...
    @overload
    def __call__(self, callee: Takes3[A, B, C, R], a: A, b: B, c: C, /, **options: Unpack[Options]) -> Task[R]: ...
    @overload
    def __call__(
        self, callee: Takes4[A, B, C, D, R], a: A, b: B, c: C, d: D, /, **options: Unpack[Options]
    ) -> Task[R]: ...
    @overload
    def __call__(
        self, callee: Takes5[A, B, C, D, E, R], a: A, b: B, c: C, d: D, e: E, /, **options: Unpack[Options]
    ) -> Task[R]: ...
    @overload
    def __call__(
        self, callee: Takes6[A, B, C, D, E, F, R], a: A, b: B, c: C, d: D, e: E, f: F, /, **options: Unpack[Options]
    ) -> Task[R]: ...
    @overload
    def __call__(
        self, callee: OrchestratorRef[..., R], /, *args: Unpack[SevenOrMore], **options: Unpack[Options]
    ) -> Task[R]: ...
    @overload
    def __call__(self, callee: str, /, *args: Any, **options: Unpack[Options]) -> Task[Any]: ...


def calls_sub_orchestrator(function: Callable[..., Task[Any]]) -> CallSubOrchestrator:
    """The same function, with the type above."""
    return cast("CallSubOrchestrator", function)


class StartDetached(Protocol):
    """The type of `ctx.start_orchestration`."""

    @overload
    def __call__(self, callee: Takes0[Any], /, **options: Unpack[Detached]) -> str: ...
    @overload
    def __call__(self, callee: Takes1[A, Any], a: A, /, **options: Unpack[Detached]) -> str: ...
    @overload
    def __call__(self, callee: Takes2[A, B, Any], a: A, b: B, /, **options: Unpack[Detached]) -> str: ...
    @overload
    def __call__(self, callee: Takes3[A, B, C, Any], a: A, b: B, c: C, /, **options: Unpack[Detached]) -> str: ...
    @overload
    def __call__(
        self, callee: Takes4[A, B, C, D, Any], a: A, b: B, c: C, d: D, /, **options: Unpack[Detached]
    ) -> str: ...
    @overload
    def __call__(
        self, callee: Takes5[A, B, C, D, E, Any], a: A, b: B, c: C, d: D, e: E, /, **options: Unpack[Detached]
    ) -> str: ...
    @overload
    def __call__(
        self, callee: Takes6[A, B, C, D, E, F, Any], a: A, b: B, c: C, d: D, e: E, f: F, /, **options: Unpack[Detached]
    ) -> str: ...
    @overload
    def __call__(
        self, callee: OrchestratorRef[..., Any], /, *args: Unpack[SevenOrMore], **options: Unpack[Detached]
    ) -> str: ...
    @overload
    def __call__(self, callee: str, /, *args: Any, **options: Unpack[Detached]) -> str: ...


def starts_detached(function: Callable[..., str]) -> StartDetached:
    """The same function, with the type above."""
    return cast("StartDetached", function)
