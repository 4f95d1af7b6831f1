"""What is printed, and how it stays harmless.

Laws.
1. Text from a store, a file or the command line passes through `safe` (or is JSON): no control character, bidi mark
   or line break of somebody else's reaches the terminal. Markup is never interpreted.
2. stdout has what was asked for, stderr everything else. Under --json stdout is JSON and errors are JSON.
3. Colour and bold only on a terminal, never with --no-color or NO_COLOR.
4. An encoding that can't print a character gets its escape instead; nothing crashes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from io import TextIOWrapper
from typing import Any, Final, TextIO

import msgspec
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from ..model.status import RuntimeStatus

NATURAL: Final = 10_000  # as wide as it wants: what is piped into other programs should not be folded

STATUS_STYLES: Final = {
    RuntimeStatus.PENDING: "dim",
    RuntimeStatus.RUNNING: "cyan",
    RuntimeStatus.SUSPENDED: "yellow",
    RuntimeStatus.BLOCKED: "yellow",
    RuntimeStatus.COMPLETED: "green",
    RuntimeStatus.FAILED: "red",
    RuntimeStatus.CANCELED: "magenta",
    RuntimeStatus.TERMINATED: "magenta",
}


def safe(text: str) -> str:
    """`text` on one line, with everything that Python calls unprintable shown as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def json_text(value: Any, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """A value as JSON. What is unprintable is escaped, which is the same JSON."""
    separators = (",", ":") if indent is None else None
    plain = msgspec.to_builtins(value)
    text = json.dumps(plain, ensure_ascii=ascii_only, separators=separators, indent=indent)
    return printable_json(text)


def printable_json(text: str) -> str:
    """JSON text with everything unprintable in it escaped, which is the same JSON."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def preview(value: Any, length: int = 60) -> str:
    """The beginning of a value's JSON, on one line."""
    return cut(json_text(value), length)


def cut(text: str, length: int) -> str:
    """At most `length` cells of `text`; an ellipsis says that there is more."""
    head = text[: 4 * length]  # what is measured must not grow with what is stored
    if len(head) == len(text) and cell_len(text) <= length:
        return text
    return chop_cells(head, max(1, length - 1))[0] + "…"


def duration(delta: timedelta) -> str:
    """A duration to be read: 340ms, 2.0s, 3m 12s, 2h 05m, 3d 04h."""
    seconds = max(0.0, delta.total_seconds())
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02}h"


def moment(at: datetime) -> str:
    """A point in time to be read, in UTC."""
    return f"{_utc(at):%Y-%m-%d %H:%M:%S} UTC"


def _utc(at: datetime) -> datetime:
    """At an end of the calendar, where no UTC is left, as near as can be."""
    try:
        return at.astimezone(timezone.utc)
    except OverflowError:
        return at.replace(tzinfo=timezone.utc)


def shortly(at: datetime, now: datetime) -> str:
    """The time of today, the day of this year, the year of others: as `ls -l` does."""
    at = _utc(at)
    if at.date() == now.date():
        return f"{at:%H:%M:%S}"
    return f"{at:%m-%d %H:%M}" if at.year == now.year else f"{at:%Y-%m-%d}"


def folded(text: str, width: int) -> list[str]:
    """`text` cut into lines of at most `width` cells, nothing lost."""
    if cell_len(text) <= width:
        return [text]
    return chop_cells(text, max(2, width))


