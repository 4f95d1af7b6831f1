"""`durable export`, `import` and `replay`, run as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import durable
import durable.testing
from tests.product.command_line import FLOWS, Command, Here, recorded
from tests.product.conftest import Place
from tests.waiting import SOON

OTHER = FLOWS.replace('("charge", "pack", "ship")', '("charge", "weigh", "pack", "ship")')
assert OTHER != FLOWS


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def an_order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `order-42` and `two` have run, and were exported."""
    command = Command(tmp_path_factory.mktemp("ordered"))
    command.says("run", "flows.py:order", "--input", '"book"', "--id", "order-42")
    command.says("run", "flows.py:two", "--input", "[6, 7]", "--id", "two")
    for instance_id in ("order-42", "two"):
        command.says("export", instance_id, "-o", f"{instance_id}.jsonl")
    return command.folder


@pytest.fixture
def ordered(an_order: Path, command: Here) -> Here:
    shutil.copytree(an_order, command.folder, dirs_exist_ok=True)
    return command


def registry() -> durable.Registry:
    registry = durable.Registry()

    @registry.orchestrator
    def approval(ctx, what: str):  # type: ignore[no-untyped-def]  # as in FLOWS
        approved = yield ctx.wait_for_external_event("decision")
        return [what, approved]

    return registry


def error_of(command: Here, status: int, *arguments: str) -> str:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("error: ")
    return done.stderr


# ---- export and import


def test_export_writes_the_same_to_a_file_and_to_stdout(ordered: Here) -> None:
    assert ordered.says("export", "order-42", "--output", "a b.jsonl") == "order-42 is in a b.jsonl\n"
    text = (ordered.folder / "a b.jsonl").read_text(encoding="utf-8")
    assert ordered.says("export", "order-42") == text
    first, *events, last = map(json.loads, text.splitlines())
    assert (first["durable"], first["format"], first["instance"]["instance_id"]) == ("history", 1, "order-42")
    assert [event["event_id"] for event in events] == list(range(len(events)))
    assert last == {"end": {"events": len(events), "pending": 0}}
    assert not list(ordered.folder.glob("*.part"))
    said = ordered.says("--json", "export", "order-42", "-o", "c.jsonl")
    assert json.loads(said) == {"exported": "c.jsonl", "instance_id": "order-42"}


def test_what_was_imported_looks_as_it_did(ordered: Here) -> None:
    here = ("show", "order-42", "--json")
    there = ("--url", "sqlite:///other.db")
    assert ordered.says(*there, "import", "order-42.jsonl") == "order-42 is imported, COMPLETED\n"
    assert ordered.says(*there, *here) == ordered.says(*here)
    assert ordered.says(*there, "export", "order-42") == ordered.says("export", "order-42")
    assert "taken" in error_of(ordered, 2, *there, "import", "order-42.jsonl")
    said = ordered.says("import", "order-42.jsonl", "--as", "copy of 42", "--json")
    assert json.loads(said) == {"imported": "order-42.jsonl", "instance_id": "copy of 42", "status": "COMPLETED"}
    assert json.loads(ordered.says("show", "copy of 42", "--json"))["output"]["item"] == "book"
    assert "fits" in ordered.apart("replay", "copy of 42", "--code", "flows.py").stdout


def test_export_and_import_speak_through_pipes(ordered: Here) -> None:
    durable_ = f"{shlex.quote(sys.executable)} -m durable"
    pipe = f"{durable_} export order-42 | {durable_} --url sqlite:///piped.db import -"
    done = subprocess.run(pipe, shell=True, cwd=ordered.folder, env=ordered.environment(), capture_output=True)
    assert (done.stdout, done.stderr) == (b"order-42 is imported, COMPLETED\n", b"")


