"""Purging: out of sight in one transaction, out of the table in pages.

The meta item stays, without what made it an instance: with the executions that must not come back, and numbers that
keep what comes later apart from what was. It expires 60 days after all else has gone, later than any id of a fact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final
from uuid import uuid4

from durable.ports import ExecutionKey, Purged

from .dynamodb_actions import Action, end_row, put
from .dynamodb_commit import purged_with
from .dynamodb_connection import Cancelled, Connection, Refused, key_of
from .dynamodb_inbox import Inboxes
from .dynamodb_items import LAST, Item, Names
from .dynamodb_overflow import Overflow, reference_of
from .dynamodb_split import SplitTurns
from .dynamodb_table import EXPIRES

AT_ONCE: Final = 50  # rows of an inbox that go with the instance; the others are taken out before it is answered
REMEMBER_PURGED_SECONDS: Final = 60 * 24 * 3600


class Purges:
    """Those of one workspace. Safe to use from several threads and processes."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        overflow: Overflow,
        split: SplitTurns,
        inboxes: Inboxes,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._names = names
        self._overflow = overflow
        self._split = split
        self._inboxes = inboxes
        self._clock = clock

    def purge(self, execution: ExecutionKey, partition: int) -> Purged:
        """Take it out of sight."""
        instance_id, meta_key = execution.instance_id, self._names.meta(execution.instance_id)
        while True:
            meta = self._connection.get([meta_key]).get(meta_key, {})
            if "v" not in meta:
                return Purged.ABSENT
            if meta["x"]["S"] != execution.execution_id or meta["f"]["N"] != "1":
                return Purged.KEPT
            if "w" in meta:
                self._split.finish(instance_id, partition)
                continue
            keys = self._inboxes.keys(instance_id, partition, AT_ONCE + 1)
            rows = self._connection.get(keys[:AT_ONCE])
            ends = [end_row(*key, self._clock(), reference_of(item)) for key, item in rows.items()]
            left: Item = {"i": {"S": instance_id}, "u": meta.get("u", {"N": "0"})}
            if reference_of(meta):
                left["o"] = meta["o"]
            actions = [
                Action(self._names.listing(partition), meta["j"]["S"]),
                put(self._names.purging(partition), execution.execution_id, left),
                *ends,
            ]
            table = self._connection.target.table
            update = self._update(meta, more=len(keys) > AT_ONCE)
            try:
                self._connection.transact([update, *(action.request(table) for action in actions)], uuid4().hex)
            except Cancelled:
                continue
            self._overflow.discard([end.refers for end in ends])
            if len(keys) > AT_ONCE:
                self._inboxes.empty(instance_id, partition)
            return Purged.GONE

    def _update(self, meta: Item, more: bool) -> dict[str, Any]:
        pk = meta["pk"]["S"]
        # A start that comes late has the first execution of a life: kept, forgotten, or the last one.
        firsts = self._connection.query(pk, _former(meta), _former(meta) + LAST, limit=1)
        remembered = [*purged_with(meta, meta["x"]["S"])]
        for first in islice(firsts, 1):
            remembered = purged_with({"q": {"L": remembered}}, first["x"]["S"])
        remembered += [meta["r"]] if "r" in meta else []
        values: Item = {":v": meta["v"], ":c": meta["c"], ":one": {"N": "1"}, ":q": {"L": remembered}}
        change = "SET q = :q"
        if more:
            change += ", z = :one"
        return {
            "Update": {
                "TableName": self._connection.target.table,
                "Key": key_of(pk, meta["sk"]["S"]),
                "UpdateExpression": f"{change} REMOVE v, c, x, e, f, g, s, o, j, r ADD l :one, u :one",
                "ConditionExpression": "v = :v AND c = :c AND attribute_not_exists(w)",
                "ExpressionAttributeValues": values,
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def clear(self, partition: int, limit: int) -> int:
        """About so many pieces of what has been purged or forgotten; how many there were."""
        removed = 0
        for item in self._connection.query(self._names.purging(partition), " ", LAST):
            if removed >= limit:
                break
            removed += self._clear(item, partition, limit - removed)
        return removed

    def _clear(self, item: Item, partition: int, room: int) -> int:
        if "i" not in item:
            return self._clear_forgotten(item, room)
        instance_id = item["i"]["S"]
        pk, sk = self._names.meta(instance_id)
        meta = self._connection.get([(pk, sk)]).get((pk, sk), {})
        if "z" in meta:
            self._inboxes.empty(instance_id, partition)
        removed = 0
        for former in self._connection.query(pk, _former(item), _former(item) + LAST):
            removed += self._clear_history(former["x"]["S"], room - removed)
            if removed >= room:
                return removed
            self._connection.delete((pk, former["sk"]["S"]))
            removed += 1
        removed += self._clear_history(item["sk"]["S"], room - removed)
        if removed >= room:
            return removed
        self._overflow.discard([reference_of(item)])
        expires = {":e": {"N": str(int(self._clock()) + REMEMBER_PURGED_SECONDS)}}
        try:
            condition = "attribute_exists(q) AND attribute_not_exists(v)"
            self._connection.update((pk, sk), f"SET {EXPIRES} = :e", condition, expires)
        except Refused:
            pass  # it lives again, or has expired
        self._connection.delete((item["pk"]["S"], item["sk"]["S"]))
        return removed + 1

    def _clear_forgotten(self, item: Item, room: int) -> int:
        """One execution, of an instance that goes on."""
        removed = self._clear_history(item["sk"]["S"], room)
        if removed >= room:
            return removed
        self._connection.delete((item["pk"]["S"], item["sk"]["S"]))
        return removed + 1

    def _clear_history(self, execution_id: str, room: int) -> int:
        found = self._connection.query(self._names.history(execution_id), " ", LAST, limit=max(1, room))
        keys = [(item["pk"]["S"], item["sk"]["S"]) for item in islice(found, room)]
        self._connection.discard(keys)
        return len(keys)

    def former(self, meta: Item) -> Sequence[str]:
        """The executions before the current one, oldest first."""
        if "v" not in meta:
            return []
        found = self._connection.query(meta["pk"]["S"], _former(meta), _former(meta) + LAST)
        return [item["x"]["S"] for item in found]


def _former(item: Item) -> str:
    """Where the executions of what was counted as so many purges begin."""
    return f"f/{int(item.get('u', {}).get('N', '0')):010}/"
