"""Who works on a workspace in DynamoDB: one item a worker, its last beat.

Nothing is decided by a clock: whoever sees a counter stand still for long says `leave` for it. A worker that was only
slow is there again with its next beat. TTL takes away what nobody was there to take away.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from durable.model.history import UNDECODABLE
from durable.ports import Beat

from .dynamodb_connection import Connection
from .dynamodb_items import LAST, Names
from .dynamodb_table import EXPIRES

FORGET_SECONDS: Final = 7 * 24 * 3600

_encode = msgspec.json.Encoder().encode
_beat = msgspec.json.Decoder(Beat)

log = logging.getLogger("durable.dynamodb")


class DynamoMembership:
    """`durable.ports.Membership` under one partition key."""

    exclusive = False

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._pk = names.workers()
        self._unreadable: set[str] = set()

    def beat(self, me: Beat) -> list[Beat]:
        self._connection.put(
            {
                "pk": {"S": self._pk},
                "sk": {"S": me.incarnation},
                "y": {"B": _encode(me)},
                EXPIRES: {"N": str(int(time.time()) + FORGET_SECONDS)},
            }
        )
        return self.members()

    def members(self) -> list[Beat]:
        beats: list[Beat] = []
        for item in self._connection.query(self._pk, " ", LAST):
            try:
                beats.append(_beat.decode(item["y"]["B"]))
            except UNDECODABLE as error:
                # One beat that is newer or damaged must not stop all the others; said once.
                if item["sk"]["S"] not in self._unreadable:
                    self._unreadable.add(item["sk"]["S"])
                    log.warning("a worker's sign of life can't be read and is left out: %s", error)
        return beats

    def leave(self, incarnation: str) -> None:
        self._connection.delete((self._pk, incarnation))
