"""`memory://name` as events URL: a broker in this process's memory. The reference implementation, and a test double.

It is written to be read, and does what a broker does: queues that keep messages until they are acknowledged, a limit
on how often one comes back, dead letters. Whoever opens the same name in one process talks to the same broker.

Neither `MemoryBroker` nor `MemoryTransport` has a thread, a clock or chance in it. Deliveries are handed over by
`MemoryBroker.pump`: at the end of every call that makes one possible, or, with `direct=False`, only when a simulator
calls it. One thread pumps at a time, and what a sink does to the transport is pumped by the pump that called the sink,
so a receiver gets its messages in order.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from durable.model.errors import TransportError
from durable.ports import Delivery, Message, Published, Transport, Trouble

from .cloud_events import subjects
from .queue_names import Names, names

DELIVERY_LIMIT = 20  # as often may a message come back; then it is a dead letter

Sink = Callable[[Sequence[Delivery]], None]
Wake = Callable[[Collection[str]], None]

log = logging.getLogger("durable.transport")


class _Stored(NamedTuple):
    """A message in a queue, oldest first. `returns`: how often it came back from a receiver."""

    number: int
    body: bytes
    returns: int = 0


class _Queue:
    def __init__(self, dead_letters: str) -> None:
        self.dead_letters = dead_letters
        self.waiting: list[_Stored] = []  # a heap by number: what comes back takes its old place
        self.consumers: list[_Consumer] = []


class _Consumer:
    """A subscription. `open`: what was delivered and not settled; empty for ever once it is `gone`."""

    def __init__(self, owner: MemoryTransport, queue: str, prefetch: int, sink: Sink) -> None:
        self.owner = owner
        self.queue = queue
        self.prefetch = prefetch
        self.sink = sink
        self.open: dict[int, _Stored] = {}


class MemoryBroker:
    """Queues by name. `delete_queue` and `disconnect` are the mishaps of a real one."""

    def __init__(self, direct: bool = True) -> None:
        self._direct = direct
        self._lock = threading.RLock()
        self._queues: dict[str, _Queue] = {}
        self._numbers = 0
        self._processes = 0
        self._pumping = False
        self._reply_addresses: dict[str, MemoryTransport] = {}
        self._transports: list[MemoryTransport] = []

    def pump(self) -> None:
        """Hand over what can be delivered, until nothing can. Returns at once while another pump is at work."""
        with self._lock:
            if self._pumping:
                return
            self._pumping = True
        while True:
            with self._lock:
                handing = self._next()
                if handing is None:
                    self._pumping = False
                    return
            consumer, deliveries = handing
            try:
                consumer.sink(deliveries)
            except Exception:  # the receiver's mistake: these stay unacknowledged
                log.exception("the receiver of queue %s raised", ascii(consumer.queue))

    def _next(self) -> tuple[_Consumer, list[Delivery]] | None:
        for name in sorted(self._queues):
            queue = self._queues[name]
            for consumer in queue.consumers:
                free = consumer.prefetch - len(consumer.open)
                taken = [heapq.heappop(queue.waiting) for _ in range(min(free, len(queue.waiting)))]
                if taken:
                    # The next one's turn comes first next time.
                    queue.consumers.remove(consumer)
                    queue.consumers.append(consumer)
                    consumer.open.update((stored.number, stored) for stored in taken)
                    return consumer, [
                        Delivery(name, stored.body, (consumer, stored.number), stored.returns > 0) for stored in taken
                    ]
        return None

    def _changed(self) -> None:
        if self._direct:
            self.pump()

    def delete_queue(self, queue: str) -> None:
        """With all that is in it. Those who received from it make it again, and are told."""
        with self._lock:
            gone = self._queues.pop(queue, None)
            consumers = gone.consumers if gone else []
            for consumer in consumers:
                consumer.open.clear()
        for consumer in consumers:
            consumer.owner.lost_queue(consumer)
        self._changed()

    def disconnect(self, transport: MemoryTransport) -> None:
        """What this one received and did not settle is given out again; it goes on receiving."""
        with self._lock:
            for consumer in self._consumers_of(transport):
                self._give_back(consumer)
        transport.tell(Trouble())
        self._changed()

    # What the transports ask.

    def join(self, transport: MemoryTransport, reply_prefix: str) -> str:
        with self._lock:
            self._processes += 1
            self._transports.append(transport)
            address = f"{reply_prefix}{self._processes}"
            self._reply_addresses[address] = transport
            return address

    def leave(self, transport: MemoryTransport) -> None:
        with self._lock:
            self._reply_addresses = {a: other for a, other in self._reply_addresses.items() if other is not transport}
            for consumer in self._consumers_of(transport):
                self._queues[consumer.queue].consumers.remove(consumer)
            for consumer in [c for c in transport.consumers if c.open]:
                self._give_back(consumer)
        self._changed()

    def declare(self, queue: str, dead_letters: str) -> bool:
        with self._lock:
            self._queues.setdefault(dead_letters, _Queue(""))
            missing = queue not in self._queues
            self._queues.setdefault(queue, _Queue(dead_letters))
            return missing

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        with self._lock:
            answers = [self._store(message.to, message.body) for message in messages]
        self._changed()
        return answers

    def _store(self, to: str, body: bytes) -> Published:
        queue = self._queues.get(to)
        if queue is None:
            return Published.RETURNED
        self._numbers += 1
        heapq.heappush(queue.waiting, _Stored(self._numbers, body))
        return Published.CONFIRMED

    def reply(self, address: str, body: bytes) -> None:
        with self._lock:
            transport = self._reply_addresses.get(address)
        if transport is not None:
            transport.wake(body)

    def consume(self, consumer: _Consumer) -> None:
        with self._lock:
            queue = self._queues.get(consumer.queue)
            if queue is None:
                raise TransportError(f"can't subscribe: there is no queue {consumer.queue!a}; declare it first")
            queue.consumers.append(consumer)
        self._changed()

    def cancel(self, consumer: _Consumer) -> None:
        with self._lock:
            queue = self._queues.get(consumer.queue)
            if queue and consumer in queue.consumers:
                queue.consumers.remove(consumer)

    def settle(self, tags: Sequence[object], how: Callable[[_Consumer, _Stored], None]) -> None:
        with self._lock:
            for consumer, number in cast("Sequence[tuple[_Consumer, int]]", tags):
                stored = consumer.open.pop(number, None)
                if stored is not None:
                    how(consumer, stored)
        self._changed()

    def give_back(self, consumer: _Consumer, stored: _Stored) -> None:
        """Somebody else may have it; after too many times it is a dead letter."""
        queue = self._queues.get(consumer.queue)
        if queue is None:
            return
        again = stored._replace(returns=stored.returns + 1)
        if again.returns > DELIVERY_LIMIT:
            self.bury(consumer, stored)
        else:
            heapq.heappush(queue.waiting, again)

    def bury(self, consumer: _Consumer, stored: _Stored) -> None:
        """To the dead letters of its queue."""
        queue = self._queues.get(consumer.queue)
        if queue and queue.dead_letters:
            self._store(queue.dead_letters, stored.body)

    def depth(self, queue: str) -> int | None:
        with self._lock:
            found = self._queues.get(queue)
            return None if found is None else len(found.waiting)

    def _give_back(self, consumer: _Consumer) -> None:
        for number in tuple(consumer.open):
            self.give_back(consumer, consumer.open.pop(number))

    def _consumers_of(self, transport: MemoryTransport) -> list[_Consumer]:
        return [c for queue in self._queues.values() for c in queue.consumers if c.owner is transport]


class MemoryTransport:
    """`durable.ports.Transport` of one process on a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, workspace: str) -> None:
        self._broker = broker
        self._names: Names = names(workspace)
        self._address = broker.join(self, self._names.reply_prefix)
        self._subscriptions: dict[str, _Consumer] = {}
        self._watchers: dict[object, Callable[[Trouble], None]] = {}
        self._wakes: list[Wake] = []
        self.consumers: list[_Consumer] = []  # also those that only have something left to settle

    def declare(self, queues: Sequence[str]) -> list[bool]:
        return [self._broker.declare(queue, self._names.dead_letters) for queue in queues]

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        return self._broker.publish(messages)
