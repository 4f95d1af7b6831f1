"""`durable.ports.Transport` on Redis Streams, for where Redis is all there is.

    redis_queues       what a queue is, and every command that is said to one
    redis_consuming    the thread that receives
    redis_subscriber   the thread that hears replies, once somebody wants them

Laws.
1. `publish` never raises for a Redis that is away; it waits no longer than the connection does.
2. What was settled and did not reach Redis comes again, in another session.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar, cast
from uuid import uuid4

from durable.model.errors import StoreError, TransportError
from durable.ports import Delivery, Depth, Message, Published, Trouble

from .cloud_events import subjects
from .redis_consuming import Consumer, Subscription
from .redis_queues import Queues
from .redis_subscriber import Subscriber
from .watchers import Watchers

T = TypeVar("T")

log = logging.getLogger("durable.redis")


class RedisStreams:
    """`open_streams` in redis_backend.py opens it."""

    def __init__(self, queues: Queues) -> None:
        self.dead_letters = queues.names.dead_letters
        self._queues = queues
        self._where = queues.connections.target.where
        self._address = queues.names.reply_prefix + uuid4().hex
        self._lock = threading.Lock()
        self._closed = False
        self._declared: set[str] = set()
        self._watchers = Watchers(self._where, log)
        self.watch = self._watchers.watch
        self._wakes: list[Callable[[Collection[str]], None]] = []
        self._replies: Subscriber | None = None
        self._consumer = Consumer(queues, self._watchers.tell)

    def __repr__(self) -> str:
        return f"<RedisStreams {self._where}>"

    def declare(self, queues: Sequence[str]) -> list[bool]:
        for queue in queues:
            if not queue:
                raise TransportError("a queue needs a name")
        missing = self._ask(lambda: self._queues.declare([*queues, self.dead_letters]))[:-1]
        with self._lock:
            lost = [queue for queue, gone in zip(queues, missing, strict=True) if gone and queue in self._declared]
            self._declared.update(queues)
        for queue in lost:
            self._watchers.tell(Trouble(queue))
        return missing

    def depth(self, queue: str) -> Depth | None:
        return self._ask(lambda: self._queues.depth(queue))

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        if self._closed:
            return [Published.UNKNOWN] * len(messages)
        return self._queues.publish(messages) if messages else []

    def announce(self, messages: Sequence[Message]) -> None:
        if messages and not self._closed:
            self._queues.announce(messages)

    def subscribe(self, queue: str, prefetch: int, sink: Callable[[Sequence[Delivery]], None]) -> None:
        """A second subscription to a queue takes the place of the first. TransportError: nobody declared the queue."""
        if prefetch < 1:
            raise ValueError(f"prefetch is 1 or more, not {prefetch}")
        if self.depth(queue) is None:
            raise TransportError(f"can't subscribe: there is no queue {queue!a} at {self._where}; declare it first")
        self._consumer.subscribe(Subscription(queue, self._queues.key(queue), prefetch, sink))

    def unsubscribe(self, queue: str, give_back: bool = False) -> None:
        self._consumer.unsubscribe(queue, give_back)

    def ack(self, tags: Sequence[object]) -> None:
        self._consumer.acknowledge(cast("Sequence[tuple[Subscription, bytes]]", tags))

    def requeue(self, tags: Sequence[object]) -> None:
        self._consumer.give_back(cast("Sequence[tuple[Subscription, bytes]]", tags))

    def park(self, tags: Sequence[object]) -> None:
        self._consumer.park(cast("Sequence[tuple[Subscription, bytes]]", tags))

    def replies(self, wake: Callable[[Collection[str]], None]) -> str:
        with self._lock:
            self._wakes.append(wake)
            if self._replies is None:
                self._replies = Subscriber(
                    self._queues.connections, lambda _, body: self._wake(subjects([body])), lambda: None
                )
                self._replies.add([self._queues.address(self._address)])
        return self._address

    def _wake(self, about: Collection[str]) -> None:
        for wake in tuple(self._wakes):
            wake(about)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._consumer.close()
        if self._replies is not None:
            self._replies.close()
        self._queues.close()

    def _ask(self, ask: Callable[[], T]) -> T:
        if self._closed:
            raise TransportError(f"this connection to {self._where} is closed; open another")
        try:
            return ask()
        except StoreError as error:
            raise TransportError(str(error)) from error
