"""The thread that receives from all queues of one transport, on one connection, and what becomes of deliveries.

Laws.
1. One blocked XREADGROUP waits for all queues that have a free place; a place that becomes free, or another
   subscription, ends it (CLIENT UNBLOCK), so that nothing is asked for twice and nothing waits for a clock.
2. Each connection is a session with a consumer name of its own. When it is lost, watchers are told, and what it held is
   given back: to the next session too. A tag of an older session settles nothing.
3. A session beats once a second. Whoever hears that one has stopped gives back what it held.
4. A queue that is missing is made again, and watchers are told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from redis.exceptions import RedisError, ResponseError

from durable.model.errors import StoreError, TransportError
from durable.ports import Delivery, Trouble

from .redis_connection import ANSWER_SECONDS, CLOSE_SECONDS, Pauses, Wire, explain, pack
from .redis_queues import GROUP, OURS, Queues, event_of, is_gone

BEAT_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 30.0  # for the dead of whose death nobody heard
_TRIES: Final = 50

Sink = Callable[[Sequence[Delivery]], None]

log = logging.getLogger("durable.redis")


class Subscription:
    """open: ids delivered and not settled, which outlive `receiving`. more: the last common reading was cut off."""

    def __init__(self, queue: str, key: bytes, prefetch: int, sink: Sink) -> None:
        self.queue = queue
        self.key = key
        self.prefetch = prefetch
        self.sink = sink
        self.receiving = True
        self.joined = False
        self.more = False
        self.open: set[bytes] = set()

    @property
    def free(self) -> int:
        """How many more it may have."""
        return self.prefetch - len(self.open) if self.receiving else 0


class _Reading:
    """One request: how many from each of these queues, and whether it waits for the first."""

    def __init__(self, counts: dict[Subscription, int], waits: bool) -> None:
        self.counts = counts
        self.waits = waits


class Consumer:
    """`tell` is called with troubles, on the thread that receives, as sinks are."""

    def __init__(self, queues: Queues, tell: Callable[[Trouble], None]) -> None:
        self._queues = queues
        self._tell = tell
        self._changed = threading.Condition()
        self._subscriptions: dict[str, Subscription] = {}
        self._leaving: set[Subscription] = set()  # no longer receiving, not yet settled
        self._held: set[str] = set()  # queues in which this session's consumer may be
        self._former: set[str] = set()  # consumers of lost sessions
        self._name = ""
        self._client_id = 0
        self._reading: _Reading | None = None  # that the connection is blocked on
        self._stale = False  # what is read next, or blocked on, is not what is wanted any more
        self._failed: Exception | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        timeout = float(queues.connections.target.options.get("socket_timeout", ANSWER_SECONDS))
        self._longest_block = min(BEAT_SECONDS, timeout / 2)

    # From any thread.

    def subscribe(self, subscription: Subscription) -> None:
        """In the place of an earlier one to the same queue."""
        with self._changed:
            self._remove(subscription.queue)
            self._subscriptions[subscription.queue] = subscription
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="durable-redis-receive", daemon=True)
                self._thread.start()
        self._interrupt()

    def unsubscribe(self, queue: str, give_back: bool) -> None:
        with self._changed:
            left = self._remove(queue)
            ids = sorted(left.open, key=_place) if left is not None and give_back else []
        if left is not None:
            self.give_back((left, id) for id in ids)
            self._interrupt()

    def _remove(self, queue: str) -> Subscription | None:
        subscription = self._subscriptions.pop(queue, None)
        if subscription is not None:
            subscription.receiving = False
            self._leaving.add(subscription)
        return subscription

    def acknowledge(self, tags: Iterable[tuple[Subscription, bytes]]) -> None:
        self._settle(tags, self._acknowledge)

    def give_back(self, tags: Iterable[tuple[Subscription, bytes]]) -> None:
        self._settle(tags, self._each(self._queues.give_back))

    def park(self, tags: Iterable[tuple[Subscription, bytes]]) -> None:
        self._settle(tags, self._each(self._queues.park))

    def _acknowledge(self, ids: dict[str, list[bytes]]) -> None:
        trouble = self._queues.acknowledge(ids)
        if trouble is not None and not is_gone(trouble):
            raise trouble

    def _each(self, call: Callable[[str, Sequence[bytes]], None]) -> Callable[[dict[str, list[bytes]]], None]:
        def settle(ids: dict[str, list[bytes]]) -> None:
            for queue, some in ids.items():
                call(queue, some)

        return settle

    def _settle(
        self, tags: Iterable[tuple[Subscription, bytes]], how: Callable[[dict[str, list[bytes]]], None]
    ) -> None:
        ids: dict[str, list[bytes]] = {}
        wakes = False
        with self._changed:
            for subscription, id in tags:
                if id in subscription.open:
                    wakes |= not subscription.free
                    subscription.open.remove(id)
                    ids.setdefault(subscription.queue, []).append(id)
        if not ids:
            return
        try:
            how(ids)
        except (StoreError, TransportError, RedisError, OSError) as error:
            with self._changed:
                self._failed = error  # nobody knows what is settled: the next session has what is not
            wakes = True
        if wakes:
            self._interrupt()

    def _interrupt(self) -> None:
        """Have the thread look at what is wanted."""
        with self._changed:
            reading, told = self._reading, self._stale
            self._stale = True
            self._changed.notify_all()
        if reading is not None and not told:
            self._unblock(reading)

    def _unblock(self, reading: _Reading) -> None:
        """Redis may hear of it before it hears what to unblock, for they come by two connections."""
        for _ in range(_TRIES):
            try:
                if self._queues.connections.ask([pack("CLIENT", "UNBLOCK", self._client_id)]) != [0]:
                    return
            except StoreError as error:
                log.debug("a reading ends by itself within a second: %s", error)
                return
            if self._reading is not reading:
                return

    def close(self) -> None:
        """Give back what is open, and end. Idempotent."""
        with self._changed:
            self._closed = True
            thread = self._thread
        self._interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    # On the thread.

    def _run(self) -> None:
        pauses = Pauses()
        while not self._closed:
            try:
                self._serve()
            except (StoreError, TransportError, RedisError, OSError) as error:
                pause = pauses.after(self._lose(error))
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause)
        with suppress(StoreError, TransportError):
            self._leave()

    def _lose(self, error: Exception) -> bool:
        """Whether there was a session."""
        with self._changed:
            name, self._name = self._name, ""
            if name:
                self._former.add(name)
                self._held.clear()
            for subscription in (*self._subscriptions.values(), *self._leaving):
                subscription.open.clear()
                subscription.joined = False
            self._leaving.clear()
            self._failed = None
        if name and not self._closed:
            why = explain(self._queues.connections.target, error)
            log.warning("nothing is received until Redis answers again: %s", why)
            self._tell(Trouble())
        return bool(name)

    def _leave(self) -> None:
        """Give everything back."""
        for queue in self._held:
            self._queues.give_back_all(queue, self._name)
        self._bury_former()
        if self._name:
            self._queues.leave(self._name)

    def _bury_former(self) -> None:
        """They live no more: the first look of the next session, or of anybody, gives back what they held."""
        for name in tuple(self._former):
            self._queues.leave(name)
            self._former.discard(name)

    def _serve(self) -> None:
        """One session, until closed. Raises what ends it."""
        wire = self._queues.connections.connect()
        try:
            wire.send_packed_command([pack("CLIENT", "ID")])
            client_id = int(wire.read_response())
            self._bury_former()
            with self._changed:
                self._client_id = client_id
                self._name = OURS + uuid4().hex
            self._receive(wire)
        finally:
            wire.disconnect()

    def _receive(self, wire: Wire) -> None:
        beat_at = look_at = 0.0
        alive: set[bytes] = set()
        while not self._closed:
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + BEAT_SECONDS
                before, alive = alive, self._queues.beat(self._name)
                failed = self._failed or self._queues.trouble()
                if failed is not None and not is_gone(failed):
                    raise failed
                if now >= look_at or not before <= alive:
                    look_at = now + LOOK_SECONDS
                    self._queues.take_from_the_dead(list(self._subscriptions), alive)
            if self._failed is not None:
                raise self._failed
            self._part()
            reading = self._next_reading()
            if not reading.counts:
                with self._changed:
                    self._changed.wait_for(lambda: self._stale or self._closed, max(0.0, beat_at - now))
                continue
            try:
                joined = self._join(reading.counts)
                self._read(wire, reading, beat_at - now)
            except ResponseError as error:
                if not is_gone(error):
                    raise
                self._make_again()
            else:
                if joined:
                    look_at = 0.0

    def _part(self) -> None:
        """From queues that are received from no more, once all is settled."""
        with self._changed:
            settled = {s for s in self._leaving if not s.open}
            self._leaving -= settled
            busy = {*self._subscriptions, *(s.queue for s in self._leaving)}
            queues = {s.queue for s in settled} - busy
        for queue in queues:
            self._queues.give_back_all(queue, self._name)
            self._held.discard(queue)

    def _next_reading(self) -> _Reading:
        """All wait together, for no more than the fullest has room for: the number is one for all. Where that cut a
        reading off the rest is read before all wait again, once, or a long queue would hold up the others."""
        with self._changed:
            self._stale = False
            room = {s: s.free for s in self._subscriptions.values() if s.free > 0}
        cut_off = {s: free for s, free in room.items() if s.more}
        if cut_off:
            return _Reading(cut_off, False)
        return _Reading(dict.fromkeys(room, min(room.values(), default=0)), True)

    def _join(self, subscriptions: Iterable[Subscription]) -> bool:
        """Whether there was one that is new."""
        new = [s for s in subscriptions if not s.joined]
        if new:
            self._held |= {s.queue for s in new}
            answers, trouble = self._queues.connections.exchange(
                [pack("XGROUP", "CREATECONSUMER", s.key, GROUP, self._name) for s in new]
            )
            failed = trouble or next((answer for answer in answers if isinstance(answer, Exception)), None)
            if failed is not None:
                raise failed
            for subscription in new:
                subscription.joined = True
        return bool(new)

    def _read(self, wire: Wire, reading: _Reading, seconds: float) -> None:
        head = ("XREADGROUP", "GROUP", GROUP, self._name, "COUNT")
        if not reading.waits:
            wire.send_packed_command([pack(*head, count, "STREAMS", s.key, ">") for s, count in reading.counts.items()])
            for subscription, count in reading.counts.items():
                self._hand_over(wire.read_response(), {subscription.key: subscription}, count, waits=False)
            return
        by_key = {s.key: s for s in reading.counts}
        count = next(iter(reading.counts.values()))
        block = max(1, round(min(seconds, self._longest_block) * 1000))
        wire.send_packed_command([pack(*head, count, "BLOCK", block, "STREAMS", *by_key, *(">" for _ in by_key))])
        with self._changed:
            self._reading = reading
            stale = self._stale
        try:
            if stale:
                self._unblock(reading)
            answer = wire.read_response()
        finally:
            self._reading = None
        self._hand_over(answer, by_key, count, waits=True)

    def _hand_over(self, answer: Any, by_key: dict[bytes, Subscription], count: int, *, waits: bool) -> None:
        came = {by_key[key]: entries for key, entries in answer or ()}
        for subscription in by_key.values():
            subscription.more = waits and len(came.get(subscription, ())) >= count
        for subscription, entries in came.items():
            ids = [id for id, _ in entries]
            with self._changed:
                receiving = subscription.receiving and not self._closed
                if receiving:
                    subscription.open.update(ids)
            if not receiving:
                self._queues.give_back(subscription.queue, ids)
                continue
            deliveries = [
                Delivery(subscription.queue, event_of(fields), (subscription, id), b"returns" in fields[2::2])
                for id, fields in entries
            ]
            try:
                subscription.sink(deliveries)
            except Exception:  # the receiver's mistake: these stay unacknowledged
                log.exception("the receiver of queue %a raised", subscription.queue)

    def _make_again(self) -> None:
        with self._changed:
            wanted = [*self._subscriptions.values()]
        missing = self._queues.declare([s.queue for s in wanted])
        for subscription, gone in zip(wanted, missing, strict=True):
            if gone:
                with self._changed:
                    subscription.open.clear()
                    subscription.joined = False
                log.warning("queue %a was missing and is there again", subscription.queue)
                self._tell(Trouble(subscription.queue))


def _place(id: bytes) -> tuple[int, ...]:
    """Where an entry stands in its stream."""
    return tuple(map(int, id.split(b"-")))
