"""A parent's request to rewind its child, answered from a store: by a client, or by the worker that finds its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from msgspec.structs import replace

from durable.backends.memory import MemoryStore
from durable.engine.messages import Message, encode_message
from durable.engine.step import create, inbox_arrivals
from durable.model import history as h
from durable.model.history import Event, Raw, decode_events, encode_events
from durable.ports import Append, Commit, Outcome, Record, Row, RowKey, Want
from durable.runtime.rewinding import Part, Rewound, answer_requests, drive, end_rows, rewind_instance

from .test_reopening import failure_of
from .test_replay_laws import NOW
from .test_rewind_laws import LATER, mint
from .test_rewind_requests import ASK, child, stored

UNREADABLE = b"[99,[]]"
START = Row("p i/3/1/start", "message", "p", 0, NOW.timestamp())


def request(name: str) -> Row:
    body = encode_message(Message("rewind", name, ASK))
    return Row(f"p {name}/3/1/rewind/9", "message", "p", 0, 0.0, body=body)


class Fickle(MemoryStore):
    """outcomes: what becomes of the next commits of an instance, and whether they happen; else all goes well."""

    def __init__(self) -> None:
        super().__init__(1)
        self.outcomes: dict[str, Iterator[tuple[Outcome, bool]]] = {}

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        [commit] = commits
        outcome, happens = next(self.outcomes.get(commit.instance_id, iter(())), (Outcome.COMMITTED, True))
        if happens:
            assert self.commit(commits) == [Outcome.COMMITTED]
        return lambda: [outcome]

    def failed(self, *names: str, history: bytes = b"") -> None:
        """Children of the same parent that have failed."""
        of_one, events = child(failure_of(1))
        summary = stored(of_one, events).summary
        for name in names:
            life = f"x {name}"
            here = replace(summary, instance_id=name, execution_id=life, length=len(events))
            append = Append(life, 0, history or encode_events([replace(events[0], execution_id=life), *events[1:]]))
            assert self.commit([Commit(f"c {name}", name, 0, 0, here, (append,))]) == [Outcome.COMMITTED]

    def parent(self, *rows: Row) -> None:
        started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="px", seed="s")
        made = create("p", started, 1, "c p")
        assert self.commit([replace(made, put=rows)]) == [Outcome.COMMITTED]

    def record(self, name: str) -> Record:
        [record] = self.load([Want(name)])
        assert record is not None
        return record

    def rewinds(self, name: str) -> list[Event]:
        record = self.record(name)
        assert record.history is not None
        events = [event for events in record.history for event in decode_events(events)]
        return [event for event in events if event.type == h.EXECUTION_REWOUND]

    def told(self) -> list[str]:
        """What the parent will hear."""
        return [arrival.event.type for arrival in inbox_arrivals(self.record("p").inbox)[0]]


@pytest.fixture
def store() -> Fickle:
    return Fickle()


def part() -> Part:
    return Part(lambda: LATER, mint(), 1)


def answered(store: Fickle, *names: str) -> Rewound:
    return drive(answer_requests([request(name) for name in names], part()), store)


def test_a_child_that_is_rewound_remembers_for_which_request(store: Fickle) -> None:
    store.failed("i")
    assert answered(store, "i") == Rewound(["i"], [request("i")], [], [])
    [event] = store.rewinds("i")
    assert (event.instance_id, event.execution_id, event.depth) == ("p", "px", 9)


@pytest.mark.parametrize("happens", [True, False])
def test_whether_a_rewind_happened_is_looked_up_where_the_store_does_not_say(store: Fickle, happens: bool) -> None:
    store.failed("i")
    store.outcomes["i"] = iter([(Outcome.UNKNOWN, happens)])
    rewound = answered(store, "i")
    assert (rewound.touched, rewound.left) == ((["i"], []) if happens else ([], [request("i")]))
    assert len(store.rewinds("i")) == happens


@pytest.mark.parametrize("outcome", [Outcome.CONFLICT, Outcome.UNKNOWN])
def test_who_rewinds_is_told_when_it_did_not_happen(store: Fickle, outcome: Outcome) -> None:
    store.failed("i")
    store.outcomes["i"] = iter([(outcome, False)])
    assert drive(rewind_instance(store.record("i"), Raw(b"null"), part()), store) is None
    assert drive(rewind_instance(store.record("i"), Raw(b"null"), part()), store) is not None


def test_one_that_can_not_be_rewound_now_holds_up_no_other(store: Fickle) -> None:
    store.failed("first", "changed", "between", "last")
    store.failed("newer", history=UNREADABLE)
    store.outcomes["changed"] = iter([(Outcome.CONFLICT, False)])
    rewound = answered(store, "first", "newer", "between", "changed", "last")
    assert sorted(rewound.touched) == ["between", "first", "last"]
    assert sorted(row.key for row in rewound.answered) == sorted(request(name).key for name in rewound.touched)
    assert rewound.left == [request("changed")]
    assert [unreadable.row for unreadable in rewound.unreadable] == [request("newer")]


def test_a_parent_hears_of_a_child_that_is_gone(store: Fickle) -> None:
    store.parent(request("i"))
    rewound = answered(store, "i")
    assert store.told() == [h.CHILD_FAILED]
    assert (rewound.touched, rewound.answered) == (["p"], [request("i")])


def test_a_child_whose_start_is_under_way_is_not_given_up(store: Fickle) -> None:
    store.parent(request("i"), START)
    rewound = answered(store, "i")
    assert store.told() == []
    assert (rewound.touched, rewound.answered) == ([], [request("i")])


def test_what_is_answered_ends_unless_somebody_else_has_it(store: Fickle) -> None:
    store.parent(request("i"), replace(request("other"), holder="them"))
    drive(end_rows([request("i"), request("other")]), store)
    rows = store.rows([RowKey(0, request(name).key) for name in ("i", "other")])
    assert [row is not None for row in rows] == [False, True]
