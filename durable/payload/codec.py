"""Payloads under a codec (encryption, compression): how they are stored, and what a reader without it can tell.

Laws.
1. Stored, a payload under a codec is `{"$durable.codec":"BASE64"}`, of what `codec.encode` made of its JSON: valid
   JSON still, and told at a glance. These bytes occur for no other reason: `values.encode` refuses them.
2. Only what is marked is decoded; what is not is plain. So a codec can be introduced while instances live.
3. What can't be decoded stays marked, with the reason, and goes on marked. Nobody's code gets it as a value.
4. Names, ids, tags, versions, times, the type of a failure and its base classes stay readable. Inputs, results, event
   data, custom statuses, outputs, reasons, and the message, traceback, causes and properties of failures do not.
   So does the reason for being BLOCKED, which quotes inputs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from durable.model.errors import StoreError
from durable.model.failure import FailureDetails, type_name
from durable.model.history import UNDECODABLE, Event, Raw
from durable.model.limits import Limits
from durable.model.status import Summary

from . import claims
from .claims import claim_of

RESERVED: Final = b'{"$durable.'  # how objects begin that stand for a payload which is encoded, or elsewhere
_NAME: Final = "$durable.codec"
MARK: Final = b'{"$durable.codec":'
_TEXT_MARK: Final = "$durable.codec:"
SEALED_AT_LEAST: Final = len(MARK) + 4  # bytes, and more
_EXPANDS_AT_MOST: Final = 4  # fourfold; a codec that does worse is no concern of a limit
_REMEDY: Final = "give connect(codec=...), or DURABLE_CODEC, the codec and key it was written with"
SEALED_MESSAGE: Final = f"(encoded by a codec: {_REMEDY})"


class Codec(Protocol):
    """What `connect(codec=)` takes: `decode(encode(data)) == data` for any bytes. Called from several threads."""

    def encode(self, data: bytes, /) -> bytes:
        """The bytes to store and send for the JSON of a payload."""
        ...

    def decode(self, data: bytes, /) -> bytes:
        """The JSON again. What it raises for other bytes makes the payload unreadable, not the process unwell."""
        ...


class _Sealed(msgspec.Struct, omit_defaults=True):
    """`why`: never stored; the reason that this process could not decode it."""

    token: str = msgspec.field(name=_NAME)
    why: str = ""


_sealed: Final = msgspec.json.Decoder(_Sealed)
_any_json: Final = msgspec.json.Decoder(Raw)
_texts: Final = msgspec.json.Decoder(str)
_failures: Final = msgspec.json.Decoder(FailureDetails)
_objects: Final = msgspec.json.Decoder(dict[str, Raw])
_rows: Final = msgspec.json.Decoder(tuple[int, list[dict[str, Raw]]])
_write: Final = msgspec.json.Encoder().encode


def checked_codec(codec: Codec) -> Codec:
    """`codec`, tried once. Raises TypeError for what has no such methods, ValueError for one that does not work."""
    for name in ("encode", "decode"):
        if not callable(getattr(codec, name, None)):
            raise TypeError(f"codec= takes an object with encode(bytes) and decode(bytes), not {type(codec).__name__}")
    try:
        back = codec.decode(codec.encode(b"null"))
    except Exception as error:
        raise ValueError(f"codec=: trying it raised {type_name(type(error))}; is its key right?") from error
    if back != b"null":
        raise ValueError("codec=: its decode does not give back the bytes that its encode got")
    return codec


def is_sealed(raw: Raw) -> bool:
    """Whether this is a payload that nobody could read so far: it is under a codec, or elsewhere (`claims`)."""
    if len(raw) <= SEALED_AT_LEAST or bytes(memoryview(raw)[: len(RESERVED)]) != RESERVED:
        return False  # nearly every payload, and each is asked several times
    return is_coded(raw) or claim_of(raw) is not None


def is_coded(raw: Raw) -> bool:
    """Whether this is what a codec made of a payload."""
    return len(raw) > SEALED_AT_LEAST and bytes(memoryview(raw)[: len(MARK)]) == MARK


def is_sealed_failure(failure: FailureDetails) -> bool:
    return _NAME in failure.properties


def why_sealed(raw: Raw) -> str:
    """What is wrong with a sealed payload, and what to do, in words that follow its name."""
    claim = claim_of(raw)
    if claim is not None:
        return claims.why_not_here(claim)
    why = _sealed.decode(raw).why
    if why:
        return f"can't be decoded with the codec of this process ({why}); {_REMEDY}"
    return f"was encoded by a codec that this process does not have; {_REMEDY}"


def instead(raw: Raw) -> str:
    """What people are shown in place of a sealed payload."""
    claim = claim_of(raw)
    return SEALED_MESSAGE if claim is None else claims.shown(claim)


def shown(reason: str) -> str:
    """A reason for being BLOCKED as text for people."""
    return SEALED_MESSAGE if reason.startswith(_TEXT_MARK) else reason


class StoredLimits(Limits):
    """Limits under a codec: what counts is the JSON or what is stored of it, whichever is larger."""

    def __init__(self, limits: Limits, codec: Codec) -> None:
        super().__init__(*(getattr(limits, name) for name in limits.__dataclass_fields__))
        object.__setattr__(self, "_way", Sealing(codec))

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process they are plain limits: a codec may hold what can't travel."""
        return Limits, tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def stored_bytes(self, data: bytes) -> int:
        if len(data) * _EXPANDS_AT_MOST <= self.payload_bytes:
            return len(data)
        way: Sealing = self.__dict__["_way"]
        return max(len(data), len(way.payload(Raw(data))))