@pytest.mark.parametrize("kind", ["sqlite", "redis", "redis+rabbitmq"])
def test_an_unfinished_one_goes_on_in_another_store(command: Here, kind: str, place_of: Callable[[str], Place]) -> None:
    with command.worker(registry()) as client:
        client.start_orchestration("approval", "desk", instance_id="a-1", tags={"team": "ops"})
        recorded(client, "a-1", "EventAwaited")
        client.start_orchestration("approval", "chair", instance_id="a-2")
        recorded(client, "a-2", "EventAwaited")
    with command.client() as client:
        client.raise_event("a-2", "decision", "kept")  # no turn takes it here
    place = place_of(kind)
    if kind == "sqlite":
        place = place._replace(url=f"sqlite:///{command.folder}/other.db")
    there = ["--url", place.url, "--workspace", place.workspace]
    for instance_id in ("a-1", "a-2"):
        command.says("export", instance_id, "-o", f"{instance_id}.jsonl")
        refused = error_of(command, 2, *there, "import", f"{instance_id}.jsonl")
        assert f"'{instance_id}' is RUNNING" in refused
        assert "--go-on" in refused
        command.says(*there, "import", f"{instance_id}.jsonl", "--go-on")
        exported = (command.folder / f"{instance_id}.jsonl").read_text(encoding="utf-8")
        assert command.says(*there, "export", instance_id) == exported
    with place.connect() as client, durable.Worker(client, registry=registry(), shutdown_grace=0):
        client.raise_event("a-1", "decision", True)
        assert client.handle("a-1").result(SOON) == ["desk", True]
        assert client.handle("a-2").result(SOON) == ["chair", "kept"]
        status = client.get_status("a-1")
        assert status is not None
        assert status.tags == {"team": "ops"}


def test_an_import_reaches_the_worker_that_lives_on_the_file(command: Here) -> None:
    with command.worker(registry()) as client:
        client.start_orchestration("approval", "desk", instance_id="a-1")
        recorded(client, "a-1", "EventAwaited")
        command.says("export", "a-1", "-o", "a.jsonl")
        done = command.apart("import", "a.jsonl", "--as", "a-2", "--go-on")
        assert done.returncode == 0
        client.raise_event("a-2", "decision", 2)
        client.raise_event("a-1", "decision", 1)
        assert client.handle("a-2").result(SOON) == ["desk", 2]
        assert client.handle("a-1").result(SOON) == ["desk", 1]


