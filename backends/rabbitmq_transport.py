"""`durable.ports.Transport` on RabbitMQ: what callers ask, handed to the session that the keeper has open.

Laws.
1. `publish` never raises for a broker that is away, and never waits longer than CONFIRM_SECONDS.
2. Between two sessions it says UNKNOWN at once, and acknowledgements go nowhere: what they were for comes again.
3. What waits may not be called by a sink, which runs on the thread that would bring the answer: RuntimeError.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from typing import Final, cast

from durable.model.errors import TransportError
from durable.ports import Delivery, Depth, Message, Published, Trouble

from .queue_names import names
from .rabbitmq_connection import ANSWER_SECONDS
from .rabbitmq_consuming import Consumer, Verb
from .rabbitmq_keeper import Keeper, Subscription
from .rabbitmq_publishing import Batch, short
from .rabbitmq_url import SHORT, Target

CONFIRM_SECONDS: Final = 10.0
LARGEST: Final = 16 * 1024 * 1024  # bytes: what RabbitMQ 4 accepts by default; for more it closes the channel
MOST_PREFETCHED: Final = 65_535

log = logging.getLogger("durable.rabbitmq")


class RabbitTransport:
    """`open_rabbitmq` opens it. `patience`: seconds after which a queue that does not answer counts as silent."""

    def __init__(self, target: Target, workspace: str, patience: float = ANSWER_SECONDS) -> None:
        known = names(workspace)
        self.dead_letters = known.dead_letters
        self._keeper = Keeper(target, known, patience)
        if not short(self._keeper.address):
            raise TransportError(f"workspace {workspace!a}: RabbitMQ has no room for so long a name; use a shorter one")

    def __repr__(self) -> str:
        return f"<RabbitTransport {self._keeper.target}>"

    def open(self) -> None:
        """Connect. Raises TransportError, with the remedy, within about ten seconds."""
        self._keeper.open()

    def close(self) -> None:
        self._keeper.close()

    def declare(self, queues: Sequence[str]) -> list[bool]:
        for queue in queues:
            if not queue or not short(queue):
                raise TransportError(f"queue {queue!a}: the name of a queue has from 1 to {SHORT} bytes")
        with closing(self._keeper.topology()) as topology:
            missing = topology.declare(queues)
        self._keeper.remember(queues, missing)
        return missing

    def depth(self, queue: str) -> Depth | None:
        with closing(self._keeper.topology()) as topology:
            return topology.depth(queue)

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        found = [_unfit(message) for message in messages]
        fit = [message for message, word in zip(messages, found, strict=True) if word is None]
        answers = iter(self._publish(fit) if fit else ())
        return [word or next(answers) for word in found]

    def _publish(self, messages: list[Message]) -> list[Published]:
        session, publisher = self._keeper.session, self._keeper.publisher
        if session is None or publisher is None:
            return [Published.UNKNOWN] * len(messages)
        session.refuse_own_thread()
        batch = Batch(messages)
        if session.post(publisher.publish, batch) and not batch.done.wait(CONFIRM_SECONDS):
            session.post(publisher.forget, batch)
        answers = [answer or Published.UNKNOWN for answer in batch.answers]
        self._keeper.know({m.to for m, answer in zip(messages, answers, strict=True) if answer is Published.CONFIRMED})
        return answers

    def announce(self, messages: Sequence[Message]) -> None:
        session, publisher = self._keeper.session, self._keeper.publisher
        fit = [message for message in messages if _unfit(message) is None]
        if fit and session is not None and publisher is not None:
            session.post(publisher.announce, fit)

    def subscribe(self, queue: str, prefetch: int, sink: Callable[[Sequence[Delivery]], None]) -> None:
        """A second subscription to a queue takes the place of the first. TransportError: nobody declared the queue."""
        if not 1 <= prefetch <= MOST_PREFETCHED:
            raise ValueError(f"prefetch is from 1 to {MOST_PREFETCHED}, not {prefetch}")
        self._keeper.subscribe(Subscription(queue, prefetch, sink))

    def unsubscribe(self, queue: str, give_back: bool = False) -> None:
        """What is under way already may still come."""
        self._keeper.unsubscribe(queue, give_back)

    def ack(self, tags: Sequence[object]) -> None:
        _settle("ack", tags)

    def requeue(self, tags: Sequence[object]) -> None:
        _settle("requeue", tags)

    def park(self, tags: Sequence[object]) -> None:
        _settle("park", tags)

    def watch(self, call: Callable[[Trouble], None]) -> Callable[[], None]:
        return self._keeper.watchers.watch(call)

    def replies(self, wake: Callable[[Collection[str]], None]) -> str:
        self._keeper.replies(wake)
        return self._keeper.address


def _settle(verb: Verb, tags: Sequence[object]) -> None:
    numbers: dict[Consumer, list[int]] = {}
    for consumer, number in cast("Sequence[tuple[Consumer, int]]", tags):
        numbers.setdefault(consumer, []).append(number)
    for consumer, some in numbers.items():
        consumer.session.post(consumer.settle, verb, some)


def _unfit(message: Message) -> Published | None:
    """What becomes of a message that RabbitMQ can't have; None: it can."""
    if len(message.body) > LARGEST:
        log.error("event %a for queue %a has %d bytes, not published", message.id, message.to, len(message.body))
        return Published.UNKNOWN
    return None if short(message.to) else Published.RETURNED
