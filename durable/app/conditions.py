"""`durable.conditions`: after which of the events that fit it a trigger fires.

A function under `@durable.condition`, or its name, is a condition too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from ..model.moments import to_utc
from ..model.names import check_name
from ..triggers.conditions import (
    Always,
    AnyCondition,
    AnyOf,
    Condition,
    Counter,
    Expression,
    Function,
    Join,
    JoinSubjects,
    NotAfter,
    NotBefore,
    check_expression,
)
from .trigger_function import TriggerFunction

__all__ = [
    "always",
    "any",
    "counter",
    "expression",
    "join",
    "join_subjects",
    "not_after",
    "not_before",
    "python",
]

always: Final[Always] = Always()
"""After each event."""

any: Final[AnyOf] = AnyOf()
"""After each event; `any(a, b)`: as soon as one of these conditions holds."""


def join(n: int) -> Join:
    """After n events; then counting begins anew. Raises TypeError, ValueError."""
    return Join(_count(n, "join"))


def join_subjects(names: Iterable[str]) -> JoinSubjects:
    """Once each of these subjects has had an event; then it begins anew. Raises TypeError, ValueError."""
    if isinstance(names, str):
        raise TypeError(f"conditions.join_subjects takes several subjects, e.g. [{names!r}]")
    found = tuple(dict.fromkeys(names))
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"conditions.join_subjects: a subject is text, not {name!r}")
    if not found:
        raise ValueError("conditions.join_subjects: there is no subject to wait for; give one or more")
    return JoinSubjects(found)


def counter(n: int) -> Counter:
    """After the n-th event, and after each later one. Raises TypeError, ValueError."""
    return Counter(_count(n, "counter"))


def not_before(moment: datetime) -> NotBefore:
    """After each event that comes at this time (an aware datetime) or later. Raises ValueError for a naive one."""
    return NotBefore(to_utc(moment, "conditions.not_before"))


def not_after(moment: datetime) -> NotAfter:
    """After each event that comes at this time (an aware datetime) or earlier. Raises ValueError for a naive one."""
    return NotAfter(to_utc(moment, "conditions.not_after"))


def expression(text: str) -> Expression:
    """After each event of which a JMESPath expression holds, such as "data.amount > `100`".

    It sees the event as its JSON (`type`, `subject`, `source`, `data`, extensions), and the trigger's `context`. What
    JMESPath takes for false (null, "", [], {}, false) does not fire. Needs the extra [expressions]. Raises TypeError,
    ValueError for what is no expression.
    """
    return Expression(check_expression(text))


def python(fn: Callable[[Any, Any], Any]) -> ByValue:
    """A function `(context, event)` that travels by value, signed with a key of the workspace; see `add_trigger`."""
    return ByValue(fn)


class ByValue(Condition, frozen=True, tag="by_value"):
    """A function that a client will sign."""

    fn: Callable[[Any, Any], Any]


def as_condition(given: Any) -> AnyCondition:
    """A condition, a registered function or its name. Raises TypeError, ValueError."""
    if isinstance(given, TriggerFunction) and given.kind == "condition":
        return Function(given.name)
    if isinstance(given, str):
        return Function(check_name(given, "condition="))
    if isinstance(given, AnyOf) and given.conditions:
        return msgspec.structs.replace(given, conditions=tuple(map(as_condition, given.conditions)))
    if not isinstance(given, Condition):
        raise TypeError(f"condition= takes one of durable.conditions, a @durable.condition function, not {given!r}")
    return cast(AnyCondition, given)  # one of them, or a ByValue, which the client signs before it stores it


def _count(n: object, what: str) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"conditions.{what}: give a whole number, not {n!r}")
    if n < 1:
        raise ValueError(f"conditions.{what}({n}): give at least 1")
    return n
