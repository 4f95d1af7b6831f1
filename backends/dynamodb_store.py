"""`durable.ports.Store` on DynamoDB: one transaction a turn, work rows one item each, consistent reads.

A batch is as many requests as it has instances, sent at once on threads of the connection. What is stored where is told
at the head of `dynamodb_table.py`; each verb that takes more than a read has a file of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime, timezone
from itertools import islice
from typing import Final, NamedTuple
from uuid import uuid4

from msgspec.structs import replace

from durable.model.errors import StoreError
from durable.model.failure import FailureDetails
from durable.model.history import Event, UnreadableHistory, decode_events
from durable.model.names import partition_of
from durable.model.status import RuntimeStatus, Summary
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
from .dynamodb_actions import REMEMBER_FACTS_SECONDS
from .dynamodb_commit import Commits, find_shared_rows
from .dynamodb_connection import Connection, Refused
from .dynamodb_inbox import Inboxes
from .dynamodb_items import (
    LAST,
    Item,
    Key,
    Names,
    decode_summary,
    due_mark,
    history_key,
    joined,
    listed_at,
    listing_mark,
    number_of,
    sortable,
    unpack_row,
)
from .dynamodb_overflow import Overflow, reference_of
from .dynamodb_purge import Purges
from .dynamodb_split import MARK, SplitTurns
from .dynamodb_table import DUE, EXPIRES
from .listing import Place, due_place, encode_due

LOST: Final = "pieces of its summary are missing"
END: Final = ":"  # sorts after the digits with which every stored row of a history begins


class DynamoStore:
    """A workspace in a table."""

    overlaps = True
    tells = False

    def __init__(
        self, connection: Connection, names: Names, partitions: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.partitions = partitions
        self._connection = connection
        self._names = names
        self._clock = clock
        self._overflow = Overflow(connection, names)
        self._split = SplitTurns(connection, names, self._overflow)
        self._inboxes = Inboxes(connection, names, self._overflow, clock)
        self._commits = Commits(connection, names, self._overflow, self._split, self._inboxes.empty, clock)
        self._purges = Purges(connection, names, self._overflow, self._split, self._inboxes, clock)

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return self.begin(commits)() if commits else []

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        some = list(commits)
        if find_shared_rows(some):
            outcomes = [self._commits.commit(commit) for commit in some]
            return lambda: outcomes
        futures = [self._connection.submit(self._commits.commit, commit) for commit in some]
        return lambda: self._outcomes(futures)

    def _outcomes(self, futures: Sequence[Future[Outcome]]) -> list[Outcome]:
        """Of all; a commit that failed is UNKNOWN among others, and raises alone."""
        outcomes: list[Outcome] = []
        errors: list[StoreError] = []
        for future in futures:
            try:
                outcomes.append(self._connection.result(future))
            except StoreError as error:
                errors.append(error)
                outcomes.append(Outcome.UNKNOWN)
        if errors and len(errors) == len(outcomes):
            raise errors[0]
        return outcomes

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        return self._inboxes.deliver(facts)

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        metas = self._metas([want.instance_id for want in wants])
        return self._connection.map(lambda pair: self._load(*pair), list(zip(wants, metas, strict=True)))

    def _load(self, want: Want, meta: Item | None) -> Record | None:
        """The meta item comes first: what a turn takes meanwhile is missed, and the version then tells."""
        partition = self._partition(want.instance_id)
        stands = self._stands(meta)
        while stands is not None and "w" in stands.meta:
            self._split.finish(want.instance_id, partition)
            [meta] = self._metas([want.instance_id])
            stands = self._stands(meta)
        if stands is None:
            return None
        meta, summary, damage = stands
        version = int(meta["v"]["N"])
        history = None
        if version != want.known_version:
            history = tuple(self._events(meta))
        rows = self._rows(self._inboxes.keys(want.instance_id, partition), partition)
        inbox = tuple(row for row in rows if row is not None)
        return Record(version, meta["c"]["S"], summary, history, inbox, damage)

    def _events(self, meta: Item) -> list[bytes]:
        if "e" not in meta:
            return []
        last = history_key(int(meta["e"]["N"]), 9999)
        items = self._connection.query(self._names.history(meta["x"]["S"]), history_key(0, 0), last)
        return [events for _, events in joined(items)]

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        pk = self._names.history(execution.execution_id)
        found = list(islice(joined(self._connection.query(pk, history_key(start, 0), END)), limit + 1))
        return Slice(found[:limit], str(found[limit][0]) if len(found) > limit else None)

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        def first(execution: ExecutionKey) -> bytes | None:
            pk = self._names.history(execution.execution_id)
            items = self._connection.query(pk, history_key(0, 0), history_key(0, 9999))
            return next((events for _, events in joined(items)), None)

        return self._connection.map(first, executions)

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        place = due_place(after)
        pk = self._names.rows(partition)
        low = due_mark(group, *place) + "\0" if place else due_mark(group, None)
        high = due_mark(group, until, LAST)
        while True:
            found = self._connection.query(pk, low, high, index=DUE, sort="d", limit=limit + 1)
            marks = [(item["sk"]["S"], item["d"]["S"]) for item in islice(found, limit + 1)]
            left = [key for key, _ in marks if key.startswith(MARK)]
            if not left:
                break
            for item in self._connection.get([(pk, key) for key in left]).values():
                self._split.finish(item["b"]["S"], partition)
        rows = self._rows([(pk, key) for key, _ in marks[:limit]], partition)
        items = [row for row in rows if row is not None and row.due_at <= until and row.group == group]
        key, mark = marks[limit - 1] if len(marks) > limit else ("", "")
        return Slice(items, encode_due(number_of(mark[16:]), key) if key else None)

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        wanted = [(self._names.rows(partition), key) for partition, key in keys]
        found = self._connection.get(wanted)
        return [self._row(found.get(key), partition) for key, (partition, _) in zip(wanted, keys, strict=True)]

    def _rows(self, keys: Sequence[Key], partition: int) -> list[Row | None]:
        found = self._connection.get(keys)
        return [self._row(found.get(key), partition) for key in keys]

    def _row(self, item: Item | None, partition: int) -> Row | None:
        if item is None or "d" not in item:
            return None
        item, body = self._overflow.read(item, "y")
        return unpack_row(item, partition, body) if body is not None and "d" in item else None

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        answers = [False] * len(leases)
        turns: list[dict[Key, int]] = []
        for n, lease in enumerate(leases):
            if lease.due_at != lease.due_at:
                raise ValueError(f"due_at of the lease of row {lease.key!a} is not a number")
            key = (self._names.rows(lease.partition), lease.key)
            turn = next((turn for turn in turns if key not in turn), None)
            if turn is None:
                turns.append(turn := {})
            turn[key] = n
        for turn in turns:
            found = self._connection.get(list(turn))
            fits = [(n, found[key]) for key, n in turn.items() if _held(found.get(key, {}), leases[n])]
            done = self._connection.map(lambda pair: self._lease(leases[pair[0]], pair[1]), fits)
            for (n, _), answer in zip(fits, done, strict=True):
                answers[n] = answer
        return answers

    def _lease(self, lease: Lease, item: Item) -> bool:
        key = (item["pk"]["S"], lease.key)
        held: Item = {":h": {"S": lease.expect_holder}, ":a": {"N": str(lease.expect_attempt)}}
        condition = "h = :h AND a = :a"
        token = uuid4().hex
        try:
            if lease.due_at is not None:
                new = {
                    ":nh": {"S": lease.holder},
                    ":na": {"N": str(lease.expect_attempt + 1)},
                    ":d": {"S": due_mark(item["g"]["S"], lease.due_at, lease.key)},
                    ":t": {"S": token},
                }
                self._connection.update(key, "SET h = :nh, a = :na, d = :d, t = :t", condition, held | new, token)
                return True
            if lease.key.startswith("in/"):
                change = f"SET {EXPIRES} = :e, t = :t REMOVE k, i, g, d, a, h, y, n, o"
                spent = {":e": {"N": str(int(self._clock()) + REMEMBER_FACTS_SECONDS)}, ":t": {"S": token}}
                self._connection.update(key, change, condition, held | spent, token)
            else:
                self._connection.delete(key, condition, held)
        except Refused:
            return False
        self._overflow.discard([reference_of(item)])
        return True

    def find(self, query: Query) -> Slice[Summary]:
        return listing.find(query, self.partitions, lambda asked: self._connection.map(self._page, asked))

    def _page(self, asked: listing.Asked) -> list[tuple[Place, Summary | None]]:
        low = sortable(asked.after) if asked.after is not None else "0"
        high = sortable(asked.before) if asked.before is not None else LAST
        last = listing_mark(*asked.place) if asked.place else LAST
        pk = self._names.listing(asked.partition)
        found = self._connection.query(pk, low, min(high, last), limit=asked.limit + 1, backwards=True)
        # The place itself was on the page before.
        marks = list(islice((item["sk"]["S"] for item in found if item["sk"]["S"] != last), asked.limit))
        places = [listed_at(mark) for mark in marks]
        metas = self._metas([instance_id for _, instance_id in places])
        return [
            (place, self._summary(meta) if meta is not None and meta["j"]["S"] == mark else None)
            for mark, place, meta in zip(marks, places, metas, strict=True)
        ]

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        return [self._summary(meta) for meta in self._metas(instance_ids)]

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        metas = self._metas(instance_ids)
        return self._connection.map(lambda meta: [] if meta is None else list(self._purges.former(meta)), metas)

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        answers: list[Purged] = [Purged.ABSENT] * len(executions)
        groups: dict[str, list[int]] = {}
        for n, execution in enumerate(executions):
            groups.setdefault(execution.instance_id, []).append(n)

        def purge_some(some: list[int]) -> None:
            for n in some:
                answers[n] = self._purges.purge(executions[n], self._partition(executions[n].instance_id))

        self._connection.map(purge_some, groups.values())
        return answers

    def clear(self, partition: int, limit: int) -> int:
        return self._purges.clear(partition, limit)

    def close(self) -> None:
        """The backend that opened the store closes it."""

    def _partition(self, instance_id: str) -> int:
        return partition_of(instance_id, self.partitions)

    def _metas(self, instance_ids: Sequence[str]) -> list[Item | None]:
        """Meta items of instances; None for an unknown or purged one."""
        keys = [self._names.meta(instance_id) for instance_id in instance_ids]
        found = self._connection.get(keys)
        return [found[key] if "v" in found.get(key, {}) else None for key in keys]

    def _summary(self, meta: Item | None) -> Summary | None:
        stands = self._stands(meta)
        return None if stands is None else stands.summary

    def _stands(self, meta: Item | None) -> _Stands | None:
        """None for an unknown or purged instance."""
        if meta is None:
            return None
        meta, data = self._overflow.read(meta, "s")
        if "v" not in meta:
            return None
        if data is not None:
            return _Stands(meta, decode_summary(data), "")
        return _Stands(meta, self._stand_in(meta), LOST)

    def _stand_in(self, meta: Item) -> Summary:
        """For a summary whose pieces are missing: what else is stored, so that the instance can be seen and ended."""
        created_at, instance_id = listed_at(meta["j"]["S"])
        at = datetime.fromtimestamp(created_at, timezone.utc)
        events: list[Event] = []
        with suppress(UnreadableHistory):
            events = [event for row in self._events(meta) for event in decode_events(row)]
        blocked = Summary(
            instance_id,
            meta["x"]["S"],
            events[0].name if events else "",
            RuntimeStatus.BLOCKED,
            at,
            at,
            group=meta["g"]["S"],
            blocked_reason=LOST,
            length=len(events),
        )
        if meta["f"]["N"] == "0":
            return blocked
        failure = FailureDetails("durable.StoreError", LOST)  # how it ended is not known; that it has, is
        return replace(blocked, status=RuntimeStatus.FAILED, blocked_reason="", completed_at=at, failure=failure)


class _Stands(NamedTuple):
    """How an instance stands. damage: see `Record`."""

    meta: Item
    summary: Summary
    damage: str


def _held(item: Item, lease: Lease) -> bool:
    return "h" in item and item["h"]["S"] == lease.expect_holder and int(item["a"]["N"]) == lease.expect_attempt
