"""What is due, read page by page from an index that changes meanwhile."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from durable.engine.effects import timer_body
from durable.ports import Row, Slice
from durable.runtime.agenda import Agenda
from durable.runtime.requests import Due
from durable.runtime.roster import Roster


def test_a_sweep_goes_on_behind_pages_whose_rows_have_all_changed_since_they_were_found() -> None:
    agenda = Agenda(Roster("me"), "me", window=60.0, sweep=5.0, page=10)
    agenda.assign(frozenset({("default", 0)}), 0.0)
    row = Row("due", "task", "a", 0, due_at=1.0)
    pages = {str(number): Slice[Row]([], str(number + 1)) for number in range(20)} | {"20": Slice([row], None)}

    def sweep(now: float) -> tuple[list[Row], int]:
        reading = agenda.read(now, ())
        request, reads = next(reading), 0
        while True:
            assert isinstance(request, Due)
            reads += 1
            try:
                request = reading.send(pages[request.after or "0"])
            except StopIteration as end:
                return end.value, reads

    found: list[Row] = []
    sweeps: list[int] = []
    while not found:
        found, reads = sweep(1_000.0 + 10.0 * len(sweeps))
        sweeps.append(reads)
    assert found == [row]
    assert sum(sweeps) == len(pages)
    assert len(sweeps) > 1  # each of them is bounded


def test_a_timer_that_can_not_be_read_is_kept_said_once_and_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    agenda = Agenda(Roster("me"), "me", window=60.0, sweep=5.0, page=10)
    agenda.assign(frozenset({("default", 0)}), 0.0)
    bad = Row("bad", "timer", "a", 0, due_at=-1e300, body=b"\xff")
    good = Row("good", "timer", "b", 0, due_at=1.0, body=timer_body("x", 1, 0))
    for now in (datetime(2026, 1, 1, 0, minute, tzinfo=timezone.utc) for minute in range(2)):
        reading = agenda.read(now.timestamp(), ())
        next(reading)
        with pytest.raises(StopIteration):
            reading.send(Slice([bad, good], None))
        assert [(instance_id, arrival.row_key) for instance_id, arrival in agenda.fire(now)] == [("b", "good")]
    assert ["bad" in record.message for record in caplog.records] == [True]
