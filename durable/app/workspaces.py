"""The part of a client that knows of other workspaces on the same store.

A workspace is there as soon as it is used: `durable.connect(workspace=...)` needs no `create_workspace`. Those that
were created are listed; the list is kept in the shared context of a workspace that no user can name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final, Protocol

from ..model.errors import DuplicateNameError
from ..model.names import check_name
from ..replay.guard import refuse_inside
from ..triggers.asks import EXISTS, AddKey, AnyPart, Clear, DropKey, SetContext
from ..triggers.hub import Hub
from .actions import json_context
from .triggering import Triggerer

REGISTER: Final = "@workspaces"
_INSTEAD: Final = "an activity that calls the client"


class _Opened(Protocol):
    """A client of another workspace."""

    def ask(self, *parts: AnyPart) -> list[str]: ...

    def triggers(self) -> Hub: ...

    def close(self) -> None: ...


class Workspaces(Triggerer):
    """`_sibling`: opens another workspace with the same arguments."""

    _sibling: Callable[[str], _Opened]

    def create_workspace(self, name: str, *, context: Mapping[str, Any] | None = None) -> None:
        """List a workspace of this store, and give it a context that its triggers share.

        Raises DuplicateNameError for one that was created before, TypeError, ValueError, PayloadError.
        """
        refuse_inside("create_workspace", _INSTEAD)
        check_name(name, "the workspace's name")
        given = json_context(context)
        with closing(self._sibling(REGISTER)) as register:
            if register.ask(AddKey(name, self._now().isoformat())) == [EXISTS]:
                raise DuplicateNameError(f"create_workspace: there is a workspace {name!r} already")
        if given:
            with closing(self._sibling(name)) as other:
                other.ask(SetContext(given))

    def list_workspaces(self) -> list[str]:
        """The names of those that were created, oldest first."""
        refuse_inside("list_workspaces", _INSTEAD)
        with closing(self._sibling(REGISTER)) as register:
            return list(register.triggers().workspace_context)

    def delete_workspace(self, name: str) -> None:
        """Delete its triggers, event sources, contexts, dead letters and kept events, and list it no more.

        Its orchestrations go on and stay until they are purged: `purge_where` of a client of that workspace.
        """
        refuse_inside("delete_workspace", _INSTEAD)
        check_name(name, "the workspace's name")
        with closing(self._sibling(REGISTER)) as register:
            register.ask(DropKey(name))
        with closing(self._sibling(name)) as other:
            other.ask(Clear())
