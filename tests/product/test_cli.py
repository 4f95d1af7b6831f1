"""The command `durable`, run as a user runs it: a process of its own, on a SQLite file, 80 columns wide.

What it prints for people is checked by the words that matter; exit statuses and JSON are checked exactly.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import durable
from durable.ports import Beat
from tests.product.command_line import FLOWS, Command, Here, ended, read_until, recorded
from tests.waiting import SOON, until

# Colours, a cleared line, a title, the eight-bit CSI, DEL, right-to-left, a zero-width space, markup, and lines.
HOSTILE = "a\x1b[31mb\rc\x1b]0;t\x07d\x9b2Je\x7ff\u202eg\u200bh\nFAKE [red]i[/red] \U000e0041"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """For most of what only looks or asks: many of these would take a second each."""
    return Here(tmp_path, monkeypatch)


def unprintable(text: str) -> set[str]:
    return {c for c in text if not c.isprintable() and c != "\n"}


# ---- the first look


def test_help_fits_one_screen_in_its_groups(here: Here) -> None:
    said = here.says("--help")
    lines = said.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    places = [said.index(text) for text in ("─ Run ─", "run ", "worker ", "─ Look ─", "list ", "─ Steer ─", "raise ")]
    assert places == sorted(places)
    assert here().stdout == said
    assert "\x1b" not in said


def test_each_command_has_one_row_in_the_help(here: Here) -> None:
    groups = here.says("--help").split("─ Run ─")[1]
    rows = [line.strip("│ ") for line in groups.splitlines() if line.startswith("│")]
    assert [row for row in rows if not re.match(r"[a-z]+ +[A-Z].*[.]$", row)] == []
    assert len(rows) >= 14


@pytest.mark.parametrize(
    "name",
    (
        "run worker list show history doctor start raise terminate suspend resume cancel rewind restart fork purge "
        "replay export import publish"
    ).split(),
)
def test_each_command_explains_itself_on_one_screen(here: Here, name: str) -> None:
    lines = here.says(name, "--help").splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    assert all(option in "\n".join(lines) for option in ("--url", "--json", "--no-color"))
    assert not re.search("<[a-z]", "\n".join(lines))  # no types of Python's


@pytest.mark.parametrize(
    "name", [*"list show add delete enable disable flush counts unmatched".split(), "dead-letter show"]
)
def test_each_command_of_triggers_explains_itself_likewise(here: Here, name: str) -> None:
    lines = here.says("trigger", *name.split(), "--help").splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    assert all(option in "\n".join(lines) for option in ("--url", "--json", "--no-color"))


def test_a_shell_completes_commands_and_options(command: Command) -> None:
    script = subprocess.run(
        ["bash", "-c", f"{shlex.quote(sys.executable)} -m durable --show-completion; true"],
        env=command.environment(),
        cwd=command.folder,
        capture_output=True,
        text=True,
    ).stdout
    assert "complete -o default -F _durable_completion durable" in script

    def completed(words: str) -> list[str]:
        place = str(len(words.split(" ")) - 1)
        return command.says(_DURABLE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place).split()

    assert completed("durable st") == ["start"]
    assert sorted(completed("durable re")) == ["replay", "restart", "resume", "rewind"]
    assert "--if-exists" in completed("durable start --i")
    assert "completion" not in command.says("--help").replace("--install-completion", "")


def test_importing_loads_neither_typer_nor_rich(command: Command) -> None:
    code = "import durable, durable.cli, sys; print({'typer', 'rich'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


# ---- run


def test_run_prints_the_result_on_stdout_and_progress_on_stderr(command: Command) -> None:
    done = command("run", "flows.py:order", "--input", '"book"', "--id", "order-42")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"item": "book", "done": ["charge done", "pack done", "ship done"]}
    assert [text for text in ("started", "charge", "pack", "ship", "COMPLETED") if text not in done.stderr] == []
    assert max(map(len, done.stderr.splitlines())) <= 80
    # Done is done: the same command again gives the same result, and no step runs.
    again = command("run", "flows.py:order", "--id", "order-42")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert command.steps() == ["charge", "pack", "ship"]


def test_run_takes_one_input_and_spreads_a_list(command: Command) -> None:
    assert command.says("run", "flows.py:two", "--input", "[6, 7]") == "42\n"
    assert command.says("run", "flows.py:two.args", "--input", "6") == "30\n"


def test_run_under_json_says_nothing_but_the_result(command: Command) -> None:
    (command.folder / "loud.py").write_text(
        "import durable\n@durable.activity\ndef shout():\n    print('!')\n"
        "@durable.orchestrator\ndef loud(ctx):\n    yield ctx.call_activity(shout)\n"
    )
    done = command("--json", "run", "loud.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "null\n", "!\n")
    failed = command("run", "flows.py:refused", "--json")
    assert (failed.returncode, failed.stdout) == (1, "")
    error = json.loads(failed.stderr)["error"]
    assert error["code"] == "failed"
    assert "card refused" in error["message"]


def test_a_second_run_under_an_id_says_that_its_input_is_not_taken(command: Command) -> None:
    start = ("run", "flows.py:two", "--id", "x")
    assert "input" not in command(*start, "--input", "[1, 2]").stderr
    for again in (["--input", "[1,2]"], []):
        assert "its input" not in command(*start, *again).stderr
    done = command(*start, "--input", "[6, 7]")
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert "its input stays [1,2];" in done.stderr
    under_json = command(*start, "--input", "[6, 7]", "--json")
    assert (under_json.stdout, json.loads(under_json.stderr)) == ("2\n", {"input": [1, 2]})


def test_a_url_without_its_slashes_is_told_so(command: Command) -> None:
    for arguments in (["list"], ["run", "flows.py:two", "--input", "[1, 2]"]):
        done = command(*arguments, "--url", "sqlite:/foo.db")
        assert (done.returncode, done.stdout) == (2, "")
        assert "the // after sqlite: is missing" in done.stderr
    assert not list(command.folder.rglob("*.db"))


def test_an_order_killed_in_its_second_step_goes_on_there(command: Command) -> None:
    os.mkfifo(command.folder / "gate")
    start = ("run", "flows.py:order", "--input", '"book"', "--id", "order-42")
    with command.running(*start, GATE="pack") as process, open(command.folder / "gate", "w"):  # opened by `pack`
        process.send_signal(signal.SIGKILL)
        assert process.wait(SOON) == -signal.SIGKILL
    done = command(*start)
    assert done.returncode == 0
    assert "found, RUNNING" in done.stderr
    assert '"charge"' not in done.stderr  # what had happened before is no news
    assert command.steps() == ["charge", "pack", "pack", "ship"]


def test_ctrl_c_says_how_it_goes_on(command: Command) -> None:
    with command.running("run", "flows.py:approval", "--input", '"desk"', "--id", "a b") as process:
        read_until(process.stderr, "EventAwaited")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert "durable run flows.py:approval --id 'a b'" in err
    assert command("raise", "a b", "decision", "--data", "true").returncode == 0
    assert command.says("run", "flows.py:approval", "--id", "a b") == '["desk",true]\n'


def test_ctrl_c_twice_waits_for_nothing(command: Command) -> None:
    os.mkfifo(command.folder / "gate")
    start = ("run", "flows.py:order", "--input", '"book"', "--id", "o")
    with command.running(*start, GATE="charge") as process, open(command.folder / "gate", "w"):  # opened by `charge`
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, "Ctrl-C again")
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, "goes on where it was")
        assert process.wait(5) == 130  # the grace would be 10 s
    assert command.says(*start)


def test_run_is_blocked_by_code_that_does_not_fit_and_goes_on_with_code_that_does(command: Command) -> None:
    start = ("run", "flows.py:approval", "--id", "a")
    with command.running(*start, "--input", '"desk"') as process:
        read_until(process.stderr, "EventAwaited")
    command.says("raise", "a", "decision", "--data", "1")
    (command.folder / "flows.py").write_text(FLOWS.replace('"decision"', '"verdict"'))
    for _ in range(2):  # blocked in this run, and blocked by the run before
        done = command(*start)
        assert (done.returncode, done.stdout) == (6, "")
        assert "'decision'" in done.stderr
        assert "Traceback" not in done.stderr
    shown = command.says("show", "a")
    assert [text for text in ("BLOCKED", "blocked\n", "'verdict'", "EventRaised decision 1") if text not in shown] == []
    assert command("start", "approval", "--id", "a", "--if-exists", "return", "--wait").returncode == 6
    (command.folder / "flows.py").write_text(FLOWS)
    assert command.says(*start) == '["desk",1]\n'


def test_run_of_what_was_cancelled_or_terminated_has_failed(command: Command) -> None:
    with command.client() as client:
        for steer, status in ((client.cancel, "CANCELED"), (client.terminate, "TERMINATED")):
            client.start_orchestration("approval", "desk", instance_id=status)
            steer(status)
    for status in ("CANCELED", "TERMINATED"):
        done = command("run", "flows.py:approval", "--id", status)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"'{status}' ended {status}" in done.stderr


def test_run_waits_for_another_worker_and_steps_in_when_it_has_gone(command: Command) -> None:
    with command.client() as client:
        other = durable.Worker(client, registry=durable.Registry())
        other.start()
        with command.running("run", "flows.py:two", "--input", "[6, 7]") as process:
            (_, line) = read_until(process.stderr, "standing by")
            assert str(os.getpid()) in line
            other.stop()
            code, out, err = ended(process)
    assert (code, out) == (0, "42\n")
    assert "serving from here on" in err


def test_run_refuses_an_id_of_another_orchestration(command: Command) -> None:
    command.says("run", "flows.py:two", "--input", "[6, 7]", "--id", "x")
    done = command("run", "flows.py:order", "--input", '"book"', "--id", "x")
    assert done.returncode == 2
    assert "two.args" in done.stderr


def test_a_function_given_apart_from_its_file_is_told_how_to_write_it(command: Command) -> None:
    done = command("run", "flows.py", "approval", "--input", '"desk"')
    assert (done.returncode, done.stdout) == (2, "")
    assert "durable run flows.py:FUNCTION" in done.stderr


def test_start_can_replace_what_has_ended_and_nothing_else(command: Command) -> None:
    assert "raise|return|replace" in command.says("start", "--help")
    replacing = ("start", "two.args", "--id", "x", "--if-exists", "replace", "--input", "[6, 7]")
    command.says("run", "flows.py:two", "--id", "x", "--input", "[1, 2]")
    command.says(*replacing)
    assert json.loads(command.says("show", "x", "--json"))["input"] == [6, 7]
    done = command(*replacing)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'x' has not ended, and so is not replaced" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nosuch.py"], "no file 'nosuch.py'"),
        (["flows.py"], "several orchestrators: order, refused, approval, two"),
        (["flows.py:nosuch"], "it has: order, refused, approval, two.args"),
        (["flows.py:step"], "no orchestrator 'step'"),
        (["flows.py:order"], "order(item: str) needs an input"),
        (["flows.py:order", "--input", "book"], "at character 1"),
        (["flows.py:order", "--input", "[1]"], "Expected `str`"),
        (["flows.py:order", "--input", "NaN"], "NaN"),
        (["flows.py:order", "--input", "[" * 100_000], "no JSON"),
        (["flows.py:order", "--input", '"x"', "--id", "a/b"], "'/'"),
        (["flows.py:order", "--input", '"x"', "--id", "a\x1bb"], "'\\x1b'"),
        (["broken.py"], "line 3, in <module>\n    boom = 1 / 0"),
        (["syntax.py"], "SyntaxError"),
        (["nothing.py"], "no orchestrator"),
        (["sub/json.py"], "rename the file"),
        (["leaves.py"], "sys.exit"),
    ],
)
def test_run_tells_what_is_wrong_with_the_command_line(command: Command, arguments: list[str], part: str) -> None:
    (command.folder / "sub").mkdir()
    for name, text in {
        "broken.py": "import durable\n\nboom = 1 / 0\n",
        "syntax.py": "def (\n",
        "nothing.py": "import durable\n",
        "sub/json.py": "",
        "leaves.py": "import sys; sys.exit('no')\n",
    }.items():
        (command.folder / name).write_text(text)
    done = command("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1_000
    assert unprintable(done.stderr) == set()


# ---- worker


def test_a_worker_drains_within_its_grace_and_exits_0(command: Command) -> None:
    os.mkfifo(command.folder / "gate")
    with command.client() as client:
        client.start_orchestration("order", "book", instance_id="w")
        with command.running("worker", "flows", "--grace", "20", GATE="pack") as process:
            with open(command.folder / "gate", "w"):  # opens once `pack` reads
                (first,) = read_until(process.stderr, "worker")
                assert f"pid {process.pid}" in first
                assert f"store {command.folder}/.durable/durable.db" in first
                read_until(process.stderr, "orchestrators: approval, order")
                process.send_signal(signal.SIGTERM)
                read_until(process.stderr, "stopping")
            code, out, err = ended(process)
        assert (code, out) == (0, "")
        assert "stopped" in err
        results = [event.result for event in client.history("w") if event.type == "TaskCompleted"]
    assert results == ["charge done", "pack done"]


def test_a_worker_takes_files_and_dotted_modules(command: Command) -> None:
    package = command.folder / "shop" / "orders"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "names.py").write_text("NAME = 'by.file'\n")
    text = "import durable\nfrom .names import NAME\n@durable.orchestrator(name=NAME)\ndef flow(ctx): return 1\n"
    (package / "file.py").write_text(text)
    (package / "dotted.py").write_text(text.replace("NAME)", "'by.module')"))
    with command.running("worker", "shop/orders/file.py", "shop.orders.dotted") as process:
        read_until(process.stderr, "by.file, by.module")
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 0


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("nosuch", "No module named 'nosuch'"),
        ("needs", "line 2, in <module>\n    import nosuch"),
        ("empty", "nothing to serve"),
        ("flows.py:order", "'flows.py:order': give the whole of it, flows.py"),
    ],
)
def test_a_worker_tells_why_it_can_not_begin(command: Command, module: str, part: str) -> None:
    (command.folder / "needs.py").write_text("import durable\nimport nosuch\n")
    (command.folder / "empty.py").touch()
    done = command("worker", module)
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_worker_stands_by_and_names_the_first(command: Command) -> None:
    with command.worker(durable.Registry()), command.running("worker", "flows") as process:
        assert f"pid {os.getpid()}" in read_until(process.stderr, "standing by")[-1]
        read_until(process.stderr, "SIGTERM stops it")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


# ---- look


def registry() -> durable.Registry:
    """What the screens below are about; served by a worker in this process."""
    functions = durable.Registry()

    @functions.activity
    def echo(value: Any) -> Any:
        return value

    @functions.activity(retry=durable.RetryPolicy(max_attempts=3, first_interval=0.01))
    def charge(card: str, amount: int) -> None:
        raise ConnectionError(f"card service is down: {card}")

    @functions.orchestrator
    def plain(ctx: durable.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
        ctx.set_custom_status(value)
        return (yield ctx.call_activity(echo, value))

    @functions.orchestrator
    def fails(ctx: durable.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
        yield ctx.call_activity(echo, value)
        yield ctx.call_activity(charge, value, 12)

    @functions.orchestrator
    def parent(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.call_sub_orchestrator(fails, "visa")

    @functions.orchestrator
    def waits(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        timer = ctx.create_timer(timedelta(days=3))
        child = ctx.call_sub_orchestrator(quiet, instance_id="the-child")
        decision = ctx.wait_for_external_event("decision", timeout=timedelta(hours=2))
        nobody = ctx.call_activity("nobody.serves.this", 7)
        yield ctx.task_any([timer, child, decision, nobody])
        return "woken"

    @functions.orchestrator(name="no event")
    def no_event(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.create_timer(timedelta(days=3))

    @functions.orchestrator
    def quiet(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.wait_for_external_event("never")

    @functions.orchestrator(name="reaches out")
    def reaches_out(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        ctx.start_orchestration(plain, 1)
        ctx.send_event("unborn", "go")
        yield ctx.create_timer(0)

    return functions


def test_list_shows_a_table_and_filters_it(here: Here) -> None:
    long = "order-" + "x" * 150 + "-end"
    with here.worker(registry()) as client:
        client.start_orchestration("plain", 1, instance_id="first", tags={"shop": "b=c"}).result(SOON)
        handle = client.start_orchestration("fails", "visa", instance_id=long)
        with pytest.raises(durable.OrchestrationFailedError):
            handle.result(SOON)
    said = here.says("list")
    header, *rows = said.splitlines()
    assert header.split() == ["ID", "NAME", "STATUS", "CREATED", "DURATION"]
    assert max(map(len, said.splitlines())) <= 80
    folded = "".join(row.split()[0] for row in rows[:-1])
    assert folded == long  # folded, never cut
    assert rows[-1].split()[:3] == ["first", "plain", "COMPLETED"]
    for option in (
        ["--status", "completed", "--status", "RUNNING"],
        ["--name", "plain"],
        ["--prefix", "fi"],
        ["--tag", "shop=b=c"],
        ["--created-before", "2999-01-01T00:00:00Z", "--prefix", "first"],
    ):
        assert [row.split()[0] for row in here.says("list", *option).splitlines()] == ["ID", "first"], option
    none = here("list", "--created-after", "2999-01-01")
    assert (none.returncode, none.stdout) == (0, "")
    assert "no orchestrations" in none.stderr


def test_list_goes_on_with_the_cursor_it_gave(here: Here) -> None:
    with here.client() as client:
        client.start_many("plain", [1, 2, 3], instance_ids=["a", "b", "c"])
    first = here("--json", "list", "--limit", "2")
    items = [msgspec.json.decode(row, type=durable.OrchestrationStatus) for row in first.stdout.splitlines()]
    cursor = json.loads(first.stderr)["cursor"]
    rest = here("list", "--json", "--cursor", cursor)
    items += [msgspec.json.decode(row, type=durable.OrchestrationStatus) for row in rest.stdout.splitlines()]
    with here.client() as client:
        assert items == list(client.list_orchestrations())
    assert rest.stderr == ""
    assert cursor in here("list", "--limit", "2").stderr


def test_show_of_a_finished_one_has_a_row_for_each_task(command: Command) -> None:
    command.says("run", "flows.py:order", "--input", '"book"', "--id", "o")
    said = command.says("show", "o")
    assert said.splitlines()[0] == "o  COMPLETED"
    rows = said[said.index("timeline") :].splitlines()[2:]
    assert [row.split()[1:3] + row.split()[-1:] for row in rows] == [
        ["step", f'"{name}"', "done"] for name in ("charge", "pack", "ship")
    ]
    assert all("█" in row for row in rows)
    assert '"pack done"' in said
    assert "what to do" not in said
    assert max(map(len, said.splitlines())) <= 80


def test_show_of_a_failed_one_tells_the_causes_where_and_with_what(here: Here) -> None:
    with here.worker(registry()) as client:
        client.wait(client.start_orchestration("parent", instance_id="p").instance_id, SOON)
    child = next(item for item in json.loads(here.says("show", "p", "--json"))["history"] if "Sub" in item["type"])
    said = here.says("show", child["instance_id"])
    for text in (
        "FAILED",
        "durable.TaskFailedError: activity 'charge' (task 2) failed",
        "caused by ConnectionError: card service is down: visa",
        f"{Path(__file__).name}:",
        "in charge: raise ConnectionError(",
        'arguments of charge (task 2, 3 attempts): ["visa",12]',
        "what to do",
        "failed \u00d73",
        "parent p",
    ):
        assert text in " ".join(said.split()), (text, said)
    assert "runtime/activities.py" not in said
    assert f"the child: durable show {child['instance_id']}" in here.says("show", "p")


def test_show_of_a_waiting_one_tells_what_it_waits_for(here: Here) -> None:
    with here.worker(registry()) as client:
        client.start_orchestration("waits", instance_id="w")
        client.wait("w", SOON, until="started")
        said = here.says("show", "w")
    waits = said[said.index("waits for") : said.index("what to do")]
    for text in (
        "timer     due 2",
        "UTC (in ",
        "the-child",
        "decision, times out 2",
        "nobody.serves.this, attempt 1",
    ):
        assert text in waits, (text, said)
    assert "durable raise w decision --data JSON" in said
    assert "waiting" in said
    assert max(map(len, said.splitlines())) <= 80


def test_show_calls_nothing_running_that_may_not_be(here: Here) -> None:
    with here.worker(registry()) as client:
        client.start_orchestration("waits", instance_id="w")
        client.wait("w", SOON, until="started")
    said = here.says("show", "w")  # the worker is gone
    row = next(line for line in said.splitlines() if line.split()[1:2] == ["nobody.serves.this"])
    assert row.endswith(" open")
    assert "running" not in said[said.index("timeline") :]
    assert "durable worker MODULE" in said


def test_show_tells_of_an_event_that_was_not_what_the_code_declares(here: Here) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def asks(ctx: durable.OrchestrationContext, limit: float) -> Generator[Any, Any, Any]:
        early = yield ctx.wait_for_external_event("early")
        try:
            yield ctx.wait_for_external_event("late", timeout=limit)
        except durable.TimeoutError:
            yield ctx.wait_for_external_event("decision", type=bool)
        return early

    with here.worker(functions) as client:
        client.start_orchestration("asks", 0.01, instance_id="a")
        client.raise_event("a", "early")
        client.raise_event("a", "decision", "nope")
        client.wait("a", SOON)
    said = here.says("show", "a")
    rows = said[said.index("timeline") :].splitlines()[2:]
    assert [(row.split()[2], row.split("  ")[-1].strip()) for row in rows] == [
        ("early", "done"),
        ("late", "timed out"),
        ("decision", "failed"),
    ]
    assert 'data of decision (task 3): "nope"' in said


def test_show_advises_what_helps_where_an_event_had_wrong_data(here: Here) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def asks(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.create_timer(0)
        return (yield ctx.wait_for_external_event("decision", type=bool))

    with here.worker(functions) as client:
        client.start_orchestration("asks", instance_id="a")
        recorded(client, "a", "EventAwaited")
        client.raise_event("a", "decision", "nope")
        client.wait("a", SOON)
        said = here.says("show", "a")
        # A rewind would take the same data again.
        assert "If you change the declared type, let this one go on, with the same data" in said
        (fork, then) = re.findall(r"^    durable (fork a .*|raise .*)$", said, re.MULTILINE)
        here.says(*fork.split())
        here.says(*then.replace("JSON", "true").split())
        assert client.handle("a-fork").result(SOON) is True


def test_show_advises_what_helps_where_an_activity_was_called_with_wrong_arguments(here: Here) -> None:
    functions = durable.Registry()

    @functions.activity
    def reserve(item: str) -> str:
        return f"{item} reserved"

    @functions.orchestrator
    def asks(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        return (yield ctx.call_activity("reserve", "book" if sent else 7))

    sent: list[str] = []
    with here.worker(functions) as client:
        client.start_orchestration("asks", instance_id="a")
        client.wait("a", SOON)
        said = here.says("show", "a")
        assert "with the same arguments: durable rewind a" in " ".join(said.split())
        # A rewind would call it with 7 again, and code that passes something else would not fit the history.
        (restart,) = re.findall(r"durable (restart a)$", said, re.MULTILINE)
        sent.append("book")
        made = here.says(*restart.split(), "--new-id", "b")
        assert client.handle("b").result(SOON) == "book reserved", made


def test_show_advises_no_fork_where_the_data_had_come_before_the_wait(here: Here) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def asks(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.wait_for_external_event("first")
        yield ctx.wait_for_external_event("decision", type=bool)

    with here.client() as client:
        client.start_orchestration("asks", instance_id="a")
        client.raise_event("a", "decision", "nope")
        client.raise_event("a", "first")
    with here.worker(functions) as client:
        client.wait("a", SOON)
    said = here.says("show", "a")
    assert "Expected `bool`" in said
    assert "If you change the declared type" in said
    assert "durable rewind a" in said
    assert "durable fork" not in said


def test_show_advises_another_start_where_the_input_did_not_fit(here: Here) -> None:
    functions = durable.Registry()

    @functions.orchestrator(name="to pay", group="shop")
    def pay(ctx: durable.OrchestrationContext, amount: int) -> int:
        return amount

    with here.client() as client, durable.Worker(client, registry=functions, groups=["shop"]):
        client.start_many(durable.orchestrator_ref("to pay", group="shop"), ["seven"], instance_ids=["p"])
        client.wait("p", SOON)
        said = here.says("show", "p")
        (start,) = re.findall(r"durable (start .*)$", said, re.MULTILINE)
        assert start == "start 'to pay' --group shop --input JSON"
        assert said.index("durable start") < said.index("If you change what the code declares")
        assert "durable rewind p" in said
        here.says(*shlex.split(start.replace("JSON", "7")), "--id", "q")
        assert client.handle("q").result(SOON) == 7


def test_show_breaks_no_command_that_it_advises(here: Here) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def asks(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.task_all([ctx.wait_for_external_event(name) for name in ("decision of the board", "delivery")])

    long = "the-order-of-last-week-which-nobody-has-looked-at-until-now-and-yet"
    with here.worker(functions) as client:
        client.start_orchestration("asks", instance_id=long)
        client.wait(long, SOON, until="started")
    with here.worker(registry()) as client:
        client.start_orchestration("fails", "visa", instance_id=f"{long}-2")
        client.wait(f"{long}-2", SOON)
    lines = [line.strip() for line in here.says("show", long).splitlines()]
    assert f"durable raise {long} 'decision of the board' --data JSON" in lines
    assert f"durable raise {long} delivery --data JSON" in lines
    lines = [line.strip() for line in here.says("show", f"{long}-2").splitlines()]
    assert f"durable rewind {long}-2" in lines


def test_show_asks_for_the_yield_that_may_be_missing(here: Here) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def forgets(ctx: durable.OrchestrationContext) -> str:
        ctx.call_activity("mail", "ada")
        ctx.create_timer(3600)
        return "mailed"

    with here.worker(functions) as client:
        client.wait(client.start_orchestration("forgets", instance_id="f").instance_id, SOON)
    assert "without waiting for mail (task 1): is that meant, or is a yield missing?" in " ".join(
        here.says("show", "f").split()
    )


def test_show_of_one_that_ran_too_long_asks_for_code_that_yields(here: Here) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def counts(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        while not gate.is_set():
            pass
        yield ctx.create_timer(0)

    gate = threading.Event()
    with durable.connect(here.url, limits=durable.Limits(turn_seconds=0.05)) as client:
        with durable.Worker(client, registry=functions):
            client.start_orchestration("counts", instance_id="c")
            with pytest.raises(durable.OrchestrationBlockedError):
                client.handle("c").result(SOON, on_blocked="raise")
        gate.set()  # not before: tried again, it would go on
        assert "Run a worker whose code yields sooner" in here.says("show", "c")


def test_show_of_a_blocked_one_counts_what_has_come_as_done(here: Here) -> None:
    def code(name: str) -> durable.Registry:
        functions = durable.Registry()

        @functions.activity
        def fetch(what: str) -> str:
            if name == "go":
                gate.wait(SOON)  # so that the first worker leaves it to the second
            return what

        @functions.orchestrator
        def flow(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
            fetched = ctx.call_activity(fetch, "a fairly long argument of it")
            yield ctx.wait_for_external_event(name)
            return (yield fetched)

        return functions

    gate = threading.Event()
    with here.worker(code("go")) as client:
        client.start_orchestration("flow", instance_id="f")
        client.wait("f", SOON, until="started")
    with here.worker(code("other")) as client:
        recorded(client, "f", "TaskCompleted", pending=True)
    gate.set()
    said = here.says("show", "f")
    row = next(line for line in said.splitlines() if "fetch" in line and "not taken yet" in line)
    assert row.endswith("  done, not taken yet")
    assert "TaskCompleted" in said  # it has come
    assert "activity  fetch" not in said  # so nobody waits for it
    assert "BLOCKED" in said
    assert max(map(len, said.splitlines())) <= 80


def test_json_of_an_option_comes_from_a_file_or_standard_input_too(command: Command) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def approval(ctx: durable.OrchestrationContext, what: str) -> Generator[Any, Any, Any]:
        return [what, (yield ctx.wait_for_external_event("decision"))]

    (command.folder / "in.json").write_text('"a large one"')
    with command.worker(functions) as client:
        command.says("start", "approval", "--id", "a", "--input", "@in.json")
        piped = subprocess.run(
            [sys.executable, "-m", "durable", "raise", "a", "decision", "--data", "-"],
            input='"yes"',
            cwd=command.folder,
            env=command.environment(),
            capture_output=True,
            text=True,
            timeout=SOON,
        )
        assert piped.returncode == 0, piped.stderr
        assert client.handle("a").result(SOON) == ["a large one", "yes"]
    refused = command("start", "approval", "--input", "@nothing.json")
    assert (refused.returncode, "there is no file 'nothing.json'" in refused.stderr) == (3, True)
    (command.folder / "latin").write_bytes(b"\xff")
    refused = command("start", "approval", "--input", "@latin")
    assert (refused.returncode, "--input: '@latin' can't be read" in refused.stderr) == (2, True)


def test_show_and_doctor_advise_a_worker_of_the_group(here: Here) -> None:
    group = "night shift"

    def code(name: str) -> durable.Registry:
        functions = durable.Registry()

        @functions.orchestrator(group=group)
        def flow(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
            yield ctx.wait_for_external_event(name)

        return functions

    advised = f"durable worker MODULE --group '{group}'"
    with here.client() as client:
        with durable.Worker(client, registry=code("go"), groups=(group,)):
            client.start_orchestration(durable.orchestrator_ref("flow", group=group), instance_id="f")
            client.wait("f", SOON, until="started")
            client.start_orchestration(durable.orchestrator_ref("nosuch", group=group), instance_id="n")
            until(lambda: advised in " ".join(here("doctor").stdout.split()))  # nobody has the code of `n`
        client.raise_event("f", "went")
        with durable.Worker(client, registry=code("other"), groups=(group,)):
            with pytest.raises(durable.OrchestrationBlockedError):
                client.handle("f").result(SOON, on_blocked="raise")
            assert advised in here.says("show", "f")


def test_show_lists_events_that_nobody_has_taken(here: Here) -> None:
    with here.worker(registry()) as client:
        client.start_orchestration("waits", instance_id="w")
        client.wait("w", SOON, until="started")
        client.raise_event("w", "decison", {"approved": True})
        recorded(client, "w", "EventRaised")
        said = here.says("show", "w")
        assert 'came, and nobody has taken it\n  event decison {"approved":true}\n' in said
        client.raise_event("w", "decision")
        client.wait("w", SOON)
    said = here.says("show", "w")
    assert said.count("event decison {") == 1  # too late now, and still to be seen
    assert "event decision null" not in said


def test_show_of_one_that_nobody_serves(here: Here) -> None:
    with here.client() as client:
        client.start_orchestration("plain", 1, instance_id="w")
    assert "durable worker MODULE" in here.says("show", "w")
    with here.worker(registry()) as client:
        client.start_orchestration("waits", instance_id="r")
        client.wait("r", SOON, until="started")
    said = here.says("show", "r")
    assert said.index("Start a worker: ") < said.index("durable raise r"), "an event alone does not help"


def test_show_and_doctor_name_code_that_no_living_worker_has(here: Here) -> None:
    functions = durable.Registry()

    @functions.activity
    def mail(to: str) -> None: ...

    @functions.orchestrator(name="expense_request", version="1")
    def request(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.call_activity("male", "ada")

    @functions.orchestrator
    def parent(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.call_sub_orchestrator("nosuch.child", instance_id="child")

    with here.worker(functions) as client:
        for name in ("expense_request", "parent"):
            client.start_orchestration(name, instance_id=name)
            client.wait(name, SOON, until="started")
        client.start_orchestration("expens_request", instance_id="typo")
        client.start_orchestration("expense_request", instance_id="old", version="0")
        until(lambda: client.get_status("child"))
        have = "they have: expense_request 1, parent"
        said = {
            name: " ".join(here.says("show", name).split()) for name in ("expense_request", "parent", "typo", "old")
        }
        assert f"no living worker has orchestrator 'expens_request'; {have}" in said["typo"]
        assert "a module that has expens_request: durable worker MODULE" in said["typo"]
        assert f"no living worker has orchestrator 'expense_request' in version '0'; {have}" in said["old"]
        assert "activity 'male' (task 1) waits: no living worker has it; they have: mail" in said["expense_request"]
        assert "a module that has male: durable worker MODULE" in said["expense_request"]
        assert "nosuch.child as child: PENDING" in said["parent"]
        assert "A child does not go on: durable show child" in said["parent"]
        doctor = here("doctor")
        assert doctor.returncode == 1
        found = " ".join(doctor.stdout.split())
        assert f"'typo': no living worker has orchestrator 'expens_request'; {have}" in found
        assert "'expense_request': activity 'male' (task 1) waits: no living worker has it" in found
        assert "orchestrators: expense_request 1, parent activities: mail" in found
        status = client.get_status("typo")
        assert status is not None
        assert "'expens_request'" in (status.blocked_reason or "")

        @functions.activity(name="male")
        def male(to: str) -> None: ...

        assert client.handle("expense_request").result(SOON) is None


def test_show_says_nothing_of_the_code_of_a_worker_that_does_not_say(here: Here) -> None:
    with here.client() as client:
        client.backend.membership.beat(Beat("of an older version", pid=7, host="there", at=time.time()))
        client.start_orchestration("plain", instance_id="p")
        said = " ".join(here.says("show", "p").split())
        assert "nobody serves" not in said
        assert "(pid 7 on there). If it does not take it now, it has no orchestrator of this name" in said
        assert "no living worker" not in here("doctor").stdout


def test_show_under_json_is_the_status_with_its_history(command: Command) -> None:
    command.says("run", "flows.py:order", "--input", '"book"', "--id", "o")
    (line,) = command.says("show", "o", "--json").splitlines()
    with command.client() as client:
        assert msgspec.json.decode(line, type=durable.OrchestrationStatus) == client.get_status("o", history=True)


def test_history_has_a_row_for_each_event(here: Here) -> None:
    with here.worker(registry()) as client:
        client.wait(client.start_orchestration("fails", "visa", instance_id="f").instance_id, SOON)
        events = client.history("f")
    said = here.says("history", "f")
    header, *rows = said.splitlines()
    assert header.split() == ["#", "TIME", "(UTC)", "+DELTA", "EVENT", "TASK", "DETAIL"]
    assert [row[:4].strip() for row in rows if row[:4].strip()] == [str(event.event_id) for event in events]
    assert [event.type for event in events if event.type not in said] == []
    assert "attempt 3" in said
    assert max(map(len, said.splitlines())) <= 80
    lines = here.says("history", "f", "--json").splitlines()
    assert [msgspec.json.decode(line, type=durable.HistoryEvent) for line in lines] == events
    assert here.says("history", "f", "--json", "--execution", str(events[0].execution_id)).splitlines() == lines


def test_history_shows_what_no_turn_has_taken_yet(here: Here) -> None:
    with here.client() as client:
        client.start_orchestration("plain", 1, instance_id="w")
        client.raise_event("w", "early", "bird")
    last = here.says("history", "w").splitlines()[-1]
    assert last.split()[0] == "-"
    assert 'early "bird"' in last


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_history_follows_until_the_end(command: Command, form: list[str]) -> None:
    with command.worker(registry()) as client:
        client.start_orchestration("waits", instance_id="w")
        client.wait("w", SOON, until="started")
        with command.running("history", "w", "--follow", *form) as process:
            before = read_until(process.stdout, "EventAwaited")
            assert "ExecutionCompleted" not in "".join(before)
            client.raise_event("w", "decision")
            code, out, err = ended(process)
    assert (code, err) == (0, "")
    said = [line for line in [*before, *out.splitlines()] if '"type"' in line or line[:4].strip().isdigit()]
    with command.client() as client:
        assert len(said) >= len(client.history("w")) - 1  # the last rows of `before` may be read with it
    assert "woken" in said[-1]


def test_history_follows_continue_as_new(command: Command) -> None:
    functions = durable.Registry()

    @functions.orchestrator
    def counts(ctx: durable.OrchestrationContext, number: int) -> Generator[Any, Any, Any]:
        yield ctx.wait_for_external_event("go")
        if number:
            ctx.continue_as_new(number - 1)
        return "counted"

    with command.worker(functions) as client:
        client.start_orchestration("counts", 1, instance_id="c")
        with command.running("history", "c", "--follow", "--json") as process:
            read_until(process.stdout, "EventAwaited")
            client.raise_event("c", "go")
            second = read_until(process.stdout, "EventAwaited")
            client.raise_event("c", "go")
            code, out, _ = ended(process)
    assert code == 0
    events = [json.loads(line) for line in [*second, *out.splitlines()]]
    assert [e["type"] for e in events if e["type"] in ("ContinueAsNew", "ExecutionStarted")] == [
        "ContinueAsNew",
        "ExecutionStarted",
    ]
    assert events[-1]["result"] == "counted"


# ---- steer


def test_start_begins_one_by_name_and_imports_nothing(command: Command) -> None:
    (command.folder / "flows.py").write_text("raise SystemExit('imported')")
    said = command.says(
        *(
            "start",
            "plain",
            "--input",
            '{"a": [1]}',
            "--id",
            "p",
            "--version",
            "2.0",
            "--tag",
            "shop=b=c",
            "--tag",
            "x=",
        )
    )
    assert said == "p is started; it runs where a worker serves plain\n"
    assert command.says("start", "plain", "--id", "g", "--group", "billing", "--at", "2999-01-01T08:00:00Z") == (
        "g is started; it runs from 2999-01-01 08:00:00 UTC on where a worker serves plain\n"
    )
    found = json.loads(command.says("start", "plain", "--json"))
    assert found == {"started": True, "instance_id": found["instance_id"]}
    with command.client() as client:
        status = client.handle("p").status()
        assert (status.name, status.version, status.input) == ("plain", "2.0", {"a": [1]})
        assert status.tags == {"shop": "b=c", "x": ""}
        begun = client.history("g")[0]
        assert begun.group == "billing"
        assert str(begun.fire_at) == "2999-01-01 08:00:00+00:00"
        assert client.handle(found["instance_id"]).status().runtime_status is durable.RuntimeStatus.PENDING
    taken = command("start", "plain", "--id", "p")
    assert taken.returncode == 2
    assert taken.stderr == (
        "error: 'p' is taken already: give another --id, or --if-exists return for the one that is there, "
        "or replace in place of what has ended\n"
    )
    assert (
        command.says("start", "other", "--id", "p", "--if-exists", "return") == "p is there already: plain, PENDING\n"
    )
    again = command.says("start", "plain", "--id", "p", "--if-exists", "return", "--json")
    assert json.loads(again) == {"started": False, "instance_id": "p"}


def test_start_waits_for_the_output_and_tells_how_it_ended(command: Command) -> None:
    with command.worker(registry()) as client:
        done = command("start", "plain", "--input", "[1, 2]", "--id", "p", "--wait")
        assert (done.returncode, done.stdout) == (0, "[1,2]\n")
        assert done.stderr == "p is started; it runs where a worker serves plain\n"
        done = command("start", "plain", "--input", "1", "--wait", "--json")
        assert (done.returncode, done.stdout) == (0, "1\n")
        assert client.get_status(json.loads(done.stderr)["instance_id"]) is not None
        failed = command("start", "fails", "--input", '"visa"', "--wait", "--id", "f")
        assert (failed.returncode, failed.stdout) == (1, "")
        assert "durable show f" in failed.stderr
        late = command("start", "quiet", "--id", "q", "--wait", "--timeout", "0.05")
        assert late.returncode == 5
        assert "it is not lost" in late.stderr
        with command.running("start", "quiet", "--id", "q", "--if-exists", "return", "--wait") as process:
            read_until(process.stderr, "is there already")
            client.terminate("q")
            assert process.wait(SOON) == 1
        with command.running("start", "quiet", "--id", "r", "--wait") as process:
            read_until(process.stderr, "is started")
            process.send_signal(signal.SIGINT)
            assert process.wait(SOON) == 130
        assert client.handle("r").status().runtime_status in ("PENDING", "RUNNING")


def test_raise_and_terminate_say_what_they_did(here: Here) -> None:
    with here.worker(registry()) as client:
        client.start_orchestration("waits", instance_id="w")
        client.wait("w", SOON, until="started")
        for _ in range(2):
            said = here.says("raise", "w", "other", "--data", '{"a": [1]}', "--event-id", "once")
            assert said == "event other is recorded for w\n"
        said = here.says("raise", "w", "second", "--json")
        assert json.loads(said) == {"raised": "second", "instance_id": "w"}
        assert here.says("terminate", "w", "--reason", '"enough"').startswith("w will end as soon as a worker takes it")
        assert client.wait("w", SOON).output == "enough"
        assert client.wait("the-child", SOON).runtime_status is durable.RuntimeStatus.TERMINATED
        raised = [(e.name, e.input) for e in client.history("w") if e.type == "EventRaised"]
    assert raised == [("other", {"a": [1]}), ("second", None)]
    assert here.says("terminate", "w") == "w had ended already: TERMINATED\n"
    assert json.loads(here.says("--json", "terminate", "w")) == {"terminated": False, "instance_id": "w"}
    assert "magenta" not in here.says("show", "w")
    late = here("raise", "w", "other")
    assert late.returncode == 1
    assert late.stderr == "error: 'w' has ended (TERMINATED) and takes no more events\n"


def test_suspend_resume_and_cancel_say_what_they_did_and_show_how_it_stands(here: Here) -> None:
    with here.worker(registry()) as client:
        client.start_orchestration("waits", instance_id="w")
        client.start_orchestration("waits", instance_id="later", start_at=3_600)
        client.wait("w", SOON, until="started")
        said = here.says("suspend", "w", "--reason", '"maintenance"')
        assert said == "w will rest as soon as a worker takes it\n"
        until(lambda: client.handle("w").status().runtime_status == "SUSPENDED")
        shown = here.says("show", "w")
        assert shown.startswith("w  SUSPENDED\n")
        assert ' ago: "maintenance"' in shown
        assert "To let it go on: durable resume w" in shown
        assert "suspended for " in shown
        assert "SUSPENDED" in here.says("list")
        assert "1 SUSPENDED" in here("doctor").stdout
        assert json.loads(here.says("--json", "resume", "w")) == {"resumed": True, "instance_id": "w"}
        until(lambda: client.handle("w").status().runtime_status == "RUNNING")
        said = here.says("cancel", "w", "--reason", '{"by": "me"}')
        assert said == "w will be told as soon as a worker takes it, and may compensate\n"
        assert client.wait("w", SOON).runtime_status is durable.RuntimeStatus.CANCELED
        shown = here.says("show", "later")
        assert "starts  " in shown
        assert "It starts by itself when its time has come" in shown
        shown = here.says("show", "w")
        assert "cancelled" in shown
        assert all(len(line) <= 80 for line in shown.splitlines())
        for verb, done in (("suspend", "suspended"), ("resume", "resumed"), ("cancel", "cancelled")):
            assert here.says(verb, "w") == "w had ended already: CANCELED\n"
            assert json.loads(here.says("--json", verb, "w")) == {done: False, "instance_id": "w"}
            assert here(verb, "nosuch").returncode == 3
            assert here(verb, "w", "--reason", "because").returncode == 2
        history = here.says("history", "w")
    assert all(len(line) <= 80 for line in history.splitlines())
    for kind in ("ExecutionSuspended", "ExecutionResumed", "ExecutionCanceled"):
        assert kind in history


def test_what_goes_to_other_orchestrations_is_shown(here: Here) -> None:
    with here.worker(registry()) as client:
        client.start_orchestration("reaches out", instance_id="r")
        client.wait("r", SOON)
        until(lambda: "unborn" in here("doctor").stdout)
        said = here("doctor")
        assert said.returncode == 1
        assert "1 event waits for an orchestration 'unborn'" in said.stdout
        history = here.says("history", "r")
        assert "go to unborn" in history
        assert "detached" in history
        assert "started" in here.says("show", "r")


def test_show_says_which_cloudevents_are_waited_for_and_how_to_publish_one(here: Here) -> None:
    functions = registry()

    @functions.orchestrator
    def listens(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        waits = [ctx.wait_for_cloudevent(type="shop.paid", subject="o-1"), ctx.wait_for_cloudevent(source="/shop")]
        return [event.get_data() for event in (yield ctx.task_all(waits))]

    with here.worker(functions) as client:
        client.start_orchestration("listens", instance_id="l")
        until(lambda: len(client.list_triggers()) == 2)
        said = here.says("show", "l")
        assert "CloudEvent shop.paid of o-1, no time limit" in said
        assert "durable publish --type shop.paid --subject o-1 --data JSON" in said
        assert "durable raise" not in said
        assert "it waits for no event at the moment" in here("raise", "l", "CloudEvent").stderr
        for kind in ("shop.asked", "shop.paid"):
            event = durable.CloudEvent({"type": kind, "subject": "o-1", "source": "/shop", "id": kind}, kind)
            client.publish(event)
            if kind == "shop.asked":
                until(lambda: [e for e in client.history("l") if e.type == "EventRaised" and e.task_id])
                waits = here.says("show", "l").partition("what to do")[0]
                assert "CloudEvent shop.paid of o-1" in waits
                assert "from /shop" not in waits
        assert client.handle("l").result(SOON) == ["shop.paid", "shop.asked"]
        timeline = here.says("show", "l").partition("timeline")[2]
        assert timeline.count("event CloudEvent") == timeline.count("done") == 2


def test_raise_notes_that_it_waits_for_something_else(here: Here) -> None:
    with here.client() as client:
        client.start_orchestration("waits", instance_id="w")
    assert here("raise", "w", "decison").stderr == ""  # it has not begun: nobody knows yet
    with here.worker(registry()) as client:
        client.wait("w", SOON, until="started")
        done = here("raise", "w", "decison")
        assert (done.returncode, done.stdout) == (0, "event decison is recorded for w\n")
        assert done.stderr == (
            "it waits for 'decision' at the moment; the event is kept until it waits for 'decison'\n"
        )
        assert json.loads(here("raise", "w", "x", "--json").stderr) == {"waits_for": ["decision"]}
        client.start_orchestration("no event", instance_id="n")
        client.wait("n", SOON, until="started")
        assert "it waits for no event at the moment; the event is kept" in here("raise", "n", "x").stderr
        assert here("raise", "w", "DECISION").stderr == ""


# ---- how it ends


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "x"],
        ["history", "x"],
        ["history", "x", "-f"],
        ["raise", "x", "e"],
        ["terminate", "x"],
        ["rewind", "x"],
    ],
)
def test_looking_and_steering_make_no_store(here: Here, arguments: list[str]) -> None:
    for url, path in (
        (None, ".durable/durable.db"),
        ("sqlite:///deep/er/x%20y.db", "deep/er/x y.db"),
        ("sqlite:///flows.py/x.db", "flows.py/x.db"),
    ):
        done = here(*arguments, *(["--url", url] if url else []))
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr.startswith(f"error: no store at {here.folder}/{path}: ")
        assert "--url" in done.stderr
        assert [entry.name for entry in here.folder.iterdir()] == ["flows.py"]
    done = here(*arguments, "--url", "memory://x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "each process's own memory" in done.stderr


def test_each_workspace_of_a_file_is_a_store_of_its_own(command: Command) -> None:
    command.says("run", "flows.py:two", "--input", "[1, 2]", "--id", "x", "--workspace", "a b")
    assert json.loads(command.says("list", "--json", "--workspace", "a b"))["instance_id"] == "x"
    for other in ([], ["--workspace", "c"]):
        assert command("list", *other).returncode == 4
    assert not (command.folder / ".durable" / "durable.db").exists()
    assert not (command.folder / ".durable" / "durable.db@c").exists()


def test_a_store_is_named_by_its_absolute_path(here: Here) -> None:
    with here.client():
        pass
    assert here("list").stderr == f"no orchestrations in {here.folder}/.durable/durable.db\n"
    for steer in (["show"], ["raise", "x", "e"], ["terminate"]):
        done = here(*steer[:1], "nosuch", *steer[2:])
        assert f"no orchestration 'nosuch' in {here.folder}/.durable/durable.db;" in done.stderr


def test_it_tells_its_version(command: Command) -> None:
    assert command.says("--version") == f"durable {durable.__version__}\n"


def test_help_keeps_its_sentences_whole(here: Here) -> None:
    assert "What it carries; default null." in here.says("raise", "--help")


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["nosuch"], 2, "nosuch"),
        (["show"], 2, "ID"),
        (["list", "--nosuch"], 2, "--nosuch"),
        (["list", "--limit", "0"], 2, "limit=0"),
        (["list", "--limit", "many"], 2, "--limit"),
        (["list", "--status", "DREAMING"], 2, "RUNNING"),
        (["list", "--tag", "x"], 2, "KEY=VALUE"),
        (["list", "--created-after", "yesterday"], 2, "2026-11-24"),
        (["list", "--cursor", "forged"], 2, "cursor"),
        (["show", "a#b"], 2, "'#'"),
        (["show", "nosuch"], 3, "durable list"),
        (["history", "nosuch"], 3, "nosuch"),
        (["history", "nosuch", "--follow"], 3, "nosuch"),
        (["history", "x", "--follow", "--execution", "y"], 2, "--execution"),
        (["raise", "nosuch", "e"], 3, "/.durable/durable.db; `durable list` shows what is there"),
        (["raise", "nosuch", "e", "--data", "{'a': 1}"], 2, "character 2"),
        (["start"], 2, "ORCHESTRATOR"),
        (["start", "a/b"], 2, "'/'"),
        (["start", "x", "--id", ""], 2, "--id"),
        (["start", "x", "--input", "text"], 2, "quotes"),
        (["start", "x", "--at", "soon"], 2, "2026-11-24"),
        (["start", "x", "--tag", "x"], 2, "KEY=VALUE"),
        (["start", "x", "--if-exists", "perhaps"], 2, "'return'"),
        (["start", "x", "--timeout", "1"], 2, "--wait"),
        (["start", "x", "--url", "memory://x"], 2, "each process's own memory"),
        (["terminate", "nosuch"], 3, "nosuch"),
        (["terminate", "nosuch", "--reason", "because"], 2, "quotes"),
        (["--url", "carrier-pigeon://x", "list"], 2, "sqlite://"),
        (["--url", "sqlite:////dev/null", "list"], 4, "/dev/null"),
        (["list", "--url", "sqlite:///flows.py"], 4, "flows.py"),
    ],
)
def test_each_error_has_its_status_and_one_message(
    command: Command, arguments: list[str], status: int, part: str
) -> None:
    with command.client():
        pass  # a store, with nothing in it
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("error: ")
    assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["nosuch"], 2, "usage"),
        (["list", "--limit", "0"], 2, "usage"),
        (["show", "nosuch"], 3, "not_found"),
        (["list", "--url", "sqlite:///flows.py"], 4, "store"),
    ],
)
def test_under_json_an_error_is_one_object_on_stderr(here: Here, arguments: list[str], status: int, code: str) -> None:
    with here.client():
        pass
    done = here("--json", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert error.keys() == {"code", "message"}
    assert error["code"] == code


@pytest.mark.parametrize("url", ["sqlite://u:S3CRET@host/x.db", "pigeon://u:S3CRET@h/x", "sqlite:///x.db?key=S3CRET"])
def test_no_error_shows_a_secret(command: Command, url: str) -> None:
    for arguments in (["--url", url, "list"], ["show", "x", "--url", url], ["--json", "list", "--url", url]):
        done = command(*arguments)
        assert done.returncode in (2, 4)
        assert "S3CRET" not in done.stderr
    assert "S3CRET" not in command("list", DURABLE_URL=url).stderr


def test_options_of_every_command_may_stand_on_either_side(command: Command) -> None:
    command.says("run", "flows.py:two", "--input", "[1, 2]", "--id", "x", "--url", "sqlite:///other.db")
    assert json.loads(command.says("--url", "sqlite:///other.db", "list", "--json"))["instance_id"] == "x"
    assert json.loads(command.says("--json", "list", DURABLE_URL="sqlite:///other.db"))["instance_id"] == "x"
    assert command("list").returncode == 4  # the default store


def test_a_closed_pipe_ends_quietly(command: Command) -> None:
    command.says("run", "flows.py:two", "--input", "[1, 2]", "--id", "x")
    for arguments in (["list"], ["show", "x"], ["history", "x"], ["--json", "list"]):
        with command.running(*arguments) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == ""
            assert process.wait(SOON) == 141


# ---- nothing printed can harm a terminal


def test_nothing_stored_can_inject_terminal_codes(command: Command) -> None:
    functions = registry()

    @functions.orchestrator
    def hostile(ctx: durable.OrchestrationContext, value: str) -> Generator[Any, Any, Any]:
        ctx.set_custom_status(value)
        yield ctx.wait_for_external_event("go")
        raise RuntimeError(value)

    with command.worker(functions) as client:
        client.start_orchestration("plain", HOSTILE, instance_id="plain", tags={"t": HOSTILE}).result(SOON)
        client.wait(client.start_orchestration("fails", HOSTILE, instance_id="fails").instance_id, SOON)
        client.start_orchestration("hostile", HOSTILE, instance_id="[bold]h[!bold]")
        client.wait("[bold]h[!bold]", SOON, until="started")
        for arguments in (
            ["list"],
            ["show", "plain"],
            ["show", "fails"],
            ["show", "[bold]h[!bold]"],
            ["history", "plain"],
            ["history", "fails"],
            ["history", "[bold]h[!bold]"],
        ):
            for width in ("80", "160") if arguments[0] == "list" else ("80",):
                said = command.says(*arguments, COLUMNS=width)
                assert unprintable(said) == set(), arguments
                assert not [row for row in said.splitlines() if row.lstrip().startswith("FAKE")]
            form = command.says(*arguments, "--json")
            assert unprintable(form) == set()
            assert any(HOSTILE in text for line in form.splitlines() for text in walk(json.loads(line)))
        assert "[bold]h[!bold]" in command.says("list")
        assert "[red]i[/red]" in command.says("show", "plain")


def walk(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_nothing_given_can_inject_terminal_codes(command: Command) -> None:
    bad = HOSTILE.replace("/", "")
    for arguments in (
        ["show", bad],
        ["history", bad],
        ["raise", "x", bad],
        ["raise", "x", "e", "--data", bad],
        ["terminate", bad],
        ["run", bad],
        ["run", f"flows.py:{bad}"],
        ["worker", bad],
        ["list", "--status", bad],
        ["list", "--tag", bad],
        ["list", "--cursor", bad],
        ["list", "--name", bad],
        ["list", "--url", f"sqlite:///{bad}"],
        [bad],
        [f"--{bad}"],
    ):
        done = command(*arguments)
        assert unprintable(done.stdout + done.stderr) == set(), arguments
        assert not [row for row in done.stderr.splitlines() if row.lstrip().startswith("FAKE")]


def test_what_user_code_raises_at_import_and_logs_is_shown_safely(command: Command) -> None:
    (command.folder / "bad.py").write_text(f"raise ValueError({HOSTILE!r})\n")
    done = command("run", "bad.py")
    assert done.returncode == 2
    assert unprintable(done.stderr) == set()
    (command.folder / "log.py").write_text(
        "import durable, logging\n@durable.orchestrator\ndef flow(ctx):\n"
        f"    logging.getLogger('x').warning({HOSTILE!r})\n"
        f"    try: raise ValueError({HOSTILE!r})\n    except ValueError: logging.exception('why')\n    return 1\n"
    )
    done = command("run", "log.py")
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "WARNING x: a\\x1b[31m" in done.stderr
    assert "  ValueError: a\\x1b[31m" in done.stderr
    assert not [row for row in done.stderr.splitlines() if row.startswith("FAKE")]
    assert unprintable(done.stderr) == set()


def test_an_encoding_that_can_not_print_it_does_not_matter(command: Command) -> None:
    value = "Ærøskøbing 東京 🚢"
    with command.worker(registry()) as client:
        client.start_orchestration("plain", value, instance_id="ø").result(SOON)
    for arguments in (["list"], ["show", "ø"], ["history", "ø"], ["--help"]):
        said = command.says(*arguments, PYTHONIOENCODING="ascii")
        assert said.isascii()
    (line,) = command.says("show", "ø", "--json", PYTHONIOENCODING="ascii").splitlines()
    assert json.loads(line)["output"] == value
    assert value in command.says("show", "ø")


def on_terminal(command: Command, *arguments: str, **environment: str) -> str:
    """What a command writes to a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "durable", *arguments],
        cwd=command.folder,
        env=command.environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    ) as process:
        os.close(slave)
        written = bytearray()
        try:
            while chunk := os.read(master, 65536):
                written += chunk
        except OSError:  # how Linux says that the other side is closed
            pass
        finally:
            os.close(master)
        process.wait(SOON)
    return written.decode()


