"""Parsers of what people and their programs give: names, payloads, conditions, signed functions, words of commands."""

from __future__ import annotations

import dataclasses
import enum
import json
import unicodedata
import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from durable.app.written_trigger import written_trigger
from durable.cli import terminal
from durable.cli.commands import _tags
from durable.cli.exits import CommandError
from durable.cli.listing import time_argument
from durable.cli.loading import split_target
from durable.cli.run import json_argument
from durable.model import names
from durable.model.errors import PayloadError
from durable.model.history import Raw
from durable.model.limits import Limits
from durable.model.moments import to_timedelta
from durable.model.versions import highest
from durable.payload import values
from durable.payload.signature import Signature
from durable.payload.signed_callables import KeyRing, load_callable, sign_callable
from durable.runtime.wire import outcome_id, partition_queue, work_queue
from durable.triggers.conditions import Expression, Occasion, check_expression
from durable.triggers.event import Occurrence, from_sdk
from durable.triggers.pattern import EventPattern

from .harness import Parser, Wrong
from .samples import NOW, cloudevent

_KEYS: Final = KeyRing(["ab" * 32])
_SIGNED: Final = [sign_callable(sum, _KEYS, "shop", "condition").encode()]
_EVENT: Final = Occurrence("1", "/s", "t", "1.0", "book")
_BODY: Final = from_sdk(cloudevent())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# ---- names


def _name(data: bytes) -> str:
    """Law: what is accepted fits into every key and queue there is, and no two of them meet."""
    name = names.check_name(_text(data), "instance_id=")
    if len(name.encode()) > names.MAX_BYTES or {"Cc", "Cf", "Cs", "Co"} & set(map(unicodedata.category, name)):
        raise Wrong("accepted, and outside the rules")
    queue = partition_queue(name, name, 3)
    if len(queue) > 255 or len(work_queue(name, name)) > 255 or work_queue(name, "a") == work_queue(f"{name}.a", ""):
        raise Wrong(f"accepted, and its queue is {queue!r}")
    names.check_name(names.child_id(name, "e", 1, 1), "a child's id")
    outcome_id(name, "e", 1, 1)
    return name


# ---- payloads


class _Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass
class _Item:
    name: str
    price: Decimal
    size: _Size = _Size.SMALL
    seen: datetime | None = None
    parts: list[_Item] = dataclasses.field(default_factory=list)
    took: timedelta | None = None
    key: uuid.UUID | None = None
    raw: bytes = b""
    marks: frozenset[int] = frozenset()
    more: dict[str, float] = dataclasses.field(default_factory=dict)


def _typed(data: bytes) -> _Item:
    """A naive datetime is read, and can't be passed on."""
    item: _Item = values.decode(Raw(data), _Item, "the input")
    _write(item)
    return item


def _plain(data: bytes) -> Any:
    """Law: what was read is written, unless a limit or a rule of payloads says why not."""
    value = values.decode(Raw(data), Any, "the input")
    written = values.encode(value, "the input", Limits())
    values.same(Raw(data), written, Any)
    if values.decode(written, Any, "") != value:
        raise Wrong("accepted, and written as something else")
    return value


def _write(value: Any) -> bytes:
    return bytes(values.encode(value, "it", Limits()))


def _two(first: int, second: str = "x", *more: float) -> None: ...


def _arguments(data: bytes) -> tuple[Any, ...]:
    return _SIGNATURE.decode_input(Raw(data), "the input")


_SIGNATURE: Final = Signature.of(_two, 0)
_ITEM: Final = _Item(
    "ü", Decimal("1.50"), _Size.LARGE, NOW, [_Item("a", Decimal(2))], timedelta(1, 2), uuid.UUID(int=7), b"\x00\xff"
)


# ---- triggers


def _pattern(data: bytes) -> EventPattern:
    pattern = EventPattern(*_text(data).split("\n", 2))
    pattern.matches(_EVENT)
    return pattern


def _condition(data: bytes) -> bool:
    """A JMESPath expression, compiled and asked. What it raises of an event becomes a dead letter."""
    text = check_expression(_text(data))
    occasion = Occasion(_EVENT, _BODY, NOW, {"seen": [1, 2]}, lambda condition: False)
    try:
        return Expression(text).holds({}, occasion)
    except (MemoryError, SystemError):
        raise
    except Exception:
        return False


def _trigger(data: bytes) -> Any:
    given = json_argument(_text(data).lstrip("@-"), "--trigger")
    return written_trigger(given)


# ---- signed functions


