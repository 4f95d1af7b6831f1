"""A connection of pika's that goes on when it meets a message whose properties can't be read.

Anybody who may write to a queue can send such (a time past all years, tables in tables without end). pika raises then,
and that ends the connection; the message comes again with the next one, and in a queue without a delivery limit for
ever. Here it has no properties. Whether its body is of any use is for whoever reads it to say.
"""

from __future__ import annotations

import struct
from typing import Any

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
from pika import frame, spec

_FRAME = struct.Struct(">BHL")  # type, channel, size; the size is without this and without the end
_CONTENT = struct.Struct(">HHQ")  # class, weight, size of the body


_Select: Any = pika.SelectConnection


class Connection(_Select):  # type: ignore[misc]  # its base is Any to mypy: pika has no types
    def _read_frame(self) -> tuple[int, Any]:
        buffer: bytes = self._frame_buffer
        try:
            decoded: tuple[int, Any] = frame.decode_frame(buffer)
            return decoded
        except Exception:  # whatever pika's decoders meet
            kind, channel, size = _FRAME.unpack_from(buffer)
            if kind != spec.FRAME_HEADER or size < _CONTENT.size:
                raise
            _, _, body_size = _CONTENT.unpack_from(buffer, _FRAME.size)
            end = _FRAME.size + size + spec.FRAME_END_SIZE
            return end, frame.Header(channel, body_size, pika.BasicProperties())
