"""What is stored, as items: keys that sort, rows, records, values in chunks. `dynamodb_table.py` has the picture.

Attributes have one letter, because their names are paid for with every write.

    meta   v version, c commit, x execution, e number of its last stored event row, f finished, g group, s summary,
           at place in the listing, l lives (counts what makes ids of facts new), u purges;
           k, m, w: a split turn: pieces written, of how many, its number
           q: executions that were purged (digests), r: the first one that was forgotten (digest),
           z: an inbox that a purge has still to empty
    row    k kind, i instance, g group, d place in `due`, a attempt, h holder, y body, n place in `inbox`, t token
    both   o: where the summary or body is, when it is too large for its item
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple, cast

import msgspec

from durable.model.errors import StoreError
from durable.model.history import UNDECODABLE
from durable.model.status import Summary
from durable.ports import Row, RowKind

CHUNK_BYTES: Final = 350_000  # an item has 400 KB at most, names and keys included
LAST: Final = "\U0010ffff"  # sorts after all that a name may hold

_DOUBLE: Final = Struct(">d")
_WORD: Final = Struct(">Q")
_SIGN: Final = 1 << 63
_KINDS: Final = frozenset({"task", "timer", "message", "inbox"})

Item = dict[str, Any]
Key = tuple[str, str]

_encode = msgspec.json.Encoder().encode
_summary: Final = msgspec.json.Decoder(Summary)


class Names(NamedTuple):
    """The partition keys of one workspace, which is percent-encoded."""

    workspace: str

    def about(self) -> Key:
        return f"{self.workspace}/s", "s"

    def meta(self, instance_id: str) -> Key:
        return f"{self.workspace}/i/{instance_id}", "m"

    def history(self, execution_id: str) -> str:
        return f"{self.workspace}/h/{execution_id}"

    def rows(self, partition: int) -> str:
        return f"{self.workspace}/r/{partition}"

    def overflow(self, number: str) -> str:
        return f"{self.workspace}/o/{number}"

    def listing(self, partition: int) -> str:
        return f"{self.workspace}/l/{partition}"

    def purging(self, partition: int) -> str:
        return f"{self.workspace}/p/{partition}"

    def workers(self) -> str:
        return f"{self.workspace}/w"


def digest(*parts: str) -> bytes:
    """16 bytes, as good as all of it."""
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def sortable(number: float) -> str:
    """A double as text that sorts as doubles do. Raises ValueError for what is not a number."""
    if number != number:
        raise ValueError("a time is not a number")
    [bits] = _WORD.unpack(_DOUBLE.pack(number + 0.0))  # -0.0 is 0.0
    return f"{bits ^ (_SIGN if bits < _SIGN else 2 * _SIGN - 1):016x}"


def number_of(text: str) -> float:
    """The very double that `sortable` was given."""
    bits = int(text[:16], 16)
    [number] = _DOUBLE.unpack(_WORD.pack(bits ^ (_SIGN if bits >= _SIGN else 2 * _SIGN - 1)))
    return cast(float, number)


def due_mark(group: str, due_at: float | None, key: str = "") -> str:
    """The place of a row in the index `due`; without a time, where the group begins."""
    mark = digest(group).hex()[:16]
    return mark if due_at is None else f"{mark}{sortable(due_at)}{key}"


def inbox_mark(instance_id: str, order: str = "") -> str:
    """The place of a row in the index `inbox`: what the engine put there itself comes before what was delivered."""
    return f"{digest(instance_id).hex()}{order}"


def listing_mark(created_at: float, instance_id: str) -> str:
    """The place of an instance in the listing of its partition."""
    return f"{sortable(created_at)}{instance_id}"


def listed_at(mark: str) -> tuple[float, str]:
    """Time of creation and instance id of a place in the listing."""
    return number_of(mark), mark[16:]


def chunks(data: bytes) -> list[bytes]:
    """The data in pieces that fit into an item; at least one."""
    return [data[first : first + CHUNK_BYTES] for first in range(0, len(data), CHUNK_BYTES)] or [b""]


def pack_row(row: Row, order: str | None = None, token: str = "") -> Item:
    """The attributes of a row but its body; `order`: of an inbox row that was delivered."""
    item: Item = {
        "sk": {"S": row.key},
        "k": {"S": row.kind},
        "i": {"S": row.instance_id},
        "g": {"S": row.group},
        "d": {"S": due_mark(row.group, row.due_at, row.key)},
        "a": {"N": str(row.attempt)},
        "h": {"S": row.holder},
    }
    if row.kind == "inbox":
        item["n"] = {"S": inbox_mark(row.instance_id, f"0{row.key}" if order is None else f"1{order}")}
    if token:
        item["t"] = {"S": token}
    return item


def unpack_row(item: Item, partition: int, body: bytes) -> Row:
    """The row of this item. Raises StoreError for one that can't be read."""
    try:
        kind = item["k"]["S"]
        if kind not in _KINDS:
            raise ValueError(f"kind {kind!a}")
        return Row(
            item["sk"]["S"],
            cast(RowKind, kind),
            item["i"]["S"],
            partition,
            number_of(item["d"]["S"][16:]),
            item["h"]["S"],
            int(item["a"]["N"]),
            body,
            item["g"]["S"],
        )
    except (KeyError, ValueError, StructError) as error:
        raise StoreError(f"a row in DynamoDB can't be read ({error}); the data are damaged or newer") from error


def encode_summary(summary: Summary) -> bytes:
    return _encode(summary)


def decode_summary(stored: bytes) -> Summary:
    """Raises StoreError for one that can't be read."""
    try:
        return _summary.decode(stored)
    except UNDECODABLE as error:
        raise StoreError(f"a stored summary can't be read ({error}); the data are damaged or newer") from error


def history_key(start: int, chunk: int) -> str:
    """Sorts by number of the first event, then by chunk."""
    return f"{start:016}/{chunk:04}"


def joined(items: Iterator[Item]) -> Iterator[tuple[int, bytes]]:
    """The stored rows of a history from its chunks in order: (number of the first event, events)."""
    start, parts = -1, list[bytes]()
    for item in items:
        at = int(item["sk"]["S"][:16])
        if at != start and parts:
            yield start, b"".join(parts)
            parts = []
        start = at
        parts.append(item["y"]["B"])
    if parts:
        yield start, b"".join(parts)


def size_of(item: Item) -> int:
    """About what DynamoDB counts for an item: names and values."""
    return sum(len(name) + 3 + sum(_size(kind, value) for kind, value in typed.items()) for name, typed in item.items())


def _size(kind: str, value: Any) -> int:
    if kind == "L":
        return 3 + sum(1 + _size(*one) for typed in value for one in typed.items())
    return len(value.encode()) if kind == "S" else len(value) if kind in ("B", "N") else 1
