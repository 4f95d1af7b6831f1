"""Whatever is at its target, a message arrives once; what can't be sent, or be read, holds up its own row only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import pytest

from durable.backends.memory import MemoryStore
from durable.engine.instance import Env, task_key
from durable.engine.messages import Message, child_start, encode_message
from durable.engine.step import create, inbox_arrivals
from durable.model import history as h
from durable.model.history import Event, Parent, Raw
from durable.model.limits import Limits
from durable.ports import Append, Commit, Outcome, Record, Row, RowKey, Want
from durable.replay.guard import Watch
from durable.runtime.outbox import Outbox, Sent
from durable.runtime.parking import RESTING
from durable.runtime.rewinding import drive

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AT = NOW.timestamp()
HOLD = 60.0
ROWS = 5
NEWER = b"[99,[]]"  # what a later version may write
EVENT = Message("fact", "p", Event(h.EVENT_RAISED, NOW, name="x", input=Raw(b"null")))


class Store(MemoryStore):
    """says: what is said to become of the next commits, none of which happens."""

    def __init__(self) -> None:
        super().__init__(1)
        self.says: Outcome | None = None

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        said, self.says = self.says, None
        return super().begin(commits) if said is None else lambda: [said] * len(commits)


class Sender:
    """A worker's outbox, with rows of the instances `p` and `q` to be sent."""

    def __init__(self) -> None:
        self.store = Store()
        ids = iter(f"id{number}" for number in range(100))
        self.outbox = Outbox(Env("me", HOLD, ids.__next__, 1, Limits(), Watch()), lambda: NOW)
        self.create("p")
        self.create("q")

    def create(self, name: str, parent: Parent | None = None, life: str = "", *history: bytes) -> None:
        """history: as it is stored, if it is not just its start."""
        life = life or f"life of {name}"
        started = Event(
            h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id=life, seed="s", parent=parent
        )
        made = create(name, started, 1, f"c {name}")
        rows = history or [made.appends[0].events]
        appends = tuple(Append(life, number, events) for number, events in enumerate(rows))
        put = [self.row(number) for number in range(ROWS)] if name == "p" else []
        commit = Commit(made.id, name, 0, 0, made.summary, appends, (*made.put, *put))
        assert self.store.commit([commit]) == [Outcome.COMMITTED]

    def row(self, number: int, body: bytes = b"") -> Row:
        return Row(f"{task_key('e', number, 1)}/start", "message", "p", 0, AT + HOLD, "me", 0, body)

    def add(self, *messages: Message | bytes) -> None:
        for number, message in enumerate(messages):
            body = message if isinstance(message, bytes) else encode_message(message)
            self.outbox.add(self.row(number, body))

    def send(self) -> Sent:
        return drive(self.outbox.send(), self.store)

    def left(self, number: int) -> Row | None:
        """What the store still has of such a row."""
        [row] = self.store.rows([RowKey(0, self.row(number).key)])
        return row

    def found(self, name: str) -> Record | None:
        [record] = self.store.load([Want(name)])
        return record

    def told(self, name: str) -> list[str]:
        record = self.found(name)
        assert record is not None
        return [arrival.event.type for arrival in inbox_arrivals(record.inbox)[0]]


def start(target: str, parent: str, life: str = "") -> Message:
    asked = Event(h.CHILD_CREATED, NOW, 1, "flow", 1, Raw(b"null"), instance_id=target)
    return child_start(asked, parent_of(parent), life or f"life of {target} for {parent}", "seed")


def parent_of(name: str) -> Parent:
    return Parent(name, f"life of {name}", 1, 1)


def start_of(parent: str) -> bytes:
    """The first row of a history."""
    return h.encode_events([start("c", parent).event])


@pytest.fixture
def sender() -> Sender:
    return Sender()


def test_of_two_that_start_the_same_id_at_once_the_second_is_told_that_it_is_taken(sender: Sender) -> None:
    sender.add(start("c", "p"), start("c", "q"))
    sender.send()
    child = sender.found("c")
    assert child is not None
    assert child.summary.parent_instance_id == "p"
    assert (sender.told("p"), sender.told("q")) == ([], [h.CHILD_FAILED])
    assert (sender.left(0), sender.left(1)) == (None, None)


def test_a_child_that_has_continued_as_new_is_known_by_its_parent(sender: Sender) -> None:
    sender.create("c", parent_of("p"), "a later life")
    sender.add(start("c", "p", "its first life"))
    sender.send()
    assert sender.told("p") == []
    assert sender.left(0) is None


def test_a_child_that_ran_and_was_purged_is_not_started_again(sender: Sender) -> None:
    sender.add(start("c", "p"))
    sender.store.says = Outcome.CONFLICT
    assert not sender.send().again
    sender.send()
    assert sender.left(0) is None
    assert sender.found("c") is None


def test_a_start_that_was_unclear_and_did_not_happen_is_sent_again(sender: Sender) -> None:
    sender.add(start("c", "p"))
    sender.store.says = Outcome.UNKNOWN
    assert sender.send().again
    assert sender.left(0) is not None
    assert not sender.send().again
    assert sender.left(0) is None
    assert sender.found("c") is not None


def test_what_can_not_be_read_holds_up_its_own_row_only_and_rests(
    sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    sender.create("whose", None, "", NEWER)
    sender.create("ours", parent_of("p"), "", start_of("p"), NEWER)
    unreadable: list[Message | bytes] = [NEWER, start("whose", "p")]
    sender.add(*unreadable, start("ours", "p"), start("new", "p"), EVENT)
    assert not sender.send().again
    assert [sender.left(number) for number in (2, 3, 4)] == [None] * 3
    assert sender.found("new") is not None
    assert sender.told("p") == [h.EVENT_RAISED]
    resting = [row for row in map(sender.left, range(ROWS)) if row is not None]
    assert [(row.due_at, row.holder) for row in resting] == [(AT + RESTING, "me")] * 2
    sender.add(*unreadable)
    sender.send()
    assert len(caplog.records) == 2, "said once"
