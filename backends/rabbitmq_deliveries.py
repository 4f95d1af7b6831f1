"""Deliveries, read from the bytes that the broker sends: pika makes six objects of each, which takes far longer.

Laws.
1. A delivery that is here as a whole, on a channel that somebody reads here, goes to that reader. All else is pika's:
   whole frames, byte for byte, in their order with the deliveries.
2. What is not understood is pika's too, which then says what is wrong with it.
3. A frame or a delivery that has not come as a whole waits, and is looked at again when enough has come.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
from pika import spec  # as above

from .cloud_events import structured

RECEIVED_AT_ONCE: Final = 64 * 1024  # bytes; pika asks the system for 4 KB

Reader = Callable[[int, bytes, bool], None]  # number, event, whether it was delivered before

_FRAME: Final = Struct(">BHI")  # type, channel, size of what follows, without the end
_NUMBER: Final = Struct(">QB")  # of a delivery, and whether it came before
_CONTENT: Final = Struct(">QH")  # size of the body, which properties there are
_HEAD: Final = _FRAME.size
_AROUND: Final = _HEAD + 1
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_HAS_HEADERS: Final = 1 << 13
_KINDS: Final = (spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY, spec.FRAME_HEARTBEAT)


class Deliveries:
    """Those of one connection of pika's, from its first byte on. `readers`: by channel number."""

    def __init__(self, connection: Any) -> None:
        self.readers: dict[int, Reader] = {}
        self._connection = connection
        self._pika: Callable[[bytes], None] | None = getattr(connection, "_on_data_available", None)
        self._waiting: list[bytes] = []
        self._size = 0  # of what waits
        self._needed = 0  # until it is worth looking at
        if self._pika is not None:  # else a pika that reads in another way
            connection._on_data_available = self.read

    def hasten(self) -> None:
        """Once it is connected."""
        transport: Any = getattr(self._connection, "_transport", None)
        if hasattr(transport, "_MAX_RECV_BYTES"):
            transport._MAX_RECV_BYTES = RECEIVED_AT_ONCE

    def read(self, data: bytes) -> None:
        """What has come; in place of pika's own method."""
        self._size += len(data)
        if self._waiting:
            self._waiting.append(data)
            if self._size < self._needed:
                return
            data = b"".join(self._waiting)
            self._waiting.clear()
        end = len(data)
        at = passed = 0  # all before `at` is dealt with, and all between is pika's
        needed = _HEAD
        while at + _HEAD <= end:
            kind, channel, size = _FRAME.unpack_from(data, at)
            behind = at + size + _AROUND
            if kind not in _KINDS:
                at = end
                break
            if behind > end:
                needed = behind
                break
            reader = self.readers.get(channel)
            if reader is None or kind != spec.FRAME_METHOD or not data.startswith(_DELIVER, at + _HEAD):
                at = behind
                continue
            event, last = _content(data, channel, behind, end)
            if event is None:
                if last:
                    needed = last
                    break
                at = behind
                continue
            if passed < at:
                self._pass(data[passed:at])
            number, before = _NUMBER.unpack_from(data, at + _HEAD + 5 + data[at + _HEAD + 4])
            reader(number, event, bool(before & 1))
            self._connection.bytes_received += last - at  # by which pika tells that the broker lives
            at = passed = last
        self._size = end - at
        self._needed = needed - at
        if at < end:
            self._waiting.append(data[at:])
        if passed < at:
            self._pass(data[passed:at])

    def _pass(self, frames: bytes) -> None:
        assert self._pika is not None
        self._pika(frames)


def _content(data: bytes, channel: int, at: int, end: int) -> tuple[bytes | None, int]:
    """The event whose header is at `at`, and where it ends. None: it needs so many bytes; or, with 0, it is pika's."""
    if at + _HEAD > end:
        return None, at + _HEAD
    kind, same, size = _FRAME.unpack_from(data, at)
    behind = at + size + _AROUND
    if kind != spec.FRAME_HEADER or same != channel:
        return None, 0  # a broker that puts something else in between
    if behind > end:
        return None, behind
    length, flags = _CONTENT.unpack_from(data, at + _HEAD + 4)
    properties = data[at + _HEAD + 12 : behind - 1] if flags & _HAS_HEADERS else b""
    pieces: list[bytes] = []
    while length > 0:
        if behind + _HEAD > end:
            return None, behind + length + _AROUND
        kind, same, size = _FRAME.unpack_from(data, behind)
        if kind != spec.FRAME_BODY or same != channel:
            return None, 0
        if behind + size + _AROUND > end:
            return None, behind + length + _AROUND
        pieces.append(data[behind + _HEAD : behind + _HEAD + size])
        behind += size + _AROUND
        length -= size
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if properties:
        read = pika.BasicProperties()
        read.decode(properties)
        body = structured(body, read.content_type, read.headers)
    return body, behind
