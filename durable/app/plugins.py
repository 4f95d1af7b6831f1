"""From a URL to a store, a transport or a place for blobs.

The scheme names an entry point (`durable.stores`, `durable.transports`, `durable.blobs`).

Of a store that is not made by opening it, `durable.creators` names what makes it, for `durable doctor --create`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from ..model.names import check_name
from ..payload.codec import Codec, checked_codec
from ..payload.signed_callables import KeyRing
from ..ports import Backend, Blobs, EventSource, Transport

STORES: Final = "durable.stores"
CREATORS: Final = "durable.creators"
TRANSPORTS: Final = "durable.transports"
BLOBS: Final = "durable.blobs"
EVENT_SOURCES: Final = "durable.event_sources"
FROM_ENVIRONMENT: Final = "env:"
DEFAULT_URL: Final = "sqlite:///.durable/durable.db"
DEFAULT_WORKSPACE: Final = "default"
NO_BROKER: Final = "no broker"
_VARIABLE: Final = re.compile(r"[\w.-]{1,200}")
_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*")
_CARRY_EVENTS: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster")  # schemes of stores that are brokers too
_PORTS: Final = {"amqp": 5672, "amqps": 5671, **dict.fromkeys(_CARRY_EVENTS, 6379)}


def url_or_default(url: object) -> str:
    """The store's URL that a user gave, else DURABLE_URL (empty is unset), else the embedded default."""
    return _given(url, "the store's URL") if url is not None else os.environ.get("DURABLE_URL") or DEFAULT_URL


def events_url_or_default(url: object) -> str:
    """The broker's URL that a user gave, else DURABLE_EVENTS_URL; empty is no broker."""
    return _given(url, "events=") if url is not None else os.environ.get("DURABLE_EVENTS_URL", "")


def blobs_url_or_default(url: object) -> str | None:
    """Where large payloads go, as a user gave it, else DURABLE_BLOBS_URL (empty is unset), else None: to the store."""
    return _given(url, "blobs=") if url is not None else os.environ.get("DURABLE_BLOBS_URL") or None


def own_events_url(store_url: str) -> str | None:
    """The store's URL where the store itself carries events between workers, for those who have no broker."""
    return store_url if store_url.partition("://")[0] in _CARRY_EVENTS else None


def events_address(url: str | None, *, is_broker: bool) -> str:
    """Over what events travel, to be shown and compared: no secret is in it, and what is left out stands there.

    url: one that has been opened; None where nothing carries events. is_broker: it is not the store itself.
    """
    if url is None:
        return NO_BROKER
    if not is_broker:
        return "the store"
    parts = urlsplit(url)
    first = urlsplit("//" + min(parts.netloc.rpartition("@")[2].split(",")))  # of the nodes of a cluster, in any order
    host = first.hostname or "localhost"
    port = first.port or _PORTS.get(parts.scheme)
    path = unquote(parts.path).rstrip("/")
    path = "" if path == "/0" and parts.scheme in _CARRY_EVENTS else path
    prefix = dict(parse_qsl(parts.query)).get("prefix")
    path += f"?prefix={prefix}" if prefix else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{path}"


def workspace_or_default(name: object) -> str:
    """The workspace that a user gave, else DURABLE_WORKSPACE (empty is unset), else "default"."""
    if name is None:
        name = os.environ.get("DURABLE_WORKSPACE") or DEFAULT_WORKSPACE
    return check_name(name, "workspace=")


def codec_or_default(codec: Codec | None) -> Codec | None:
    """The codec that a user gave, else the object that DURABLE_CODEC names as `module:object` (empty is unset).

    Raises TypeError and ValueError for what is no codec, or can't be imported.
    """
    named = os.environ.get("DURABLE_CODEC")
    if codec is not None:
        return checked_codec(codec)
    if not named:
        return None
    module, _, name = named.partition(":")
    try:
        found: Codec = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"DURABLE_CODEC={named!r}: {error}; give module:object, e.g. my_app.keys:codec") from error
    return checked_codec(found)


def key_ring_or_default(given: object) -> KeyRing | None:
    """The keys that sign functions: a KeyRing or texts that a user gave, else DURABLE_PICKLE_KEYS, else None: none do.

    An empty variable is unset; several keys in it are separated by commas, the one that signs first. Raises TypeError
    and ValueError for what are no keys, without showing them.
    """
    if isinstance(given, KeyRing):
        return given
    if isinstance(given, list | tuple):
        return KeyRing(given)
    if given is not None:
        raise TypeError(f"signing_keys= takes a list of keys, each as text, not {type(given).__name__}")
    text = os.environ.get("DURABLE_PICKLE_KEYS")
    try:
        return KeyRing.parse(text) if text else None
    except ValueError as error:
        raise ValueError(f"DURABLE_PICKLE_KEYS: {error}") from None  # its parts are keys


