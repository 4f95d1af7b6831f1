"""`durable rewind`, `restart`, `fork` and `purge`, as users type them; and how a rewound history reads."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import durable
from tests.waiting import SOON

from .command_line import Command


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def registry(broken: set[str]) -> durable.Registry:
    app = durable.Registry()

    @app.activity
    def step(name: str) -> str:
        if name in broken:
            raise ValueError(f"{name} is broken")
        return name

    @app.orchestrator(name="order")
    def order(ctx: durable.OrchestrationContext, item: str) -> Generator[Any, Any, list[str]]:
        done = []
        for name in ("charge", "pack", "ship"):
            done.append((yield ctx.call_activity(step, name)))
        return done

    return app


def failed(command: Command, broken: set[str], instance_id: str = "o") -> None:
    with command.worker(registry(broken)) as client:
        client.start_orchestration("order", "book", instance_id=instance_id)
        assert client.wait(instance_id, SOON).runtime_status is durable.RuntimeStatus.FAILED


def test_rewind_says_what_it_did_and_the_timeline_reads_well(command: Command) -> None:
    failed(command, {"pack"})
    assert "durable rewind o" in command.says("show", "o")
    assert command.says("rewind", "o", "--reason", '"mended"').startswith("o will go on from before its failure")
    said = command.says("show", "o")
    assert said.startswith("o  RUNNING\n")
    assert "attempt 2" in said
    assert "has come" not in said  # what makes a worker look is nobody's fact
    with command.worker(registry(set())) as client:
        assert client.handle("o").result(SOON) == ["charge", "pack", "ship"]
    rows = [line for line in command.says("show", "o").splitlines() if ' step "' in line]
    assert [" done" in row for row in rows] == [True] * 3
    assert rows[1].endswith("2")  # attempts
    history = " ".join(command.says("history", "o").split())
    assert 'ExecutionRewound 2 step back to before event 8, without event 7 "mended"' in history
    again = command("rewind", "o")
    assert (again.returncode, again.stdout) == (1, "")
    assert "only a FAILED one is rewound" in again.stderr


def saga() -> durable.Registry:
    app = durable.Registry()

    @app.activity
    def book(what: str) -> str:
        if what == "car":
            raise LookupError("there are no cars")
        return what

    @app.activity
    def release(what: str) -> None: ...

    @app.orchestrator
    def trip(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
        try:
            for what in ("flight", "hotel", "car"):
                yield ctx.call_activity(book, what)
        except durable.TaskFailedError:
            yield ctx.call_activity(release, "hotel")
            yield ctx.call_activity(release, "flight")
            raise

    @app.orchestrator
    def year(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
        yield ctx.call_sub_orchestrator(trip, instance_id="a-trip")

    return app


def test_show_says_what_a_rewind_would_make_void(command: Command) -> None:
    with command.worker(saga()) as client:
        for name in ("trip", "year"):
            client.start_orchestration(name, instance_id=name)
            assert client.wait(name, SOON).runtime_status is durable.RuntimeStatus.FAILED
    for name in ("trip", "year"):  # of its own, and of the child that would be rewound with it
        said = " ".join(command.says("show", name).split())
        assert 'By a rewind 2 finished steps would become void, as if never run: release "hotel", release "fl' in said
        assert said.index(f"durable restart {name}") < said.index(f"durable rewind {name}")
    failed(command, {"pack"})  # here nothing was done since
    said = command.says("show", "o")
    assert "would become void" not in said
    assert "durable restart" not in said


def test_restart_and_fork_print_the_new_id(command: Command) -> None:
    failed(command, {"pack"})
    new = json.loads(command.says("restart", "o", "--json"))
    assert new["restarted"] == "o"
    assert command.says("restart", "o", "--new-id", "o2") == "started again as o2\n"
    assert command.says("fork", "o", "--after", "5", "--new-id", "o3") == "forked after event 5 as o3\n"
    assert command.says("restart", "o", "--in-place") == "started again as o\n"
    with command.worker(registry(set())) as client:
        for instance_id in ("o", "o2", "o3", new["instance_id"]):
            assert client.handle(instance_id).result(SOON) == ["charge", "pack", "ship"]


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["rewind", "nosuch"], 3, "nosuch"),
        (["rewind", "o", "--reason", "because"], 2, "quotes"),
        (["restart", "nosuch"], 3, "nosuch"),
        (["restart", "waiting"], 1, "PENDING"),
        (["restart", "o", "--in-place", "--new-id", "x"], 2, "--in-place"),
        (["restart", "o", "--new-id", "waiting"], 2, "taken"),
        (["fork", "o", "--after", "99"], 2, "from 0 to"),
        (["fork", "o"], 2, "--after"),
        (["fork", "nosuch", "--after", "0"], 3, "nosuch"),
        (["purge", "nosuch"], 3, "nosuch"),
        (["purge", "waiting"], 1, "PENDING"),
        (["purge"], 2, "ID"),
        (["purge", "o", "--status", "FAILED"], 2, "either"),
        (["purge", "--status", "FAILED"], 2, "--yes"),
        (["purge", "--status", "NOSUCH", "--yes"], 2, "NOSUCH"),
        (["purge", "--created-before", "yesterday", "--yes"], 2, "2026-11-24"),
    ],
)
def test_each_error_has_its_status_and_one_message(
    command: Command, arguments: list[str], status: int, part: str
) -> None:
    failed(command, {"pack"})
    with command.client() as client:
        client.start_orchestration("nobody serves it", instance_id="waiting")
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("error: ")
    assert part in done.stderr
    with command.client() as client:
        assert len(client.list_orchestrations().items) == 2


def test_purge_by_id_and_by_filter(command: Command) -> None:
    for number in range(3):
        failed(command, {"pack"}, f"o{number}")
    assert command.says("purge", "o0") == "1 orchestration purged\n"
    assert json.loads(command.says("purge", "--prefix", "none", "--yes", "--json")) == {"purged": 0}
    assert command.says("purge", "--status", "failed", "--name", "order", "--yes") == "2 orchestrations purged\n"
    with command.client() as client:
        assert client.list_orchestrations().items == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_purge_asks_on_a_terminal(command: Command, answer: str, left: int) -> None:
    failed(command, {"pack"})
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "durable", "purge", "--status", "FAILED"],
        cwd=command.folder,
        env=command.environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert "Purge all finished orchestrations with status" in err
    assert (out == "1 orchestration purged\n") == (left == 0)
    with command.client() as client:
        assert len(client.list_orchestrations().items) == left


def test_a_rewound_history_tells_how_each_task_stands() -> None:
    from durable.cli.tasks import tasks_of, untaken_of

    history: list[durable.HistoryEvent] = []

    def event(type: str, task_id: int | None = None, **fields: Any) -> None:
        number = len(history)
        given = {"type": type, "timestamp": f"2026-11-24T00:00:{number:02}Z", "task_id": task_id, "event_id": number}
        history.append(msgspec.convert(given | fields, durable.HistoryEvent))

    event("ExecutionStarted", name="o")
    event("TaskScheduled", 1, name="charge", attempt=1)
    event("TaskScheduled", 2, name="beside", attempt=1)
    event("EventAwaited", 3, name="go")
    event("TaskFailed", 1, attempt=1, failure={"type": "E"})
    event("TaskScheduled", 4, name="refund", attempt=1)
    event("TaskCompleted", 2, attempt=1)
    event("EventRaised", name="go", input=1)
    event("EventRaised", name="late")
    event("TaskCompleted", 4, attempt=1)
    event("ExecutionCompleted", 1, status="FAILED", rewinds_to=5)
    event("ExecutionRewound", 1, rewinds_to=5, voids=4)
    states = {task.id: task.state.value for task in tasks_of(history)}
    assert states == {1: "open", 2: "open", 3: "waiting", 4: "void"}
    assert untaken_of(history) == []
    event("TaskScheduled", 1, name="charge", attempt=2)
    event("TaskCompleted", 2, attempt=1)
    event("EventRaised", name="go", input=1)
    tasks = tasks_of(history)
    assert [task.state.value for task in tasks] == ["open", "done", "done", "void"]
    assert len(tasks[0].attempts) == 2
