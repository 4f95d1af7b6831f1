"""One invocation: what was asked of every command, its store, and how it ends."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

import typer
from typer.core import TyperCommand, TyperGroup

from ..app.client import Client, connect
from ..app.plugins import create_store, events_url_or_default, url_or_default, workspace_or_default
from .exits import CommandError, Exit, command_error
from .loading import search
from .terminal import Screen, safe

Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="Store; $DURABLE_URL, else .durable/durable.db.")]
EventsUrl = Annotated[
    str | None, typer.Option("--events-url", metavar="URL", help="Broker; $DURABLE_EVENTS_URL, else none.")
]
Workspace = Annotated[str | None, typer.Option("--workspace", metavar="NAME", help="$DURABLE_WORKSPACE, else default.")]
Json = Annotated[bool, typer.Option("--json", help="For programs; docs/json.md says what is in it.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colour. So does NO_COLOR, and a pipe.")]

Id = Annotated[str, typer.Argument(metavar="ID", help="The orchestration's instance id.")]


class Everywhere(NamedTuple):
    """The options of every command; they may stand before it too."""

    url: str | None = None
    events_url: str | None = None
    workspace: str | None = None
    as_json: bool = False
    no_color: bool = False


class Session:
    """What a command works with. `needs_store`: one that is there; it makes none."""

    def __init__(self, options: Everywhere, needs_store: bool = False) -> None:
        self.screen = Screen(as_json=options.as_json, colour=not options.no_color)
        self.as_json = options.as_json
        self.options = options
        self._url = url_or_default(options.url)
        self._events_url = events_url_or_default(options.events_url)
        self._needs_store = needs_store
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client of the store; opened when it is first needed. Raises CommandError where it must be, and is not."""
        if self._client is None:
            if self._needs_store:
                self.refuse_own_memory()
                _check_there(self._url, self.options.workspace)
            search(Path.cwd())  # for DURABLE_CODEC, as `python -m` would
            self._client = connect(self._url, events=self.options.events_url, workspace=self.options.workspace)
        return self._client

    def create_store(self) -> bool:
        """Make the store where opening it does not; whether there was something to make."""
        return create_store(self._url)

    def refuse_own_memory(self) -> None:
        """For commands that other processes have to see. Raises CommandError."""
        if self._url.startswith("memory:"):
            raise CommandError(
                Exit.USAGE,
                "memory:// is each process's own memory, and this one has just begun: give the URL of another store",
            )

    @property
    def store(self) -> str:
        """Where the store is: the path of a file, else the URL without what may be secret in it."""
        path = _path_of(self._url, self.options.workspace)
        return safe(path) if path is not None else _shown(self._url, "the store")

    @property
    def broker(self) -> str:
        """The broker's URL likewise; '' where there is none."""
        return _shown(self._events_url, "the broker") if self._events_url else ""

    def without_secrets(self, message: str) -> str:
        """`message` without the passwords of the URLs, whoever put them there."""
        for url in filter(None, (self._url, self._events_url)):
            try:
                parts = urlsplit(url)
            except ValueError:
                message = message.replace(url, "URL")
                continue
            if "@" in url.replace(parts.netloc, "", 1):  # where it should be encoded: the password may be anywhere
                message = message.replace(url, "URL")
            for secret in _secrets(parts):
                message = message.replace(secret, "***")
        return message

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _path_of(url: str, workspace: str | None) -> str | None:
    """The absolute path behind a `sqlite:///` URL; None for other URLs, and for those that the store refuses."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    path = unquote(parts.path[1:])
    refused = parts.netloc or not path or path.endswith("/") or path == ":memory:" or not path.isprintable()
    if not url.casefold().startswith("sqlite://") or refused:
        return None
    workspace = workspace_or_default(workspace)
    beside = "" if workspace == "default" else f"@{quote(workspace, safe='')}"  # each has a file of its own
    return os.path.realpath(path) + beside


def _check_there(url: str, workspace: str | None) -> None:
    """Opening would make the folders and the file that are missing, and show an empty store."""
    path = _path_of(url, workspace)
    if path is not None and _is_missing(path):
        raise CommandError(
            Exit.STORE,
            f"no store at {path}: go to the folder it is in, or give --url or $DURABLE_URL; "
            "`durable run` and `durable worker` make one",
        )


def _is_missing(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # out of sight for this user: opening it says why
        return False
    return False


class PlainCommand(TyperCommand):
    """A command whose help says what is its own first, and does not call a flag a <bool> and an id a <str>."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = _without_types(super().get_params(ctx))
        for param in params:
            if param.name in _EVERYWHERE:
                param.rich_help_panel = "Options of every command"
        return params


