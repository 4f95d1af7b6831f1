"""What a function changes and asks for while it runs: kept when all went well, else forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .actions import Action, check_action

if TYPE_CHECKING:
    from .changes import Trigger


class Draft(MutableMapping[str, Any]):
    """The context of a trigger, JSON values by key; app/trigger_context.py shows it to users."""

    def __init__(
        self,
        trigger_id: str,
        draft: dict[str, Any],
        workspace: dict[str, Any],
        now: datetime,
        triggers: Mapping[str, Trigger],
    ) -> None:
        self.trigger_id = trigger_id
        self.workspace = workspace
        self.now = now
        self.triggers = triggers
        self._draft = draft
        self._asked: list[Action] = []

    def do(self, action: Action) -> None:
        """Do this too, one of `durable.actions`, once the function has returned and with its changes.

        Raises TypeError for what is none of these, and for a trigger with a function by value: clients sign those.
        """
        check_action(action)
        self._asked.append(action)

    @property
    def asked(self) -> list[Action]:
        """What was asked for so far."""
        return list(self._asked)

    def __getitem__(self, key: str) -> Any:
        return self._draft[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._draft[key] = value

    def __delitem__(self, key: str) -> None:
        del self._draft[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._draft)

    def __len__(self) -> int:
        return len(self._draft)