def test_an_import_under_another_id_fits_code_that_asks_for_its_id(command: Here) -> None:
    functions = durable.Registry()

    @functions.activity
    def mail(text: str) -> str:
        return text

    @functions.orchestrator
    def asks(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        asked = yield ctx.call_activity(mail, f"durable raise {ctx.instance_id} decision")
        yield ctx.wait_for_external_event("decision")
        return [asked, (yield ctx.call_activity(mail, f"{ctx.instance_id} is decided"))]

    with command.worker(functions) as client:
        client.start_orchestration(asks, instance_id="a-1")
        recorded(client, "a-1", "EventAwaited")
        command.says("export", "a-1", "-o", "a.jsonl")
        command.says("import", "a.jsonl", "--as", "a-2", "--go-on")
        client.raise_event("a-2", "decision")
        assert client.handle("a-2").result(SOON, on_blocked="raise") == ["durable raise a-1 decision", "a-2 is decided"]


def test_what_can_not_be_exported_or_imported_says_why(ordered: Here) -> None:
    assert "no orchestration 'nobody'" in error_of(ordered, 3, "export", "nobody")
    assert "there is no file 'nothing.jsonl'" in error_of(ordered, 3, "import", "nothing.jsonl")
    assert "flows.py: it is no exported history" in error_of(ordered, 2, "import", "flows.py")
    assert "can't be written" in error_of(ordered, 2, "export", "order-42", "-o", "no/such/folder/x")
    assert "can't be read" in error_of(ordered, 2, "import", ".")
    lines = (ordered.folder / "order-42.jsonl").read_text(encoding="utf-8").splitlines()
    (ordered.folder / "cut.jsonl").write_text("\n".join(lines[:5]))
    assert "cut.jsonl: it ends after line 5, in the middle" in error_of(ordered, 2, "import", "cut.jsonl")
    assert "holds the character '/'" in error_of(ordered, 2, "import", "order-42.jsonl", "--as", "a/b")
    (ordered.folder / "hostile.jsonl").write_text(lines[0].replace("order-42", "a\\u001b[31m") + "\n" + lines[-1])
    assert "\x1b" not in error_of(ordered, 2, "import", "hostile.jsonl")


def test_what_is_printed_on_a_terminal_injects_nothing(command: Here) -> None:
    hostile = "a\x9b2Jb\x7f\u202ec"
    with command.client() as client:
        client.start_orchestration("approval", hostile, instance_id="a-1")
    assert hostile in command.says("export", "a-1")
    main, terminal = pty.openpty()
    environment = command.environment()
    arguments = [sys.executable, "-m", "durable", "export", "a-1"]
    subprocess.run(arguments, cwd=command.folder, env=environment, stdout=terminal, check=True)
    said = os.read(main, 10_000).decode()
    os.close(main)
    os.close(terminal)
    assert json.loads(said.splitlines()[1])["event"]["input"] == hostile
    assert {c for c in said if not c.isprintable()} <= {"\r", "\n"}


# ---- replay


def test_replay_says_what_fits_and_what_differs(ordered: Here) -> None:
    (ordered.folder / "other.py").write_text(OTHER)
    for history in ("order-42", "order-42.jsonl"):
        assert (
            ordered.apart("replay", history, "--code", "flows.py").stdout == f"fits     {history}  order, 12 events\n"
        )
        done = ordered.apart("replay", history, "--code", "other.py")
        assert done.returncode == 7
        assert done.stdout.startswith(f"differs  {history}  order\n")
        for part in ("in the history, event 5 is call_activity 'step'", 'input "pack"', 'input "weigh"', "other.py:"):
            assert part in done.stdout
    assert ordered.steps() == ["charge", "pack", "ship"]  # no activity ran


def test_the_difference_is_what_the_status_of_a_blocked_one_says(command: Here) -> None:
    with command.worker(registry()) as client:
        client.start_orchestration("approval", "desk", instance_id="a-1")
        recorded(client, "a-1", "EventAwaited")
    changed = FLOWS.replace('wait_for_external_event("decision")', 'wait_for_external_event("verdict")')
    (command.folder / "changed.py").write_text(changed)
    done = command.apart("replay", "a-1", "--code", "changed.py")
    assert done.returncode == 7
    difference = done.stdout.splitlines()[1].strip()
    with command.client() as client:
        client.raise_event("a-1", "decision", True)
    with (
        command.running("worker", "changed.py"),
        command.client() as client,
        pytest.raises(durable.OrchestrationBlockedError) as caught,
    ):
        client.handle("a-1").result(SOON, on_blocked="raise")
    assert caught.value.reason == difference


def test_replay_takes_several_histories_and_tells_the_worst(ordered: Here) -> None:
    (ordered.folder / "other.py").write_text("print('loud')\n" + OTHER)
    done = ordered.apart("replay", "two.jsonl", "order-42.jsonl", "--code", "other.py", "--json")
    assert (done.returncode, done.stderr) == (7, "loud\n")
    fits, differs = map(json.loads, done.stdout.splitlines())
    two = {"history": "two.jsonl", "instance_id": "two", "name": "two.args", "events": 3}
    assert fits == two | {"fits": True, "difference": None}
    assert (differs["history"], differs["fits"]) == ("order-42.jsonl", False)
    assert differs["difference"].startswith("the code does not fit its history")


def test_replay_needs_code_and_a_history(ordered: Here) -> None:
    assert "--code MODULE" in error_of(ordered, 2, "replay", "order-42")
    (ordered.folder / "empty.py").write_text("import durable\n")
    assert "no orchestration 'nobody'" in error_of(ordered, 3, "replay", "nobody", "--code", "empty.py")
    assert "there is no file 'a/b.jsonl'" in error_of(ordered, 3, "replay", "a/b.jsonl", "--code", "empty.py")
    assert "there is no file 'nothing.py'" in error_of(ordered, 2, "replay", "order-42", "--code", "nothing.py")
    done = ordered.apart("replay", "order-42", "--code", "empty.py")
    assert done.returncode == 7
    assert "the code has no orchestrator 'order'" in done.stdout


def test_a_file_needs_no_store(an_order: Path, command: Here) -> None:
    assert "fits" in command.apart("replay", str(an_order / "order-42.jsonl"), "--code", "flows.py").stdout
    assert not (command.folder / ".durable").exists()


def test_the_testing_kit_replays_the_same_file(ordered: Here) -> None:
    file = ordered.folder / "order-42.jsonl"
    flows: dict[str, object] = {"__name__": "flows_of_the_kit"}
    own = durable.Registry()
    source = FLOWS.replace("durable.activity", "own.activity").replace("durable.orchestrator", "own.orchestrator")
    exec(compile(source, "flows.py", "exec"), flows | {"own": own})
    durable.testing.replay(file, registry=own)
    with pytest.raises(durable.OrchestrationBlockedError, match="has no orchestrator 'order'"):
        durable.testing.replay(str(file), registry=durable.Registry())
    file.write_text("{}\n")
    with pytest.raises(ValueError, match=r"order-42\.jsonl: it is no exported history"):
        durable.testing.replay(file)
    with pytest.raises(FileNotFoundError):
        durable.testing.replay(ordered.folder / "none.jsonl")


@pytest.mark.parametrize("name", ["export", "import", "replay"])
def test_each_command_explains_itself_on_one_screen(command: Here, name: str) -> None:
    lines = command.says(name, "--help").splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
