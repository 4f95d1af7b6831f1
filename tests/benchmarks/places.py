"""Where a measurement happens: a fresh SQLite file, or servers that are started here and end with the run.

Servers listen on free loopback ports and keep their data in private folders below the one given, which must be on a
disk. Each place with Redis has a fresh server (AOF, everysec), each with DynamoDB a fresh ministack with one table, in
memory. RabbitMQ takes seconds to start: there is one for the run, and its queues are empty again when a measurement
ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple

from durable.backends.dynamodb_backend import create_dynamodb

sys.path.append(str(Path(__file__).resolve().parents[2]))  # run by its path, a program has only its own folder there
from tests.servers.dynamodb_server import CREDENTIALS, DynamoServer, missing_dynamodb
from tests.servers.process import ServerProcess
from tests.servers.rabbitmq_server import RabbitServer, missing_rabbitmq
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer, missing_redis

WORKSPACE: Final = "default"

# sqlite: a file. redis: a server, activities run where they were scheduled. streams: every activity travels through
# its streams. cluster: as redis, on three masters. eager: RabbitMQ beside it, as with redis. broker: every activity
# travels through RabbitMQ. dynamodb: an emulator, which is one process of Python.
Kind = Literal["sqlite", "redis", "streams", "cluster", "eager", "broker", "dynamodb"]


class Place(NamedTuple):
    """`store` and `events` are URLs, `path` that of the SQLite file, `redis` and `rabbitmq` the servers, `nodes` the
    URLs of all Redis that store, `emulator` what stands for DynamoDB."""

    kind: Kind
    store: str
    events: str | None = None
    path: str = ""
    redis: RedisServer | None = None
    rabbitmq: RabbitServer | None = None
    nodes: tuple[str, ...] = ()
    emulator: DynamoServer | None = None

    @property
    def eager(self) -> bool:
        """Whether activities run in the process of the worker that schedules them."""
        return self.kind not in ("streams", "broker")


def missing(kind: Kind) -> str | None:
    """Why there can be no such place on this machine, and the remedy; None when there can."""
    if kind == "sqlite":
        return None
    if kind == "dynamodb":
        return missing_dynamodb()
    return missing_redis() or (missing_rabbitmq() if kind in ("eager", "broker") else None)


def versions(kind: Kind) -> str:
    """What the servers of such a place are, for those who read the figures."""
    if kind == "sqlite":
        return ""
    if kind == "dynamodb":
        return f"ministack {version('ministack')}, in memory"
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    redis = next(word[2:] for word in said.split() if word.startswith("v="))
    return f"Redis {redis}, everysec"


class Places:
    """Makes places below `folder`; as a context manager it ends all servers."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._rabbitmq: RabbitServer | None = None

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rabbitmq is not None:
            self._rabbitmq.close()

    @contextmanager
    def place(self, kind: Kind) -> Iterator[Place]:
        """A fresh place; its server (but for RabbitMQ) and its file are gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self._folder) as fresh:
            if kind == "sqlite":
                path = str(Path(fresh, "bench.db"))
                yield Place(kind, f"sqlite:///{path}", path=path)
                return
            if kind == "cluster":
                with _below(fresh):
                    cluster = RedisCluster(replicas=0)
                try:
                    cluster.start()
                    yield Place(kind, cluster.url, nodes=tuple(node.url for node in cluster.nodes))
                finally:
                    cluster.close()
                return
            if kind == "dynamodb":
                with _below(fresh):
                    emulator = DynamoServer()
                try:
                    emulator.start()
                    os.environ.update(CREDENTIALS)  # of this process and its children: boto3 finds them there
                    create_dynamodb(emulator.url())
                    yield Place(kind, emulator.url(), emulator=emulator)
                finally:
                    emulator.close()
                return
            broker = self._broker() if kind in ("eager", "broker") else None
            with _below(fresh):
                redis = RedisServer()
            try:
                redis.start()
                events = broker.url() if broker else None
                yield Place(kind, redis.url, events, redis=redis, rabbitmq=broker, nodes=(redis.url,))
            finally:
                redis.close()

    def _broker(self) -> RabbitServer:
        if self._rabbitmq is None:
            with _below(self._folder):
                self._rabbitmq = RabbitServer()
            self._rabbitmq.start()
        return self._rabbitmq


@contextmanager
def _below(folder: str) -> Iterator[None]:
    """A server takes its folder from `tempfile`, whose default may be a file system in memory."""
    before, tempfile.tempdir = tempfile.tempdir, str(Path(folder).resolve())
    try:
        yield
    finally:
        tempfile.tempdir = before


def processor_seconds(server: ServerProcess) -> float:
    """What a server has used of the processors, with all that it started; 0 where the system does not tell."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[2]) == server.pid:
            total += (int(fields[11]) + int(fields[12])) / 100
    return total


def emulator_seconds(place: Place) -> float:
    """What the emulator has used of the processors; 0 where there is none."""
    return 0.0 if place.emulator is None else processor_seconds(place.emulator)