def test_colour_only_on_a_terminal_and_only_if_wanted(command: Command) -> None:
    command.says("run", "flows.py:two", "--input", "[1, 2]", "--id", "x")
    for arguments in (["list"], ["show", "nosuch"], ["--help"]):
        assert "\x1b[" in on_terminal(command, *arguments), arguments
        assert "\x1b" not in on_terminal(command, "--no-color", *arguments), arguments
        assert "\x1b" not in on_terminal(command, *arguments, NO_COLOR="1"), arguments
        done = command(*arguments, FORCE_COLOR="1")
        assert "\x1b" not in done.stdout + done.stderr, arguments


# ---- the pieces, where a process would be too slow to try them all


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0004, "0ms"),
        (0.34, "340ms"),
        (0.9996, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1m 00s"),
        (3599.6, "1h 00m"),
        (86_399.9, "1d 00h"),
        (277_200, "3d 05h"),
        (-5, "0ms"),
    ],
)
def test_a_duration_reads_well(seconds: float, text: str) -> None:
    from durable.cli.terminal import duration

    assert duration(timedelta(seconds=seconds)) == text


def test_folding_and_wrapping_lose_nothing() -> None:
    from rich.cells import cell_len

    from durable.cli.terminal import folded, wrapped

    fold: Callable[[str, int], list[str]]
    for text in ("a b", "x" * 200, "東京" * 40, "word " * 30, "", " lead", "a  b"):
        for width in (7, 20, 80):
            for fold in (folded, wrapped):
                lines = fold(text, width)
                assert max(map(cell_len, lines)) <= width
                assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_history_without_code_tells_how_each_task_stands() -> None:
    from durable.cli.tasks import tasks_of, untaken_of

    moments = iter(range(100))

    def event(type: str, task_id: int | None = None, **fields: Any) -> durable.HistoryEvent:
        at = f"2026-11-24T00:00:{next(moments):02}Z"
        return msgspec.convert({"type": type, "timestamp": at, "task_id": task_id, **fields}, durable.HistoryEvent)

    history = [
        event("ExecutionStarted", name="o"),
        event("TaskScheduled", 1, name="a", attempt=1),
        event("EventRaised", name="EARLY"),
        event("EventAwaited", 2, name="early"),
        event("EventAwaited", 3, name="x"),
        event("EventAwaited", 4, name="X"),
        event("EventRaised", name="x"),
        event("EventAwaited", 5, name="late", fire_at="2026-11-24T01:00:00Z"),
        event("TimerFired", 5),
        event("TimerCreated", 6, fire_at="2026-11-24T01:00:00Z"),
        event("TimerCanceled", 6),
        event("TaskFailed", 1, attempt=1, failure={"type": "E"}),
        event("TimerCreated", 1, attempt=2, fire_at="2026-11-24T01:00:00Z"),
    ]
    states = {task.id: task.state.value for task in tasks_of(history)}
    assert untaken_of(history) == []
    assert [e.name for e in untaken_of([*history, event("EventRaised", name="b"), event("EventRaised", name="x")])] == [
        "b"
    ]
    assert states == {1: "retrying", 2: "done", 3: "done", 4: "waiting", 5: "timed out", 6: "cancelled"}
    more = [event("TimerFired", 1, attempt=2), event("TaskScheduled", 1, name="a", attempt=2)]
    (first, *_) = tasks_of(history + more)
    assert (first.state.value, len(first.attempts), first.due) == ("open", 2, None)
    ended = tasks_of([*history, *more, event("ExecutionCompleted", status="COMPLETED")])
    assert [task.id for task in ended if task.state.value == "left"] == [1, 4]
    assert not any(task.open for task in ended)


def test_very_many_tasks_leave_the_ones_that_matter(here: Here) -> None:
    functions = durable.Registry()

    @functions.activity
    def work(number: int) -> None:
        if number == 150:
            raise ValueError("the odd one")

    @functions.orchestrator
    def many(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.task_all([ctx.call_activity(work, number) for number in range(200)], return_exceptions=True)

    with here.worker(functions) as client:
        client.wait(client.start_orchestration("many", instance_id="m").instance_id, SOON)
    said = here.says("show", "m")
    assert "work 150" in said
    assert "140 more" in said
    assert len(said.splitlines()) < 80
