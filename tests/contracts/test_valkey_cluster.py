"""What a Redis Cluster is held to, on one of Valkeys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.contracts.test_redis_cluster import *  # noqa: F403
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import ValkeyServer, missing_valkey

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    need(missing_valkey())
    cluster = RedisCluster(server=ValkeyServer)
    cluster.start()
    yield cluster
    cluster.close()
