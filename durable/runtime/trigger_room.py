"""The triggers of a workspace, where this worker serves them: their steps, and the event sources they name.

Laws.
1. Whoever serves the partition of "@triggers" receives from its event sources, and nobody else for long.
2. An event of a source is acknowledged once the step that took it is committed; until then it is kept, or comes again.
3. Before events of a source are taken the inbox is read: what was asked for before they came holds for them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Final

from ..engine.instance import Arrival, Env, Instance, Turn
from ..engine.triggering import guarded, step
from ..model.history import Event
from ..triggers.actions import Action
from ..triggers.changes import Source
from ..triggers.conditions import Condition
from ..triggers.drafting import FindFunction, UserFunction
from .requests import Occurred, Request, Sources, SourceTag, Taken

_BROUGHT: Final = "EventsBrought"


class TriggerRoom:
    """See above."""

    def __init__(self, env: Env, find_function: FindFunction, clock: Callable[[], datetime]) -> None:
        self._env = env
        self._find_function = find_function
        self._clock = clock
        self._wanted: dict[str, Source] = {}
        self._served: dict[str, Source] = {}
        self._left = False
        self._taken: list[SourceTag] = []

    def step(self, instance: Instance, arrivals: Sequence[Arrival], now: datetime) -> Turn:
        """Raises UnreadableHistory."""
        turn = step(instance, arrivals, self._function, now, self._env)
        if turn.instance.hub is not None:
            self._wanted = dict(turn.instance.hub.sources)
        return turn

    def _function(self, wanted: Condition | Action) -> UserFunction:
        """Guarded as an orchestrator's code is: it can't hang the engine, and can't use a client."""
        return guarded(self._find_function(wanted), self._env)

    def arrival(self, brought: Occurred) -> Arrival:
        """What came together, as one arrival."""
        return Arrival(Event(_BROUGHT, self._clock()), tag=brought.tag, bodies=brought.bodies)

    def taken(self, arrival: Arrival) -> None:
        """It is committed."""
        assert isinstance(arrival.tag, SourceTag)
        self._taken.append(arrival.tag)

    def leave(self) -> None:
        """They are somebody else's by now, or this worker ends. What came meanwhile was not taken, and comes again."""
        self._wanted = {}
        self._left = True

    def tend(self) -> Generator[Request, Any, None]:
        """Acknowledge what was taken; receive from what is named now."""
        if self._taken:
            taken, self._taken = self._taken, []
            yield Taken(taken)
        if self._left and self._served:  # though they may be this worker's again by now
            self._served = {}
            yield Sources({})
        self._left = False
        if self._served != self._wanted:
            self._served = self._wanted
            yield Sources(self._served)
