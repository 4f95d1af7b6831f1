"""Who works on a workspace in Redis: one hash, incarnation -> last beat.

Nothing expires by a clock: whoever sees a counter stand still for long says `leave` for it. A worker that was only
slow is there again with its next beat, which is why a beat always writes and never asks whether it is known.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from durable.model.history import UNDECODABLE
from durable.ports import Beat

from .redis_connection import Connections, pack

_encode = msgspec.json.Encoder().encode
_beat = msgspec.json.Decoder(Beat)

log = logging.getLogger("durable.redis")


class RedisMembership:
    """`durable.ports.Membership` in the hash `key`."""

    exclusive = False

    def __init__(self, connections: Connections, key: bytes) -> None:
        self._connections = connections
        self._key = key
        self._unreadable: set[bytes] = set()

    def beat(self, me: Beat) -> list[Beat]:
        commands = [pack("HSET", self._key, me.incarnation, _encode(me)), pack("HGETALL", self._key)]
        return self._decoded(self._connections.ask(commands)[1])

    def members(self) -> list[Beat]:
        return self._decoded(self._connections.ask([pack("HGETALL", self._key)])[0])

    def leave(self, incarnation: str) -> None:
        self._connections.ask([pack("HDEL", self._key, incarnation)])

    def _decoded(self, stored: list[Any]) -> list[Beat]:
        beats: list[Beat] = []
        for incarnation, text in zip(stored[::2], stored[1::2], strict=True):
            try:
                beats.append(_beat.decode(text))
            except UNDECODABLE as error:
                # One beat that is newer or damaged must not stop all the others; said once.
                if incarnation not in self._unreadable:
                    self._unreadable.add(incarnation)
                    log.warning("a worker's sign of life can't be read and is left out: %s", error)
        return beats
