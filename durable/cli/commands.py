"""The commands: names, options, help. What they do stands in the rooms beside this one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

import durable

from ..app.clock import utc_now
from ..model.errors import InstanceNotFoundError
from ..model.history import HistoryEvent
from . import archives
from .around import look_around
from .doctor import examine
from .events import EventRows
from .exits import CommandError, Exit
from .following import Following
from .listing import print_list, time_argument
from .processes import serve_many
from .publish import SOURCE, publish, publish_file
from .renewing import add_commands as add_renewing
from .run import run
from .serve import Part, serve
from .session import EventsUrl, Everywhere, Id, Json, NoColor, PlainGroup, Session, Url, Workspace, command
from .show import show
from .start import Asked, start
from .steer import not_found, raise_event, steer
from .terminal import Screen, safe
from .triggers import add_group as add_triggers

RUN: Final = "Run"
LOOK: Final = "Look"
STEER: Final = "Steer"
CHECK: Final = "Check"
_INPUT: Final = "Its input; a list is spread. @FILE or - reads it."
_DATA: Final = "What it carries; default null. @FILE or - reads it."

# typer does not export the error of a command line that can't be read, only this child of it.
_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="durable",
    help="Run, watch and steer durable orchestrations.",
    epilog="Exit status: 0 done, 1 the orchestration failed, 2 usage, 3 not found, 4 no store, 5 timed out, 6 blocked, "
    "7 a replay differs. Completion in your shell: durable --install-completion",
    cls=PlainGroup,
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
        status = _built()(list(arguments) or ["--help"], prog_name="durable", standalone_mode=False)
    except _UsageError as error:
        where = getattr(error.ctx, "command_path", "durable")
        said = error.format_message()
        hints = [f"See: {where} --help"]
        if where == "durable run" and "unexpected extra argument" in said:
            file = next((one for one in own if one.endswith(".py")), "FILE")
            hints.insert(0, f"One of several orchestrators: durable run {shlex.quote(safe(file))}:FUNCTION")
        screen.error("usage", said, hints)
        return Exit.USAGE
    return int(status or 0)


def _built() -> Any:
    built: Any = typer.main.get_command(app)
    for option in built.params:
        if option.name in ("install_completion", "show_completion"):
            option.hidden = True  # used once in a life; --help has one screen
    return built


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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    ctx.obj = Everywhere(url, events_url, workspace, json, no_color)


# ---- Run


@command(app, "run", RUN)
def _run(
    session: Session,
    target: Annotated[
        str,
        typer.Argument(metavar="FILE[:FUNCTION]", help="A Python file; FUNCTION where it has several."),
    ],
    given: Annotated[str | None, typer.Option("--input", metavar="JSON", help=_INPUT)] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Its id; if it exists, it goes on.")] = None,
) -> int:
    """Run an orchestration right here, and print its result.

    It is kept in the store: after Ctrl-C or a crash, the same command
    with the same --id goes on where it was. A list as input is spread
    over the parameters.
    """
    return run(session, target, given, id)


@command(app, "worker", RUN)
def _worker(
    session: Session,
    modules: Annotated[list[str], typer.Argument(metavar="MODULE...", help="Modules (my.flows) or files (flows.py).")],
    grace: Annotated[
        float,
        typer.Option(
            "--grace", metavar="SECONDS", show_default=False, help="What running activities get at the end [30]."
        ),
    ] = 30.0,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", metavar="N", min=1, show_default=False, help="So many workers, each a process [1]."
        ),
    ] = 1,
    eager: Annotated[
        bool, typer.Option("--eager", help="Run activities of its own turns itself, not through the broker.")
    ] = False,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="NAME", help="Run the orchestrators of this group.")
    ] = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", metavar="NAME", help="Run the activities of this queue.")
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency", metavar="N", min=1, show_default=False, help="So many activities at a time [32]."
        ),
    ] = 32,
) -> int:
    """Run a worker: it executes what the modules define, until Ctrl-C.

    On Ctrl-C or SIGTERM it takes nothing new, and gives running activities
    some time. A second one ends it at once. --group and --queue may be
    repeated; without them, those called "default" are served.
    """
    part = Part(grace, eager, tuple(group or ["default"]), tuple(queue or ["default"]), concurrency)
    return serve(session, modules, part) if processes == 1 else serve_many(processes)


# ---- Look


@command(app, "list", LOOK, needs_store=True)
def _list(
    session: Session,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="Only RUNNING, FAILED, ...; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only of this orchestrator.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Only ids that begin with this.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Only with it; repeatable.")
    ] = None,
    created_after: Annotated[
        str | None, typer.Option("--created-after", metavar="TIME", help="Since then; ISO 8601, UTC if it has no zone.")
    ] = None,
    created_before: Annotated[str | None, typer.Option("--created-before", metavar="TIME", help="Before then.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", show_default=False, help="So many at most [100].")
    ] = 100,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="CURSOR", help="Where the page before ended.")
    ] = None,
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
    """Show how one orchestration stands, and what to do about it."""
    status = session.client.get_status(id, history=True)
    if status is None:
        raise InstanceNotFoundError(not_found(session, id))
    if session.as_json:
        session.screen.document(status)
    else:
        pending: list[HistoryEvent] = []
        if not status.runtime_status.finished:
            pending = [event for event in session.client.history(id, pending=True) if event.event_id is None]
        show(session.screen, status, pending, look_around(session.client, status), utc_now())


@command(app, "history", LOOK, needs_store=True)
def _history(
    session: Session,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events until it has ended.")] = False,
    execution: Annotated[
        str | None, typer.Option("--execution", metavar="ID", help="One from before a continue-as-new.")
    ] = None,
) -> None:
    """Print what has happened to an orchestration, event by event.

    Events that no turn has taken yet have no number. Below 110 columns,
    Child... stands for SubOrchestrationInstance...
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
def _doctor(
    session: Session,
    create: Annotated[bool, typer.Option("--create", help="First make the DynamoDB table if need be.")] = False,
) -> int:
    """Check store, broker and workers; say what is stuck.

    Each finding comes with what to do. Exit status 1 when something needs attention.
    """
    return examine(session, create)


