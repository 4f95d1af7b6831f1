"""`durable rewind`, `restart`, `fork` and `purge`: other lives for what has ended, and its end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..model.errors import InstanceNotFoundError
from .exits import CommandError, Exit
from .listing import time_argument
from .run import json_argument
from .session import Id, Session, command
from .steer import not_found
from .terminal import json_text, safe

NewId = Annotated[
    str | None, typer.Option("--new-id", metavar="ID", help="Of the new one; default: a fresh id.", show_default=False)
]


def add_commands(app: typer.Typer, panel: str) -> None:
    """Add these commands to the command line."""
    for name, body in (("rewind", _rewind), ("restart", _restart), ("fork", _fork), ("purge", _purge)):
        command(app, name, panel, needs_store=True)(body)


def _rewind(
    session: Session,
    id: Id,
    reason: Annotated[str | None, typer.Option("--reason", metavar="JSON", help="Kept in the history.")] = None,
) -> None:
    """Let a failed orchestration go on from before its failure.

    What failed is tried again, also in its children. What was done before
    it stands; what was done since, to undo things say, is void.
    """
    session.client.rewind(id, json_argument(reason, "--reason"))
    session.screen.answer(
        {"rewound": True, "instance_id": id},
        f"{safe(id)} will go on from before its failure as soon as a worker takes it",
    )


def _restart(
    session: Session,
    id: Id,
    new_id: NewId = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Under the same id.")] = False,
) -> None:
    """Start a finished orchestration again with the same input."""
    if in_place and new_id is not None:
        raise CommandError(Exit.USAGE, "--in-place keeps the id; leave out --new-id")
    started = session.client.restart(id, new_instance_id=id if in_place else new_id).instance_id
    session.screen.answer({"restarted": id, "instance_id": started}, f"started again as {safe(started)}")


def _fork(
    session: Session,
    id: Id,
    after: Annotated[
        int, typer.Option("--after", metavar="N", help="The last event to share; `durable history` has the numbers.")
    ],
    new_id: NewId = None,
) -> None:
    """Start another one that shares the first events of this."""
    started = session.client.fork(id, after=after, new_instance_id=new_id).instance_id
    session.screen.answer({"forked": id, "instance_id": started}, f"forked after event {after} as {safe(started)}")


def _purge(
    session: Session,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The instance id; or give filters.")] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="COMPLETED, FAILED, ...; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Of the orchestrator.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="Of the id.")] = None,
    created_after: Annotated[
        str | None, typer.Option("--created-after", metavar="TIME", help="ISO 8601; UTC unless it says otherwise.")
    ] = None,
    created_before: Annotated[str | None, typer.Option("--created-before", metavar="TIME", help="The same.")] = None,
    keep_children: Annotated[bool, typer.Option("--keep-children", help="Leave sub-orchestrations alone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove finished orchestrations and their children.

    One by its ID, or all that fit the filters, of which there must be one. Those that have not finished are kept.
    """
    filters = {
        "status": status or None,
        "name": name,
        "prefix": prefix,
        "created-after": created_after,
        "created-before": created_before,
    }
    given = {key: value for key, value in filters.items() if value is not None}
    if (id is None) == (not given):
        raise CommandError(Exit.USAGE, "give either an ID, or filters such as --status COMPLETED --created-before TIME")
    after = time_argument(created_after, "--created-after")
    before = time_argument(created_before, "--created-before")
    if id is None:
        shown = ", ".join(f"{key} {json_text(value)}" for key, value in given.items())
        question = f"Purge all finished orchestrations with {safe(shown)} from {session.store}?"
        if not yes and not agreed(session, question, "to purge all that fit"):
            session.screen.note("nothing was purged")
            return
        count = session.client.purge_where(
            status=status or None,
            name=name,
            prefix=prefix,
            created_after=after,
            created_before=before,
            recursive=not keep_children,
        )
    else:
        count = session.client.purge(id, recursive=not keep_children)
        if not count:
            raise InstanceNotFoundError(not_found(session, id))
    session.screen.answer({"purged": count}, f"{count} {'orchestration' if count == 1 else 'orchestrations'} purged")


def agreed(session: Session, question: str, purpose: str) -> bool:
    """Ask whoever sits there. Nobody to ask is no consent."""
    if session.as_json or sys.stdin is None or not sys.stdin.isatty():
        raise CommandError(Exit.USAGE, f"nobody can be asked here: give --yes {purpose}")
    # Not typer.confirm: it leaves a space on stdout.
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