class Way(Protocol):
    """One of the two ways through a codec."""

    def payload(self, raw: Raw) -> Raw: ...

    def failure(self, failure: FailureDetails) -> FailureDetails: ...

    def text(self, text: str) -> str: ...


class Sealing:
    """From memory to the store. Raises StoreError where the codec does not do its work."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def payload(self, raw: Raw) -> Raw:
        if claim_of(raw) is not None:
            return raw
        if not is_coded(raw):
            return Raw(_write(_Sealed(self._token(bytes(raw)))))
        sealed = _sealed.decode(raw)
        return Raw(_write(_Sealed(sealed.token))) if sealed.why else raw

    def failure(self, failure: FailureDetails) -> FailureDetails:
        if is_sealed_failure(failure):
            return failure
        kept = {_NAME: self._token(_write(failure))}
        return FailureDetails(failure.type, SEALED_MESSAGE, properties=kept, hierarchy=failure.hierarchy)

    def text(self, text: str) -> str:
        return text if not text or text.startswith(_TEXT_MARK) else _TEXT_MARK + self._token(_write(text))

    def _token(self, data: bytes) -> str:
        try:
            return base64.b64encode(self._codec.encode(data)).decode()
        except Exception as error:  # whatever a codec raises, and what b64encode says of what is no bytes
            raise StoreError(
                f"the codec could not encode a payload (it raised {type_name(type(error))}), so nothing was stored; "
                "mend it, or whatever gives it its key"
            ) from error


class Opening:
    """From the store to memory. Never raises: what can't be decoded stays sealed."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def payload(self, raw: Raw) -> Raw:
        if not is_coded(raw):
            return raw
        token = ""
        try:
            token = _sealed.decode(raw).token
            data = self._data(token)
            data.decode()
            return _any_json.decode(data)
        except Exception as error:  # the codec's, or a wrong key gave what is no JSON
            return Raw(_write(_Sealed(token, _raised(error))))

    def failure(self, failure: FailureDetails) -> FailureDetails:
        token = failure.properties.get(_NAME)
        if not isinstance(token, str):
            return failure
        try:
            return _failures.decode(self._data(token))
        except Exception:  # it stays sealed, and says so
            return failure

    def text(self, text: str) -> str:
        if not text.startswith(_TEXT_MARK):
            return text
        try:
            return _texts.decode(self._data(text[len(_TEXT_MARK) :]))
        except Exception:  # it stays sealed; `shown` says so
            return text

    def _data(self, token: str) -> bytes:
        return self._codec.decode(base64.b64decode(token, validate=True))


def _raised(error: Exception) -> str:
    if isinstance(error, msgspec.MsgspecError | UnicodeDecodeError):
        return "it gave what is no JSON"
    return f"its decode raised {type_name(type(error))}"


# ---- through whole documents: which of their fields are payloads is said by the structs that are stored

_PAYLOADS: Final = frozenset(
    field.name for struct in (Event, Summary) for field in msgspec.structs.fields(struct) if field.type is Raw
)
_IN_SUMMARY: Final = tuple(field.name for field in msgspec.structs.fields(Summary) if field.type is Raw)
_FAILURE: Final = "failure"
_INNER: Final = ("event", "data")  # of a message between instances, of a CloudEvent


def row(stored: bytes, way: Way) -> bytes:
    """The events of one turn. What is none of this version's rows is left as it is."""
    return _or_same(stored, lambda: _row(stored, way))


def document(stored: bytes, way: Way) -> bytes:
    """One event, one message, one CloudEvent. What is no JSON object (a timer's body) is left as it is."""
    return _or_same(stored, lambda: _document(stored, way)) if stored[:1] == b"{" else stored


def summary(stored: Summary, way: Way) -> Summary:
    changes: dict[str, object] = {}
    for name in _IN_SUMMARY:
        raw: Raw = getattr(stored, name)
        if raw:
            changes[name] = way.payload(raw)
    if stored.failure is not None:
        changes[_FAILURE] = way.failure(stored.failure)
    if stored.blocked_reason:
        changes["blocked_reason"] = way.text(stored.blocked_reason)
    return msgspec.structs.replace(stored, **changes) if changes else stored


def _or_same(stored: bytes, change: Callable[[], bytes]) -> bytes:
    try:
        return change()
    except UNDECODABLE:  # whoever reads it says what is wrong with it
        return stored


def _row(stored: bytes, way: Way) -> bytes:
    version, events = _rows.decode(stored)
    return _write((version, [_fields(event, way) for event in events]))


def _document(stored: bytes | Raw, way: Way) -> bytes:
    return _write(_fields(_objects.decode(stored), way))


def _fields(fields: dict[str, Raw], way: Way) -> dict[str, Raw]:
    for name, value in fields.items():
        if name in _PAYLOADS:
            fields[name] = way.payload(value)
        elif name == _FAILURE and value != Raw(b"null"):
            fields[name] = Raw(_write(way.failure(_failures.decode(value))))
        elif name in _INNER and bytes(value)[:1] == b"{":
            fields[name] = Raw(_document(value, way))
    return fields
