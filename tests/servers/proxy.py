"""A wire between a client and a server that can be cut, also just before an answer: what was asked has then happened.

Laws.
1. What the client sends always arrives, unless the wire is silent.
2. With `answer_bytes` set, so many bytes of answers still come back on all connections together; with the next byte
   that the server sends its connection is closed instead.
3. Silent, it holds back everything, in both directions, and closes nothing: as when somebody has pulled the plug.
   Whatever was held back arrives afterwards, as TCP would see to.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from .process import HOST, free_port

_RESET: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: to close is to send RST


class Proxy:
    """Listens on `port` and forwards to a server on loopback. Close it."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._lock = threading.Lock()
        self._budget: int | None = None
        self._open: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self.port: int = free_port()
        self._listener = self._listen()

    def answer_bytes(self, budget: int | None) -> None:
        """How many bytes of answers may still come back; None for all."""
        with self._lock:
            self._budget = budget

    def spent(self) -> bool:
        """Whether as many have come back as were allowed."""
        return self._budget == 0

    def cut(self, reset: bool = False) -> None:
        """Close all connections there are, with RST where wanted; new ones may come."""
        with self._lock:
            connections = list(self._open)
        for connection in connections if reset else ():  # all of them first: the end of one is the end of its pair
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for connection in connections:
            self._end(connection)

    def refuse(self) -> None:
        """Close all connections and accept none."""
        self._stop_listening()
        self.cut()

    def accept(self) -> None:
        """After `refuse`."""
        self._listener = self._listen()

    def lead_to(self, server_port: int) -> None:
        """New connections go to this server; those that there are stay."""
        self._server_port = server_port

    def be_silent(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        """After `be_silent`."""
        self._flowing.set()

    def close(self) -> None:
        self._stop_listening()
        self._flowing.set()
        self.cut()

    def _listen(self) -> socket.socket:
        listener = socket.create_server((HOST, self.port))
        self._start(self._accept, listener)
        return listener

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, function: Callable[..., None], *args: object) -> None:
        threading.Thread(target=function, args=args, name="proxy", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection((HOST, self._server_port))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                self._start(self._forward, client, server, False)
                self._start(self._forward, server, client, True)

    def _forward(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
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
            # Whoever waits for it must wake up, and a shutdown for writing would send FIN before the RST.
            reset = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET
            connection.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        connection.close()
