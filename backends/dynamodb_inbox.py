"""Inboxes: rows apart from the meta item, so that a delivery never conflicts with a turn.

A fact is one item, whose key is made from its id: that it is there refuses it a second time, and when it was taken its
key stays for thirty days. Order of delivery is that of the clocks of those who deliver; one process never steps back.
Whether the instance takes facts is read before: who delivers at the very moment in which it ends has delivered before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final
from uuid import uuid4

from durable.ports import PARKED, Delivered, Fact, Row

from .dynamodb_actions import end_row
from .dynamodb_connection import Cancelled, Connection, Refused, key_of
from .dynamodb_items import LAST, Item, Key, Names, digest, inbox_mark, pack_row
from .dynamodb_overflow import Overflow, reference_of
from .dynamodb_split import MOST_ACTIONS
from .dynamodb_table import EXPIRES, INBOX

_FREE: Final = f"attribute_not_exists(sk) OR {EXPIRES} < :now"


class Inboxes:
    """Those of one workspace. Safe to use from several threads."""

    def __init__(self, connection: Connection, names: Names, overflow: Overflow, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._names = names
        self._overflow = overflow
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = 0

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        """In order; instances at once, the facts of one after the other."""
        metas = self._connection.get([self._names.meta(fact.instance_id) for fact in facts])
        groups: dict[str, list[tuple[int, Fact, str]]] = {}
        for n, fact in enumerate(facts):
            if fact.due_at != fact.due_at:
                raise ValueError(f"due_at of fact {fact.id!a} is not a number")
            groups.setdefault(fact.instance_id, []).append((n, fact, self._next_stamp()))
        answers: list[Any] = [None] * len(facts)

        def deliver_some(some: list[tuple[int, Fact, str]]) -> None:
            for n, fact, stamp in some:
                answers[n] = self._deliver(fact, stamp, metas.get(self._names.meta(fact.instance_id), {}))

        self._connection.map(deliver_some, groups.values())
        return answers

    def _next_stamp(self) -> str:
        with self._lock:
            self._stamp = max(self._stamp + 1, time.time_ns())
            return f"{self._stamp:020}"

    def _deliver(self, fact: Fact, stamp: str, meta: Item) -> Delivered:
        while True:
            lives = meta.get("l", {}).get("N", "0")
            key = f"in/{digest(fact.instance_id, lives, fact.id).hex()}"
            pk = self._names.rows(fact.partition)
            alive = "v" in meta and meta["f"]["N"] == "0"
            if not alive and not fact.park:
                if self._is_known((pk, key)):
                    return Delivered.DUPLICATE
                return Delivered.FINISHED if "v" in meta else Delivered.ABSENT
            group = meta["g"]["S"] if alive else PARKED
            row = Row(key, "inbox", fact.instance_id, fact.partition, fact.due_at, body=fact.body, group=group)
            token = uuid4().hex
            item = {"pk": {"S": pk}, **pack_row(row, stamp, token)}
            self._overflow.place(item, "y", fact.body)
            if alive:
                try:
                    self._connection.put(item, _FREE, self._now(), token)
                except Refused:
                    self._overflow.discard([reference_of(item)])
                    return Delivered.DUPLICATE
                return Delivered.NEW
            answer = self._park(fact, meta, item)
            if answer is not None:
                return answer
            self._overflow.discard([reference_of(item)])
            meta_key = self._names.meta(fact.instance_id)
            meta = self._connection.get([meta_key]).get(meta_key, {})

    def _park(self, fact: Fact, meta: Item, item: Item) -> Delivered | None:
        """Together with seeing that there is still nobody to wake; None when there is."""
        if "z" in meta:
            self.empty(fact.instance_id, fact.partition)
        lives = meta.get("l")
        same = "l = :l" if lives else "attribute_not_exists(l)"
        check: dict[str, Any] = {
            "TableName": self._connection.target.table,
            "Key": key_of(*self._names.meta(fact.instance_id)),
            "ConditionExpression": f"(attribute_not_exists(v) OR f = :f) AND attribute_not_exists(z) AND {same}",
            "ExpressionAttributeValues": {":f": {"N": "1"}, **({":l": lives} if lives else {})},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        put: dict[str, Any] = {
            "TableName": self._connection.target.table,
            "Item": item,
            "ConditionExpression": _FREE,
            "ExpressionAttributeValues": self._now(),
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        try:
            self._connection.transact([{"ConditionCheck": check}, {"Put": put}], uuid4().hex)
        except Cancelled as cancelled:
            if cancelled.refusals[0] is not None:
                return None
            self._overflow.discard([reference_of(item)])
            return Delivered.DUPLICATE
        return Delivered.PARKED

    def _is_known(self, key: Key) -> bool:
        found = self._connection.get([key]).get(key)
        return found is not None and (EXPIRES not in found or int(found[EXPIRES]["N"]) >= self._clock())

    def _now(self) -> Item:
        return {":now": {"N": str(int(self._clock()))}}

    def keys(self, instance_id: str, partition: int, limit: int | None = None) -> list[Key]:
        """Of the rows of an inbox, in order."""
        mark = inbox_mark(instance_id)
        pk = self._names.rows(partition)
        found = self._connection.query(pk, mark, mark + LAST, index=INBOX, sort="n", limit=limit)
        return [(pk, item["sk"]["S"]) for item in islice(found, limit)]

    def empty(self, instance_id: str, partition: int) -> None:
        """What a purge has left in an inbox, before anything may be put there for another life."""
        meta = self._names.meta(instance_id)
        table = self._connection.target.table
        check: dict[str, Any] = {
            "TableName": table,
            "Key": key_of(*meta),
            "ConditionExpression": "attribute_exists(z)",
        }
        while True:
            keys = self.keys(instance_id, partition, MOST_ACTIONS - 1)
            found = self._connection.get(keys)
            ends = [end_row(*key, self._clock(), reference_of(found[key])) for key in keys if key in found]
            # Still while it is being emptied: another may have done it, and a new life begun.
            last: dict[str, Any] = {"Update": {**check, "UpdateExpression": "REMOVE z"}}
            actions = [last if not keys else {"ConditionCheck": check}, *(end.request(table) for end in ends)]
            try:
                self._connection.transact(actions, uuid4().hex)
            except Cancelled as cancelled:
                if cancelled.refusals[0] is not None:
                    return
                continue
            if not keys:
                return
            self._overflow.discard([end.refers for end in ends])
