"""`durable worker` with several processes, queues and groups, and `durable doctor`, on a SQLite file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import durable
from tests.product.command_line import Command, ended, read_until
from tests.waiting import SOON, until

GPU = """
import durable

@durable.activity
def double(n: int) -> int:
    return 2 * n

@durable.activity(queue="gpu")
def train(n: int) -> int:
    return 3 * n

@durable.orchestrator(name="learn")
def learn(ctx, n: int):
    n = yield ctx.call_activity(double, n)
    return (yield ctx.call_activity(train, n))

@durable.orchestrator(group="night")
def sleepy(ctx):
    return "good night"
"""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "learning.py").write_text(GPU)
    return Command(tmp_path)


@pytest.mark.parametrize("before", [True, False])
def test_an_empty_url_of_events_is_no_broker_whatever_the_environment_says(command: Command, before: bool) -> None:
    asked = ["--events-url", "", "worker", "flows"] if before else ["worker", "flows", "--events-url", ""]
    with command.running(*asked, DURABLE_EVENTS_URL="nosuch://x") as process, command.client() as client:
        assert "broker" not in "".join(read_until(process.stderr, "SIGTERM stops it"))
        assert client.start_orchestration("two.args", 6, 7).result(SOON) == 42


def test_processes_are_kept_running_and_end_together(command: Command) -> None:
    with command.running("worker", "flows", "--processes", "2") as process, command.client() as client:
        first = int(read_until(process.stderr, "standing by")[-1].split("(pid ")[1].split(")")[0])
        handle = client.start_orchestration("two.args", 6, 7)
        assert handle.result(SOON) == 42
        os.kill(first, signal.SIGKILL)
        assert client.start_orchestration("two.args", 2, 3).result(SOON) == 6  # by either of the others
        assert "status -9" in read_until(process.stderr, "starting it again")[-1]
        read_until(process.stderr, "SIGTERM stops it")
        process.send_signal(signal.SIGTERM)
        code, _, err = ended(process)
        assert code == 0
        assert err.count("stopped") == 2


def test_processes_end_when_their_keeper_is_killed(command: Command) -> None:
    with command.running("worker", "flows", "--processes", "2") as process:
        read_until(process.stderr, "standing by")
        process.kill()
        assert process.stderr is not None
        assert process.stderr.read().count("stopped") == 2  # the end of what they write: nobody is left


def test_processes_that_can_not_work_say_so_once_and_end(command: Command) -> None:
    done = command("worker", "nosuch", "--processes", "2")
    assert done.returncode == 2
    assert "nosuch" in done.stderr
    assert "starting it again" not in done.stderr
    assert command("worker", "flows", "--processes", "0").returncode == 2


def test_an_activity_of_a_queue_that_nobody_serves_is_shown_and_runs_when_somebody_does(command: Command) -> None:
    with command.client() as client:
        with command.running("worker", "learning") as process:
            read_until(process.stderr, "SIGTERM stops it")
            handle = client.start_orchestration("learn", 7, instance_id="a")
            until(lambda: len(client.history("a")) >= 6)
            waits = "activity 'train' (task 2) waits: no living worker serves queue 'gpu'"
            status = handle.status()
            assert (status.runtime_status, status.blocked_reason) == ("RUNNING", waits)
            assert "no living worker serves queue 'gpu'" in command.says("show", "a")
            found = command("doctor")
            assert found.returncode == 1
            assert waits in " ".join(found.stdout.split())
            assert "--queue" in found.stdout
            assert client.start_orchestration("learn", 1).status() is not None  # it stops nothing
            process.send_signal(signal.SIGTERM)
            process.wait(SOON)
        with command.running("worker", "learning", "--queue", "gpu", "--queue", "default") as process:
            assert handle.result(SOON) == 42
            assert handle.status().blocked_reason is None


def test_a_group_is_served_by_its_own_workers(command: Command) -> None:
    with command.client() as client:
        with command.running("worker", "learning") as process:
            read_until(process.stderr, "SIGTERM stops it")
            ref = durable.orchestrator_ref("sleepy", str, group="night")
            handle = client.start_orchestration(ref)
            with pytest.raises(durable.TimeoutError):
                handle.result(0.3)
            found = json.loads(command("doctor", "--json").stdout)
            assert "group 'night'" in found["findings"][0]["what"]
            assert "--group night" in found["findings"][0]["remedy"]
            process.send_signal(signal.SIGTERM)
            process.wait(SOON)
        with command.running("worker", "learning", "--group", "night"):
            assert handle.result(SOON) == "good night"


def test_doctor_finds_nothing_where_all_is_well(command: Command) -> None:
    with command.worker(durable.Registry()):
        found = command("doctor")
        assert (found.returncode, "nothing needs attention" in found.stdout) == (0, True)
        assert f"pid {os.getpid()}" in found.stdout
        as_json = json.loads(command("doctor", "--json").stdout)
        assert [worker["alive"] for worker in as_json["workers"]] == [True]
        assert as_json["findings"] == []
    assert "none has shown itself" in command("doctor").stdout


def test_doctor_without_a_store(command: Command) -> None:
    done = command("doctor")
    assert done.returncode == 4
    assert "no store at" in done.stderr
