"""What the contract of a store is tried with: small commits, rows and facts, and short questions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import ClassVar

import pytest

from durable.model.history import Raw
from durable.model.status import RuntimeStatus, Summary
from durable.ports import Append, Commit, ExecutionKey, Fact, Outcome, Query, Record, Row, RowKind, Store, Want

COMMITTED, CONFLICT = Outcome.COMMITTED, Outcome.CONFLICT
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
    forgets: bool = False,
    tells: bool = False,
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
    return Commit(
        commit_id, instance_id, 0, expect, summary, appends, tuple(put), tuple(drop), replaces, forgets, tells
    )


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


def key(instance_id: str) -> ExecutionKey:
    """Its default execution."""
    return ExecutionKey(instance_id, f"x/{instance_id}")


def together(functions: Sequence[Callable[[], None]]) -> None:
    """Each in a thread of its own, at once."""
    threads = [threading.Thread(target=function, name=f"racer-{n}") for n, function in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"


class OpenedStore:
    """A contract about one store, of one partition."""

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
