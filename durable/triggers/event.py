"""A CloudEvent 1.0 as triggers see it: its bytes, and of its attributes those that decide something."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

import msgspec

from ..model.history import UNDECODABLE
from ..model.limits import is_deeper

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

_DEEPEST: Final = 128  # arrays and objects in each other; stored, an event stands within some more
_DIGEST: Final = 8  # bytes: among 100,000 remembered ids, one event in 10^14 would be taken for another


class NotAnEvent(ValueError):
    """Not a CloudEvent 1.0 in structured mode (JSON)."""


class Occurrence(msgspec.Struct, frozen=True, gc=False):
    """One event that came. Attributes that decide nothing are only in its bytes (`read_event`)."""

    id: str
    source: str
    type: str
    specversion: str
    subject: str = ""
    expirytime: datetime | None = None


_decode = msgspec.json.Decoder(Occurrence).decode


def read_event(body: bytes) -> Occurrence:
    """Raises NotAnEvent for what is no CloudEvent 1.0 in JSON."""
    try:
        event = _decode(body)
    except UNDECODABLE as error:
        raise NotAnEvent(f"not a CloudEvent in JSON: {error}") from error
    if event.specversion != "1.0" or not (event.id and event.source and event.type):
        raise NotAnEvent("a CloudEvent has specversion 1.0 and an id, a source and a type that are not empty")
    if event.expirytime is not None and event.expirytime.tzinfo is None:
        raise NotAnEvent(f"its expirytime {event.expirytime} has no time zone")
    return event


def new_event(body: bytes) -> Occurrence:
    """One that comes from outside. Raises NotAnEvent also for what could not be read again where it is stored."""
    event = read_event(body)
    if not body.isascii():
        try:
            body.decode()  # the decoder passes over what it does not need
        except UnicodeDecodeError as error:
            raise NotAnEvent(f"not a CloudEvent in JSON: {error}") from error
    if is_deeper(body, _DEEPEST):
        raise NotAnEvent(f"a CloudEvent nests at most {_DEEPEST} arrays and objects in each other")
    return event


def digest_of(event: Occurrence) -> bytes:
    """What is remembered of an event that has counted: CloudEvents are one event if source and id are the same."""
    return hashlib.blake2b(f"{event.source}\0{event.id}".encode(), digest_size=_DIGEST).digest()


def digests_in(packed: bytes) -> list[bytes]:
    """Digests that were joined."""
    return [packed[n : n + _DIGEST] for n in range(0, len(packed), _DIGEST)]


def to_sdk(body: bytes) -> CloudEvent:
    """The SDK's class, for users' functions. Raises NotAnEvent for attributes that it refuses."""
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    try:
        return cast(CloudEvent, JSONFormat().read(CloudEvent, body))
    except Exception as error:  # the SDK has errors of its own, and trips over attributes of strange types
        raise NotAnEvent(f"not a CloudEvent: {' '.join(str(error).split())}") from error


def from_sdk(event: CloudEvent) -> bytes:
    """Structured mode. Raises TypeError for another object, NotAnEvent for what can't travel as one."""
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    if not isinstance(event, CloudEvent):
        raise TypeError(f"give a durable.CloudEvent, not {type(event).__name__}")
    try:
        body = JSONFormat().write(event)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotAnEvent(f"the data of event {event.get_id()!r} can't be written as JSON: {error}") from error
    new_event(body)
    return body
