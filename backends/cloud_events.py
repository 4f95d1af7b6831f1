"""What a transport has to know of CloudEvents: whom one is about, and how binary mode becomes structured mode.

Laws.
1. A structured event is passed on as it came, byte for byte.
2. A binary one becomes structured JSON: data that are JSON stay the same bytes; text is a string; all else is base64.
3. What is neither is passed on as it came. Whoever reads it parks it: a transport has no opinion about content.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

import msgspec

from durable.model.history import UNDECODABLE

STRUCTURED: Final = "application/cloudevents+json"
# Each binding of the specification has its own: RabbitMQ and HTTP, Kafka, AMQP 1.0 (twice).
_PREFIXES: Final = ("ce-", "ce_", "cloudevents_", "cloudevents:")
_NAME: Final = re.compile("[a-z0-9]+")
_JSON: Final = re.compile(r"(application|text)/([a-z0-9.\-]+\+)?json")


class _Subject(msgspec.Struct):
    subject: str = ""


_subject = msgspec.json.Decoder(_Subject)


def subjects(bodies: Iterable[bytes]) -> set[str]:
    """The subjects of structured events; one that has none, or is not JSON, adds nothing."""
    found = set()
    for body in bodies:
        try:
            found.add(_subject.decode(body).subject)
        except UNDECODABLE:  # also a subject that is no string
            continue
    found.discard("")
    return found


def structured(body: bytes, content_type: object, headers: Mapping[Any, Any] | None) -> bytes:
    """The event as structured JSON, if it is a CloudEvent in binary mode; else `body` itself.

    content_type, and the names of `headers`: what is no text there says nothing.
    """
    content_type = content_type if isinstance(content_type, str) else None
    if not headers or (content_type or "").lower().startswith("application/cloudevents"):
        return body
    attributes = _attributes(headers)
    if "specversion" not in attributes:
        return body
    if content_type:
        attributes["datacontenttype"] = content_type
    if body:
        kind = str(attributes.get("datacontenttype") or "application/json")
        attributes.update(_data(body, kind.lower()))
    return msgspec.json.encode(attributes)


def _attributes(headers: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for header, value in headers.items():
        if not isinstance(header, str):
            continue
        lower = header.lower()
        for prefix in _PREFIXES:
            if lower.startswith(prefix) and _NAME.fullmatch(lower, len(prefix)):
                found[lower[len(prefix) :]] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """An AMQP header's value as the JSON format of CloudEvents writes it."""
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)  # pika has a subclass of its own for AMQP's 64-bit integers
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=timezone.utc)  # an AMQP timestamp has no zone
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return str(value)


def _data(body: bytes, content_type: str) -> dict[str, Any]:
    if _JSON.match(content_type):
        try:
            msgspec.json.decode(body)
        except UNDECODABLE:
            return {"data_base64": base64.b64encode(body).decode()}
        return {"data": msgspec.Raw(body)}
    if content_type.startswith("text/"):
        try:
            return {"data": body.decode()}
        except UnicodeDecodeError:
            pass  # text that is not UTF-8 travels as bytes
    return {"data_base64": base64.b64encode(body).decode()}
