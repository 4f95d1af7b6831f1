"""Conditions: after which of the events that fit a trigger fires.

Each is frozen and says only what was asked for; what it has counted is the trigger's `progress`, a dict of JSON values
that the condition alone writes. A firing begins anew: progress is empty then, but for `counter`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from .event import Occurrence

EXTRA: Final = "pip install 'durable-orchestrations[expressions]'"


class Occasion(NamedTuple):
    """An event that fits, for one trigger. `call`: what runs a user's function over the trigger's context."""

    event: Occurrence
    body: bytes
    now: datetime
    context: dict[str, Any]
    call: Callable[[Condition], Any]


class Condition(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """What all conditions are."""

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        """Whether the trigger fires, now that this event has come."""
        raise NotImplementedError


class Always(Condition, frozen=True, tag="always"):
    """After each event."""

    def __call__(self) -> Always:
        return self

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        return True


class Join(Condition, frozen=True, tag="join"):
    """After so many events; then counting begins anew."""

    n: Annotated[int, Meta(ge=1)]

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        count = progress["count"] = progress.get("count", 0) + 1
        if count < self.n:
            return False
        del progress["count"]
        return True


class JoinSubjects(Condition, frozen=True, tag="join_subjects"):
    """Once each of these subjects has had an event; then it begins anew."""

    names: Annotated[tuple[str, ...], Meta(min_length=1)]

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        if occasion.event.subject not in self.names:
            return False
        seen = progress.setdefault("subjects", [])
        if occasion.event.subject not in seen:
            seen.append(occasion.event.subject)
        if len(seen) < len(set(self.names)):
            return False
        del progress["subjects"]
        return True


class Counter(Condition, frozen=True, tag="counter"):
    """After the n-th event, and after each later one."""

    n: Annotated[int, Meta(ge=1)]

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        count = progress["count"] = progress.get("count", 0) + 1
        return bool(count >= self.n)


class AnyOf(Condition, frozen=True, tag="any"):
    """As soon as one of these holds; without any, after each event."""

    conditions: tuple[AnyCondition, ...] = ()

    def __call__(self, *conditions: Any) -> AnyOf:
        """Each a condition, a function under `@durable.condition`, or its name: checked when a trigger is made."""
        return AnyOf(conditions)

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        fires = not self.conditions
        for n, condition in enumerate(self.conditions):
            own = progress.setdefault(str(n), {})
            fires = condition.holds(own, occasion) or fires  # each one sees each event
        if fires:
            progress.clear()
        return fires


class NotBefore(Condition, frozen=True, tag="not_before"):
    """After each event that comes at this time or later."""

    at: Annotated[datetime, Meta(tz=True)]

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        return occasion.now >= self.at


class NotAfter(Condition, frozen=True, tag="not_after"):
    """After each event that comes at this time or earlier."""

    at: Annotated[datetime, Meta(tz=True)]

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        return occasion.now <= self.at


class Expression(Condition, frozen=True, tag="expression"):
    """After each event of which a JMESPath expression holds."""

    text: str

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        document = {**msgspec.json.decode(occasion.body), "context": occasion.context}
        return bool(_compiled(self.text).search(document))


class Function(Condition, frozen=True, tag="function"):
    """After each event for which a registered function says so."""

    name: str

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        return bool(occasion.call(self))


class SignedFunction(Condition, frozen=True, tag="signed"):
    """After each event for which a function says so that was given by value: signed text."""

    code: str

    def holds(self, progress: dict[str, Any], occasion: Occasion) -> bool:
        return bool(occasion.call(self))


AnyCondition = (
    Always | Join | JoinSubjects | Counter | AnyOf | NotBefore | NotAfter | Expression | Function | SignedFunction
)


@lru_cache(maxsize=1_024)
def _compiled(text: str) -> Any:
    """Raises ValueError for what is no JMESPath, and ImportError without the package."""
    try:
        # Only here: who has no expressions need not have the package.
        from jmespath import compile as compiled  # type: ignore[import-untyped]  # it has no types
        from jmespath.exceptions import JMESPathError  # type: ignore[import-untyped]  # as above
    except ImportError as error:
        raise ImportError(f"conditions.expression needs a package that is not installed: {EXTRA}") from error
    try:
        return compiled(text)
    except RecursionError:
        raise ValueError("this JMESPath expression is nested too deeply") from None
    except JMESPathError as error:
        raise ValueError(f"{text!r} is no JMESPath expression: {' '.join(str(error).split())}") from None


def check_expression(text: object) -> str:
    """Raises TypeError, ValueError for what is no JMESPath, and ImportError without the package."""
    if not isinstance(text, str):
        raise TypeError(f"an expression is text, not {type(text).__name__}")
    _compiled(text)
    return text
