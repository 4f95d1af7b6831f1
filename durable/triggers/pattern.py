"""Which events a trigger looks at: by type, subject and source, each exactly or by its beginning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from .event import Occurrence

LIFECYCLE: Final = "durable.execution-"  # so begin the types of what orchestrations tell of themselves
_OURS: Final = "durable."


class EventPattern(msgspec.Struct, frozen=True, omit_defaults=True):
    """Events whose type, subject and source all fit.

    Each is exact text, a beginning with `*` behind it ("com.shop.*"), or "*" for all. An event without a subject has
    the subject "". Events by which orchestrations tell that they begin and end ("durable.execution-started",
    "durable.execution-completed") fit a type only if it begins with "durable.": "*" is not for them. Raises TypeError
    for what is no text, ValueError for a `*` before the end.
    """

    type: str = "*"
    subject: str = "*"
    source: str = "*"

    def __post_init__(self) -> None:
        for name in ("type", "subject", "source"):
            text: Any = getattr(self, name)
            if not isinstance(text, str):
                raise TypeError(f"EventPattern({name}=): give text, not {text!r}")
            if "*" in text[:-1]:
                raise ValueError(f"EventPattern({name}={text!r}): a * stands at the end only")
        if not self.type:
            raise ValueError("EventPattern(type=''): every event has a type; give it, or leave it out for all")

    def matches(self, event: Occurrence) -> bool:
        """Whether this event fits."""
        if event.type.startswith(LIFECYCLE) and not self.type.startswith(_OURS):
            return False
        return _fits(self.type, event.type) and _fits(self.subject, event.subject) and _fits(self.source, event.source)


def hears_orchestrations(pattern: EventPattern) -> bool:
    """Whether it fits what an orchestration may tell of itself."""
    kind = pattern.type
    asks = kind.startswith(LIFECYCLE) or (kind.endswith("*") and LIFECYCLE.startswith(kind[:-1]))
    return asks and kind.startswith(_OURS)


def _fits(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def patterns(on: object, where: str) -> tuple[EventPattern, ...]:
    """One pattern or several. Raises TypeError for what is none, ValueError for none at all."""
    several: Any = (on,) if isinstance(on, EventPattern) else on
    if isinstance(several, str) or not isinstance(several, Iterable):
        raise TypeError(f"{where} takes durable.EventPattern(...), one or several, not {on!r}")
    found: tuple[Any, ...] = tuple(several)
    for pattern in found:
        if not isinstance(pattern, EventPattern):
            raise TypeError(f"{where} takes durable.EventPattern(...), one or several, not {pattern!r}")
    if not found:
        raise ValueError(f"{where} is empty: no event would ever fit; durable.EventPattern() fits all")
    return found
