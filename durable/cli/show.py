"""`durable show`: one orchestration on one screen. How it stands, why, what it waits for, what to do, what it did."""

from __future__ import annotations

import builtins
import shlex
from datetime import datetime
from typing import Final

from ..model import history as h
from ..model.errors import PayloadError, TimeoutError
from ..model.failure import FailureDetails, users_line
from ..model.history import HistoryEvent
from ..model.status import DEFAULT_GROUP, OrchestrationStatus, RuntimeStatus
from .around import Around, group_of
from .events import detail, failure_line
from .tasks import Kind, State, Task, culprit_of, tasks_of, untaken_of
from .terminal import Screen, cut, duration, json_text, moment, preview, safe, status_style, wrapped
from .timeline import draw

_LABEL_CELLS: Final = 12
_MOST_PAYLOAD: Final = 600
_MOST_OPEN: Final = 20


# What helps against the innermost cause, where more can be said than that it has to be repaired.
_REMEDIES: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (PayloadError, "it is declared as", "Pass what the code declares, or change what it declares."),
    (builtins.TimeoutError, "longer than its timeout", "Give it more time (timeout=), or more tries (retry=)."),
    (
        builtins.TimeoutError,
        "sent no heartbeat",
        "Let it call ctx.heartbeat() more often, or allow more time between (heartbeat_timeout=).",
    ),
    (TimeoutError, "no event", "Give the wait more time (timeout=), or let the code catch durable.TimeoutError."),
)

# What helps a blocked one go on, by words of its reason; the last row is for the others.
_UNBLOCKING: Final = (
    ("ran longer than", "Run a worker whose code yields sooner: durable worker MODULE"),
    (
        "does not fit its history",
        "Run a worker with code that fits, or that guards the change with ctx.patched: durable worker MODULE",
    ),
    ("", "Run a worker that can: durable worker MODULE"),
)


def show(
    screen: Screen, status: OrchestrationStatus, pending: list[HistoryEvent], around: Around, now: datetime
) -> None:
    """Print everything about one orchestration.

    status: with its history. pending: what has come and no turn has taken yet. now: the end of what is open.
    """
    _Page(screen, status, pending, around, now).print()


