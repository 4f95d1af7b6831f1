"""`durable.ports.EventSource` on a queue of RabbitMQ: what callers ask, handed to the session that the keeper has open.

Laws.
1. The queue may be somebody's: it is taken as it is, and never deleted.
2. What came together is one tag, and acknowledged together (`multiple`), unless something before it is still open.
3. Between two sessions `publish` says UNKNOWN at once, and acknowledgements go nowhere: what they were for comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import cast

import msgspec

from durable.model.errors import TransportError
from durable.model.history import UNDECODABLE
from durable.ports import Delivery, Message, Published

from .queue_names import names
from .rabbitmq_consuming import MOST_PREFETCHED, Consumer, settle_all
from .rabbitmq_keeper import Keeper, Subscription
from .rabbitmq_publishing import publish_all
from .rabbitmq_topology import SourceTopology
from .rabbitmq_url import Place, Target

Sink = Callable[[Sequence[bytes], object], None]


class _Head(msgspec.Struct):
    """What AMQP repeats of an event. One that is no event is sent all the same, for whoever receives it to judge."""

    id: str = ""
    type: str = ""


_head = msgspec.json.Decoder(_Head)


class RabbitSource:
    """`rabbitmq.open_source` opens it."""

    def __init__(self, target: Target, place: Place, workspace: str) -> None:
        self._place = place
        self._receives = False
        self._keeper = Keeper(target, names(workspace), topology=partial(SourceTopology, place=place))

    def __repr__(self) -> str:
        return f"<RabbitSource {self._place.queue!a} at {self._keeper.target}>"

    def open(self) -> None:
        """Connect, and make what is missing. Raises TransportError, with the remedy, within about ten seconds."""
        self._keeper.open()
        try:
            with closing(self._keeper.topology()) as topology:
                self._keeper.remember([self._place.queue], topology.declare([self._place.queue]))
        except BaseException:
            self._keeper.close()
            raise

    def receive(self, prefetch: int, sink: Sink) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch is 1 or more, not {prefetch}")
        if self._receives:
            raise TransportError(f"from queue {self._place.queue!a} this source receives already")
        with closing(self._keeper.topology()):  # there is a session, or there will be none
            self._receives = True
        handing = partial(_hand_over, sink)
        self._keeper.subscribe(Subscription(self._place.queue, min(prefetch, MOST_PREFETCHED), handing))

    def ack(self, tags: Sequence[object]) -> None:
        settle_all("ack", chain.from_iterable(cast("Sequence[tuple[tuple[Consumer, int], ...]]", tags)))

    def publish(self, bodies: Sequence[bytes]) -> list[Published]:
        _, exchange, key = self._place
        messages = [Message(key, *_id_and_type(body), body) for body in bodies]
        return publish_all(self._keeper.session, self._keeper.publisher, messages, exchange)

    def close(self) -> None:
        self._keeper.close()


def _hand_over(sink: Sink, deliveries: Sequence[Delivery]) -> None:
    sink([delivery.body for delivery in deliveries], tuple(delivery.tag for delivery in deliveries))


def _id_and_type(body: bytes) -> tuple[str, str]:
    try:
        head = _head.decode(body)
    except UNDECODABLE:
        return "", ""
    return head.id, head.type
