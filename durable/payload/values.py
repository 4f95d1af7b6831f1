"""Values to canonical JSON and back by type hint, and whether two payloads mean the same.

Laws.
1. What is accepted comes back: `decode(encode(x), hint)` equals `x`, and encoding that again gives the same bytes.
   Models of pydantic come back as far as their own JSON does, registered types as far as their functions do.
2. One value has one encoding, in every process. Dict keys are sorted by their text, so the order of a dict is not
   kept; sets become lists, sorted by their elements' own `<`, which must be a total order if the class defines it,
   else by their JSON; fields stand as declared (a model's by name).
   Nothing is normalized: -0.0 keeps its sign, a Decimal its digits and exponent ("1.50", "1E+3"), a datetime its offset
   (UTC is "Z"), 1 and 1.0 and True stay apart. Floats are the shortest text that reads back the same. So values that
   are only `==` to each other (0.0 and -0.0, one moment at two offsets) may differ in their encodings.
3. Nothing is lost without a word: NaN, infinities, naive datetimes, ints beyond 64 bits and colliding keys are
   refused, and whatever goes wrong with a value is a `PayloadError`.
4. The usual payload is written by C code and looked at by C code; only what looks suspicious is walked in Python.
   Suspicion may err on the safe side, never on the other.

Types that msgspec does not know are `custom_types`; what a codec makes of this JSON is `codec`.
A `msgspec.Raw` inside a value is taken as the JSON it says it is. Of objects, their fields travel; attributes that
the class does not declare don't.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from functools import lru_cache
from typing import Any, Final

import msgspec
import msgspec.inspect

from durable.model.errors import PayloadError
from durable.model.failure import type_name
from durable.model.history import Raw
from durable.model.limits import Limits, is_deeper

from .codec import RESERVED
from .custom_types import CustomError, from_json_able
from .plain import LEAVES, field_names, json_encode, plain, plain_encode, set_fields

NULL: Final = Raw(b"null")
_UNLIMITED: Final = Limits(payload_bytes=2**62, payload_depth=2**62)

_binary_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
# How MessagePack writes a float whose exponent is that of NaN and infinity. Other bytes may look so too; no matter.
_NOT_FINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
_SAFE: Final = frozenset({str, bool})  # what the fast encoder writes or refuses rightly
_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_UTC: Final = re.compile(r"00:00:00(?:\.0+)?Z\"")
_NO_UNION: Final = "Type unions "
# What is no JSON by itself, and how it is written there.
_WRITTEN: Final = (
    ("duration", 'a duration is text such as "PT1H30M", or "PT20S"'),
    ("datetime", 'a datetime is text such as "2030-01-31T08:00:00Z"'),
)


def encode(value: object, where: str, limits: Limits) -> Raw:
    """`value` as canonical JSON: dataclasses, attrs, structs, enums, dates, UUID, Decimal, bytes, sets, plain data.

    where: what the value is, for the error message ("input of activity 'charge'"). limits: `payload_bytes`, encoded;
    `payload_depth`, nested arrays and objects. Raises `PayloadError`, and nothing else, for what can't come back.
    """
    if value is None:
        return NULL
    data = _quickly(value, limits.payload_depth)
    if data is None:
        data = _carefully(value, where, limits)
    if RESERVED in data:
        raise PayloadError(f"{where}: $ holds an object whose first key begins with $durable., as the engine's do")
    size = limits.stored_bytes(data)
    if size > limits.payload_bytes:
        what = "of JSON" if size == len(data) else "as its codec writes it"
        raise PayloadError(
            f"{where}: $ is {size:,} bytes {what}, above the limit of {limits.payload_bytes:,}; "
            "store it elsewhere and pass a reference, or raise Limits(payload_bytes=...)"
        )
    return Raw(data)


def decode(raw: Raw, hint: Any, where: str) -> Any:
    """The value of `raw` as `hint` says; with `Any`, or no hint (`inspect.Parameter.empty`), plain JSON values.

    An empty `raw` is null. Nothing is converted loosely ("1" is no int). Unknown fields are ignored.
    Raises `PayloadError` for JSON that does not fit, naming path and expectation, and for a hint it can't decode.
    """
    decoder, has_defaults = _decoder(hint, where)
    try:
        value = decoder.decode(raw or NULL)
        if has_defaults:
            _set_defaults(value)
        return value
    except msgspec.ValidationError as error:
        problem = str(error) if "`$" in str(error) else f"{error} - at `$`"
        problem += next((f" ({how})" for kind, how in _WRITTEN if kind in problem), "")
        # Its cause is what the declared class raised, if it did.
        cause = error.__cause__
        cause = cause.__cause__ if isinstance(cause, CustomError) else cause
        raise PayloadError(f"{where}: {problem}; it is declared as {_hint_text(hint)}") from cause
    except RecursionError:
        raise PayloadError(f"{where}: $ is nested too deep to be read") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PayloadError(f"{where}: $ is not JSON ({error})") from None
    except Exception as error:  # the code of the declared class, such as __post_init__
        name = type_name(type(error))
        raise PayloadError(f"{where}: $ can't be made a {_hint_text(hint)}, which raised {name}") from error


def refuse_ambiguous(hint: Any, where: str) -> None:
    """Raises TypeError for a union whose members JSON can't tell apart, also inside of a class. Other hints pass.

    What can't be looked at yet (a class that is defined further down) passes too; `decode` refuses it.
    """
    try:
        _decoder(hint, where)
    except PayloadError as error:
        problem = str(error.__cause__)
        if problem.startswith(_NO_UNION):
            raise TypeError(
                f"{where}: the types in {_hint_text(hint)} can't be told apart in JSON ({problem}); use msgspec "
                "structs with `tag=True`, or one class that has a field for each of them"
            ) from None


def same(recorded: Raw, now: Raw, hint: Any) -> bool:
    """Whether two payloads mean the same to a receiver that declares `hint`; never raises.

    Key order, white space and fields that the receiver ignores or fills in by default make no difference.
    """
    if recorded == now:
        return True
    try:
        return canonical(decode(recorded, hint, "")) == canonical(decode(now, hint, ""))
    except PayloadError:  # one of them is from before the hint changed
        return _same_json(recorded, now)


def canonical(value: object) -> Raw:
    """`encode` without limits, for comparisons. Raises `PayloadError`."""
    return encode(value, "", _UNLIMITED)


def _same_json(recorded: Raw, now: Raw) -> bool:
    try:
        return canonical(decode(recorded, Any, "")) == canonical(decode(now, Any, ""))
    except PayloadError:
        return False


def _quickly(value: object, depth: int) -> bytes | None:
    """What the fast encoder wrote; None where it refused, or may not have written what was meant."""
    kind = type(value)
    try:
        data = json_encode(value)
        if kind in _SAFE:
            return data
        doubtful = kind is Raw or _suspicious(value, data, depth) or _may_hold_attrs(value, data)
        return None if doubtful else data
    except Exception:  # whatever it was, the walk finds where
        return None


def _suspicious(value: object, data: bytes, depth: int) -> bool:
    """Whether the JSON that was written may not be what was meant. May be wrong only when it says yes."""
    # As latin-1, a byte is a character: `in` is six times faster on str than on bytes.
    shape = data.translate(_ZEROS).decode("latin-1")
    return (
        ("null" in shape and _NOT_FINITE.search(_binary_encode(value)) is not None)  # NaN is written as null
        or "0000000000000000000" in shape  # an int of 19 digits may be beyond 64 bits
        or "[[" in shape  # a set of frozensets or tuples may be in any order
        or "NaN" in shape
        or "Infinity" in shape  # Decimals
        or ("00:00:00" in shape and shape.count("00:00:00") != len(_UTC.findall(shape)))  # no offset, or an odd one
        or is_deeper(data, depth)
    )


def _may_hold_attrs(value: object, data: bytes) -> bool:
    """Whether an attrs object may be inside, whose private fields the fast encoder would leave out."""
    if "attr" not in sys.modules or b"{" not in data:
        return False
    left: list[Any] = [value]
    while left:
        item = left.pop()
        kind: Any = type(item)
        if kind in LEAVES:
            continue
        if kind is dict:
            left.extend(item.values())
        elif kind in (list, tuple, set, frozenset):
            left.extend(item)
        elif hasattr(kind, "__attrs_attrs__") or not field_names(kind):
            return True
        else:
            left.extend(field for _, field in set_fields(item))
    return False


def _carefully(value: object, where: str, limits: Limits) -> bytes:
    try:
        return plain_encode(plain(value, where, limits.payload_depth))
    except PayloadError:
        raise
    except RecursionError:
        raise PayloadError(f"{where}: $ is nested deeper than this process can follow; flatten it") from None
    except Exception as error:  # methods of hostile objects
        name = type(error).__name__
        raise PayloadError(f"{where}: $ can't be encoded, it raised {name}; pass plain data") from error


# With each decoder, whether what it makes may leave defaults to its class: see `_set_defaults`.
_Decoder = tuple[msgspec.json.Decoder[Any], bool]
_decoders: dict[Any, _Decoder] = {inspect.Parameter.empty: (msgspec.json.Decoder(Any), False)}


def _decoder(hint: Any, where: str) -> _Decoder:
    try:
        found = _decoders.get(hint)
    except TypeError:  # an unhashable hint, such as Annotated[int, []]: made anew each time
        return _new_decoder(hint, where)
    if found is None:
        found = _decoders[hint] = _new_decoder(hint, where)
    return found


def _new_decoder(hint: Any, where: str) -> _Decoder:
    try:
        return msgspec.json.Decoder(hint, dec_hook=_unknown_type), _holds_defaults(hint)
    except Exception as error:  # TypeError, and NameError for the fields of a class
        raise PayloadError(
            f"{where}: the type hint {_hint_text(hint)} can't be decoded from JSON ({error}); "
            "use a dataclass, a standard type or Any"
        ) from error


def _holds_defaults(hint: Any) -> bool:
    """Whether a dataclass that leaves defaults to its class is among the types that `hint` is made of."""
    seen: set[int] = set()
    try:
        left: list[Any] = [msgspec.inspect.type_info(hint)]
    except Exception:  # it knows fewer hints than the decoder; looking for what is not there does no harm
        return True
    while left:
        info = left.pop()
        if isinstance(info, msgspec.inspect.DataclassType) and _class_defaults(info.cls):
            return True
        if isinstance(info, tuple | list):
            left.extend(info)
        elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field) and id(info) not in seen:
            seen.add(id(info))
            left.extend(getattr(info, name) for name in info.__struct_fields__)
    return False


@lru_cache(maxsize=4096)
def _class_defaults(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The defaults of a dataclass that its instances find on the class, as those without slots do."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    held = ((field.name, field.default) for field in fields if field.default is not dataclasses.MISSING)
    return tuple((name, default) for name, default in held if getattr(kind, name, dataclasses.MISSING) is default)


def _set_defaults(value: object) -> None:
    """Set on each dataclass instance the defaults of the fields that its JSON left out.

    msgspec leaves them to the attributes of the class; its encoder, which reads instances only, would then write
    fewer fields than the object shows, and equal values would have two encodings.
    """
    left: list[Any] = [value]
    while left:
        item = left.pop()
        kind: Any = type(item)
        if kind in LEAVES:
            continue
        if isinstance(item, dict):
            left.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            left.extend(item)
        elif field_names(kind):
            for name, default in _class_defaults(kind):
                item.__dict__.setdefault(name, default)
            left.extend(field for _, field in set_fields(item))


def _unknown_type(kind: Any, value: Any) -> Any:
    made = from_json_able(kind, value)
    if made is NotImplemented:
        what = f"`{_hint_text(kind)}` can't be decoded from JSON"
        raise TypeError(f"{what}; declare a dataclass, a standard type or Any, or use durable.register_type")
    return made


def _hint_text(hint: Any) -> str:
    try:
        return type_name(hint) if isinstance(hint, type) and not hasattr(hint, "__args__") else repr(hint)
    except Exception:
        return "of its parameter"
