"""History events as rows: number, time, time since the event before, type, task, and what it was about."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from typing import Final

from ..model import history as h
from ..model.failure import FailureDetails
from ..model.history import HistoryEvent
from .terminal import Screen, cut, duration, moment, preview, safe, wrapped

# At 80 columns the full names of these would leave no room for what happened.
_SHORT: Final = {h.CHILD_CREATED: "ChildCreated", h.CHILD_COMPLETED: "ChildCompleted", h.CHILD_FAILED: "ChildFailed"}
_WIDE: Final = 110
_STYLES: Final = {
    h.ORCHESTRATOR_STARTED: "dim",
    h.TASK_COMPLETED: "green",
    h.CHILD_COMPLETED: "green",
    h.TASK_FAILED: "red",
    h.CHILD_FAILED: "red",
    h.EVENT_RAISED: "cyan",
    h.EXECUTION_SUSPENDED: "yellow",
    h.EXECUTION_CANCELED: "magenta",
    h.EXECUTION_REWOUND: "magenta",
    h.EXECUTION_TERMINATED: "magenta",
}
# What a time means, where it is not when a timer is due.
_TIMES: Final = {h.EVENT_AWAITED: "until", h.EXECUTION_STARTED: "at"}
_MOST_DETAIL: Final = 400

Write = Callable[..., None]


class EventRows:
    """Prints events one after another; remembers what the next row needs. `write` is `screen.say` or `screen.note`."""

    def __init__(self, screen: Screen, width: int, write: Write) -> None:
        self._width = width
        self._write = write
        self._names: dict[int, str] = {}
        self._before: datetime | None = None
        self._day: date | None = None
        self._short: dict[str, str] = _SHORT if width < _WIDE else {}
        self._event_cells = 19 if width < _WIDE else 33

    def header(self) -> None:
        """The line above the first row."""
        event = "EVENT".ljust(self._event_cells)
        self._write((f"   #  TIME (UTC)     +DELTA  {event}  TASK  DETAIL", "dim"))

    def skip(self, event: HistoryEvent) -> None:
        """An event that is not printed, but that later ones refer to."""
        if event.task_id and event.name:
            self._names[event.task_id] = event.name

    def print(self, event: HistoryEvent) -> None:
        """One event; long details go on below."""
        self.skip(event)
        at = event.timestamp.astimezone(timezone.utc)
        if at.date() != self._day:
            if self._day is not None:
                self._write((f"      {at:%Y-%m-%d}", "dim"))
            self._day = at.date()
        since = at - (self._before or at)
        delta = f"+{duration(since)}" if since >= timedelta(milliseconds=0.5) else ""
        self._before = at
        number = "-" if event.event_id is None else str(event.event_id)
        kind = safe(self._short.get(event.type, event.type))
        style = _STYLES.get(event.type, "") or ("red" if event.failure is not None else "")
        lead = f"{number:>4}  {at:%H:%M:%S}.{at.microsecond // 1000:03} {delta:>8}  "
        task = str(event.task_id or "").rjust(4)
        label = cut(kind, self._event_cells).ljust(self._event_cells)
        room = max(20, self._width - len(lead) - self._event_cells - 8)
        first, *rest = wrapped(cut(detail(event, self._names), max(room, _MOST_DETAIL)), room)
        self._write((lead, "dim"), (label, style), f"  {task}  ", first)
        for line in rest:
            self._write(" " * (len(lead) + self._event_cells + 8), line)


def detail(event: HistoryEvent, names: dict[int, str]) -> str:
    """What an event was about, on one safe line. `names`: of the tasks so far."""
    name = safe(event.name or names.get(event.task_id or 0, ""))
    ended = event.status if event.type == h.EXECUTION_COMPLETED else None
    words = [safe(ended or ""), name]
    if event.attempt is not None and event.attempt > 1:
        words.append(f"attempt {event.attempt}")
    if event.version is not None:
        words.append(f"version {safe(event.version)}")
    if event.suggest_continue_as_new:
        words.append("suggests to continue as new")
    if event.type == h.EXECUTION_REWOUND:
        without = f", without event {event.voids}" if event.voids else ""
        words.append(f"back to before event {event.rewinds_to}{without}")
    elif event.instance_id is not None and event.type != h.EXECUTION_STARTED:
        words.append(f"{'to' if event.type == h.EVENT_SENT else 'as'} {safe(event.instance_id)}")
    if event.status == h.DETACHED:
        words.append("detached")
    if event.fire_at is not None:
        words.append(f"{_TIMES.get(event.type, 'due')} {moment(event.fire_at)}")
    for value in (event.input, event.result):
        if value is not None:
            words.append(preview(value, 200))
    if event.failure is not None:
        words.append(failure_line(event.failure))
    return " ".join(word for word in words if word)


def failure_line(failure: FailureDetails, *, alone: bool = True) -> str:
    """`Type: message` on one safe line; not `alone`: without what the message repeats of the cause, printed below."""
    said = failure.summary
    if failure.cause is not None and not alone:
        said = said.removesuffix(f": {failure.cause.summary}")
    return safe(said)
