"""The tasks of an execution over time: one row a task, drawn to one scale.

A full block is an attempt with an outcome, a shade is waiting: for one, for a retry, a timer, an event. A task begins
where it was asked for.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from rich.cells import cell_len

from .tasks import Kind, State, Task
from .terminal import Screen, cut, duration, preview, safe

MOST_ROWS: Final = 60
_TIMES: Final = "\u00d7"
_TASK_CELLS: Final = 26
_FEWEST_TASK_CELLS: Final = 18
_OUTCOME_CELLS: Final = 11
_STYLES: Final = {
    State.FAILED: "red",
    State.TIMED_OUT: "yellow",
    State.RETRYING: "yellow",
    State.OPEN: "cyan",
    State.WAITING: "cyan",
    State.CANCELLED: "dim",
    State.LEFT: "dim",
    State.VOID: "dim",
}


def draw(screen: Screen, tasks: list[Task], begin: datetime, end: datetime) -> None:
    """Print the rows, from `begin` to `end`. Of very many tasks, ordinary ones are left out."""
    shown = _worth_showing(tasks)
    digits = max(2, len(str(tasks[-1].id)))
    width = min(screen.width, 120)
    outcomes = [_outcome(task, screen.unicode) for task in shown]
    outcome_cells = max([_OUTCOME_CELLS, *map(len, outcomes)])
    task_cells = max(_FEWEST_TASK_CELLS, _TASK_CELLS - (outcome_cells - _OUTCOME_CELLS))
    bar = max(10, width - digits - task_cells - outcome_cells - 7 - 7 - 10)
    whole = duration(end - begin)
    rule = ("─" if screen.unicode else "-") * (bar - len(whole) - 4)
    columns = [digits, task_cells, 7, 7, bar, outcome_cells]
    _row(screen, ["#".rjust(digits), "TASK", "  START", "   TOOK", f"0s {rule} {whole}", ""], columns, ["dim"] * 6)
    for task, outcome in zip(shown, outcomes, strict=True):
        took = (task.ended or end) - task.started
        cells = [
            str(task.id).rjust(digits),
            cut(title(task), task_cells),
            duration(task.started - begin).rjust(7),
            duration(took).rjust(7),
            _bar(task, begin, end, bar, screen.unicode),
            outcome,
        ]
        style = _STYLES.get(task.state, "")
        _row(screen, cells, columns, ["dim", "", "dim", "", style or "green", style])
    if len(shown) < len(tasks):
        screen.say((f"{len(tasks) - len(shown)} more, all done: `durable history` has them", "dim"))


def title(task: Task) -> str:
    """What a task is, in a few words."""
    if task.kind is Kind.TIMER:
        return f"timer {duration(task.due - task.started)}" if task.due else "timer"
    if task.kind is Kind.EVENT:
        return f"event {safe(task.name)}"
    given = "" if task.input is None else f" {preview(task.input, 40)}"
    return f"{safe(task.name)}{given}"


def _worth_showing(tasks: list[Task]) -> list[Task]:
    if len(tasks) <= MOST_ROWS:
        return tasks
    ordinary = [task for task in tasks if task.state is State.DONE and len(task.attempts) <= 1]
    spare = max(0, MOST_ROWS - (len(tasks) - len(ordinary)))
    left_out = {task.id for task in ordinary[spare:]}
    return [task for task in tasks if task.id not in left_out]


def _outcome(task: Task, unicode: bool) -> str:
    tries = f" {_TIMES if unicode else 'x'}{len(task.attempts)}" if len(task.attempts) > 1 else ""
    return f"{task.state.value}{tries}{'' if task.taken else ', not taken yet'}"


def _bar(task: Task, begin: datetime, end: datetime, width: int, unicode: bool) -> str:
    work, wait = ("█", "░") if unicode else ("#", ".")
    cells = [" "] * width

    def fill(since: datetime, until: datetime, mark: str) -> None:
        first = min(width - 1, _place(since - begin, end - begin, width))
        last = min(width - 1, max(first, _place(until - begin, end - begin, width) - 1))
        for cell in range(first, last + 1):
            cells[cell] = mark

    fill(task.started, task.ended or end, wait)
    for attempt in task.attempts:
        ended = attempt.ended or task.ended
        if ended is not None:
            fill(attempt.started, ended, work)
    return "".join(cells)


def _place(offset: timedelta, whole: timedelta, width: int) -> int:
    return 0 if whole <= timedelta(0) else max(0, round(width * (offset / whole)))


def _row(screen: Screen, cells: list[str], widths: list[int], styles: list[str]) -> None:
    parts: list[str | tuple[str, str]] = []
    for cell, width, style in zip(cells, widths, styles, strict=True):
        parts += [(cell, style), " " * (width - cell_len(cell) + 2)]
    screen.say(*parts)
