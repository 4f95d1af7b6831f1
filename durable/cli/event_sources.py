"""`durable trigger source ...` and `durable trigger workspace ...`: where events come from, and who shares a store."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ..model.errors import TriggerNotFoundError
from ..triggers.changes import Source
from .session import Session, command, group
from .terminal import safe
from .trigger_words import field

_PANEL: Final = "Commands"

Name = Annotated[str, typer.Argument(metavar="NAME", help="The event source's name.")]
Workspace = Annotated[str, typer.Argument(metavar="NAME", help="The workspace's name.")]


def add_groups(triggers: typer.Typer) -> None:
    """Add both to `durable trigger`."""
    sources = group(triggers, "source", _PANEL, "Queues and streams that events come from.")
    command(sources, "add", _PANEL)(_add)
    command(sources, "list", _PANEL, needs_store=True)(_list)
    command(sources, "show", _PANEL, needs_store=True)(_show)
    command(sources, "delete", _PANEL, needs_store=True)(_delete)
    workspaces = group(triggers, "workspace", _PANEL, "Workspaces of a store that were created.")
    command(workspaces, "create", _PANEL)(_create)
    command(workspaces, "list", _PANEL, needs_store=True)(_list_workspaces)
    command(workspaces, "delete", _PANEL, needs_store=True)(_delete_workspace)


def _add(
    session: Session,
    name: Name,
    source_url: Annotated[
        str, typer.Argument(metavar="URL", help="Without a password; env:NAME for that of a variable.")
    ],
    receive: Annotated[bool, typer.Option("--receive/--no-receive", help="Whether events are taken from it.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Change one that is there.")] = False,
) -> None:
    """Take events from a queue or a stream.

    docs/triggers.md has the URLs, e.g. redis://host:6379/0?stream=orders
    """
    session.refuse_own_memory()
    session.client.add_event_source(name, source_url, receive=receive, overwrite=overwrite)
    session.screen.answer({"added": name}, f"{safe(name)} is added")


def _list(session: Session) -> None:
    """List the event sources of the workspace."""
    sources = session.client.list_event_sources()
    for name, source in sources.items():
        _print(session, name, source)
    if not sources and not session.as_json:
        session.screen.note(f"no event sources in {session.store}")


def _show(session: Session, name: Name) -> None:
    """Show one event source."""
    source = session.client.get_event_source(name)
    if source is None:
        raise TriggerNotFoundError(f"no event source {name!r} in {session.store}; `durable trigger source list`")
    _print(session, name, source)


def _delete(session: Session, name: Name) -> None:
    """Take no more events from there."""
    session.client.delete_event_source(name)
    session.screen.answer({"deleted": name}, f"{safe(name)} is deleted")


def _print(session: Session, name: str, source: Source) -> None:
    if session.as_json:
        session.screen.document({"name": name, "url": source.url, "receives": source.receives})
    else:
        field(session.screen, safe(name), f"{safe(source.url)}{'' if source.receives else '  (published to only)'}")


def _create(session: Session, name: Workspace) -> None:
    """Create a workspace, so that it is listed; one that is only used needs none of this."""
    session.refuse_own_memory()
    session.client.create_workspace(name)
    session.screen.answer({"created": name}, f"{safe(name)} is created")


def _list_workspaces(session: Session) -> None:
    """List the workspaces that were created, oldest first."""
    names = session.client.list_workspaces()
    for name in names:
        if session.as_json:
            session.screen.document({"name": name})
        else:
            session.screen.say(safe(name))
    if not names and not session.as_json:
        session.screen.note("no workspace was created here; those that are only used are not listed")


def _delete_workspace(session: Session, name: Workspace) -> None:
    """Delete a workspace's triggers, event sources, contexts, dead letters and kept events.

    Its orchestrations stay.
    """
    session.client.delete_workspace(name)
    session.screen.answer({"deleted": name}, f"{safe(name)} is deleted, but for its orchestrations")
