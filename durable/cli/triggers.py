"""`durable trigger ...`: what is to happen when events come, and what became of those that came."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from ..app.clock import utc_now
from ..app.written_trigger import written_trigger
from ..model.errors import TriggerNotFoundError
from . import event_sources
from .exits import Exit
from .renewing import agreed
from .run import json_argument
from .session import Session, command, group
from .terminal import safe
from .trigger_words import (
    field,
    plain,
    plain_event,
    plain_letter,
    print_events,
    print_letter,
    print_letters,
    print_trigger,
    print_triggers,
)

_PANEL: Final = "Commands"
_FIELDS: Final = ("taken", "unmatched", "expired", "repeated")

TriggerId = Annotated[str, typer.Argument(metavar="ID", help="The trigger's id.")]
LetterId = Annotated[str, typer.Argument(metavar="ID", help="That of the dead letter; `dead-letter list` has them.")]


def add_group(app: typer.Typer, panel: str) -> None:
    """Add `durable trigger` to the command line."""
    triggers = group(app, "trigger", panel, "What is to happen when events come.")
    command(triggers, "list", _PANEL, needs_store=True)(_list)
    command(triggers, "show", _PANEL, needs_store=True)(_show)
    command(triggers, "add", _PANEL)(_add)
    command(triggers, "delete", _PANEL, needs_store=True)(_delete)
    command(triggers, "enable", _PANEL, needs_store=True)(_enable)
    command(triggers, "disable", _PANEL, needs_store=True)(_disable)
    command(triggers, "flush", _PANEL, needs_store=True)(_flush)
    command(triggers, "counts", _PANEL, needs_store=True)(_counts)
    command(triggers, "unmatched", _PANEL, needs_store=True)(_unmatched)
    letters = group(triggers, "dead-letter", _PANEL, "Events for which a trigger raised each time, or that were none.")
    command(letters, "list", _PANEL, needs_store=True)(_list_letters)
    command(letters, "show", _PANEL, needs_store=True)(_show_letter)
    command(letters, "replay", _PANEL, needs_store=True)(_replay_letter)
    command(letters, "delete", _PANEL, needs_store=True)(_delete_letter)
    event_sources.add_groups(triggers)


# ---- triggers


def _list(session: Session) -> None:
    """List the triggers of the workspace, as they were added."""
    triggers = session.client.list_triggers()
    if session.as_json:
        for one in triggers:
            session.screen.document(plain(one))
    elif triggers:
        print_triggers(session.screen, triggers)
    else:
        session.screen.note(f"no triggers in {session.store}")


def _show(session: Session, id: TriggerId) -> None:
    """Show how one trigger stands, and what it has counted."""
    one = session.client.get_trigger(id)
    if one is None:
        raise TriggerNotFoundError(f"no trigger {id!r} in {session.store}; `durable trigger list` shows what is there")
    if session.as_json:
        session.screen.document(plain(one))
    else:
        letters = sum(letter.trigger_id == id for letter in session.client.dead_letters())
        print_trigger(session.screen, one, letters)


def _add(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON: a trigger, or a list of some; - is stdin.")],
) -> int:
    """Add triggers from a file.

    docs/triggers.md has the form, e.g. {"id": "third",
    "on": [{"type": "com.shop.*"}], "condition": {"kind": "join", "n": 3},
    "action": {"kind": "start_orchestration", "name": "ship"}}
    One that is refused keeps none of the others from being added; the exit
    status is 2 then.
    """
    given = json_argument(file if file == "-" else f"@{file}", "FILE")
    session.refuse_own_memory()
    made: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for number, one in enumerate(given if isinstance(given, list) else [given], 1):
        try:
            made.append(written_trigger(one))
        except (ValueError, TypeError) as error:
            written = one.get("id") if isinstance(one, dict) else None
            refused[written if isinstance(written, str) else f"number {number}"] = str(error)
    added = session.client.add_triggers(made)
    refused |= added.refused
    if session.as_json:
        session.screen.document({"added": added.accepted, "refused": refused})
    else:
        for trigger_id in added.accepted:
            session.screen.say(f"{safe(trigger_id)} is added")
        for trigger_id, why in refused.items():
            session.screen.note(f"{safe(trigger_id)} is refused: {safe(why)}")
    return Exit.USAGE if refused else Exit.DONE


def _delete(session: Session, id: TriggerId) -> None:
    """Delete a trigger; it fires no more from the next event on."""
    session.client.delete_trigger(id)
    session.screen.answer({"deleted": id}, f"{safe(id)} is deleted")


def _enable(session: Session, id: TriggerId) -> None:
    """Let a trigger take events again."""
    session.client.enable_trigger(id)
    session.screen.answer({"enabled": id}, f"{safe(id)} takes events")


def _disable(session: Session, id: TriggerId) -> None:
    """Let events pass a trigger by until it is enabled."""
    session.client.disable_trigger(id)
    session.screen.answer({"disabled": id}, f"{safe(id)} lets events pass by until it is enabled")


def _flush(session: Session, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete all triggers of the workspace.

    Delayed events and dead letters stay.
    """
    if not yes and not agreed(session, f"Delete all triggers from {session.store}?", "to delete all triggers"):
        session.screen.note("nothing was deleted")
        return
    session.client.flush_triggers()
    session.screen.answer({"flushed": True}, "all triggers are deleted")


