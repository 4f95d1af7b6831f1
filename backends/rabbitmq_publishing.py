"""Publishing on one channel in confirm mode: what becomes of each message.

Laws.
1. Every message of a batch has one answer, and the batch is done when the last one is in.
2. A message that comes back is told by what it is, its queue and its body: the broker returns it before it confirms it,
   in the order of publishing, so the first one that fits is the one.
3. Nothing is written while the broker blocks publishers, or after the session is lost: that would be UNKNOWN later, and
   held in memory until then.
4. The frames of a batch go out in one write: pika alone makes three system calls for each message.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any, Final

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
from pika import frame, spec  # as above

from durable.ports import Message, Published

from .cloud_events import STRUCTURED
from .queue_names import Names
from .rabbitmq_connection import Answer, Session, settle
from .rabbitmq_url import SHORT

CONFIRM_SECONDS: Final = 10.0
LARGEST: Final = 16 * 1024 * 1024  # bytes: what RabbitMQ 4 accepts by default; for more it closes the channel
PERSISTENT: Final = 2
_REMEMBERED: Final = 1_000

log = logging.getLogger("durable.rabbitmq")


class Batch:
    """Some messages on their way to an exchange, all fit for it. `answers` fills up; `done` is set when it is full."""

    __slots__ = ("answers", "done", "exchange", "first", "messages", "missing", "passed")

    def __init__(self, messages: Sequence[Message], exchange: str = "") -> None:
        self.messages = messages
        self.exchange = exchange
        self.answers: list[Published | None] = [None] * len(messages)
        self.missing = len(messages)
        self.first = 0  # number of its first message on the channel
        self.passed = 0  # all before this index are answered
        self.done = threading.Event()

    def answer(self, indices: Iterable[int], word: Published) -> None:
        answers = self.answers
        for index in indices:
            if answers[index] is None:
                answers[index] = word
                self.missing -= 1
        if not self.missing:
            self.done.set()

    def give_up(self) -> None:
        """Nothing more will be known."""
        self.answer(range(len(self.messages)), Published.UNKNOWN)


class Publisher:
    """The channel that confirms, and one beside it that does not, for announcements. Lives on the pika thread."""

    def __init__(self, session: Session, names: Names) -> None:
        self._session = session
        self._names = names
        self._confirming: Any = None
        self._announcing: Any = None
        self._flight: deque[Batch] = deque()
        self._next = 1
        self._returned = 0  # number of the message that came back last
        self._blocked = False
        self._write: Callable[[list[bytes]], None] | None = None
        self._frames: _Frames
        session.when_lost.append(self._give_up_all)

    def start(self, answer: Answer) -> None:
        """Open both channels; the answer is None when messages can be published."""
        connection = self._session.publishing
        connection.add_on_connection_blocked_callback(lambda *_: self._on_blocked())
        connection.add_on_connection_unblocked_callback(lambda *_: self._on_unblocked())
        self._write = getattr(connection, "_output_marshaled_frames", None)
        self._frames = _Frames(connection.params.frame_max)

        def confirming(channel: Any) -> None:
            channel.add_on_close_callback(self._on_channel_closed)
            channel.add_on_return_callback(self._on_returned)
            channel.confirm_delivery(self._on_confirmed, callback=lambda _: connection.channel(on_open_callback=both))

        def both(channel: Any) -> None:
            channel.add_on_close_callback(self._on_channel_closed)
            self._announcing = channel
            settle(answer, None)

        self._confirming = connection.channel(on_open_callback=confirming)

    def publish(self, batch: Batch) -> None:
        """Write its frames, or answer UNKNOWN where the broker does not take any."""
        if self._blocked or self._session.lost:
            batch.give_up()
            return
        batch.first = self._next
        self._next += len(batch.messages)
        self._flight.append(batch)
        self._send(
            self._confirming, [(message, batch.exchange, message.to) for message in batch.messages], mandatory=True
        )

    def announce(self, messages: Sequence[Message]) -> None:
        if self._blocked or self._session.lost:
            return
        parts = []
        for message in messages:
            exchange = "" if message.to.startswith(self._names.reply_prefix) else self._names.lifecycle
            parts.append((message, exchange, message.to))
        self._send(self._announcing, parts, mandatory=False)

    def forget(self, batch: Batch) -> None:
        """Nobody waits for it any more."""
        if batch in self._flight:
            self._flight.remove(batch)

    def _send(self, channel: Any, parts: list[tuple[Message, str, str]], mandatory: bool) -> None:
        if self._write is None:  # a pika that writes in another way
            for message, exchange, key in parts:
                channel.basic_publish(exchange, key, message.body, _properties(message), mandatory)
            return
        pieces: list[bytes] = []
        for message, exchange, key in parts:
            self._frames.add(pieces, channel.channel_number, message, exchange, key, mandatory)
        if pieces:
            self._write([b"".join(pieces)])

    def _on_confirmed(self, method_frame: Any) -> None:
        method = method_frame.method
        word = Published.CONFIRMED if isinstance(method, spec.Basic.Ack) else Published.UNKNOWN
        number = method.delivery_tag
        for batch in tuple(self._flight):
            if batch.first > number:
                break
            index = number - batch.first
            if method.multiple:
                upto = min(index + 1, len(batch.messages))
                batch.answer(range(batch.passed, upto), word)
                batch.passed = max(batch.passed, upto)
            elif index < len(batch.messages):
                batch.answer((index,), word)
        while self._flight and not self._flight[0].missing:
            self._flight.popleft()

    def _on_returned(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        for batch in self._flight:
            for index in range(max(0, self._returned + 1 - batch.first), len(batch.messages)):
                message = batch.messages[index]
                if batch.answers[index] is None and message.to == method.routing_key and message.body == body:
                    self._returned = batch.first + index
                    batch.answer((index,), Published.RETURNED)
                    return

    def _on_blocked(self) -> None:
        log.warning("%s blocks publishers (an alarm of memory or disk); they go on by themselves", self._session.target)
        self._blocked = True
        self._give_up_all()

    def _on_unblocked(self) -> None:
        log.info("%s takes messages again", self._session.target)
        self._blocked = False

    def _on_channel_closed(self, _channel: Any, reason: Exception) -> None:
        self._session.fail(f"a channel for publishing was closed: {reason}")

    def _give_up_all(self) -> None:
        for batch in self._flight:
            batch.give_up()
        self._flight.clear()


def publish_all(
    session: Session | None, publisher: Publisher | None, messages: Sequence[Message], exchange: str = ""
) -> list[Published]:
    """Send them and wait for the broker's word on each; without a session all is UNKNOWN at once."""
    found = [unfit(message) for message in messages]
    fit = [message for message, word in zip(messages, found, strict=True) if word is None]
    answers = iter(_publish(session, publisher, Batch(fit, exchange)) if fit else ())
    return [word or next(answers) for word in found]


