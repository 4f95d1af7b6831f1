"""A whole system where everything between processes is encrypted: `rediss://` and `amqps://`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

import durable
from tests.conftest import need
from tests.product.conftest import Place
from tests.servers.certificate import Certificate
from tests.servers.process import HOST, free_port
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_server import RedisServer, missing_redis
from tests.waiting import SOON


@pytest.fixture
def place(certificate: Certificate, tls_rabbitmq_server: RabbitServer) -> Iterator[Place]:
    """On servers whose certificate the URLs name."""
    need(missing_redis())
    key, chain = map(str, certificate)
    port, trusted = str(free_port()), quote(chain, safe="")
    with closing(RedisServer(tls_cert_file=chain, tls_key_file=key, tls_auth_clients="no", tls_port=port)) as redis:
        redis.start()
        url = f"rediss://{HOST}:{port}?ssl_ca_certs={trusted}&partitions=1"
        yield Place(url, f"{tls_rabbitmq_server.url()}?cacertfile={trusted}", uuid4().hex[:8])


def test_an_orchestration_from_its_start_to_its_end(place: Place) -> None:
    app = durable.Registry()

    @app.activity
    def double(n: int) -> int:
        return 2 * n

    @app.orchestrator
    def child(ctx: durable.OrchestrationContext, n: int) -> Generator[Any, Any, Any]:
        yield ctx.create_timer(0.01)
        return (yield ctx.call_activity(double, n))

    @app.orchestrator
    def flow(ctx: durable.OrchestrationContext, n: int) -> Generator[Any, Any, list[Any]]:
        doubled = yield [ctx.call_activity(double, n), ctx.call_sub_orchestrator(child, n)]
        return [*doubled, (yield ctx.wait_for_external_event("go"))]

    with place.connect() as client, place.connect() as other, durable.Worker(other, registry=app, shutdown_grace=0):
        handle = client.start_orchestration(flow, 2)
        client.wait(handle.instance_id, SOON, until="started")
        handle.raise_event("go", "gone")
        assert handle.result(SOON) == [4, 4, "gone"]
        assert client.diagnose().waiting.keys() == {"default"}  # the queues of a broker
