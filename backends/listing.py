"""Where a listing goes on, as opaque text. Shared by the stores of this folder, so that a cursor is refused the same.

A cursor is the place of the last item seen, (created_at, instance_id): keyset paging, so that a page never skips or
repeats an instance when others come, go or change between two pages.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from durable.model.history import UNDECODABLE
from durable.ports import Query

Place = tuple[float, str]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[float, str])


def encode_place(created_at: float, instance_id: str) -> str:
    """The cursor that continues after this instance."""
    return urlsafe_b64encode(_encoder.encode((created_at, instance_id))).decode()


def place_of(query: Query) -> Place | None:
    """Where the query goes on; None at the beginning. Raises ValueError for a forged cursor or a limit below 1."""
    if query.limit < 1:
        raise ValueError(f"limit={query.limit}: give a number from 1 up")
    if query.cursor is None:
        return None
    try:
        return _decoder.decode(urlsafe_b64decode(query.cursor))
    except (ValueError, *UNDECODABLE):
        raise ValueError(
            f"cursor {query.cursor[:40]!a} was not made by a listing; leave it out to begin with the newest"
        ) from None


def encode_due(due_at: float, key: str) -> str:
    """The `after` that continues a paging through due rows after this one."""
    return f"{due_at!r}/{key}"


def due_place(after: str) -> Place | None:
    """Where a paging through due rows goes on; None at the beginning. Raises ValueError for a forged one."""
    if not after:
        return None
    due_at, slash, key = after.partition("/")
    try:
        if not slash:
            raise ValueError
        return float(due_at), key
    except ValueError:
        raise ValueError(
            f"after={after[:40]!a} was not made by `due`; leave it out to begin with the soonest"
        ) from None
