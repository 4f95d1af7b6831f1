"""What orchestrations tell of themselves to the triggers of the workspace: that they have begun, and how they ended.

Laws.
1. It is a row of the commit that begins or ends the instance: whoever dies, it is told, and once.
2. It is told only where a trigger asks for it. Every worker reads that from the status of the triggers, together with
   each sweep; whoever serves the triggers knows it at once. So for up to one sweep (5 s) after the first trigger of its
   kind was added, other workers may begin and end instances without a word.
3. What belongs to the triggers themselves (its name begins with @) tells nothing: nobody has asked for that.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from msgspec.structs import replace

from ..engine.instance import Env, Turn
from ..engine.messages import Message, encode_message
from ..engine.triggering import heard_by
from ..model import history as h
from ..model.history import NO_PAYLOAD, Event, Raw
from ..model.names import TRIGGERS
from ..model.status import RuntimeStatus, Summary
from ..ports import Row
from ..triggers.event import read_event
from ..triggers.pattern import EventPattern
from .requests import Request, Stands
from .serving import Serving
from .wire import lifecycle_event


class Lifecycle:
    """next_look: when to read again what is asked for, in POSIX seconds."""

    def __init__(self, env: Env, serving: Serving, every: float) -> None:
        self._env = env
        self._serving = serving
        self._every = every
        self._wanted: Sequence[EventPattern] = ()
        self.next_look = 0.0

    def look(self, now: float) -> Generator[Request, Any, None]:
        """Read what is asked for."""
        stands: list[Summary | None] = yield Stands([TRIGGERS])
        self.next_look = now + self._every
        self.learn(stands[0])

    def learn(self, triggers: Summary | None) -> None:
        """How the triggers stand."""
        self._wanted = () if triggers is None else heard_by(triggers)

    def told(self, turn: Turn) -> Turn:
        """The turn with what is to be told of it."""
        commit, summary = turn.commit, turn.instance.summary
        if not self._wanted or commit is None or not commit.appends or summary.name.startswith("@"):
            return turn
        told: list[Row] = []
        if turn.began:
            begun = replace(summary, status=RuntimeStatus.RUNNING, output=NO_PAYLOAD, failure=None)
            told += self._row(begun, turn.instance.length, commit.partition)
        if summary.status.finished:
            told += self._row(summary, turn.instance.length, commit.partition)
        return replace(turn, commit=replace(commit, put=(*commit.put, *told))) if told else turn

    def _row(self, summary: Summary, length: int, partition: int) -> list[Row]:
        body = lifecycle_event(summary, length, self._serving)
        event = read_event(body)
        if not any(pattern.matches(event) for pattern in self._wanted):
            return []
        at = summary.updated_at
        message = Message("fact", TRIGGERS, Event(h.EVENT_RAISED, at, input=Raw(body)))
        key = f"{summary.execution_id}/told/{length if summary.status.finished else 0}"
        due_at, holder = at.timestamp() + self._env.hold, self._env.holder
        put = encode_message(message)
        return [Row(key, "message", summary.instance_id, partition, due_at, holder, 0, put, summary.group)]
