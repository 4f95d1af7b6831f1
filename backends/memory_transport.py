"""`memory://name` as events URL: a broker in this process's memory. The reference implementation, and a test double.

It is written to be read, and does what a broker does: queues that keep messages until they are acknowledged, a limit
on how often one comes back, dead letters. Whoever opens the same name in one process talks to the same broker.

Neither `MemoryBroker` nor `MemoryTransport` has a thread, a clock or chance in it. Deliveries are handed over by
`MemoryBroker.pump`: at the end of every call that makes one possible, on the caller's thread; or, with `direct=False`,
only when a simulator calls it. One thread pumps at a time, and what a sink does to the transport is pumped by the pump
that called the sink: a receiver gets its messages in order, and calls do not nest.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

from durable.model.errors import TransportError
from durable.ports import Delivery, Depth, Message, Published, Transport, Trouble

from .cloud_events import subjects
from .queue_names import names
from .watchers import Watchers

DELIVERY_LIMIT: Final = 20  # as often may a message come back; then it is a dead letter

Sink = Callable[[Sequence[Delivery]], None]
Wake = Callable[[Collection[str]], None]

log = logging.getLogger("durable.transport")


class _Stored(NamedTuple):
    """A message in a queue. `returns`: how often it came back from a receiver."""

    number: int
    body: bytes
    returns: int = 0


class _Queue:
    """`waiting` is a heap by number: what comes back takes its old place. `dead_letters`: '' for that queue itself."""

    def __init__(self, dead_letters: str) -> None:
        self.dead_letters = dead_letters
        self.waiting: list[_Stored] = []


class _Consumer:
    """A subscription. `open`: what was delivered and not settled, which outlives `receiving`."""

    def __init__(self, owner: MemoryTransport, queue: str, prefetch: int, sink: Sink) -> None:
        self.owner = owner
        self.queue = queue
        self.prefetch = prefetch
        self.sink = sink
        self.receiving = True
        self.open: dict[int, _Stored] = {}


class MemoryBroker:
    """Queues by name, and who receives from them. `delete_queue` and `disconnect` are a real broker's mishaps."""

    def __init__(self, direct: bool = True) -> None:
        self._direct = direct
        self._lock = threading.RLock()
        self._pumping = False
        self._queues: dict[str, _Queue] = {}
        self._consumers: list[_Consumer] = []  # whose turn it is comes first
        self._replies: dict[str, Wake] = {}
        self._count = 0

    def pump(self) -> None:
        """Hand over what can be delivered, until nothing can. Returns at once while another pump is at work."""
        with self._lock:
            if self._pumping:
                return
            self._pumping = True
        while handing := self._next():
            consumer, deliveries = handing
            try:
                consumer.sink(deliveries)
            except Exception:  # the receiver's mistake: these stay unacknowledged
                log.exception("the receiver of queue %s raised", ascii(consumer.queue))

    def _next(self) -> tuple[_Consumer, list[Delivery]] | None:
        """What one consumer gets now; None, and the pump has ended, when nobody gets anything."""
        with self._lock:
            for consumer in self._consumers:
                deliveries = self._take(consumer) if consumer.receiving else []
                if deliveries:
                    self._consumers.remove(consumer)
                    self._consumers.append(consumer)
                    return consumer, deliveries
            self._pumping = False
            return None

    def _take(self, consumer: _Consumer) -> list[Delivery]:
        waiting = self._queues[consumer.queue].waiting
        taken = [heapq.heappop(waiting) for _ in range(min(consumer.prefetch - len(consumer.open), len(waiting)))]
        consumer.open.update((stored.number, stored) for stored in taken)
        return [
            Delivery(consumer.queue, stored.body, (consumer, stored.number), stored.returns > 0) for stored in taken
        ]

    def _changed(self) -> None:
        if self._direct:
            self.pump()

    # Mishaps.

    def delete_queue(self, queue: str) -> None:
        """With all that is in it. Whoever received from it makes it again and is told, as law 4 of a transport says."""
        with self._lock:
            gone = self._queues.pop(queue, None)
            receivers = [consumer for consumer in self._consumers if consumer.queue == queue and consumer.receiving]
            for consumer in [consumer for consumer in self._consumers if consumer.queue == queue]:
                consumer.open.clear()
            if gone and receivers:
                self._queues[queue] = _Queue(gone.dead_letters)
        for consumer in receivers:
            consumer.owner.tell(Trouble(queue))
        self._changed()

    def disconnect(self, transport: MemoryTransport) -> None:
        """What it received and did not settle is given out again; it goes on receiving, and is told."""
        with self._lock:
            for consumer in self._consumers:
                if consumer.owner is transport:
                    self._give_back_all(consumer)
        transport.tell(Trouble())
        self._changed()

    # What transports ask for.

    def number(self) -> int:
        """1, 2, 3, ..."""
        with self._lock:
            self._count += 1
            return self._count

    def declare(self, queue: str, dead_letters: str) -> bool:
        with self._lock:
            self._queues.setdefault(dead_letters, _Queue(""))
            missing = queue not in self._queues
            if missing:
                self._queues[queue] = _Queue(dead_letters)
            return missing

    def depth(self, queue: str) -> Depth | None:
        with self._lock:
            found = self._queues.get(queue)
            receiving = sum(consumer.receiving for consumer in self._consumers if consumer.queue == queue)
            return None if found is None else Depth(len(found.waiting), receiving)

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        with self._lock:
            answers = [self._store(message.to, message.body) for message in messages]
        self._changed()
        return answers

    def _store(self, to: str, body: bytes) -> Published:
        queue = self._queues.get(to)
        if queue is None:
            return Published.RETURNED
        heapq.heappush(queue.waiting, _Stored(self.number(), body))
        return Published.CONFIRMED

    def consume(self, consumer: _Consumer) -> None:
        with self._lock:
            if consumer.queue not in self._queues:
                raise TransportError(f"can't subscribe: there is no queue {consumer.queue!a}; declare it first")
            self._consumers.append(consumer)
        self._changed()

    def cancel(self, consumer: _Consumer, give_back: bool) -> None:
        with self._lock:
            consumer.receiving = False
            if give_back:
                self._give_back_all(consumer)
            self._forget_settled()
        self._changed()

    def settle(self, tags: Sequence[object], how: Callable[[_Consumer, _Stored], None] | None = None) -> None:
        """`how`: `give_back` or `bury`; None when there is nothing more to do. Tags that are not open are ignored."""
        with self._lock:
            for consumer, number in cast("Sequence[tuple[_Consumer, int]]", tags):
                stored = consumer.open.pop(number, None)
                if stored is not None and how is not None:
                    how(consumer, stored)
            self._forget_settled()
        self._changed()

    def give_back(self, consumer: _Consumer, stored: _Stored) -> None:
        """Somebody else may have it, but not for ever."""
        again = stored._replace(returns=stored.returns + 1)
        if again.returns > DELIVERY_LIMIT:
            self.bury(consumer, stored)
        elif consumer.queue in self._queues:
            heapq.heappush(self._queues[consumer.queue].waiting, again)

    def bury(self, consumer: _Consumer, stored: _Stored) -> None:
        """To the dead letters of its queue."""
        queue = self._queues.get(consumer.queue)
        if queue is not None:
            self._store(queue.dead_letters, stored.body)

    def leave(self, transport: MemoryTransport) -> None:
        with self._lock:
            theirs = [consumer for consumer in self._consumers if consumer.owner is transport]
            for consumer in theirs:
                consumer.receiving = False
                self._give_back_all(consumer)
            self._forget_settled()
        self._changed()

    def _give_back_all(self, consumer: _Consumer) -> None:
        for number in tuple(consumer.open):
            self.give_back(consumer, consumer.open.pop(number))

    def _forget_settled(self) -> None:
        self._consumers = [consumer for consumer in self._consumers if consumer.receiving or consumer.open]

    def listen(self, address: str, wake: Wake) -> None:
        with self._lock:
            self._replies[address] = wake

    def hang_up(self, address: str) -> None:
        with self._lock:
            self._replies.pop(address, None)

    def reply(self, address: str, bodies: Sequence[bytes]) -> None:
        wake = self._replies.get(address)
        if wake is not None:
            wake(subjects(bodies))


