"""The command `durable` as the tests run it: a process of its own, in a folder of its own, 80 columns wide."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

import durable
from durable.cli.commands import run_command_line
from tests.waiting import SOON, until

FLOWS = """
import os
import durable

@durable.activity
def step(name: str) -> str:
    with open("steps", "a") as steps:
        steps.write(name + "\\\\n")
    if os.environ.get("GATE") == name:
        open("gate").read()  # a FIFO: until the test opens and closes it
    return f"{name} done"

@durable.activity
def breaks(what: str, code: int) -> None:
    raise ConnectionError(what)

@durable.orchestrator
def order(ctx, item: str):
    done = []
    for name in ("charge", "pack", "ship"):
        done.append((yield ctx.call_activity(step, name)))
    return {"item": item, "done": done}

@durable.orchestrator
def refused(ctx):
    retry = durable.RetryPolicy(max_attempts=3, first_interval=0.01)
    yield ctx.call_activity(breaks.options(retry=retry), "card refused", 402)

@durable.orchestrator
def approval(ctx, what: str):
    approved = yield ctx.wait_for_external_event("decision")
    return [what, approved]

@durable.orchestrator(name="two.args")
def two(ctx, a: int, b: int = 5):
    return a * b

if __name__ == "__main__":
    raise SystemExit("this block must not run")
""".replace("\\\\", "\\")


class Command:
    """`durable` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/.durable/durable.db"
        (folder / "flows.py").write_text(FLOWS)

    def environment(self, **more: str) -> dict[str, str]:
        unwanted = ("DURABLE_", "NO_COLOR", "FORCE_COLOR", "PYTHON", "GITHUB_ACTIONS", "PY_COLORS")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        return kept | {"COLUMNS": "80", "LINES": "50", "PYTHONUTF8": "1", "TERM": "xterm-256color"} | more

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "durable", *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )

    def says(self, *arguments: str, **environment: str) -> str:
        """What a command that must succeed says on stdout."""
        done = self(*arguments, **environment)
        assert done.returncode == 0, (arguments, done)
        return done.stdout

    @contextmanager
    def running(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "durable", *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # Under a runner that ignores SIGINT, its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @contextmanager
    def client(self) -> Iterator[durable.Client]:
        with durable.connect(self.url) as client:
            yield client

    @contextmanager
    def worker(self, registry: durable.Registry) -> Iterator[durable.Client]:
        """A client, and a worker in this process."""
        with self.client() as client, durable.Worker(client, registry=registry, shutdown_grace=0):
            yield client

    def steps(self) -> list[str]:
        return (self.folder / "steps").read_text().split()


class Here(Command):
    """The same command in this process, where it loads no code: a process takes a second. `apart` is a real one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        monkeypatch.chdir(folder)
        for name in os.environ.keys() - self.environment().keys():
            monkeypatch.delenv(name)
        monkeypatch.setenv("COLUMNS", "80")

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        raw = [io.BytesIO(), io.BytesIO()]
        out, err = (io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True) for stream in raw)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_command_line(arguments)
        return subprocess.CompletedProcess(arguments, status, *(stream.getvalue().decode() for stream in raw))

    def apart(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return super().__call__(*arguments, **environment)


def read_until(stream: IO[str] | None, part: str) -> list[str]:
    """The lines up to the first that holds `part`."""
    assert stream is not None
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if part in line:
            return lines
    raise AssertionError((part, lines))


def recorded(client: durable.Client, instance_id: str, kind: str, *, pending: bool = False) -> None:
    """Wait until its history holds an event of a type; with `pending`, taken or not."""
    until(lambda: any(event.type == kind for event in client.history(instance_id, pending=pending)), kind)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SOON)
    return process.returncode, out, err
