"""`durable publish` and `durable trigger ...`; and what triggers live in is listed as no orchestration.

How the screens look is in test_screens.py.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Generator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durable
from durable import EventPattern, actions, conditions
from durable.testing.store_samples import turn
from tests.product.command_line import Here
from tests.waiting import SOON, until

if TYPE_CHECKING:
    from tests.product.conftest import World

THIRD: dict[str, Any] = {
    "id": "third",
    "on": [{"type": "com.shop.*", "subject": "order-42"}],
    "condition": {"kind": "join", "n": 3},
    "action": {"kind": "start_orchestration", "name": "ship"},
    "context": {"order": 42},
    "transient": True,
}

EVENT = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t"}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    here = Here(tmp_path, monkeypatch)
    with here.client():
        pass  # a store, with nothing in it
    return here


def written(command: Here, value: object) -> str:
    (command.folder / "triggers.json").write_text(json.dumps(value))
    return "triggers.json"


# ---- publish


def test_a_published_event_is_what_was_said_and_its_id_is_printed(
    command: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.says("trigger", "unmatched", "--keep")
    attributes = ["--type", "com.shop.paid", "--source", "/shop", "--subject", "order-42", "--id", "p1"]
    assert command.says("publish", *attributes, "--data", '{"amount": 7}') == "p1\n"
    assert command.says("publish", *attributes) == "p1\n"  # the same event
    assert json.loads(command.says("publish", "--type", "bare", "--id", "p2", "--json")) == {"published": "p2"}
    fresh = command.says("publish", "--type", "later", "--delay", "3600").strip()
    assert len(fresh) == 32
    whole = {"specversion": "1.0", "id": "p3", "source": "/a", "type": "t", "data": [1], "color": "red"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(whole)))
    assert command.says("publish", "--file", "-") == "p3\n"
    (command.folder / "event.json").write_text(json.dumps({**whole, "id": "p4"}))
    assert command.says("publish", "--file", "event.json") == "p4\n"
    with command.worker(durable.Registry()) as client:
        until(lambda: client.event_counts().unmatched == 4)
    counts = json.loads(command.says("trigger", "counts", "--json"))
    assert counts == {"taken": 4, "unmatched": 4, "expired": 0, "repeated": 0}
    first, bare, third, _ = map(json.loads, command.says("trigger", "unmatched", "--json").splitlines())
    assert first.pop("time") < datetime.now(timezone.utc).isoformat()
    assert first == {
        "specversion": "1.0",
        **{"id": "p1", "source": "/shop", "type": "com.shop.paid", "subject": "order-42"},
        "datacontenttype": "application/json",
        "data": {"amount": 7},
    }
    assert (bare["source"], "data" in bare) == ("/durable/publish", False)
    assert third == {**whole, "time": third["time"]}
    assert json.loads(command("doctor", "--json").stdout)["triggers"]["delayed_events"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        ([], 2, "--type"),
        (["--type", ""], 2, "not empty"),
        (["--type", "a", "--subject", ""], 2, "subject"),
        (["--type", "a", "--data", "text"], 2, "quotes"),
        (["--type", "a", "--data", "@nosuch"], 3, "nosuch"),
        (["--type", "a", "--delay", "-1"], 2, "delay"),
        (["--type", "a", "--delay", "nan"], 2, "delay"),
        (["--type", "a", "--delay", "soon"], 2, "--delay"),
        (["--file", "nosuch.json"], 3, "nosuch.json"),
        (["--file", "flows.py"], 2, "no JSON"),
        (["--file", "event.json"], 2, "source"),
        (["--file", "event.json", "--id", "x"], 2, "--file"),
        (["--file", "event.json", "--data", "1"], 2, "--file"),
        (["--type", "a", "--url", "memory://x"], 2, "own memory"),
        (["--type", "a", "--url", "sqlite:///nosuch.db"], 4, "nosuch.db"),
    ],
)
def test_what_is_no_event_is_refused(command: Here, arguments: list[str], status: int, part: str) -> None:
    (command.folder / "event.json").write_text('{"specversion": "1.0", "id": "1", "type": "t"}')
    done = command("publish", *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert part in done.stderr
    assert done.stderr.startswith("error: ")


# ---- trigger


def test_triggers_are_added_shown_switched_and_deleted(command: Here) -> None:
    store_made = command.says("trigger", "add", written(command, THIRD), "--url", "sqlite:///new.db")
    assert store_made == "third is added\n"
    assert command.says("trigger", "add", "triggers.json") == "third is added\n"
    shown = json.loads(command.says("trigger", "show", "third", "--json"))
    state = {"enabled": True, "firings": 0, "progress": {}, "interceptions": []}
    assert shown == THIRD | state
    assert json.loads(command.says("--json", "trigger", "list")) == shown
    assert json.loads(command.says("trigger", "--json", "list", "--url", "sqlite:///new.db")) == shown
    assert command("trigger", "--url", "sqlite:///nosuch.db", "list").returncode == 4
    with command.client() as client:
        client.intercept_trigger("third", actions.delete_trigger("other"), when="instead")
        assert client.list_triggers()[0].condition == conditions.join(3)
    assert command.says("trigger", "disable", "third").startswith("third ")
    shown = json.loads(command.says("trigger", "show", "third", "--json"))
    interception = {"action": {"kind": "delete_trigger", "trigger_id": "other"}, "instead": True}
    assert (shown["enabled"], shown["interceptions"]) == (False, [interception])
    assert "instead       delete_trigger other" in command.says("trigger", "show", "third")
    assert json.loads(command.says("trigger", "enable", "third", "--json")) == {"enabled": "third"}
    assert command.says("trigger", "delete", "third") == "third is deleted\n"
    assert command.says("trigger", "list") == ""
    command.says("trigger", "add", "triggers.json")
    assert command("trigger", "flush").returncode == 2  # nobody to ask
    assert json.loads(command.says("trigger", "flush", "--yes", "--json")) == {"flushed": True}
    assert command.says("trigger", "list", "--json") == ""


def test_every_condition_and_action_can_be_written_as_it_is_shown(command: Here) -> None:
    given = (
        [
            {"kind": "always"},
            {"kind": "join_subjects", "names": ["a", "b"]},
            {"kind": "counter", "n": 2},
            {"kind": "any", "conditions": [{"kind": "always"}, {"kind": "not_before", "at": "2026-01-01T00:00:00Z"}]},
            {"kind": "not_after", "at": "2026-01-01T00:00:00Z"},
            {"kind": "expression", "text": "data.amount"},
            {"kind": "function", "name": "large"},
        ],
        [
            {"kind": "pass"},
            {"kind": "publish", "event": EVENT, "delay": 1.5},
            {"kind": "start_orchestration", "name": "ship", "input": [1], "instance_id": "s", "tags": {"a": "b"}},
            {"kind": "raise_event", "name": "paid", "instance_id": "s", "input": None},
            {"kind": "call_activity", "name": "charge", "queue": "gpu", "subject": "s", "timeout": 2.5},
            {"kind": "add_trigger", "trigger": {"id": "x", "on": [{"type": "t"}]}},
            {"kind": "change_trigger", "trigger_id": "x", "enabled": False},
        ],
    )
    both = list(zip(*given, strict=True))
    triggers = [{"id": str(n), "on": [{}], "condition": c, "action": a} for n, (c, a) in enumerate(both)]
    command.says("trigger", "add", written(command, triggers))
    shown = [json.loads(line) for line in command.says("trigger", "list", "--json").splitlines()]
    assert [(one["condition"], one["action"]) for one in shown] == both
    assert max(map(len, command.says("trigger", "list").splitlines())) <= 80


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"on": {"typ": "t"}}, "on.typ"),
        ({"on": {"type": "a*b"}}, "the end only"),
        ({"on": []}, "on="),
        ({"fired": 3}, "fired"),
        ({"transient": "yes"}, "transient"),
        ({"context": [1]}, "context"),
        ({"id": "a/b"}, "'/'"),
        ({"id": 7}, "id"),
        ({"condition": {"kind": "joyn"}}, "joyn"),
        ({"condition": {"kind": "join"}}, "`n`"),
        ({"condition": {"kind": "join", "n": 0}}, ">= 1"),
        ({"condition": {"kind": "join_subjects", "names": []}}, "names"),
        ({"condition": {"kind": "not_before", "at": "2026-01-01T00:00:00"}}, "timezone"),
        ({"condition": {"kind": "expression", "text": "data["}}, "JMESPath"),
        ({"condition": {"kind": "any", "conditions": [{"kind": "always", "n": 1}]}}, "conditions[0].n"),
        ({"action": {"kind": "start_orchestration", "name": "a/b"}}, "action.name"),
        ({"action": {"kind": "start_orchestration", "name": "a", "tags": {"": "b"}}}, "tag"),
        ({"action": {"kind": "publish", "event": {"id": "1"}}}, "CloudEvent"),
        ({"action": {"kind": "publish", "event": {}, "delay": -1}}, "delay"),
        ({"action": {"kind": "publish", "event": {**EVENT, "Colour": "red"}}}, "Colour"),
        ({"action": {"kind": "call_activity", "name": "a", "retry": {"max_attempts": 1}}}, "first_interval"),
        ({"action": {"kind": "resume", "instance_id": "a", "execution_id": "b", "task_id": 1}}, "resume"),
        ({"action": {"kind": "add_trigger", "trigger": {"id": "@x", "on": [{}]}}}, "action.trigger.id"),
    ],
)
def test_a_trigger_that_is_none_is_refused_and_the_others_are_added(
    command: Here, wrong: dict[str, Any], part: str
) -> None:
    done = command("trigger", "add", written(command, [{**THIRD, "id": "wrong", **wrong}, {**THIRD, "id": "right"}]))
    assert (done.returncode, done.stdout) == (2, "right is added\n")
    assert part in done.stderr
    with command.client() as client:
        assert [one.id for one in client.list_triggers()] == ["right"]


def test_each_refusal_is_told_by_the_id_or_the_place(command: Here) -> None:
    command.says("trigger", "add", written(command, THIRD))
    done = command("trigger", "add", written(command, [THIRD, 7, {"on": [{}]}]), "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["added"], list(answer["refused"])) == (2, [], ["number 2", "number 3", "third"])


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["show", "nosuch"], 3, "durable trigger list"),
        (["show", "@triggers"], 3, "@triggers"),
        (["show", ""], 2, "empty"),
        (["delete", "a/b"], 2, "'/'"),
        (["delete", "nosuch"], 3, "nosuch"),
        (["enable", "nosuch"], 3, "nosuch"),
        (["disable", "nosuch"], 3, "nosuch"),
        (["add", "nosuch.json"], 3, "nosuch.json"),
        (["add", "flows.py"], 2, "no JSON"),
        (["add", "triggers.json", "--url", "memory://x"], 2, "own memory"),
        (["list", "--url", "sqlite:///nosuch.db"], 4, "nosuch.db"),
        (["dead-letter", "show", "1"], 3, "'1'"),
        (["dead-letter", "replay", "1"], 3, "'1'"),
        (["dead-letter", "delete", "1"], 3, "'1'"),
        (["nosuch"], 2, "nosuch"),
        ([], 2, "Missing command"),
    ],
)
def test_each_error_has_its_status_and_one_message(command: Here, arguments: list[str], status: int, part: str) -> None:
    written(command, THIRD)
    done = command("trigger", *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert part in done.stderr
    assert done.stderr.startswith("error: ")


def test_a_dead_letter_is_shown_replayed_and_deleted(command: Here) -> None:
    app, broken = durable.Registry(), [True]

    @app.action
    def fetch(context: durable.TriggerContext, event: durable.CloudEvent) -> None:
        if broken:
            raise LookupError("\x1b[31mnobody is there")

    with command.worker(app) as client:
        client.add_trigger("fetching", on=EventPattern("parcel"), action=fetch, transient=False)
        for number in "12":
            command.says("publish", "--type", "parcel", "--id", f"p{number}")
        until(lambda: len(client.dead_letters().items) == 2)
        doctor = command("doctor")
        assert (doctor.returncode, "2 dead letters" in doctor.stdout) == (1, True)
        first, second = map(json.loads, command.says("trigger", "dead-letter", "list", "--json").splitlines())
        assert first.keys() == {"id", "event", "trigger_id", "error", "attempts", "at"}
        assert (first["event"]["id"], first["trigger_id"], first["attempts"]) == ("p1", "fetching", 3)
        said = command.says("trigger", "dead-letter", "show", first["id"])
        assert "\\x1b[31mnobody" in said
        assert json.loads(command.says("trigger", "dead-letter", "show", first["id"], "--json")) == first
        assert "dead letters  2" in command.says("trigger", "show", "fetching")
        broken.clear()
        answer = json.loads(command.says("trigger", "dead-letter", "replay", first["id"], "--json"))
        assert answer == {"replayed": first["id"]}
        client.wait_for_trigger("fetching", SOON)
        command.says("trigger", "dead-letter", "delete", second["id"])
        assert command.says("trigger", "dead-letter", "list") == ""
        assert "nothing needs attention" in command.says("doctor")


def test_a_shell_completes_commands_of_the_group(command: Here) -> None:
    def completed(words: str) -> list[str]:
        place = str(len(words.split(" ")) - 1)
        return command.apart(_DURABLE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place).stdout.split()

    assert completed("durable trigger en") == ["enable"]
    assert completed("durable trigger dead-letter re") == ["replay"]
    assert "--keep" in completed("durable trigger unmatched --k")


# ---- what triggers live in


def test_triggers_are_listed_as_no_orchestration(world: World) -> None:
    client = world.client
    client.start_orchestration("nobody", instance_id="first")
    client.add_trigger("t", on=EventPattern())
    client.start_orchestration("nobody", instance_id="second")
    assert [one.instance_id for one in client.list_orchestrations()] == ["second", "first"]
    assert client.list_orchestrations(prefix="@").items == []
    assert client.list_orchestrations(name="@triggers").items == []
    page, seen = client.list_orchestrations(limit=1), list[str]()
    while page.cursor is not None:
        seen += [one.instance_id for one in page]
        page = client.list_orchestrations(limit=1, cursor=page.cursor)
    assert [*seen, *(one.instance_id for one in page)] == ["second", "first"]
    assert [one.instance_id for one in client.list_orchestrations(limit=2)] == ["second", "first"]
    found = client.diagnose()
    assert (found.unfinished, found.triggers) == (
        {"PENDING": 2},
        {"triggers": 1, "delayed_events": 0, "dead_letters": 0},
    )
    assert any("1 trigger" in finding.what for finding in found.findings)
    assert client.purge_where(prefix="@") == client.purge_where() == 0
    for refused in (client.get_status, client.history, client.purge, client.terminate):
        with pytest.raises(ValueError, match="@"):
            refused("@triggers")
    assert [one.id for one in client.list_triggers()] == ["t"]


def test_a_workspace_with_triggers_is_well(world: World) -> None:
    done: list[int] = []

    @world.registry.activity(name="charge")
    def charge(number: int) -> None:
        done.append(number)

    world.client.add_trigger("charging", on=EventPattern("paid"), action=actions.call_activity(charge, 7))
    world.work()
    world.client.publish(durable.CloudEvent({"type": "paid", "source": "/shop", "id": "1"}))
    until(lambda: [one.runtime_status for one in world.client.list_orchestrations()] == ["COMPLETED"])
    [called] = world.client.list_orchestrations()
    assert (called.name, called.instance_id.partition(":")[0], done) == ("@call", "charging", [7])
    assert world.client.diagnose().findings == []
    assert world.client.purge(called.instance_id) == 1


def test_an_activity_of_a_trigger_that_has_not_begun_yet_lacks_no_code(world: World) -> None:
    world.work()
    world.client.backend.store.commit([turn("charging:1", 0, status=durable.RuntimeStatus.PENDING, name="@call")])
    until(lambda: world.client.diagnose().findings == [])  # the worker makes its queues meanwhile
    assert world.client.diagnose().unfinished == {"PENDING": 1}


def test_what_an_orchestration_waits_with_is_listed_and_shown(command: Here) -> None:
    app = durable.Registry()

    @app.orchestrator
    def waits(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
        yield ctx.wait_for_cloudevent(type="com.shop.paid", subject=ctx.instance_id)

    with command.worker(app) as client:
        client.start_orchestration("waits", instance_id="order-42")
        until(client.list_triggers)
        listed = json.loads(command.says("trigger", "list", "--json"))
        assert listed["action"].items() >= {"kind": "resume", "instance_id": "order-42"}.items()
        assert json.loads(command.says("trigger", "show", listed["id"], "--json")) == listed
        assert "com.shop.paid of order-42" in command.says("trigger", "show", listed["id"])
