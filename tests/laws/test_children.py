"""The child processes of a worker: whom they serve, what they have of it, and what becomes of them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable.model.history import Raw
from durable.model.limits import Limits
from durable.runtime.child_messages import Call, Raised, Returned
from durable.runtime.children import Child, Children
from tests.laws import child_work as work
from tests.waiting import SOON, until

LARGE = 4_000_000  # bytes, that no buffer of a pipe takes


class Attempt:
    """What a child knows of an attempt."""

    def __init__(self) -> None:
        self.cancelled = False
        self.child: Child | None = None

    def beat(self) -> None: ...


@pytest.fixture
def children() -> Iterator[Children]:
    with closing(Children(Limits(), None)) as children:
        yield children


def call(
    function: str, given: Any = None, wants_context: bool = False, module: str = work.__name__, file: str = ""
) -> Call:
    return Call(module, function, file, function, wants_context, Raw(msgspec.json.encode(given)), "i", "x", 7, 2)


def result(children: Children, order: Call, attempt: Attempt | None = None) -> Any:
    ended = children.run(order, attempt or Attempt(), lambda: None)
    assert isinstance(ended, Returned), ended
    return msgspec.json.decode(ended.result)


def failure(children: Children, order: Call) -> tuple[str, str]:
    ended = children.run(order, Attempt(), lambda: None)
    assert isinstance(ended, Raised)
    return ended.failure.type, ended.failure.message


@contextmanager
def levels_set(levels: dict[str, int]) -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def typed(text: bytes) -> Iterator[None]:
    """This process's own input."""
    source, sink = os.pipe()
    own = os.dup(0)
    os.write(sink, text)
    os.close(sink)
    os.dup2(source, 0)
    try:
        yield
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(source)


def alive(pid: int) -> bool:
    """Whether a process of this id runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- whom they serve


def test_who_cancels_or_kills_too_late_does_nothing_to_the_next_one(children: Children) -> None:
    first = Attempt()
    process = result(children, call("whoami"), first)
    (child,) = children._idle
    child.cancel(first)
    child.kill(first)
    assert result(children, call("whoami")) == process


def test_one_that_died_in_a_process_that_had_served_before_does_not_run_again(
    children: Children, tmp_path: Path
) -> None:
    result(children, call("whoami"))
    with pytest.raises(ChildProcessError, match=r"'dies' \(attempt 2\).*exit status 3"):
        children.run(call("dies", str(tmp_path)), Attempt(), lambda: None)
    assert result(children, call("dies", str(tmp_path))) == "alive"


def test_a_process_that_dies_at_its_start_is_not_started_again_and_again(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.runtime.children._PROGRAM", "raise SystemExit(0)")
    attempt = Attempt()
    died: list[str] = []

    def run() -> None:
        with pytest.raises(ChildProcessError) as caught:
            children.run(call("whoami"), attempt, lambda: None)
        died.append(str(caught.value))

    running = threading.Thread(target=run)
    running.start()
    running.join(SOON / 4)
    attempt.cancelled = True  # which ends it, where it does not end
    running.join(SOON)
    assert died == ["activity 'whoami' (attempt 2): its process ended with exit status 0 before there was a result"]


def test_where_all_are_closed_a_late_one_does_not_run(children: Children) -> None:
    children.close()
    with pytest.raises(ChildProcessError, match="signal 9"):
        children.run(call("whoami"), Attempt(), lambda: None)


def test_a_process_that_does_not_read_its_order_yet_holds_up_no_cancellation(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.runtime.children._PROGRAM", "import time; time.sleep(1000)")
    attempt = Attempt()
    died: list[ChildProcessError] = []

    def run() -> None:
        with pytest.raises(ChildProcessError) as caught:
            children.run(call("f", "x" * LARGE), attempt, lambda: None)
        died.append(caught.value)

    def end(child: Child) -> None:
        attempt.cancelled = True
        child.cancel(attempt)
        child.kill(attempt)

    running = threading.Thread(target=run)
    running.start()
    child = until(lambda: attempt.child, "a process")
    assert child is not None
    until(child._sending.locked, "an order under way")
    ending = threading.Thread(target=end, args=[child])
    ending.start()
    ending.join(SOON / 4)
    waited = ending.is_alive()
    child._process.kill()  # where it was not
    running.join(SOON)
    assert not waited
    assert "ended by signal 9" in str(died[0])


def test_a_process_that_died_is_missed_though_its_fork_keeps_the_pipe_and_the_fork_dies_too(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.runtime.children._LOOK", 0.01)
    died: list[ChildProcessError] = []

    def run() -> None:
        with pytest.raises(ChildProcessError, match="exit status 3") as caught:
            children.run(call("dies_and_leaves_a_fork", str(tmp_path)), Attempt(), lambda: None)
        died.append(caught.value)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    running.join(SOON / 4)
    (left,) = tmp_path.glob("*.pid")
    assert died
    until(lambda: not alive(int(left.stem)), "the end of the fork")


FORKS = """
import os, signal, sys
from pathlib import Path
from tests.laws.test_children import Attempt, Children, Limits, call
def fork():
    if not os.fork():
        Path(sys.argv[1], f"{os.getpid()}.fork").touch()
        while True:
            signal.pause()