def _signed(data: bytes) -> Any:
    """Law: only what was signed is loaded, byte for byte."""
    loaded = load_callable(_text(data), _KEYS, "shop", "condition")
    if data not in _SIGNED:
        raise Wrong("a forged function was loaded")
    return loaded


def _keys(data: bytes) -> KeyRing:
    try:
        return KeyRing.parse(_text(data))
    except ValueError as error:
        if "abababab" in str(error):
            raise Wrong("refused with the key") from error
        raise


# ---- the command line


def _json_argument(data: bytes) -> Any:
    return json_argument(_text(data).lstrip("@-"), "--input")


def _words(data: bytes) -> str:
    """Law: whatever is shown of it can't move the cursor, break a line or ring a bell, and is no wider than asked."""
    text = _text(data)
    shown = [terminal.safe(text), terminal.cut(terminal.safe(text), 20), *terminal.folded(terminal.safe(text), 20)]
    shown += terminal.wrapped(terminal.safe(text), 20)
    shown.append(terminal.preview({text: [text]}))
    if not all(one.isprintable() for one in shown):
        raise Wrong(f"not printable: {shown!a}")
    json.loads(terminal.json_text({"a": text}))
    return text


def _numbers(data: bytes) -> Any:
    text = _text(data)
    split_target(text.replace("\0", ""))
    highest(text.split(","))
    try:
        number = float(text)
    except ValueError:
        number = float(len(text))
    terminal.duration(to_timedelta(number, "timeout="))
    at = time_argument(text, "--at")
    if at is not None:
        terminal.moment(at)
        terminal.shortly(at, NOW)
    return at


_TRIGGER: Final = json.dumps(
    {
        "id": "third",
        "on": [{"type": "com.shop.*", "subject": "order-42"}],
        "condition": {"kind": "any", "conditions": [{"kind": "join", "n": 3}, {"kind": "expression", "text": "a.b"}]},
        "action": {"kind": "start_orchestration", "name": "ship", "input": {"a": 1}, "tags": {"a": "b"}},
        "context": {"a": 1},
        "transient": True,
    }
).encode()
_CALLS: Final = json.dumps(
    {
        "id": "calls",
        "on": {"source": "/s"},
        "action": {
            "kind": "call_activity",
            "name": "charge",
            "retry": {"max_attempts": 3, "first_interval": 1, "backoff_coefficient": 2},
        },
    }
).encode()
_PUBLISHES: Final = json.dumps(
    {"id": "p", "on": {}, "action": {"kind": "publish", "event": json.loads(_BODY), "delay": 3.5, "to": "queue"}}
).encode()

PARSERS: Final = {
    "name": Parser([b"order-42", "Ü 😀:x".encode(), b"a" * 200], _name, (ValueError,), str.encode),
    "foreign-id": Parser(
        [b"a/b#c?", "é".encode()], lambda data: names.check_foreign_id(_text(data), "id="), (ValueError,)
    ),
    "payload": Parser(
        [b'{"a":[1,2.5,"x",null,true,{"b":{}}]}', b"[[1],[2]]", b'"x"', b"12"], _plain, (PayloadError,), _write
    ),
    "payload-typed": Parser([_write(_ITEM)], _typed, (PayloadError,), _write),
    "arguments": Parser([b'[1,"x",2.5]', b"1", b"[1]"], _arguments, (PayloadError,)),
    "pattern": Parser([b"com.shop.*\nbook\n/shop", b"*\n*\n*", b"durable.*"], _pattern, (ValueError,)),
    "condition": Parser(
        [
            b"data.price > `10` && contains(subject, 'b')",
            b"sort_by(context.seen, &@)[-1]",
            b"{a: data.*, b: [type, id][?@]}",
        ],
        _condition,
        (ValueError,),
    ),
    "trigger": Parser([_TRIGGER, _CALLS, _PUBLISHES], _trigger, (ValueError, CommandError)),
    "signed-function": Parser(_SIGNED, _signed, (PayloadError,)),
    "signing-keys": Parser([b"ab" * 32 + b"," + b"cd" * 40], _keys, (ValueError,)),
    "json-argument": Parser([b'{"a":[1,2.5,"x",null]}', b'"x"'], _json_argument, (CommandError,)),
    "words": Parser([b"plain", "Ü 😀 \x1b[31m\u202e x".encode(), b"a b c " * 9], _words, ()),
    "times": Parser(
        [b"2026-11-24T08:30:00Z", b"2026-11-24", b"12.5", b"1.2.3,1.10,x", b"a.py:f"],
        _numbers,
        (ValueError, CommandError),
    ),
    "tags": Parser([b"a=b\nteam=shop"], lambda data: _tags(_text(data).split("\n")), (CommandError,)),
}
