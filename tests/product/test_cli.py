"""The command line as a user types it: a real process, its output, its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

import durable

PROGRAM = """
import durable

@durable.activity
def greet(name: str) -> str:
    return f"hello {name}"

@durable.activity
def refuse(name: str) -> None:
    raise ValueError(f"no {name}")

@durable.orchestrator
def welcome(ctx, name: str):
    return (yield ctx.call_activity(greet, name))

@durable.orchestrator
def failing(ctx, name: str):
    yield ctx.call_activity(refuse.options(retry=durable.RetryPolicy(2, first_interval=0.01)), name)

@durable.orchestrator
def approval(ctx):
    return (yield ctx.wait_for_external_event("decision"))

@durable.orchestrator
def hostile(ctx):
    ctx.set_custom_status("\\x1b[31mred\\u202e")
    return "\\x1b[2J\\rgone\\x07\\u202etxt"
"""


class Shell:
    """Runs `durable ...` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "app.py").write_text(PROGRAM, encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DURABLE_")}
        return kept | {"COLUMNS": "80", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What it prints on stdout (on stderr, when it fails), checked to have ended with `status`."""
        done = subprocess.run(
            [sys.executable, "-m", "durable", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout if not status else done.stderr

    def client(self) -> durable.Client:
        return durable.connect(f"sqlite:///{self.folder}/.durable/durable.db")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_help_fits_one_screen_in_its_groups(shell: Shell) -> None:
    lines = shell("--help").splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    for group in ("Run", "Look", "Steer"):
        assert any(f"─ {group} ─" in line for line in lines)


def test_run_prints_the_result_and_finds_it_again(shell: Shell) -> None:
    assert json.loads(shell("run", "app.py:welcome", "--input", '"ada"', "--id", "w")) == "hello ada"
    assert json.loads(shell("run", "app.py:welcome", "--input", '"ada"', "--id", "w")) == "hello ada"
    with shell.client() as client:
        assert len([e for e in client.history("w") if e.type == "TaskScheduled"]) == 1


def test_a_failure_is_status_1_and_show_tells_the_chain(shell: Shell) -> None:
    shell("run", "app.py:failing", "--input", '"stock"', "--id", "f", status=1)
    shown = shell("show", "f")
    for part in ("FAILED", "refuse", "ValueError", "no stock"):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("show", "nobody"), 3, "nobody"),
        (("history", "nobody"), 3, "nobody"),
        (("raise", "nobody", "go"), 3, "nobody"),
        (("terminate", "nobody"), 3, "nobody"),
        (("raise", "x", "go", "--data", "{no json"), 2, "JSON"),
        (("run", "app.py"), 2, "welcome"),
        (("run", "app.py:nothing"), 2, "nothing"),
        (("run", "missing.py"), 2, "missing.py"),
        (("nonsense",), 2, "nonsense"),
        (("--url", "sqlite:////dev/zero", "list"), 4, "/dev/zero"),
        (("--url", "nope://u:hunter2@h/", "list"), 2, "nope"),
        (("worker", "no_such_module"), 2, "no_such_module"),
    ],
)
def test_a_mistake_has_its_status_and_one_clear_message(
    shell: Shell, arguments: tuple[str, ...], status: int, said: str
) -> None:
    error = shell(*arguments, status=status)
    assert said in error
    assert "Traceback" not in error
    assert "hunter2" not in error


def test_json_is_lines_of_statuses_and_events(shell: Shell) -> None:
    shell("run", "app.py:welcome", "--input", '"ada"', "--id", "w")
    (status,) = [json.loads(line) for line in shell("--json", "list").splitlines()]
    assert (status["instance_id"], status["runtime_status"], status["output"]) == ("w", "COMPLETED", "hello ada")
    events = [json.loads(line) for line in shell("--json", "history", "w").splitlines()]
    assert [e["event_id"] for e in events] == list(range(len(events)))
    assert json.loads(shell("--json", "show", "w"))["history"][0]["type"] == "ExecutionStarted"


def test_a_worker_takes_events_and_drains_on_sigterm(shell: Shell) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "durable", "worker", "app"],
        cwd=shell.folder, env=shell.environment, stderr=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        first_line(worker.stderr)
        with shell.client() as client:
            handle = client.start_orchestration("approval", instance_id="a")
            client.wait("a", 20, until="started")
            assert "decision" in shell("show", "a")
            shell("raise", "a", "Decision", "--data", '{"by": "ada"}')
            assert handle.result(20) == {"by": "ada"}
            client.start_orchestration("approval", instance_id="b")
            shell("terminate", "b", "--reason", '"late"')
            assert client.wait("b", 20).output == "late"
        refused = shell("worker", "app", status=4)
        assert str(worker.pid) in refused
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def first_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_follow_ends_with_the_orchestration(shell: Shell) -> None:
    shell("run", "app.py:welcome", "--input", '"ada"', "--id", "w")
    followed = shell("history", "w", "--follow")
    assert "ExecutionCompleted" in followed.splitlines()[-1]


def test_nothing_printed_can_inject_terminal_codes(shell: Shell) -> None:
    shell("run", "app.py:hostile", "--id", "h")
    for command in (("list",), ("show", "h"), ("history", "h")):
        printed = shell(*command)
        assert not {c for c in printed if c in "\x1b\r\x07\u202e"}
