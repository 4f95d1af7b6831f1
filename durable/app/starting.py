"""How type checkers see `start_orchestration`, method and function alike. Why it takes overloads: replay/arity.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, cast, overload

from ..replay.arity import A, B, C, D, E, F, R, Takes0, Takes1, Takes2, Takes3, Takes4, Takes5, Takes6
from ..replay.callee import OrchestratorRef
from .handle import OrchestrationHandle

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..replay.arity import SevenOrMore

IfExists = Literal["raise", "return", "replace"]


class ManyOptions(TypedDict, total=False):
    """What `start_orchestration` and `start_many` have in common."""

    if_exists: IfExists
    version: str | None
    tags: Mapping[str, str] | None


class Options(ManyOptions, total=False):
    """The options of `start_orchestration`."""

    instance_id: str | None


class StartOrchestration(Protocol):
    """The type of `start_orchestration`."""

    @overload
    def __call__(self, callee: Takes0[R], /, **options: Unpack[Options]) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(self, callee: Takes1[A, R], a: A, /, **options: Unpack[Options]) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(
        self, callee: Takes2[A, B, R], a: A, b: B, /, **options: Unpack[Options]
    ) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(
        self, callee: Takes3[A, B, C, R], a: A, b: B, c: C, /, **options: Unpack[Options]
    ) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(
        self, callee: Takes4[A, B, C, D, R], a: A, b: B, c: C, d: D, /, **options: Unpack[Options]
    ) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(
        self, callee: Takes5[A, B, C, D, E, R], a: A, b: B, c: C, d: D, e: E, /, **options: Unpack[Options]
    ) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(
        self, callee: Takes6[A, B, C, D, E, F, R], a: A, b: B, c: C, d: D, e: E, f: F, /, **options: Unpack[Options]
    ) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(
        self, callee: OrchestratorRef[..., R], /, *args: Unpack[SevenOrMore], **options: Unpack[Options]
    ) -> OrchestrationHandle[R]: ...
    @overload
    def __call__(self, callee: str, /, *args: Any, **options: Unpack[Options]) -> OrchestrationHandle[Any]: ...


def starts_orchestration(function: Callable[..., OrchestrationHandle[Any]]) -> StartOrchestration:
    """The same function, with the type above."""
    return cast("StartOrchestration", function)
