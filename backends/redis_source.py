"""`durable.ports.EventSource` on a Redis stream, through a consumer group.

Laws.
1. The stream is somebody's, and others may read it: nothing is deleted from it, and nothing beside it is written.
   Trimming it (XTRIM, or MAXLEN where events are added) is its owner's. A group that is not there begins at the start
   of the stream; whoever wants it elsewhere makes it before (XGROUP CREATE).
2. One thread reads, and reads on while what it read is worked on, up to `prefetch`. Acknowledgements go out at once, on
   another connection, without waiting for their answers; when one fails, the next session has what is still open.
3. Each connection is a session with a consumer name of its own. It lives while it asks for something. What a dead
   consumer held comes to whoever looks next, once a second; what is held at `close` is handed over to LEFT, which
   never lives.
4. An entry is a CloudEvent in structured mode in a field `event`; or its attributes are fields (`type` or `ce_type`),
   with its data in the field `data`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar, cast
from uuid import uuid4

import msgspec
from redis.exceptions import RedisError

from durable.model.errors import StoreError, TransportError
from durable.ports import Published

from .cloud_events import structured
from .redis_connection import (
    ANSWER_SECONDS,
    CLOSE_SECONDS,
    Connections,
    Pauses,
    Unanswered,
    Wire,
    explain,
    pack,
    read_script,
)
from .redis_queues import EVENT, OURS, SILENT_SECONDS, STRANGERS_SECONDS, add_all, fields_of

BATCH: Final = 2_000
LOOK_SECONDS: Final = 1.0
LEFT: Final = b"durable-left"
_BEHIND_ALL: Final = "18446744073709551615-0"  # the very last id there is means > to Redis
_PATIENCE: Final = 0.05  # seconds
_TAKE_OVER: Final = read_script("take_over")

Sink = Callable[[Sequence[bytes], object], None]
T = TypeVar("T")

log = logging.getLogger("durable.redis")


class _Batch:
    """A tag: what came together in one session. `ids`: none once it is acknowledged, or lost."""

    def __init__(self, ids: list[bytes]) -> None:
        self.ids = ids


class RedisSource:
    """`open_source` in redis_backend.py opens it."""

    def __init__(self, connections: Connections, stream: str, group: str) -> None:
        self._connections = connections
        self._where = connections.target.where
        self._key = stream.encode(errors="surrogatepass")
        self._stream = stream
        self._group = group
        self._acknowledged = Unanswered(connections)
        self._changed = threading.Condition()
        self._prefetch = 0
        self._sink: Sink = lambda _, __: None
        self._name = b""
        self._former: list[bytes] = []  # consumers of lost sessions
        self._open: set[_Batch] = set()
        self._held = 0  # events in them
        self._client_id = 0
        self._failed: Exception | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        timeout = float(connections.target.options.get("socket_timeout", ANSWER_SECONDS))
        self._longest_block = min(LOOK_SECONDS, timeout / 2)

    def __repr__(self) -> str:
        return f"<RedisSource {self._stream!a} at {self._where}>"

    # From any thread.

    def make_group(self) -> None:
        """And the stream, where they are not there. Raises StoreError."""
        answers, trouble = self._connections.exchange(
            [pack("XGROUP", "CREATE", self._key, self._group, "0", "MKSTREAM")]
        )
        failed = trouble or answers[0]
        if isinstance(failed, Exception) and "BUSYGROUP" not in str(failed):
            if "WRONGTYPE" in str(failed):
                raise StoreError(f"{self._where}: key {self._stream!a} is there and is no stream") from failed
            raise explain(self._connections.target, failed) from failed

    def receive(self, prefetch: int, sink: Sink) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch is 1 or more, not {prefetch}")
        with self._changed:
            if self._closed:
                raise TransportError(f"this connection to {self._where} is closed; open another")
            if self._thread is not None:
                raise TransportError(f"from stream {self._stream!a} this source receives already")
            self._prefetch, self._sink = prefetch, sink
            self._thread = threading.Thread(target=self._run, name="durable-redis-source", daemon=True)
            self._thread.start()

    def ack(self, tags: Sequence[object]) -> None:
        ids: list[bytes] = []
        with self._changed:
            for batch in cast("Sequence[_Batch]", tags):
                if batch in self._open:
                    self._open.remove(batch)
                    ids += batch.ids
            self._held -= len(ids)
            self._changed.notify_all()
        if not ids:
            return
        trouble = self._acknowledged.say([pack("XACK", self._key, self._group, *ids)])
        if trouble is not None:
            with self._changed:
                self._failed = trouble  # nobody knows what is acknowledged: the next session has what is not
                self._changed.notify_all()

    def publish(self, bodies: Sequence[bytes]) -> list[Published]:
        if self._closed:
            return [Published.UNKNOWN] * len(bodies)
        return add_all(self._connections, [pack("XADD", self._key, "*", EVENT, body) for body in bodies])

    def close(self) -> None:
        with self._changed:
            closed, self._closed = self._closed, True
            thread, client_id = self._thread, self._client_id
            self._changed.notify_all()
        if closed:
            return
        if thread is not None and thread is not threading.current_thread():
            self._end(thread, client_id)
        self._connections.close()

    def _end(self, thread: threading.Thread, client_id: int) -> None:
        """Redis may hear of it before it hears what to unblock, for they come by two connections."""
        try:
            for _ in range(round(CLOSE_SECONDS / _PATIENCE)):
                self._connections.ask([pack("CLIENT", "UNBLOCK", client_id)])
                thread.join(_PATIENCE)
                if not thread.is_alive():
                    return
        except StoreError:  # then the reading has ended, or does so by itself
            thread.join(CLOSE_SECONDS)

    # On the thread.

    def _run(self) -> None:
        pauses = Pauses()
        while not self._closed:
            try:
                self._serve()
            except (StoreError, RedisError, OSError) as error:
                pause = pauses.after(self._lose(error))
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause)
        with suppress(StoreError, RedisError):
            self._leave()

    def _lose(self, error: Exception) -> bool:
        """Whether there was a session."""
        with self._changed:
            name, self._name = self._name, b""
            self._former += [name] if name else []
            self._open.clear()
            self._held = 0
            self._failed = None
        if name and not self._closed:
            why = explain(self._connections.target, error)
            log.warning("receiving from stream %a begins again: %s", self._stream, why)
        return bool(name)

    def _leave(self) -> None:
        trouble = self._acknowledged.hear()
        if trouble is not None:
            log.debug("what was acknowledged last may come again: %s", trouble)
        for name in (*self._former, *filter(None, (self._name,))):
            while self._take_over(name, LEFT, BATCH)[0]:
                pass

    def _serve(self) -> None:
        """One session, until closed. Raises what ends it."""
        wire = self._connections.connect()
        try:
            [client_id] = _ask(wire, pack("CLIENT", "ID"))
            self.make_group()
            with self._changed:
                self._client_id = client_id
                self._name = f"{OURS}{uuid4().hex}".encode()
            self._receive(wire)
        finally:
            wire.disconnect()

    def _receive(self, wire: Wire) -> None:
        look_at = 0.0
        while not self._closed:
            now = time.monotonic()
            if now < look_at:
                self._read(wire, look_at - now)
                continue
            trouble = self._failed or self._acknowledged.hear()
            if trouble is not None:
                raise trouble
            look_at = now if self._look(wire) else now + LOOK_SECONDS

    @property
    def _room(self) -> int:
        """How many may be asked for at once: with less than all that there is room for, the next are read meanwhile."""
        return min(self._prefetch - self._held, BATCH, max(1, self._prefetch // 2))

    def _look(self, wire: Wire) -> bool:
        """Take what the dead hold, and show that this one lives. Whether there is room and more."""
        [_, consumers] = _ask(
            wire,
            pack("XREADGROUP", "GROUP", self._group, self._name, "COUNT", 1, "STREAMS", self._key, _BEHIND_ALL),
            pack("XINFO", "CONSUMERS", self._key, self._group),
        )
        for consumer in map(fields_of, consumers):
            name = consumer[b"name"]
            if name == self._name or not self._dead(name, consumer):
                continue
            room = self._room
            if room < 1:
                return False
            more, entries = self._take_over(name, self._name, room)
            if entries:
                log.warning(
                    "%d events of stream %a come again: consumer %a did not acknowledge them",
                    len(entries),
                    self._stream,
                    name.decode(errors="replace"),
                )
                self._hand_over(entries)
            if more:
                return True
        self._former.clear()
        return False

    def _dead(self, name: bytes, consumer: dict[bytes, Any]) -> bool:
        if name == LEFT or name in self._former:
            return True
        silent = SILENT_SECONDS if name.startswith(OURS.encode()) else STRANGERS_SECONDS
        return bool(consumer[b"idle"] >= silent * 1000 and (consumer[b"pending"] or name.startswith(OURS.encode())))

    def _take_over(self, whose: bytes, to: bytes, limit: int) -> tuple[bool, list[Any]]:
        [answer] = self._connections.run(_TAKE_OVER, [(self._key, self._group, whose, to, limit)])
        return bool(answer[0]), answer[1]

    def _read(self, wire: Wire, seconds: float) -> None:
        with self._changed:
            room = self._room
            if room < 1:
                self._changed.wait_for(lambda: self._room > 0 or self._closed or self._failed is not None, seconds)
                return
        block = max(1, round(min(seconds, self._longest_block) * 1000))
        reading = ("XREADGROUP", "GROUP", self._group, self._name, "COUNT", room, "BLOCK", block)
        [answer] = _ask(wire, pack(*reading, "STREAMS", self._key, ">"))
        if answer:
            self._hand_over(answer[0][1])

    def _hand_over(self, entries: list[Any]) -> None:
        batch = _Batch([id for id, _ in entries])
        with self._changed:
            if self._closed:
                return
            self._open.add(batch)
            self._held += len(batch.ids)
        try:
            self._sink([fields[1] if fields[0] == EVENT else _event(fields) for _, fields in entries], batch)
        except Exception:  # the receiver's mistake: these stay unacknowledged
            log.exception("the receiver of stream %a raised", self._stream)


def _ask(wire: Wire, *commands: bytes) -> list[Any]:
    wire.send_packed_command([b"".join(commands)])
    return [wire.read_response() for _ in commands]


def _event(fields: Sequence[bytes]) -> bytes:
    """The event whose attributes are fields. One that is none shows all of them to whoever finds it wanting."""
    named = {name.decode(errors="replace"): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    if EVENT.decode() in named:
        return named[EVENT.decode()]
    texts = {name: value.decode(errors="replace") for name, value in named.items()}
    content_type = texts.get("content-type")
    headers = {name if name.startswith("ce") else f"ce_{name}": text for name, text in texts.items() if name != "data"}
    if "ce_specversion" not in headers and "ce-specversion" not in headers:
        return msgspec.json.encode(texts)
    return structured(named.get("data", b""), content_type, headers)
