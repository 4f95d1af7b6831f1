"""Triggers, dead letters and events in words, for people, and as JSON, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..app.triggering import DeadLetter
from ..triggers.actions import Action
from ..triggers.changes import Trigger
from ..triggers.conditions import Condition
from ..triggers.event import Occurrence, from_sdk, read_event
from ..triggers.pattern import EventPattern
from .terminal import Screen, cut, json_text, moment, safe, shortly

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

_ROOMY: Final = 110
_LABEL_CELLS: Final = 16


def plain(value: Any) -> Any:
    """A struct with JSON inside, as plain values."""
    return json.loads(msgspec.json.encode(value))


def plain_event(event: CloudEvent | str) -> Any:
    """An event as its JSON; text that was none stays text."""
    return event if isinstance(event, str) else json.loads(from_sdk(event))


def plain_letter(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter likewise."""
    return {**letter._asdict(), "event": plain_event(letter.event)}


# ---- triggers


def print_triggers(screen: Screen, triggers: Sequence[Trigger]) -> None:
    """One row a trigger; ids and patterns are folded where they are too long, never cut."""
    room = 60 if screen.table_width >= _ROOMY else 0
    rows = [
        [
            safe(one.id),
            ", ".join(map(pattern_words, one.on)),
            cut(words(one.condition), room or 16),
            cut(words(one.action), room or 24),
            f"{one.firings}" if one.enabled else f"{one.firings}, off",
        ]
        for one in triggers
    ]
    screen.table(["ID", "ON", "CONDITION", "ACTION", "FIRED"], rows, ["bold", "", "", "", "dim"], fold=0)


def print_trigger(screen: Screen, one: Trigger, letters: int) -> None:
    """All there is to know of one. letters: how many dead letters it has."""
    state = ("enabled", "green") if one.enabled else ("disabled", "yellow")
    screen.say((safe(one.id), "bold"), "  ", state)
    screen.say()
    for pattern in one.on:
        field(screen, "on", pattern_words(pattern))
    field(screen, "condition", words(one.condition))
    field(screen, "action", words(one.action))
    for interception in one.interceptions:
        field(screen, "instead" if interception.instead else "before", words(interception.action))
    field(screen, "kind", "transient: gone once it has fired" if one.transient else "persistent")
    field(screen, "context", json_text(one.context))
    field(screen, "progress", json_text(one.progress))
    field(screen, "fired", str(one.firings))
    if letters:
        field(screen, "dead letters", f"{letters}: durable trigger dead-letter list")


def pattern_words(pattern: EventPattern) -> str:
    """Which events fit."""
    kind = "any type" if pattern.type == "*" else safe(pattern.type)
    subject = {"*": "", "": " without subject"}.get(pattern.subject, f" of {safe(pattern.subject)}")
    return f"{kind}{subject}{'' if pattern.source == '*' else f' from {safe(pattern.source)}'}"


def words(one: Condition | Action) -> str:
    """Its kind and what it was given: what everyone of its kind has by itself, the rest with names."""
    fields: dict[str, Any] = plain(one)
    said = [fields.pop("kind")]
    required = one.__struct_fields__[: len(one.__struct_fields__) - len(one.__struct_defaults__)]
    for name, value in fields.items():
        shown = safe(value) if isinstance(value, str) else json_text(value)
        said.append(shown if name in required else f"{name}={shown}")
    return " ".join(said)


# ---- events


def event_words(event: CloudEvent | str) -> str:
    """Which event it is."""
    if isinstance(event, str):
        return f"no event: {json_text(event)}"
    seen = read_event(from_sdk(event))
    return f"{safe(seen.type)}{f' of {safe(seen.subject)}' if seen.subject else ''}"


def print_events(screen: Screen, events: Sequence[CloudEvent]) -> None:
    """One row an event."""
    seen: list[Occurrence] = [read_event(from_sdk(event)) for event in events]
    rows = [[safe(text) for text in (one.id, one.type, one.subject, one.source)] for one in seen]
    screen.table(["ID", "TYPE", "SUBJECT", "SOURCE"], rows, ["bold", "", "", "dim"], fold=0)


# ---- dead letters


def print_letters(screen: Screen, letters: Sequence[DeadLetter], now: datetime) -> None:
    """One row a dead letter."""
    room = 60 if screen.table_width >= _ROOMY else 28
    rows = [
        [
            safe(one.id),
            safe(one.trigger_id),
            cut(event_words(one.event), room),
            shortly(one.at, now),
            cut(safe(one.error), room),
        ]
        for one in letters
    ]
    screen.table(["ID", "TRIGGER", "EVENT", "AT", "ERROR"], rows, ["bold", "", "", "dim", "red"], fold=0)


def print_letter(screen: Screen, one: DeadLetter) -> None:
    """All there is to know of one."""
    screen.say((safe(one.id), "bold"), "  ", event_words(one.event))
    screen.say()
    if one.trigger_id:
        field(screen, "trigger", safe(one.trigger_id))
    field(screen, "error", safe(one.error))
    field(screen, "attempts", f"{one.attempts}, the last at {moment(one.at)}")
    screen.say()
    for line in json_text(plain_event(one.event), indent=2).split("\n"):
        screen.say("  ", line)


def field(screen: Screen, label: str, text: str) -> None:
    """A labelled line, and more where it is long."""
    screen.field(f"  {label}", text, _LABEL_CELLS, screen.width, "dim")
