"""What a `redis://` URL says. Nothing of a URL is ever shown but host, port, database and the names of parameters.

    redis://[user[:password]@]host[:port][/db][?prefix=durable&partitions=16&allow_unsafe=1]
    redis+cluster://[user[:password]@]host[:port][,host[:port]...][?...]    some nodes; the others are learned from them
    rediss://..., rediss+cluster://...    the same over TLS; `ssl_ca_certs` and the like as redis-py understands them
    redis://...?stream=orders[&group=NAME]    somebody's stream, as a source of events (`parse_source_url`)

`repr` of a target has no password, and no error raised here has one of the URL parser's as its cause or context: they
quote parts of what they could not parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import SplitResult, unquote

from durable.model.errors import StoreError

from .url_parts import MAX_PARTITIONS, count, parameters, parsed, seconds

DEFAULT_PORT: Final = 6379
DEFAULT_PREFIX: Final = "durable"
DEFAULT_PARTITIONS: Final = 16

Address = tuple[str, int]
Reader = Callable[[str, str], Any]

_SHAPE: Final = "redis://user:password@host:6379/0 (rediss:// for TLS)"
_SOURCE_SHAPE: Final = "redis://user:password@host:6379/0?stream=orders"
_CLUSTER_SHAPE: Final = "redis+cluster://user:password@host:6379,host:6379 (rediss+cluster:// for TLS)"
_CLUSTER: Final = re.compile(r"(rediss?)\+cluster://([^/?#]*@)?([^/?#]*)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Target:
    """A Redis and how to use it. `partitions`: what the URL asks for, None to take the workspace as it is.

    cluster: it is one node of a Redis Cluster, or some of them with `others`. stream, group: of a source of events.
    """

    host: str
    port: int
    db: int = 0
    tls: bool = False
    username: str | None = field(default=None, repr=False)  # a password ends up here when its colon was forgotten
    password: str | None = field(default=None, repr=False)
    prefix: str = DEFAULT_PREFIX
    partitions: int | None = None
    allow_unsafe: bool = False
    cluster: bool = False
    others: tuple[Address, ...] = ()
    stream: str = ""
    group: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def where(self) -> str:
        """`Redis at host:port`, to begin a message."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"Redis {'Cluster ' if self.cluster else ''}at {host}:{self.port}"

    @property
    def address(self) -> Address:
        return self.host, self.port

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Of all nodes that the URL names."""
        return self.address, *self.others


def parse_url(url: str) -> Target:
    """The target of a URL. Raises StoreError for anything that is not understood."""
    cluster = _CLUSTER.fullmatch(url)
    return _parse_one(url, _OF_STORES) if cluster is None else _parse_cluster(*cluster.groups(default=""))


def parse_source_url(url: str) -> Target:
    """The same of a stream. Raises StoreError."""
    target = _parse_one(url, _OF_SOURCES)
    if not target.stream:
        raise StoreError(f"the Redis URL names no stream: write {_SOURCE_SHAPE}")
    return target


def _parse_cluster(scheme: str, user: str, hosts: str, rest: str) -> Target:
    first, *others = hosts.split(",")
    nodes = [parsed(f"{scheme}://{other}") for other in others]
    if not all(node and node.hostname for node in nodes):
        raise StoreError(f"the Redis URL can't be parsed: write {_CLUSTER_SHAPE}, user and password percent-encoded")
    target = _parse_one(f"{scheme}://{user}{first}{rest}", _OF_STORES)
    if target.db:
        raise StoreError(f"a Redis Cluster has no databases but 0; write {_CLUSTER_SHAPE}")
    named = tuple((node.hostname or "", node.port or DEFAULT_PORT) for node in nodes if node)
    return replace(target, cluster=True, others=named)


def _parse_one(url: str, known: Mapping[str, Reader]) -> Target:
    parts = _split(url)
    path = parts.path.strip("/")
    if path and not re.fullmatch("[0-9]{1,9}", path):
        raise StoreError(f"the path of a Redis URL is the number of a database: write {_SHAPE}")
    given = parts.query.split("&") if parts.query else []
    if not all("=" in part for part in given):
        raise StoreError("the parameters of the Redis URL are not name=value&name=value")
    values = parameters(parts.query, known, "Redis")
    options = {name: values.pop(name) for name in list(values) if name in _OF_CONNECTIONS}
    tls = parts.scheme == "rediss"
    if not tls and (only := sorted(name for name in options if name.startswith("ssl_"))):
        raise StoreError(f"parameter {only[0]} is for TLS: write rediss:// (or rediss+cluster://)")
    return Target(
        host=parts.hostname or "localhost",
        port=parts.port or DEFAULT_PORT,
        db=int(path or 0),
        tls=tls,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        options=options,
        **values,
    )


def _split(url: str) -> SplitResult:
    """The parts of the URL, host and port readable. A password that is not percent-encoded is the usual trouble."""
    parts = parsed(url)
    if parts is None:
        raise StoreError(f"the Redis URL can't be parsed: write {_SHAPE}, user and password percent-encoded")
    if parts.scheme not in ("redis", "rediss") or not url[len(parts.scheme) :].startswith("://"):
        raise StoreError(f"not the URL of a Redis store: write {_SHAPE}")
    if parts.fragment or "@" in parts.query or "@" in parts.path:
        raise StoreError("the Redis URL has a '#', '?' or '/' in its user or password; percent-encode it (%23 %3F %2F)")
    return parts


def _text(name: str, text: str) -> str:
    if not text:
        raise StoreError(f"parameter {name} in the Redis URL is empty")
    return text


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true", "no", "yes"):
        raise StoreError(f"parameter {name} in the Redis URL must be 1 or 0")
    return text.lower() in ("1", "true", "yes")


def _partitions(name: str, text: str) -> int:
    return count(text, MAX_PARTITIONS, name, "Redis")


def _seconds(name: str, text: str) -> float:
    return seconds(text, name, "Redis")


_OF_CONNECTIONS: Final[dict[str, Reader]] = {
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "ssl_ca_certs": _text,
    "ssl_ca_path": _text,
    "ssl_cert_reqs": _text,
    "ssl_certfile": _text,
    "ssl_check_hostname": _flag,
    "ssl_ciphers": _text,
    "ssl_keyfile": _text,
    "ssl_password": _text,
}
_OF_STORES: Final[dict[str, Reader]] = {
    "prefix": _text,
    "partitions": _partitions,
    "allow_unsafe": _flag,
    **_OF_CONNECTIONS,
}
_OF_SOURCES: Final[dict[str, Reader]] = {"stream": _text, "group": _text, **_OF_CONNECTIONS}