class PlainGroup(TyperGroup):
    """`durable` itself, likewise."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
        elif param.param_type_name == "argument":
            param.display_type_rich = _no_type
    return params


def _no_type(ctx: Any) -> None:
    """Its name and its description say it better."""


Body = Callable[..., int | None]


def command(app: typer.Typer, name: str, panel: str, *, needs_store: bool = False) -> Callable[[Body], Body]:
    """Make `body(session, ...)` a command: its own options, those of every command, and one way to end.

    needs_store: it needs a store that is there already.
    """

    def register(body: Body) -> Body:
        def call(
            ctx: typer.Context,
            url: str | None,
            events_url: str | None,
            workspace: str | None,
            json: bool,
            no_color: bool,
            **given: Any,
        ) -> int:
            options = _over(ctx.obj, Everywhere(url, events_url, workspace, json, no_color))
            return _ended(options, needs_store, lambda session: body(session, **given))

        hints = inspect.get_annotations(body, eval_str=True)  # get_type_hints makes Optional of defaults in 3.10
        own = [p.replace(annotation=hints[p.name], kind=_KEYWORD) for p in inspect.signature(body).parameters.values()]
        call.__doc__ = body.__doc__
        # typer reads a command's options from its signature.
        call.__signature__ = inspect.Signature([_CONTEXT, *own[1:], *_COMMON])  # type: ignore[attr-defined]  # inspect reads it, mypy does not know it
        call.__annotations__ = {p.name: p.annotation for p in (_CONTEXT, *own[1:], *_COMMON)}
        app.command(name, cls=PlainCommand, rich_help_panel=panel)(call)
        return body

    return register


def group(app: typer.Typer, name: str, panel: str, says: str) -> typer.Typer:
    """A group of commands, before whose names the options of every command may stand too."""
    made = typer.Typer(cls=PlainGroup)

    @made.callback()
    def everywhere(
        ctx: typer.Context,
        url: Url = None,
        events_url: EventsUrl = None,
        workspace: Workspace = None,
        json: Json = False,
        no_color: NoColor = False,
    ) -> None:
        ctx.obj = _over(ctx.obj, Everywhere(url, events_url, workspace, json, no_color))

    app.add_typer(made, name=name, help=says, rich_help_panel=panel)
    return made


def _over(before: object, given: Everywhere) -> Everywhere:
    """What was given, over what was given before."""
    if not isinstance(before, Everywhere):
        return given
    return Everywhere(
        given.url or before.url,
        before.events_url if given.events_url is None else given.events_url,  # empty: no broker
        given.workspace or before.workspace,
        given.as_json or before.as_json,
        given.no_color or before.no_color,
    )


def _ended(options: Everywhere, needs_store: bool, body: Callable[[Session], int | None]) -> int:
    """Run a command to its exit status."""
    screen = Screen(as_json=options.as_json, colour=not options.no_color)
    session: Session | None = None
    try:
        session = Session(options, needs_store)
        try:
            return body(session) or Exit.DONE
        finally:
            session.close()
    except BrokenPipeError:
        return _closed_pipe()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:
        known = command_error(error)
        clean = session.without_secrets if session is not None else str
        try:
            if known is not None:
                screen.error(known.exit_status.name.lower(), clean(str(known)), [clean(line) for line in known.below])
                return known.exit_status
            said = f"{type(error).__name__}: {error}. This is a bug in durable; please report it."
            trace = [] if options.as_json else "".join(traceback.format_exception(error)).rstrip().split("\n")
            screen.error("bug", clean(said), [clean(line) for line in trace])
        except BrokenPipeError:
            return _closed_pipe()
        return Exit.BUG


def _closed_pipe() -> int:
    """Whoever read our output has left. What is still buffered must not raise when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    return Exit.CLOSED_PIPE


def _shown(url: str, otherwise: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return otherwise
    if not parts.netloc or "@" in parts.path:  # a password may be anywhere in what can't be taken apart
        return otherwise
    return safe(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def _secrets(parts: SplitResult) -> list[str]:
    password = parts.password or ""
    return [text for text in (parts.netloc.rpartition("@")[0], password, unquote(password), parts.query) if text]


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_CONTEXT = inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context)
_COMMON = (
    inspect.Parameter("url", _KEYWORD, default=None, annotation=Url),
    inspect.Parameter("events_url", _KEYWORD, default=None, annotation=EventsUrl),
    inspect.Parameter("workspace", _KEYWORD, default=None, annotation=Workspace),
    inspect.Parameter("json", _KEYWORD, default=False, annotation=Json),
    inspect.Parameter("no_color", _KEYWORD, default=False, annotation=NoColor),
)
_EVERYWHERE = frozenset({*(parameter.name for parameter in _COMMON), "help"})
