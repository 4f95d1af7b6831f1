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
        _clear(store)
        assert keys(store) == ["m", "t", "w"]

    def test_what_is_parked_goes_with_a_purge_and_waits_for_another_life_otherwise(self, store: Store) -> None:
        store.commit([ended("a", 0, events("a", 0)), ended("b", 0, events("b", 0))])
        store.deliver([fact(name, "f")._replace(park=True) for name in "ab"])
        store.purge([key("a")])
        _clear(store)
        [kept] = store.due(0, PARKED, 1e9, 10).items
        assert kept.instance_id == "b"
        store.commit([turn("b", 1, Append("y", 0, b"[9]"), execution="y", replaces="x/b")])
        assert [row.key for row in loaded(store, "b").inbox] == [kept.key]

    def test_a_start_from_before_the_purge_does_not_bring_it_back(self, store: Store) -> None:
        start = ended("a", 0, events("a", 0))
        store.commit([start])
        store.purge([key("a")])
        assert store.commit([start]) == [CONFLICT]
        _clear(store)
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
        _clear(store)
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

    # Executions that a commit forgets.

    def test_an_execution_that_is_forgotten_leaves_nothing_and_its_instance_goes_on(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0), created=1), turn("b", 0, events("b", 0), created=2)])
        store.deliver([fact("a", "f")])
        before = loaded(store, "a")
        anew = turn("a", 1, events("a", 1), Append("y", 0, b"[9]"), execution="y", created=3, forgets=True)
        kept = turn("b", 1, events("b", 1), Append("z", 0, b"[9]"), execution="z", created=3)
        assert store.commit([anew, kept]) == [COMMITTED, COMMITTED]
        assert store.former(["a", "b"]) == [[], ["x/b"]]
        _clear(store)
        assert store.history(key("a")).items == []
        assert store.input_of([key("a"), ExecutionKey("a", "y")]) == [None, b"[9]"]
        assert len(store.history(key("b")).items) == 2
        record = loaded(store, "a")
        assert (record.version, record.history, record.inbox) == (2, (b"[9]",), before.inbox)
        assert store.deliver([fact("a", "f")]) == [Delivered.DUPLICATE]
        assert listed(store, Query()) == ["b", "a"]
        assert store.commit([turn("a", 2, Append("y", 1, b"[10]"), execution="y")]) == [COMMITTED]
        assert loaded(store, "a").history == (b"[9]", b"[10]")

    def test_a_commit_that_forgets_happens_once(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0))])
        anew = turn("a", 1, Append("x/a", 1, b"[1]"), Append("y", 0, b"[9]"), execution="y", forgets=True)
        assert store.commit([anew]) == [COMMITTED]
        for _ in range(2):
            assert store.commit([anew])[0] in (COMMITTED, CONFLICT)  # sent again, because its answer was lost
            record = loaded(store, "a")
            assert (record.version, record.commit_id, record.history) == (2, anew.id, (b"[9]",))
            assert store.former(["a"]) == [[]]
            _clear(store)
        stale = turn("a", 1, Append("x/a", 1, b"[1]"), Append("other", 0, b"[8]"), execution="other", forgets=True)
        assert store.commit([stale]) == [CONFLICT]
        assert store.history(key("a")).items == []
        assert loaded(store, "a").history == (b"[9]",)

    def test_executions_that_are_forgotten_go_in_pages_and_others_stay(self, store: Store) -> None:
        store.commit([turn("a", 0, Append("e0", 0, b"[0]"), execution="e0")])
        for n in range(12):
            for m in (1, 2):
                store.commit([turn("a", 3 * n + m, Append(f"e{n}", m, b"[1]"), execution=f"e{n}")])
            new = Append(f"e{n + 1}", 0, b"[0]")
            store.commit([turn("a", 3 * n + 3, new, execution=f"e{n + 1}", replaces=f"e{n}", forgets=n % 3 > 0)])
        assert store.former(["a"]) == [["e0", "e3", "e6", "e9"]]
        pages = 0
        while store.clear(0, 5):
            pages += 1
            assert pages < 100
        held = [len(store.history(ExecutionKey("a", f"e{n}")).items) for n in range(13)]
        assert held == [3, 0, 0] * 4 + [1]
        assert loaded(store, "a").history == (b"[0]",)
        store.commit([ended("a", 37, execution="e12")])
        assert store.purge([ExecutionKey("a", "e12")]) == [Purged.GONE]
        _clear(store)
        assert [store.history(ExecutionKey("a", f"e{n}")).items for n in range(13)] == [[]] * 13

    def test_nothing_is_forgotten_where_no_other_execution_begins(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0), forgets=True)])
        store.commit([turn("a", 1, events("a", 1), forgets=True)])
        store.commit([turn("a", 2, forgets=True)])
        _clear(store)
        record = loaded(store, "a")
        assert (record.version, record.history) == (3, (b'[1,"e"]', b'[1,"e"]'))
        assert store.former(["a"]) == [[]]

    def test_another_life_may_forget_the_one_it_replaces(self, store: Store) -> None:
        store.commit([turn("a", 0, events("a", 0), created=1), turn("b", 0, created=2)])
        store.deliver([fact("a", "f")])
        inbox = [row.key for row in loaded(store, "a").inbox]
        store.commit([ended("a", 1, events("a", 1))])
        new = Append("y", 0, b"[9]")
        again = turn("a", 2, new, drop=inbox, execution="y", created=3, replaces="x/a", forgets=True)
        assert store.commit([again]) == [COMMITTED]
        _clear(store)
        assert store.former(["a"]) == [[]]
        assert store.history(key("a")).items == []
        record = loaded(store, "a")
        assert (record.version, record.history, record.inbox) == (3, (b"[9]",), ())
        assert store.deliver([fact("a", "f")]) == [Delivered.NEW]
        assert listed(store, Query()) == ["a", "b"]

    def test_a_start_does_not_bring_back_what_was_forgotten_before_the_purge(self, store: Store) -> None:
        start = turn("a", 0, events("a", 0))
        store.commit([start])
        new, newer = Append("y", 0, b"[9]"), Append("z", 0, b"[9]")
        assert store.commit([turn("a", 1, events("a", 1), new, execution="y", forgets=True)]) == [COMMITTED]
        _clear(store)
        last = turn("a", 2, Append("y", 1, b"[1]"), newer, execution="z", forgets=True)
        assert store.commit([last]) == [COMMITTED]
        store.commit([ended("a", 3, execution="z")])
        store.purge([ExecutionKey("a", "z")])
        assert store.commit([start]) == [CONFLICT]
        _clear(store)
        assert store.commit([start]) == [CONFLICT]
        assert store.commit([turn("a", 0, Append("new", 0, b"[9]"), execution="new")]) == [COMMITTED]


def _clear(store: Store) -> None:
    while store.clear(0, 100):
        pass
