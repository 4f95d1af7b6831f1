"""Where the fleet works: servers, what can be done to them, and what they hold when all is done.

`rabbitmq`: histories on Redis, everything else through RabbitMQ. `streams`: Redis alone, every activity through its
streams. `everysec`: the same with the flushing that Redis has by default; such a Redis refuses to write while its disk
is full, where one with `always`, as in all other places, ends itself. `cluster`: three masters without replicas, for
what a master has confirmed is on its disk, and not yet on a replica. `dynamodb`: a test server that keeps everything
in memory, so that only workers can be killed. `sqlite`: one worker at a time has the file, the others stand by.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import redis

import durable
from durable.backends.dynamodb_backend import create_dynamodb
from tests.chaos import harms
from tests.chaos.faults import Harm
from tests.servers.dynamodb_server import CREDENTIALS, DynamoServer
from tests.servers.process import HOST
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer

WORKSPACE: Final = "chaos"


class Way(NamedTuple):
    """URLs of the store and the broker."""

    url: str
    events: str


class Place(NamedTuple):
    """way: for whoever looks on. theirs: for workers and the load; wires that can be cut lie in it, where asked for.

    eager: for `durable.Worker`. messages: by queue, delivered ones included. detail: what to keep for whoever looks
    into messages that are left. quick: whether it can keep workers to a time.
    """

    way: Way
    theirs: Way
    eager: bool | None
    harms: Mapping[str, Harm]
    messages: Callable[[], dict[str, int]] = dict
    detail: Callable[[], str] = str
    quick: bool = True


class Wanted(NamedTuple):
    """wired: whether workers reach the servers through wires that can be cut."""

    partitions: int
    wired: bool
    random: Random


@contextmanager
def rabbitmq(wanted: Wanted) -> Iterator[Place]:
    random = wanted.random
    with _started(_redis()) as store, _started(RabbitServer()) as broker, ExitStack() as wires:
        way = Way(f"{store.url}?partitions={wanted.partitions}", broker.url())
        hurt_store = _of_redis(store, random)
        hurt_broker = {
            "rabbit-kill": harms.killed([broker], random, (2.0, 6.0)),
            "rabbit-freeze": harms.frozen(broker),
            "rabbit-memory": harms.memory_alarm(broker),
            "rabbit-disk": harms.disk_alarm(broker),
            "queues-deleted": harms.queues_deleted(broker),
        }
        theirs = way
        if wanted.wired:
            to_store, to_broker = (wires.enter_context(closing(Proxy(server.port))) for server in (store, broker))
            hurt_store["redis-cut"] = harms.cut_off(to_store, random)
            hurt_broker["rabbit-cut"] = harms.cut_off(to_broker, random)
            theirs = Way(_through(to_store, wanted), broker.url(port=to_broker.port))
        yield Place(
            way,
            theirs,
            None,
            {**harms.in_turn(hurt_store), **harms.in_turn(hurt_broker)},
            lambda: harms.depths(broker),
            lambda: "".join(broker.control(*question) for question in _QUESTIONS),
        )


@contextmanager
def streams(wanted: Wanted, appendfsync: str = "always") -> Iterator[Place]:
    with (
        _started(_redis(appendfsync)) as store,
        redis.Redis.from_url(store.url) as client,
        ExitStack() as wires,
    ):
        theirs = way = Way(f"{store.url}?partitions={wanted.partitions}", "")
        hurt = {**_of_redis(store, wanted.random), "queues-deleted": harms.streams_deleted(client, WORKSPACE)}
        if wanted.wired:
            wire = wires.enter_context(closing(Proxy(store.port)))
            hurt["redis-cut"] = harms.cut_off(wire, wanted.random)
            theirs = Way(_through(wire, wanted), "")

        def messages() -> dict[str, int]:
            return {key.decode(): client.xlen(key) for key in harms.streams(client, WORKSPACE)}

        yield Place(way, theirs, False, harms.in_turn(hurt), messages)


def everysec(wanted: Wanted) -> AbstractContextManager[Place]:
    return streams(wanted, "everysec")


@contextmanager
def cluster(wanted: Wanted) -> Iterator[Place]:
    with _started(RedisCluster(replicas=0, server=_Redis)) as nodes:
        way = Way(f"{nodes.url}?partitions={wanted.partitions}", "")
        kill = harms.killed(nodes.nodes, wanted.random, (2.0, 5.0))
        yield Place(way, way, False, {"redis-kill": kill})


@contextmanager
def dynamodb(wanted: Wanted) -> Iterator[Place]:
    with _started(DynamoServer()) as server:
        os.environ.update(CREDENTIALS)
        way = Way(server.url(f"&partitions={wanted.partitions}"), "")
        create_dynamodb(way.url)
        yield Place(way, way, None, {}, quick=False)


@contextmanager
def sqlite(wanted: Wanted) -> Iterator[Place]:
    with TemporaryDirectory(prefix="durable-sqlite-") as folder:
        way = Way(f"sqlite:///{folder}/store.db", "")
        with durable.connect(way.url, events=way.events, workspace=WORKSPACE) as client:
            log = Path(folder, f"store.db@{WORKSPACE}-wal")
            harm = harms.log_full(lambda: client.backend.membership.members()[0].pid, log)
            yield Place(way, way, None, {"disk-full": harm}, quick=False)


PLACES: Final[Mapping[str, Callable[[Wanted], AbstractContextManager[Place]]]] = {
    "rabbitmq": rabbitmq,
    "streams": streams,
    "everysec": everysec,
    "cluster": cluster,
    "dynamodb": dynamodb,
    "sqlite": sqlite,
}
_WIRED: Final = ("redis-cut", "rabbit-cut")
_REDIS: Final = ("redis-kill", "redis-freeze", "redis-memory", "redis-disk", "redis-cut")
FAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "rabbitmq": (
        *("rabbit-kill", "rabbit-freeze", "rabbit-memory", "rabbit-disk", "rabbit-cut", "queues-deleted"),
        *_REDIS,
    ),
    "streams": (*_REDIS, "queues-deleted"),
    # What is killed while its disk lags behind may lose what it confirmed, as the guide says.
    "everysec": ("redis-freeze", "redis-memory", "redis-disk", "redis-cut", "queues-deleted"),
    "cluster": ("redis-kill",),
    "dynamodb": (),
    "sqlite": ("disk-full",),
}


def needs_wires(faults: Mapping[str, int]) -> bool:
    return not faults.keys().isdisjoint(_WIRED)


class _Redis(RedisServer):
    """With `everysec` it would confirm what it may hold back for two seconds, while the disk is busy."""

    def __init__(self, port: int | None = None, **options: str) -> None:
        super().__init__(port, **{"appendfsync": "always", **options})

    def command(self) -> list[str]:
        # A write beyond the limit of its files is to fail, as on a full disk, and not to kill it.
        return ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *super().command()]


def _redis(appendfsync: str = "always") -> _Redis:
    return _Redis(appendfsync=appendfsync)


def _of_redis(store: RedisServer, random: Random) -> dict[str, Harm]:
    return {
        "redis-kill": harms.killed([store], random, (2.0, 5.0)),
        "redis-freeze": harms.frozen(store),
        "redis-memory": harms.memory_full(store),
        "redis-disk": harms.disk_full(store),
    }


def _through(wire: Proxy, wanted: Wanted) -> str:
    return f"redis://{HOST}:{wire.port}?partitions={wanted.partitions}"


@contextmanager
def _started(server: Any) -> Iterator[Any]:
    with ExitStack() as closing:
        closing.callback(server.close)
        server.start()
        yield server


_QUESTIONS: Final = (
    ("list_queues", "name", "messages_ready", "messages_unacknowledged", "consumers"),
    ("list_consumers",),
    ("list_channels", "pid", "consumer_count", "messages_unacknowledged"),
)
