"""What the functions of one firing, or of one condition, change and ask for: kept when all went well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from .actions import Action
from .changes import Trigger
from .conditions import Condition
from .context import Draft
from .event import to_sdk
from .state import HubState, Live, copy_of

UserFunction = Callable[[Draft, Any], Any]
FindFunction = Callable[[Condition | Action], UserFunction]
"""Raises LookupError or DurableError for one that is not here, or may not run."""


class Drafting:
    """What the functions of one firing, or of one condition, change and ask for: kept when all went well."""

    def __init__(self, hub: HubState, live: Live, body: bytes, now: datetime, find: FindFunction) -> None:
        self._hub = hub
        self._live = live
        self._body = body
        self._now = now
        self._find = find
        self._context: dict[str, Any] | None = None
        self._workspace: dict[str, Any] = {}
        self.asked: list[Action] = []

    @property
    def context(self) -> dict[str, Any]:
        """The trigger's context, for conditions that only read it."""
        return self._live.state.context if self._context is None else self._context

    def call(self, function: Condition | Action) -> Any:
        """Run a user's function over the draft. Raises whatever it raises, and what `find` raises."""
        code = self._find(function)
        if self._context is None:
            self._context = copy_of(self._live.state.context)
            self._workspace = self._hub.draft_of_workspace()
        context = Draft(self._live.trigger.id, self._context, self._workspace, self._now, _Views(self._hub))
        answer = code(context, to_sdk(self._body))
        msgspec.json.encode((self._context, self._workspace))  # what can't be written must not be committed
        self.asked += context.asked
        return answer

    def keep(self) -> None:
        """All went well."""
        if self._context is not None:
            self._live.state.context = copy_of(self._context)
            self._hub.keep_workspace(copy_of(self._workspace))


class _Views(Mapping[str, Trigger]):
    """All triggers by id, to be read."""

    def __init__(self, hub: HubState) -> None:
        self._hub = hub

    def __getitem__(self, trigger_id: str) -> Trigger:
        view = self._hub.view(trigger_id)
        if view is None:
            raise KeyError(trigger_id)
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._hub.ids)

    def __len__(self) -> int:
        return len(self._hub.ids)


def no_function(wanted: Condition | Action) -> UserFunction:
    """Finds none. Raises LookupError."""
    raise LookupError(f"there are no functions here, and {wanted!r} is one")