class MemoryTransport:
    """`durable.ports.Transport` of one process on a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, workspace: str) -> None:
        self._broker = broker
        self._names = names(workspace)
        self.dead_letters = self._names.dead_letters
        self._address = f"{self._names.reply_prefix}{broker.number()}"
        self._lock = threading.Lock()
        self._closed = False
        self._subscriptions: dict[str, _Consumer] = {}
        self._watchers = Watchers("a transport in memory", log)
        self.watch, self.tell = self._watchers.watch, self._watchers.tell
        self._wakes: list[Wake] = []

    def declare(self, queues: Sequence[str]) -> list[bool]:
        self._check_open()
        return [self._broker.declare(queue, self.dead_letters) for queue in queues]

    def depth(self, queue: str) -> Depth | None:
        self._check_open()
        return self._broker.depth(queue)

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        if self._closed:
            return [Published.UNKNOWN] * len(messages)
        return self._broker.publish(messages)

    def announce(self, messages: Sequence[Message]) -> None:
        """Nobody outside this process can listen to the topic, and nobody inside does."""
        replies: dict[str, list[bytes]] = {}
        for message in messages:
            if message.to.startswith(self._names.reply_prefix):
                replies.setdefault(message.to, []).append(message.body)
        for address, bodies in replies.items():
            self._broker.reply(address, bodies)

    def subscribe(self, queue: str, prefetch: int, sink: Sink) -> None:
        """A second subscription to a queue takes the place of the first. TransportError: nobody declared the queue."""
        self._check_open()
        if prefetch < 1:
            raise ValueError(f"prefetch is 1 or more, not {prefetch}")
        consumer = _Consumer(self, queue, prefetch, sink)
        self.unsubscribe(queue)
        with self._lock:
            self._subscriptions[queue] = consumer
        try:
            self._broker.consume(consumer)
        except TransportError:
            self.unsubscribe(queue)
            raise

    def unsubscribe(self, queue: str, give_back: bool = False) -> None:
        with self._lock:
            consumer = self._subscriptions.pop(queue, None)
        if consumer is not None:
            self._broker.cancel(consumer, give_back)

    def ack(self, tags: Sequence[object]) -> None:
        self._broker.settle(tags)

    def requeue(self, tags: Sequence[object]) -> None:
        self._broker.settle(tags, self._broker.give_back)

    def park(self, tags: Sequence[object]) -> None:
        self._broker.settle(tags, self._broker.bury)

    def replies(self, wake: Wake) -> str:
        with self._lock:
            self._wakes.append(wake)
        self._broker.listen(self._address, self._wake)
        return self._address

    def _wake(self, about: Collection[str]) -> None:
        for wake in tuple(self._wakes):
            wake(about)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._broker.hang_up(self._address)
        self._broker.leave(self)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError("this connection to a memory broker is closed; open another")


_opened: dict[str, MemoryBroker] = {}
_opening = threading.Lock()


def memory_broker(name: str) -> MemoryBroker:
    """The broker behind `memory://name`, for tests that mistreat it."""
    with _opening:
        return _opened.setdefault(name, MemoryBroker())


def open_memory_transport(url: str, workspace: str) -> Transport:
    """Join the broker of this name, new or as it was left. Raises TransportError for anything but `memory://name`."""
    parts = urlsplit(url)
    if parts.scheme != "memory" or parts.path.strip("/") or parts.query or parts.fragment:
        raise TransportError("the events URL is not that of a memory broker; write memory://name, without parameters")
    return MemoryTransport(memory_broker(parts.netloc), workspace)
