"""`durable show`: one orchestration on one screen. How it stands, why, what it waits for, what to do, what it did."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from rich.cells import cell_len

from ..model import history as h
from ..model.failure import FailureDetails, users_line
from ..model.history import HistoryEvent
from ..model.names import TRIGGERS
from ..model.status import OrchestrationStatus, RuntimeStatus
from .advice import Advice, advice, is_served, quoted
from .around import Around, group_of
from .events import detail, failure_line
from .tasks import Kind, State, Task, culprit_of, tasks_of, untaken_of
from .terminal import Screen, cut, duration, json_text, moment, preview, safe, status_style, wrapped
from .timeline import draw
from .trigger_words import pattern_words

_LABEL_CELLS: Final = 12
_MOST_PAYLOAD: Final = 600
_MOST_OPEN: Final = 20


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
        if s.parent_instance_id == TRIGGERS:
            self._field("trigger", safe(s.instance_id.rpartition(":")[0]))
        elif s.parent_instance_id:
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
        self.screen.field(f"  {label}", cut(text, _MOST_PAYLOAD), _LABEL_CELLS + 2, self.width, "dim")

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
            self._advise(Advice("the child", (f"durable show {quoted(failed.child)}",)))

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
            what = "" if task.pattern is None else f" {pattern_words(task.pattern)}"
            return (f"{safe(task.name)}{what}, {limit}",)
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
        found = advice(self.status, self.tasks, self.around, self.now)
        if not found:
            return
        self._title("what to do")
        for one in found:
            self._advise(one)

    def _advise(self, one: Advice) -> None:
        """On one line if it fits; else each command has one of its own, which is not broken: it is to be copied."""
        together = "".join(f": {command}" for command in one.commands)
        if len(one.commands) <= 1 and cell_len(one.words + together) <= self.width - 2:
            self.screen.say("  ", one.words + together)
            return
        self._paragraph(f"{one.words}:" if one.commands else one.words)
        for command in one.commands:
            self.screen.say("    ", command)

    # ---- who works

    def _unserved(self) -> list[str]:
        """Who is missing, in words."""
        missing: list[str] = []
        if not self.status.runtime_status.finished and not is_served(self.status, self.around):
            missing.append(f"no living worker serves group {group_of(self.status)!r}")
        return [*missing, *filter(None, [self.status.blocked_reason])]
