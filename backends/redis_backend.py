"""`redis://host:6379/0`, `redis+cluster://host:6379`: a workspace in Redis, for many workers on many machines.

As durable as Redis is: append-only file on, no eviction; both are checked, and refused when wrong. `appendfsync
everysec`, Redis's default, may lose the last second in a power cut; `always` does not, and is slower.

redis_url.py reads the URL, redis_connection.py and redis_cluster.py talk to Redis, redis_store.py and the scripts
beside it store, redis_signals.py tells who waits, redis_membership.py says who works; here the ports are put together
and what must be so before anything is stored is checked. Events travel over streams of the same Redis
(redis_streams.py) where there is no broker, and those of others come from a stream of theirs (redis_source.py). Needs
Redis 6.2 or newer, or a Valkey.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from durable.model.errors import StoreError, TransportError
from durable.ports import Backend, EventSource, Membership, Signals, Store, Transport

from .queue_names import names
from .redis_url import DEFAULT_PARTITIONS, Target, parse_source_url, parse_url
from .url_parts import quote_part

if TYPE_CHECKING:
    from .redis_connection import Connections
    from .redis_signals import RedisSignals

SCHEMA: Final = 1
EXTRA: Final = "pip install 'durable-orchestrations[redis]'"
_TYPES: Final = {b"instances": b"hash", b"rows": b"hash", b"listing": b"zset", b"deliveries": b"string"}

log = logging.getLogger("durable.redis")
_warned: set[str] = set()
_warning = threading.Lock()


class RedisBackend:
    """A `RedisStore`, signals and membership on the same Redis."""

    def __init__(self, connections: Connections, store: Store, signals: RedisSignals, membership: Membership) -> None:
        self._connections = connections
        self._signals = signals
        self.store: Store = store
        self.signals: Signals = signals
        self.membership: Membership = membership

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._signals.close()
        self._connections.close()


def open_redis(url: str, workspace: str) -> Backend:
    """Open or create a workspace. Raises StoreError with host, port and remedy, ValueError for an empty workspace."""
    target = parse_url(url)
    try:
        # Only here: who does not use Redis need not have its client.
        from .redis_cluster import Cluster
        from .redis_connection import Pool
        from .redis_membership import RedisMembership
        from .redis_signals import RedisSignals
        from .redis_store import RedisStore
    except ImportError as error:
        raise StoreError(f"a {target.where} needs a client that is not installed: {EXTRA}") from error
    place = f"{quote_part(target.prefix, 'prefix')}:{{{quote_part(workspace, 'workspace')}"
    connections = Cluster(target) if target.cluster else Pool(target)
    try:
        for server in connections.servers():
            _check_server(server)
        common = f"{place}}}:".encode()
        partitions = _open_workspace(connections, common + b"workspace", workspace)
        bases = [f"{place}:{number}}}:".encode() for number in range(partitions)]
        _check_types(connections, bases)
    except BaseException:
        connections.close()
        raise
    signals = RedisSignals(connections, bases)
    return RedisBackend(
        connections,
        RedisStore(connections, bases, signals.news),
        signals,
        RedisMembership(connections, common + b"members"),
    )


def open_streams(url: str, workspace: str) -> Transport:
    """CloudEvents over Redis Streams; the URL is read as that of the store. Needs Redis 6.2 or newer, or a Valkey.

    Once this has returned, lost connections are repaired in the background, for ever. Raises TransportError with host,
    port and remedy.
    """
    try:
        target = parse_url(url)
        names_of, place = names(workspace), quote_part(workspace, "workspace")
        try:
            from .redis_cluster import Cluster
            from .redis_connection import Pool
            from .redis_queues import Queues
            from .redis_streams import RedisStreams
        except ImportError as error:
            raise StoreError(f"a {target.where} needs a client that is not installed: {EXTRA}") from error
        # One reading waits for all queues of a worker: in a cluster they are together on one node.
        connections = Cluster(target, b"{%s}" % place.encode()) if target.cluster else Pool(target)
        queues = Queues(connections, quote_part(target.prefix, "prefix"), names_of, place)
        try:
            queues.check()
        except BaseException:
            queues.close()
            raise
    except StoreError as error:
        raise TransportError(str(error)) from error
    return RedisStreams(queues)


def open_source(url: str, workspace: str) -> EventSource:
    """A stream, `redis://host:port/db?stream=orders&group=NAME`; the group is `durable.<workspace>` unless it is named.

    How durable it is, and how long it grows, is its owner's. Once this has returned, lost connections are repaired in
    the background, for ever. Raises TransportError with host, port and remedy.
    """
    try:
        target = parse_source_url(url)
        try:
            from .redis_connection import Pool
            from .redis_source import RedisSource
        except ImportError as error:
            raise StoreError(f"a {target.where} needs a client that is not installed: {EXTRA}") from error
        pool = Pool(target)
        source = RedisSource(pool, target.stream, target.group or f"durable.{workspace}")
        try:
            source.make_group()
        except BaseException:
            pool.close()
            raise
    except StoreError as error:
        raise TransportError(str(error)) from error
    return source


def _check_server(connections: Connections) -> None:
    """It is a Redis, and what it has been given is still there after a restart and under pressure."""
    from redis.exceptions import ClusterError, ResponseError

    from .redis_connection import explain, pack

    target = connections.target
    names = ("appendonly", "maxmemory-policy", "appendfsync")
    commands = [pack("PING"), *(pack("CONFIG", "GET", name) for name in names), pack("INFO")]
    answers, trouble = connections.exchange(commands)
    if trouble is not None:
        raise explain(target, trouble) from trouble
    pong, *settings, info = answers
    if pong != b"PONG":
        if isinstance(pong, Exception):
            raise explain(target, pong) from pong
        raise StoreError(f"{target.where} does not answer as a Redis does; check host and port")
    if not target.cluster and isinstance(info, bytes) and b"cluster_enabled:1" in info:
        raise explain(target, ClusterError())
    found = {name: answer[1].decode() for name, answer in zip(names, settings, strict=True) if _is_setting(answer)}
    if len(found) < len(names) and not isinstance(info, ResponseError):
        # A managed Redis, or a user without the right to CONFIG: INFO has two of the three.
        lines = dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)
        if "aof_enabled" in lines:
            found.setdefault("appendonly", "yes" if lines["aof_enabled"] == "1" else "no")
        if "maxmemory_policy" in lines:
            found.setdefault("maxmemory-policy", lines["maxmemory_policy"])
        _warn_once(target, "does not let this user read its CONFIG: its settings are judged by INFO")
    _check_settings(target, found)


def _is_setting(answer: Any) -> bool:
    return isinstance(answer, list) and len(answer) == 2


def _check_settings(target: Target, found: dict[str, str]) -> None:
    for name, wanted in (("appendonly", "yes"), ("maxmemory-policy", "noeviction")):
        value = found.get(name)
        if value is None:
            _warn_once(target, f"does not tell its {name}: make sure that it is {wanted}")
        elif value != wanted and target.allow_unsafe:
            _warn_once(target, f"has {name} {value}: what it has confirmed may be lost (allow_unsafe=1)")
        elif value != wanted:
            raise StoreError(
                f"{target.where} has {name} {value} and would lose what it has confirmed; CONFIG SET {name} {wanted} "
                "(and in redis.conf), or allow_unsafe=1 in the URL to use it nevertheless"
            )
    if found.get("appendfsync") == "no":
        _warn_once(target, "has appendfsync no: a power cut may lose half a minute; everysec or always is better")


def _warn_once(target: Target, what: str) -> None:
    message = f"{target.where} {what}"
    with _warning:
        if message in _warned:
            return
        _warned.add(message)
    log.warning("%s", message)


def _open_workspace(connections: Connections, key: bytes, workspace: str) -> int:
    """How many partitions it has; creates it with as many as the URL says."""
    from .redis_connection import pack

    target = connections.target
    asked = target.partitions
    commands = [
        pack("HSETNX", key, "schema", str(SCHEMA)),
        pack("HSETNX", key, "partitions", str(asked or DEFAULT_PARTITIONS)),
        pack("HMGET", key, "schema", "partitions"),
    ]
    schema, partitions = (int(value) for value in connections.ask(commands)[2])
    if schema != SCHEMA:
        raise StoreError(
            f"{target.where}: workspace {workspace!a} was written by a newer version (schema {schema}, this one knows "
            f"{SCHEMA}); upgrade durable-orchestrations"
        )
    if asked is not None and asked != partitions:
        raise StoreError(
            f"{target.where}: workspace {workspace!a} was created with {partitions} partitions, which is for ever; the "
            f"URL says {asked}: leave partitions= out, or use another workspace"
        )
    return partitions


def _check_types(connections: Connections, bases: list[bytes]) -> None:
    """The keys are ours: a script that met one of another type half way could not take back what it had written."""
    from .redis_connection import pack

    wanted = [(base + name, kind) for base in bases for name, kind in _TYPES.items()]
    found = connections.ask([pack("TYPE", key) for key, _ in wanted])
    for (key, kind), answer in zip(wanted, found, strict=True):
        if answer not in (b"none", kind):
            raise StoreError(
                f"{connections.target.where}: key {key.decode()} is not of this package ({answer.decode()}, not "
                f"{kind.decode()}); remove it, or choose another prefix with ?prefix="
            )
