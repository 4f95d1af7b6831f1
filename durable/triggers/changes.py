"""What becomes of triggers: the facts that a hub is made of, and how they are stored.

A `Change` is what one step changed, as it stands afterwards; a hub is the sum of its changes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..model.history import Raw
from ..model.moments import Moment
from .actions import AnyAction, Definition, Interception
from .conditions import AnyCondition
from .pattern import EventPattern


class State(msgspec.Struct, omit_defaults=True):
    """What a trigger has become: it is written after each step that changed it."""

    context: dict[str, Any] = {}
    progress: dict[str, Any] = {}
    enabled: bool = True
    firings: int = 0
    firing: bool = False  # it is transient, has fired, and its action has not succeeded yet


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger as it stands. `progress`: what its condition has counted. firings: how often it has fired."""

    id: str
    on: tuple[EventPattern, ...]
    condition: AnyCondition
    action: AnyAction
    context: dict[str, Any]
    transient: bool
    enabled: bool
    firings: int
    progress: dict[str, Any]
    interceptions: tuple[Interception, ...]


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a timer will bring: an event that was published with a delay, or another attempt of a trigger."""

    due_at: float
    event: Raw
    trigger_id: str = ""
    stage: Literal["", "condition", "action"] = ""
    attempt: int = 0
    error: str = ""


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """An activity that a trigger called, and whose end will be published."""

    trigger_id: str
    activity: str
    subject: str


class Dead(msgspec.Struct, frozen=True, kw_only=True):
    """An event for which a trigger's condition or action raised each time. error: the last one, in words.

    Of what an event source brought and is no event: no trigger, and as `event` the text.
    """

    id: str
    trigger_id: str
    event: Raw
    stage: Literal["condition", "action", "reading"]
    error: str
    attempts: int
    at: Moment


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event source: events come from there (`receives`), and are published to it."""

    url: str
    receives: bool = True


class Counts(msgspec.Struct, omit_defaults=True):
    """Of events, since the workspace was created. taken: that counted; among them unmatched: fitted no trigger, and
    expired: came too late. repeated: were known already."""

    taken: int = 0
    unmatched: int = 0
    expired: int = 0
    repeated: int = 0


class Change(msgspec.Struct, omit_defaults=True):
    """What has changed since the last one; the first is all there is."""

    added: dict[str, Definition] = {}
    states: dict[str, State] = {}
    gone: list[str] = []
    renewed: list[str] = []  # were there, and are other ones now
    workspace: dict[str, Any] | None = None
    seen: bytes = b""
    counts: Counts | None = None
    waiting: dict[int, Waiting] = {}
    calls: dict[int, Call] = {}
    ended: list[int] = []  # of waiting and calls
    dead: dict[str, Dead] = {}
    buried: list[str] = []
    unmatched: list[Raw] = []
    forgets_unmatched: bool = False  # those before these
    keeps_unmatched: bool | None = None
    sources: dict[str, Source | None] = {}  # None: it is gone
    answers: dict[str, list[str]] = {}
    withdrawn: dict[str, int] = {}  # waits of orchestrations, by the ids of their triggers: up to which attempt
    number: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Change).decode


def encode_change(change: Change) -> Raw:
    """As it is stored."""
    return Raw(_encode(change))


def decode_change(stored: Raw) -> Change:
    """Raises msgspec.MsgspecError for what this version can't read."""
    return _decode(stored)
