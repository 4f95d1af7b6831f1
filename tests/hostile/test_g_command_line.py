"""G: the command line as a process, fed with what does not end, is not there, or is a secret."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

import durable
from tests.product.command_line import Command, Here
from tests.waiting import SOON

ODD: Final = ("a\x1b[31mb", "a\u202eb", "a\rb", "a\x9bb", "a\x07b", "a\u2066b")
SECRET: Final = "hunter2secret"
MOST: Final = 1 << 30  # bytes of memory that a process here may have


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def given(command: Command, *arguments: str, stdin: Any = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    """One process of bounded memory."""
    return subprocess.run(
        [sys.executable, "-m", "durable", *arguments],
        cwd=command.folder,
        env=command.environment(),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=SOON,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST)),
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The same in this process, where it need not be another one."""
    return Here(tmp_path, monkeypatch)


def test_case_111_an_id_that_is_no_name_is_printed_harmlessly(here: Here) -> None:
    here.says("start", "order", "--id", "there")
    for name in ODD:
        done = here("show", name)
        assert done.returncode == 2
        assert "Ids and names" in done.stderr
        assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def test_case_111_what_is_stored_is_printed_harmlessly(command: Command) -> None:
    with command.client() as client:
        client.start_orchestration("o", list(ODD), instance_id="there", tags={"tag": "a\x1b[31mb"})
        client.raise_event("there", "event", {text: text for text in ODD})
    for arguments in (("show", "there"), ("history", "there"), ("list",)):
        assert given(command, *arguments).stdout.replace("\n", "").isprintable(), arguments


def test_case_112_input_that_does_not_end_or_is_not_there(command: Command) -> None:
    command.says("start", "order", "--id", "there")
    with (command.folder / "large.json").open("wb") as large:
        large.truncate(1_000_000_000)  # a hole: it takes no room on the disk
    for arguments in (
        ("start", "order", "--input", "@/dev/zero"),
        ("raise", "there", "event", "--data", "@large.json"),
    ):
        done = given(command, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert "Traceback" not in done.stderr
        assert arguments[-1] in done.stderr, done.stderr
    assert command.says("--json", "list").count('"instance_id"') == 1


def test_case_112_a_file_that_is_missing_or_a_folder(here: Here) -> None:
    for argument, status in (("@missing.json", 3), ("@.", 2)):
        done = here("start", "order", "--input", argument)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert argument.removeprefix("@") in done.stderr, done.stderr


def test_case_112_a_standard_input_that_is_closed_or_does_not_end(command: Command) -> None:
    closed = subprocess.run(
        ["/bin/sh", "-c", f'exec "{sys.executable}" -m durable start order --input - <&-'],
        cwd=command.folder,
        env=command.environment(),
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert (closed.returncode, closed.stdout) == (2, ""), closed
    assert "Traceback" not in closed.stderr
    with open("/dev/zero", "rb") as zero:
        endless = given(command, "start", "order", "--input", "-", stdin=zero)
    assert (endless.returncode, endless.stdout) == (2, ""), endless
    assert "Traceback" not in endless.stderr
    assert given(command, "start", "order", "--input", "-").returncode == 2  # it is empty


def test_case_113_ctrl_c_in_the_middle_of_a_purge_leaves_whole_instances(command: Command) -> None:
    registry = durable.Registry()
    registry.orchestrator(name="ends")(lambda ctx: None)
    with command.worker(registry) as client:
        for handle in client.start_many("ends", [None] * 1_500):
            handle.result(SOON)
    with command.running("purge", "--status", "COMPLETED", "--yes") as process:
        time_until = time.monotonic() + SOON
        with command.client() as client:
            while len(client.list_orchestrations(limit=1000)) == 1000 and process.poll() is None:
                assert time.monotonic() < time_until
                if client.get_status("nobody") is None and _begun(client):
                    break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SOON)
        assert process.returncode in (130, -signal.SIGINT, 0), said
        assert "Traceback" not in said
    with command.client() as client:
        for one in client.list_orchestrations(limit=1000):
            assert client.history(one.instance_id)[-1].type == "ExecutionCompleted"
    command.says("purge", "--status", "COMPLETED", "--yes")
    with command.client() as client:
        assert client.list_orchestrations().items == []


def _begun(client: durable.Client) -> bool:
    page, count = client.list_orchestrations(limit=1000), 0
    while True:
        count += len(page)
        if page.cursor is None:
            return count < 1_500
        page = client.list_orchestrations(limit=1000, cursor=page.cursor)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("list",),
        ("list", "--help"),
        ("start", "--nosuch"),
        ("worker", "nosuch_module"),
        ("doctor",),
        ("--json", "show", "there"),
    ],
    ids=lambda arguments: f"case 114 {' '.join(arguments)}",
)
def test_a_secret_in_an_argument_is_not_echoed(here: Here, arguments: tuple[str, ...]) -> None:
    for before in (
        ("--url", f"redis://u:{SECRET}@127.0.0.1:1/0"),
        ("--url", "memory://x", "--events-url", f"amqp://u:{SECRET}@127.0.0.1:1/"),
        ("--url", f"nosuch://u:{SECRET}@h"),
    ):
        done = here(*before, *arguments)
        assert SECRET not in done.stdout + done.stderr, (before, done)
        assert "Traceback" not in done.stderr


def test_case_114_a_shell_that_completes_is_told_no_secret(command: Command) -> None:
    words = f"durable --url redis://u:{SECRET}@127.0.0.1:1/0 show "
    done = subprocess.run(
        [sys.executable, "-m", "durable"],
        cwd=command.folder,
        env=command.environment(_DURABLE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="4"),
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert SECRET not in done.stdout + done.stderr
