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
from ..triggers.hub import Hub
from .actions import json_context
from .triggering import Triggerer

REGISTER: Final = "@workspaces"
_INSTEAD: Final = "an activity that calls the client"


class _Opened(Protocol):
    """A client of another workspace."""

    def change_triggers(self, change: Callable[[Hub], Any]) -> Any: ...

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
        now = self._now().isoformat()

        def create(hub: Hub) -> None:
            names = hub.workspace_context
            if name in names:
                raise DuplicateNameError(f"create_workspace: there is a workspace {name!r} already")
            hub.set_workspace_context({**names, name: now})

        with closing(self._sibling(REGISTER)) as register:
            register.change_triggers(create)
        if given:
            with closing(self._sibling(name)) as other:
                other.change_triggers(lambda hub: hub.set_workspace_context(given))

    def list_workspaces(self) -> list[str]:
        """The names of those that were created, oldest first."""
        refuse_inside("list_workspaces", _INSTEAD)
        with closing(self._sibling(REGISTER)) as register:
            return list(register.triggers().workspace_context)

    def delete_workspace(self, name: str) -> None:
        """Delete its triggers, event sources, contexts and dead letters, and list it no more.

        Its orchestrations go on and stay until they are purged: `purge_where` of a client of that workspace.
        """
        refuse_inside("delete_workspace", _INSTEAD)
        check_name(name, "the workspace's name")

        def forget(hub: Hub) -> None:
            names = hub.workspace_context
            if names.pop(name, None) is not None:
                hub.set_workspace_context(names)

        with closing(self._sibling(REGISTER)) as register:
            register.change_triggers(forget)
        with closing(self._sibling(name)) as other:
            other.change_triggers(lambda hub: hub.clear())
