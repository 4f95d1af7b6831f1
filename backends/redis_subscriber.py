"""One connection to Redis that listens, and keeps what is wanted of it alive over every loss.

Laws.
1. One thread, from the first `add` on, and only it uses the connection: TLS takes no two threads at once.
2. `add` returns when Redis has confirmed. Without a connection it returns at once: nobody waits for a server that is
   gone, and all are woken when it is there again.
3. After every loss, when all is confirmed again, all are woken: nobody knows what was said meanwhile.
4. Silence is not life: a connection that does not answer a PING is a lost one.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from durable.model.errors import StoreError

from .redis_connection import Connections, Pauses, Wire, pack

CONFIRM_SECONDS: Final = 2.0
PING_SECONDS: Final = 5.0

log = logging.getLogger("durable.redis")


class Subscriber:
    """`hear` gets (channel, message), on the thread that listens, as does `wake_all`."""

    def __init__(
        self,
        connections: Connections,
        hear: Callable[[bytes, bytes], None],
        wake_all: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._hear = hear
        self._wake_all = wake_all
        self._changed = threading.Condition()
        self._wanted: dict[bytes, int] = {}
        self._confirmed: set[bytes] = set()
        self._down = False
        self._missed = False
        self._refused = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._bell: socket.socket | None = None

    def add(self, channels: Iterable[bytes]) -> None:
        """Want these, once more than before."""
        wanted = set(channels)
        with self._changed:
            for channel in wanted:
                self._wanted[channel] = self._wanted.get(channel, 0) + 1
            if self._closed or wanted <= self._confirmed:
                return
            if self._thread is None:
                self._start()
            self._ring()
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: wanted <= self._confirmed or self._hopeless(), CONFIRM_SECONDS)

    def _hopeless(self) -> bool:
        return self._down or self._refused or self._closed

    def remove(self, channels: Iterable[bytes]) -> None:
        """Want these once less."""
        with self._changed:
            for channel in set(channels):
                self._wanted[channel] -= 1
                if not self._wanted[channel]:
                    del self._wanted[channel]
            self._ring()

    def close(self) -> None:
        """End the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._ring()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        heard, self._bell = socket.socketpair()
        for end in (heard, self._bell):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, args=(heard,), name="durable-redis-listen", daemon=True)
        self._thread.start()

    def _ring(self) -> None:
        """Have the thread look at what is wanted; with the lock held."""
        if self._bell is not None:
            with suppress(BlockingIOError):  # it has been rung often enough
                self._bell.send(b".")

    def _run(self, heard: socket.socket) -> None:
        pauses = Pauses()
        while not self._closed:
            try:
                self._serve(heard)
            except (StoreError, RedisError, OSError) as error:
                self._pause(pauses.after(self._lost(error)))
        with self._changed:
            heard.close()
            if self._bell is not None:
                self._bell.close()
                self._bell = None

    def _lost(self, error: Exception) -> bool:
        """The connection is gone, or none could be made. Whether there was one."""
        with self._changed:
            served, self._down, self._missed = not self._down, True, True
            self._confirmed.clear()
            self._changed.notify_all()
        if served:
            log.warning("no news from other processes until Redis answers again: %s", error)
        return served

    def _pause(self, seconds: float) -> None:
        """Wait, unless closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _serve(self, heard: socket.socket) -> None:
        """Listen until closed. Raises what ends the connection."""
        connection = self._connections.connect()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(connection._sock, selectors.EVENT_READ)
                selector.register(heard, selectors.EVENT_READ)
                self._listen(connection, heard, selector)
        finally:
            connection.disconnect()

    def _listen(self, connection: Wire, heard: socket.socket, selector: selectors.BaseSelector) -> None:
        asked: set[bytes] = set()
        alive_at, pinged = time.monotonic(), False
        while not self._closed:
            self._ask(connection, asked)
            ready = {key.fileobj for key, _ in selector.select(PING_SECONDS)}
            if heard in ready:
                heard.recv(4096)
                ready.remove(heard)
            if ready:
                self._read(connection)
                alive_at, pinged = time.monotonic(), False
                continue
            silent = time.monotonic() - alive_at
            if silent >= 2 * PING_SECONDS:
                raise StoreError(f"{self._connections.target.where} has not answered for {silent:.0f} s")
            if silent >= PING_SECONDS and not pinged:
                connection.send_packed_command([pack("PING")])
                pinged = True

    def _ask(self, connection: Wire, asked: set[bytes]) -> None:
        """Make what this connection was asked for what is wanted."""
        with self._changed:
            wanted = set(self._wanted)
            more, less = wanted - asked, asked - wanted
            self._confirmed -= less
            self._down = False
        for word, channels in (("SUBSCRIBE", more), ("UNSUBSCRIBE", less)):
            if channels:
                connection.send_packed_command([pack(word, *channels)])
        asked |= more
        asked -= less

    def _read(self, connection: Wire) -> None:
        """All that has come: ['message', channel, text], confirmations, PONG."""
        while True:
            answer: Any = None
            try:
                answer = connection.read_response()
            except ResponseError as error:
                if not str(error).startswith("MISCONF"):  # so it answers a PING while its disk is full: it is alive
                    self._refuse(error)
            kind = answer[0] if isinstance(answer, list) else None
            if kind == b"message":
                self._hear(answer[1], answer[2])
            elif kind == b"subscribe":
                self._confirm(answer[1])
            elif kind == b"unsubscribe":
                with self._changed:
                    self._confirmed.discard(answer[1])
            if not connection.can_read(0):
                return

    def _refuse(self, error: ResponseError) -> None:
        """This user may not listen to something. It would be refused again: whoever wants it looks for himself."""
        if not self._refused:
            where = self._connections.target.where
            log.warning("%s refuses a subscription (%s); see ACL SETUSER: allchannels", where, error)
        with self._changed:
            self._refused = True
            self._changed.notify_all()

    def _confirm(self, channel: bytes) -> None:
        with self._changed:
            self._confirmed.add(channel)
            self._changed.notify_all()
            complete = self._missed and self._confirmed.issuperset(self._wanted)
            if complete:
                self._missed = False
        if complete:
            self._wake_all()
