"""The laws of the port `Store` as tests. A backend is right when its subclass of `StoreContract` is green.

    class TestMyStore(StoreContract):
        def open_store(self) -> Store:
            return connect_somehow("a place that was empty before this test")

Every test opens a store of its own, of one partition. `reopens` says whether `reopen_store` gives the same data to a
new store object. Here are commits, histories and reopening; the rest is in `rows_contract.py` and `lives_contract.py`.
The hypothesis machine that compares a store with the reference is in `store_machine.py`.
"""

from __future__ import annotations

import threading

import pytest

from durable.model.status import RuntimeStatus
from durable.ports import Append, Delivered, ExecutionKey, Fact, Lease, Query, Row, Store, Want

from .lives_contract import LivesContract
from .rows_contract import RowsContract
from .store_samples import COMMITTED, CONFLICT, ended, events, fact, keys, listed, loaded, together, turn, work

HOSTILE_IDS = ("it's", '"quoted"', "100%", "a_b", "a*[x]", "'; DROP TABLE rows;--", "😀 {x}", "ID", "id", "é" * 100)


class StoreContract(RowsContract, LivesContract):
    """Inherit it, give `open_store`, run it with pytest."""

    # Commit: atomic per instance, by version.

    def test_an_instance_is_created_once(self, store: Store) -> None:
        first = turn("a", 0, events("a", 0, b"[1]"))
        assert store.commit([first]) == [COMMITTED]
        assert store.commit([turn("a", 0, events("a", 0, b"[2]"))]) == [CONFLICT]
        record = loaded(store, "a")
        assert (record.version, record.commit_id, record.history) == (1, first.id, (b"[1]",))

    def test_a_creation_may_bring_the_first_turn_and_the_end(self, store: Store) -> None:
        begun = turn("a", 0, events("a", 0), put=[work("t1")])
        done = ended("b", 0, events("b", 0))
        assert store.commit([begun, done]) == [COMMITTED, COMMITTED]
        assert (loaded(store, "a").version, keys(store)) == (1, ["t1"])
        assert loaded(store, "b").summary.status is RuntimeStatus.COMPLETED
        assert store.deliver([fact("a", "f1"), fact("b", "f1")]) == [Delivered.NEW, Delivered.FINISHED]
        assert store.commit([turn("a", 0), turn("b", 0)]) == [CONFLICT, CONFLICT]
        assert listed(store, Query(status=frozenset({RuntimeStatus.COMPLETED}))) == ["b"]

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
        assert store.begin([])() == []
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

        together([race] * 8)
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
