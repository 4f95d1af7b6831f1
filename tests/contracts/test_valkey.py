"""What Redis is held to, on a Valkey: the tests are those of Redis, which ask for a server, and get this one."""

from __future__ import annotations

import pytest

from tests.contracts.test_redis import *  # noqa: F403
from tests.contracts.test_redis_signals import *  # noqa: F403
from tests.contracts.test_redis_streams import TestRedisStreams  # noqa: F401
from tests.servers.redis_server import RedisServer, ValkeyServer


@pytest.fixture
def redis_server(valkey_server: ValkeyServer) -> RedisServer:
    return valkey_server