# ---- what became of events


def _counts(session: Session) -> None:
    """Count the events that came, and those that did nothing.

    taken: counted, among them unmatched (no trigger wanted it) and expired
    (came too late); repeated: were known already, and left out.
    """
    found = session.client.event_counts()
    counts = {name: getattr(found, name) for name in _FIELDS}
    if session.as_json:
        session.screen.document(counts)
    else:
        for name, number in counts.items():
            field(session.screen, name, str(number))


def _unmatched(
    session: Session,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="From now on keep them, the last 1,000; or no more.", show_default=False),
    ] = None,
) -> None:
    """List events that no trigger wanted, if they are kept.

    They are counted always, and kept once --keep was given.
    """
    if keep is not None:
        session.client.keep_unmatched_events(keep)
        said = "such events are kept from now on" if keep else "such events are kept no more; those that were, stay"
        session.screen.answer({"keeps": keep}, said)
        return
    events = session.client.unmatched_events()
    if session.as_json:
        for event in events:
            session.screen.document(plain_event(event))
    elif events:
        print_events(session.screen, events)
    else:
        session.screen.note("none are kept; with --keep, those that come from then on are")


# ---- dead letters


def _list_letters(session: Session) -> None:
    """List dead letters, oldest first."""
    letters = session.client.dead_letters().items
    if session.as_json:
        for one in letters:
            session.screen.document(plain_letter(one))
    elif letters:
        print_letters(session.screen, letters, utc_now())
    else:
        session.screen.note(f"no dead letters in {session.store}")


def _show_letter(session: Session, id: LetterId) -> None:
    """Show one dead letter, with its event."""
    found = next((one for one in session.client.dead_letters() if one.id == id), None)
    if found is None:
        raise TriggerNotFoundError(f"no dead letter {id!r} in {session.store}; `durable trigger dead-letter list`")
    if session.as_json:
        session.screen.document(plain_letter(found))
    else:
        print_letter(session.screen, found)


def _replay_letter(session: Session, id: LetterId) -> None:
    """Try a dead letter again, as if it came for the first time."""
    session.client.replay_dead_letter(id)
    session.screen.answer({"replayed": id}, f"{safe(id)} is tried again as soon as a worker takes it")


def _delete_letter(session: Session, id: LetterId) -> None:
    """Forget a dead letter."""
    session.client.delete_dead_letter(id)
    session.screen.answer({"deleted": id}, f"{safe(id)} is deleted")
