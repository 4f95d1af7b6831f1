"""What is due, read page by page from an index that changes meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final

import pytest

from durable.engine.effects import timer_body
from durable.ports import Row, RowKind, Slice
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


NOW: Final = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
PAGE: Final = 10


class Index:
    """Rows in order of time, and an agenda that reads them, a page at a time. reads: how many pages so far.

    Workers `me` and `peer` live.
    """

    def __init__(self, *rows: Row, partitions: int = 3) -> None:
        self.rows = list(rows)
        self.reads = 0
        self.roster = Roster("me")
        self.roster.update(["me", "peer"], 0.0)
        self.agenda = Agenda(self.roster, "me", window=60.0, sweep=5.0, page=PAGE)
        self.agenda.assign(frozenset(("default", number) for number in range(partitions)), 0.0)

    def peer_dies(self, patience: float) -> None:
        self.roster.update(["me"], 0.0)
        self.agenda.assign(self.agenda.owned, NOW + patience)

    def read(self, now: float) -> Sequence[Row]:
        reading = self.agenda.read(now, PARKED)
        answer: Slice[Row] | None = None
        while True:
            try:
                request = next(reading) if answer is None else reading.send(answer)
            except StopIteration as end:
                rows: list[Row] = end.value
                return rows
            assert isinstance(request, Due)
            self.reads += 1
            after = float(request.after or "-inf")
            mine = [row for row in self.rows if row.partition == request.partition]
            due = sorted((row for row in mine if after < row.due_at <= request.until), key=lambda row: row.due_at)
            answer = Slice(due[:PAGE], repr(due[PAGE - 1].due_at) if len(due) > PAGE else None)

    def read_until_at_rest(self, now: float) -> list[Row]:
        found = list(self.read(now))
        while self.agenda.next_at <= now:
            found += self.read(now)
        return found

    def fired(self, now: float) -> list[str]:
        at = datetime.fromtimestamp(now, timezone.utc)
        return [instance_id for instance_id, _ in self.agenda.fire(at)]


PARKED: Final = {"parked"}


def timer(instance_id: str, partition: int, due_at: float) -> Row:
    return Row(f"{instance_id} {due_at}", "timer", instance_id, partition, due_at, body=timer_body("x", 1, 0))


def overdue(partition: int, pages: int) -> list[Row]:
    return [timer("parked", partition, NOW - 100_000.0 + n) for n in range(pages * PAGE)]


def test_a_backlog_of_parked_timers_makes_no_other_timer_late() -> None:
    soon = [timer(f"p{number}", number, NOW + 3.0) for number in range(3)]
    index = Index(*overdue(0, 12), *overdue(1, 12), *soon)
    index.read(NOW)
    index.agenda.arm([timer("new", 0, NOW + 1.0)])
    index.read_until_at_rest(NOW)
    assert index.fired(NOW + 1.0) == ["new"]
    assert sorted(index.fired(NOW + 3.0)) == ["p0", "p1", "p2"]


def test_a_backlog_is_read_once_a_sweep_and_some_pages_at_a_time() -> None:
    index = Index(*overdue(0, 12), *overdue(1, 12))
    sizes = []
    index.read(NOW)
    while index.agenda.next_at <= NOW:
        before = index.reads
        index.read(NOW)
        sizes.append(index.reads - before)
    assert index.reads == 12 + 12 + 1
    assert max(sizes) <= 5 + 1
    assert index.agenda.next_at == NOW + 5.0


def test_timers_behind_a_cut_ahead_of_now_are_read_before_their_time() -> None:
    index = Index(*[timer(f"{n}", 0, NOW + 1.0 + n / 100) for n in range(20 * PAGE)], partitions=1)
    now = NOW
    while index.rows:
        index.read(now)
        fired = set(index.fired(now))
        index.rows = [row for row in index.rows if row.instance_id not in fired]
        assert all(now < row.due_at for row in index.rows)
        now = index.agenda.next_at


def test_what_a_queue_has_lost_is_found_wherever_an_earlier_sweep_was_cut() -> None:
    sent = Row("sent", "task", "a", 0, NOW + 1.0)
    index = Index(sent, *[timer(f"t{n}", 0, NOW + 30.0 + n / 100) for n in range(12 * PAGE)])
    assert index.read_until_at_rest(NOW) == []
    index.agenda.sweep_soon(lost_messages=True)
    assert index.read_until_at_rest(NOW) == [sent]
    assert index.read_until_at_rest(NOW + 0.5) == []  # it is looked for once


def test_who_gets_partitions_reads_them_from_the_start() -> None:
    late = Row("late", "message", "a", 0, NOW - 1.0)
    index = Index(*[timer(f"t{n}", 0, NOW + 30.0 + n / 100) for n in range(12 * PAGE)], partitions=1)
    index.read_until_at_rest(NOW)
    index.agenda.assign(frozenset(), 0.0)
    index.rows.append(late)  # by whoever had them meanwhile
    index.agenda.assign(frozenset({("default", 0)}), 0.0)
    assert index.read_until_at_rest(NOW) == [late]


def work(key: str, kind: RowKind, holder: str, partition: int = 0, due_at: float = NOW + 50.0) -> Row:
    return Row(key, kind, "a", partition, due_at, holder)


def test_what_a_living_holder_has_is_left_alone_until_it_is_due() -> None:
    index = Index(work("theirs", "task", "peer"), work("told", "message", "peer"), work("sent", "task", ""))
    assert index.read_until_at_rest(NOW) == []
    assert {row.key for row in index.read_until_at_rest(NOW + 50.0)} == {"theirs", "told", "sent"}


def test_what_is_ours_and_nobody_sees_to_is_found_before_it_is_due() -> None:
    """As after a fault between a commit and what follows it."""
    mine = [work("mine", "task", "me"), work("unsent", "message", "me", 1)]
    index = Index(*mine)
    assert index.read_until_at_rest(NOW) == mine


def test_what_the_dead_have_left_to_run_waits_for_outcomes_that_are_on_their_way() -> None:
    task, message = work("task", "task", "peer"), work("message", "message", "peer", 1)
    index = Index(task, message)
    index.peer_dies(patience=0.5)
    assert index.read_until_at_rest(NOW) == [message]
    index.rows.remove(message)
    assert index.agenda.next_at == NOW + 0.5
    assert index.read_until_at_rest(NOW + 0.5) == [task]


def test_what_a_queue_has_lost_is_no_message_that_somebody_is_about_to_send() -> None:
    index = Index(work("sent", "task", ""), work("theirs", "task", "peer"), work("later", "inbox", ""))
    index.agenda.sweep_soon(lost_messages=True)
    assert [row.key for row in index.read_until_at_rest(NOW)] == ["sent"]


def test_a_hint_shows_what_is_due_in_every_partition_and_is_followed_once() -> None:
    index = Index()
    index.read(NOW)
    new = [work(f"new {number}", "inbox", "", number, NOW) for number in range(3)]
    index.rows += new
    assert index.read(NOW + 1.0) == []
    index.agenda.look = True
    assert index.read(NOW + 1.0) == new
    assert index.agenda.next_at == NOW + 5.0
    before = index.reads
    index.read(NOW + 2.0)
    assert index.reads == before


def test_behind_a_hint_may_be_more_than_a_page() -> None:
    index = Index(partitions=1)
    index.read(NOW)
    new = [work(f"new {number:03}", "inbox", "", 0, NOW + number / 1000) for number in range(3 * PAGE)]
    index.rows += new
    index.agenda.look = True
    assert {row.key for row in index.read_until_at_rest(NOW + 1.0)} == {row.key for row in new}
