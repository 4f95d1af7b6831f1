"""`durable run`: start or find one orchestration, serve it from this process, show what happens, print its result."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, TextIO
from uuid import uuid4

import msgspec

from ..app.functions import Orchestrator
from ..app.handle import OrchestrationHandle
from ..app.registry import default_registry
from ..app.worker import Worker
from ..model import history as h
from ..model.history import HistoryEvent
from ..model.limits import Limits
from ..model.names import check_name
from ..model.status import OrchestrationStatus, RuntimeStatus
from .events import EventRows
from .exits import CommandError, Exit
from .following import Following
from .loading import choose, load, split_target
from .logs import show_logs
from .session import Session
from .terminal import cut, duration, json_text, safe

GRACE_SECONDS: Final = 10.0
_MOST: Final = 2 * Limits().payload_bytes  # what is written wider than a store writes it has room too
# What was blocked before we came is tried again by our worker. Blocked after this long, it is blocked by this code.
_STILL_BLOCKED_SECONDS: Final = 2.0


def json_argument(text: str | None, option: str) -> Any:
    """The value of an option that takes JSON: itself, `@FILE`, or `-` for standard input; None where it was not given.

    Raises CommandError with the place.
    """
    if text is None:
        return None
    text = _read(text, option)
    try:
        text.encode()
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        why = f"{error.msg} at character {error.pos + 1}"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = str(error)
    hint = "Text needs its own quotes within those of the shell: '\"text\"'"
    raise CommandError(Exit.USAGE, f"{option} is no JSON: {why}, in {text[:60]!a}. {hint}")


def _read(text: str, option: str) -> str:
    """No JSON is `-` alone, or begins with `@`."""
    try:
        if text == "-":
            return _bounded(standard_input())
        if not text.startswith("@"):
            return text
        with open(text[1:], encoding="utf-8") as file:
            return _bounded(file)
    except FileNotFoundError:
        raise CommandError(Exit.NOT_FOUND, f"{option}: there is no file {text[1:]!a}") from None
    except (OSError, ValueError) as error:
        raise CommandError(Exit.USAGE, f"{option}: {text!a} can't be read ({error})") from None


def _bounded(stream: TextIO) -> str:
    """All of it. Raises ValueError where it does not end: a device, a pipe, a file that is no input."""
    text = stream.read(_MOST + 1)
    if len(text) > _MOST:
        raise ValueError(f"it is longer than {_MOST:,} characters, and no payload is")
    return text


def standard_input() -> TextIO:
    """Raises CommandError where there is none."""
    if sys.stdin is None:  # Python's way to say that it is closed
        raise CommandError(Exit.USAGE, "standard input is closed; give a file, or < /dev/null")
    return sys.stdin


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def run(session: Session, target: str, given: str | None, instance_id: str | None) -> int:
    """The command `run`; returns its exit status."""
    value = json_argument(given, "--input")
    instance_id = check_name(uuid4().hex if instance_id is None else instance_id, "--id")
    file, function = split_target(target)
    with prints_elsewhere(session.as_json):
        orchestrator = choose(load(file), function, file)
        _check_served(orchestrator, file)
        show_logs(logging.WARNING, lambda record: not _is_about(record, instance_id))
        _start_or_find(session, orchestrator, value, given is not None, instance_id)
        again = f"durable run {shlex.quote(safe(target))} --id {shlex.quote(instance_id)}"
        embedded = _Embedded(session, instance_id, again)
        try:
            return embedded.watch()
        except KeyboardInterrupt:
            embedded.interrupted()
            return Exit.INTERRUPTED
        finally:
            embedded.stop()


def _is_about(record: logging.LogRecord, instance_id: str) -> bool:
    """Whether the worker says something of this very orchestration: the command says it itself."""
    return isinstance(record.args, tuple) and instance_id in record.args[:1]


@contextlib.contextmanager
def prints_elsewhere(as_json: bool) -> Iterator[None]:
    """Under --json stdout is one JSON document, so what the user's code prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def _check_served(orchestrator: Orchestrator[..., Any], file: str) -> None:
    if default_registry.find_orchestrator(orchestrator.name, orchestrator.version) is None:
        raise CommandError(
            Exit.USAGE,
            f"{orchestrator.name!r} of {file} is in a registry of its own, which this command does not serve: "
            "use @durable.orchestrator, or run a Worker(registry=...) from Python",
        )


