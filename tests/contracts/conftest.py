"""Places in the session's Redis: each test has a prefix of its own, and closes what it opens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest

from durable.backends.dynamodb_backend import open_dynamodb
from durable.backends.redis_backend import open_redis
from durable.ports import Backend
from tests.servers import dynamodb_place
from tests.servers.dynamodb_server import DynamoServer
from tests.servers.process import HOST
from tests.servers.redis_place import Opener
from tests.servers.redis_server import RedisServer


@pytest.fixture
def after() -> Iterator[ExitStack]:
    """What must be closed when the test is over."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def prefix() -> str:
    return uuid4().hex


@pytest.fixture
def open_here(redis_server: RedisServer, prefix: str, after: ExitStack) -> Opener:
    """Open a workspace of this test's own; `port` for another way to the same server."""

    def opening(workspace: str = "w", parameters: str = "", port: int | None = None) -> Backend:
        backend = open_redis(f"redis://{HOST}:{port or redis_server.port}?prefix={prefix}{parameters}", workspace)
        after.callback(backend.close)
        return backend

    return opening


@pytest.fixture
def own_server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server that a test may mistreat."""
    server = type(redis_server)()
    server.start()
    yield server
    server.close()


@pytest.fixture
def open_table(dynamodb_server: DynamoServer, prefix: str, after: ExitStack) -> dynamodb_place.Opener:
    """Open a workspace of this test's own; `fresh`: another one; `port` for another way to the same server."""

    def opening(parameters: str = "", fresh: bool = False, port: int | None = None) -> Backend:
        workspace = uuid4().hex if fresh else prefix
        backend = open_dynamodb(dynamodb_server.url(parameters, port=port), workspace)
        after.callback(backend.close)
        return backend

    return opening
