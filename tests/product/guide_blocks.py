"""The fenced blocks of a Markdown page, and how they are run: shared by the tests of the README and of docs/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
_SECONDS: Final = 60


class Block(NamedTuple):
    """kind: what stands after the fence. line: of the page, where it begins."""

    kind: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], page.count("\n", 0, m.start()) + 1) for m in found]


def environment() -> dict[str, str]:
    """As a user has it after the installation: `durable` and `python` are on the path, and nothing is configured."""
    unwanted = ("DURABLE_", "NO_COLOR", "FORCE_COLOR", "PYTHON", "GITHUB_ACTIONS", "PY_COLORS", "PYTEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "COLUMNS": "80"}


def run(folder: Path, *arguments: str) -> str:
    """What `python ...` prints; it must succeed."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shape(screen: str) -> list[str]:
    """A screen without its times, numbers and bars."""
    lines = [re.sub(r"[█░─]+|\+?\d[\d.:-]*(?:ms|s)?", "", line) for line in screen.strip().splitlines()]
    return [" ".join(line.split()) for line in lines]


class Command(NamedTuple):
    """One command of a console block, what is shown below it ("": nothing), and how it must end."""

    text: str
    output: str
    status: int


def commands(console: str) -> Iterator[Command]:
    """Lines with `$ ` are commands, `# exit status N` at their end says how they end, `\\` goes on in the next line."""
    assert console.startswith("$ "), console
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
        text = "\n".join(lines[: last + 1])
        status = re.search(r"# exit status (\d+)$", text)
        yield Command(text, "\n".join(lines[last + 1 :]), int(status[1]) if status else 0)
