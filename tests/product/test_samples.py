"""The samples, run as a user runs them: a process of their own, in an empty folder."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import durable
import durable.testing

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("DURABLE_")} | {"PYTHONUNBUFFERED": "1"}


def python(*args: object, cwd: Path, warns: str = "", **more: str) -> str:
    """The output of a command that must succeed and say on stderr what fits `warns`, and no more."""
    command = [sys.executable, *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=environment() | more, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert re.fullmatch(warns, done.stderr), done
    return done.stdout


@contextmanager
def running(*args: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *map(str, args)]
    process = subprocess.Popen(command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def imported(sample: str) -> Any:
    """A sample as a module, for what runs without a process."""
    spec = importlib.util.spec_from_file_location(sample, SAMPLES / f"{sample}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[sample] = module  # where type hints are looked up
    spec.loader.exec_module(module)
    return module


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def rest(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said.splitlines()


def store(folder: Path) -> durable.Client:
    """Another process's view: a client on the file that the sample made in its folder."""
    return durable.connect(f"sqlite:///{folder}/.durable/durable.db")


def test_every_sample_is_short_and_says_how_to_run_it() -> None:
    for sample in SAMPLES.glob("*.py"):
        text = sample.read_text()
        assert f"python samples/{sample.name}" in text
        code = text.split('"""\n', 1)[1]
        longest = 50 if sample.name == "foreign_worker.py" else 40  # it does by hand what others get from us
        assert len([row for row in code.splitlines() if row.strip()]) <= longest, sample.name


def test_an_order_killed_after_charge_goes_on_where_it_was(tmp_path: Path) -> None:
    with running(SAMPLES / "order.py", cwd=tmp_path) as process:
        assert line(process) == "charge book"
        with store(tmp_path) as client:
            while not any(event.type == "TaskCompleted" for event in client.history("order-42")):
                pass
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    assert python(SAMPLES / "order.py", cwd=tmp_path).splitlines() == ["pack book", "ship book", "book is on its way"]
    # Done is done: the same id again gives the same answer, and no step runs.
    assert python(SAMPLES / "order.py", cwd=tmp_path).splitlines() == ["book is on its way"]
    with store(tmp_path) as client:
        history = client.history("order-42")
    assert [event.input for event in history if event.type == "TaskScheduled"] == [
        "charge book",
        "pack book",
        "ship book",
    ]
    assert [event.task_id for event in history if event.type == "TaskCompleted"] == [1, 2, 3]


def test_hash_folder_hashes_every_file_below(tmp_path: Path) -> None:
    folder, cwd = tmp_path / "folder", tmp_path / "cwd"
    cwd.mkdir()
    files = {"b.txt": b"two", "a/deep/er.bin": bytes(range(256)), "a/empty": b"", "é ü.txt": b"x", "z\nz": b"odd"}
    for number in range(60):
        files[f"many/{number:03}"] = str(number).encode()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    expected = "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    said = python(SAMPLES / "hash_folder.py", folder, cwd=cwd)
    assert said == expected + f"{sha256(expected.encode()).hexdigest()}  (all of them)\n"
    with store(cwd) as client:
        (status,) = client.list_orchestrations().items
        history = client.history(status.instance_id)
    assert sum(e.type == "TaskScheduled" and e.name == "hash_file" for e in history) == len(files)


