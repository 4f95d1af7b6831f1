"""What must be on the broker: queues that keep their messages, dead letters, the topic of lifecycle events.

Laws.
1. Every queue is a durable quorum queue with a delivery limit and a dead-letter exchange: what comes back too often, or
   can't be understood, is in the dead-letter queue, not gone and not in a loop.
2. Whether a queue was missing is found out first, on a channel that is thrown away: the broker closes it for an answer.
3. A queue that is there with other arguments is somebody else's, or of another version: a clear error, never deleted.
   That of dead letters alone is taken as it is: what it is told at birth depends on the broker's version.
4. Where nothing else has what is in a queue, it has no delivery limit (`arguments_without_limit`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from durable.model.errors import TransportError
from durable.ports import Depth

from .queue_names import Names
from .rabbitmq_connection import ANSWER_SECONDS, Answer, Session, settle
from .rabbitmq_consuming import Refused, refusal
from .rabbitmq_url import Place

DELIVERY_LIMIT: Final = 20
DELETE_SECONDS: Final = 30.0  # a queue whose processes are gone takes the broker five
NOT_FOUND: Final = 404
LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406

Call: TypeAlias = Callable[[Any, Callable[[Any], None]], None]  # with a channel, and whom to call with the answer


class Desk:
    """A channel of the consuming connection for one thing after the other; any thread but pika's, one at a time.

    On the consuming connection, because the other may be blocked by an alarm.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channel: Any = None
        self._answer: Answer | None = None

    def ask(
        self, what: str, call: Callable[[Any, Callable[[Any], None]], None], seconds: float = ANSWER_SECONDS
    ) -> Any:
        """`call(channel, callback)` on the pika thread; the method that answers. Raises Refused, and closes then."""
        if self._channel is None:
            self._channel = self._session.ask(self._open, "opening a channel")

        def start(answer: Answer) -> None:
            self._answer = answer
            call(self._channel, lambda frame: settle(answer, frame.method))

        return self._session.ask(start, what, seconds)

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._session.post(_close, channel)

    def _open(self, answer: Answer) -> None:
        channel = self._session.consuming.channel(on_open_callback=lambda opened: settle(answer, opened))
        channel.add_on_close_callback(self._on_closed)

    def _on_closed(self, channel: Any, reason: Any) -> None:
        if channel is self._channel:
            self._channel = None
        refused = refusal(str(self._session.target), reason)
        if self._answer is not None and refused is not None:
            settle(self._answer, error=refused)


def _close(channel: Any) -> None:
    if channel.is_open:
        channel.close()


class Topology:
    """Declarations in one session. `ours`: what does not answer may be deleted."""

    ours = True

    def __init__(self, session: Session, names: Names) -> None:
        self._session = session
        self._names = names
        self._desk = Desk(session)

    def close(self) -> None:
        self._desk.close()

    def prepare(self) -> None:
        """The topic of lifecycle events, the dead-letter exchange and its queue."""
        lifecycle, dead = self._names.lifecycle, self._names.dead_letters
        self._ask(f"topic {lifecycle}", _exchange(lifecycle, "topic"))
        self._ask(f"exchange {dead}", _exchange(dead, "fanout"))
        if self.depth(dead) is None:
            self._ask(f"queue {dead}", _queue_without_limit(dead))
        self._ask(f"binding of {dead}", lambda channel, done: channel.queue_bind(dead, dead, callback=done))

    def declare(self, queues: Sequence[str]) -> list[bool]:
        """Make the queues; whether each was missing."""
        missing = [self.depth(queue) is None for queue in queues]
        for queue in queues:
            self._ask(f"queue {queue!a}", _queue(queue, self._arguments()))
        return missing

    def depth(self, queue: str) -> Depth | None:
        """None when it is not there."""
        passive: Call = lambda channel, done: channel.queue_declare(queue, passive=True, callback=done)  # noqa: E731
        try:
            found = self._desk.ask(f"looking for queue {queue!a}", passive)
        except Refused as refused:
            if refused.code == NOT_FOUND:
                return None
            raise
        return Depth(found.message_count, found.consumer_count)

    def delete(self, queue: str) -> None:
        """Remove it with all that is in it."""
        self._desk.ask(
            f"deleting queue {queue!a}",
            lambda channel, done: channel.queue_delete(queue, callback=done),
            DELETE_SECONDS,
        )

    def declare_replies(self, queue: str) -> None:
        """A queue of this connection alone, which goes with it. Refused with LOCKED while an older one has it."""
        exclusive: Call = lambda channel, done: channel.queue_declare(  # noqa: E731
            queue, exclusive=True, auto_delete=True, callback=done
        )
        self._desk.ask(f"declaring reply queue {queue}", exclusive)

    def _arguments(self) -> dict[str, Any]:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": self._names.dead_letters,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # which at-least-once asks for
        }

    def _ask(self, what: str, call: Call) -> None:
        try:
            self._desk.ask(f"declaring {what}", call)
        except Refused as refused:
            if refused.code == PRECONDITION_FAILED:
                raise TransportError(
                    f"{what} is there with other arguments ({refused}); use another workspace or virtual host, "
                    "or delete it once nobody uses it"
                ) from None
            raise TransportError(
                f"can't declare {what}: {refused}; the user needs the permission `configure`"
            ) from None


