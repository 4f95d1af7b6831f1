"""One action of a transaction on an item beside the one that decides. Plain data, so that a split turn can store it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .dynamodb_connection import key_of
from .dynamodb_items import Item, Key, size_of
from .dynamodb_table import EXPIRES

REMEMBER_FACTS_SECONDS: Final = 30 * 24 * 3600


class Action(msgspec.Struct, frozen=True, array_like=True):
    """Put `item`, or delete what is there (None).

    owner: whether what is there may refer to pieces beside it; `refers` is what it is expected to refer to, '' for
    nothing, which is nearly always right: the condition tells when it is not. spend: of a fact in an inbox nothing
    stays but its id, so that it is not taken twice, until this time.
    """

    pk: str
    sk: str
    item: Item | None = None
    owner: bool = False
    refers: str = ""
    spend: int = 0

    @property
    def key(self) -> Key:
        return self.pk, self.sk

    @property
    def size(self) -> int:
        return len(self.pk) + len(self.sk) + 8 if self.item is None else size_of(self.item)

    def request(self, table: str) -> dict[str, Any]:
        """As `transact_write_items` wants it."""
        asked: dict[str, Any] = {"TableName": table}
        values: Item = {}
        if self.owner:
            asked["ConditionExpression"] = "o = :o" if self.refers else "attribute_not_exists(o)"
            asked["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
            if self.refers:
                values[":o"] = {"S": self.refers}
        if self.item is not None:
            verb, asked["Item"] = "Put", self.item
        elif self.spend:
            verb, asked["Key"] = "Update", key_of(*self.key)
            asked["UpdateExpression"] = f"SET {EXPIRES} = :e REMOVE k, i, g, d, a, h, y, n, o, t"
            values[":e"] = {"N": str(self.spend)}
        else:
            verb, asked["Key"] = "Delete", key_of(*self.key)
        if values:
            asked["ExpressionAttributeValues"] = values
        return {verb: asked}


def put(pk: str, sk: str, item: Item, owner: bool = False) -> Action:
    """Put these attributes under this key."""
    return Action(pk, sk, {"pk": {"S": pk}, "sk": {"S": sk}, **item}, owner)


def end_row(pk: str, key: str, now: float, refers: str = "") -> Action:
    """The row has ended; of a fact that was delivered the id is remembered."""
    spend = int(now) + REMEMBER_FACTS_SECONDS if key.startswith("in/") else 0
    return Action(pk, key, None, True, refers, spend)