class _Page:
    def __init__(
        self,
        screen: Screen,
        status: OrchestrationStatus,
        pending: list[HistoryEvent],
        around: Around,
        now: datetime,
    ) -> None:
        self.screen = screen
        self.around = around
        self.status = status
        self.events = status.history or []
        here = [event for event in pending if event.execution_id in (None, status.execution_id)]
        self.tasks = tasks_of([*self.events, *here])
        self.pending = pending
        self.now = now
        self.width = min(screen.width, 120)

    def print(self) -> None:
        self._head()
        status = self.status.runtime_status
        if self.status.failure is not None:
            self._failure(self.status.failure)
        elif status is RuntimeStatus.BLOCKED:
            self._title("blocked")
            self._paragraph(safe(self.status.blocked_reason or "no reason was recorded"), "yellow")
        elif unserved := self._unserved():
            self._title("nobody serves")
            for text in unserved:
                self._paragraph(safe(text), "yellow")
        if not status.finished:
            self._waits()
            self._has_come()
        self._nobody_took()
        self._next()
        if self.tasks:
            self._title("timeline")
            begin = self.events[0].timestamp
            draw(self.screen, self.tasks, begin, self.status.completed_at or max(self.now, begin))
            rests = self._rests()
            if rests:
                self._paragraph(f"suspended for {', '.join(rests)}", "yellow", indent=0)

    # ---- how it stands

    def _head(self) -> None:
        s = self.status
        self.screen.say((safe(s.instance_id), "bold"), "  ", (s.runtime_status.value, status_style(s.runtime_status)))
        self.screen.say()
        version = f" (version {safe(s.version)})" if s.version else ""
        self._field("name", f"{safe(s.name)}{version}")
        self._field("created", self._times())
        for label, text in self._steered():
            self._field(label, text)
        if s.parent_instance_id:
            self._field("parent", safe(s.parent_instance_id))
        if s.tags:
            self._field("tags", ", ".join(f"{safe(key)}={safe(value)}" for key, value in sorted(s.tags.items())))
        self._field("input", json_text(s.input))
        if s.custom_status is not None:
            self._field("custom", json_text(s.custom_status))
        if s.output is not None or s.runtime_status is RuntimeStatus.COMPLETED:
            self._field("output", json_text(s.output))

    def _steered(self) -> list[tuple[str, str]]:
        """When it starts, since when it rests, and that it was told to end."""
        found: list[tuple[str, str]] = []
        s = self.status.runtime_status
        start_at = self.events[0].fire_at if self.events else None
        if start_at is not None and s is RuntimeStatus.PENDING:
            ahead = f", in {duration(start_at - self.now)}" if start_at > self.now else ""
            found.append(("starts", f"{moment(start_at)}{ahead}"))
        last = {event.type: event for event in self.events}
        if s is RuntimeStatus.SUSPENDED:
            found.append(("suspended", self._said(last[h.EXECUTION_SUSPENDED])))
        if h.EXECUTION_CANCELED in last:
            found.append(("cancelled", self._said(last[h.EXECUTION_CANCELED])))
        return found

    def _said(self, event: HistoryEvent) -> str:
        why = "" if event.input is None else f": {json_text(event.input)}"
        return f"{moment(event.timestamp)}, {duration(self.now - event.timestamp)} ago{why}"

    def _rests(self) -> list[str]:
        """The times for which it was suspended, in words."""
        begin = self.events[0].timestamp
        since: datetime | None = None
        found: list[str] = []
        end = self.status.completed_at or max(self.now, begin)
        for event in self.events:
            if event.type == h.EXECUTION_SUSPENDED:
                since = event.timestamp
            elif event.type == h.EXECUTION_RESUMED and since is not None:
                found.append(f"{duration(event.timestamp - since)} from {duration(since - begin)}")
                since = None
        if since is not None:
            found.append(f"{duration(end - since)} from {duration(since - begin)} on")
        return found

    def _times(self) -> str:
        s = self.status
        if s.completed_at is not None:
            return f"{moment(s.created_at)}, took {duration(s.completed_at - s.created_at)}"
        return f"{moment(s.created_at)}, {duration(self.now - s.created_at)} ago"

    def _field(self, label: str, text: str) -> None:
        first, *rest = wrapped(cut(text, _MOST_PAYLOAD), self.width - _LABEL_CELLS - 2)
        self.screen.say((f"  {label.ljust(_LABEL_CELLS)}", "dim"), first)
        for line in rest:
            self.screen.say(" " * (_LABEL_CELLS + 2), line)

    def _title(self, text: str) -> None:
        self.screen.say()
        self.screen.say((text, "bold"))

    def _paragraph(self, text: str, style: str = "", indent: int = 2) -> None:
        for line in wrapped(text, self.width - indent):
            self.screen.say(" " * indent, (line, style))

    # ---- why it failed

    def _failure(self, failure: FailureDetails) -> None:
        self._title("failure")
        link: FailureDetails | None = failure
        lead = ""
        while link is not None:
            self._paragraph(f"{lead}{failure_line(link, alone=False)}", "red")
            place = users_line(link.stack_trace)
            if place is not None:
                text = f"{place.file}:{place.line} in {place.function}: {place.code}"
                self._paragraph(safe(text), "dim", indent=6)
            link, lead = link.cause, "caused by "
        self._given(failure, self.tasks)
        for child in self.around.failed:
            if child.failure is not None:
                self._given(child.failure, tasks_of(child.history or []))

    def _given(self, failure: FailureDetails, tasks: list[Task]) -> None:
        """What the task was given whose failure was not caught."""
        failed = culprit_of(tasks, failure)
        if failed is None:
            return
        tries = f", {len(failed.attempts)} attempts" if len(failed.attempts) > 1 else ""
        what = {Kind.ACTIVITY: "arguments", Kind.EVENT: "data"}.get(failed.kind, "input")
        given = "none" if failed.input is None else cut(json_text(failed.input), _MOST_PAYLOAD)
        self._paragraph(f"{what} of {safe(failed.name)} (task {failed.id}{tries}): {given}")
        if failed.child:
            self._paragraph(f"the child: durable show {_quoted(failed.child)}")

    # ---- what it waits for

    def _waits(self) -> None:
        waiting = [task for task in self.tasks if task.open]
        if not waiting:
            return
        self._title("waits for")
        for task in waiting[:_MOST_OPEN]:
            self.screen.say((f"  {task.kind.value.ljust(10)}", "dim"), *self._open(task))
        if len(waiting) > _MOST_OPEN:
            self.screen.say((f"  and {len(waiting) - _MOST_OPEN} more", "dim"))

    def _has_come(self) -> None:
        if not self.pending:
            return
        self._title("has come, and no turn has taken it yet")
        for event in self.pending[:_MOST_OPEN]:
            self._paragraph(f"{safe(event.type)} {detail(event, {})}".rstrip())
        if len(self.pending) > _MOST_OPEN:
            self.screen.say((f"  and {len(self.pending) - _MOST_OPEN} more", "dim"))

    def _nobody_took(self) -> None:
        kept = untaken_of(self.events)
        if not kept:
            return
        self._title("came, and nobody has taken it")
        for event in kept[:_MOST_OPEN]:
            self._paragraph(f"event {safe(event.name or '')} {preview(event.input)}")
        if len(kept) > _MOST_OPEN:
            self.screen.say((f"  and {len(kept) - _MOST_OPEN} more", "dim"))

    def _open(self, task: Task) -> tuple[str | tuple[str, str], ...]:
        room = self.width - 12
        if task.kind is Kind.TIMER:
            return (f"due {self._due(task)}",)
        if task.kind is Kind.EVENT:
            limit = "no time limit" if task.due is None else f"times out {self._due(task)}"
            return (f"{safe(task.name)}, {limit}",)
        if task.state is State.RETRYING:
            how = f"attempt {len(task.attempts) + 1} {self._due(task)}"
        else:
            how = f"attempt {len(task.attempts)}, scheduled {duration(self.now - task.attempts[-1].started)} ago"
        if task.child:
            child = self.around.children.get(task.child)
            status = () if child is None else (": ", (child.runtime_status.value, status_style(child.runtime_status)))
            return (f"{safe(task.name)} as {safe(task.child)}", *status)
        lead = f"{safe(task.name)}, {how}"
        given = "" if task.input is None else cut(f", input {preview(task.input)}", max(12, room - len(lead)))
        return (lead + given,)

    def _due(self, task: Task) -> str:
        if task.due is None:
            return "at an unknown time"
        if task.due <= self.now:
            return f"since {moment(task.due)} (a worker will see to it)"
        return f"{moment(task.due)} (in {duration(task.due - self.now)})"

    # ---- what to do

    def _next(self) -> None:
        advice = [*self._remedy(), *self._advice()]
        if not advice:
            return
        self._title("what to do")
        for text in advice:
            self._paragraph(text)

    def _advice(self) -> list[str]:
        instance = _quoted(self.status.instance_id)
        status = self.status.runtime_status
        if status is RuntimeStatus.FAILED:
            return [
                *self._other_data(),
                f"Repair the cause, then let it go on from there: durable rewind {instance}",
                f"Every step: durable history {instance}",
            ]
        if status.finished:
            return self._left()
        if status is RuntimeStatus.BLOCKED:
            return [
                next(text for words, text in _UNBLOCKING if words in (self.status.blocked_reason or "")),
                f"To end it instead: durable terminate {instance}",
            ]
        if status is RuntimeStatus.SUSPENDED:
            return [f"To let it go on: durable resume {instance}"]
        start_at = self.events[0].fire_at if self.events else None
        if start_at is not None and start_at > self.now and status is RuntimeStatus.PENDING:
            return ["It starts by itself when its time has come, which takes a running worker."]
        if status is RuntimeStatus.PENDING:
            return self._pending()
        events = dict.fromkeys(t.name for t in self.tasks if t.open and t.kind is Kind.EVENT)
        advice = [] if self._has_workers() else [f"Start a worker: {self._worker_command()}"]
        advice += [f"durable raise {instance} {_quoted(name)} --data JSON" for name in list(events)[:5]]
        reason = self.status.blocked_reason or ""
        queues = dict.fromkeys(t.queue for t in self.tasks if t.open and t.queue and f"queue {t.queue!r}" in reason)
        advice += [f"Start a worker for it: durable worker MODULE --queue {_quoted(queue)}" for queue in queues]
        for child in self.around.children.values():
            if child.blocked_reason or child.runtime_status is RuntimeStatus.SUSPENDED:
                advice.append(f"A child does not go on: durable show {_quoted(child.instance_id)}")
        return advice

    def _left(self) -> list[str]:
        """Work whose outcome the code did not wait for: most often a forgotten yield."""
        left = [t for t in self.tasks if t.state is State.LEFT and t.kind in (Kind.ACTIVITY, Kind.CHILD)]
        if self.status.runtime_status is not RuntimeStatus.COMPLETED or not left:
            return []
        names = cut(", ".join(f"{safe(task.name)} (task {task.id})" for task in left), 200)
        return [f"It ended without waiting for {names}: is that meant, or is a yield missing?"]

    def _other_data(self) -> list[str]:
        """What helps where an event's data did not fit: a rewound wait takes the same event again."""
        wait = culprit_of(self.tasks, self.status.failure) if self.status.failure is not None else None
        if wait is None or wait.kind is not Kind.EVENT or wait.came_early:
            return []
        again = f"durable fork {_quoted(self.status.instance_id)} --after {wait.ended_by - 1}"
        return [f"If other data should have come, raise it for a fork, which waits for it again: {again}"]

    def _pending(self) -> list[str]:
        """Nobody has taken it; a worker does not say which orchestrators it has."""
        which = f"with a module that has {safe(self.status.name)}"
        if not self._has_workers():
            return [f"No worker has taken it yet: {self._worker_command()}, {which}"]
        group = group_of(self.status)
        pids = ", ".join(f"{beat.pid} on {safe(beat.host)}" for beat in self.around.workers if group in beat.groups)
        return [
            f"A worker of its group is alive (pid {cut(pids, 200)}). If it does not take it now, it has no "
            f"orchestrator of this name or version: {self._worker_command()}, {which}"
        ]

    def _remedy(self) -> list[str]:
        """What helps against the innermost cause in particular."""
        link = self.status.failure
        while link is not None and link.cause is not None:
            link = link.cause
        if link is None:
            return []
        return [text for kind, words, text in _REMEDIES if link.is_a(kind) and words in link.message][:1]

    # ---- who works

    def _has_workers(self) -> bool:
        return any(group_of(self.status) in beat.groups for beat in self.around.workers)

    def _worker_command(self) -> str:
        group = group_of(self.status)
        return "durable worker MODULE" + ("" if group == DEFAULT_GROUP else f" --group {_quoted(group)}")

    def _unserved(self) -> list[str]:
        """Who is missing, in words."""
        missing: list[str] = []
        if not self.status.runtime_status.finished and not self._has_workers():
            missing.append(f"no living worker serves group {group_of(self.status)!r}")
        return [*missing, *filter(None, [self.status.blocked_reason])]


def _quoted(text: str) -> str:
    """`text` as it can be typed in a shell; what can't be typed is shown escaped."""
    return shlex.quote(safe(text))
