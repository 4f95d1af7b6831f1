"""How type checkers see `start_orchestration`, method and function alike. Why it takes overloads: replay/arity.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypedDict, cast, overload

from ..model.moments import from_now, to_timedelta, to_utc
from ..model.status import Summary
from ..ports import Commit, Outcome
from ..replay.arity import A, B, C, D, E, F, R, Takes0, Takes1, Takes2, Takes3, Takes4, Takes5, Takes6
from ..replay.callee import OrchestratorRef
from .handle import OrchestrationHandle

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..replay.arity import SevenOrMore

IfExists = Literal["raise", "return", "replace"]
INSIDE: Final = "ctx.call_sub_orchestrator or ctx.start_orchestration"  # what an orchestrator uses instead


class Neighbour(Protocol):
    """A worker on this client, as the client sees it. Of what is not for it, it says so and does nothing."""

    def create(self, commits: Sequence[Commit]) -> dict[str, Outcome]:
        """Create these, each with its first turn in one commit: what became of them, without those left out."""
        ...

    def created(self, commits: Sequence[Commit]) -> list[str]:
        """These were just created; the ids of those that are not for it."""
        ...

    def serves(self, summary: Summary) -> bool:
        """Whether it takes the turns of this orchestration, now."""
        ...


class Nobody:
    """The `Neighbour` of a client without a worker."""

    def create(self, commits: Sequence[Commit]) -> dict[str, Outcome]:
        return {}

    def created(self, commits: Sequence[Commit]) -> list[str]:
        return [commit.instance_id for commit in commits]

    def serves(self, summary: Summary) -> bool:
        return False


class ManyOptions(TypedDict, total=False):
    """What `start_orchestration` and `start_many` have in common."""

    start_at: datetime | timedelta | float | None
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


def start_time(start_at: datetime | timedelta | float | None, now: datetime) -> datetime | None:
    """The moment of a start in UTC, None for at once. Raises ValueError for a naive datetime or one out of reach."""
    if start_at is None:
        return None
    if isinstance(start_at, datetime):
        moment = to_utc(start_at, "start_at=")
    else:
        moment = from_now(now, to_timedelta(start_at, "start_at="), "start_at=")
    return moment if moment > now else None


def starts_orchestration(function: Callable[..., OrchestrationHandle[Any]]) -> StartOrchestration:
    """The same function, with the type above."""
    return cast("StartOrchestration", function)
