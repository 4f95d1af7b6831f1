"""Where the fleet works: servers, what can be done to them, and what they hold when all is done.

`rabbitmq`: histories on Redis, everything else through RabbitMQ. `streams`: Redis alone, every activity through its
streams. `cluster`: the same on three masters without replicas, for what a master has confirmed is on its disk, and not
yet on a replica. `dynamodb`: a test server that keeps everything in memory, so that only workers can be killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from random import Random
from typing import Any, Final, NamedTuple

import redis

from durable.backends.dynamodb_backend import create_dynamodb
from tests.servers.dynamodb_server import CREDENTIALS, DynamoServer
from tests.servers.process import ServerFailed, ServerProcess
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer

WORKSPACE: Final = "chaos"


class Harm(NamedTuple):
    """What is done again and again: `act` returns how often it was; seconds before the first and between two."""

    what: str
    act: Callable[[], int]
    first: float
    pause: tuple[float, float]


class Place(NamedTuple):
    """eager: for `durable.Worker`. harms: by the name of the fault. messages: by queue, delivered ones included.
    detail: what to keep for whoever looks into messages that are left. quick: whether it can keep workers to a time."""

    url: str
    events: str
    eager: bool | None
    harms: dict[str, Harm]
    messages: Callable[[], dict[str, int]] = dict
    detail: Callable[[], str] = str
    quick: bool = True


@contextmanager
def rabbitmq(partitions: int, random: Random) -> Iterator[Place]:
    with _started(_Redis()) as store, _started(RabbitServer()) as broker:
        harms = {
            "redis-kill": _kill("Redis", [store], random),
            "rabbit-kill": Harm("RabbitMQ killed", lambda: _killed(broker), 3.0, (5.0, 12.0)),
            "queues-deleted": Harm("queues deleted", lambda: _delete_queues(broker), 4.0, (3.0, 6.0)),
        }
        yield Place(
            f"{store.url}?partitions={partitions}",
            broker.url(),
            None,
            harms,
            lambda: _depths(broker),
            lambda: "".join(broker.control(*question) for question in _QUESTIONS),
        )


@contextmanager
def streams(partitions: int, random: Random) -> Iterator[Place]:
    with _started(_Redis()) as store, redis.Redis.from_url(store.url) as client:
        harms = {
            "redis-kill": _kill("Redis", [store], random),
            "queues-deleted": Harm("queues deleted", lambda: _delete_streams(client), 4.0, (3.0, 6.0)),
        }
        yield Place(
            f"{store.url}?partitions={partitions}",
            "",
            False,
            harms,
            lambda: {key.decode(): client.xlen(key) for key in _streams(client)},
        )


@contextmanager
def cluster(partitions: int, random: Random) -> Iterator[Place]:
    with _started(RedisCluster(replicas=0, server=_Redis)) as nodes:
        harms = {"redis-kill": _kill("masters", nodes.nodes, random)}
        yield Place(f"{nodes.url}?partitions={partitions}", "", False, harms)


@contextmanager
def dynamodb(partitions: int, random: Random) -> Iterator[Place]:
    with _started(DynamoServer()) as server:
        os.environ.update(CREDENTIALS)
        url = server.url(f"&partitions={partitions}")
        create_dynamodb(url)
        yield Place(url, "", None, {}, quick=False)


PLACES: Final[dict[str, Callable[[int, Random], AbstractContextManager[Place]]]] = {
    "rabbitmq": rabbitmq,
    "streams": streams,
    "cluster": cluster,
    "dynamodb": dynamodb,
}
FAULTS: Final = {
    "rabbitmq": ("rabbit-kill", "redis-kill", "queues-deleted"),
    "streams": ("redis-kill", "queues-deleted"),
    "cluster": ("redis-kill",),
    "dynamodb": (),
}


class _Redis(RedisServer):
    """With `everysec` it would confirm what it may hold back for two seconds, while the disk is busy."""

    def __init__(self, port: int | None = None, **options: str) -> None:
        super().__init__(port, appendfsync="always", **options)


@contextmanager
def _started(server: Any) -> Iterator[Any]:
    with ExitStack() as closing:
        closing.callback(server.close)
        server.start()
        yield server


def _kill(what: str, servers: Sequence[ServerProcess], random: Random) -> Harm:
    return Harm(f"{what} killed", lambda: _killed(random.choice(servers)), 6.0, (3.0, 9.0))


def _killed(server: ServerProcess) -> int:
    server.restart(graceful=False)
    return 1


# ---- what is on its way


_QUESTIONS: Final = (
    ("list_queues", "name", "messages_ready", "messages_unacknowledged", "consumers"),
    ("list_consumers",),
    ("list_channels", "pid", "consumer_count", "messages_unacknowledged"),
)


def _depths(rabbit: RabbitServer) -> dict[str, int]:
    lines = rabbit.control("list_queues", "name", "messages", "--no-table-headers", "--quiet").splitlines()
    return {name: int(count) for name, count in (line.split("\t") for line in lines if "\t" in line)}


def _delete_queues(rabbit: RabbitServer) -> int:
    """All of them but those that belong to one connection; how many."""
    import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
    from pika.exceptions import AMQPError  # type: ignore[import-untyped]  # as above

    deleted = 0
    try:
        if not (rabbit.running and rabbit.ready()):
            return 0
        queues = _depths(rabbit)
        with pika.BlockingConnection(pika.URLParameters(rabbit.url())) as connection:
            channel = connection.channel()
            for queue in queues:
                if ".reply." not in queue:
                    channel.queue_delete(queue)
                    deleted += 1
    except (AMQPError, OSError, ServerFailed):
        return deleted  # somebody else kills the broker as well
    return deleted


def _streams(client: redis.Redis) -> list[bytes]:
    return list(client.scan_iter(f"durable:{{durable.{WORKSPACE}.*}}:stream", count=1_000))


def _delete_streams(client: redis.Redis) -> int:
    try:
        found = _streams(client)
        deleted: int = client.delete(*found) if found else 0
        return deleted
    except redis.RedisError:
        return 0  # somebody else kills Redis as well
