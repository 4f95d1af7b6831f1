"""What an earlier version stored opens, reads the same, and goes on. `golden_flows.py` is the code that wrote it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import durable
from durable.model import history as h
from tests.contracts.golden_flows import RESULT, app

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("history-format-*.jsonl")), ids=lambda file: file.stem)
def test_stored_turns_are_read_and_would_be_written_the_same(file: Path) -> None:
    types: set[str] = set()
    for row in file.read_bytes().splitlines():
        events = h.decode_events(row)
        assert h.encode_events(events) == row
        types.update(event.type for event in events)
    assert types <= h.FACTS | h.COMMANDS
    assert {h.PATCH_RECORDED, h.CONTINUE_AS_NEW, h.EXECUTION_TERMINATED, h.EVENT_RAISED, h.CHILD_FAILED} <= types


def test_a_file_of_schema_2_goes_on_where_it_was(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript((GOLDEN / "sqlite-schema-2-running.sql").read_text())
    with durable.connect(f"sqlite:///{tmp_path}/old.db") as client, durable.Worker(client, registry=app):
        handle = client.handle("golden-3")
        history = client.history("golden-3")
        assert [e.name for e in history if e.type == "PatchRecorded"] == ["fee"]
        assert any(e.suggest_continue_as_new for e in history)
        assert handle.status().version == "1.2"
        handle.raise_event("go", {"at": "last"})
        assert handle.result(20, on_blocked="raise") == RESULT
        ended = client.get_status("golden-4")
        assert ended is not None
        assert (ended.runtime_status, ended.output) == (durable.RuntimeStatus.TERMINATED, "enough")