# ---- Steer


@command(app, "start", STEER)
def _start(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="ORCHESTRATOR", help="Its name, as workers know it.")],
    given: Annotated[str | None, typer.Option("--input", metavar="JSON", help=_INPUT)] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Default: a new one.")] = None,
    version: Annotated[str | None, typer.Option("--version", metavar="TEXT", help="Of the orchestrator.")] = None,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="Whose workers run it.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it begins; as --created-after of list.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="May be repeated.")] = None,
    if_exists: Annotated[
        str,
        typer.Option(
            "--if-exists",
            metavar="raise|return|replace",
            show_default=False,
            help="When the id is taken [raise]; replace: what has ended.",
        ),
    ] = "raise",
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended; prints its output.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="At most, of --wait.")] = None,
) -> None:
    """Start an orchestration by name; a worker runs it.

    No code is imported. With --wait the exit status tells how it ended.
    """
    if timeout is not None and not wait:
        raise CommandError(Exit.USAGE, "--timeout is how long to --wait")
    asked = Asked(id, version, group, time_argument(at, "--at"), _tags(tag or []), if_exists)
    start(session, name, given, asked, wait, timeout)


@command(app, "raise", STEER, needs_store=True)
def _raise(
    session: Session,
    id: Id,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Its name; case does not count.")],
    data: Annotated[str | None, typer.Option("--data", metavar="JSON", help=_DATA)] = None,
    event_id: Annotated[
        str | None, typer.Option("--event-id", metavar="ID", help="Sent twice under one id, it is one event.")
    ] = None,
) -> None:
    """Send an event that an orchestration waits for, or will."""
    raise_event(session, id, event, data, event_id)


@command(app, "terminate", STEER, needs_store=True)
def _terminate(
    session: Session,
    id: Id,
    reason: Annotated[str | None, typer.Option("--reason", metavar="JSON", help="Why; becomes its output.")] = None,
) -> None:
    """End an orchestration and its children; their code is not asked."""
    steer(session, id, reason, session.client.terminate, "terminated", "will end as soon as a worker takes it")


