"""`durable.ports.Transport` on RabbitMQ: what callers ask, handed to the session that the keeper has open.

Laws.
1. `publish` never raises for a broker that is away, and never waits longer than CONFIRM_SECONDS.
2. Between two sessions it says UNKNOWN at once, and acknowledgements go nowhere: what they were for comes again.
   `declare` raises at once too: a worker's engine asks, which has other things to do, and asks again.
3. What waits may not be called by a sink, which runs on the thread that would bring the answer: RuntimeError.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from typing import cast

from durable.model.errors import TransportError
from durable.ports import Delivery, Depth, Message, Published, Trouble

from .queue_names import names
from .rabbitmq_connection import ANSWER_SECONDS
from .rabbitmq_consuming import MOST_PREFETCHED, Consumer, settle_all
from .rabbitmq_keeper import Keeper, Subscription
from .rabbitmq_publishing import publish_all, short, unfit
from .rabbitmq_url import SHORT, Target

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
        with closing(self._keeper.topology(0.0)) as topology:
            missing = topology.declare(queues)
        self._keeper.remember(queues, missing)
        return missing

    def depth(self, queue: str) -> Depth | None:
        with closing(self._keeper.topology()) as topology:
            return topology.depth(queue)

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        answers = publish_all(self._keeper.session, self._keeper.publisher, messages)
        self._keeper.know({m.to for m, answer in zip(messages, answers, strict=True) if answer is Published.CONFIRMED})
        return answers

    def announce(self, messages: Sequence[Message]) -> None:
        session, publisher = self._keeper.session, self._keeper.publisher
        fit = [message for message in messages if unfit(message) is None]
        if fit and session is not None and publisher is not None:
            session.post(publisher.announce, fit)

    def subscribe(self, queue: str, prefetch: int, sink: Callable[[Sequence[Delivery]], None]) -> None:
        """A second subscription to a queue takes the place of the first. TransportError: nobody declared the queue."""
        if prefetch < 1:
            raise ValueError(f"prefetch is 1 or more, not {prefetch}")
        self._keeper.subscribe(Subscription(queue, min(prefetch, MOST_PREFETCHED), sink))

    def unsubscribe(self, queue: str, give_back: bool = False) -> None:
        """What is under way already may still come."""
        self._keeper.unsubscribe(queue, give_back)

    def ack(self, tags: Sequence[object]) -> None:
        settle_all("ack", cast("Sequence[tuple[Consumer, int]]", tags))

    def requeue(self, tags: Sequence[object]) -> None:
        settle_all("requeue", cast("Sequence[tuple[Consumer, int]]", tags))

    def park(self, tags: Sequence[object]) -> None:
        settle_all("park", cast("Sequence[tuple[Consumer, int]]", tags))

    def watch(self, call: Callable[[Trouble], None]) -> Callable[[], None]:
        return self._keeper.watchers.watch(call)

    def replies(self, wake: Callable[[Collection[str]], None]) -> str:
        self._keeper.replies(wake)
        return self._keeper.address
