"""The careful way to JSON: a value as a tree of plain values, every node of it looked at.

`values.encode` comes here for whatever the fast encoder refuses or might write wrongly.

Laws.
1. What is accepted is a tree of lists, dicts with text keys, structs, and leaves that msgspec writes exactly.
   What is not is a `PayloadError` that names the path of the value, its type and a remedy, never the value itself:
   values may be secret.
2. A container is read by the methods of `dict`, `list`, `tuple`, `set` themselves, so an overridden `__iter__`
   can neither raise, nor lie, nor go on forever.
3. Sets become lists, sorted by their elements' JSON and then by the elements' own `<`, if they have one. That of
   frozensets is no total order: sorting by it alone would let the order in memory, and so hashes, show through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NoReturn, cast
from uuid import UUID

import msgspec

from durable.model.errors import PayloadError
from durable.model.failure import type_name

from .custom_types import CustomError, to_json_able

# A path is a chain from the leaf to the root, because it is written out for errors only.
Path = tuple[Any, Any] | None

_ANY_OF_SET: Final = object()
_SAYS_WHY: Final = "__no_payload__"  # the method of a class whose values know themselves why they are none
_KEY_CHARS: Final = 60
_MINUTE: Final = timedelta(minutes=1)
_NOTHING: Final = timedelta(0)

# The same JSON both ways: `plain` has put everything in the order that `json_encode` would.
json_encode: Final = msgspec.json.Encoder(order="deterministic").encode
plain_encode: Final = msgspec.json.Encoder().encode


def plain(value: object, where: str, depth: int) -> Any:
    """`value` as a tree that `plain_encode` writes exactly; lists and objects nest at most `depth` deep.

    Raises `PayloadError`, its message beginning with `where`. What hostile objects raise passes; `encode` catches it.
    """
    return _Walk(where, depth).visit(value, None, depth)


def _int(value: int) -> str | None:
    if -(2**63) <= value < 2**64:
        return None
    return "is outside 64 bits, and not every store would give it back; pass it as text or Decimal"


def _float(value: float) -> str | None:
    return None if isfinite(value) else "is NaN or infinite, which JSON has no number for; pass None or text instead"


def _decimal(value: Decimal) -> str | None:
    return None if value.is_finite() else "is NaN or infinite; pass None or text instead"


def _text(value: str) -> str | None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which UTF-8 can't carry; pass bytes, or encode(errors='replace')"
    return None


def _moment(value: datetime) -> str | None:
    offset = value.utcoffset()
    if offset is None:
        return "has no time zone; use datetime.now(timezone.utc), or .replace(tzinfo=...)"
    if offset % _MINUTE != _NOTHING:
        return "has an offset that is not of whole minutes, which JSON can't carry; use .astimezone(timezone.utc)"
    return None


def _time_of_day(value: time) -> str | None:
    offset = value.utcoffset()
    if offset is None:
        return None if value.tzinfo is None else "has a time zone without a fixed offset; pass a datetime"
    return None if offset % _MINUTE == _NOTHING else "has an offset that is not of whole minutes; pass a datetime"


def _fine(value: object) -> None:
    return None


# What keeps a leaf from coming back as it was; None where nothing does.
LEAVES: Final[dict[type, Callable[[Any], str | None]]] = {
    type(None): _fine,
    bool: _fine,
    int: _int,
    float: _float,
    str: _text,
    Decimal: _decimal,
    datetime: _moment,
    date: _fine,
    time: _time_of_day,
    timedelta: _fine,
    UUID: _fine,
    bytes: _fine,
    bytearray: _fine,
    memoryview: _fine,
}
_KEYS: Final = (int, float, Decimal, datetime, date, time, timedelta, UUID, bytes)

# The same for lists of one type, at C speed: matrices come here often.
_ALL_FINE: Final[dict[type, Callable[[Sequence[Any]], bool]]] = {
    float: lambda items: all(map(isfinite, items)),
    int: lambda items: min(items) >= -(2**63) and max(items) < 2**64,
    str: lambda items: all(map(str.isascii, items)),
}


class _Walk:
    def __init__(self, where: str, depth: int) -> None:
        self.where = where
        self.depth = depth
        self.open: set[int] = set()  # the containers around the current node, to tell circles from depth

    def visit(self, value: Any, path: Path, left: int) -> Any:
        kind: Any = type(value)
        check = LEAVES.get(kind)
        if check is not None:
            problem = check(value)
            if problem:
                self.refuse(value, path, problem)
            return value
        if issubclass(kind, Enum):
            return self.visit(value._value_, path, left)
        branch = next((branch for base, branch in _BRANCHES if issubclass(kind, base)), None)
        if branch is None and field_names(kind) is not None:
            branch = _Walk.fields
        if branch is None:
            return self.other(value, path, left)
        if left <= 0:
            self.refuse(value, path, f"is nested deeper than {self.depth} arrays and objects; {_RAISE_DEPTH}")
        if id(value) in self.open:
            self.refuse(value, path, "contains itself; JSON has no references, pass an id instead")
        self.open.add(id(value))
        result = branch(self, value, path, left - 1)
        self.open.discard(id(value))
        return result

    def array(self, value: Any, path: Path, left: int) -> list[Any]:
        items = list(list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value))
        kinds = set(map(type, items))
        if len(kinds) == 1:
            all_fine = _ALL_FINE.get(kinds.pop())
            if all_fine is not None and all_fine(items):
                return items
        return [self.visit(item, (path, index), left) for index, item in enumerate(items)]

    def mapping(self, value: Any, path: Path, left: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in dict.items(value):
            text = key if type(key) is str else self.key(key, path)
            problem = _text(text)
            if problem:
                self.refuse(key, (path, text), f"as a key {problem}")
            if text in result:
                self.refuse(value, path, f"has two keys that are both {_step(text)} in JSON; give one of them another")
            result[text] = self.visit(item, (path, text), left)
        return dict(sorted(result.items()))

    def key(self, key: Any, path: Path) -> str:
        if isinstance(key, str) and not isinstance(key, Enum):
            return str.__str__(key)
        while isinstance(key, Enum):
            key = key._value_
        if isinstance(key, str):
            return key
        base = next((base for base in _KEYS if isinstance(key, base)), None)
        if base is None or isinstance(key, bool):
            self.refuse(
                key, path, "can't be a key of a JSON object; use text, a number, a date or an UUID", "has a key,"
            )
        problem = LEAVES[base](key)
        if problem:
            self.refuse(key, path, problem, "has a key,")
        return str(msgspec.json.decode(b'"' + plain_encode(key).strip(b'"') + b'"'))

    def set(self, value: Any, path: Path, left: int) -> list[Any]:
        base: Any = set if isinstance(value, set) else frozenset
        elements = list(base.__iter__(value))
        pairs = [(element, self.visit(element, (path, _ANY_OF_SET), left)) for element in elements]
        pairs.sort(key=lambda pair: plain_encode(pair[1]))
        with suppress(Exception):  # without an order of their own, or of mixed types: that of their JSON stays
            pairs = sorted(pairs, key=lambda pair: cast(Any, pair[0]))
        return [plain_element for _, plain_element in pairs]

    def struct(self, value: Any, path: Path, left: int) -> Any:
        # A copy keeps what the class says of tags, names and defaults; setting by force runs none of its code.
        result = _copy_struct(value)
        for name, item in set_fields(value):
            if item is not msgspec.UNSET:
                msgspec.structs.force_setattr(result, name, self.visit(item, (path, name), left))
        return result

    def fields(self, value: Any, path: Path, left: int) -> dict[str, Any]:
        return {
            name: self.visit(item, (path, name), left) for name, item in set_fields(value) if item is not msgspec.UNSET
        }

    def other(self, value: Any, path: Path, left: int) -> Any:
        """Registered types and models by what they say; subclasses of leaves, `Raw`, and what a later msgspec may know
        are taken if it writes JSON, by what it wrote."""
        why = getattr(type(value), _SAYS_WHY, None)
        if why is not None:
            raise PayloadError(f"{self.where}: {written_path(path)}, {value!r}, {why(value)}")
        try:
            made = to_json_able(value)
        except CustomError as error:
            kind = type_name(type(value))
            raise PayloadError(f"{self.where}: {written_path(path)} of type {kind} {error}") from error.__cause__
        if made is not NotImplemented:
            return self.visit(made, path, left)
        base = next((base for base in type(value).__mro__ if base in LEAVES), None)
        problem = LEAVES[base](value) if base else None
        if problem:
            self.refuse(value, path, problem)
        try:
            written = msgspec.json.decode(json_encode(value))
        except Exception:  # it names the type, as we do, and runs no code of the value's
            self.refuse(value, path, _remedy_for(base))
        return self.visit(written, path, left)

    def refuse(self, value: object, path: Path, problem: str, what: str = "") -> NoReturn:
        what = f" {what}" if what else ""
        kind = type_name(type(value))
        raise PayloadError(f"{self.where}: {written_path(path)}{what} of type {kind} {problem}") from None


_copy_struct: Final[Callable[[Any], Any]] = cast(Any, msgspec.Struct).__copy__
_RAISE_DEPTH: Final = "flatten it, or raise Limits(payload_depth=...)"
_BRANCHES: Final[tuple[tuple[type, Callable[[_Walk, Any, Path, int], Any]], ...]] = (
    (dict, _Walk.mapping),
    (list, _Walk.array),
    (tuple, _Walk.array),
    (set, _Walk.set),
    (frozenset, _Walk.set),
    (msgspec.Struct, _Walk.struct),
)


@lru_cache(maxsize=4096)
def field_names(kind: Any) -> tuple[str, ...] | None:
    """The fields of a dataclass, attrs class or struct in their order, None for other classes."""
    if issubclass(kind, msgspec.Struct):
        return tuple(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else tuple(attribute.name for attribute in attributes)


def set_fields(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of an object that are set on itself (in its `__dict__`, a slot, a property), as msgspec reads them."""
    kind: Any = type(value)
    try:
        state = object.__getattribute__(value, "__dict__")
    except AttributeError:
        state = {}
    for name in field_names(kind) or ():
        if name in state:
            yield name, state[name]
            continue
        descriptor: Any = getattr(kind, name, None)
        if hasattr(type(descriptor), "__set__"):
            with suppress(AttributeError):
                yield name, descriptor.__get__(value, kind)


def _remedy_for(base: type | None) -> str:
    if base is not None:
        return f"is a subclass that JSON can't tell from its base; pass a plain {base.__name__}"
    return (
        "can't travel as JSON; pass plain data (a dict, a list, a dataclass, text, numbers), or durable.register_type"
    )


def written_path(path: Path) -> str:
    """A path as text: `$.items[3].price`, `$["two words"]`, `$.tags[*]` for any element of a set."""
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(_step(step))
    return "$" + "".join(reversed(steps))


def _step(step: Any) -> str:
    if step is _ANY_OF_SET:
        return "[*]"
    if isinstance(step, int):
        return f"[{step}]"
    text = step if len(step) <= _KEY_CHARS else step[:_KEY_CHARS] + "..."
    return f".{text}" if text.isascii() and text.isidentifier() else "[" + ascii(text).replace("'", '"') + "]"
