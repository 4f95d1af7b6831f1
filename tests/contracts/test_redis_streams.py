"""The public contract of transports on Redis Streams, and what only they have."""

from __future__ import annotations

import pytest

from durable.backends.redis_backend import open_streams
from durable.ports import Transport
from durable.testing.transport_contract import TransportContract
from tests.servers.redis_place import raw
from tests.servers.redis_server import RedisServer


class TestRedisStreams(TransportContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.server = redis_server

    def open_transport(self, workspace: str) -> Transport:
        return open_streams(self.server.url, workspace)

    def delete_queue(self, queue: str) -> None:
        assert raw(self.server.port, ("DEL", f"durable:{{{queue}}}:stream")) == 1