def _given(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {value!r}")
    return value


def open_backend(url: str, workspace: str) -> Backend:
    """Open the store behind `url`. Raises ValueError for a URL nobody serves, StoreError for one that can't be used.

    Errors name the scheme only: the rest of a URL may hold a password.
    """
    opener: Callable[[str, str], Backend] = _opener(url, STORES, "store", f"The embedded default is {DEFAULT_URL}")
    return opener(url, workspace)


def open_transport(url: str, workspace: str) -> Transport:
    """Open the broker behind `url`. Raises ValueError for a URL nobody serves, TransportError for an unusable one."""
    opener: Callable[[str, str], Transport] = _opener(
        url, TRANSPORTS, "broker", "e.g. amqp://guest:guest@localhost:5672/; without a broker, leave it out"
    )
    return opener(url, workspace)


def open_event_source(url: str, workspace: str) -> EventSource:
    """Open an event source; `env:NAME` stands for the URL in that variable of this process. Raises ValueError for a URL
    that nobody serves or a variable that is not set, TransportError for one that can't be used."""
    if url.startswith(FROM_ENVIRONMENT):
        name = url.removeprefix(FROM_ENVIRONMENT)
        url = os.environ.get(name, "")
        if not url:
            raise ValueError(f"{name} is not set in this process: it is to hold the URL of an event source")
    opener: Callable[[str, str], EventSource] = _opener(
        url, EVENT_SOURCES, "event source", "e.g. redis://localhost:6379/0?stream=orders"
    )
    return opener(url, workspace)


def checked_source_url(url: object) -> str:
    """An event source's URL as it is stored, for everybody who sees the workspace. Raises ValueError for one with a
    password, TypeError for no text."""
    text = _given(url, "the event source's URL")
    if text.startswith(FROM_ENVIRONMENT):
        if not _VARIABLE.fullmatch(text, len(FROM_ENVIRONMENT)):
            raise ValueError("after env: stands the name of a variable, such as ORDERS_URL")
    elif not _scheme(text):
        raise ValueError("an event source's URL has the form scheme://..., or env:NAME for the one in a variable")
    elif ":" in text.partition("://")[2].rpartition("@")[0] or "password=" in text:
        raise ValueError(
            "an event source's URL is stored in the workspace, and this one holds a password: put it into a variable "
            "of each worker's environment, and give env:NAME"
        )
    return text


def open_blobs(url: str, workspace: str) -> Blobs:
    """Open the place for large payloads. Raises ValueError for a URL nobody serves, StoreError for an unusable one."""
    opener: Callable[[str, str], Blobs] = _opener(
        url, BLOBS, "place for blobs", "e.g. file:///srv/blobs; leave it out to keep everything in the store"
    )
    return opener(url, workspace)


def create_store(url: str) -> bool:
    """Make what the store behind `url` needs; False when it is there, or is made by opening it. Raises StoreError."""
    from importlib.metadata import entry_points

    scheme = _scheme(url)
    found = entry_points(group=CREATORS)
    if scheme not in found.names:
        return False
    creator: Callable[[str], bool] = found[scheme].load()
    return creator(url)


def _scheme(url: str) -> str:
    """'' where none can be told. What Python's parser says of a URL that it can't take apart would quote it."""
    before, there, _ = url.partition("://")
    return before.lower() if there and _SCHEME.fullmatch(before) else ""


def _opener(url: str, group: str, what: str, hint: str) -> Any:
    from importlib.metadata import entry_points  # a third of the import's time, and not needed before

    if any(character < " " or character == "\x7f" for character in url):  # urlsplit would leave some out
        raise ValueError(f"the {what}'s URL holds a line break or another control character; give it without")
    scheme = _scheme(url)
    found = entry_points(group=group)
    if not scheme or scheme not in found.names:
        known = ", ".join(f"{name}://" for name in sorted(found.names)) or "none (is the package installed?)"
        before = url.partition(":")[0]
        if scheme:
            problem = f"no installed {what} serves {scheme}:// URLs"
        elif ":" in url and before in found.names:
            problem = f"the // after {before}: is missing in the {what}'s URL"
        else:
            problem = f"the {what}'s URL has no scheme"
        raise ValueError(f"{problem}; known: {known}. {hint}")
    return found[scheme].load()
