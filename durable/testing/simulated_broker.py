"""The broker of a simulation: queues in memory, deliveries that are lost with a connection, doubled, late or unknown.

It keeps the laws of a transport (`durable.ports`) and no more: a queue may lose everything, a confirm may be lost, a
delivery comes again when whoever had it is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ..engine.instance import task_key
from ..ports import Delivery, Message, Published, Row
from ..runtime import requests as ask

if TYPE_CHECKING:
    from .simulated_worker import Worker
    from .simulated_world import World

BROKER_FAULTS: Final = {"publish unknown": 0.3, "message twice": 0.3, "message late": 0.4, "message lost": 0.2}


class _Queued(NamedTuple):
    queue: str
    body: bytes
    redelivered: bool = False

    def is_about(self, row: Row) -> bool:
        """Whether it is the invocation or the outcome behind this row."""
        return row.kind == "task" and self._names(row.key)

    def _names(self, key: str) -> bool:
        data = msgspec.json.decode(self.body)["data"]
        return bool(task_key(data["execution_id"], data["task_id"], data["attempt"]) == key)


class Broker:
    """`queues`: what waits. `unsettled`: what a worker has and has not settled, by its tag."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queues: dict[str, list[_Queued]] = {}
        self.unsettled: dict[Worker, dict[object, _Queued]] = {}
        self.parked: list[_Queued] = []
        self.blocked: list[_Queued] | None = None  # what was sent while nothing gets through
        self._sizes: dict[Worker, dict[str, int]] = {}  # what each worker receives, while it is connected
        self._cut: set[Worker] = set()
        self._tags = 0

    # ---- asked by a worker

    def receive(self, worker: Worker, request: ask.Receive) -> list[bool]:
        self._sizes.setdefault(worker, {}).update(request.prefetch)
        wanted = [queue for queue, size in request.prefetch.items() if size]
        made = self.declare(wanted)
        if request.anew:
            held = self.unsettled.get(worker, {})
            for tag in [tag for tag, queued in held.items() if queued.queue in request.prefetch]:
                self._requeue(held.pop(tag))
        for queue in wanted:
            self._dispatch_soon(queue)
        return made

    def declare(self, queues: Sequence[str]) -> list[bool]:
        missing = [queue not in self.queues for queue in queues]
        for queue in queues:
            self.queues.setdefault(queue, [])
        return missing

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        return [self._publish(message) for message in messages]

    def _publish(self, message: Message) -> Published:
        world = self.world
        if message.to not in self.queues:
            return Published.RETURNED
        queued = _Queued(message.to, message.body)
        if self.blocked is not None:
            self.blocked.append(queued)
            return Published.UNKNOWN
        unknown = world.chance("publish unknown", queued.is_about)
        if world.chance("message lost", queued.is_about):
            pass
        elif not unknown or world.random.random() < 0.5:
            self._arrive(queued)
            if world.chance("message twice", queued.is_about):
                self._arrive(queued)
        return Published.UNKNOWN if unknown else Published.CONFIRMED

    def settle(self, worker: Worker, request: ask.Settle) -> None:
        held = self.unsettled.get(worker, {})
        for tag in request.done:
            held.pop(tag, None)
        for tag in request.back:
            self._requeue(held.pop(tag, None))
        for tag in request.unreadable:
            gone = held.pop(tag, None)
            if gone is not None:
                self.parked.append(gone)
        for queue in self.queues:
            self._dispatch_soon(queue)

    # ---- messages on their way

    def _arrive(self, queued: _Queued) -> None:
        if self.world.chance("message late", queued.is_about):
            self.world.later(self.world.random.uniform(0.0, 5.0), lambda: self._put(queued))
        else:
            self._put(queued)

    def _put(self, queued: _Queued) -> None:
        if queued.queue in self.queues:
            self.queues[queued.queue].append(queued)
            self._dispatch_soon(queued.queue)

    def _requeue(self, queued: _Queued | None) -> None:
        if queued is not None:
            self._put(queued._replace(redelivered=True))

    def _dispatch_soon(self, queue: str) -> None:
        if self.queues.get(queue):
            self.world.soon(lambda: self._dispatch(queue))

    def _dispatch(self, queue: str) -> None:
        waiting = self.queues.get(queue)
        while waiting:
            free = [worker for worker in self._sizes if self._has_room(worker, queue)]
            if not free:
                return
            worker = self.world.random.choice(free)
            queued = waiting.pop(0)
            self._tags += 1
            tag = self._tags
            self.unsettled.setdefault(worker, {})[tag] = queued
            worker.tell(ask.Arrived([Delivery(queue, queued.body, tag, queued.redelivered)]))

    def _has_room(self, worker: Worker, queue: str) -> bool:
        size = self._sizes[worker].get(queue, 0)
        if not size or worker in self._cut:
            return False
        return sum(queued.queue == queue for queued in self.unsettled.get(worker, {}).values()) < size

    # ---- faults

    def gone(self, worker: Worker) -> None:
        """Its process ended: what it had comes again."""
        self._sizes.pop(worker, None)
        self._cut.discard(worker)
        self._redeliver(worker)

    def unblock(self) -> None:
        """What was sent meanwhile arrives after all, or not."""
        blocked, self.blocked = self.blocked or [], None
        for queued in blocked:
            if self.world.random.random() < 0.5:
                self._put(queued)

    def cut(self, worker: Worker) -> None:
        """Its connection ended: what it had comes again, perhaps before it knows."""
        self._cut.add(worker)
        self._redeliver(worker)

    def mend(self, worker: Worker) -> None:
        """Its connection is back, and it is told."""
        if worker in self._cut:
            self._cut.discard(worker)
            worker.tell(ask.Lost(connection=True))
            for queue in self.queues:
                self._dispatch_soon(queue)

    def _redeliver(self, worker: Worker) -> None:
        for queued in self.unsettled.pop(worker, {}).values():
            self._requeue(queued)

    def lose(self, queue: str) -> None:
        """Deleted, with all that was in it; in a while its consumers make it again, and all workers hear of it."""
        if self.queues.pop(queue, None) is None:
            return
        for held in self.unsettled.values():
            for tag in [tag for tag, queued in held.items() if queued.queue == queue]:
                del held[tag]
        for sizes in self._sizes.values():
            sizes.pop(queue, None)  # RabbitMQ does not always say so to a consumer whose queue is soon there again
        self.world.later(self.world.random.uniform(0.0, 1.0), lambda: self._made_again(queue))

    def _made_again(self, queue: str) -> None:
        """Most workers hear of it; the others must find out."""
        self.declare([queue])
        random = self.world.random
        for worker in [worker for worker in self.world.workers if random.random() < 0.7]:
            self.world.later(random.uniform(0.0, 1.0), lambda worker=worker: worker.tell(ask.Lost()))  # type: ignore[misc]  # bound now
