"""What a user's condition or action gets: the trigger's context, with values of declared types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from ..model.limits import Limits
from ..payload.values import decode, encode
from ..triggers.actions import Action
from ..triggers.changes import Trigger
from ..triggers.context import Draft

T = TypeVar("T")


class TriggerContext(MutableMapping[str, Any]):
    """The context of a trigger, a dict of JSON values, while one of its functions runs.

    It is a draft: what is changed is committed with what the function asks for, and discarded if it raises. A value may
    be whatever an activity may return, such as a dataclass or a datetime: it is kept as JSON, and `read` gives it back.
    """

    def __init__(self, draft: Draft, limits: Limits) -> None:
        self._draft = draft
        self._limits = limits
        self._given: set[str] = set()

    @property
    def trigger_id(self) -> str:
        """Whose context it is."""
        return self._draft.trigger_id

    @property
    def workspace(self) -> dict[str, Any]:
        """The context that all triggers of the workspace share, as a draft too; JSON values."""
        return self._draft.workspace

    @property
    def now(self) -> datetime:
        """Aware UTC, the time of this step."""
        return self._draft.now

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """All triggers of the workspace by id, to be read."""
        return self._draft.triggers

    def do(self, action: Action) -> None:
        """Do this too, one of `durable.actions`, once the function has returned and with its changes.

        Raises TypeError for what is no action.
        """
        self._draft.do(action)

    def read(self, key: str, kind: type[T]) -> T:
        """The value under a key, as a value of this type. Raises KeyError, PayloadError for what does not fit it."""
        raw = encode(self._draft[key], self._where(key), self._limits)
        found: T = decode(raw, kind, self._where(key))
        return found

    def _settle(self) -> None:
        """The function has returned: what it has put here is JSON from now on. Raises PayloadError."""
        for key in self._given & self._draft.keys():
            self._draft[key] = msgspec.json.decode(encode(self._draft[key], self._where(key), self._limits))

    def _where(self, key: str) -> str:
        return f"the context of trigger {self.trigger_id!r}, at {key!r}"

    def __getitem__(self, key: str) -> Any:
        return self._draft[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._draft[key] = value  # as it is: who goes on to change a list that was put here means this one
        self._given.add(key)

    def __delitem__(self, key: str) -> None:
        del self._draft[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._draft)

    def __len__(self) -> int:
        return len(self._draft)

    def __repr__(self) -> str:
        return f"<context of trigger {self.trigger_id!r}: {dict(self._draft)!r}>"


def call(function: Callable[[Any, Any], Any], draft: Draft, event: Any, limits: Limits) -> Any:
    """Call a user's function with the draft as its context. Raises whatever it raises, and PayloadError."""
    context = TriggerContext(draft, limits)
    answer = function(context, event)
    context._settle()
    return answer