def test_hash_folder_of_nothing_and_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = python(SAMPLES / "hash_folder.py", tmp_path / "empty", cwd=tmp_path)
    assert said == f"{sha256(b'').hexdigest()}  (all of them)\n"
    command = [sys.executable, str(SAMPLES / "hash_folder.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "python samples/hash_folder.py FOLDER" in done.stderr


ASKED = "to the manager: a desk for 300 EUR? durable raise expense-7 decision --data true"


def test_an_approval_takes_the_answer_from_the_command_line(tmp_path: Path) -> None:
    with running(SAMPLES / "approval.py", cwd=tmp_path) as process:
        assert line(process) == ASKED
        python("-m", "durable", "raise", "expense-7", "decision", "--data", "true", cwd=tmp_path)
        assert rest(process) == ["a desk for 300 EUR: approved"]


def test_an_approval_takes_the_answer_from_python(tmp_path: Path) -> None:
    with running(SAMPLES / "approval.py", cwd=tmp_path) as process:
        assert line(process) == ASKED
        call = 'import durable; durable.connect().raise_event("expense-7", "decision", False)'
        python("-c", call, cwd=tmp_path)
        assert rest(process) == ["a desk for 300 EUR: rejected"]


def test_an_approval_nobody_gives_is_escalated(tmp_path: Path) -> None:
    assert python(SAMPLES / "approval.py", "0.2", cwd=tmp_path).splitlines() == [
        ASKED,
        "to the director: nobody decided on a desk for 300 EUR in 0:00:00.200000",
        "a desk for 300 EUR: escalated",
    ]


def test_an_approval_outlives_the_process_that_asked(tmp_path: Path) -> None:
    with running(SAMPLES / "approval.py", cwd=tmp_path) as process:
        assert line(process) == ASKED
        with store(tmp_path) as client:
            while not any(event.type == "EventAwaited" for event in client.history("expense-7")):
                pass
    # Nobody runs it now; the answer is kept until somebody does. The manager isn't asked again.
    with store(tmp_path) as client:
        client.raise_event("expense-7", "Decision", True)
    assert python(SAMPLES / "approval.py", cwd=tmp_path).splitlines() == ["a desk for 300 EUR: approved"]


def test_encrypted_payloads_need_the_key(tmp_path: Path) -> None:
    assert python(SAMPLES / "encrypted.py", cwd=tmp_path) == "meet me at noon -- Alice\n"
    show = ["-m", "durable", "show", "letter-1"]
    assert "meet me" not in python(*show, cwd=tmp_path)
    assert "(encoded by a codec" in python(*show, cwd=tmp_path)
    with_key = {"PYTHONPATH": str(SAMPLES), "DURABLE_CODEC": "encrypted:codec"}
    assert "meet me at noon -- Alice" in python(*show, cwd=tmp_path, **with_key)
    assert not any(b"meet me" in file.read_bytes() for file in (tmp_path / ".durable").iterdir())
    # A new key on top: what the old one encrypted stays readable; without the old one it is not.
    old = (tmp_path / "encryption.key").read_text()
    new = python("-c", "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())", cwd=tmp_path)
    (tmp_path / "encryption.key").write_text(f"{new}\n{old}")
    assert python(SAMPLES / "encrypted.py", cwd=tmp_path) == "meet me at noon -- Alice\n"
    (tmp_path / "encryption.key").write_text(new)
    assert "meet me" not in python(*show, cwd=tmp_path, **with_key)


def test_a_monitor_ends_in_seconds_when_run(tmp_path: Path) -> None:
    said = python(SAMPLES / "monitor.py", cwd=tmp_path)
    assert said == "the backup is done after 3 looks {'look': 3, 'percent': 100}\n"
    with store(tmp_path) as client:
        status = client.get_status("backup-1", history=True)
    assert status is not None
    assert status.history is not None
    assert [event.type for event in status.history].count("TaskScheduled") == 1  # of the last look alone


def test_a_monitor_looks_for_thirty_days_and_then_says_that_it_is_late() -> None:
    sample = imported("monitor")
    with durable.testing.Environment() as env:
        env.replace(sample.percent_done, lambda job, look: look // 10)
        env.replace(sample.alert)
        begin = env.now
        handle = env.client.start_orchestration(
            sample.monitor, "the backup", timedelta(hours=1), begin + timedelta(days=30)
        )
        assert handle.result() == "the backup is late"
        assert env.now == begin + timedelta(days=30)
        looks = env.calls(sample.percent_done)
        assert [call.at for call in looks] == [begin + timedelta(hours=number) for number in range(721)]
        assert [call.args for call in env.calls(sample.alert)] == [("the backup is late: 72 %",)]
        assert len(env.client.history(handle.instance_id)) < 20


def test_a_saga_undoes_what_was_done_when_a_step_fails_and_on_a_cancel(tmp_path: Path) -> None:
    warns = r"orchestration '\w+' \(trip\) failed: LookupError: there are no cars in Venice; durable show \w+\n"
    assert python(SAMPLES / "saga.py", cwd=tmp_path, warns=warns).splitlines() == [
        "book a flight in Venice",
        "book a hotel in Venice",
        "release the hotel in Venice",
        "release the flight in Venice",
        "FAILED activity 'book' (task 3) failed: LookupError: there are no cars in Venice",
        "book a flight in Rome",
        "book a hotel in Rome",
        "book a car in Rome",
        "release the car in Rome",
        "release the hotel in Rome",
        "release the flight in Rome",
        "CANCELED changed my mind",
    ]
    with store(tmp_path) as client:
        assert [status.runtime_status for status in client.list_orchestrations()] == ["CANCELED", "FAILED"]


def test_a_saga_releases_also_what_was_being_booked_when_the_cancel_came() -> None:
    sample = imported("saga")
    with durable.testing.Environment() as env:
        env.replace(sample.book, lambda what, where: what, takes=60)
        env.replace(sample.release)
        handle = env.client.start_orchestration(sample.trip, "Rome")
        env.advance(90)  # half of the hotel
        handle.cancel()
        env.advance(60)
        assert handle.status().runtime_status == "CANCELED"
        assert [call.args[0] for call in env.calls(sample.release)] == ["hotel", "flight"]


def test_sub_orchestrations_run_three_at_a_time_and_one_failure_stops_none(tmp_path: Path) -> None:
    said = python(SAMPLES / "sub_orchestrations.py", cwd=tmp_path).splitlines()
    assert [row for number, row in enumerate(said, 1) if row != f"parcel of order-{number} is on its way"] == [said[3]]
    assert "order-4 failed" in said[3]
    assert "the shelf is empty" in said[3]
    with store(tmp_path) as client:
        [parent] = client.list_orchestrations(name="ship_all")
        children = client.list_orchestrations(name="ship").items
        history = client.history(parent.instance_id)
    assert {child.parent_instance_id for child in children} == {parent.instance_id}
    assert len(children) == 8
    running = highest = 0
    for event in history:
        ends = event.type in ("SubOrchestrationInstanceCompleted", "SubOrchestrationInstanceFailed")
        running += (event.type == "SubOrchestrationInstanceCreated") - ends
        highest = max(highest, running)
    assert highest == 3


def test_two_triggers_say_hello_world(tmp_path: Path) -> None:
    assert python(SAMPLES / "hello_triggers.py", cwd=tmp_path) == "Hello World!\n"
    assert python(SAMPLES / "hello_triggers.py", cwd=tmp_path) == "Hello World!\n"  # both were gone


LEARNED = "after each round: 0.0 0.75 1.125 1.3125"


def test_federated_learning_tries_a_round_again_in_which_too_few_have_answered(tmp_path: Path) -> None:
    *timeouts, learned = python(SAMPLES / "federated_learning.py", cwd=tmp_path).splitlines()
    assert "round 2, attempt 1: too few have answered" in timeouts  # and on a slow machine others
    assert learned == LEARNED
    with store(tmp_path) as client:
        assert [trigger.id for trigger in client.list_triggers()] == ["rounds"]


def test_federated_learning_goes_on_after_a_kill(tmp_path: Path) -> None:
    with running(SAMPLES / "federated_learning.py", cwd=tmp_path) as process:
        assert "too few have answered" in line(process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    assert python(SAMPLES / "federated_learning.py", cwd=tmp_path).splitlines()[-1] == LEARNED
    assert python(SAMPLES / "federated_learning.py", cwd=tmp_path).splitlines() == [LEARNED]  # nothing is done again
