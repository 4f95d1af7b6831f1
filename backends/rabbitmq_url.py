"""`amqp://user:password@host:port/vhost`: what is in it, checked before anything connects.

    amqp://...?queue=orders[&exchange=NAME[&routing_key=KEY]]    somebody's queue, as a source of events

Laws.
1. A password leaves this file only inside a `Target`, whose repr and str don't show it.
2. A URL that is wrong is never quoted in the message: a special character that nobody encoded can put a piece of the
   password into any part of it.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from durable.model.errors import TransportError

PORTS: Final = {"amqp": 5672, "amqps": 5671}
FORM: Final = "amqp://user:password@host:port/vhost"
SOURCE_FORM: Final = "amqp://user:password@host:port/vhost?queue=orders"
FILES: Final = frozenset({"cacertfile", "certfile", "keyfile"})
SHORT: Final = 255  # bytes of an AMQP short string: names of queues, exchanges and virtual hosts


class Secret:
    """A string that shows itself only when asked."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"


class Target(msgspec.Struct, frozen=True):
    """A broker and one of its virtual hosts. `tls`: None for amqp://, else how amqps:// checks certificates."""

    host: str
    port: int
    vhost: str
    user: str
    password: Secret
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'amqps' if self.tls else 'amqp'}://{host}:{self.port} (virtual host {self.vhost!a})"


class Place(NamedTuple):
    """Where events are received from, and to which exchange they are published with which key ("": the default one)."""

    queue: str
    exchange: str
    key: str


def parse_url(url: str) -> Target:
    """Raises TransportError with what is wrong and the remedy; never with the URL or a part that may be secret."""
    return _parse(url, {})


def parse_source_url(url: str) -> tuple[Target, Place]:
    """The same of a source of events. Raises TransportError."""
    found = {"queue": "", "exchange": "", "routing_key": ""}
    target = _parse(url, found)
    queue, exchange = found["queue"], found["exchange"]
    if not queue:
        raise TransportError(f"the events URL names no queue; write {SOURCE_FORM}")
    if found["routing_key"] and not exchange:
        raise TransportError("routing_key= in the events URL is that of an exchange; give exchange= too")
    place = Place(queue, exchange, found["routing_key"] or queue)
    if max(len(name.encode()) for name in place) > SHORT:
        raise TransportError(f"queue=, exchange= and routing_key= in the events URL have at most {SHORT} bytes")
    return target, place


def _parse(url: str, found: dict[str, str]) -> Target:
    """found: names of further parameters, whose values are put there."""
    parts = _split(url)
    if parts is None:
        raise TransportError(f"the events URL can't be read; write {FORM}")
    if parts.scheme not in PORTS:
        raise TransportError(f"the events URL does not begin with amqp:// or amqps://; write {FORM}")
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        raise TransportError("the events URL has an @ or # in a wrong place; percent-encode / ? # @ in the password")
    if not parts.hostname:
        raise TransportError(f"the events URL names no host; write {FORM}")
    user, password = _credentials(parts)
    return Target(parts.hostname, _port(parts), _vhost(parts), user, password, _tls(parts, found))


def _split(url: str) -> SplitResult | None:
    """Not in an `except`: what Python says of a wrong URL quotes it, and would stay with our error as its context."""
    with suppress(ValueError):  # a broken IPv6 address, or what is no Unicode
        url.encode()
        return urlsplit(url)
    return None


def _port(parts: SplitResult) -> int:
    with suppress(ValueError):
        return parts.port or PORTS[parts.scheme]
    raise TransportError("the port of the events URL is not a number from 1 to 65535")


def _vhost(parts: SplitResult) -> str:
    """`/` and nothing both mean the default virtual host, as in every RabbitMQ client that people use."""
    given = parts.path[1:]
    vhost = unquote(given) or "/"
    if "/" in given:
        raise TransportError("the path of the events URL is one virtual host; write a / in its name as %2F")
    if len(vhost.encode()) > SHORT:
        raise TransportError(f"the virtual host of the events URL is longer than {SHORT} bytes")
    return vhost


def _credentials(parts: SplitResult) -> tuple[str, Secret]:
    if parts.username is None:
        return "guest", Secret("guest")  # RabbitMQ's own, which it accepts from loopback addresses only
    if parts.password is None:
        raise TransportError(f"the events URL has a user name but no password; write {FORM}")
    return unquote(parts.username), Secret(unquote(parts.password))


def _tls(parts: SplitResult, found: dict[str, str]) -> ssl.SSLContext | None:
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = given.keys() - FILES - found.keys()
    if unknown:
        known = ", ".join(sorted({*FILES, *found}))
        raise TransportError(f"the events URL has a parameter that is not known; there are: {known} (for amqps://)")
    found.update((name, given.pop(name)) for name in [*given] if name in found)
    if parts.scheme == "amqp":
        if given:
            raise TransportError(f"{', '.join(sorted(given))} in the events URL needs amqps://")
        return None
    try:
        context = ssl.create_default_context(cafile=given.get("cacertfile"))
        if "certfile" in given:
            context.load_cert_chain(given["certfile"], given.get("keyfile"))
    except (OSError, ValueError) as error:  # also ssl.SSLError, and a name that no file can have
        raise TransportError(f"the certificates that the events URL names can't be loaded: {error}") from None
    return context