def _publish(session: Session | None, publisher: Publisher | None, batch: Batch) -> list[Published]:
    if session is None or publisher is None:
        return [Published.UNKNOWN] * len(batch.messages)
    session.refuse_own_thread()
    if session.post(publisher.publish, batch) and not batch.done.wait(CONFIRM_SECONDS):
        session.post(publisher.forget, batch)
    return [answer or Published.UNKNOWN for answer in batch.answers]


def unfit(message: Message) -> Published | None:
    """What becomes of a message that RabbitMQ can't have; None: it can."""
    if len(message.body) > LARGEST:
        log.error("event %a for queue %a has %d bytes, not published", message.id, message.to, len(message.body))
        return Published.UNKNOWN
    return None if short(message.to) else Published.RETURNED


class _Frames:
    """The bytes of a message on the wire, by pika's own encoders; what repeats is kept."""

    def __init__(self, frame_max: int) -> None:
        self._largest = frame_max - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE
        self._methods: dict[tuple[int, str, str, bool], bytes] = {}

    def add(
        self, pieces: list[bytes], channel: int, message: Message, exchange: str, key: str, mandatory: bool
    ) -> None:
        known = (channel, exchange, key, mandatory)
        method = self._methods.get(known)
        if method is None:
            if len(self._methods) >= _REMEMBERED:
                self._methods.clear()
            publish = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
            method = self._methods[known] = frame.Method(channel, publish).marshal()
        body = message.body
        pieces += (method, _header(channel, message))
        for start in range(0, len(body), self._largest):
            pieces.append(frame.Body(channel, body[start : start + self._largest]).marshal())


def _header(channel: int, message: Message) -> bytes:
    """The content header of `_properties`, as pika encodes it, which takes ten times as long."""
    text = message.id.encode()
    kind = message.type.encode()
    if len(text) > SHORT or len(kind) > SHORT:
        whole: bytes = frame.Header(channel, len(message.body), _properties(message)).marshal()
        return whole
    size = _HEADER.size - _FRAME_HEAD + len(_LIKE_ALL) + len(text) + len(kind) + 2
    return b"".join(
        (
            _HEADER.pack(spec.FRAME_HEADER, channel, size, _BASIC, 0, len(message.body), _FLAGS),
            _LIKE_ALL,
            bytes((len(text),)),
            text,
            bytes((len(kind),)),
            kind,
            _FRAME_END,
        )
    )


_HEADER: Final = Struct(">BHIHHQH")  # frame: type, channel, size; content: class, weight, size of body, flags
_FRAME_HEAD: Final = 7  # bytes before the payload
_FRAME_END: Final = bytes((spec.FRAME_END,))
_BASIC: Final = 60
_FLAGS: Final = 0b1001_0000_1010_0000  # content type, delivery mode, message id, type
_LIKE_ALL: Final = bytes((len(STRUCTURED),)) + STRUCTURED.encode() + bytes((PERSISTENT,))


def _properties(message: Message) -> Any:
    """An id or a type that does not fit an AMQP short string is in the body alone."""
    return pika.BasicProperties(
        content_type=STRUCTURED,
        delivery_mode=PERSISTENT,
        message_id=message.id if short(message.id) else None,
        type=message.type if short(message.type) else None,
    )


def short(text: str) -> bool:
    """Whether it fits an AMQP short string, as routing keys and names must."""
    if text.isascii():
        return len(text) <= SHORT
    try:
        return len(text.encode()) <= SHORT
    except UnicodeEncodeError:  # a lone surrogate
        return False
