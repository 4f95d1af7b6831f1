"""The laws of `durable.ports` as tests. A backend is right when its subclass of `StoreContract` is green.

    class TestMyStore(StoreContract):
        def open_store(self) -> Store:
            return connect_somehow("a place that was empty before this test")

Every test opens a store of its own, of one partition. `reopens` says whether `reopen_store` gives the same data to a
new store object. The hypothesis machine that compares a store with the reference is in `store_machine.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import ClassVar

import pytest

from durable.model.history import Raw
from durable.model.status import RuntimeStatus, Summary
from durable.ports import (
    FACTS,
    PARKED,
    STATUS,
    Append,
    Commit,
    Delivered,
    ExecutionKey,
    Fact,
    Lease,
    Outcome,
    Purged,
    Query,
    Record,
    Row,
    RowKey,
    RowKind,
    Signals,
    Store,
    Want,
)

COMMITTED, CONFLICT = Outcome.COMMITTED, Outcome.CONFLICT
HOSTILE_IDS = ("it's", '"quoted"', "100%", "a_b", "a*[x]", "'; DROP TABLE rows;--", "😀 {x}", "ID", "id", "é" * 100)
_EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
_commit_ids = count(1)


def moment(seconds: float) -> datetime:
    """A moment so many seconds after a fixed one."""
    return _EPOCH + timedelta(seconds=seconds)


def turn(
    instance_id: str,
    expect: int,
    *appends: Append,
    put: Sequence[Row] = (),
    drop: Sequence[str] = (),
    status: RuntimeStatus = RuntimeStatus.RUNNING,
    created: float = 0.0,
    execution: str | None = None,
    name: str = "flow",
    tags: dict[str, str] | None = None,
    output: bytes = b"null",
    group: str = "default",
    replaces: str = "",
) -> Commit:
    """A commit of one instance; its execution is `x/<instance>` unless given."""
    summary = Summary(
        instance_id=instance_id,
        execution_id=execution or f"x/{instance_id}",
        name=name,
        status=status,
        created_at=moment(created),
        updated_at=moment(created + expect),
        output=Raw(output),
        tags=tags,
        group=group,
    )
    commit_id = f"c{next(_commit_ids)}"
    return Commit(commit_id, instance_id, 0, expect, summary, appends, tuple(put), tuple(drop), replaces)


def ended(instance_id: str, expect: int, *appends: Append, execution: str | None = None) -> Commit:
    """A commit with which an instance has finished."""
    return turn(instance_id, expect, *appends, status=RuntimeStatus.COMPLETED, execution=execution)


def events(instance_id: str, start: int, payload: bytes = b'[1,"e"]') -> Append:
    """Events of the default execution of an instance."""
    return Append(f"x/{instance_id}", start, payload)


def work(key: str, instance_id: str = "a", due_at: float = 10.0, kind: RowKind = "task", group: str = "default") -> Row:
    """A row without a holder."""
    return Row(key, kind, instance_id, 0, due_at, body=b'{"do":"it"}', group=group)


def fact(instance_id: str, fact_id: str, due_at: float = 1.0) -> Fact:
    """A fact whose body names it."""
    return Fact(instance_id, 0, fact_id, f'"{fact_id}"'.encode(), due_at)


def keys(store: Store, until: float = 1e12) -> list[str]:
    """The keys of all rows due until then."""
    return [row.key for row in store.due(0, "default", until, 1_000).items]


def loaded(store: Store, instance_id: str) -> Record:
    """The instance, which must exist."""
    [record] = store.load([Want(instance_id)])
    assert record is not None
    return record


def listed(store: Store, query: Query) -> list[str]:
    """The ids of one page."""
    return [summary.instance_id for summary in store.find(query).items]


class StoreContract:
    """Inherit it, give `open_store`, run it with pytest."""

    reopens: ClassVar[bool] = True

    def open_store(self) -> Store:
        """A store over an empty place, new for every test."""
        raise NotImplementedError

    def reopen_store(self, store: Store) -> Store:
        """Close the store and open its place again."""
        raise NotImplementedError

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = self.open_store()
        yield store
        store.close()

    # Commit: atomic per instance, by version.

    def test_an_instance_is_created_once(self, store: Store) -> None:
        first = turn("a", 0, events("a", 0, b"[1]"))
        assert store.commit([first]) == [COMMITTED]
        assert store.commit([turn("a", 0, events("a", 0, b"[2]"))]) == [CONFLICT]
        record = loaded(store, "a")
        assert (record.version, record.commit_id, record.history) == (1, first.id, (b"[1]",))

    def test_a_turn_needs_the_version_it_was_computed_from(self, store: Store) -> None:
        assert store.commit([turn("a", 1, events("a", 0))]) == [CONFLICT]  # absent
        assert store.load([Want("a")]) == [None]
        store.commit([turn("a", 0)])
        assert store.commit([turn("a", 2)]) == [CONFLICT]
        assert store.commit([turn("a", 1)]) == [COMMITTED]
        assert store.commit([turn("a", 1)]) == [CONFLICT]

    def test_a_conflict_skips_only_its_own_instance(self, store: Store) -> None:
        store.commit([turn("b", 0, put=[work("b1", "b")])])
        batch = [
            turn("a", 0, events("a", 0), put=[work("a1")]),
            turn("b", 0, events("b", 0), put=[work("b2", "b")], drop=["b1"]),
            turn("c", 0, put=[work("c1", "c")]),
        ]
        assert store.commit(batch) == [COMMITTED, CONFLICT, COMMITTED]
        assert keys(store) == ["a1", "b1", "c1"]
        record = loaded(store, "b")
        assert (record.version, record.history) == (1, ())

    def test_what_was_begun_is_finished_while_others_go_on(self, store: Store) -> None:
        store.commit([turn("a", 0), turn("b", 0), turn("c", 0)])
        finish = store.begin([turn("a", 1), turn("b", 7)])
        assert store.commit([turn("c", 1)]) == [COMMITTED]
        assert store.deliver([fact("c", "f")]) == [Delivered.NEW]
        assert finish() == [COMMITTED, CONFLICT]
        assert [loaded(store, i).version for i in "abc"] == [2, 1, 2]
        assert store.begin([turn("a", 2)])() == [COMMITTED]

    def test_a_commit_puts_and_drops_rows(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work("k1"), work("k2")])])
        assert store.lease([Lease(0, "k1", "", 0, 99.0, "me")]) == [True]
        changed = Row("k1", "timer", "a", 0, 7.0, "", 0, b"other")
        store.commit([turn("a", 1, put=[changed, work("k3")], drop=["k2", "never existed"])])
        assert store.due(0, "default", 1e9, 10).items == [changed, work("k3")]

    def test_a_key_that_is_dropped_and_put_is_there(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work("k", due_at=1.0)])])
        store.commit([turn("a", 1, put=[work("k", due_at=2.0)], drop=["k"])])
        assert store.due(0, "default", 9.0, 10).items == [work("k", due_at=2.0)]

    def test_a_batch_takes_effect_in_order(self, store: Store) -> None:
        batch = [turn("a", 0, put=[work("k", "b")]), turn("b", 0, drop=["k"]), turn("c", 0, put=[work("l", "c")])]
        assert store.commit(batch) == [COMMITTED] * 3
        assert keys(store) == ["l"]

    def test_a_summary_comes_back_as_it_was(self, store: Store) -> None:
        commit = turn("a", 0, tags={"k": "v"}, output=b'{ "spaced" : 1e400 }')
        store.commit([commit])
        record = loaded(store, "a")
        assert record.summary == commit.summary
        assert store.summaries(["a", "none", "a"]) == [commit.summary, None, commit.summary]

    @pytest.mark.parametrize("size", [1, 400, 401, 1_300])
    def test_batches_of_any_size(self, store: Store, size: int) -> None:
        batch = [turn(f"i{n}", 0, events(f"i{n}", 0), put=[work(f"k{n:05}", f"i{n}")]) for n in range(size)]
        assert store.commit(batch) == [COMMITTED] * size
        records = store.load([Want(f"i{n}") for n in range(size)])
        assert [record.summary.instance_id for record in records if record] == [f"i{n}" for n in range(size)]
        assert store.deliver([fact(f"i{n}", "f") for n in range(size)]) == [Delivered.NEW] * size
        assert store.lease([Lease(0, f"k{n:05}", "", 0, 5.0, "me") for n in range(size)]) == [True] * size
        batch = [turn(f"i{n}", 1, drop=[f"k{n:05}"]) for n in range(size)]
        assert store.commit(batch) == [COMMITTED] * size
        assert len(store.due(0, "default", 1e9, 5_000).items) == size  # the facts

    def test_a_turn_with_many_rows(self, store: Store) -> None:
        rows = [work(f"k{n:05}") for n in range(10_000)]
        assert store.commit([turn("a", 0, put=rows)]) == [COMMITTED]
        assert store.commit([turn("a", 1, drop=[row.key for row in rows[:-1]])]) == [COMMITTED]
        assert keys(store) == ["k09999"]

    def test_nothing_asked_nothing_answered(self, store: Store) -> None:
        assert (store.commit([]), store.load([]), store.deliver([]), store.lease([])) == ([], [], [], [])
        assert (store.input_of([]), store.summaries([])) == ([], [])

    def test_one_of_many_threads_wins_each_version(self, store: Store) -> None:
        store.commit([turn("hot", 0)])
        wins: list[int] = []
        barrier = threading.Barrier(8)

        def race() -> None:
            for version in range(1, 21):
                barrier.wait()
                if store.commit([turn("hot", version, events("hot", version))]) == [COMMITTED]:
                    wins.append(version)

        _together([race] * 8)
        assert sorted(wins) == list(range(1, 21))
        record = loaded(store, "hot")
        assert record.version == 21
        assert len(record.history or ()) == 20

    # Histories.

    def test_a_history_pages_by_the_number_of_the_first_event(self, store: Store) -> None:
        starts = [0, 3, 4, 10, 12]
        for version, start in enumerate(starts):
            store.commit([turn("a", version, events("a", start, b"[%d]" % start))])
        a = ExecutionKey("a", "x/a")
        everything = store.history(a)
        assert everything.items == [(start, b"[%d]" % start) for start in starts]
        assert everything.next is None
        page = store.history(a, 0, 2)
        assert ([start for start, _ in page.items], page.next) == ([0, 3], "4")
        page = store.history(a, int(page.next or -1), 3)
        assert ([start for start, _ in page.items], page.next) == ([4, 10, 12], None)
        assert [start for start, _ in store.history(a, 5).items] == [10, 12]
        assert store.history(ExecutionKey("a", "unknown")).items == []

    def test_continue_as_new_ends_one_execution_and_begins_another(self, store: Store) -> None:
        store.commit([turn("a", 0, Append("one", 0, b"[0]"), execution="one")])
        both = turn("a", 1, Append("one", 1, b"[1]"), Append("two", 0, b"[2]"), execution="two", created=99.0)
        assert store.commit([both]) == [COMMITTED]
        record = loaded(store, "a")
        assert record.history == (b"[2]",)
        assert store.history(ExecutionKey("a", "one")).items == [(0, b"[0]"), (1, b"[1]")]
        wanted = [ExecutionKey("a", name) for name in ("two", "none", "one")]
        assert store.input_of(wanted) == [b"[2]", None, b"[0]"]

    def test_the_known_version_spares_the_history(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0)), turn("b", 0, events("b", 0))])
        store.deliver([fact("a", "f")])
        a, none, b = store.load([Want("a", 1), Want("none", 1), Want("b", 7)])
        assert none is None
        assert a is not None
        assert b is not None
        assert a.history is None
        assert len(a.inbox) == 1
        assert b.history == (b'[1,"e"]',)

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"a": 1,  "a":2}',
            '["é😀\\u0000","\\ud83d\\ude00"]'.encode(),
            b"[9007199254740993,1e400,-0.0]",
            b"[]",
            b"x" * 10**6,
        ],
    )
    def test_payloads_come_back_untouched(self, store: Store, payload: bytes) -> None:
        row = Row("k", "inbox", "a", 0, 1.0, body=payload)
        output = payload if payload[:1] in b"[{" else b'"' + payload + b'"'
        store.commit([turn("a", 0, events("a", 0, payload), put=[row], output=output)])
        store.deliver([Fact("a", 0, "f", payload, 2.0)])
        record = loaded(store, "a")
        assert record.history == (payload,)
        assert bytes(record.summary.output) == output
        assert [item.body for item in record.inbox] == [payload, payload]
        assert [item.body for item in store.due(0, "default", 9.0, 9).items] == [payload, payload]
        assert store.input_of([ExecutionKey("a", "x/a")]) == [payload]

    def test_hostile_ids_are_only_ids(self, store: Store) -> None:
        batch = [turn(name, 0, events(name, 0), put=[work(f"k/{name}", name)], name=name) for name in HOSTILE_IDS]
        assert store.commit(batch) == [COMMITTED] * len(batch)
        assert store.deliver([fact(name, name) for name in HOSTILE_IDS]) == [Delivered.NEW] * len(batch)
        for name in HOSTILE_IDS:
            record = loaded(store, name)
            assert record.summary.instance_id == name
            assert len(record.inbox) == 1
            assert store.lease([Lease(0, f"k/{name}", "", 0, None)]) == [True]
            assert listed(store, Query(prefix=name)) == [name]
            assert listed(store, Query(name=name)) == [name]

    # Inboxes.

    def test_an_inbox_keeps_the_order_of_delivery(self, store: Store) -> None:
        store.commit([turn("a", 0), turn("b", 0)])
        store.deliver([fact("a", "z"), fact("b", "1"), fact("a", "m", due_at=0.5)])
        store.deliver([fact("a", "a", due_at=0.1)])
        record = loaded(store, "a")
        assert [row.body for row in record.inbox] == [b'"z"', b'"m"', b'"a"']
        assert {(row.kind, row.instance_id, row.holder, row.attempt) for row in record.inbox} == {("inbox", "a", "", 0)}

    def test_what_the_engine_put_into_an_inbox_comes_first(self, store: Store) -> None:
        store.commit([turn("a", 0)])
        store.deliver([fact("a", "f")])
        store.commit([turn("a", 1, put=[work("wake/x", kind="inbox")])])
        record = loaded(store, "a")
        assert record.inbox[0].key == "wake/x"
        assert len(record.inbox) == 2

    def test_a_fact_is_taken_once(self, store: Store) -> None:
        store.commit([turn("a", 0), turn("b", 0)])
        found = store.deliver([fact("a", "f"), fact("a", "f"), fact("b", "f")])
        assert found == [Delivered.NEW, Delivered.DUPLICATE, Delivered.NEW]
        record = loaded(store, "a")
        assert len(record.inbox) == 1
        store.commit([turn("a", 1, drop=[row.key for row in record.inbox])])
        assert store.deliver([fact("a", "f")]) == [Delivered.DUPLICATE]
        store.commit([turn("a", 2, status=RuntimeStatus.COMPLETED)])
        assert store.deliver([fact("a", "f"), fact("a", "g")]) == [Delivered.DUPLICATE, Delivered.FINISHED]

    def test_facts_for_nobody(self, store: Store) -> None:
        assert store.deliver([fact("a", "f")]) == [Delivered.ABSENT]
        store.commit([turn("a", 0)])
        assert store.deliver([fact("a", "f")]) == [Delivered.NEW]  # an unknown instance's facts are not remembered

    def test_a_fact_that_is_parked_waits_for_its_instance(self, store: Store) -> None:
        parked, other = fact("a", "f")._replace(park=True), fact("b", "g")._replace(park=True)
        store.commit([turn("b", 0)])
        assert store.deliver([parked, parked, other, fact("a", "h")]) == [
            Delivered.PARKED,
            Delivered.DUPLICATE,
            Delivered.NEW,
            Delivered.ABSENT,
        ]
        assert [row.instance_id for row in store.due(0, "default", 1e9, 10).items] == ["b"]
        [kept] = store.due(0, PARKED, 1e9, 10).items
        assert (kept.kind, kept.instance_id, kept.body) == ("inbox", "a", parked.body)
        store.commit([turn("a", 0)])
        assert store.deliver([fact("a", "later")]) == [Delivered.NEW]
        inbox = loaded(store, "a").inbox
        assert [row.body for row in inbox] == [parked.body, fact("a", "later").body]
        store.commit([turn("a", 1, drop=[row.key for row in inbox])])
        assert store.due(0, PARKED, 1e9, 10).items == []
        assert store.deliver([parked]) == [Delivered.DUPLICATE]

    def test_a_fact_is_parked_at_one_that_has_ended(self, store: Store) -> None:
        store.commit([turn("a", 0, status=RuntimeStatus.COMPLETED)])
        assert store.deliver([fact("a", "f")._replace(park=True)]) == [Delivered.PARKED]
        assert [row.group for row in loaded(store, "a").inbox] == [PARKED]

    @pytest.mark.parametrize("status", list(RuntimeStatus))
    def test_only_the_finished_take_no_facts(self, store: Store, status: RuntimeStatus) -> None:
        store.commit([turn("a", 0, status=status)])
        assert store.deliver([fact("a", "f")]) == [Delivered.FINISHED if status.finished else Delivered.NEW]
        assert len(keys(store)) == (0 if status.finished else 1)

    def test_a_delivery_does_not_conflict_with_a_turn(self, store: Store) -> None:
        store.commit([turn("a", 0)])
        store.deliver([fact("a", "f")])
        assert store.commit([turn("a", 1)]) == [COMMITTED]

    def test_the_ids_of_a_thousand_facts_are_remembered(self, store: Store) -> None:
        store.commit([turn("a", 0)])
        facts = [fact("a", f"f{n}") for n in range(1_000)]
        store.deliver(facts)
        assert store.deliver(facts) == [Delivered.DUPLICATE] * 1_000

    # Due rows and leases.

    def test_due_rows_come_soonest_first_in_pages(self, store: Store) -> None:
        rows = [work(f"k{n}", due_at=1_700_000_000.123456 + n // 3) for n in (5, 2, 8, 0, 7, 1, 3, 6, 4)]
        store.commit([turn("a", 0, put=[*rows, work("elsewhere", due_at=0.0, group="b")])])
        seen: list[Row] = []
        after = ""
        for _ in range(10):
            page = store.due(0, "default", 1_700_000_001.2, 2, after)
            seen += page.items
            if page.next is None:
                break
            after = page.next
        assert [row.key for row in seen] == [f"k{n}" for n in range(6)]
        assert all(row in rows for row in seen)
        assert store.due(0, "default", 0.0, 9).items == []
        assert [row.key for row in store.due(0, "b", 0.0, 9).items] == ["elsewhere"]
        assert store.due(0, "c", 0.0, 9).items == []

    def test_rows_are_read_by_key(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work("k1"), work("k2", group="b")])])
        store.lease([Lease(0, "k2", "", 0, 3.0, "me")])
        k1, none, k2 = store.rows([RowKey(0, "k1"), RowKey(0, "none"), RowKey(0, "k2")])
        assert (k1, none) == (work("k1"), None)
        assert k2 is not None
        assert (k2.holder, k2.attempt, k2.due_at, k2.group, k2.body) == ("me", 1, 3.0, "b", b'{"do":"it"}')
        assert store.rows([]) == []

    def test_a_fact_goes_to_the_group_of_its_instance(self, store: Store) -> None:
        store.commit([turn("a", 0), turn("b", 0, group="night")])
        store.deliver([fact("a", "f"), fact("b", "f")])
        assert [row.instance_id for row in store.due(0, "default", 9.0, 9).items] == ["a"]
        assert [row.instance_id for row in store.due(0, "night", 9.0, 9).items] == ["b"]

    def test_due_pages_survive_small_fractions(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work(f"k{n}", due_at=0.1) for n in range(3)])])
        page = store.due(0, "default", 1.0, 2)
        assert [row.key for row in store.due(0, "default", 1.0, 2, page.next or "").items] == ["k2"]

    def test_due_refuses_a_forged_place(self, store: Store) -> None:
        with pytest.raises(ValueError, match="after="):
            store.due(0, "default", 1.0, 1, "forged")

    def test_a_lease_is_fenced_by_holder_and_attempt(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work("k")])])
        assert store.lease([Lease(0, "k", "", 0, 20.0, "me")]) == [True]
        wrong = [
            Lease(0, "k", "", 0, 30.0, "you"),
            Lease(0, "k", "me", 0, 30.0),
            Lease(0, "k", "", 1, 30.0),
            Lease(0, "l", "", 0, 1.0),
        ]
        assert store.lease(wrong) == [False] * 4
        assert store.due(0, "default", 20.0, 9).items == [Row("k", "task", "a", 0, 20.0, "me", 1, b'{"do":"it"}')]
        assert store.lease([Lease(0, "k", "me", 1, 5.0)]) == [True]  # released
        assert store.due(0, "default", 20.0, 9).items == [Row("k", "task", "a", 0, 5.0, "", 2, b'{"do":"it"}')]

    def test_a_lease_can_end_a_row(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work("k")])])
        assert store.lease([Lease(0, "k", "x", 0, None), Lease(0, "k", "", 0, None), Lease(0, "k", "", 0, None)]) == [
            False,
            True,
            False,
        ]
        assert keys(store) == []

    def test_leases_of_a_batch_take_effect_in_order(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work("k")])])
        assert store.lease([Lease(0, "k", "", 0, 2.0, "me"), Lease(0, "k", "me", 1, 3.0, "you")]) == [True, True]
        assert [(row.due_at, row.holder, row.attempt) for row in store.due(0, "default", 9.0, 9).items] == [
            (3.0, "you", 2)
        ]

    def test_one_of_many_threads_gets_the_lease(self, store: Store) -> None:
        store.commit([turn("a", 0, put=[work("k")])])
        got: list[bool] = []
        barrier = threading.Barrier(8)

        def race() -> None:
            barrier.wait()
            got.extend(store.lease([Lease(0, "k", "", 0, 50.0, threading.current_thread().name)]))

        _together([race] * 8)
        assert sorted(got) == [False] * 7 + [True]

    # Listings.

    def test_a_listing_is_newest_first(self, store: Store) -> None:
        store.commit(
            [turn("old", 0, created=1), turn("b", 0, created=2), turn("a", 0, created=2), turn("z", 0, created=3)]
        )
        assert listed(store, Query()) == ["z", "b", "a", "old"]

    def test_filters_must_all_hold(self, store: Store) -> None:
        done = RuntimeStatus.COMPLETED
        store.commit(
            [
                turn("ab%", 0, created=1, name="x", tags={"k": "v", "é\"'": "1"}),
                turn("ab_", 0, created=2, name="y", tags={"k": "w"}, status=done),
                turn("AB", 0, created=3, name="x", status=done),
                turn("abc", 0, created=4, name="X", tags={"k": "v"}),
            ]
        )
        start = _EPOCH.timestamp()
        cases: list[tuple[Query, list[str]]] = [
            (Query(name="x"), ["AB", "ab%"]),
            (Query(status=frozenset({done})), ["AB", "ab_"]),
            (Query(status=frozenset()), []),
            (Query(status=frozenset({done, RuntimeStatus.RUNNING}), name="X"), ["abc"]),
            (Query(prefix="ab"), ["abc", "ab_", "ab%"]),
            (Query(prefix="ab%"), ["ab%"]),
            (Query(prefix="ab_"), ["ab_"]),
            (Query(prefix=""), ["abc", "AB", "ab_", "ab%"]),
            (Query(tags={"k": "v"}), ["abc", "ab%"]),
            (Query(tags={"k": "v", "é\"'": "1"}), ["ab%"]),
            (Query(tags={"k": "x"}), []),
            (Query(tags={"v": "k"}), []),
            (Query(tags={}), ["abc", "AB", "ab_", "ab%"]),
            (Query(created_after=start + 2), ["abc", "AB", "ab_"]),
            (Query(created_before=start + 2), ["ab%"]),
            (Query(created_after=start + 2, created_before=start + 4, name="x"), ["AB"]),
        ]
        for query, expected in cases:
            assert listed(store, query) == expected, query

    def test_pages_neither_skip_nor_repeat_while_things_change(self, store: Store) -> None:
        store.commit([turn(f"i{n:02}", 0, created=n // 4) for n in range(20)])
        seen: list[str] = []
        query = Query(limit=3)
        for step in range(20):
            page = store.find(query)
            seen += [summary.instance_id for summary in page.items]
            if page.next is None:
                break
            query = Query(limit=3, cursor=page.next)
            # New ones come, and one that was listed moves on, with another time of creation in its summary.
            store.commit([turn(f"new{step}", 0, created=100), turn(f"i{19 - step:02}", 1, created=-50)])
        assert seen == [f"i{n:02}" for n in sorted(range(20), reverse=True)]

    def test_exactly_one_page_has_no_next(self, store: Store) -> None:
        store.commit([turn("a", 0), turn("b", 0)])
        assert store.find(Query(limit=2)).next is None
        assert store.find(Query(limit=1)).next is not None

    @pytest.mark.parametrize("cursor", ["", "forged", "é", "bnVsbA==", "'; DROP TABLE instances"])
    def test_a_forged_cursor_is_a_value_error(self, store: Store, cursor: str) -> None:
        with pytest.raises(ValueError, match="cursor"):
            store.find(Query(cursor=cursor))

    # Purging, and other lives under the same id.

    def test_what_is_purged_is_gone_for_everybody(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0)), turn("b", 0, events("b", 0))])
        store.deliver([fact("a", "f"), fact("b", "f")])
        store.commit([ended("a", 1, events("a", 1))])
        assert store.purge([ExecutionKey("a", "x/a")]) == [Purged.GONE]
        assert store.load([Want("a")]) == [None]
        assert store.summaries(["a", "b"])[0] is None
        assert listed(store, Query()) == ["b"]
        assert store.deliver([fact("a", "f"), fact("a", "g")]) == [Delivered.ABSENT] * 2
        assert [row.instance_id for row in store.due(0, "default", 1e9, 9).items] == ["b"]
        assert store.purge([ExecutionKey("a", "x/a")]) == [Purged.ABSENT]
        assert store.commit([turn("a", 2, events("a", 2))]) == [CONFLICT]

    def test_only_what_has_finished_in_this_execution_is_purged(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0)), ended("b", 0, events("b", 0)), ended("c", 0)])
        keys_ = [
            ExecutionKey("a", "x/a"),
            ExecutionKey("b", "x/other"),
            ExecutionKey("none", "x"),
            _key("c"),
            _key("c"),
        ]
        answers = [Purged.KEPT, Purged.KEPT, Purged.ABSENT, Purged.GONE, Purged.ABSENT]
        assert store.purge(keys_) == answers
        assert [loaded(store, name).history for name in "ab"] == [(b'[1,"e"]',)] * 2
        assert store.purge([]) == []

    def test_every_execution_goes_with_its_instance_in_pages(self, store: Store) -> None:
        for version in range(30):
            old, new = Append(f"e{version}", 1, b"[1]"), Append(f"e{version + 1}", 0, b"[0]")
            store.commit([turn("a", version, *((old,) if version else ()), new, execution=f"e{version + 1}")])
        store.deliver([fact("a", f"f{n}") for n in range(30)])
        assert store.former(["a", "none"]) == [[f"e{n}" for n in range(1, 30)], []]
        store.commit([ended("a", 30, Append("e30", 1, b"[1]"), execution="e30")])
        assert store.purge([ExecutionKey("a", "e30")]) == [Purged.GONE]
        assert keys(store) == [] or all(row.instance_id == "a" for row in store.due(0, "default", 1e9, 99).items)
        pages = 0
        while store.clear(0, 7):
            pages += 1
            assert pages < 100
        assert keys(store) == []
        assert store.former(["a"]) == [[]]
        executions = [ExecutionKey("a", f"e{n}") for n in range(1, 31)]
        assert [store.history(execution).items for execution in executions] == [[]] * 30
        assert store.input_of(executions) == [None] * 30
        assert store.clear(0, 7) == 0

    def test_work_rows_of_a_purged_instance_stay_until_somebody_meets_them(self, store: Store) -> None:
        rows = [work("m", kind="message"), work("t"), work("w", kind="timer"), work("wake/x", kind="inbox")]
        store.commit([turn("a", 0, events("a", 0), put=rows)])
        store.commit([ended("a", 1)])
        store.purge([_key("a")])
        while store.clear(0, 100):
            pass
        assert keys(store) == ["m", "t", "w"]

    def test_what_is_parked_goes_with_a_purge_and_waits_for_another_life_otherwise(self, store: Store) -> None:
        store.commit([ended("a", 0, events("a", 0)), ended("b", 0, events("b", 0))])
        store.deliver([fact(name, "f")._replace(park=True) for name in "ab"])
        store.purge([_key("a")])
        while store.clear(0, 100):
            pass
        [kept] = store.due(0, PARKED, 1e9, 10).items
        assert kept.instance_id == "b"
        store.commit([turn("b", 1, Append("y", 0, b"[9]"), execution="y", replaces="x/b")])
        assert [row.key for row in loaded(store, "b").inbox] == [kept.key]

    def test_a_start_from_before_the_purge_does_not_bring_it_back(self, store: Store) -> None:
        start = ended("a", 0, events("a", 0))
        store.commit([start])
        store.purge([_key("a")])
        assert store.commit([start]) == [CONFLICT]
        while store.clear(0, 100):
            pass
        assert store.commit([start]) == [CONFLICT]
        assert store.load([Want("a")]) == [None]

    def test_a_purged_id_can_be_used_again(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0), created=1), turn("b", 0, created=2)])
        store.deliver([fact("a", "f"), fact("a", "g")])
        store.commit([ended("a", 1, events("a", 1))])
        store.purge([_key("a")])
        # Before anything was cleared.
        again = turn("a", 0, Append("y", 0, b"[9]"), execution="y", created=3)
        assert store.commit([again]) == [COMMITTED]
        record = loaded(store, "a")
        assert (record.version, record.history, record.inbox) == (1, (b"[9]",), ())
        assert store.deliver([fact("a", "f")]) == [Delivered.NEW]
        assert listed(store, Query()) == ["a", "b"]
        while store.clear(0, 100):
            pass
        record = loaded(store, "a")
        assert (record.history, len(record.inbox)) == ((b"[9]",), 1)
        assert store.former(["a"]) == [[]]

    def test_a_turn_of_the_life_before_does_not_fit(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0))])
        store.commit([ended("a", 1)])
        store.purge([_key("a")])
        store.commit([turn("a", 0, Append("y", 0, b"[9]"), execution="y")])
        assert store.commit([turn("a", 1, events("a", 1))]) == [CONFLICT]
        assert store.commit([turn("a", 1, drop=["k"])]) == [CONFLICT]
        assert loaded(store, "a").summary.execution_id == "y"

    def test_another_life_in_place_of_a_finished_one(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0), created=1), turn("b", 0, created=2)])
        store.deliver([fact("a", "f")])
        inbox = [row.key for row in loaded(store, "a").inbox]
        store.commit([ended("a", 1, events("a", 1))])

        def again(expect: int, replaces: str) -> Commit:
            append = Append("y", 0, b"[9]")
            return turn("a", expect, append, drop=inbox, execution="y", created=3, replaces=replaces)

        assert store.commit([again(1, "x/a"), turn("c", 0)]) == [CONFLICT, COMMITTED]
        assert store.commit([again(2, "another")]) == [CONFLICT]
        assert store.commit([again(2, "x/a")]) == [COMMITTED]
        record = loaded(store, "a")
        assert (record.version, record.history, record.inbox) == (3, (b"[9]",), ())
        assert store.deliver([fact("a", "f")]) == [Delivered.NEW]
        assert listed(store, Query()) == ["a", "b", "c"]
        assert store.former(["a"]) == [["x/a"]]
        assert len(store.history(_key("a")).items) == 2

    # Life.

    def test_closing_twice_is_closing_once(self) -> None:
        store = self.open_store()
        store.close()
        store.close()

    def test_everything_is_there_after_reopening(self) -> None:
        if not self.reopens:
            pytest.skip("this store keeps nothing")
        store = self.open_store()
        store.commit([turn("a", 0, events("a", 0), put=[work("k")])])
        store.deliver([fact("a", "f"), fact("a", "g")])
        before = (store.load([Want("a")]), store.due(0, "default", 1e9, 9), store.find(Query()))
        store = self.reopen_store(store)
        try:
            assert (store.load([Want("a")]), store.due(0, "default", 1e9, 9), store.find(Query())) == before
            assert store.deliver([fact("a", "f"), fact("a", "h")]) == [Delivered.DUPLICATE, Delivered.NEW]
            record = loaded(store, "a")
            assert [row.body for row in record.inbox] == [b'"f"', b'"g"', b'"h"']
        finally:
            store.close()


def _key(instance_id: str) -> ExecutionKey:
    return ExecutionKey(instance_id, f"x/{instance_id}")


class SignalsContract:
    """The laws of `Signals` inside one process."""

    def open_signals(self) -> Signals:
        """Signals nobody listens to yet."""
        raise NotImplementedError

    def test_listeners_hear_their_topic_until_they_stop(self) -> None:
        signals = self.open_signals()
        heard: list[str] = []
        both = threading.Event()

        def wake(ids: Collection[str] | None) -> None:
            heard.extend(ids or ())
            if {"a", "b"} <= set(heard):
                both.set()

        stop = signals.listen(FACTS, wake)
        signals.notify(STATUS, ["other topic"])
        signals.notify(FACTS, ["a"])
        signals.notify(FACTS, ["b"])
        assert both.wait(10)
        stop()
        stop()
        signals.notify(FACTS, ["late"])
        assert sorted(heard) == ["a", "b"]

    def test_a_listener_for_one_instance_hears_only_of_it(self) -> None:
        signals = self.open_signals()
        heard: list[str] = []
        mine = threading.Event()

        def wake(ids: Collection[str] | None) -> None:
            heard.extend(ids or ())
            if "a" in heard:
                mine.set()

        stop = signals.listen(STATUS, wake, "a")
        signals.notify(STATUS, ["b", "c"])
        signals.notify(STATUS, ["b", "a"])
        assert mine.wait(10)
        stop()
        assert heard == ["a"]

    def test_who_wants_news_of_this_process_alone_gets_them(self) -> None:
        signals = self.open_signals()
        heard: list[Collection[str] | None] = []
        stop = signals.listen(STATUS, heard.append, "a", here_only=True)
        signals.notify(STATUS, ["a", "b"])
        assert heard == [("a",)]
        stop()
        stop()
        signals.notify(STATUS, ["a"])
        assert heard == [("a",)]

    def test_a_listener_that_raises_hurts_nobody(self) -> None:
        signals = self.open_signals()
        heard = threading.Event()

        def broken(ids: Collection[str] | None) -> None:
            raise RuntimeError("mine alone")

        stops = [signals.listen(FACTS, broken), signals.listen(FACTS, lambda ids: heard.set())]
        signals.notify(FACTS, ["a"])
        assert heard.wait(10)
        for stop in stops:
            stop()


def _together(functions: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=function, name=f"racer-{n}") for n, function in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
