"""A wire between a client and a server that can be cut, also just before an answer: what was asked has then happened.

Laws.
1. What the client sends always arrives.
2. With `answer_bytes` set, so many bytes of answers still come back on all connections together; with the next byte
   that the server sends its connection is closed instead.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from .process import HOST


class Proxy:
    """Listens on `port` and forwards to a server on loopback. Close it."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._lock = threading.Lock()
        self._budget: int | None = None
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def answer_bytes(self, budget: int | None) -> None:
        """How many bytes of answers may still come back; None for all."""
        with self._lock:
            self._budget = budget

    def cut(self) -> None:
        """Close all connections there are; new ones may come."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            self._end(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _start(self, function: Callable[..., None], *args: object) -> None:
        threading.Thread(target=function, args=args, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._server_port))
                with self._lock:
                    self._open |= {client, server}
                self._start(self._forward, client, server, False)
                self._start(self._forward, server, client, True)

    def _forward(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                allowed = self._allowed(data) if answers else data
                target.sendall(allowed)
                if len(allowed) < len(data):
                    break
        self._end(source)
        self._end(target)

    def _allowed(self, data: bytes) -> bytes:
        with self._lock:
            if self._budget is None:
                return data
            allowed, self._budget = data[: self._budget], max(0, self._budget - len(data))
        return allowed

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
