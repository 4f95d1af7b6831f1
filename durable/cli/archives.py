"""`durable export`, `import` and `replay`: histories as files, and whether code fits them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from ..app.archive import Archive, archive_of
from ..app.archive_file import read_archive, write_archive
from ..app.clock import utc_now
from ..app.fitting import first_difference
from ..app.registry import default_registry
from ..app.restoring import restore
from ..model.errors import InstanceNotFoundError
from ..model.names import check_name
from .exits import CommandError, Exit
from .loading import load
from .run import prints_elsewhere, standard_input
from .session import Session
from .terminal import printable_json, safe

_STDIO: Final = "-"


def export(session: Session, instance_id: str, output: str | None) -> None:
    """The command `export`."""
    archive = _stored(session, instance_id)
    if output is None or output == _STDIO:
        for line in write_archive(archive):
            shown = printable_json(line.decode()).encode() if session.screen.reads_on_terminal else line
            sys.stdout.buffer.write(shown)
        sys.stdout.buffer.flush()
        return
    beside = Path(f"{output}.{os.getpid()}.part")  # whoever reads the file meanwhile must not find half of it
    try:
        with beside.open("xb") as stream:
            stream.writelines(write_archive(archive))
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CommandError(Exit.USAGE, f"{output!r} can't be written: {error.strerror or error}") from error
    session.screen.answer({"exported": output, "instance_id": instance_id}, f"{safe(instance_id)} is in {safe(output)}")


def import_(session: Session, file: str, instance_id: str | None, go_on: bool) -> None:
    """The command `import`."""
    if instance_id is not None:
        check_name(instance_id, "--as")
    archive = _read(file)
    if not archive.summary.status.finished and not go_on:
        raise CommandError(
            Exit.USAGE,
            f"{archive.summary.instance_id!r} is {archive.summary.status}: imported, it goes on here, and its open "
            "activities run again. Make sure that it does not run where it came from, then add --go-on. "
            f"To see whether code fits it: durable replay {safe(file)} --code MODULE",
        )
    taken = restore(session.client.backend, archive, utc_now(), instance_id=instance_id, go_on=go_on)
    status = archive.summary.status
    session.screen.answer(
        {"imported": file, "instance_id": taken, "status": status.value}, f"{safe(taken)} is imported, {status}"
    )


def replay(session: Session, targets: Sequence[str], modules: Sequence[str]) -> int:
    """The command `replay`; one line for each history, and the worst of their exit statuses."""
    if not modules:
        raise CommandError(Exit.USAGE, "say which code: --code MODULE, a module (my.flows) or a file (flows.py)")
    worst = Exit.DONE
    with prints_elsewhere(session.as_json):
        for module in modules:
            load(module)
        for target, archive in _archives(session, targets):
            difference = first_difference(archive, default_registry.find_orchestrator)
            worst = Exit.DIFFERS if difference else worst
            _say(session, target, archive, difference)
    return worst


def _archives(session: Session, targets: Sequence[str]) -> Iterator[tuple[str, Archive]]:
    for target in targets:
        is_file = Path(target).is_file() or any(mark in target for mark in ("/", "\\"))
        yield target, _read(target) if is_file else _stored(session, target)


def _say(session: Session, target: str, archive: Archive, difference: str) -> None:
    summary = archive.summary
    events = sum(len(execution.events) for execution in archive.executions)
    if session.as_json:
        session.screen.document(
            {
                "history": target,
                "instance_id": summary.instance_id,
                "name": summary.name,
                "events": events,
                "fits": not difference,
                "difference": difference or None,
            }
        )
    elif difference:
        session.screen.say(("differs", "red"), f"  {safe(target)}  {safe(summary.name)}")
        session.screen.say(f"  {safe(difference)}")
    else:
        session.screen.say(("fits", "green"), f"     {safe(target)}  {safe(summary.name)}, {events} events")


def _stored(session: Session, instance_id: str) -> Archive:
    check_name(instance_id, "ID")
    try:
        return archive_of(session.client.backend.store, instance_id)
    except InstanceNotFoundError:
        shown = f"no orchestration {instance_id!r} in {session.store}, and no file of that name"
        raise InstanceNotFoundError(f"{shown}; `durable list` shows what is there") from None


def _read(file: str) -> Archive:
    try:
        if file == _STDIO:
            return _parsed(standard_input().buffer, "standard input")
        with open(file, "rb") as stream:
            return _parsed(stream, file)
    except FileNotFoundError:
        raise CommandError(Exit.NOT_FOUND, f"there is no file {file!r}") from None
    except OSError as error:
        raise CommandError(Exit.USAGE, f"{file!r} can't be read: {error.strerror or error}") from error


def _parsed(stream: BinaryIO, file: str) -> Archive:
    try:
        return read_archive(stream)
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"{file}: {error}") from error