def _check_input(orchestrator: Orchestrator[..., Any], value: Any, was_given: bool) -> None:
    """What does not fit is refused before anything is started. Raises PayloadError, CommandError."""
    signature = orchestrator.signature
    assert signature is not None
    if not was_given and any(p.default is p.empty for p in signature.parameters):
        raise CommandError(Exit.USAGE, f"{signature.display} needs an input: --input JSON (several arguments: a list)")
    signature.decode_input(msgspec.Raw(json.dumps(value).encode()), "--input")


def _start_or_find(
    session: Session, orchestrator: Orchestrator[..., Any], value: Any, was_given: bool, instance_id: str
) -> None:
    found = session.client.get_status(instance_id, payloads=was_given)
    if found is None:
        _check_input(orchestrator, value, was_given)
        # start_many takes an input, as --input is one; start_orchestration takes arguments.
        session.client.start_many(orchestrator, [value], instance_ids=[instance_id], if_exists="return")
    elif found.name != orchestrator.name:
        raise CommandError(
            Exit.USAGE,
            f"{instance_id!r} is another orchestration ({found.name!r}, {found.runtime_status}): give another --id",
        )
    if not session.as_json:
        how = "started" if found is None else f"found, {found.runtime_status}"
        session.screen.note((safe(instance_id), "bold"), f"  {safe(orchestrator.name)}  {how}")
    if found is not None and was_given and found.input != value:
        kept = cut(json_text(found.input), 200)
        session.screen.note_value({"input": found.input}, f"its input stays {kept}; for another one give another --id")


class _Embedded:
    """One orchestration and the worker that serves it here, unless another process does."""

    def __init__(self, session: Session, instance_id: str, again: str) -> None:
        self._session = session
        self._screen = session.screen
        self._instance_id = instance_id
        self._again = again
        self._worker: Worker | None = None
        self._serving_since = 0.0

    def watch(self) -> int:
        """Until it has ended or is blocked; prints its result."""
        rows = EventRows(self._screen, self._screen.width, self._screen.note)
        first = True
        last: OrchestrationStatus | None = None
        for status, events in Following(self._session.client, self._instance_id).changes():
            if not status.runtime_status.finished:
                self._serve()
            if not self._session.as_json:
                _progress(rows, events, quiet=first and status.runtime_status is not RuntimeStatus.PENDING)
            first, last = False, status
            if status.runtime_status is RuntimeStatus.BLOCKED and self._is_blocked_here():
                raise CommandError(
                    Exit.BLOCKED,
                    f"{self._instance_id!r} is blocked: {status.blocked_reason}",
                    f"With code that fits: {self._again}",
                )
        assert last is not None  # there is always a first change
        return self._ended(last)

    def _ended(self, status: OrchestrationStatus) -> int:
        took = "" if status.completed_at is None else f", {duration(status.completed_at - status.created_at)}"
        if status.runtime_status is RuntimeStatus.COMPLETED:
            output = OrchestrationHandle[Any](self._session.client, self._instance_id).status().output
            if not self._session.as_json:
                self._screen.note((status.runtime_status.value, "green"), took)
            self._screen.document(output, indent=2 if self._screen.reads_on_terminal else None)
            return Exit.DONE
        why = f": {status.failure.summary}" if status.failure is not None else ""
        raise CommandError(
            Exit.FAILED,
            f"{self._instance_id!r} ended {status.runtime_status}{why}",
            f"Details: durable show {shlex.quote(self._instance_id)}",
        )

    def _serve(self) -> None:
        """Serve it from here; while somebody else serves the store, stand by, and step in when they are gone."""
        if self._worker is None:
            self._worker, self._serving_since = (
                Worker(self._session.client, shutdown_grace=GRACE_SECONDS),
                time.monotonic(),
            )
            self._worker.start()

    def _is_blocked_here(self) -> bool:
        return self._worker is None or time.monotonic() >= self._serving_since + _STILL_BLOCKED_SECONDS

    def stop(self) -> None:
        """Drain."""
        if self._worker is not None:
            self._worker.stop()
        self._worker = None

    def interrupted(self) -> None:
        """Drain too; interrupted again, wherever that is, leave what runs to the end of the process."""
        try:
            self._screen.note(f"stopping; what runs now gets {GRACE_SECONDS:g} s (Ctrl-C again: none)")
            self.stop()
        except KeyboardInterrupt:
            self._worker = None
        self._screen.note(f"stopped. It goes on where it was with: {self._again}")


def _progress(rows: EventRows, events: list[HistoryEvent], *, quiet: bool) -> None:
    """One line an event. What had happened before we came is not news; turns say nothing to the reader."""
    for event in events:
        if quiet or event.type == h.ORCHESTRATOR_STARTED:
            rows.skip(event)
        else:
            rows.print(event)
