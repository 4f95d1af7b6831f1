"""Real servers, one of each a session; every test uses a prefix of its own on it.

Where a server is missing its tests fail and say how to get it. ALLOW_SKIP=1 skips them instead, visibly: for a
laptop, never for CI.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from durable.backends.dynamodb_backend import create_dynamodb
from tests.servers.certificate import Certificate, make_certificate, missing_openssl
from tests.servers.dynamodb_server import CREDENTIALS, DynamoServer, missing_dynamodb
from tests.servers.rabbitmq_server import RabbitServer, missing_rabbitmq
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer, ValkeyServer, missing_redis, missing_valkey

# A law is none of time: how long an example takes says what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def need(missing: str | None) -> None:
    """Fail, or skip with ALLOW_SKIP=1, when a server is missing; `missing` says which, and the remedy."""
    if missing is None:
        return
    if os.environ.get("ALLOW_SKIP") == "1":
        pytest.skip(missing)
    pytest.fail(f"{missing} (ALLOW_SKIP=1 skips the tests that need it)", pytrace=False)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole session. A test that mistreats it starts one of its own."""
    need(missing_redis())
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey for the whole session. A test that mistreats it starts one of its own."""
    need(missing_valkey())
    server = ValkeyServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three masters with a replica each, for the whole session. A test that mistreats them waits until all is well."""
    need(missing_redis())
    cluster = RedisCluster()
    cluster.start()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer]:
    """A RabbitMQ for the whole session. A test that mistreats it starts one of its own."""
    need(missing_rabbitmq())
    server = RabbitServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """That of the servers that speak TLS."""
    need(missing_openssl())
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def tls_rabbitmq_server(certificate: Certificate) -> Iterator[RabbitServer]:
    """Another RabbitMQ, which listens for nothing but amqps://."""
    need(missing_rabbitmq())
    server = RabbitServer(certificate)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def dynamodb_server() -> Iterator[DynamoServer]:
    """A DynamoDB for the whole session, with the table `durable`; workspaces keep tests apart."""
    need(missing_dynamodb())
    server = DynamoServer()
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        create_dynamodb(server.url())
        yield server
    server.close()
