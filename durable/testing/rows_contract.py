"""The part of a store's contract that is about rows: inboxes, what is due, and leases."""

from __future__ import annotations

import threading

import pytest

from durable.model.status import RuntimeStatus
from durable.ports import PARKED, Delivered, Lease, Row, RowKey, Store

from .store_samples import COMMITTED, OpenedStore, fact, keys, loaded, together, turn, work


class RowsContract(OpenedStore):
    """A part of `StoreContract`."""

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

        together([race] * 8)
        assert sorted(got) == [False] * 7 + [True]
