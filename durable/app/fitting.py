"""Does today's code fit a history? The replay that a worker would do, without a worker and without a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ..engine.instance import Env, Instance
from ..engine.step import revive
from ..model import history as h
from ..model.history import Event, UnreadableHistory
from ..model.limits import Limits
from ..model.status import RuntimeStatus, Summary
from ..replay.guard import Watch
from ..replay.live_code import Code
from ..replay.mismatch import Mismatch
from .archive import Archive

Find = Callable[[str, str, bool], Code | None]  # name, version, whether for a first turn


def first_difference(archive: Archive, find: Find, limits: Limits | None = None) -> str:
    """The first difference between the code and any of the executions, as `blocked_reason` says it; '' when all fit.

    find: code by name and version, as a registry finds it. Nothing is called but the orchestrator itself; what it
    raises is compared with the history like everything else.
    """
    name = archive.summary.name
    for execution in archive.executions:
        # The first turn fixes a version that the start left open.
        begun = [event for event in execution.events if event.type in (h.EXECUTION_STARTED, h.ORCHESTRATOR_STARTED)]
        version = next((event.version for event in begun if event.version), "")
        code = find(name, version, len(begun) == 1)
        if code is None:
            shown = f"{name!r} in version {version!r}" if version else repr(name)
            return f"the code has no orchestrator {shown}"
        summary = msgspec.structs.replace(archive.summary, execution_id=execution.id, status=RuntimeStatus.RUNNING)
        difference = _difference(summary, execution.events, code, limits or Limits())
        if difference:
            return difference
    return ""


def _difference(summary: Summary, events: Sequence[Event], code: Code, limits: Limits) -> str:
    def mint() -> str:
        raise AssertionError("a replay makes nothing new")

    recorded = _taken_by_code(events)
    instance = Instance(summary, 1, events[0], len(recorded), None, recorded)
    try:
        revive(instance, code, Env("", 0.0, mint, 1, limits, Watch()))
    except Mismatch as mismatch:
        return mismatch.reason
    except UnreadableHistory as error:
        return str(error)
    return ""


def _taken_by_code(events: Sequence[Event]) -> Sequence[Event]:
    """Without the turn that terminated it: that one needs no code."""
    for number, event in enumerate(events):
        if event.type == h.EXECUTION_TERMINATED:
            return events[: number - 1]  # and the OrchestratorStarted of that turn
    return events
