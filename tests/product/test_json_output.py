"""docs/json.md is what `--json` prints: its tables have the fields there are, and every command keeps to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import durable
from durable.cli.exits import Exit
from tests.product.command_line import Command
from tests.waiting import SOON, until

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
ALWAYS = {"HistoryEvent": {"type", "timestamp"}, "FailureDetails": {"type"}}  # of others, all fields
KINDS: dict[str, Any] = {
    "text": str,
    "time": str,
    "number": (int, float),
    "bool": bool,
    "object": dict,
    "list": list,
    "any": object,
    "null": type(None),
    "FailureDetails": dict,
}


def table(name: str) -> dict[str, str]:
    """Field and type of the rows under a heading."""
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", section, re.MULTILINE))


def check(value: dict[str, Any], name: str) -> None:
    """Whether an object is as the page says."""
    fields = table(name)
    always = ALWAYS.get(name, set(fields))
    assert always <= set(value) <= set(fields)
    for field, found in value.items():
        assert isinstance(found, tuple(KINDS[kind] for kind in fields[field].split(" or "))), (name, field, found)
    for failure in filter(None, (value.get("failure"), value.get("cause"))):
        check(failure, "FailureDetails")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.mark.parametrize(
    "struct", [durable.OrchestrationStatus, durable.HistoryEvent, durable.FailureDetails, durable.Trigger]
)
def test_each_field_has_a_row(struct: type[msgspec.Struct]) -> None:
    assert list(table(struct.__name__)) == list(struct.__struct_fields__)


def test_each_field_of_a_dead_letter_has_a_row() -> None:
    assert list(table("DeadLetter")) == list(durable.DeadLetter._fields)


def test_each_status_and_code_has_its_word() -> None:
    row = PAGE.split("| `runtime_status`")[1].split("\n")[0]
    assert re.findall(r"`([A-Z_]+)`", row) == list(durable.RuntimeStatus)
    for code in (Exit.FAILED, Exit.USAGE, Exit.NOT_FOUND, Exit.STORE, Exit.TIMED_OUT, Exit.BLOCKED, Exit.BUG):
        assert f"`{code.name.lower()}` {code.value}" in PAGE.replace("\n", " ")


def test_each_command_with_an_answer_has_a_row(command: Command) -> None:
    commands = set(re.findall(r"^│ (\w+) ", command.says("--help"), re.MULTILINE))
    rows = PAGE.split("| command | stdout |")[1].split("\n\n")[0]
    first_cells = " ".join(re.findall(r"^\| (.+?) \|", rows, re.MULTILINE))
    assert set(re.findall(r"`(\w+)", first_cells)) == commands - {"worker"}


def test_looking_prints_what_the_page_says(command: Command) -> None:
    functions = durable.Registry()

    @functions.activity
    def breaks(what: str) -> None:
        raise ValueError(what)

    @functions.orchestrator
    def flow(ctx: durable.OrchestrationContext, what: str) -> Any:
        ctx.set_custom_status(1)
        yield ctx.create_timer(0.001)
        yield ctx.call_activity(breaks.options(retry=durable.RetryPolicy(max_attempts=2, first_interval=0.001)), what)

    with command.worker(functions) as client:
        client.start_orchestration("flow", "x", instance_id="f", tags={"a": "b"})
        client.wait("f", SOON)
        doctor = json.loads(command("doctor", "--json").stdout)
    (listed,) = map(json.loads, command.says("list", "--json").splitlines())
    shown = json.loads(command.says("show", "f", "--json"))
    events = [json.loads(line) for line in command.says("history", "f", "--json").splitlines()]
    assert len(events) > 8
    assert {**shown, "history": None} == listed
    assert shown["history"] == events
    assert shown["failure"]["cause"]["message"] == "x"
    check(shown, "OrchestrationStatus")
    for event in events:
        check(event, "HistoryEvent")
    assert list(doctor) == ["workers", "unfinished", "waiting", "triggers", "findings"]


def test_triggers_are_what_the_page_says(command: Command) -> None:
    functions = durable.Registry()

    @functions.action
    def breaks(context: durable.TriggerContext, event: durable.CloudEvent) -> None:
        raise ValueError("broken")

    with command.worker(functions) as client:
        client.add_trigger("t", on=durable.EventPattern(), action=breaks, context={"a": 1})
        client.intercept_trigger("t", durable.actions.pass_)
        client.publish(durable.CloudEvent({"type": "x", "source": "/y"}))
        until(lambda: client.dead_letters().items)
    (listed,) = map(json.loads, command.says("trigger", "list", "--json").splitlines())
    check(listed, "Trigger")
    assert json.loads(command.says("trigger", "show", "t", "--json")) == listed
    (letter,) = map(json.loads, command.says("trigger", "dead-letter", "list", "--json").splitlines())
    check(letter, "DeadLetter")
