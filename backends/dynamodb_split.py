"""Turns too large for one transaction (100 actions, 4 MB): decided at once, written bit by bit, each bit once.

1. What is to be written is stored in pieces, out of everybody's sight.
2. One transaction on the instance's meta item decides: version, summary, and that this turn is being written. With it
   a mark among the due rows, ten seconds ahead, so that a sweep finds the turn when its writer dies.
3. Each piece is one transaction with a counter in the meta item, so that it is written once however many write; the
   last ends it. Whoever meets the instance (a load, the next commit, a purge, a sweep) goes on where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

import msgspec

from .dynamodb_actions import Action, put
from .dynamodb_connection import Cancelled, Connection, key_of
from .dynamodb_items import Item, Key, Names, due_mark
from .dynamodb_overflow import Overflow, reference_of

MOST_ACTIONS: Final = 100
MOST_BYTES: Final = 3_500_000  # of 4 MB, which counts more than what is counted here
PIECE_BYTES: Final = 370_000
LEFT_ALONE_SECONDS: Final = 10.0
MARK: Final = "~"  # row keys don't begin with it

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Action]).decode


class Log(msgspec.Struct, frozen=True):
    """The pieces of a turn, stored and not yet decided on. `change`: what the deciding update says more."""

    number: str
    keys: list[Key]
    mark: Action
    change: str
    values: Item


def fits(actions: Sequence[Action], size: int) -> bool:
    """Whether they go into one transaction with the update of the meta item, of this size."""
    return len(actions) < MOST_ACTIONS and size + sum(action.size for action in actions) < MOST_BYTES


class SplitTurns:
    """Writes what does not fit. Safe to use from several threads and processes."""

    def __init__(self, connection: Connection, names: Names, overflow: Overflow) -> None:
        self._connection = connection
        self._names = names
        self._overflow = overflow

    def store(
        self, actions: Sequence[Action], execution_id: str, instance_id: str, rows: str, group: str, now: float
    ) -> Log:
        """Step 1. The pieces lie with the execution's history, and go with it should nobody decide on them."""
        number = uuid4().hex
        pieces = list(_pieces(actions))
        pk = self._names.history(execution_id)
        keys = [(pk, f"{MARK}{number}/{n:06}") for n in range(len(pieces))]
        for (_, sk), piece in zip(keys, pieces, strict=True):
            self._connection.put({"pk": {"S": pk}, "sk": {"S": sk}, "y": {"B": _encode(piece)}})
        key = f"{MARK}{number}"
        mark = put(rows, key, {"d": {"S": due_mark(group, now + LEFT_ALONE_SECONDS, key)}, "b": {"S": instance_id}})
        values = {":w": {"S": number}, ":k": {"N": "0"}, ":m": {"N": str(len(pieces))}}
        return Log(number, keys, mark, "w = :w, k = :k, m = :m", values)

    def drop(self, log: Log) -> None:
        """Nobody decided on it, and nobody will."""
        self._connection.discard(log.keys)

    def finish(self, instance_id: str, partition: int) -> None:
        """Step 3, from where it stands; nothing when nothing is being written."""
        meta_key, rows = self._names.meta(instance_id), self._names.rows(partition)
        while True:
            meta = self._connection.get([meta_key]).get(meta_key, {})
            if "w" not in meta:
                return
            number, at, count = meta["w"]["S"], int(meta["k"]["N"]), int(meta["m"]["N"])
            pk = self._names.history(meta["x"]["S"])
            keys = [(pk, f"{MARK}{number}/{n:06}") for n in range(count)]
            found = self._connection.get([keys[at]]).get(keys[at])
            if found is None:
                continue  # another has ended it since the meta item was read
            actions = _decode(found["y"]["B"])
            last = at + 1 == count
            self._write(meta_key, number, at, last, [*actions, Action(rows, f"{MARK}{number}")] if last else actions)
            if last:
                self._connection.discard(keys)

    def _write(self, meta: Key, number: str, at: int, last: bool, actions: list[Action]) -> None:
        """One piece, or nothing when another was quicker."""
        values: Item = {":w": {"S": number}, ":k": {"N": str(at)}}
        if not last:
            values[":next"] = {"N": str(at + 1)}
        table = self._connection.target.table
        counter: dict[str, Any] = {
            "TableName": table,
            "Key": key_of(*meta),
            "UpdateExpression": "REMOVE w, k, m" if last else "SET k = :next",
            "ConditionExpression": "w = :w AND k = :k",
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        while True:
            try:
                self._connection.transact(
                    [{"Update": counter}, *(action.request(table) for action in actions)], uuid4().hex
                )
            except Cancelled as cancelled:
                if cancelled.refusals[0] is not None:
                    return
                actions = corrected(actions, cancelled.refusals[1:])
            else:
                self._overflow.discard([action.refers for action in actions])
                return


def corrected(actions: Sequence[Action], refusals: Sequence[Item | None]) -> list[Action]:
    """The same actions, knowing what their items refer to."""
    return [
        action if item is None else msgspec.structs.replace(action, refers=reference_of(item))
        for action, item in zip(actions, refusals, strict=True)
    ]


def _pieces(actions: Sequence[Action]) -> Sequence[list[Action]]:
    """Each fits into an item, and into a transaction with the counter and the mark."""
    pieces: list[list[Action]] = []
    room = 0
    for action in actions:
        if not pieces or action.size + 64 > room or len(pieces[-1]) >= MOST_ACTIONS - 2:
            pieces.append([])
            room = PIECE_BYTES
        pieces[-1].append(action)
        room -= action.size + 64
    return pieces
