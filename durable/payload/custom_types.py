"""Types that msgspec does not know: those that users register, and pydantic's models, which bring their own JSON.

Laws.
1. A registered type wins over everything but the types that travel by themselves, which can't be registered: C code
   writes them, and would not ask.
2. Nothing is imported here: a program that has a pydantic model has imported pydantic.
3. What users' functions raise is named with the type, never with the value; the path is added by who walks.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import msgspec.inspect

from durable.model.errors import DuplicateNameError
from durable.model.failure import type_name

T = TypeVar("T")

_WRITTEN_IN_C: Final = (UUID, list, dict, tuple, set, frozenset, Enum, msgspec.Struct)
_MASK: Final = frozenset("*")
_PROBLEMS_SHOWN: Final = 3


class Custom(NamedTuple):
    """How a registered type becomes JSON-able values and comes back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_registered: dict[type, Custom] = {}


class CustomError(ValueError):
    """What the code of a type raised, in words that follow its path; its cause is what was raised."""


def register_type(cls: type[T], *, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Let values of `cls` travel in inputs, results, events and custom statuses, also inside other values.

        durable.register_type(Money, encode=lambda m: [str(m.amount), m.currency], decode=lambda v: Money(*v))

    encode: gives JSON-able values (lists, dicts, text, numbers, or anything else that travels), the same for equal
    values. decode: gets plain JSON values where a hint says `cls`. Subclasses travel as `cls`. In a union it stands
    with None only. The same again is fine; other functions for the same class raise DuplicateNameError. Raises
    TypeError for what is no class, or a type that travels by itself (dataclasses, attrs, enums, structs, containers).
    Whatever the functions raise is a PayloadError that names the path of the value.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_type takes a class, not {cls!r}")
    for what, function in (("encode=", encode), ("decode=", decode)):
        if not callable(function):
            raise TypeError(f"register_type({cls.__name__}): {what} takes a function, not {function!r}")
    if _travels_by_itself(cls):
        raise TypeError(f"register_type({cls.__name__}): it travels by itself, field by field; nothing to register")
    made = Custom(encode, decode)
    known = _registered.setdefault(cls, made)
    if not all(map(_same_function, known, made)):
        raise DuplicateNameError(
            f"register_type({cls.__name__}): other functions are registered for it; register a type once"
        )


def to_json_able(value: Any) -> Any:
    """What stands for a value of a registered type or a pydantic model; `NotImplemented` for any other value.

    Raises CustomError.
    """
    kind: Any = type(value)
    custom = next((_registered[base] for base in kind.__mro__ if base in _registered), None) if _registered else None
    if custom is not None:
        try:
            made = custom.encode(value)
        except Exception as error:
            raise CustomError(f"can't be encoded: its encode raised {type_name(type(error))}") from error
        if type(made) is kind:
            raise CustomError("can't be encoded: its encode returned the same type; return JSON-able values")
        return made
    return _dumped(value) if _is_model(kind) else NotImplemented


def from_json_able(kind: Any, value: Any) -> Any:
    """The value of type `kind` for plain JSON values; `NotImplemented` for types that nobody registered.

    Raises CustomError.
    """
    custom = _registered.get(kind)
    if custom is not None:
        try:
            return custom.decode(value)
        except Exception as error:
            name = type_name(type(error))
            raise CustomError(f"`{type_name(kind)}` can't be decoded: its decode raised {name}") from error
    return _validated(kind, value) if isinstance(kind, type) and _is_model(kind) else NotImplemented


def _travels_by_itself(cls: type) -> bool:
    if cls is object or issubclass(cls, _WRITTEN_IN_C):
        return True
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__"):
        return True
    return not isinstance(msgspec.inspect.type_info(cls), msgspec.inspect.CustomType)


def _same_function(one: Any, other: Any) -> bool:
    """Also the same lines executed again, as a notebook's cell or a reloaded module are."""
    code = getattr(one, "__code__", None)
    return one == other or (code is not None and code == getattr(other, "__code__", None))


# ---- pydantic


def _is_model(kind: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    # An import that is under way has no BaseModel yet.
    model = getattr(pydantic, "BaseModel", None)
    return model is not None and issubclass(kind, model)


def _dumped(value: Any) -> Any:
    """A model as its own JSON, by alias, in one order in every process."""
    try:
        written = value.model_dump(mode="json", by_alias=True, round_trip=True, warnings="error")
        held = value.model_dump(mode="python", by_alias=True, round_trip=True, warnings=False)
    except Exception as error:  # serializers are users' code, and a set of models can't be dumped
        raise CustomError(f"can't be encoded: its model_dump raised {type_name(type(error))}") from _cause(error)
    return _settled(held, written)


def _settled(held: Any, written: Any) -> Any:
    """`written` with sets in order, and refusing what pydantic writes so that it can't come back.

    Both are dumps of one value: where a serializer made something else of it, they no longer look alike, and what was
    written stands.
    """
    if isinstance(held, float) and not isfinite(held):
        return written if isinstance(written, str) else held  # the walk refuses it, by its path
    if isinstance(held, Decimal) and not held.is_finite():
        return held
    if hasattr(type(held), "get_secret_value") and written and _MASK.issuperset(written):
        raise CustomError("holds a pydantic secret, which is masked in JSON; use plain text, and connect(codec=...)")
    if isinstance(written, dict) and isinstance(held, dict) and len(held) == len(written):
        pairs = zip(held.values(), written.items(), strict=True)
        return {name: _settled(inner, item) for inner, (name, item) in pairs}
    if isinstance(written, list) and isinstance(held, list | tuple | set | frozenset) and len(held) == len(written):
        items = [_settled(inner, item) for inner, item in zip(held, written, strict=True)]
        return sorted(items, key=_json) if isinstance(held, set | frozenset) else items
    return written


_json: Final = msgspec.json.Encoder(order="deterministic").encode


def _validated(kind: Any, value: Any) -> Any:
    try:
        return kind.model_validate_json(_json(value))
    except Exception as error:  # ValidationError, or what a validator raised
        raise CustomError(f"`{type_name(kind)}` {_problems(error)}") from _cause(error)


def _cause(error: Exception) -> Exception | None:
    """pydantic's own errors repeat the value, which may be secret."""
    return None if type(error).__module__.startswith("pydantic") else error


def _problems(error: Any) -> str:
    """What pydantic complains of, without the values, which may be secret."""
    try:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        lines = [f"{'.'.join(map(str, one['loc'])) or '$'}: {one['msg']}" for one in found[:_PROBLEMS_SHOWN]]
    except Exception:  # not pydantic's error
        return f"can't be decoded: it raised {type_name(type(error))}"
    more = f" (and {len(found) - len(lines)} more)" if len(found) > len(lines) else ""
    return f"does not fit: {'; '.join(lines)}{more}"
