"""Values too large for their item: written before what refers to them, deleted after nothing does.

Neither is part of a transaction, whose 4 MB they would fill. A crash just then leaves pieces that nobody refers to:
room lost, nothing else.
"""

from __future__ import annotations

import logging
from uuid import uuid4

from durable.model.errors import StoreError

from .dynamodb_connection import Connection
from .dynamodb_items import CHUNK_BYTES, Item, Key, Names, chunks

log = logging.getLogger("durable.dynamodb")


class Overflow:
    """The pieces of one workspace. A reference is text: their number and how many there are."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._said: set[str] = set()  # references whose pieces are missing

    def place(self, item: Item, name: str, data: bytes) -> None:
        """Give the item these data: as its attribute `name`, or beside it, with a reference as its attribute `o`."""
        if len(data) <= CHUNK_BYTES:
            item[name] = {"B": data}
            return
        pieces = chunks(data)
        reference = f"{uuid4().hex}:{len(pieces)}"
        for (pk, sk), piece in zip(self._keys(reference), pieces, strict=True):
            self._connection.put({"pk": {"S": pk}, "sk": {"S": sk}, "y": {"B": piece}})
        item["o"] = {"S": reference}

    def read(self, item: Item, name: str) -> tuple[Item, bytes | None]:
        """The item and what `place` gave it. Where its pieces have gone, so has the item mostly, after it was read: the
        item as it is now then, {} for none. None: it is as it was, and its pieces are missing."""
        while True:
            data = self._data(item, name)
            if data is not None:
                return item, data
            reference, key = reference_of(item), (item["pk"]["S"], item["sk"]["S"])
            again = self._connection.get([key]).get(key, {})
            if reference_of(again) == reference:
                self._say(reference, key)
                return again, None
            item = again

    def _say(self, reference: str, key: Key) -> None:
        if reference not in self._said:
            self._said.add(reference)
            log.error("item %r is passed over: pieces of it (%s) are missing; restore the table", key, reference)

    def _data(self, item: Item, name: str) -> bytes | None:
        reference = reference_of(item)
        if not reference:
            data: bytes = item.get(name, {}).get("B", b"")
            return data
        keys = self._keys(reference)
        found = self._connection.get(keys)
        if len(found) < len(keys):
            return None
        return b"".join(found[key]["y"]["B"] for key in keys)

    def discard(self, references: list[str]) -> None:
        """Nothing refers to these any more. What fails leaves them: what they belonged to was done all the same."""
        keys = [key for reference in references if reference for key in self._keys(reference)]
        try:
            self._connection.discard(keys)
        except StoreError as error:
            log.warning("%d pieces that nothing refers to are left in the table: %s", len(keys), error)

    def _keys(self, reference: str) -> list[Key]:
        number, _, count = reference.partition(":")
        return [(self._names.overflow(number), f"{n:06}") for n in range(int(count))]


def reference_of(item: Item) -> str:
    """What an item refers to; empty when it has its data itself."""
    reference: str = item.get("o", {}).get("S", "")
    return reference