def wrapped(text: str, width: int) -> list[str]:
    """`text` broken at its spaces into lines of at most `width` cells; words that are longer are cut, nothing lost."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) <= width:
            line += f" {word}"
            continue
        if line:
            lines.append(line)
        *full, line = folded(word, width) or [""]
        lines += full
    return [*lines, line]


class Screen:
    """Both streams of one command."""

    def __init__(self, *, as_json: bool, colour: bool) -> None:
        self.as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        self.colour = colour and not os.environ.get("NO_COLOR") and sys.stdout.isatty()
        self._colour = colour and not os.environ.get("NO_COLOR")
        self._stdout: TextIO = sys.stdout
        self._out = self._console(sys.stdout)
        self._err = self._console(sys.stderr)
        self.unicode = (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")

    def _console(self, stream: TextIO) -> Console:
        terminal = stream.isatty()
        return Console(
            file=stream,
            force_terminal=terminal,
            color_system="auto" if terminal and self._colour else None,
            width=NATURAL,  # lines are laid out here; nothing is left to rich to fold
            markup=False,
            highlight=False,
            emoji=False,
            soft_wrap=True,
        )

    @property
    def reads_on_terminal(self) -> bool:
        """Whether a person, not a program, reads stdout."""
        return not self.as_json and self._stdout.isatty()

    @property
    def width(self) -> int:
        """How many cells a line may have: those of the terminal, else of $COLUMNS, else 80."""
        return max(40, shutil.get_terminal_size((80, 24)).columns)

    @property
    def table_width(self) -> int:
        """The width for rows that other programs may read: as wide as they are, unless somebody set one."""
        return self.width if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else NATURAL

    def say(self, *parts: str | tuple[str, str]) -> None:
        """One line on stdout: texts, or texts with a style. Unsafe text must have passed `safe`."""
        self._line(self._out, parts)

    def note(self, *parts: str | tuple[str, str]) -> None:
        """One line on stderr."""
        self._line(self._err, parts)

    def _line(self, console: Console, parts: Sequence[str | tuple[str, str]]) -> None:
        line = Text.assemble(*parts)
        line.rstrip()
        # Rendered here and written by us: rich would end the process by itself when a pipe is closed.
        text = "".join(_styled(console, line)) if console.color_system else line.plain
        console.file.write(text + "\n")
        console.file.flush()

    def document(self, value: Any, *, indent: int | None = None) -> None:
        """One JSON document on stdout, on one line unless indented."""
        self._stdout.write(json_text(value, ascii_only=not self.unicode, indent=indent) + "\n")
        self._stdout.flush()

    def answer(self, value: Any, text: str) -> None:
        """What a command has done: a line for people, JSON for programs."""
        if self.as_json:
            self.document(value)
        else:
            self.say(text)

    def note_value(self, value: Any, text: str) -> None:
        """The same, aside: on stderr."""
        if self.as_json:
            sys.stderr.write(json_text(value, ascii_only=True) + "\n")
        else:
            self.note(text)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str], fold: int) -> None:
        """Rows under headers. When they are too wide, column `fold` is folded first, then the next; nothing is cut."""
        widths = [max(cell_len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
        excess = sum(widths) + 2 * (len(widths) - 1) - self.table_width
        for column in (fold + 1, fold):
            if excess > 0:
                narrow = max(12, widths[column] - excess)
                excess -= max(0, widths[column] - narrow)
                widths[column] = min(widths[column], narrow)
        self.row(headers, widths, ["dim"] * len(headers))
        for row in rows:
            self.row(row, widths, styles if len(styles) == len(row) else [""] * len(row))

    def field(self, label: str, text: str, cells: int, width: int, style: str) -> None:
        """A label of so many cells, and text that is broken at its spaces, below itself."""
        first, *rest = wrapped(text, width - cells)
        self.say((label.ljust(cells), style), first)
        for line in rest:
            self.say(" " * cells, line)

    def row(self, cells: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> None:
        """One row of a table; cells that are too wide go on below, from a space on if there is one."""
        columns = [
            wrapped(cell, width) if cell_len(cell) > width else [cell]
            for cell, width in zip(cells, widths, strict=True)
        ]
        for number in range(max(map(len, columns))):
            parts: list[str | tuple[str, str]] = []
            for lines, width, style in zip(columns, widths, styles, strict=True):
                cell = lines[number] if number < len(lines) else ""
                parts += [(cell, style or status_style(cell)), " " * (width - cell_len(cell) + 2)]
            self.say(*parts)

    def error(self, code: str, message: str, below: Sequence[str] = ()) -> None:
        """Why the command ends, on stderr: one line, and those below it."""
        if self.as_json:
            whole = "\n".join([message, *below])
            sys.stderr.write(json_text({"error": {"code": code, "message": whole}}, ascii_only=True) + "\n")
            sys.stderr.flush()
            return
        self.note(("error: ", "bold red"), safe(message))
        for line in below:
            self.note(safe(line))


def status_style(text: str) -> str:
    """The colour of a status; none for other text."""
    return STATUS_STYLES[RuntimeStatus(text)] if text in STATUS_STYLES else ""


def _styled(console: Console, line: Text) -> list[str]:
    with console.capture() as captured:
        console.print(line, end="")
    return [captured.get()]
