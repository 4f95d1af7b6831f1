"""What somebody could write into a queue or a stream: the cases of A, and of B and D where they come that way.

`SET_ASIDE`: whoever receives it makes it a dead letter, once. `IGNORED`: it is taken and changes nothing.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed

JSON: Final = "application/cloudevents+json"
SET_ASIDE, IGNORED = "set aside", "ignored"


class Hostile(NamedTuple):
    """One message for each of two queues: that of invocations and that of outcomes. properties: of AMQP."""

    case: str
    body: bytes
    properties: dict[str, Any] = {}
    fate: str = SET_ASIDE


class Marks:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> Any:
        return open, ("unpickled", "w")


class Table(pika.BasicProperties):  # type: ignore[misc]  # pika 1.4 has no py.typed
    """Properties whose headers are these bytes of an AMQP table, which pika itself would not write."""

    def __init__(self, table: bytes, **properties: Any) -> None:
        super().__init__(**properties)
        self.table = table

    def encode(self) -> list[bytes]:
        name = self.message_id.encode()
        flags = pika.BasicProperties.FLAG_HEADERS | pika.BasicProperties.FLAG_MESSAGE_ID
        return [flags.to_bytes(2, "big"), len(self.table).to_bytes(4, "big"), self.table, bytes([len(name)]), name]


def field(name: bytes, kind: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + kind + value


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = field(b"a", b"F", len(table).to_bytes(4, "big") + table)
    return table


OUTCOME: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/x",
    "type": "durable.task-completed",
    "subject": "asked",
    "datacontenttype": "application/json",
    "data": {"instance_id": "asked", "execution_id": "x", "task_id": 1, "attempt": 1, "name": "by.hand", "input": 1},
}


INVOCATION: Final = (b"durable.task-completed", b"durable.task-scheduled")


def event(data: dict[str, Any] | None = None, without: str = "", **changes: Any) -> bytes:
    """What an activity worker could say of `asked`, but for these changes; no execution is called x."""
    made = OUTCOME | changes | {"data": OUTCOME["data"] | {"result": "forged"} | (data or {})}
    return json.dumps({name: value for name, value in made.items() if name != without}).encode()


def with_result(text: bytes) -> bytes:
    return event().replace(b'"forged"', text)


def messages() -> Iterator[Hostile]:
    yield Hostile("case 1 empty body", b"")
    yield Hostile("case 2 null", b"null")
    yield Hostile("case 3 empty list", b"[]")
    for body in (b"5", b'"text"', b"true", b"[1,2]"):
        yield Hostile(f"case 4 {body.decode()} is no object", body)
    yield Hostile("case 5 not UTF-8", b"\xff\xfe")
    yield Hostile("case 5 not UTF-8 in an id", event().replace(b'"asked"', b'"\xff"'))
    yield Hostile("case 5 not UTF-8 in a result", with_result(b'"\xff"'))
    yield Hostile("case 6 byte order mark", b"\xef\xbb\xbf" + event())
    whole = event()
    for end in range(1, len(whole)):
        yield Hostile(f"case 7 cut at byte {end}", whole[:end])
    yield Hostile("case 8 17 MB", b"x" * 17_000_000)
    yield Hostile("case 8 513 KB", b"[" * 513_000)
    for name in ("id", "source", "type", "specversion"):
        yield Hostile(f"case 9 without {name}", event(without=name))
    for version in ("0.3", "1.0.0", 1.0):
        yield Hostile(f"case 10 specversion {version!r}", event(specversion=version))
    yield Hostile("case 11 unknown type", event(type="durable.nothing-known"))
    yield Hostile("case 12 dataschema 999", event(dataschema="https://durable/v999"), {}, IGNORED)
    evil = pickle.dumps(Marks())
    ours = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/x", "ce_type": "durable.task-completed"}
    python = "application/x-python-serialize"
    yield Hostile("case 13 a pickle in binary mode", evil, {"content_type": python, "headers": ours})
    yield Hostile("case 13 a pickle as data", event(datacontenttype=python, data_base64=evil.hex(), without="data"))
    yield Hostile("case 14 a pickle that says JSON", evil, {"content_type": JSON})
    yield Hostile("case 14 a binary pickle that says JSON", evil, {"content_type": "application/json", "headers": ours})
    yield Hostile("case 14 binary JSON not UTF-8", b'"\xff"', {"content_type": "application/json", "headers": ours})
    yield Hostile("case 14 JSON that says pickle", event(), {"content_type": python}, IGNORED)
    packed = gzip.compress(b"0" * 10_000_000)
    yield Hostile("case 15 gzip", packed, {"content_encoding": "gzip", "content_type": JSON})
    for _ in range(10):
        packed = gzip.compress(packed)
    yield Hostile("case 15 gzip ten times", packed, {"content_encoding": "gzip", "content_type": JSON})
    yield Hostile("case 15 unknown encoding", event(), {"content_encoding": "x", "content_type": JSON}, IGNORED)
    yield Hostile("case 17 a task that was never scheduled", event({"task_id": 77}), {}, IGNORED)
    yield Hostile("case 17 a task of a huge number", event({"task_id": 10**30}), {}, IGNORED)
    yield Hostile("case 17 a task below 0", event({"task_id": -1, "attempt": -1}), {}, IGNORED)
    yield Hostile("case 18 an instance that is finished", event({"instance_id": "finished"}), {}, IGNORED)
    yield Hostile("case 18 an instance that was purged", event({"instance_id": "purged"}), {}, IGNORED)
    yield Hostile("case 18 another workspace", event(source="/workspaces/other/orchestrations/asks"), {}, IGNORED)
    yield Hostile("case 19 at the end of time", event(time="9999-12-31T23:59:59-14:00"))
    yield Hostile("case 19 before the beginning", event(time="0001-01-01T00:00:00+14:00"))
    yield Hostile("case 19 year 9999", event(time="9999-12-31T23:59:59Z"), {}, IGNORED)
    for time_ in ("0000-01-01T00:00:00Z", -1, "2016-12-31T23:59:60Z", "2030-01-01T00:00:00", "yesterday"):
        yield Hostile(f"case 19 time {time_}", event(time=time_))
    forged = {"x-death": [{"count": 99, "queue": "q"}], "x-delivery-count": 99, "ce-type": "durable.task-failed"}
    letter = {"reply_to": "x" * 200, "correlation_id": "\r\nx", "expiration": "99999", "user_id": "guest"}
    yield Hostile("case 20 forged properties", event(), {"headers": forged, **letter}, IGNORED)
    yield Hostile("case 20 10,000 headers", event(), {"headers": {f"h{n}": True for n in range(10_000)}}, IGNORED)
    yield Hostile("case 20 a void header", event(), {"headers": {"ce-x": None}}, IGNORED)
    yield Hostile("case 20 an array", b"x", {"headers": ours | {"ce-time": [1, {"a": None}]}})
    yield Hostile("case 20 a table nested 1,000 deep", b"x", {"table": nested(1_000)})
    yield Hostile("case 20 a timestamp past all years", b"x", {"table": field(b"t", b"T", b"\xff" * 8)})
    yield Hostile("case 20 a decimal", b"x", {"table": field(b"d", b"D", b"\xff\x7f\xff\xff\xff")})
    yield Hostile("case 20 a name that is not UTF-8", b"x", {"table": field(b"\xff\xfe", b"S", b"\0\0\0\1x")})
    yield Hostile("case 20 a content type that is not UTF-8", b"x", {"content_type": b"\xff", "headers": ours})
    yield Hostile("case 20 a content type that is a number", b"x", {"headers": ours | {"ce-datacontenttype": 5}})
    yield Hostile("case 21 the subject of somebody else", event(subject="other"), {}, IGNORED)
    yield Hostile("case 26 an instance id with a line break", event({"instance_id": "a\r\nX-Injected: 1"}))
    yield Hostile("case 27 an instance id of 10 MB", event({"instance_id": "x" * 10_000_000}))
    yield Hostile("case 28 an instance id of half a character", event({"instance_id": "\ud800"}))
    yield Hostile("case 27 an execution id of 513 bytes", event({"execution_id": "😀" * 129}))
    for depth in (200, 1_000, 100_000):
        yield Hostile(f"case 74 a result {depth} deep", with_result(b"[" * depth + b"]" * depth))
    yield Hostile("case 74 brackets that nobody closes", b'{"id":' + b"[" * 100_000)
    yield Hostile("case 75 the same key twice", event()[:-1] + b',"type":"x"}')


HOSTILE: Final = list(messages())
