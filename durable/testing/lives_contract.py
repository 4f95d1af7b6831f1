"""The part of a store's contract about the instances it has: listings, purges, other lives under the same id."""

from __future__ import annotations

import pytest

from durable.model.status import RuntimeStatus
from durable.ports import PARKED, Append, Commit, Delivered, ExecutionKey, Purged, Query, Store, Want

from .store_samples import (
    COMMITTED,
    CONFLICT,
    OpenedStore,
    ended,
    events,
    fact,
    key,
    keys,
    listed,
    loaded,
    moment,
    turn,
    work,
)


class LivesContract(OpenedStore):
    """A part of `StoreContract`."""

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
        start = moment(0).timestamp()
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
            key("c"),
            key("c"),
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
        store.purge([key("a")])
        while store.clear(0, 100):
            pass
        assert keys(store) == ["m", "t", "w"]

    def test_what_is_parked_goes_with_a_purge_and_waits_for_another_life_otherwise(self, store: Store) -> None:
        store.commit([ended("a", 0, events("a", 0)), ended("b", 0, events("b", 0))])
        store.deliver([fact(name, "f")._replace(park=True) for name in "ab"])
        store.purge([key("a")])
        while store.clear(0, 100):
            pass
        [kept] = store.due(0, PARKED, 1e9, 10).items
        assert kept.instance_id == "b"
        store.commit([turn("b", 1, Append("y", 0, b"[9]"), execution="y", replaces="x/b")])
        assert [row.key for row in loaded(store, "b").inbox] == [kept.key]

    def test_a_start_from_before_the_purge_does_not_bring_it_back(self, store: Store) -> None:
        start = ended("a", 0, events("a", 0))
        store.commit([start])
        store.purge([key("a")])
        assert store.commit([start]) == [CONFLICT]
        while store.clear(0, 100):
            pass
        assert store.commit([start]) == [CONFLICT]
        assert store.load([Want("a")]) == [None]

    def test_a_purged_id_can_be_used_again(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0), created=1), turn("b", 0, created=2)])
        store.deliver([fact("a", "f"), fact("a", "g")])
        store.commit([ended("a", 1, events("a", 1))])
        store.purge([key("a")])
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
        store.purge([key("a")])
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
        assert len(store.history(key("a")).items) == 2
