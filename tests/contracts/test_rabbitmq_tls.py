"""RabbitMQ over TLS: what is sent arrives, and a certificate nobody vouches for is refused."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import quote

import pytest

from durable.backends.rabbitmq import open_rabbitmq
from durable.model.errors import TransportError
from durable.ports import Delivery, Message, Published
from tests.servers.certificate import Certificate
from tests.servers.process import HOST
from tests.servers.rabbitmq_server import RabbitServer

SECRET = "s3cret"


@pytest.fixture
def server(tls_rabbitmq_server: RabbitServer) -> RabbitServer:
    return tls_rabbitmq_server


def _trusting(server: RabbitServer, authority: Path) -> str:
    return f"{server.url()}?cacertfile={quote(str(authority), safe='')}"


def test_what_is_sent_over_tls_arrives(server: RabbitServer, certificate: Certificate) -> None:
    with closing(open_rabbitmq(_trusting(server, certificate.certificate), "w")) as transport:
        received: SimpleQueue[Sequence[Delivery]] = SimpleQueue()
        assert transport.declare(["q"]) == [True]
        transport.subscribe("q", 10, received.put)
        body = b'{"text":"%s"}' % (b"x" * 300_000)  # several frames, and several records of TLS
        assert transport.publish([Message("q", "1", "t", body)]) == [Published.CONFIRMED]
        [delivery] = received.get(timeout=30)
        assert delivery.body == body
        transport.ack([delivery.tag])


def test_a_certificate_that_nobody_vouches_for_is_refused(server: RabbitServer) -> None:
    url = server.url().replace("guest:guest", f"guest:{SECRET}")
    with pytest.raises(TransportError, match="certificate") as refused:
        open_rabbitmq(url, "w")
    assert SECRET not in str(refused.value)


def test_a_certificate_of_another_name_is_refused(server: RabbitServer, certificate: Certificate) -> None:
    with pytest.raises(TransportError, match=r"certificate.*localhost"):
        open_rabbitmq(_trusting(server, certificate.certificate).replace(HOST, "localhost"), "w")


def test_plain_amqp_to_a_port_of_tls_is_told_apart(server: RabbitServer) -> None:
    with pytest.raises(TransportError, match=r"amqps?://"):
        open_rabbitmq(server.url().replace("amqps://", "amqp://"), "w")
