"""What the guides in docs/ show is true: each is run from top to bottom, in a folder of its own, as a reader would.

Conventions of a guide:

* ```python whose first line is a comment with a file's name (`# shop.py`) is that file; it is saved in the folder, and
  the same name later replaces it. Any other ```python is a program, and is run.
* ```text after a ```python is what that program prints; a program without one prints nothing. A file with one is run.
* ```console: a line `$ COMMAND` is run by a shell that lasts as long as the guide (`export`, `&`, `kill %1` work). What
  stands below it, if anything, is what it prints, without times and numbers; a line `...` stands for any lines. It must
  succeed, or end with `# exit status N`. Of a command in the background the lines shown are waited for.
* ```sh is for what can't be run here (installing, cloud). Of it, and of `durable ...` in sentences, only the names of
  commands and options are checked.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import durable
from tests.product.guide_blocks import ROOT, Block, Command, blocks, commands, environment, run, shape

PAGES = sorted((ROOT / "docs").glob("*.md"))
SOON = 30  # seconds
# `durable.NAME` in a page is a public name, or one of these: public modules, loggers, entry points.
OTHER_NAMES = (
    *("backends", "ports", "testing"),
    *("activity", "client", "codec", "execution", "orchestration", "worker"),
    *("stores", "transports", "event_sources"),
)


def guide(path: Path) -> object:
    return pytest.param(path, id=path.stem)


GUIDES = [guide(path) for path in PAGES if "```python" in path.read_text(encoding="utf-8")]
EVERY_PAGE = [guide(path) for path in [*PAGES, ROOT / "README.md"]]


class Shell:
    """One bash that runs the commands of a guide, the output of each in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outputs = folder.with_name(f"{folder.name}-outputs")
        self._outputs.mkdir()
        self._number = 0
        self._bash = subprocess.Popen(
            ["bash", "--norc", "-m"],
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # its own words on jobs
            text=True,
        )

    def close(self) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write("exec >/dev/null 2>&1\nkill $(jobs -p)\nwait\nexit\n")
        try:
            self._bash.communicate(timeout=SOON)
        finally:
            self._bash.kill()

    def run(self, command: Command) -> None:
        self._number += 1
        output = self._outputs / str(self._number)
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{{\n{command.text}\n}} </dev/null >'{output}' 2>&1; echo $?\n")
        self._bash.stdin.flush()
        status = self._bash.stdout.readline().strip()
        said = output.read_text(encoding="utf-8")
        assert status == str(command.status), (command.text, status, said)
        if command.output:
            deadline = time.monotonic() + (SOON if command.text.rstrip().endswith("&") else 0)
            while not (fits := is_shown(command.output, said, self._folder)) and time.monotonic() < deadline:
                threading.Event().wait(0.02)
                said = output.read_text(encoding="utf-8")
            assert fits, f"{command.text}\n\nthe guide:\n{command.output}\n\nin truth:\n{said}"


def is_shown(shown: str, said: str, folder: Path) -> bool:
    """Whether a guide shows what was said. A line `...` stands for any lines; where lines break does not count."""
    here = "".join(shape(f"{folder}/"))
    wanted = [".*" if row == "..." else re.escape(row.replace(" ", "")) for row in shape(shown)]
    return re.fullmatch("".join(wanted), "".join(shape(said)).replace(" ", "").replace(here, "")) is not None


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    opened = Shell(folder)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("path", GUIDES)
def test_a_guide_is_true_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "guide"
    folder.mkdir()
    found = blocks(path.read_text(encoding="utf-8"))
    with shell(folder) as bash:
        for block, after in zip(found, [*found[1:], None], strict=True):
            where = f"{path.name}:{block.line}"
            assert block.kind in ("python", "text", "console", "sh"), f"{where}: see the head of {Path(__file__).name}"
            if block.kind == "python":
                _python(folder, block, after, where)
            elif block.kind == "console":
                for command in commands(block.text):
                    bash.run(command)


def _python(folder: Path, block: Block, after: Block | None, where: str) -> None:
    """Save a file, or run a program."""
    named = re.match(r"# (\w+\.py)\n", block.text)
    shown = after.text if after is not None and after.kind == "text" else ""
    name = named[1] if named else "snippet.py"
    (folder / name).write_text(block.text, encoding="utf-8")
    if named is None or shown:
        assert run(folder, name) == shown, where


# ---- pages as pages


@pytest.mark.parametrize("path", [*EVERY_PAGE, guide(ROOT / "SECURITY.md")])
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], anchor


@pytest.mark.parametrize("path", [*EVERY_PAGE, guide(ROOT / "SECURITY.md")])
def test_the_files_that_a_page_names_exist(path: Path) -> None:
    for name in re.findall(r"`((?:samples|tests|docs|deploy)/[\w./]+)`", path.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of each command of `durable`, read on demand."""
    return {}


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_each_command_and_option_that_a_page_names_exists(path: Path, helps: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    lines = [line for block in blocks(text) if block.kind in ("sh", "console") for line in block.text.splitlines()]
    for said in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        for command, rest in re.findall(r"(?:^|[$;&|] )durable ([a-z]+)\b([^|;&#]*)", said):
            if command not in helps:
                helps[command] = run(ROOT, "-m", "durable", command, "--help")
            for option in re.findall(r"(?<=\s)--[a-z-]+", rest):
                assert f"{option} " in helps[command], (command, option)


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_each_public_name_that_a_page_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in set(re.findall(r"(?<![/\w])durable\.([A-Za-z]\w*)", text)):
        assert name in durable.__all__ or name in OTHER_NAMES, name
    for name in set(re.findall(r"\bctx\.([a-z_]+)\b", text)):
        assert hasattr(durable.OrchestrationContext, name) or hasattr(durable.ActivityContext, name), name


def test_the_readme_names_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PAGES:
        assert f"(docs/{path.name})" in readme, path.name
