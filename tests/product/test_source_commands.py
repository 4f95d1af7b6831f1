"""`durable trigger source ...` and `durable trigger workspace ...`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.product.command_line import Here

URL = "redis://127.0.0.1:6379/0?stream=orders"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    here = Here(tmp_path, monkeypatch)
    with here.client():
        pass  # a store, with nothing in it
    return here


def test_event_sources_are_added_shown_and_deleted(command: Here) -> None:
    assert command.says("trigger", "source", "add", "orders", URL) == "orders is added\n"
    command.says("trigger", "source", "add", "told", "env:TOLD_URL", "--no-receive")
    both = [json.loads(line) for line in command.says("trigger", "source", "list", "--json").splitlines()]
    orders = {"name": "orders", "url": URL, "receives": True}
    assert both == [orders, {"name": "told", "url": "env:TOLD_URL", "receives": False}]
    assert json.loads(command.says("trigger", "source", "show", "orders", "--json")) == orders
    assert "published to only" in command.says("trigger", "source", "list")
    command.says("trigger", "source", "add", "orders", f"{URL}2", "--overwrite")
    with command.client() as client:
        assert client.list_event_sources()["orders"].url == f"{URL}2"
    assert command.says("trigger", "source", "delete", "orders") == "orders is deleted\n"
    with command.client() as client:
        assert list(client.list_event_sources()) == ["told"]


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["add", "there", URL], 2, "overwrite"),
        (["add", "a/b", URL], 2, "'/'"),
        (["add", "new", "orders"], 2, "://"),
        (["add", "new", "amqp://me:secret@host/?queue=q"], 2, "env:NAME"),
        (["show", "nosuch"], 3, "nosuch"),
        (["delete", "nosuch"], 3, "nosuch"),
    ],
)
def test_what_is_no_event_source_is_refused(command: Here, arguments: list[str], status: int, part: str) -> None:
    command.says("trigger", "source", "add", "there", URL)
    done = command("trigger", "source", *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert part in done.stderr
    assert "secret" not in done.stderr


def test_workspaces_are_created_listed_and_deleted(command: Here) -> None:
    assert "no workspace" in command("trigger", "workspace", "list").stderr
    assert command.says("trigger", "workspace", "create", "shop") == "shop is created\n"
    assert command("trigger", "workspace", "create", "shop").returncode == 2
    command.says("trigger", "workspace", "create", "other")
    assert command.says("trigger", "workspace", "list") == "shop\nother\n"
    assert json.loads(command.says("trigger", "workspace", "delete", "shop", "--json")) == {"deleted": "shop"}
    assert command.says("trigger", "workspace", "list") == "other\n"
