"""`durable.ports.Store` on Redis: one Lua script a verb, every key of a partition under one hash tag.

A commit is one script: it checks the version, then writes all of a turn. A batch travels in one round trip; a commit
whose answer does not come is UNKNOWN, and may be sent again: the same commit is applied once. What Redis keeps and
what a script may touch is told at the head of `redis_partition.lua`; the bytes are made in `redis_format.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from durable.model.names import partition_of
from durable.model.status import Summary
from durable.ports import (
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
    Slice,
    Want,
)

from . import partition_listing as listing
from .listing import Place, due_place, encode_due
from .redis_connection import Arg, Connections, explain, pack, read_script
from .redis_format import (
    NO_NEWS,
    News,
    pack_asked,
    pack_commit,
    pack_fact,
    pack_lease,
    unpack_item,
    unpack_record,
    unpack_row,
)

CHUNK: Final = 500  # facts, leases or keys in one command: nobody else is served while it runs

T = TypeVar("T")

_COMMIT: Final = read_script("commit", "partition")
_DELIVER: Final = read_script("deliver", "partition")
_LEASE: Final = read_script("lease", "partition")
_LOAD: Final = read_script("load", "partition")
_DUE: Final = read_script("due", "partition")
_FIND: Final = read_script("find", "partition")
_HISTORY: Final = read_script("history", "partition")
_PURGE: Final = read_script("purge", "partition")
_CLEAR: Final = read_script("clear", "partition")

_OUTCOMES: Final = (Outcome.CONFLICT, Outcome.COMMITTED)
_DELIVERED: Final = (
    Delivered.NEW,
    Delivered.DUPLICATE,
    Delivered.ABSENT,
    Delivered.FINISHED,
    Delivered.PARKED,
)
_PURGED: Final = (Purged.GONE, Purged.KEPT, Purged.ABSENT)

log = logging.getLogger("durable.redis")


class RedisStore:
    """A workspace in Redis. `bases` are the beginnings of the keys of its partitions. news: what to publish of an
    instance that has changed."""

    overlaps = True
    tells = True

    def __init__(self, connections: Connections, bases: Sequence[bytes], news: Callable[[str], News]) -> None:
        self.partitions = len(bases)
        self._connections = connections
        self._bases = bases
        self._news = news

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return self.begin(commits)() if commits else []

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        bases = self._bases
        news = self._news
        calls = [
            (bases[commit.partition], *pack_commit(commit, news(commit.instance_id) if commit.tells else NO_NEWS))
            for commit in commits
        ]
        finish = self._connections.begin(_COMMIT, calls)
        return lambda: self._outcomes(len(commits), *finish())

    def _outcomes(self, count: int, answers: Sequence[Any], trouble: Exception | None) -> list[Outcome]:
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors and trouble is None and len(errors) == count:
            raise explain(self._connections.target, errors[0]) from errors[0]
        if trouble is not None or errors:
            why = explain(self._connections.target, trouble or errors[0])
            log.warning("of %d commits some have no answer, they may have happened: %s", count, why)
        outcomes = [Outcome.UNKNOWN if isinstance(answer, Exception) else _OUTCOMES[answer] for answer in answers]
        return outcomes + [Outcome.UNKNOWN] * (count - len(outcomes))

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        def call(partition: int, some: list[Fact]) -> tuple[Arg, ...]:
            return (self._bases[partition], str(partition), *(arg for fact in some for arg in pack_fact(fact)))

        return [
            _DELIVERED[answer]
            for answer in self._by_partition(
                facts, lambda fact: fact.partition, call, lambda calls: self._connections.run(_DELIVER, calls)
            )
        ]

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        def call(partition: int, some: list[Lease]) -> tuple[Arg, ...]:
            return (self._bases[partition], *(arg for lease in some for arg in pack_lease(lease)))

        return [
            answer == 1
            for answer in self._by_partition(
                leases, lambda lease: lease.partition, call, lambda calls: self._connections.run(_LEASE, calls)
            )
        ]

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        calls = [(self._base_of(want.instance_id), want.instance_id, str(want.known_version)) for want in wants]
        answers = self._connections.run(_LOAD, calls)
        return [
            None if answer is None else self._record(want.instance_id, answer)
            for want, answer in zip(wants, answers, strict=True)
        ]

    def _record(self, instance_id: str, answer: Sequence[Any]) -> Record:
        stored, history, keys, rows = answer
        version, commit_id, summary = unpack_record(stored)
        partition = partition_of(instance_id, self.partitions)
        return Record(
            version,
            commit_id,
            summary,
            None if history is None else tuple(unpack_item(item).events for item in history),
            tuple(unpack_row(key, row, partition) for key, row in zip(keys, rows, strict=True)),
        )

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        base = self._base_of(execution.instance_id)
        [found] = self._connections.run(_HISTORY, [(base, execution.execution_id, str(start), str(limit + 1))])
        items = [unpack_item(item)[1:] for item in found]
        return Slice(items[:limit], str(items[limit][0]) if len(items) > limit else None)

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        keys = [self._base_of(instance_id) + b"h:" + execution.encode() for instance_id, execution in executions]
        found = self._connections.ask([pack("LINDEX", key, "0") for key in keys])
        items = [None if item is None else unpack_item(item) for item in found]
        return [item.events if item and item.start == 0 else None for item in items]

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        place = due_place(after)
        where = (repr(place[0]), place[1]) if place else ()
        call = (self._bases[partition], group, repr(float(until)), str(limit + 1), *where)
        [(keys, found)] = self._connections.run(_DUE, [call])
        rows = [unpack_row(key, row, partition) for key, row in zip(keys, found, strict=True)]
        last = rows[limit - 1] if len(rows) > limit else None
        return Slice(rows[:limit], encode_due(last.due_at, last.key) if last else None)

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        def call(partition: int, some: list[RowKey]) -> bytes:
            return pack("HMGET", self._bases[partition] + b"rows", *(key for _, key in some))

        found = self._by_partition(keys, lambda key: key.partition, call, self._connections.ask)
        return [
            None if row is None else unpack_row(key.encode(), row, partition)
            for (partition, key), row in zip(keys, found, strict=True)
        ]

    def find(self, query: Query) -> Slice[Summary]:
        return listing.find(query, self.partitions, self._pages)

    def _pages(self, asked: Sequence[listing.Asked]) -> list[list[tuple[Place, Summary | None]]]:
        calls: list[tuple[Arg, ...]] = [(self._bases[page.partition], *pack_asked(page)) for page in asked]
        return [
            [
                ((float(at), instance_id.decode()), unpack_record(stored).summary)
                for instance_id, at, stored in zip(*answer, strict=True)
            ]
            for answer in self._connections.run(_FIND, calls)
        ]

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        def call(partition: int, some: list[str]) -> bytes:
            return pack("HMGET", self._bases[partition] + b"instances", *some)

        found = self._by_partition(
            instance_ids, lambda instance_id: partition_of(instance_id, self.partitions), call, self._connections.ask
        )
        return [None if stored is None else unpack_record(stored).summary for stored in found]

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        asked = [pack("LRANGE", self._base_of(i) + b"former:" + i.encode(), "0", "-1") for i in instance_ids]
        return [[item.decode() for item in found] for found in self._connections.ask(asked)]

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        def call(partition: int, some: list[ExecutionKey]) -> tuple[Arg, ...]:
            return (self._bases[partition], *(arg for execution in some for arg in execution))

        return [
            _PURGED[answer]
            for answer in self._by_partition(
                executions,
                lambda execution: partition_of(execution.instance_id, self.partitions),
                call,
                lambda calls: self._connections.run(_PURGE, calls),
            )
        ]

    def clear(self, partition: int, limit: int) -> int:
        [removed] = self._connections.run(_CLEAR, [(self._bases[partition], str(min(limit, CHUNK)))])
        return int(removed)

    def close(self) -> None:
        """The backend that opened the store closes it."""

    def _base_of(self, instance_id: str) -> bytes:
        return self._bases[partition_of(instance_id, self.partitions)]

    def _by_partition(
        self,
        items: Sequence[T],
        partition: Callable[[T], int],
        call: Callable[[int, list[T]], Any],
        send: Callable[[list[Any]], list[Any]],
    ) -> list[Any]:
        """Make one call of the items of a partition, in their order, send all; an answer for each item, in order."""
        groups: dict[int, list[int]] = {}
        for n, item in enumerate(items):
            groups.setdefault(partition(item), []).append(n)
        parts = [
            (number, places[first : first + CHUNK])
            for number, places in groups.items()
            for first in range(0, len(places), CHUNK)
        ]
        found = send([call(number, [items[n] for n in places]) for number, places in parts])
        answers: list[Any] = [None] * len(items)
        for (_, places), some in zip(parts, found, strict=True):
            for n, answer in zip(places, some, strict=True):
                answers[n] = answer
        return answers