def _exchange(name: str, kind: str) -> Call:
    return lambda channel, done: channel.exchange_declare(name, kind, durable=True, callback=done)


def _queue(name: str, arguments: dict[str, Any]) -> Call:
    return lambda channel, done: channel.queue_declare(name, durable=True, arguments=arguments, callback=done)


def _queue_without_limit(name: str) -> Call:
    def declare(channel: Any, done: Callable[[Any], None]) -> None:
        arguments = arguments_without_limit(channel.connection.server_properties)
        channel.queue_declare(name, durable=True, arguments=arguments, callback=done)

    return declare


def arguments_without_limit(server_properties: Mapping[str, Any]) -> dict[str, Any]:
    """Of a quorum queue that keeps what comes back, however often. RabbitMQ 4 drops it the 20th time unless it is told
    not to; one before 4 has no limit by itself, and refuses to be told (its limits are not negative)."""
    major = str(server_properties.get("version", "")).partition(".")[0]
    limit = {"x-delivery-limit": -1} if major.isdecimal() and int(major) >= 4 else {}
    return {"x-queue-type": "quorum", **limit}


class SourceTopology(Topology):
    """Those of a source: what is there is somebody's and taken as it is; what is not is made, bound, and never deleted.

    A queue that is made here has no delivery limit: what is in it is nowhere else.
    """

    ours = False

    def __init__(self, session: Session, names: Names, place: Place) -> None:
        super().__init__(session, names)
        self._place = place

    def prepare(self) -> None:
        exchange = self._place.exchange
        if exchange and not self._is_there(exchange):
            self._ask(f"exchange {exchange!a}", _exchange(exchange, "topic"))

    def declare(self, queues: Sequence[str]) -> list[bool]:
        missing = [self.depth(queue) is None for queue in queues]
        _, exchange, key = self._place
        for queue, gone in zip(queues, missing, strict=True):
            if gone:
                self._ask(f"queue {queue!a}", _queue_without_limit(queue))
            if exchange:
                self._ask(f"binding of {queue!a}", partial(_bind, queue, exchange, key))
        return missing

    def _is_there(self, exchange: str) -> bool:
        try:
            self._desk.ask(
                f"looking for exchange {exchange!a}",
                lambda channel, done: channel.exchange_declare(exchange, passive=True, callback=done),
            )
        except Refused as refused:
            if refused.code == NOT_FOUND:
                return False
            raise
        return True


def _bind(queue: str, exchange: str, key: str, channel: Any, done: Callable[[Any], None]) -> None:
    channel.queue_bind(queue, exchange, key, callback=done)
