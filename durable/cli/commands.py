"""The commands: names, options, help. What they do stands in the rooms beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

import durable

from ..app.clock import utc_now
from ..model.errors import InstanceFinishedError, InstanceNotFoundError
from ..model.history import HistoryEvent
from ..model.status import OrchestrationStatus, RuntimeStatus
from . import archives
from .doctor import examine
from .events import EventRows
from .exits import CommandError, Exit
from .following import Following
from .listing import print_list, time_argument
from .processes import serve_many
from .renewing import add_commands as add_renewing
from .run import json_argument, run
from .serve import Part, serve
from .session import EventsUrl, Everywhere, Id, Json, NoColor, Session, Url, Workspace, command
from .show import show
from .steer import not_found, steer
from .tasks import open_waits_of
from .terminal import Screen, safe

RUN: Final = "Run"
LOOK: Final = "Look"
STEER: Final = "Steer"
CHECK: Final = "Check"

# typer does not export the error of a command line that can't be read, only this child of it.
_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="durable",
    help="Run, watch and steer durable orchestrations.",
    epilog="Exit status: 0 done, 1 the orchestration failed, 2 usage, 3 not found, 4 no store, 5 timed out, 6 blocked, "
    "7 a replay differs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit status."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    screen = Screen(as_json="--json" in own, colour="--no-color" not in own)
    if not screen.colour:
        _plain_help()
    try:
        status = app(list(arguments) or ["--help"], prog_name="durable", standalone_mode=False)
    except _UsageError as error:
        where = getattr(error.ctx, "command_path", "durable")
        screen.error("usage", error.format_message(), [f"See: {where} --help"])
        return Exit.USAGE
    return int(status or 0)


def _plain_help() -> None:
    import typer.rich_utils

    typer.rich_utils.COLOR_SYSTEM = None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"durable {durable.__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    ctx: typer.Context,
    url: Url = None,
    events_url: EventsUrl = None,
    workspace: Workspace = None,
    json: Json = False,
    no_color: NoColor = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    ctx.obj = Everywhere(url, events_url, workspace, json, no_color)


# ---- Run


@command(app, "run", RUN)
def _run(
    session: Session,
    target: Annotated[
        str,
        typer.Argument(metavar="FILE[:FUNCTION]", help="A Python file, and its orchestrator if it has several."),
    ],
    given: Annotated[str | None, typer.Option("--input", metavar="JSON", help="Its input; a list is spread.")] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Go on with this one if it is there.")] = None,
) -> int:
    """Run an orchestration here: start or find it, print its result.

    It is kept in the store, so after Ctrl-C or a crash the same command with the same --id goes on where it was.
    """
    return run(session, target, given, id)


@command(app, "worker", RUN)
def _worker(
    session: Session,
    modules: Annotated[list[str], typer.Argument(metavar="MODULE...", help="Modules (my.flows) or files (flows.py).")],
    grace: Annotated[
        float,
        typer.Option("--grace", metavar="SECONDS", show_default=False, help="For running activities, at the end [30]."),
    ] = 30.0,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, show_default=False, help="How many workers [1].")
    ] = 1,
    eager: Annotated[
        bool, typer.Option("--eager", help="Run the activities of own turns here, not through the broker.")
    ] = False,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="NAME", help="Whose orchestrations; may be repeated.")
    ] = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", metavar="NAME", help="Whose activities; may be repeated.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, show_default=False, help="Activities at a time [32].")
    ] = 32,
) -> int:
    """Serve the orchestrators and activities of modules.

    Runs in the foreground until SIGINT or SIGTERM. It then takes nothing new and gives running activities some time.
    """
    part = Part(grace, eager, tuple(group or ["default"]), tuple(queue or ["default"]), concurrency)
    return serve(session, modules, part) if processes == 1 else serve_many(processes)


# ---- Look


@command(app, "list", LOOK, needs_store=True)
def _list(
    session: Session,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="RUNNING, FAILED, ...; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Of the orchestrator.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="Of the id.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="May be repeated.")] = None,
    created_after: Annotated[
        str | None, typer.Option("--created-after", metavar="TIME", help="ISO 8601; UTC unless it says otherwise.")
    ] = None,
    created_before: Annotated[str | None, typer.Option("--created-before", metavar="TIME", help="The same.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", show_default=False, help="At most 1000 [100].")] = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", metavar="CURSOR", help="Of the page before.")] = None,
) -> None:
    """List orchestrations, newest first."""
    page = session.client.list_orchestrations(
        status=status or None,
        name=name,
        prefix=prefix,
        tags=_tags(tag or []),
        created_after=time_argument(created_after, "--created-after"),
        created_before=time_argument(created_before, "--created-before"),
        limit=limit,
        cursor=cursor,
    )
    screen = session.screen
    if session.as_json:
        for item in page:
            screen.document(item)
    elif page.items:
        print_list(screen, page.items, utc_now())
    else:
        screen.note(f"no orchestrations{' fit' if status or name or prefix or tag else ''} in {session.store}")
    if page.cursor is not None:
        screen.note_value({"cursor": page.cursor}, f"more: --cursor {page.cursor}")


@command(app, "show", LOOK, needs_store=True)
def _show(session: Session, id: Id) -> None:
    """Show one orchestration: state, failure, waits, timeline."""
    status = session.client.get_status(id, history=True)
    if status is None:
        raise InstanceNotFoundError(not_found(session, id))
    if session.as_json:
        session.screen.document(status)
    else:
        pending: list[HistoryEvent] = []
        if not status.runtime_status.finished:
            pending = [event for event in session.client.history(id, pending=True) if event.event_id is None]
        show(session.screen, status, pending, utc_now())


@command(app, "history", LOOK, needs_store=True)
def _history(
    session: Session,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events until it ends.")] = False,
    execution: Annotated[
        str | None, typer.Option("--execution", metavar="ID", help="An execution before continue-as-new.")
    ] = None,
) -> None:
    """Show the events of an orchestration, one a row.

    Events that no turn has taken yet have no number. Below 110 columns, Child... stands for SubOrchestrationInstance...
    """
    if follow and execution is not None:
        raise CommandError(Exit.USAGE, "--follow goes on with the current execution; leave out --execution")
    screen = session.screen
    rows = EventRows(screen, screen.table_width, screen.say)
    write = screen.document if session.as_json else rows.print
    if session.client.get_status(id, payloads=False) is None:
        raise InstanceNotFoundError(not_found(session, id))
    if not session.as_json:
        rows.header()
    if follow:
        for _, events in Following(session.client, id).changes():
            for event in events:
                write(event)
        return
    for event in session.client.history(id, execution_id=execution, pending=True):
        write(event)


@command(app, "doctor", LOOK, needs_store=True)
def _doctor(session: Session) -> int:
    """Check store, broker and workers; say what is stuck, and what to do.

    Exit status 1 when something needs attention.
    """
    return examine(session)


# ---- Steer


@command(app, "raise", STEER, needs_store=True)
def _raise(
    session: Session,
    id: Id,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Its name; case does not count.")],
    data: Annotated[str | None, typer.Option("--data", metavar="JSON", help="What it carries; default null.")] = None,
    event_id: Annotated[
        str | None, typer.Option("--event-id", metavar="ID", help="The same one twice is one event.")
    ] = None,
) -> None:
    """Send an event to an orchestration."""
    value = json_argument(data, "--data")
    before = session.client.get_status(id, history=True, payloads=False)
    if before is None:
        raise InstanceNotFoundError(not_found(session, id))
    if before.runtime_status.finished:
        raise InstanceFinishedError(f"{id!r} has ended ({before.runtime_status}) and takes no more events")
    session.client.raise_event(id, event, value, event_id=event_id)
    session.screen.answer({"raised": event, "instance_id": id}, f"event {safe(event)} is recorded for {safe(id)}")
    _note_other_waits(session, before, event)


@command(app, "terminate", STEER, needs_store=True)
def _terminate(
    session: Session,
    id: Id,
    reason: Annotated[str | None, typer.Option("--reason", metavar="JSON", help="Becomes its output.")] = None,
) -> None:
    """End an orchestration and its children, whatever they do."""
    steer(session, id, reason, session.client.terminate, "terminated", "ends with its next turn")


Why = Annotated[str | None, typer.Option("--reason", metavar="JSON", help="Kept in the history.")]


@command(app, "suspend", STEER, needs_store=True)
def _suspend(session: Session, id: Id, reason: Why = None) -> None:
    """Let an orchestration rest until it is resumed."""
    steer(session, id, reason, session.client.suspend, "suspended", "rests from its next turn on")


@command(app, "resume", STEER, needs_store=True)
def _resume(session: Session, id: Id, reason: Why = None) -> None:
    """Let a suspended orchestration go on."""
    steer(session, id, reason, session.client.resume, "resumed", "goes on with its next turn, if it was suspended")


@command(app, "cancel", STEER, needs_store=True)
def _cancel(
    session: Session,
    id: Id,
    reason: Annotated[str | None, typer.Option("--reason", metavar="JSON", help="What its code is told.")] = None,
) -> None:
    """Ask an orchestration to end; its code may compensate."""
    steer(session, id, reason, session.client.cancel, "cancelled", "is told with its next turn, and may compensate")


# ---- Check


@command(app, "replay", CHECK, needs_store=True)
def _replay(
    session: Session,
    histories: Annotated[
        list[str], typer.Argument(metavar="ID|FILE...", help="Instance ids, or files that `durable export` wrote.")
    ],
    code: Annotated[
        list[str] | None, typer.Option("--code", metavar="MODULE", help="A module or a file; may be repeated.")
    ] = None,
) -> int:
    """Say whether today's code fits histories.

    Runs the orchestrators, no activities. Exit status 7 when one differs; the first difference is printed.
    """
    return archives.replay(session, histories, code or [])


@command(app, "export", CHECK, needs_store=True)
def _export(
    session: Session,
    id: Id,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")] = None,
) -> None:
    """Write an orchestration's history to a file.

    JSON lines with every execution that is there, the events no turn has taken, and the status. Payloads are in it.
    """
    archives.export(session, id, output)


@command(app, "import", CHECK)
def _import(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `durable export` wrote; - is stdin.")],
    new_id: Annotated[str | None, typer.Option("--as", metavar="ID", help="Another id than it had.")] = None,
    go_on: Annotated[bool, typer.Option("--go-on", help="Take an unfinished one, which then goes on here.")] = False,
) -> None:
    """Put an exported orchestration into this store.

    A finished one is there to be looked at. An unfinished one goes on here, and its open activities run again; its
    children are imported by themselves, and before it.
    """
    archives.import_(session, file, new_id, go_on)


add_renewing(app, STEER)


# ---- what the command line says in its own words


def _note_other_waits(session: Session, before: OrchestrationStatus, event: str) -> None:
    """A misspelt name is no error: the orchestration may come to wait for it. But somebody should look."""
    waits = open_waits_of(before.history or [])
    if before.runtime_status is RuntimeStatus.PENDING or event.casefold() in map(str.casefold, waits):
        return
    shown = ", ".join(f"'{safe(name)}'" for name in waits[:5]) or "no event"
    session.screen.note_value(
        {"waits_for": waits},
        f"it waits for {shown} at the moment; the event is kept until it waits for '{safe(event)}'",
    )


def _tags(given: list[str]) -> dict[str, str] | None:
    tags: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise CommandError(Exit.USAGE, f"--tag {one!a}: write KEY=VALUE")
        tags[key] = value
    return tags or None
