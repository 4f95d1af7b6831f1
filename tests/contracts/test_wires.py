"""The wire that tests put between a client and a server does to connections what it says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.servers.process import HOST
from tests.servers.proxy import Proxy


@pytest.fixture
def wire() -> Iterator[Proxy]:
    """To a server that says again whatever it is told."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(100):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        with closing(Proxy(listener.getsockname()[1])) as proxy:
            yield proxy
        listener.shutdown(socket.SHUT_RDWR)


def connected(wire: Proxy) -> socket.socket:
    client = socket.create_connection((HOST, wire.port), timeout=10)
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    return client


def test_a_silent_wire_closes_nothing_and_loses_nothing(wire: Proxy) -> None:
    with connected(wire) as client:
        wire.be_silent()
        client.sendall(b"late")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(10)
        wire.flow()
        assert client.recv(100) == b"late"


def test_a_wire_that_refuses_ends_what_there_is_and_takes_nobody(wire: Proxy) -> None:
    with connected(wire) as client:
        wire.refuse()
        assert client.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, wire.port), timeout=10)
    wire.accept()
    connected(wire).close()


def test_a_reset_is_one(wire: Proxy) -> None:
    with connected(wire) as client:
        wire.cut(reset=True)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    connected(wire).close()


def test_an_answer_is_cut_off_where_it_should_be(wire: Proxy) -> None:
    with connected(wire) as client:
        wire.answer_bytes(3)
        client.sendall(b"answer")
        assert client.recv(100) == b"ans"
        assert client.recv(100) == b""
    assert wire.spent()
    wire.answer_bytes(None)
    connected(wire).close()
