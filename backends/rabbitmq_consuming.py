"""Receiving from one queue on a channel of its own: deliveries in batches, and what is done with them.

Laws.
1. A tag is (consumer, number). The consumer belongs to one session, so a tag of an older one settles nothing.
2. What is settled is told to the broker with `multiple` up to the first delivery that is still open, one by one beyond
   it: a long activity in front must not hold the places of those behind it. What is requeued is rejected, always one by
   one: from RabbitMQ 4.3 on a nack is no delivery for the limit, and what nobody can do would go round for ever.
3. After `cancel` the channel stays until what was delivered is settled; the broker gives the rest to others.
4. Only the end of its channel frees what the broker keeps for a dead subscription. RabbitMQ (seen in 3.10.8) puts the
   consumers of a quorum queue that was deleted and is there again by then on the new one, without a word, and throws
   away every delivery for them. A number of the old queue may then settle a message of the new one. No client can see
   it, hence `give_back` for whoever has heard of the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

from pika.exceptions import ChannelClosed  # type: ignore[import-untyped]  # pika 1.4 has no py.typed

from durable.model.errors import TransportError
from durable.ports import Delivery

from .cloud_events import structured
from .rabbitmq_connection import Answer, Session, settle

Sink = Callable[[Sequence[Delivery]], None]
Verb = Literal["ack", "requeue", "park"]

MOST_PREFETCHED: Final = 65_535

log = logging.getLogger("durable.rabbitmq")


class Refused(TransportError):
    """The broker closed the channel. `code`: 403 not allowed, 404 not found, 405 locked, 406 other arguments."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def refusal(what: str, reason: Any) -> Refused | None:
    """Why the broker closed a channel; None when its connection ended: pika tells channels first, and the session knows
    what that means."""
    if not isinstance(reason, ChannelClosed):
        return None
    return Refused(reason.reply_code, f"{what}: {reason.reply_code} {reason.reply_text}")


class Consumer:
    """One subscription in one session; everything here runs on the pika thread.

    `on_gone` is called when the broker ends the subscription: its queue was deleted. `settles`: False for a queue
    whose messages need no acknowledgement.
    """

    def __init__(
        self, session: Session, queue: str, prefetch: int, sink: Sink, on_gone: Callable[[], None], settles: bool = True
    ) -> None:
        self.session = session
        self._queue = queue
        self._prefetch = prefetch
        self._sink = sink
        self._on_gone = on_gone
        self._settles = settles
        self._channel: Any = None
        self._open: dict[int, None] = {}  # numbers delivered and not settled, in order
        self._last = 0
        self._batch: list[Delivery] = []
        self._consumer_tag = ""
        self._ending = False
        self._answer: Answer | None = None

    def start(self, answer: Answer) -> None:
        """Open the channel and consume; the answer is None once the broker delivers, else Refused."""
        self._answer = answer
        self._channel = self.session.consuming.channel(on_open_callback=self._on_open)

    def _on_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_closed)
        channel.add_on_cancel_callback(self._on_cancelled)
        channel.basic_qos(prefetch_count=self._prefetch, callback=self._on_qos)

    def _on_qos(self, _frame: Any) -> None:
        answer = self._answer
        assert answer is not None
        self._consumer_tag = self._channel.basic_consume(
            self._queue, self._on_message, auto_ack=not self._settles, callback=lambda _: settle(answer, None)
        )

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        number = method.delivery_tag
        if self._settles:
            self._last = number
            self._open[number] = None
        event = structured(body, properties.content_type, properties.headers)
        self._batch.append(Delivery(self._queue, event, (self, number), method.redelivered))
        if len(self._batch) == 1:
            self.session.later(self._hand_over)

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        if self.session.lost or not self._channel.is_open:
            return
        try:
            self._sink(batch)
        except Exception:  # the receiver's mistake: these stay unacknowledged and come again with the next session
            log.exception("the receiver of queue %s raised", ascii(self._queue))

    def settle(self, verb: Verb, numbers: Sequence[int]) -> None:
        """Do it with these deliveries; those that are settled already, or lost, are passed over."""
        if self.session.lost or not self._channel.is_open:
            return
        known = [number for number in dict.fromkeys(numbers) if number in self._open]
        for number in known:
            del self._open[number]
        if verb == "requeue":
            for number in known:
                self._channel.basic_reject(number, requeue=True)
        else:
            self._tell_all(verb, known)
        self._close_when_settled()

    def _tell_all(self, verb: Literal["ack", "park"], known: Sequence[int]) -> None:
        first_open = next(iter(self._open), self._last + 1)
        # The broker knows a number only while it is unsettled, so the mark is one of these.
        mark = max((number for number in known if number < first_open), default=0)
        if mark:
            self._tell(verb, mark, multiple=True)
        for number in known:
            if number > first_open:
                self._tell(verb, number, multiple=False)

    def _tell(self, verb: Literal["ack", "park"], number: int, multiple: bool) -> None:
        if verb == "ack":
            self._channel.basic_ack(number, multiple)
        else:
            self._channel.basic_nack(number, multiple, requeue=False)

    def cancel(self) -> None:
        """Receive no more."""
        if self.session.lost or self._ending or not self._channel.is_open:
            return
        self._ending = True
        self._channel.basic_cancel(self._consumer_tag, callback=lambda _: self._close_when_settled())

    def give_back(self) -> None:
        """Receive no more, settle no more: what was delivered comes again, here or elsewhere."""
        if self.session.lost or not self._channel.is_open:
            return
        self._ending = True
        self._open.clear()
        self._channel.close()

    def _close_when_settled(self) -> None:
        if self._ending and not self._open and self._channel.is_open:
            self._channel.close()

    def _on_cancelled(self, _frame: Any) -> None:
        if not self._ending:
            self._ending = True
            self._open.clear()  # what was delivered is lost here, gone with its queue or given to others
            self._on_gone()
            self._close_when_settled()

    def _on_closed(self, _channel: Any, reason: Any) -> None:
        if self.session.lost or self._ending:
            return
        self._ending = True
        refused = refusal(f"queue {self._queue!a} at {self.session.target}", reason)
        assert self._answer is not None
        if refused is None:
            return
        if not self._answer.done():
            settle(self._answer, error=refused)
        else:
            # Such as a delivery that was held for longer than the broker's consumer_timeout.
            self.session.fail(f"a channel was closed: {refused}")


def settle_all(verb: Verb, tags: Iterable[tuple[Consumer, int]]) -> None:
    """Do it with these deliveries, each on the thread of its session."""
    numbers: dict[Consumer, list[int]] = {}
    for consumer, number in tags:
        numbers.setdefault(consumer, []).append(number)
    for consumer, some in numbers.items():
        consumer.session.post(consumer.settle, verb, some)
