"""Any store compared with the reference, step by step, by hypothesis: the same calls must get the same answers.

def test_my_store_is_the_reference() -> None:
    check_store(lambda: connect_somehow("an empty place"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from durable.backends.memory import MemoryStore
from durable.model.status import RuntimeStatus
from durable.ports import (
    Append,
    Commit,
    ExecutionKey,
    Fact,
    Lease,
    Outcome,
    Purged,
    Query,
    Record,
    Row,
    RowKey,
    Store,
    Want,
)

from .store_samples import moment, turn

_instances = st.sampled_from(["a", "b", "a%", "é😀"])
_keys = st.sampled_from([f"k{n}" for n in range(6)] + ["wake/x"])
_times = st.integers(0, 8).map(float)
_holders = st.sampled_from(["", "me", "you"])
_statuses = st.sampled_from([RuntimeStatus.RUNNING, RuntimeStatus.BLOCKED, RuntimeStatus.COMPLETED])
_kinds = st.sampled_from(["task", "timer", "message", "inbox"])
_rows = st.builds(
    Row,
    key=_keys,
    kind=_kinds,
    instance_id=_instances,
    partition=st.just(0),
    due_at=_times,
    holder=_holders,
    attempt=st.integers(0, 2),
    body=st.binary(max_size=8),
    group=st.just("default"),
)
_Turn = tuple[str, int, RuntimeStatus, int, bool, list[Row], list[str], bool, bool, bool]
_turns = st.tuples(
    _instances,
    st.integers(-1, 1),
    _statuses,
    st.integers(0, 3),
    st.booleans(),
    st.lists(_rows, max_size=3, unique_by=lambda row: row.key),
    st.lists(_keys, max_size=3),
    st.booleans(),
    st.integers(0, 3).map(lambda n: n == 0),
    st.booleans(),
)


class _StoreMachine(RuleBasedStateMachine):
    open_store: Any  # a Callable[[], Store], as a static method of the class made by `check_store`

    def __init__(self) -> None:
        super().__init__()
        self.model = MemoryStore()
        self.store: Store = type(self).open_store()
        self.versions: dict[str, int] = {}
        self.executions: dict[str, int] = {}
        self.facts = 0

    def teardown(self) -> None:
        self.store.close()

    @rule(turns=st.lists(_turns, min_size=1, max_size=4, unique_by=lambda item: item[0]))
    def commit(self, turns: list[_Turn]) -> None:
        mine: list[Commit] = []
        theirs: list[Commit] = []
        for name, off, status, created, again, put, drop, take, replaces, forgets in turns:
            version, body = self.versions.get(name, 0), b"[%d]" % self.versions.get(name, 0)
            current, following = self._execution(name), self._execution(name, again or replaces)
            appends = [Append(current, version, body)] if version and not replaces else []
            if following != current or not version:  # after a purge a start may come late: with the execution of before
                appends.append(Append(following, 0, body))
            commit = turn(
                name,
                max(0, version + off),
                *appends,
                put=put,
                status=status,
                created=created,
                execution=following,
                tags={"t": str(created)},
                replaces=current if version and replaces else "",
                forgets=forgets,
            )
            for store, commits in ((self.model, mine), (self.store, theirs)):
                [record] = store.load([Want(name)])
                # The keys of delivered facts are each store's own choice.
                taken = [row.key for row in record.inbox] if record and take else []
                commits.append(msgspec.structs.replace(commit, drop=(*drop, *taken)))
        outcomes = self.model.commit(mine)
        assert self.store.commit(theirs) == outcomes
        for commit, outcome in zip(mine, outcomes, strict=True):
            if outcome is Outcome.COMMITTED:
                self.versions[commit.instance_id] = commit.expect + 1
                self.executions[commit.instance_id] = int(commit.summary.execution_id.rpartition("/")[2])

    def _execution(self, name: str, following: bool = False) -> str:
        return f"{name}/{self.executions.get(name, 0) + following}"

    @rule(asked=st.lists(st.tuples(_instances, st.booleans()), min_size=1, max_size=3), limit=st.integers(1, 4))
    def purge(self, asked: list[tuple[str, bool]], limit: int) -> None:
        executions = [ExecutionKey(name, self._execution(name, wrong)) for name, wrong in asked]
        answers = self.model.purge(executions)
        assert self.store.purge(executions) == answers
        for (name, _), answer in zip(asked, answers, strict=True):
            if answer is Purged.GONE:
                self.versions[name] = 0
        if limit > 1:  # else somebody else shall do it
            while self.store.clear(0, limit):
                pass

    @rule(names=st.lists(_instances, max_size=3))
    def former(self, names: list[str]) -> None:
        assert self.store.former(names) == self.model.former(names)

    @rule(facts=st.lists(st.tuples(_instances, st.integers(0, 12), _times, st.booleans()), min_size=1, max_size=5))
    def deliver(self, facts: list[tuple[str, int, float, bool]]) -> None:
        some = [Fact(name, 0, f"f{number}", b"%d" % number, due_at, park) for name, number, due_at, park in facts]
        assert self.store.deliver(some) == self.model.deliver(some)

    @rule(
        leases=st.lists(
            st.builds(Lease, st.just(0), _keys, _holders, st.integers(0, 2), st.one_of(st.none(), _times), _holders),
            max_size=4,
        )
    )
    def lease(self, leases: list[Lease]) -> None:
        assert self.store.lease(leases) == self.model.lease(leases)
        keys = [RowKey(0, lease.key) for lease in leases]
        assert self.store.rows(keys) == self.model.rows(keys)

    @rule(wants=st.lists(st.tuples(_instances, st.integers(0, 4)), max_size=4, unique_by=lambda item: item[0]))
    def load(self, wants: list[tuple[str, int]]) -> None:
        some = [Want(*item) for item in wants]
        for mine, theirs in zip(self.model.load(some), self.store.load(some), strict=True):
            assert _plain(theirs) == _plain(mine)

    @rule(execution=_instances, life=st.integers(0, 2), start=st.integers(0, 3), limit=st.integers(1, 3))
    def history(self, execution: str, life: int, start: int, limit: int) -> None:
        key = ExecutionKey(execution, f"{execution}/{life}")
        while self.store.clear(0, 100):  # until then, what is purged or forgotten may still be read
            pass
        assert self.store.history(key, start, limit) == self.model.history(key, start, limit)
        assert self.store.input_of([key]) == self.model.input_of([key])

    @rule(until=_times, limit=st.integers(1, 4))
    def due(self, until: float, limit: int) -> None:
        found: list[Row] = []
        after: str | None = ""
        while after is not None:
            page = self.store.due(0, "default", until, limit, after)
            found += page.items
            assert len(page.items) == limit or page.next is None
            after = page.next
        assert [row.due_at for row in found] == sorted(row.due_at for row in found)
        mine = self.model.due(0, "default", until, 1_000).items
        assert sorted(map(_without_key, found)) == sorted(map(_without_key, mine))

    @rule(
        limit=st.integers(1, 3),
        status=st.one_of(st.none(), st.frozensets(_statuses)),
        prefix=st.sampled_from([None, "", "a", "a%"]),
        tag=st.one_of(st.none(), st.integers(0, 3)),
        after=st.one_of(st.none(), st.integers(0, 3)),
        before=st.one_of(st.none(), st.integers(0, 3)),
    )
    def find(
        self,
        limit: int,
        status: frozenset[RuntimeStatus] | None,
        prefix: str | None,
        tag: int | None,
        after: int | None,
        before: int | None,
    ) -> None:
        query = Query(
            status=status,
            prefix=prefix,
            tags=None if tag is None else {"t": str(tag)},
            created_after=None if after is None else moment(after).timestamp(),
            created_before=None if before is None else moment(before).timestamp(),
            limit=limit,
        )
        # Cursors are opaque: each store goes on with its own.
        mine, theirs = self.model.find(query), self.store.find(query)
        while True:
            assert theirs.items == mine.items
            assert (theirs.next is None) == (mine.next is None)
            if mine.next is None or theirs.next is None:
                break
            mine = self.model.find(_continued(query, mine.next))
            theirs = self.store.find(_continued(query, theirs.next))

    @invariant()
    def same_rows(self) -> None:
        mine, theirs = self.model.due(0, "default", 99.0, 1_000).items, self.store.due(0, "default", 99.0, 1_000).items
        assert sorted(map(_without_key, mine)) == sorted(map(_without_key, theirs))


def _plain(record: Record | None) -> object:
    """A record without the keys of its inbox."""
    if record is None:
        return None
    inbox = [_without_key(row) for row in record.inbox]
    return (record.version, record.commit_id, record.summary, record.history, inbox)


def _without_key(row: Row) -> tuple[object, ...]:
    return (row.key.split("/")[0], row.kind, row.instance_id, row.due_at, row.holder, row.attempt, row.body)


def _continued(query: Query, cursor: str) -> Query:
    return Query(
        query.status,
        query.name,
        query.prefix,
        query.tags,
        query.created_after,
        query.created_before,
        query.limit,
        cursor,
    )


def check_store(open_store: Callable[[], Store], examples: int = 60) -> None:
    """Run the comparison; `open_store` gives a store over an empty place each time. Raises AssertionError."""
    machine = type("StoreMachine", (_StoreMachine,), {"open_store": staticmethod(open_store)})
    run: Callable[..., None] = run_state_machine_as_test  # untyped in the last version for Python 3.10
    run(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=(Phase.generate,),  # the steps of a failure are printed; making them fewer takes minutes
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
        ),
    )