Why = Annotated[str | None, typer.Option("--reason", metavar="JSON", help="Why; kept in the history.")]


@command(app, "suspend", STEER, needs_store=True)
def _suspend(session: Session, id: Id, reason: Why = None) -> None:
    """Pause an orchestration until it is resumed."""
    steer(session, id, reason, session.client.suspend, "suspended", "will rest as soon as a worker takes it")


@command(app, "resume", STEER, needs_store=True)
def _resume(session: Session, id: Id, reason: Why = None) -> None:
    """Let a paused orchestration go on."""
    steer(
        session,
        id,
        reason,
        session.client.resume,
        "resumed",
        "will go on as soon as a worker takes it, if it was suspended",
    )


@command(app, "cancel", STEER, needs_store=True)
def _cancel(
    session: Session,
    id: Id,
    reason: Annotated[str | None, typer.Option("--reason", metavar="JSON", help="Why; its code is told.")] = None,
) -> None:
    """Ask an orchestration to end; its code may clean up first."""
    steer(
        session,
        id,
        reason,
        session.client.cancel,
        "cancelled",
        "will be told as soon as a worker takes it, and may compensate",
    )


# ---- Check


@command(app, "replay", CHECK, needs_store=True)
def _replay(
    session: Session,
    histories: Annotated[
        list[str], typer.Argument(metavar="ID|FILE...", help="Instance ids, or files that `durable export` wrote.")
    ],
    code: Annotated[
        list[str] | None, typer.Option("--code", metavar="MODULE", help="The code: a module or a file; repeatable.")
    ] = None,
) -> int:
    """Check that today's code fits what has been recorded.

    Runs the orchestrators, no activities. Exit status 7 when one differs;
    the first difference is printed.
    """
    return archives.replay(session, histories, code or [])


@command(app, "export", CHECK, needs_store=True)
def _export(
    session: Session,
    id: Id,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; default stdout.")
    ] = None,
) -> None:
    """Write an orchestration's history to a file.

    JSON lines with every execution that is there, the events no turn has
    taken, and the status. Payloads are in it.
    """
    archives.export(session, id, output)


@command(app, "import", CHECK)
def _import(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `durable export` wrote; - is stdin.")],
    new_id: Annotated[str | None, typer.Option("--as", metavar="ID", help="Under this id, not the one it had.")] = None,
    go_on: Annotated[bool, typer.Option("--go-on", help="Take an unfinished one too: it goes on here.")] = False,
) -> None:
    """Put an exported orchestration into this store.

    A finished one is there to be looked at. An unfinished one goes on here,
    and its open activities run again; its children are imported by
    themselves, and before it.
    """
    archives.import_(session, file, new_id, go_on)


add_renewing(app, STEER)


@command(app, "publish", STEER, needs_store=True)
def _publish(
    session: Session,
    type: Annotated[
        str | None, typer.Option("--type", metavar="TEXT", help="What happened, e.g. com.shop.paid.")
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", metavar="TEXT", help="What it is about.")] = None,
    source: Annotated[str | None, typer.Option("--source", metavar="URI", help=f"Default: {SOURCE}.")] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Twice the same, with its source, is one event.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="JSON", help="Default: none. @FILE or - reads it.")
    ] = None,
    delay: Annotated[float | None, typer.Option("--delay", metavar="SECONDS", help="It comes so much later.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="A whole CloudEvent as JSON; - is stdin.")
    ] = None,
) -> None:
    """Publish an event for triggers, and print its id.

    A worker takes it, and does what triggers say is to happen.
    """
    attributes = {"type": type, "subject": subject, "source": source, "id": id}
    if file is None:
        publish(session, attributes, data, delay)
    elif any(value is not None for value in (*attributes.values(), data)):
        raise CommandError(Exit.USAGE, "--file has the whole event: leave out the options that describe one")
    else:
        publish_file(session, file, delay)


add_triggers(app, STEER)


def _tags(given: list[str]) -> dict[str, str] | None:
    tags: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise CommandError(Exit.USAGE, f"--tag {one!a}: write KEY=VALUE")
        tags[key] = value
    return tags or None
