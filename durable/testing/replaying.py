"""Does today's code fit a recorded history? For CI: a folder of exported files, one call each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..app.archive import Archive, Recorded
from ..app.archive_file import read_archive
from ..app.fitting import Find, first_difference
from ..app.functions import Orchestrator
from ..app.registry import Registry, default_registry
from ..model import history as h
from ..model.errors import OrchestrationBlockedError
from ..model.history import Event, HistoryEvent, Parent, Raw
from ..model.status import RuntimeStatus, Summary
from ..replay.live_code import Code


def replay(
    history: str | os.PathLike[str] | Sequence[HistoryEvent],
    orchestrator: Orchestrator[..., Any] | None = None,
    registry: Registry | None = None,
) -> None:
    """Replay a history against today's code; returns when it fits.

        for file in Path("histories").glob("*.jsonl"):
            durable.testing.replay(file)

    history: a file that `durable export` wrote, or what `client.history()` returned. orchestrator: the code; default
    is whatever the registry has under the recorded name and version. registry: default is that of the module-level
    decorators, whose module must have been imported. Activities are not run.

    Raises OrchestrationBlockedError with the first difference (`.reason`: what the history has, what the code did,
    file and line, as `blocked_reason` says it), ValueError for a file that is no exported history, OSError.
    """
    archive = _from_file(Path(history)) if isinstance(history, str | os.PathLike) else _from_events(history)
    find: Find = (registry or default_registry).find_orchestrator
    if orchestrator is not None:
        assert orchestrator.signature is not None
        code = Code(orchestrator.name, orchestrator.fn, orchestrator.signature)
        find = lambda name, version, first_turn: code  # noqa: E731
    difference = first_difference(archive, find)
    if difference:
        summary = archive.summary
        shown = f"orchestration {summary.instance_id!r} ({summary.name})"
        raise OrchestrationBlockedError(f"{shown}: {difference}", difference)


def _from_file(path: Path) -> Archive:
    with path.open("rb") as stream:
        try:
            return read_archive(stream)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _from_events(history: Sequence[HistoryEvent]) -> Archive:
    events = [_event(event) for event in history if event.event_id is not None]
    if not events or events[0].type != h.EXECUTION_STARTED:
        raise ValueError("the history must begin with ExecutionStarted: give all that client.history() returned")
    started = events[0]
    summary = Summary(
        started.instance_id,
        started.execution_id,
        started.name,
        RuntimeStatus.RUNNING,
        started.timestamp,
        events[-1].timestamp,
        version=started.version,
    )
    return Archive(summary, [Recorded(started.execution_id, events)])


def _event(view: HistoryEvent) -> Event:
    """The stored form of a public event."""
    fields = {name: getattr(view, name) for name in view.__struct_fields__ if getattr(view, name) is not None}
    for extra in ("event_id", "parent_instance_id"):
        fields.pop(extra, None)
    for payload in ("input", "result"):
        if payload in fields:
            fields[payload] = Raw(msgspec.json.encode(fields[payload]))
    if view.input is None and view.type in _WITH_INPUT:
        fields["input"] = Raw(b"null")
    if view.parent_instance_id is not None:
        fields["parent"] = Parent(view.parent_instance_id, "", 0, 0)
    return Event(**fields)


_WITH_INPUT = frozenset({h.EXECUTION_STARTED, h.TASK_SCHEDULED, h.CHILD_CREATED, h.EVENT_RAISED, h.CONTINUE_AS_NEW})
