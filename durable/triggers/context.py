"""What a user's condition or action gets: the trigger's context as a draft, and a way to ask for actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .actions import Action, check_action

if TYPE_CHECKING:
    from .changes import Trigger


class TriggerContext(MutableMapping[str, Any]):
    """The context of a trigger, a dict of JSON values, while one of its functions runs.

    It is a draft: what is changed is committed with what the function asks for, and discarded if it raises.
    workspace: the context that all triggers of the workspace share, as a draft too. trigger_id: whose context it is.
    now: aware UTC, the time of this step. triggers: all triggers by id, to be read.
    """

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

        Raises TypeError for what is no action.
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

    def __repr__(self) -> str:
        return f"<context of trigger {self.trigger_id!r}: {self._draft!r}>"