Children(Limits(), None).run(call("waits", sys.argv[1]), Attempt(), fork)
"""


def test_a_process_does_not_outlive_its_worker_though_a_fork_of_that_keeps_the_pipe(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = subprocess.Popen([sys.executable, "-c", FORKS, str(tmp_path)], env=environment)
    try:
        process = int(until(lambda: [*tmp_path.glob("*.pid")], "its process")[0].stem)
        fork = int(until(lambda: [*tmp_path.glob("*.fork")], "its fork")[0].stem)
    finally:
        worker.kill()
        worker.wait(SOON)
    try:
        until(lambda: not alive(process), "the end of its process", SOON / 4)
        assert alive(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


# ---- what they have of their worker


def test_a_process_has_the_levels_of_its_workers_loggers_and_neither_its_input_nor_its_descriptors(
    children: Children,
) -> None:
    names = ["", "durable", "durable.activity", "durable.worker", "another"]
    levels = [logging.CRITICAL, logging.ERROR, logging.INFO, logging.ERROR, logging.CRITICAL]
    with levels_set({"": levels[0], "durable": levels[1], "durable.activity": levels[2]}), typed(b"for the worker"):
        found = result(children, call("belongings", names))
    assert found == {"input": "", "for its programs": [], "levels": levels}


def test_its_log_records_arrive_with_traceback_and_whose_they_are(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    result(children, call("complains", wants_context=True))
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("durable.activity", logging.ERROR, "not there")
    assert (record.exc_text or "").rpartition("\n")[2].startswith("FileNotFoundError: ")
    assert record.process != os.getpid()
    assert [getattr(record, name) for name in ("instance_id", "task_id", "attempt")] == ["i", 7, 2]


def test_its_client_has_the_limits_of_the_workers(tmp_path: Path) -> None:
    at = {"url": f"sqlite:///{tmp_path}/store.db", "events": None, "workspace": "default", "blobs": None}
    with closing(Children(Limits(payload_bytes=100), at)) as children:
        error, message = failure(children, call("starts_another", "x" * 100, wants_context=True))
        assert error == "durable.PayloadError"
        assert "100" in message


# ---- what they find


def test_a_function_is_found_in_a_class_of_its_module(children: Children) -> None:
    assert result(children, call("Tools.whoami")) == result(children, call("whoami"))


@pytest.mark.parametrize("name", ["nothing", "Tools.nothing", "nothing.at.all", "elsewhere"])
def test_where_there_is_no_such_function_no_other_try_can_help(children: Children, name: str) -> None:
    error, message = failure(children, call(name))
    assert error == "durable.NonRetryableError"
    assert f"{work.__name__}.{name}" in message


def test_a_module_that_is_not_on_the_path_is_found_by_its_file(children: Children, tmp_path: Path) -> None:
    file = tmp_path / "its.file.py"
    file.write_text("import os\nkept = []\ndef count():\n    kept.append(0)\n    return len(kept)\n", "utf-8")
    for times in (1, 2):
        assert result(children, call("count", module="off.the_path", file=str(file))) == times


def test_a_module_that_lacks_another_says_which_at_each_try(children: Children, tmp_path: Path) -> None:
    file = tmp_path / "lacking.py"
    file.write_text("import what_it_lacks\ndef whoami(): ...\n", "utf-8")
    for _ in range(2):
        error = failure(children, call("whoami", module="off_the_path", file=str(file)))
        assert error == ("ModuleNotFoundError", "No module named 'what_it_lacks'")
    error = failure(children, call("whoami", module="off_the_path"))
    assert error == ("ModuleNotFoundError", "No module named 'off_the_path'")
